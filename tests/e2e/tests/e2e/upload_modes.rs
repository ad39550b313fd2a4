//! What is left of an upload that fails, in every upload mode: [`TABLE`], which docs/uploads.md tells in words.
//! After each fault: what is on disk, what the usage is, what the log says, and which hook has run.
//!
//! Habits of clients that touch the same machinery are in `upload_habits`.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_e2e::clients::ssh_options;
use tidegate_e2e::process::{collect, kill_group};
use tidegate_e2e::{RawSftp, ServerBuilder, TestServer, Tool, User, disk, secs, wait_for};

use crate::hooks::{recorder, runs};
use crate::wire::Wire;

/// A row: after this fault in this mode, what is at the place of a file that was new, overwritten, resumed.
struct Row {
    mode: u8,
    fault: Fault,
    new: Left,
    overwritten: Left,
    resumed: Left,
}

/// What goes wrong in the middle of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// OpenSSH's `sftp` and its `ssh` are ended by SIGKILL.
    ClientKilled,
    /// Only `sftp` is, so that its `ssh` closes the channel in good order.
    ChannelClosed,
    /// The TCP connection is reset.
    ConnectionReset,
    /// The home's file system has no room left.
    DiskFull,
    /// The user's quota ends.
    QuotaReached,
    /// The server is ended by SIGKILL, and started again.
    ServerKilled,
}

/// What is at the place of the file afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// No file.
    Nothing,
    /// The file from before, byte for byte.
    Old,
    /// The beginning of the new file, and of a resumed one more than there was.
    Part,
}

use Fault::{ChannelClosed, ClientKilled, ConnectionReset, DiskFull, QuotaReached, ServerKilled};
use Left::{Nothing, Old, Part};

#[rustfmt::skip]
const TABLE: [Row; 18] = [
    Row { mode: 0, fault: ClientKilled,    new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 0, fault: ChannelClosed,   new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 0, fault: ConnectionReset, new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 0, fault: DiskFull,        new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 0, fault: QuotaReached,    new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 0, fault: ServerKilled,    new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 1, fault: ClientKilled,    new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 1, fault: ChannelClosed,   new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 1, fault: ConnectionReset, new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 1, fault: DiskFull,        new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 1, fault: QuotaReached,    new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 1, fault: ServerKilled,    new: Nothing, overwritten: Old,  resumed: Old },
    Row { mode: 2, fault: ClientKilled,    new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 2, fault: ChannelClosed,   new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 2, fault: ConnectionReset, new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 2, fault: DiskFull,        new: Part,    overwritten: Part, resumed: Part },
    Row { mode: 2, fault: QuotaReached,    new: Part,    overwritten: Part, resumed: Part },
    // Nobody was left to rename anything: as in mode 1.
    Row { mode: 2, fault: ServerKilled,    new: Nothing, overwritten: Old,  resumed: Old },
];

const OLD_SIZE: usize = 150_000;
const NEW_SIZE: usize = 3_000_000;
/// Room for two of OpenSSH's requests of 255 KiB, or for one behind the old part.
const QUOTA: usize = 600_000;

/// The rows of one fault, each on a server of its own; the files of a row are uploaded side by side.
fn check(fault: Fault) {
    let rows: Vec<_> = TABLE.iter().filter(|row| row.fault == fault).collect();
    assert_eq!(rows.len(), 3, "one row for each mode");
    for row in rows {
        eprintln!("mode {}, {fault:?}", row.mode);
        check_row(row);
    }
}

#[test]
fn the_client_is_killed() {
    check(ClientKilled);
}

#[test]
fn the_client_ends_without_closing_its_file() {
    check(ChannelClosed);
}

#[test]
fn the_connection_is_reset() {
    check(ConnectionReset);
}

#[test]
fn the_disk_is_full() {
    check(DiskFull);
}

#[test]
fn the_quota_is_reached() {
    check(QuotaReached);
}

#[test]
fn the_server_is_killed() {
    check(ServerKilled);
}

/// One cell of the table: a user of its own uploads `new` to `/f`.
struct Cell {
    user: User,
    resumes: bool,
    left: Left,
    old: Option<Vec<u8>>,
    client: Option<Child>,
    _disk: Option<SmallDisk>,
}

fn check_row(row: &Row) {
    let builder = TestServer::builder().sqlite(None).sftpd("upload_mode", row.mode).set(
        "data_provider",
        "track_quota",
        1,
    );
    let hooks = builder.config_dir().join("hooks");
    let mut server = with_hook(builder, &hooks).start();
    let wire = Wire::to(server.port);
    let new = disk::noise(1, NEW_SIZE);
    disk::write(&server.work().join("new"), &new);

    let mut cells = [
        cell(&server, row, "new", row.new, None, false),
        cell(&server, row, "overwritten", row.overwritten, Some(disk::noise(2, OLD_SIZE)), false),
        cell(&server, row, "resumed", row.resumed, Some(new[..OLD_SIZE].to_vec()), true),
    ];
    for cell in &mut cells {
        cell.client = Some(upload(&server, wire.port, &cell.user, cell.resumes));
    }
    strike(row, &mut server, &wire, &mut cells);

    for cell in &cells {
        let name = format!("mode {}, {:?}, {}", row.mode, row.fault, cell.user.name);
        check_log(&server, row, cell);
        check_disk(row, cell, &new, &name);
        check_usage(&server, row, cell, &name);
    }
    // Whatever failed has run no hook: the first ones are those of uploads that succeed afterwards.
    for Cell { user, .. } in &cells {
        let mut sftp = RawSftp::connect(&server, &user.name);
        if user.path("f").exists() {
            sftp.remove("/f").unwrap();
        }
        sftp.put("/after", b"whole").unwrap();
    }
    let expected = cells.iter().map(|Cell { user, .. }| {
        let path = user.path("after").display().to_string();
        vec!["upload".to_owned(), user.name.clone(), path, String::new(), String::new()]
    });
    assert_eq!(runs(&hooks, 3), expected.collect::<BTreeSet<_>>(), "mode {}, {:?}", row.mode, row.fault);
}

fn with_hook(builder: ServerBuilder, dir: &Path) -> ServerBuilder {
    let command = recorder(dir);
    builder.sftpd("actions", json!({"execute_on": ["upload"], "command": command.to_str()}))
}

/// Makes the user of a cell, with the old file in place and in the books.
fn cell(server: &TestServer, row: &Row, name: &str, left: Left, old: Option<Vec<u8>>, resumes: bool) -> Cell {
    let mut user = server.user(name);
    match row.fault {
        DiskFull => {}
        QuotaReached => user = user.field("quota_size", QUOTA),
        // Fifteen seconds for the whole file: whatever strikes, strikes in the middle.
        _ => user = user.field("upload_bandwidth", NEW_SIZE / 15_000),
    }
    let user = user.create();
    let disk = (row.fault == DiskFull).then(|| SmallDisk::mount(&user.home));
    if let Some(old) = &old {
        disk::write(&user.path("f"), old);
        scan(server, &user);
    }
    assert_eq!(usage(server, &user), found(&user.home), "{name}");
    Cell { user, resumes, left, old, client: None, _disk: disk }
}

/// Starts OpenSSH's `sftp` with an upload to `/f`.
fn upload(server: &TestServer, port: u16, user: &User, resumes: bool) -> Child {
    let batch = server.work().join(format!("{}.batch", user.name));
    disk::write(&batch, if resumes { b"reput new f\n" } else { b"put new f\n" });
    Tool::new("sftp", "openssh-client")
        .arg("-q")
        .args(ssh_options())
        .args(["-P", &port.to_string(), "-b"])
        .arg(batch)
        .arg(format!("{}@127.0.0.1", user.name))
        .dir(&server.work())
        .start()
}

/// Lets it happen, once every upload is under way, and waits until it has.
fn strike(row: &Row, server: &mut TestServer, wire: &Wire, cells: &mut [Cell]) {
    if matches!(row.fault, DiskFull | QuotaReached) {
        for cell in cells {
            let mut client = cell.client.take().unwrap();
            let said = collect(client.stderr.take());
            let exit = wait_for("the client to end", secs(60), || client.try_wait().unwrap());
            let said = String::from_utf8_lossy(&said.take()).into_owned();
            assert!(!exit.success(), "the client must be told: {said}");
            // OpenSSH shows the status code or its text by version.
            assert!(said.to_lowercase().contains("fail") || said.contains("quota"), "{said}");
        }
        return;
    }
    wait_for("all uploads to be under way", secs(30), || {
        let moved = |c: &Value| c["active_transfers"][0]["size"].as_u64().is_some_and(|size| size >= 65_536);
        (server.connections().iter().filter(|c| moved(c)).count() == cells.len()).then_some(())
    });
    for cell in cells.iter() {
        let at_place = std::fs::read(cell.user.path("f")).ok();
        assert!(row.mode == 0 || at_place == cell.old, "the old file stays until the new one is complete");
        assert_eq!(temporary_files(&cell.user.home).len(), usize::from(row.mode != 0));
        let mut sftp = RawSftp::connect(server, &cell.user.name);
        let listed = sftp.list("/").unwrap();
        assert!(listed.iter().all(|entry| [&b"f"[..], b".", b".."].contains(&&*entry.name)), "{listed:?}");
    }
    match row.fault {
        ClientKilled => cells.iter().for_each(|cell| kill_group(cell.client.as_ref().unwrap())),
        ChannelClosed => cells.iter_mut().for_each(|cell| cell.client.as_mut().unwrap().kill().unwrap()),
        ConnectionReset => wire.cut(),
        _ => {
            server.signal(Signal::KILL);
            assert_eq!(server.wait_exit(secs(10)).code(), None, "ended by the signal");
            if row.mode == 0 {
                let unknown = cells.iter().map(|cell| found(&cell.user.home).0).sum::<u64>();
                assert!(unknown > 0, "something is on disk that the books do not know");
            } else {
                assert!(cells.iter().all(|cell| temporary_files(&cell.user.home).len() == 1));
            }
            server.start_again();
            wait_for("the temporary files to be removed, without a login", secs(20), || {
                cells.iter().all(|cell| temporary_files(&cell.user.home).is_empty()).then_some(())
            });
        }
    }
    for cell in cells {
        let mut client = cell.client.take().unwrap();
        wait_for("the client to end", secs(30), || client.try_wait().unwrap());
    }
}

/// The one line that tells the failure, and nothing that tells a success.
fn check_log(server: &TestServer, row: &Row, cell: &Cell) {
    let user = &cell.user;
    let path = user.path("f").display().to_string();
    let (start, why) = match row.fault {
        ServerKilled => ("the server did not end in good order, 3 homes are looked at".to_owned(), None),
        fault => {
            let why = match fault {
                DiskFull => "no space left",
                QuotaReached => "quota",
                _ => "the connection ended before the file was closed",
            };
            (format!("upload of {path:?} by {:?} failed after ", user.name), Some(why))
        }
    };
    let text = |line: &serde_json::Map<String, Value>| {
        line.get("message").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let line = wait_for(&format!("a log line that begins with {start}"), secs(20), || {
        server.log().iter().rev().map(text).find(|line| line.starts_with(&start))
    });
    assert!(why.is_none_or(|why| line.to_lowercase().contains(why)), "{why:?} in {line:?}");
    let told = server.log().iter().map(text).filter(|line| line.starts_with(&start)).count();
    assert_eq!(told, 1, "{start}");
    let done =
        server.log().iter().any(|line| line["sender"] == "Upload" && line["file_path"] == path.as_str());
    assert!(!done, "an upload that failed is in the log as done: {path}");
}

fn check_disk(row: &Row, cell: &Cell, new: &[u8], name: &str) {
    let is = std::fs::read(cell.user.path("f")).ok();
    match cell.left {
        Nothing => assert_eq!(is.map(|is| is.len()), None, "{name}: no file is left"),
        Old => assert!(is == cell.old, "{name}: the old file is as it was"),
        Part => {
            let is = is.unwrap_or_else(|| panic!("{name}: a part of the file is left"));
            let least = if cell.resumes { OLD_SIZE } else { 0 };
            let most = if row.fault == QuotaReached { QUOTA + 1 } else { NEW_SIZE };
            assert!(is.len() > least && is.len() < most, "{name}: {} bytes", is.len());
            assert!(new.starts_with(&is), "{name}: the beginning of the new file");
        }
    }
    let left = temporary_files(&cell.user.home);
    assert!(left.is_empty(), "{name}: {left:?}");
}

/// The usage is what is on disk, and what a scan finds. A start after a kill counts beside everything else.
fn check_usage(server: &TestServer, row: &Row, cell: &Cell, name: &str) {
    let real = found(&cell.user.home);
    if row.fault == ServerKilled {
        let right = || (usage(server, &cell.user) == real).then_some(());
        wait_for(&format!("{name}: usage of {real:?} (bytes, files)"), secs(20), right);
    }
    assert_eq!(usage(server, &cell.user), real, "{name}: usage (bytes, files)");
    scan(server, &cell.user);
    assert_eq!(usage(server, &cell.user), real, "{name}: usage after a scan");
    assert_eq!(found(&cell.user.home), real, "{name}: the scan changed nothing");
}

/// Bytes and files of a user, as the REST API tells them.
pub(crate) fn usage(server: &TestServer, user: &User) -> (u64, u64) {
    let user = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
    (user["used_quota_size"].as_u64().unwrap(), user["used_quota_files"].as_u64().unwrap())
}

/// Bytes and files of a home, hidden ones included.
pub(crate) fn found(home: &Path) -> (u64, u64) {
    let sizes: Vec<u64> = entries(home).iter().map(|path| path.metadata().unwrap().len()).collect();
    (sizes.iter().sum(), sizes.len() as u64)
}

/// The files of a home that have temporary names.
pub(crate) fn temporary_files(home: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".sftpgo-upload."))
    };
    entries(home).into_iter().filter(is_temporary).collect()
}

fn entries(home: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Has the files of a user counted, and waits for the end of it.
pub(crate) fn scan(server: &TestServer, user: &User) {
    let body = json!({"username": user.name});
    wait_for("the scan to begin", secs(20), || {
        // 409: one is under way already, since the server was started.
        (server.rest("POST", "/api/v1/quota_scan", Some(&body)).status == 201).then_some(())
    });
    wait_for("the scan to end", secs(20), || {
        let running = server.rest("GET", "/api/v1/quota_scan", None).expect(200).json();
        running.as_array().unwrap().is_empty().then_some(())
    });
}

/// A file system of one MiB. Dropping it unmounts.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path) -> Self {
        let done = Tool::new("mount", "mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=755", "none"])
            .arg(dir)
            .run();
        assert_eq!(
            done.code,
            Some(0),
            "a full disk needs a file system of its own, which only root may mount:\n{}",
            done.report()
        );
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        Self(dir.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server has the directory open, so it goes away when that does.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
