//! Limits of accounts and of the server under a crowd: sessions, quota, and hooks whose receiver is slow.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_e2e::clients::{python, python_login};
use tidegate_e2e::{RawSftp, TestServer, User, disk, secs, wait_for};

const CROWD: usize = 64;

/// Runs `crowd.py` for 64 clients; how often each outcome came.
fn crowd(server: &TestServer, user: &str, what: &[&str]) -> Value {
    let count = CROWD.to_string();
    let login = python_login(server, user);
    let login = login.iter().map(String::as_str);
    let args: Vec<&str> = login.chain([count.as_str()]).chain(what.iter().copied()).collect();
    serde_json::from_str(&python(server, "crowd.py", &args).ok()).unwrap()
}

/// A server that lets the crowd come from one address at the same time.
fn server() -> TestServer {
    let builder = TestServer::builder().set("data_provider", "track_quota", 1);
    builder.sftpd("max_half_open", 2 * CROWD).sftpd("max_half_open_per_ip", 2 * CROWD).start()
}

#[test]
fn of_64_parallel_logins_one_gets_the_only_session() {
    let server = server();
    server.user("alice").field("max_sessions", 1).create();
    for round in 1..=3 {
        let outcomes = crowd(&server, "alice", &["login"]);
        assert_eq!(outcomes, json!({"in": 1, "refused": CROWD - 1}), "round {round}");
        wait_for("the session to end", secs(20), || server.connections().is_empty().then_some(()));
        let log = server.log();
        let lines = |sender: &str, text: &str| {
            let of = log.iter().filter(|line| line.get("sender") == Some(&json!(sender)));
            of.filter(|line| line.values().any(|value| value.as_str().is_some_and(|v| v.contains(text))))
                .count()
        };
        assert_eq!(lines("sftpd", "logged in with"), round, "logins that the log tells of");
        assert_eq!(
            lines("connection_failed", "too many open sessions"),
            round * (CROWD - 1),
            "refusals that the log tells of"
        );
    }
}

fn usage(server: &TestServer, user: &User) -> (u64, u64) {
    let user = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
    (user["used_quota_size"].as_u64().unwrap(), user["used_quota_files"].as_u64().unwrap())
}

/// What a fresh scan finds.
fn scanned(server: &TestServer, user: &User) -> (u64, u64) {
    let path = "/api/v1/quota_scan";
    server.rest("POST", path, Some(&json!({"username": user.name}))).expect(201);
    wait_for("the end of the scan", secs(20), || {
        (server.rest("GET", path, None).expect(200).json() == json!([])).then_some(())
    });
    usage(server, user)
}

fn stored(user: &User, size: usize) -> usize {
    (0..CROWD)
        .filter(|number| {
            let content = std::fs::read(user.path(format!("f{number}"))).unwrap_or_default();
            let whole =
                content.len() == size && content.iter().all(|byte| usize::from(*byte) == number % 251);
            assert!(whole || content.is_empty(), "f{number} has {} bytes", content.len());
            whole
        })
        .count()
}

/// Each file is one write: it fits, or it does not.
#[test]
fn of_64_parallel_uploads_32_fit_into_the_bytes() {
    const SIZE: usize = 16_000;
    let server = server();
    let user = server.user("alice").field("quota_size", SIZE * CROWD / 2).create();
    let outcomes = crowd(&server, "alice", &["put", &SIZE.to_string()]);
    assert_eq!(outcomes["stored"], CROWD / 2, "{outcomes}");
    assert_eq!(stored(&user, SIZE), CROWD / 2);
    let used = usage(&server, &user);
    assert_eq!(used.0, (SIZE * CROWD / 2) as u64);
    assert_eq!(used, scanned(&server, &user));
    // To the byte: what is free now is what one of them took.
    let mut sftp = RawSftp::connect(&server, "alice");
    let one =
        (0..CROWD).find(|number| user.path(format!("f{number}")).metadata().unwrap().len() > 0).unwrap();
    sftp.remove(format!("f{one}")).unwrap();
    sftp.put("again", &disk::noise(1, SIZE)).unwrap();
    sftp.put("more", b"x").unwrap_err();
    drop(sftp);
    assert_eq!(usage(&server, &user).0, (SIZE * CROWD / 2) as u64);
}

/// Each file is many writes, and the number of files decides before the first.
#[test]
fn of_64_parallel_uploads_32_fit_into_the_number_of_files() {
    const SIZE: usize = 300_000;
    let server = server();
    let user = server.user("alice").field("quota_files", CROWD / 2).create();
    let outcomes = crowd(&server, "alice", &["put", &SIZE.to_string()]);
    assert_eq!(outcomes["stored"], CROWD / 2, "{outcomes}");
    assert_eq!(stored(&user, SIZE), CROWD / 2);
    assert_eq!(
        std::fs::read_dir(&user.home).unwrap().count(),
        CROWD / 2,
        "no trace of those that are refused"
    );
    let used = usage(&server, &user);
    assert_eq!(used, ((SIZE * CROWD / 2) as u64, (CROWD / 2) as u64));
    assert_eq!(used, scanned(&server, &user));
}

/// Answers every request with 200, each after `pause`, as many at a time as come; counts them.
fn slow_receiver(pause: Duration) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
                while !text.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(1..) => {}
                        _ => return,
                    }
                    text.extend_from_slice(&buffer);
                }
                std::thread::sleep(pause);
                counted.fetch_add(1, Ordering::Relaxed);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            });
        }
    });
    (port, count)
}

fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.rest("GET", "/metrics", None).expect(200).body;
    let line =
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// How many events the log says were dropped.
fn dropped_by_the_log(server: &TestServer) -> u64 {
    let lines = server.log().into_iter().filter(|line| line.get("sender") == Some(&json!("hooks")));
    let counts = lines.filter_map(|line| {
        let text = line.get("message")?.as_str()?.to_owned();
        let (count, rest) = text.split_once(' ')?;
        rest.starts_with("events got no hook").then(|| count.parse::<u64>().ok())?
    });
    counts.sum()
}

#[test]
fn of_10000_events_for_a_slow_receiver_each_is_delivered_or_counted_and_logged() {
    const EVENTS: u64 = 10_000;
    const QUEUE: u64 = 400;
    let (port, received) = slow_receiver(Duration::from_millis(50));
    let url = format!("http://127.0.0.1:{port}/");
    let actions = json!({
        "execute_on": ["rename"], "http_notification_url": url, "queue_size": QUEUE, "max_concurrent": 4,
    });
    let server = TestServer::builder().sftpd("actions", actions).start();
    server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let names = ["a", "b"].map(|end| format!("/{}{end}", "a name as long as names may well be ".repeat(5)));
    sftp.put(&names[0], b"x").unwrap();
    for number in 0..200 {
        sftp.rename(&names[number % 2], &names[(number + 1) % 2]).unwrap();
    }
    let before = server.rss_kib();
    let mut most = before;
    for number in 200..EVENTS as usize {
        sftp.rename(&names[number % 2], &names[(number + 1) % 2]).unwrap();
        if number % 500 == 0 {
            most = most.max(server.rss_kib());
        }
    }
    let ended = |result: &str| metric(&server, &format!("tidegate_hooks_total{{result=\"{result}\"}}"));
    // Those that are under way count as queued no longer and as done not yet.
    wait_for("the last notification to be answered", secs(120), || {
        (ended("done") + ended("dropped") == EVENTS).then_some(())
    });
    assert_eq!(metric(&server, "tidegate_hooks_queued"), 0);
    let (done, dropped) = (ended("done"), ended("dropped"));
    assert_eq!(done, received.load(Ordering::Relaxed), "what is done has arrived");
    // Somebody who waited for the receiver would have lost nothing.
    assert!(done >= QUEUE && dropped > QUEUE, "done {done}, dropped {dropped}");
    wait_for("every dropped event in the log", secs(20), || {
        (dropped_by_the_log(&server) == dropped).then_some(())
    });
    most = most.max(server.rss_kib());
    let grown = most.saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more for {QUEUE} events that wait");
}
