//! Who is connected: one [`Session`] per authenticated connection, all of them in [`Sessions`].
//!
//! Opening counts and inserts under one lock, so that `max_sessions` has no race. What all sessions of
//! a user share (ledger, throttles) lives as long as any of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_vfs::{BufferPool, FsError, Storage, VPath};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Clock, Direction, Events, FsPolicy, Ledger, QuotaPolicy, Throttle, UnixMillis, User, UserFs, UserStore,
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

/// What all sessions of one user share.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) upload: Throttle,
    pub(crate) download: Throttle,
    /// Held from "what is there now" to "it is replaced or gone", so that sizes are accounted exactly.
    pub(crate) replacing: tokio::sync::Mutex<()>,
}

/// All sessions of the server. Cloning shares them.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

pub(crate) struct Shared {
    store: Arc<dyn UserStore>,
    storage: Arc<dyn OpenStorage>,
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) policy: FsPolicy,
    quota: QuotaPolicy,
    buffers: BufferPool,
    listed: AtomicUsize,
    ending: AtomicBool,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    sessions: HashMap<Arc<str>, Weak<Inner>>,
    accounts: HashMap<String, (usize, Arc<Account>)>,
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
    pub(crate) async fn open(&self, user: Arc<User>, label: String, peer: Peer) -> Result<Session, OpenError> {
        if self.0.ending.load(Ordering::Relaxed) {
            return Err(OpenError::ShuttingDown);
        }
        let slot = self.take_slot(&user, peer.connection_id.clone())?;
        let storage = self.0.storage.open(&user).await;
        if let Err(error) = &storage {
            let id = &*peer.connection_id;
            warn!(connection_id = id, "home of user {:?} cannot be opened: {}", user.username, error.detail());
        }
        let now = (self.0.clock)();
        let session = Session(Arc::new(Inner {
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
        Ok(session)
    }

    fn take_slot(&self, user: &User, connection_id: Arc<str>) -> Result<Slot, OpenError> {
        let mut registry = self.0.registry();
        let (count, account) = registry.accounts.entry(user.username.clone()).or_insert_with(|| {
            let ledger = Ledger::new(user, self.0.store.clone(), self.0.clock.clone(), self.0.quota);
            let account = Account {
                ledger: Arc::new(ledger),
                upload: Throttle::new(user.upload_bandwidth),
                download: Throttle::new(user.download_bandwidth),
                replacing: tokio::sync::Mutex::new(()),
            };
            (0, Arc::new(account))
        });
        if user.max_sessions > 0 && *count >= usize::try_from(user.max_sessions).unwrap_or(usize::MAX) {
            return Err(OpenError::TooMany { open: *count, limit: user.max_sessions });
        }
        *count += 1;
        let account = Arc::clone(account);
        Ok(Slot { shared: Arc::clone(&self.0), username: user.username.clone(), connection_id, account })
    }

    /// Connections with an open channel, in no particular order.
    pub fn list(&self) -> Vec<ConnectionInfo> {
        self.live().iter().filter_map(Session::info).collect()
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

    /// Refuses new sessions from now on.
    pub fn stop_accepting(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
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
        let accounts: Vec<_> = self.0.registry().accounts.values().map(|(_, a)| Arc::clone(a)).collect();
        for account in accounts {
            account.ledger.write_back().await;
        }
    }

    /// Takes limits that were just changed into the user's open sessions.
    pub fn refresh(&self, user: &User) {
        if let Some((_, account)) = self.0.registry().accounts.get(&user.username) {
            account.ledger.refresh(user);
            account.upload.set_rate(user.upload_bandwidth);
            account.download.set_rate(user.download_bandwidth);
        }
    }

    fn live(&self) -> Vec<Session> {
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
        if let Some((count, _)) = registry.accounts.get_mut(&self.username) {
            *count -= 1;
            if *count == 0 {
                registry.accounts.remove(&self.username);
            }
        }
    }
}

/// An authenticated connection. Cloning shares it; it is listed until its last clone is dropped.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    user: Arc<User>,
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
    pub direction: Direction,
    pub start_time: UnixMillis,
    pub size: u64,
    pub last_activity: UnixMillis,
    pub path: VPath,
}

/// How far a transfer is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) direction: Direction,
    pub(crate) path: VPath,
    pub(crate) started: UnixMillis,
    pub(crate) bytes: AtomicU64,
    pub(crate) last_activity: AtomicI64,
}

impl Session {
    /// Who is logged in.
    pub fn user(&self) -> &Arc<User> {
        &self.0.user
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
        let active_transfers = transfers
            .values()
            .map(|t| TransferInfo {
                direction: t.direction,
                start_time: t.started,
                size: t.bytes.load(Ordering::Relaxed),
                last_activity: t.last_activity.load(Ordering::Relaxed),
                path: t.path.clone(),
            })
            .collect();
        drop(transfers);
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
