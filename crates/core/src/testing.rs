//! For tests in any crate: accounts made in a line, and the suite that every [`UserStore`] must pass.
//!
//! Compiled only with the feature `testing`. A failed expectation panics, as in a test.

use std::sync::Arc;

use crate::{
    Order, Page, Perms, StoreError, UnixMillis, UsageDelta, UsedQuota, User, UserDraft, UserQuery, UserSort,
    UserStatus, UserStore,
};

/// Makes a valid account: active, with everything allowed, without limits, named after its folder below `/srv`.
#[derive(Debug, Clone)]
pub struct UserBuilder(UserDraft);

impl UserBuilder {
    /// Starts an account that is called `name`, with a password that no hash matches.
    pub fn new(name: &str) -> Self {
        Self(UserDraft {
            status: 1,
            username: name.to_owned(),
            password: "$6$nobody$knows".to_owned(),
            home_dir: format!("/srv/{name}"),
            ..UserDraft::default()
        })
    }

    /// The stored password: a hash, or empty for an account without one.
    pub fn password(mut self, hash: &str) -> Self {
        hash.clone_into(&mut self.0.password);
        self
    }

    /// Adds a line of `authorized_keys`.
    pub fn public_key(mut self, line: &str) -> Self {
        self.0.public_keys.push(line.to_owned());
        self
    }

    /// The folder that the user sees as `/`.
    pub fn home(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.0.home_dir = dir.as_ref().to_string_lossy().into_owned();
        self
    }

    /// Sets the permissions of one directory. Without any call, everything is allowed everywhere.
    pub fn permissions(mut self, dir: &str, perms: Perms) -> Self {
        let tokens = perms.tokens().into_iter().map(str::to_owned).collect();
        self.0.permissions.insert(dir.to_owned(), tokens);
        self
    }

    /// Limits what may be stored; 0 is no limit.
    pub fn quota(mut self, size_bytes: i64, files: i64) -> Self {
        (self.0.quota_size, self.0.quota_files) = (size_bytes, files);
        self
    }

    /// Limits concurrent sessions.
    pub fn max_sessions(mut self, sessions: i64) -> Self {
        self.0.max_sessions = sessions;
        self
    }

    /// Limits uploads and downloads, in KB/s.
    pub fn bandwidth(mut self, upload: i64, download: i64) -> Self {
        (self.0.upload_bandwidth, self.0.download_bandwidth) = (upload, download);
        self
    }

    /// The ids of the files' owner and group.
    pub fn owner(mut self, uid: i64, gid: i64) -> Self {
        (self.0.uid, self.0.gid) = (uid, gid);
        self
    }

    /// Makes the account unable to log in.
    pub fn inactive(mut self) -> Self {
        self.0.status = 0;
        self
    }

    /// When the account ends.
    pub fn expires(mut self, at: UnixMillis) -> Self {
        self.0.expiration_date = at;
        self
    }

    /// Adds a network from which the user may log in.
    pub fn allowed_ip(mut self, network: &str) -> Self {
        self.0.filters.allowed_ip.push(network.to_owned());
        self
    }

    /// Adds a network from which the user may not log in.
    pub fn denied_ip(mut self, network: &str) -> Self {
        self.0.filters.denied_ip.push(network.to_owned());
        self
    }

    /// The account.
    ///
    /// # Panics
    /// If the test asked for an account that is not valid.
    pub fn build(mut self) -> User {
        if self.0.permissions.is_empty() {
            self = self.permissions("/", Perms::ALL);
        }
        self.0.validate(None).expect("the account of a test is valid")
    }
}

/// Shorthand for an account without particulars.
pub fn user(name: &str) -> User {
    UserBuilder::new(name).build()
}

/// An account in which every setting has a value of its own.
fn elaborate(name: &str) -> User {
    UserBuilder::new(name)
        .password("$2a$10$abcdefghijklmnopqrstuv")
        .public_key(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ a \"<&>\" c",
        )
        .home("/srv/a folder/with <, > & \" and ü")
        .permissions("/", Perms::LIST | Perms::DOWNLOAD)
        .permissions("/in & out/<ü>\u{2028}", Perms::ALL)
        .permissions("/z", Perms::CHTIMES)
        .quota(1 << 50, 2_000_000_000)
        .max_sessions(3)
        .bandwidth(128, 256)
        .owner(1000, 1001)
        .expires(1_893_456_000_000)
        .inactive()
        .allowed_ip("10.0.0.0/8")
        .allowed_ip("2001:db8::/32")
        .denied_ip("10.1.0.0/16")
        .build()
}

/// Runs every expectation of the contract of [`UserStore`] against stores that `make` opens, each of them empty
/// and writable.
///
/// # Panics
/// Where a store breaks the contract.
pub async fn user_store_suite(make: impl AsyncFn() -> Arc<dyn UserStore>) {
    what_is_inserted_is_read(&*make().await).await;
    names_and_ids_are_unique(&*make().await).await;
    odd_names_are_only_names(&*make().await).await;
    lists_are_ordered_and_paged(&*make().await).await;
    searches_find_count_and_order(&*make().await).await;
    users_are_read_by_their_names(&*make().await).await;
    updates_write_settings_only(&*make().await).await;
    deleted_users_are_gone(&*make().await).await;
    usage_is_counted(&*make().await).await;
    logins_are_remembered(&*make().await).await;
    strangers_are_not_found(&*make().await).await;
    usage_is_counted_concurrently(make().await).await;
    one_of_many_inserts_wins(make().await).await;
}

async fn insert(store: &dyn UserStore, user: &User) -> i64 {
    store.insert(user).await.expect("insert")
}

async fn read(store: &dyn UserStore, name: &str) -> User {
    store.user(name).await.expect("a user that was inserted")
}

#[expect(clippy::needless_pass_by_value, reason = "callers hand over the answer of a call")]
fn assert_not_found<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound)), "{result:?}");
}

async fn what_is_inserted_is_read(store: &dyn UserStore) {
    store.ping().await.expect("ping of an empty store");
    assert_eq!(store.all_users().await.expect("all users"), []);
    for user in [user("plain"), elaborate("elaborate")] {
        // A new user brings neither an id nor a past.
        let given = User {
            id: 77,
            used: UsedQuota { size_bytes: 5, files: 6 },
            last_quota_update: 7,
            last_login: 8,
            ..user.clone()
        };
        let id = insert(store, &given).await;
        assert!(id > 0, "id {id}");
        let want = User { id, ..user };
        assert_eq!(read(store, &want.username).await, want);
        assert_eq!(store.user_by_id(id).await.expect("by id"), want);
        let page = Page { limit: 1, username: Some(want.username.clone()), ..Page::default() };
        assert_eq!(store.users(&page).await.expect("page of one"), [want]);
    }
    store.ping().await.expect("ping");
}

async fn names_and_ids_are_unique(store: &dyn UserStore) {
    let first = insert(store, &user("anna")).await;
    let again = store.insert(&elaborate("anna")).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    assert_eq!(read(store, "anna").await, User { id: first, ..user("anna") });
    let second = insert(store, &user("berta")).await;
    assert!(second > first, "ids {first}, {second}");
}

async fn odd_names_are_only_names(store: &dyn UserStore) {
    let names = ["a'b", "a\"b", "a;drop table users", "%", "_", "björn", "名前", " ", "key only", "?", "$1"];
    for name in names {
        insert(store, &user(name)).await;
    }
    for name in names {
        assert_eq!(read(store, name).await.username, name);
    }
    assert_eq!(store.all_users().await.expect("all users").len(), names.len());
    assert_not_found(store.user("").await);
    assert_not_found(store.user("anna' OR '1'='1").await);
}

async fn lists_are_ordered_and_paged(store: &dyn UserStore) {
    for name in ["delta", "alpha", "echo", "bravo", "charlie"] {
        insert(store, &user(name)).await;
    }
    let page = |limit, offset, order, username: Option<&str>| Page {
        limit,
        offset,
        order,
        username: username.map(str::to_owned),
    };
    for (page, want) in [
        (page(100, 0, Order::Ascending, None), &["alpha", "bravo", "charlie", "delta", "echo"][..]),
        (page(100, 0, Order::Descending, None), &["echo", "delta", "charlie", "bravo", "alpha"]),
        (page(2, 0, Order::Ascending, None), &["alpha", "bravo"]),
        (page(2, 3, Order::Ascending, None), &["delta", "echo"]),
        (page(2, 1, Order::Descending, None), &["delta", "charlie"]),
        (page(2, 4, Order::Ascending, None), &["echo"]),
        (page(2, 5, Order::Ascending, None), &[]),
        (page(0, 0, Order::Ascending, None), &[]),
        (page(u32::MAX, 0, Order::Ascending, None), &["alpha", "bravo", "charlie", "delta", "echo"]),
        (page(10, u32::MAX, Order::Ascending, None), &[]),
        (page(10, 0, Order::Ascending, Some("delta")), &["delta"]),
        (page(10, 0, Order::Descending, Some("delta")), &["delta"]),
        (page(10, 1, Order::Ascending, Some("delta")), &[]),
        (page(0, 0, Order::Ascending, Some("delta")), &[]),
        (page(10, 0, Order::Ascending, Some("zulu")), &[]),
    ] {
        let users = store.users(&page).await.expect("a page");
        let names: Vec<_> = users.iter().map(|user| user.username.as_str()).collect();
        assert_eq!(names, want, "{page:?}");
    }
    assert_eq!(store.all_users().await.expect("all users").len(), 5);
}

async fn searches_find_count_and_order(store: &dyn UserStore) {
    use UserSort::{Expiration, LastLogin, Status, UsedFiles, UsedSize, Username};
    use UserStatus::{Active, Inactive};
    // Name, active, end, last login, bytes, files.
    for (name, active, end, login, size_bytes, files) in [
        ("anna", true, 0, 30, 5, 9),
        ("BERTA", false, 2_000, 0, 70, 0),
        ("100% carl_o", true, 1_000, 10, 0, 9),
        ("dora's", true, 0, 0, 70, 1),
        ("100x carlXo", false, 3_000, 20, 6_000_000_000, 0),
    ] {
        let builder = UserBuilder::new(name).expires(end);
        insert(store, &if active { builder } else { builder.inactive() }.build()).await;
        if login > 0 {
            store.record_login(name, login).await.expect("record login");
        }
        store.set_usage(name, UsedQuota { size_bytes, files }, 1).await.expect("set usage");
    }
    let (anna, berta, carl, dora, x) = ("anna", "BERTA", "100% carl_o", "dora's", "100x carlXo");
    let all = || UserQuery { limit: 100, ..UserQuery::default() };
    let sorted = |sort| UserQuery { sort, ..all() };
    let down = |sort| UserQuery { descending: true, ..sorted(sort) };
    let text = |text: &str| UserQuery { text: Some(text.to_owned()), sort: LastLogin, ..all() };
    let carls = |descending| UserQuery { sort: Username, descending, ..text("carl") };
    // Those that are alike have names that every collation puts in the same order.
    let rows = [
        (carls(false), 2, vec![carl, x]),
        (carls(true), 2, vec![x, carl]),
        (sorted(Status), 5, vec![x, berta, carl, anna, dora]),
        (down(Status), 5, vec![carl, anna, dora, x, berta]),
        (sorted(Expiration), 5, vec![carl, berta, x, anna, dora]),
        (down(Expiration), 5, vec![anna, dora, x, berta, carl]),
        (sorted(LastLogin), 5, vec![berta, dora, carl, x, anna]),
        (down(LastLogin), 5, vec![anna, x, carl, berta, dora]),
        (sorted(UsedSize), 5, vec![carl, anna, berta, dora, x]),
        (down(UsedSize), 5, vec![x, berta, dora, anna, carl]),
        (sorted(UsedFiles), 5, vec![x, berta, dora, carl, anna]),
        (down(UsedFiles), 5, vec![carl, anna, dora, x, berta]),
        (UserQuery { status: Some(Active), ..sorted(UsedSize) }, 3, vec![carl, anna, dora]),
        (UserQuery { status: Some(Inactive), ..sorted(UsedSize) }, 2, vec![berta, x]),
        (UserQuery { offset: 1, limit: 2, ..sorted(LastLogin) }, 5, vec![dora, carl]),
        (UserQuery { offset: 1, limit: 2, ..down(LastLogin) }, 5, vec![x, carl]),
        (UserQuery { offset: 4, limit: 2, ..sorted(LastLogin) }, 5, vec![anna]),
        (UserQuery { offset: 3, limit: 1, ..sorted(Status) }, 5, vec![anna]),
        (UserQuery { offset: 3, limit: 9, ..sorted(Status) }, 5, vec![anna, dora]),
        (UserQuery { offset: 3, limit: 9, ..down(Status) }, 5, vec![x, berta]),
        (UserQuery { offset: 5, ..sorted(LastLogin) }, 5, vec![]),
        (UserQuery { offset: u32::MAX, limit: u32::MAX, ..sorted(LastLogin) }, 5, vec![]),
        (UserQuery { limit: 0, ..sorted(LastLogin) }, 5, vec![]),
        (text(""), 5, vec![berta, dora, carl, x, anna]),
        (text("AN"), 1, vec![anna]),
        (text("ert"), 1, vec![berta]),
        (text("carl"), 2, vec![carl, x]),
        (text("%"), 1, vec![carl]),
        (text("0%"), 1, vec![carl]),
        (text("L_O"), 1, vec![carl]),
        (text("a's"), 1, vec![dora]),
        (text("\\"), 0, vec![]),
        (text("zoe"), 0, vec![]),
        (text("a\0"), 0, vec![]),
        (text(&"a".repeat(2000)), 0, vec![]),
        (UserQuery { status: Some(Active), ..text("a") }, 3, vec![dora, carl, anna]),
        (UserQuery { status: Some(Active), offset: 1, limit: 1, ..text("a") }, 3, vec![carl]),
        (UserQuery { status: Some(Inactive), ..text("carl") }, 1, vec![x]),
    ];
    for (query, total, want) in rows {
        let page = store.search(&query).await.expect("a search");
        let names: Vec<_> = page.users.iter().map(|user| user.username.as_str()).collect();
        assert_eq!(names, want, "{query:?}");
        assert_eq!(page.total, total, "{query:?}");
    }
}

async fn users_are_read_by_their_names(store: &dyn UserStore) {
    let name = |number: i32| format!("user %_'{number:03}");
    for number in 0..10 {
        insert(store, &user(&name(number))).await;
    }
    store.set_usage(&name(3), UsedQuota { size_bytes: 7, files: 8 }, 9).await.expect("set usage");
    for (asked, want) in [(0..0, 0), (3..4, 1), (0..300, 10), (8..700, 2), (300..330, 0)] {
        let names: Vec<String> = asked.clone().map(name).collect();
        let mut users = store.users_by_name(&names).await.expect("users by name");
        assert_eq!(users.len(), want, "{asked:?}");
        users.sort_by(|one, other| one.username.cmp(&other.username));
        for (user, number) in users.iter().zip(asked) {
            assert_eq!(*user, read(store, &name(number)).await);
        }
    }
    let odd = ["", "a\0b", "USER %_'003", "user", "%", "user %_'003 "].map(str::to_owned);
    assert_eq!(store.users_by_name(&odd).await.expect("users by name"), []);
}

async fn updates_write_settings_only(store: &dyn UserStore) {
    insert(store, &user("other")).await;
    let id = insert(store, &user("anna")).await;
    let used = UsedQuota { size_bytes: 1000, files: 10 };
    store.set_usage("anna", used, 11).await.expect("set usage");
    store.record_login("anna", 12).await.expect("record login");
    let change = User {
        id,
        used: UsedQuota { size_bytes: 1, files: 1 },
        last_quota_update: 1,
        last_login: 1,
        ..elaborate("somebody else")
    };
    store.update(&change).await.expect("update");
    let want = User {
        id,
        username: "anna".to_owned(),
        used,
        last_quota_update: 11,
        last_login: 12,
        ..elaborate("anna")
    };
    assert_eq!(read(store, "anna").await, want);
    assert_not_found(store.user("somebody else").await);
    let other = read(store, "other").await;
    assert_eq!(other, User { id: other.id, ..user("other") });
    // The same again is no error: a store must count what it found, not what it changed.
    store.update(&change).await.expect("update without a change");
    store.update(&User { id, ..user("anna") }).await.expect("update back to nothing");
    let plain = read(store, "anna").await;
    assert_eq!((plain.public_keys, plain.filters), (vec![], crate::IpFilters::default()));
}

async fn deleted_users_are_gone(store: &dyn UserStore) {
    let anna = insert(store, &user("anna")).await;
    let berta = insert(store, &user("berta")).await;
    store.set_usage("anna", UsedQuota { size_bytes: 9, files: 9 }, 9).await.expect("set usage");
    store.delete(anna).await.expect("delete");
    assert_not_found(store.delete(anna).await);
    assert_not_found(store.user("anna").await);
    assert_not_found(store.user_by_id(anna).await);
    assert_eq!(store.user_by_id(berta).await.expect("the one who stays").username, "berta");
    let again = insert(store, &elaborate("anna")).await;
    assert_ne!(again, berta);
    assert_eq!(read(store, "anna").await, User { id: again, ..elaborate("anna") });
}

async fn usage_is_counted(store: &dyn UserStore) {
    insert(store, &user("anna")).await;
    insert(store, &user("berta")).await;
    let (most, least) = (i64::MAX, i64::MIN);
    for (at, delta, want) in [
        (1, (100, 2), (100, 2)),
        (2, (-40, -1), (60, 1)),
        (3, (0, 1), (60, 2)),
        (4, (-61, 0), (0, 2)),
        (5, (10, -3), (10, 0)),
        (6, (most, 0), (most, 0)),
        (7, (least, 0), (0, 0)),
    ] {
        let delta = UsageDelta { size_bytes: delta.0, files: delta.1 };
        store.add_usage("anna", delta, at).await.expect("add usage");
        let want = UsedQuota { size_bytes: want.0, files: want.1 };
        assert_eq!(store.usage("anna").await.expect("usage"), want, "after {delta:?}");
        let anna = read(store, "anna").await;
        assert_eq!((anna.used, anna.last_quota_update), (want, at));
    }
    store.set_usage("anna", UsedQuota { size_bytes: 5, files: 6 }, 42).await.expect("set usage");
    let anna = read(store, "anna").await;
    assert_eq!((anna.used.size_bytes, anna.used.files, anna.last_quota_update), (5, 6, 42));
    store.set_usage("anna", UsedQuota { size_bytes: -5, files: -6 }, 43).await.expect("set usage");
    assert_eq!(store.usage("anna").await.expect("usage"), UsedQuota::default());
    assert_eq!(store.usage("berta").await.expect("usage"), UsedQuota::default());
    assert_eq!(read(store, "berta").await.last_quota_update, 0);
}

async fn logins_are_remembered(store: &dyn UserStore) {
    let anna = insert(store, &user("anna")).await;
    let berta = insert(store, &user("berta")).await;
    store.record_login("anna", 1_577_836_800_000).await.expect("record login");
    assert_eq!(read(store, "anna").await, User { id: anna, last_login: 1_577_836_800_000, ..user("anna") });
    assert_eq!(read(store, "berta").await, User { id: berta, ..user("berta") });
}

async fn strangers_are_not_found(store: &dyn UserStore) {
    insert(store, &user("anna")).await;
    assert_not_found(store.user("zoe").await);
    assert_not_found(store.user("anna ").await);
    for id in [0, -1, 4711, i64::MAX] {
        assert_not_found(store.user_by_id(id).await);
        assert_not_found(store.delete(id).await);
        assert_not_found(store.update(&User { id, ..user("anna") }).await);
    }
    assert_not_found(store.usage("zoe").await);
    assert_not_found(store.add_usage("zoe", UsageDelta { size_bytes: 1, files: 1 }, 1).await);
    assert_not_found(store.set_usage("zoe", UsedQuota::default(), 1).await);
    assert_not_found(store.record_login("zoe", 1).await);
    assert_eq!(store.all_users().await.expect("all users").len(), 1);
}

const TASKS: i64 = 64;

async fn usage_is_counted_concurrently(store: Arc<dyn UserStore>) {
    insert(&*store, &user("anna")).await;
    let start = UsedQuota { size_bytes: 1_000_000, files: 1000 };
    store.set_usage("anna", start, 1).await.expect("set usage");
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..5 {
                // Some upload, some delete.
                let files = if number % 4 == 0 { -1 } else { 1 };
                let delta = UsageDelta { size_bytes: files * number, files };
                store.add_usage("anna", delta, 2).await.expect("add usage");
                store.user("anna").await.expect("read meanwhile");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no task fails");
    }
    let sign = |number: i64| if number % 4 == 0 { -1 } else { 1 };
    let want = UsedQuota {
        size_bytes: start.size_bytes + (0..TASKS).map(|number| 5 * sign(number) * number).sum::<i64>(),
        files: start.files + (0..TASKS).map(|number| 5 * sign(number)).sum::<i64>(),
    };
    assert_eq!(store.usage("anna").await.expect("usage"), want);
}

async fn one_of_many_inserts_wins(store: Arc<dyn UserStore>) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        let store = Arc::clone(&store);
        let name = format!("user {}", number % 8);
        tasks.spawn(async move { store.insert(&user(&name)).await });
    }
    let mut ids = Vec::new();
    while let Some(task) = tasks.join_next().await {
        match task.expect("no task fails") {
            Ok(id) => ids.push(id),
            Err(error) => assert!(matches!(error, StoreError::Conflict), "{error}"),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "each name once, each with an id of its own");
}
