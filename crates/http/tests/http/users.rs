//! Accounts: every status of every endpoint, and what an update keeps.

use serde_json::{Value, json};

use crate::support::{HASHED, KEY, Mood, Options, TestServer, user_body};

const USERS: &str = "/api/v1/user";

fn with(key: &str, value: Value) -> Value {
    let mut body = user_body("anna");
    body[key] = value;
    body
}

fn without(key: &str) -> Value {
    let mut body = user_body("anna");
    body.as_object_mut().unwrap().remove(key);
    body
}

async fn server_with_anna() -> (TestServer, String) {
    let server = TestServer::start().await;
    let created = server.rest("POST", USERS, Some(&user_body("anna"))).await.expect(200).json();
    let path = format!("{USERS}/{}", created["id"]);
    (server, path)
}

#[tokio::test]
async fn a_user_is_added_read_and_removed() {
    let server = TestServer::start().await;
    let mut body = user_body("anna");
    body["permissions"] = json!({"/": ["list", "*"], "/a/../b/": ["list", "download"]});
    body["quota_size"] = json!(1_u64 << 40);
    body["expiration_date"] = json!(4_102_444_800_000_i64);
    let created = server.rest("POST", USERS, Some(&body)).await.expect(200).json();
    let expected = json!({
        "id": 1, "status": 1, "username": "anna", "expiration_date": 4_102_444_800_000_i64,
        "home_dir": "/srv/anna", "uid": 0, "gid": 0, "max_sessions": 0, "quota_size": 1_u64 << 40,
        "quota_files": 0, "permissions": {"/": ["*"], "/b": ["list", "download"]},
        "used_quota_size": 0, "used_quota_files": 0, "last_quota_update": 0,
        "upload_bandwidth": 0, "download_bandwidth": 0, "last_login": 0,
        "filters": {"allowed_ip": [], "denied_ip": []},
    });
    // No password, and no public keys where there are none.
    assert_eq!(created, expected);
    assert_eq!(server.get("/api/v1/user/1").await.expect(200).json(), expected);
    assert_eq!(server.get(USERS).await.expect(200).json(), json!([expected]));

    let removed = server.rest("DELETE", "/api/v1/user/1", None).await.expect(200).json();
    assert_eq!(removed, json!({"error": "", "message": "User deleted", "status": 200}));
    for method in ["GET", "PUT", "DELETE"] {
        let answer = server.rest(method, "/api/v1/user/1", Some(&json!({}))).await.expect(404);
        assert!(answer.error().contains("Not found"), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_the_server_owns_is_ignored_when_it_is_sent() {
    let server = TestServer::start().await;
    let mut body = user_body("anna");
    body["public_keys"] = json!([KEY]);
    for key in ["id", "used_quota_size", "used_quota_files", "last_quota_update", "last_login"] {
        body[key] = json!(77);
    }
    body["no_such_field"] = json!({"deep": [1, null]});
    let created = server.rest("POST", USERS, Some(&body)).await.expect(200).json();
    for (key, value) in [("id", 1), ("used_quota_size", 0), ("used_quota_files", 0), ("last_login", 0)] {
        assert_eq!(created[key], value, "{key}");
    }
    assert_eq!(created["public_keys"], json!([KEY]));
}

#[tokio::test]
async fn a_clear_password_is_hashed_and_a_hash_is_kept() {
    let server = TestServer::start().await;
    server.rest("POST", USERS, Some(&user_body("anna"))).await.expect(200);
    assert_eq!(server.store.stored("anna").password, HASHED);
    server.rest("PUT", "/api/v1/user/1", Some(&json!({"password": "clear"}))).await.expect(200);
    assert!(server.store.stored("anna").password.starts_with("$argon2id$v=19$m=65536,t=3,p=2$"));
}

#[tokio::test]
async fn invalid_users_are_400_with_a_reason() {
    let server = TestServer::start().await;
    for (what, body) in [
        ("no name", with("username", json!(""))),
        ("name absent", without("username")),
        ("name is null", with("username", Value::Null)),
        ("no credential", with("password", json!(""))),
        ("credential absent", without("password")),
        ("relative home", with("home_dir", json!("relative"))),
        ("no home", without("home_dir")),
        ("no permissions", without("permissions")),
        ("permissions null", with("permissions", Value::Null)),
        ("permissions empty", with("permissions", json!({}))),
        ("no root", with("permissions", json!({"/dir": ["*"]}))),
        ("root spelled otherwise", with("permissions", json!({"//": ["*"]}))),
        ("no verbs", with("permissions", json!({"/": []}))),
        ("verbs null", with("permissions", json!({"/": null}))),
        ("unknown verb", with("permissions", json!({"/": ["fly"]}))),
        ("verb in capitals", with("permissions", json!({"/": ["List"]}))),
        ("permissions as a list", with("permissions", json!(["*"]))),
        ("relative directory", with("permissions", json!({"/": ["*"], "dir": ["*"]}))),
        ("status 2", with("status", json!(2))),
        ("bad key", with("public_keys", json!(["ssh-rsa nonsense"]))),
        ("address without prefix", with("filters", json!({"denied_ip": ["192.168.1.2"]}))),
        ("slash in the name", with("username", json!("../anna"))),
        ("text for a number", with("uid", json!("0"))),
        ("fraction for a number", with("uid", json!(1.5))),
        ("number out of range", with("quota_size", json!(u64::MAX))),
        ("number for a text", with("username", json!(7))),
        ("text for a list", with("public_keys", json!(KEY))),
        ("null in a list", with("public_keys", json!([null]))),
        ("text for the filters", with("filters", json!("none"))),
        ("list for the filters", with("filters", json!([[], []]))),
        ("wrong type in what is ignored", with("last_login", json!("never"))),
    ] {
        let answer = server.rest("POST", USERS, Some(&body)).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(!answer.error().is_empty(), "{what}");
    }
    let valid = user_body("anna").to_string();
    let garbage = [format!("{valid} x"), format!("{valid}{valid}"), valid.replace('}', "")];
    for body in ["", " ", "{", "[]", "[1]", "7", "\"x\"", "null", "null x", "{}"]
        .into_iter()
        .chain(garbage.iter().map(String::as_str))
    {
        let answer = server.request("POST", USERS, &[], Some(body)).await;
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert!(!answer.error().is_empty(), "{body:?}");
    }
    let named = server.rest("POST", USERS, Some(&with("uid", json!("zero")))).await.error();
    assert!(named.contains("uid") && named.contains("zero"), "{named}");
    assert_eq!(server.get(USERS).await.json(), json!([]));
    // White space around the object is no garbage.
    server.request("POST", USERS, &[], Some(&format!(" {valid}\n"))).await.expect(200);
}

#[tokio::test]
async fn a_taken_name_is_500() {
    let (server, _) = server_with_anna().await;
    let answer = server.rest("POST", USERS, Some(&user_body("anna"))).await.expect(500);
    assert!(answer.error().contains("already exists"), "{}", answer.text());
}

#[tokio::test]
async fn homes_come_from_the_base_dir() {
    let server =
        TestServer::with(Options { users_base_dir: Some("/srv/base".into()), ..Options::default() }).await;
    let created = server.rest("POST", USERS, Some(&without("home_dir"))).await.expect(200).json();
    assert_eq!(created["home_dir"], "/srv/base/anna");
    server.rest("PUT", "/api/v1/user/1", Some(&json!({"home_dir": "/elsewhere"}))).await.expect(200);
    server.rest("PUT", "/api/v1/user/1", Some(&json!({"home_dir": ""}))).await.expect(200);
    assert_eq!(server.get("/api/v1/user/1").await.json()["home_dir"], "/srv/base/anna");
}

#[tokio::test]
async fn what_an_update_keeps_and_replaces() {
    let (server, path) = server_with_anna().await;
    let full = json!({
        "public_keys": [KEY], "uid": 1000, "quota_files": 9, "max_sessions": 3,
        "permissions": {"/": ["*"], "/in": ["list"]},
        "filters": {"allowed_ip": ["10.0.0.0/8"], "denied_ip": ["10.1.0.0/16"]},
    });
    server.rest("PUT", &path, Some(&full)).await.expect(200);
    let before = server.get(&path).await.json();
    let rows = [
        ("nothing", json!({}), json!({})),
        ("a field set to null", json!({"uid": null, "username": null, "filters": null}), json!({})),
        ("a number", json!({"uid": 5}), json!({"uid": 5})),
        ("zero is a value", json!({"max_sessions": 0}), json!({"max_sessions": 0})),
        ("status", json!({"status": 0}), json!({"status": 0})),
        ("permissions null", json!({"permissions": null}), json!({})),
        ("permissions empty", json!({"permissions": {}}), json!({})),
        (
            "permissions replace the whole map",
            json!({"permissions": {"/": ["list"]}}),
            json!({"permissions": {"/": ["list"]}}),
        ),
        (
            "one filter keeps the other",
            json!({"filters": {"denied_ip": ["11.0.0.0/8"]}}),
            json!({"filters": {"allowed_ip": ["10.0.0.0/8"], "denied_ip": ["11.0.0.0/8"]}}),
        ),
        (
            "an empty filter clears",
            json!({"filters": {"allowed_ip": []}}),
            json!({"filters": {"allowed_ip": [], "denied_ip": ["10.1.0.0/16"]}}),
        ),
        (
            "a filter set to null clears",
            json!({"filters": {"denied_ip": null}}),
            json!({"filters": {"allowed_ip": ["10.0.0.0/8"], "denied_ip": []}}),
        ),
        ("filters empty", json!({"filters": {}}), json!({})),
        ("the same id", json!({"id": 1}), json!({})),
        ("the id set to null", json!({"id": null}), json!({})),
        ("the same name", json!({"username": "anna"}), json!({})),
        ("usage and last login", json!({"used_quota_size": 7, "last_login": 7}), json!({})),
        ("keys to none", json!({"public_keys": []}), json!({"public_keys": null})),
        ("keys to null", json!({"public_keys": null}), json!({"public_keys": null})),
    ];
    for (what, sent, changes) in rows {
        let answer = server.rest("PUT", &path, Some(&sent)).await.expect(200).json();
        assert_eq!(answer, json!({"error": "", "message": "User updated", "status": 200}), "{what}");
        let mut expected = before.clone();
        for (key, value) in changes.as_object().unwrap() {
            expected[key] = value.clone();
        }
        if expected["public_keys"].is_null() {
            expected.as_object_mut().unwrap().remove("public_keys");
        }
        assert_eq!(server.get(&path).await.json(), expected, "{what}");
        assert_eq!(server.store.stored("anna").password, HASHED, "{what}");
        server.rest("PUT", &path, Some(&before)).await.expect(200);
        assert_eq!(server.get(&path).await.json(), before, "after {what}");
    }
    // A top-level null names nothing at all.
    server.request("PUT", &path, &[], Some("null")).await.expect(200);
    assert_eq!(server.get(&path).await.json(), before);
}

#[tokio::test]
async fn a_password_goes_only_if_a_key_remains() {
    let (server, path) = server_with_anna().await;
    server.rest("PUT", &path, Some(&json!({"password": ""}))).await.expect(400);
    assert_eq!(server.store.stored("anna").password, HASHED);
    server.rest("PUT", &path, Some(&json!({"password": "", "public_keys": [KEY]}))).await.expect(200);
    assert_eq!(server.store.stored("anna").password, "");
    server.rest("PUT", &path, Some(&json!({"public_keys": []}))).await.expect(400);
    assert_eq!(server.get(&path).await.json()["public_keys"], json!([KEY]));
}

#[tokio::test]
async fn refused_updates_change_nothing() {
    let (server, path) = server_with_anna().await;
    let before = server.get(&path).await.json();
    for body in [
        json!({"uid": 1, "status": 7}),
        json!({"uid": 1, "home_dir": ""}),
        json!({"uid": 1, "permissions": {"/x": ["*"]}}),
        json!({"uid": 1, "username": "bob"}),
        json!({"uid": 1, "filters": {"allowed_ip": ["here"]}}),
        json!({"uid": 1, "gid": "x"}),
    ] {
        let answer = server.rest("PUT", &path, Some(&body)).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(!answer.error().is_empty(), "{body}");
        assert_eq!(server.get(&path).await.json(), before, "{body}");
    }
    for id in [0, 2] {
        let answer = server.rest("PUT", &path, Some(&json!({"id": id, "uid": 1}))).await.expect(400).json();
        assert_eq!((&answer["error"], &answer["status"]), (&json!(""), &json!(400)), "{answer}");
        assert!(!answer["message"].as_str().unwrap().is_empty(), "{answer}");
    }
    assert_eq!(server.get(&path).await.json(), before);
}

#[tokio::test]
async fn checks_of_an_update_come_in_order() {
    let (server, path) = server_with_anna().await;
    let put = async |path: &str, body: &'static str| server.request("PUT", path, &[], Some(body)).await;
    put("/api/v1/user/x", "garbage").await.expect(400);
    put("/api/v1/user/99", "garbage").await.expect(404);
    let garbage = put(&path, "garbage").await.expect(400);
    assert!(garbage.error().contains("body"), "{}", garbage.text());
    let mismatch = put(&path, r#"{"id": 2, "status": 7}"#).await.expect(400).json();
    assert!(mismatch["message"].as_str().unwrap().contains("id"), "{mismatch}");
    server.store.set(Mood::Fails);
    put(&path, "garbage").await.expect(500);
}

#[tokio::test]
async fn ids_are_integers() {
    let (server, _) = server_with_anna().await;
    for id in ["abc", "1x", "1.0", "%31x", "%ff", "99999999999999999999", "%20"] {
        for method in ["GET", "PUT", "DELETE"] {
            let path = format!("{USERS}/{id}");
            let answer = server.rest(method, &path, Some(&json!({}))).await;
            assert_eq!(answer.status, 400, "{method} {id}: {}", answer.text());
            assert!(!answer.error().is_empty());
        }
    }
    server.get("/api/v1/user/-1").await.expect(404);
    server.get("/api/v1/user/0").await.expect(404);
}

#[tokio::test]
async fn lists_are_paged_ordered_and_filtered() {
    let server = TestServer::start().await;
    for name in ["alice", "Bob", "carol"] {
        server.rest("POST", USERS, Some(&user_body(name))).await.expect(200);
    }
    for (query, expected) in [
        ("", &["Bob", "alice", "carol"][..]),
        ("?limit=0", &["Bob"]),
        ("?limit=1000&offset=1", &["alice", "carol"]),
        ("?order=DESC&limit=2", &["carol", "alice"]),
        ("?order=ASC&limit=1&offset=1", &["alice"]),
        ("?username=alice", &["alice"]),
        ("?username=", &["Bob", "alice", "carol"]),
        ("?username=%61lice", &["alice"]),
        ("?username=bob", &[]),
        ("?username=alice&offset=1", &[]),
        ("?offset=99999999999", &[]),
        ("?unknown=1", &["Bob", "alice", "carol"]),
    ] {
        let list = server.get(&format!("{USERS}{query}")).await.expect(200).json();
        let names: Vec<_> =
            list.as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
        assert!(!list.to_string().contains("password"), "{list}");
    }
    for query in ["limit=", "limit=x", "limit=-1", "limit=1.5", "offset=", "offset=-1", "order=", "order=asc"]
    {
        let answer = server.get(&format!("{USERS}?{query}")).await.expect(400);
        assert!(answer.error().contains(query.split('=').next().unwrap()), "{}", answer.text());
    }
}

#[tokio::test]
async fn disabled_management_is_403() {
    let server = TestServer::with(Options { manage_users: false, ..Options::default() }).await;
    let refused = server.rest("POST", USERS, Some(&user_body("anna"))).await.expect(403);
    assert!(refused.error().contains("manage_users"), "{}", refused.text());
    server.store.seed("anna");
    for method in ["PUT", "DELETE"] {
        let refused = server.rest(method, "/api/v1/user/1", Some(&json!({"uid": 5}))).await.expect(403);
        assert!(refused.error().contains("manage_users"), "{}", refused.text());
        server.rest(method, "/api/v1/user/2", Some(&json!({}))).await.expect(404);
    }
    assert_eq!(server.get(USERS).await.expect(200).json()[0]["uid"], 0);
}

#[tokio::test]
async fn usage_and_last_login_are_shown_and_survive_an_update() {
    let server = TestServer::start().await;
    server.store.seed("anna");
    server.rest("PUT", "/api/v1/user/1", Some(&json!({"uid": 5, "used_quota_size": 0}))).await.expect(200);
    let user = server.get("/api/v1/user/1").await.json();
    for (key, value) in [
        ("uid", 5_i64),
        ("status", 0),
        ("used_quota_size", 4_321),
        ("used_quota_files", 3),
        ("last_quota_update", 1_700_000_000_000),
        ("last_login", 1_700_000_000_001),
    ] {
        assert_eq!(user[key], value, "{key}");
    }
}

#[tokio::test]
async fn a_failing_provider_is_500_and_keeps_its_secrets() {
    let (server, path) = server_with_anna().await;
    server.store.set(Mood::Fails);
    let body = user_body("bob");
    for (method, path) in [
        ("GET", USERS),
        ("POST", USERS),
        ("GET", &path),
        ("PUT", &path),
        ("DELETE", &path),
        ("GET", "/api/v1/providerstatus"),
    ] {
        let answer = server.rest(method, path, Some(&body)).await.expect(500);
        assert!(answer.error().contains("data provider"), "{method} {path}: {}", answer.text());
        assert!(!answer.text().contains("secret"), "{method} {path}: {}", answer.text());
    }
}
