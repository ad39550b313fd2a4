//! SQLite files that others made: the reference's, older ones, foreign ones, damaged ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};
use tidegate_core::testing::{UserBuilder, user};
use tidegate_core::{
    Page, Perms, StoreError, UsageDelta, UsedQuota, User, UserPage, UserQuery, UserSort, UserStore,
};
use tidegate_store::config::{DataProvider, Secret};
use tidegate_store::{OpenError, open};
use tidegate_vfs::VPath;

const SCRIPTS: [&str; 3] = [
    include_str!("../../../sql/sqlite/20190828.sql"),
    include_str!("../../../sql/sqlite/20191112.sql"),
    include_str!("../../../sql/sqlite/20191230.sql"),
];

struct Database {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Database {
    fn missing() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.db");
        Self { _dir: dir, path }
    }

    fn reference() -> Self {
        let database = Self::missing();
        std::fs::copy("tests/fixtures/reference.sqlite", &database.path).unwrap();
        database
    }

    async fn made_by(statements: &[&str]) -> Self {
        let database = Self::missing();
        for sql in statements {
            database.run(sql).await;
        }
        database
    }

    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(&self.path).create_if_missing(true);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    async fn run(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Every cell of what a query yields, as text.
    async fn dump(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut connection = self.connect().await;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let cell = |row: &SqliteRow, index| row.try_get_unchecked::<Option<String>, _>(index).unwrap();
        rows.iter().map(|row| (0..row.len()).map(|index| cell(row, index)).collect()).collect()
    }

    async fn schema(&self) -> Vec<Vec<Option<String>>> {
        self.dump("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master ORDER BY name").await
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    async fn open(&self) -> Result<std::sync::Arc<dyn UserStore>, OpenError> {
        self.open_with(|_| {}).await
    }

    async fn open_with(
        &self,
        change: impl FnOnce(&mut DataProvider),
    ) -> Result<std::sync::Arc<dyn UserStore>, OpenError> {
        let mut section = DataProvider { name: "users.db".into(), ..DataProvider::default() };
        change(&mut section);
        open(&section.validate(self.path.parent().unwrap()).unwrap()).await
    }

    async fn refusal(&self, change: impl FnOnce(&mut DataProvider)) -> String {
        match self.open_with(change).await {
            Ok(_) => panic!("{} was opened", self.path.display()),
            Err(error) => match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        }
    }
}

fn read_only(section: &mut DataProvider) {
    section.manage_users = 0;
}

/// The four accounts of the reference's database, as its README and its rows describe them.
fn reference_users() -> [User; 4] {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna@example";
    let anna = UserBuilder::new("anna")
        .password(
            "$argon2id$v=19$m=65536,t=3,p=2$2CifGy54DRQNFpUx8+XkLA$T1d0XuW1jLOG/tfxJRUIT0PouhLgg9TEzVzzmrlsxlM",
        )
        .home("/srv/data/anna")
        .max_sessions(2)
        .quota(1 << 30, 1000);
    let bjorn = UserBuilder::new("björn")
        .password("$2a$10$c/k9/V2L3yUYgRBhLbFlm.k9Oyg4Cec6PSu9mgMGtKYj0KlS2XE8G")
        .home("/srv/data/bjorn")
        .bandwidth(128, 256)
        .permissions("/", Perms::LIST | Perms::DOWNLOAD)
        .permissions("/in", Perms::LIST | Perms::UPLOAD | Perms::OVERWRITE)
        .allowed_ip("127.0.0.0/8")
        .denied_ip("10.0.0.0/8");
    let key_only = UserBuilder::new("key only")
        .password("")
        .public_key(KEY)
        .home("/srv/data/key")
        .owner(1000, 1000)
        .inactive()
        .expires(1_893_456_000_000)
        .permissions("/", Perms::LIST)
        .permissions("/a <b> & c", Perms::ALL);
    let unix = UserBuilder::new("unix")
        .password(
            "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1",
        )
        .home("/srv/data/unix");
    let mut id = 0;
    [anna, bjorn, key_only, unix].map(|builder| {
        id += 1;
        User { id, ..builder.build() }
    })
}

#[tokio::test]
async fn the_references_database_opens_unchanged_and_reads_exactly() {
    let database = Database::reference();
    let before = database.bytes();
    for manage_users in [1, 0] {
        let store = database.open_with(|section| section.manage_users = manage_users).await.unwrap();
        assert_eq!(store.all_users().await.unwrap(), reference_users());
        for user in reference_users() {
            assert_eq!(store.user(&user.username).await.unwrap(), user);
            assert_eq!(store.user_by_id(user.id).await.unwrap(), user);
        }
        drop(store);
        assert!(database.bytes() == before, "the file changed with manage_users {manage_users}");
    }
}

#[tokio::test]
async fn what_is_written_stays_readable_for_the_reference() {
    let database = Database::reference();
    let all = "SELECT * FROM users ORDER BY id";
    let (schema, rows) = (database.schema().await, database.dump(all).await);
    let store = database.open().await.unwrap();
    for user in store.all_users().await.unwrap() {
        store.update(&user).await.unwrap();
    }
    assert_eq!(database.dump(all).await, rows, "the same accounts are written in the same form, to the byte");

    store.add_usage("anna", UsageDelta { size_bytes: 10, files: 1 }, 5).await.unwrap();
    store.record_login("anna", 6).await.unwrap();
    let new = UserBuilder::new("new").permissions("/", Perms::LIST).permissions("/<&>", Perms::ALL).build();
    assert_eq!(store.insert(&new).await.unwrap(), 5);
    let columns = "id, username, permissions, public_keys, filters, used_quota_size, used_quota_files, \
                   last_quota_update, last_login, status";
    let rows = database.dump(&format!("SELECT {columns} FROM users WHERE id IN (1, 5) ORDER BY id")).await;
    let cells = |row: usize| rows[row].iter().map(|cell| cell.as_deref().unwrap()).collect::<Vec<_>>();
    let filters = r#"{"allowed_ip":[],"denied_ip":[]}"#;
    assert_eq!(cells(0), ["1", "anna", r#"{"/":["*"]}"#, "[]", filters, "10", "1", "5", "6", "1"]);
    let permissions = r#"{"/":["list"],"/\u003c\u0026\u003e":["*"]}"#;
    assert_eq!(cells(1), ["5", "new", permissions, "[]", filters, "0", "0", "0", "0", "1"]);
    assert_eq!(database.schema().await, schema);
    // Bytes 18 and 19 of the header: 1 is a rollback journal, 2 a write-ahead log.
    assert_eq!(database.bytes()[18..20], [1, 1], "the journal mode of the file changed");
}

#[tokio::test]
async fn a_missing_database_is_created_with_the_references_columns() {
    let database = Database::missing();
    let store = database.open().await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    let columns = "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('users')";
    assert_eq!(database.dump(columns).await, Database::reference().dump(columns).await);
    assert_eq!(database.bytes()[18..20], [2, 2], "a file of ours has a write-ahead log");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&database.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others can read the password hashes");
    }
    drop(store);
    let schema = database.schema().await;
    let store = database.open().await.unwrap();
    assert_eq!(store.user("anna").await.unwrap().id, 1);
    assert_eq!(database.schema().await, schema);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_may_create_the_same_database_at_once() {
    for _ in 0..25 {
        let database = Database::missing();
        let mut servers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let section = DataProvider { name: "users.db".into(), ..DataProvider::default() };
            let settings = section.validate(database.path.parent().unwrap()).unwrap();
            servers.spawn(async move { open(&settings).await });
        }
        let stores: Vec<_> = servers.join_all().await.into_iter().map(Result::unwrap).collect();
        let id = stores[0].insert(&user("anna")).await.unwrap();
        for store in &stores {
            assert_eq!(store.user("anna").await.unwrap().id, id);
            assert!(matches!(store.insert(&user("anna")).await, Err(StoreError::Conflict)));
        }
    }
}

#[tokio::test]
async fn old_schemas_are_brought_up_to_date() {
    const FIRST: &str = "INSERT INTO users (id, username, password, public_keys, home_dir, uid, gid, max_sessions, \
        quota_size, quota_files, permissions, used_quota_size, used_quota_files, last_quota_update, \
        upload_bandwidth, download_bandwidth) VALUES (7, 'anna', NULL, NULL, '/srv/anna', 1, 2, 3, 4, 5, \
        '[\"list\",\"download\"]', 6, 7, 8, 9, 10)";
    // An id that was given once must not be given again.
    const GONE: &str = "UPDATE sqlite_sequence SET seq = 20 WHERE name = 'users'";
    let path = |text: &str| VPath::parse(text.as_bytes()).unwrap();
    for applied in 1..=3 {
        let mut statements = vec![SCRIPTS[0], FIRST, GONE];
        statements.extend(&SCRIPTS[1..applied]);
        let database = Database::made_by(&statements).await;
        let before = database.schema().await;
        let store = database.open().await.unwrap();
        let anna = store.user("anna").await.unwrap();
        let want = UserBuilder::new("anna")
            .password("x")
            .permissions("/", Perms::LIST | Perms::DOWNLOAD)
            .owner(1, 2)
            .max_sessions(3)
            .quota(4, 5)
            .bandwidth(9, 10)
            .build();
        let used = UsedQuota { size_bytes: 6, files: 7 };
        let want = User { id: 7, password: String::new(), used, last_quota_update: 8, ..want };
        assert_eq!(anna, want, "from {applied} scripts");
        assert_eq!(anna.permissions.at(&path("/x/y")), Perms::LIST | Perms::DOWNLOAD);
        assert_eq!(store.insert(&user("berta")).await.unwrap(), 21, "from {applied} scripts");
        store.update(&anna).await.unwrap();
        let row =
            database.dump("SELECT permissions, filters, status, last_login FROM users WHERE id = 7").await;
        let row: Vec<_> = row[0].iter().map(|cell| cell.as_deref().unwrap()).collect();
        let filters = r#"{"allowed_ip":[],"denied_ip":[]}"#;
        assert_eq!(row, [r#"{"/":["list","download"]}"#, filters, "1", "0"]);
        assert_eq!(database.schema().await == before, applied == 3, "from {applied} scripts");
        let header = database.bytes();
        assert_eq!(header[18..20], [1, 1], "the journal mode of a file that was there changed");
    }
}

#[tokio::test]
async fn another_table_is_brought_up_to_date_under_its_own_name() {
    let old = SCRIPTS[0].replace("\"users\"", "\"staff\"");
    let database = Database::made_by(&[&old]).await;
    let store = database.open_with(|section| section.users_table = "Staff".into()).await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    let tables = database.dump("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").await;
    assert_eq!(tables, [[Some("sqlite_sequence".to_owned())], [Some("staff".to_owned())]]);
}

#[tokio::test]
async fn what_is_not_known_is_refused_and_left_alone() {
    let extra = "ALTER TABLE users ADD COLUMN filesystem text NULL";
    let view = "CREATE VIEW users AS SELECT * FROM staff";
    let staff = SCRIPTS[0].replace("\"users\"", "\"staff\"");
    let index = "CREATE INDEX by_home ON users (home_dir)";
    for (statements, named) in [
        (&["CREATE TABLE users (id integer PRIMARY KEY, name text)"][..], "missing columns: username"),
        (&[SCRIPTS[0], SCRIPTS[1], SCRIPTS[2], extra], "unknown columns: filesystem"),
        (&["CREATE TABLE orders (id integer)"], "is not created beside orders"),
        (&[staff.as_str(), view], "is a view"),
        (&[SCRIPTS[0], index], "would lose index by_home"),
    ] {
        let database = Database::made_by(statements).await;
        let before = database.bytes();
        let refusal = database.refusal(|_| {}).await;
        assert!(refusal.contains(named) && refusal.contains("users.db"), "{refusal}");
        assert!(database.bytes() == before, "{named}: the file changed");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let missing = Database::missing();
    assert!(missing.refusal(read_only).await.contains("users.db"));
    assert!(!missing.path.exists());
    std::fs::write(&missing.path, "").unwrap();
    assert!(missing.refusal(read_only).await.ends_with("users.db is empty"));
    std::fs::write(&missing.path, "this is no database, but long enough to be read as one".repeat(20))
        .unwrap();
    for manage_users in [0, 1] {
        let started = Instant::now();
        let refusal = missing.refusal(|section| section.manage_users = manage_users).await;
        assert!(refusal.contains("users.db") && refusal.contains("is not a database"), "{refusal}");
        assert!(started.elapsed() < Duration::from_secs(5), "the reason came late");
    }
    let folder = missing.refusal(|section| section.name = ".".into()).await;
    assert!(folder.contains("is not a file"), "{folder}");
    let nowhere = missing.refusal(|section| section.name = "no/such/folder.db".into()).await;
    assert!(nowhere.contains("no/such/folder.db cannot be created"), "{nowhere}");
}

#[tokio::test]
async fn without_manage_users_nothing_is_written() {
    let view = "CREATE VIEW people AS SELECT id, NULL AS filters, lower(username) AS username, password, \
        public_keys, home_dir, uid, gid, max_sessions, quota_size, quota_files, permissions, 0 AS used_quota_size, \
        0 AS used_quota_files, 0 AS last_quota_update, upload_bandwidth, download_bandwidth, expiration_date, \
        0 AS last_login, status FROM users";
    let database = Database::reference();
    database.run(view).await;
    let before = database.bytes();
    let open_view = |section: &mut DataProvider| {
        section.users_table = "people".into();
        section.manage_users = 0;
    };
    let store = database.open_with(open_view).await.unwrap();
    store.ping().await.unwrap();
    let anna = store.user("anna").await.unwrap();
    assert_eq!(anna, reference_users()[0]);
    let query =
        UserQuery { text: Some("ANN".into()), sort: UserSort::UsedSize, limit: 5, ..UserQuery::default() };
    assert_eq!(store.search(&query).await.unwrap(), UserPage { users: vec![anna.clone()], total: 1 });
    assert_eq!(store.users_by_name(&["anna".into()]).await.unwrap(), std::slice::from_ref(&anna));
    let delta = UsageDelta { size_bytes: 1, files: 1 };
    for result in [
        store.insert(&user("new")).await.map(drop),
        store.update(&anna).await,
        store.delete(1).await,
        store.add_usage("anna", delta, 1).await,
        store.set_usage("anna", UsedQuota::default(), 1).await,
        store.record_login("anna", 1).await,
    ] {
        let Err(StoreError::Unavailable(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("manage_users is 0"), "{text}");
    }
    drop(store);
    assert!(database.bytes() == before);
    let lacking = database
        .refusal(|section| {
            open_view(section);
            section.users_table = "nobody".into();
        })
        .await;
    assert!(lacking.contains("cannot read the users of"), "{lacking}");
}

#[tokio::test]
async fn a_damaged_row_fails_lists_and_nobody_elses_login() {
    let database = Database::reference();
    database.run("UPDATE users SET permissions = '{\"/\":[\"lis' WHERE username = 'björn'").await;
    let store = database.open().await.unwrap();
    let page = Page { limit: 10, ..Page::default() };
    for error in [
        store.user("björn").await.unwrap_err(),
        store.user_by_id(2).await.unwrap_err(),
        store.users(&page).await.unwrap_err(),
        store.all_users().await.unwrap_err(),
    ] {
        let StoreError::Corrupt(text) = error else { panic!("{error:?}") };
        assert!(text.starts_with("column permissions of user \"björn\""), "{text}");
    }
    assert_eq!(store.user("anna").await.unwrap(), reference_users()[0]);
    // It can be counted, mended and removed.
    store.add_usage("björn", UsageDelta { size_bytes: 1, files: 1 }, 1).await.unwrap();
    store.update(&reference_users()[1]).await.unwrap();
    assert_eq!(store.user("björn").await.unwrap().permissions, reference_users()[1].permissions);
}

#[tokio::test]
async fn values_of_other_types_are_read_for_what_they_are() {
    let database = Database::reference();
    database
        .run("UPDATE users SET permissions = CAST(permissions AS blob), used_quota_files = -3 WHERE id = 1")
        .await;
    database.run("UPDATE users SET quota_size = 1.5 WHERE id = 2").await;
    database.run("UPDATE users SET home_dir = x'ff' WHERE id = 4").await;
    let store = database.open().await.unwrap();
    assert_eq!(store.user("anna").await.unwrap(), reference_users()[0]);
    assert_eq!(store.usage("anna").await.unwrap(), UsedQuota::default());
    store.add_usage("anna", UsageDelta { size_bytes: 1, files: 5 }, 1).await.unwrap();
    assert_eq!(store.usage("anna").await.unwrap(), UsedQuota { size_bytes: 1, files: 2 });
    for (name, column) in [("björn", "column quota_size"), ("unix", "column home_dir")] {
        let error = store.user(name).await.unwrap_err().to_string();
        assert!(error.contains(column), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_is_locked_is_waited_for() {
    let database = Database::reference();
    let store = database.open().await.unwrap();
    let mut other = database.connect().await;
    let lock = other.begin_with("BEGIN EXCLUSIVE").await.unwrap();
    let started = Instant::now();
    let (written, read, ()) = tokio::join!(store.record_login("anna", 5), store.user("unix"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lock.rollback().await.unwrap();
    });
    written.unwrap();
    assert_eq!(read.unwrap(), reference_users()[3]);
    assert!(started.elapsed() >= Duration::from_millis(300), "nothing was locked");
}

#[tokio::test]
async fn connection_strings_of_the_reference_work() {
    let database = Database::reference();
    let path = database.path.to_str().unwrap();
    for text in
        [path.to_owned(), format!("{path}?_busy_timeout=5"), format!("file:{path}?cache=shared&mode=rw")]
    {
        let connection_string = |section: &mut DataProvider| {
            section.name = String::new();
            section.connection_string = Secret::new(text.as_str());
        };
        let store = database.open_with(connection_string).await.unwrap();
        assert_eq!(store.all_users().await.unwrap(), reference_users(), "{text}");
    }
    let elsewhere = database.path.with_file_name("none.db");
    let text = format!("file:{}?mode=rw", elsewhere.display());
    let refusal = database.refusal(|section| section.connection_string = Secret::new(text)).await;
    assert!(refusal.contains("none.db"), "{refusal}");
    assert!(!Path::new(&elsewhere).exists());
}
