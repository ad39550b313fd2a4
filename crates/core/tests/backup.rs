//! What a dump would change, what putting it back changes, and where that ends.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::atomic::Ordering;

use support::{House, KEY, OTHER_KEY};
use tidegate_core::{AccountError, RestoreMode, RestoreOutcome, UploadMode, UserDraft};

/// Anna as the house has her.
fn anna(house: &House) -> UserDraft {
    UserDraft::from(house.store.user.lock().unwrap().as_ref().unwrap())
}

fn house() -> House {
    House::new(UploadMode::Standard, |draft| draft.password = "$6$nobody$knows".into())
}

#[tokio::test]
async fn a_preview_tells_what_would_change_and_changes_nothing() {
    let house = house();
    let same = anna(&house);
    let mut other = anna(&house);
    other.public_keys = vec![OTHER_KEY.into()];
    other.quota_size = 5;
    other.id = 99;
    other.used_quota_size = 77;
    other.filters.denied_ip.push("10.0.0.0/8".into());
    let mut new = anna(&house);
    new.username = "zoe".into();
    let mut bad = anna(&house);
    bad.status = 3;
    let mut dear = new.clone();
    dear.username = "dear".into();
    dear.password = "$2a$31$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234".into();

    let preview = house.accounts.preview(vec![same, other.clone(), new.clone(), new, bad, dear, other]).await;
    let preview = preview.unwrap();
    assert_eq!(
        preview.unchanged,
        ["anna", "zoe", "anna"],
        "a second mention meets what the first would leave"
    );
    assert_eq!(preview.added, ["zoe"]);
    let changed: Vec<_> = preview.changed.iter().map(|user| (&*user.username, user.fields.clone())).collect();
    assert_eq!(changed, [("anna", vec!["public_keys", "quota_size", "filters"])]);
    let invalid: Vec<_> =
        preview.invalid.iter().map(|user| (user.index, &*user.username, user.problem.field)).collect();
    assert_eq!(invalid, [(4, "anna", "status"), (5, "dear", "password")]);
    assert_eq!(anna(&house).public_keys, [KEY]);
}

#[tokio::test]
async fn a_restore_replaces_settings_keeps_usage_and_ends_at_the_first_failure() {
    let house = house();
    house.store.change(|user| user.used.files = 4);
    let session = house.log_in().await.unwrap();
    let mut changed = anna(&house);
    changed.id = 12345;
    changed.used_quota_files = 9;
    changed.quota_files = 10;
    changed.public_keys = vec![OTHER_KEY.into()];
    // The store of this house takes nobody new, as a name that is taken meanwhile.
    let mut new = changed.clone();
    new.username = "zoe".into();
    let mut never = changed.clone();
    never.uid = 55;
    let report = house.accounts.restore(vec![changed.clone(), new, never], RestoreMode::Replace).await;
    assert_eq!((report.count(RestoreOutcome::Replaced), report.done.len()), (1, 1));
    assert!(report.done[0].has_quota && report.done[0].username == "anna");
    let failure = report.failure.unwrap();
    assert_eq!((failure.index, &*failure.username), (1, "zoe"));
    assert!(matches!(failure.error, AccountError::Conflict), "{:?}", failure.error);
    let now = anna(&house);
    assert_eq!((now.id, now.quota_files, now.used_quota_files, now.uid), (7, 10, 4, 0));
    assert!(session.cancelled().is_cancelled(), "her key is gone");

    changed.quota_files = 0;
    let report = house.accounts.restore(vec![changed], RestoreMode::KeepExisting).await;
    assert_eq!(report.count(RestoreOutcome::Kept), 1);
    assert!(report.failure.is_none() && anna(&house).quota_files == 10);
}

#[tokio::test]
async fn a_backup_is_whole_or_fails() {
    let house = house();
    assert_eq!(house.accounts.backup().await.unwrap()[0].password, "$6$nobody$knows");
    house.store.away.store(true, Ordering::Relaxed);
    assert!(matches!(house.accounts.backup().await, Err(AccountError::Store(_))));
    assert!(matches!(house.accounts.preview(vec![UserDraft::default()]).await, Err(AccountError::Store(_))));
    let report = house.accounts.restore(vec![UserDraft::default()], RestoreMode::Replace).await;
    assert!(matches!(report.failure.unwrap().error, AccountError::Store(_)));
}
