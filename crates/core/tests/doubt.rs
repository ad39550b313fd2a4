//! A provider that does not answer whether it has counted: usage is right in the end, and limits are kept meanwhile.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{House, data, path, walk};
use tidegate_core::{UploadMode, UploadOptions, UserFs};
use tidegate_vfs::FsError;

async fn put(files: &UserFs, name: &str, size: usize) -> Result<(), FsError> {
    let how = UploadOptions { create: true, truncate: true, ..UploadOptions::default() };
    let transfer = files.upload(&path(name), how).await?;
    if let Err(error) = transfer.write_at(0, data(size)).await {
        transfer.abort("test").await;
        return Err(error);
    }
    transfer.finish().await
}

/// As the program does it every so often, until the provider says what is there.
async fn settled(house: &House) {
    let real = walk(&house.storage, true).await;
    let wait = async {
        while house.store.used() != real || !house.sessions.scans().is_empty() {
            house.sessions.write_back_usage().await;
            house.sessions.resolve_doubts().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(done.is_ok(), "{:?} is stored, {real:?} is there", house.store.used());
}

#[tokio::test]
async fn an_increment_whose_answer_was_lost_is_not_counted_twice() {
    // Lost before it was done, and after; the write of the scan's result may be lost as well.
    for (lost, done) in [(1, true), (1, false), (2, true), (2, false)] {
        let house = House::new(UploadMode::Standard, |draft| draft.quota_size = 1000);
        let files = house.files().await;
        put(&files, "/a", 300).await.unwrap();
        *house.store.unanswered.lock().unwrap() = (lost, done);
        put(&files, "/b", 300).await.unwrap();
        // Changes go on, and the limit holds whatever the provider says.
        put(&files, "/c", 300).await.unwrap();
        assert!(matches!(put(&files, "/d", 200).await, Err(FsError::QuotaExceeded)), "{lost} {done}");
        files.remove_file(&path("/d")).await.ok();
        settled(&house).await;
        assert_eq!(house.store.used(), (900, 3), "{lost} {done}");
        put(&files, "/d", 100).await.unwrap();
        assert_eq!(house.store.used(), (1000, 4), "{lost} {done}: increments go on");
    }
}

#[tokio::test]
async fn a_doubt_outlives_the_session_and_a_provider_that_is_away() {
    let house = House::new(UploadMode::Standard, |_| {});
    let files = house.files().await;
    *house.store.unanswered.lock().unwrap() = (1, true);
    put(&files, "/a", 10).await.unwrap();
    house.store.away.store(true, Ordering::Relaxed);
    files.remove_file(&path("/a")).await.unwrap();
    drop(files);
    house.sessions.resolve_doubts().await;
    assert!(house.sessions.scans().is_empty(), "nobody can be asked whose home it is");
    assert_eq!(house.store.used(), (10, 1));
    house.store.away.store(false, Ordering::Relaxed);
    settled(&house).await;
    assert_eq!(house.store.used(), (0, 0));
}

#[tokio::test]
async fn a_doubt_that_is_not_resolved_is_left_to_the_next_start() {
    let temp = tempfile::tempdir().unwrap();
    let house = House::new(UploadMode::Standard, |_| {});
    house.sessions.keep_marks(temp.path().join("unsettled")).await.unwrap();
    let files = house.files().await;
    *house.store.unanswered.lock().unwrap() = (1, true);
    put(&files, "/a", 10).await.unwrap();
    drop(files);
    drop(house);
    // The lock, and the mark.
    assert_eq!(std::fs::read_dir(temp.path().join("unsettled")).unwrap().count(), 2);
}
