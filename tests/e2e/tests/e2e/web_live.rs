//! The dashboard, the connections and backup and restore in Chromium (`tests/e2e/web/live.mjs`, `backup.mjs`), and
//! what the streams of events promise to everybody else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use rustix::process::Signal;
use serde_json::json;
use tidegate_e2e::browser::browse;
use tidegate_e2e::clients::{python, sftp, ssh_options};
use tidegate_e2e::http::request;
use tidegate_e2e::process::kill_group;
use tidegate_e2e::server::binary;
use tidegate_e2e::{TestServer, Tool, disk, keys, secs, wait_for};

const NAME: &str = "<img src=x onerror=alert(1)>\"'&{{7*7}}\u{1b}[31m\u{202e}gnp\u{2066}\u{200f}";
const VERSION: &str = "SSH-2.0-<svg_onload=alert(3)>\"'&";

/// So much takes ten minutes at the speed that the users have.
const SLOW: usize = 60_000_000;

/// Ends a client when the test does.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        kill_group(&self.0);
        let _ = self.0.wait();
    }
}

#[test]
fn what_moves_is_followed_and_ended() {
    let server = TestServer::builder().sftpd("enabled_ssh_commands", json!(["scp"])).start();
    for name in ["anna", "bernd", "clara"] {
        server.user(name).field("upload_bandwidth", 100).field("download_bandwidth", 100).create();
    }
    server.user("dora").field("quota_size", 1000).create();
    disk::write_noise(&server.path("homes/dora/kept"), 1, 900);
    server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": "dora"}))).expect(201);
    disk::write_noise(&server.work().join("slow.bin"), 1, SLOW);
    std::fs::copy(server.work().join("slow.bin"), server.path("homes/bernd/for-bernd.bin")).unwrap();
    let scp = Tool::new("scp", "openssh-client")
        .args(["-O", "-q"])
        .args(ssh_options())
        .args(["-P", &server.port.to_string(), "slow.bin", "anna@127.0.0.1:/from-anna.bin"])
        .dir(&server.work());
    let mut anna = Client(scp.start());
    let batch = |user: &str, line: &str| {
        let mut client = sftp(&server, user, &[], "").start();
        writeln!(client.stdin.take().unwrap(), "{line}").unwrap();
        Client(client)
    };
    let _others = [
        batch("bernd", "get /for-bernd.bin received.bin"),
        batch("clara", "put slow.bin /from-clara.bin"),
        Client(hostile(&server)),
    ];
    wait_for("three transfers and an open file", secs(30), || {
        let listed = server.connections();
        let busy = |one: &&serde_json::Value| !one["active_transfers"].as_array().unwrap().is_empty();
        (listed.iter().filter(busy).count() == 4).then_some(())
    });
    browse(&server, "live.mjs").ok();
    let ended = wait_for("scp to notice that it was disconnected", secs(20), || anna.0.try_wait().unwrap());
    assert!(!ended.success());
    let arrived = std::fs::metadata(server.path("homes/anna/from-anna.bin")).unwrap().len();
    assert!(arrived > 0 && arrived < SLOW as u64, "{arrived}");
}

/// A client whose every name means harm, with a file open.
fn hostile(server: &TestServer) -> Child {
    let home = server.path("homes/hostile");
    std::fs::create_dir(&home).unwrap();
    let body = json!({"username": NAME, "home_dir": home, "public_keys": [keys::keys().client_public()],
        "status": 1, "permissions": {"/": ["*"]}});
    server.rest("POST", "/api/v1/user", Some(&body)).expect(200);
    let arguments = json!({"version": VERSION, "user": NAME, "key": keys::keys().client(),
        "dir": "/<script>alert(4)<\u{202e}\u{1b}[2J", "file": "a\"'&<\n\u{9b}31m\u{feff}"});
    let file = server.work().join("arguments.json");
    std::fs::write(&file, arguments.to_string()).unwrap();
    let port = server.port.to_string();
    let mut client = python(server, "hostile_names.py", &[&port, file.to_str().unwrap()]).start();
    let mut line = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "open", "the client could not work");
    client
}

#[test]
fn backup_and_restore() {
    let builder = TestServer::builder();
    let line = Tool::new(binary(), "tidegate").args(["htpasswd", "root"]).input("secret\n").ok();
    std::fs::write(builder.config_dir().join("admins"), line).unwrap();
    let server = builder.set("httpd", "auth_user_file", "admins").start();
    for name in ["anna", "bernd"] {
        let body = json!({"username": name, "status": 1, "password": "secret", "permissions": {"/": ["*"]},
            "home_dir": server.path("homes").join(name)});
        let basic = ("Authorization", "Basic cm9vdDpzZWNyZXQ=");
        request(server.http_port, "POST", "/api/v1/user", &[basic], Some(&body.to_string())).expect(200);
    }
    let user = |name: &str, sessions: i64| {
        json!({"username": name, "status": 1, "password": "secret", "home_dir": server.path("homes").join(name),
            "permissions": {"/": ["*"]}, "max_sessions": sessions, "quota_size": 1_000_000})
    };
    let write = |name: &str, text: String| {
        let path = server.work().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let dump = write("dump.json", json!({"users": [user("anna", 7), user("clara", 0)]}).to_string());
    let bad = json!({"users": [user("anna", 7), {"username": "<b>", "home_dir": "relative"}]});
    let bad = write("bad.json", bad.to_string());
    let none = write("none.json", "<html>".to_owned());
    browse(&server, "backup.mjs")
        .env("TIDEGATE_BASIC", "root:secret")
        .env("TIDEGATE_DUMP", dump)
        .env("TIDEGATE_BAD_DUMP", bad)
        .env("TIDEGATE_NO_DUMP", none)
        .ok();
    assert!(!server.path("conf/outside.json").exists());
}

/// What a restore is about to do is what was shown: a file that has changed is shown again.
#[test]
fn a_changed_dump_is_looked_at_again() {
    let server = TestServer::start();
    let anna = server.user("anna").create();
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let post = |path: &str, body: &str| request(server.http_port, "POST", path, &[form], Some(body));
    let saved = post("/web/backup/save", "name=one.json").expect(303);
    assert_eq!(saved.header("location").as_deref(), Some("/web/backup?saved=one.json"));
    let page = request(server.http_port, "GET", "/web/backup/restore?file=one.json", &[], None).expect(200);
    let digest =
        page.body.split("name=\"digest\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let file = server.path("conf/backups/one.json");
    let changed = std::fs::read_to_string(&file).unwrap().replace("\"max_sessions\":0", "\"max_sessions\":5");
    std::fs::write(&file, changed).unwrap();
    let sessions = || {
        let user = server.rest("GET", &format!("/api/v1/user/{}", anna.id), None).expect(200).json();
        user["max_sessions"].as_i64().unwrap()
    };
    let again = post("/web/backup/restore", &format!("file=one.json&digest={digest}")).expect(200);
    assert!(again.body.contains("The file has changed since you looked at it"), "{}", again.body);
    assert_eq!(sessions(), 0);
    let digest = again.body.split("name=\"digest\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let done = post("/web/backup/restore", &format!("file=one.json&digest={digest}")).expect(200);
    assert!(done.body.contains("<title>Tidegate - Restored</title>"), "{}", done.body);
    assert_eq!(sessions(), 5);
    // Only what is in the list can be chosen.
    for name in ["../sftpgo.json", "/etc/passwd", "", "nothing"] {
        let name = name.replace('/', "%2F");
        let path = format!("/web/backup/restore?file={name}");
        request(server.http_port, "GET", &path, &[], None).expect(400);
    }
    assert!(!post("/web/backup/save", "name=..%2Fx").expect(200).body.contains("was saved"));
}

/// Opens a stream and reads its status line; the connection stays open.
fn follow(server: &TestServer, path: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.http_port)).unwrap();
    stream.set_read_timeout(Some(secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    (line.split(' ').nth(1).unwrap().parse().unwrap(), reader)
}

#[test]
fn streams_are_few_and_end_with_the_server() {
    let mut server = TestServer::start();
    let mut streams: Vec<_> = (0..32)
        .map(|number| {
            let path = ["/web/dashboard/live", "/web/connections/live"][number % 2];
            let (status, reader) = follow(&server, path);
            assert_eq!(status, 200, "stream {number}");
            reader
        })
        .collect();
    assert_eq!(follow(&server, "/web/dashboard/live").0, 503, "one too many");
    request(server.http_port, "GET", "/web/dashboard", &[], None).expect(200);
    // One that goes makes room.
    drop(streams.pop());
    wait_for("room for another stream", secs(40), || {
        (follow(&server, "/web/dashboard/live").0 == 200).then_some(())
    });
    // Every stream says something at once.
    let mut line = String::new();
    while !line.starts_with("data: {") {
        line.clear();
        assert!(streams[0].read_line(&mut line).unwrap() > 0, "the stream ended");
    }
    // None of them holds up the end.
    server.signal(Signal::TERM);
    assert!(server.wait_exit(secs(8)).success(), "not killed, and before the ten seconds of grace");
    let mut rest = Vec::new();
    streams[0].read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the answer is complete");
}
