//! Attempts to leave the home, standing still and in a race, on both ways of resolving.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

/// A home beside things that nobody may reach, some of them with the home's name as a prefix.
struct Place {
    dir: TempDir,
    storage: LocalStorage,
}

const OUTSIDE: [&str; 3] = ["secret", "user2/secret", "dir/secret"];

impl Place {
    fn new(io: &LocalIo) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["user/d", "user2", "dir"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        for outside in OUTSIDE {
            std::fs::write(dir.path().join(outside), "secret").unwrap();
            std::fs::set_permissions(dir.path().join(outside), PermissionsExt::from_mode(0o644)).unwrap();
        }
        std::fs::write(dir.path().join("user/d/f"), "inside").unwrap();
        let storage = open(io, &dir.path().join("user"));
        Self { dir, storage }
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("user")
    }

    fn link(&self, target: impl AsRef<Path>, name: &str) {
        symlink(target, self.home().join(name)).unwrap();
    }

    /// Everything outside is as it was, and nothing came.
    fn check_outside(&self) {
        assert_eq!(names(&self.dir), ["dir", "secret", "user", "user2"]);
        for outside in OUTSIDE {
            let path = self.dir.path().join(outside);
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"secret", "{outside}");
            assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o644, 1), "{outside}");
            assert!(metadata.mtime() > 1_000_000_000, "{outside}");
        }
        for sub in ["user2", "dir"] {
            assert_eq!(std::fs::read_dir(self.dir.path().join(sub)).unwrap().count(), 1, "{sub}");
            let metadata = std::fs::metadata(self.dir.path().join(sub)).unwrap();
            assert!(metadata.mode() & 0o777 != 0o701 && metadata.mtime() > 1_000_000_000, "{sub}");
        }
    }
}

/// What an attacker leaves behind: attributes that [`Place::check_outside`] knows.
const MARK: SetAttrs = SetAttrs {
    size: None,
    mode: Some(0o701),
    uid: None,
    gid: None,
    accessed: None,
    modified: Some(crate::Timestamp { seconds: 1, nanos: 0 }),
};

#[tokio::test]
async fn links_out_are_refused() {
    for io in ways() {
        let place = Place::new(&io);
        let outside = place.dir.path();
        place.link(outside.join("secret"), "absolute");
        place.link("../secret", "relative");
        place.link("d/../../secret", "winding");
        place.link(outside.join("user2/secret"), "sibling");
        place.link(outside.join("user/../secret"), "through_home");
        place.link("absolute", "twice");
        place.link(outside.join("new"), "dangling");
        place.link("../new", "dangling_relative");
        place.link("/etc/passwd", "far");
        let storage = &place.storage;
        let cut = SetAttrs { size: Some(0), ..SetAttrs::default() };
        for name in [
            "absolute",
            "relative",
            "winding",
            "sibling",
            "through_home",
            "twice",
            "dangling",
            "dangling_relative",
            "far",
        ] {
            let link = path(name);
            let refused = [
                storage.open(&link, &READ).await.map(drop),
                storage.open(&link, &CREATE).await.map(drop),
                storage.open(&link, &OpenOptions { truncate: true, ..CREATE }).await.map(drop),
                storage.metadata(&link, Links::Follow).await.map(drop),
                storage.set_attrs(&link, &MARK, Links::Follow).await,
                storage.set_attrs(&link, &cut, Links::Follow).await,
                storage.resolve(&link, Links::Follow).await.map(drop),
                storage.read_dir(&link).await.map(drop),
                storage.space(&link).await.map(drop),
            ];
            for (i, result) in refused.into_iter().enumerate() {
                assert!(matches!(result, Err(FsError::Outside)), "{name}, attempt {i}: {result:?}");
            }
            // The link itself is the user's: seen, kept, moved, removed, never shown where it leads.
            assert!(storage.metadata(&link, Links::Keep).await.unwrap().is_symlink());
            assert!(matches!(
                storage.open(&link, &OpenOptions { create_new: true, ..CREATE }).await,
                Err(FsError::Exists)
            ));
            if name != "twice" {
                assert!(matches!(storage.read_link(&link).await, Err(FsError::Outside)), "{name}");
            }
            storage.rename(&link, &path("moved"), Target::Absent).await.unwrap();
            storage.remove_file(&path("moved")).await.unwrap();
            if name == "absolute" {
                place.link(outside.join("secret"), "absolute");
            }
        }
        place.check_outside();
    }
}

#[tokio::test]
async fn directories_outside_are_not_entered() {
    for io in ways() {
        let place = Place::new(&io);
        place.link(place.dir.path().join("dir"), "absolute");
        place.link("../dir", "relative");
        place.link(place.dir.path().join("user2"), "sibling");
        place.link(place.dir.path(), "above");
        let storage = &place.storage;
        for name in ["absolute", "relative", "sibling", "above"] {
            let (below, new, free) =
                (path(&format!("{name}/secret")), path(&format!("{name}/new")), path("free"));
            let refused = [
                storage.open(&below, &READ).await.map(drop),
                storage.open(&new, &CREATE).await.map(drop),
                storage
                    .open(&new, &OpenOptions { create: false, create_new: true, ..CREATE })
                    .await
                    .map(drop),
                storage.metadata(&below, Links::Keep).await.map(drop),
                storage.set_attrs(&below, &MARK, Links::Keep).await,
                storage.read_dir(&path(name)).await.map(drop),
                storage.create_dir(&new, 0o777).await,
                storage.remove_file(&below).await,
                storage.remove_dir(&below).await,
                storage.symlink(&path("/d"), &new).await,
                storage.read_link(&below).await.map(drop),
                storage.hard_link(&below, &free).await,
                storage.hard_link(&path("d/f"), &new).await,
                storage.rename(&below, &free, Target::Absent).await,
                storage.rename(&path("d/f"), &new, Target::Replace).await,
                storage.resolve(&below, Links::Keep).await.map(drop),
                storage.space(&below).await.map(drop),
            ];
            for (i, result) in refused.into_iter().enumerate() {
                assert!(matches!(result, Err(FsError::Outside)), "{name}, attempt {i}: {result:?}");
            }
        }
        place.check_outside();
        assert_eq!(std::fs::read(place.home().join("d/f")).unwrap(), b"inside");
    }
}

#[tokio::test]
async fn links_inside_are_followed() {
    for io in ways() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/user/d")).unwrap();
        symlink("real", dir.path().join("alias")).unwrap();
        let home = dir.path().join("alias/user");
        std::fs::write(home.join("d/f"), "inside").unwrap();
        let real = std::fs::canonicalize(&home).unwrap();
        let storage = open(&io, &home);
        symlink("d/../d/./f", home.join("relative")).unwrap();
        symlink(home.join("d/f"), home.join("configured")).unwrap();
        symlink(real.join("d/f"), home.join("canonical")).unwrap();
        symlink(real.join("./d//../relative"), home.join("winding")).unwrap();
        symlink(&real, home.join("d/top")).unwrap();
        symlink(home.join("d/new"), home.join("dangling")).unwrap();
        for name in ["relative", "configured", "canonical", "winding", "d/top/d/top/canonical"] {
            assert_eq!(read(&storage, name).await.unwrap(), b"inside", "{name}");
            assert_eq!(storage.resolve(&path(name), Links::Follow).await.unwrap(), path("d/f"), "{name}");
            assert!(storage.metadata(&path(name), Links::Follow).await.unwrap().is_file());
            storage.set_attrs(&path(name), &MARK, Links::Follow).await.unwrap();
        }
        assert_eq!(std::fs::metadata(home.join("d/f")).unwrap().mode() & 0o777, 0o701);
        for (name, shown) in [
            ("relative", "d/../d/./f"),
            ("configured", "/d/f"),
            ("canonical", "/d/f"),
            ("winding", "/relative"),
            ("d/top", "/"),
        ] {
            assert_eq!(storage.read_link(&path(name)).await.unwrap(), shown.as_bytes(), "{name}");
        }
        assert_eq!(storage.resolve(&path("dangling"), Links::Follow).await.unwrap(), path("d/new"));
        storage.open(&path("dangling"), &CREATE).await.unwrap();
        assert!(home.join("d/new").is_file());
        storage.create_dir(&path("d/top/made"), 0o777).await.unwrap();
        storage.symlink(&path("/d/f"), &path("d/top/made/link")).await.unwrap();
        assert_eq!(std::fs::read_link(home.join("made/link")).unwrap(), Path::new("../d/f"));
        storage.rename(&path("d/top/made"), &path("d/top/kept"), Target::Absent).await.unwrap();
        storage.remove_file(&path("d/top/kept/link")).await.unwrap();
        storage.remove_dir(&path("d/top/kept")).await.unwrap();
    }
}

/// An absolute link that leaves its text's prefix by `..` after the home is not shown as if it stayed.
#[tokio::test]
async fn texts_that_leave_are_not_shown() {
    for io in ways() {
        let place = Place::new(&io);
        place.link(place.home().join("d/../../secret"), "absolute");
        place.link("d/../../user/d/f", "out_and_in");
        for name in ["absolute", "out_and_in"] {
            assert!(matches!(place.storage.read_link(&path(name)).await, Err(FsError::Outside)), "{name}");
            assert!(matches!(read(&place.storage, name).await, Err(FsError::Outside)), "{name}");
        }
    }
}

/// A moved home goes on: the jail is the directory, not its path.
#[tokio::test]
async fn a_moved_home_stays_a_home() {
    for io in ways() {
        let place = Place::new(&io);
        std::fs::rename(place.home(), place.dir.path().join("elsewhere")).unwrap();
        std::fs::create_dir_all(place.home().join("d")).unwrap();
        std::fs::write(place.home().join("d/f"), "another").unwrap();
        assert_eq!(read(&place.storage, "d/f").await.unwrap(), b"inside");
    }
}

/// Exchanges a directory and a link (two links, a file and a link) as fast as it can.
fn hammer(
    pairs: Vec<(std::path::PathBuf, std::path::PathBuf)>,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut swaps = 0;
        while !stop.load(Ordering::Relaxed) {
            for (a, b) in &pairs {
                // While an entry is away under another name there is nothing to exchange.
                swaps += usize::from(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok());
            }
        }
        swaps
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hammering_thread_gets_nobody_out() {
    for io in ways() {
        let place = Place::new(&io);
        let home = place.home();
        std::fs::create_dir_all(home.join("swap")).unwrap();
        std::fs::write(home.join("swap/secret"), "inside").unwrap();
        std::fs::write(home.join("file"), "inside").unwrap();
        std::fs::create_dir_all(home.join("a/b")).unwrap();
        std::fs::write(home.join("a/b/secret"), "inside").unwrap();
        place.link(place.dir.path().join("dir"), "out");
        place.link("../secret", "out_file");
        place.link("../..", "a/up");
        let stop = Arc::new(AtomicBool::new(false));
        let hammers = [
            hammer(
                vec![(home.join("swap"), home.join("out")), (home.join("file"), home.join("out_file"))],
                stop.clone(),
            ),
            hammer(vec![(home.join("a/b"), home.join("a/up"))], stop.clone()),
        ];
        let (inside, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let count = |result: Result<(), FsError>| match result {
            Ok(()) => inside.fetch_add(1, Ordering::Relaxed),
            Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
        let until = Instant::now() + Duration::from_secs(2);
        let storage = &place.storage;
        let plain = storage.without_links();
        let mut round = 0;
        while Instant::now() < until {
            round += 1;
            for name in ["swap/secret", "file", "a/b/secret", "out/secret"] {
                if let Ok(data) = read(storage, name).await {
                    assert_eq!(data, b"inside", "{name}");
                }
            }
            let new = path(&format!("swap/new{round}"));
            count(storage.open(&new, &CREATE).await.map(drop));
            count(
                storage
                    .open(&path("file"), &OpenOptions { read: false, create: false, ..CREATE })
                    .await
                    .map(drop),
            );
            count(storage.create_dir(&path(&format!("out/dir{round}")), 0o777).await);
            count(storage.symlink(&path("/file"), &path(&format!("swap/link{round}"))).await);
            count(storage.rename(&new, &path("swap/moved"), Target::Replace).await);
            count(storage.hard_link(&path("swap/secret"), &path("hard")).await);
            count(storage.remove_file(&path("hard")).await);
            count(storage.remove_file(&path("out/moved")).await);
            for name in ["swap", "out", "file", "out_file", "swap/secret", "a/b/secret"] {
                for links in [Links::Follow, Links::Keep] {
                    count(storage.set_attrs(&path(name), &MARK, links).await);
                    count(plain.set_attrs(&path(name), &MARK, links).await);
                    if let Ok(resolved) = storage.resolve(&path(name), links).await {
                        let known = ["/swap", "/out", "/file", "/out_file", "/a/b"];
                        assert!(known.iter().any(|known| resolved.is_within(&path(known))), "{resolved}");
                    }
                }
                if let Ok(text) = storage.read_link(&path(name)).await {
                    panic!("the text of a link that leads out: {text:?}");
                }
            }
            if let Ok(mut entries) = storage.read_dir(&path("swap")).await {
                entries.next(1000).await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let swaps = hammers.map(|hammer| hammer.join().unwrap());
        place.check_outside();
        assert!(
            swaps.iter().all(|&swaps| swaps > 100),
            "the hammer was too slow to show anything: {swaps:?}"
        );
        let (inside, refused) = (inside.into_inner(), refused.into_inner());
        assert!(inside > 100 && refused > 10, "one side of the race was never seen: {inside} {refused}");
    }
}

/// Somebody moves an ancestor up and down while paths with `..` are on their way through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moving_ancestor_takes_nobody_out() {
    for io in ways() {
        let place = Place::new(&io);
        let home = place.home();
        std::fs::create_dir_all(home.join("x/y/z")).unwrap();
        std::fs::write(home.join("secret"), "inside").unwrap();
        std::fs::write(home.join("x/secret"), "inside").unwrap();
        place.link("../../../secret", "x/y/z/up");
        place.link("../../secret", "x/y/near");
        let stop = Arc::new(AtomicBool::new(false));
        let mover = std::thread::spawn({
            let (home, stop) = (home.clone(), stop.clone());
            move || {
                let mut moves = 0;
                while !stop.load(Ordering::Relaxed) {
                    std::fs::rename(home.join("x/y/z"), home.join("z")).unwrap();
                    std::fs::rename(home.join("z"), home.join("x/y/z")).unwrap();
                    std::fs::rename(home.join("x/y"), home.join("y")).unwrap();
                    std::fs::rename(home.join("y"), home.join("x/y")).unwrap();
                    moves += 1;
                }
                moves
            }
        });
        let (mut found, mut missed) = (0, 0);
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            for name in ["x/y/z/up", "z/up", "y/z/up", "y/near", "x/y/near"] {
                match read(&place.storage, name).await {
                    Ok(data) => {
                        assert_eq!(data, b"inside", "{name}");
                        found += 1;
                    }
                    Err(_) => missed += 1,
                }
                if let Ok(resolved) = place.storage.resolve(&path(name), Links::Follow).await {
                    assert!(
                        [path("/secret"), path("/x/secret"), path(name)].contains(&resolved),
                        "{resolved}"
                    );
                }
                let _ = place.storage.set_attrs(&path(name), &MARK, Links::Follow).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(mover.join().unwrap() > 100);
        assert!(found > 10 && missed > 10, "one side of the race was never seen: {found} {missed}");
        place.check_outside();
    }
}
