//! Who is connected: one [`Session`] per authenticated connection. All of them are in [`Sessions`]
//! (`session/registry.rs`). How changes of an account reach its open sessions is in `live.rs`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tidegate_vfs::{BufferPool, FsError, Storage, VPath};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::account::Account;
use crate::{Direction, Events, FsPolicy, UnixMillis, User, UserFs};

mod registry;

use registry::Slot;
pub use registry::{OpenError, OpenStorage, Sessions};

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
    fn new(
        user: Arc<User>,
        label: String,
        peer: Peer,
        storage: Result<Arc<dyn Storage>, FsError>,
        slot: Slot,
        now: UnixMillis,
    ) -> Self {
        Self(Arc::new(Inner {
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
        }))
    }

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

    /// Waits until the user's bandwidth lets `count` more bytes pass, and counts how long that took.
    ///
    /// # Errors
    ///
    /// [`FsError::Cancelled`] when the session ends.
    pub(crate) async fn wait_for_bandwidth(&self, direction: Direction, count: usize) -> Result<(), FsError> {
        tokio::select! {
            biased;
            waited = self.account().throttle(direction).take(count) => {
                if !waited.is_zero() {
                    self.events().metrics().throttled(direction, waited);
                }
                Ok(())
            }
            () = self.cancelled().cancelled() => Err(FsError::Cancelled),
        }
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
