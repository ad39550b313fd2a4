//! What confines git and rsync, alone: `tidegate confine` becomes a program that tries to get out. Grammar and
//! permissions have no part in this.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidegate_e2e::{Tool, disk, secs, server, wait_for};

/// What an honest program is granted in a directory that it may write to.
const HONEST: &[&str] = &[
    "devices: null",
    "inside: chmod",
    "inside: list",
    "inside: mkdir",
    "inside: read",
    "inside: remove",
    "inside: rename",
    "inside: write",
    "processes: fork",
    "processes: socketpair",
];

/// What is left of that in one that it may read.
const READING: &[&str] =
    &["devices: null", "inside: list", "inside: read", "processes: fork", "processes: socketpair"];

/// A home with a directory in it, another directory outside, and a copy of the server that everyone may execute.
struct Scene {
    root: tempfile::TempDir,
    /// A process outside, to be left alone.
    bystander: std::process::Child,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::Builder::new().prefix("tidegate-sandbox-").tempdir().unwrap();
        let bystander = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let scene = Self { root, bystander };
        disk::write(&scene.outside().join("secret"), b"secret of somebody else");
        disk::write(&scene.path("home/place/file"), b"file");
        disk::write(&scene.path("home/place/dir/evil"), b"#!/bin/sh\nexit 0\n");
        disk::write(&scene.path("home/other/file"), b"not asked for");
        std::fs::copy(server::binary(), scene.path("tidegate")).unwrap();
        Tool::new("chmod", "coreutils").args(["-R", "a+rwX"]).arg(scene.root.path()).ok();
        Tool::new("chmod", "coreutils").args(["a+rx"]).arg(scene.path("tidegate")).ok();
        Tool::new("chmod", "coreutils").args(["a+rx"]).arg(scene.path("home/place/dir/evil")).ok();
        scene
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn outside(&self) -> PathBuf {
        self.path("outside")
    }

    /// `tidegate confine` in the given mode, as root or as somebody else.
    fn confine(&self, mode: &str, as_user: Option<&str>) -> Tool {
        let tidegate = self.path("tidegate");
        let tool = match as_user {
            None => Tool::new(tidegate, "tidegate"),
            Some(id) => Tool::new("setpriv", "util-linux")
                .args(["--reuid", id, "--regid", id, "--clear-groups"])
                .arg(tidegate),
        };
        tool.dir(Path::new("/")).arg("confine").arg(format!("--{mode}")).arg("--home").arg(self.path("home"))
    }

    /// What the probe is granted.
    fn granted(&self, tool: Tool, mode: &str, outside: &Path) -> Vec<String> {
        let probe =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/py/sandbox_probe.py")).unwrap();
        let python = Path::new("/usr/bin/python3");
        assert!(python.is_file(), "this test needs the package `python3` (scripts/test installs it)");
        let before = disk::snapshot(&self.outside());
        let done = tool
            .arg("--program")
            .arg(python)
            .args(["--", "-I", "-c", &probe])
            .arg(outside)
            .args([&self.bystander.id().to_string(), mode])
            .run();
        done.expect_success();
        assert_eq!(disk::snapshot(&self.outside()), before, "{}", done.report());
        let mut granted: Vec<String> = done.out().lines().map(str::to_owned).collect();
        granted.sort();
        granted
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.bystander.kill();
        let _ = self.bystander.wait();
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED in part: only root can try this as root and as others");
    }
    root
}

/// Whom to be: the account of the test, and where that is root, somebody else as well, by both ways.
fn identities() -> Vec<(Option<&'static str>, &'static [&'static str])> {
    if is_root() {
        vec![(None, &[]), (None, &["--uid", "61234", "--gid", "61234"]), (Some("61234"), &[])]
    } else {
        vec![(None, &[])]
    }
}

#[test]
fn a_program_gets_its_directory_and_nothing_else() {
    for mode in ["namespaces", "landlock"] {
        for (as_user, options) in identities() {
            let scene = Scene::new();
            let shown = format!("{mode}, as {as_user:?}, {options:?}");
            let probe = scene.confine(mode, as_user).arg("--probe").run();
            if probe.code != Some(0) {
                assert_eq!(mode, "namespaces", "{}", probe.report());
                eprintln!("SKIPPED: {shown}: {}", probe.err());
                continue;
            }
            let tool = scene.confine(mode, as_user).args(options).args(["--dir", "/place", "--write"]);
            assert_eq!(scene.granted(tool, mode, &scene.outside()), HONEST, "{shown}");
            assert!(scene.path("home/place/dir/new").exists(), "{shown}");
        }
    }
}

#[test]
fn another_directory_of_the_same_home_is_outside() {
    for mode in ["namespaces", "landlock"] {
        let scene = Scene::new();
        disk::write(&scene.path("home/other/secret"), b"x");
        let tool = scene.confine(mode, None).args(["--dir", "/place", "--write"]);
        assert_eq!(scene.granted(tool, mode, &scene.path("home/other")), HONEST, "{mode}");
    }
}

#[test]
fn a_reading_program_changes_nothing() {
    for mode in ["namespaces", "landlock"] {
        let scene = Scene::new();
        let before = disk::snapshot(&scene.path("home"));
        let tool = scene.confine(mode, None).args(["--dir", "/place"]);
        let granted = scene.granted(tool, mode, &scene.outside());
        assert_eq!(granted, READING, "{mode}");
        assert_eq!(disk::snapshot(&scene.path("home")), before, "{mode}");
    }
}

#[test]
fn ordinary_programs_cannot_reach_out_either() {
    let scene = Scene::new();
    let secret = scene.outside().join("secret").display().to_string();
    for mode in ["namespaces", "landlock"] {
        for (program, arguments) in [
            ("/bin/cat", vec![secret.as_str()]),
            ("/bin/cp", vec![secret.as_str()]),
            ("/bin/ln", vec!["-f", secret.as_str()]),
            ("/bin/mv", vec![secret.as_str()]),
            ("/bin/sh", vec!["-c", "/bin/cat /etc/passwd"]),
            ("/bin/ls", vec!["/etc"]),
            ("/bin/tar", vec!["-cf", "-", "/etc"]),
            ("/usr/bin/env", vec!["/bin/true"]),
        ] {
            let tool = scene.confine(mode, None).args(["--dir", "/place", "--write", "--program", program]);
            let done = tool.arg("--").args(&arguments).fails();
            let report = done.report();
            assert!(!done.out().contains("secret of") && !done.out().contains("root:"), "{mode}: {report}");
            // A link to what is out of reach may exist; it leads nowhere for programs and for SFTP.
            assert!(!scene.path("home/place/secret").is_file(), "{mode}: {report}");
        }
    }
}

/// Whoever starts it is killed here, as a server could be. A change of user makes the kernel forget whom a process
/// follows.
#[test]
fn a_program_ends_with_who_started_it() {
    let mut owners: Vec<&[&str]> = vec![&[]];
    if is_root() {
        owners.push(&["--uid", "61234", "--gid", "61234"]);
        owners.push(&["--gid", "61234"]);
    }
    for owner in owners {
        let scene = Scene::new();
        let starter = Command::new("sh")
            .args(["-c", "\"$@\" > /dev/null & echo $!; read line", "sh"])
            .arg(scene.path("tidegate"))
            .args(["confine", "--landlock", "--home"])
            .arg(scene.path("home"))
            .args(["--dir", "/place", "--name", "file"])
            .args(owner)
            .args(["--program", "/usr/bin/tail", "--", "-f"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut starter = starter.unwrap();
        let mut line = String::new();
        BufReader::new(starter.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stat = format!("/proc/{}/stat", line.trim());
        // `pid (name) state …`
        let is = |text: &str| std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(text));
        wait_for("the program to run", secs(20), || is("(tail) S").then_some(()));
        starter.kill().unwrap();
        starter.wait().unwrap();
        wait_for(&format!("the program to end, {owner:?}"), secs(20), || {
            (!Path::new(&stat).exists() || is("(tail) Z")).then_some(())
        });
    }
}

#[test]
fn what_cannot_be_confined_is_not_run() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(scene.outside(), scene.path("home/link")).unwrap();
    for mode in ["namespaces", "landlock"] {
        for (arguments, code) in [
            (vec!["--dir", "/missing", "--program", "/bin/true"], 126),
            (vec!["--dir", "/link", "--program", "/bin/true"], 126),
            (vec!["--dir", "/link/..", "--program", "/bin/true"], 126),
            (vec!["--dir", "/../outside", "--program", "/bin/true"], 126),
            (vec!["--dir", "/place/file", "--program", "/bin/true"], 126),
            (vec!["--dir", "/place", "--program", "/missing"], 127),
            (vec!["--dir", "/place", "--program", "true"], 126),
            (vec!["--dir", "/place", "--unknown", "--program", "/bin/true"], 126),
        ] {
            let done = scene.confine(mode, None).args(&arguments).run();
            assert_eq!(done.code, Some(code), "{}", done.report());
            assert!(done.err().starts_with("tidegate confine: "), "{}", done.report());
            assert_eq!(done.out(), "");
        }
    }
}

#[test]
fn limits_hold() {
    let scene = Scene::new();
    for mode in ["namespaces", "landlock"] {
        disk::write(&scene.path("home/place/source"), &[7; 200_000]);
        Tool::new("chmod", "coreutils").arg("a+r").arg(scene.path("home/place/source")).ok();
        let inside = if mode == "namespaces" { PathBuf::from("/place") } else { scene.path("home/place") };
        let tool = scene.confine(mode, None).args(["--dir", "/place", "--name", "large", "--write"]);
        let tool =
            tool.args(["--file-size", "100000", "--program", "/bin/cp", "--"]).arg(inside.join("source"));
        assert_ne!(tool.run().code, Some(0), "{mode}");
        assert!(scene.path("home/place/large").metadata().unwrap().len() <= 100_000, "{mode}");
    }
}
