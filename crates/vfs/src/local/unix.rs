//! What Unix says about a file and lets us change: modes, owners, times, room on the device.
//!
//! Everything here acts on a descriptor, or (where a system has no descriptors for links and unreadable
//! files) on a name in an opened directory without following it. No function takes a path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType as Kind, Gid, Mode, OFlags, Stat, StatVfsMountFlags, Timespec, Timestamps, UTIME_OMIT,
    Uid, fchmod, fchown, fstatvfs, ftruncate, futimens,
};
use rustix::io::Errno;

use super::Owner;
use super::resolve::Tree;
use crate::{FileType, FsError, Links, Metadata, SetAttrs, Space, Timestamp, VPath};

/// Opens a directory as a starting point, even one that may not be listed.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Opens a directory as a starting point.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens anything, links included, without any right to its contents; `None` where that does not exist.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const NODE: Option<OFlags> = Some(OFlags::PATH.union(OFlags::CLOEXEC));
/// Opens anything without any right to its contents; `None` where that does not exist.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const NODE: Option<OFlags> = None;

/// Whether opening a link itself with these flags succeeds.
pub(super) fn opens_links(flags: OFlags) -> bool {
    NODE.is_some_and(|node| flags.contains(node) && !flags.contains(OFlags::DIRECTORY))
}

/// How long a device may let us wait for what the kernel has cached, and for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    /// Memory itself: nothing waits.
    Memory,
    /// A local disk: what is cached does not wait.
    Disk,
    /// A network or another process may be asked about anything; or we do not know.
    Waiting,
}

/// Local file systems by their magic numbers: ext2-4, XFS, Btrfs, F2FS, ZFS, bcachefs, overlayfs.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DISKS: [u32; 7] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x794C_7630];

/// tmpfs and ramfs.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];

/// What kind of device an open file is on.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn device(fd: BorrowedFd<'_>) -> Device {
    match rustix::fs::fstatfs(fd).map(|device| device.f_type as u32) {
        Ok(kind) if MEMORY.contains(&kind) => Device::Memory,
        Ok(kind) if DISKS.contains(&kind) => Device::Disk,
        _ => Device::Waiting,
    }
}

/// What kind of device an open file is on: unknown.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn device(_: BorrowedFd<'_>) -> Device {
    Device::Waiting
}

/// The kernel's description in our words. The casts only widen, or keep the bits of a number whose sign
/// differs between platforms.
#[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
pub(super) fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        file_type: match Kind::from_raw_mode(stat.st_mode) {
            Kind::RegularFile => FileType::File,
            Kind::Directory => FileType::Dir,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharacterDevice => FileType::CharDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Unknown => FileType::Other,
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode as u32 & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink as u64,
        accessed: Timestamp { seconds: stat.st_atime as i64, nanos: stat.st_atime_nsec as u32 },
        modified: Timestamp { seconds: stat.st_mtime as i64, nanos: stat.st_mtime_nsec as u32 },
        identity: (stat.st_dev as u64, stat.st_ino as u64),
    }
}

/// Room on the device that holds an open file.
pub(super) fn space(fd: impl AsFd) -> Result<Space, FsError> {
    let room = fstatvfs(fd)?;
    Ok(Space {
        block_size: room.f_bsize,
        fragment_size: room.f_frsize,
        blocks: room.f_blocks,
        blocks_free: room.f_bfree,
        blocks_available: room.f_bavail,
        files: room.f_files,
        files_free: room.f_ffree,
        files_available: room.f_favail,
        filesystem_id: room.f_fsid,
        flags: (room.f_flag & (StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID)).bits(),
        name_max: room.f_namemax,
    })
}

/// What to change, checked: no number in it has a second meaning for the kernel.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) size: Option<u64>,
    mode: Option<Mode>,
    owner: Option<(Option<Uid>, Option<Gid>)>,
    times: Option<Timestamps>,
}

impl Change {
    pub(super) fn new(attrs: &SetAttrs) -> Result<Self, FsError> {
        if attrs.size.is_some_and(|size| i64::try_from(size).is_err()) {
            return Err(FsError::InvalidInput("size of 2^63 bytes or more"));
        }
        // The largest number means "leave it" to the kernel.
        if attrs.uid == Some(u32::MAX) || attrs.gid == Some(u32::MAX) {
            return Err(FsError::InvalidInput("no such owner or group"));
        }
        let timespec = |time: Option<Timestamp>| match time {
            None => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
            Some(time) if time.nanos < 1_000_000_000 => {
                Ok(Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() })
            }
            Some(_) => Err(FsError::InvalidInput("a billion nanoseconds or more")),
        };
        let times = Timestamps {
            last_access: timespec(attrs.accessed)?,
            last_modification: timespec(attrs.modified)?,
        };
        Ok(Self {
            size: attrs.size,
            mode: attrs.mode.map(|mode| Mode::from_raw_mode((mode & 0o7777) as rustix::fs::RawMode)),
            owner: (attrs.uid.is_some() || attrs.gid.is_some())
                .then(|| (attrs.uid.map(Uid::from_raw), attrs.gid.map(Gid::from_raw))),
            times: (attrs.accessed.is_some() || attrs.modified.is_some()).then_some(times),
        })
    }

    /// Changes an open file.
    pub(super) fn apply(&self, fd: impl AsFd) -> Result<(), FsError> {
        let fd = fd.as_fd();
        if let Some(size) = self.size {
            ftruncate(fd, size).map_err(|error| match error {
                Errno::INVAL | Errno::BADF => FsError::Denied, // not open for writing
                error => error.into(),
            })?;
        }
        if let Some(mode) = self.mode {
            fchmod(fd, mode)?;
        }
        if let Some((uid, gid)) = self.owner {
            fchown(fd, uid, gid)?;
        }
        if let Some(times) = &self.times {
            futimens(fd, times)?;
        }
        Ok(())
    }
}

/// Gives an open file to its owner, if it is not theirs.
pub(super) fn give_file(fd: impl AsFd, owner: Owner, is: &Metadata) {
    if owner.uid.is_some_and(|uid| uid != is.uid) || owner.gid.is_some_and(|gid| gid != is.gid) {
        report(owner, fchown(fd, owner.raw_uid(), owner.raw_gid()));
    }
}

/// A failure to give a file away leaves it with the server's account, which the log should say.
pub(super) fn report(owner: Owner, result: Result<(), Errno>) {
    if let Err(error) = result {
        tracing::warn!(uid = owner.uid, gid = owner.gid, %error, "cannot change the owner of a new file");
    }
}

/// Changes the mode where there is no `/proc`: of a file or directory that the server may read, if it is
/// still the one that was found.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn set_mode_of_opened(
    found: &Metadata,
    mode: Mode,
    reopen: impl FnOnce() -> Result<OwnedFd, FsError>,
) -> Result<(), FsError> {
    if !(found.is_file() || found.is_dir()) {
        return Err(FsError::Unsupported);
    }
    let fd = reopen()?;
    if metadata(&rustix::fs::fstat(&fd)?).identity != found.identity {
        return Err(Errno::AGAIN.into());
    }
    Ok(fchmod(&fd, mode)?)
}

/// A thing in the tree, whatever it is: nobody can put another one in its place between two calls.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use by_descriptor::Node;

/// A thing in the tree, whatever it is: a name in an opened directory that is never followed.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) use by_name::Node;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod by_descriptor {
    use super::*;
    use rustix::fs::{CWD, chmodat, chownat, fstat, openat, utimensat};
    use std::os::fd::AsRawFd;

    const FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

    pub(in crate::local) struct Node(OwnedFd);

    impl Node {
        pub(in crate::local) fn find(tree: &Tree, path: &VPath, last: Links) -> Result<Self, FsError> {
            tree.open(path, FLAGS, Mode::empty(), last).map(Self)
        }

        /// The name `name` in an opened directory, itself if it is a link.
        pub(in crate::local) fn at(dir: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
            openat(dir, name, FLAGS | OFlags::NOFOLLOW, Mode::empty()).map(Self)
        }

        pub(in crate::local) fn metadata(&self) -> Result<Metadata, FsError> {
            Ok(metadata(&fstat(&self.0)?))
        }

        pub(in crate::local) fn space(&self) -> Result<Space, FsError> {
            space(&self.0)
        }

        pub(in crate::local) fn give(&self, owner: Owner) -> Result<(), Errno> {
            chownat(&self.0, c"", owner.raw_uid(), owner.raw_gid(), AtFlags::EMPTY_PATH)
        }

        /// Changes everything but the size. `reopen` opens the same path for reading; it is asked only
        /// where there is no other way.
        pub(in crate::local) fn apply(
            &self,
            change: &Change,
            reopen: impl FnOnce() -> Result<OwnedFd, FsError>,
        ) -> Result<(), FsError> {
            if let Some(mode) = change.mode {
                self.set_mode(mode, reopen)?;
            }
            if let Some((uid, gid)) = change.owner {
                chownat(&self.0, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if let Some(times) = &change.times {
                match utimensat(&self.0, c"", times, AtFlags::EMPTY_PATH) {
                    // Linux before 5.8 does not know the flag here.
                    Err(Errno::INVAL) => utimensat(CWD, self.magic_link(), times, AtFlags::empty())?,
                    result => result?,
                }
            }
            Ok(())
        }

        /// No system call that is older than Linux 6.6 changes the mode of what such a descriptor stands
        /// for, except through its entry in `/proc`. That entry is the kernel's, and leads to the file
        /// itself: names in the home play no part.
        fn set_mode(
            &self,
            mode: Mode,
            reopen: impl FnOnce() -> Result<OwnedFd, FsError>,
        ) -> Result<(), FsError> {
            let is = self.metadata()?;
            if is.is_symlink() {
                return Err(FsError::Unsupported);
            }
            match chmodat(CWD, self.magic_link(), mode, AtFlags::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => set_mode_of_opened(&is, mode, reopen),
                result => Ok(result?),
            }
        }

        fn magic_link(&self) -> String {
            format!("/proc/self/fd/{}", self.0.as_raw_fd())
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod by_name {
    use super::*;
    use rustix::fs::{chmodat, chownat, statat, utimensat};

    pub(in crate::local) struct Node {
        dir: OwnedFd,
        name: Vec<u8>,
    }

    impl Node {
        pub(in crate::local) fn find(tree: &Tree, path: &VPath, last: Links) -> Result<Self, FsError> {
            let (dir, name) = tree.locate(path, last)?;
            let node = Self { dir, name };
            node.metadata()?;
            Ok(node)
        }

        /// The name `name` in an opened directory, itself if it is a link.
        pub(in crate::local) fn at(dir: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
            Ok(Self { dir: rustix::io::fcntl_dupfd_cloexec(dir, 0)?, name: name.to_vec() })
        }

        pub(in crate::local) fn metadata(&self) -> Result<Metadata, FsError> {
            Ok(metadata(&statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?))
        }

        pub(in crate::local) fn space(&self) -> Result<Space, FsError> {
            space(&self.dir)
        }

        pub(in crate::local) fn give(&self, owner: Owner) -> Result<(), Errno> {
            chownat(&self.dir, &self.name, owner.raw_uid(), owner.raw_gid(), AtFlags::SYMLINK_NOFOLLOW)
        }

        /// Changes everything but the size.
        pub(in crate::local) fn apply(
            &self,
            change: &Change,
            _reopen: impl FnOnce() -> Result<OwnedFd, FsError>,
        ) -> Result<(), FsError> {
            if let Some(mode) = change.mode {
                if self.metadata()?.is_symlink() {
                    return Err(FsError::Unsupported);
                }
                chmodat(&self.dir, &self.name, mode, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if let Some((uid, gid)) = change.owner {
                chownat(&self.dir, &self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if let Some(times) = &change.times {
                utimensat(&self.dir, &self.name, times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Ok(())
        }
    }
}
