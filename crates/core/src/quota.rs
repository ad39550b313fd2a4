//! What a user has stored and may still store: one live ledger per user, shared by all sessions.
//!
//! Every name of a file is in the books from the moment it exists until it is gone; what is written into
//! files that are open is *open* until it is settled, what programs of the system have added is *charged* until
//! a scan has found it. `used + open + charged` never passes a limit where the server writes: room is taken
//! before bytes are accepted (`docs/decisions/0006-quota.md`). Which file has grown by how much is the
//! business of `open_files.rs`.
//!
//! The data provider keeps the truth in the end: every settlement is one atomic increment there, kept here
//! and tried again while the provider is away. One that was sent and not answered is not sent again, as it may
//! be counted already: the books here stay right, and the home is counted for the provider (`doubt.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_vfs::FsError;
use tracing::warn;

use crate::{Clock, Metrics, StoreError, UsageDelta, UsedQuota, User, UserStore};

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

impl QuotaPolicy {
    /// Whether a scan may write what it found.
    pub(crate) fn scans_count(self) -> bool {
        self.track != TrackQuota::Off && self.write
    }
}

/// The account book of one user.
pub struct Ledger {
    username: String,
    store: Arc<dyn UserStore>,
    clock: Clock,
    policy: QuotaPolicy,
    metrics: Metrics,
    book: Mutex<Book>,
    /// Held while the provider is written to, so that a scan's result and increments cannot overtake each
    /// other. Whoever waits for it finds that the one before took its increment along.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Book {
    limit_size: i64,
    limit_files: i64,
    /// What the provider says, and `unwritten`.
    used: UsedQuota,
    /// What open files are larger (or smaller) than the books say, and what is about to be created.
    open: UsedQuota,
    /// What programs have added that is not in `used` yet.
    charged: UsedQuota,
    /// Settled here, not yet in the provider.
    unwritten: UsageDelta,
    /// Moves whenever a write to the provider begins or ends; odd while one is under way.
    writes: u64,
    /// A write to the provider was not answered: what it says is of no use until a scan has replaced it,
    /// which is not begun before this moment.
    in_doubt: Option<Instant>,
}

/// A moment at which a record was about to be read, to tell later whether its usage is out of date.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(u64);

/// Room that something holds which is about to happen; given back when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    ledger: Arc<Ledger>,
    held: UsageDelta,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the book of `user` with what the provider says is stored.
    pub fn new(
        user: &User,
        store: Arc<dyn UserStore>,
        clock: Clock,
        policy: QuotaPolicy,
        metrics: Metrics,
    ) -> Self {
        let book = Book {
            limit_size: user.quota_size.max(0),
            limit_files: user.quota_files.max(0),
            used: UsedQuota { size_bytes: user.used.size_bytes.max(0), files: user.used.files.max(0) },
            ..Book::default()
        };
        Self {
            username: user.username.clone(),
            store,
            clock,
            policy,
            metrics,
            book: Mutex::new(book),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Call it before a record is read that goes to [`Ledger::refresh`].
    pub(crate) fn reading(&self) -> Reading {
        Reading(self.book().writes)
    }

    /// Takes limits from a record, and usage if nothing was written to the provider since `reading`, and
    /// nothing before without an answer: it is unknown otherwise whether the record already contains it.
    pub(crate) fn refresh(&self, user: &User, reading: Reading) {
        let mut book = self.book();
        book.limit_size = user.quota_size.max(0);
        book.limit_files = user.quota_files.max(0);
        if book.writes == reading.0 && book.writes.is_multiple_of(2) && book.in_doubt.is_none() {
            book.used = UsedQuota {
                size_bytes: user.used.size_bytes.saturating_add(book.unwritten.size_bytes).max(0),
                files: user.used.files.saturating_add(book.unwritten.files).max(0),
            };
        }
    }

    /// Limits and what is taken, if this user is limited: `(taken, size limit, files limit)`, 0 for no
    /// limit.
    pub fn limits(&self) -> Option<(UsedQuota, i64, i64)> {
        let book = self.book();
        let enforced = self.policy.track != TrackQuota::Off && (book.limit_size > 0 || book.limit_files > 0);
        enforced.then(|| (book.taken(), book.limit_size, book.limit_files))
    }

    /// Whether an upload may begin: not when nothing is left (of files, for a new one).
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`].
    pub(crate) fn check_room(&self, new_file: bool) -> Result<(), FsError> {
        let Some((taken, size, files)) = self.limits() else { return Ok(()) };
        if size > 0 && taken.size_bytes >= size || new_file && files > 0 && taken.files >= files {
            self.metrics.quota_denied();
            return Err(FsError::QuotaExceeded);
        }
        Ok(())
    }

    /// Takes room for what is about to happen.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]; nothing is taken then.
    pub(crate) fn hold(self: &Arc<Self>, held: UsageDelta) -> Result<Hold, FsError> {
        self.take(held)?;
        Ok(Hold { ledger: Arc::clone(self), held })
    }

    /// As [`Ledger::hold`], until [`Ledger::give`].
    pub(crate) fn take(&self, more: UsageDelta) -> Result<(), FsError> {
        let mut book = self.book();
        self.check(&book, more)?;
        book.open(more);
        Ok(())
    }

    fn check(&self, book: &Book, more: UsageDelta) -> Result<(), FsError> {
        if self.policy.track != TrackQuota::Off && book.is_over(more) {
            self.metrics.quota_denied();
            return Err(FsError::QuotaExceeded);
        }
        Ok(())
    }

    /// Notes that a program was refused room.
    pub(crate) fn denied(&self) {
        self.metrics.quota_denied();
    }

    /// Bytes that are left, if size is limited.
    pub(crate) fn room_bytes(&self) -> Option<u64> {
        let (taken, size, _) = self.limits()?;
        (size > 0).then(|| u64::try_from(size.saturating_sub(taken.size_bytes)).unwrap_or(0))
    }

    /// What the books say is there, without what is open or charged.
    pub(crate) fn used(&self) -> UsedQuota {
        self.book().used
    }

    /// Charges bytes that are on their way to a program.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]; nothing is charged then.
    pub(crate) fn charge(&self, bytes: i64) -> Result<(), FsError> {
        let mut book = self.book();
        self.check(&book, UsageDelta { size_bytes: bytes, files: 0 })?;
        book.charged.size_bytes = book.charged.size_bytes.saturating_add(bytes);
        Ok(())
    }

    /// A program, to which `mine` is charged, runs; a count has `found` what is there. It is charged what is
    /// neither in the books, as they were `before` the count and as they are now, nor charged to another
    /// program, and `unseen` bytes on top. Gives what it is charged, and whether that passes a limit.
    pub(crate) fn recharge(
        &self,
        mine: UsedQuota,
        found: UsedQuota,
        before: UsedQuota,
        unseen: i64,
    ) -> (UsedQuota, bool) {
        let mut book = self.book();
        let (mine, over) = book.recharge(mine, found, before, unseen);
        (mine, over && self.policy.track != TrackQuota::Off)
    }

    /// What was charged to a program is in the books by now.
    pub(crate) fn discharge(&self, mine: UsedQuota) {
        self.book().discharge(mine);
    }

    /// Changes what is open without a look at the limits.
    pub(crate) fn give(&self, change: UsageDelta) {
        self.book().open(change);
    }

    /// What was charged to a program cannot be counted: it goes into the books as it is.
    pub(crate) fn settle_charged(&self, mine: UsedQuota) {
        let mut book = self.book();
        book.discharge(mine);
        self.settle_in(&mut book, UsageDelta { size_bytes: mine.size_bytes, files: mine.files });
    }

    /// Writes into the books what has happened, of which `was_open` was open until now. The provider
    /// learns it with the next [`Ledger::write_back`].
    pub(crate) fn settle(&self, delta: UsageDelta, was_open: UsageDelta) {
        let mut book = self.book();
        book.open(UsageDelta { size_bytes: -was_open.size_bytes, files: -was_open.files });
        self.settle_in(&mut book, delta);
    }

    fn settle_in(&self, book: &mut Book, delta: UsageDelta) {
        book.used.size_bytes = book.used.size_bytes.saturating_add(delta.size_bytes).max(0);
        book.used.files = book.used.files.saturating_add(delta.files).max(0);
        let restricted = book.limit_size > 0 || book.limit_files > 0;
        let tracked = match self.policy.track {
            TrackQuota::Off => false,
            TrackQuota::Always => true,
            TrackQuota::Restricted => restricted,
        };
        if tracked && self.policy.write {
            book.unwritten = sum(book.unwritten, delta);
        }
    }

    /// Brings the provider up to date; what cannot be written is kept for the next time.
    pub async fn write_back(&self) {
        if !self.has_unwritten() {
            return;
        }
        let _writing = self.writing.lock().await;
        let delta = {
            let mut book = self.book();
            if book.unwritten.is_zero() {
                return;
            }
            book.writes += 1;
            std::mem::take(&mut book.unwritten)
        };
        let _under_way = Writing(self);
        match self.store.add_usage(&self.username, delta, (self.clock)()).await {
            Ok(()) => {}
            Err(StoreError::NotFound) => {
                self.forget_doubt();
                warn!(sender = "dataProvider", "quota of user {:?} dropped: no such user", self.username);
            }
            Err(error @ StoreError::Uncertain(_)) => {
                self.book().in_doubt = Some(Instant::now());
                let name = &self.username;
                warn!(
                    sender = "dataProvider",
                    "quota of user {name:?} may be written or not, the home will be counted: {error}"
                );
            }
            Err(error) => {
                let mut book = self.book();
                book.unwritten = sum(book.unwritten, delta);
                drop(book);
                let name = &self.username;
                warn!(sender = "dataProvider", "quota of user {name:?} not written, kept for later: {error}");
            }
        }
    }

    /// Whether something is settled here that the provider does not know.
    pub(crate) fn has_unwritten(&self) -> bool {
        !self.book().unwritten.is_zero()
    }

    /// Whether nothing is under way and the provider knows everything.
    pub(crate) fn is_settled(&self) -> bool {
        let book = self.book();
        let nothing = UsedQuota::default();
        book.unwritten.is_zero() && book.open == nothing && book.charged == nothing && book.in_doubt.is_none()
    }

    /// Whether the provider may say something wrong that only a scan can tell.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.book().in_doubt.is_some()
    }

    /// Whether it is time to do something about the doubt; the next time is after `pause`.
    pub(crate) fn doubt_is_due(&self, pause: Duration) -> bool {
        let (mut book, now) = (self.book(), Instant::now());
        let due = book.in_doubt.is_some_and(|due| due <= now);
        if due {
            book.in_doubt = Some(now + pause);
        }
        due
    }

    /// Nothing could be done about the doubt, which is due again.
    pub(crate) fn doubt_is_open(&self) {
        if let Some(due) = &mut self.book().in_doubt {
            *due = Instant::now();
        }
    }

    /// There is no such user any more.
    pub(crate) fn forget_doubt(&self) {
        self.book().in_doubt = None;
    }

    /// Begins to replace what is used by what a scan found at this moment; [`Replaced::write`] tells
    /// the provider. Nothing else is written to the provider in between.
    pub(crate) async fn begin_replace(&self) -> Replace<'_> {
        Replace { ledger: self, writing: self.writing.lock().await }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Whether `more` of something would pass its limit.
    fn is_over(&self, more: UsageDelta) -> bool {
        let taken = self.taken();
        let over =
            |limit: i64, taken: i64, more: i64| limit > 0 && more > 0 && taken.saturating_add(more) > limit;
        over(self.limit_size, taken.size_bytes, more.size_bytes)
            || over(self.limit_files, taken.files, more.files)
    }

    fn taken(&self) -> UsedQuota {
        UsedQuota {
            size_bytes: (self.used.size_bytes.saturating_add(self.open.size_bytes))
                .saturating_add(self.charged.size_bytes)
                .max(0),
            files: (self.used.files.saturating_add(self.open.files))
                .saturating_add(self.charged.files)
                .max(0),
        }
    }

    /// See [`Ledger::recharge`].
    fn recharge(
        &mut self,
        mine: UsedQuota,
        found: UsedQuota,
        before: UsedQuota,
        unseen: i64,
    ) -> (UsedQuota, bool) {
        let Self { used, charged, .. } = *self;
        let added = |found: i64, before: i64, used: i64, others: i64| {
            // What moves through the door meanwhile may be in the one and not yet in the other.
            found.saturating_sub(before.max(used)).saturating_sub(others).max(0)
        };
        let others = UsedQuota {
            size_bytes: charged.size_bytes.saturating_sub(mine.size_bytes).max(0),
            files: charged.files.saturating_sub(mine.files).max(0),
        };
        let mine = UsedQuota {
            size_bytes: added(found.size_bytes, before.size_bytes, used.size_bytes, others.size_bytes)
                .saturating_add(unseen),
            files: added(found.files, before.files, used.files, others.files),
        };
        self.charged = UsedQuota {
            size_bytes: others.size_bytes.saturating_add(mine.size_bytes),
            files: others.files.saturating_add(mine.files),
        };
        let taken = self.taken();
        let passed = |limit: i64, taken: i64, mine: i64| limit > 0 && mine > 0 && taken > limit;
        let over = passed(self.limit_size, taken.size_bytes, mine.size_bytes)
            || passed(self.limit_files, taken.files, mine.files);
        (mine, over)
    }

    fn discharge(&mut self, mine: UsedQuota) {
        self.charged.size_bytes = self.charged.size_bytes.saturating_sub(mine.size_bytes);
        self.charged.files = self.charged.files.saturating_sub(mine.files);
    }

    fn open(&mut self, change: UsageDelta) {
        self.open.size_bytes = self.open.size_bytes.saturating_add(change.size_bytes);
        self.open.files = self.open.files.saturating_add(change.files);
    }
}

/// Marks a write to the provider as ended, however it ends.
struct Writing<'a>(&'a Ledger);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.book().writes += 1;
    }
}

/// The right to replace usage; nobody else writes to the provider meanwhile.
pub(crate) struct Replace<'a> {
    ledger: &'a Ledger,
    #[expect(dead_code, reason = "held, not looked at")]
    writing: tokio::sync::MutexGuard<'a, ()>,
}

/// What was replaced in the books here and must still be told the provider.
pub(crate) struct Replaced<'a> {
    // Dropped before the right to write, so that a write which follows is not taken for this one.
    _under_way: Writing<'a>,
    replace: Replace<'a>,
    found: UsedQuota,
    before: UsedQuota,
    unwritten: UsageDelta,
}

impl<'a> Replace<'a> {
    /// Takes what a scan found at this very moment into the books.
    pub(crate) fn with(self, found: UsedQuota) -> Replaced<'a> {
        let mut book = self.ledger.book();
        let before = std::mem::replace(&mut book.used, found);
        let unwritten = std::mem::take(&mut book.unwritten);
        book.writes += 1;
        drop(book);
        Replaced { _under_way: Writing(self.ledger), replace: self, found, before, unwritten }
    }
}

impl Replaced<'_> {
    /// Tells the provider. If it does not take it, everything is as before the scan; if it does not say
    /// whether it has, it must be told again.
    pub(crate) async fn write(self) -> Result<(), StoreError> {
        let ledger = self.replace.ledger;
        let written = ledger.store.set_usage(&ledger.username, self.found, (ledger.clock)()).await;
        let mut book = ledger.book();
        match &written {
            Ok(()) => book.in_doubt = None,
            Err(StoreError::Uncertain(_)) => book.in_doubt = Some(Instant::now()),
            Err(_) => {
                let back = |now: i64, found: i64, before: i64| now.saturating_add(before - found).max(0);
                book.used.size_bytes =
                    back(book.used.size_bytes, self.found.size_bytes, self.before.size_bytes);
                book.used.files = back(book.used.files, self.found.files, self.before.files);
                book.unwritten = sum(book.unwritten, self.unwritten);
            }
        }
        drop(book);
        written
    }
}

impl Hold {
    /// What was held has happened.
    pub(crate) fn settle(mut self) {
        let held = std::mem::take(&mut self.held);
        self.ledger.settle(held, held);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.held.is_zero() {
            self.ledger.give(UsageDelta { size_bytes: -self.held.size_bytes, files: -self.held.files });
        }
    }
}

fn sum(a: UsageDelta, b: UsageDelta) -> UsageDelta {
    UsageDelta {
        size_bytes: a.size_bytes.saturating_add(b.size_bytes),
        files: a.files.saturating_add(b.files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(size_bytes: i64, files: i64) -> UsedQuota {
        UsedQuota { size_bytes, files }
    }

    #[test]
    fn a_program_is_charged_what_is_there_and_in_no_book() {
        let none = usage(0, 0);
        // In the books, charged to all, of that to this one; before and found by the count; unseen; charged, over.
        for (name, used, charged, mine, before, found, unseen, want, over) in [
            ("nothing new", usage(50, 5), none, none, usage(50, 5), usage(50, 5), 0, none, false),
            ("grown", usage(50, 5), none, none, usage(50, 5), usage(70, 7), 0, usage(20, 2), false),
            (
                "on its way",
                usage(50, 5),
                usage(9, 0),
                usage(9, 0),
                usage(50, 5),
                usage(59, 6),
                4,
                usage(13, 1),
                false,
            ),
            ("to the limit", usage(50, 5), none, none, usage(50, 5), usage(100, 10), 0, usage(50, 5), false),
            ("a byte too many", usage(50, 5), none, none, usage(50, 5), usage(101, 6), 0, usage(51, 1), true),
            ("a file too many", usage(50, 5), none, none, usage(50, 5), usage(50, 11), 0, usage(0, 6), true),
            (
                "less than before",
                usage(50, 5),
                usage(9, 2),
                usage(9, 2),
                usage(50, 5),
                usage(40, 4),
                0,
                none,
                false,
            ),
            (
                "of another",
                usage(50, 5),
                usage(20, 2),
                none,
                usage(50, 5),
                usage(75, 8),
                0,
                usage(5, 1),
                false,
            ),
            ("uploaded meanwhile", usage(80, 8), none, none, usage(50, 5), usage(80, 8), 0, none, false),
            ("deleted meanwhile", usage(20, 2), none, none, usage(50, 5), usage(50, 5), 0, none, false),
            ("full already", usage(120, 12), none, none, usage(120, 12), usage(120, 12), 0, none, false),
        ] {
            let mut book = Book { limit_size: 100, limit_files: 10, used, charged, ..Book::default() };
            assert_eq!(book.recharge(mine, found, before, unseen), (want, over), "{name}");
            let others = usage(charged.size_bytes - mine.size_bytes, charged.files - mine.files);
            let all = usage(others.size_bytes + want.size_bytes, others.files + want.files);
            assert_eq!(book.charged, all, "{name}");
        }
    }
}
