//! What is done to accounts through the one door: several at once, and hashes that nobody may send.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use support::{House, KEY};
use tidegate_core::{
    AccountError, Accounts, AccountsConfig, Attempt, Authenticator, Event, Events, FsPolicy, HookQueue,
    Metrics, OpenStorage, Page, Passwords, Peer, PublicKeyLine, QuotaPolicy, Sessions, StoreError,
    TrackQuota, UploadMode, UsageDelta, UsedQuota, User, UserDraft, UserPatch, UserQuery, UserStore,
    system_clock,
};
use tidegate_vfs::{FsError, MemoryStorage, Storage};
use tokio_util::sync::CancellationToken;

/// Some users, of which the provider cannot change every one.
#[derive(Default)]
struct FewUsers {
    users: Mutex<Vec<User>>,
    asked: Mutex<Vec<i64>>,
    /// A user whose record cannot be read any more.
    damaged: Mutex<String>,
    /// Calls that asked for several users.
    batches: AtomicUsize,
}

/// The id of a user whose record cannot be written.
const STUCK: i64 = 3;

/// The id of a user at whom the provider goes away.
const LOST: i64 = 4;

#[async_trait]
impl UserStore for FewUsers {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        if *self.damaged.lock().unwrap() == name {
            return Err(StoreError::Corrupt(name.into()));
        }
        let users = self.users.lock().unwrap();
        users.iter().find(|user| user.username == name).cloned().ok_or(StoreError::NotFound)
    }
    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.asked.lock().unwrap().push(id);
        if id == LOST {
            return Err(StoreError::Unavailable("gone".into()));
        }
        let users = self.users.lock().unwrap();
        users.iter().find(|user| user.id == id).cloned().ok_or(StoreError::NotFound)
    }
    async fn users(&self, _: &Page) -> Result<Vec<User>, StoreError> {
        self.all_users().await
    }
    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(self.users.lock().unwrap().clone())
    }
    async fn users_by_name(&self, names: &[String]) -> Result<Vec<User>, StoreError> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        if names.contains(&self.damaged.lock().unwrap()) {
            return Err(StoreError::Corrupt("one of them".into()));
        }
        let users = self.users.lock().unwrap();
        Ok(users.iter().filter(|user| names.contains(&user.username)).cloned().collect())
    }
    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        let mut users = self.users.lock().unwrap();
        let id = i64::try_from(users.len()).unwrap() + 1;
        users.push(User { id, ..user.clone() });
        Ok(id)
    }
    async fn update(&self, user: &User) -> Result<(), StoreError> {
        let mut users = self.users.lock().unwrap();
        let stored = users.iter_mut().find(|stored| stored.id == user.id).ok_or(StoreError::NotFound)?;
        if user.id == STUCK {
            return Err(StoreError::Corrupt("stuck".into()));
        }
        *stored = user.clone();
        Ok(())
    }
    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        let mut users = self.users.lock().unwrap();
        let index = users.iter().position(|user| user.id == id).ok_or(StoreError::NotFound)?;
        if id == STUCK {
            return Err(StoreError::Corrupt("stuck".into()));
        }
        users.remove(index);
        Ok(())
    }
    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        Ok(self.user(name).await?.used)
    }
    async fn add_usage(&self, _: &str, _: UsageDelta, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn set_usage(&self, _: &str, _: UsedQuota, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn record_login(&self, _: &str, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The events that hooks would see.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);

impl HookQueue for Seen {
    fn offer(&self, event: Event) {
        let text = match event {
            Event::UserAdded(user) => format!("added {}", user.username),
            Event::UserUpdated(user) => format!("updated {} to {}", user.username, user.active),
            Event::UserDeleted(user) => format!("deleted {}", user.username),
            other => format!("{other:?}"),
        };
        self.0.lock().unwrap().push(text);
    }
}

struct Nowhere;

#[async_trait]
impl OpenStorage for Nowhere {
    async fn open(&self, _: &User) -> Result<Arc<dyn Storage>, FsError> {
        Ok(Arc::new(MemoryStorage::new()))
    }
}

struct Office {
    store: Arc<FewUsers>,
    seen: Arc<Seen>,
    accounts: Accounts,
    sessions: Sessions,
    authenticator: Authenticator,
}

fn draft(name: &str) -> UserDraft {
    UserDraft {
        status: 1,
        username: name.into(),
        password: "$6$nobody$knows".into(),
        home_dir: format!("/srv/{name}"),
        permissions: [("/".to_owned(), vec!["*".to_owned()])].into_iter().collect(),
        ..UserDraft::default()
    }
}

/// Accounts with the ids 1 to 4.
async fn office(manage_users: bool) -> Office {
    let store = Arc::new(FewUsers::default());
    for name in ["anna", "berta", "carla", "dora"] {
        store.insert(&draft(name).validate(None).unwrap()).await.unwrap();
    }
    let seen = Arc::new(Seen::default());
    let events = Events::new(Metrics::new(), Some(seen.clone()));
    let quota = QuotaPolicy { track: TrackQuota::Always, write: true };
    let sessions = Sessions::new(
        store.clone(),
        Arc::new(Nowhere),
        events.clone(),
        system_clock(),
        FsPolicy::default(),
        quota,
    );
    let config = AccountsConfig { manage_users, users_base_dir: None };
    let passwords = Passwords::new(1);
    let accounts = Accounts::new(store.clone(), passwords.clone(), sessions.clone(), events.clone(), config);
    let authenticator =
        Authenticator::new(store.clone(), passwords, sessions.clone(), events, system_clock(), true);
    Office { store, seen, accounts, sessions, authenticator }
}

impl Office {
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.0.lock().unwrap())
    }
}

#[tokio::test]
async fn each_account_among_several_is_told_of() {
    let office = office(true).await;
    let rows = |outcomes: Vec<tidegate_core::BulkOutcome>| -> Vec<String> {
        let row = |outcome: tidegate_core::BulkOutcome| {
            let result = outcome.result.map_or_else(|error| error.to_string(), |()| "done".to_owned());
            format!("{} {} {result}", outcome.id, outcome.username.unwrap_or_default())
        };
        outcomes.into_iter().map(row).collect()
    };
    let outcomes = office.accounts.set_status_many(&[1, 77, STUCK, 2], false).await.unwrap();
    assert_eq!(
        rows(outcomes),
        [
            "1 anna done",
            "77  Not found: no such user",
            "3 carla stored record is damaged: stuck",
            "2 berta done"
        ]
    );
    assert_eq!(office.seen(), ["updated anna to false", "updated berta to false"]);
    let outcomes = office.accounts.set_status_many(&[1, 2], false).await.unwrap();
    assert_eq!(rows(outcomes), ["1 anna done", "2 berta done"]);
    assert_eq!(office.seen(), [""; 0], "they were so already");
    office.accounts.set_status_many(&[2], true).await.unwrap();
    assert_eq!(office.seen(), ["updated berta to true"]);
    assert!(office.accounts.user(2).await.unwrap().active);
    office.store.asked.lock().unwrap().clear();
    let outcomes = office.accounts.delete_many(&[1, LOST, 2]).await.unwrap();
    let away = "data provider unavailable: gone";
    assert_eq!(rows(outcomes), ["1 anna done".to_owned(), format!("4  {away}"), format!("2  {away}")]);
    assert_eq!(*office.store.asked.lock().unwrap(), [1, LOST], "one that is away is not asked for the rest");
    assert_eq!(office.seen(), ["deleted anna"]);
    let query = UserQuery { limit: 2, offset: 1, descending: true, ..UserQuery::default() };
    let page = office.accounts.search(&query).await.unwrap();
    let names: Vec<_> = page.users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!((names, page.total), (vec!["carla", "berta"], 3));
}

#[tokio::test]
async fn without_manage_users_nobody_is_touched() {
    let office = office(false).await;
    let changed = office.accounts.set_status_many(&[1], false).await;
    assert!(matches!(changed, Err(AccountError::Disabled)), "{changed:?}");
    let removed = office.accounts.delete_many(&[1]).await;
    assert!(matches!(removed, Err(AccountError::Disabled)), "{removed:?}");
    assert!(office.store.user("anna").await.unwrap().active);
    assert_eq!(office.seen(), [""; 0]);
}

#[tokio::test]
async fn sessions_of_those_who_are_disabled_or_removed_end() {
    for remove in [false, true] {
        let house = House::new(UploadMode::Standard, |_| {});
        let (one, two) = (house.log_in().await.unwrap(), house.log_in().await.unwrap());
        house.accounts.set_status_many(&[7], true).await.unwrap();
        assert!(!one.cancelled().is_cancelled());
        let outcomes = match remove {
            true => house.accounts.delete_many(&[7]).await,
            false => house.accounts.set_status_many(&[7], false).await,
        };
        assert!(outcomes.unwrap()[0].result.is_ok());
        assert!(one.cancelled().is_cancelled() && two.cancelled().is_cancelled(), "removed: {remove}");
    }
    let house = House::new(UploadMode::Standard, |_| {});
    house.store.away.store(true, Ordering::Relaxed);
    let outcomes = house.accounts.set_status_many(&[7], false).await.unwrap();
    assert!(matches!(&outcomes[0].result, Err(AccountError::Store(StoreError::Unavailable(_)))));
}

/// More users than one call reads, one of them with a record that cannot be read: it ends its own sessions, and hides
/// nobody else.
#[tokio::test(start_paused = true)]
async fn a_thousand_connected_users_are_followed_within_two_seconds() {
    const USERS: usize = 1000;
    let office = office(true).await;
    let blob = PublicKeyLine::parse(KEY).unwrap().blob;
    let mut sessions = Vec::new();
    for number in 0..USERS {
        let username = format!("user{number:04}");
        let draft = UserDraft { public_keys: vec![KEY.into()], ..draft(&username) };
        office.store.insert(&draft.validate(None).unwrap()).await.unwrap();
        let peer =
            Peer { addr: "192.0.2.7:4711".parse().unwrap(), connection_id: format!("{number:064x}").into() };
        let key = tidegate_core::SignedKey { blob: &blob, touched: false };
        sessions.push(office.authenticator.public_key(&Attempt { username, peer }, key).await.unwrap());
    }
    let shutdown = CancellationToken::new();
    let watching = tokio::spawn(office.sessions.clone().watch(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(sessions.iter().all(|session| !session.cancelled().is_cancelled()));
    *office.store.damaged.lock().unwrap() = "user0500".into();
    let before = office.store.batches.load(Ordering::Relaxed);
    let gone = [0, 255, 256, 501, 999];
    {
        let mut users = office.store.users.lock().unwrap();
        users.iter_mut().find(|user| user.username == "user0300").unwrap().active = false;
        users.retain(|user| !gone.iter().any(|number| user.username == format!("user{number:04}")));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended: Vec<usize> =
        (0..USERS).filter(|number| sessions[*number].cancelled().is_cancelled()).collect();
    assert_eq!(ended, [0, 255, 256, 300, 500, 501, 999]);
    let calls = office.store.batches.load(Ordering::Relaxed) - before;
    assert!(calls <= 3 * USERS.div_ceil(256), "{calls} calls in two seconds");
    shutdown.cancel();
    watching.await.unwrap();
}

const EXCESSIVE: [&str; 4] = [
    "$argon2id$v=19$m=67108864,t=3,p=2$c29tZXNhbHRzb21lc2FsdA$c29tZWtleXNvbWVrZXlzb21la2V5c29tZWtleXM",
    "$2a$31$abcdefghijklmnopqrstuuO6S2Y8m8zPqDUyQvGG0pZL0bV2uK0y6",
    "$6$rounds=999999999$salt$uog86fUxscjt28BZxqFBE2pp2QD8P/1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1",
    "$pbkdf2-sha256$2000000000$E86a9YMX3zC7$R5J62hsSq+pYw00hLLPKBbcGXmq7fj5+/M0IFoYtZbo=",
];

#[tokio::test]
async fn hashes_that_would_cost_too_much_are_refused_when_they_are_sent() {
    let office = office(true).await;
    for hash in EXCESSIVE {
        let patch = || UserPatch { password: Some(hash.to_owned()), ..UserPatch::default() };
        let new = UserPatch {
            status: Some(1),
            username: Some("new".into()),
            home_dir: Some("/srv/new".into()),
            permissions: Some(draft("new").permissions),
            ..patch()
        };
        for refused in [office.accounts.create(new).await.map(drop), office.accounts.update(1, patch()).await]
        {
            let Err(AccountError::Invalid(invalid)) = refused else { panic!("{hash}: {refused:?}") };
            assert_eq!(invalid.field, "password", "{hash}");
            assert!(!invalid.reason.contains('$'), "{}", invalid.reason);
        }
    }
    assert_eq!(office.accounts.user(1).await.unwrap().password, "$6$nobody$knows");
    assert!(matches!(office.store.user("new").await, Err(StoreError::NotFound)));
    assert_eq!(office.seen(), [""; 0]);
    // One that is there already stops nobody from changing something else.
    office.store.users.lock().unwrap()[1].password = EXCESSIVE[0].into();
    let patch = UserPatch { max_sessions: Some(3), ..UserPatch::default() };
    office.accounts.update(2, patch).await.unwrap();
    let berta = office.accounts.user(2).await.unwrap();
    assert_eq!((berta.max_sessions, berta.password.as_str()), (3, EXCESSIVE[0]));
}

#[tokio::test]
async fn an_account_that_was_disabled_came_back_with_another_change() {
    let house = House::new(UploadMode::Standard, |draft| draft.password = "$6$nobody$knows".into());
    let quota = UserPatch { quota_size: Some(5), ..UserPatch::default() };
    let uid = UserPatch { uid: Some(9), ..UserPatch::default() };
    let accounts = &house.accounts;
    let (one, two, three) = tokio::join!(
        accounts.update(7, quota),
        accounts.set_status_many(&[7], false),
        accounts.update(7, uid)
    );
    one.unwrap();
    two.unwrap();
    three.unwrap();
    let user = house.store.user.lock().unwrap().clone().unwrap();
    assert_eq!((user.active, user.quota_size, user.uid), (false, 5, 9), "what each of them changed");
}
