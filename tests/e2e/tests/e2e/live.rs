//! Sessions that are open, idle or at work, while their account is changed in the database behind the server's back.

use std::path::Path;
use std::process::Child;

use rustix::process::Signal;
use serde_json::json;
use tidegate_e2e::process::kill_group;
use tidegate_e2e::{RawSftp, TestServer, Tool, disk, flags, secs, wait_for};

use crate::rsync::{no_programs_left, programs, ssh};

/// What ends every session of an account, as an assignment or a statement of its own.
const ENDS: [(&str, &str); 14] = [
    ("disabled", "update users set status = 0"),
    ("removed", "delete from users"),
    ("renamed", "update users set username = 'somebody else'"),
    ("expired", "update users set expiration_date = 1"),
    ("without-keys", "update users set public_keys = '[]'"),
    ("with-null-keys", "update users set public_keys = null"),
    ("moved", "update users set home_dir = '/nowhere'"),
    ("denied", r#"update users set filters = '{"denied_ip":["127.0.0.0/8"]}'"#),
    ("not-allowed", r#"update users set filters = '{"allowed_ip":["10.0.0.0/8"]}'"#),
    ("denied-unclearly", r#"update users set filters = '{"denied_ip":["::ffff:127.0.0.0/8"]}'"#),
    ("with-damaged-filters", "update users set filters = 'rubbish'"),
    ("with-a-filter-of-tomorrow", r#"update users set status = 0, filters = '{"denied_country":["xx"]}'"#),
    ("with-a-status-in-words", "update users set status = 'disabled'"),
    ("with-bytes-for-permissions", "update users set permissions = x'ff00'"),
];

/// What a session is at when that happens.
struct Busy {
    idle: RawSftp,
    uploading: RawSftp,
    programs: Vec<Child>,
}

impl Busy {
    fn new(server: &TestServer, user: &str) -> Self {
        let idle = RawSftp::connect(server, user);
        let mut uploading = RawSftp::connect(server, user);
        let handle = uploading.open("/file", flags::WRITE | flags::CREAT).unwrap();
        uploading.write(&handle, 0, b"half").unwrap();
        let commands = ["sha256sum", "git-receive-pack repo", "rsync --server -re.LsfxCIvu . d"];
        let programs = commands.map(|command| ssh(server, user, command).start());
        Self { idle, uploading, programs: programs.into() }
    }

    fn is_over(&mut self) -> bool {
        let over = |child: &mut Child| child.try_wait().unwrap().is_some();
        !self.idle.is_open() && !self.uploading.is_open() && self.programs.iter_mut().all(over)
    }

    fn is_whole(&mut self) -> bool {
        let runs = |child: &mut Child| child.try_wait().unwrap().is_none();
        self.idle.stat("/").is_ok() && self.uploading.stat("/").is_ok() && self.programs.iter_mut().all(runs)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.programs {
            kill_group(child);
            let _ = child.wait();
        }
    }
}

fn change(file: &Path, statement: &str, user: &str) {
    let statement = format!("{statement} where username = '{user}'");
    Tool::new("sqlite3", "sqlite3").args(["-cmd", ".timeout 5000"]).arg(file).arg(statement).ok();
}

/// A record that nobody could log in with kept its open sessions, even if it was damaged in the very statement that
/// disabled the account.
#[test]
fn sessions_of_an_account_that_cannot_log_in_any_more_went_on() {
    let builder = TestServer::builder().sqlite(None);
    let file = builder.config_dir().join("sftpgo.db");
    let mut server = builder.sftpd("enabled_ssh_commands", json!(["*"])).start();
    let start = |user: &str| {
        let home = server.user(user).create().home;
        Tool::new("git", "git").args(["init", "-q", "--bare"]).arg(home.join("repo")).ok();
        std::fs::create_dir(home.join("d")).unwrap();
        Busy::new(&server, user)
    };
    let mut bystander = start("bystander");
    for (user, statement) in ENDS {
        let mut busy = start(user);
        wait_for("all five sessions", secs(20), || {
            let own = |all: Vec<serde_json::Value>| all.iter().filter(|one| one["username"] == user).count();
            (own(server.connections()) == 5).then_some(())
        });
        assert!(busy.is_whole(), "{user}");
        change(&file, statement, user);
        wait_for(&format!("the sessions of the account {user}"), secs(10), || busy.is_over().then_some(()));
        assert_eq!(disk::text(&server.path(format!("homes/{user}/file"))), "half", "{user}");
    }
    assert!(bystander.is_whole());
    assert!(!programs(&server).is_empty());
    drop(bystander);
    no_programs_left(&server);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit(secs(20)).code(), Some(0));
}

/// A bandwidth that the REST API would refuse overflowed when the first packet was written.
#[test]
fn numbers_that_only_a_database_can_hold_ended_the_connection() {
    const MOST: &str = "9223372036854775807";
    const LEAST: &str = "-9223372036854775808";
    let builder = TestServer::builder().sqlite(None);
    let file = builder.config_dir().join("sftpgo.db");
    let server = builder.start();
    let columns = [
        "uid",
        "gid",
        "max_sessions",
        "quota_size",
        "quota_files",
        "upload_bandwidth",
        "download_bandwidth",
        "expiration_date",
        "used_quota_size",
        "used_quota_files",
        "last_quota_update",
        "last_login",
    ];
    for value in [MOST, LEAST] {
        for column in columns {
            let name = format!("{column}{value}");
            server.user(&name).create();
            change(&file, &format!("update users set {column} = {value}"), &name);
            let mut sftp = RawSftp::connect(&server, &name);
            sftp.put("/file", b"content").unwrap_or_else(|code| panic!("{name}: {code}"));
            assert_eq!(sftp.get("/file").unwrap(), b"content", "{name}");
            sftp.remove("/file").unwrap_or_else(|code| panic!("{name}: {code}"));
        }
    }
    assert!(!server.console().contains("defect"), "{}", server.console());
}
