//! Who is connected: one [`Session`] per authenticated connection, all of them in [`Sessions`].
//!
//! Opening counts and inserts under one lock, so that `max_sessions` has no race. What all sessions of
//! a user share (`account.rs`) lives as long as any of them. How changes of an account reach its open
//! sessions is in `live.rs`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_vfs::{BufferPool, FsError, Storage, VPath};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::account::{Account, LeftBehind};
use crate::marks::Marks;
use crate::quota_scan::Scans;
use crate::{
    Activity, Clock, Direction, Events, FsPolicy, Ledger, QuotaPolicy, TrackQuota, UnixMillis, User, UserFs,
    UserStore, orphans,
};

/// Over which protocol files are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The SFTP subsystem.
    Sftp,
    /// The `scp` command.
    Scp,
    /// Any other SSH command.
    Ssh,
}

impl Protocol {
    /// The word in log lines and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sftp => "SFTP",
            Self::Scp => "SCP",
            Self::Ssh => "SSH",
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address, IPv4-mapped ones as IPv4.
    pub addr: SocketAddr,
    /// Identifies the connection in logs and API: lowercase hexadecimal.
    pub connection_id: Arc<str>,
}

/// Opens the tree of files of a user; the program decides which backend that is.
#[async_trait]
pub trait OpenStorage: Send + Sync {
    /// Opens the user's home, and creates it at the first login.
    async fn open(&self, user: &User) -> Result<Arc<dyn Storage>, FsError>;

    /// Opens the user's home if it exists, for a scan: [`FsError::NotFound`] if it does not,
    /// [`FsError::NotDir`] if something else is there. What is given here suits homes on the local disk.
    async fn open_existing(&self, user: &User) -> Result<Arc<dyn Storage>, FsError> {
        let home = user.home_dir.clone();
        let found = tokio::task::spawn_blocking(move || std::fs::metadata(home));
        if !found.await.map_err(std::io::Error::other)??.is_dir() {
            return Err(FsError::NotDir);
        }
        self.open(user).await
    }
}

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The user has as many as allowed.
    #[error("too many open sessions: {open}, the limit is {limit}")]
    TooMany {
        /// Open now.
        open: usize,
        /// Allowed.
        limit: i64,
    },
    /// The server is about to stop.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// All sessions of the server. Cloning shares them.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn UserStore>,
    pub(crate) storage: Arc<dyn OpenStorage>,
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) policy: FsPolicy,
    pub(crate) quota: QuotaPolicy,
    pub(crate) scans: Scans,
    /// When the registry was created.
    pub(crate) started: UnixMillis,
    left_behind: LeftBehind,
    pub(crate) marks: Arc<OnceLock<Marks>>,
    /// Users whose homes were searched for abandoned temporary files.
    swept: Mutex<HashSet<String>>,
    sweeping: Arc<tokio::sync::Semaphore>,
    buffers: BufferPool,
    listed: AtomicUsize,
    ending: AtomicBool,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    sessions: HashMap<Arc<str>, Weak<Inner>>,
    accounts: HashMap<String, Known>,
}

/// What is known of a user: kept while anybody uses it or the provider must still be told something.
struct Known {
    connections: Vec<Arc<str>>,
    borrowed: usize,
    account: Arc<Account>,
}

impl Known {
    fn is_needed(&self) -> bool {
        !self.connections.is_empty() || self.borrowed > 0 || self.account.ledger.has_unwritten()
    }
}

impl Sessions {
    /// Creates the empty registry.
    pub fn new(
        store: Arc<dyn UserStore>,
        storage: Arc<dyn OpenStorage>,
        events: Events,
        clock: Clock,
        policy: FsPolicy,
        quota: QuotaPolicy,
    ) -> Self {
        Self(Arc::new(Shared {
            started: clock(),
            scans: Scans::default(),
            left_behind: LeftBehind::default(),
            marks: Arc::default(),
            swept: Mutex::default(),
            sweeping: Arc::new(tokio::sync::Semaphore::new(1)),
            store,
            storage,
            events,
            clock,
            policy,
            quota,
            buffers: BufferPool::new(),
            listed: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            registry: Mutex::default(),
        }))
    }

    /// Opens a session for a user whose credentials were checked, and the user's files with it. A home
    /// that cannot be opened does not stop the login: every operation will say why.
    ///
    /// # Errors
    ///
    /// [`OpenError::TooMany`] if `max_sessions` is reached.
    pub(crate) async fn open(
        &self,
        user: Arc<User>,
        label: String,
        peer: Peer,
    ) -> Result<Session, OpenError> {
        if self.0.ending.load(Ordering::Relaxed) {
            return Err(OpenError::ShuttingDown);
        }
        let slot = self.take_slot(&user, peer.connection_id.clone())?;
        self.read_usage(&slot).await;
        let storage = self.0.storage.open(&user).await;
        if let Err(error) = &storage {
            let id = &*peer.connection_id;
            warn!(
                connection_id = id,
                "home of user {:?} cannot be opened: {}",
                user.username,
                error.detail()
            );
        }
        let now = (self.0.clock)();
        let session = Session(Arc::new(Inner {
            current: RwLock::new(Arc::clone(&user)),
            user,
            label,
            peer,
            storage,
            client_version: OnceLock::new(),
            opened_at: now,
            last_activity: AtomicI64::new(now),
            cancel: CancellationToken::new(),
            next_id: AtomicU64::new(0),
            running: Mutex::default(),
            transfers: Mutex::default(),
            slot,
        }));
        let mut registry = self.0.registry();
        registry.sessions.insert(session.0.slot.connection_id.clone(), Arc::downgrade(&session.0));
        drop(registry);
        self.sweep(&session);
        Ok(session)
    }

    fn take_slot(&self, user: &User, connection_id: Arc<str>) -> Result<Slot, OpenError> {
        let mut registry = self.0.registry();
        let known = self.known(&mut registry, user);
        let open = known.connections.len();
        if user.max_sessions > 0 && open >= usize::try_from(user.max_sessions).unwrap_or(usize::MAX) {
            registry.tidy(&user.username);
            return Err(OpenError::TooMany { open, limit: user.max_sessions });
        }
        known.connections.push(Arc::clone(&connection_id));
        let account = Arc::clone(&known.account);
        Ok(Slot { shared: Arc::clone(&self.0), username: user.username.clone(), connection_id, account })
    }

    fn known<'a>(&self, registry: &'a mut Registry, user: &User) -> &'a mut Known {
        registry.accounts.entry(user.username.clone()).or_insert_with(|| {
            let ledger = Ledger::new(
                user,
                self.0.store.clone(),
                self.0.clock.clone(),
                self.0.quota,
                self.0.events.metrics().clone(),
            );
            let (left_behind, marks) = (Arc::clone(&self.0.left_behind), Arc::clone(&self.0.marks));
            let account = Account::new(user, Arc::new(ledger), left_behind, marks);
            Known { connections: Vec::new(), borrowed: 0, account: Arc::new(account) }
        })
    }

    /// What the sessions of a user share, without a session.
    pub(crate) fn borrow_account(&self, user: &User) -> Borrowed {
        let mut registry = self.0.registry();
        let known = self.known(&mut registry, user);
        known.borrowed += 1;
        let account = Arc::clone(&known.account);
        Borrowed { shared: Arc::clone(&self.0), username: user.username.clone(), account }
    }

    /// Between the moment at which a login read the record and now, another session may have ended and
    /// taken its knowledge of the usage along.
    async fn read_usage(&self, slot: &Slot) {
        let ledger = &slot.account.ledger;
        if self.0.quota.track == TrackQuota::Off || ledger.limits().is_none() {
            return;
        }
        let reading = ledger.reading();
        // Without an answer, what the login read must do.
        if let Ok(user) = self.0.store.user(&slot.username).await {
            ledger.refresh(&user, reading);
        }
    }

    /// Removes what crashed uploads left in a home, at its first login, beside everything else.
    fn sweep(&self, session: &Session) {
        let scans = &self.0.scans;
        let Ok(storage) = session.storage() else { return };
        if !self.0.policy.upload_mode.is_atomic() || scans.stop.is_cancelled() {
            return;
        }
        let mut swept = self.0.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if !swept.insert(session.0.user.username.clone()) {
            return;
        }
        drop(swept);
        let (permits, started) = (Arc::clone(&self.0.sweeping), self.0.started);
        let (storage, account) = (Arc::clone(storage), Arc::clone(&session.0.slot.account));
        let stop = scans.stop.clone();
        scans.tasks.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            orphans::sweep(&account, &storage, started, &stop).await;
        });
    }

    /// Connections with an open channel, in no particular order.
    pub fn list(&self) -> Vec<ConnectionInfo> {
        self.live().iter().filter_map(Session::info).collect()
    }

    /// The time as the sessions tell it.
    pub fn now(&self) -> UnixMillis {
        (self.0.clock)()
    }

    /// What the server carried in the last hour.
    pub fn activity(&self) -> &Activity {
        self.0.events.activity()
    }

    /// Number of sessions, with or without an open channel.
    pub fn count(&self) -> usize {
        self.0.registry().sessions.len()
    }

    /// Ends a listed connection at once; `false` if there is no such one.
    pub fn close(&self, connection_id: &str) -> bool {
        let session = self.0.registry().sessions.get(connection_id).and_then(Weak::upgrade).map(Session);
        match session {
            Some(session) if session.info().is_some() => {
                session.end("closed by the administrator");
                true
            }
            _ => false,
        }
    }

    /// Ends sessions without activity for longer than `timeout`. Call it at least once a minute.
    pub fn sweep_idle(&self, timeout: Duration) {
        let oldest = (self.0.clock)() - i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        for session in self.live() {
            if session.last_activity() < oldest {
                session.end("idle for too long");
            }
        }
    }

    /// Refuses new sessions from now on, and ends scans.
    pub fn stop_accepting(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
        self.0.scans.stop.cancel();
    }

    /// Waits for scans and searches that were told to end. The last thing before the program stops, after
    /// [`Sessions::stop_accepting`].
    pub async fn stopped(&self) {
        self.0.scans.tasks.close();
        self.0.scans.tasks.wait().await;
    }

    /// Ends every session at once; transfers end by the rules of their upload mode.
    pub fn close_all(&self, why: &str) {
        for session in self.live() {
            session.end(why);
        }
    }

    /// Whether a transfer is under way anywhere.
    pub fn is_transferring(&self) -> bool {
        self.live().iter().any(|session| !session.0.transfers().is_empty())
    }

    /// Brings the provider up to date with what was stored meanwhile.
    pub async fn write_back_usage(&self) {
        let unwritten = |(name, known): (&String, &Known)| {
            known.account.ledger.has_unwritten().then(|| (name.clone(), Arc::clone(&known.account)))
        };
        let accounts: Vec<_> = self.0.registry().accounts.iter().filter_map(unwritten).collect();
        for (name, account) in accounts {
            account.ledger.write_back().await;
            drop(account);
            self.0.registry().tidy(&name);
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    pub(crate) fn account(&self, username: &str) -> Option<Arc<Account>> {
        self.0.registry().accounts.get(username).map(|known| Arc::clone(&known.account))
    }

    /// Names of those who are connected, sorted.
    pub(crate) fn connected(&self) -> BTreeSet<String> {
        let registry = self.0.registry();
        let connected = registry.accounts.iter().filter(|(_, known)| !known.connections.is_empty());
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// The sessions of one user.
    pub(crate) fn of_user(&self, username: &str) -> Vec<Session> {
        let registry = self.0.registry();
        let ids = registry.accounts.get(username).map(|known| known.connections.as_slice());
        let sessions = ids.unwrap_or_default().iter().filter_map(|id| registry.sessions.get(id));
        // None of them is dropped before the lock: that would take it again.
        sessions.filter_map(Weak::upgrade).map(Session).collect()
    }

    pub(crate) fn live(&self) -> Vec<Session> {
        self.0.registry().sessions.values().filter_map(Weak::upgrade).map(Session).collect()
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed_changed(&self, more: bool) {
        let count = if more {
            self.listed.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.listed.fetch_sub(1, Ordering::Relaxed) - 1
        };
        self.events.metrics().active_connections(count);
    }
}

/// A place in the registry; given back when dropped.
struct Slot {
    shared: Arc<Shared>,
    username: String,
    connection_id: Arc<str>,
    account: Arc<Account>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        registry.sessions.remove(&self.connection_id);
        if let Some(known) = registry.accounts.get_mut(&self.username) {
            known.connections.retain(|id| *id != self.connection_id);
        }
        registry.tidy(&self.username);
    }
}

/// What the sessions of a user share, kept without a session; given back when dropped.
pub(crate) struct Borrowed {
    shared: Arc<Shared>,
    username: String,
    account: Arc<Account>,
}

impl std::ops::Deref for Borrowed {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        if let Some(known) = registry.accounts.get_mut(&self.username) {
            known.borrowed -= 1;
        }
        registry.tidy(&self.username);
    }
}

impl Registry {
    /// Forgets a user that nobody uses any more.
    fn tidy(&mut self, username: &str) {
        if self.accounts.get(username).is_some_and(|known| !known.is_needed()) {
            self.accounts.remove(username);
        }
    }
}

/// An authenticated connection. Cloning shares it; it is listed until its last clone is dropped.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    /// As at the login.
    user: Arc<User>,
    /// As it is now.
    current: RwLock<Arc<User>>,
    label: String,
    peer: Peer,
    storage: Result<Arc<dyn Storage>, FsError>,
    client_version: OnceLock<String>,
    opened_at: UnixMillis,
    last_activity: AtomicI64,
    cancel: CancellationToken,
    next_id: AtomicU64,
    running: Mutex<HashMap<u64, (Protocol, String)>>,
    transfers: Mutex<HashMap<u64, Arc<Progress>>>,
    slot: Slot,
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, HashMap<u64, (Protocol, String)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfers(&self) -> MutexGuard<'_, HashMap<u64, Arc<Progress>>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("user", &self.0.user.username).field("peer", &self.0.peer).finish()
    }
}

/// A connection as the API shows it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields of the API's connection object")]
pub struct ConnectionInfo {
    pub username: String,
    pub connection_id: Arc<str>,
    pub client_version: String,
    pub remote_address: SocketAddr,
    pub connection_time: UnixMillis,
    pub last_activity: UnixMillis,
    pub protocol: Protocol,
    pub active_transfers: Vec<TransferInfo>,
    pub ssh_command: String,
}

/// A transfer as the API shows it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields of the API's transfer object")]
pub struct TransferInfo {
    /// Tells transfers of a connection apart; not in the API.
    pub id: u64,
    pub direction: Direction,
    pub start_time: UnixMillis,
    pub size: u64,
    pub last_activity: UnixMillis,
    pub path: VPath,
    /// End of the furthest part of the file that was moved.
    pub reached: u64,
    /// Size that the file will have, where that is known: a download, or an upload that was announced.
    pub total: Option<u64>,
}

/// How far a transfer is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) direction: Direction,
    pub(crate) path: VPath,
    pub(crate) started: UnixMillis,
    pub(crate) bytes: AtomicU64,
    pub(crate) last_activity: AtomicI64,
    /// End of the furthest part that was moved.
    pub(crate) reached: AtomicU64,
    /// Size of the whole file, once it is known; 0 if it cannot be told.
    pub(crate) total: OnceLock<u64>,
}

impl Session {
    /// Who is logged in, as the account was at the login: for what a session keeps to its end, such as
    /// name, home and owner of files.
    pub fn user(&self) -> &Arc<User> {
        &self.0.user
    }

    /// The account as it is now: for what counts at the next operation, such as permissions.
    pub fn current(&self) -> Arc<User> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_current(&self, user: Arc<User>) {
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = user;
    }

    /// How: `password` or `public_key:<fingerprint>:<comment>`.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// The other end.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Notes the client's identification line; the first one counts.
    pub fn set_client_version(&self, version: String) {
        let _ = self.0.client_version.set(version);
    }

    /// The user's files, touched over `protocol`.
    pub fn files(&self, protocol: Protocol) -> UserFs {
        UserFs::new(self.clone(), protocol)
    }

    /// Fires when the session must end; every wait is raced against it.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Blocks for data under way.
    pub fn buffers(&self) -> &BufferPool {
        &self.0.slot.shared.buffers
    }

    /// Where events go.
    pub fn events(&self) -> &Events {
        &self.0.slot.shared.events
    }

    /// Lists the connection while a subsystem or command runs on one of its channels.
    pub fn begin(&self, protocol: Protocol, ssh_command: String) -> Running {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let first = {
            let mut running = self.0.running();
            running.insert(id, (protocol, ssh_command));
            running.len() == 1
        };
        if first {
            self.0.slot.shared.listed_changed(true);
        }
        self.touch();
        Running { session: self.clone(), id }
    }

    /// Notes activity.
    pub fn touch(&self) -> UnixMillis {
        let now = (self.0.slot.shared.clock)();
        self.0.last_activity.store(now, Ordering::Relaxed);
        now
    }

    /// Ends the session at once, with a line in the log.
    pub fn end(&self, why: &str) {
        let id = &*self.0.peer.connection_id;
        info!(connection_id = id, "connection of user {:?} ends: {why}", self.0.user.username);
        self.0.cancel.cancel();
    }

    pub(crate) fn storage(&self) -> Result<&Arc<dyn Storage>, FsError> {
        self.0.storage.as_ref().map_err(Clone::clone)
    }

    pub(crate) fn account(&self) -> &Account {
        &self.0.slot.account
    }

    pub(crate) fn sessions(&self) -> Sessions {
        Sessions(Arc::clone(&self.0.slot.shared))
    }

    pub(crate) fn server_started(&self) -> UnixMillis {
        self.0.slot.shared.started
    }

    pub(crate) fn policy(&self) -> &FsPolicy {
        &self.0.slot.shared.policy
    }

    pub(crate) fn begin_transfer(&self, direction: Direction, path: VPath) -> (u64, Arc<Progress>) {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let now = self.touch();
        let progress = Arc::new(Progress {
            direction,
            path,
            started: now,
            bytes: AtomicU64::new(0),
            last_activity: AtomicI64::new(now),
            reached: AtomicU64::new(0),
            total: OnceLock::new(),
        });
        self.0.transfers().insert(id, Arc::clone(&progress));
        (id, progress)
    }

    pub(crate) fn end_transfer(&self, id: u64) {
        self.touch();
        self.0.transfers().remove(&id);
    }

    fn last_activity(&self) -> UnixMillis {
        let own = self.0.last_activity.load(Ordering::Relaxed);
        let transfers = self.0.transfers();
        transfers.values().map(|t| t.last_activity.load(Ordering::Relaxed)).fold(own, i64::max)
    }

    fn info(&self) -> Option<ConnectionInfo> {
        let (protocol, ssh_command) = {
            let running = self.0.running();
            running.iter().min_by_key(|(id, _)| **id).map(|(_, what)| what.clone())?
        };
        let transfers = self.0.transfers();
        let mut active_transfers: Vec<_> = transfers
            .iter()
            .map(|(id, t)| TransferInfo {
                id: *id,
                direction: t.direction,
                start_time: t.started,
                size: t.bytes.load(Ordering::Relaxed),
                last_activity: t.last_activity.load(Ordering::Relaxed),
                path: t.path.clone(),
                reached: t.reached.load(Ordering::Relaxed),
                total: t.total.get().copied().filter(|size| *size > 0),
            })
            .collect();
        drop(transfers);
        active_transfers.sort_unstable_by_key(|transfer| transfer.id);
        Some(ConnectionInfo {
            username: self.0.user.username.clone(),
            connection_id: self.0.peer.connection_id.clone(),
            client_version: self.0.client_version.get().cloned().unwrap_or_default(),
            remote_address: self.0.peer.addr,
            connection_time: self.0.opened_at,
            last_activity: self.last_activity(),
            protocol,
            active_transfers,
            ssh_command,
        })
    }
}

/// A subsystem or command that runs; the connection is listed while any does.
#[derive(Debug)]
pub struct Running {
    session: Session,
    id: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let last = {
            let mut running = self.session.0.running();
            running.remove(&self.id);
            running.is_empty()
        };
        if last {
            self.session.0.slot.shared.listed_changed(false);
        }
    }
}
