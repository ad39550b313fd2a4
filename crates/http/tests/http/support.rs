//! A server on a free port, a client whose every byte is under the test's control, and a data provider that
//! can be told to fail.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tidegate_core::{
    Accounts, AccountsConfig, Attempt, Authenticator, Events, FsPolicy, Metrics, OpenStorage, Order, Page,
    Passwords, Peer, QuotaPolicy, Session, Sessions, StoreError, TrackQuota, UploadMode, UsageDelta,
    UsedQuota, User, UserDraft, UserStore, system_clock,
};
use tidegate_http::config::Settings;
use tidegate_http::{Parts, Server, VersionInfo};
use tidegate_vfs::{FsError, MemoryStorage, Storage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A hash costs 64 MiB and some time; most tests need none.
pub(crate) const HASHED: &str = "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/\
    1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1";
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKOOPZfQFC6Ot4kdCsrQ4xbUV3ezkhsyhAfaBgQVIm2 anna@home";

/// What the data provider does when it is asked.
#[derive(Clone, Copy)]
pub(crate) enum Mood {
    Works = 0,
    Fails = 1,
    Panics = 2,
}

pub(crate) struct Store {
    users: Mutex<BTreeMap<String, User>>,
    mood: AtomicU8,
    scans: Arc<Semaphore>,
}

impl Default for Store {
    fn default() -> Self {
        let scans = Arc::new(Semaphore::new(0));
        Self { users: Mutex::default(), mood: AtomicU8::default(), scans }
    }
}

impl Store {
    /// Lets one scan begin to read.
    pub(crate) fn let_a_scan_read(&self) {
        self.scans.add_permits(1);
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// The user as it is stored, the hash included.
    pub(crate) fn stored(&self, name: &str) -> User {
        self.users.lock().unwrap()[name].clone()
    }

    /// Puts a user there without asking the server.
    pub(crate) fn seed(&self, name: &str) {
        let draft = UserDraft {
            id: 1,
            username: name.to_owned(),
            password: HASHED.to_owned(),
            home_dir: format!("/srv/{name}"),
            permissions: BTreeMap::from([("/".to_owned(), vec!["*".to_owned()])]),
            used_quota_size: 4_321,
            used_quota_files: 3,
            last_quota_update: 1_700_000_000_000,
            last_login: 1_700_000_000_001,
            ..UserDraft::default()
        };
        self.users.lock().unwrap().insert(name.to_owned(), draft.validate(None).unwrap());
    }

    /// Puts a user there that has a key with this comment.
    pub(crate) fn seed_with(&self, name: &str, id: i64, comment: &str) {
        self.seed(name);
        let mut users = self.users.lock().unwrap();
        let user = users.get_mut(name).unwrap();
        (user.id, user.public_keys) = (id, vec![format!("{KEY} {comment}")]);
    }

    fn users(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<String, User>>, StoreError> {
        match self.mood.load(Ordering::Relaxed) {
            0 => Ok(self.users.lock().unwrap()),
            1 => Err(StoreError::Unavailable("secret detail of the database".to_owned())),
            _ => panic!("the provider has a defect"),
        }
    }
}

#[async_trait]
impl UserStore for Store {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        self.users()?.get(name).cloned().ok_or(StoreError::NotFound)
    }

    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.users()?.values().find(|user| user.id == id).cloned().ok_or(StoreError::NotFound)
    }

    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError> {
        let mut all: Vec<_> = self.users()?.values().cloned().collect();
        all.retain(|user| page.username.as_ref().is_none_or(|name| *name == user.username));
        if page.order == Order::Descending {
            all.reverse();
        }
        Ok(all.into_iter().skip(page.offset as usize).take(page.limit as usize).collect())
    }

    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(self.users()?.values().cloned().collect())
    }

    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        let mut users = self.users()?;
        if users.contains_key(&user.username) {
            return Err(StoreError::Conflict);
        }
        let id = users.values().map(|user| user.id).max().unwrap_or(0) + 1;
        users.insert(
            user.username.clone(),
            User { id, used: UsedQuota::default(), last_quota_update: 0, last_login: 0, ..user.clone() },
        );
        Ok(id)
    }

    async fn update(&self, user: &User) -> Result<(), StoreError> {
        let mut users = self.users()?;
        let stored = users.values_mut().find(|stored| stored.id == user.id).ok_or(StoreError::NotFound)?;
        *stored = User {
            username: stored.username.clone(),
            used: stored.used,
            last_quota_update: stored.last_quota_update,
            last_login: stored.last_login,
            ..user.clone()
        };
        Ok(())
    }

    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        let mut users = self.users()?;
        let before = users.len();
        users.retain(|_, user| user.id != id);
        if users.len() == before { Err(StoreError::NotFound) } else { Ok(()) }
    }

    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        Ok(self.user(name).await?.used)
    }

    async fn add_usage(&self, _: &str, _: UsageDelta, _: i64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn set_usage(&self, name: &str, used: UsedQuota, _: i64) -> Result<(), StoreError> {
        self.users()?.get_mut(name).ok_or(StoreError::NotFound)?.used = used;
        Ok(())
    }

    async fn record_login(&self, _: &str, _: i64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.users().map(drop)
    }
}

/// Empty homes. One that is to be scanned opens when the test lets it.
struct Homes(Arc<Semaphore>);

#[async_trait]
impl OpenStorage for Homes {
    async fn open(&self, _: &User) -> Result<Arc<dyn Storage>, FsError> {
        Ok(Arc::new(MemoryStorage::new()))
    }

    async fn open_existing(&self, user: &User) -> Result<Arc<dyn Storage>, FsError> {
        self.0.acquire().await.map_err(|_| FsError::Cancelled)?.forget();
        self.open(user).await
    }
}

/// What a test server is built from.
pub(crate) struct Options {
    pub(crate) bind_address: &'static str,
    pub(crate) allow_unauthenticated: bool,
    pub(crate) manage_users: bool,
    pub(crate) users_base_dir: Option<PathBuf>,
    pub(crate) backups_path: PathBuf,
    pub(crate) auth_user_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind_address: "127.0.0.1",
            allow_unauthenticated: false,
            manage_users: true,
            users_base_dir: None,
            auth_user_file: None,
            backups_path: "backups".into(),
        }
    }
}

pub(crate) fn settings(options: &Options) -> Settings {
    Settings {
        bind_address: options.bind_address.to_owned(),
        bind_port: 0,
        templates_path: "templates".into(),
        static_files_path: "static".into(),
        backups_path: options.backups_path.clone(),
        allow_unauthenticated: options.allow_unauthenticated,
        auth_user_file: options.auth_user_file.clone(),
        certificate: None,
        trusted_origins: Vec::new(),
        trusted_proxies: Vec::new(),
    }
}

pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    pub(crate) store: Arc<Store>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: Option<JoinHandle<()>>,
    authenticator: Authenticator,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn parts(options: &Options, store: &Arc<Store>) -> (Parts, Authenticator) {
    let homes = Arc::new(Homes(Arc::clone(&store.scans)));
    let store: Arc<dyn UserStore> = store.clone();
    let metrics = Metrics::new();
    let events = Events::new(metrics.clone(), None);
    let passwords = Passwords::new(1);
    let policy = FsPolicy { upload_mode: UploadMode::Standard, ignore_set_attrs: false, fsync: false };
    let quota = QuotaPolicy { track: TrackQuota::Always, write: true };
    let sessions = Sessions::new(store.clone(), homes, events.clone(), system_clock(), policy, quota);
    let config =
        AccountsConfig { manage_users: options.manage_users, users_base_dir: options.users_base_dir.clone() };
    let accounts = Accounts::new(store.clone(), passwords.clone(), sessions.clone(), events.clone(), config);
    let authenticator = Authenticator::new(store, passwords, sessions.clone(), events, system_clock(), false);
    let version = VersionInfo {
        version: "1.2.3".to_owned(),
        build_date: "2026-01-31T12:00:00Z".to_owned(),
        commit_hash: "08a6b00".to_owned(),
    };
    (Parts { accounts, sessions, metrics, version }, authenticator)
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let store = Arc::new(Store::default());
        let (parts, authenticator) = parts(&options, &store);
        let metrics = parts.metrics.clone();
        let bound = Server::bind(&settings(&options), parts).await.unwrap();
        let addr = bound.addr();
        let shutdown = CancellationToken::new();
        let running = Some(tokio::spawn(bound.run(shutdown.clone())));
        Self { addr, store, metrics, shutdown, running, authenticator }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.rest("GET", path, None).await
    }

    /// One request of a program: `Host`, no `Origin`.
    pub(crate) async fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(ToString::to_string);
        self.request(method, path, &[], body.as_deref()).await
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Response {
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text += &format!("Host: localhost:{}\r\n", self.addr.port());
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        text += body.unwrap_or_default();
        self.send(text.as_bytes()).await
    }

    pub(crate) async fn send(&self, bytes: &[u8]) -> Response {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // The server resets a connection whose request it has not read to the end.
        let _read = tokio::time::timeout(Duration::from_secs(30), read).await.expect("an answer in time");
        parse(&answer)
    }

    /// Logs in and opens a session, as the SSH server does.
    pub(crate) async fn login(&self, name: &str, password: &str, connection_id: &str) -> Session {
        let peer = Peer { addr: "192.0.2.7:50000".parse().unwrap(), connection_id: connection_id.into() };
        let attempt = Attempt { username: name.to_owned(), peer };
        let session = self.authenticator.password(&attempt, password).await.unwrap();
        session.set_client_version("SSH-2.0-OpenSSH_9.2".to_owned());
        session
    }
}

/// A user that is valid and costs no hashing.
pub(crate) fn user_body(name: &str) -> Value {
    json!({
        "username": name, "status": 1, "password": HASHED, "home_dir": format!("/srv/{name}"),
        "permissions": {"/": ["*"]},
    })
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{} {}", self.head, self.text());
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type").as_deref(), Some("application/json; charset=utf-8"));
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The `error` of the standard envelope, which must be one.
    pub(crate) fn error(&self) -> String {
        let body = self.json();
        assert_eq!((&body["status"], &body["message"]), (&json!(self.status), &json!("")), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// All answers of the server have a length, so that nothing needs to be unchunked.
fn parse(answer: &[u8]) -> Response {
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let split = split.unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(answer)));
    let head = String::from_utf8_lossy(&answer[..split]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    Response { status, head, body: answer[split + 4..].to_vec() }
}
