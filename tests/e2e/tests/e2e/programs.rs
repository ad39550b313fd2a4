//! git and rsync while they run: what they do to a quota that they know nothing of, clients that do not read what
//! they say, and the hooks for them.

use std::io::Write as _;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tidegate_e2e::clients::sftp;
use tidegate_e2e::process::{collect, kill_group};
use tidegate_e2e::server::NOBODY_ELSE;
use tidegate_e2e::{Finished, TestServer, User, disk, secs, wait_for};

use crate::flow::Master;
use crate::git::{bare, commit, git, on_disk, pushed, url};
use crate::hooks;
use crate::rsync::{no_programs_left, programs, rsync, ssh, usage_is_what_is_there};

const MIB: u64 = 1 << 20;

fn start() -> TestServer {
    TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).start()
}

/// A file of zeros that takes no room on the client's disk.
fn zeros(path: &Path, length: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().set_len(length).unwrap();
}

/// What must be so after a program was ended by the quota: the client was told, nothing runs, usage is what is
/// there, a scan finds the same, and the next upload is refused if nothing is left.
fn ended_by_quota(server: &TestServer, user: &User, done: &Finished) {
    assert!(done.err().contains("quota exceeded"), "{}", done.report());
    no_programs_left(server);
    usage_is_what_is_there(server, user);
    scan(server, user);
    usage_is_what_is_there(server, user);
}

fn scan(server: &TestServer, user: &User) {
    server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": user.name}))).expect(201);
    wait_for("the scan to end", secs(20), || {
        let scans = server.rest("GET", "/api/v1/quota_scan", None).expect(200).json();
        scans.as_array().unwrap().is_empty().then_some(())
    });
}

#[test]
fn files_that_grow_when_they_are_unpacked_are_ended_at_the_quota() {
    let server = start();
    let user = server.user("alice").field("quota_size", 40 * MIB).create();
    for number in 0..200 {
        zeros(&server.path(format!("work/src/f{number}")), 8 * MIB);
    }
    // Another session of the user goes on meanwhile.
    let mut other = ssh(&server, "alice", "sha256sum").start();
    let (out, mut input) = (collect(other.stdout.take()), other.stdin.take().unwrap());
    input.write_all(b"ab").unwrap();

    let done = rsync(&server, "alice", &["-rz", "src/", "HOST:d"]).fails();
    ended_by_quota(&server, &user, &done);
    let (files, bytes) = on_disk(&user.home);
    assert!((4..20).contains(&files) && bytes < 120 * MIB, "{files} files of {bytes} bytes of 1600 MiB");

    input.write_all(b"c").unwrap();
    drop(input);
    assert_eq!(other.wait().unwrap().code(), Some(0));
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n";
    assert_eq!(String::from_utf8_lossy(&out.take()), digest);
}

/// A server that is not root cannot read what a client has made unreadable for its owner.
#[test]
fn what_was_made_unreadable_is_counted_all_the_same() {
    let server = TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).unprivileged().start();
    let user = server.user("alice").field("quota_size", 40 * MIB).create();
    give(&user.home);
    let dirs = [("write-only", 0o300), ("no-search", 0o400), ("nothing", 0)];
    for (dir, _) in dirs {
        zeros(&server.path(format!("work/src/{dir}/f")), MIB);
    }
    rsync(&server, "alice", &["-r", "src/", "HOST:d"]).ok();
    let batch: String = dirs.iter().map(|(dir, mode)| format!("chmod {mode:o} d/{dir}\n")).collect();
    sftp(&server, "alice", &[], &batch).ok();
    rsync(&server, "alice", &["-r", "src/nothing/", "HOST:e"]).ok();
    usage_is_what_is_there(&server, &user);
    assert_eq!(on_disk(&user.home), (4, 4 * MIB));

    // While it runs as well.
    disk::set_mode(&user.path("d/write-only"), 0o300);
    for number in 0..50 {
        zeros(&server.path(format!("work/more/f{number}")), 8 * MIB);
    }
    let done = rsync(&server, "alice", &["-rz", "more/", "HOST:d/write-only"]).fails();
    ended_by_quota(&server, &user, &done);

    // What is nobody's business here is passed over, unless somebody could hide files in it.
    if rustix::process::geteuid().is_root() {
        let theirs = user.path("theirs");
        std::fs::create_dir(&theirs).unwrap();
        std::fs::remove_dir_all(user.path("d")).unwrap();
        disk::set_mode(&theirs, 0o700);
        scan(&server, &user);
        rsync(&server, "alice", &["-r", "src/", "HOST:e"]).ok();
        usage_is_what_is_there(&server, &user);
        disk::set_mode(&theirs, 0o733);
        let done = rsync(&server, "alice", &["-rz", "more/", "HOST:f"]).fails();
        assert!(done.err().contains("permission denied"), "{}", done.report());
        no_programs_left(&server);
        let log = server.raw_log().join("\n");
        assert!(log.contains("the home of user \\\"alice\\\" cannot be counted at /theirs"), "{log}");
    }
}

fn give(home: &Path) {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(home, Some(NOBODY_ELSE), Some(NOBODY_ELSE)).unwrap();
    }
}

#[test]
fn one_file_ends_where_the_quota_ends() {
    for (options, most) in [("-rz", 0), ("-rz --partial", 10 * MIB), ("-rz --inplace", 60 * MIB)] {
        let server = start();
        let user = server.user("alice").field("quota_size", 20 * MIB).create();
        disk::write_noise(&user.path("kept"), 1, 10 << 20);
        server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": "alice"}))).expect(201);
        usage_is_what_is_there(&server, &user);
        zeros(&server.path("work/zeros"), 2000 * MIB);
        let options: Vec<&str> = options.split(' ').chain(["zeros", "HOST:zeros"]).collect();
        rsync(&server, "alice", &options).fails();
        no_programs_left(&server);
        let left = std::fs::metadata(user.path("zeros")).map_or(0, |file| file.len());
        assert!(left <= most, "{options:?}: {left} bytes");
        usage_is_what_is_there(&server, &user);
    }
}

#[test]
fn thousands_of_empty_files_are_ended_at_the_quota() {
    let server = start();
    let user = server.user("alice").field("quota_files", 500).create();
    for number in 0..20_000 {
        disk::write(&server.path(format!("work/src/d{}/f{number}", number % 20)), b"");
    }
    let done = rsync(&server, "alice", &["-r", "src/", "HOST:d"]).fails();
    ended_by_quota(&server, &user, &done);
    let (files, _) = on_disk(&user.home);
    assert!((500..8_000).contains(&files), "{files} files of 20,000");
    let refused = rsync(&server, "alice", &["-r", "src/", "HOST:e"]).fails();
    assert!(refused.err().contains("quota exceeded"), "{}", refused.report());
}

#[test]
fn copies_of_what_is_there_are_ended_at_the_quota() {
    let server = start();
    let user = server.user("alice").field("quota_size", 40 * MIB).create();
    let (source, there) = (server.path("work/src"), user.path("d"));
    disk::write_noise(&there.join("part-000.bin"), 1, 8 << 20);
    disk::set_times(&there.join("part-000.bin"), 1_500_000_000);
    std::fs::create_dir_all(&source).unwrap();
    std::fs::copy(there.join("part-000.bin"), source.join("part-000.bin")).unwrap();
    for number in 0..100 {
        let name = source.join(format!("part-{number:03}.bin"));
        if number > 0 {
            std::fs::hard_link(source.join("part-000.bin"), &name).unwrap();
        }
        disk::set_times(&name, 1_500_000_000);
    }
    server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": "alice"}))).expect(201);
    usage_is_what_is_there(&server, &user);
    // The client sends references to the file that is there, some kilobytes for each copy.
    let done = rsync(&server, "alice", &["-rty", "src/", "HOST:d"]).fails();
    ended_by_quota(&server, &user, &done);
    let (files, bytes) = on_disk(&user.home);
    assert!((4..20).contains(&files) && bytes < 120 * MIB, "{files} files of {bytes} bytes of 800 MiB");
}

#[test]
fn what_is_replaced_again_and_again_within_the_quota_goes_through() {
    let server = start();
    let user = server.user("alice").field("quota_size", 60 * MIB).field("quota_files", 6).create();
    for round in 0..3 {
        for number in 0..5 {
            disk::write_noise(&server.path(format!("work/src/f{number}")), round * 10 + number, 4 << 20);
        }
        rsync(&server, "alice", &["-rI", "--inplace", "src/", "HOST:d"]).ok();
        usage_is_what_is_there(&server, &user);
    }
    // Deleted first, so the new ones have their place.
    for number in 0..5 {
        let from = server.path(format!("work/src/f{number}"));
        std::fs::rename(&from, from.with_file_name(format!("g{number}"))).unwrap();
        zeros(&server.path(format!("work/src/g{number}")), 4 * MIB);
    }
    rsync(&server, "alice", &["-rz", "--delete-before", "src/", "HOST:d"]).ok();
    assert_eq!(on_disk(&user.home), (5, 20 * MIB));
    usage_is_what_is_there(&server, &user);
}

#[test]
fn a_push_that_grows_when_it_is_unpacked_is_ended_at_the_quota() {
    let server = start();
    let user = server.user("alice").field("quota_size", 20 * MIB).create();
    bare(&server, &user, "project.git");
    let clone = pushed(&server, "alice", "/project.git", "first");
    let before = on_disk(&user.home);
    // Below a hundred objects git stores each by itself: the pack holds one, and what differs in the others.
    let mut bytes = disk::noise(7, 2 << 20);
    for number in 0..90_u8 {
        bytes[0] = number;
        disk::write(&clone.join(format!("f{number}")), &bytes);
    }
    commit(&server, &clone, "large", b"large");
    let done = git(&server, &clone, &["push", "-q", "origin", "HEAD:main"]).fails();
    ended_by_quota(&server, &user, &done);
    let (_, bytes) = on_disk(&user.home);
    assert!(bytes < 60 * MIB, "{bytes} bytes of 180 MiB");
    // The branch is where it was.
    let head = git(&server, &user.path("project.git"), &["rev-parse", "main"]).ok();
    assert_eq!(head, git(&server, &clone, &["rev-parse", "HEAD~1"]).ok());
    assert!(before.1 < 20 * MIB);
}

/// Stops a client with everything it has started, so that it reads nothing more.
fn stop(client: &std::process::Child) {
    kill_process_group(Pid::from_child(client), Signal::STOP).unwrap();
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody_and_its_program_ends_with_it() {
    let server = start();
    // So that nobody is through before he is stopped.
    let user = server.user("alice").field("download_bandwidth", 20_000).create();
    bare(&server, &user, "project.git");
    let clone = pushed(&server, "alice", "/project.git", "first");
    commit(&server, &clone, "large", &disk::noise(5, 64 << 20));
    git(&server, &clone, &["push", "-q", "origin", "HEAD:main"]).ok();
    disk::write_noise(&user.path("big"), 6, 64 << 20);

    let master = Master::open(&server);
    let shared = format!("ssh -S {}", server.path("cm").display());
    let before = server.rss_kib();
    let from = url("alice", "/project.git");
    let mut clients = Vec::new();
    for (name, tool) in [
        (
            "git",
            git(&server, &server.work(), &["clone", "-q", &from, "second"]).env("GIT_SSH_COMMAND", &shared),
        ),
        ("rsync", rsync(&server, "alice", &["-e", &shared, "HOST:big", "there"])),
    ] {
        let running = programs(&server).len();
        clients.push(tool.start());
        let more = || (programs(&server).len() > running).then_some(());
        wait_for("the server's program to run", secs(20), more);
        stop(clients.last().unwrap());
        let mut lively = master.raw();
        for number in 0..20 {
            lively.put(format!("/beside {name} {number}"), &disk::noise(number, 100_000)).unwrap();
        }
        assert!(lively.get(format!("/beside {name} 3")).unwrap() == disk::noise(3, 100_000), "{name}");
    }
    // Another connection, and memory.
    ssh(&server, "alice", "md5sum /big").ok();
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "grew by {grown} KiB");
    assert!(programs(&server).len() >= clients.len());

    for client in &mut clients {
        kill_group(client);
        client.wait().unwrap();
    }
    no_programs_left(&server);
    assert!(master.raw().stat("/big").is_ok(), "the connection goes on");
}

#[test]
fn hooks_learn_of_programs_that_succeeded_and_of_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("hook");
    let script = hooks::recorder(&dir);
    let actions = json!({"execute_on": ["ssh_cmd", "upload", "download"], "command": script.to_str()});
    let server =
        TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).sftpd("actions", actions).start();
    let user = server.user("alice").create();
    disk::write(&server.path("work/a"), b"a");
    disk::write(&user.path("b"), b"b");
    // None of these succeeds.
    rsync(&server, "alice", &["HOST:missing", "x"]).fails();
    ssh(&server, "alice", "rsync --server --rsh=sh . x").fails();
    git(&server, &server.work(), &["clone", "-q", &url("alice", "/missing.git"), "x"]).fails();
    // These do; the path is the last argument.
    rsync(&server, "alice", &["a", "HOST:sub/../new"]).ok();
    rsync(&server, "alice", &["HOST:/b", "b"]).ok();
    // Hooks run in order, so whatever ran for the others came before.
    let run = |path: &str| ["ssh_cmd", "alice", path, "", "rsync"].map(str::to_owned).to_vec();
    assert_eq!(hooks::runs(&dir, 2), [run("/new"), run("/b")].into());
    let done = || {
        server
            .rest("GET", "/metrics", None)
            .expect(200)
            .body
            .contains("tidegate_hooks_total{result=\"done\"} 2")
    };
    wait_for("the hooks to be counted", secs(20), || done().then_some(()));
}
