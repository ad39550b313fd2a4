//! `tidegate ctl`: the transcripts of `docs/ctl.md` as they stand there, and what they do not show.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_e2e::process::collect;
use tidegate_e2e::{Finished, RawSftp, TestServer, Tool, disk, flags, keys, secs, server, wait_for};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn ctl(server: &TestServer, args: &[&str]) -> Tool {
    let url = format!("http://127.0.0.1:{}", server.http_port);
    let home = server.path("ctl");
    fs::create_dir_all(&home).unwrap();
    Tool::new(server::binary(), "tidegate")
        .arg("ctl")
        .args(args)
        .dir(&home)
        .env("HOME", &home)
        .env("TZ", "UTC")
        .env("TIDEGATE_URL", url)
}

/// One command of the document and what it prints.
struct Transcript {
    command: String,
    output: String,
}

fn transcripts(document: &str) -> Vec<Transcript> {
    let mut found: Vec<Transcript> = Vec::new();
    for block in document.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ tidegate ctl ") {
                Some(command) => {
                    found.push(Transcript { command: command.to_owned(), output: String::new() })
                }
                None => {
                    let output = &mut found.last_mut().expect("a block begins with a command").output;
                    output.push_str(line);
                    output.push('\n');
                }
            }
        }
    }
    found
}

/// What differs from run to run: ids, ports, times, versions, and the widths of columns that hold them.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    // A build beside uncommitted changes says so.
    for word in text.replace("-dirty", "").split_inclusive([' ', '\n']) {
        let bare = word.trim_end_matches([' ', '\n', ',']);
        let hexadecimal = bare.len() >= 6 && bare.trim_matches('"').chars().all(|c| c.is_ascii_hexdigit());
        let varies = hexadecimal
            || bare.starts_with("127.0.0.1:")
            || bare.contains(':') && bare.chars().all(|c| c.is_ascii_digit() || c == ':') && bare.len() < 8
            || bare.contains('.') && bare.parse::<f64>().is_ok()
            || bare.ends_with("/s")
            || bare.starts_with("\"20")
            || bare == "\"\"";
        let shown = if varies { "…" } else { bare };
        let blank = word[bare.len()..].is_empty() && bare.is_empty();
        if !blank && !shown.is_empty() {
            masked.push_str(shown);
            masked.push(' ');
        }
        if word.ends_with('\n') {
            masked.push('\n');
        }
    }
    masked
}

#[test]
fn the_transcripts_of_the_document() {
    let server = TestServer::start();
    let document = fs::read_to_string(repository().join("docs/ctl.md")).unwrap();
    let home = server.path("ctl");
    fs::create_dir_all(&home).unwrap();
    // The key of the document is a real one, made for it; whoever connects uses the shared one of the tests.
    let shown = document.lines().find_map(|line| line.strip_prefix("public key        ")).unwrap();
    fs::write(home.join("ann.pub"), format!("# laptop\n{shown}\n")).unwrap();
    let files = server.path("srv");
    let mut connection: Option<RawSftp> = None;
    let transcripts = transcripts(&document);
    assert!(transcripts.len() >= 15, "{}", transcripts.len());
    for Transcript { command, output } in transcripts {
        let mut expected = output;
        let mut arguments: Vec<String> = command
            .split(' ')
            .map(|word| match word.strip_prefix("/srv/") {
                Some(name) => files.join(name).display().to_string(),
                None => word.to_owned(),
            })
            .collect();
        if command == "connections list" && expected.contains("ann") {
            let rest = json!({"public_keys": [keys::keys().client_public()]});
            let id =
                server.rest("GET", "/api/v1/user?username=ann", None).expect(200).json()[0]["id"].clone();
            server.rest("PUT", &format!("/api/v1/user/{id}"), Some(&rest)).expect(200);
            let mut client = RawSftp::connect(&server, "ann");
            client.mkdir("/holiday").unwrap();
            let handle = client.open("/holiday/film.mkv", flags::CREAT | flags::WRITE).unwrap();
            for block in 0..32 {
                client.write(&handle, block * 32_768, &disk::noise(block, 32_768)).unwrap();
            }
            connection = Some(client);
        }
        if let Some(short) = arguments.iter_mut().find(|word| *word == "3f8a") {
            let connections = server.connections();
            let id = connections[0]["connection_id"].as_str().unwrap();
            id[..4].clone_into(short);
        }
        if let Some(path) = arguments.iter_mut().find(|word| word.starts_with("/var/lib/sftpgo/")) {
            *path = server.path("conf/backups/monday/users.json").display().to_string();
        }
        if expected == "nobody is connected\n" {
            wait_for("the connection is gone", secs(10), || server.connections().is_empty().then_some(()));
            drop(connection.take());
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let finished = ctl(&server, &arguments).run();
        let said = (finished.out() + &finished.err()).replace(&*files.display().to_string(), "/srv");
        expected = expected.replace("0.1.0", env!("CARGO_PKG_VERSION"));
        assert_eq!(masked(&said), masked(&expected), "{command}\n{said}");
    }
}

fn code(finished: &Finished) -> Option<i32> {
    finished.code
}

#[test]
fn exit_codes_tell_what_happened() {
    let server = TestServer::start();
    for (args, expected, text) in [
        (&["users", "add", "x", "--quota-size", "much"][..], 1, "--quota-size"),
        (&["users", "add", "x", "--home-dir", "/srv/x"], 1, "password"),
        (&["users", "add", "a/b", "--public-key", "nonsense", "--home-dir", "/srv/x"], 1, ""),
        (&["users", "update", "x"], 1, "nothing to change"),
        (&["users", "show", "nobody"], 3, "nobody"),
        (&["users", "show", "--id", "99"], 3, ""),
        (&["users", "delete", "--id", "99", "-y"], 3, ""),
        (&["connections", "close", "abcd"], 3, "abcd"),
        (&["quota", "scan", "nobody"], 3, ""),
        (&["backup", "dump", "../outside"], 1, "output_file"),
        (&["backup", "load", "/does/not/exist"], 1, ""),
        (&["--url", "http://127.0.0.1:1", "status"], 5, "127.0.0.1:1"),
        (&["--url", "ftp://here", "status"], 1, "--url"),
    ] {
        let finished = ctl(&server, args).run();
        assert_eq!(code(&finished), Some(expected), "{args:?}\n{}", finished.report());
        assert!(finished.err().contains(text), "{args:?}\n{}", finished.report());
        assert_eq!(finished.out(), "", "{args:?}");
    }
    // A server, but not ours: the SSH port.
    let url = format!("http://127.0.0.1:{}", server.port);
    assert_eq!(code(&ctl(&server, &["--url", &url, "version"]).run()), Some(5));
}

#[test]
fn names_and_passwords() {
    let builder = TestServer::builder().set("httpd", "auth_user_file", "admins");
    let line = Tool::new(server::binary(), "tidegate").args(["htpasswd", "anna"]).input("secret\n").ok();
    fs::write(builder.config_dir().join("admins"), line).unwrap();
    let server = builder.start();
    let home = server.path("ctl");
    let denied = ctl(&server, &["status"]).run();
    assert_eq!(code(&denied), Some(4), "{}", denied.report());
    assert!(denied.err().contains("--user"), "{}", denied.report());
    assert_eq!(
        code(&ctl(&server, &["--user", "anna", "status"]).env("TIDEGATE_PASSWORD", "wrong").run()),
        Some(4)
    );
    ctl(&server, &["--user", "anna", "status"]).env("TIDEGATE_PASSWORD", "secret").ok();
    fs::write(home.join("password"), "secret\n").unwrap();
    ctl(&server, &["--user", "anna", "--password-file", "password", "status"]).ok();
    let alone = ctl(&server, &["--password-file", "password", "status"]).run();
    assert_eq!(code(&alone), Some(1), "{}", alone.report());
    fs::write(home.join(".netrc"), "machine 127.0.0.1\n  login anna password secret\n").unwrap();
    ctl(&server, &["status"]).ok();
    ctl(&server, &["--netrc", "missing", "status"]).fails();
}

#[test]
fn every_field_of_a_user_and_json() {
    let server = TestServer::start();
    let home = server.path("homes/all").display().to_string();
    let args = [
        "-o",
        "json",
        "users",
        "add",
        "all",
        "--new-password-file",
        "-",
        "--home-dir",
        &home,
        "--permissions",
        "list,download",
        "--dir",
        "/a:b:*",
        "--dir",
        "/in:upload",
        "--status",
        "inactive",
        "--expiration",
        "2027-01-31T12:00:00Z",
        "--quota-size",
        "1.5GiB",
        "--quota-files",
        "7",
        "--upload-bandwidth",
        "8",
        "--download-bandwidth",
        "9",
        "--max-sessions",
        "2",
        "--uid",
        "1000",
        "--gid",
        "1001",
        "--allowed-ip",
        "192.0.2.0/24,2001:db8::/32",
        "--denied-ip",
        "192.0.2.7/32",
    ];
    let added: Value = serde_json::from_str(&ctl(&server, &args).input("pass word\n").ok()).unwrap();
    let id = added["id"].clone();
    let expected = json!({
        "id": id, "status": 0, "username": "all", "expiration_date": 1_801_396_800_000_i64, "home_dir": home,
        "uid": 1000, "gid": 1001, "max_sessions": 2, "quota_size": 1_610_612_736, "quota_files": 7,
        "permissions": {"/": ["list", "download"], "/a:b": ["*"], "/in": ["upload"]},
        "used_quota_size": 0, "used_quota_files": 0, "last_quota_update": 0, "upload_bandwidth": 8,
        "download_bandwidth": 9, "last_login": 0,
        "filters": {"allowed_ip": ["192.0.2.0/24", "2001:db8::/32"], "denied_ip": ["192.0.2.7/32"]},
    });
    assert_eq!(added, expected);
    ctl(&server, &["users", "update", "all", "--allowed-ip", "", "--expiration", "never"]).ok();
    let shown: Value =
        serde_json::from_str(&ctl(&server, &["-o", "json", "users", "show", "all"]).ok()).unwrap();
    let mut changed = expected;
    changed["expiration_date"] = json!(0);
    changed["filters"]["allowed_ip"] = json!([]);
    assert_eq!(shown, changed);
}

#[test]
fn long_lists_come_whole() {
    let server = TestServer::start();
    let users: Vec<Value> = (0..1_203)
        .map(|n| {
            json!({"username": format!("u{n:05}"), "home_dir": "/srv/x", "status": 1, "password": "$1$a$b",
                        "public_keys": [keys::keys().client_public()], "permissions": {"/": ["*"]}})
        })
        .collect();
    let dump = server.path("many.json");
    fs::write(&dump, json!({"users": users}).to_string()).unwrap();
    ctl(&server, &["backup", "load", &dump.display().to_string()]).ok();
    let list = ctl(&server, &["users", "list"]).ok();
    let names: Vec<_> = list.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(names.len(), 1_203);
    assert!(names.is_sorted());
    let some = ctl(&server, &["users", "list", "--offset", "1200", "--limit", "600", "--descending"]).ok();
    let names: Vec<_> = some.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(names, ["u00002", "u00001", "u00000"]);
}

#[test]
fn watching_shows_what_moves() {
    let server = TestServer::start();
    server.user("ann").create();
    let mut client = RawSftp::connect(&server, "ann");
    let handle = client.open("/film", flags::CREAT | flags::WRITE).unwrap();
    let mut watching =
        ctl(&server, &["-o", "json", "connections", "list", "--watch", "--interval", "1"]).start();
    let lines = collect(watching.stdout.take());
    let (mut block, end) = (0, Instant::now() + Duration::from_secs(30));
    // Sizes must grow from one look to the next.
    loop {
        client.write(&handle, block * 4_096, &[7; 4_096]).unwrap();
        block += 1;
        let seen = String::from_utf8(lines.so_far()).unwrap();
        let whole = &seen[..seen.rfind('\n').map_or(0, |at| at + 1)];
        let sizes: Vec<i64> = whole
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<Value>(line).unwrap()[0]["active_transfers"][0]["size"].as_i64()
            })
            .collect();
        if sizes.len() >= 3 && sizes[2] > sizes[1] {
            break;
        }
        assert!(Instant::now() < end, "{seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn hostile_names_do_no_harm_to_a_terminal() {
    let server = TestServer::start();
    let name = "a\u{1b}]0;pwned\u{7}\u{202e}b";
    let body = json!({"username": name, "password": "x", "home_dir": "/srv/x", "status": 1, "permissions": {"/": ["*"]}});
    let answer = server.rest("POST", "/api/v1/user", Some(&body));
    if answer.status == 200 {
        let list = ctl(&server, &["users", "list"]).ok();
        assert!(list.contains("a\\u{1b}]0;pwned\\u{7}\\u{202e}b"), "{list:?}");
        assert!(!list.chars().any(|c| c.is_control() && c != '\n'), "{list:?}");
    } else {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}
