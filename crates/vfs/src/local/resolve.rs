//! From a virtual path to something that is certainly inside the home.
//!
//! Two ways lead there. The fast one lets Linux do it: `openat2` with `RESOLVE_BENEATH`. The slow one
//! walks component by component, each opened relative to the one before and never through a link; links
//! are read and expanded here. It is taken where the kernel lacks `openat2`, and where `openat2` says that
//! a path leaves the home: an absolute link whose target lies inside continues inside. Neither ever looks
//! at a path text and acts on it later. `docs/decisions/0001-confinement.md` tells why it is ours.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::io::LocalIo;
use super::unix::{self, DIR};
use crate::{FsError, Links, VPath};

/// Links that one path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// Directories that one walk may open; links with many `..` could ask for millions.
const MAX_STEPS: usize = 16_384;

/// Descriptors that one walk keeps for `..`; beyond that it walks down again from the home.
const MAX_HELD: usize = 16;

/// How often something is tried again that failed because names were moved meanwhile.
const RETRIES: usize = 8;

/// A home directory, held open: whoever renames it does not move the jail.
#[derive(Debug)]
pub(super) struct Home {
    fd: OwnedFd,
    /// Where it lies: as configured, made absolute.
    path: PathBuf,
    /// The same without links; differs from `path` if a link leads to the home.
    real_path: PathBuf,
    /// Whether `openat2` works.
    kernel: bool,
    /// Whether its device is a local one, on which looking at what is cached never waits.
    pub(super) local_device: bool,
    /// The number of its device, if that is memory: reading there never waits.
    pub(super) memory_device: Option<u64>,
}

impl Home {
    pub(super) fn open(io: &LocalIo, home: &Path) -> Result<Self, FsError> {
        let fd = rustix::fs::open(home, DIR, Mode::empty())?;
        let path = std::path::absolute(home)?;
        let real_path = std::fs::canonicalize(home)?;
        let kernel = io.openat2(|| beneath::probe(fd.as_fd()));
        let device = unix::device(fd.as_fd());
        let local_device = device != unix::Device::Waiting;
        let memory_device =
            if device == unix::Device::Memory { Some(unix::metadata(&fstat(&fd)?).identity.0) } else { None };
        Ok(Self { fd, path, real_path, kernel, local_device, memory_device })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The components that an absolute link's text has below the home; `None` if it leads elsewhere.
    pub(super) fn inside<'t>(&self, text: &'t [u8]) -> Option<Vec<&'t [u8]>> {
        let below = |home: &Path| {
            let mut parts = components(text);
            components(home.as_os_str().as_bytes())
                .all(|want| parts.next() == Some(want))
                .then(|| parts.collect())
        };
        below(&self.real_path).or_else(|| below(&self.path))
    }
}

/// The home as one view of it: links followed, or refused.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) home: Arc<Home>,
    links: bool,
}

/// A directory inside the home.
pub(super) enum Dir<'a> {
    /// The home itself.
    Home(BorrowedFd<'a>),
    /// One below it.
    Below(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Home(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl Tree {
    pub(super) fn new(home: Home) -> Self {
        Self { home: Arc::new(home), links: true }
    }

    /// The view in which links are refused.
    pub(super) fn without_links(&self) -> Self {
        Self { home: self.home.clone(), links: false }
    }

    /// Opens what is at `path`. `Links::Keep` never follows the last component: with `PATH` in `flags` a
    /// link itself is opened, else it fails with [`FsError::Link`].
    pub(super) fn open(
        &self,
        path: &VPath,
        flags: OFlags,
        mode: Mode,
        last: Links,
    ) -> Result<OwnedFd, FsError> {
        if self.home.kernel {
            match self.try_beneath(path, flags, mode, last) {
                Err(Errno::XDEV | Errno::AGAIN) => {}
                Err(Errno::LOOP) if !self.links => return Err(FsError::Link),
                // Either the last component is a link, or those on the way are too many.
                Err(Errno::LOOP) if last == Links::Keep => {}
                result => return Ok(result?),
            }
        }
        for _ in 0..RETRIES {
            let place = self.walk(path, last)?;
            match openat(place.dir(), place.name(), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode) {
                Err(Errno::LOOP | Errno::MLINK) if last == Links::Keep => return Err(FsError::Link),
                // A link took the place of what the walk had seen there.
                Err(Errno::LOOP | Errno::MLINK) => {}
                Ok(fd) if last == Links::Follow && unix::opens_links(flags) && is_link(&fd)? => {}
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// As [`Tree::open`] without flags that create or cut, if the answer needs no waiting; `None` if only
    /// a blocking call can tell.
    pub(super) fn open_cached(
        &self,
        path: &VPath,
        flags: OFlags,
        last: Links,
    ) -> Option<Result<OwnedFd, FsError>> {
        if !(self.home.kernel && self.home.local_device) {
            return None;
        }
        let how = beneath::How { links: self.links, cached: true };
        match beneath::open(self.home.fd.as_fd(), relative(path), with(flags, last), Mode::empty(), how) {
            Ok(fd) => Some(Ok(fd)),
            Err(Errno::NOENT) => Some(Err(FsError::NotFound)),
            Err(_) => None,
        }
    }

    /// Opens a directory as a starting point for `*at` calls.
    pub(super) fn dir(&self, path: &VPath) -> Result<Dir<'_>, FsError> {
        if path.is_root() {
            return Ok(Dir::Home(self.home.fd.as_fd()));
        }
        self.open(path, DIR, Mode::empty(), Links::Follow).map(Dir::Below)
    }

    /// The directory that holds the name `path`. The root is nobody's name: [`FsError::Denied`].
    pub(super) fn parent(&self, path: &VPath) -> Result<Dir<'_>, FsError> {
        self.dir(&path.parent().ok_or(FsError::Denied)?)
    }

    /// As [`Tree::parent`], with the directory's own path once links are followed.
    pub(super) fn resolved_parent(&self, path: &VPath) -> Result<(Dir<'_>, VPath), FsError> {
        let parent = path.parent().ok_or(FsError::Denied)?;
        if let Some(dir) = self.linkless_dir(&parent)? {
            return Ok((dir, parent));
        }
        for _ in 0..RETRIES {
            let place = self.walk(&parent, Links::Follow)?;
            match openat(place.dir(), place.name(), DIR | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::LOOP | Errno::MLINK) => {}
                result => return Ok((Dir::Below(result?), place.path()?)),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// The directory and the name in it that `path` leads to, for systems that cannot open everything.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn locate(&self, path: &VPath, last: Links) -> Result<(OwnedFd, Vec<u8>), FsError> {
        let place = self.walk(path, last)?;
        Ok((rustix::io::fcntl_dupfd_cloexec(place.dir(), 0)?, place.name().to_vec()))
    }

    /// The path without links that `path` leads to.
    pub(super) fn resolve(&self, path: &VPath, last: Links) -> Result<VPath, FsError> {
        let Some(parent) = path.parent() else {
            return Ok(VPath::root());
        };
        if let Some(dir) = self.linkless_dir(&parent)? {
            if last == Links::Keep {
                return Ok(path.clone());
            }
            match readlinkat(&dir, path.name(), Vec::new()) {
                Err(Errno::INVAL | Errno::NOENT) => return Ok(path.clone()),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        self.walk(path, last)?.path()
    }

    /// As [`Tree::resolve`], if the answer needs no waiting.
    pub(super) fn resolve_cached(&self, path: &VPath, last: Links) -> Option<VPath> {
        let linkless = Self { home: self.home.clone(), links: false };
        let flags = unix::NODE?;
        match linkless.open_cached(path, flags, last)? {
            Ok(_) => Some(path.clone()),
            Err(_) => {
                linkless.open_cached(&path.parent()?, DIR, Links::Follow)?.is_ok().then(|| path.clone())
            }
        }
    }

    /// `path` as a directory that no link leads to; `None` if the kernel cannot tell or a link is there.
    fn linkless_dir(&self, path: &VPath) -> Result<Option<Dir<'_>>, FsError> {
        if path.is_root() {
            return Ok(Some(Dir::Home(self.home.fd.as_fd())));
        }
        if !self.home.kernel {
            return Ok(None);
        }
        let linkless = Self { home: self.home.clone(), links: false };
        match linkless.try_beneath(path, DIR, Mode::empty(), Links::Follow) {
            Ok(fd) => Ok(Some(Dir::Below(fd))),
            Err(Errno::LOOP) if !self.links => Err(FsError::Link),
            Err(Errno::LOOP | Errno::XDEV | Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the kernel, again if a rename came between.
    fn try_beneath(&self, path: &VPath, flags: OFlags, mode: Mode, last: Links) -> Result<OwnedFd, Errno> {
        let how = beneath::How { links: self.links, cached: false };
        let mut result = Err(Errno::AGAIN);
        for _ in 0..RETRIES {
            result = beneath::open(self.home.fd.as_fd(), relative(path), with(flags, last), mode, how);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }

    /// Walks to the place that `path` names.
    fn walk(&self, path: &VPath, last: Links) -> Result<Place<'_>, FsError> {
        let mut place = Place {
            home: self.home.fd.as_fd(),
            names: Vec::new(),
            held: VecDeque::new(),
            last: None,
            steps: 0,
        };
        let mut pending: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                place.leave()?;
                continue;
            }
            let text = if pending.is_empty() {
                if last == Links::Keep {
                    place.last = Some(name);
                    break;
                }
                place.link_at(&name)?
            } else {
                place.enter(&name)?
            };
            let Some(text) = text else {
                if pending.is_empty() {
                    place.last = Some(name);
                }
                continue;
            };
            links += 1;
            if !self.links {
                return Err(FsError::Link);
            }
            if links > MAX_LINKS {
                return Err(Errno::LOOP.into());
            }
            let parts: Vec<&[u8]> = if text.first() == Some(&b'/') {
                place.names.clear();
                place.held.clear();
                self.home.inside(&text).ok_or(FsError::Outside)?
            } else {
                components(&text).collect()
            };
            pending.extend(parts.into_iter().rev().map(<[u8]>::to_vec));
        }
        Ok(place)
    }
}

/// Where a walk has come to: a directory inside the home and a name in it that was not a link.
struct Place<'a> {
    home: BorrowedFd<'a>,
    /// The directories from the home down; none of them is a link.
    names: Vec<Vec<u8>>,
    /// Descriptors of the deepest of them. Empty only if `names` is empty.
    held: VecDeque<OwnedFd>,
    /// The name in the deepest directory; `None` if the path led to the directory itself.
    last: Option<Vec<u8>>,
    steps: usize,
}

impl Place<'_> {
    fn dir(&self) -> BorrowedFd<'_> {
        self.held.back().map_or(self.home, AsFd::as_fd)
    }

    fn name(&self) -> &[u8] {
        self.last.as_deref().unwrap_or(b".")
    }

    fn path(&self) -> Result<VPath, FsError> {
        let names: Vec<&[u8]> = self.names.iter().chain(&self.last).map(Vec::as_slice).collect();
        VPath::parse(&names.join(&b'/'))
    }

    /// Goes down into `name`; gives the text if it is a link instead.
    fn enter(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        for _ in 0..RETRIES {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(Errno::LOOP.into());
            }
            match openat(self.dir(), name, DIR | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => {
                    self.held.push_back(fd);
                    if self.held.len() > MAX_HELD {
                        self.held.pop_front();
                    }
                    self.names.push(name.to_vec());
                    return Ok(None);
                }
                Err(Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => {}
                Err(error) => return Err(error.into()),
            }
            match readlinkat(self.dir(), name, Vec::new()) {
                Ok(text) => return Ok(Some(text.into_bytes())),
                // Neither a directory nor a link: a file, unless the two were just exchanged.
                Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(FsError::NotDir)
    }

    /// The text of the link `name`; `None` if it is something else or nothing.
    fn link_at(&self, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        match readlinkat(self.dir(), name, Vec::new()) {
            Ok(text) => Ok(Some(text.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes up, never above the home.
    fn leave(&mut self) -> Result<(), FsError> {
        self.names.pop().ok_or(FsError::Outside)?;
        self.held.pop_back();
        if self.held.is_empty() {
            for name in std::mem::take(&mut self.names) {
                if self.enter(&name)?.is_some() {
                    return Err(Errno::AGAIN.into());
                }
            }
        }
        Ok(())
    }
}

/// The call that resolves beneath a directory.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod beneath {
    use super::*;
    use rustix::fs::{ResolveFlags, openat2};

    #[derive(Clone, Copy)]
    pub(super) struct How {
        pub(super) links: bool,
        pub(super) cached: bool,
    }

    pub(super) fn open(
        home: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
        how: How,
    ) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::NO_SYMLINKS, !how.links);
        resolve.set(ResolveFlags::CACHED, how.cached);
        openat2(home, path, flags | OFlags::CLOEXEC, mode, resolve)
    }

    /// Whether the call works at all. An answer is asked for once, about a path that is known to be good:
    /// later, `EPERM` might be about a file.
    pub(super) fn probe(home: BorrowedFd<'_>) -> bool {
        let how = How { links: true, cached: false };
        open(home, b".", DIR, Mode::empty(), how).is_ok()
    }
}

/// Other systems have no such call.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod beneath {
    use super::*;

    #[derive(Clone, Copy)]
    #[expect(dead_code, reason = "nobody is asked")]
    pub(super) struct How {
        pub(super) links: bool,
        pub(super) cached: bool,
    }

    pub(super) fn open(_: BorrowedFd<'_>, _: &[u8], _: OFlags, _: Mode, _: How) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }

    pub(super) fn probe(_: BorrowedFd<'_>) -> bool {
        false
    }
}

/// The names in a link's text or a real path.
pub(super) fn components(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn relative(path: &VPath) -> &[u8] {
    if path.is_root() { b"." } else { path.relative() }
}

fn with(flags: OFlags, last: Links) -> OFlags {
    if last == Links::Keep { flags | OFlags::NOFOLLOW } else { flags }
}

fn is_link(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Symlink)
}
