//! Files that are open for writing, by identity: what they are charged, and what of it is in the books.
//!
//! A file has any number of names and handles, in any number of sessions of a user. One [`OpenFile`] stands
//! for all of them, so that none of its bytes is counted twice or forgotten, whoever truncates, removes,
//! links or replaces it meanwhile. Handles hold it directly: a write touches no table.
//!
//! Names are in the books at once, with the size that was settled last (`booked`); growth since then is
//! *open* in the ledger. A file whose last name is gone stays charged until it is closed, as it occupies
//! the disk until then. What changes names happens under the account's lock of names; sizes may change at
//! any time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_vfs::FsError;

use crate::{Ledger, UsageDelta};

/// What tells files apart.
pub(crate) type Identity = (u64, u64);

/// No file is larger.
pub(crate) const TOO_LARGE: FsError = FsError::InvalidInput("size of 2^63 bytes or more");

/// The files of one user that are open for writing in place.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    ledger: Arc<Ledger>,
    files: Mutex<HashMap<Identity, Arc<OpenFile>>>,
}

/// A file that is open for writing.
#[derive(Debug)]
pub(crate) struct OpenFile {
    ledger: Arc<Ledger>,
    identity: Identity,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    handles: usize,
    /// Names that the books know.
    names: u64,
    /// Size in the books, for each name.
    booked: u64,
    /// Size that the file has, or may have when what is under way is done.
    size: u64,
    /// Bytes of another file that this one will replace.
    credit: u64,
    /// Files that are open in the ledger: a new name that does not exist yet.
    new_files: i64,
    /// Open in the ledger.
    open: UsageDelta,
    /// Writes and changes of size under way, and how far they reach at most.
    under_way: usize,
    reach: u64,
}

/// Something that changes the size of a file is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<OpenFile>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// The size in the books of every name of a file has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resized {
    pub(crate) identity: Identity,
    pub(crate) size: u64,
}

impl OpenFiles {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, files: Mutex::default() }
    }

    /// Adds a handle to a file with `names` names of `size` bytes in the books. What an earlier handle
    /// knows counts more.
    pub(crate) fn join(&self, identity: Identity, names: u64, size: u64) -> Arc<OpenFile> {
        let mut files = self.files();
        let file = files
            .entry(identity)
            .or_insert_with(|| Arc::new(OpenFile::new(&self.ledger, identity, names, size)));
        file.state().handles += 1;
        Arc::clone(file)
    }

    /// The open file with this identity.
    pub(crate) fn get(&self, identity: Identity) -> Option<Arc<OpenFile>> {
        self.files().get(&identity).cloned()
    }

    /// Whether no file is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    /// Every open file with the size that is in the books.
    pub(crate) fn booked(&self) -> Vec<Resized> {
        let sizes = |file: &Arc<OpenFile>| Resized { identity: file.identity, size: file.state().booked };
        self.files().values().map(sizes).collect()
    }

    /// Ends the use of a handle; `size` is what the file system says now. Must be called while the handle
    /// is still open, as the identity may stand for another file afterwards.
    pub(crate) fn leave(&self, file: &OpenFile, size: Option<u64>) -> Resized {
        let mut files = self.files();
        let mut state = file.state();
        state.handles = state.handles.saturating_sub(1);
        if state.handles == 0 {
            files.remove(&file.identity);
            state.size = size.unwrap_or(state.size);
        }
        file.settle(&mut state);
        if state.handles == 0 {
            // Without a name and a handle nothing is left of it.
            let rest = std::mem::take(&mut state.open);
            self.ledger.give(minus(rest));
        }
        Resized { identity: file.identity, size: state.booked }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Identity, Arc<OpenFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFile {
    fn new(ledger: &Arc<Ledger>, identity: Identity, names: u64, size: u64) -> Self {
        let state = State {
            handles: 0,
            names,
            booked: size,
            size,
            credit: 0,
            new_files: 0,
            open: UsageDelta::default(),
            under_way: 0,
            reach: 0,
        };
        Self { ledger: Arc::clone(ledger), identity, state: Mutex::new(state) }
    }

    /// A temporary file that will replace one of `credit` bytes, or become a new one.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`] if a new file has no room.
    pub(crate) fn temporary(
        ledger: &Arc<Ledger>,
        identity: Identity,
        replaces: Option<u64>,
    ) -> Result<Self, FsError> {
        let file = Self::new(ledger, identity, 0, 0);
        let new_files = i64::from(replaces.is_none());
        ledger.take(UsageDelta { size_bytes: 0, files: new_files })?;
        {
            let mut state = file.state();
            state.new_files = new_files;
            state.open.files = new_files;
            state.credit = replaces.unwrap_or(0);
        }
        Ok(file)
    }

    /// Takes room for a file of `end` bytes. Every success is followed by [`OpenFile::done`] once what
    /// needed the room has ended, well or not.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]; nothing is taken then.
    pub(crate) fn reserve(&self, end: u64) -> Result<(), FsError> {
        if i64::try_from(end).is_err() {
            return Err(TOO_LARGE);
        }
        let mut state = self.state();
        if end > state.size {
            let wanted = UsageDelta { size_bytes: state.charge(end), files: state.open.files };
            self.ledger.take(sub(wanted, state.open))?;
            state.open = wanted;
            state.size = end;
        }
        state.under_way += 1;
        state.reach = state.reach.max(end);
        Ok(())
    }

    /// Takes room for a file of `size` bytes until it is known how large it becomes. Without the room, every
    /// write is on its own.
    pub(crate) fn announce(&self, size: u64) {
        if self.reserve(size).is_ok() {
            self.done();
        }
    }

    /// What [`OpenFile::reserve`] was for has ended. A write that was given up half-way may still reach
    /// the disk, so it is not called for one.
    pub(crate) fn done(&self) {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(1);
        if state.under_way == 0 {
            state.reach = 0;
        }
    }

    /// The file is about to be cut: what is written from here to [`OpenFile::cut`] keeps its room, also if it ends
    /// before that is called.
    pub(crate) fn cutting(self: &Arc<Self>) -> UnderWay {
        self.state().under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// The file was cut to `size` bytes; it was under way before. What is written at the same time may have come
    /// after the cut, so its room is kept until the last handle is closed.
    pub(crate) fn cut(&self, size: u64) {
        let mut state = self.state();
        state.size = size.max(state.reach);
        self.recharge(&mut state);
    }

    /// The file has another name.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]
    pub(crate) fn link(&self) -> Result<(), FsError> {
        let mut state = self.state();
        let (size, booked) = (signed(state.size.max(state.booked)), signed(state.booked));
        self.ledger.take(UsageDelta { size_bytes: size, files: 1 })?;
        self.ledger
            .settle(UsageDelta { size_bytes: booked, files: 1 }, UsageDelta { size_bytes: size, files: 1 });
        state.names += 1;
        self.recharge(&mut state);
        Ok(())
    }

    /// A name of the file is gone. Gives the size that it had in the books.
    pub(crate) fn unlink(&self) -> u64 {
        let mut state = self.state();
        if state.names > 0 {
            state.names -= 1;
            let gone = UsageDelta { size_bytes: -signed(state.booked), files: -1 };
            self.ledger.settle(gone, UsageDelta::default());
            self.recharge(&mut state);
        }
        state.booked
    }

    /// What tells it from other files.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// The size in the books, for each name.
    pub(crate) fn booked(&self) -> u64 {
        self.state().booked
    }

    /// A temporary file is about to replace a file of `replaces` bytes (or none): its real `size` must
    /// fit now.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`]: what was to be replaced is smaller than at the beginning, or gone, and
    /// its room was taken by something else.
    pub(crate) fn can_replace(&self, size: u64, replaces: Option<u64>) -> Result<(), FsError> {
        let mut state = self.state();
        let files = i64::from(replaces.is_none());
        let credit = replaces.unwrap_or(0);
        let wanted = UsageDelta { size_bytes: signed(size.saturating_sub(credit)), files };
        self.ledger.take(sub(wanted, state.open))?;
        (state.size, state.credit, state.new_files) = (size, credit, files);
        state.open = wanted;
        Ok(())
    }

    /// A temporary file has replaced what [`OpenFile::can_replace`] was told.
    pub(crate) fn replaced(&self) {
        let mut state = self.state();
        let delta =
            UsageDelta { size_bytes: signed(state.size) - signed(state.credit), files: state.new_files };
        let was_open = std::mem::take(&mut state.open);
        self.ledger.settle(delta, was_open);
    }

    /// A temporary file is gone.
    pub(crate) fn discarded(&self) {
        let rest = std::mem::take(&mut self.state().open);
        self.ledger.give(minus(rest));
    }

    /// Makes the size in the books the real one.
    fn settle(&self, state: &mut State) {
        let names = i64::try_from(state.names).unwrap_or(i64::MAX);
        let more = signed(state.size) - signed(state.booked);
        state.booked = state.size;
        let left = UsageDelta { size_bytes: state.charge(state.size), files: state.open.files };
        let delta = UsageDelta { size_bytes: names.saturating_mul(more), files: 0 };
        self.ledger.settle(delta, sub(state.open, left));
        state.open = left;
    }

    fn recharge(&self, state: &mut State) {
        let wanted = UsageDelta { size_bytes: state.charge(state.size), files: state.open.files };
        self.ledger.give(sub(wanted, state.open));
        state.open = wanted;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a file of `size` bytes is charged beyond what is in the books.
    fn charge(&self, size: u64) -> i64 {
        let names = i64::try_from(self.names).unwrap_or(i64::MAX);
        if names == 0 {
            // Of no name: the disk still holds it once.
            return signed(size.saturating_sub(self.credit));
        }
        names.saturating_mul(signed(size) - signed(self.booked))
    }
}

pub(crate) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn sub(a: UsageDelta, b: UsageDelta) -> UsageDelta {
    UsageDelta {
        size_bytes: a.size_bytes.saturating_sub(b.size_bytes),
        files: a.files.saturating_sub(b.files),
    }
}

fn minus(a: UsageDelta) -> UsageDelta {
    sub(UsageDelta::default(), a)
}
