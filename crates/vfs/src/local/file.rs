//! An open local file: positional reads and writes.
//!
//! A read of what the kernel has cached is done at once, on the caller's thread: a hop to another costs as
//! much as the read. Everything that may wait for a device goes through [`LocalIo`].

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::fstat;
use rustix::io::{Errno, pread, pwritev, retry_on_intr};

use super::io::LocalIo;
use super::resolve::Home;
use super::unix::{self, Change};
use crate::{Buffer, File, FsError, Metadata, SetAttrs};

/// Pieces that one `pwritev` takes (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// Size from which the kernel is told that a file will be read from front to back.
const SEQUENTIAL_FROM: u64 = 1024 * 1024;

/// A regular file, open.
pub(super) struct LocalFile {
    /// `None` once closed. The lock is held to copy the handle, never during a call.
    fd: RwLock<Option<Arc<OwnedFd>>>,
    io: LocalIo,
    home: Arc<Home>,
    written: AtomicBool,
    /// Whether it is kept in memory, where a read never waits.
    in_memory: bool,
    /// Whether reads without waiting (`RWF_NOWAIT`) are worth trying; cleared when one is refused.
    nowait: AtomicBool,
}

impl LocalFile {
    pub(super) fn new(fd: OwnedFd, io: LocalIo, home: Arc<Home>, in_memory: bool) -> Self {
        Self {
            fd: RwLock::new(Some(Arc::new(fd))),
            io,
            home,
            written: AtomicBool::new(false),
            in_memory,
            nowait: AtomicBool::new(true),
        }
    }

    fn fd(&self) -> Result<Arc<OwnedFd>, FsError> {
        let fd = self.fd.read().unwrap_or_else(PoisonError::into_inner);
        fd.clone().ok_or(FsError::InvalidInput("file is closed"))
    }

    /// Reads what needs no waiting. Gives the offset from which the rest must be read by a blocking call;
    /// `None` if there is no rest.
    fn read_cached(&self, fd: &OwnedFd, offset: u64, buf: &mut Buffer) -> Result<Option<u64>, FsError> {
        let room = buf.spare().len();
        if room == 0 || i64::try_from(offset).is_err() {
            return Ok(None);
        }
        if self.in_memory {
            read_all(fd, offset, buf)?;
            return Ok(None);
        }
        if !self.nowait.load(Ordering::Relaxed) {
            return Ok(Some(offset));
        }
        match read_nowait(fd, buf.spare(), offset) {
            Ok(n) if n == room => {
                buf.advance(n);
                Ok(None)
            }
            Ok(n) => {
                buf.advance(n);
                let at = offset + n as u64;
                // Short: the end of the file, or of what is cached.
                let at_end = self.home.local_device && at >= unix::metadata(&fstat(fd)?).size;
                Ok((!at_end).then_some(at))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Some(offset)),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.nowait.store(false, Ordering::Relaxed);
                Ok(Some(offset))
            }
            Err(error) => Err(refused(error)),
        }
    }
}

#[async_trait]
impl File for LocalFile {
    async fn read_at(&self, offset: u64, mut buf: Buffer) -> Result<Buffer, FsError> {
        let fd = self.fd()?;
        let Some(rest) = self.read_cached(&fd, offset, &mut buf)? else {
            return Ok(buf);
        };
        self.io
            .data(move || {
                read_all(&fd, rest, &mut buf)?;
                Ok(buf)
            })
            .await
    }

    async fn write_at(&self, offset: u64, data: Vec<Bytes>) -> Result<(), FsError> {
        let length: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        if offset.checked_add(length).is_none_or(|end| i64::try_from(end).is_err()) {
            return Err(FsError::InvalidInput("offset of 2^63 bytes or more"));
        }
        let fd = self.fd()?;
        self.written.store(true, Ordering::Relaxed);
        self.io.data(move || write_all(&fd, offset, &data)).await
    }

    /// On a local device this never waits: the inode of an open file is in memory.
    async fn metadata(&self) -> Result<Metadata, FsError> {
        let fd = self.fd()?;
        if self.home.local_device {
            return Ok(unix::metadata(&fstat(&fd)?));
        }
        self.io.metadata(move || Ok(unix::metadata(&fstat(&fd)?))).await
    }

    async fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError> {
        let change = Change::new(attrs)?;
        let fd = self.fd()?;
        if change.size.is_some() {
            self.written.store(true, Ordering::Relaxed);
        }
        self.io.metadata(move || change.apply(&fd)).await
    }

    async fn sync(&self) -> Result<(), FsError> {
        let fd = self.fd()?;
        self.io.data(move || Ok(retry_on_intr(|| rustix::fs::fsync(&fd))?)).await
    }

    /// Network file systems report at the close what they could not write. Local ones have nothing left to
    /// say, but may start writing a file that was cut.
    async fn close(&self) -> Result<(), FsError> {
        let fd = self.fd.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(fd) = fd else {
            return Ok(());
        };
        if !self.written.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.io
            .data(move || match Arc::try_unwrap(fd) {
                Ok(fd) => nix::unistd::close(fd).map_err(|errno| std::io::Error::from(errno).into()),
                // A read that nobody waits for any more is still under way; it closes the file.
                Err(_) => Ok(()),
            })
            .await
    }
}

/// A handle that was not opened for this direction gives no right to it.
fn refused(error: Errno) -> FsError {
    if error == Errno::BADF { FsError::Denied } else { error.into() }
}

/// Reads only what is cached.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn read_nowait(fd: &OwnedFd, room: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let pieces = &mut [std::io::IoSliceMut::new(room)];
    rustix::io::preadv2(fd, pieces, offset, rustix::io::ReadWriteFlags::NOWAIT)
}

/// Other systems have no read that never waits.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn read_nowait(_: &OwnedFd, _: &mut [u8], _: u64) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

fn read_all(fd: &OwnedFd, mut offset: u64, buf: &mut Buffer) -> Result<(), FsError> {
    while !buf.spare().is_empty() {
        let n = retry_on_intr(|| pread(fd, buf.spare(), offset)).map_err(refused)?;
        if n == 0 {
            break;
        }
        buf.advance(n);
        offset += n as u64;
    }
    Ok(())
}

fn write_all(fd: &OwnedFd, mut offset: u64, data: &[Bytes]) -> Result<(), FsError> {
    let mut pieces: Vec<IoSlice<'_>> =
        data.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
    let mut left = pieces.as_mut_slice();
    while !left.is_empty() {
        let now = &left[..left.len().min(MAX_PIECES)];
        let n = retry_on_intr(|| pwritev(fd, now, offset)).map_err(refused)?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        offset += n as u64;
        IoSlice::advance_slices(&mut left, n);
    }
    Ok(())
}

/// Prepares a file that was opened for reading only. Cheap, but not free: small files go without.
#[cfg(not(any(
    target_vendor = "apple",
    target_os = "openbsd",
    target_os = "netbsd",
    target_os = "dragonfly"
)))]
pub(super) fn expect_sequential(fd: &OwnedFd, size: u64) {
    if size >= SEQUENTIAL_FROM {
        // Advice: a refusal changes nothing.
        let _ = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::Sequential);
    }
}

/// Prepares a file that was opened for reading only: nothing to do here.
#[cfg(any(target_vendor = "apple", target_os = "openbsd", target_os = "netbsd", target_os = "dragonfly"))]
pub(super) fn expect_sequential(_: &OwnedFd, _: u64) {}
