//! A user name, a path, a key comment and a client version that are meant to do harm where they are shown: as HTML,
//! as orders to a terminal, as forged lines, as text that reads the other way round. They are kept as they are, and
//! every JSON answer, log line and metric shows them harmlessly. (The pages are `web`'s matter.)

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};
use tidegate_e2e::clients::python;
use tidegate_e2e::http::{self, Response};
use tidegate_e2e::{TestServer, disk, keys, secs, wait_for};

const NAME: &str = "<img src=x onerror=alert(1)>\"'&{{7*7}}\u{1b}[31m\u{9b}2J\u{202e}gnp\u{2066}\u{200f}\u{7f}\r\n{\"level\":\"forged\"}";
const COMMENT: &str = "<b onmouseover=alert(2)> \u{202e}\u{1b}]0;owned\u{7} \"'& äß";
const VERSION: &str = "SSH-2.0-<svg_onload=alert(3)>\"'&";
const DIR: &str = "/<script>alert(4)<\u{202e}\u{1b}[2J";
const FILE: &str = "a\"'&<\n\r\t\u{9b}31m\u{2028}\u{feff}{\"x\":1}";

/// Marks of the texts above that no metric may carry.
const MARKS: [&str; 5] = ["alert(", "<img", "<svg", "<script", "forged"];

fn does_harm(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Fails if the raw text of an answer could do harm anywhere.
fn harmless(what: &str, answer: &Response) {
    let text = answer.body.trim_end_matches('\n');
    let bad = text.chars().find(|c| does_harm(*c) || matches!(c, '<' | '>' | '&'));
    assert!(bad.is_none(), "{what} has {bad:?}: {text:?}");
    let kind = answer.header("content-type").unwrap_or_default();
    assert_eq!(kind, "application/json; charset=utf-8", "{what}");
    assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"), "{what}");
}

#[test]
fn hostile_names_are_shown_harmlessly() {
    let server = TestServer::start();
    let home = server.path("homes/hostile");
    std::fs::create_dir(&home).unwrap();
    let key = keys::keys().client_public();
    let key = format!("{} {COMMENT}", key.rsplit_once(' ').unwrap().0);
    let body = json!({"username": NAME, "home_dir": home, "public_keys": [key], "status": 1,
        "permissions": {"/": ["*"], (DIR): ["*"]}});
    let created = server.rest("POST", "/api/v1/user", Some(&body)).expect(200);
    harmless("the new user", &created);
    let created = created.json();
    for (field, value) in
        [("username", &json!(NAME)), ("public_keys", &json!([key])), ("permissions", &body["permissions"])]
    {
        assert_eq!(&created[field], value, "kept as it is");
    }

    let arguments =
        json!({"version": VERSION, "user": NAME, "key": keys::keys().client(), "dir": DIR, "file": FILE});
    let file = server.work().join("arguments.json");
    std::fs::write(&file, arguments.to_string()).unwrap();
    let script = ["hostile_names.py", &server.port.to_string(), file.to_str().unwrap()].map(str::to_owned);
    let mut client = python(&server, &script[0], &[&script[1], &script[2]]).start();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "open", "the client could not work");

    let list = server.rest("GET", "/api/v1/connection", None).expect(200);
    harmless("the connections", &list);
    let one = &list.json()[0];
    let path = format!("{DIR}/{FILE}2");
    assert_eq!((&one["username"], &one["client_version"]), (&json!(NAME), &json!(VERSION)));
    assert_eq!(one["active_transfers"][0]["path"], json!(path));

    // Answers that quote what was sent.
    let encoded: String = NAME.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let id = created["id"].as_i64().unwrap();
    let in_json = |key: &str| Some(json!({ (key): NAME }).to_string());
    for (method, target, body, status) in [
        ("GET", format!("/api/v1/user?username={encoded}"), None, 200),
        ("GET", format!("/api/v1/user?limit={encoded}"), None, 400),
        ("GET", format!("/api/v1/user?order={encoded}"), None, 400),
        ("GET", format!("/api/v1/user/{encoded}"), None, 400),
        ("GET", format!("/{encoded}"), None, 404),
        ("DELETE", format!("/api/v1/connection/{encoded}"), None, 404),
        ("POST", "/api/v1/quota_scan".to_owned(), in_json("username"), 201),
        ("GET", "/api/v1/quota_scan".to_owned(), None, 200),
        ("POST", "/api/v1/user".to_owned(), Some(body.to_string()), 500),
        ("POST", "/api/v1/user".to_owned(), Some(format!("{{\"uid\": {}}}", json!(NAME))), 400),
        ("PUT", format!("/api/v1/user/{id}"), in_json("home_dir"), 400),
        ("PUT", format!("/api/v1/user/{id}"), in_json("username"), 200),
        ("PUT", format!("/api/v1/user/{id}"), Some(json!({"username": FILE}).to_string()), 400),
        ("PUT", format!("/api/v1/user/{id}"), Some(json!({"permissions": {"/": [NAME]}}).to_string()), 400),
        (
            "PUT",
            format!("/api/v1/user/{id}"),
            Some(json!({"filters": {"denied_ip": [NAME]}}).to_string()),
            400,
        ),
        ("GET", format!("/api/v1/dumpdata?output_file={encoded}"), None, 400),
        ("GET", "/api/v1/dumpdata?output_file=x".to_owned(), None, 200),
        ("GET", format!("/api/v1/loaddata?input_file={encoded}"), None, 400),
        ("GET", format!("/api/v1/loaddata?input_file=/{encoded}"), None, 400),
        ("POST", "/api/v1/loaddata".to_owned(), Some(format!("{{\"users\": [{}]}}", json!(NAME))), 400),
        (
            "POST",
            "/api/v1/loaddata".to_owned(),
            Some(json!({"users": [{"username": NAME}]}).to_string()),
            400,
        ),
    ] {
        let headers = [("User-Agent", "<b>\u{9b}31m\u{202e}"), ("X-Request-Id", "<i>\u{202e}")];
        let answer =
            http::request(server.http_port, method, &target, &headers, body.as_deref()).expect(status);
        harmless(&format!("{method} {target}"), &answer);
    }
    let dump: Value = serde_json::from_str(&disk::text(&server.path("conf/backups/x"))).unwrap();
    assert_eq!(dump["users"][0]["username"], NAME);
    let path = server.path("conf/backups/x");
    server.rest("GET", &format!("/api/v1/loaddata?input_file={}", path.display()), None).expect(200);

    drop(client.stdin.take());
    client.wait().unwrap();
    let metrics = http::request(server.http_port, "GET", "/metrics", &[], None).expect(200);
    for mark in MARKS {
        assert!(!metrics.body.contains(mark), "a metric carries {mark}");
    }
    assert!(!metrics.body.chars().any(|c| c != '\n' && does_harm(c)));

    // One line for one event, each of them JSON that says exactly what was there.
    wait_for("the lines about the session", secs(10), || {
        let log = server.log();
        let has = |sender: &str, key: &str, value: &str| {
            log.iter()
                .any(|line| line["sender"] == sender && line.get(key).is_some_and(|found| found == value))
        };
        (has("Upload", "username", NAME)
            && has("Rename", "username", NAME)
            && has("Download", "username", NAME))
        .then_some(())
    });
    for line in server.raw_log() {
        let bad = line.chars().find(|c| does_harm(*c));
        assert!(bad.is_none(), "a log line has {bad:?}: {line:?}");
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_ne!(parsed["level"], "forged");
    }
    let renamed = server.wait_log(&[("sender", json!("Rename"))]);
    let file_path = renamed["file_path"].as_str().unwrap();
    assert!(file_path.ends_with(&format!("{DIR}/{FILE}")), "{file_path:?}");
    assert!(!server.console().chars().any(|c| c != '\n' && does_harm(c)), "{:?}", server.console());
}
