//! All sessions of the server: who may open another, what the sessions of a user share, what is done to all.
//!
//! Opening counts and inserts under one lock, so that `max_sessions` has no race. What all sessions of
//! a user share (`account.rs`) lives as long as any of them, or as long as the provider must still be told
//! something.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_vfs::{BufferPool, FsError, Storage};
use tracing::warn;

use super::{ConnectionInfo, Inner, Peer, Session};
use crate::account::{Account, LeftBehind};
use crate::history::Activity;
use crate::marks::Marks;
use crate::quota_scan::Scans;
use crate::{Clock, Events, FsPolicy, Ledger, QuotaPolicy, TrackQuota, UnixMillis, User, UserStore, orphans};

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
pub struct Sessions(pub(super) Arc<Shared>);

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
    pub(super) buffers: BufferPool,
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
        let ledger = &self.account.ledger;
        !self.connections.is_empty() || self.borrowed > 0 || ledger.has_unwritten() || ledger.is_in_doubt()
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
        let session = Session::new(user, label, peer, storage, slot, (self.0.clock)());
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
            self.forget_unneeded(&name);
        }
    }

    /// Users of whom the provider may say something wrong.
    pub(crate) fn in_doubt(&self) -> Vec<(String, Arc<Account>)> {
        let registry = self.0.registry();
        let in_doubt = registry.accounts.iter().filter(|(_, known)| known.account.ledger.is_in_doubt());
        in_doubt.map(|(name, known)| (name.clone(), Arc::clone(&known.account))).collect()
    }

    /// Forgets a user if nobody uses it and the provider knows everything.
    pub(crate) fn forget_unneeded(&self, username: &str) {
        self.0.registry().tidy(username);
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

    pub(super) fn listed_changed(&self, more: bool) {
        let count = if more {
            self.listed.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            self.listed.fetch_sub(1, Ordering::Relaxed) - 1
        };
        self.events.metrics().active_connections(count);
    }
}

/// A place in the registry; given back when dropped.
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    username: String,
    connection_id: Arc<str>,
    pub(super) account: Arc<Account>,
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
