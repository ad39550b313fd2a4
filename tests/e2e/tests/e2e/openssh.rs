//! The stock OpenSSH clients: `sftp` in all its ways to transfer, `scp` over the SFTP protocol.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tidegate_e2e::clients::{scp, sftp};
use tidegate_e2e::{TestServer, disk};

const MIB: usize = 1 << 20;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts and gets one file of 64 MiB and some bytes with these options and compares what arrived.
fn round_trip(options: &[&str]) {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 1, 64 * MIB + 12_345);
    sftp(&server, "alice", options, "put big\nget big back\n").ok();
    disk::same(&here.join("big"), &user.path("big"));
    disk::same(&here.join("big"), &here.join("back"));
}

#[test]
fn sftp_with_default_options_gets_and_puts_64_mib() {
    round_trip(&[]);
}

#[test]
fn sftp_with_256_small_requests_in_flight() {
    round_trip(&["-R", "256", "-B", "32768"]);
}

#[test]
fn sftp_with_1024_small_requests_in_flight() {
    round_trip(&["-R", "1024", "-B", "32768"]);
}

#[test]
fn sftp_with_the_largest_requests() {
    round_trip(&["-B", "261120"]);
}

#[test]
fn sftp_with_compression_asked_for() {
    round_trip(&["-C"]);
}

#[test]
fn files_of_awkward_sizes_arrive_whole() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    let sizes = [0, 1, 32_767, 32_768, 32_769, 65_536, 261_119, 261_120, 261_121, 262_144, 1_000_000];
    let mut batch = String::new();
    for size in sizes {
        disk::write_noise(&here.join(format!("f{size}")), size as u64, size);
        batch += &format!("put f{size}\nget f{size} back{size}\n");
    }
    sftp(&server, "alice", &[], &batch).ok();
    for size in sizes {
        disk::same(&here.join(format!("f{size}")), &user.path(format!("f{size}")));
        disk::same(&here.join(format!("f{size}")), &here.join(format!("back{size}")));
    }
}

#[test]
fn sftp_replaces_a_longer_file() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("file"), 1, 100_000);
    disk::write(&server.work().join("short"), b"short");
    sftp(&server, "alice", &[], "put short file\n").ok();
    assert_eq!(disk::text(&user.path("file")), "short");
}

#[test]
fn reput_continues_an_upload() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let whole = disk::noise(7, 5 * MIB + 3);
    disk::write(&server.work().join("file"), &whole);
    disk::write(&user.path("file"), &whole[..2 * MIB + 1]);
    sftp(&server, "alice", &[], "reput file\n").ok();
    disk::same(&server.work().join("file"), &user.path("file"));
}

#[test]
fn reput_leaves_what_is_already_there_untouched() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let whole = disk::noise(7, MIB);
    disk::write(&server.work().join("file"), &whole);
    // Other bytes of the same length: a server that rewrites the beginning would show.
    disk::write(&user.path("file"), &vec![b'x'; MIB / 2]);
    sftp(&server, "alice", &[], "reput file\n").ok();
    let arrived = std::fs::read(user.path("file")).unwrap();
    assert!(arrived[..MIB / 2].iter().all(|&byte| byte == b'x'), "the first half was written again");
    assert!(arrived[MIB / 2..] == whole[MIB / 2..], "the second half differs");
}

#[test]
fn reget_continues_a_download() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let whole = disk::noise(8, 5 * MIB + 3);
    disk::write(&user.path("file"), &whole);
    disk::write(&server.work().join("file"), &whole[..3 * MIB - 1]);
    sftp(&server, "alice", &[], "reget file\n").ok();
    disk::same(&server.work().join("file"), &user.path("file"));
}

#[test]
fn preserve_keeps_times_and_modes_both_ways() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    for (name, mode, time) in [("one", 0o640, 1_000_000_000), ("two", 0o755, 1_234_567_890)] {
        disk::write(&here.join(name), name.as_bytes());
        chmod(&here.join(name), mode);
        disk::set_times(&here.join(name), time);
    }
    sftp(&server, "alice", &[], "put -p one\nput -p two\nget -p one one.back\nget -p two two.back\n").ok();
    for (name, mode, time) in [("one", 0o640, 1_000_000_000), ("two", 0o755, 1_234_567_890)] {
        for path in [user.path(name), here.join(format!("{name}.back"))] {
            assert_eq!((disk::mode(&path), disk::mtime(&path)), (mode, time), "{}", path.display());
        }
    }
}

#[test]
fn without_preserve_new_files_get_the_umask_of_the_server() {
    let server = TestServer::builder().sftpd("umask", "0027").start();
    let user = server.user("alice").create();
    disk::write(&server.work().join("file"), b"x");
    sftp(&server, "alice", &[], "put file\nmkdir dir\n").ok();
    // sftp asks for the local mode in OPEN; the server's umask decides (sftp-server.md §3.4).
    assert_eq!(disk::mode(&user.path("file")), 0o640);
    assert_eq!(disk::mode(&user.path("dir")), 0o750);
}

/// A small tree with an empty directory, an empty file and a file that spans several packets.
fn plant_tree(root: &Path) {
    disk::write(&root.join("a/b/c/deep"), b"deep");
    disk::write(&root.join("a/empty"), b"");
    disk::write_noise(&root.join("a/b/large"), 3, 700_000);
    disk::write(&root.join("top level"), b"top");
    std::fs::create_dir(root.join("nothing here")).unwrap();
    chmod(&root.join("top level"), 0o600);
    chmod(&root.join("a/b/c/deep"), 0o755);
}

#[test]
fn recursive_put_and_get_move_a_whole_tree() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    plant_tree(&here.join("tree"));
    sftp(&server, "alice", &[], "put -rp tree\nget -rp tree back\n").ok();
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&user.path("tree")));
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&here.join("back")));
}

#[test]
fn scp_in_its_sftp_mode_copies_files_and_trees() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    plant_tree(&here.join("tree"));
    disk::write_noise(&here.join("big"), 5, 9 * MIB + 1);
    chmod(&here.join("big"), 0o640);
    disk::set_times(&here.join("big"), 1_111_111_111);

    scp(&server, "alice", &["-p", "big", "HOST:big"]).ok();
    scp(&server, "alice", &["-rp", "tree", "HOST:"]).ok();
    disk::same(&here.join("big"), &user.path("big"));
    assert_eq!((disk::mode(&user.path("big")), disk::mtime(&user.path("big"))), (0o640, 1_111_111_111));
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&user.path("tree")));

    scp(&server, "alice", &["-p", "HOST:big", "back"]).ok();
    scp(&server, "alice", &["-rp", "HOST:tree", "tree.back"]).ok();
    disk::same(&here.join("big"), &here.join("back"));
    assert_eq!(disk::snapshot(&here.join("tree")), disk::snapshot(&here.join("tree.back")));

    scp(&server, "alice", &["HOST:no-such-file", "nothing"]).fails();
    assert!(!here.join("nothing").exists());
}

#[test]
fn names_in_utf8_with_spaces_and_of_255_bytes() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    let longest = "n".repeat(255);
    let longest_utf8 = "ö".repeat(127);
    for name in [
        "Grüße aus Köln",
        "日本語.txt",
        "a  b",
        " leading",
        "-dash",
        "50%",
        longest.as_str(),
        longest_utf8.as_str(),
    ] {
        disk::write(&here.join(name), name.as_bytes());
        sftp(&server, "alice", &[], &format!("put \"./{name}\"\nget \"./{name}\" back\n")).ok();
        assert_eq!(disk::text(&user.path(name)), name);
        assert_eq!(disk::text(&here.join("back")), name);
    }
    let too_long = "n".repeat(256);
    sftp(&server, "alice", &[], &format!("put back \"{too_long}\"\n")).fails();
}

#[test]
fn the_commands_of_an_interactive_session() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&server.work().join("f"), b"content");
    let batch = "pwd\nput f\nrename f g\nln -s g soft\nln g hard\nchmod 600 g\nmkdir d\ncd d\nput f\nls -la /\ndf\npwd\n";
    let said = sftp(&server, "alice", &[], batch).ok();
    for text in
        ["Remote working directory: /\n", "Remote working directory: /d\n", "-rw-------", "soft", "hard"]
    {
        assert!(said.contains(text), "{text:?} is missing in: {said}");
    }
    assert_eq!(disk::text(&user.path("g")), "content");
    assert_eq!(disk::text(&user.path("d/f")), "content");
    assert_eq!(disk::mode(&user.path("g")), 0o600);
    assert_eq!(std::fs::read_link(user.path("soft")).unwrap(), Path::new("g"), "links are stored relative");
    disk::same(&user.path("hard"), &user.path("g"));
    sftp(&server, "alice", &[], "rm soft\nrm hard\nrm g\nrm d/f\nrmdir d\n").ok();
    assert!(disk::snapshot(&user.home).is_empty(), "{:?}", disk::snapshot(&user.home));
}

#[test]
fn copy_data_copies_on_the_server() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("from"), 4, 3 * MIB + 17);
    sftp(&server, "alice", &[], "cp from to\n").ok();
    disk::same(&user.path("from"), &user.path("to"));
}

#[test]
fn two_hundred_files_in_one_session_leave_no_handle_open() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work().join("many");
    for number in 0..200 {
        disk::write(&here.join(format!("f{number:03}")), format!("content {number}").as_bytes());
    }
    sftp(&server, "alice", &[], "put -r many\nget -r many back\n").ok();
    assert_eq!(disk::snapshot(&here), disk::snapshot(&user.path("many")));
    assert_eq!(disk::snapshot(&here), disk::snapshot(&server.work().join("back")));
    let home = user.home.to_str().unwrap().to_owned();
    tidegate_e2e::wait_for("all files below the home to be closed", tidegate_e2e::secs(5), || {
        (!server.open_files().iter().any(|file| file.starts_with(&home))).then_some(())
    });
}
