//! Tests of the log as a whole: events in, bytes out.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::{debug, error, info, warn};
use tracing_subscriber::layer::SubscriberExt as _;

use super::writer::Sink;
use super::{Now, build};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn sink(&self) -> Option<Sink> {
        Some(Sink::Stream(Box::new(self.clone())))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `emit` with a log whose clock stands still; returns the JSON lines and the console.
fn logged(verbose: bool, emit: impl FnOnce()) -> (String, String) {
    let (json, console) = (Captured::default(), Captured::default());
    let now: Now = Arc::new(|| "2020-01-01T10:20:30.123Z".parse::<Timestamp>().unwrap());
    let (log, layer) = build(json.sink(), console.sink(), false, verbose, now, TimeZone::UTC).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
    drop(log);
    (json.text(), console.text())
}

fn line(emit: impl FnOnce()) -> String {
    logged(true, emit).0
}

#[test]
fn app_line() {
    let text = line(|| info!("starting {}", 1));
    let expected = "{\"level\":\"info\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"service\",\
                    \"connection_id\":\"\",\"message\":\"starting 1\"}\n";
    assert_eq!(text, expected);
    let text = line(|| warn!(target: "tidegate_ssh::scp", connection_id = "6f0c", port = 22, "odd \"x\"\n"));
    let expected = "{\"level\":\"warn\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"scp\",\
                    \"connection_id\":\"6f0c\",\"message\":\"odd \\\"x\\\"\\n port=22\"}\n";
    assert_eq!(text, expected);
}

#[test]
fn transfer_line_whatever_the_order_of_fields() {
    let text = line(|| {
        info!(
            protocol = "SFTP",
            connection_id = "6f0c",
            file_path = &b"/srv/alice/a\xff.bin"[..],
            username = "alice",
            size_bytes = 65_535_u64,
            elapsed_ms = 87_u64,
            sender = "Upload",
        );
    });
    let expected = "{\"level\":\"info\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"Upload\",\
                    \"elapsed_ms\":87,\"size_bytes\":65535,\"username\":\"alice\",\
                    \"file_path\":\"/srv/alice/a\u{fffd}.bin\",\"connection_id\":\"6f0c\",\"protocol\":\"SFTP\"}\n";
    assert_eq!(text, expected);
}

#[test]
fn command_line() {
    let text = line(|| {
        info!(
            sender = "Rename",
            username = "alice",
            file_path = "/srv/alice/a",
            target_path = "/srv/alice/b",
            connection_id = "6f0c",
            protocol = "SFTP",
        );
    });
    let expected = "{\"level\":\"info\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"Rename\",\
                    \"username\":\"alice\",\"file_path\":\"/srv/alice/a\",\"target_path\":\"/srv/alice/b\",\
                    \"filemode\":\"\",\"uid\":-1,\"gid\":-1,\"access_time\":\"\",\"modification_time\":\"\",\
                    \"ssh_command\":\"\",\"connection_id\":\"6f0c\",\"protocol\":\"SFTP\"}\n";
    assert_eq!(text, expected);
    let text = line(|| info!(sender = "Chown", uid = 1000, gid = 1001_i64));
    assert!(text.contains("\"uid\":1000,\"gid\":1001,"), "{text}");
}

#[test]
fn http_line_and_http_app_line() {
    let text = line(|| {
        info!(
            sender = "httpd",
            method = "GET",
            proto = "HTTP/1.1",
            remote_addr = "127.0.0.1:50000",
            request_id = "host/AbCdEfGhIj-000001",
            uri = "http://127.0.0.1:8080/api/v1/user?limit=1",
            user_agent = "curl/7.68.0",
            resp_status = 200_u16,
            resp_size = 345_u64,
            elapsed_ms = 2_u64,
        );
    });
    let expected = "{\"level\":\"info\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"httpd\",\
                    \"method\":\"GET\",\"proto\":\"HTTP/1.1\",\"remote_addr\":\"127.0.0.1:50000\",\
                    \"request_id\":\"host/AbCdEfGhIj-000001\",\
                    \"uri\":\"http://127.0.0.1:8080/api/v1/user?limit=1\",\"user_agent\":\"curl/7.68.0\",\
                    \"resp_status\":200,\"resp_size\":345,\"elapsed_ms\":2}\n";
    assert_eq!(text, expected);
    let text = line(|| error!(target: "tidegate_http", "listening"));
    assert!(
        text.ends_with("\"sender\":\"httpd\",\"connection_id\":\"\",\"message\":\"listening\"}\n"),
        "{text}"
    );
}

fn failed(username: &str) {
    debug!(
        sender = "connection_failed",
        error = "Invalid credentials",
        login_type = "password",
        username,
        client_ip = "192.0.2.7",
    );
}

#[test]
fn connection_failed_line_is_kept_whatever_the_verbosity() {
    let expected = "{\"level\":\"debug\",\"time\":\"2020-01-01T10:20:30.123\",\"sender\":\"connection_failed\",\
                    \"client_ip\":\"192.0.2.7\",\"username\":\"bob\",\"login_type\":\"password\",\
                    \"error\":\"Invalid credentials\"}\n";
    for verbose in [true, false] {
        assert_eq!(logged(verbose, || failed("bob")).0, expected);
    }
}

/// The user name of an attack on Fail2ban: it tries to end its own field and to blame another address.
#[test]
fn a_user_name_cannot_forge_a_line() {
    let name = "x\",\"login_type\":\"password\",\"error\":\"\"}\n{\"sender\":\"connection_failed\",\
                \"client_ip\":\"198.51.100.1";
    let text = line(|| failed(name));
    assert_eq!(text.lines().count(), 1);
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&parsed["username"], &parsed["client_ip"]), (&name.into(), &"192.0.2.7".into()));
    // What the filter looks for, unescaped, appears once: where we wrote it.
    assert_eq!(text.matches("\",\"login_type\":\"password\"").count(), 1);
    assert_eq!(text.matches("\"sender\":\"connection_failed\",\"client_ip\":\"").count(), 1);
}

#[test]
fn quiet_means_info_and_other_crates_only_complain() {
    let emit = || {
        debug!("a");
        info!("b");
        info!(target: "hyper::proto", "c");
        warn!(target: "sqlx::query", "d");
        info!(target: "tidegatekeeper", "e");
    };
    let messages = |text: &str| -> Vec<String> {
        let message = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].clone();
        text.lines().map(|line| message(line).as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(messages(&logged(false, emit).0), ["b", "d"]);
    assert_eq!(messages(&logged(true, emit).0), ["a", "b", "d"]);
}

#[test]
fn marked_events_are_shown_on_the_console_too() {
    let (json, console) = logged(true, || {
        info!(console = true, "listening on \x1b[31m{}", "[::]:2022");
        warn!("not for people");
    });
    assert_eq!(console, "2020-01-01T10:20:30.123 INF listening on \\u{1b}[31m[::]:2022\n");
    assert_eq!(json.lines().count(), 2);
    assert!(!json.contains("console"), "{json}");
}

/// The pattern of packaging/fail2ban, taken apart by hand: it must match our line, and only there.
#[test]
fn the_line_has_the_shape_of_the_fail2ban_filter() {
    let text = line(|| failed("o\\\"brien"));
    let start =
        text.find("\"sender\":\"connection_failed\",\"client_ip\":\"192.0.2.7\",\"username\":\"").unwrap();
    assert!(text[start..].contains("\",\"login_type\":\"password\",\"error\":\""));
    assert!(text.ends_with("\"}\n"));
}
