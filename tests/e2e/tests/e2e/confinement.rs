//! Confinement: whatever the path or the link, nothing outside the home is read or changed.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_e2e::{Attrs, RawSftp, TestServer, User, disk, flags, status};

const SECRET: &[u8] = b"secret of somebody else";

/// A home, a sibling directory whose name begins with the home's name, and a directory elsewhere.
struct Scene {
    server: TestServer,
    user: User,
    sibling: PathBuf,
    outside: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let server = TestServer::start();
        let user = server.user("alice").create();
        let sibling = server.path("homes/alice2");
        let outside = server.path("outside");
        for dir in [&sibling, &outside] {
            disk::write(&dir.join("secret"), SECRET);
            disk::write(&dir.join("sub/secret"), SECRET);
        }
        Self { server, user, sibling, outside }
    }

    fn fingerprint(&self) -> [std::collections::BTreeMap<Vec<u8>, String>; 2] {
        [disk::snapshot(&self.sibling), disk::snapshot(&self.outside)]
    }
}

/// Everything a client can ask of one path. Each answer must be a refusal, and must not carry the secret.
fn assault(sftp: &mut RawSftp, path: &str) -> Vec<String> {
    let mut granted = Vec::new();
    let mut check = |what: &str, granted_now: bool| {
        if granted_now {
            granted.push(format!("{what} {path}"));
        }
    };
    check("get", sftp.get(path).is_ok());
    check("put", sftp.put(path, b"changed").is_ok());
    check("append", sftp.open(path, flags::WRITE | flags::APPEND).is_ok());
    check("create", sftp.open(path, flags::WRITE | flags::CREAT | flags::EXCL).is_ok());
    check("list", sftp.list(path).is_ok());
    check("stat", sftp.stat(path).is_ok());
    check("chmod", sftp.setstat(path, &Attrs::with_mode(0o777)).is_ok());
    let times = Attrs { times: Some((1, 1)), ..Attrs::default() };
    check("touch", sftp.setstat(path, &times).is_ok());
    check("mkdir", sftp.mkdir(path).is_ok());
    // A hard link to the link itself stays inside; one to what it points at would be readable.
    let _ = sftp.extended("hardlink@openssh.com", &[path.as_bytes(), b"/hard"]);
    check("hardlink from", sftp.get("/hard").is_ok());
    let _ = sftp.remove("/hard");
    check("statvfs", sftp.extended_reply("statvfs@openssh.com", &[path.as_bytes()]).is_ok());
    granted
}

#[test]
fn dot_dot_stays_inside() {
    let scene = Scene::new();
    disk::write(&scene.user.path("inside"), b"inside");
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    // Climbing above the root stays at the root: these are the same file.
    for path in ["/../inside", "../../../inside", "/a/../../../inside", "//..//./inside"] {
        assert_eq!(sftp.get(path), Ok(b"inside".to_vec()), "{path}");
        assert_eq!(sftp.realpath(path), Ok(b"/inside".to_vec()), "{path}");
    }
    for path in ["/../alice2/secret", "../outside/secret", "/../../outside/secret", "/../../../etc/passwd"] {
        assert_eq!(sftp.get(path), Err(status::NO_SUCH_FILE), "{path}");
        assert!(sftp.rename("/inside", format!("{path}/x")).is_err(), "{path}");
    }
    let full = scene.outside.join("secret");
    assert_eq!(
        sftp.get(full.to_str().unwrap()),
        Err(status::NO_SUCH_FILE),
        "a real path is a virtual path here"
    );
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn links_that_leave_the_home_lead_nowhere() {
    let scene = Scene::new();
    let home = &scene.user.home;
    std::fs::create_dir(home.join("deep")).unwrap();
    let links: [(&str, PathBuf); 6] = [
        ("absolute", scene.outside.clone()),
        ("relative", PathBuf::from("../../outside")),
        ("sibling", PathBuf::from("../alice2")),
        ("sibling-absolute", scene.sibling.clone()),
        ("deep/up", PathBuf::from("../../../outside")),
        ("chain", PathBuf::from("absolute")),
    ];
    for (name, target) in &links {
        symlink(target, home.join(name)).unwrap();
    }
    symlink(scene.outside.join("secret"), home.join("file")).unwrap();
    symlink("../alice2/secret", home.join("file2")).unwrap();
    symlink("/", home.join("top")).unwrap();
    symlink("/proc/self/root", home.join("proc")).unwrap();
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    let mut granted = Vec::new();
    for (name, _) in &links {
        for below in ["", "/secret", "/sub", "/sub/secret", "/new", "/sub/../secret"] {
            // `x/sub/../secret` is `x/secret`, cleaned lexically, and a link's own name is not outside.
            granted.extend(assault(&mut sftp, &format!("/{name}{below}")));
        }
    }
    for file in ["/file", "/file2"] {
        granted.extend(assault(&mut sftp, file));
    }
    for path in ["/top/etc/passwd", "/proc/etc/passwd"] {
        granted.extend(sftp.get(path).is_ok().then(|| format!("get {path}")));
    }
    assert!(granted.is_empty(), "granted outside the home:\n{}", granted.join("\n"));
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn renames_links_and_removals_do_not_cross_the_boundary() {
    let scene = Scene::new();
    let home = &scene.user.home;
    disk::write(&home.join("mine"), b"mine");
    std::fs::create_dir(home.join("dir")).unwrap();
    symlink(&scene.outside, home.join("out")).unwrap();
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    for (from, to) in
        [("/mine", "/out/mine"), ("/dir", "/out/dir"), ("/out/secret", "/stolen"), ("/out/sub", "/sub")]
    {
        assert!(sftp.rename(from, to).is_err(), "rename {from} {to}");
        let posix = sftp.extended("posix-rename@openssh.com", &[from.as_bytes(), to.as_bytes()]);
        assert!(posix.is_err(), "posix-rename {from} {to}");
        assert!(
            sftp.extended("hardlink@openssh.com", &[from.as_bytes(), to.as_bytes()]).is_err(),
            "link {from} {to}"
        );
    }
    assert!(sftp.symlink("mine", "/out/link").is_err());
    assert!(sftp.remove("/out/secret").is_err());
    assert!(sftp.rmdir("/out/sub").is_err());
    assert_eq!(scene.fingerprint(), before);
    assert!(home.join("mine").exists() && home.join("dir").exists() && !home.join("stolen").exists());
    // Whether the link itself may go is the server's choice; what it points at stays.
    let _ = sftp.remove("/out");
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn clients_cannot_make_links_that_leave() {
    let scene = Scene::new();
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    let outside = scene.outside.display().to_string();
    for (number, target) in
        [outside.as_str(), "../../outside", "../alice2", "/../../outside"].iter().enumerate()
    {
        let link = format!("/link{number}");
        // Refused or taken as a path from `/`: either way nothing outside can be reached through it.
        let _ = sftp.symlink(target, &link);
        let granted = assault(&mut sftp, &format!("{link}/secret"));
        assert!(granted.is_empty(), "{granted:?} through a link to {target}");
    }
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn a_dangling_link_that_points_outside_creates_nothing() {
    let scene = Scene::new();
    symlink(scene.outside.join("not-yet"), scene.user.path("dangling")).unwrap();
    symlink("../../outside/not-yet-either", scene.user.path("dangling2")).unwrap();
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    let granted = [assault(&mut sftp, "/dangling"), assault(&mut sftp, "/dangling2")].concat();
    assert!(granted.is_empty(), "{granted:?}");
    assert_eq!(scene.fingerprint(), before);
}

#[test]
fn links_that_stay_inside_keep_working() {
    let scene = Scene::new();
    let home = &scene.user.home;
    disk::write(&home.join("data/file"), b"content");
    symlink("data", home.join("relative")).unwrap();
    symlink(home.join("data"), home.join("absolute")).unwrap();
    std::fs::create_dir(home.join("deep")).unwrap();
    symlink("../data/file", home.join("deep/up")).unwrap();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    for path in ["/relative/file", "/absolute/file", "/deep/up"] {
        assert_eq!(sftp.get(path), Ok(b"content".to_vec()), "{path}");
    }
    assert_eq!(sftp.put("/absolute/new", b"new"), Ok(()));
    assert_eq!(disk::text(&home.join("data/new")), "new");
}

#[test]
fn a_link_swapped_during_the_request_is_no_way_out() {
    let scene = Scene::new();
    let home = scene.user.home.clone();
    disk::write(&home.join("real/secret"), b"mine");
    let stop = Arc::new(AtomicBool::new(false));
    let hammer = {
        let (stop, outside) = (Arc::clone(&stop), scene.outside.clone());
        std::thread::spawn(move || swap(&home, &outside, &stop))
    };
    let before = scene.fingerprint();
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    let end = Instant::now() + Duration::from_secs(3);
    let (mut rounds, mut inside) = (0, 0);
    while Instant::now() < end {
        rounds += 1;
        if let Ok(content) = sftp.get("/swap/secret") {
            assert_eq!(content, b"mine", "read outside the home after {rounds} rounds");
            inside += 1;
        }
        let _ = sftp.put("/swap/written", b"written");
        let _ = sftp.setstat("/swap/secret", &Attrs::with_mode(0o600));
        let _ = sftp.mkdir("/swap/made");
        let _ = sftp.rmdir("/swap/made");
        let _ = sftp.rename("/swap/written", "/swap/renamed");
        let _ = sftp.remove("/swap/renamed");
        if let Ok(entries) = sftp.list("/swap") {
            assert!(entries.iter().all(|entry| entry.name != b"sub"), "listed outside the home");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = hammer.join().unwrap();
    assert_eq!(scene.fingerprint(), before);
    assert!(
        swaps > 1_000 && rounds > 50 && inside > 0,
        "no race: {swaps} swaps, {rounds} rounds, {inside} inside"
    );
}

/// Lets `swap` be a directory of the home and a link to the outside, by turns, until told to stop.
fn swap(home: &Path, outside: &Path, stop: &AtomicBool) -> u64 {
    let (good, bad, swap) = (home.join("good"), home.join("bad"), home.join("swap"));
    symlink("real", &good).unwrap();
    symlink(outside, &bad).unwrap();
    let mut swaps = 0;
    while !stop.load(Ordering::Relaxed) {
        for which in [&good, &bad] {
            let next = home.join("next");
            let _ = std::fs::hard_link(which, &next);
            let _ = std::fs::rename(&next, &swap);
            swaps += 1;
        }
    }
    swaps
}

#[test]
fn no_answer_shows_a_real_path() {
    let scene = Scene::new();
    symlink(scene.user.path("target"), scene.user.path("link")).unwrap();
    disk::write(&scene.user.path("target"), b"x");
    let mut sftp = RawSftp::connect(&scene.server, "alice");
    let real = scene.server.path("").display().to_string();
    let mut answers = vec![sftp.realpath("."), sftp.realpath("/link"), sftp.readlink("/link")];
    answers.retain(Result::is_ok);
    for answer in answers.into_iter().flatten() {
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains(&real), "{answer}");
    }
    for path in ["/missing/file", "/target/below", "/link/below"] {
        let packet = sftp.packet(tidegate_e2e::kind::OPENDIR).string(path);
        let (_, text) = sftp.request(&packet).status();
        assert!(!text.contains(&real) && !text.contains("alice"), "{text}");
    }
}
