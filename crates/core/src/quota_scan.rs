//! Quota scans: the files of a home are counted, and the result replaces what the books say.
//!
//! A scan runs beside everything else. What it has counted is kept right by those who change something
//! (`tally.rs`), so the result is exact however many uploads run, as long as nobody goes round the door. It
//! counts names of regular files with their sizes, follows no links, and counts hidden files as well.
//! Temporary files of uploads that run are not counted: their upload holds the room for them until they
//! take their place. Abandoned ones are removed on the way, and counted if they cannot be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_vfs::{DirStream, FsError, Links, Storage, VPath};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::account::Account;
use crate::child::Charge;
use crate::readable::{self, BATCH, TOO_DEEP};
use crate::tally::Tally;
use crate::upload::is_temporary;
use crate::{Session, Sessions, StoreError, UnixMillis, UsedQuota, User, orphans};

/// Scans that read at the same time; others wait, listed already.
const CONCURRENT: usize = 4;

/// How often a scan begins again that lost track of a directory, which takes a change from outside.
const ATTEMPTS: usize = 5;

/// Why no scan was started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScanError {
    /// The user is being scanned.
    #[error("Another scan is already in progress")]
    Running,
    /// The user could not be read.
    #[error("{0}")]
    User(#[from] StoreError),
    /// The server is about to stop.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A scan that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanInfo {
    /// Whose home.
    pub username: String,
    /// Since when.
    pub start_time: UnixMillis,
    /// What was found so far.
    pub found: UsedQuota,
}

/// The scans that run.
#[derive(Debug)]
pub(crate) struct Scans {
    running: Mutex<BTreeMap<String, Arc<Progress>>>,
    permits: Semaphore,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

#[derive(Debug)]
struct Progress {
    start_time: UnixMillis,
    files: AtomicI64,
    bytes: AtomicI64,
    /// The home was changed by a program meanwhile.
    again: AtomicBool,
    /// What programs were sent, until what has become of it is found.
    charges: Mutex<Vec<Charge>>,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            permits: Semaphore::new(CONCURRENT),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }
}

impl Progress {
    fn charges(&self) -> MutexGuard<'_, Vec<Charge>> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scans {
    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a scan off the list, however it ends.
struct Listed {
    sessions: Sessions,
    username: String,
    progress: Arc<Progress>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut running = self.sessions.shared().scans.running();
        if running.get(&self.username).is_some_and(|progress| Arc::ptr_eq(progress, &self.progress)) {
            running.remove(&self.username);
        }
    }
}

impl Sessions {
    /// Starts to count the files of a user. The result replaces the stored usage, unless usage is not
    /// tracked or the provider may not be written to: then nothing happens.
    ///
    /// # Errors
    ///
    /// [`ScanError::User`] if there is no such user, [`ScanError::Running`] if one is under way.
    pub async fn scan(&self, username: &str) -> Result<(), ScanError> {
        let user = self.shared().store.user(username).await?;
        self.start_scan(user, false, None)
    }

    /// The scans that run, by name.
    pub fn scans(&self) -> Vec<ScanInfo> {
        let running = self.shared().scans.running();
        let info = |(username, progress): (&String, &Arc<Progress>)| ScanInfo {
            username: username.clone(),
            start_time: progress.start_time,
            found: UsedQuota {
                size_bytes: progress.bytes.load(Ordering::Relaxed),
                files: progress.files.load(Ordering::Relaxed),
            },
        };
        running.iter().map(info).collect()
    }

    pub(crate) fn start_scan(
        &self,
        user: User,
        again: bool,
        charge: Option<Charge>,
    ) -> Result<(), ScanError> {
        let scans = &self.shared().scans;
        if scans.stop.is_cancelled() {
            return Err(ScanError::ShuttingDown);
        }
        let progress = {
            let mut running = scans.running();
            if let Some(progress) = running.get(&user.username) {
                progress.again.fetch_or(again, Ordering::Relaxed);
                progress.charges().extend(charge);
                return Err(ScanError::Running);
            }
            let progress = Arc::new(Progress {
                start_time: (self.shared().clock)(),
                files: AtomicI64::new(0),
                bytes: AtomicI64::new(0),
                again: AtomicBool::new(false),
                charges: Mutex::new(charge.into_iter().collect()),
            });
            running.insert(user.username.clone(), Arc::clone(&progress));
            progress
        };
        let listed = Listed { sessions: self.clone(), username: user.username.clone(), progress };
        // What is known of the user is kept until the end, with any doubt about it.
        let account = self.borrow_account(&user);
        scans.tasks.spawn(async move {
            loop {
                let outcome = listed.sessions.run_scan(&user, &listed.progress).await;
                if matches!(outcome, Outcome::Nothing) {
                    listed.progress.charges().iter().for_each(Charge::settle);
                    account.ledger.write_back().await;
                }
                // Decided while nobody can ask for another: whoever comes later starts a new scan.
                let mut running = listed.sessions.shared().scans.running();
                if !listed.progress.again.swap(false, Ordering::Relaxed) {
                    if matches!(outcome, Outcome::Replaced) {
                        account.doubt(false);
                    }
                    running.remove(&user.username);
                    break;
                }
            }
        });
        Ok(())
    }

    async fn run_scan(&self, user: &User, progress: &Progress) -> Outcome {
        let (shared, name) = (self.shared(), &user.username);
        if !shared.quota.scans_count() {
            debug!("scan of user {name:?} changes nothing: usage is not tracked, or not written");
            return Outcome::Nothing;
        }
        let Ok(_permit) = shared.scans.permits.acquire().await else { return Outcome::Nothing };
        let found = match shared.storage.open_existing(user).await {
            Ok(storage) => self.count_home(user, &storage.without_links(), progress).await,
            Err(FsError::NotDir) => self.nothing(user).await,
            Err(error) => Err(Stopped::Failed(error)),
        };
        match &found {
            Ok(UsedQuota { size_bytes, files }) => {
                info!("scan of user {name:?} found {files} files of {size_bytes} bytes");
            }
            Err(Stopped::Failed(error)) => {
                warn!("scan of user {name:?} failed, usage stays as it was: {}", error.detail());
            }
            Err(Stopped::Spoiled) => {
                warn!("scan of user {name:?} failed, usage stays as it was: the home changes from outside");
            }
            Err(Stopped::Store(error)) => {
                warn!(sender = "dataProvider", "result of the scan of user {name:?} not written: {error}");
            }
            Err(Stopped::Cancelled) => debug!("scan of user {name:?} ended with the server"),
        }
        match found {
            Ok(_) => Outcome::Replaced,
            Err(Stopped::Store(StoreError::Uncertain(_))) => Outcome::InDoubt,
            Err(_) => Outcome::Nothing,
        }
    }

    /// A home that is no directory holds nothing.
    async fn nothing(&self, user: &User) -> Result<UsedQuota, Stopped> {
        let account = self.borrow_account(user);
        let found = UsedQuota::default();
        account.ledger.begin_replace().await.with(found).write().await.map_err(Stopped::Store)?;
        Ok(found)
    }

    async fn count_home(
        &self,
        user: &User,
        storage: &Arc<dyn Storage>,
        progress: &Progress,
    ) -> Result<UsedQuota, Stopped> {
        let account = self.borrow_account(user);
        let walk = Walk {
            account: &account,
            storage,
            started: self.shared().started,
            stop: &self.shared().scans.stop,
            progress,
        };
        let mut result = Err(Stopped::Spoiled);
        for _ in 0..ATTEMPTS {
            result = walk.run().await;
            if !matches!(result, Err(Stopped::Spoiled)) {
                break;
            }
        }
        result
    }
}

impl Session {
    /// Counts the user's files anew, after a program changed them without the door. A scan that runs
    /// already is run once more.
    pub fn rescan(&self) {
        self.rescan_with(None);
    }

    /// As [`Session::rescan`]; `charge` is held until the files are counted.
    pub(crate) fn rescan_with(&self, charge: Option<Charge>) {
        self.account().doubt(true);
        // Running already: it was told to begin again. Shutting down: nobody is left to know.
        let _ = self.sessions().start_scan(User::clone(&self.current()), true, charge);
    }
}

/// What became of the books.
enum Outcome {
    /// They say what was found.
    Replaced,
    /// They say it here, and perhaps in the provider.
    InDoubt,
    /// They say what they said before: what programs were charged stays with the user.
    Nothing,
}

/// Why a scan has no result.
enum Stopped {
    Failed(FsError),
    Spoiled,
    Cancelled,
    Store(StoreError),
}

impl From<FsError> for Stopped {
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

/// One attempt to count a home.
struct Walk<'a> {
    account: &'a Account,
    storage: &'a Arc<dyn Storage>,
    started: UnixMillis,
    stop: &'a CancellationToken,
    progress: &'a Progress,
}

/// Takes the tally away from those who change names.
struct Counting<'a>(&'a Account);

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        *self.0.tally() = None;
    }
}

impl Walk<'_> {
    async fn run(&self) -> Result<UsedQuota, Stopped> {
        let _counting = {
            let _names = self.account.names.lock().await;
            *self.account.tally() = Some(Tally::new(self.account.files.booked()));
            Counting(self.account)
        };
        loop {
            while let Some(entries) = self.next_dir().await? {
                self.read_dir(entries).await?;
            }
            // What is found holds for one moment: nobody writes to the provider and no name changes.
            let replace = self.account.ledger.begin_replace().await;
            let replaced = {
                let _names = self.account.names.lock().await;
                let mut tally = self.account.tally();
                let Some(tally) = tally.as_mut() else { return Err(Stopped::Spoiled) };
                if tally.is_spoiled() {
                    return Err(Stopped::Spoiled);
                }
                if tally.is_too_deep() {
                    return Err(TOO_DEEP.into());
                }
                if tally.has_pending() {
                    continue;
                }
                (replace.with(tally.total()), tally.total())
            };
            let (replaced, found) = replaced;
            replaced.write().await.map_err(Stopped::Store)?;
            return Ok(found);
        }
    }

    /// Opens the next directory that was not read yet; `None` if there is none.
    async fn next_dir(&self) -> Result<Option<Box<dyn DirStream>>, Stopped> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Stopped::Cancelled);
            }
            // What the path leads to and what is read must be the same.
            let _names = self.account.names.lock().await;
            let Some(path) = self.with(Tally::next_dir) else { return Ok(None) };
            let dir = match self.storage.metadata(&path, Links::Keep).await {
                Ok(dir) if dir.is_dir() => dir,
                Ok(_) | Err(FsError::Link) if !path.is_root() => continue,
                Err(FsError::NotFound | FsError::NotDir) if !path.is_root() => continue,
                Ok(_) => return Err(FsError::NotDir.into()),
                Err(error) => return Err(error.into()),
            };
            let opened = match readable::open(&**self.storage, &path, &dir).await {
                Err(FsError::Denied) => {
                    warn!("the directory {path} of user {:?} cannot be read", self.account.username);
                    return Err(FsError::Denied.into());
                }
                opened => opened?,
            };
            let Some(entries) = opened else { continue };
            if self.with(|tally| tally.enter(dir.identity, path)) {
                return Ok(Some(entries));
            }
        }
    }

    async fn read_dir(&self, mut entries: Box<dyn DirStream>) -> Result<(), Stopped> {
        loop {
            let batch = entries.next(BATCH).await?;
            if batch.is_empty() {
                break;
            }
            if self.stop.is_cancelled() {
                return Err(Stopped::Cancelled);
            }
            let (temporary, plain): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|entry| entry.metadata.is_file() && is_temporary(&entry.name));
            let found = self.with(|tally| {
                plain.iter().for_each(|entry| tally.meet(entry));
                tally.total()
            });
            self.check_depth()?;
            for entry in temporary {
                self.temporary(&entry.name).await?;
            }
            self.progress.files.store(found.files, Ordering::Relaxed);
            self.progress.bytes.store(found.size_bytes, Ordering::Relaxed);
        }
        self.with(Tally::leave);
        Ok(())
    }

    /// What cannot be reached cannot be counted, and would be free.
    fn check_depth(&self) -> Result<(), Stopped> {
        if self.with(|tally| tally.is_too_deep()) {
            let dir = self.with(|tally| Some(tally.current_path())).unwrap_or_else(VPath::root);
            warn!("a directory in {dir} of user {:?} has too long a path", self.account.username);
            return Err(TOO_DEEP.into());
        }
        Ok(())
    }

    /// A file with a temporary name counts if it stays and belongs to no upload of ours. Nobody can touch
    /// it through the door.
    async fn temporary(&self, name: &[u8]) -> Result<(), Stopped> {
        let _names = self.account.names.lock().await;
        let dir = self.with(|tally| Some(tally.current_path())).unwrap_or_else(VPath::root);
        let path = dir.join(name)?;
        if let Some(size) = orphans::examine(self.account, self.storage, &path, self.started).await? {
            self.with(|tally| tally.add(size));
        }
        Ok(())
    }

    /// Asks the tally, which is there as long as the walk goes on.
    fn with<T: Default>(&self, what: impl FnOnce(&mut Tally) -> T) -> T {
        self.account.tally().as_mut().map(what).unwrap_or_default()
    }
}
