//! `scp` over the old protocol (`-O`): OpenSSH, PuTTY's `pscp`, and conversations byte for byte.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tidegate_e2e::clients::ssh_options;
use tidegate_e2e::{Finished, ServerBuilder, TestServer, Tool, disk, secs, wait_for};

const MIB: usize = 1 << 20;

fn builder() -> ServerBuilder {
    TestServer::builder().sftpd("enabled_ssh_commands", json!(["scp", "pwd"]))
}

/// OpenSSH's `scp` with the old protocol. Write `HOST:` in front of a remote path.
fn scp(server: &TestServer, args: &[&str]) -> Tool {
    Tool::new("scp", "openssh-client")
        .args(["-O", "-q"])
        .args(ssh_options())
        .args(["-P", &server.port.to_string()])
        .args(args.iter().map(|arg| arg.replace("HOST:", "alice@127.0.0.1:")))
        .dir(&server.work())
        .within(120)
}

/// Sends these bytes to `scp` on the server, whatever it answers.
fn talk(server: &TestServer, command: &str, input: impl Into<Vec<u8>>) -> Finished {
    Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-T", "-p", &server.port.to_string(), "alice@127.0.0.1", command])
        .dir(&server.work())
        .input(input)
        .run()
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with empty and larger files, an empty directory, spaces and other letters.
fn plant_tree(root: &Path) {
    disk::write(&root.join("a/b/c/deep"), b"deep");
    disk::write(&root.join("a/empty"), b"");
    disk::write_noise(&root.join("a/b/large"), 3, 700_000);
    disk::write(&root.join("top level ä"), b"top");
    disk::write(&root.join(".hidden"), b"hidden");
    std::fs::create_dir(root.join("nothing here")).unwrap();
}

#[test]
fn files_of_awkward_sizes_arrive_whole_both_ways() {
    let server = builder().start();
    let user = server.user("alice").create();
    let here = server.work();
    let sizes = [0, 1, 32_768, 262_143, 262_144, 262_145, 524_288, 524_289, 10 * MIB + 3];
    for size in sizes {
        let (name, back) = (format!("f{size}"), format!("back{size}"));
        disk::write_noise(&here.join(&name), size as u64, size);
        scp(&server, &[&name, "HOST:"]).ok();
        disk::same(&here.join(&name), &user.path(&name));
        scp(&server, &[&format!("HOST:/{name}"), &back]).ok();
        disk::same(&here.join(&name), &here.join(&back));
    }
}

#[test]
fn trees_keep_modes_times_and_contents_both_ways() {
    let server = builder().start();
    let user = server.user("alice").create();
    let here = server.work();
    plant_tree(&here.join("tree"));
    for (name, mode, time) in [
        ("a/b/large", 0o750, 1_000_000_000),
        ("a/empty", 0o444, 1_111_111_111),
        ("a/b", 0o555, 1_222_222_222),
    ] {
        disk::set_times(&here.join("tree").join(name), time);
        chmod(&here.join("tree").join(name), mode);
    }
    scp(&server, &["-rp", "tree", "HOST:new"]).ok();
    scp(&server, &["-rp", "HOST:new", "back"]).ok();
    // An existing directory takes the tree into itself, and a second time over what is there.
    std::fs::create_dir(user.path("existing")).unwrap();
    chmod(&here.join("tree/a/b"), 0o755);
    scp(&server, &["-r", "tree", "HOST:existing"]).ok();
    scp(&server, &["-r", "tree", "HOST:existing/"]).ok();
    chmod(&here.join("tree/a/b"), 0o555);
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&user.path("new")));
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&here.join("back")));
    for root in [user.path("new"), here.join("back")] {
        let times = ["a/b/large", "a/empty", "a/b"].map(|name| disk::mtime(&root.join(name)));
        assert_eq!(times, [1_000_000_000, 1_111_111_111, 1_222_222_222], "{}", root.display());
    }
    disk::same(&here.join("tree/a/b/large"), &user.path("existing/tree/a/b/large"));
    assert!(!user.path("existing/tree/tree").exists());
    for path in [user.path("new/a/b"), here.join("back/a/b"), here.join("tree/a/b")] {
        chmod(&path, 0o755);
    }
}

#[test]
fn several_sources_go_up_and_down_and_need_a_directory() {
    let server = builder().start();
    let user = server.user("alice").create();
    let here = server.work();
    for name in ["one", "two", "three"] {
        disk::write(&here.join(name), name.as_bytes());
    }
    std::fs::create_dir(user.path("dir")).unwrap();
    std::fs::create_dir(here.join("back")).unwrap();
    scp(&server, &["one", "two", "three", "HOST:dir"]).ok();
    scp(&server, &["HOST:dir/one", "HOST:dir/two", "HOST:dir/three", "back"]).ok();
    for name in ["one", "two", "three"] {
        assert_eq!(disk::text(&here.join("back").join(name)), name);
    }
    let done = scp(&server, &["one", "two", "HOST:dir/one"]).fails();
    assert!(done.err().contains("/dir/one: not a directory"), "{}", done.report());
    assert_eq!(disk::text(&user.path("dir/one")), "one");
    // The same in one command of the protocol, which other clients send.
    let done = talk(&server, "scp -f dir/one dir/missing dir/two", [0; 20]);
    assert_eq!(done.code, Some(1), "{}", done.report());
    let want = "C0644 3 one\none\0\x01scp: /dir/missing: no such file or directory\nC0644 3 two\ntwo\0";
    assert_eq!(done.out(), want);
}

#[test]
fn wildcards_are_expanded_on_the_server() {
    let server = builder().start();
    let user = server.user("alice").perms("/closed", &["download"]).create();
    for name in
        ["a1.txt", "a2.txt", "b.txt", ".hid.txt", "d1/x.c", "d2/x.c", "d2/y.h", "closed/x.c", "a[1].txt"]
    {
        disk::write(&user.path(name), name.as_bytes());
    }
    for (pattern, want) in [
        ("*.txt", &["a1.txt", "a2.txt", "a[1].txt", "b.txt"][..]),
        ("a?.txt", &["a1.txt", "a2.txt"]),
        ("[!a]*.txt", &["b.txt"]),
        (".*.txt", &[".hid.txt"]),
        ("d?/*.h", &["y.h"]),
        ("a\\[1].txt", &["a[1].txt"]),
        ("/../*/y.h", &["y.h"]),
    ] {
        let back = server.work().join("back");
        std::fs::create_dir(&back).unwrap();
        scp(&server, &["-T", &format!("HOST:{pattern}"), "back"]).ok();
        let mut found: Vec<_> = std::fs::read_dir(&back)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, want, "{pattern}");
        std::fs::remove_dir_all(&back).unwrap();
    }
    scp(&server, &["HOST:*.txt", "."]).ok();
    let done = scp(&server, &["HOST:*.none", "."]).fails();
    assert!(done.err().contains("/*.none: no such file or directory"), "{}", done.report());
    // What may not be listed is not matched, though it may be fetched by its name.
    let done = scp(&server, &["HOST:closed/*", "."]).fails();
    assert!(done.err().contains("no such file") || done.err().contains("denied"), "{}", done.report());
    scp(&server, &["HOST:closed/x.c", "."]).ok();
}

/// Each match grew to a path of 4096 bytes, a gigabyte for a home of many directories.
#[test]
fn a_pattern_with_a_long_end_costs_no_more_than_another() {
    let server = builder().start();
    let user = server.user("alice").create();
    for number in 0..2500 {
        std::fs::create_dir(user.path(number.to_string())).unwrap();
    }
    let done = talk(&server, &format!("scp -f '/*{}'", format!("/{}", "a".repeat(250)).repeat(16)), [0; 2]);
    assert!(done.out().contains("the pattern matches too many names"), "{}", done.report());
    assert_eq!(done.code, Some(1));
}

#[test]
fn names_with_spaces_and_quotes_are_quoted_for_the_server_like_for_a_shell() {
    let server = builder().start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write(&here.join("with two  spaces"), b"x");
    scp(&server, &["with two  spaces", "HOST:"]).ok();
    assert_eq!(disk::text(&user.path("with two  spaces")), "x");
    scp(&server, &["with two  spaces", "HOST:'it'\\''s'"]).ok();
    assert_eq!(disk::text(&user.path("it's")), "x");
    scp(&server, &["HOST:with\\ two\\ \\ spaces", "back"]).ok();
    // The client compares names with what it asked for, and does not know these quotes; -T stops that.
    scp(&server, &["-T", "HOST:\"it's\"", "back"]).ok();
    scp(&server, &["-T", "HOST:~/\"it's\"", "back"]).ok();
    scp(&server, &["with two  spaces", "HOST:-dash"]).ok();
    scp(&server, &["HOST:-dash", "back"]).ok();
    assert_eq!(disk::text(&user.path("-dash")), "x");
}

#[test]
fn minus_3_copies_between_two_servers_through_the_client() {
    let (one, two) = (builder().start(), builder().start());
    let (from, to) = (one.user("alice").create(), two.user("alice").create());
    plant_tree(&from.path("tree"));
    disk::write_noise(&from.path("big"), 4, 8 * MIB);
    let url = |server: &TestServer, path: &str| format!("scp://alice@127.0.0.1:{}/{path}", server.port);
    for (options, source, target) in [("-p", "big", "copy"), ("-rp", "tree", "tree2")] {
        Tool::new("scp", "openssh-client")
            .args(["-3", "-O", "-q", options])
            .args(ssh_options())
            .args([url(&one, source), url(&two, target)])
            .dir(&one.work())
            .within(120)
            .ok();
    }
    disk::same(&from.path("big"), &to.path("copy"));
    assert_eq!(disk::snapshot(&from.path("tree")), disk::snapshot(&to.path("tree2")));
}

#[test]
fn pscp_copies_files_and_trees() {
    let server = builder().start();
    let user = server.user("alice").password("secret-4-pscp").create();
    let here = server.work();
    plant_tree(&here.join("tree"));
    disk::write_noise(&here.join("big"), 4, 3 * MIB + 1);
    let port = server.port.to_string();
    let scan =
        Tool::new("ssh-keyscan", "openssh-client").args(["-t", "ed25519", "-p", &port, "127.0.0.1"]).ok();
    let key = scan.split_whitespace().last().expect("the server has an Ed25519 key");
    disk::write(&here.join("host.pub"), format!("ssh-ed25519 {key}\n").as_bytes());
    let printed = Tool::new("ssh-keygen", "openssh-client").arg("-lf").arg(here.join("host.pub")).ok();
    let fingerprint = printed.split_whitespace().nth(1).expect("the fingerprint comes second");
    let pscp = |args: &[&str]| {
        Tool::new("pscp", "putty-tools")
            .args(["-scp", "-batch", "-q", "-P", &port, "-pw", "secret-4-pscp", "-hostkey", fingerprint])
            .args(args.iter().map(|arg| arg.replace("HOST:", "alice@127.0.0.1:")))
            .env("HOME", &here)
            .dir(&here)
            .within(120)
    };
    disk::set_times(&here.join("big"), 1_000_000_000);
    pscp(&["-p", "big", "HOST:/big"]).ok();
    disk::same(&here.join("big"), &user.path("big"));
    assert_eq!(disk::mtime(&user.path("big")), 1_000_000_000);
    pscp(&["HOST:/big", "back"]).ok();
    disk::same(&here.join("big"), &here.join("back"));
    pscp(&["-r", "tree", "HOST:/up"]).ok();
    std::fs::create_dir(here.join("down")).unwrap();
    pscp(&["-r", "HOST:/up", "down"]).ok();
    disk::same(&here.join("tree/a/b/large"), &here.join("down/up/a/b/large"));
    assert_eq!(disk::text(&here.join("down/up/top level ä")), "top");
    pscp(&["HOST:/missing", "back"]).fails();
}

/// What WinSCP sends: every option apart, times and modes always.
#[test]
fn a_conversation_as_winscp_leads_it() {
    let server = builder().start();
    let user = server.user("alice").create();
    std::fs::create_dir(user.path("my dir")).unwrap();
    let input = "T1234567890 0 1234567891 0\nD0750 0 sub\nT1000000000 0 1000000001 0\nC0640 5 one\nhello\0E\n\
                 T1100000000 0 1100000001 0\nC0600 3 two\nabc\0";
    let done = talk(&server, "scp -r -p -d -t \"/my dir\"", input);
    assert_eq!((done.code, done.stdout.as_slice()), (Some(0), &[0; 10][..]), "{}", done.report());
    for (name, mode, time) in
        [("sub", 0o750, 1_234_567_890), ("sub/one", 0o640, 1_000_000_000), ("two", 0o600, 1_100_000_000)]
    {
        let path = user.path("my dir").join(name);
        assert_eq!((disk::mode(&path), disk::mtime(&path)), (mode, time), "{name}");
    }
    let done = talk(&server, "scp -r -p -f \"/my dir/sub/one\"", [0; 10]);
    assert_eq!(done.code, Some(0));
    assert_eq!(done.out(), "T1000000000 0 1000000001 0\nC0640 5 one\nhello\0");
}

#[test]
fn special_bits_are_sent_right_and_never_taken() {
    let server = builder().start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"");
    for (mode, digits) in [(0o4755, "C4755"), (0o2755, "C2755"), (0o1644, "C1644")] {
        chmod(&user.path("file"), mode);
        let done = talk(&server, "scp -f file", [0; 4]);
        assert!(done.out().starts_with(&format!("{digits} 0 file\n")), "{}", done.report());
    }
    talk(&server, "scp -p -t new", "C6755 0 new\n\0").expect_success();
    assert_eq!(disk::mode(&user.path("new")), 0o755);
}

#[test]
fn hostile_records_change_nothing_and_end_with_status_1() {
    let server = builder().start();
    let user = server.user("alice").create();
    disk::write(&user.path("dir/kept"), b"kept");
    let outside = server.path("homes/outside");
    let before = disk::snapshot(&server.path("homes"));
    for record in [
        "C0644 1 ../outside\nx\0",
        "C0644 1 ..\nx\0",
        "C0644 1 .\nx\0",
        "C0644 1 /etc/x\nx\0",
        "C0644 1 \nx\0",
        "D0755 0 ..\n",
        "D0755 0 a/b\n",
        "C0644 -1 x\n",
        "C0644 99999999999999999999 x\n",
        "C0999 1 x\n",
        "C644 1 x\n",
        "T1 0 1\n",
        "Tx 0 1 0\n",
        "X\n",
        "\n",
        "hello world\n",
        "\x02stop\n",
        "C0644 1 \x1b[31mred\nx\0",
        "D0755 0 tab\tbed\n",
    ] {
        let done = talk(&server, "scp -r -t dir", record);
        assert_eq!(done.code, Some(1), "{record:?}: {}", done.report());
        assert!(!done.stdout.contains(&0x1b), "{record:?} comes back unescaped");
    }
    let done = talk(&server, "scp -t dir", vec![b'C'; 100_000]);
    assert_eq!(done.code, Some(1), "{}", done.report());
    let done = talk(&server, "scp -t dir", "D0755 0 sub\n");
    assert!(done.out().contains("received directory without -r"), "{}", done.report());
    assert!(!outside.exists());
    assert_eq!(disk::snapshot(&server.path("homes")), before);
    // The server is as well as ever.
    talk(&server, "scp -t dir", "C0644 1 x\nx\0").expect_success();
}

#[test]
fn usage_errors_are_for_people_and_nothing_is_run() {
    let server = builder().start();
    server.user("alice").create();
    for command in ["scp -r /", "scp / -t", "scp -t -f /", "scp -t / /a", "scp -S x -t /", "scp -t --"] {
        let done = talk(&server, command, "");
        assert_eq!((done.code, done.out()), (Some(1), String::new()), "{command}");
        assert!(done.err().contains("scp: "), "{command}: {}", done.report());
    }
}

#[test]
fn more_or_fewer_bytes_than_announced_end_the_command() {
    for mode in [0, 1, 2] {
        let server = builder().sftpd("upload_mode", mode).start();
        let user = server.user("alice").create();
        disk::write(&user.path("file"), b"the old contents");
        let done = talk(&server, "scp -t file", "C0644 100 file\nonly these");
        assert_eq!(done.code, Some(1), "{}", done.report());
        let want = ["only these", "the old contents", "only these"][mode];
        assert_eq!(disk::text(&user.path("file")), want, "upload mode {mode}");
        let done = talk(&server, "scp -t more", "C0644 3 more\nabcdefg\0");
        assert_eq!(done.code, Some(1), "{}", done.report());
        assert_eq!(user.path("more").exists(), mode != 1, "upload mode {mode}");
        // The client says itself that its file could not be read.
        let done = talk(&server, "scp -t bad", "C0644 3 bad\n\0\0\0\x01scp: bad: input/output error\n");
        assert_eq!(done.code, Some(1), "{}", done.report());
        assert_eq!(user.path("bad").exists(), mode != 1, "upload mode {mode}");
        let left = std::fs::read_dir(&user.home).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".sftpgo-upload")
        });
        assert_eq!(left.count(), 0, "upload mode {mode}");
    }
}

#[test]
fn what_is_over_the_quota_is_refused_before_anything_is_touched() {
    let server = builder().start();
    let user = server.user("alice").field("quota_size", 10_000).create();
    let here = server.work();
    for (name, size) in [("fits", 4000), ("large", 20_000), ("also", 5000)] {
        disk::write_noise(&here.join(name), 1, size);
    }
    scp(&server, &["fits", "HOST:/"]).ok();
    let done = scp(&server, &["large", "HOST:fits"]).fails();
    assert!(done.err().contains("/fits: quota exceeded"), "{}", done.report());
    disk::same(&here.join("fits"), &user.path("fits"));
    // A refused file does not stop those that follow.
    let done = scp(&server, &["large", "also", "HOST:/"]).fails();
    assert!(done.err().contains("/large: quota exceeded"), "{}", done.report());
    disk::same(&here.join("also"), &user.path("also"));
    assert!(!user.path("large").exists());
    let stored = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
    assert_eq!((&stored["used_quota_size"], &stored["used_quota_files"]), (&json!(9000), &json!(2)));
}

#[test]
fn every_permission_counts() {
    let server = builder().start();
    let user = server
        .user("alice")
        .perms("/in", &["upload"])
        .perms("/out", &["download"])
        .perms("/pub", &["list", "download"])
        .perms("/plain", &["list", "upload", "overwrite", "create_dirs"])
        .create();
    for dir in ["in", "out", "pub", "plain"] {
        disk::write(&user.path(dir).join("old"), b"old");
    }
    let here = server.work();
    disk::write(&here.join("new"), b"new");
    disk::write(&here.join("tree/file"), b"new");
    let denied = |args: &[&str]| {
        let done = scp(&server, args).fails();
        assert!(done.err().contains("permission denied"), "{args:?}: {}", done.report());
    };
    scp(&server, &["new", "HOST:in"]).ok();
    denied(&["new", "HOST:in/old"]);
    denied(&["-r", "tree", "HOST:in"]);
    denied(&["HOST:in/old", "back"]);
    scp(&server, &["HOST:out/old", "back"]).ok();
    denied(&["new", "HOST:out/new"]);
    denied(&["-r", "HOST:out", "back.dir"]);
    scp(&server, &["-r", "HOST:pub", "pub.dir"]).ok();
    assert_eq!(disk::text(&here.join("pub.dir/old")), "old");
    denied(&["new", "HOST:pub"]);
    // Without chmod and chtimes, -p is heard and passed over.
    disk::set_times(&here.join("new"), 1_000_000_000);
    scp(&server, &["-p", "new", "HOST:plain/old"]).ok();
    scp(&server, &["-rp", "tree", "HOST:plain"]).ok();
    assert_ne!(disk::mtime(&user.path("plain/old")), 1_000_000_000);
    assert_eq!(disk::text(&user.path("plain/old")), "new");
    assert_eq!(disk::text(&user.path("in/old")), "old");
    assert_eq!(disk::text(&user.path("in/new")), "new");
    assert!(!user.path("in/tree").exists() && !user.path("out/new").exists());
}

#[test]
fn links_are_followed_inside_and_neither_outside_nor_for_ever() {
    let server = builder().start();
    let user = server.user("alice").create();
    disk::write(&server.path("homes/secret"), b"secret");
    disk::write(&user.path("tree/file"), b"file");
    disk::write(&user.path("target"), b"target");
    symlink("../target", user.path("tree/good")).unwrap();
    symlink("..", user.path("tree/up")).unwrap();
    symlink(".", user.path("tree/here")).unwrap();
    symlink(server.path("homes/secret"), user.path("tree/escape")).unwrap();
    symlink("nowhere", user.path("tree/dangling")).unwrap();
    let done = scp(&server, &["-r", "HOST:tree", "back"]).fails();
    let back = server.work().join("back");
    assert_eq!(disk::text(&back.join("file")), "file");
    assert_eq!(disk::text(&back.join("good")), "target");
    assert!(!back.join("escape").exists() && !back.join("dangling").exists() && !back.join("here").exists());
    assert!(done.err().contains("contains itself"), "{}", done.report());
    assert!(done.err().contains("/tree/escape: path leads outside"), "{}", done.report());
    let done = scp(&server, &["file", "HOST:tree/escape"]).fails();
    assert_eq!(disk::text(&server.path("homes/secret")), "secret", "{}", done.report());
}

#[test]
fn the_whole_home_arrives_under_the_name_of_the_user() {
    let server = builder().start();
    let user = server.user("alice").create();
    plant_tree(&user.home);
    std::fs::create_dir(server.work().join("back")).unwrap();
    scp(&server, &["-r", "HOST:/", "back"]).ok();
    scp(&server, &["-r", "HOST:", "new"]).ok();
    for root in ["back/alice", "new"] {
        disk::same(&user.path("a/b/large"), &server.work().join(root).join("a/b/large"));
    }
}

#[test]
fn a_file_for_a_missing_directory_is_an_error() {
    let server = builder().start();
    let user = server.user("alice").create();
    disk::write(&server.work().join("file"), b"x");
    for target in ["HOST:missing/", "HOST:missing/file"] {
        scp(&server, &["file", target]).fails();
    }
    std::fs::create_dir_all(user.path("dir/file")).unwrap();
    let done = scp(&server, &["file", "HOST:dir"]).fails();
    assert!(done.err().contains("/dir/file: is a directory"), "{}", done.report());
    let done = scp(&server, &["HOST:dir", "."]).fails();
    assert!(done.err().contains("/dir: not a regular file"), "{}", done.report());
    assert!(!user.path("missing").exists());
}

#[test]
fn transfers_and_the_command_are_listed_logged_and_counted() {
    let server = builder().start();
    let user = server.user("alice").field("download_bandwidth", 1000).create();
    disk::write_noise(&user.path("big"), 1, 3 * MIB);
    let mut running = scp(&server, &["HOST:big", "back"]).start();
    let listed = wait_for("the transfer to be listed", secs(20), || {
        server.connections().into_iter().find(|c| c["active_transfers"][0]["size"].as_u64() > Some(0))
    });
    assert_eq!((&listed["protocol"], &listed["ssh_command"]), (&json!("SCP"), &json!("scp -f big")));
    let transfer = &listed["active_transfers"][0];
    assert_eq!((&transfer["path"], &transfer["operation_type"]), (&json!("/big"), &json!("download")));
    assert!(running.wait().unwrap().success());
    let line = server.wait_log(&[("sender", json!("Download"))]);
    assert_eq!((&line["protocol"], &line["size_bytes"]), (&json!("SCP"), &json!(3 * MIB)));
    let line = server.wait_log(&[("sender", json!("SSHCommand"))]);
    assert_eq!((&line["ssh_command"], &line["file_path"]), (&json!("scp -f big"), &json!("/big")));
    let text = server.rest("GET", "/metrics", None).expect(200).body;
    for want in ["sftpgo_downloads_total 1", "sftpgo_download_size 3145728", "sftpgo_ssh_commands_total 1"] {
        assert!(text.lines().any(|line| line == want), "{want}");
    }
}

#[test]
fn bandwidth_limits_hold_both_ways() {
    let server = builder().start();
    let user = server.user("alice").field("download_bandwidth", 200).field("upload_bandwidth", 200).create();
    disk::write_noise(&server.work().join("file"), 1, 500_000);
    for args in [["file", "HOST:file"], ["HOST:file", "back"]] {
        let start = Instant::now();
        scp(&server, &args).ok();
        assert!(start.elapsed() >= secs(2), "{args:?} took {:?}", start.elapsed());
    }
    disk::same(&server.work().join("back"), &user.path("file"));
}

#[test]
fn a_client_that_vanishes_ends_its_upload_by_the_rules() {
    let server = builder().sftpd("upload_mode", 1).start();
    let user = server.user("alice").field("upload_bandwidth", 500).create();
    disk::write_noise(&server.work().join("file"), 1, 5 * MIB);
    disk::write(&user.path("file"), b"old");
    let mut running = scp(&server, &["file", "HOST:file"]).start();
    wait_for("the transfer to be under way", secs(20), || {
        server.connections().into_iter().find(|c| c["active_transfers"][0]["size"].as_u64() > Some(0))
    });
    tidegate_e2e::process::kill_group(&running);
    running.wait().unwrap();
    wait_for("the connection to be gone", secs(20), || server.connections().is_empty().then_some(()));
    assert_eq!(disk::text(&user.path("file")), "old");
    assert_eq!(std::fs::read_dir(&user.home).unwrap().count(), 1, "the temporary file is gone");
}

/// Ten copies at once over one connection: none waits for another, and none mixes with another.
#[test]
fn copies_over_one_shared_connection_do_not_disturb_each_other() {
    let server = builder().start();
    let user = server.user("alice").create();
    let here = server.work();
    let socket = here.join("control");
    let mut master = Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-M", "-N", "-S"])
        .arg(&socket)
        .args(["-p", &server.port.to_string(), "alice@127.0.0.1"])
        .start();
    wait_for("the shared connection", secs(20), || socket.exists().then_some(()));
    let option = format!("ControlPath={}", socket.display());
    for i in 0..5 {
        disk::write_noise(&here.join(format!("up{i}")), i, 12 * MIB + 7);
        disk::write_noise(&user.path(format!("down{i}")), 100 + i, 12 * MIB + 7);
    }
    let copies: Vec<_> = (0..5)
        .flat_map(|i| {
            let (up, down) = (format!("up{i}"), format!("down{i}"));
            let (target, source) = (format!("HOST:{up}"), format!("HOST:{down}"));
            [
                scp(&server, &["-o", &option, &up, &target]).start(),
                scp(&server, &["-o", &option, &source, &down]).start(),
            ]
        })
        .collect();
    for mut copy in copies {
        assert!(copy.wait().unwrap().success());
    }
    for i in 0..5 {
        disk::same(&here.join(format!("up{i}")), &user.path(format!("up{i}")));
        disk::same(&here.join(format!("down{i}")), &user.path(format!("down{i}")));
    }
    tidegate_e2e::process::kill_group(&master);
    master.wait().unwrap();
    wait_for("the connection to be gone", secs(20), || server.connections().is_empty().then_some(()));
}

/// What is sent to somebody who does not read waits in the server's memory no longer than it must.
#[test]
fn a_client_that_does_not_read_its_download_costs_little_and_leaves_nothing() {
    let server = builder().start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("big"), 1, 200 * MIB);
    let before = server.rss_kib();
    let mut stalled = Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-T", "-p", &server.port.to_string(), "alice@127.0.0.1", "scp -f big"])
        .start();
    let mut stdin = stalled.stdin.take().expect("stdin is a pipe");
    std::io::Write::write_all(&mut stdin, &[0; 3]).unwrap();
    wait_for("the transfer to be under way", secs(20), || {
        server.connections().into_iter().find(|c| c["active_transfers"][0]["size"].as_u64() > Some(0))
    });
    std::thread::sleep(secs(2));
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for one stalled download");
    stalled.kill().unwrap();
    stalled.wait().unwrap();
    wait_for("the connection to be gone", secs(20), || server.connections().is_empty().then_some(()));
    assert!(!server.open_files().iter().any(|file| file.ends_with("/big")));
}
