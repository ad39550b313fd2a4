//! Marks on disk that say whose usage is in doubt if the process ends now, and what a start does about them.
//!
//! A file changes first and the provider learns it afterwards, so a process that is killed in between leaves
//! usage that is off. A user who is about to change something gets a mark, a small file in a directory of this
//! server; it goes when nobody is connected as this user any more and everything is written. What a start
//! finds there belongs to users whose homes must be counted anew (`quota_scan.rs`), which also removes what
//! their uploads left behind. Decided in `docs/decisions/0006-quota.md`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_vfs::FsError;
use tracing::{debug, info, warn};

use crate::{Sessions, StoreError, UnixMillis, User, orphans};

/// Locked as long as a server uses the directory.
const LOCK: &str = "lock";

/// A name that is longer belongs to nobody.
const MAX_USERNAME_BYTES: u64 = 4096;

/// How often a user is asked for again while the provider is away.
const RETRY: Duration = Duration::from_secs(10);

/// Homes that are looked at at the same time.
const CONCURRENT: usize = 4;

/// How often the end of a scan is looked for.
const POLL: Duration = Duration::from_millis(100);

/// The directory of the marks.
#[derive(Debug)]
pub(crate) struct Marks {
    dir: PathBuf,
    /// Marks of this process begin with it.
    started: UnixMillis,
    next: AtomicU64,
    fsync: bool,
    _lock: File,
}

/// What earlier processes have left, by user.
type Old = BTreeMap<String, Vec<PathBuf>>;

/// The mark of a user; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Mark(Option<PathBuf>);

impl Marks {
    /// Takes the directory for this process, and gives the marks of processes that ended without removing
    /// theirs, by user.
    fn open(dir: PathBuf, started: UnixMillis, fsync: bool) -> io::Result<(Self, Old)> {
        std::fs::create_dir_all(&dir)?;
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(dir.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::Error::other("another server uses it"),
            std::fs::TryLockError::Error(error) => error,
        })?;
        let mut old = Old::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name() == LOCK || !entry.file_type()?.is_file() {
                continue;
            }
            // A name that was cut off by a power failure is nobody's, and goes as that of a user who is gone.
            let mut name = Vec::new();
            File::open(entry.path())?.take(MAX_USERNAME_BYTES).read_to_end(&mut name)?;
            old.entry(String::from_utf8_lossy(&name).into_owned()).or_default().push(entry.path());
        }
        Ok((Self { dir, started, next: AtomicU64::new(0), fsync, _lock: lock }, old))
    }

    /// Marks a user. It is on stable storage where uploads are.
    pub(crate) fn mark(&self, username: &str) -> io::Result<Mark> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join(format!("{:x}-{number:x}", self.started));
            match OpenOptions::new().create_new(true).write(true).open(&path) {
                Ok(mut file) => {
                    let mark = Mark(Some(path));
                    file.write_all(username.as_bytes())?;
                    if self.fsync {
                        file.sync_all()?;
                        #[cfg(unix)]
                        File::open(&self.dir)?.sync_all()?;
                    }
                    return Ok(mark);
                }
                // The clock was set back since.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Mark {
    /// Leaves it to the next start.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            match std::fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => debug!("mark {} cannot be removed: {error}", path.display()),
            }
        }
    }
}

impl Sessions {
    /// Keeps in `dir`, from now on, whose usage would be in doubt if the process were killed; counts anew the
    /// homes of those for whom that has happened, beside everything else. Call it once, before the first
    /// login. Without it everything works, but a kill may leave usage that is off until the next scan.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, read or locked.
    pub async fn keep_marks(&self, dir: PathBuf) -> io::Result<()> {
        let (started, fsync) = (self.shared().started, self.shared().policy.fsync);
        let opened = tokio::task::spawn_blocking(move || Marks::open(dir, started, fsync));
        let (marks, old) = opened.await.map_err(io::Error::other)??;
        if self.shared().marks.set(marks).is_err() {
            return Err(io::Error::other("marks are kept already"));
        }
        if !old.is_empty() {
            info!("the server did not end in good order, {} homes are looked at", old.len());
            let old = Arc::new(Mutex::new(old.into_iter()));
            for _ in 0..CONCURRENT {
                let (sessions, old) = (self.clone(), Arc::clone(&old));
                self.shared().scans.tasks.spawn(async move {
                    while let Some((username, marks)) = next(&old) {
                        sessions.resolve_doubt(&username, marks).await;
                    }
                });
            }
        }
        Ok(())
    }

    /// Counts the home of a user anew, and removes the marks if that succeeds.
    async fn resolve_doubt(&self, username: &str, paths: Vec<PathBuf>) {
        let marks = || paths.into_iter().map(|path| Mark(Some(path))).collect();
        let user = loop {
            if self.shared().scans.stop.is_cancelled() {
                return;
            }
            match self.shared().store.user(username).await {
                Ok(user) => break user,
                Err(StoreError::NotFound) => return drop::<Vec<Mark>>(marks()),
                Err(error) => debug!("usage of user {username:?} is in doubt, but cannot be read: {error}"),
            }
            self.shared().scans.stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
        };
        let account = self.borrow_account(&user);
        account.adopt(marks());
        account.doubt(true);
        if self.shared().quota.scans_count() {
            self.scan_to_the_end(&user).await;
        } else if self.tidy_home(&user).await {
            account.doubt(false);
        }
    }

    async fn scan_to_the_end(&self, user: &User) {
        // One that runs already was begun after the start, and does as well.
        let _ = self.start_scan(user.clone(), false, None);
        let stop = &self.shared().scans.stop;
        while self.scans().iter().any(|scan| scan.username == user.username) {
            if stop.run_until_cancelled(tokio::time::sleep(POLL)).await.is_none() {
                return;
            }
        }
    }

    /// Removes what uploads left in a home whose files are not counted. Whether it was possible.
    async fn tidy_home(&self, user: &User) -> bool {
        let account = self.borrow_account(user);
        match self.shared().storage.open_existing(user).await {
            Ok(storage) => {
                let shared = self.shared();
                orphans::sweep(&account, &storage, shared.started, &shared.scans.stop).await;
                !shared.scans.stop.is_cancelled()
            }
            Err(FsError::NotFound | FsError::NotDir) => true,
            Err(error) => {
                warn!("home of user {:?} cannot be looked at: {}", user.username, error.detail());
                false
            }
        }
    }
}

fn next<T>(iterator: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    iterator.lock().unwrap_or_else(PoisonError::into_inner).next()
}
