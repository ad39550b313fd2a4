//! Every endpoint of the REST API with every status that its description names: one row each, and none missing.
//! The answers are held to the schemas of the description as well.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tidegate_e2e::clients::python;
use tidegate_e2e::http::{self, Response};
use tidegate_e2e::{RawSftp, TestServer, disk, flags, keys, secs, wait_for};

/// `secret`, as a file of administrators has it.
const ADMIN: &str = "admin:$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/\
    1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1\n";

/// `admin` with a wrong password.
const WRONG: (&str, &str) = ("Authorization", "Basic YWRtaW46d3Jvbmc=");

/// The servers that the rows are sent to.
struct Servers {
    /// With a user, a connection and a dump.
    plain: TestServer,
    /// With administrators.
    closed: TestServer,
    /// Whose data provider is not there.
    broken: TestServer,
    /// Whose accounts may not be changed.
    fixed: TestServer,
}

impl Servers {
    fn start() -> Self {
        let builder = TestServer::builder().set("httpd", "auth_user_file", "admins");
        disk::write(&builder.config_dir().join("admins"), ADMIN.as_bytes());
        let closed = builder.start();
        let broken = TestServer::builder()
            .set("data_provider", "driver", "postgresql")
            .set("data_provider", "host", "127.0.0.1")
            .set("data_provider", "port", tidegate_e2e::server::free_port())
            .set("data_provider", "name", "nothing")
            .set("data_provider", "username", "nobody")
            .start();
        let fixed = TestServer::builder().set("data_provider", "manage_users", 0).start();
        Self { plain: TestServer::start(), closed, broken, fixed }
    }
}

fn user_body(name: &str) -> Value {
    json!({"username": name, "password": "$6$nobody$knows", "home_dir": format!("/srv/{name}"),
        "permissions": {"/": ["*"]}, "status": 1, "public_keys": [keys::keys().client_public()],
        "filters": {"allowed_ip": ["127.0.0.0/8"]}})
}

/// The answers so far.
#[derive(Default)]
struct Table {
    rows: BTreeSet<(String, String, u16)>,
    answers: Vec<Value>,
}

impl Table {
    /// Sends a request and notes it as the row `operation` (method, path as described) with `status`.
    fn row(
        &mut self,
        operation: (&str, &str),
        status: u16,
        server: &TestServer,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Response {
        let (method, path) = operation;
        let answer = http::request(server.http_port, method, target, headers, body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        if answer.status != 200 || !target.ends_with("/docs") {
            let error = answer.json();
            assert!(status < 400 || error["status"] == status, "{method} {target}: {error}");
        }
        self.rows.insert((method.to_owned(), path.to_owned(), status));
        self.answers.push(json!({"method": method, "path": path, "status": status, "body": answer.body,
            "type": answer.header("content-type").unwrap_or_default()}));
        answer
    }
}

/// Every operation with its path, a target that fits it, and the statuses that are described.
fn operations(description: &Value) -> Vec<(String, String, String, BTreeSet<u16>)> {
    let mut all = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let statuses = operation["responses"].as_object().unwrap().keys();
            let target = path.replace("{id}", "1");
            all.push((
                method.to_uppercase(),
                path.clone(),
                target,
                statuses.map(|code| code.parse().unwrap()).collect(),
            ));
        }
    }
    all
}

#[test]
fn every_endpoint_with_every_status() {
    let servers = Servers::start();
    let plain = &servers.plain;
    let description = plain.rest("GET", "/api/v1/openapi.json", None).expect(200).json();
    assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations = operations(&description);
    let mut table = Table::default();

    successes(&mut table, plain);
    refusals(&mut table, plain);

    // What is the same everywhere.
    let user = user_body("new").to_string();
    let dump = json!({"users": [user_body("new")]}).to_string();
    let dump_file = plain.work().join("dump.json");
    disk::write(&dump_file, dump.as_bytes());
    let load = format!("?input_file={}", dump_file.display());
    for (method, path, target, statuses) in &operations {
        let operation = (method.as_str(), path.as_str());
        let query = match path.as_str() {
            "/api/v1/dumpdata" => "?output_file=x",
            "/api/v1/loaddata" => &load,
            _ => "",
        };
        let target = format!("{target}{query}");
        let has_body = matches!(method.as_str(), "POST" | "PUT") && !path.ends_with("data");
        let body = has_body.then_some(user.as_str());
        for status in statuses {
            match status {
                401 => {
                    let answer = table.row(operation, 401, &servers.closed, &target, &[], body);
                    assert!(
                        answer.header("www-authenticate").is_some_and(|value| value.starts_with("Basic"))
                    );
                }
                403 => {
                    table.row(operation, 403, plain, &target, &[("Host", "evil.example")], body);
                }
                413 => {
                    let limit = if path == "/api/v1/loaddata" { 10 << 20 } else { 1 << 20 };
                    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(limit));
                    let target = target.replace(&load, "");
                    table.row(operation, 413, plain, &target, &[], Some(&large));
                }
                500 => {
                    table.row(operation, 500, &servers.broken, &target, &[], body);
                }
                _ => {}
            }
        }
    }
    // Last, as it shuts this address out for a while.
    for _ in 0..10 {
        http::request(servers.closed.http_port, "GET", "/api/v1/version", &[WRONG], None).expect(401);
    }
    for (method, path, target, _) in &operations {
        let answer = table.row((method, path), 429, &servers.closed, target, &[WRONG], None);
        assert!(answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()));
    }

    for (method, target, body) in [
        ("POST", "/api/v1/user", &user),
        ("POST", "/api/v1/loaddata", &dump),
        ("GET", &*format!("/api/v1/loaddata{load}"), &user),
    ] {
        let answer = http::request(servers.fixed.http_port, method, target, &[], Some(body)).expect(403);
        assert!(answer.json()["error"].as_str().unwrap().starts_with("Method disabled error:"), "{answer:?}");
    }

    let described: BTreeSet<_> = operations
        .iter()
        .flat_map(|(method, path, _, statuses)| {
            statuses.iter().map(|status| (method.clone(), path.clone(), *status))
        })
        .collect();
    let missing: Vec<_> = described.difference(&table.rows).collect();
    assert!(missing.is_empty(), "described, but not shown by a row: {missing:?}");
    let unknown: Vec<_> = table.rows.difference(&described).collect();
    assert!(unknown.is_empty(), "answered, but not described: {unknown:?}");
    assert!(table.rows.len() > 90, "{}", table.rows.len());

    let (document, answers) = (plain.work().join("openapi.json"), plain.work().join("answers.json"));
    std::fs::write(&document, description.to_string()).unwrap();
    std::fs::write(&answers, Value::from(table.answers).to_string()).unwrap();
    let files = [document.to_str().unwrap(), answers.to_str().unwrap()];
    let said = python(plain, "check_answers.py", &files).ok();
    assert!(said.contains("answers are as described"), "{said}");
}

/// One success of each operation, with something in every list.
fn successes(table: &mut Table, plain: &TestServer) {
    let mut ok = |method: &str, path: &str, status: u16, target: &str, body: Option<Value>| {
        let body = body.map(|body| body.to_string());
        table.row((method, path), status, plain, target, &[], body.as_deref())
    };
    for path in ["/version", "/providerstatus", "/openapi.json", "/docs"] {
        let path = format!("/api/v1{path}");
        ok("GET", &path, 200, &path, None);
    }
    const USER: &str = "/api/v1/user";
    const ONE: &str = "/api/v1/user/{id}";
    ok("POST", USER, 200, USER, Some(user_body("anna")));
    let second = ok("POST", USER, 200, USER, Some(user_body("second"))).json()["id"].as_i64().unwrap();
    let second = format!("{USER}/{second}");
    assert_eq!(ok("GET", USER, 200, USER, None).json().as_array().unwrap().len(), 2);
    ok("GET", ONE, 200, &second, None);
    ok("PUT", ONE, 200, &second, Some(json!({"uid": 7})));
    ok("DELETE", ONE, 200, &second, None);

    let saved = plain.path("conf/backups/2026/users.json");
    for method in ["GET", "POST"] {
        ok(method, "/api/v1/dumpdata", 200, "/api/v1/dumpdata?output_file=2026/users.json", None);
        assert!(disk::text(&saved).contains("\"username\":\"anna\""));
        let target = format!("/api/v1/loaddata?input_file={}", saved.display());
        ok(method, "/api/v1/loaddata", 200, &target, None);
    }
    let progress = ok("GET", "/api/v1/loaddata/progress", 200, "/api/v1/loaddata/progress", None).json();
    assert_eq!(progress, json!({"running": false, "done": 0, "total": 0}));
    ok("POST", "/api/v1/loaddata", 200, "/api/v1/loaddata", Some(json!({"users": [user_body("third")]})));

    // A home that takes a while to count, so that the scan is still listed and no second one is started.
    let scanned = plain.user("scanned").field("home_dir", "/usr").field("quota_files", 1);
    let _scanned = scanned.create();
    const SCAN: &str = "/api/v1/quota_scan";
    let name = || Some(json!({"username": "scanned"}));
    ok("POST", SCAN, 201, SCAN, name());
    ok("POST", SCAN, 409, SCAN, name());
    assert_eq!(ok("GET", SCAN, 200, SCAN, None).json()[0]["username"], "scanned");

    let user = plain.user("busy").create();
    disk::write(&user.path("file"), b"content");
    let mut sftp = RawSftp::connect(plain, "busy");
    let handle = sftp.open("/file", flags::READ).unwrap();
    sftp.read(&handle, 0, 5).unwrap();
    let all = ok("GET", "/api/v1/connection", 200, "/api/v1/connection", None).json();
    assert_eq!(all[0]["active_transfers"][0]["path"], "/file");
    let target = format!("/api/v1/connection/{}", all[0]["connection_id"].as_str().unwrap());
    ok("DELETE", "/api/v1/connection/{id}", 200, &target, None);
    wait_for("the connection to be gone", secs(5), || plain.connections().is_empty().then_some(()));
}

/// What a request itself can do wrong.
fn refusals(table: &mut Table, plain: &TestServer) {
    const ONE: &str = "/api/v1/user/{id}";
    let directory = plain.work();
    let directory = format!("input_file={}", directory.display());
    let not_json = plain.work().join("not.json");
    disk::write(&not_json, b"{");
    let not_json = format!("input_file={}", not_json.display());
    let rows: &[(&str, &str, u16, &str, Option<&str>)] = &[
        ("DELETE", "/api/v1/connection/{id}", 404, "/api/v1/connection/00ff", None),
        ("POST", "/api/v1/quota_scan", 400, "/api/v1/quota_scan", Some("{\"username\": 7}")),
        ("POST", "/api/v1/quota_scan", 400, "/api/v1/quota_scan", Some("")),
        ("POST", "/api/v1/quota_scan", 404, "/api/v1/quota_scan", Some("{\"username\": \"nobody\"}")),
        ("GET", "/api/v1/user", 400, "/api/v1/user?limit=x", None),
        ("GET", "/api/v1/user", 400, "/api/v1/user?offset=-1", None),
        ("GET", "/api/v1/user", 400, "/api/v1/user?order=asc", None),
        ("POST", "/api/v1/user", 400, "/api/v1/user", Some("{}")),
        ("POST", "/api/v1/user", 400, "/api/v1/user", Some("{} {}")),
        ("GET", ONE, 400, "/api/v1/user/x", None),
        ("GET", ONE, 404, "/api/v1/user/4711", None),
        ("PUT", ONE, 400, "/api/v1/user/x", Some("{}")),
        ("PUT", ONE, 400, "/api/v1/user/1", Some("{\"id\": 2}")),
        ("PUT", ONE, 400, "/api/v1/user/1", Some("{\"username\": \"other\"}")),
        ("PUT", ONE, 404, "/api/v1/user/4711", Some("{")),
        ("DELETE", ONE, 400, "/api/v1/user/x", None),
        ("DELETE", ONE, 404, "/api/v1/user/4711", None),
        ("GET", "/api/v1/dumpdata", 400, "/api/v1/dumpdata", None),
        ("POST", "/api/v1/dumpdata", 400, "/api/v1/dumpdata?output_file=../x", None),
        ("GET", "/api/v1/loaddata", 400, "/api/v1/loaddata", None),
        ("GET", "/api/v1/loaddata", 400, &format!("/api/v1/loaddata?{directory}"), None),
        ("GET", "/api/v1/loaddata", 400, &format!("/api/v1/loaddata?{not_json}"), None),
        ("POST", "/api/v1/loaddata", 400, "/api/v1/loaddata?scan_quota=x", Some("{}")),
        ("POST", "/api/v1/loaddata", 400, "/api/v1/loaddata?input_file=/x", Some("{}")),
        ("POST", "/api/v1/loaddata", 400, "/api/v1/loaddata", Some("[]")),
        ("POST", "/api/v1/loaddata", 400, "/api/v1/loaddata", Some("{\"users\": [{}]}")),
    ];
    for (method, path, status, target, body) in rows {
        table.row((method, path), *status, plain, target, &[], *body);
    }
}

#[test]
fn a_converted_dump_is_loaded_and_its_password_still_works() {
    use tidegate_e2e::Tool;
    use tidegate_e2e::clients::curl;
    use tidegate_e2e::server::binary;

    let server = TestServer::start();
    let home = server.path("homes/ada");
    std::fs::create_dir_all(&home).unwrap();
    let hash = ADMIN.trim_end().strip_prefix("admin:").unwrap();
    let (passwd, shadow) = (server.work().join("passwd"), server.work().join("shadow"));
    let line = format!("ada:x:1234:1234:Ada:{}:/bin/sh\n", home.display());
    std::fs::write(&passwd, line).unwrap();
    std::fs::write(&shadow, format!("ada:{hash}:19000:0:99999:7:::\n")).unwrap();
    let dump = server.work().join("users.json");
    let convert = |passwd: &Path, shadow: &Path| {
        Tool::new(binary(), "tidegate")
            .args(["convert-users", "--passwd"])
            .arg(passwd)
            .arg("--shadow")
            .arg(shadow)
            .arg("--output")
            .arg(&dump)
            .run()
            .expect_success();
    };
    convert(&passwd, &shadow);
    let target = format!("/api/v1/loaddata?input_file={}&scan_quota=1", dump.display());
    assert_eq!(server.rest("POST", &target, None).expect(200).json()["message"], "Data restored");

    disk::write(&server.work().join("file"), b"content");
    curl(&server, "ada", "secret", &["-T", "file", "URL/file"]).ok();
    assert_eq!(disk::text(&home.join("file")), "content");
    curl(&server, "ada", "wrong", &["-l", "URL/"]).fails();
    let user = server.rest("GET", "/api/v1/user?username=ada", None).expect(200).json();
    assert_eq!((&user[0]["uid"], &user[0]["status"]), (&json!(1234), &json!(1)));

    // The same dump in the body of a request, to a server that has never seen it.
    let other = TestServer::builder().sqlite(None).start();
    let body: Value = serde_json::from_str(&disk::text(&dump)).unwrap();
    other.rest("POST", "/api/v1/loaddata", Some(&body)).expect(200);
    curl(&other, "ada", "secret", &["-l", "URL/"]).ok();
}
