//! What all sessions of one user share: the ledger, the throttles, the files that are open, the lock of
//! names, and the scan that may be counting meanwhile. Who may do what is not decided here.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tidegate_vfs::{Links, Metadata, Storage, VPath};
use tracing::warn;

use crate::marks::{Mark, Marks};
use crate::open_files::{Identity, OpenFiles, Resized, signed};
use crate::tally::{Entry, Known, Tally, rebase};
use crate::{Direction, Ledger, Throttle, UsageDelta, User};

/// Names of temporary files that could not be removed, at most; the next start removes any others.
const MAX_LEFT_BEHIND: usize = 10_000;

/// Stands for a directory that could not be asked for.
const UNKNOWN: Identity = (u64::MAX, u64::MAX);

/// Names of temporary files that failed uploads left behind, in all homes.
pub(crate) type LeftBehind = Arc<Mutex<HashSet<Vec<u8>>>>;

/// What all sessions of one user share.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) upload: Throttle,
    pub(crate) download: Throttle,
    pub(crate) files: OpenFiles,
    /// Held from "what is there now" to "it is replaced or gone, and in the books". Reads and writes of
    /// open files do not take it.
    pub(crate) names: tokio::sync::Mutex<()>,
    replacing: Mutex<HashMap<Vec<u8>, Arc<Replacing>>>,
    left_behind: LeftBehind,
    tally: Mutex<Option<Tally>>,
    pub(crate) username: String,
    marks: Arc<OnceLock<Marks>>,
    mark: tokio::sync::OnceCell<Option<Mark>>,
    /// The provider may have a wrong usage, which only a scan can tell.
    in_doubt: AtomicBool,
}

/// An upload that will take the place of a file. Both paths are without links, and follow when a
/// directory above them moves.
#[derive(Debug)]
pub(crate) struct Replacing(Mutex<Paths>);

#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) place: VPath,
    pub(crate) temporary: VPath,
}

impl Replacing {
    pub(crate) fn paths(&self) -> Paths {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Paths> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// The bandwidth that all transfers of the user share in one direction.
    pub(crate) fn throttle(&self, direction: Direction) -> &Throttle {
        match direction {
            Direction::Upload => &self.upload,
            Direction::Download => &self.download,
        }
    }

    pub(crate) fn new(
        user: &User,
        ledger: Arc<Ledger>,
        left_behind: LeftBehind,
        marks: Arc<OnceLock<Marks>>,
    ) -> Self {
        Self {
            upload: Throttle::new(user.upload_bandwidth),
            download: Throttle::new(user.download_bandwidth),
            files: OpenFiles::new(Arc::clone(&ledger)),
            ledger,
            names: tokio::sync::Mutex::new(()),
            replacing: Mutex::default(),
            left_behind,
            tally: Mutex::default(),
            username: user.username.clone(),
            marks,
            mark: tokio::sync::OnceCell::new(),
            in_doubt: AtomicBool::new(false),
        }
    }

    /// Something is about to change on disk which the provider learns later: from now on, a start after a
    /// kill looks at this home.
    pub(crate) async fn changing(&self) {
        let mark = || async {
            let (marks, username) = (Arc::clone(&self.marks), self.username.clone());
            marks.get()?;
            let mark = move || marks.get().map(|marks| marks.mark(&username)).transpose();
            match tokio::task::spawn_blocking(mark).await.map_err(std::io::Error::other).flatten() {
                Ok(mark) => mark,
                Err(error) => {
                    let name = &self.username;
                    warn!("user {name:?} cannot be marked, so a kill may leave a wrong usage: {error}");
                    None
                }
            }
        };
        self.mark.get_or_init(mark).await;
    }

    /// Takes over what an earlier process has left.
    pub(crate) fn adopt(&self, marks: Vec<Mark>) {
        for mark in marks {
            // One is enough; any other goes.
            let _ = self.mark.set(Some(mark));
        }
    }

    /// Whether only a scan can tell the usage.
    pub(crate) fn doubt(&self, in_doubt: bool) {
        self.in_doubt.store(in_doubt, Ordering::Relaxed);
    }

    /// Announces an upload that is written to `temporary`, before that exists.
    pub(crate) fn begin_replacing(&self, place: VPath, temporary: VPath) -> Arc<Replacing> {
        let name = temporary.name().to_vec();
        let replacing = Arc::new(Replacing(Mutex::new(Paths { place, temporary })));
        self.replacing().insert(name, Arc::clone(&replacing));
        replacing
    }

    /// The temporary file is at its place, or gone. One that could not be removed is remembered.
    pub(crate) fn end_replacing(&self, replacing: &Replacing, left_behind: bool) {
        let name = replacing.paths().temporary.name().to_vec();
        self.replacing().remove(&name);
        let mut all = self.left_behind.lock().unwrap_or_else(PoisonError::into_inner);
        if left_behind && all.len() < MAX_LEFT_BEHIND {
            all.insert(name);
        }
    }

    /// Whether an upload writes to the temporary file of this name.
    pub(crate) fn is_being_written(&self, name: &[u8]) -> bool {
        self.replacing().contains_key(name)
    }

    /// Whether an upload writes to `path`. Its name alone proves nothing: programs can give it to other files.
    pub(crate) fn is_upload(&self, path: &VPath) -> bool {
        let replacing = self.replacing().get(path.name()).cloned();
        replacing.is_some_and(|replacing| replacing.paths().temporary == *path)
    }

    /// Whether a failed upload left the temporary file of this name.
    pub(crate) fn is_left_behind(&self, name: &[u8]) -> bool {
        self.left_behind.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// A temporary file that was left behind is gone.
    pub(crate) fn forget_left_behind(&self, name: &[u8]) {
        self.left_behind.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The directory that holds `path`, if a scan must know. Call it under the lock of names, as all that
    /// follows.
    pub(crate) async fn dir_of(&self, storage: &Arc<dyn Storage>, path: &VPath) -> Option<Identity> {
        if self.tally().is_none() {
            return None;
        }
        let dir = path.parent().unwrap_or_else(VPath::root);
        // Without an answer, the operation on the name will hardly succeed either.
        Some(storage.metadata(&dir, Links::Follow).await.map_or(UNKNOWN, |dir| dir.identity))
    }

    /// Tells the scan, if there is one, about a name in the directory `dir` that has changed.
    pub(crate) fn tell_at(
        &self,
        dir: Option<Identity>,
        path: &VPath,
        what: impl FnOnce(&mut Tally, Entry<'_>),
    ) {
        match dir {
            Some(UNKNOWN) => self.tell(Tally::spoil),
            Some(dir) => self.tell(|tally| what(tally, Entry { dir, name: path.name() })),
            None => {}
        }
    }

    /// Tells the scan, if there is one, about a file that is about to change; `path` is one of its names.
    pub(crate) fn track(&self, dir: Option<Identity>, path: &VPath, file: &Metadata) {
        let known = self.known(file);
        if dir != Some(UNKNOWN) {
            self.tell_at(dir, path, |tally, at| tally.track(known, at));
        }
    }

    /// Tells the scan, if there is one.
    pub(crate) fn tell(&self, what: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.tally().as_mut() {
            what(tally);
        }
    }

    /// The size in the books of an open file has changed.
    pub(crate) fn resized(&self, file: Resized) {
        self.tell(|tally| tally.resized(file));
    }

    /// The name `path` is about to change, which stands for `existing` now. Gives what [`Account::tell_at`]
    /// and the like must be given once it has changed.
    pub(crate) async fn pin(
        &self,
        storage: &Arc<dyn Storage>,
        path: &VPath,
        existing: Option<&Metadata>,
    ) -> Option<Identity> {
        let dir = self.dir_of(storage, path).await?;
        let file = existing.filter(|existing| existing.is_file()).map(|existing| self.known(existing));
        if dir != UNKNOWN {
            self.tell_at(Some(dir), path, |tally, at| tally.pin(at, file));
        }
        Some(dir)
    }

    /// What `metadata` says about a file, with the size that is in the books.
    pub(crate) fn known(&self, metadata: &Metadata) -> Known {
        let size = self.files.get(metadata.identity).map_or(metadata.size, |file| file.booked());
        Known { identity: metadata.identity, links: metadata.links, size }
    }

    /// The file `gone` has lost the name `path`, which was pinned.
    pub(crate) fn name_removed(&self, dir: Option<Identity>, path: &VPath, gone: &Metadata) {
        if !gone.is_file() {
            return;
        }
        let size = match self.files.get(gone.identity) {
            Some(open) => open.unlink(),
            None => {
                let delta = UsageDelta { size_bytes: -signed(gone.size), files: -1 };
                self.ledger.settle(delta, UsageDelta::default());
                gone.size
            }
        };
        self.tell_at(dir, path, |tally, at| tally.unlinked(gone.identity, size, at));
    }

    /// A file has moved from one name to another, both of which were pinned.
    pub(crate) fn file_moved(
        &self,
        (from_dir, from): (Option<Identity>, &VPath),
        (to_dir, to): (Option<Identity>, &VPath),
        moved: &Metadata,
    ) {
        let size = self.known(moved).size;
        if moved.links > 1 {
            // A change of size by another of its names must reach the one that may be counted now.
            self.track(from_dir, from, moved);
        }
        self.tell_at(from_dir, from, |tally, at| tally.unlinked(moved.identity, size, at));
        self.tell_at(to_dir, to, |tally, at| tally.linked(moved.identity, size, at));
    }

    /// Whether anybody must know where a directory moves, as paths without links.
    pub(crate) fn follows_dirs(&self) -> bool {
        self.tally().is_some() || !self.replacing().is_empty()
    }

    /// A directory has moved.
    pub(crate) fn dir_moved(&self, dir: &Metadata, from: &VPath, to: &VPath) {
        self.tell(|tally| tally.moved_dir(dir.identity, from, to));
        for replacing in self.replacing().values() {
            let mut paths = replacing.lock();
            let moved = (rebase(&paths.place, from, to), rebase(&paths.temporary, from, to));
            // A path that became too long cannot be reached any more: the upload fails at its end.
            if let (Some(Ok(place)), Some(Ok(temporary))) = moved {
                *paths = Paths { place, temporary };
            }
        }
    }

    /// The scan that is counting, if there is one.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Option<Tally>> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replacing(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Replacing>>> {
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let settled = self.ledger.is_settled() && self.files.is_empty() && self.replacing().is_empty();
        let in_doubt = !settled || *self.in_doubt.get_mut();
        if let (true, Some(Some(mark))) = (in_doubt, self.mark.take()) {
            mark.keep();
        }
    }
}
