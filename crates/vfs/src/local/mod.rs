//! Files in a directory of the local disk.
//!
//! [`LocalStorage`] turns each operation on a virtual path into the fewest system calls that are safe from
//! whoever moves names meanwhile: `resolve.rs` finds the directory or the file, and what follows acts on
//! descriptors, or on a last name that is never followed. `io.rs` holds the hop to blocking threads,
//! `file.rs` open files, `dir.rs` listings, `unix.rs` attributes. Unix only; Linux is the fast one.

mod dir;
mod file;
mod io;
mod resolve;
#[cfg(test)]
mod tests;
mod unix;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{AtFlags, Dir as RawDir, Gid, Mode, OFlags, RawMode, Uid, fstat};
use rustix::io::Errno;

pub use io::LocalIo;

use crate::{
    DirStream, Features, File, FsError, Links, Metadata, OpenOptions, SetAttrs, Space, Storage, Target, VPath,
};
use dir::LocalDirStream;
use file::LocalFile;
use resolve::{Home, Tree, components};
use unix::{Change, Node};

/// Who new files belong to; absent parts are left to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Owner {
    fn is_set(self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    fn raw_uid(self) -> Option<Uid> {
        self.uid.filter(|&uid| uid != u32::MAX).map(Uid::from_raw)
    }

    fn raw_gid(self) -> Option<Gid> {
        self.gid.filter(|&gid| gid != u32::MAX).map(Gid::from_raw)
    }
}

/// A home directory. Paths are resolved by the kernel beneath it, so nothing outside is reachable.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    io: LocalIo,
    tree: Tree,
    owner: Owner,
}

impl LocalStorage {
    /// Opens the directory `home`. What is created in it is given to `owner`; where that fails (the server
    /// is not root) the log says so and the file stays with the server's account. An overwritten file and
    /// the target of a rename are given to the owner as well.
    ///
    /// Blocks for a moment.
    ///
    /// # Errors
    ///
    /// [`FsError::NotFound`], [`FsError::NotDir`], [`FsError::Denied`], as the system says about `home`.
    pub fn open(io: &LocalIo, home: &Path, owner: Owner) -> Result<Self, FsError> {
        let home = Home::open(io, home)?;
        let io = io.for_memory(home.memory_device.is_some());
        Ok(Self { io, tree: Tree::new(home), owner })
    }

    /// Creates the directory `home` and its parents if it is missing, with mode `0o777` less the umask, and
    /// gives it (not the parents) to `owner`. A home that exists is left as it is.
    ///
    /// Blocks for a moment.
    ///
    /// # Errors
    ///
    /// As the system says about `home`; [`FsError::NotDir`] if something else is there.
    pub fn create_home(home: &Path, owner: Owner) -> Result<(), FsError> {
        if home.is_dir() {
            return Ok(());
        }
        if let Some(parent) = home.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match std::fs::create_dir(home) {
            Ok(()) => {}
            // Two sessions of a user may log in for the first time at once.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && home.is_dir() => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(FsError::NotDir),
            Err(error) => return Err(error.into()),
        }
        if owner.is_set() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let given = rustix::fs::open(home, flags, Mode::empty())
                .and_then(|fd| rustix::fs::fchown(fd, owner.raw_uid(), owner.raw_gid()));
            unix::report(owner, given);
        }
        Ok(())
    }

    /// Runs work on names and attributes where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree) -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        let tree = self.tree.clone();
        self.io.metadata(move || work(&tree)).await
    }

    /// Makes sure that an opened thing is a file, and makes a [`File`] of it.
    fn opened(&self, fd: OwnedFd, how: &OpenOptions) -> Result<Arc<dyn File>, FsError> {
        let metadata = unix::metadata(&fstat(&fd)?);
        if metadata.is_dir() {
            return Err(FsError::IsDir);
        }
        if !metadata.is_file() {
            return Err(NOT_A_FILE);
        }
        if how.create || how.create_new || how.truncate {
            unix::give_file(&fd, self.owner, &metadata);
        }
        if !how.write {
            file::expect_sequential(&fd, metadata.size);
        }
        let in_memory = self.tree.home.memory_device == Some(metadata.identity.0);
        let io = self.io.for_memory(in_memory);
        Ok(Arc::new(LocalFile::new(fd, io, self.tree.home.clone(), in_memory)))
    }
}

/// Pipes, sockets and devices are seen, moved and removed, never opened.
const NOT_A_FILE: FsError = FsError::InvalidInput("not a regular file");

#[async_trait]
impl Storage for LocalStorage {
    async fn open(&self, path: &VPath, how: &OpenOptions) -> Result<Arc<dyn File>, FsError> {
        let (flags, mode, last) = open_flags(how)?;
        if !how.write
            && let Some(result) = self.tree.open_cached(path, flags, last)
        {
            return self.opened(result?, how);
        }
        let (this, path, how) = (self.clone(), path.clone(), *how);
        self.io
            .metadata(move || match this.tree.open(&path, flags, mode, last) {
                Ok(fd) => this.opened(fd, &how),
                Err(FsError::Io(error)) if is_unopenable(&error) => Err(NOT_A_FILE),
                Err(error) => Err(error),
            })
            .await
    }

    async fn metadata(&self, path: &VPath, links: Links) -> Result<Metadata, FsError> {
        if let Some(flags) = unix::NODE
            && let Some(result) = self.tree.open_cached(path, flags, links)
        {
            return Ok(unix::metadata(&fstat(result?)?));
        }
        let path = path.clone();
        self.blocking(move |tree| Node::find(tree, &path, links)?.metadata()).await
    }

    async fn set_attrs(&self, path: &VPath, attrs: &SetAttrs, links: Links) -> Result<(), FsError> {
        let (path, change) = (path.clone(), Change::new(attrs)?);
        self.blocking(move |tree| {
            let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
            if change.size.is_none() {
                let reopen = || tree.open(&path, OFlags::RDONLY | flags, Mode::empty(), links);
                return Node::find(tree, &path, links)?.apply(&change, reopen);
            }
            let fd = match tree.open(&path, OFlags::WRONLY | flags, Mode::empty(), links) {
                // The last component is a link: links have no size to set.
                Err(FsError::Link) if links == Links::Keep && tree.parent(&path).is_ok() => {
                    return Err(FsError::Unsupported);
                }
                Err(FsError::Io(error)) if is_unopenable(&error) => return Err(NOT_A_FILE),
                result => result?,
            };
            if !unix::metadata(&fstat(&fd)?).is_file() {
                return Err(NOT_A_FILE);
            }
            change.apply(&fd)
        })
        .await
    }

    async fn read_dir(&self, path: &VPath) -> Result<Box<dyn DirStream>, FsError> {
        let path = path.clone();
        let dir = self
            .blocking(move |tree| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(RawDir::new(tree.open(&path, flags, Mode::empty(), Links::Follow)?)?)
            })
            .await?;
        Ok(Box::new(LocalDirStream::new(dir, self.io.clone())))
    }

    async fn create_dir(&self, path: &VPath, mode: u32) -> Result<(), FsError> {
        if path.is_root() {
            return Err(FsError::Exists);
        }
        let (path, owner) = (path.clone(), self.owner);
        self.blocking(move |tree| {
            let parent = tree.parent(&path)?;
            rustix::fs::mkdirat(&parent, path.name(), Mode::from_raw_mode((mode & 0o7777) as RawMode))?;
            if owner.is_set() {
                unix::report(owner, Node::at(&parent, path.name()).and_then(|node| node.give(owner)));
            }
            Ok(())
        })
        .await
    }

    async fn remove_file(&self, path: &VPath) -> Result<(), FsError> {
        let path = path.clone();
        self.blocking(move |tree| {
            let parent = tree.parent(&path)?;
            match rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()) {
                // POSIX wants EPERM for a directory, Linux says EISDIR.
                Err(Errno::PERM) if Node::at(&parent, path.name())?.metadata()?.is_dir() => {
                    Err(FsError::IsDir)
                }
                result => Ok(result?),
            }
        })
        .await
    }

    async fn remove_dir(&self, path: &VPath) -> Result<(), FsError> {
        let path = path.clone();
        self.blocking(move |tree| {
            match rustix::fs::unlinkat(tree.parent(&path)?, path.name(), AtFlags::REMOVEDIR) {
                Err(Errno::EXIST) => Err(FsError::NotEmpty),
                result => Ok(result?),
            }
        })
        .await
    }

    async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError> {
        let (target, link, owner) = (target.clone(), link.clone(), self.owner);
        self.blocking(move |tree| {
            let (parent, parent_path) = tree.resolved_parent(&link)?;
            rustix::fs::symlinkat(target.relative_to(&parent_path), &parent, link.name())?;
            if owner.is_set() {
                unix::report(owner, Node::at(&parent, link.name()).and_then(|node| node.give(owner)));
            }
            Ok(())
        })
        .await
    }

    async fn read_link(&self, path: &VPath) -> Result<Vec<u8>, FsError> {
        if path.is_root() {
            return Err(NOT_A_LINK);
        }
        let path = path.clone();
        self.blocking(move |tree| {
            let (parent, parent_path) = tree.resolved_parent(&path)?;
            let text = match rustix::fs::readlinkat(&parent, path.name(), Vec::new()) {
                Err(Errno::INVAL) => return Err(NOT_A_LINK),
                result => result?.into_bytes(),
            };
            if text.first() == Some(&b'/') {
                let inside = tree.home.inside(&text).ok_or(FsError::Outside)?;
                if !stays_inside(0, inside.iter().copied()) {
                    return Err(FsError::Outside);
                }
                return Ok(VPath::parse(&inside.join(&b'/'))?.as_bytes().to_vec());
            }
            if !stays_inside(parent_path.components().count(), components(&text)) {
                return Err(FsError::Outside);
            }
            Ok(text)
        })
        .await
    }

    async fn hard_link(&self, from: &VPath, to: &VPath) -> Result<(), FsError> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |tree| {
            let (from_dir, to_dir) = (tree.parent(&from)?, tree.parent(&to)?);
            Ok(rustix::fs::linkat(from_dir, from.name(), to_dir, to.name(), AtFlags::empty())?)
        })
        .await
    }

    async fn rename(&self, from: &VPath, to: &VPath, target: Target) -> Result<(), FsError> {
        let (from, to, owner) = (from.clone(), to.clone(), self.owner);
        self.blocking(move |tree| {
            let from_dir = tree.parent(&from)?;
            let other_dir = if from.parent() == to.parent() { None } else { Some(tree.parent(&to)?) };
            let to_dir = other_dir.as_ref().unwrap_or(&from_dir);
            // Taken hold of before it moves: later its new name might stand for something else.
            let moved = if owner.is_set() { Some(Node::at(&from_dir, from.name())?) } else { None };
            let done = match target {
                Target::Replace => rustix::fs::renameat(&from_dir, from.name(), to_dir, to.name()),
                Target::Absent => rename_to_absent(&from_dir, from.name(), to_dir, to.name()),
            };
            match done {
                Err(Errno::INVAL) => {
                    return Err(FsError::InvalidInput("a directory cannot move into itself"));
                }
                Err(Errno::EXIST) if target == Target::Replace => return Err(FsError::NotEmpty),
                result => result?,
            }
            if let Some(moved) = moved {
                // A system without descriptors for everything knows it by its new name only.
                let now = if unix::NODE.is_some() { Ok(moved) } else { Node::at(to_dir, to.name()) };
                unix::report(owner, now.and_then(|node| node.give(owner)));
            }
            Ok(())
        })
        .await
    }

    async fn resolve(&self, path: &VPath, links: Links) -> Result<VPath, FsError> {
        if let Some(resolved) = self.tree.resolve_cached(path, links) {
            return Ok(resolved);
        }
        let path = path.clone();
        self.blocking(move |tree| tree.resolve(&path, links)).await
    }

    fn without_links(&self) -> Arc<dyn Storage> {
        Arc::new(Self { tree: self.tree.without_links(), ..self.clone() })
    }

    async fn sync_dir(&self, path: &VPath) -> Result<(), FsError> {
        let (path, io) = (path.clone(), self.io.clone());
        let tree = self.tree.clone();
        // The wait is for the device, as that of data.
        io.data(move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = tree.open(&path, flags, Mode::empty(), Links::Follow)?;
            match rustix::fs::fsync(&dir) {
                // Some file systems have nothing to sync in a directory, and say so.
                Err(Errno::INVAL) => Ok(()),
                result => Ok(result?),
            }
        })
        .await
    }

    async fn space(&self, path: &VPath) -> Result<Space, FsError> {
        let path = path.clone();
        self.blocking(move |tree| Node::find(tree, &path, Links::Follow)?.space()).await
    }

    fn features(&self) -> Features {
        Features { random_writes: true, atomic_rename: true, symlinks: true, hard_links: true, owners: true }
    }

    fn local_path(&self, path: &VPath) -> Option<PathBuf> {
        let home = self.tree.home.path();
        if path.is_root() {
            return Some(home.to_path_buf());
        }
        Some(home.join(std::ffi::OsStr::from_bytes(path.relative())))
    }
}

const NOT_A_LINK: FsError = FsError::InvalidInput("not a symbolic link");

/// What the options ask of `open`. Never waits for the other end of a pipe, never takes a terminal.
fn open_flags(how: &OpenOptions) -> Result<(OFlags, Mode, Links), FsError> {
    let mut flags = match (how.read, how.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (true, false) if !(how.create || how.create_new || how.truncate) => OFlags::RDONLY,
        (true, false) => return Err(FsError::InvalidInput("creating or cutting a file needs writing")),
        (false, false) => return Err(FsError::InvalidInput("neither reading nor writing")),
    };
    flags |= OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    flags.set(OFlags::TRUNC, how.truncate);
    flags.set(OFlags::CREATE, how.create || how.create_new);
    flags.set(OFlags::EXCL, how.create_new);
    let creates = how.create || how.create_new;
    let mode = if creates { how.mode.unwrap_or(0o666) & 0o7777 } else { 0 };
    let last = if how.create_new { Links::Keep } else { Links::Follow };
    Ok((flags, Mode::from_raw_mode(mode as RawMode), last))
}

/// What a pipe without a reader, a socket or a device without a driver answers to an attempt to open it.
fn is_unopenable(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NXIO | Errno::NODEV | Errno::OPNOTSUPP))
}

/// Whether names followed by their text alone, from a directory at `depth`, never climb above the home.
fn stays_inside<'a>(depth: usize, mut names: impl Iterator<Item = &'a [u8]>) -> bool {
    names
        .try_fold(depth, |depth, name| if name == b".." { depth.checked_sub(1) } else { Some(depth + 1) })
        .is_some()
}

/// Renames unless the target exists, in one call where the system and the file system have it.
fn rename_to_absent(
    from_dir: &resolve::Dir<'_>,
    from: &[u8],
    to_dir: &resolve::Dir<'_>,
    to: &[u8],
) -> Result<(), Errno> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    match rustix::fs::renameat_with(from_dir, from, to_dir, to, rustix::fs::RenameFlags::NOREPLACE) {
        // The last is also what a directory that moves into itself gets; it will again.
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {}
        result => return result,
    }
    rename_over_placeholder(from_dir, from, to_dir, to)
}

/// Takes the target's name with something empty of the same kind, which only one of two can do, and then
/// renames over that. Others see the empty thing for a moment.
fn rename_over_placeholder(
    from_dir: &resolve::Dir<'_>,
    from: &[u8],
    to_dir: &resolve::Dir<'_>,
    to: &[u8],
) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from_dir, from, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    if is_dir {
        rustix::fs::mkdirat(to_dir, to, Mode::RWXU)?;
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(to_dir, to, flags, Mode::RUSR | Mode::WUSR)?;
    }
    rustix::fs::renameat(from_dir, from, to_dir, to).inspect_err(|_| {
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let _ = rustix::fs::unlinkat(to_dir, to, flags);
    })
}
