//! The log lines, byte for byte where other programs read them; reopening; the end of the process.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tidegate_e2e::clients::{curl, sftp};
use tidegate_e2e::{RawSftp, TestServer, Tool, disk, flags, secs, wait_for};

fn keys_of(line: &str) -> Vec<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    object.keys().cloned().collect()
}

/// The first log line that contains this text.
fn line_with(server: &TestServer, text: &str) -> String {
    wait_for(&format!("a log line with {text}"), secs(10), || {
        server.raw_log().into_iter().find(|line| line.contains(text))
    })
}

/// Fail2ban's pattern of config-cli.md §6, in Python's syntax because Fail2ban is written in it.
const FAIL2BAN: &str = r#"^.*"sender":"connection_failed","client_ip":"(?P<host>[0-9a-fA-F.:]+)","username":".*","login_type":"password".*"}$"#;

fn fail2ban_matches(line: &str) -> bool {
    let script =
        "import re, sys; sys.exit(0 if re.search(sys.argv[1], sys.stdin.read().rstrip('\\n')) else 3)";
    let code = Tool::new("python3", "python3").args(["-c", script, FAIL2BAN]).input(line).run().code;
    assert!(matches!(code, Some(0 | 3)), "python3 failed with {code:?}");
    code == Some(0)
}

#[test]
fn a_failed_password_is_a_line_that_fail2ban_matches() {
    let server = TestServer::start();
    server.user("alice").password("right").create();
    curl(&server, "alice", "wrong", &["-l", "URL/"]).fails();
    let line = line_with(&server, "\"connection_failed\",\"client_ip\":\"127.0.0.1\",\"username\":\"alice\"");
    // {"level":"debug","time":"2020-01-01T10:20:34.000","sender":"connection_failed",...,"error":"..."}
    let time = line.split('"').nth(7).unwrap().to_owned();
    assert_eq!(time.len(), "2020-01-01T10:20:34.000".len(), "{line}");
    let start = format!(
        "{{\"level\":\"debug\",\"time\":\"{time}\",\"sender\":\"connection_failed\",\"client_ip\":\"127.0.0.1\",\
         \"username\":\"alice\",\"login_type\":\"password\",\"error\":\""
    );
    assert!(line.starts_with(&start), "{line}\ndoes not start with\n{start}");
    assert!(line.ends_with("\"}"), "{line}");
    assert!(!line.contains("wrong"), "the password is in the log: {line}");
    assert!(fail2ban_matches(&line), "{line}");
}

#[test]
fn a_failed_key_is_a_line_that_fail2ban_leaves_alone() {
    let server = TestServer::start();
    sftp(&server, "nobody", &[], "pwd\n").fails();
    let line = line_with(&server, "\"username\":\"nobody\"");
    assert!(line.contains("\"login_type\":\"public_key\""), "{line}");
    assert!(!fail2ban_matches(&line), "{line}");
}

#[test]
fn a_user_name_cannot_forge_a_line() {
    let server = TestServer::start();
    let forged = "x\",\"login_type\":\"password\",\"error\":\"\"}\n{\"sender\":\"connection_failed\",\"client_ip\":\"192.0.2.1\",\"username\":\"y";
    let script = server.work().join("forge.py");
    let code = "import sys, paramiko\n\
        t = paramiko.Transport(('127.0.0.1', int(sys.argv[1])))\n\
        t.connect()\n\
        try:\n    t.auth_password(sys.argv[2], 'p')\nexcept paramiko.AuthenticationException:\n    print('refused')\n\
        t.close()\n";
    std::fs::write(&script, code).unwrap();
    let port = server.port.to_string();
    let said =
        Tool::new(tidegate_e2e::clients::python_path(), "python3").arg(script).args([&port, forged]).ok();
    assert!(said.contains("refused"), "{said}");
    let line = server.wait_log(&[("sender", json!("connection_failed")), ("username", json!(forged))]);
    assert_eq!(line["client_ip"], "127.0.0.1");
    assert!(server.raw_log().iter().all(|line| !line.starts_with("{\"sender\"")));
}

#[test]
fn transfers_write_their_line() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&server.work().join("file"), 1, 65_535);
    sftp(&server, "alice", &[], "put file \"a \\\"quoted\\\" file\"\nget \"a \\\"quoted\\\" file\" back\n")
        .ok();
    let path = user.path("a \"quoted\" file").display().to_string();
    for sender in ["Upload", "Download"] {
        let line = line_with(&server, &format!("\"sender\":\"{sender}\""));
        let expected = [
            "level",
            "time",
            "sender",
            "elapsed_ms",
            "size_bytes",
            "username",
            "file_path",
            "connection_id",
            "protocol",
        ];
        assert_eq!(keys_of(&line), expected, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "info");
        assert_eq!(value["size_bytes"], 65_535);
        assert_eq!(value["username"], "alice");
        assert_eq!(value["file_path"], path);
        assert_eq!(value["protocol"], "SFTP");
        let id = value["connection_id"].as_str().unwrap();
        assert!(id.len() >= 40 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{line}");
    }
}

#[test]
fn commands_write_their_line() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("a"), b"x");
    let mut sftp = RawSftp::connect(&server, "alice");
    sftp.mkdir("/d").unwrap();
    sftp.rename("/a", "/b").unwrap();
    sftp.symlink("b", "/link").unwrap();
    let attrs = tidegate_e2e::Attrs {
        mode: Some(0o644),
        times: Some((1_000_000_000, 1_000_000_001)),
        ..Default::default()
    };
    sftp.setstat("/b", &attrs).unwrap();
    sftp.remove("/link").unwrap();
    sftp.rmdir("/d").unwrap();
    let path = |name: &str| user.path(name).display().to_string();
    let rows = [
        ("Mkdir", path("d"), String::new()),
        ("Rename", path("a"), path("b")),
        ("Remove", path("link"), String::new()),
        ("Rmdir", path("d"), String::new()),
        ("Chmod", path("b"), String::new()),
        ("Chtimes", path("b"), String::new()),
    ];
    for (sender, file, target) in rows {
        let line = line_with(&server, &format!("\"sender\":\"{sender}\""));
        let expected = [
            "level",
            "time",
            "sender",
            "username",
            "file_path",
            "target_path",
            "filemode",
            "uid",
            "gid",
            "access_time",
            "modification_time",
            "ssh_command",
            "connection_id",
            "protocol",
        ];
        assert_eq!(keys_of(&line), expected, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["file_path"], file, "{line}");
        assert_eq!(value["target_path"], target, "{line}");
        assert_eq!((&value["uid"], &value["gid"]), (&json!(-1), &json!(-1)), "{line}");
        assert_eq!(value["filemode"], if sender == "Chmod" { "-rw-r--r--" } else { "" }, "{line}");
        let times =
            if sender == "Chtimes" { ("2001-09-09T01:46:40", "2001-09-09T01:46:41") } else { ("", "") };
        assert_eq!(
            (&value["access_time"], &value["modification_time"]),
            (&json!(times.0), &json!(times.1)),
            "{line}"
        );
        assert_eq!(value["protocol"], "SFTP", "{line}");
    }
    assert!(line_with(&server, "\"sender\":\"Symlink\"").contains("\"username\":\"alice\""));
}

#[test]
fn http_requests_write_their_line() {
    let server = TestServer::start();
    server.rest("GET", "/api/v1/user?limit=1", None).expect(200);
    let line = line_with(&server, "/api/v1/user?limit=1");
    let expected = [
        "level",
        "time",
        "sender",
        "method",
        "proto",
        "remote_addr",
        "request_id",
        "uri",
        "user_agent",
        "resp_status",
        "resp_size",
        "elapsed_ms",
    ];
    assert_eq!(keys_of(&line), expected, "{line}");
    assert!(line.contains("\"sender\":\"httpd\",\"method\":\"GET\",\"proto\":\"HTTP/1.1\""), "{line}");
    assert!(line.contains("\"resp_status\":200"), "{line}");
}

#[test]
fn app_lines_have_their_keys_and_the_file_is_private() {
    let server = TestServer::start();
    let first = line_with(&server, "\"message\"");
    assert_eq!(keys_of(&first), ["level", "time", "sender", "connection_id", "message"], "{first}");
    assert_eq!(disk::mode(&server.path("log.json")) & 0o037, 0, "others can read the log");
}

#[test]
fn sighup_reopens_the_log() {
    let server = TestServer::start();
    server.user("alice").create();
    std::fs::rename(server.path("log.json"), server.path("log.json.1")).unwrap();
    server.signal(Signal::HUP);
    wait_for("a new log file", secs(10), || {
        // The file may be made at once or with the next line.
        sftp(&server, "alice", &[], "mkdir again\nrmdir again\n").ok();
        disk_has(&server, "log.json", "\"sender\":\"Mkdir\"").then_some(())
    });
    assert!(disk::text(&server.path("log.json.1")).contains("\"message\""), "the old file keeps its lines");
}

fn disk_has(server: &TestServer, file: &str, text: &str) -> bool {
    std::fs::read_to_string(server.path(file)).is_ok_and(|content| content.contains(text))
}

#[test]
fn an_empty_log_path_means_standard_error() {
    let server = TestServer::builder().without_log_file().start();
    wait_for("JSON lines on the console", secs(5), || {
        server.console().contains("{\"level\":\"").then_some(())
    });
    assert!(!server.path("log.json").exists());
}

#[test]
fn the_log_rotates_by_size() {
    let server = TestServer::builder()
        .arg("--log-max-size=1")
        .arg("--log-max-backups=2")
        .arg("--log-compress=true")
        .start();
    // A line shows some two thousand bytes of the address: these make about 3.5 MB.
    let path = format!("/api/v1/user?username={}", "x".repeat(3_000));
    for _ in 0..1_600 {
        server.rest("GET", &path, None);
    }
    let backups = || -> Vec<String> {
        let names = std::fs::read_dir(server.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("log-"))
            .collect()
    };
    let end = Instant::now() + secs(10);
    while !(backups().len() == 2 && backups().iter().all(|name| name.ends_with(".json.gz"))) {
        assert!(Instant::now() < end, "two compressed backups were expected: {:?}", backups());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(std::fs::metadata(server.path("log.json")).unwrap().len() <= 1 << 20);
}

#[test]
fn sigterm_lets_a_running_transfer_finish() {
    let mut server = TestServer::start();
    let user = server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::WRITE | flags::CREAT).unwrap();
    sftp.write(&handle, 0, b"before ").unwrap();
    server.signal(Signal::TERM);
    wait_for("the port to be closed", secs(5), || {
        std::net::TcpStream::connect(("127.0.0.1", server.port)).is_err().then_some(())
    });
    assert!(server.is_running());
    assert_eq!(sftp.write(&handle, 7, b"and after"), Ok(()));
    assert_eq!(sftp.close(&handle), Ok(()));
    let exit = server.wait_exit(secs(10));
    assert_eq!(exit.code(), Some(0), "{exit}");
    assert_eq!(disk::text(&user.path("file")), "before and after");
}

#[test]
fn the_grace_period_ends_by_the_rules_of_the_upload_mode() {
    let mut server = TestServer::builder().sftpd("shutdown_grace_time", 1).sftpd("upload_mode", 1).start();
    let user = server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::WRITE | flags::CREAT).unwrap();
    sftp.write(&handle, 0, b"never finished").unwrap();
    server.signal(Signal::TERM);
    server.wait_exit(secs(15));
    assert_eq!(std::fs::read_dir(&user.home).unwrap().count(), 0, "a temporary file is left");
}

#[test]
fn a_second_signal_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = TestServer::start();
        server.user("alice").create();
        let mut sftp = RawSftp::connect(&server, "alice");
        let handle = sftp.open("/file", flags::WRITE | flags::CREAT).unwrap();
        sftp.write(&handle, 0, b"x").unwrap();
        server.signal(signal);
        std::thread::sleep(Duration::from_millis(700));
        assert!(server.is_running(), "the first signal leaves time for the transfer");
        server.signal(signal);
        server.wait_exit(secs(3));
    }
}

#[test]
fn an_idle_server_ends_at_once_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = TestServer::start();
        server.signal(signal);
        assert_eq!(server.wait_exit(secs(5)).code(), Some(0));
    }
}
