//! A process that is killed between a change on disk and what it tells the provider: the next start notices.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{House, data, path, walk};
use tidegate_core::{UploadMode, UploadOptions};

const NEW: UploadOptions = UploadOptions {
    read: false,
    create: true,
    exclusive: false,
    truncate: true,
    resume: false,
    expected_size: 0,
};

fn marks(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.file_name().unwrap() != "lock").collect()
}

/// The marks as a process finds them that is started after a kill: nobody holds the lock.
fn after_a_kill(dir: &Path) -> PathBuf {
    let copy = dir.with_extension("copy");
    std::fs::create_dir(&copy).unwrap();
    for mark in marks(dir) {
        std::fs::copy(&mark, copy.join(mark.file_name().unwrap())).unwrap();
    }
    copy
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_mark_lives_from_the_first_change_to_the_last_session() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("unsettled");
    let house = House::new(UploadMode::Standard, |_| {});
    house.sessions.keep_marks(dir.clone()).await.unwrap();
    let files = house.files().await;
    files.list(&path("/")).await.unwrap();
    assert_eq!(marks(&dir).len(), 0, "nothing has changed");
    let transfer = files.upload(&path("/f"), NEW).await.unwrap();
    let other = house.files().await;
    other.upload(&path("/g"), NEW).await.unwrap().finish().await.unwrap();
    assert_eq!(marks(&dir).len(), 1);
    assert_eq!(std::fs::read(&marks(&dir)[0]).unwrap(), b"anna");
    transfer.write_at(0, data(10)).await.unwrap();
    transfer.finish().await.unwrap();
    drop((transfer, files));
    assert_eq!(marks(&dir).len(), 1, "the other one is still there");
    drop(other);
    assert_eq!(marks(&dir).len(), 0);
}

#[tokio::test]
async fn a_mark_stays_if_the_provider_could_not_be_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("unsettled");
    let house = House::new(UploadMode::Standard, |_| {});
    house.sessions.keep_marks(dir.clone()).await.unwrap();
    let files = house.files().await;
    house.store.away.store(true, std::sync::atomic::Ordering::Relaxed);
    files.upload(&path("/f"), NEW).await.unwrap().finish().await.unwrap();
    drop(files);
    drop(house);
    assert_eq!(marks(&dir).len(), 1);
}

#[tokio::test]
async fn a_start_after_a_kill_counts_and_tidies_the_home() {
    for mode in [UploadMode::Standard, UploadMode::Atomic] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("unsettled");
        let house = House::new(mode, |_| {});
        house.sessions.keep_marks(dir.clone()).await.unwrap();
        let files = house.files().await;
        let transfer = files.upload(&path("/f"), NEW).await.unwrap();
        transfer.write_at(0, data(100)).await.unwrap();
        // The file that is renamed while the process is killed.
        house.store.away.store(true, std::sync::atomic::Ordering::Relaxed);
        files.upload(&path("/g"), NEW).await.unwrap().finish().await.unwrap();
        let dir = after_a_kill(&dir);
        house.store.away.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_ne!((house.store.used(), walk(&house.storage, true).await), ((0, 0), (0, 0)));

        let next = house.next();
        next.keep_marks(dir.clone()).await.unwrap();
        until("the mark is gone", || marks(&dir).is_empty()).await;
        let real = walk(&house.storage, true).await;
        assert_eq!(house.store.used(), real, "{mode:?}");
        assert_eq!(real, walk(&house.storage, false).await, "{mode:?}: no temporary file is left");
        assert_eq!(real, if mode.is_atomic() { (0, 1) } else { (100, 2) }, "{mode:?}");
        transfer.abort("test").await;
    }
}

#[tokio::test]
async fn the_mark_of_somebody_who_is_gone_goes_and_a_used_directory_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("unsettled");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("1-0"), "nobody").unwrap();
    let house = House::new(UploadMode::Standard, |_| {});
    house.sessions.keep_marks(dir.clone()).await.unwrap();
    until("the mark is gone", || marks(&dir).is_empty()).await;
    let error = house.next().keep_marks(dir).await.unwrap_err();
    assert!(error.to_string().contains("another server"), "{error}");
}
