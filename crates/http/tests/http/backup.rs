//! Backups and restores: which files, which answers in which order, what is changed and what is left.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{HASHED, KEY, Mood, Options, Response, TestServer, user_body};

async fn server(dir: &TempDir) -> TestServer {
    TestServer::with(Options { backups_path: dir.path().join("a/backups"), ..Options::default() }).await
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

async fn dump(server: &TestServer, name: &str) -> Response {
    server.get(&format!("/api/v1/dumpdata?output_file={name}")).await
}

async fn load(server: &TestServer, path: &Path, more: &str) -> Response {
    server.get(&format!("/api/v1/loaddata?input_file={}{more}", path.display())).await
}

/// Writes `content` beside the backups and loads it.
async fn load_text(server: &TestServer, dir: &TempDir, content: &str) -> Response {
    let path = dir.path().join("input.json");
    std::fs::write(&path, content).unwrap();
    load(server, &path, "").await
}

#[tokio::test]
async fn a_dump_holds_everybody_and_is_for_its_owner_only() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    let place = dir.path().join("a/backups/deep/er/users.json");
    for method in ["GET", "POST"] {
        let path = "/api/v1/dumpdata?output_file=%20deep/er/users.json%09";
        let saved = server.rest(method, path, None).await.expect(200).json();
        assert_eq!(saved, json!({"error": "", "message": "Data saved", "status": 200}));
    }
    assert_eq!(text_of(&place), "{\"users\":[]}\n");
    for name in ["anna", "björn", "zoe"] {
        server.rest("POST", "/api/v1/user", Some(&user_body(name))).await.expect(200);
    }
    dump(&server, "deep/er/users.json").await.expect(200);
    let saved: Value = serde_json::from_str(&text_of(&place)).unwrap();
    let user = |id: i64, name: &str| {
        json!({
            "id": id, "status": 1, "username": name, "expiration_date": 0, "password": HASHED,
            "home_dir": format!("/srv/{name}"), "uid": 0, "gid": 0, "max_sessions": 0, "quota_size": 0,
            "quota_files": 0, "permissions": {"/": ["*"]}, "used_quota_size": 0, "used_quota_files": 0,
            "last_quota_update": 0, "upload_bandwidth": 0, "download_bandwidth": 0, "last_login": 0,
            "filters": {"allowed_ip": [], "denied_ip": []},
        })
    };
    assert_eq!(saved, json!({"users": [user(1, "anna"), user(2, "björn"), user(3, "zoe")]}));
    assert_eq!(mode(&place), 0o600);
    assert_eq!(mode(place.parent().unwrap()), 0o700);
    let beside: Vec<_> = std::fs::read_dir(place.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "no temporary file is left: {beside:?}");
}

#[tokio::test]
async fn a_dump_of_many_users_is_one_json_document() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    for number in 0..401 {
        server.store.seed(&format!("user{number:03}"));
    }
    dump(&server, "many").await.expect(200);
    let saved: Value = serde_json::from_str(&text_of(&dir.path().join("a/backups/many"))).unwrap();
    assert_eq!(saved["users"].as_array().unwrap().len(), 401);
}

#[tokio::test]
async fn a_dump_stays_within_its_directory() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    dump(&server, "first.json").await.expect(200);
    let backups = dir.path().join("a/backups");
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(backups.join("dir")).unwrap();
    symlink(&outside, backups.join("link")).unwrap();
    symlink(outside.join("file"), backups.join("filelink")).unwrap();
    for name in [
        "",
        "%20",
        "/etc/x",
        "../x",
        "a/../x",
        "a..b",
        "a%00b",
        "a%0Ab",
        "dir",
        ".",
        "link/x",
        "filelink",
        "first.json/x",
    ] {
        let error = dump(&server, name).await.expect(400).error();
        assert!(error.starts_with("output_file is "), "{name}: {error}");
    }
    let error = server.get("/api/v1/dumpdata").await.expect(400).error();
    assert_eq!(error, "output_file is \"\", it is mandatory");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(backups.join("dir")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dump_that_fails_leaves_what_was_there() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    server.store.seed("anna");
    dump(&server, "x").await.expect(200);
    let place = dir.path().join("a/backups/x");
    let before = text_of(&place);
    server.store.set(Mood::Fails);
    let error = dump(&server, "x").await.expect(500).error();
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(text_of(&place), before);
    // A file where the directory of backups belongs.
    server.store.set(Mood::Works);
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    std::fs::write(dir.path().join("a"), "").unwrap();
    assert!(matches!(dump(&server, "x").await.status, 400 | 500));
}

#[tokio::test]
async fn what_was_saved_is_restored() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    let mut anna = user_body("anna");
    anna["public_keys"] = json!([KEY]);
    anna["permissions"] = json!({"/": ["list"], "/x": ["*"]});
    anna["filters"] = json!({"denied_ip": ["10.0.0.0/8"]});
    anna["quota_files"] = json!(7);
    server.rest("POST", "/api/v1/user", Some(&anna)).await.expect(200);
    server.rest("POST", "/api/v1/user", Some(&user_body("zoe"))).await.expect(200);
    dump(&server, "x").await.expect(200);
    let before = server.store.stored("anna");
    let list = server.get("/api/v1/user").await.json();

    server
        .rest("PUT", "/api/v1/user/1", Some(&json!({"quota_files": 1, "filters": {"denied_ip": []}})))
        .await
        .expect(200);
    server.rest("DELETE", "/api/v1/user/2", None).await.expect(200);
    let done = load(&server, &dir.path().join("a/backups/x"), "").await.expect(200).json();
    assert_eq!(done, json!({"error": "", "message": "Data restored", "status": 200}));
    assert_eq!(server.store.stored("anna"), before);
    assert_eq!(server.get("/api/v1/user").await.json(), list);

    // The same dump in the body; a password in clear is hashed, one that is hashed is kept.
    let mut dump: Value = serde_json::from_str(&text_of(&dir.path().join("a/backups/x"))).unwrap();
    dump["users"][1]["password"] = json!("clear");
    dump["users"][1]["id"] = json!(1);
    let done = server.rest("POST", "/api/v1/loaddata", Some(&dump)).await.expect(200).json();
    assert_eq!(done["message"], "Data restored");
    assert!(server.store.stored("zoe").password.starts_with("$argon2id$"));
    assert_eq!((server.store.stored("zoe").id, server.store.stored("anna").password), (2, HASHED.to_owned()));

    // With mode 1 who exists stays, who is new is added.
    dump["users"][0]["quota_files"] = json!(9);
    dump["users"][1]["username"] = json!("new");
    server.rest("POST", "/api/v1/loaddata?mode=1", Some(&dump)).await.expect(200);
    assert_eq!(server.store.stored("anna").quota_files, 7);
    assert_eq!(server.store.stored("new").id, 3);
}

#[tokio::test]
async fn loaddata_checks_in_order() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    server.store.seed("anna");
    let missing = dir.path().join("missing");
    for (query, named) in [
        ("scan_quota=x", "scan_quota"),
        ("scan_quota=", "scan_quota"),
        ("scan_quota=1.0&input_file=/x", "scan_quota"),
        ("", "input_file"),
        ("input_file=", "input_file"),
        ("input_file=%20", "input_file"),
        ("input_file=relative.json", "input_file"),
        ("input_file=/a%00b", "input_file"),
        (&format!("input_file={}&scan_quota=7", missing.display()), "does not exist"),
        (&format!("input_file={}/x", missing.display()), "does not exist"),
        ("input_file=/dev/null", "is not an ordinary file"),
        ("input_file=/", "is not an ordinary file"),
    ] {
        for method in ["GET", "POST"] {
            let answer = server.rest(method, &format!("/api/v1/loaddata?{query}"), None).await.expect(400);
            assert!(answer.error().contains(named), "{method} {query}: {}", answer.text());
        }
    }
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(load(&server, &fifo, "").await.expect(400).error().contains("ordinary"), "a pipe is not opened");

    // Both texts are there when it is no JSON of the right form, and none of the file's own.
    for content in ["", "secret", "[]", "{\"users\":{}}", "{\"users\":[{\"uid\":\"secret\"}]}", "{} secret"] {
        let answer = load_text(&server, &dir, content).await.expect(400);
        let body = answer.json();
        assert!(body["error"] != "" && body["message"] != "" && body["status"] == 400, "{content}: {body}");
        assert!(!answer.text().contains("secret"), "{content}: {body}");
    }
    let mut huge = String::from("{\"users\":[]}");
    huge.push_str(&" ".repeat((10 << 20) - huge.len()));
    load_text(&server, &dir, &huge).await.expect(200);
    huge.push(' ');
    let body = load_text(&server, &dir, &huge).await.expect(400).json();
    assert!(body["error"] == "" && body["message"].as_str().unwrap().contains("10485761"), "{body}");
    server.request("POST", "/api/v1/loaddata", &[], Some(&huge)).await.expect(413);
    for none in ["{}", "null", "{\"users\":null}", "{\"users\":[]}"] {
        load_text(&server, &dir, none).await.expect(200);
        server.request("POST", "/api/v1/loaddata", &[], Some(none)).await.expect(200);
    }
    // A body beside a file is a mistake; that of a GET means nothing.
    let both = format!("/api/v1/loaddata?input_file={}", dir.path().join("input.json").display());
    server.request("POST", &both, &[], Some("{}")).await.expect(400);
    server.request("POST", &both, &[], Some(" \n")).await.expect(200);
    server.request("GET", &both, &[], Some("nonsense")).await.expect(200);
    server.request("GET", "/api/v1/loaddata", &[], Some("{}")).await.expect(400);
    assert_eq!(server.get("/api/v1/user").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_first_user_that_cannot_be_stored_ends_a_restore() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    let mut bad = user_body("bad");
    bad["home_dir"] = json!("relative");
    let dump = json!({"users": [user_body("first"), bad, user_body("never")]}).to_string();
    let error = load_text(&server, &dir, &dump).await.expect(400).error();
    assert!(error.starts_with("Validation error: home_dir: \"relative\""), "{error}");
    assert!(error.contains("users[1], \"bad\"; 1 users"), "{error}");
    let names = server.get("/api/v1/user").await.json();
    assert_eq!((names.as_array().unwrap().len(), &names[0]["username"]), (1, &json!("first")));

    server.store.set(Mood::Fails);
    let error = load_text(&server, &dir, &dump).await.expect(500).error();
    assert!(!error.contains("secret"), "{error}");
}

#[tokio::test]
async fn manage_users_0_allows_backups_only() {
    let dir = TempDir::new().unwrap();
    let options = Options { manage_users: false, backups_path: dir.path().join("b"), ..Options::default() };
    let server = TestServer::with(options).await;
    server.store.seed("anna");
    dump(&server, "x").await.expect(200);
    let error = load(&server, &dir.path().join("b/x"), "").await.expect(403).error();
    assert!(error.starts_with("Method disabled error:"), "{error}");
    load_text(&server, &dir, "{\"users\":[]}").await.expect(200);
}

#[tokio::test]
async fn scans_follow_a_restore() {
    for (scan, expected) in [("0", &[][..]), ("1", &["limited", "plain"]), ("2", &["limited"]), ("3", &[])] {
        let dir = TempDir::new().unwrap();
        let server = server(&dir).await;
        let mut limited = user_body("limited");
        limited["quota_size"] = json!(1);
        let path = dir.path().join("in");
        std::fs::write(&path, json!({"users": [user_body("plain"), limited]}).to_string()).unwrap();
        // They wait until the test lets them read, so they are still there.
        for _ in 0..2 {
            load(&server, &path, &format!("&scan_quota={scan}")).await.expect(200);
        }
        let running = server.get("/api/v1/quota_scan").await.json();
        let names: Vec<_> =
            running.as_array().unwrap().iter().map(|scan| scan["username"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "scan_quota {scan}");
    }
}

#[tokio::test]
async fn a_browser_cannot_be_made_to_send_these_gets() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    let get = async |headers: &[(&str, &str)]| {
        server.request("GET", "/api/v1/dumpdata?output_file=x", headers, None).await.status
    };
    for site in ["cross-site", "same-site", "nonsense"] {
        assert_eq!(get(&[("Sec-Fetch-Site", site)]).await, 403, "{site}");
    }
    assert_eq!(get(&[("Origin", "http://evil.example")]).await, 403);
    assert!(!dir.path().join("a").exists());
    for site in ["same-origin", "none"] {
        assert_eq!(get(&[("Sec-Fetch-Site", site)]).await, 200, "{site}");
    }
}

#[tokio::test]
async fn restores_take_turns() {
    let dir = TempDir::new().unwrap();
    let server = server(&dir).await;
    let dump = |name: &str| json!({"users": [user_body(name)]});
    let (one, two) = (dump("one"), dump("two"));
    let both = async {
        let path = "/api/v1/loaddata";
        tokio::join!(server.rest("POST", path, Some(&one)), server.rest("POST", path, Some(&two)))
    };
    let (one, two) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!((one.status, two.status), (200, 200));
}

/// A dump of a few thousand users was larger than what the server took back.
#[tokio::test]
async fn a_backup_of_the_server_was_too_large_to_be_restored() {
    let dir = TempDir::new().unwrap();
    let first = server(&dir).await;
    let long = "x".repeat(3000);
    for number in 0..4000 {
        first.store.seed_with(&format!("user{number:04}"), number + 1, &long);
    }
    dump(&first, "large.json").await.expect(200);
    let saved = dir.path().join("a/backups/large.json");
    let size = std::fs::metadata(&saved).unwrap().len();
    assert!(size > 10 << 20, "{size}");

    let second = server(&dir).await;
    // The same file elsewhere, by its own name or through a link, is limited as ever.
    let outside = dir.path().join("outside.json");
    std::fs::copy(&saved, &outside).unwrap();
    let link = dir.path().join("a/backups/link.json");
    symlink(&outside, &link).unwrap();
    for path in [&outside, &link] {
        let refused = load(&second, path, "").await.expect(400).json();
        let message = refused["message"].as_str().unwrap();
        assert!(
            message.contains("outside of httpd.backups_path") && message.contains("10485760"),
            "{message}"
        );
    }
    second.request("POST", "/api/v1/loaddata", &[], Some(&text_of(&saved))).await.expect(413);
    assert_eq!(second.get("/api/v1/user").await.json(), json!([]));
    load(&second, &saved, "").await.expect(200);
    assert_eq!(second.store.stored("user3999").public_keys, first.store.stored("user3999").public_keys);
    let form = second.get("/web/backup/restore?file=large.json").await.expect(200).text();
    assert!(form.contains("</bdi>, 4,000 users"), "{form}");
    assert_eq!(
        second.get("/api/v1/loaddata/progress").await.expect(200).json(),
        json!({"running": false, "done": 0, "total": 0})
    );
    // A dump that breaks off is no dump, and changes nobody.
    let text = text_of(&saved);
    std::fs::write(&saved, &text[..text.len() / 2]).unwrap();
    second.store.seed("user0001");
    let before = second.store.stored("user0001");
    let refused = load(&second, &saved, "").await.expect(400).json();
    assert!(refused["message"].as_str().unwrap().contains("is not a dump of users"), "{refused}");
    assert_eq!(second.store.stored("user0001"), before);
}
