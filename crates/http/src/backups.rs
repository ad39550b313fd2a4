//! Files of backups: writing one below `httpd.backups_path`, and reading one from anywhere. What is in them is
//! `api/dump.rs`'s matter.
//!
//! A dump holds password hashes: it is written for its owner's eyes only, beside its place, and renamed when it
//! is on the disk. Nothing outside the directory can be reached, whatever links are in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use tidegate_vfs::{File, FsError, LocalIo, LocalStorage, OpenOptions, Owner, Storage, Target, VPath};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use crate::api::source::{MAX_DUMP_BYTES, Source};
use crate::error::ApiError;

/// Bodies with dumps that are received at the same time, each in memory.
const BODIES: usize = 4;

/// The directory of backups.
#[derive(Debug)]
pub(crate) struct Backups {
    dir: PathBuf,
    io: LocalIo,
    turn: Mutex<()>,
    bodies: Semaphore,
    progress: Arc<Progress>,
}

/// How far a restore is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: AtomicUsize,
    /// 0 while none runs.
    total: AtomicUsize,
}

/// A restore that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Progress>);

impl Running {
    /// Notes how many users are done.
    pub(crate) fn done(&self, count: usize) {
        self.0.done.store(count, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.total.store(0, Ordering::Relaxed);
    }
}

/// Why a file cannot be read as a dump.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Nothing is there.
    Missing,
    /// It is something else than a file.
    NotAFile,
    /// It is so long, which is more than a dump from elsewhere may have ([`MAX_DUMP_BYTES`]).
    TooLong(u64),
    /// The system refuses.
    Io(io::Error),
}

impl Backups {
    /// Backups go to `dir`, which is made when the first one is written.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            io: LocalIo::default(),
            turn: Mutex::default(),
            bodies: Semaphore::new(BODIES),
            progress: Arc::default(),
        }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits for the right to hold all users in memory: one backup or restore at a time.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Begins a restore of so many users, for [`Backups::progress`]. Call it when it is one's turn.
    pub(crate) fn running(&self, total: usize) -> Running {
        self.progress.done.store(0, Ordering::Relaxed);
        self.progress.total.store(total, Ordering::Relaxed);
        Running(Arc::clone(&self.progress))
    }

    /// How many users the restore that runs has done, and of how many; `None` if none runs.
    pub(crate) fn progress(&self) -> Option<(usize, usize)> {
        let total = self.progress.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.progress.done.load(Ordering::Relaxed).min(total), total))
    }

    /// Opens the file at `path` as a dump: of any size in this directory, else of a limited one. It must be an
    /// ordinary file: a pipe or a device could keep us for ever.
    pub(crate) async fn open(&self, path: &Path) -> Result<Source, ReadError> {
        let (dir, path) = (self.dir.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || open(&dir, &path))
            .await
            .unwrap_or_else(|_| Err(ReadError::Io(io::Error::other("it could not be opened"))))
    }

    /// Reads a dump that comes in the body of a request.
    pub(crate) async fn receive(&self, body: Body) -> Result<Vec<u8>, ApiError> {
        // The semaphore is never closed.
        let _permit = self.bodies.acquire().await.ok();
        crate::body::read(body, MAX_DUMP_BYTES).await
    }

    /// Starts the file that will be `name`, a relative path; missing directories are made.
    pub(crate) async fn create(&self, name: &str) -> Result<Unfinished, FsError> {
        let place = VPath::parse(name.as_bytes())?;
        if place.is_root() {
            return Err(FsError::IsDir);
        }
        let (dir, io) = (self.dir.clone(), self.io.clone());
        let open = move || {
            make_private_dir(&dir)?;
            LocalStorage::open(&io, &dir, Owner::default())
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let tree = opened.map_err(|_| FsError::Unsupported)??.without_links();
        let parent = place.parent().unwrap_or_else(VPath::root);
        make_dirs(&*tree, &parent).await?;
        if tree.metadata(&place, tidegate_vfs::Links::Keep).await.is_ok_and(|there| !there.is_file()) {
            return Err(FsError::IsDir);
        }
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let temporary = format!(".tidegate-backup.{:016x}.tmp", u64::from_be_bytes(random));
        let temporary = parent.join(temporary.as_bytes())?;
        let how = OpenOptions { write: true, create_new: true, mode: Some(0o600), ..OpenOptions::default() };
        let file = tree.open(&temporary, &how).await?;
        Ok(Unfinished { tree, file, parent, place, temporary, size_bytes: 0 })
    }
}

/// A file that is not at its place yet.
pub(crate) struct Unfinished {
    tree: Arc<dyn Storage>,
    file: Arc<dyn File>,
    parent: VPath,
    place: VPath,
    temporary: VPath,
    size_bytes: u64,
}

impl Unfinished {
    /// Appends `text`.
    pub(crate) async fn write(&mut self, text: Vec<u8>) -> Result<(), FsError> {
        let length = text.len() as u64;
        self.file.write_at(self.size_bytes, vec![Bytes::from(text)]).await?;
        self.size_bytes += length;
        Ok(())
    }

    /// Puts it at its place, where it survives a power cut, and tells its size.
    pub(crate) async fn finish(&self) -> Result<u64, FsError> {
        self.file.sync().await?;
        self.file.close().await?;
        self.tree.rename(&self.temporary, &self.place, Target::Replace).await?;
        self.tree.sync_dir(&self.parent).await?;
        Ok(self.size_bytes)
    }

    /// Removes what was written, after a failure.
    pub(crate) async fn discard(&self) {
        // After a failed rename of ours nothing else can be done about it.
        let _ = self.tree.remove_file(&self.temporary).await;
    }
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

async fn make_dirs(tree: &dyn Storage, dir: &VPath) -> Result<(), FsError> {
    let mut missing = Vec::new();
    let mut at = dir.clone();
    while let Err(error) = tree.metadata(&at, tidegate_vfs::Links::Keep).await {
        let (FsError::NotFound, Some(parent)) = (&error, at.parent()) else { return Err(error) };
        missing.push(std::mem::replace(&mut at, parent));
    }
    for dir in missing.iter().rev() {
        match tree.create_dir(dir, 0o700).await {
            Ok(()) | Err(FsError::Exists) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(dir: &Path, path: &Path) -> Result<Source, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadError::Missing,
        _ => ReadError::Io(error),
    };
    // With all links followed: one in the directory that leads out of it is a file from elsewhere.
    let path = path.canonicalize().map_err(failed)?;
    let is_own = dir.canonicalize().is_ok_and(|dir| path.starts_with(dir));
    // Before opening as well: opening some devices does something.
    if !std::fs::metadata(&path).map_err(failed)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, NONBLOCK);
    let file = options.open(&path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(ReadError::NotAFile);
    }
    if is_own {
        return Ok(Source::own_file(file));
    }
    if found.len() > MAX_DUMP_BYTES as u64 {
        return Err(ReadError::TooLong(found.len()));
    }
    Ok(Source::foreign_file(file))
}

/// So that a pipe that took the file's place does not make `open` wait for a writer.
#[cfg(unix)]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
