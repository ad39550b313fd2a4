//! What a scan has counted so far, kept right while files move under it.
//!
//! The scan reads every directory once, knows it by its identity rather than by its path, and counts the
//! files in it. Whoever changes a name through the door says so here, under the account's lock of names:
//!
//! * in a directory that was read (or was made since), the change is applied to the total;
//! * in one that was not read yet, it is left to be found;
//! * in the one that is being read, a name is *pinned* before it changes: what it stands for is counted at
//!   once, and the name is passed over when it is met. So neither a description from before the change that
//!   arrives after it, nor one from after it that arrives before it was told, does any harm.
//!
//! A file counts with the size that is in the books, so that what an open file has grown by stays with its
//! handle. Files that are open, or have several names, or were resized, are tracked by identity: the size
//! in the books and how many of their names are in the total.
//!
//! A directory that moves takes its place in the list of directories to read along; one that was not known
//! yet is added to it. Memory is bounded by the number of directories, of files that are open or have several
//! names, and of files in the largest directory (8 bytes each).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use tidegate_vfs::{DirEntry, VPath};

use crate::UsedQuota;
use crate::open_files::{Identity, Resized, signed};

/// The state of one scan.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    total: UsedQuota,
    /// Directories whose files are in the total.
    done: HashSet<Identity>,
    current: Option<Current>,
    /// Directories to read.
    pending: Vec<VPath>,
    tracked: HashMap<Identity, Tracked>,
    hasher: RandomState,
    /// Something could not be followed; the scan must begin again.
    spoiled: bool,
    /// A directory has a path that is too long to open it.
    too_deep: bool,
}

/// The directory that is being read.
#[derive(Debug)]
struct Current {
    identity: Identity,
    path: VPath,
    /// Hashes of the names that are in the total, if they exist.
    names: HashSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Tracked {
    /// In the books.
    size: u64,
    /// Names in the total.
    counted: u64,
}

/// A name in a directory that is known by its identity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) dir: Identity,
    pub(crate) name: &'a [u8],
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) identity: Identity,
    /// Number of its names.
    pub(crate) links: u64,
    /// In the books.
    pub(crate) size: u64,
}

impl Tally {
    /// Begins at the root, with the files that are open now.
    pub(crate) fn new(open: Vec<Resized>) -> Self {
        let tracked = open.into_iter().map(|file| (file.identity, Tracked { size: file.size, counted: 0 }));
        Self { pending: vec![VPath::root()], tracked: tracked.collect(), ..Self::default() }
    }

    /// The next directory to read.
    pub(crate) fn next_dir(&mut self) -> Option<VPath> {
        self.pending.pop()
    }

    /// Whether a directory is left to be read.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Begins to read a directory; `false` if it was read already.
    pub(crate) fn enter(&mut self, identity: Identity, path: VPath) -> bool {
        if self.done.contains(&identity) {
            return false;
        }
        self.current = Some(Current { identity, path, names: HashSet::new() });
        true
    }

    /// The path of the directory that is being read, as it is now.
    pub(crate) fn current_path(&self) -> VPath {
        self.current.as_ref().map_or_else(VPath::root, |current| current.path.clone())
    }

    /// Counts what was met in the directory that is being read.
    pub(crate) fn meet(&mut self, entry: &DirEntry) {
        let hash = self.hasher.hash_one(entry.name.as_slice());
        let Some(current) = &mut self.current else { return };
        if entry.metadata.is_dir() {
            match current.path.join(&entry.name) {
                Ok(path) => self.pending.push(path),
                Err(_) => self.too_deep = true,
            }
            return;
        }
        if !entry.metadata.is_file() || !current.names.insert(hash) {
            return;
        }
        let file = Known {
            identity: entry.metadata.identity,
            links: entry.metadata.links,
            size: entry.metadata.size,
        };
        self.count(file);
    }

    /// A name is about to change, which stands for `file` now.
    pub(crate) fn pin(&mut self, at: Entry<'_>, file: Option<Known>) {
        let hash = self.hasher.hash_one(at.name);
        if let Some(current) = &mut self.current
            && current.identity == at.dir
            && current.names.insert(hash)
            && let Some(file) = file
        {
            self.count(file);
        }
    }

    fn count(&mut self, file: Known) {
        let mut size = file.size;
        if file.links > 1 {
            self.tracked.entry(file.identity).or_insert(Tracked { size, counted: 0 });
        }
        if let Some(tracked) = self.tracked.get_mut(&file.identity) {
            tracked.counted += 1;
            size = tracked.size;
        }
        self.add(size);
    }

    /// Counts a file that nobody can change through the door.
    pub(crate) fn add(&mut self, size: u64) {
        self.total.size_bytes = self.total.size_bytes.saturating_add(signed(size));
        self.total.files += 1;
    }

    /// Ends the reading of the current directory.
    pub(crate) fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            self.done.insert(current.identity);
        }
    }

    /// What was found so far.
    pub(crate) fn total(&self) -> UsedQuota {
        self.total
    }

    /// Whether the scan must begin again.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    /// Whether there is a directory that cannot be read because its path is too long.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.too_deep
    }

    /// What follows cannot be followed.
    pub(crate) fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// A file is about to be opened, linked or resized: from now on its size and its names are known
    /// exactly. `at` is one of its names.
    pub(crate) fn track(&mut self, file: Known, at: Entry<'_>) {
        let Known { identity, links, size } = file;
        if self.tracked.contains_key(&identity) {
            return;
        }
        // None of several names was met, or the file would be tracked.
        let counted = u64::from(links <= 1 && self.counts(at));
        self.tracked.insert(identity, Tracked { size, counted });
    }

    /// A new file of `size` bytes has its first name, which was pinned.
    pub(crate) fn created(&mut self, identity: Identity, size: u64, at: Entry<'_>) {
        // The identity may have been another file's.
        self.tracked.insert(identity, Tracked { size, counted: 0 });
        self.linked(identity, size, at);
    }

    /// A file has another name, which was pinned.
    pub(crate) fn linked(&mut self, identity: Identity, size: u64, at: Entry<'_>) {
        if self.counts(at) {
            self.add(size);
            if let Some(file) = self.tracked.get_mut(&identity) {
                file.counted += 1;
            }
        }
    }

    /// A name of a file is gone, which was pinned.
    pub(crate) fn unlinked(&mut self, identity: Identity, size: u64, at: Entry<'_>) {
        if self.counts(at) {
            self.total.size_bytes = self.total.size_bytes.saturating_sub(signed(size));
            self.total.files -= 1;
            if let Some(file) = self.tracked.get_mut(&identity) {
                file.counted = file.counted.saturating_sub(1);
            }
        }
    }

    /// The size in the books of a tracked file has changed.
    pub(crate) fn resized(&mut self, file: Resized) {
        let Some(tracked) = self.tracked.get_mut(&file.identity) else {
            self.spoiled = true;
            return;
        };
        let counted = i64::try_from(tracked.counted).unwrap_or(i64::MAX);
        let more = counted.saturating_mul(signed(file.size) - signed(tracked.size));
        tracked.size = file.size;
        self.total.size_bytes = self.total.size_bytes.saturating_add(more);
    }

    /// A directory was made: whatever comes into it is told.
    pub(crate) fn made_dir(&mut self, identity: Identity) {
        self.done.insert(identity);
    }

    /// A directory is gone; its identity may come back as another.
    pub(crate) fn removed_dir(&mut self, identity: Identity) {
        self.done.remove(&identity);
    }

    /// A directory has moved. Both paths must be without links.
    pub(crate) fn moved_dir(&mut self, identity: Identity, from: &VPath, to: &VPath) {
        let current = self.current.as_mut().map(|current| &mut current.path);
        for path in self.pending.iter_mut().chain(current) {
            match rebase(path, from, to) {
                Some(Ok(moved)) => *path = moved,
                Some(Err(_)) => self.too_deep = true,
                None => {}
            }
        }
        let reading = self.current.as_ref().is_some_and(|current| current.identity == identity);
        if !reading && !self.done.contains(&identity) {
            // Perhaps it was not met where it was, and will not be met where it is.
            self.pending.push(to.clone());
        }
    }

    /// Whether the name is in the total, if it exists.
    fn counts(&self, at: Entry<'_>) -> bool {
        match &self.current {
            Some(current) if current.identity == at.dir => {
                current.names.contains(&self.hasher.hash_one(at.name))
            }
            _ => self.done.contains(&at.dir),
        }
    }
}

/// `path` after the directory `from` became `to`; `None` if it is not in it.
pub(crate) fn rebase(path: &VPath, from: &VPath, to: &VPath) -> Option<Result<VPath, tidegate_vfs::FsError>> {
    if !path.is_within(from) {
        return None;
    }
    let mut moved = to.as_bytes().to_vec();
    for name in path.components().skip(from.components().count()) {
        moved.push(b'/');
        moved.extend_from_slice(name);
    }
    Some(VPath::parse(&moved))
}
