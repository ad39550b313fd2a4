//! The data providers under the whole server: users on real database servers, which go away and come back; files of
//! the reference; a dump. The servers are those of the provider's own tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate_e2e::clients::{curl, sftp};
use tidegate_e2e::{RawSftp, TestServer, Tool, User, disk, flags, http, keys, secs, wait_for};

#[path = "../../../../crates/store/tests/engines/mod.rs"]
mod engines;

use engines::proxy::{Loss, Proxy};
use engines::{DATABASE, Engine, MARIADB, PASSWORD, POSTGRESQL, Server, USER};

fn server_over(database: &Server, driver: &str) -> TestServer {
    server_through(database.port, driver)
}

fn server_through(port: u16, driver: &str) -> TestServer {
    let mut server = TestServer::builder();
    for (key, value) in [
        ("driver", json!(driver)),
        ("host", json!("127.0.0.1")),
        ("port", json!(port)),
        ("name", json!(DATABASE)),
        ("username", json!(USER)),
        ("password", json!(PASSWORD)),
        // Every upload is counted.
        ("track_quota", json!(1)),
    ] {
        server = server.set("data_provider", key, value);
    }
    server.start()
}

fn availability(server: &TestServer) -> String {
    let metrics = http::request(server.http_port, "GET", "/metrics", &[], None).expect(200);
    let line = metrics.body.lines().find(|line| line.starts_with("sftpgo_dataprovider_availability "));
    line.expect("the metric is there").rsplit(' ').next().unwrap().to_owned()
}

fn provider_status(server: &TestServer) -> u16 {
    server.rest("GET", "/api/v1/providerstatus", None).status
}

/// Uploads, overwrites, renames and removes small files until it is told to stop; how many operations that were.
/// Each of them must succeed.
fn busy(mut session: RawSftp, seed: u64, stop: &AtomicBool) -> u64 {
    let mut steps = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("f{}", steps % 17);
        let size = (steps * 7919 + seed * 104_729) % 5000;
        session.put(&name, &disk::noise(steps, size as usize)).unwrap();
        match steps % 5 {
            3 => session.remove(&name).unwrap(),
            4 => {
                let target = format!("renamed{}", steps % 3);
                // No overwriting by a plain rename.
                let _ = session.remove(&target);
                session.rename(&name, &target).unwrap();
            }
            _ => assert_eq!(session.get(&name).unwrap().len() as u64, size),
        }
        steps += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    steps
}

/// Bytes and number of the files in a home without folders.
fn stored(user: &User) -> String {
    let files: Vec<u64> =
        std::fs::read_dir(&user.home).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    format!("{}\t{}", files.iter().sum::<u64>(), files.len())
}

/// Logins fail and say why, running transfers go on and end well, and what they stored is counted when the database
/// is back: nothing more and nothing less, of sessions that were busy all the time and of one that has ended.
fn outage(engine: &'static Engine, driver: &str) {
    const BUSY: u64 = 5;
    let mut database = Server::start(engine);
    let server = server_over(&database, driver);
    let anna = server.user("anna").create();
    let stop = Arc::new(AtomicBool::new(false));
    let crowd: Vec<(User, JoinHandle<u64>)> = (0..BUSY)
        .map(|number| {
            let user = server.user(&format!("busy{number}")).create();
            let (session, stop) = (RawSftp::connect(&server, &user.name), Arc::clone(&stop));
            (user, std::thread::spawn(move || busy(session, number, &stop)))
        })
        .collect();
    disk::write(&server.work().join("first"), &disk::noise(1, 1000));
    sftp(&server, "anna", &[], "put first").ok();
    let usage = |database: &Server, name: &str| {
        let columns = "used_quota_size, used_quota_files";
        database.sql(&format!("SELECT {columns} FROM users WHERE username = '{name}'"))
    };
    let anna_has = |database: &Server, want: &str| (usage(database, "anna") == want).then_some(());
    wait_for("the first upload in the table", secs(20), || anna_has(&database, "1000\t1"));
    assert_eq!((provider_status(&server), availability(&server).as_str()), (200, "1"));

    let mut running = RawSftp::connect(&server, "anna");
    let handle = running.open("second", flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
    running.write(&handle, 0, &[7; 500]).unwrap();
    let reading = running.open("first", flags::READ).unwrap();
    assert_eq!(running.read(&reading, 0, 400).unwrap().len(), 400);
    database.kill();

    let started = Instant::now();
    sftp(&server, "anna", &[], "ls").fails();
    assert!(started.elapsed() < Duration::from_secs(20), "a login waited {:?}", started.elapsed());
    assert_eq!(provider_status(&server), 500);
    let failed = server.wait_log(&[("sender", json!("connection_failed")), ("username", json!("anna"))]);
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("data provider unavailable"), "{error}");
    let says = |what: &str| server.raw_log().iter().any(|line| line.contains(what));
    wait_for("a line about the provider", secs(35), || {
        says("the data provider is not available").then_some(())
    });
    assert_eq!(availability(&server), "0");

    running.write(&handle, 500, &[8; 500]).unwrap();
    running.close(&handle).unwrap();
    assert_eq!(running.read(&reading, 400, 1000).unwrap().len(), 600);
    assert_eq!(std::fs::read(anna.path("second")).unwrap(), [[7; 500], [8; 500]].concat());
    // What is not yet written must outlive the session.
    drop(running);

    for (user, worker) in &crowd {
        assert!(!worker.is_finished(), "{} stopped working", user.name);
    }
    database.restart();
    wait_for("the second upload in the table", secs(60), || anna_has(&database, "2000\t2"));
    sftp(&server, "anna", &[], "ls").ok();
    assert_eq!(provider_status(&server), 200);
    wait_for("the metric to rise", secs(40), || (availability(&server) == "1").then_some(()));

    stop.store(true, Ordering::Relaxed);
    for (user, worker) in crowd {
        let steps = worker.join().unwrap_or_else(|_| panic!("a request of {} failed", user.name));
        let on_disk = stored(&user);
        wait_for(&format!("the usage of {} after {steps} steps", user.name), secs(30), || {
            (usage(&database, &user.name) == on_disk).then_some(())
        });
        server.rest("POST", "/api/v1/quota_scan", Some(&json!({"username": user.name}))).expect(201);
        wait_for("the end of the scan", secs(20), || {
            (server.rest("GET", "/api/v1/quota_scan", None).expect(200).json() == json!([])).then_some(())
        });
        assert_eq!(usage(&database, &user.name), on_disk, "a scan finds the same for {}", user.name);
    }
}

#[test]
fn postgresql_goes_away_and_comes_back() {
    outage(&POSTGRESQL, "postgresql");
}

#[test]
fn mariadb_goes_away_and_comes_back() {
    outage(&MARIADB, "mysql");
}

/// The connection to the database breaks when an increment was sent. It is counted once, whether the database has it
/// or not, and nobody is bothered.
fn lost_answer(engine: &'static Engine, driver: &str) {
    let database = Server::start(engine);
    let proxy = Proxy::to(database.port);
    let server = server_through(proxy.port, driver);
    let anna = server.user("anna").create();
    let mut session = RawSftp::connect(&server, &anna.name);
    let usage =
        || database.sql("SELECT used_quota_size, used_quota_files FROM users WHERE username = 'anna'");
    let says = |what: &str| server.raw_log().iter().filter(|line| line.contains(what)).count();
    let mut size = 0;
    for (number, loss) in [Loss::Statement, Loss::Answer].into_iter().enumerate() {
        let handle = session.open(format!("f{number}"), flags::WRITE | flags::CREAT | flags::TRUNC).unwrap();
        session.write(&handle, 0, &[7; 500]).unwrap();
        size += 500;
        let (doubts, scans) = (says("may be written or not"), says("scan of user"));
        // Reads of the account that happen to be next are lost instead, which harms nobody.
        while says("may be written or not") == doubts {
            proxy.lose(loss);
            session.put("other", &disk::noise(1, 10)).unwrap();
            session.remove("other").unwrap();
            wait_for("the loss", secs(10), || proxy.has_lost().then_some(()));
        }
        session.close(&handle).unwrap();
        wait_for("the usage after a scan", secs(60), || {
            (usage() == format!("{size}\t{}", number + 1)).then_some(())
        });
        wait_for("the scan", secs(60), || (says("scan of user") > scans).then_some(()));
        assert_eq!(usage(), format!("{size}\t{}", number + 1));
    }
}

#[test]
fn postgresql_does_not_say_whether_it_has_counted() {
    lost_answer(&POSTGRESQL, "postgresql");
}

#[test]
fn mariadb_does_not_say_whether_it_has_counted() {
    lost_answer(&MARIADB, "mysql");
}

#[test]
fn a_bolt_file_of_the_reference_is_used_and_left_as_it_is() {
    let original = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/store/tests/fixtures/reference.bolt");
    let builder = TestServer::builder().set("data_provider", "driver", "bolt");
    let builder = builder.set("data_provider", "name", "sftpgo.db");
    let copy = builder.config_dir().join("sftpgo.db");
    std::fs::copy(&original, &copy).unwrap();
    let server = builder.start();
    let list = server.rest("GET", "/api/v1/user", None).expect(200).json();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|user| user["username"].clone()).collect();
    assert_eq!(json!(names), json!(["anna", "björn", "key only", "unix"]));
    let home = server.path("homes/anna");
    server.rest("PUT", "/api/v1/user/1", Some(&json!({"home_dir": home}))).expect(200);
    disk::write(&server.work().join("file"), b"content");
    curl(&server, "anna", "anna-secret", &["-T", "file", "URL/file"]).ok();
    assert_eq!(disk::text(&home.join("file")), "content");
    wait_for("the usage of anna", secs(10), || {
        let anna = server.rest("GET", "/api/v1/user/1", None).expect(200).json();
        (anna["used_quota_size"] == 7 && anna["last_login"] != 0).then_some(())
    });
    disk::same(&copy, &original);
    assert!(copy.with_file_name("sftpgo.db.redb").is_file());
}

#[test]
fn the_memory_provider_begins_with_a_dump() {
    let builder = TestServer::builder().set("data_provider", "name", "dump.json");
    let home = builder.config_dir().with_file_name("homes").join("anna");
    std::fs::create_dir_all(&home).unwrap();
    let user = json!({
        "id": 5, "username": "anna", "status": 1, "home_dir": home, "permissions": {"/": ["*"]},
        "public_keys": [keys::keys().client_public()],
    });
    let dump = builder.config_dir().join("dump.json");
    std::fs::write(&dump, json!({"users": [user]}).to_string()).unwrap();
    let server = builder.start();
    disk::write(&server.work().join("file"), b"content");
    sftp(&server, "anna", &[], "put file").ok();
    assert_eq!(disk::text(&home.join("file")), "content");
    let listed: Value = server.rest("GET", "/api/v1/user/5", None).expect(200).json();
    assert_eq!(listed["username"], "anna");
}

#[test]
fn a_sqlite_file_is_whole_when_the_server_has_ended() {
    let mut server = TestServer::builder().sqlite(None).start();
    server.user("anna").create();
    let file = server.path("conf/sftpgo.db");
    let log = file.with_file_name("sftpgo.db-wal");
    assert!(log.metadata().is_ok_and(|log| log.len() > 0), "there is no log to be folded back");
    server.signal(Signal::TERM);
    assert!(server.wait_exit(secs(30)).success());
    assert!(!log.exists(), "the log is still beside the file");
    let names =
        Tool::new("sqlite3", "sqlite3").arg("-readonly").arg(&file).arg("select username from users").ok();
    assert_eq!(names.trim(), "anna");
}
