//! The contract on both ways of resolving, and what only a local disk has. Who tries to get out is in
//! `escape.rs`.

mod escape;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::{BufferPool, SetAttrs};

/// The kernel's resolution and our own.
fn ways() -> [LocalIo; 2] {
    [LocalIo::default(), LocalIo::default().without_openat2()]
}

fn path(text: &str) -> VPath {
    VPath::parse(text.as_bytes()).unwrap()
}

fn open(io: &LocalIo, home: &Path) -> LocalStorage {
    LocalStorage::open(io, home, Owner::default()).unwrap()
}

const READ: OpenOptions =
    OpenOptions { read: true, write: false, create: false, create_new: false, truncate: false, mode: None };
const CREATE: OpenOptions = OpenOptions { write: true, create: true, ..READ };

async fn read(storage: &LocalStorage, name: &str) -> Result<Vec<u8>, FsError> {
    let file = storage.open(&path(name), &READ).await?;
    Ok(file.read_at(0, BufferPool::new().take(100)).await?.filled().to_vec())
}

#[tokio::test]
async fn keeps_the_contract() {
    for io in ways() {
        let homes = Mutex::new(Vec::new());
        crate::contract::suite(async || {
            let home = tempfile::tempdir().unwrap();
            let storage = open(&io, home.path());
            homes.lock().unwrap().push(home);
            Arc::new(storage) as Arc<dyn Storage>
        })
        .await;
    }
}

#[test]
fn the_kernel_resolves_here() {
    let home = tempfile::tempdir().unwrap();
    let storage = open(&LocalIo::default(), home.path());
    let walking = open(&LocalIo::default().without_openat2(), home.path());
    std::fs::write(home.path().join("f"), "").unwrap();
    symlink("f", home.path().join("l")).unwrap();
    let cached = |storage: &LocalStorage, name: &str| storage.tree.resolve_cached(&path(name), Links::Follow);
    assert_eq!(cached(&walking, "/f"), None);
    if !storage.tree.home.local_device {
        eprintln!("SKIPPED: the temporary directory is on a device that may wait");
        return;
    }
    // Linux since 5.12, unless a sandbox forbids the call: then the fast way is untested on this machine.
    assert_eq!(cached(&storage, "/f"), Some(path("/f")));
    std::fs::metadata(home.path().join("new")).unwrap_err();
    // Not every file system remembers what is missing.
    assert!([None, Some(path("/new"))].contains(&cached(&storage, "/new")));
    assert_eq!(cached(&storage, "/l"), None);
}

#[test]
fn home_is_created_once_with_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a/b");
    LocalStorage::create_home(&home, Owner::default()).unwrap();
    std::fs::write(home.join("f"), "").unwrap();
    LocalStorage::create_home(&home, Owner::default()).unwrap();
    assert!(home.join("f").exists());
    let on_file = LocalStorage::create_home(&home.join("f"), Owner::default());
    assert!(matches!(on_file, Err(FsError::NotDir)), "{on_file:?}");
    assert!(matches!(open_error(&home.join("none")), FsError::NotFound));
    assert!(matches!(open_error(&home.join("f")), FsError::NotDir));
}

fn open_error(home: &Path) -> FsError {
    LocalStorage::open(&LocalIo::default(), home, Owner::default()).unwrap_err()
}

#[tokio::test]
async fn new_things_belong_to_the_owner() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    let owner = Owner { uid: Some(12345), gid: Some(23456) };
    let both = |path: &Path| {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for io in ways() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("parent/home");
        LocalStorage::create_home(&home, owner).unwrap();
        assert_eq!(both(&home), (12345, 23456));
        assert_eq!(both(home.parent().unwrap()), (0, 0));
        let storage = LocalStorage::open(&io, &home, owner).unwrap();
        std::fs::write(home.join("old"), "").unwrap();
        std::fs::write(home.join("read"), "").unwrap();
        std::fs::write(home.join("moved"), "").unwrap();
        storage.open(&path("/new"), &CREATE).await.unwrap();
        storage.open(&path("/old"), &OpenOptions { truncate: true, ..CREATE }).await.unwrap();
        storage.open(&path("/read"), &READ).await.unwrap();
        storage.create_dir(&path("/d"), 0o777).await.unwrap();
        storage.symlink(&path("/read"), &path("/l")).await.unwrap();
        storage.rename(&path("/moved"), &path("/to"), Target::Absent).await.unwrap();
        for name in ["new", "old", "d", "l", "to"] {
            assert_eq!(both(&home.join(name)), (12345, 23456), "{name}");
        }
        assert_eq!(both(&home.join("read")), (0, 0), "reading changes nothing");

        let half = LocalStorage::open(&io, &home, Owner { uid: None, gid: Some(77) }).unwrap();
        half.open(&path("/half"), &CREATE).await.unwrap();
        assert_eq!(both(&home.join("half")), (0, 77));
    }
}

#[tokio::test]
async fn owners_can_be_changed_on_files_and_links() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    for io in ways() {
        let home = tempfile::tempdir().unwrap();
        let storage = open(&io, home.path());
        std::fs::write(home.path().join("f"), "").unwrap();
        symlink("f", home.path().join("l")).unwrap();
        let attrs = SetAttrs { uid: Some(7), gid: Some(8), ..SetAttrs::default() };
        storage.set_attrs(&path("/l"), &attrs, Links::Keep).await.unwrap();
        assert_eq!(std::fs::symlink_metadata(home.path().join("l")).unwrap().uid(), 7);
        assert_eq!(std::fs::metadata(home.path().join("f")).unwrap().uid(), 0);
        storage.set_attrs(&path("/l"), &attrs, Links::Follow).await.unwrap();
        assert_eq!(std::fs::metadata(home.path().join("f")).unwrap().gid(), 8);
    }
}

#[tokio::test]
async fn attributes_need_no_right_to_the_contents() {
    for io in ways() {
        let home = tempfile::tempdir().unwrap();
        let storage = open(&io, home.path());
        std::fs::write(home.path().join("f"), "").unwrap();
        std::fs::set_permissions(home.path().join("f"), PermissionsExt::from_mode(0o000)).unwrap();
        assert_eq!(storage.metadata(&path("/f"), Links::Follow).await.unwrap().mode, 0);
        let attrs = SetAttrs { mode: Some(0o640), ..SetAttrs::default() };
        storage.set_attrs(&path("/f"), &attrs, Links::Follow).await.unwrap();
        assert_eq!(std::fs::metadata(home.path().join("f")).unwrap().mode() & 0o7777, 0o640);
    }
}

/// The way of a Linux without `/proc`.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn modes_change_without_proc_only_on_what_was_found() {
    let home = tempfile::tempdir().unwrap();
    let storage = open(&LocalIo::default(), home.path());
    std::fs::write(home.path().join("f"), "").unwrap();
    std::fs::write(home.path().join("g"), "").unwrap();
    let found = Node::find(&storage.tree, &path("/f"), Links::Follow).unwrap().metadata().unwrap();
    let mode = Mode::from_raw_mode(0o604);
    let reopen = |name: &str| storage.tree.open(&path(name), OFlags::RDONLY, Mode::empty(), Links::Follow);
    unix::set_mode_of_opened(&found, mode, || reopen("/f")).unwrap();
    unix::set_mode_of_opened(&found, mode, || reopen("/g")).unwrap_err();
    assert_eq!(std::fs::metadata(home.path().join("f")).unwrap().mode() & 0o777, 0o604);
    assert_ne!(std::fs::metadata(home.path().join("g")).unwrap().mode() & 0o777, 0o604);
}

/// A pipe nobody reads must not hold the server, a device must not be touched.
#[tokio::test]
async fn only_regular_files_are_opened() {
    for io in ways() {
        let home = tempfile::tempdir().unwrap();
        let storage = open(&io, home.path());
        let made = std::process::Command::new("mkfifo").arg(home.path().join("fifo")).status().unwrap();
        assert!(made.success());
        let _listener = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
        for name in ["/fifo", "/socket"] {
            for how in [READ, CREATE, OpenOptions { write: true, ..READ }] {
                let opened =
                    tokio::time::timeout(Duration::from_secs(5), storage.open(&path(name), &how)).await;
                match opened.expect("opening must not wait") {
                    Err(FsError::InvalidInput(_)) => {}
                    Err(error) => panic!("{name} {how:?}: {error:?}"),
                    Ok(_) => panic!("{name} {how:?}: opened"),
                }
            }
            let cut = SetAttrs { size: Some(0), ..SetAttrs::default() };
            let name = path(name);
            let cutting = storage.set_attrs(&name, &cut, Links::Follow);
            let result = tokio::time::timeout(Duration::from_secs(5), cutting).await.expect("must not wait");
            assert!(matches!(result, Err(FsError::InvalidInput(_))), "{result:?}");
        }
        assert_eq!(
            storage.metadata(&path("/fifo"), Links::Follow).await.unwrap().st_mode() & 0o170_000,
            0o010_000
        );
        let mode = SetAttrs { mode: Some(0o600), ..SetAttrs::default() };
        storage.set_attrs(&path("/fifo"), &mode, Links::Follow).await.unwrap();
        storage.rename(&path("/fifo"), &path("/pipe"), Target::Absent).await.unwrap();
        assert!(std::fs::metadata(home.path().join("pipe")).unwrap().file_type().is_fifo());
        storage.remove_file(&path("/pipe")).await.unwrap();
        storage.remove_file(&path("/socket")).await.unwrap();
    }
}

/// What is cached is read on the caller's thread: with every blocking permit taken, it still is.
#[tokio::test]
async fn cached_reads_and_lookups_do_not_hop() {
    let io = LocalIo::new(1, 1);
    let home = tempfile::tempdir().unwrap();
    let storage = open(&io, home.path());
    if !storage.tree.home.local_device {
        eprintln!("SKIPPED: the temporary directory is on a device that may wait");
        return;
    }
    std::fs::create_dir(home.path().join("d")).unwrap();
    std::fs::write(home.path().join("d/f"), vec![7; 100_000]).unwrap();
    storage.metadata(&path("/d/f"), Links::Follow).await.unwrap();
    let (taken, taking) = (Arc::new(std::sync::Barrier::new(2)), io.clone());
    let (release, released) = std::sync::mpsc::channel::<()>();
    let both = released_by(&taking, taken.clone(), released);
    taken.wait();
    let file = tokio::time::timeout(Duration::from_secs(5), async {
        assert!(storage.metadata(&path("/d/f"), Links::Keep).await.unwrap().is_file());
        assert_eq!(storage.resolve(&path("/d/f"), Links::Follow).await.unwrap(), path("/d/f"));
        let file = storage.open(&path("/d/f"), &READ).await.unwrap();
        let whole = file.read_at(0, BufferPool::new().take(200_000)).await.unwrap();
        assert_eq!(whole.filled(), vec![7; 100_000], "a short read at the end does not hop either");
        assert!(file.read_at(100_000, BufferPool::new().take(10)).await.unwrap().is_empty());
        file.metadata().await.unwrap();
        file.close().await.unwrap();
    });
    file.await.expect("waited for a permit");
    drop(release);
    both.join().unwrap();
}

/// Holds both permits of `io` until `released` ends.
fn released_by(
    io: &LocalIo,
    taken: Arc<std::sync::Barrier>,
    released: std::sync::mpsc::Receiver<()>,
) -> std::thread::JoinHandle<()> {
    let io = io.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let data = io.clone();
        runtime.block_on(async move {
            let (first, second) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(Mutex::new(released)));
            let (inner, wait) = (first.clone(), second.clone());
            let held = tokio::spawn(async move {
                data.data(move || {
                    inner.wait();
                    let _ = wait.lock().unwrap().recv();
                    Ok(())
                })
                .await
            });
            io.metadata(move || {
                first.wait();
                taken.wait();
                let _ = second.lock().unwrap().recv();
                Ok(())
            })
            .await
            .unwrap();
            held.await.unwrap().unwrap();
        });
    })
}

/// A caller that gives up does not make room: the work it left goes on and keeps its permit.
#[tokio::test]
async fn abandoned_work_keeps_its_permit() {
    let io = LocalIo::new(1, 1);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let abandoned = io.metadata(move || {
        let _ = released.recv();
        Ok(())
    });
    assert!(tokio::time::timeout(Duration::from_millis(50), abandoned).await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(50), io.metadata(|| Ok(()))).await.is_err());
    drop(release);
    tokio::time::timeout(Duration::from_secs(5), io.metadata(|| Ok(()))).await.unwrap().unwrap();
}

#[tokio::test]
async fn panics_become_errors() {
    let panicked: Result<(), FsError> = LocalIo::default().data(|| panic!("on purpose")).await;
    assert!(matches!(panicked, Err(FsError::Io(_))));
}

/// The way of file systems that cannot rename without replacing.
#[test]
fn placeholder_rename_keeps_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let storage = open(&LocalIo::default(), home.path());
    let dir = storage.tree.dir(&VPath::root()).unwrap();
    let rename = |from: &str, to: &str| rename_over_placeholder(&dir, from.as_bytes(), &dir, to.as_bytes());
    std::fs::write(home.path().join("f"), "f").unwrap();
    std::fs::write(home.path().join("g"), "g").unwrap();
    std::fs::create_dir_all(home.path().join("d/e")).unwrap();
    assert_eq!(rename("f", "g"), Err(Errno::EXIST));
    assert_eq!(rename("d", "g"), Err(Errno::EXIST));
    assert_eq!(rename("none", "x"), Err(Errno::NOENT));
    assert_eq!(rename("d", "d/e/x"), Err(Errno::INVAL));
    rename("f", "h").unwrap();
    rename("d", "c").unwrap();
    assert_eq!(std::fs::read(home.path().join("h")).unwrap(), b"f");
    assert_eq!(std::fs::read(home.path().join("g")).unwrap(), b"g");
    assert_eq!(names(&home), ["c", "g", "h"]);
    assert!(home.path().join("c/e").is_dir());
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Deeper than a walk holds descriptors for, with a link that goes all the way up.
#[tokio::test]
async fn deep_trees_are_walked_with_few_descriptors() {
    for io in ways() {
        let home = tempfile::tempdir().unwrap();
        let storage = open(&io, home.path());
        let deep = "/d".repeat(60);
        std::fs::create_dir_all(home.path().join(&deep[1..])).unwrap();
        std::fs::write(home.path().join("top"), "top").unwrap();
        std::fs::write(home.path().join(&deep[1..119]).join("near"), "near").unwrap();
        // An absolute link into the home makes the kernel's way give up, so that both walk.
        symlink(home.path(), home.path().join(&deep[1..]).join("home")).unwrap();
        symlink("../".repeat(60) + "top", home.path().join(&deep[1..]).join("up")).unwrap();
        symlink("../".repeat(20) + &"d/".repeat(19) + "near", home.path().join(&deep[1..]).join("zigzag"))
            .unwrap();
        assert_eq!(read(&storage, &format!("{deep}/home/{deep}/up")).await.unwrap(), b"top");
        assert_eq!(read(&storage, &format!("{deep}/home/{deep}/zigzag")).await.unwrap(), b"near");
        let resolved =
            storage.resolve(&path(&format!("{deep}/home/{deep}/zigzag")), Links::Follow).await.unwrap();
        assert_eq!(resolved, path(&format!("{}/near", &deep[..118])));
    }
}

#[tokio::test]
async fn close_reports_nothing_on_a_sound_disk_and_ends_the_file() {
    let home = tempfile::tempdir().unwrap();
    let storage = open(&LocalIo::default(), home.path());
    let file = storage.open(&path("/f"), &CREATE).await.unwrap();
    file.write_at(0, vec![Bytes::from_static(b"data")]).await.unwrap();
    file.close().await.unwrap();
    assert!(matches!(file.metadata().await, Err(FsError::InvalidInput(_))));
    assert!(matches!(file.write_at(0, vec![Bytes::from_static(b"x")]).await, Err(FsError::InvalidInput(_))));
    assert_eq!(read(&storage, "/f").await.unwrap(), b"data");
}

#[tokio::test]
async fn local_path_is_below_the_home() {
    let home = tempfile::tempdir().unwrap();
    let storage = open(&LocalIo::default(), home.path());
    assert_eq!(storage.local_path(&VPath::root()).unwrap(), home.path());
    assert_eq!(storage.local_path(&path("/../a/b")).unwrap(), home.path().join("a/b"));
}
