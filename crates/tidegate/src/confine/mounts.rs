//! A view of the disk of its own for the program: its directories under their virtual paths, what it needs to
//! run, and nothing else. What Landlock does not guard, such as the modes and times of other files, is out of
//! reach then, because there is no path to it; and messages show no path of the server.
//!
//! A server that is not root uses a user namespace of its own for this, where the system allows that.

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};

use super::files::Needs;
use super::{Failure, Place};

/// Where the new tree is put together; any directory that always exists and that the tree itself does not
/// need to be read from by then.
const BASES: &[&str] = &["/tmp", "/run", "/usr"];

/// Where directories go whose own path is that of something of the system.
const APART: &str = "/home";

/// What something of the old tree is in the new one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Place { write: bool },
    System,
    Device,
}

/// Leaves the view of the disk that the server has. Everything that is opened afterwards belongs to the new
/// one.
pub(super) fn leave() -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("leave the mounts", error))?;
    } else {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER)
            .map_err(|error| failed("leave the mounts and users", error))?;
        for (file, text) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw())),
            ("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw())),
        ] {
            std::fs::write(file, text).map_err(|error| failed(file, error))?;
        }
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| failed("keep mounts to itself", error))
}

/// Makes a tree of `places` and `needs` the only one.
pub(super) fn enter(places: &mut [Place], needs: &Needs, write: bool) -> Result<(), Failure> {
    let mut parts: Vec<(OwnedFd, PathBuf, Kind)> = Vec::new();
    for path in needs.read.iter().chain(&needs.execute) {
        parts.push((tree(path)?, path.clone(), Kind::System));
    }
    for (path, _) in &needs.devices {
        parts.push((tree(path)?, path.clone(), Kind::Device));
    }
    let taken: Vec<PathBuf> = parts.iter().filter_map(|(_, path, _)| first(path)).collect();
    let apart = places.iter().any(|place| first(&place.shown).is_none_or(|name| taken.contains(&name)));
    for place in places.iter_mut() {
        let inside = place.shown.strip_prefix("/").unwrap_or(&place.shown);
        place.path = Path::new(if apart { APART } else { "/" }).join(inside);
        let flags = OpenTreeFlags::AT_EMPTY_PATH | CLONE;
        let fd = open_tree(&place.fd, "", flags).map_err(|error| failed("clone a directory", error))?;
        parts.push((fd, place.path.clone(), Kind::Place { write }));
    }
    // What holds another comes first, and the other is there already then.
    parts.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));

    let base = BASES.iter().map(Path::new).find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", base, "tmpfs", plain, Some(c"mode=0755,size=1m"))
        .map_err(|error| failed("mount an empty tree", error))?;
    for (fd, path, kind) in &parts {
        attach(fd, &base.join(path.strip_prefix("/").unwrap_or(path)), *kind)?;
    }
    std::env::set_current_dir(base).map_err(|error| failed("go to the new tree", error))?;
    rustix::process::pivot_root(".", ".").map_err(|error| failed("enter the new tree", error))?;
    unmount(".", UnmountFlags::DETACH).map_err(|error| failed("let go of the old tree", error))?;
    std::env::set_current_dir("/").map_err(|error| failed("go to the new tree", error))?;
    remount(Path::new("/"), plain | MountFlags::RDONLY)
}

const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC).union(OpenTreeFlags::AT_RECURSIVE);

fn tree(path: &Path) -> Result<OwnedFd, Failure> {
    open_tree(CWD, path, CLONE).map_err(|error| failed(path.display(), error))
}

/// Puts a part of the old tree into the new one, unless it is there as a part of another.
fn attach(fd: &OwnedFd, target: &Path, kind: Kind) -> Result<(), Failure> {
    if target.exists() {
        return Ok(());
    }
    let at = |error| failed(target.display(), error);
    let made = |error| Failure::new(format_args!("cannot make {}", target.display()), error);
    let is_dir =
        rustix::fs::fstat(fd).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    if is_dir {
        std::fs::create_dir_all(target).map_err(made)?;
    } else {
        std::fs::create_dir_all(target.parent().unwrap_or(target)).map_err(made)?;
        std::fs::File::create(target).map_err(made)?;
    }
    move_mount(fd, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(at)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    match kind {
        Kind::Place { write: true } => remount(target, safe | MountFlags::NOEXEC),
        Kind::Place { write: false } => remount(target, safe | MountFlags::NOEXEC | MountFlags::RDONLY),
        Kind::System => remount(target, safe | MountFlags::RDONLY),
        Kind::Device => Ok(()),
    }
}

/// Without root, a mount may have to keep other flags that it has; Landlock guards it all the same.
fn remount(target: &Path, flags: MountFlags) -> Result<(), Failure> {
    match mount_remount(target, MountFlags::BIND | flags, "") {
        Err(error) if rustix::process::getuid().is_root() => Err(failed(target.display(), error)),
        _ => Ok(()),
    }
}

fn first(path: &Path) -> Option<PathBuf> {
    path.components().find(|part| matches!(part, Component::Normal(_))).map(|part| part.as_os_str().into())
}

fn failed(what: impl Display, error: impl Display) -> Failure {
    Failure::new(format_args!("namespaces: {what}"), error)
}
