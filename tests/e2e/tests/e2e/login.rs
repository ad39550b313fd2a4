//! Who gets in and who does not. Every refusal looks alike to the client and is told apart in the log.

use std::path::PathBuf;

use serde_json::json;
use tidegate_e2e::clients::{curl, python, sftp};
use tidegate_e2e::{RawSftp, TestServer, Tool, keys, secs, wait_for};

fn can_log_in(server: &TestServer, user: &str) -> bool {
    sftp(server, user, &[], "pwd\n").run().code == Some(0)
}

/// `sftp` as `alice`, offering exactly these keys in this order.
fn sftp_with_keys(server: &TestServer, keys: &[PathBuf]) -> Tool {
    let mut tool = Tool::new("sftp", "openssh-client").args(["-F", "none", "-P", &server.port.to_string()]);
    for key in keys {
        tool = tool.arg("-i").arg(key);
    }
    for option in
        ["IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    {
        tool = tool.args(["-o", option]);
    }
    tool.args(["-b", "-", "alice@127.0.0.1"]).input("pwd\n").within(60)
}

/// Keys that no user has.
fn wrong_keys(server: &TestServer, count: usize) -> Vec<PathBuf> {
    let files: Vec<PathBuf> = (0..count).map(|number| server.work().join(format!("wrong{number}"))).collect();
    files.iter().for_each(|file| keys::generate(file, &["-t", "ed25519"]));
    files
}

#[test]
fn every_kind_of_client_key() {
    let server = TestServer::start();
    let kinds: [(&str, &[&str]); 5] = [
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
        ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
        ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
        ("ed25519", &["-t", "ed25519"]),
    ];
    let mut lines = Vec::new();
    for (name, options) in kinds {
        keys::generate(&server.work().join(name), options);
        lines.push(
            std::fs::read_to_string(server.work().join(format!("{name}.pub"))).unwrap().trim().to_owned(),
        );
    }
    server.user("alice").field("public_keys", json!(lines)).create();
    for (name, _) in kinds {
        sftp_with_keys(&server, &[server.work().join(name)]).ok();
    }
    assert!(!can_log_in(&server, "alice"), "the shared key is not one of hers");
}

#[test]
fn a_security_key_must_be_touched_unless_its_line_waives_that() {
    let server = TestServer::start();
    let line = python(&server, "security_key.py", &[]).ok().trim().to_owned();
    server.user("alice").field("public_keys", json!([line])).create();
    server.user("robot").field("public_keys", json!([format!("no-touch-required {line}")])).create();
    let log_in = |user: &str, flags: &str| {
        python(&server, "security_key.py", &[&server.port.to_string(), user, flags])
    };
    log_in("alice", "1").ok();
    log_in("alice", "5").ok();
    assert!(log_in("alice", "0").fails().err().contains("Permission denied"));
    log_in("alice", "4").fails();
    log_in("robot", "0").ok();
    wait_for("the reason in the log", secs(2), || {
        let log = server.log();
        let refused =
            log.iter().filter(|line| line.get("error") == Some(&json!("the security key was not touched")));
        (refused.count() == 2).then_some(())
    });
}

#[test]
fn passwords_right_and_wrong() {
    let server = TestServer::start();
    // The vectors of data-model.md §5.
    let sha512 = "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1";
    server.user("plain").password("pa\u{df}word with spaces").create();
    server.user("unix").password(sha512).create();
    let url = &["-l", "URL/"];
    curl(&server, "plain", "pa\u{df}word with spaces", url).ok();
    curl(&server, "plain", "password", url).fails();
    curl(&server, "nobody", "password", url).fails();
    curl(&server, "unix", sha512, url).fails();
    for (user, kind) in [("plain", "password"), ("nobody", "password")] {
        server.wait_log(&[
            ("sender", json!("connection_failed")),
            ("username", json!(user)),
            ("login_type", json!(kind)),
            ("client_ip", json!("127.0.0.1")),
        ]);
    }
}

#[test]
fn inactive_and_expired_users_are_refused() {
    let server = TestServer::start();
    server.user("inactive").field("status", 0).create();
    server.user("expired").field("expiration_date", 1_000).create();
    server.user("later").field("expiration_date", 4_000_000_000_000_i64).create();
    assert!(!can_log_in(&server, "inactive"));
    assert!(!can_log_in(&server, "expired"));
    assert!(can_log_in(&server, "later"));
    for user in ["inactive", "expired"] {
        let line = [
            ("sender", json!("connection_failed")),
            ("username", json!(user)),
            ("login_type", json!("public_key")),
        ];
        server.wait_log(&line);
    }
}

#[test]
fn ip_filters_allow_and_deny() {
    let server = TestServer::start();
    let filters = |allowed: &[&str], denied: &[&str]| json!({"allowed_ip": allowed, "denied_ip": denied});
    server.user("allowed").field("filters", filters(&["127.0.0.0/8"], &[])).create();
    server.user("elsewhere").field("filters", filters(&["192.0.2.0/24"], &[])).create();
    server.user("denied").field("filters", filters(&["127.0.0.0/8"], &["127.0.0.1/32"])).create();
    assert!(can_log_in(&server, "allowed"));
    assert!(!can_log_in(&server, "elsewhere"));
    assert!(!can_log_in(&server, "denied"));
    server.wait_log(&[("sender", json!("connection_failed")), ("username", json!("denied"))]);
    // From there, nobody learns whose key it is either.
    for (user, learns) in [("allowed", true), ("denied", false), ("elsewhere", false)] {
        let done = sftp(&server, user, &["-v"], "pwd\n").run();
        assert_eq!(done.err().contains("Server accepts key"), learns, "{user}: {}", done.report());
    }
}

#[test]
fn max_sessions_counts_open_sessions() {
    let server = TestServer::start();
    server.user("alice").field("max_sessions", 2).create();
    let first = RawSftp::connect(&server, "alice");
    let _second = RawSftp::connect(&server, "alice");
    assert!(!can_log_in(&server, "alice"));
    drop(first);
    wait_for("a session to become free", secs(10), || can_log_in(&server, "alice").then_some(()));
}

#[test]
fn the_home_is_created_at_the_first_login() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    std::fs::remove_dir(&user.home).unwrap();
    let home = server.path("homes/not/yet/there");
    let body = json!({"home_dir": home});
    server.rest("PUT", &format!("/api/v1/user/{}", user.id), Some(&body)).expect(200);
    sftp(&server, "alice", &[], "mkdir inside\n").ok();
    assert!(home.join("inside").is_dir());
}

#[test]
fn queries_for_unknown_keys_do_not_use_up_the_attempts() {
    let server = TestServer::builder().sftpd("max_auth_tries", 3).start();
    server.user("alice").create();
    // Two keys that the server does not know, then the right one: one attempt each.
    let mut offered = wrong_keys(&server, 2);
    offered.push(keys::keys().client());
    sftp_with_keys(&server, &offered).ok();
}

#[test]
fn too_many_attempts_end_the_connection() {
    let server = TestServer::builder().sftpd("max_auth_tries", 2).start();
    server.user("alice").create();
    let mut offered = wrong_keys(&server, 4);
    offered.push(keys::keys().client());
    let done = sftp_with_keys(&server, &offered).fails();
    assert!(done.err().to_lowercase().contains("too many authentication failures"), "{}", done.report());
}

#[test]
fn the_login_banner_is_shown() {
    let builder = TestServer::builder().sftpd("login_banner_file", "banner.txt");
    std::fs::write(builder.config_dir().join("banner.txt"), "Willkommen am Tor\n").unwrap();
    let server = builder.start();
    server.user("alice").create();
    let done = sftp_with_keys(&server, &[keys::keys().client()]).run();
    done.expect_success();
    assert!(done.err().contains("Willkommen am Tor"), "{}", done.report());
}

#[test]
fn a_shell_and_forwarding_are_refused() {
    let server = TestServer::start();
    server.user("alice").create();
    let ssh = |args: &[&str]| {
        Tool::new("ssh", "openssh-client")
            .args(tidegate_e2e::clients::ssh_options())
            .args(["-p", &server.port.to_string()])
            .args(args)
            .within(30)
            .fails()
    };
    ssh(&["alice@127.0.0.1"]);
    ssh(&["-tt", "alice@127.0.0.1"]);
    ssh(&["alice@127.0.0.1", "id"]);
    ssh(&["-W", &format!("127.0.0.1:{}", server.http_port), "alice@127.0.0.1"]);
    ssh(&["-s", "alice@127.0.0.1", "netconf"]);
    ssh(&["-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1", "alice@127.0.0.1"]);
}

#[test]
fn only_modern_algorithms_are_offered() {
    let server = TestServer::start();
    server.user("alice").create();
    for old in [
        "KexAlgorithms=diffie-hellman-group14-sha1",
        "KexAlgorithms=diffie-hellman-group1-sha1",
        "HostKeyAlgorithms=ssh-rsa",
        "Ciphers=aes128-cbc",
        "MACs=hmac-sha1",
    ] {
        let mut options = vec!["-o", old];
        if old.starts_with("MACs") {
            options.extend(["-c", "aes128-ctr"]);
        }
        sftp(&server, "alice", &options, "pwd\n").fails();
    }
    for new in [
        "KexAlgorithms=curve25519-sha256",
        "HostKeyAlgorithms=rsa-sha2-512",
        "HostKeyAlgorithms=rsa-sha2-256",
        "HostKeyAlgorithms=ssh-ed25519",
        "Ciphers=aes128-gcm@openssh.com",
        "Ciphers=aes256-gcm@openssh.com",
        "Ciphers=chacha20-poly1305@openssh.com",
        "Ciphers=aes128-ctr",
        "Ciphers=aes256-ctr",
    ] {
        sftp(&server, "alice", &["-o", new], "pwd\n").ok();
    }
}
