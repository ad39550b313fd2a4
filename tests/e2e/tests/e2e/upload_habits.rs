//! What clients do around an upload, in every upload mode: WinSCP's `.filepart`, times set before the file is
//! closed, opening an existing file without cutting it; and what they must never see: temporary files.

use serde_json::json;
use tidegate_e2e::{Attrs, RawSftp, TestServer, disk, flags, secs, status, wait_for};

use crate::rsync::rsync;
use crate::upload_modes::{found, scan, temporary_files, usage};

const SIZE: usize = 500_000;
const PART: usize = 200_000;

fn server(mode: u8) -> TestServer {
    TestServer::builder()
        .sqlite(None)
        .sftpd("upload_mode", mode)
        .set("data_provider", "track_quota", 1)
        .start()
}

/// WinSCP uploads to `NAME.filepart`, goes on behind what it finds there with neither TRUNC nor APPEND, sets the
/// times while the file is open, removes the old file and renames.
#[test]
fn a_filepart_is_resumed_dated_and_renamed() {
    for mode in [0, 1, 2] {
        let server = server(mode);
        let user = server.user("alice").create();
        let whole = disk::noise(1, SIZE);
        let mut first = RawSftp::connect(&server, "alice");
        first.put("/file", b"the old one").unwrap();
        let part = first.open("/file.filepart", flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
        first.write(&part, 0, &whole[..PART]).unwrap();
        drop(first);
        wait_for("the connection to end", secs(10), || server.connections().is_empty().then_some(()));

        let mut again = RawSftp::connect(&server, "alice");
        let there = match again.stat("/file.filepart") {
            Ok(attrs) => usize::try_from(attrs.size.unwrap()).unwrap(),
            Err(code) => {
                assert_eq!(code, status::NO_SUCH_FILE);
                0
            }
        };
        assert_eq!(there, if mode == 1 { 0 } else { PART }, "mode {mode}");
        let part = again.open("/file.filepart", flags::WRITE | flags::CREAT).unwrap();
        for (number, data) in whole[there..].chunks(100_000).enumerate() {
            again.write(&part, (there + number * 100_000) as u64, data).unwrap();
        }
        let times = Attrs { times: Some((1_000_000_000, 1_100_000_000)), ..Attrs::default() };
        again.fsetstat(&part, &times).unwrap();
        again.close(&part).unwrap();
        assert_eq!(disk::mtime(&user.path("file.filepart")), 1_100_000_000, "mode {mode}");
        again.remove("/file").unwrap();
        again.rename("/file.filepart", "/file").unwrap();
        assert!(std::fs::read(user.path("file")).unwrap() == whole, "mode {mode}");
        assert_eq!(disk::mtime(&user.path("file")), 1_100_000_000, "mode {mode}");
        assert_eq!(
            (usage(&server, &user), found(&user.home)),
            ((SIZE as u64, 1), (SIZE as u64, 1)),
            "mode {mode}"
        );
    }
}

/// A file that is opened for writing without TRUNC keeps what is not written over.
#[test]
fn an_existing_file_is_changed_in_its_middle() {
    for mode in [0, 1, 2] {
        let server = server(mode);
        let user = server.user("alice").create();
        let mut sftp = RawSftp::connect(&server, "alice");
        sftp.put("/file", b"0123456789").unwrap();
        let file = sftp.open("/file", flags::WRITE).unwrap();
        sftp.write(&file, 3, b"xyz").unwrap();
        let before: &[u8] = if mode == 0 { b"012xyz6789" } else { b"0123456789" };
        assert_eq!(std::fs::read(user.path("file")).unwrap(), before, "mode {mode}: until it is closed");
        sftp.close(&file).unwrap();
        assert_eq!(std::fs::read(user.path("file")).unwrap(), b"012xyz6789", "mode {mode}");
        assert_eq!(usage(&server, &user), (10, 1), "mode {mode}");
    }
}

const OLD: &str = ".sftpgo-upload.0123456789abcdefghij.report.pdf";
const YOUNG: &str = ".sftpgo-upload.0123456789abcdefghik.report.pdf";

/// A crash of a server without marks, such as another one on the same home: found at the first login.
#[test]
fn temporary_files_are_nobodys_and_abandoned_ones_go() {
    let server = server(1);
    let user = server.user("alice").create();
    for name in [OLD, YOUNG] {
        disk::write_noise(&user.path("dir").join(name), 1, 1000);
    }
    disk::set_times(&user.path("dir").join(OLD), 1_000_000_000);
    // One that another server may be writing to.
    disk::set_times(&user.path("dir").join(YOUNG), 4_000_000_000);
    let mut sftp = RawSftp::connect(&server, "alice");
    wait_for("the abandoned file to be removed", secs(10), || {
        (!user.path("dir").join(OLD).exists()).then_some(())
    });
    let names: Vec<_> = sftp.list("/dir").unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(names.iter().all(|name| [&b"."[..], b".."].contains(&&**name)), "{names:?}");
    let path = format!("/dir/{YOUNG}");
    assert_eq!(sftp.stat(&path).unwrap_err(), status::NO_SUCH_FILE);
    assert_eq!(sftp.open(&path, flags::READ).unwrap_err(), status::NO_SUCH_FILE);
    assert_eq!(sftp.remove(&path).unwrap_err(), status::NO_SUCH_FILE);
    assert_eq!(sftp.rename(&path, "/mine").unwrap_err(), status::NO_SUCH_FILE);
    assert_eq!(sftp.open(&path, flags::WRITE | flags::CREAT).unwrap_err(), status::PERMISSION_DENIED);
    scan(&server, &user);
    assert_eq!(usage(&server, &user), (1000, 1), "what stays is counted");
    assert_eq!(temporary_files(&user.path("dir")).len(), 1);
}

/// rsync lists what is there. A link to the temporary file of an upload that runs, cut through the link, took bytes off
/// the usage that nobody had been charged yet: a quota without an end.
#[test]
fn a_link_to_a_temporary_file_gave_room_back_that_was_never_taken() {
    let server = TestServer::builder()
        .sqlite(None)
        .sftpd("upload_mode", 1)
        .sftpd("enabled_ssh_commands", json!(["*"]))
        .start();
    let user = server.user("alice").field("quota_size", 1_000_000).create();
    let mut sftp = RawSftp::connect(&server, "alice");
    sftp.put("/kept", &disk::noise(1, PART)).unwrap();
    let upload = sftp.open("/file", flags::WRITE | flags::CREAT).unwrap();
    sftp.write(&upload, 0, &disk::noise(2, 30_000)).unwrap();
    let listed = rsync(&server, "alice", &["-r", "--list-only", "HOST:."]).ok();
    let temporary = temporary_files(&user.home).pop().unwrap();
    let name = temporary.file_name().unwrap().to_str().unwrap();
    assert!(listed.contains(name), "{listed}");

    // However the link came to be.
    std::os::unix::fs::symlink(name, user.path("link")).unwrap();
    let mut other = RawSftp::connect(&server, "alice");
    assert_eq!(other.symlink(name, "/another").unwrap_err(), status::PERMISSION_DENIED);
    let cut = Attrs { size: Some(0), ..Attrs::default() };
    assert_eq!(other.setstat("/link", &cut).unwrap_err(), status::NO_SUCH_FILE);
    for pflags in [flags::WRITE, flags::WRITE | flags::CREAT | flags::TRUNC] {
        assert_eq!(other.open("/link", pflags).unwrap_err(), status::NO_SUCH_FILE);
    }
    sftp.close(&upload).unwrap();
    assert_eq!(usage(&server, &user), (PART as u64 + 30_000, 2));
}
