//! Files of backups: writing one below `httpd.backups_path`, and reading one from anywhere. What is in them is
//! `api/dump.rs`'s matter.
//!
//! A dump holds password hashes: it is written for its owner's eyes only, beside its place, and renamed when it
//! is on the disk. Nothing outside the directory can be reached, whatever links are in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use tidegate_vfs::{File, FsError, LocalIo, LocalStorage, OpenOptions, Owner, Storage, Target, VPath};
use tokio::io::AsyncReadExt;
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use crate::api::dump::MAX_DUMP_BYTES;
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
}

/// Why a file cannot be read as a dump.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Nothing is there.
    Missing,
    /// It is something else than a file.
    NotAFile,
    /// It is so long, which is more than [`MAX_DUMP_BYTES`].
    TooLong(u64),
    /// The system refuses.
    Io(io::Error),
}

impl Backups {
    /// Backups go to `dir`, which is made when the first one is written.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, io: LocalIo::default(), turn: Mutex::default(), bodies: Semaphore::new(BODIES) }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits for the right to hold all users in memory: one backup or restore at a time.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
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

/// Reads the file at `path`, which must be an ordinary one: a pipe or a device could keep us for ever.
pub(crate) async fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadError::Missing,
        _ => ReadError::Io(error),
    };
    // Before opening as well: opening some devices does something.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut options = tokio::fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    options.custom_flags(NONBLOCK);
    let file = options.open(path).await.map_err(failed)?;
    let found = file.metadata().await.map_err(failed)?;
    if !found.is_file() {
        return Err(ReadError::NotAFile);
    }
    if found.len() > MAX_DUMP_BYTES as u64 {
        return Err(ReadError::TooLong(found.len()));
    }
    let mut text = Vec::new();
    file.take(MAX_DUMP_BYTES as u64 + 1).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() > MAX_DUMP_BYTES {
        return Err(ReadError::TooLong(text.len() as u64));
    }
    Ok(text)
}

/// So that a pipe that took the file's place does not make `open` wait for a writer.
#[cfg(unix)]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
