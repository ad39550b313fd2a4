//! PostgreSQL and MariaDB, the real ones, each started by its test: the contract, what others made, what goes away.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![cfg(all(unix, feature = "postgresql", feature = "mysql"))]

mod engines;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engines::proxy::{Loss, Proxy};
use engines::{DATABASE, MARIADB, PASSWORD, POSTGRESQL, Server, USER};
use tidegate_core::testing::{UserBuilder, user, user_store_suite};
use tidegate_core::{
    Page, Perms, StoreError, UsageDelta, UsedQuota, User, UserPage, UserQuery, UserSort, UserStatus,
    UserStore,
};
use tidegate_store::config::{DataProvider, Secret};
use tidegate_store::{OpenError, open};

/// Longer than any call may take.
const LIMIT: Duration = Duration::from_secs(17);

/// What differs between the engines, for tests.
struct Flavour {
    driver: &'static str,
    engine: &'static engines::Engine,
    /// Makes a name space that is empty.
    schema: fn(&str) -> String,
    scripts: [&'static str; 3],
    quote: char,
}

static PG: Flavour = Flavour {
    driver: "postgresql",
    engine: &POSTGRESQL,
    schema: |name| format!("CREATE SCHEMA {name};"),
    scripts: [
        include_str!("../../../sql/pgsql/20190828.sql"),
        include_str!("../../../sql/pgsql/20191112.sql"),
        include_str!("../../../sql/pgsql/20191230.sql"),
    ],
    quote: '"',
};

static MY: Flavour = Flavour {
    driver: "mysql",
    engine: &MARIADB,
    schema: |name| format!("CREATE DATABASE {name};"),
    scripts: [
        include_str!("../../../sql/mysql/20190828.sql"),
        include_str!("../../../sql/mysql/20191112.sql"),
        include_str!("../../../sql/mysql/20191230.sql"),
    ],
    quote: '`',
};

impl Flavour {
    fn section(&self, server: &Server, table: &str) -> DataProvider {
        DataProvider {
            driver: self.driver.into(),
            host: "127.0.0.1".into(),
            port: server.port.into(),
            name: DATABASE.into(),
            username: USER.into(),
            password: Secret::new(PASSWORD),
            users_table: table.into(),
            ..DataProvider::default()
        }
    }

    /// The script for a table of another name.
    fn script(&self, index: usize, table: &str) -> String {
        let quote = self.quote;
        let name: Vec<_> = table.split('.').map(|part| format!("{quote}{part}{quote}")).collect();
        self.scripts[index].replace(&format!("{quote}users{quote}"), &name.join("."))
    }
}

async fn open_section(section: DataProvider) -> Result<Arc<dyn UserStore>, OpenError> {
    open(&section.validate(Path::new("/nowhere")).unwrap()).await
}

async fn refusal(section: DataProvider) -> String {
    match open_section(section).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// Waits for the work of a call, and fails the test if it takes longer than any call may.
async fn within<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn contract(flavour: &'static Flavour) {
    let server = Server::start(flavour.engine);
    let next = AtomicU32::new(0);
    for pool_size in [0, 2] {
        user_store_suite(async || {
            let name = format!("space{}", next.fetch_add(1, Ordering::Relaxed));
            server.sql(&(flavour.schema)(&name));
            let mut section = flavour.section(&server, &format!("{name}.users"));
            section.pool_size = pool_size;
            open_section(section).await.unwrap()
        })
        .await;
    }
    names_are_the_same_to_the_letter(flavour, &server).await;
    what_does_not_fit_is_an_error(flavour, &server).await;
    several_servers_make_the_same_schema(flavour, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_keeps_the_contract() {
    contract(&PG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_keeps_the_contract() {
    contract(&MY).await;
}

async fn names_are_the_same_to_the_letter(flavour: &Flavour, server: &Server) {
    server.sql(&(flavour.schema)("letters"));
    // A table as the reference's script makes it in an old MySQL: names compare without case, accents and spaces.
    for index in 0..3 {
        let script = flavour.script(index, "letters.users").replace(
            " DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin",
            " DEFAULT CHARACTER SET = utf8mb3 COLLATE = utf8mb3_general_ci",
        );
        server.sql(&script);
    }
    let store = open_section(flavour.section(server, "letters.users")).await.unwrap();
    store.insert(&user("björn")).await.unwrap();
    for name in ["bjorn", "BJÖRN", "björn ", "björn\0", "", "björ"] {
        assert!(matches!(store.user(name).await, Err(StoreError::NotFound)), "{name:?}");
        assert!(matches!(store.usage(name).await, Err(StoreError::NotFound)), "{name:?}");
        assert!(matches!(store.record_login(name, 1).await, Err(StoreError::NotFound)), "{name:?}");
        let page = Page { limit: 5, username: Some(name.into()), ..Page::default() };
        assert_eq!(store.users(&page).await.unwrap(), [], "{name:?}");
        assert_eq!(store.users_by_name(&[name.to_owned()]).await.unwrap(), [], "{name:?}");
    }
    for (text, found) in [("BJ", 1), ("JÖ", 1), ("jo", 0), ("n ", 0)] {
        let query = UserQuery { text: Some(text.into()), limit: 5, ..UserQuery::default() };
        assert_eq!(store.search(&query).await.unwrap().total, found, "{text:?}");
    }
    assert_eq!(store.user("björn").await.unwrap().last_login, 0);
}

async fn what_does_not_fit_is_an_error(flavour: &Flavour, server: &Server) {
    server.sql(&(flavour.schema)("fits"));
    let store = open_section(flavour.section(server, "fits.users")).await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    let files = i64::from(i32::MAX);
    store.set_usage("anna", UsedQuota { size_bytes: i64::MAX, files: i64::MAX }, 1).await.unwrap();
    assert_eq!(store.usage("anna").await.unwrap(), UsedQuota { size_bytes: i64::MAX, files });
    store.add_usage("anna", UsageDelta { size_bytes: 5, files: i64::MAX }, 2).await.unwrap();
    assert_eq!(store.usage("anna").await.unwrap(), UsedQuota { size_bytes: i64::MAX, files });
    let wide = User { uid: 1 << 40, ..user("wide") };
    let long = User { password: "x".repeat(300), ..user("long") };
    for user in [wide, long] {
        let error = store.insert(&user).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(matches!(store.user(&user.username).await, Err(StoreError::NotFound)));
    }
    // The connection on which a statement failed does no harm.
    assert_eq!(store.user("anna").await.unwrap().username, "anna");
}

async fn several_servers_make_the_same_schema(flavour: &'static Flavour, server: &Server) {
    for round in 0..5 {
        server.sql(&(flavour.schema)(&format!("race{round}")));
        let mut racers = tokio::task::JoinSet::new();
        for _ in 0..6 {
            racers.spawn(open_section(flavour.section(server, &format!("race{round}.users"))));
        }
        let stores: Vec<_> = racers.join_all().await.into_iter().map(Result::unwrap).collect();
        stores[0].insert(&user("anna")).await.unwrap();
        for store in &stores {
            assert_eq!(store.user("anna").await.unwrap().username, "anna");
        }
    }
}

async fn what_others_made(flavour: &'static Flavour) {
    let server = Server::start(flavour.engine);
    old_schemas(flavour, &server).await;
    refused_schemas(flavour, &server).await;
    views(flavour, &server).await;
    names_without_a_schema(flavour, &server).await;
    damaged_rows(flavour, &server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_databases_that_others_made() {
    what_others_made(&PG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_databases_that_others_made() {
    what_others_made(&MY).await;
}

async fn old_schemas(flavour: &Flavour, server: &Server) {
    const COLUMNS: &str = "SELECT column_name, data_type, is_nullable, column_default FROM \
        information_schema.columns WHERE table_name = 'users' AND table_schema = 'SPACE' ORDER BY column_name";
    server.sql(&(flavour.schema)("fresh"));
    open_section(flavour.section(server, "fresh.users")).await.unwrap();
    // The sequence that makes the ids is named after the schema.
    let columns = |space: &str| server.sql(&COLUMNS.replace("SPACE", space)).replace(space, "");
    let fresh = columns("fresh");
    assert_eq!(fresh.lines().count(), 20);
    for applied in 1..=3 {
        let space = format!("old{applied}");
        server.sql(&(flavour.schema)(&space));
        let table = format!("{space}.users");
        server.sql(&flavour.script(0, &table));
        server.sql(&format!(
            "INSERT INTO {table} (id, username, password, public_keys, home_dir, uid, gid, max_sessions, quota_size, \
             quota_files, permissions, used_quota_size, used_quota_files, last_quota_update, upload_bandwidth, \
             download_bandwidth) VALUES (7, 'anna', NULL, NULL, '/srv/anna', 1, 2, 3, 4, 5, '[\"list\",\"download\"]', \
             6, 7, 8, 9, 10);"
        ));
        for index in 1..applied {
            server.sql(&flavour.script(index, &table));
        }
        let store = open_section(flavour.section(server, &table)).await.unwrap();
        let want = UserBuilder::new("anna")
            .permissions("/", Perms::LIST | Perms::DOWNLOAD)
            .owner(1, 2)
            .max_sessions(3)
            .quota(4, 5)
            .bandwidth(9, 10)
            .build();
        let used = UsedQuota { size_bytes: 6, files: 7 };
        let want = User { id: 7, password: String::new(), used, last_quota_update: 8, ..want };
        assert_eq!(store.user("anna").await.unwrap(), want, "from {applied} scripts");
        assert_eq!(columns(&space), fresh, "from {applied} scripts");
        store.update(&want).await.unwrap();
        let row = server.sql(&format!("SELECT permissions, filters, public_keys, status FROM {table}"));
        let filters = r#"{"allowed_ip":[],"denied_ip":[]}"#;
        assert_eq!(row, format!("{}\t{filters}\t[]\t1", r#"{"/":["list","download"]}"#));
        // Opened again, nothing is to be done.
        open_section(flavour.section(server, &table)).await.unwrap();
        assert_eq!(columns(&space), fresh);
    }
}

async fn refused_schemas(flavour: &Flavour, server: &Server) {
    let all = |space: &str| -> String {
        (0..3).map(|index| flavour.script(index, &format!("{space}.users"))).collect()
    };
    for (space, statements, named) in [
        (
            "newer",
            format!("{}ALTER TABLE newer.users ADD COLUMN filesystem text;", all("newer")),
            "filesystem",
        ),
        (
            "alien",
            "CREATE TABLE alien.users (id integer, name text);".to_owned(),
            "missing columns: username",
        ),
        ("shop", "CREATE TABLE shop.orders (id integer);".to_owned(), "is not created beside orders"),
        (
            "look",
            "CREATE TABLE look.t (id integer); CREATE VIEW look.users AS SELECT * FROM look.t;".to_owned(),
            "missing columns",
        ),
    ] {
        server.sql(&(flavour.schema)(space));
        server.sql(&statements);
        let text = refusal(flavour.section(server, &format!("{space}.users"))).await;
        assert!(text.contains(named) && text.contains(DATABASE) && !text.contains(PASSWORD), "{text}");
        let tables = format!("SELECT count(*) FROM information_schema.tables WHERE table_schema = '{space}'");
        assert_eq!(server.sql(&tables), if space == "look" { "2" } else { "1" });
    }
    for (change, named) in [
        ((|s| s.password = Secret::new("wrong")) as fn(&mut DataProvider), "connect to"),
        (|s| s.name = "nowhere".into(), "nowhere"),
        (|s| s.users_table = "no_such_schema.users".into(), "no_such_schema"),
        (|s| s.sslmode = 1, "connect to"),
    ] {
        let mut section = flavour.section(server, "users");
        change(&mut section);
        let text = refusal(section).await;
        assert!(text.contains(named) && !text.contains(PASSWORD), "{text}");
    }
}

async fn views(flavour: &Flavour, server: &Server) {
    server.sql(&(flavour.schema)("hosting"));
    let store = open_section(flavour.section(server, "hosting.users")).await.unwrap();
    store.insert(&user("Anna")).await.unwrap();
    server.sql(
        "CREATE VIEW hosting.accounts AS SELECT id, filters, lower(username) AS username, password, public_keys, \
         home_dir, uid, gid, max_sessions, quota_size, quota_files, permissions, 0 AS used_quota_size, \
         0 AS used_quota_files, 0 AS last_quota_update, upload_bandwidth, download_bandwidth, expiration_date, \
         0 AS last_login, 1 AS status FROM hosting.users;",
    );
    let mut section = flavour.section(server, "hosting.accounts");
    section.manage_users = 0;
    let store = open_section(section.clone()).await.unwrap();
    store.ping().await.unwrap();
    let anna = store.user("anna").await.unwrap();
    assert_eq!((anna.username.as_str(), anna.active), ("anna", true));
    let query = UserQuery {
        text: Some("NN".into()),
        status: Some(UserStatus::Active),
        sort: UserSort::UsedSize,
        limit: 5,
        ..UserQuery::default()
    };
    assert_eq!(store.search(&query).await.unwrap(), UserPage { users: vec![anna.clone()], total: 1 });
    assert_eq!(store.users_by_name(&["anna".into()]).await.unwrap(), std::slice::from_ref(&anna));
    let delta = UsageDelta { size_bytes: 1, files: 1 };
    for result in [
        store.insert(&user("new")).await.map(drop),
        store.update(&anna).await,
        store.delete(1).await,
        store.add_usage("anna", delta, 1).await,
        store.record_login("anna", 1).await,
    ] {
        let Err(StoreError::Unavailable(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("manage_users is 0"), "{text}");
    }
    section.users_table = "hosting.nobody".into();
    let text = refusal(section).await;
    assert!(text.contains("read the users of"), "{text}");
}

async fn names_without_a_schema(flavour: &Flavour, server: &Server) {
    let store = open_section(flavour.section(server, "staff")).await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    assert_eq!(server.sql("SELECT username FROM staff"), "anna");
    let local = match flavour.driver {
        "postgresql" => format!(
            "host='{}' port={} dbname='{DATABASE}' user='{}' password='{}' sslmode=disable connect_timeout=10",
            server.dir().display(),
            server.port,
            USER.replace('\'', "\\'"),
            PASSWORD.replace('\\', "\\\\").replace('\'', "\\'")
        ),
        _ => format!("{USER}:{PASSWORD}@unix({})/{DATABASE}?charset=utf8", server.path("m.sock").display()),
    };
    let remote = match flavour.driver {
        "postgresql" => format!(
            "postgres://{}:{}@127.0.0.1:{}/{}?sslmode=disable",
            percent_encoded(USER),
            percent_encoded(PASSWORD),
            server.port,
            percent_encoded(DATABASE)
        ),
        _ => format!(
            "{USER}:{PASSWORD}@tcp([127.0.0.1]:{})/{DATABASE}?charset=utf8&interpolateParams=true&timeout=10s&tls=false\
             &writeTimeout=10s&readTimeout=10s",
            server.port
        ),
    };
    for text in [local, remote] {
        let section = DataProvider {
            driver: flavour.driver.into(),
            connection_string: Secret::new(text.as_str()),
            users_table: "staff".into(),
            ..DataProvider::default()
        };
        let store = open_section(section).await.unwrap();
        assert_eq!(store.user("anna").await.unwrap().username, "anna", "{text}");
        store.close().await;
        let error = store.ping().await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn damaged_rows(flavour: &Flavour, server: &Server) {
    server.sql(&(flavour.schema)("damaged"));
    let store = open_section(flavour.section(server, "damaged.users")).await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    store.insert(&user("berta")).await.unwrap();
    server.sql("UPDATE damaged.users SET permissions = '{\"/\":[\"lis' WHERE username = 'berta';");
    let Err(StoreError::Corrupt(text)) = store.user("berta").await else { panic!("it was read") };
    assert!(text.starts_with("column permissions of user \"berta\""), "{text}");
    assert!(matches!(store.all_users().await, Err(StoreError::Corrupt(_))));
    assert_eq!(store.user("anna").await.unwrap().username, "anna");
}

async fn tls(flavour: &'static Flavour) {
    let server = Server::start_with(flavour.engine, engines::make_certificates);
    let section = |mode: i64| DataProvider { sslmode: mode, ..flavour.section(&server, "users") };
    // Whoever signed the certificate is nobody's authority here; modes that ask for one must fail.
    let works = match flavour.driver {
        "postgresql" => [true, true, false, false],
        _ => [true, false, true, true],
    };
    for (mode, works) in (0..).zip(works) {
        if works {
            open_section(section(mode)).await.unwrap().ping().await.unwrap();
        } else {
            let text = refusal(section(mode)).await;
            assert!(text.to_lowercase().contains("certificate"), "mode {mode}: {text}");
        }
    }
    let ca = server.path("ca.pem");
    let verified = match flavour.driver {
        "postgresql" => format!(
            "host=127.0.0.1 port={} dbname='{DATABASE}' user='{}' password='{}' sslmode=verify-full sslrootcert='{}'",
            server.port,
            USER.replace('\'', "\\'"),
            PASSWORD.replace('\\', "\\\\").replace('\'', "\\'"),
            ca.display()
        ),
        _ => format!(
            "mysql://{}:{}@127.0.0.1:{}/{}?ssl-mode=VERIFY_IDENTITY&ssl-ca={}",
            percent_encoded(USER),
            percent_encoded(PASSWORD),
            server.port,
            percent_encoded(DATABASE),
            ca.display()
        ),
    };
    let section = DataProvider {
        driver: flavour.driver.into(),
        connection_string: Secret::new(verified),
        ..DataProvider::default()
    };
    open_section(section).await.unwrap().ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_over_tls() {
    tls(&PG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_over_tls() {
    tls(&MY).await;
}

/// A change that was sent and not answered may be done or not, and is told from one that was not sent.
async fn an_answer_is_lost(flavour: &'static Flavour) {
    let mut server = Server::start(flavour.engine);
    let proxy = Proxy::to(server.port);
    let section = DataProvider { pool_size: 1, port: proxy.port.into(), ..flavour.section(&server, "users") };
    let store = within("the start", open_section(section)).await.unwrap();
    store.insert(&user("anna")).await.unwrap();
    let one = UsageDelta { size_bytes: 1, files: 0 };
    for (loss, done) in [(Loss::Statement, false), (Loss::Answer, true)] {
        let before = store.usage("anna").await.unwrap().size_bytes;
        proxy.lose(loss);
        let error = within("a change", store.add_usage("anna", one, 1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Uncertain(_)), "{loss:?}: {error}");
        assert!(proxy.has_lost());
        let after = within("a read", store.usage("anna")).await.unwrap().size_bytes;
        assert_eq!(after - before, i64::from(done), "{loss:?}");
        proxy.lose(loss);
        let error = within("a read", store.usage("anna")).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{loss:?}: {error}");
    }
    server.kill();
    // Connections that are found dead before anything is sent leave no doubt.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let error = within("a change", store.add_usage("anna", one, 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_does_not_say_whether_it_has_counted() {
    an_answer_is_lost(&PG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_does_not_say_whether_it_has_counted() {
    an_answer_is_lost(&MY).await;
}

async fn goes_away(flavour: &'static Flavour) {
    let mut server = Server::start(flavour.engine);
    server.kill();
    // Nobody is there at the start: the schema is made when somebody is.
    let started = Instant::now();
    let section = DataProvider { pool_size: 8, ..flavour.section(&server, "users") };
    let store = within("the start", open_section(section)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "a port that refuses was waited for");
    let error = within("a call", store.user("anna")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    server.restart();
    store.insert(&user("anna")).await.unwrap();

    // Under load: what is confirmed is counted, and everything ends.
    let stop = Arc::new(AtomicBool::new(false));
    let (confirmed, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        let (confirmed, failed) = (Arc::clone(&confirmed), Arc::clone(&failed));
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let delta = UsageDelta { size_bytes: 1, files: 0 };
                match within("a call under load", store.add_usage("anna", delta, 1)).await {
                    Ok(()) => confirmed.fetch_add(1, Ordering::Relaxed),
                    Err(StoreError::Unavailable(_) | StoreError::Uncertain(_)) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        failed.fetch_add(1, Ordering::Relaxed)
                    }
                    Err(other) => panic!("{other}"),
                };
                within("a read under load", store.user("anna")).await.ok();
            }
        });
    }
    let until = async |counter: &AtomicU64, more: u64| {
        let target = counter.load(Ordering::Relaxed) + more;
        within("the load", async {
            while counter.load(Ordering::Relaxed) < target {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    until(&confirmed, 100).await;
    server.kill();
    until(&failed, 100).await;
    server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    until(&confirmed, 100).await;
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    // Each of 8 connections may have lost one answer, not one statement that was confirmed.
    let counted = u64::try_from(store.usage("anna").await.unwrap().size_bytes).unwrap();
    let confirmed = confirmed.load(Ordering::Relaxed);
    assert!((confirmed..=confirmed + 8).contains(&counted), "{counted} counted, {confirmed} confirmed");

    // A server that is there and silent costs its time-out, not more, and its connections are not used again.
    server.signal("STOP");
    let started = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { within("a call to a silent server", store.user("anna")).await })
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    server.signal("CONT");
    within("the first call", async {
        while let Err(error) = store.user("anna").await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
    })
    .await;
    for _ in 0..20 {
        store.user("anna").await.unwrap();
    }
    within("the end", store.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_goes_away_and_comes_back() {
    goes_away(&PG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_goes_away_and_comes_back() {
    goes_away(&MY).await;
}
