//! The contract of `UserStore`, held against every provider that this program has.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_core::testing::{user, user_store_suite};
use tidegate_store::config::{DataProvider, Secret, Settings};
use tidegate_store::open;

fn settings(dir: &Path, change: impl FnOnce(&mut DataProvider)) -> Settings {
    let mut section = DataProvider::default();
    change(&mut section);
    section.validate(dir).unwrap()
}

/// Runs the suite on stores that have the database `number.db` each.
async fn suite(change: impl Fn(&mut DataProvider)) {
    let dir = tempfile::tempdir().unwrap();
    let next = AtomicU32::new(0);
    user_store_suite(async || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let settings = settings(dir.path(), |section| {
            section.name = format!("{number}.db");
            change(section);
        });
        open(&settings).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn memory() {
    user_store_suite(async || open(&Settings::memory()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    suite(|_| {}).await;
}

#[tokio::test]
async fn sqlite_with_another_table() {
    suite(|section| section.users_table = "main.Staff_2".into()).await;
}

#[tokio::test]
async fn sqlite_in_memory() {
    suite(|section| section.connection_string = Secret::new("file::memory:?cache=shared")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_with_the_journal_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let next = AtomicU32::new(0);
    user_store_suite(async || {
        let name = format!("{}.db", next.fetch_add(1, Ordering::Relaxed));
        std::fs::copy("tests/fixtures/reference.sqlite", dir.path().join(&name)).unwrap();
        let store = open(&settings(dir.path(), |section| section.name = name)).await.unwrap();
        for user in store.all_users().await.unwrap() {
            store.delete(user.id).await.unwrap();
        }
        store
    })
    .await;
}

/// The memory provider gives the id of a deleted last user again, as the reference does; SQLite never does.
#[tokio::test]
async fn ids_of_deleted_users() {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = open(&settings(dir.path(), |_| {})).await.unwrap();
    let memory = open(&Settings::memory()).await.unwrap();
    for (store, want) in [(sqlite, 3), (memory, 2)] {
        store.insert(&user("anna")).await.unwrap();
        let last = store.insert(&user("berta")).await.unwrap();
        store.delete(last).await.unwrap();
        assert_eq!(store.insert(&user("carla")).await.unwrap(), want);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt() {
    suite(|section| section.driver = "bolt".into()).await;
}
