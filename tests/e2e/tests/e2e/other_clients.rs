//! Clients other than OpenSSH's own, each moving files both ways.

use tidegate_e2e::clients::{curl, lftp, psftp, python, python_login, rclone, sshfs};
use tidegate_e2e::{TestServer, disk};

const MIB: usize = 1 << 20;

#[test]
fn rclone_copies_syncs_and_checks() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work().join("tree");
    for number in 0..20 {
        disk::write_noise(
            &here.join(format!("dir{}/file {number}", number % 3)),
            number,
            50_000 * number as usize,
        );
    }
    disk::write_noise(&here.join("big"), 99, 20 * MIB + 5);
    rclone(&server, "alice", &["copy", "tree", "tide:tree"]).ok();
    assert_eq!(contents(&here), contents(&user.path("tree")));
    rclone(&server, "alice", &["check", "--download", "tree", "tide:tree"]).ok();

    std::fs::remove_file(here.join("dir1/file 1")).unwrap();
    disk::write(&here.join("dir2/new"), b"new");
    rclone(&server, "alice", &["sync", "tree", "tide:tree"]).ok();
    assert_eq!(contents(&here), contents(&user.path("tree")));

    disk::write(&user.path("tree/dir2/new"), b"NEW");
    rclone(&server, "alice", &["check", "--download", "tree", "tide:tree"]).fails();
    rclone(&server, "alice", &["copy", "tide:tree", "back"]).ok();
    assert_eq!(contents(&server.work().join("back")), contents(&user.path("tree")));
}

/// A snapshot without the modes: rclone does not carry them.
fn contents(root: &std::path::Path) -> Vec<(String, String)> {
    let plain = |what: String| {
        what.split_once(' ').map_or(what.clone(), |(kind, rest)| {
            format!("{kind} {}", rest.split_once(' ').map_or("", |(_, after)| after))
        })
    };
    disk::snapshot(root)
        .into_iter()
        .map(|(k, v)| (String::from_utf8_lossy(&k).into_owned(), plain(v)))
        .collect()
}

#[test]
fn lftp_mirrors_both_ways() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work().join("tree");
    for number in 0..30 {
        disk::write_noise(&here.join(format!("d{}/ü {number}", number % 4)), number, 20_000);
    }
    lftp(&server, "alice", "", "mirror -R tree tree").ok();
    assert_eq!(contents(&here), contents(&user.path("tree")));
    lftp(&server, "alice", "", "mirror tree back").ok();
    assert_eq!(contents(&here), contents(&server.work().join("back")));
}

#[test]
fn lftp_with_400_packets_in_flight() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 2, 64 * MIB + 1);
    lftp(&server, "alice", "", "set sftp:max-packets-in-flight 400\nput big\nget big -o back").ok();
    disk::same(&here.join("big"), &user.path("big"));
    disk::same(&here.join("big"), &here.join("back"));
}

#[test]
fn psftp_puts_and_gets() {
    let server = TestServer::start();
    let user = server.user("alice").password("correct horse").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 3, 12 * MIB + 1);
    psftp(&server, "alice", "correct horse", "put big\nmkdir d\nmv big d/big\nget d/big back\nls d\nquit\n")
        .ok();
    disk::same(&here.join("big"), &user.path("d/big"));
    disk::same(&here.join("big"), &here.join("back"));
}

#[test]
fn curl_uploads_lists_and_downloads() {
    let server = TestServer::start();
    let user = server.user("alice").password("secret").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 4, 12 * MIB + 1);
    curl(&server, "alice", "secret", &["-T", "big", "URL/new/dir/big", "--ftp-create-dirs"]).ok();
    disk::same(&here.join("big"), &user.path("new/dir/big"));
    curl(&server, "alice", "secret", &["-o", "back", "URL/new/dir/big"]).ok();
    disk::same(&here.join("big"), &here.join("back"));
    let names = curl(&server, "alice", "secret", &["-l", "URL/new/dir/"]).ok();
    assert!(names.lines().any(|name| name == "big"), "{names}");
    curl(&server, "alice", "wrong", &["-o", "back", "URL/new/dir/big"]).fails();
}

#[test]
fn sshfs_mounts_a_home() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let Some(mount) = sshfs(&server, "alice") else { return };
    disk::write_noise(&mount.dir.join("big"), 5, 8 * MIB + 1);
    disk::same(&mount.dir.join("big"), &user.path("big"));
    std::fs::create_dir(mount.dir.join("dir")).unwrap();
    std::fs::rename(mount.dir.join("big"), mount.dir.join("dir/großer Name")).unwrap();
    std::os::unix::fs::symlink("dir/großer Name", mount.dir.join("link")).unwrap();
    // The server answers no READLINK, so the mount cannot follow the link; the disk has it.
    disk::same(&user.path("link"), &user.path("dir/großer Name"));
    std::fs::remove_file(mount.dir.join("link")).unwrap();
    assert!(!user.path("link").exists());
    disk::write_noise(&user.path("dir/from server"), 6, MIB);
    disk::same(&mount.dir.join("dir/from server"), &user.path("dir/from server"));
    let mut names: Vec<_> =
        std::fs::read_dir(mount.dir.join("dir")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["from server", "großer Name"]);
}

/// Runs a Python client that puts `big`, gets it back with as much in flight as it likes, and lists.
fn python_client(script: &str) {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 6, 64 * MIB + 1);
    let login = python_login(&server, "alice");
    let [port, name, key] = login.each_ref().map(String::as_str);
    python(&server, script, &[port, name, key, "big", "back"]).ok();
    disk::same(&here.join("big"), &user.path("big"));
    disk::same(&here.join("big"), &here.join("back"));
}

#[test]
fn paramiko_prefetches_a_whole_file() {
    python_client("paramiko_client.py");
}

#[test]
fn asyncssh_puts_and_gets() {
    python_client("asyncssh_client.py");
}

#[test]
fn ssh_audit_finds_no_failure_with_default_settings() {
    let server = TestServer::start();
    // ssh-audit ends with 3 for failures, 2 for warnings, 0 for neither.
    let done = python(&server, "audit.py", &[&server.port.to_string()]).run();
    assert!(matches!(done.code, Some(0 | 2)), "{}", done.report());
    assert!(!done.out().contains("[fail]"), "{}", done.report());
}
