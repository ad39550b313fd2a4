//! Programs of the system that run on a user's files: git and rsync.
//!
//! They do not come through the door, so the door is put around them: permissions are asked for in advance
//! and for everything below, what the client sends is charged while the program runs, and afterwards the
//! home is counted anew. That a program keeps to its directory is the business of whoever starts it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_vfs::{FsError, Links, VPath};
use tokio::time::sleep;

use crate::open_files::signed;
use crate::session::Progress;
use crate::user_fs::On;
use crate::{Direction, Ledger, Permissions, Perms, Session, TrackQuota, UsedQuota, UserFs};

/// Moved at a time where bandwidth is not limited.
const BLOCK_BYTES: usize = 256 << 10;

/// Between two looks whether an administrator has changed what the user may do.
const PERMISSIONS_PAUSE: Duration = Duration::from_millis(500);

/// What a program may touch, and what it is charged for. When it is dropped, after the program has ended,
/// the user's files are counted anew.
pub struct SystemRun {
    session: Session,
    paths: Vec<VPath>,
    needed: Perms,
    home: PathBuf,
    places: Vec<SystemPlace>,
    charge: Option<Charge>,
    /// The program has ended by itself.
    over: Arc<AtomicBool>,
}

/// One path that a program was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemPlace {
    /// The directory that the program may use, without links.
    pub dir: VPath,
    /// The name in it that was asked for, if what was asked for is not the directory itself.
    pub name: Option<Vec<u8>>,
}

impl std::fmt::Debug for SystemRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemRun").field("places", &self.places).finish_non_exhaustive()
    }
}

/// What a program has added to the home as far as it was counted (`watch.rs`), and what its client has sent
/// since. It fills the quota until the scan at the end has found the same.
#[derive(Debug, Clone)]
pub(crate) struct Charge(Arc<Charged>);

#[derive(Debug)]
struct Charged {
    ledger: Arc<Ledger>,
    /// The client may send as much as was left at the start, whatever becomes of it.
    may_send: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sent: u64,
    /// In the books of the ledger.
    charged: UsedQuota,
}

/// How much the client had sent when a count began.
pub(crate) struct Counting {
    sent: u64,
}

impl Charge {
    fn new(ledger: Arc<Ledger>) -> Self {
        let may_send = ledger.room_bytes();
        Self(Arc::new(Charged { ledger, may_send, state: Mutex::default() }))
    }

    /// The client sends `count` bytes.
    fn take(&self, count: usize) -> Result<(), FsError> {
        let mut state = self.state();
        let sent = state.sent.saturating_add(count as u64);
        if self.0.may_send.is_some_and(|most| sent > most) {
            self.0.ledger.denied();
            return Err(FsError::QuotaExceeded);
        }
        let more = signed(count as u64);
        self.0.ledger.charge(more)?;
        state.sent = sent;
        state.charged.size_bytes = state.charged.size_bytes.saturating_add(more);
        Ok(())
    }

    /// Call it before a count begins.
    pub(crate) fn counting(&self) -> Counting {
        Counting { sent: self.state().sent }
    }

    /// Charges what a count has `found` in the home beyond what the books said `before` and say now, and what
    /// the client has sent meanwhile. Says whether a limit is passed.
    pub(crate) fn found(&self, since: &Counting, found: UsedQuota, before: UsedQuota) -> bool {
        let mut state = self.state();
        let unseen = signed(state.sent.saturating_sub(since.sent));
        let (charged, over) = self.0.ledger.recharge(state.charged, found, before, unseen);
        state.charged = charged;
        over
    }

    /// Nobody could count what has become of it, so it stays as it was estimated.
    pub(crate) fn settle(&self) {
        let charged = std::mem::take(&mut self.state().charged);
        self.0.ledger.settle_charged(charged);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.ledger.discharge(state.charged);
    }
}

impl UserFs {
    /// Lets a program have the directories `paths`, or for what is none the directory that holds it: all of
    /// `needed` must be held at and everywhere below them. If it `writes`, there must be room for it.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`], [`FsError::QuotaExceeded`], [`FsError::NotFound`] if there is no such directory,
    /// [`FsError::Unsupported`] where files are not on a local disk.
    pub async fn system_run(
        &self,
        paths: &[VPath],
        needed: Perms,
        writes: bool,
    ) -> Result<SystemRun, FsError> {
        let session = self.session().clone();
        let mut places = Vec::with_capacity(paths.len());
        for path in paths {
            places.push(self.system_place(path, needed).await?);
        }
        if paths.is_empty() {
            return Err(FsError::InvalidInput("a program needs a path"));
        }
        let home = session.storage()?.local_path(&VPath::root()).ok_or(FsError::Unsupported)?;
        let charge = if writes {
            session.account().changing().await;
            session.account().ledger.check_room(true)?;
            Some(Charge::new(Arc::clone(&session.account().ledger)))
        } else {
            None
        };
        Ok(SystemRun { session, paths: paths.to_vec(), needed, home, places, charge, over: Arc::default() })
    }

    async fn system_place(&self, path: &VPath, needed: Perms) -> Result<SystemPlace, FsError> {
        self.authorize(path, needed, On::Own, Links::Follow).await?;
        let session = self.session();
        let storage = session.storage()?;
        let resolved = storage.resolve(path, Links::Follow).await?;
        let is_dir = match storage.metadata(&resolved, Links::Keep).await {
            Ok(metadata) => metadata.is_dir(),
            Err(FsError::NotFound) => false,
            Err(error) => return Err(error),
        };
        let (dir, name) = match resolved.parent() {
            Some(parent) if !is_dir => {
                if !storage.metadata(&parent, Links::Keep).await?.is_dir() {
                    return Err(FsError::NotDir);
                }
                (parent, Some(resolved.name().to_vec()))
            }
            _ => (resolved, None),
        };
        if [path, &dir].into_iter().all(|touched| allows(&session.current().permissions, touched, needed)) {
            Ok(SystemPlace { dir, name })
        } else {
            Err(FsError::Denied)
        }
    }
}

/// Whether `needed` is held at `path` and everywhere below it.
fn allows(permissions: &Permissions, path: &VPath, needed: Perms) -> bool {
    permissions.at(path).contains(needed) && !permissions.narrower_below(path, needed)
}

impl SystemRun {
    /// Waits until the user may no longer do all that the program was let do.
    pub async fn revoked(&self) {
        let mut known = None;
        loop {
            let now = self.session.current();
            if !known.is_some_and(|known| Arc::ptr_eq(&known, &now)) {
                let mut touched = self.paths.iter().chain(self.places.iter().map(|place| &place.dir));
                if !touched.all(|path| allows(&now.permissions, path, self.needed)) {
                    return;
                }
            }
            known = Some(now);
            sleep(PERMISSIONS_PAUSE).await;
        }
    }

    /// The user's home on disk.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where the paths lead, in their order.
    pub fn places(&self) -> &[SystemPlace] {
        &self.places
    }

    /// Whether the program may change something.
    pub fn writes(&self) -> bool {
        self.charge.is_some()
    }

    /// Under which user and group it runs; absent parts are those of the server.
    pub fn owner(&self) -> (Option<u32>, Option<u32>) {
        self.session.user().owner()
    }

    /// No file can become larger than this many bytes, if size is limited: what is left, or for a program
    /// that adds to files which are there the whole quota.
    pub fn largest_file(&self, adds: bool) -> Option<u64> {
        if !adds {
            return self.session.account().ledger.room_bytes();
        }
        let (_, size, _) = self.session.account().ledger.limits()?;
        u64::try_from(size).ok().filter(|size| *size > 0)
    }

    pub(crate) fn charge(&self) -> Option<&Charge> {
        self.charge.as_ref()
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// One of the program's streams: listed as a transfer, counted and throttled.
    pub fn stream(&self, direction: Direction) -> SystemStream {
        let path = self.paths.first().cloned().unwrap_or_else(VPath::root);
        let (progress_id, progress) = self.session.begin_transfer(direction, path);
        let charge = match direction {
            Direction::Upload => self.charge.clone(),
            Direction::Download => None,
        };
        SystemStream {
            session: self.session.clone(),
            progress,
            progress_id,
            charge,
            began: Instant::now(),
            over: Arc::clone(&self.over),
            ended: false,
            used: false,
        }
    }

    /// Notes that the program has ended by itself: whatever its streams have moved was not in vain.
    pub fn ended(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for SystemRun {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        let account = self.session.account();
        let restricted = self.session.sessions().shared().quota.track == TrackQuota::Restricted;
        if !(restricted && account.ledger.limits().is_none()) {
            self.session.rescan_with(Some(charge));
        }
    }
}

/// Bytes between the client and a program, in one direction. When it is dropped before it or the program has
/// ended, what it has moved counts as a transfer that failed.
pub struct SystemStream {
    session: Session,
    progress: Arc<Progress>,
    progress_id: u64,
    charge: Option<Charge>,
    began: Instant,
    over: Arc<AtomicBool>,
    ended: bool,
    /// Something has moved, or was about to.
    used: bool,
}

impl std::fmt::Debug for SystemStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemStream").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl SystemStream {
    /// Most bytes that should move at a time.
    pub fn piece(&self) -> usize {
        self.session
            .account()
            .throttle(self.progress.direction)
            .piece()
            .map_or(BLOCK_BYTES, |piece| piece.min(BLOCK_BYTES))
    }

    /// Waits until `count` further bytes may move.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`] for bytes of the client beyond what is left, [`FsError::Cancelled`] when the
    /// session ends.
    pub async fn pass(&mut self, count: usize) -> Result<(), FsError> {
        self.used = true;
        if let Some(charge) = &self.charge {
            charge.take(count)?;
        }
        self.session.wait_for_bandwidth(self.progress.direction, count).await?;
        self.session.events().activity().moved(self.progress.direction, count as u64);
        self.progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.progress.last_activity.store(self.session.touch(), Ordering::Relaxed);
        Ok(())
    }

    /// Nothing more comes, and nothing was lost.
    pub fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for SystemStream {
    fn drop(&mut self) {
        self.session.end_transfer(self.progress_id);
        if self.used {
            let bytes = self.progress.bytes.load(Ordering::Relaxed);
            let ok = self.ended || self.over.load(Ordering::Relaxed);
            let metrics = self.session.events().metrics();
            metrics.transfer_ended(self.progress.direction, bytes, self.began.elapsed(), ok);
            self.session.events().activity().transferred(self.progress.direction, ok);
        }
    }
}
