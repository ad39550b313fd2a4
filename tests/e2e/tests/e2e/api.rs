//! The REST API, and the database that the reference made.

use std::path::Path;

use serde_json::{Value, json};
use tidegate_e2e::clients::{curl, sftp};
use tidegate_e2e::{RawSftp, TestServer, Tool, disk, flags, http, keys, secs, wait_for};

fn user_body(name: &str) -> Value {
    json!({"username": name, "password": "secret", "home_dir": format!("/srv/{name}"), "permissions": {"/": ["*"]}, "status": 1})
}

#[test]
fn version_and_provider_status() {
    let server = TestServer::start();
    let version = server.rest("GET", "/api/v1/version", None).expect(200);
    assert_eq!(version.header("content-type").as_deref(), Some("application/json; charset=utf-8"));
    let version = version.json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["build_date"].is_string() && version["commit_hash"].is_string(), "{version}");
    let status = server.rest("GET", "/api/v1/providerstatus", None).expect(200).json();
    assert_eq!(status, json!({"error": "", "message": "Alive", "status": 200}));
}

#[test]
fn unknown_paths_and_methods() {
    let server = TestServer::start();
    for path in ["/api/v1/nothing", "/api/v1/user/", "/API/v1/user", "/nothing"] {
        let answer = server.rest("GET", path, None).expect(404).json();
        assert_eq!((&answer["message"], &answer["status"]), (&json!("Not Found"), &json!(404)), "{path}");
    }
    for method in ["PATCH", "HEAD", "PUT"] {
        let answer = server.rest(method, "/api/v1/user", None);
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
    }
}

/// Users are created, read, changed and removed, whichever store keeps them.
fn crud(server: &TestServer) {
    let created = server.rest("POST", "/api/v1/user", Some(&user_body("alice"))).expect(200).json();
    let id = created["id"].as_i64().unwrap();
    let path = format!("/api/v1/user/{id}");
    assert!(created.get("password").is_none(), "{created}");
    for (key, value) in [
        ("username", json!("alice")),
        ("expiration_date", json!(0)),
        ("home_dir", json!("/srv/alice")),
        ("uid", json!(0)),
        ("gid", json!(0)),
        ("max_sessions", json!(0)),
        ("quota_size", json!(0)),
        ("quota_files", json!(0)),
        ("permissions", json!({"/": ["*"]})),
        ("used_quota_size", json!(0)),
        ("used_quota_files", json!(0)),
        ("last_quota_update", json!(0)),
        ("upload_bandwidth", json!(0)),
        ("download_bandwidth", json!(0)),
        ("last_login", json!(0)),
        ("filters", json!({"allowed_ip": [], "denied_ip": []})),
    ] {
        assert_eq!(created[key], value, "{key}");
    }
    assert_eq!(server.rest("GET", &path, None).expect(200).json(), created);

    let changed =
        server.rest("PUT", &path, Some(&json!({"status": 1, "max_sessions": 3}))).expect(200).json();
    assert_eq!(changed, json!({"error": "", "message": "User updated", "status": 200}));
    assert_eq!(server.rest("GET", &path, None).json()["max_sessions"], 3);

    server.rest("POST", "/api/v1/user", Some(&user_body("alice"))).expect(500);
    server.rest("POST", "/api/v1/user", Some(&user_body("Bob"))).expect(200);
    server.rest("POST", "/api/v1/user", Some(&user_body("carol"))).expect(200);
    let names = |query: &str| -> Vec<String> {
        let list = server.rest("GET", &format!("/api/v1/user{query}"), None).expect(200).json();
        list.as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(""), ["Bob", "alice", "carol"]);
    assert_eq!(names("?order=DESC&limit=2"), ["carol", "alice"]);
    assert_eq!(names("?offset=1&limit=1"), ["alice"]);
    assert_eq!(names("?username=carol"), ["carol"]);
    assert_eq!(names("?username="), ["Bob", "alice", "carol"]);
    assert!(names("?username=nobody").is_empty());
    assert!(names("?username=carol&offset=1").is_empty());
    for query in ["limit=x", "limit=", "offset=x", "order=up", "order=asc", "offset=-1"] {
        server.rest("GET", &format!("/api/v1/user?{query}"), None).expect(400);
    }

    server.rest("DELETE", &path, None).expect(200);
    assert_eq!(server.rest("GET", &path, None).expect(404).json()["status"], 404);
    server.rest("DELETE", &path, None).expect(404);
    server.rest("PUT", &path, Some(&json!({}))).expect(404);
    for method in ["GET", "PUT", "DELETE"] {
        server.rest(method, "/api/v1/user/abc", Some(&json!({}))).expect(400);
    }
}

#[test]
fn users_in_memory() {
    crud(&TestServer::start());
}

#[test]
fn users_in_sqlite() {
    crud(&TestServer::builder().sqlite(None).start());
}

#[test]
fn invalid_users_are_refused_with_a_reason() {
    let server = TestServer::start();
    let with = |key: &str, value: Value| {
        let mut body = user_body("alice");
        body[key] = value;
        body
    };
    let rows = [
        ("no name", with("username", json!(""))),
        ("no credential", with("password", json!(""))),
        ("relative home", with("home_dir", json!("relative"))),
        ("no home", with("home_dir", json!(""))),
        ("no permissions", with("permissions", json!({}))),
        ("no root", with("permissions", json!({"/dir": ["*"]}))),
        ("no verbs", with("permissions", json!({"/": []}))),
        ("unknown verb", with("permissions", json!({"/": ["fly"]}))),
        ("relative directory", with("permissions", json!({"/": ["*"], "dir": ["*"]}))),
        ("status 2", with("status", json!(2))),
        ("bad key", with("public_keys", json!(["ssh-rsa nonsense"]))),
        ("address without prefix", with("filters", json!({"denied_ip": ["192.168.1.2"]}))),
        ("wrong type", with("uid", json!("zero"))),
        ("slash in the name", with("username", json!("../alice"))),
    ];
    for (what, body) in rows {
        let answer = server.rest("POST", "/api/v1/user", Some(&body));
        // A slash is dangerous only where it builds a home directory: accepting it here is fine.
        if what == "slash in the name" && answer.status == 200 {
            continue;
        }
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{what}: {answer:?}");
    }
    for body in ["", "{", "[]", "null x"] {
        let answer = http::request(server.http_port, "POST", "/api/v1/user", &[], Some(body));
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
    }
    let huge = format!("{{\"username\": \"{}\"}}", "x".repeat(8 << 20));
    let answer = http::request(server.http_port, "POST", "/api/v1/user", &[], Some(&huge));
    assert!(matches!(answer.status, 400 | 413), "{}", answer.status);
    assert_eq!(server.rest("GET", "/api/v1/user?username=alice", None).json(), json!([]));
}

#[test]
fn permissions_are_normalized() {
    let server = TestServer::start();
    let mut body = user_body("alice");
    body["permissions"] = json!({"/": ["list", "*"], "/somedir/../otherdir/": ["list", "download"]});
    let created = server.rest("POST", "/api/v1/user", Some(&body)).expect(200).json();
    assert_eq!(created["permissions"], json!({"/": ["*"], "/otherdir": ["list", "download"]}));
}

#[test]
fn a_partial_update_keeps_what_it_does_not_name() {
    let server = TestServer::builder().sqlite(None).start();
    let user = server
        .user("alice")
        .password("first")
        .field("filters", json!({"allowed_ip": ["127.0.0.0/8"], "denied_ip": ["192.0.2.0/24"]}))
        .create();
    let path = format!("/api/v1/user/{}", user.id);
    let get = || server.rest("GET", &path, None).expect(200).json();
    let put = |body: Value| server.rest("PUT", &path, Some(&body));
    let can = |password: &str| curl(&server, "alice", password, &["-l", "URL/"]).run().code == Some(0);

    put(json!({"quota_files": 5})).expect(200);
    let now = get();
    assert_eq!((&now["quota_files"], &now["home_dir"]), (&json!(5), &json!(user.home)));
    assert_eq!(now["public_keys"], json!([keys::keys().client_public()]));
    assert!(can("first"));

    for kept in [json!({}), Value::Null] {
        put(json!({ "permissions": kept })).expect(200);
        assert_eq!(get()["permissions"], json!({"/": ["*"]}));
    }
    put(json!({"permissions": {"/": ["list"], "/x": ["*"]}})).expect(200);
    assert_eq!(get()["permissions"], json!({"/": ["list"], "/x": ["*"]}));

    put(json!({"filters": {"denied_ip": []}})).expect(200);
    assert_eq!(get()["filters"], json!({"allowed_ip": ["127.0.0.0/8"], "denied_ip": []}));

    put(json!({"password": "second"})).expect(200);
    assert!(can("second") && !can("first"));
    put(json!({"public_keys": []})).expect(200);
    assert!(get().get("public_keys").is_none());
    put(json!({"password": ""})).expect(400);
    put(json!({"home_dir": ""})).expect(400);
    put(json!({"id": user.id + 1})).expect(400);
    put(json!({"id": user.id})).expect(200);
    put(json!({"status": 7})).expect(400);
    assert!(can("second"), "refused updates change nothing");
}

#[test]
fn a_home_below_users_base_dir() {
    let server = TestServer::builder().set("data_provider", "users_base_dir", "/srv/base").start();
    let mut body = user_body("alice");
    body.as_object_mut().unwrap().remove("home_dir");
    let created = server.rest("POST", "/api/v1/user", Some(&body)).expect(200).json();
    assert_eq!(created["home_dir"], "/srv/base/alice");
    body["username"] = json!("../escape");
    server.rest("POST", "/api/v1/user", Some(&body)).expect(400);
}

#[test]
fn manage_users_0_forbids_changes() {
    let server = TestServer::builder().set("data_provider", "manage_users", 0).start();
    server.rest("POST", "/api/v1/user", Some(&user_body("alice"))).expect(403);
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let server = TestServer::start();
    let body = user_body("alice").to_string();
    let post = |headers: &[(&str, &str)]| {
        http::request(server.http_port, "POST", "/api/v1/user", headers, Some(&body)).status
    };
    let refused = |status: u16| matches!(status, 400 | 403 | 421);
    let own = format!("127.0.0.1:{}", server.http_port);
    assert!(refused(post(&[("Origin", "http://evil.example")])));
    assert!(refused(post(&[("Origin", "null")])));
    // DNS rebinding: the browser believes that evil.example is this machine.
    assert!(refused(post(&[("Host", "evil.example"), ("Origin", "http://evil.example")])));
    assert_eq!(server.rest("GET", "/api/v1/user", None).json(), json!([]));
    assert_eq!(post(&[("Host", &own), ("Origin", &format!("http://{own}"))]), 200);
    let delete = |headers: &[(&str, &str)]| {
        http::request(server.http_port, "DELETE", "/api/v1/user/1", headers, None).status
    };
    assert!(refused(delete(&[("Origin", "http://evil.example")])));
    assert_eq!(delete(&[]), 200);
}

#[test]
fn connections_are_listed_and_can_be_closed() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"content");
    assert!(server.connections().is_empty());
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::READ).unwrap();
    sftp.read(&handle, 0, 5).unwrap();
    let all = server.connections();
    assert_eq!(all.len(), 1);
    let one = &all[0];
    assert_eq!(
        (&one["username"], &one["protocol"], &one["ssh_command"]),
        (&json!("alice"), &json!("SFTP"), &json!(""))
    );
    assert!(one["client_version"].as_str().unwrap().starts_with("SSH-2.0-OpenSSH"), "{one}");
    assert!(one["remote_address"].as_str().unwrap().starts_with("127.0.0.1:"), "{one}");
    assert!(one["connection_time"].as_i64() <= one["last_activity"].as_i64(), "{one}");
    let transfer = &one["active_transfers"][0];
    assert_eq!(transfer["operation_type"], "download");
    assert_eq!((&transfer["path"], &transfer["size"]), (&json!("/file"), &json!(5)));
    let id = one["connection_id"].as_str().unwrap();
    assert!(id.len() >= 40, "{id}");

    let missing = server.rest("DELETE", "/api/v1/connection/0123456789", None).expect(404).json();
    assert_eq!(missing, json!({"error": "", "message": "Not Found", "status": 404}));
    let closed = server.rest("DELETE", &format!("/api/v1/connection/{id}"), None).expect(200).json();
    assert_eq!(closed["message"], "Connection closed");
    sftp.wait_end(secs(3));
    wait_for("the list to be empty", secs(3), || server.connections().is_empty().then_some(()));
}

#[test]
fn an_idle_session_is_listed_until_it_ends() {
    let server = TestServer::start();
    server.user("alice").create();
    let sftp = RawSftp::connect(&server, "alice");
    assert_eq!(server.connections()[0]["active_transfers"], json!([]));
    drop(sftp);
    wait_for("the list to be empty", secs(3), || server.connections().is_empty().then_some(()));
}

#[test]
fn used_quota_and_last_login_are_kept() {
    let server = TestServer::builder().sqlite(None).start();
    let user = server.user("alice").field("quota_files", 10).create();
    disk::write_noise(&server.work().join("file"), 1, 4_321);
    sftp(&server, "alice", &[], "put file a\nput file b\nrm b\n").ok();
    wait_for("the usage to be written", secs(5), || {
        let now = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).json();
        (now["used_quota_files"] == 1 && now["used_quota_size"] == 4_321 && now["last_login"] != 0)
            .then_some(())
    });
}

#[test]
fn the_database_of_the_reference_opens_unchanged_and_stays_readable() {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/reference.sqlite");
    let schema = |file: &Path| {
        Tool::new("sqlite3", "sqlite3")
            .arg("-readonly")
            .arg(file)
            .arg("select name, sql from sqlite_master order by 1")
            .ok()
    };
    let rows = |file: &Path| {
        Tool::new("sqlite3", "sqlite3").arg("-readonly").arg(file).arg("select * from users order by id").ok()
    };
    let server = TestServer::builder().sqlite(Some(&original)).start();
    let copy = server.path("conf/sftpgo.db");
    assert_eq!(rows(&copy), rows(&original), "opening alone changes rows");

    let list = server.rest("GET", "/api/v1/user", None).expect(200).json();
    let user =
        |name: &str| list.as_array().unwrap().iter().find(|user| user["username"] == name).unwrap().clone();
    assert_eq!(list.as_array().unwrap().len(), 4);
    assert_eq!(user("anna")["quota_files"], 1_000);
    assert_eq!(user("anna")["max_sessions"], 2);
    assert_eq!(
        (&user("björn")["upload_bandwidth"], &user("björn")["download_bandwidth"]),
        (&json!(128), &json!(256))
    );
    assert_eq!((&user("key only")["status"], &user("key only")["uid"]), (&json!(0), &json!(1_000)));

    let home = server.path("homes/anna");
    let anna = format!("/api/v1/user/{}", user("anna")["id"]);
    server.rest("PUT", &anna, Some(&json!({"home_dir": home}))).expect(200);
    disk::write(&server.work().join("file"), b"content");
    curl(&server, "anna", "anna-secret", &["-T", "file", "URL/file"]).ok();
    assert_eq!(disk::text(&home.join("file")), "content");
    curl(&server, "anna", "wrong", &["-l", "URL/"]).fails();
    server.rest("POST", "/api/v1/user", Some(&user_body("new one"))).expect(200);

    // Python's module reads what the reference would read, while the server has the database open.
    let script = "import json, sqlite3, sys\n\
        rows = sqlite3.connect(sys.argv[1]).execute('select username, home_dir, permissions, filters, last_login, used_quota_files from users order by id').fetchall()\n\
        for name, home, permissions, filters, login, files in rows:\n    json.loads(permissions); json.loads(filters)\n    print(name, home, login > 0, files)\n";
    wait_for("login and quota of anna in the database", secs(5), || {
        let said = Tool::new("python3", "python3").args(["-c", script]).arg(&copy).ok();
        assert_eq!(said.lines().count(), 5, "{said}");
        said.contains(&format!("anna {} True 1\n", home.display())).then_some(())
    });
    let added =
        |text: String| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let after = added(schema(&copy));
    for line in added(schema(&original)) {
        assert!(after.contains(&line), "the schema has lost: {line}");
    }
}

/// What another program, or another server, changes in the database reaches sessions that are open.
#[test]
fn a_user_disabled_in_the_database_is_disconnected() {
    let builder = TestServer::builder().sqlite(None);
    let file = builder.config_dir().join("sftpgo.db");
    let server = builder.start();
    server.user("alice").create();
    server.user("bob").create();
    let _alice = RawSftp::connect(&server, "alice");
    let mut bob = RawSftp::connect(&server, "bob");
    assert_eq!(server.connections().len(), 2);
    let change = "update users set status = 0 where username = 'alice'";
    Tool::new("sqlite3", "sqlite3").args(["-cmd", ".timeout 5000"]).arg(&file).arg(change).ok();
    wait_for("alice to be disconnected", secs(10), || (server.connections().len() == 1).then_some(()));
    assert_eq!(server.connections()[0]["username"], "bob");
    bob.stat("/").unwrap();
}
