//! Programs of the system beside the door: what they may have, what they are charged for.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use support::{House, data, path};
use tidegate_core::{
    Direction, FsPolicy, Perms, Protocol, SystemPlace, TrackQuota, UploadMode, UploadOptions, UserDraft,
};
use tidegate_vfs::{FsError, LocalIo, LocalStorage, MemoryStorage, Owner};

/// A home on disk with a directory, a file in it, a link to it, and links out.
fn house(change: impl FnOnce(&mut UserDraft)) -> (House, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("dir/sub")).unwrap();
    std::fs::write(home.path().join("dir/file"), b"12345").unwrap();
    std::os::unix::fs::symlink("dir", home.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", home.path().join("out")).unwrap();
    let storage = LocalStorage::open(&LocalIo::default(), home.path(), Owner::default()).unwrap();
    let policy = FsPolicy { upload_mode: UploadMode::Atomic, ..FsPolicy::default() };
    let house = House::over(Arc::new(storage), policy, TrackQuota::Always, change);
    (house, home)
}

const NEEDS: Perms = Perms::LIST.and(Perms::DOWNLOAD).and(Perms::UPLOAD);

fn place(dir: &str, name: Option<&str>) -> SystemPlace {
    SystemPlace { dir: path(dir), name: name.map(|name| name.as_bytes().to_vec()) }
}

#[tokio::test]
async fn a_path_becomes_a_directory_without_links_and_a_name() {
    let (house, home) = house(|_| {});
    let files = house.log_in().await.unwrap().files(Protocol::Ssh);
    for (asked, want) in [
        ("/", Ok(place("/", None))),
        ("/dir", Ok(place("/dir", None))),
        ("/link/sub", Ok(place("/dir/sub", None))),
        ("/link/file", Ok(place("/dir", Some("file")))),
        ("/link/new", Ok(place("/dir", Some("new")))),
        ("/missing/new", Err(FsError::NotFound)),
        ("/dir/file/new", Err(FsError::NotDir)),
        ("/out", Err(FsError::Outside)),
        ("/out/passwd", Err(FsError::Outside)),
    ] {
        let run = files.system_run(&[path(asked)], NEEDS, false).await;
        match (run, want) {
            (Ok(run), Ok(want)) => {
                assert_eq!((run.places(), run.home()), (&[want][..], home.path()), "{asked}");
                assert!(!run.writes());
            }
            (Err(error), Err(want)) => assert_eq!(error.to_string(), want.to_string(), "{asked}"),
            (run, want) => panic!("{asked}: {run:?} instead of {want:?}"),
        }
    }
    assert!(files.system_run(&[], NEEDS, false).await.is_err());
}

#[tokio::test]
async fn permissions_must_hold_at_the_place_and_below_it() {
    let list = |perms: &[&str]| perms.iter().map(|perm| (*perm).to_owned()).collect::<Vec<_>>();
    let (house, _home) = house(|draft| {
        draft.permissions.insert("/".into(), list(&["list", "download", "upload"]));
        draft.permissions.insert("/dir/sub".into(), list(&["list"]));
        draft.permissions.insert("/free".into(), list(&["*"]));
    });
    let files = house.log_in().await.unwrap().files(Protocol::Ssh);
    for (asked, needed, allowed) in [
        ("/dir/sub", Perms::LIST, true),
        ("/dir/sub", NEEDS, false),
        ("/dir", Perms::LIST, true),
        ("/dir", NEEDS, false),
        // The link's own name says nothing about what it leads to.
        ("/link", NEEDS, false),
        // The program gets the directory that holds the file.
        ("/dir/file", NEEDS, false),
        ("/dir/file", Perms::LIST, true),
        ("/", NEEDS, false),
        ("/new", NEEDS, false),
    ] {
        let run = files.system_run(&[path(asked)], needed, false).await;
        assert_eq!(run.is_ok(), allowed, "{asked} {needed:?}: {run:?}");
        assert!(allowed || matches!(run, Err(FsError::Denied)), "{asked}: {run:?}");
    }
    // One of several is enough to refuse all.
    let both = [path("/free"), path("/dir")];
    assert!(matches!(files.system_run(&both, NEEDS, false).await, Err(FsError::Denied)));
}

#[tokio::test]
async fn files_that_are_not_on_disk_are_for_no_program() {
    let house = House::over(Arc::new(MemoryStorage::new()), FsPolicy::default(), TrackQuota::Always, |_| {});
    let files = house.files().await;
    assert!(matches!(files.system_run(&[path("/")], NEEDS, true).await, Err(FsError::Unsupported)));
}

#[tokio::test]
async fn what_the_client_sends_fills_the_quota_until_the_files_are_counted() {
    let (house, home) = house(|draft| draft.quota_size = 1000);
    let session = house.log_in().await.unwrap();
    let files = session.files(Protocol::Ssh);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!(house.store.used(), (5, 1));

    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    assert_eq!((run.largest_file(true), run.largest_file(false)), (Some(1000), Some(995)));
    let mut input = run.stream(Direction::Upload);
    let mut output = run.stream(Direction::Download);
    let mut errors = run.stream(Direction::Download);
    input.pass(900).await.unwrap();
    // What it answers costs nothing.
    output.pass(5000).await.unwrap();
    errors.pass(5000).await.unwrap();
    // All sessions share what is left, programs as well as uploads.
    let other = house.log_in().await.unwrap().files(Protocol::Ssh);
    let second = other.system_run(&[path("/")], NEEDS, true).await.unwrap();
    let mut more = second.stream(Direction::Upload);
    assert!(matches!(more.pass(96).await, Err(FsError::QuotaExceeded)));
    more.pass(95).await.unwrap();
    assert!(matches!(input.pass(1).await, Err(FsError::QuotaExceeded)));
    assert!(other.system_run(&[path("/")], NEEDS, true).await.is_err(), "nothing is left");
    // Reading needs no room.
    other.system_run(&[path("/")], NEEDS, false).await.unwrap();

    // Most of it was talk: after the count there is room again.
    write(home.path(), "dir/new", 100);
    drop((input, output, errors, more));
    drop(run);
    drop(second);
    house.scans_done().await;
    assert_eq!(house.store.used(), (105, 2));
    let third = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    third.stream(Direction::Upload).pass(895).await.unwrap();
}

#[tokio::test]
async fn a_program_that_fills_the_home_is_held_counted_again_and_told() {
    let (house, home) = house(|draft| (draft.quota_size, draft.quota_files) = (1000, 4));
    let files = house.log_in().await.unwrap().files(Protocol::Ssh);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    let holds = std::cell::RefCell::new(Vec::new());
    write(home.path(), "dir/large", 2000);
    let error = run
        .watch(|hold| {
            holds.borrow_mut().push(hold);
            match holds.borrow().len() {
                // Gone before it is counted again: it was only passing through.
                1 => std::fs::remove_file(home.path().join("dir/large")).unwrap(),
                2 => (0..4).for_each(|number| write(home.path(), &format!("dir/{number}"), 0)),
                _ => {}
            }
        })
        .await;
    assert!(matches!(error, FsError::QuotaExceeded), "{error}");
    assert_eq!(*holds.borrow(), [true, false, true]);
    // It is charged to all sessions until a scan has found it.
    assert!(matches!(files.system_run(&[path("/")], NEEDS, true).await, Err(FsError::QuotaExceeded)));
    drop(run);
    house.scans_done().await;
    assert_eq!(house.store.used(), (5, 5));
}

#[tokio::test]
async fn a_program_took_room_unseen_under_the_name_of_an_upload() {
    let (house, home) = house(|draft| draft.quota_size = 1000);
    let files = house.log_in().await.unwrap().files(Protocol::Sftp);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    let how = UploadOptions {
        read: false,
        create: true,
        exclusive: false,
        truncate: true,
        resume: false,
        expected_size: 0,
    };
    let upload = files.upload(&path("/up"), how).await.unwrap();
    upload.write_at(0, data(300)).await.unwrap();
    let names = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let known = ["dir", "link", "out"];
    let names: Vec<_> = names.filter(|name| known.iter().all(|known| name != known)).collect();
    let [name] = &names[..] else { panic!("{names:?}") };
    let name = name.to_str().unwrap();

    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    write(home.path(), &format!("dir/{name}"), 600);
    write(home.path(), &format!("dir/sub/{name}"), 600);
    let error = tokio::time::timeout(Duration::from_secs(30), run.watch(|_| {})).await;
    assert!(matches!(error, Ok(FsError::QuotaExceeded)), "{error:?}");
    drop(run);
    house.scans_done().await;
    // The upload itself is not in the books yet.
    assert_eq!(house.store.used(), (1205, 3));
}

#[tokio::test]
async fn a_count_of_a_home_that_grows_while_it_is_read_did_not_end() {
    const FILES: usize = 3000;
    let (house, home) = house(|draft| (draft.quota_size, draft.quota_files) = (1_000_000, 4));
    let files = house.log_in().await.unwrap().files(Protocol::Ssh);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    (0..FILES).for_each(|number| write(home.path(), &format!("dir/{number}"), 1));
    let left = std::cell::RefCell::new(Vec::new());
    let error = run.watch(|_| left.borrow_mut().push(run.largest_file(false).unwrap())).await;
    assert!(matches!(error, FsError::QuotaExceeded), "{error}");
    // Held as soon as enough was seen, not when all was; then everything was counted.
    let all = 1_000_000 - 5 - FILES as u64;
    assert!(matches!(left.borrow()[..], [left] if left > all), "{left:?}");
    assert_eq!(run.largest_file(false), Some(all));
}

/// A tree below paths that are too long to be opened, moved there piece by piece, would be free.
#[tokio::test]
async fn what_is_too_deep_to_be_counted_ends_the_program_and_frees_nothing() {
    let (house, home) = house(|draft| draft.quota_size = 1000);
    let files = house.log_in().await.unwrap().files(Protocol::Ssh);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    run.stream(Direction::Upload).pass(300).await.unwrap();
    let chain = |root: &str| format!("{root}/{}", vec!["x".repeat(200); 15].join("/"));
    for root in ["dir/top", "bottom"] {
        std::fs::create_dir_all(home.path().join(chain(root))).unwrap();
    }
    write(home.path(), &format!("{}/f", chain("bottom")), 600);
    std::fs::rename(home.path().join("bottom"), home.path().join(chain("dir/top")).join("x")).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(30), run.watch(|_| {})).await;
    assert!(matches!(error, Ok(FsError::InvalidPath(_))), "{error:?}");
    drop(run);
    house.scans_done().await;
    // What was sent is all that is known of it.
    assert_eq!(house.store.used(), (305, 1));
    let run = files.system_run(&[path("/dir")], NEEDS, true).await.unwrap();
    assert_eq!(run.largest_file(false), Some(695));
    drop(run);
    house.scans_done().await;

    // Once it is reachable again, everything counts.
    std::fs::rename(home.path().join(chain("dir/top")).join("x"), home.path().join("bottom")).unwrap();
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!(house.store.used(), (605, 2));
}

#[tokio::test]
async fn streams_are_listed_as_transfers_and_counted_when_something_moved() {
    let (house, _home) = house(|_| {});
    let session = house.log_in().await.unwrap();
    let _listed = session.begin(Protocol::Ssh, "git-upload-pack /dir".into());
    let run = session.files(Protocol::Ssh).system_run(&[path("/dir")], NEEDS, false).await.unwrap();
    let mut input = run.stream(Direction::Upload);
    let output = run.stream(Direction::Download);
    let mut errors = run.stream(Direction::Download);
    input.pass(7).await.unwrap();
    errors.pass(3).await.unwrap();
    let listed = house.sessions.list().pop().unwrap();
    let mut sizes: Vec<_> = listed.active_transfers.iter().map(|t| (t.direction, t.size)).collect();
    sizes.sort_by_key(|(direction, _)| *direction == Direction::Download);
    assert_eq!(sizes[0], (Direction::Upload, 7));
    assert_eq!(sizes.iter().map(|(_, size)| size).sum::<u64>(), 10);
    assert!(listed.active_transfers.iter().all(|transfer| transfer.path == path("/dir")));
    // The first ends, the second never did anything, the third is broken off.
    input.end();
    drop((output, errors));
    let expect = |lines: [&str; 4]| {
        let text = session.events().metrics().encode().unwrap();
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
        }
    };
    expect([
        "sftpgo_uploads_total 1",
        "sftpgo_upload_size 7",
        "sftpgo_downloads_total 0",
        "sftpgo_download_errors_total 1",
    ]);
    // What a program has read before it ended by itself was not in vain.
    let mut input = run.stream(Direction::Upload);
    input.pass(5).await.unwrap();
    run.ended();
    drop(input);
    expect([
        "sftpgo_uploads_total 2",
        "sftpgo_upload_size 12",
        "sftpgo_upload_errors_total 0",
        "sftpgo_download_errors_total 1",
    ]);
    assert!(house.sessions.list().pop().unwrap().active_transfers.is_empty());
}

fn write(home: &Path, name: &str, size: usize) {
    std::fs::write(home.join(name), vec![0; size]).unwrap();
}
