//! SSH commands other than `scp`: digests against coreutils and rclone, `cd`, `pwd`, and what is refused.

use std::path::Path;

use serde_json::json;
use tidegate_e2e::clients::{rclone, ssh_options};
use tidegate_e2e::{TestServer, Tool, disk, secs, wait_for};

const HASHES: [&str; 5] = ["md5sum", "sha1sum", "sha256sum", "sha384sum", "sha512sum"];

fn server() -> TestServer {
    TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).start()
}

/// OpenSSH's `ssh` with a command for the server.
fn ssh(server: &TestServer, user: &str, command: &str) -> Tool {
    Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-T", "-p", &server.port.to_string(), &format!("{user}@127.0.0.1"), command])
        .dir(&server.work())
}

/// The digest that coreutils compute.
fn coreutils(command: &str, file: &Path) -> String {
    let line = Tool::new(command, "coreutils").arg(file).ok();
    line.split_whitespace().next().expect("a digest").to_owned()
}

fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.rest("GET", "/metrics", None).expect(200).body;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name)).expect("the metric exists");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn digests_of_files_and_of_standard_input_are_those_of_coreutils() {
    let server = server();
    let user = server.user("alice").create();
    for (name, size) in [("empty", 0), ("small", 1000), ("batch", 524_288), ("large", 5_000_001)] {
        disk::write_noise(&user.path(name), 5, size);
        let bytes = disk::noise(5, size);
        for hash in HASHES {
            let digest = coreutils(hash, &user.path(name));
            assert_eq!(ssh(&server, "alice", &format!("{hash} {name}")).ok(), format!("{digest}  /{name}\n"));
            let of_stdin = ssh(&server, "alice", hash).input(bytes.clone()).ok();
            assert_eq!(of_stdin, format!("{digest}  -\n"), "{hash} of {size} bytes");
        }
    }
}

#[test]
fn words_are_split_like_a_shell_does_and_no_shell_is_involved() {
    let server = server();
    let user = server.user("alice").create();
    for name in ["with space", "it's", "$HOME", "semi;colon", "ä"] {
        disk::write(&user.path(name), b"x");
    }
    let digest = "9dd4e461268c8034f5c8564e155c67a6";
    for (argument, path) in [
        ("'with space'", "/with space"),
        ("with\\ space", "/with space"),
        ("\"it's\"", "/it's"),
        ("$HOME", "/$HOME"),
        ("semi;colon", "/semi;colon"),
        ("-b -- ä", "/ä"),
        ("../../../ä", "/ä"),
    ] {
        let line = ssh(&server, "alice", &format!("md5sum {argument}")).ok();
        assert_eq!(line, format!("{digest}  {path}\n"), "{argument}");
    }
}

#[test]
fn a_name_with_a_line_end_is_escaped_as_coreutils_do() {
    let server = server();
    let user = server.user("alice").create();
    disk::write(&user.path("two\nlines"), b"x");
    let line = ssh(&server, "alice", "md5sum 'two\nlines'").ok();
    assert_eq!(line, "\\9dd4e461268c8034f5c8564e155c67a6  /two\\nlines\n");
}

#[test]
fn failures_are_told_on_standard_output_with_virtual_paths_and_status_1() {
    let server = server();
    let user = server.user("alice").create();
    std::fs::create_dir(user.path("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", user.path("escape")).unwrap();
    for (name, why) in [
        ("missing", "no such file or directory"),
        ("dir", "is a directory"),
        ("escape", "path leads outside the home directory"),
    ] {
        let done = ssh(&server, "alice", &format!("sha256sum {name}")).fails();
        assert_eq!((done.code, done.out()), (Some(1), format!("sha256sum: /{name} {why}\n")));
    }
    assert_eq!(metric(&server, "sftpgo_ssh_command_errors_total"), 3);
    assert_eq!(metric(&server, "sftpgo_ssh_commands_total"), 0);
}

#[test]
fn digests_need_the_permission_to_list() {
    let server = server();
    let user =
        server.user("alice").perms("/secret", &["upload", "download"]).perms("/lists", &["list"]).create();
    for dir in ["secret", "lists"] {
        disk::write(&user.path(dir).join("file"), b"x");
    }
    ssh(&server, "alice", "md5sum /lists/file").ok();
    let done = ssh(&server, "alice", "md5sum /secret/file").fails();
    assert_eq!(done.out(), "md5sum: /secret/file permission denied\n");
}

#[test]
fn cd_and_pwd_do_what_scripts_expect() {
    let server = server();
    server.user("alice").create();
    assert_eq!(ssh(&server, "alice", "cd /anywhere").ok(), "");
    assert_eq!(ssh(&server, "alice", "pwd").ok(), "/\n");
}

#[test]
fn what_is_not_enabled_is_a_channel_failure() {
    let refused = |server: &TestServer, command: &str| {
        let done = ssh(server, "alice", command).fails();
        assert_eq!((done.code, done.out()), (Some(255), String::new()), "{command}");
    };
    let defaults = TestServer::start();
    defaults.user("alice").create();
    for command in ["md5sum", "sha1sum", "cd", "pwd"] {
        ssh(&defaults, "alice", command).ok();
    }
    for command in ["sha256sum", "scp -t /", "ls", "sh -c pwd", "/bin/pwd", "md5sum 'open", "\"pwd;id\""] {
        refused(&defaults, command);
    }
    let replaced = TestServer::builder().sftpd("enabled_ssh_commands", json!(["sha512sum"])).start();
    replaced.user("alice").create();
    ssh(&replaced, "alice", "sha512sum").ok();
    for command in ["md5sum", "sha1sum", "cd", "pwd"] {
        refused(&replaced, command);
    }
    // Neither counter knows of what was never started.
    assert_eq!(metric(&defaults, "sftpgo_ssh_commands_total"), 4);
    assert_eq!(metric(&defaults, "sftpgo_ssh_command_errors_total"), 0);
}

#[test]
fn a_command_is_listed_logged_and_counted() {
    let server = server();
    let user = server.user("alice").create();
    disk::write(&user.path("a b"), b"x");
    let mut waiting = ssh(&server, "alice", "sha1sum").start();
    let listed = wait_for("the command to be listed", secs(20), || server.connections().pop());
    assert_eq!((&listed["protocol"], &listed["ssh_command"]), (&json!("SSH"), &json!("sha1sum ")));
    drop(waiting.stdin.take());
    assert!(waiting.wait().unwrap().success());
    wait_for("the connection to be gone", secs(20), || server.connections().is_empty().then_some(()));
    ssh(&server, "alice", "md5sum 'a b'").ok();
    let line = server.wait_log(&[("sender", json!("SSHCommand")), ("ssh_command", json!("md5sum a b"))]);
    assert_eq!((&line["file_path"], &line["protocol"]), (&json!("/a b"), &json!("SSH")));
    assert_eq!(metric(&server, "sftpgo_ssh_commands_total"), 2);
}

#[test]
fn a_client_that_leaves_ends_its_command() {
    let server = server();
    server.user("alice").create();
    let mut waiting = ssh(&server, "alice", "sha1sum").start();
    wait_for("the command to be listed", secs(20), || server.connections().pop());
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    wait_for("the command to end", secs(20), || server.connections().is_empty().then_some(()));
}

#[test]
fn a_client_that_sends_to_a_command_that_failed_is_not_stuck() {
    let server = server();
    server.user("alice").create();
    let done = ssh(&server, "alice", "md5sum /missing").input(vec![b'x'; 20 << 20]).within(60).fails();
    assert_eq!(done.code, Some(1));
}

/// rclone looks for `md5sum` and `sha1sum` by running them on nothing, and then trusts them.
#[test]
fn rclone_finds_the_digests_and_checks_by_them() {
    for shell in ["unix", ""] {
        let server = server();
        let user = server.user("alice").create();
        let rclone =
            |args: &[&str]| rclone(&server, "alice", args).env("RCLONE_CONFIG_TIDE_SHELL_TYPE", shell).run();
        for name in ["one", "two words", "sub/it's", "sub/ü"] {
            disk::write_noise(&server.work().join("tree").join(name), 9, 100_000);
        }
        rclone(&["copy", "tree", "tide:copy"]).expect_success();
        let checked = rclone(&["check", "-v", "tree", "tide:copy"]);
        checked.expect_success();
        assert!(checked.err().contains("4 matching files"), "{}", checked.report());
        assert!(!checked.err().contains("hashes could not be checked"), "{}", checked.report());
        for hash in ["md5", "sha1"] {
            // One at a time: rclone's detection and its first digests otherwise run into each other.
            let sums = rclone(&["hashsum", hash, "tide:copy", "--transfers", "1"]);
            sums.expect_success();
            let digest = coreutils(&format!("{hash}sum"), &user.path("copy/two words"));
            assert!(sums.out().contains(&format!("{digest}  two words")), "{}", sums.report());
        }
        // Same size and time, other contents: only a digest can tell.
        let path = user.path("copy/one");
        let time = disk::mtime(&path);
        disk::write_noise(&path, 10, 100_000);
        disk::set_times(&path, time as u64);
        assert_ne!(rclone(&["check", "tree", "tide:copy"]).code, Some(0));
    }
}

#[test]
fn hooks_learn_of_commands_that_succeeded_and_of_the_files_of_a_scp() {
    let builder = TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"]));
    let (script, seen) = (builder.config_dir().join("hook"), builder.config_dir().join("seen"));
    disk::write(&script, format!("#!/bin/sh\n(printf '%s|' \"$@\"; echo) >> {seen:?}\n").as_bytes());
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let actions = json!({"execute_on": ["ssh_cmd", "download", "upload"], "command": script});
    let server = builder.sftpd("actions", actions).start();
    let user = server.user("alice").create();
    disk::write(&user.path("a b"), b"x");
    ssh(&server, "alice", "md5sum missing").fails();
    ssh(&server, "alice", "md5sum 'a b'").ok();
    ssh(&server, "alice", "pwd").ok();
    ssh(&server, "alice", "scp -f 'a b'").input([0; 4]).ok();
    ssh(&server, "alice", "scp -t new").input("C0644 1 new\nx\0").ok();
    let mut lines = wait_for("four runs of the hook", secs(20), || {
        let lines: Vec<_> =
            std::fs::read_to_string(&seen).unwrap_or_default().lines().map(str::to_owned).collect();
        (lines.len() >= 4).then_some(lines)
    });
    lines.sort();
    let real = |name: &str| user.path(name).display().to_string();
    assert_eq!(
        lines,
        [
            format!("download|alice|{}|||", real("a b")),
            "ssh_cmd|alice|/a b||md5sum|".to_owned(),
            "ssh_cmd|alice|||pwd|".to_owned(),
            format!("upload|alice|{}|||", real("new")),
        ]
    );
}
