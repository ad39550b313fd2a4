//! git over SSH: clone, fetch, push, quota, permissions; repositories that try to run something; hostile lines.

use std::fs::read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::hooks;
use serde_json::json;
use tidegate_e2e::clients::{self, ssh_options};
use tidegate_e2e::{Finished, TestServer, Tool, User, disk, keys, process, secs, server, wait_for};

fn start() -> TestServer {
    TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).start()
}

/// A git that sees no settings of this machine and reaches the server by `ssh`.
pub(crate) fn git(server: &TestServer, dir: &Path, args: &[&str]) -> Tool {
    let ssh = format!("ssh {} -p {}", ssh_options().join(" "), server.port);
    Tool::new("git", "git")
        .env("GIT_SSH_COMMAND", ssh)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", server.work())
        .args(["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "protocol.file.allow=always"])
        .args(["-c", "init.defaultBranch=main", "-c", "safe.directory=*", "-c", "gc.auto=0"])
        .args(args)
        .dir(dir)
        .within(240)
}

fn ssh(server: &TestServer, user: &str, command: &str) -> Tool {
    Tool::new("ssh", "openssh-client")
        .args(ssh_options())
        .args(["-T", "-p", &server.port.to_string(), &format!("{user}@127.0.0.1"), command])
        .dir(&server.work())
}

pub(crate) fn url(user: &str, path: &str) -> String {
    format!("{user}@127.0.0.1:{path}")
}

/// An empty bare repository in the user's home.
pub(crate) fn bare(server: &TestServer, user: &User, name: &str) -> PathBuf {
    git(server, &user.home, &["init", "-q", "--bare", name]).ok();
    user.path(name)
}

/// A clone with one commit, pushed.
pub(crate) fn pushed(server: &TestServer, user: &str, path: &str, clone: &str) -> PathBuf {
    let dir = server.work().join(clone);
    git(server, &server.work(), &["clone", "-q", &url(user, path), clone]).ok();
    commit(server, &dir, "readme", b"hello\n");
    let pushed = git(server, &dir, &["push", "-q", "origin", "HEAD:main"]).run();
    assert_eq!((pushed.code, pushed.err()), (Some(0), String::new()), "{}", pushed.report());
    dir
}

pub(crate) fn commit(server: &TestServer, dir: &Path, name: &str, content: &[u8]) {
    disk::write(&dir.join(name), content);
    git(server, dir, &["add", "-A"]).ok();
    git(server, dir, &["commit", "-q", "-m", name]).ok();
}

pub(crate) fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.rest("GET", "/metrics", None).expect(200).body;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name)).expect("the metric exists");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Processes that the server has started and that still run.
fn children(server: &TestServer) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name) state ppid …`; the name may contain anything.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields.get(1).and_then(|ppid| ppid.parse().ok()) == Some(server.pid()) {
            found.push(stat);
        }
    }
    found
}

fn used(server: &TestServer, user: &User) -> (u64, u64) {
    let found = server.rest("GET", &format!("/api/v1/user/{}", user.id), None).expect(200).json();
    (found["used_quota_files"].as_u64().unwrap(), found["used_quota_size"].as_u64().unwrap())
}

/// Number and size of the files below a directory, as a scan counts.
pub(crate) fn on_disk(dir: &Path) -> (u64, u64) {
    let (mut files, mut size) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let metadata = std::fs::symlink_metadata(entry.path()).unwrap();
        if metadata.is_dir() {
            let (more, bytes) = on_disk(&entry.path());
            (files, size) = (files + more, size + bytes);
        } else if metadata.is_file() {
            (files, size) = (files + 1, size + metadata.len());
        }
    }
    (files, size)
}

fn usage_settles(server: &TestServer, user: &User) {
    wait_for("usage to be what is on disk", secs(20), || {
        (used(server, user) == on_disk(&user.home)).then_some(())
    });
}

#[test]
fn clone_push_and_fetch_carry_everything() {
    let server = start();
    let user = server.user("alice").create();
    let repository = bare(&server, &user, "project.git");
    let first = pushed(&server, "alice", "/project.git", "first");
    let second = server.work().join("second");
    git(&server, &server.work(), &["clone", "-q", &url("alice", "/project.git"), "second"]).ok();
    assert_eq!(read(second.join("readme")).unwrap(), b"hello\n");
    for number in 0..150 {
        disk::write(
            &first.join(format!("dir/{number}")),
            format!("file {number}\n").repeat(number).as_bytes(),
        );
    }
    commit(&server, &first, "more", b"more");
    git(&server, &first, &["tag", "-a", "-m", "x", "v1"]).ok();
    git(&server, &first, &["push", "-q", "--follow-tags", "origin", "HEAD:main", "HEAD:side"]).ok();
    git(&server, &second, &["fetch", "-q"]).ok();
    let tips = git(&server, &second, &["rev-parse", "origin/main", "origin/side", "v1^{}"]).ok();
    let tip = git(&server, &first, &["rev-parse", "HEAD"]).ok();
    assert_eq!(tips, tip.repeat(3));
    git(&server, &repository, &["fsck", "--strict"]).ok();
    // Removing a branch, and a push that is refused because others were faster.
    git(&server, &first, &["push", "-q", "origin", ":side"]).ok();
    commit(&server, &second, "late", b"late");
    let refused = git(&server, &second, &["push", "-q", "origin", "HEAD:main"]).fails();
    assert!(refused.err().contains("[rejected]"), "{}", refused.report());
    // The reflog-free bare repository holds nothing but what was pushed.
    assert!(
        !std::fs::read_dir(repository.join("objects"))
            .unwrap()
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().starts_with("tmp_") })
    );
}

#[test]
fn shallow_partial_and_archive_and_both_protocols() {
    let server = start();
    let user = server.user("alice").create();
    let repository = bare(&server, &user, "project.git");
    let first = pushed(&server, "alice", "/project.git", "first");
    for number in 0..5 {
        commit(&server, &first, &format!("f{number}"), b"x");
    }
    git(&server, &first, &["push", "-q", "origin", "HEAD:main"]).ok();
    git(&server, &server.work(), &["clone", "-q", "--depth=2", &url("alice", "/project.git"), "shallow"])
        .ok();
    let shallow = server.work().join("shallow");
    assert_eq!(git(&server, &shallow, &["rev-list", "--count", "HEAD"]).ok().trim(), "2");
    git(&server, &shallow, &["fetch", "-q", "--unshallow"]).ok();
    assert_eq!(git(&server, &shallow, &["rev-list", "--count", "HEAD"]).ok().trim(), "6");
    git(&server, &repository, &["config", "uploadpack.allowFilter", "true"]).ok();
    let partial =
        ["clone", "-q", "--filter=blob:none", "--no-checkout", &url("alice", "/project.git"), "partial"];
    git(&server, &server.work(), &partial).ok();
    for format in ["tar", "zip", "tar.gz"] {
        let remote = format!("--remote={}", url("alice", "/project.git"));
        let args = ["archive", &remote, &format!("--format={format}"), "-o", "out", "main"];
        git(&server, &server.work(), &args).ok();
        assert!(server.work().join("out").metadata().unwrap().len() > 100, "{format}");
    }
    for version in ["0", "1", "2"] {
        let config = format!("protocol.version={version}");
        let tool = git(&server, &first, &["-c", &config, "ls-remote", "origin"]).env("GIT_TRACE_PACKET", "1");
        let done = tool.run();
        done.expect_success();
        let told = done.err().contains(&format!("ls-remote< version {version}"))
            || done.err().contains(&format!("git< version {version}"));
        assert_eq!(told, version != "0", "{}", done.report());
    }
}

#[test]
fn a_repository_is_found_under_the_names_that_git_allows() {
    let server = start();
    let user = server.user("alice").create();
    bare(&server, &user, "deep/er/a b's.git");
    pushed(&server, "alice", "/deep/er/a b's.git", "first");
    git(
        &server,
        &server.work(),
        &["clone", "-q", "--bare", "first", user.path("plain/.git").to_str().unwrap()],
    )
    .ok();
    for (path, clone) in [
        ("deep/er/a b's.git", "c1"),
        ("/deep/er/a b's", "c2"),
        ("/deep/../deep/er/a b's.git/", "c3"),
        ("/plain", "c4"),
        ("/plain/.git", "c5"),
    ] {
        git(&server, &server.work(), &["clone", "-q", &url("alice", path), clone]).ok();
        assert_eq!(read(server.work().join(clone).join("readme")).unwrap(), b"hello\n", "{path}");
    }
    // A home that is a repository, and names that the system uses itself.
    let root = server.user("root").create();
    git(&server, &root.home, &["init", "-q", "--bare", "."]).ok();
    pushed(&server, "root", "/", "c6");
    bare(&server, &user, "usr/lib");
    pushed(&server, "alice", "/usr/lib", "c7");
    let missing = git(&server, &server.work(), &["clone", "-q", &url("alice", "/missing"), "c8"]).fails();
    assert!(
        missing.err().contains("'/missing' does not appear to be a git repository"),
        "{}",
        missing.report()
    );
    assert!(!missing.err().contains(user.home.to_str().unwrap()), "{}", missing.report());
}

#[test]
fn what_is_under_way_is_listed_and_what_is_done_is_logged_and_counted() {
    let server = start();
    let user = server.user("alice").create();
    bare(&server, &user, "project.git");
    let mut waiting = ssh(&server, "alice", "git-upload-pack '/project.git'").start();
    let listed = wait_for("the command to be listed", secs(20), || {
        let listed = server.connections().pop()?;
        (listed["active_transfers"].as_array()?.len() == 3).then_some(listed)
    });
    let fields = (&listed["protocol"], &listed["ssh_command"]);
    assert_eq!(fields, (&json!("SSH"), &json!("git-upload-pack /project.git")));
    let transfers = listed["active_transfers"].as_array().unwrap();
    let count = |what: &str| transfers.iter().filter(|t| t["operation_type"] == json!(what)).count();
    assert_eq!((count("upload"), count("download")), (1, 2), "{listed}");
    assert!(transfers.iter().all(|t| t["path"] == json!("/project.git")), "{listed}");
    process::kill_group(&waiting);
    waiting.wait().unwrap();
    wait_for("the connection to be gone", secs(20), || server.connections().is_empty().then_some(()));

    let before = [metric(&server, "sftpgo_ssh_commands_total"), metric(&server, "sftpgo_uploads_total")];
    pushed(&server, "alice", "/project.git", "first");
    let line = [("sender", json!("SSHCommand")), ("ssh_command", json!("git-receive-pack /project.git"))];
    let line = server.wait_log(&line);
    assert_eq!((&line["file_path"], &line["protocol"]), (&json!("/project.git"), &json!("SSH")));
    assert_eq!(metric(&server, "sftpgo_ssh_commands_total"), before[0] + 2);
    assert!(metric(&server, "sftpgo_uploads_total") > before[1]);
    assert!(metric(&server, "sftpgo_download_size") > 0);
    let failed = metric(&server, "sftpgo_ssh_command_errors_total");
    ssh(&server, "alice", "git-upload-pack '/missing'").fails();
    assert_eq!(metric(&server, "sftpgo_ssh_command_errors_total"), failed + 1);
}

#[test]
fn pushing_needs_all_permissions_and_reading_two_and_none_may_be_missing_below() {
    let server = start();
    let most = ["list", "download", "upload", "overwrite", "create_dirs", "delete", "rename"];
    for missing in most {
        let held: Vec<&str> = most.iter().copied().filter(|perm| *perm != missing).collect();
        let user = server.user(&format!("without-{missing}")).perms("/", &held).create();
        let repository = bare(&server, &user, "r.git");
        let before = disk::snapshot(&repository);
        for command in ["git-upload-pack", "git-receive-pack", "git-upload-archive"] {
            let done = ssh(&server, &user.name, &format!("{command} /r.git")).input("0000").run();
            let denied = done.code == Some(1) && done.err().ends_with("permission denied\n");
            let reads = command != "git-receive-pack" && !["list", "download"].contains(&missing);
            assert_eq!(denied, !reads, "without {missing}: {}", done.report());
            assert!(reads || done.out().is_empty(), "without {missing}: {}", done.report());
        }
        assert_eq!(disk::snapshot(&repository), before);
    }
    let reader = server.user("reader").perms("/", &["list", "download"]).create();
    let repository = bare(&server, &reader, "r.git");
    let owner = server.user("owner").field("home_dir", reader.home.to_str().unwrap()).create();
    let first = pushed(&server, &owner.name, "/r.git", "first");
    let before = disk::snapshot(&repository);
    git(&server, &server.work(), &["clone", "-q", &url("reader", "/r.git"), "read"]).ok();
    commit(&server, &first, "x", b"x");
    let refused = git(&server, &first, &["push", &url("reader", "/r.git"), "HEAD:main"]).fails();
    assert!(refused.err().contains("permission denied"), "{}", refused.report());
    assert_eq!(disk::snapshot(&repository), before);

    let user = server.user("below").perms("/", &most).perms("/r.git/objects", &["list"]).create();
    bare(&server, &user, "r.git");
    bare(&server, &user, "free.git");
    for command in ["git-upload-pack", "git-receive-pack"] {
        let done = ssh(&server, "below", &format!("{command} /r.git")).fails();
        assert!(done.err().ends_with("permission denied\n"), "{}", done.report());
    }
    pushed(&server, "below", "/free.git", "second");
}

#[test]
fn a_push_that_is_too_large_fails_and_usage_is_what_is_on_disk() {
    let server = start();
    let user = server.user("alice").field("quota_size", 400_000).field("quota_files", 200).create();
    bare(&server, &user, "project.git");
    server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": "alice"}))).expect(201);
    usage_settles(&server, &user);
    let first = pushed(&server, "alice", "/project.git", "first");
    usage_settles(&server, &user);
    commit(&server, &first, "large", &disk::noise(3, 700_000));
    let refused = git(&server, &first, &["push", "-q", "origin", "HEAD:main"]).fails();
    assert!(refused.err().contains("quota"), "{}", refused.report());
    usage_settles(&server, &user);
    assert!(used(&server, &user).1 < 400_000);
    wait_for("no process to be left", secs(20), || children(&server).is_empty().then_some(()));
    // The repository is as before, and what fits still goes through.
    git(&server, &first, &["reset", "-q", "--hard", "HEAD~1"]).ok();
    commit(&server, &first, "small", b"small");
    git(&server, &first, &["push", "-q", "origin", "HEAD:main"]).ok();
    usage_settles(&server, &user);
    // Exhausted: nothing is taken, everything is given.
    let (files, _) = used(&server, &user);
    for number in files..200 {
        disk::write(&user.path(format!("fill/{number}")), b"x");
    }
    server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": "alice"}))).expect(201);
    usage_settles(&server, &user);
    commit(&server, &first, "another", b"another");
    let refused = git(&server, &first, &["push", "-q", "origin", "HEAD:main"]).fails();
    assert!(refused.err().contains("quota exceeded"), "{}", refused.report());
    git(&server, &server.work(), &["clone", "-q", &url("alice", "/project.git"), "second"]).ok();
}

#[test]
fn a_large_object_is_pushed_and_cloned() {
    let server = start();
    let user = server.user("alice").create();
    bare(&server, &user, "project.git");
    let first = pushed(&server, "alice", "/project.git", "first");
    disk::write_noise(&first.join("large"), 9, 64 << 20);
    git(&server, &first, &["add", "-A"]).ok();
    git(&server, &first, &["commit", "-q", "-m", "large"]).ok();
    git(&server, &first, &["push", "-q", "origin", "HEAD:main"]).ok();
    git(&server, &server.work(), &["clone", "-q", &url("alice", "/project.git"), "second"]).ok();
    assert!(read(server.work().join("second/large")).unwrap() == disk::noise(9, 64 << 20));
}

#[test]
fn a_client_that_is_killed_takes_every_process_along() {
    let server = start();
    let user = server.user("alice").create();
    bare(&server, &user, "project.git");
    for command in ["git-receive-pack", "git-upload-pack"] {
        let mut client = ssh(&server, "alice", &format!("{command} /project.git")).start();
        wait_for("the program to run", secs(20), || (!children(&server).is_empty()).then_some(()));
        process::kill_group(&client);
        client.wait().unwrap();
        wait_for("every process to end", secs(20), || children(&server).is_empty().then_some(()));
    }
    // The administrator's word ends it as well.
    let mut client = ssh(&server, "alice", "git-upload-pack /project.git").start();
    let id = wait_for("the command to be listed", secs(20), || {
        Some(server.connections().pop()?["connection_id"].as_str()?.to_owned())
    });
    wait_for("the program to run", secs(20), || (!children(&server).is_empty()).then_some(()));
    server.rest("DELETE", &format!("/api/v1/connection/{id}"), None).expect(200);
    wait_for("every process to end", secs(20), || children(&server).is_empty().then_some(()));
    client.wait().unwrap();
}

#[test]
fn files_belong_to_the_user_of_the_system_that_the_account_has() {
    let server = start();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run programs as somebody else");
        return;
    }
    let user = server.user("alice").field("uid", 61_234).field("gid", 61_235).create();
    let repository = bare(&server, &user, "project.git");
    Tool::new("chown", "coreutils").args(["-R", "61234:61235"]).arg(&user.home).ok();
    pushed(&server, "alice", "/project.git", "first");
    let owners = Tool::new("find", "findutils").arg(&repository).args(["-printf", "%U:%G\\n"]).ok();
    assert!(owners.lines().all(|owner| owner == "61234:61235"), "{owners}");
    assert!(owners.lines().count() > 15);
}

/// Everything in a repository that could start a program or lead out of it. Each writes to, or reads from, a
/// directory beside the homes.
fn trap(server: &TestServer, repository: &Path, outside: &Path) {
    let canary = outside.join("ran");
    let run = format!("touch {}", canary.display());
    let script = format!("#!/bin/sh\n{run}\n");
    for hook in [
        "pre-receive",
        "update",
        "post-receive",
        "post-update",
        "reference-transaction",
        "proc-receive",
        "push-to-checkout",
        "pre-auto-gc",
        "post-index-change",
        "fsmonitor-watchman",
    ] {
        let file = repository.join("hooks").join(hook);
        disk::write(&file, script.as_bytes());
        Tool::new("chmod", "coreutils").arg("755").arg(&file).ok();
    }
    disk::write(&repository.join("evil"), script.as_bytes());
    Tool::new("chmod", "coreutils").arg("755").arg(repository.join("evil")).ok();
    let evil = repository.join("evil").display().to_string();
    for (key, value) in [
        ("core.hooksPath", repository.join("hooks").display().to_string()),
        ("core.fsmonitor", evil.clone()),
        ("core.sshCommand", run.clone()),
        ("core.askPass", evil.clone()),
        ("core.editor", run.clone()),
        ("core.pager", run.clone()),
        ("core.gitProxy", run.clone()),
        ("core.alternateRefsCommand", run.clone()),
        ("core.worktree", outside.display().to_string()),
        ("uploadpack.packObjectsHook", run.clone()),
        ("gpg.program", evil.clone()),
        ("gpg.ssh.program", evil),
        ("receive.certNonceSeed", "seed".to_owned()),
        ("receive.procReceiveRefs", "refs/heads".to_owned()),
        ("receive.denyCurrentBranch", "updateInstead".to_owned()),
        ("filter.evil.smudge", run.clone()),
        ("filter.evil.clean", run.clone()),
        ("filter.evil.process", run.clone()),
        ("tar.tar.command", run.clone()),
        ("tar.evil.command", run.clone()),
        ("tar.evil.remote", "true".to_owned()),
        ("diff.external", run.clone()),
        ("alias.upload-pack", format!("!{run}")),
        ("credential.helper", format!("!{run}")),
        ("protocol.ext.allow", "always".to_owned()),
        ("remote.origin.url", format!("ext::{run}")),
        ("remote.origin.promisor", "true".to_owned()),
        ("extensions.partialClone", "origin".to_owned()),
        ("gc.auto", "1".to_owned()),
        ("receive.autogc", "true".to_owned()),
    ] {
        git(server, repository, &["config", "--file", "config", key, &value]).ok();
    }
    git(server, repository, &["config", "--file", "config", "core.repositoryFormatVersion", "1"]).ok();
    disk::write(&repository.join("info/attributes"), b"* filter=evil diff=evil\n");
}

/// Works honestly and otherwise on a repository full of traps.
fn spring(server: &TestServer, user: &User) {
    let repository = bare(server, user, "project.git");
    own(user);
    let first = pushed(server, &user.name, "/project.git", "first");
    let outside = server.path("outside");
    std::fs::create_dir(&outside).unwrap();
    Tool::new("chmod", "coreutils").arg("777").arg(&outside).ok();
    trap(server, &repository, &outside);
    own(user);

    let mut results: Vec<Finished> = Vec::new();
    commit(server, &first, "after", b"after");
    results.push(git(server, &first, &["push", "origin", "HEAD:refs/heads/other"]).run());
    results.push(git(server, &first, &["push", "--signed=if-asked", "origin", "HEAD:main"]).run());
    results.push(git(server, &server.work(), &["clone", &url(&user.name, "/project.git"), "c1"]).run());
    for format in ["tar", "tar.gz", "evil"] {
        let remote = format!("--remote={}", url(&user.name, "/project.git"));
        let args = ["archive", &remote, &format!("--format={format}"), "-o", "out", "main"];
        results.push(git(server, &server.work(), &args).run());
    }
    let reports: String = results.iter().map(Finished::report).collect();
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none(), "something ran:\n{reports}");
    // The clone is good: the traps do no harm to honest work.
    assert_eq!(results[2].code, Some(0), "{reports}");

    let secret = server.path("secret.git");
    git(server, &server.work(), &["clone", "-q", "--bare", "first", secret.to_str().unwrap()]).ok();
    Tool::new("chmod", "coreutils").args(["-R", "a+rwX"]).arg(&secret).ok();
    let linked = bare(server, user, "linked.git");
    disk::write(
        &linked.join("objects/info/alternates"),
        format!("{}\n", secret.join("objects").display()).as_bytes(),
    );
    let tip = git(server, &first, &["rev-parse", "HEAD"]).ok();
    disk::write(&linked.join("refs/heads/main"), tip.as_bytes());
    own(user);
    let done = git(server, &server.work(), &["clone", &url(&user.name, "/linked.git"), "stolen"]).run();
    assert_ne!(done.code, Some(0), "{}", done.report());
    assert!(!server.work().join("stolen/readme").exists(), "{}", done.report());
}

/// Gives the home's files to whoever the server runs as.
fn own(user: &User) {
    let reference = user.home.parent().expect("a home is in a directory");
    Tool::new("chown", "coreutils")
        .arg("-R")
        .arg(format!("--reference={}", reference.display()))
        .arg(&user.home)
        .ok();
}

#[test]
fn a_repository_runs_nothing_and_reads_nothing_outside_of_itself() {
    let server = start();
    let user = server.user("alice").create();
    spring(&server, &user);
}

/// A portable server under other circumstances, and its user.
fn portable(circumstances: &[&str], owner: &str) -> (TestServer, User) {
    let root = tempfile::Builder::new().prefix("tidegate-e2e-git-").tempdir().unwrap();
    for dir in ["share", "work"] {
        std::fs::create_dir(root.path().join(dir)).unwrap();
    }
    std::fs::copy(server::binary(), root.path().join("tidegate")).unwrap();
    Tool::new("chmod", "coreutils").arg("755").arg(root.path()).arg(root.path().join("tidegate")).ok();
    Tool::new("chown", "coreutils").args(["-R", owner]).arg(root.path()).ok();
    let port = server::free_port();
    let mut command = server::command(root.path());
    let mut wrapped = std::process::Command::new("setpriv");
    wrapped.args(circumstances).arg(root.path().join("tidegate")).args(["portable", "-d"]);
    wrapped.arg(root.path().join("share")).args(["-s", &port.to_string(), "-S=false", "-u", "alice"]);
    wrapped.args(["-c", "*", "-g", "*", "-l", "log.json", "-k", &keys::keys().client_public()]);
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.current_dir(root.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    std::mem::swap(&mut command, &mut wrapped);
    let home = root.path().join("share");
    let server = TestServer::launch(command, port, 0, root);
    (server, User { name: "alice".to_owned(), id: 1, home })
}

#[test]
fn other_circumstances_confine_as_well() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can take rights away from the server");
        return;
    }
    for (circumstances, owner, confined) in [
        // No namespaces, as in many containers.
        (&["--bounding-set", "-sys_admin"][..], "0:0", "confined by Landlock and"),
        // Not root; whether there are namespaces is the system's decision.
        (&["--reuid", "61234", "--regid", "61234", "--clear-groups"][..], "61234:61234", "confined by"),
    ] {
        let (server, user) = portable(circumstances, owner);
        assert!(server.raw_log().join("\n").contains(confined), "{}", server.raw_log().join("\n"));
        spring(&server, &user);
    }
}

#[test]
fn objects_and_configuration_outside_are_out_of_reach() {
    let server = start();
    let user = server.user("alice").create();
    let other = server.user("bob").create();
    let secret = bare(&server, &other, "secret.git");
    let theirs = pushed(&server, "bob", "/secret.git", "theirs");
    let tip = git(&server, &theirs, &["rev-parse", "HEAD"]).ok().trim().to_owned();

    // By alternates.
    let repository = bare(&server, &user, "alternates.git");
    let line = format!("{}\n", secret.join("objects").display());
    disk::write(&repository.join("objects/info/alternates"), line.as_bytes());
    disk::write(&repository.join("refs/heads/main"), format!("{tip}\n").as_bytes());
    // By a link instead of the directory.
    let linked = bare(&server, &user, "linked.git");
    std::fs::remove_dir_all(linked.join("objects")).unwrap();
    std::os::unix::fs::symlink(secret.join("objects"), linked.join("objects")).unwrap();
    disk::write(&linked.join("refs/heads/main"), format!("{tip}\n").as_bytes());
    // By a file that names another directory, in the place of the repository and of its common part.
    disk::write(&user.path("file/.git"), format!("gitdir: {}\n", secret.display()).as_bytes());
    let common = bare(&server, &user, "common.git");
    disk::write(&common.join("commondir"), format!("{}\n", secret.display()).as_bytes());
    // By the repository itself being a link.
    std::os::unix::fs::symlink(&secret, user.path("escape.git")).unwrap();
    for path in ["/alternates.git", "/linked.git", "/file", "/common.git", "/escape.git", "/escape"] {
        let done = git(&server, &server.work(), &["clone", &url("alice", path), "stolen"]).run();
        let stolen = server.work().join("stolen");
        assert!(!stolen.join("readme").exists(), "{path}: {}", done.report());
        assert_ne!(done.code, Some(0), "{path}: {}", done.report());
        let _ = std::fs::remove_dir_all(stolen);
    }

    // Configuration of others is not read into messages.
    let including = bare(&server, &user, "including.git");
    disk::write(&server.path("outside/settings"), b"[broken canary-7261\n");
    let include = server.path("outside/settings").display().to_string();
    git(&server, &including, &["config", "--file", "config", "include.path", &include]).ok();
    let done = ssh(&server, "alice", "git-upload-pack /including.git").input("0000").run();
    let all = done.report();
    assert!(!all.contains("canary") && !all.contains("bad config"), "{all}");
    // And nothing of it can be written to.
    let before = disk::snapshot(&secret);
    git(&server, &theirs, &["push", &url("alice", "/common.git"), "HEAD:refs/heads/x"]).run();
    git(&server, &theirs, &["push", &url("alice", "/linked.git"), "HEAD:refs/heads/x"]).run();
    assert_eq!(disk::snapshot(&secret), before);
}

#[test]
fn hostile_lines_are_refused_and_run_nothing() {
    let server = start();
    let user = server.user("alice").create();
    bare(&server, &user, "r.git");
    let outside = server.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = (disk::snapshot(&user.home), disk::snapshot(&outside));
    let out = outside.join("ran").display().to_string();
    let lines = [
        "git-upload-pack".to_owned(),
        "git-upload-pack ''".to_owned(),
        "git-upload-pack --help".to_owned(),
        "git-upload-pack --strict /r.git".to_owned(),
        "git-upload-pack --timeout=1 /r.git".to_owned(),
        "git-upload-pack --advertise-refs /r.git".to_owned(),
        "git-upload-pack --http-backend-info-refs /r.git".to_owned(),
        "git-upload-pack -- /r.git".to_owned(),
        "git-upload-pack /r.git /r.git".to_owned(),
        format!("git-upload-pack /r.git; touch {out}"),
        format!("git-upload-pack /r.git && touch {out}"),
        format!("git-upload-pack /r.git | touch {out}"),
        format!("git-upload-pack `touch {out}`"),
        format!("git-upload-pack $(touch {out})"),
        format!("git-upload-pack '/r.git\ntouch {out}'"),
        format!("git-upload-pack /r.git > {out}"),
        format!("git-upload-pack -c core.hooksPath={out} /r.git"),
        format!("git-upload-pack --upload-pack='touch {out}' /r.git"),
        format!("git-receive-pack --receive-pack='touch {out}' /r.git"),
        "git-receive-pack --stateless-rpc /r.git".to_owned(),
        "git-receive-pack --skip-connectivity-check /r.git".to_owned(),
        "git-receive-pack --reject-thin-pack-for-testing /r.git".to_owned(),
        format!("git-upload-archive --output={out} /r.git"),
        format!("git-upload-archive --exec='touch {out}' /r.git"),
        format!("git -c alias.x='!touch {out}' x"),
        format!("git --exec-path={} upload-pack /r.git", outside.display()),
        format!("git init {out}"),
        "git daemon --base-path=/".to_owned(),
        format!("git-shell -c 'touch {out}'"),
        format!("git-lfs-authenticate /r.git upload; touch {out}"),
        format!("/usr/bin/git-upload-pack {}", user.path("r.git").display()),
        "git-upload-pack /../../../../etc".to_owned(),
        format!("git-receive-pack ext::'touch {out}'"),
        format!("GIT_SSH_COMMAND='touch {out}' git-upload-pack /r.git"),
        "git-upload-pack '~root/r.git'".to_owned(),
    ];
    assert!(lines.len() >= 30);
    for line in &lines {
        let done = ssh(&server, "alice", line).input("0000").run();
        assert!(done.code.is_some_and(|code| code != 0), "{line}: {}", done.report());
        assert_eq!(done.out(), "", "{line}");
        assert_eq!((disk::snapshot(&user.home), disk::snapshot(&outside)), before, "{line}");
    }
    // Those that reach git's grammar are told why.
    let done = ssh(&server, "alice", "git-upload-pack --strict /r.git").fails();
    assert_eq!(done.err(), "git-upload-pack: refused: expected one path and nothing else\n");
    assert_eq!(done.code, Some(128));
}

#[test]
fn a_command_whose_program_is_missing_is_left_out() {
    let server = TestServer::builder()
        .sftpd("enabled_ssh_commands", json!(["git-upload-pack", "pwd"]))
        .env("PATH", "/nonexistent")
        .start();
    server.user("alice").create();
    let log = server.raw_log().join("\n");
    assert!(log.contains("git-upload-pack is not offered: git is not installed"), "{log}");
    assert!(log.contains("git and rsync are confined by"), "{log}");
    assert_eq!(ssh(&server, "alice", "git-upload-pack /r").fails().code, Some(255));
    ssh(&server, "alice", "pwd").ok();
}

/// The arguments that start a server for which there is no Landlock, and its ports.
fn without_landlock(root: &Path, sftpd: &serde_json::Value) -> (Vec<String>, [u16; 2]) {
    let ports = [server::free_port(), server::free_port()];
    let mut config = json!({
        "sftpd": sftpd,
        "httpd": {"bind_port": ports[1], "bind_address": "127.0.0.1"},
        "data_provider": {"driver": "memory", "name": ""},
    });
    config["sftpd"]["bind_port"] = ports[0].into();
    config["sftpd"]["bind_address"] = "127.0.0.1".into();
    disk::write(&root.join("sftpgo.json"), config.to_string().as_bytes());
    std::fs::create_dir_all(root.join("work")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("py/without_landlock.py");
    let parts = [script, server::binary()].map(|path| path.display().to_string());
    let options = ["serve", "-c", &root.display().to_string(), "-l", "log.json"].map(str::to_owned);
    (parts.into_iter().chain(options).collect(), ports)
}

#[test]
fn where_nothing_confines_the_server_starts_only_if_it_is_told_to() {
    let root = tempfile::Builder::new().prefix("tidegate-e2e-git-").tempdir().unwrap();
    let commands = json!(["git-upload-pack", "git-receive-pack"]);
    let (arguments, _) = without_landlock(root.path(), &json!({"enabled_ssh_commands": commands}));
    let python = clients::python_path();
    let refused = Tool::new(&python, "python3").args(&arguments).dir(root.path()).fails();
    for part in ["sftpd.enabled_ssh_commands", "sftpd.allow_unconfined_commands", "Landlock"] {
        assert!(refused.err().contains(part), "{part}: {}", refused.report());
    }
    // Without such commands there is nothing to confine.
    for sftpd in [
        json!({"enabled_ssh_commands": ["scp", "pwd"]}),
        json!({"enabled_ssh_commands": commands, "allow_unconfined_commands": true}),
    ] {
        let root = tempfile::Builder::new().prefix("tidegate-e2e-git-").tempdir().unwrap();
        let allowed = sftpd["allow_unconfined_commands"] == json!(true);
        let (arguments, [port, http_port]) = without_landlock(root.path(), &sftpd);
        let mut command = server::command(root.path());
        let mut wrapped = std::process::Command::new(&python);
        wrapped.args(arguments).current_dir(root.path());
        wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        std::mem::swap(&mut command, &mut wrapped);
        let server = TestServer::launch(command, port, http_port, root);
        if !allowed {
            continue;
        }
        let user = server.user("alice").create();
        bare(&server, &user, "project.git");
        pushed(&server, "alice", "/project.git", "first");
        let log = server.raw_log().join("\n");
        assert!(
            log.contains("sftpd.allow_unconfined_commands: git and rsync run without confinement"),
            "{log}"
        );
        // Reading is not held to reading here, so it needs everything.
        server
            .user("reader")
            .perms("/", &["list", "download"])
            .field("home_dir", user.home.to_str())
            .create();
        let denied = ssh(&server, "reader", "git-upload-pack /project.git").fails();
        assert!(denied.err().ends_with("permission denied\n"), "{}", denied.report());
    }
}

#[test]
fn no_more_programs_run_than_are_allowed() {
    let commands = json!(["git-upload-pack", "pwd"]);
    let server =
        TestServer::builder().sftpd("enabled_ssh_commands", commands).sftpd("max_programs", 4).start();
    for name in ["alice", "bob"] {
        bare(&server, &server.user(name).create(), "project.git");
    }
    // The last quarter is for others.
    let mut running: Vec<_> =
        (0..3).map(|_| ssh(&server, "alice", "git-upload-pack /project.git").start()).collect();
    wait_for("all to run", secs(20), || (children(&server).len() == 3).then_some(()));
    let refused = ssh(&server, "alice", "git-upload-pack /project.git").fails();
    assert_eq!(refused.err(), "git-upload-pack: too many programs are running, try again later\n");
    ssh(&server, "alice", "pwd").ok();
    git(&server, &server.work(), &["ls-remote", &url("bob", "/project.git")]).ok();
    for client in &mut running {
        process::kill_group(client);
        client.wait().unwrap();
    }
    wait_for("room", secs(20), || children(&server).is_empty().then_some(()));
    git(&server, &server.work(), &["ls-remote", &url("alice", "/project.git")]).ok();
}

#[test]
fn a_hook_learns_of_the_command_and_not_of_its_streams() {
    let root = tempfile::tempdir().unwrap();
    let script = hooks::recorder(&root.path().join("hook"));
    let actions = json!({"execute_on": ["ssh_cmd", "upload", "download"], "command": script.to_str()});
    let server =
        TestServer::builder().sftpd("enabled_ssh_commands", json!(["*"])).sftpd("actions", actions).start();
    let user = server.user("alice").create();
    bare(&server, &user, "project.git");
    pushed(&server, "alice", "/project.git", "first");
    let runs = hooks::runs(&root.path().join("hook"), 2);
    let run = |command: &str| ["ssh_cmd", "alice", "/project.git", "", command].map(str::to_owned).to_vec();
    assert_eq!(runs, [run("git-receive-pack"), run("git-upload-pack")].into());
}
