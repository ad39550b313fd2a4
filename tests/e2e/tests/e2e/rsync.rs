//! `rsync` over SSH: the stock client against the confined program, and lines that no client sends.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Child;

use serde_json::{Value, json};
use tidegate_e2e::clients::ssh_options;
use tidegate_e2e::process::kill_group;
use tidegate_e2e::{TestServer, Tool, User, disk, secs, server, wait_for};

/// What the user of a program of the system needs; neither links, modes nor times.
const SEVEN: [&str; 7] = ["list", "download", "upload", "overwrite", "create_dirs", "delete", "rename"];

fn enabled() -> TestServer {
    TestServer::builder().sftpd("enabled_ssh_commands", json!(["rsync"])).start()
}

/// The stock client. Write `HOST:` in front of a remote path.
pub(crate) fn rsync(server: &TestServer, user: &str, args: &[&str]) -> Tool {
    let shell = format!("ssh {} -p {}", ssh_options().join(" "), server.port);
    let remote = format!("{user}@127.0.0.1:");
    Tool::new("rsync", "rsync")
        .args(["-e", &shell])
        .args(args.iter().map(|arg| arg.replace("HOST:", &remote)))
        .env("HOME", server.work())
        .dir(&server.work())
        .within(120)
}

/// OpenSSH's `ssh` with a command for the server.
pub(crate) fn ssh(server: &TestServer, user: &str, command: &str) -> Tool {
    Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-T", "-p", &server.port.to_string(), &format!("{user}@127.0.0.1"), command])
        .dir(&server.work())
}

/// A tree with what people have: several levels, an empty file, odd names, modes, old times, a link.
fn tree(root: &Path) {
    disk::write_noise(&root.join("a"), 1, 100_000);
    disk::write(&root.join("empty"), b"");
    disk::write(&root.join("with space"), b"space");
    disk::write(&root.join("it's *[ä]?"), b"quote");
    disk::write(&root.join("-dash"), b"dash");
    disk::write_noise(&root.join("sub/deep/b"), 2, 5_000);
    symlink("sub/deep/b", root.join("link")).unwrap();
    disk::set_mode(&root.join("a"), 0o640);
    disk::set_mode(&root.join("sub"), 0o750);
    disk::set_times(&root.join("a"), 1_500_000_000);
    disk::set_times(&root.join("sub/deep/b"), 1_400_000_000);
}

fn same_tree(left: &Path, right: &Path) {
    let (one, two) = (disk::snapshot(left), disk::snapshot(right));
    for (name, what) in &one {
        let shown = String::from_utf8_lossy(name);
        assert_eq!(two.get(name), Some(what), "{shown} in {} and {}", left.display(), right.display());
    }
    assert_eq!(one.len(), two.len(), "{} and {}", left.display(), right.display());
}

/// The number in a line of `--stats`.
fn stat(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    line[name.len()..].chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The processes that the server has started and that still run.
pub(crate) fn programs(server: &TestServer) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name) state ppid …`; the name can hold anything.
        let rest = text.rsplit(") ").next().unwrap_or_default();
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next().unwrap_or("Z"), fields.next().and_then(|p| p.parse().ok()));
        if state != "Z" {
            parents.push((pid, parent.unwrap_or(0)));
        }
    }
    let mut found = vec![server.pid()];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

pub(crate) fn no_programs_left(server: &TestServer) {
    wait_for("the programs to end", secs(20), || programs(server).is_empty().then_some(()));
}

/// Usage as the server has it, and as it is on disk: bytes, files.
fn usage(server: &TestServer, user: &User) -> ((u64, u64), (u64, u64)) {
    let told = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
    let number = |key: &str| told[key].as_u64().unwrap();
    let mut counted = (0, 0);
    count(&user.home, &mut counted);
    ((number("used_quota_size"), number("used_quota_files")), counted)
}

fn count(dir: &Path, counted: &mut (u64, u64)) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let info = entry.metadata().unwrap();
        if info.is_dir() {
            count(&entry.path(), counted);
        } else if info.is_file() {
            *counted = (counted.0 + info.len(), counted.1 + 1);
        }
    }
}

pub(crate) fn usage_is_what_is_there(server: &TestServer, user: &User) {
    let equal = || Some(usage(server, user)).filter(|(told, counted)| told == counted);
    wait_for("usage to be corrected", secs(20), equal);
}

#[test]
fn a_tree_goes_up_and_comes_back() {
    let server = enabled();
    let user = server.user("alice").field("quota_size", 1_u64 << 30).create();
    tree(&server.path("work/src"));
    for (number, options) in ["-a", "-az", "-azz", "-rlptW", "-a --inplace", "-a --partial --delay-updates"]
        .into_iter()
        .enumerate()
    {
        let options: Vec<&str> = options.split(' ').collect();
        let (there, back) = (format!("HOST:d{number}"), format!("back{number}"));
        rsync(&server, "alice", &[&options[..], &["src/", &there]].concat()).ok();
        same_tree(&server.path("work/src"), &user.path(format!("d{number}")));
        rsync(&server, "alice", &[&options[..], &[&format!("{there}/"), &back]].concat()).ok();
        same_tree(&server.path("work/src"), &server.work().join(&back));
    }
    assert_eq!(disk::mtime(&user.path("d0/a")), 1_500_000_000);
    assert_eq!(disk::mtime(&server.path("work/back0/a")), 1_500_000_000);
    usage_is_what_is_there(&server, &user);
    no_programs_left(&server);
}

#[test]
fn a_directory_keeps_its_name_unless_its_path_ends_with_a_slash() {
    let server = enabled();
    let user = server.user("alice").create();
    disk::write(&server.path("work/src/f"), b"f");
    disk::write(&user.path("top/inner/g"), b"g");
    for (from, to, made) in [
        ("src", "HOST:x1", "x1/src/f"),
        ("src/", "HOST:x2", "x2/f"),
        ("src/f", "HOST:x3", "x3"),
        ("src/f", "HOST:x4/", "x4/f"),
        ("src/f", "HOST:", "f"),
        ("src/f", "HOST:~/y", "y"),
        ("src/f", "HOST:/top/inner", "top/inner/f"),
        ("src/f", "HOST:../../../z", "z"),
    ] {
        rsync(&server, "alice", &["-a", from, to]).ok();
        assert_eq!(disk::text(&user.path(made)), "f", "{from} {to}");
    }
    for (from, made) in [
        ("HOST:top", "top/inner/g"),
        ("HOST:top/", "inner/g"),
        ("HOST:top/inner/g", "g"),
        ("HOST:/top/inner", "inner/g"),
        ("HOST:", "top/inner/g"),
        ("HOST:.", "top/inner/g"),
        ("HOST:/", "top/inner/g"),
    ] {
        let to = server.path("work/to");
        let _ = std::fs::remove_dir_all(&to);
        rsync(&server, "alice", &["-a", from, "to/"]).ok();
        assert_eq!(disk::text(&to.join(made)), "g", "{from}");
    }
}

#[test]
fn a_second_run_moves_only_what_has_changed() {
    let server = enabled();
    let user = server.user("alice").field("quota_size", 1_u64 << 30).create();
    let local = server.path("work/big");
    let mut bytes = disk::noise(3, 8 << 20);
    disk::write(&local, &bytes);
    rsync(&server, "alice", &["-t", "--stats", "big", "HOST:big"]).ok();
    disk::same(&local, &user.path("big"));

    for at in [5, 4 << 20, (8 << 20) - 1] {
        bytes[at] ^= 0x55;
    }
    bytes.extend_from_slice(b"a new end");
    disk::write(&local, &bytes);
    disk::set_times(&local, 1_600_000_000);
    let up = rsync(&server, "alice", &["-t", "--stats", "big", "HOST:big"]).ok();
    disk::same(&local, &user.path("big"));
    assert!(stat(&up, "Total bytes sent:") < 100_000, "{up}");
    assert!(stat(&up, "Literal data:") < 50_000, "{up}");

    bytes[7] ^= 0x55;
    disk::write(&user.path("big"), &bytes);
    disk::set_times(&user.path("big"), 1_600_000_100);
    let down = rsync(&server, "alice", &["-t", "--stats", "HOST:big", "big"]).ok();
    disk::same(&local, &user.path("big"));
    assert!(stat(&down, "Total bytes received:") < 100_000, "{down}");

    let nothing = rsync(&server, "alice", &["-t", "--stats", "big", "HOST:big"]).ok();
    assert_eq!(stat(&nothing, "Number of regular files transferred:"), 0, "{nothing}");
    usage_is_what_is_there(&server, &user);
}

#[test]
fn what_is_gone_at_the_source_is_deleted_only_if_asked_for() {
    let server = enabled();
    let user = server.user("alice").field("quota_size", 1_u64 << 30).create();
    disk::write(&server.path("work/src/keep"), b"1");
    disk::write(&user.path("d/old"), b"2");
    disk::write(&user.path("d/sub/older"), b"3");
    disk::write(&user.path("beside"), b"4");
    rsync(&server, "alice", &["-a", "src/", "HOST:d"]).ok();
    assert!(user.path("d/old").exists());
    for when in ["--delete-before", "--delete-during", "--delete-delay", "--delete-after", "--delete"] {
        disk::write(&user.path("d/old"), b"2");
        rsync(&server, "alice", &["-a", when, "src/", "HOST:d"]).ok();
        assert_eq!(disk::snapshot(&user.path("d")).len(), 1, "{when}");
    }
    assert!(user.path("beside").exists() && user.path("d/keep").exists());
    usage_is_what_is_there(&server, &user);
}

/// Starts an upload that cannot end by itself soon, and waits until the server writes it.
fn started(server: &TestServer, user: &User, options: &[&str]) -> Child {
    disk::write_noise(&server.path("work/slow"), 4, 4 << 20);
    let args = [options, &["--bwlimit=200", "slow", "HOST:in/slow"]].concat();
    let client = rsync(server, &user.name, &args).start();
    wait_for("the server to write", secs(30), || {
        let dir = std::fs::read_dir(user.path("in")).unwrap().flatten();
        dir.into_iter().any(|entry| entry.metadata().is_ok_and(|info| info.len() > 100_000)).then_some(())
    });
    client
}

#[test]
fn a_client_that_is_killed_leaves_no_program_and_no_temporary_file() {
    let server = enabled();
    let user = server.user("alice").field("quota_size", 1_u64 << 30).create();
    std::fs::create_dir(user.path("in")).unwrap();
    let mut client = started(&server, &user, &["-a"]);
    assert!(!programs(&server).is_empty());

    let listed = server.connections();
    let listed = listed.iter().find(|one| one["username"] == "alice").expect("alice is connected");
    assert_eq!(listed["protocol"], "SSH");
    assert!(listed["ssh_command"].as_str().unwrap().starts_with("rsync --server "), "{listed}");
    let transfers = listed["active_transfers"].as_array().expect("transfers");
    let of = |kind: &str| transfers.iter().filter(|one| one["operation_type"] == kind).count();
    assert_eq!((of("upload"), of("download")), (1, 2), "{listed}");

    kill_group(&client);
    client.wait().unwrap();
    no_programs_left(&server);
    assert_eq!(disk::snapshot(&user.path("in")).len(), 0);
    usage_is_what_is_there(&server, &user);
    let metric = |name| super::git::metric(&server, name);
    let counted = || (metric("sftpgo_ssh_command_errors_total") == 1).then_some(());
    wait_for("the command to be counted", secs(20), counted);
    assert_eq!((metric("sftpgo_uploads_total"), metric("sftpgo_upload_errors_total")), (0, 1));
}

#[test]
fn a_program_ends_when_its_user_may_no_longer_do_what_it_does() {
    let server = enabled();
    let user = server.user("alice").create();
    std::fs::create_dir(user.path("in")).unwrap();
    let change = |permissions: serde_json::Value| {
        let body = serde_json::json!({"permissions": permissions});
        server.rest("PUT", &format!("/api/v1/user/{}", user.id), Some(&body)).expect(200);
    };
    let mut client = started(&server, &user, &["-a"]);
    // What it does not need makes no difference, nor what is asked for elsewhere.
    change(serde_json::json!({"/": ["*"], "/beside": ["list"]}));
    std::thread::sleep(secs(2));
    assert!(!programs(&server).is_empty());
    change(serde_json::json!({"/": ["*"], "/in/below": ["list"]}));
    no_programs_left(&server);
    assert!(!client.wait().unwrap().success());
    assert_eq!(disk::snapshot(&user.path("in")).len(), 0);
}

#[test]
fn a_partial_file_is_kept_and_continued_from() {
    let server = enabled();
    let user = server.user("alice").create();
    std::fs::create_dir(user.path("in")).unwrap();
    for (options, kept) in [
        (&["--partial"][..], "in/slow"),
        (&["--partial-dir=.rsync-partial"], "in/.rsync-partial/slow"),
        (&["--inplace"], "in/slow"),
    ] {
        let mut client = started(&server, &user, options);
        kill_group(&client);
        client.wait().unwrap();
        no_programs_left(&server);
        let size = std::fs::metadata(user.path(kept)).unwrap_or_else(|e| panic!("{options:?}: {e}")).len();
        assert!(size > 100_000 && size < 4 << 20, "{options:?}: {size} bytes were kept");
        let again = [options, &["--stats", "slow", "HOST:in/slow"]].concat();
        let text = rsync(&server, "alice", &again).ok();
        disk::same(&server.path("work/slow"), &user.path("in/slow"));
        assert!(stat(&text, "Matched data:") > 50_000, "{options:?}: {text}");
        std::fs::remove_file(user.path("in/slow")).unwrap();
        let _ = std::fs::remove_dir_all(user.path("in/.rsync-partial"));
    }
}

#[test]
fn a_file_is_appended_to() {
    let server = enabled();
    let user = server.user("alice").create();
    let bytes = disk::noise(9, 300_000);
    disk::write(&server.path("work/log"), &bytes);
    disk::write(&user.path("log"), &bytes[..200_000]);
    let text = rsync(&server, "alice", &["--append-verify", "--stats", "log", "HOST:log"]).ok();
    disk::same(&server.path("work/log"), &user.path("log"));
    assert!(stat(&text, "Literal data:") <= 100_000, "{text}");
}

#[test]
fn an_upload_over_quota_fails_and_usage_is_what_is_there() {
    let server = enabled();
    let user = server.user("alice").field("quota_size", 2_000_000).field("quota_files", 5).create();
    disk::write_noise(&server.path("work/src/one"), 1, 500_000);
    rsync(&server, "alice", &["-a", "src/", "HOST:d"]).ok();
    usage_is_what_is_there(&server, &user);

    // More than may be sent.
    disk::write_noise(&server.path("work/src/two"), 2, 5_000_000);
    rsync(&server, "alice", &["-a", "src/", "HOST:d"]).fails();
    no_programs_left(&server);
    assert!(!user.path("d/two").exists());
    usage_is_what_is_there(&server, &user);

    // Little is sent, much would be written.
    disk::write(&server.path("work/src/two"), &vec![0; 50_000_000]);
    rsync(&server, "alice", &["-az", "src/", "HOST:d"]).fails();
    no_programs_left(&server);
    assert!(!user.path("d/two").exists());
    usage_is_what_is_there(&server, &user);

    // Nothing is left: nothing begins.
    std::fs::remove_file(server.path("work/src/two")).unwrap();
    for number in 0..4 {
        disk::write(&server.path(format!("work/src/f{number}")), b"x");
    }
    rsync(&server, "alice", &["-a", "src/", "HOST:d"]).ok();
    usage_is_what_is_there(&server, &user);
    let refused = rsync(&server, "alice", &["-a", "src/one", "HOST:more"]).fails();
    assert!(refused.err().contains("quota") || refused.err().contains("space limit"), "{}", refused.report());
    assert!(!user.path("more").exists());
    // Reading is still possible.
    rsync(&server, "alice", &["-a", "HOST:d/one", "one"]).ok();
}

#[test]
fn hard_links_attributes_and_lists_are_kept() {
    let server = enabled();
    let user = server.user("alice").create();
    let src = server.path("work/src");
    tree(&src);
    std::fs::hard_link(src.join("a"), src.join("hard")).unwrap();
    rsync(&server, "alice", &["-aHAXS", "--numeric-ids", "src/", "HOST:d"]).ok();
    same_tree(&src, &user.path("d"));
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&user.path("d/a")), inode(&user.path("d/hard")));
    rsync(&server, "alice", &["-aHAXS", "HOST:d/", "back"]).ok();
    same_tree(&src, &server.path("work/back"));
    assert_eq!(inode(&server.path("work/back/a")), inode(&server.path("work/back/hard")));
}

#[test]
fn several_sources_names_with_spaces_and_lists_of_names() {
    let server = enabled();
    let user = server.user("alice").create();
    for name in ["one", "two words", "sub/it's", "sub/deep/f", "*", "a b/c d"] {
        disk::write(&user.path(name), name.as_bytes());
    }
    let down = |args: &[&str], want: &[&str]| {
        let to = server.path("work/to");
        let _ = std::fs::remove_dir_all(&to);
        rsync(&server, "alice", &[args, &["to/"]].concat()).ok();
        let mut names: Vec<String> = disk::snapshot(&to)
            .into_iter()
            .filter(|(_, what)| what.starts_with("file"))
            .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
            .collect();
        names.sort();
        assert_eq!(names, want, "{args:?}");
    };
    down(&["-a", "HOST:one", ":two words", ":sub/it's"], &["it's", "one", "two words"]);
    down(&["-a", "HOST:a b", ":sub/deep"], &["a b/c d", "deep/f"]);
    down(&["-a", "--old-args", "HOST:one sub/deep/f"], &["f", "one"]);
    // Nobody expands it.
    down(&["-a", "HOST:*"], &["*"]);
    down(&["-aR", "HOST:sub/deep/f", ":a b/c d"], &["a b/c d", "sub/deep/f"]);
    down(&["-aR", "HOST:/sub/deep/"], &["sub/deep/f"]);
    down(&["-aR", "HOST:sub/./deep/f"], &["deep/f"]);

    // The names of a list come from the client and lead nowhere else.
    disk::write(&server.path("homes/outside"), b"CANARY");
    disk::write(&server.path("work/list"), b"one\nsub/deep\n");
    down(&["-a", "--files-from=list", "HOST:/"], &["one"]);
    down(&["-ar", "--files-from=list", "HOST:/"], &["one", "sub/deep/f"]);
    disk::write(&server.path("work/list"), b"../outside\n/../../outside\nsub/../../outside\none\n");
    let done = rsync(&server, "alice", &["-a", "--files-from=list", "HOST:/", "to/"]).run();
    assert!(!done.report().contains("CANARY"));
    assert!(disk::snapshot(&server.path("work/to")).values().all(|what| !what.contains("CANARY")));
    assert!(disk::snapshot(&server.work()).keys().all(|name| !name.ends_with(b"outside")));

    disk::write(&server.path("work/names/two words/x y"), b"up");
    rsync(&server, "alice", &["-a", "names/two words", "HOST:new place/"]).ok();
    assert_eq!(disk::text(&user.path("new place/two words/x y")), "up");
    rsync(&server, "alice", &["-a", "--mkpath", "names/", "HOST:m/n/o/p/"]).ok();
    assert_eq!(disk::text(&user.path("m/n/o/p/two words/x y")), "up");
    rsync(&server, "alice", &["-a", "names/", "HOST:q/r/s/"]).fails();
    assert!(!user.path("q").exists());
}

#[test]
fn sources_are_removed_only_where_deleting_is_allowed() {
    let server = enabled();
    let may = server.user("may").perms("/", &["list", "download", "delete"]).create();
    let not = server.user("not").perms("/", &["list", "download"]).create();
    for user in [&may, &not] {
        disk::write(&user.path("f"), b"f");
    }
    rsync(&server, "may", &["-a", "--remove-source-files", "HOST:f", "may"]).ok();
    assert!(!may.path("f").exists());
    rsync(&server, "not", &["-a", "--remove-source-files", "HOST:f", "not"]).fails();
    assert!(not.path("f").exists());
}

#[test]
fn who_may_only_read_can_only_read() {
    let server = enabled();
    let user = server.user("alice").perms("/", &["list", "download"]).create();
    tree(&user.path("d"));
    disk::write(&server.path("work/new"), b"new");
    rsync(&server, "alice", &["-a", "HOST:d/", "back"]).ok();
    same_tree(&user.path("d"), &server.path("work/back"));
    let before = disk::snapshot(&user.home);
    let refused = rsync(&server, "alice", &["-a", "new", "HOST:d/"]).fails();
    assert!(refused.err().contains("permission denied"), "{}", refused.report());
    rsync(&server, "alice", &["-a", "--delete", "new", "HOST:"]).fails();
    assert_eq!(disk::snapshot(&user.home), before);
}

#[test]
fn each_permission_is_needed_and_narrower_directories_are_refused() {
    let server = enabled();
    disk::write(&server.path("work/new"), b"new");
    for missing in SEVEN {
        let name = format!("no-{missing}");
        let verbs: Vec<&str> = SEVEN.into_iter().filter(|verb| *verb != missing).collect();
        let user = server.user(&name).perms("/", &verbs).create();
        disk::write(&user.path("old"), b"old");
        let before = disk::snapshot(&user.home);
        rsync(&server, &name, &["-a", "new", "HOST:d"]).fails();
        rsync(&server, &name, &["-a", "new", "HOST:"]).fails();
        assert_eq!(disk::snapshot(&user.home), before, "{missing}");
        let read = rsync(&server, &name, &["-a", "HOST:old", &name]).run();
        assert_eq!(read.code == Some(0), !matches!(missing, "list" | "download"), "{missing}");
    }
    let user = server.user("narrow").perms("/open/closed", &["list"]).perms("/up", &["*"]).create();
    for dir in ["open/closed", "open/free", "up"] {
        disk::write(&user.path(dir).join("f"), b"f");
    }
    for path in ["", "open", "open/closed", "open/closed/f", "open/closed/new"] {
        let there = format!("HOST:{path}");
        rsync(&server, "narrow", &["-a", "new", &there]).fails();
        rsync(&server, "narrow", &["-a", &there, "to"]).fails();
    }
    disk::write(&server.path("work/list"), b"f\n");
    for path in ["open/free", "up"] {
        let there = format!("HOST:{path}");
        rsync(&server, "narrow", &["-a", "--files-from=list", &there, "to/"]).ok();
        rsync(&server, "narrow", &["-aR", &format!("{there}/./f"), "to/"]).ok();
        rsync(&server, "narrow", &["-aR", &format!("{there}/f"), "to/"]).fails();
        rsync(&server, "narrow", &["-a", "new", &format!("HOST:{path}/")]).ok();
        assert_eq!(disk::text(&user.path(path).join("new")), "new");
    }
    // A link does not lead from where much is allowed to where little is.
    symlink("../open/closed", user.path("up/there")).unwrap();
    rsync(&server, "narrow", &["-a", "new", "HOST:up/there/"]).fails();
    rsync(&server, "narrow", &["-a", "HOST:up/there/", "to"]).fails();
    rsync(&server, "narrow", &["-aL", "HOST:up/", "linked"]).fails();
    assert!(!server.path("work/linked/there/f").exists() && !user.path("open/closed/new").exists());
    let tree = server.path("work/tree");
    disk::write(&tree.join("there/evil"), b"evil");
    rsync(&server, "narrow", &["-rK", "tree/", "HOST:up/"]).run();
    assert!(!user.path("open/closed/evil").exists());
}

#[test]
fn modes_and_times_are_set_by_who_may_set_them() {
    let server = enabled();
    let plain = server.user("plain").perms("/", &SEVEN).create();
    let full = server.user("full").create();
    let file = server.path("work/f");
    disk::write(&file, b"x");
    disk::set_mode(&file, 0o604);
    disk::set_times(&file, 1_500_000_000);
    for user in [&plain, &full] {
        disk::write(&user.path("f"), b"older");
        disk::set_mode(&user.path("f"), 0o600);
    }
    for user in ["plain", "full"] {
        rsync(&server, user, &["-a", "f", "HOST:f"]).ok();
    }
    assert_eq!((disk::mode(&full.path("f")), disk::mtime(&full.path("f"))), (0o604, 1_500_000_000));
    assert_ne!(disk::mtime(&plain.path("f")), 1_500_000_000);
    assert_eq!(disk::mode(&plain.path("f")), 0o600);
    for (option, verb) in [("-A", "chmod"), ("-U", "chtimes")] {
        let refused = rsync(&server, "plain", &["-r", option, "f", "HOST:g"]).fails();
        assert!(refused.err().contains(verb), "{}", refused.report());
        assert!(!plain.path("g").exists());
    }
}

#[test]
fn a_link_that_leads_out_is_left_out_or_made_unusable() {
    let server = enabled();
    disk::write(&server.path("homes/secret"), b"CANARY");
    let src = server.path("work/src");
    disk::write(&src.join("f"), b"f");
    symlink("f", src.join("good")).unwrap();
    symlink("../../secret", src.join("out")).unwrap();
    symlink("/etc/passwd", src.join("abs")).unwrap();
    let outcome = |name: &str, verbs: &[&str]| {
        let user = server.user(name).perms("/", verbs).create();
        rsync(&server, name, &["-a", "src/", "HOST:d"]).ok();
        let link =
            |at: &str| std::fs::read_link(user.path("d").join(at)).ok().map(|to| to.display().to_string());
        // Nobody gets anything through what is there now.
        for at in ["out", "abs"] {
            let read = ssh(&server, name, &format!("rsync --server --sender -Lre.LsfxCIvu . d/{at}")).run();
            assert!(!read.report().contains("CANARY") && !read.report().contains("root:"));
            let to = format!("{name}-{at}");
            rsync(&server, name, &["-rL", &format!("HOST:d/{at}"), &to]).run();
            assert!(!server.work().join(to).is_file());
        }
        ["good", "out", "abs"].map(link)
    };
    let full = outcome("full", &["*"]);
    assert_eq!(full, [Some("f".to_owned()), None, None]);
    let munged = outcome("plain", &SEVEN);
    for (link, to) in munged.iter().zip(["f", "../../secret", "/etc/passwd"]) {
        assert_eq!(link.as_deref(), Some(&*format!("/rsyncd-munged/{to}")));
    }
    // They come back as they were.
    rsync(&server, "plain", &["-a", "HOST:d/", "back"]).ok();
    assert_eq!(std::fs::read_link(server.path("work/back/out")).unwrap(), Path::new("../../secret"));
}

#[test]
fn links_on_disk_lead_no_copy_out_of_the_home() {
    let server = enabled();
    let user = server.user("alice").create();
    disk::write(&server.path("homes/outside/secret"), b"CANARY");
    disk::write(&user.path("d/f"), b"f");
    symlink("../../outside", user.path("d/dir")).unwrap();
    symlink("../../outside/secret", user.path("d/file")).unwrap();
    let before = disk::snapshot(&server.path("homes/outside"));
    for (number, from) in
        ["HOST:d/", "HOST:d/dir/", "HOST:d/dir/secret", "HOST:d/file"].into_iter().enumerate()
    {
        for options in ["-rL", "-rk", "-r --copy-unsafe-links", "-a"] {
            let to = format!("to{number}{}", options.replace(' ', ""));
            let args: Vec<&str> = options.split(' ').chain([from, to.as_str()]).collect();
            let done = rsync(&server, "alice", &args).run();
            assert!(!done.report().contains("CANARY"), "{from} {options}");
        }
    }
    disk::write(&server.path("work/src/dir/evil"), b"evil");
    disk::write(&server.path("work/src/file"), b"evil");
    for options in ["-rK", "-r", "-r --inplace", "-aK --delete", "-rR", "-r --force --delete"] {
        let args: Vec<&str> = options.split(' ').chain(["src/", "HOST:d/"]).collect();
        rsync(&server, "alice", &args).run();
        let args: Vec<&str> = options.split(' ').chain(["src/dir/", "HOST:d/dir/"]).collect();
        rsync(&server, "alice", &args).run();
        if !user.path("d/dir").is_symlink() {
            let _ = std::fs::remove_dir_all(user.path("d/dir"));
            symlink("../../outside", user.path("d/dir")).unwrap();
        }
    }
    assert_eq!(disk::snapshot(&server.path("homes/outside")), before);
    assert!(disk::snapshot(&server.work()).values().all(|what| !what.contains("CANARY")));
}

/// The program itself needs libraries. Beneath the home the links are harmless: they lead to what is not there.
#[test]
fn no_link_leads_to_where_the_system_has_its_libraries() {
    let server = enabled();
    let user = server.user("alice").create();
    std::fs::create_dir(user.path("d")).unwrap();
    let libraries = ["/usr/lib", "/usr/local/lib", "/lib"].map(Path::new);
    for (number, dir) in libraries.into_iter().filter(|dir| dir.exists()).enumerate() {
        symlink(dir, user.path(format!("d/absolute{number}"))).unwrap();
        symlink(format!("..{}", dir.display()), user.path(format!("d/relative{number}"))).unwrap();
    }
    symlink("../usr/lib/os-release", user.path("d/file")).unwrap();
    let done = rsync(&server, "alice", &["-rL", "--exclude=*.so*", "--max-size=1m", "HOST:d/", "to"]).fails();
    let got = disk::snapshot(&server.path("work"));
    let foreign = |path: &[u8]| path.ends_with(b"/os-release") || path.ends_with(b"/python3");
    assert!(!got.keys().any(|path| foreign(path.as_ref())), "{got:?}");
    assert!(!server.path("work/to/file").exists(), "{}", done.report());
    // Nor is it read for rules; what is no rule ends a version that reads it, and some show the line.
    let done = rsync(&server, "alice", &["-r", "--filter=: file", "HOST:d/", "to"]).run();
    for sign in ["PRETTY_NAME", "filter rule"] {
        assert!(!done.report().contains(sign), "{}", done.report());
    }
}

#[test]
fn rules_of_the_client_read_no_file_outside() {
    let server = enabled();
    let user = server.user("alice").create();
    disk::write(&user.path("d/victim"), b"v");
    // If the server read it, the file of that name would be missing.
    disk::write(&server.path("homes/rules"), b"victim\n");
    for (number, rule) in
        ["dir-merge,- ../../rules", ":- /../../rules", ":n- ../rules", "dir-merge /../rules"]
            .into_iter()
            .enumerate()
    {
        let to = format!("to{number}");
        rsync(&server, "alice", &["-a", &format!("--filter={rule}"), "HOST:d/", &to]).run();
        let outside = server.path("homes/rules").display().to_string();
        rsync(
            &server,
            "alice",
            &["-a", &format!("--filter=:- {outside}"), "HOST:d/", &format!("abs{number}")],
        )
        .run();
        for to in [to, format!("abs{number}")] {
            assert_eq!(disk::text(&server.work().join(to).join("victim")), "v", "{rule}");
        }
    }
    // Those of the tree itself are read.
    disk::write(&user.path("d/.rsync-filter"), b"- victim\n");
    rsync(&server, "alice", &["-aF", "HOST:d/", "own"]).ok();
    assert!(!server.path("work/own/victim").exists());
}

#[test]
fn no_owners_no_devices_no_special_bits() {
    let server = enabled();
    let user = server.user("alice").create();
    let src = server.path("work/src");
    disk::write(&src.join("f"), b"f");
    disk::write(&src.join("g"), b"g");
    std::fs::create_dir(src.join("sticky")).unwrap();
    let mine = std::fs::metadata(&user.home).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(src.join("f"), Some(1234), Some(1234)).unwrap();
        let null = rustix::fs::makedev(1, 3);
        let mode = rustix::fs::Mode::from(0o666);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            src.join("null"),
            rustix::fs::FileType::CharacterDevice,
            mode,
            null,
        )
        .unwrap();
    }
    rustix::fs::mkfifoat(rustix::fs::CWD, src.join("fifo"), rustix::fs::Mode::from(0o600)).unwrap();
    disk::set_mode(&src.join("f"), 0o6755);
    disk::set_mode(&src.join("sticky"), 0o1777);
    // What cannot be created is reported; the rest is copied.
    rsync(&server, "alice", &["-a", "src/", "HOST:d"]).run();
    assert_eq!(disk::text(&user.path("d/g")), "g");
    let info = std::fs::metadata(user.path("d/f")).unwrap();
    assert_eq!((info.mode() & 0o7777, info.uid(), info.gid()), (0o755, mine.uid(), mine.gid()));
    assert_eq!(disk::mode(&user.path("d/sticky")), 0o777);
    assert!(!user.path("d/null").exists() && !user.path("d/fifo").exists());
}

#[test]
fn files_in_the_home_do_not_configure_the_program() {
    let server = enabled();
    let user = server.user("alice").create();
    let log = user.path("popt.log");
    disk::write(
        &user.path(".popt"),
        format!("rsync alias --stats --log-file={}\n", log.display()).as_bytes(),
    );
    disk::write(&user.path(".cvsignore"), b"*\n");
    disk::write(&server.path("work/f"), b"f");
    rsync(&server, "alice", &["-aC", "--stats", "f", "HOST:f"]).ok();
    assert_eq!(disk::text(&user.path("f")), "f");
    assert!(!log.exists());
}

#[test]
fn the_command_is_logged_counted_and_ends_with_its_own_status() {
    let server = enabled();
    let user = server.user("alice").create();
    disk::write(&user.path("f"), b"f");
    rsync(&server, "alice", &["-a", "HOST:f", "f"]).ok();
    let line = server.wait_log(&[("sender", Value::from("SSHCommand"))]);
    assert!(line["ssh_command"].as_str().unwrap().starts_with("rsync --server --sender "), "{line:?}");
    assert_eq!((&line["file_path"], &line["protocol"]), (&json!("/f"), &json!("SSH")), "{line:?}");
    for (name, want) in [
        ("sftpgo_downloads_total", 1),
        ("sftpgo_uploads_total", 1),
        ("sftpgo_download_errors_total", 0),
        ("sftpgo_upload_errors_total", 0),
    ] {
        assert_eq!(super::git::metric(&server, name), want, "{name}");
    }
    // rsync says 23 if something could not be copied.
    let missing = rsync(&server, "alice", &["-a", "HOST:missing", "x"]).fails();
    assert_eq!(missing.code, Some(23), "{}", missing.report());
    let status = ssh(&server, "alice", "rsync --server --rsh=sh . x").fails();
    assert_eq!(status.code, Some(1), "{}", status.report());
    assert_eq!(status.out(), "", "a client takes this stream for its protocol");
}

#[test]
fn rsync_is_off_unless_it_is_enabled() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&server.path("work/f"), b"f");
    rsync(&server, "alice", &["-a", "f", "HOST:f"]).fails();
    assert!(!user.path("f").exists());
}

#[test]
fn what_no_client_sends_is_refused() {
    let server = enabled();
    let user = server.user("alice").create();
    disk::write(&user.path("d/f"), b"f");
    let outside = server.path("homes/outside");
    disk::write(&outside.join("secret"), b"CANARY");
    disk::write(&outside.join("list"), b"secret\n");
    let before = disk::snapshot(&server.path("homes"));
    let out = outside.display();
    for rest in [
        "",
        "--version",
        "--help",
        "--daemon",
        "--daemon --config=OUT/secret --no-detach",
        "--server",
        "--server .",
        "--server --daemon .",
        "--server --daemon --config=OUT/secret . d",
        "--server --sender --daemon .",
        "-a OUT/ d",
        "-a d OUT/new",
        "--sender --server . d",
        "-e sh --server . d",
        "--server -e sh . d",
        "--server -esh . d",
        "--server '-e.; id' . d",
        "--server '-re.L sh' . d",
        "--server --rsh=sh . d",
        "--server --rsh sh . d",
        "--server --rsync-path=OUT/secret . d",
        "--server --sender -r --files-from=OUT/list . /",
        "--server --sender -r --files-from OUT/list . /",
        "--server -r --files-from=- . d",
        "--server --log-file=OUT/log . d",
        "--server --log-file OUT/log --log-file-format=%f . d",
        "--server --sender --log-file=/OUT/log -r . d",
        "--server --temp-dir=OUT . d",
        "--server --temp-dir OUT . d",
        "--server -T OUT . d",
        "--server -TOUT . d",
        "--server -b --backup-dir=OUT . d",
        "--server -b --backup-dir ../../outside . d",
        "--server -b --suffix=/../../outside/x . d",
        "--server --partial-dir=OUT . d",
        "--server --partial-dir ../outside . d",
        "--server --partial-dir=x/../../outside . d",
        "--server --copy-dest=OUT . d",
        "--server --copy-dest OUT . d",
        "--server --link-dest=OUT . d",
        "--server --link-dest ../../outside . d",
        "--server --compare-dest=OUT . d",
        "--server --write-batch=OUT/batch . d",
        "--server --only-write-batch=OUT/batch . d",
        "--server --read-batch=OUT/secret . d",
        "--server --filter='merge OUT/secret' . d",
        "--server -f 'merge OUT/secret' . d",
        "--server --sender '-f. OUT/secret' . d",
        "--server --exclude-from=OUT/secret . d",
        "--server --include-from OUT/secret . d",
        "--server --exclude=f . d",
        "--server --password-file=OUT/secret . d",
        "--server --early-input=OUT/secret . d",
        "--server --remote-option=--log-file=OUT/log . d",
        "--server -M--log-file=OUT/log . d",
        "--server --sockopts=SO_SNDBUF=1 . d",
        "--server --address=127.0.0.1 . d",
        "--server --iconv=OUT/secret,utf-8 . d",
        "--server --iconv=../../outside/secret . d",
        "--server --super -logDtpr . d",
        "--server --fake-super -logDtpr . d",
        "--server --copy-devices --sender . /dev/null",
        "--server --inplace --write-devices . d",
        "--server --usermap=*:root -o . d",
        "--server --groupmap=*:root -g . d",
        "--server --chmod=u+s -p . d",
        "--server --no-munge-links -l . d",
        "--server --insecure-links --sender -r . d",
        "--server --confine-root=/ --sender -r . d",
        "--server --copy-as=root . d",
        "--server --preallocate . d",
        "--server --max-alloc=0 . d",
        "--server -se.LsfxCIvu",
        "--server --sender -se.LsfxCIvu",
        "--server --secluded-args --sender -r . d",
        "--server --protect-args . d",
        "--server -r . d OUT",
        "--server -r d . d",
        "--server -r OUT",
        "--server -r --unknown . d",
        "--server -r --stat . d",
        "--server -r -- . d",
        "--server -Q . d",
        "--server -rPa . d",
        "--server --sender -r --out-format=%f . d",
        "--server --log-format=OUT/%f . d",
        "--server --skip-compress=../x/* --sender . d",
        "--server --dparam=log-file=OUT/log . d",
    ] {
        let line = format!("rsync {rest}").replace("OUT", &out.to_string());
        let done = ssh(&server, "alice", &line).run();
        assert!(done.code.is_some_and(|code| code != 0), "{line} is accepted:\n{}", done.report());
        assert!(done.err().contains("refused"), "{line}:\n{}", done.report());
        assert!(!done.out().contains("CANARY") && done.stdout.is_empty(), "{line}:\n{}", done.report());
    }
    // Other names and other programs are not rsync; nothing is a shell.
    for line in [
        "/usr/bin/rsync --server . d",
        "../rsync --server . d",
        "rsync; id",
        "rsync&& id",
        "rsync-ssl --server . d",
        "sudo rsync --server . d",
        "env rsync --server . d",
        "sh -c 'rsync --server . d'",
    ] {
        ssh(&server, "alice", line).fails();
    }
    assert_eq!(disk::snapshot(&server.path("homes")), before);
    no_programs_left(&server);
}

/// Where the stock rsync is.
fn installed() -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("rsync")).find(|path| path.is_file());
    let found = found.expect("rsync is not installed: this test needs the package `rsync`");
    found.canonicalize().unwrap()
}

#[test]
fn without_its_grammar_the_program_is_still_confined() {
    let root = tempfile::Builder::new().prefix("tidegate-rsync-").tempdir().unwrap();
    let (home, out) = (root.path().join("home"), root.path().join("outside"));
    let restore = || {
        let _ = std::fs::remove_dir_all(&out);
        disk::write(&out.join("secret"), b"CANARY\n");
        disk::write(&out.join("list"), b"secret\n");
        disk::write(&out.join("evil"), b"#!/bin/sh\necho >>\"$0.ran\"\n");
        disk::set_mode(&out.join("evil"), 0o755);
    };
    restore();
    let mut harm = 0;
    let shown = out.display().to_string();
    for mode in ["unconfined", "namespaces", "landlock"] {
        let confine = || {
            Tool::new(server::binary(), "tidegate")
                .arg("confine")
                .arg(format!("--{mode}"))
                .arg("--home")
                .arg(&home)
                .dir(Path::new("/"))
                .within(60)
        };
        std::fs::create_dir_all(home.join("place")).unwrap();
        let probe = confine().arg("--probe").run();
        if probe.code != Some(0) {
            assert_eq!(mode, "namespaces", "{}", probe.report());
            eprintln!("SKIPPED: this machine has no namespaces: {}", probe.err());
            continue;
        }
        // What the program calls the directory that it may use.
        let place =
            if mode == "namespaces" { "/place".into() } else { home.join("place").display().to_string() };
        // The directory is what is written to in each: it comes after these.
        for line in [
            "-r OUT/",
            "OUT/secret",
            "-rL PLACE/to-secret",
            "-rk PLACE/to-outside/",
            "--remove-source-files OUT/secret",
            "--remove-source-files PLACE/to-outside/secret",
            "-r --files-from=OUT/list OUT",
            "-r --files-from=OUT/list PLACE/src",
            "-r --log-file=OUT/log PLACE/src/",
            "--server -r --log-file=OUT/log .",
            "--server --sender -r --files-from=OUT/list .",
            "-r --temp-dir=OUT PLACE/src/",
            "-r --partial-dir=OUT --delay-updates PLACE/src/",
            "-rI --backup --backup-dir=OUT PLACE/src/",
            "-r --copy-dest=OUT PLACE/src/",
            "-r --link-dest=OUT PLACE/src/",
            "-r --write-batch=OUT/batch PLACE/src/",
            "-r --only-write-batch=OUT/batch PLACE/src/",
            "--read-batch=OUT/secret",
            "-rK PLACE/src/",
            "-rK --delete --force PLACE/src/",
            "-r --inplace PLACE/src/",
            "-r --exclude-from=OUT/secret PLACE/src/",
            "-e OUT/evil host:x",
            "--rsh=/bin/sh host:x",
            "--daemon --no-detach --config=OUT/secret",
            "--password-file=OUT/secret rsync://127.0.0.1/x",
        ] {
            let _ = std::fs::remove_dir_all(home.join("place"));
            disk::write(&home.join("place/src/to-outside/new"), b"new");
            disk::write(&home.join("place/src/secret"), b"new");
            disk::write(&home.join("place/src/to-secret"), b"new");
            symlink(&out, home.join("place/to-outside")).unwrap();
            symlink(out.join("secret"), home.join("place/to-secret")).unwrap();
            let before = disk::snapshot(&out);
            let words = line.split(' ').map(|word| word.replace("OUT", &shown).replace("PLACE", &place));
            let done = confine()
                .args(["--dir", "/place", "--write", "--program"])
                .arg(installed())
                .arg("--")
                .args(words)
                .run();
            let shown = format!("{mode}: {line}: {}", done.report());
            if mode == "unconfined" {
                // Only to show that the lines would do harm.
                let stolen = disk::snapshot(&home).values().any(|what| what.contains("CANARY"));
                harm +=
                    usize::from(stolen || disk::snapshot(&out) != before || home.join("place/ran").exists());
                restore();
                continue;
            }
            assert_ne!(done.code, Some(126), "{shown}");
            assert_eq!(disk::snapshot(&out), before, "{shown}");
            assert!(!done.report().contains("CANARY"), "{shown}");
            let after = disk::snapshot(&home);
            assert!(after.values().all(|what| !what.contains("CANARY")), "{shown}");
            assert!(!home.join("place/ran").exists(), "{shown}");
        }
    }
    assert!(harm > 12, "only {harm} of the lines would do harm without confinement");
}
