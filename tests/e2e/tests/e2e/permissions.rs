//! Permissions: each verb works when allowed and fails when denied, and the disk shows it after each.

use tidegate_e2e::{Attrs, RawSftp, TestServer, User, disk, flags, status};

const VERBS: [&str; 11] = [
    "list",
    "download",
    "upload",
    "overwrite",
    "rename",
    "delete",
    "create_dirs",
    "create_symlinks",
    "chmod",
    "chown",
    "chtimes",
];

/// What a request answers: the content or names it gave, or the status it was refused with.
type Answer = Result<String, u32>;
type Action = fn(&mut RawSftp) -> Answer;

struct Row {
    /// What the row shows.
    name: &'static str,
    /// The verbs that the action needs. Each must be missed when it is absent; nothing else must be needed.
    needs: &'static [&'static str],
    action: Action,
    /// What a successful answer contains.
    answer: &'static str,
    /// Which entry of the home the action changes, and the start of its description afterwards; the entry is
    /// unchanged when the action is denied. Empty for actions that change nothing.
    after: &'static [(&'static str, Option<&'static str>)],
}

fn done(result: Result<(), u32>) -> Answer {
    result.map(|()| String::new())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Opens with these flags, writes, closes.
fn write_with(sftp: &mut RawSftp, path: &str, pflags: u32, data: &[u8]) -> Answer {
    let handle = sftp.open(path, pflags)?;
    let written = sftp.write(&handle, 0, data);
    sftp.close(&handle)?;
    done(written)
}

const ROWS: &[Row] = &[
    Row {
        name: "list: read a directory",
        needs: &["list"],
        action: |sftp| sftp.list("/").map(|all| all.into_iter().map(|e| text(&e.name) + " ").collect()),
        answer: "file",
        after: &[],
    },
    Row {
        name: "list: stat a file",
        needs: &["list"],
        action: |sftp| sftp.stat("/file").map(|attrs| format!("{:?}", attrs.size)),
        answer: "Some(3)",
        after: &[],
    },
    Row {
        name: "list: lstat a link",
        needs: &["list"],
        action: |sftp| sftp.lstat("/link").map(|attrs| format!("{:o}", attrs.mode.unwrap_or(0))),
        answer: "120777",
        after: &[],
    },
    Row {
        name: "download: read a file",
        needs: &["download"],
        action: |sftp| sftp.get("/file").map(|bytes| text(&bytes)),
        answer: "old",
        after: &[],
    },
    Row {
        name: "upload: create a file",
        needs: &["upload"],
        action: |sftp| done(sftp.put("/new", b"new")),
        answer: "",
        after: &[("new", Some("file 644 3 "))],
    },
    Row {
        name: "upload and overwrite: replace a file",
        needs: &["upload", "overwrite"],
        action: |sftp| done(sftp.put("/file", b"newer")),
        answer: "",
        after: &[("file", Some("file 644 5 "))],
    },
    Row {
        name: "upload and overwrite: write into a file without truncating it",
        needs: &["upload", "overwrite"],
        action: |sftp| write_with(sftp, "/file", flags::WRITE, b"OL"),
        answer: "",
        after: &[("file", Some("file 644 3 "))],
    },
    Row {
        name: "upload and overwrite: append to a file",
        needs: &["upload", "overwrite"],
        action: |sftp| {
            let handle = sftp.open("/file", flags::WRITE | flags::APPEND)?;
            let written = sftp.write(&handle, 3, b"est");
            sftp.close(&handle)?;
            done(written)
        },
        answer: "",
        after: &[("file", Some("file 644 6 "))],
    },
    Row {
        name: "rename: move a file",
        needs: &["rename"],
        action: |sftp| done(sftp.rename("/file", "/moved")),
        answer: "",
        after: &[("file", None), ("moved", Some("file 644 3 "))],
    },
    Row {
        name: "rename and overwrite: move onto a file",
        needs: &["rename", "overwrite"],
        action: |sftp| done(sftp.extended("posix-rename@openssh.com", &[b"/file", b"/other"])),
        answer: "",
        after: &[("file", None), ("other", Some("file 644 3 "))],
    },
    Row {
        name: "delete: remove a file",
        needs: &["delete"],
        action: |sftp| done(sftp.remove("/file")),
        answer: "",
        after: &[("file", None)],
    },
    Row {
        name: "delete: remove a link, not its target",
        needs: &["delete"],
        action: |sftp| done(sftp.remove("/link")),
        answer: "",
        after: &[("link", None)],
    },
    Row {
        name: "delete: remove a directory",
        needs: &["delete"],
        action: |sftp| done(sftp.rmdir("/dir")),
        answer: "",
        after: &[("dir", None)],
    },
    Row {
        name: "create_dirs: make a directory",
        needs: &["create_dirs"],
        action: |sftp| done(sftp.mkdir("/made")),
        answer: "",
        after: &[("made", Some("dir 755"))],
    },
    Row {
        name: "create_symlinks: make a link",
        needs: &["create_symlinks"],
        action: |sftp| done(sftp.symlink("file", "/made")),
        answer: "",
        after: &[("made", Some("link file"))],
    },
    Row {
        name: "chmod: change a mode",
        needs: &["chmod"],
        action: |sftp| done(sftp.setstat("/file", &Attrs::with_mode(0o600))),
        answer: "",
        after: &[("file", Some("file 600 "))],
    },
    Row {
        name: "chmod: change the mode of a directory",
        needs: &["chmod"],
        action: |sftp| done(sftp.setstat("/dir", &Attrs::with_mode(0o700))),
        answer: "",
        after: &[("dir", Some("dir 700"))],
    },
    Row {
        name: "copy-file needs download at the source and upload at the target",
        needs: &["download", "upload"],
        action: |sftp| {
            let packet = sftp.packet(200).string("copy-file").string("/file").string("/copy").raw(&[0]);
            match sftp.request(&packet).status().0 {
                status::OK => done(Ok(())),
                code => Err(code),
            }
        },
        answer: "",
        after: &[("copy", Some("file "))],
    },
];

fn plant(user: &User) {
    for (name, content) in [("file", "old"), ("other", "other")] {
        disk::write(&user.path(name), content.as_bytes());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(user.path(name), mode).unwrap();
    }
    std::fs::create_dir(user.path("dir")).unwrap();
    std::os::unix::fs::symlink("other", user.path("link")).unwrap();
}

/// Runs every action with exactly the verbs it needs, and then without each of them.
#[test]
fn each_verb_allowed_and_denied() {
    let server = TestServer::start();
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let user = server.user(&format!("allowed{number}")).perms("/", row.needs).create();
        plant(&user);
        let answer = (row.action)(&mut RawSftp::connect(&server, &user.name));
        if !answer.as_ref().is_ok_and(|text| text.contains(row.answer)) {
            wrong.push(format!("{}: with {:?} alone the answer was {answer:?}", row.name, row.needs));
        }
        let disk = disk::snapshot(&user.home);
        for (name, start) in row.after {
            let entry = disk.get(name.as_bytes()).map(String::as_str);
            let fits = match (entry, start) {
                (Some(entry), Some(start)) => entry.starts_with(start),
                (entry, start) => entry.is_none() && start.is_none(),
            };
            if !fits {
                wrong.push(format!("{}: allowed, and then the disk has {name} as {entry:?}", row.name));
            }
        }

        for missing in row.needs {
            let others: Vec<&str> = VERBS.into_iter().filter(|verb| verb != missing).collect();
            let user = server.user(&format!("denied{number}{missing}")).perms("/", &others).create();
            plant(&user);
            let before = disk::snapshot(&user.home);
            let answer = (row.action)(&mut RawSftp::connect(&server, &user.name));
            if answer != Err(status::PERMISSION_DENIED) {
                wrong.push(format!("{}: without {missing} the answer was {answer:?}", row.name));
            }
            if disk::snapshot(&user.home) != before {
                wrong.push(format!("{}: without {missing} the disk has changed", row.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn chtimes_and_chown_allowed_and_denied() {
    let server = TestServer::start();
    let times = Attrs { times: Some((1_000_000_000, 1_000_000_001)), ..Attrs::default() };
    // Giving a file to its owner is a change that needs no privilege.
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = Attrs { owner: Some(me), ..Attrs::default() };
    for (verb, attrs) in [("chtimes", &times), ("chown", &owner)] {
        let others: Vec<&str> = VERBS.into_iter().filter(|other| *other != verb).collect();
        let allowed = server.user(&format!("with-{verb}")).perms("/", &[verb]).create();
        let denied = server.user(&format!("without-{verb}")).perms("/", &others).create();
        for user in [&allowed, &denied] {
            plant(user);
            disk::set_times(&user.path("file"), 900_000_000);
        }
        assert_eq!(RawSftp::connect(&server, &allowed.name).setstat("/file", attrs), Ok(()), "{verb}");
        let answer = RawSftp::connect(&server, &denied.name).setstat("/file", attrs);
        assert_eq!(answer, Err(status::PERMISSION_DENIED), "{verb}");
        assert_eq!(disk::mtime(&denied.path("file")), 900_000_000, "{verb}");
        let expected = if verb == "chtimes" { 1_000_000_001 } else { 900_000_000 };
        assert_eq!(disk::mtime(&allowed.path("file")), expected, "{verb}");
    }
}

#[test]
fn a_handle_gives_no_right_to_change_attributes() {
    let server = TestServer::start();
    let user = server.user("alice").perms("/", &["upload", "download", "list"]).create();
    let mut sftp = RawSftp::connect(&server, "alice");
    let handle = sftp.open("/new", flags::WRITE | flags::CREAT).unwrap();
    assert_eq!(sftp.fsetstat(&handle, &Attrs::with_mode(0o777)), Err(status::PERMISSION_DENIED));
    assert_eq!(sftp.close(&handle), Ok(()));
    assert_eq!(disk::mode(&user.path("new")), 0o644);
}

#[test]
fn a_handle_for_reading_does_not_write_and_the_reverse() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"content");
    let mut sftp = RawSftp::connect(&server, "alice");
    let reading = sftp.open("/file", flags::READ).unwrap();
    assert!(sftp.write(&reading, 0, b"X").is_err());
    let writing = sftp.open("/other", flags::WRITE | flags::CREAT).unwrap();
    assert!(sftp.read(&writing, 0, 10).is_err());
    assert_eq!(disk::text(&user.path("file")), "content");
}

#[test]
fn the_nearest_directory_decides_and_by_component() {
    let server = TestServer::start();
    let user = server
        .user("alice")
        .perms("/", &["list"])
        .perms("/p", &["delete"])
        .perms("/p/1", &["download", "upload"])
        .perms("/drop", &["upload"])
        .create();
    for name in ["p/file", "p/1/file", "p/1/sub/file", "p12/file", "drop/file"] {
        disk::write(&user.path(name), b"content");
    }
    let mut sftp = RawSftp::connect(&server, "alice");
    let denied = status::PERMISSION_DENIED;
    assert_eq!(sftp.get("/p/1/sub/file"), Ok(b"content".to_vec()));
    assert_eq!(sftp.get("/p/file"), Err(denied), "lists are not inherited");
    assert_eq!(sftp.get("/p12/file"), Err(denied), "a prefix of text is no directory");
    assert_eq!(sftp.remove("/p/1/file"), Err(denied));
    assert_eq!(sftp.remove("/p/file"), Ok(()));
    assert_eq!(sftp.get("/p/../p/1/../1/file"), Ok(b"content".to_vec()));
    assert_eq!(sftp.put("/drop/new", b"x"), Ok(()));
    assert_eq!(sftp.get("/drop/new"), Err(denied));
    assert_eq!(sftp.list("/drop").map(|_| ()), Err(denied));
    assert_eq!(sftp.put("/new", b"x"), Err(denied));
    assert!(!user.path("new").exists());
    assert!(user.path("p/1/file").exists());
    assert!(!user.path("p/file").exists());
}

#[test]
fn a_rename_needs_the_right_on_both_sides() {
    let server = TestServer::start();
    let user =
        server.user("alice").perms("/", &["*"]).perms("/locked", &["list", "upload", "download"]).create();
    disk::write(&user.path("locked/inside"), b"inside");
    disk::write(&user.path("outside"), b"outside");
    let before = disk::snapshot(&user.home);
    let mut sftp = RawSftp::connect(&server, "alice");
    assert_eq!(sftp.rename("/locked/inside", "/taken"), Err(status::PERMISSION_DENIED));
    assert_eq!(sftp.rename("/outside", "/locked/given"), Err(status::PERMISSION_DENIED));
    assert_eq!(disk::snapshot(&user.home), before);
}

#[test]
fn moving_a_directory_does_not_move_files_out_of_their_restriction() {
    let server = TestServer::start();
    let user = server.user("alice").perms("/", &["*"]).perms("/top/secret", &["list"]).create();
    disk::write(&user.path("top/secret/file"), b"secret");
    let mut sftp = RawSftp::connect(&server, "alice");
    // Whether the rename itself is refused or the files stay protected is the server's choice.
    let _ = sftp.rename("/top", "/elsewhere");
    for path in ["/top/secret/file", "/elsewhere/secret/file"] {
        assert!(sftp.get(path).is_err(), "{path} could be read after a rename of its parent");
    }
}

#[test]
fn a_link_carries_nobody_across_a_permission_boundary() {
    let server = TestServer::start();
    let user = server.user("alice").perms("/", &["*"]).perms("/restricted", &["list"]).create();
    disk::write(&user.path("restricted/secret"), b"secret");
    std::fs::create_dir(user.path("open")).unwrap();
    for (link, target) in [("open/dir", "../restricted"), ("open/file", "../restricted/secret")] {
        std::os::unix::fs::symlink(target, user.path(link)).unwrap();
    }
    let before = disk::snapshot(&user.home);
    let mut sftp = RawSftp::connect(&server, "alice");
    let denied = Err(status::PERMISSION_DENIED);
    assert_eq!(sftp.get("/open/dir/secret").map(drop), denied);
    assert_eq!(sftp.get("/open/file").map(drop), denied);
    assert_eq!(sftp.put("/open/dir/new", b"x"), denied);
    assert_eq!(sftp.put("/open/file", b"x"), denied);
    assert_eq!(sftp.remove("/open/dir/secret"), denied);
    assert_eq!(sftp.mkdir("/open/dir/made"), denied);
    assert_eq!(sftp.rename("/open/dir/secret", "/taken"), denied);
    assert_eq!(sftp.setstat("/open/file", &Attrs::with_mode(0o777)), denied);
    assert_eq!(sftp.extended("hardlink@openssh.com", &[b"/restricted/secret", b"/stolen"]), denied);
    assert_eq!(sftp.extended("hardlink@openssh.com", &[b"/open/dir/secret", b"/stolen"]), denied);
    assert_eq!(disk::snapshot(&user.home), before);
    // What the directory itself allows works through the link as well.
    assert!(sftp.list("/open/dir").is_ok());
}

#[test]
fn the_root_cannot_be_renamed_or_removed() {
    let server = TestServer::start();
    server.user("alice").create();
    let mut sftp = RawSftp::connect(&server, "alice");
    assert_eq!(sftp.rename("/", "/elsewhere"), Err(status::PERMISSION_DENIED));
    assert_eq!(sftp.rmdir("/"), Err(status::PERMISSION_DENIED));
    assert_eq!(sftp.remove("/"), Err(status::FAILURE));
    assert!(sftp.list("/").is_ok());
}
