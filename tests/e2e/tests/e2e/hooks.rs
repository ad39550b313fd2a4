//! Hooks through the real server: what a script and a receiver learn of files and accounts.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_e2e::{RawSftp, TestServer, flags, secs, wait_for};

/// A script that writes its arguments, NUL-terminated, and its environment into files of its own in `dir`.
pub(crate) fn recorder(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("record");
    let body = "printf '%s\\0' \"$@\" > new.$$; env > env.$$; mv new.$$ run.$$";
    std::fs::write(&path, format!("#!/bin/sh\ncd {dir:?} || exit 9\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// The files in `dir` whose names begin with `prefix`.
fn texts(dir: &Path, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix));
    wanted.map(|path| String::from_utf8(std::fs::read(path).unwrap()).unwrap()).collect()
}

/// The arguments of every run, once there are `count`.
pub(crate) fn runs(dir: &Path, count: usize) -> BTreeSet<Vec<String>> {
    let texts = wait_for(&format!("{count} runs of the command"), secs(20), || {
        let texts = texts(dir, "run.");
        (texts.len() >= count).then_some(texts)
    });
    let arguments = |text: &String| text.split_terminator('\0').map(str::to_owned).collect();
    texts.iter().map(arguments).collect()
}

/// Accepts every request with 200 and keeps it; returns the port.
fn receiver() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = requests.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut text, mut buffer) = (String::new(), [0; 4096]);
            while !is_whole(&text) {
                let length = stream.read(&mut buffer).unwrap();
                assert_ne!(length, 0, "the request ends in {text:?}");
                text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            }
            seen.lock().unwrap().push(text);
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    (port, requests)
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn metric(server: &TestServer, name: &str) -> String {
    let text = server.rest("GET", "/metrics", None).expect(200).body;
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn files_and_accounts_reach_command_and_receiver() {
    let (port, requests) = receiver();
    let builder = TestServer::builder();
    let dir = builder.config_dir().join("hooks");
    let command = recorder(&dir);
    let actions = |on: &[&str], path: &str| {
        let url = format!("http://127.0.0.1:{port}/{path}?token=t");
        json!({"execute_on": on, "command": command.to_str(), "http_notification_url": url})
    };
    let server = builder
        .sftpd("actions", actions(&["upload", "download", "delete", "rename"], "files"))
        .set("data_provider", "actions", actions(&["add", "update", "delete"], "accounts"))
        .env("SFTPGO_DATA_PROVIDER__PASSWORD", "hunter2")
        .start();

    let user = server.user("alice").password("hunter2").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    sftp.put("/a 'b'\n", b"content").unwrap();
    sftp.get("/a 'b'\n").unwrap();
    sftp.rename("/a 'b'\n", "/new").unwrap();
    sftp.remove("/new").unwrap();
    // What fails and what nobody asked for leaves no trace.
    sftp.remove("/new").unwrap_err();
    sftp.rename("/new", "/other").unwrap_err();
    sftp.mkdir("/dir").unwrap();
    sftp.rmdir("/dir").unwrap();

    let home = user.home.to_str().unwrap();
    let (old, new, id) = (format!("{home}/a 'b'\n"), format!("{home}/new"), user.id.to_string());
    let file =
        |values: [&str; 4]| [values[0], "alice", values[1], values[2], values[3]].map(str::to_owned).to_vec();
    let mut expected = BTreeSet::from([
        file(["upload", &old, "", ""]),
        file(["download", &old, "", ""]),
        file(["rename", &old, &new, ""]),
        file(["delete", &new, "", ""]),
        ["add", "alice", &id, "1", "0", home, "0", "0"].map(str::to_owned).to_vec(),
    ]);
    assert_eq!(runs(&dir, 5), expected);

    let told: Vec<String> = wait_for("five notifications", secs(20), || {
        let all = requests.lock().unwrap().clone();
        (all.len() >= 5).then_some(all)
    });
    let added =
        told.iter().find(|text| text.starts_with("POST /accounts?token=t&action=add HTTP/1.1\r\n")).unwrap();
    let account: Value = serde_json::from_str(added.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&account["username"], &account["id"]), (&json!("alice"), &json!(user.id)));
    assert!(
        account["public_keys"][0].as_str().unwrap().starts_with("ssh-") && account.get("password").is_none()
    );
    let shown = server.rest("GET", &format!("/api/v1/user/{id}"), None).expect(200).json();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&account), names(&shown), "the receiver sees what the REST API shows");
    let path = format!("path={}%2Fa+%27b%27%0A", home.replace('/', "%2F"));
    for action in ["upload", "download"] {
        let line = format!("GET /files?token=t&action={action}&username=alice&{path} HTTP/1.1\r\n");
        assert!(told.iter().any(|text| text.starts_with(&line)), "{line} in {told:#?}");
    }
    let line =
        format!("&action=rename&username=alice&{path}&target_path={}%2Fnew HTTP", home.replace('/', "%2F"));
    assert!(told.iter().any(|text| text.contains(&line)), "{line} in {told:#?}");

    for text in texts(&dir, "env.") {
        assert!(!text.contains("hunter2") && !text.contains("SFTPGO_"), "{text}");
        assert!(text.contains("PATH="), "{text}");
    }
    server.rest("PUT", &format!("/api/v1/user/{id}"), Some(&json!({"id": user.id, "uid": 1001}))).expect(200);
    server.rest("DELETE", &format!("/api/v1/user/{id}"), None).expect(200);
    expected.insert(["update", "alice", &id, "1", "0", home, "1001", "0"].map(str::to_owned).to_vec());
    expected.insert(["delete", "alice", &id, "1", "0", home, "1001", "0"].map(str::to_owned).to_vec());
    assert_eq!(runs(&dir, 7), expected);
    wait_for("the results of seven events", secs(10), || {
        (metric(&server, "tidegate_hooks_total{result=\"done\"}") == "7").then_some(())
    });
    assert_eq!(metric(&server, "tidegate_hooks_queued"), "0");
    assert!(server.raw_log().iter().all(|line| !line.contains("token=t") && !line.contains("hunter2")));
}

#[test]
fn a_broken_upload_runs_nothing_and_the_end_of_the_server_waits_for_what_is_queued() {
    let builder = TestServer::builder();
    let dir = builder.config_dir().join("hooks");
    let command = recorder(&dir);
    let slow = dir.join("slow");
    std::fs::write(&slow, format!("#!/bin/sh\nsleep 1\nexec {command:?} \"$@\"\n")).unwrap();
    std::fs::set_permissions(&slow, PermissionsExt::from_mode(0o755)).unwrap();
    let actions = json!({"execute_on": ["upload"], "command": slow.to_str(), "max_concurrent": 1});
    let mut server = builder.sftpd("actions", actions).start();
    let user = server.user("alice").create();
    let mut broken = RawSftp::connect(&server, "alice");
    let handle = broken.open("/broken", flags::WRITE | flags::CREAT).unwrap();
    broken.write(&handle, 0, b"half").unwrap();
    drop(broken);
    wait_for("the broken upload to be noticed", secs(10), || {
        server
            .raw_log()
            .iter()
            .any(|line| line.contains("upload of") && line.contains("/broken"))
            .then_some(())
    });
    let mut sftp = RawSftp::connect(&server, "alice");
    for name in ["/one", "/two", "/three"] {
        sftp.put(name, b"x").unwrap();
    }
    drop(sftp);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit(secs(20)).code(), Some(0));
    let expected = ["one", "two", "three"].map(|name| {
        ["upload", "alice", user.path(name).to_str().unwrap(), "", ""].map(str::to_owned).to_vec()
    });
    assert_eq!(runs(&dir, 3), BTreeSet::from(expected));
}
