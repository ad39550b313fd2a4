//! The SFTP protocol through the raw client: statuses, attributes, listings, handles, extensions.

use std::os::unix::ffi::OsStrExt;

use tidegate_e2e::{Attrs, RawSftp, TestServer, disk, flags, kind, status};

#[test]
fn version_3_and_every_extension_are_announced() {
    let server = TestServer::start();
    server.user("alice").create();
    let sftp = RawSftp::connect(&server, "alice");
    let names: Vec<&str> = sftp.extensions.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "posix-rename@openssh.com",
        "statvfs@openssh.com",
        "fstatvfs@openssh.com",
        "hardlink@openssh.com",
        "fsync@openssh.com",
        "lsetstat@openssh.com",
        "limits@openssh.com",
        "expand-path@openssh.com",
        "copy-data",
        "home-directory",
        "users-groups-by-id@openssh.com",
        "copy-file",
        "space-available",
        "vendor-id",
    ] {
        assert!(names.contains(&name), "{name} is not announced: {names:?}");
    }
    assert!(names.iter().any(|name| name.starts_with("check-file")), "{names:?}");
}

#[test]
fn an_extension_that_is_switched_off_is_neither_announced_nor_answered() {
    let off = serde_json::json!(["hardlink@openssh.com", "copy-data"]);
    let server = TestServer::builder().sftpd("disabled_sftp_extensions", off).start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"x");
    let mut sftp = RawSftp::connect(&server, "alice");
    assert!(sftp.extensions.iter().all(|(name, _)| name != "hardlink@openssh.com" && name != "copy-data"));
    let answer = sftp.extended("hardlink@openssh.com", &[b"/file", b"/link"]);
    assert_eq!(answer, Err(status::OP_UNSUPPORTED));
    assert!(!user.path("link").exists());
}

#[test]
fn statuses_say_what_went_wrong() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"content");
    disk::write(&user.path("dir/file"), b"content");
    let mut sftp = RawSftp::connect(&server, "alice");
    let (none, failure) = (Err(status::NO_SUCH_FILE), Err(status::FAILURE));
    assert_eq!(sftp.stat("/missing").map(|_| ()), none);
    assert_eq!(sftp.lstat("/missing").map(|_| ()), none);
    assert_eq!(sftp.open("/missing", flags::READ).map(|_| ()), none);
    assert_eq!(sftp.open("/no/where", flags::WRITE | flags::CREAT).map(|_| ()), none);
    assert_eq!(sftp.opendir("/missing").map(|_| ()), none);
    assert_eq!(sftp.remove("/missing"), none);
    assert_eq!(sftp.rmdir("/missing"), none);
    assert_eq!(sftp.mkdir("/no/where"), none);
    assert_eq!(sftp.rename("/missing", "/x"), none);
    assert_eq!(sftp.setstat("/missing", &Attrs::with_mode(0o600)), none);
    assert_eq!(sftp.remove("/dir"), failure);
    assert_eq!(sftp.rmdir("/file"), failure);
    assert_eq!(sftp.rmdir("/dir"), failure, "not empty");
    assert_eq!(sftp.mkdir("/dir"), failure);
    assert_eq!(sftp.symlink("file", "/dir"), failure);
    assert_eq!(sftp.open("/file", flags::WRITE | flags::CREAT | flags::EXCL).map(|_| ()), failure);
    assert!(sftp.opendir("/file").is_err());
    assert!(sftp.open("/dir", flags::READ).is_err());
    assert_eq!(sftp.open("/dir", flags::WRITE).map(|_| ()), Err(status::OP_UNSUPPORTED));
    assert!(sftp.open("/file", 0).is_err(), "no access asked for");
    assert_eq!(disk::text(&user.path("file")), "content");
}

#[test]
fn stat_follows_links_and_lstat_does_not() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"12345");
    disk::set_times(&user.path("file"), 1_234_567_890);
    std::os::unix::fs::symlink("file", user.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", user.path("dangling")).unwrap();
    let mut sftp = RawSftp::connect(&server, "alice");
    let file = sftp.stat("/link").unwrap();
    assert_eq!((file.size, file.mode.map(|mode| mode >> 12)), (Some(5), Some(0o10)));
    assert_eq!(file.times.map(|(_, mtime)| mtime), Some(1_234_567_890));
    assert_eq!(sftp.lstat("/link").unwrap().mode.map(|mode| mode >> 12), Some(0o12));
    assert_eq!(sftp.stat("/dangling"), Err(status::NO_SUCH_FILE));
    assert!(sftp.lstat("/dangling").is_ok());
    // Existing clients rely on the refusal (sftp-server.md §13, 16).
    assert_eq!(sftp.readlink("/link"), Err(status::OP_UNSUPPORTED));
}

#[test]
fn fstat_and_fsetstat_concern_the_open_file_not_its_name() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::WRITE | flags::CREAT).unwrap();
    sftp.write(&handle, 0, b"12345").unwrap();
    std::fs::rename(user.path("file"), user.path("moved")).unwrap();
    disk::write(&user.path("file"), b"another");
    assert_eq!(sftp.fstat(&handle).unwrap().size, Some(5));
    assert_eq!(sftp.fsetstat(&handle, &Attrs::with_mode(0o600)), Ok(()));
    sftp.close(&handle).unwrap();
    assert_eq!(disk::mode(&user.path("moved")), 0o600);
    assert_ne!(disk::mode(&user.path("file")), 0o600);
}

#[test]
fn setstat_applies_every_part_of_one_request() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"1234567890");
    let mut sftp = RawSftp::connect(&server, "alice");
    let attrs = Attrs { mode: Some(0o604), times: Some((1_000_000_000, 1_100_000_000)), ..Attrs::default() };
    assert_eq!(sftp.setstat("/file", &attrs), Ok(()));
    assert_eq!((disk::mode(&user.path("file")), disk::mtime(&user.path("file"))), (0o604, 1_100_000_000));
    // Set-user-id and its like are dropped.
    assert_eq!(sftp.setstat("/file", &Attrs::with_mode(0o6777)), Ok(()));
    assert_eq!(disk::mode(&user.path("file")), 0o777);
}

#[test]
fn setstat_mode_1_answers_ok_and_changes_nothing() {
    let server = TestServer::builder().sftpd("setstat_mode", 1).start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"x");
    let before = disk::mode(&user.path("file"));
    let mut sftp = RawSftp::connect(&server, "alice");
    assert_eq!(sftp.setstat("/file", &Attrs::with_mode(0o600)), Ok(()));
    assert_eq!(sftp.setstat("/missing", &Attrs::with_mode(0o600)), Ok(()));
    assert_eq!(disk::mode(&user.path("file")), before);
}

#[test]
fn names_are_bytes() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let odd: &[u8] = b"caf\xe9 \xff\xfe\n\x01";
    let path = [b"/", odd].concat();
    assert_eq!(sftp.put(&path, b"content"), Ok(()));
    let on_disk = std::fs::read_dir(&user.home).unwrap().next().unwrap().unwrap().file_name();
    assert_eq!(on_disk.as_bytes(), odd);
    assert_eq!(sftp.get(&path), Ok(b"content".to_vec()));
    assert_eq!(sftp.list("/").unwrap()[0].name, odd);
    assert_eq!(sftp.realpath(&path), Ok(path.clone()));
    assert_eq!(sftp.rename(&path, b"/\xc3\x28"), Ok(()));
    assert_eq!(sftp.symlink(b"\xc3\x28", b"/link\xff"), Ok(()));
    assert_eq!(sftp.get(b"/link\xff"), Ok(b"content".to_vec()));
    assert_eq!(sftp.remove(b"/\xc3\x28"), Ok(()));
    assert!(sftp.stat(b"/zero\0byte").is_err());
}

#[test]
fn a_listing_is_complete_and_in_ls_form() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    for number in 0..3_000 {
        disk::write(&user.path(format!("entry-{:04}-{}", (number * 7) % 3_000, "x".repeat(100))), b"");
    }
    std::fs::create_dir(user.path("a dir")).unwrap();
    let mut sftp = RawSftp::connect(&server, "alice");
    let entries = sftp.list("/").unwrap();
    assert_eq!(entries.len(), 3_001);
    assert!(entries.iter().all(|entry| entry.name != b"." && entry.name != b".."));
    let dir = entries.iter().find(|entry| entry.name == b"a dir").unwrap();
    let line = String::from_utf8_lossy(&dir.longname).into_owned();
    assert!(line.starts_with("drwx") && line.ends_with(" a dir"), "{line}");
    let mut names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3_001, "an entry appears twice");
}

#[test]
fn a_huge_directory_is_listed_in_bounded_memory() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    assert!(sftp.list("/").unwrap().is_empty());
    let tail = "y".repeat(90);
    for number in 0..100_000 {
        std::fs::File::create(user.path(format!("{number:06}{tail}"))).unwrap();
    }
    let before = server.rss_kib();
    let handle = sftp.opendir("/").unwrap();
    let (mut count, mut most) = (0, 0);
    while let Ok(entries) = sftp.readdir(&handle) {
        assert!(!entries.is_empty(), "an empty reply is not the end");
        count += entries.len();
        most = most.max(server.rss_kib());
    }
    assert_eq!(count, 100_000);
    // Names and attributes of all entries at once would take more than twice this.
    let grown = most.saturating_sub(before);
    assert!(grown < 16 * 1024, "grew by {grown} KiB");
}

#[test]
fn a_read_past_the_end_is_eof_and_a_long_read_is_answered_whole() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("file"), 1, 300_000);
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::READ).unwrap();
    assert_eq!(sftp.read(&handle, 300_000, 100), Err(status::EOF));
    assert_eq!(sftp.read(&handle, u64::MAX - 10, 100), Err(status::EOF));
    assert_eq!(sftp.read(&handle, 299_990, 100).unwrap(), disk::noise(1, 300_000)[299_990..]);
    let most = sftp.read(&handle, 0, u32::MAX).unwrap();
    assert!(!most.is_empty() && most == disk::noise(1, 300_000)[..most.len()]);
    let nothing = sftp.read(&handle, 5, 0);
    assert!(matches!(nothing.as_deref(), Ok([]) | Err(&status::EOF)), "{nothing:?}");
}

#[test]
fn replies_come_in_the_order_of_the_requests() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("file"), 1, 500_000);
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::READ).unwrap();
    for number in 0..200_u32 {
        let packet = tidegate_e2e::Packet::new(kind::READ).u32(1_000 + number).string(&handle);
        sftp.send(&packet.u64(u64::from(number) * 2_000).u32(2_000)).unwrap();
        sftp.send(&tidegate_e2e::Packet::new(kind::STAT).u32(5_000 + number).string("/file")).unwrap();
    }
    for number in 0..200_u32 {
        assert_eq!(sftp.reply().id, 1_000 + number);
        assert_eq!(sftp.reply().id, 5_000 + number);
    }
}

#[test]
fn a_closed_handle_is_gone() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"x");
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/file", flags::READ).unwrap();
    assert_eq!(sftp.close(&handle), Ok(()));
    assert!(sftp.close(&handle).is_err());
    assert!(sftp.read(&handle, 0, 1).is_err());
    assert!(sftp.readdir(&handle).is_err());
    assert!(sftp.read(b"", 0, 1).is_err());
    assert!(sftp.read(&[b'9'; 300], 0, 1).is_err());
}

#[test]
fn posix_rename_replaces_a_file() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("from"), b"from");
    disk::write(&user.path("to"), b"to");
    let mut sftp = RawSftp::connect(&server, "alice");
    assert_eq!(sftp.extended("posix-rename@openssh.com", &[b"/from", b"/to"]), Ok(()));
    assert_eq!(disk::text(&user.path("to")), "from");
    assert!(!user.path("from").exists());
}

#[test]
fn limits_promise_what_is_kept() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("file"), 1, 1 << 20);
    let mut sftp = RawSftp::connect(&server, "alice");
    let mut limits = sftp.extended_reply("limits@openssh.com", &[]).unwrap();
    let [packet, read, write, _handles] = [limits.u64(), limits.u64(), limits.u64(), limits.u64()];
    assert!(packet > 0 && read > 0 && write > 0, "{packet} {read} {write}");
    assert!(read < packet && write < packet, "{packet} {read} {write}");
    let handle = sftp.open("/file", flags::READ).unwrap();
    assert_eq!(sftp.read(&handle, 0, u32::try_from(read).unwrap()).unwrap().len() as u64, read);
    let handle = sftp.open("/new", flags::WRITE | flags::CREAT).unwrap();
    let data = disk::noise(2, usize::try_from(write).unwrap());
    assert_eq!(sftp.write(&handle, 0, &data), Ok(()));
    assert_eq!(sftp.close(&handle), Ok(()));
    assert!(std::fs::read(user.path("new")).unwrap() == data);
}

#[test]
fn check_file_name_hashes() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"abc");
    let mut sftp = RawSftp::connect(&server, "alice");
    let packet = sftp.packet(kind::EXTENDED).string("check-file-name").string("/file").string("sha256,md5");
    let mut reply = sftp.request(&packet.u64(0).u64(0).u32(0));
    assert_eq!(reply.kind, kind::EXTENDED_REPLY);
    assert_eq!(reply.string(), b"sha256");
    let hex: String = (0..8).map(|_| format!("{:08x}", reply.u32())).collect();
    assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn statvfs_shows_the_quota_of_the_user() {
    let server = TestServer::start();
    server.user("alice").field("quota_size", 10 << 20).field("quota_files", 7).create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let mut reply = sftp.extended_reply("statvfs@openssh.com", &[b"/"]).unwrap();
    let [_bsize, unit, blocks, free, available, files] = std::array::from_fn(|_| reply.u64());
    assert_eq!(unit * blocks, 10 << 20);
    assert!(unit * available <= 10 << 20 && free <= blocks, "{unit} {free} {available}");
    assert_eq!(files, 7);
}

#[test]
fn upload_modes_show_the_file_when_it_is_whole() {
    for mode in [1, 2] {
        let server = TestServer::builder().sftpd("upload_mode", mode).start();
        let user = server.user("alice").create();
        disk::write(&user.path("old"), b"old content");
        let mut sftp = RawSftp::connect(&server, "alice");
        let new = sftp.open("/new", flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
        let old = sftp.open("/old", flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
        sftp.write(&new, 0, b"new").unwrap();
        sftp.write(&old, 0, b"replaced").unwrap();
        assert!(!user.path("new").exists(), "mode {mode}");
        assert_eq!(disk::text(&user.path("old")), "old content", "mode {mode}");
        sftp.close(&new).unwrap();
        sftp.close(&old).unwrap();
        assert_eq!(disk::text(&user.path("new")), "new", "mode {mode}");
        assert_eq!(disk::text(&user.path("old")), "replaced", "mode {mode}");
        assert_eq!(std::fs::read_dir(&user.home).unwrap().count(), 2, "mode {mode} leaves nothing else");
    }
}

#[test]
fn a_lost_connection_ends_an_upload_by_the_rules_of_its_mode() {
    for (mode, new) in [(0, Some("partial")), (1, None), (2, Some("partial"))] {
        let server = TestServer::builder().sftpd("upload_mode", mode).start();
        let user = server.user("alice").create();
        disk::write(&user.path("old"), b"the old content");
        let mut sftp = RawSftp::connect(&server, "alice");
        for name in ["/new", "/old"] {
            let handle = sftp.open(name, flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
            sftp.write(&handle, 0, b"partial").unwrap();
        }
        drop(sftp);
        tidegate_e2e::wait_for("the uploads to end", tidegate_e2e::secs(10), || {
            let home = user.home.to_str().unwrap();
            (!server.open_files().iter().any(|file| file.starts_with(home))).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(100));
        let found = std::fs::read_to_string(user.path("new")).ok();
        assert_eq!(found.as_deref(), new, "mode {mode}");
        let old = disk::text(&user.path("old"));
        assert_eq!(old, if mode == 1 { "the old content" } else { "partial" }, "mode {mode}");
        let left = std::fs::read_dir(&user.home).unwrap().count();
        assert_eq!(left, if mode == 1 { 1 } else { 2 }, "mode {mode} leaves temporary files");
    }
}

#[test]
fn a_quota_refuses_what_does_not_fit() {
    let server = TestServer::start();
    let user = server.user("alice").field("quota_files", 2).create();
    let mut sftp = RawSftp::connect(&server, "alice");
    assert_eq!(sftp.put("/one", b"1"), Ok(()));
    assert_eq!(sftp.put("/two", b"2"), Ok(()));
    assert_eq!(sftp.put("/three", b"3"), Err(status::FAILURE));
    assert!(!user.path("three").exists());
    assert_eq!(sftp.remove("/one"), Ok(()));
    assert_eq!(sftp.put("/three", b"3"), Ok(()));
}
