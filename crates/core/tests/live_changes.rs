//! How changes of an account reach its open sessions, over the API and in the database; and what becomes of
//! usage while the provider is away.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{House, KEY, OTHER_KEY, data, path, walk};
use tidegate_core::{
    FsPolicy, Protocol, ScanError, Session, TrackQuota, UploadMode, UploadOptions, User, UserPatch,
};
use tidegate_vfs::{FsError, Links, MemoryStorage, OpenOptions};
use tokio_util::sync::CancellationToken;

const NEW: UploadOptions = UploadOptions {
    read: false,
    create: true,
    exclusive: false,
    truncate: true,
    resume: false,
    expected_size: 0,
};

fn is_over(session: &Session) -> bool {
    session.cancelled().is_cancelled()
}

#[tokio::test]
async fn a_change_over_the_api_reaches_open_sessions_at_once() {
    type Change = fn(&mut UserPatch);
    let cases: [(&str, bool, Change); 9] = [
        ("disabled", true, |patch| patch.status = Some(0)),
        ("expired", true, |patch| patch.expiration_date = Some(1)),
        ("key removed", true, |patch| patch.public_keys = Some(vec![OTHER_KEY.into()])),
        ("address denied", true, |patch| patch.denied_ip = Some(vec!["192.0.2.0/24".into()])),
        ("home moved", true, |patch| patch.home_dir = Some("/srv/other".into())),
        ("key added", false, |patch| patch.public_keys = Some(vec![OTHER_KEY.into(), KEY.into()])),
        ("password set", false, |patch| patch.password = Some("$6$nobody$knows".into())),
        ("another address denied", false, |patch| patch.denied_ip = Some(vec!["192.0.3.0/24".into()])),
        ("quota", false, |patch| patch.quota_size = Some(1)),
    ];
    for (name, ends, change) in cases {
        let house = House::new(UploadMode::Standard, |_| {});
        let (one, two) = (house.log_in().await.unwrap(), house.log_in().await.unwrap());
        let mut patch = UserPatch::default();
        change(&mut patch);
        house.accounts.update(7, patch).await.unwrap();
        assert_eq!((is_over(&one), is_over(&two)), (ends, ends), "{name}");
    }
    let house = House::new(UploadMode::Standard, |_| {});
    let session = house.log_in().await.unwrap();
    house.accounts.delete(7).await.unwrap();
    assert!(is_over(&session), "removed");
}

#[tokio::test]
async fn permissions_quota_and_bandwidth_count_from_the_next_operation_on() {
    let house = House::new(UploadMode::Standard, |_| {});
    let session = house.log_in().await.unwrap();
    let files = session.files(Protocol::Sftp);
    let open = files.upload(&path("/f"), NEW).await.unwrap();
    open.write_at(0, data(100)).await.unwrap();
    let patch = UserPatch { quota_size: Some(150), ..UserPatch::default() };
    house.accounts.update(7, patch).await.unwrap();
    assert!(matches!(open.write_at(100, data(51)).await, Err(FsError::QuotaExceeded)));
    open.write_at(100, data(50)).await.unwrap();
    open.abort("test").await;
    let only_list = [("/".to_owned(), vec!["list".to_owned()])].into_iter().collect();
    let patch = UserPatch { permissions: Some(only_list), ..UserPatch::default() };
    house.accounts.update(7, patch).await.unwrap();
    assert!(matches!(files.download(&path("/f")).await, Err(FsError::Denied)));
    assert!(matches!(files.remove_file(&path("/f")).await, Err(FsError::Denied)));
    assert!(files.metadata(&path("/f"), Links::Keep).await.is_ok());
    assert!(!is_over(&session));
}

#[tokio::test(start_paused = true)]
async fn a_change_in_the_database_is_found_within_two_seconds() {
    type Change = fn(&mut User);
    let cases: [(&str, bool, Change); 4] = [
        ("disabled", true, |user| user.active = false),
        ("key removed", true, |user| user.public_keys = vec![OTHER_KEY.into()]),
        ("made anew", true, |user| user.id += 1),
        ("files uploaded elsewhere", false, |user| user.used.size_bytes = 990),
    ];
    for (name, ends, change) in cases {
        let house = House::new(UploadMode::Standard, |draft| draft.quota_size = 1000);
        let session = house.log_in().await.unwrap();
        let shutdown = CancellationToken::new();
        let watching = tokio::spawn(house.sessions.clone().watch(shutdown.clone()));
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        assert!(!is_over(&session), "{name}");
        house.store.change(change);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(is_over(&session), ends, "{name}");
        if !ends {
            let files = session.files(Protocol::Sftp);
            let open = files.upload(&path("/f"), NEW).await.unwrap();
            assert!(matches!(open.write_at(0, data(11)).await, Err(FsError::QuotaExceeded)), "{name}");
            open.write_at(0, data(10)).await.unwrap();
            open.abort("test").await;
        }
        shutdown.cancel();
        watching.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_needs_no_provider_and_an_absent_provider_ends_nobody() {
    let house = House::new(UploadMode::Standard, |draft| draft.expiration_date = 1_005_000);
    let session = house.log_in().await.unwrap();
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn(house.sessions.clone().watch(shutdown.clone()));
    house.store.away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!is_over(&session));
    house.now.store(1_005_001, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_over(&session));
    house.store.away.store(false, Ordering::Relaxed);
    let reads = house.store.reads.load(Ordering::Relaxed);
    drop(session);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(house.store.reads.load(Ordering::Relaxed), reads, "nobody is connected, nobody is read");
    shutdown.cancel();
    watching.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_kept_its_sessions() {
    let house = House::new(UploadMode::Standard, |_| {});
    let session = house.log_in().await.unwrap();
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn(house.sessions.clone().watch(shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert!(!is_over(&session));
    house.store.damaged.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(is_over(&session));
    shutdown.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn usage_is_kept_while_the_provider_is_away_even_after_the_last_session() {
    let house = House::new(UploadMode::Standard, |_| {});
    let session = house.log_in().await.unwrap();
    let files = session.files(Protocol::Sftp);
    house.store.away.store(true, Ordering::Relaxed);
    let open = files.upload(&path("/f"), NEW).await.unwrap();
    open.write_at(0, data(100)).await.unwrap();
    open.finish().await.unwrap();
    drop((session, files, open));
    house.sessions.write_back_usage().await;
    assert_eq!(house.store.used(), (0, 0));
    house.store.away.store(false, Ordering::Relaxed);
    house.sessions.write_back_usage().await;
    assert_eq!(house.store.used(), (100, 1));
    house.sessions.write_back_usage().await;
    assert_eq!(house.store.used(), (100, 1), "once");
}

/// A home with 5 bytes in 2 files that no session put there.
async fn furnish(house: &House) {
    house.storage.create_dir(&path("/d"), 0o755).await.unwrap();
    for (name, size) in [("/d/.hidden", 2), ("/f", 3)] {
        let how = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        house.storage.open(&path(name), &how).await.unwrap().write_at(0, data(size)).await.unwrap();
    }
    for (target, link) in [("/f", "/link"), ("/d", "/dirlink"), ("/", "/d/loop"), ("/nothing", "/dangling")] {
        house.storage.symlink(&path(target), &path(link)).await.unwrap();
    }
}

#[tokio::test]
async fn a_scan_replaces_the_usage_or_leaves_it() {
    let over = |track, home: Result<(), FsError>| {
        let storage = Arc::new(MemoryStorage::new());
        let house = House::over(storage, FsPolicy::default(), track, |draft| {
            (draft.used_quota_size, draft.used_quota_files) = (700, 7);
        });
        house.set_home(home);
        house
    };
    let cases = [
        (TrackQuota::Always, Ok(()), (5, 2)),
        (TrackQuota::Restricted, Ok(()), (5, 2)),
        (TrackQuota::Off, Ok(()), (700, 7)),
        (TrackQuota::Always, Err(FsError::NotFound), (700, 7)),
        (TrackQuota::Always, Err(FsError::Denied), (700, 7)),
        (TrackQuota::Always, Err(FsError::NotDir), (0, 0)),
    ];
    for (track, home, want) in cases {
        let row = format!("{track:?}, {home:?}");
        let house = over(track, home);
        furnish(&house).await;
        house.sessions.scan("anna").await.unwrap();
        house.scans_done().await;
        assert_eq!(house.store.used(), want, "{row}");
    }
    let house = over(TrackQuota::Always, Ok(()));
    assert!(matches!(house.sessions.scan("zoe").await, Err(ScanError::User(_))));
    house.sessions.scan("anna").await.unwrap();
    assert!(matches!(house.sessions.scan("anna").await, Err(ScanError::Running)));
    assert_eq!(house.sessions.scans()[0].start_time, 1_000_000);
    house.scans_done().await;
}

#[tokio::test]
async fn a_scan_whose_result_cannot_be_written_changes_nothing() {
    let house = House::new(UploadMode::Standard, |draft| draft.quota_size = 1000);
    furnish(&house).await;
    let files = house.files().await;
    house.store.away.store(true, Ordering::Relaxed);
    let open = files.upload(&path("/g"), NEW).await.unwrap();
    open.write_at(0, data(100)).await.unwrap();
    open.finish().await.unwrap();
    house.store.away.store(false, Ordering::Relaxed);
    house.sessions.scan("anna").await.unwrap();
    // The user was read; what follows does not reach the provider.
    house.store.away.store(true, Ordering::Relaxed);
    house.scans_done().await;
    house.store.away.store(false, Ordering::Relaxed);
    house.sessions.write_back_usage().await;
    assert_eq!(house.store.used(), (100, 1));
    house.sessions.scan("anna").await.unwrap();
    house.scans_done().await;
    assert_eq!((house.store.used(), walk(&house.storage, true).await), ((105, 3), (105, 3)));
}

/// A program changed the home while a scan ran: the scan is run once more.
#[tokio::test]
async fn a_scan_asked_for_during_a_scan_follows_it() {
    let house = House::new(UploadMode::Standard, |_| {});
    furnish(&house).await;
    let session = house.log_in().await.unwrap();
    session.rescan();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let how = OpenOptions { write: true, create: true, ..OpenOptions::default() };
    for number in 0..50 {
        house.storage.open(&path(&format!("/d/{number}")), &how).await.unwrap();
    }
    session.rescan();
    house.scans_done().await;
    assert_eq!(house.store.used(), (5, 52));
}
