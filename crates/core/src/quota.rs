//! What a user has stored and may still store: one live ledger per user, shared by all sessions.
//!
//! Room is reserved before bytes are accepted and settled when the file is closed, so that concurrent
//! uploads cannot spend the same room twice. The data provider keeps the truth in the end: every
//! settlement is one atomic increment there, kept here and tried again while the provider is away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_vfs::FsError;
use tracing::warn;

use crate::{Clock, UsageDelta, UsedQuota, User, UserStore};

/// Whose usage is tracked (`data_provider.track_quota`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackQuota {
    /// Nobody's; limits are not enforced.
    Off,
    /// Everybody's.
    Always,
    /// That of users with a limit.
    Restricted,
}

/// How usage is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaPolicy {
    /// Whose usage is tracked.
    pub track: TrackQuota,
    /// Whether the provider may be written to (`data_provider.manage_users`).
    pub write: bool,
}

/// The account book of one user.
pub struct Ledger {
    username: String,
    store: Arc<dyn UserStore>,
    clock: Clock,
    policy: QuotaPolicy,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    limit_size: i64,
    limit_files: i64,
    used: UsedQuota,
    reserved: UsedQuota,
    /// Settled here, not yet in the provider.
    unwritten: UsageDelta,
}

/// Room that an upload holds; released when dropped, unless it was settled.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    held: UsedQuota,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the book of `user` with what the provider says is stored.
    pub fn new(user: &User, store: Arc<dyn UserStore>, clock: Clock, policy: QuotaPolicy) -> Self {
        let ledger =
            Self { username: user.username.clone(), store, clock, policy, book: Mutex::new(Book::default()) };
        ledger.refresh(user);
        ledger
    }

    /// Takes limits and usage from a record that was just read.
    pub fn refresh(&self, user: &User) {
        let mut book = self.book();
        book.limit_size = user.quota_size.max(0);
        book.limit_files = user.quota_files.max(0);
        book.used = UsedQuota {
            size_bytes: (user.used.size_bytes + book.unwritten.size_bytes).max(0),
            files: (user.used.files + book.unwritten.files).max(0),
        };
    }

    /// Limits and usage, if this user is limited: `(used, size limit, files limit)`, 0 for no limit.
    pub fn limits(&self) -> Option<(UsedQuota, i64, i64)> {
        let book = self.book();
        let enforced = self.policy.track != TrackQuota::Off && (book.limit_size > 0 || book.limit_files > 0);
        enforced.then_some((book.used, book.limit_size, book.limit_files))
    }

    /// Starts an upload: refused when nothing is left (of files, for a new one).
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`].
    pub fn begin(self: &Arc<Self>, new_file: bool) -> Result<Reservation, FsError> {
        let mut reservation = self.hold();
        let mut book = self.book();
        if self.policy.track != TrackQuota::Off {
            let full = |limit: i64, used: i64| limit > 0 && used >= limit;
            if full(book.limit_size, book.used.size_bytes + book.reserved.size_bytes)
                || new_file && full(book.limit_files, book.used.files + book.reserved.files)
            {
                return Err(FsError::QuotaExceeded);
            }
        }
        if new_file {
            book.reserved.files += 1;
            reservation.held.files = 1;
        }
        drop(book);
        Ok(reservation)
    }

    /// Starts a change of an existing file, which may need room later.
    pub fn hold(self: &Arc<Self>) -> Reservation {
        Reservation { ledger: Arc::clone(self), held: UsedQuota::default() }
    }

    /// Writes what happened to the book and to the provider.
    pub async fn settle(&self, delta: UsageDelta) {
        if delta.is_zero() {
            return;
        }
        {
            let mut book = self.book();
            book.used.size_bytes = (book.used.size_bytes + delta.size_bytes).max(0);
            book.used.files = (book.used.files + delta.files).max(0);
            let restricted = book.limit_size > 0 || book.limit_files > 0;
            let tracked = match self.policy.track {
                TrackQuota::Off => false,
                TrackQuota::Always => true,
                TrackQuota::Restricted => restricted,
            };
            if !tracked || !self.policy.write {
                return;
            }
            book.unwritten.size_bytes += delta.size_bytes;
            book.unwritten.files += delta.files;
        }
        self.write_back().await;
    }

    /// Brings the provider up to date; what cannot be written is kept for the next time.
    pub async fn write_back(&self) {
        let delta = std::mem::take(&mut self.book().unwritten);
        if delta.is_zero() {
            return;
        }
        if let Err(error) = self.store.add_usage(&self.username, delta, (self.clock)()).await {
            let mut book = self.book();
            book.unwritten.size_bytes += delta.size_bytes;
            book.unwritten.files += delta.files;
            warn!(sender = "dataProvider", "quota of user {:?} not written, kept for later: {error}", self.username);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Holds room until the file is `total` bytes larger than what was stored before.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]; what was held stays held.
    pub fn grow_to(&mut self, total: u64) -> Result<(), FsError> {
        let total = i64::try_from(total).map_err(|_| FsError::InvalidInput("size of 2^63 bytes or more"))?;
        let more = total - self.held.size_bytes;
        if more <= 0 {
            return Ok(());
        }
        let mut book = self.ledger.book();
        let after = book.used.size_bytes.saturating_add(book.reserved.size_bytes).saturating_add(more);
        if self.ledger.policy.track != TrackQuota::Off && book.limit_size > 0 && after > book.limit_size {
            return Err(FsError::QuotaExceeded);
        }
        book.reserved.size_bytes += more;
        self.held.size_bytes = total;
        Ok(())
    }

    /// Ends the upload: the room is given back and what really happened is written down.
    pub async fn settle(self, delta: UsageDelta) {
        let ledger = Arc::clone(&self.ledger);
        drop(self);
        ledger.settle(delta).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut book = self.ledger.book();
        book.reserved.size_bytes -= self.held.size_bytes;
        book.reserved.files -= self.held.files;
    }
}
