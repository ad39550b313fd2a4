//! Files under virtual paths.
//!
//! This crate knows no users, permissions, quota or protocols. It says what a tree of files can do
//! ([`Storage`], [`File`], [`DirStream`]), names its contents by [`VPath`], and implements it twice:
//! [`LocalStorage`] is a directory that the kernel will not let anyone leave, [`MemoryStorage`] serves
//! tests and examples.
//!
//! A backend is an implementation of the three traits that passes the suite in `contract` (feature
//! `testing`).

mod buffer;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
mod error;
mod local;
mod memory;
mod metadata;
mod path;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use buffer::{Buffer, BufferPool};
pub use error::FsError;
pub use local::{LocalIo, LocalStorage, Owner};
pub use memory::MemoryStorage;
pub use metadata::{DirEntry, FileType, Metadata, OpenOptions, SetAttrs, Space, Timestamp};
pub use path::VPath;

/// Whether an operation on a name acts on the link itself or on what it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Acts on the file that the link points to.
    Follow,
    /// Acts on the link itself.
    Keep,
}

/// What a rename does when its target exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The rename fails with [`FsError::Exists`].
    Absent,
    /// A file is replaced atomically; a directory only if it is empty.
    Replace,
}

/// What a backend can do; protocols ask before they promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Writes may start anywhere in a file.
    pub random_writes: bool,
    /// A rename over an existing file is atomic.
    pub atomic_rename: bool,
    /// Symbolic links exist.
    pub symlinks: bool,
    /// Hard links exist.
    pub hard_links: bool,
    /// Files have owners and modes.
    pub owners: bool,
}

/// A tree of files.
///
/// # Contract
///
/// * Nothing outside the tree is ever read, changed or revealed, whatever the links in it say and
///   whoever moves its directories meanwhile. A path that would leave the tree fails with
///   [`FsError::Outside`].
/// * Every operation is atomic towards others or says otherwise.
/// * The answer to "what would this path be without links" is [`Storage::resolve`]; the tree seen
///   through [`Storage::without_links`] refuses every link on the way ([`FsError::Link`]), so that what
///   was decided on a resolved path is what is acted on.
/// * Dropping a future that was not polled to its end may leave the operation done or undone, never
///   half done.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Opens a file for reading or writing. A directory fails with [`FsError::IsDir`].
    async fn open(&self, path: &VPath, how: &OpenOptions) -> Result<Arc<dyn File>, FsError>;

    /// Describes what is at `path`.
    async fn metadata(&self, path: &VPath, links: Links) -> Result<Metadata, FsError>;

    /// Changes the present attributes, in the order: size, mode, owner, times. `Links::Keep` on a link
    /// changes the link itself where the platform can ([`FsError::Unsupported`] where it cannot).
    async fn set_attrs(&self, path: &VPath, attrs: &SetAttrs, links: Links) -> Result<(), FsError>;

    /// Opens a directory for listing; entries come in no particular order, without `.` and `..`.
    async fn read_dir(&self, path: &VPath) -> Result<Box<dyn DirStream>, FsError>;

    /// Creates one directory; its parent must exist. `mode` is subject to the process's umask.
    async fn create_dir(&self, path: &VPath, mode: u32) -> Result<(), FsError>;

    /// Removes a file or a link, never a directory ([`FsError::IsDir`]).
    async fn remove_file(&self, path: &VPath) -> Result<(), FsError>;

    /// Removes an empty directory. A link to a directory fails with [`FsError::NotDir`].
    async fn remove_dir(&self, path: &VPath) -> Result<(), FsError>;

    /// Creates the link `link`, which points to the virtual path `target` (which need not exist). It is
    /// stored relative to the link's own directory, so that a moved home keeps its links.
    async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError>;

    /// Reads a link as the user may see it: a virtual path if the link was absolute, else its text. A
    /// link that is not one fails with [`FsError::InvalidInput`].
    async fn read_link(&self, path: &VPath) -> Result<Vec<u8>, FsError>;

    /// Creates a second name for a file. Links are not followed at `from`.
    async fn hard_link(&self, from: &VPath, to: &VPath) -> Result<(), FsError>;

    /// Renames a file, link or directory.
    async fn rename(&self, from: &VPath, to: &VPath, target: Target) -> Result<(), FsError>;

    /// The virtual path that `path` leads to once every link on the way is followed. With
    /// `Links::Keep` the last component is not followed. A last component that does not exist is kept
    /// as it is; a dangling last link under `Links::Follow` gives the path its target would have.
    async fn resolve(&self, path: &VPath, links: Links) -> Result<VPath, FsError>;

    /// The same tree, in which every path with a link in it (the last component under `Links::Keep`
    /// excepted) fails with [`FsError::Link`].
    fn without_links(&self) -> Arc<dyn Storage>;

    /// Forces the names in a directory to stable storage: a file that was created, renamed or replaced there
    /// survives a power cut under its name. A backend whose names are always durable does nothing.
    async fn sync_dir(&self, _path: &VPath) -> Result<(), FsError> {
        Ok(())
    }

    /// Room on the device that holds `path`.
    async fn space(&self, path: &VPath) -> Result<Space, FsError>;

    /// What this backend can do.
    fn features(&self) -> Features;

    /// Where `path` lies on the local disk, for programs that need a real path and for log lines.
    /// Lexical: no check and no link is followed. `None` if the files are not on a local disk.
    fn local_path(&self, path: &VPath) -> Option<PathBuf>;
}

/// An open file.
///
/// # Contract
///
/// * Reads and writes are positional and may run at the same time.
/// * `write_at` writes everything or fails; a failed write may have changed a part of its range.
/// * [`File::close`] reports errors that earlier writes could not; dropping without it only releases.
#[async_trait]
pub trait File: Send + Sync {
    /// Fills the spare room of `buf` from `offset`; less than the room was filled only at the end of
    /// the file.
    async fn read_at(&self, offset: u64, buf: Buffer) -> Result<Buffer, FsError>;

    /// Writes `data`, piece after piece, from `offset`.
    async fn write_at(&self, offset: u64, data: Vec<Bytes>) -> Result<(), FsError>;

    /// Describes the open file, whatever its name is now.
    async fn metadata(&self) -> Result<Metadata, FsError>;

    /// Changes the present attributes of the open file.
    async fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError>;

    /// Forces what was written to stable storage.
    async fn sync(&self) -> Result<(), FsError>;

    /// Ends the use of the file and reports what earlier writes could not.
    async fn close(&self) -> Result<(), FsError>;
}

/// A directory that is being listed.
#[async_trait]
pub trait DirStream: Send + Sync {
    /// Up to `at_most` further entries, with their own metadata (links are not followed); empty at the
    /// end. An entry that vanished meanwhile is left out.
    async fn next(&mut self, at_most: usize) -> Result<Vec<DirEntry>, FsError>;
}
