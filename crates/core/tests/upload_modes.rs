//! What is on disk and in the books after an upload that went wrong, in every mode; and what an upload that
//! went well keeps of the file that it replaced.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{House, data, path, walk};
use tidegate_core::{FsPolicy, Protocol, TrackQuota, Transfer, UploadMode, UploadOptions, UserFs};
use tidegate_vfs::{FsError, Links, MemoryStorage, OpenOptions, SetAttrs, Storage, Timestamp, VPath};

const NEW: UploadOptions = UploadOptions {
    read: false,
    create: true,
    exclusive: false,
    truncate: true,
    resume: false,
    expected_size: 0,
};
const RESUME: UploadOptions = UploadOptions { truncate: false, resume: true, ..NEW };
/// As WinSCP opens a file that it goes on with.
const KEEP: UploadOptions = UploadOptions { truncate: false, ..NEW };

const OLD: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    New,
    Overwrite,
    Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection ends after 200 bytes.
    Gone,
    /// The disk takes 150 bytes.
    DiskFull,
    /// The file may have 650 bytes in all; it comes in pieces of 100.
    Quota,
    /// Everything is written, but cannot be forced to the disk.
    Sync,
    /// The last step fails.
    Rename,
}

async fn put(files: &UserFs, name: &str, size: usize) {
    let transfer = files.upload(&path(name), NEW).await.unwrap();
    transfer.write_at(0, data(size)).await.unwrap();
    transfer.finish().await.unwrap();
}

async fn size(storage: &Arc<dyn Storage>, name: &str) -> Option<u64> {
    storage.metadata(&path(name), Links::Keep).await.ok().map(|m| m.size)
}

/// Uploads until something goes wrong; whether the client was told.
async fn go_wrong(house: &House, transfer: &Transfer, fault: Fault, start: u64) -> bool {
    match fault {
        Fault::Gone => {
            transfer.write_at(start, data(200)).await.unwrap();
            house.sessions.close_all("test");
            transfer.abort("the client is gone").await;
            true
        }
        Fault::DiskFull | Fault::Quota => {
            if fault == Fault::DiskFull {
                house.faults.disk_takes(150);
            }
            let mut at = start;
            while transfer.write_at(at, data(100)).await.is_ok() {
                at += 100;
            }
            transfer.finish().await.is_err()
        }
        Fault::Sync | Fault::Rename => {
            house.faults.rename_fails(fault == Fault::Rename);
            house.faults.sync_fails(fault == Fault::Sync);
            transfer.write_at(start, data(200)).await.unwrap();
            transfer.finish().await.is_err()
        }
    }
}

#[tokio::test]
async fn the_table_of_failures() {
    use Fault::{DiskFull, Gone, Quota, Rename, Sync};
    use UploadMode::{Atomic, AtomicWithResume, Standard};
    // Mode and fault; what is there afterwards of a new file, an overwritten one and a resumed one.
    let table = [
        (Standard, Gone, [Some(200), Some(200), Some(700)]),
        (Standard, DiskFull, [Some(150), Some(150), Some(650)]),
        (Standard, Quota, [Some(600), Some(600), Some(600)]),
        (Standard, Sync, [Some(200), Some(200), Some(700)]),
        (Atomic, Gone, [None, Some(OLD), Some(OLD)]),
        (Atomic, DiskFull, [None, Some(OLD), Some(OLD)]),
        (Atomic, Quota, [None, Some(OLD), Some(OLD)]),
        (Atomic, Sync, [None, Some(OLD), Some(OLD)]),
        (Atomic, Rename, [None, Some(OLD), Some(OLD)]),
        (AtomicWithResume, Gone, [Some(200), Some(200), Some(700)]),
        (AtomicWithResume, DiskFull, [Some(150), Some(150), Some(650)]),
        (AtomicWithResume, Quota, [Some(600), Some(600), Some(600)]),
        (AtomicWithResume, Sync, [Some(200), Some(200), Some(700)]),
        (AtomicWithResume, Rename, [None, Some(OLD), Some(OLD)]),
    ];
    for (mode, fault, after) in table {
        for (kind, after) in [Kind::New, Kind::Overwrite, Kind::Resume].into_iter().zip(after) {
            let row = format!("{mode:?}, {fault:?}, {kind:?}");
            let policy = FsPolicy { upload_mode: mode, fsync: fault == Sync, ..FsPolicy::default() };
            let house = House::over(Arc::new(MemoryStorage::new()), policy, TrackQuota::Always, |draft| {
                draft.quota_size = if fault == Quota { 650 } else { 0 };
            });
            let files = house.files().await;
            if kind != Kind::New {
                put(&files, "/f", OLD as usize).await;
            }
            let how = if kind == Kind::Resume { RESUME } else { NEW };
            let transfer = files.upload(&path("/f"), how).await.unwrap();
            if mode.is_atomic() {
                let old = (kind != Kind::New).then_some(OLD);
                assert_eq!(size(&house.storage, "/f").await, old, "{row}: untouched while it is written");
            }
            let start = if kind == Kind::Resume { OLD } else { 0 };
            assert!(go_wrong(&house, &transfer, fault, start).await, "{row}: the client must be told");
            assert_eq!(size(&house.storage, "/f").await, after, "{row}");
            let real = walk(&house.storage, true).await;
            assert_eq!(real, walk(&house.storage, false).await, "{row}: no temporary file is left");
            assert_eq!(house.store.used(), real, "{row}: usage");
        }
    }
}

#[tokio::test]
async fn a_failed_upload_can_be_resumed() {
    for mode in [UploadMode::Standard, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        transfer.write_at(0, data(200)).await.unwrap();
        transfer.abort("the client is gone").await;
        let transfer = files.upload(&path("/f"), RESUME).await.unwrap();
        transfer.write_at(200, data(300)).await.unwrap();
        transfer.finish().await.unwrap();
        assert_eq!(size(&house.storage, "/f").await, Some(500), "{mode:?}");
        assert_eq!(house.store.used(), (500, 1), "{mode:?}");
    }
}

/// Clients have many writes under way. What is behind one that failed must not be kept, even where it would fit.
#[tokio::test]
async fn a_failed_upload_leaves_no_gap() {
    let modes = [UploadMode::Standard, UploadMode::Atomic, UploadMode::AtomicWithResume];
    for (mode, left) in modes.into_iter().zip([Some(600), None, Some(600)]) {
        let house = House::new(mode, |draft| draft.quota_size = 650);
        let files = house.files().await;
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        transfer.write_at(0, data(500)).await.unwrap();
        assert!(matches!(transfer.write_at(500, data(200)).await, Err(FsError::QuotaExceeded)));
        assert!(matches!(transfer.write_at(630, data(10)).await, Err(FsError::QuotaExceeded)), "{mode:?}");
        transfer.write_at(500, data(100)).await.unwrap();
        transfer.write_at(0, data(10)).await.unwrap();
        assert!(matches!(transfer.finish().await, Err(FsError::QuotaExceeded)), "{mode:?}");
        assert_eq!(size(&house.storage, "/f").await, left, "{mode:?}");
    }
}

/// OpenSSH's sftp cuts a file to the length that it knows to be written, and of a resumed file to nothing.
#[tokio::test]
async fn a_failed_resume_cannot_cut_what_was_there_before() {
    for mode in [UploadMode::Standard, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |draft| draft.quota_size = 650);
        let files = house.files().await;
        put(&files, "/f", OLD as usize).await;
        let transfer = files.upload(&path("/f"), RESUME).await.unwrap();
        transfer.write_at(OLD, data(100)).await.unwrap();
        transfer.write_at(OLD + 100, data(100)).await.unwrap_err();
        let cut = |size| SetAttrs { size: Some(size), ..SetAttrs::default() };
        files.set_open_attrs(&transfer, &cut(0)).await.unwrap_err();
        files.set_open_attrs(&transfer, &cut(OLD + 50)).await.unwrap();
        transfer.finish().await.unwrap_err();
        assert_eq!(size(&house.storage, "/f").await, Some(OLD + 50), "{mode:?}");

        // Nothing has failed: whoever appends may begin anew.
        let transfer = files.upload(&path("/f"), RESUME).await.unwrap();
        files.set_open_attrs(&transfer, &cut(0)).await.unwrap();
        transfer.finish().await.unwrap();
        assert_eq!((size(&house.storage, "/f").await, house.store.used()), (Some(0), (0, 1)), "{mode:?}");
    }
}

#[tokio::test]
async fn a_filepart_is_continued_without_truncating_and_renamed() {
    for mode in [UploadMode::Standard, UploadMode::Atomic, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        put(&files, "/f", 50).await;
        put(&files, "/f.filepart", 200).await;
        let transfer = files.upload(&path("/f.filepart"), KEEP).await.unwrap();
        transfer.write_at(200, data(100)).await.unwrap();
        transfer.finish().await.unwrap();
        files.rename(&path("/f.filepart"), &path("/f")).await.unwrap();
        assert_eq!(size(&house.storage, "/f").await, Some(300), "{mode:?}");
        assert_eq!(house.store.used(), (300, 1), "{mode:?}");
    }
}

#[tokio::test]
async fn mode_owner_and_times_survive_the_replacement() {
    for mode in [UploadMode::Standard, UploadMode::Atomic, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        put(&files, "/f", 50).await;
        let old = SetAttrs { mode: Some(0o640), uid: Some(1234), gid: Some(567), ..SetAttrs::default() };
        house.storage.set_attrs(&path("/f"), &old, Links::Keep).await.unwrap();
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        transfer.write_at(0, data(10)).await.unwrap();
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let times = SetAttrs { accessed: time(1_000), modified: time(2_000), ..SetAttrs::default() };
        files.set_open_attrs(&transfer, &times).await.unwrap();
        transfer.finish().await.unwrap();
        let is = house.storage.metadata(&path("/f"), Links::Keep).await.unwrap();
        assert_eq!((is.size, is.mode, is.uid, is.gid), (10, 0o640, 1234, 567), "{mode:?}");
        assert_eq!((Some(is.accessed), Some(is.modified)), (time(1_000), time(2_000)), "{mode:?}");
    }
}

#[tokio::test]
async fn an_upload_follows_the_directory_that_it_is_in() {
    for mode in [UploadMode::Standard, UploadMode::Atomic, UploadMode::AtomicWithResume] {
        let house = House::new(mode, |_| {});
        let files = house.files().await;
        for dir in ["/a", "/a/b"] {
            files.create_dir(&path(dir)).await.unwrap();
        }
        files.symlink(&path("/a"), &path("/link")).await.unwrap();
        let transfer = files.upload(&path("/link/b/f"), NEW).await.unwrap();
        transfer.write_at(0, data(10)).await.unwrap();
        files.rename(&path("/a/b"), &path("/b")).await.unwrap();
        files.rename(&path("/b"), &path("/c")).await.unwrap();
        transfer.finish().await.unwrap();
        assert_eq!(size(&house.storage, "/c/f").await, Some(10), "{mode:?}");
        assert_eq!((house.store.used(), walk(&house.storage, true).await), ((10, 1), (10, 1)), "{mode:?}");
    }
}

#[tokio::test]
async fn files_and_directories_are_synced_if_the_configuration_says_so() {
    for (mode, fsync, want) in [
        (UploadMode::Standard, false, (0, 0)),
        (UploadMode::Atomic, false, (0, 0)),
        // The second upload in place changes no name.
        (UploadMode::Standard, true, (2, 1)),
        (UploadMode::Atomic, true, (2, 2)),
    ] {
        let policy = FsPolicy { upload_mode: mode, fsync, ..FsPolicy::default() };
        let house = House::over(Arc::new(MemoryStorage::new()), policy, TrackQuota::Always, |_| {});
        let files = house.files().await;
        put(&files, "/f", 10).await;
        put(&files, "/f", 20).await;
        assert_eq!(house.faults.synced(), want, "{mode:?}");
    }
}

/// A power failure loses what was not forced to the disk, in any order: no step may overtake the one before it.
#[tokio::test]
async fn nothing_overtakes_anything_on_its_way_to_the_disk() {
    let atomic = ["write", "write", "sync file", "close", "rename", "sync directory"];
    let standard = ["write", "write", "sync file", "close", "sync directory"];
    for (mode, want) in [
        (UploadMode::Standard, &standard[..]),
        (UploadMode::Atomic, &atomic),
        (UploadMode::AtomicWithResume, &atomic),
    ] {
        let policy = FsPolicy { upload_mode: mode, fsync: true, ..FsPolicy::default() };
        let house = House::over(Arc::new(MemoryStorage::new()), policy, TrackQuota::Always, |_| {});
        let files = house.files().await;
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        transfer.write_at(0, data(10)).await.unwrap();
        transfer.write_at(10, data(10)).await.unwrap();
        transfer.finish().await.unwrap();
        assert_eq!(house.faults.steps(), want, "{mode:?}");
    }
}

const OLD_TEMPORARY: &str = ".sftpgo-upload.0123456789abcdefghij.f";
const YOUNG_TEMPORARY: &str = ".sftpgo-upload.0123456789abcdefghik.f";

/// A temporary file that was last written at this second.
async fn leave_behind(house: &House, name: &str, written: i64) {
    let how = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
    let file = house.storage.open(&path(name), &how).await.unwrap();
    file.write_at(0, data(30)).await.unwrap();
    let modified = Some(Timestamp { seconds: written, nanos: 0 });
    file.set_attrs(&SetAttrs { modified, ..SetAttrs::default() }).await.unwrap();
}

async fn gone(house: &House, name: &str) {
    let gone = async {
        while size(&house.storage, name).await.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the file is removed");
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_the_first_login_and_hidden_until_then() {
    // The server's clock says 1000 seconds.
    let house = House::new(UploadMode::Atomic, |_| {});
    house.storage.create_dir(&path("/d"), 0o755).await.unwrap();
    let (old, young) = (format!("/d/{OLD_TEMPORARY}"), format!("/d/{YOUNG_TEMPORARY}"));
    leave_behind(&house, &old, 999).await;
    leave_behind(&house, &young, 1001).await;
    let files = house.files().await;
    gone(&house, &old).await;
    assert_eq!(size(&house.storage, &young).await, Some(30), "perhaps another server writes to it");

    let mut listing = files.list(&path("/d")).await.unwrap();
    assert!(listing.next(10).await.unwrap().is_empty(), "hidden");
    let young_path = path(&young);
    assert!(matches!(files.download(&young_path).await, Err(FsError::NotFound)));
    assert!(matches!(files.metadata(&young_path, Links::Keep).await, Err(FsError::NotFound)));
    assert!(matches!(files.remove_file(&young_path).await, Err(FsError::NotFound)));
    assert!(matches!(files.rename(&young_path, &path("/mine")).await, Err(FsError::NotFound)));
    assert!(matches!(files.upload(&young_path, NEW).await, Err(FsError::Denied)));
    assert!(matches!(files.create_dir(&path(&format!("/{OLD_TEMPORARY}"))).await, Err(FsError::Denied)));
    assert_eq!(size(&house.storage, &young).await, Some(30));

    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!(house.store.used(), (30, 1), "a file that nobody here writes to counts");
}

#[tokio::test]
async fn a_directory_with_nothing_but_what_a_crash_left_can_be_removed() {
    let house = House::new(UploadMode::Standard, |_| {});
    let files = house.files().await;
    files.create_dir(&path("/d")).await.unwrap();
    leave_behind(&house, &format!("/d/{OLD_TEMPORARY}"), 999).await;
    files.remove_dir(&path("/d")).await.unwrap();
    assert_eq!(walk(&house.storage, true).await, (0, 0));
}

#[tokio::test]
async fn a_scan_removes_what_a_failed_upload_could_not_remove() {
    let house = House::new(UploadMode::Atomic, |_| {});
    let files = house.files().await;
    put(&files, "/f", 50).await;
    let transfer = files.upload(&path("/f"), NEW).await.unwrap();
    transfer.write_at(0, data(200)).await.unwrap();
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!(house.store.used(), (50, 1), "an upload under way is not counted by a scan");
    house.faults.remove_fails(true);
    transfer.abort("the client is gone").await;
    assert_eq!(walk(&house.storage, true).await, (250, 2));
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!(house.store.used(), (250, 2), "what cannot be removed counts");
    house.faults.remove_fails(false);
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!((house.store.used(), walk(&house.storage, true).await), ((50, 1), (50, 1)));
}

#[tokio::test]
async fn a_replacement_whose_room_was_taken_fails_at_its_end() {
    let house = House::new(UploadMode::Atomic, |draft| draft.quota_size = 1000);
    let files = house.files().await;
    put(&files, "/f", 600).await;
    let transfer = files.upload(&path("/f"), NEW).await.unwrap();
    transfer.write_at(0, data(700)).await.unwrap();
    files.remove_file(&path("/f")).await.unwrap();
    put(&files, "/other", 900).await;
    assert!(matches!(transfer.finish().await, Err(FsError::QuotaExceeded)));
    assert_eq!((house.store.used(), walk(&house.storage, true).await), ((900, 1), (900, 1)));
}

#[tokio::test]
async fn a_file_without_a_name_is_charged_until_it_is_closed() {
    let house = House::new(UploadMode::Standard, |draft| draft.quota_size = 1000);
    let files = house.files().await;
    let transfer = files.upload(&path("/f"), NEW).await.unwrap();
    files.remove_file(&path("/f")).await.unwrap();
    transfer.write_at(0, data(900)).await.unwrap();
    assert_eq!(house.store.used(), (0, 0));
    let other = files.upload(&path("/g"), NEW).await.unwrap();
    assert!(matches!(other.write_at(0, data(101)).await, Err(FsError::QuotaExceeded)));
    transfer.finish().await.unwrap();
    other.write_at(0, data(1000)).await.unwrap();
    other.abort("test").await;
    assert_eq!(house.store.used(), (1000, 1));
}

/// One transfer of 255 KiB at 30 KB/s takes nearly nine seconds, in pieces, and ends when it is told to.
#[tokio::test(start_paused = true)]
async fn a_slow_transfer_moves_in_pieces_and_can_be_ended() {
    let house = House::new(UploadMode::Standard, |draft| {
        (draft.upload_bandwidth, draft.download_bandwidth) = (30, 30);
    });
    let session = house.log_in().await.unwrap();
    let files = session.files(Protocol::Sftp);
    let start = tokio::time::Instant::now();
    let transfer = files.upload(&path("/f"), NEW).await.unwrap();
    transfer.write_at(0, data(261_120)).await.unwrap();
    transfer.finish().await.unwrap();
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(8_704)..Duration::from_millis(8_800)).contains(&elapsed), "{elapsed:?}");

    let start = tokio::time::Instant::now();
    let download = files.download(&path("/f")).await.unwrap();
    let mut offset = 0;
    loop {
        let block = download.read_at(offset, session.buffers().take(261_120)).await.unwrap();
        if block.is_empty() {
            break;
        }
        assert!(block.len() <= 32_768, "{} bytes at once", block.len());
        offset += block.len() as u64;
    }
    download.finish().await.unwrap();
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(8_704)..Duration::from_millis(8_800)).contains(&elapsed), "{elapsed:?}");

    let transfer = Arc::new(files.upload(&path("/g"), NEW).await.unwrap());
    let writing = tokio::spawn({
        let transfer = transfer.clone();
        async move { transfer.write_at(0, data(261_120)).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let listed = files.list(&VPath::root()).await.unwrap().next(10).await.unwrap();
    assert!(!listed.is_empty(), "other operations go on");
    let start = tokio::time::Instant::now();
    session.end("test");
    assert!(matches!(writing.await.unwrap(), Err(FsError::Cancelled)));
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    transfer.abort("test").await;
    assert_eq!(size(&house.storage, "/g").await, Some(32_768), "what the line has carried");
}
