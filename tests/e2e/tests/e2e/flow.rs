//! Clients that stall, flood, crawl or renegotiate. Each test keeps a fault of the transport from returning:
//! a stalled reader must not stop anything else, memory stays bounded, nothing outlives its connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidegate_e2e::clients::{lftp, python, python_login, sftp, ssh_options};
use tidegate_e2e::{Packet, RawSftp, TestServer, Tool, disk, flags, kind, secs, wait_for};

const MIB: usize = 1 << 20;

/// Sends READs for the whole file again and again without reading one answer, until the server has had enough
/// or `count` are sent. Writing happens on this thread: a server that stops reading would block it.
fn flood_with_reads(sftp: &mut RawSftp, path: &str, count: u32) -> Vec<u8> {
    let handle = sftp.open(path, flags::READ).unwrap();
    sftp.stop_reading();
    for number in 0..count {
        let packet = Packet::new(kind::READ).u32(number).string(&handle);
        if sftp.send(&packet.u64(u64::from(number % 64) * 255 * 1024).u32(255 * 1024)).is_err() {
            break;
        }
    }
    handle
}

/// A server with a user `alice` who has a file `big` of 17 MiB.
fn with_big_file() -> (TestServer, tidegate_e2e::User) {
    let server = TestServer::start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("big"), 1, 17 * MIB);
    (server, user)
}

#[test]
fn a_client_that_asks_for_everything_and_reads_nothing_costs_little_memory() {
    let (server, user) = with_big_file();
    sftp(&server, "alice", &[], "get big /dev/null\n").ok();
    let before = server.rss_kib();
    let files_before = server.open_files().len();
    let mut greedy = RawSftp::connect(&server, "alice");
    flood_with_reads(&mut greedy, "/big", 20_000);
    std::thread::sleep(Duration::from_secs(1));
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "grew by {grown} KiB");
    sftp(&server, "alice", &[], "get big other\n").within(20).ok();
    disk::same(&user.path("big"), &server.work().join("other"));

    drop(greedy);
    wait_for("the file and the socket of the killed client to be closed", secs(2), || {
        let files = server.open_files();
        let left = files.iter().any(|file| file.contains("/homes/")) || files.len() > files_before;
        (!left).then_some(())
    });
    assert_eq!(server.connections().len(), 0);
}

/// A master connection; channels are opened over it by `-S`.
pub(crate) struct Master<'a> {
    server: &'a TestServer,
    child: std::process::Child,
    socket: String,
}

impl<'a> Master<'a> {
    pub(crate) fn open(server: &'a TestServer) -> Self {
        // The path of a socket is limited to about a hundred bytes.
        let socket = server.path("cm").display().to_string();
        let child = Tool::new("ssh", "openssh-client")
            .args(ssh_options())
            .args(["-p", &server.port.to_string(), "-M", "-S", &socket, "-N", "alice@127.0.0.1"])
            .start();
        let master = Self { server, child, socket };
        wait_for("the master connection", secs(20), || {
            std::path::Path::new(&master.socket).exists().then_some(())
        });
        master
    }

    pub(crate) fn raw(&self) -> RawSftp {
        let mut sftp =
            RawSftp::connect_without_init(self.server, "alice", &["-S".into(), self.socket.clone()]);
        sftp.init();
        sftp
    }

    pub(crate) fn sftp(&self, batch: &str) -> Tool {
        let control = format!("ControlPath={}", self.socket);
        sftp(self.server, "alice", &["-o", &control], batch)
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_stalled_channel_does_not_stall_the_other_channel_of_its_connection() {
    let (server, user) = with_big_file();
    let master = Master::open(&server);
    let mut stalled = master.raw();
    let mut lively = master.raw();
    assert_eq!(server.connections().len(), 1, "both channels belong to one connection");
    let handle = stalled.open("/big", flags::READ).unwrap();
    stalled.stop_reading();
    for number in 0..64_u32 {
        let packet = Packet::new(kind::READ).u32(number).string(&handle);
        stalled.send(&packet.u64(u64::from(number) * 255 * 1024).u32(255 * 1024)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..20 {
        let start = Instant::now();
        assert!(lively.stat("/big").is_ok());
        assert!(start.elapsed() < secs(2), "a request took {:?} beside a stalled channel", start.elapsed());
    }
    assert!(lively.put("/beside", &disk::noise(3, 100_000)).is_ok());
    drop(stalled);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        lively.get("/beside").unwrap() == disk::noise(3, 100_000),
        "after the stalled channel was closed"
    );
    master.sftp("get big other\n").within(30).ok();
    disk::same(&user.path("big"), &server.work().join("other"));
}

#[test]
fn a_slow_upload_and_a_download_share_a_connection() {
    let server = TestServer::start();
    let user = server.user("alice").field("upload_bandwidth", 8_000).create();
    disk::write_noise(&user.path("big"), 1, 40 * MIB);
    disk::write_noise(&server.work().join("up"), 2, 32 * MIB);
    // Both have run once before memory is measured.
    sftp(&server, "alice", &[], "get big /dev/null\n").ok();
    let before = server.rss_kib();
    let master = Master::open(&server);
    std::thread::scope(|scope| {
        let start = Instant::now();
        let upload = scope.spawn(|| master.sftp("put up\n").ok());
        master.sftp("get big back\n").within(60).ok();
        let download_took = start.elapsed();
        let mut most = 0;
        while !upload.is_finished() {
            most = most.max(server.rss_kib());
            std::thread::sleep(Duration::from_millis(50));
        }
        upload.join().unwrap();
        assert!(start.elapsed() > secs(3), "the upload was not throttled, so this shows nothing");
        assert!(start.elapsed() > download_took, "the download waited for the slow upload");
        let grown = most.saturating_sub(before);
        assert!(grown < 24 * 1024, "grew by {grown} KiB");
    });
    disk::same(&server.work().join("up"), &user.path("up"));
    disk::same(&server.work().join("back"), &user.path("big"));
}

/// The window of the upload is what holds it up, and nothing else of its connection: scp sends without waiting for
/// replies, so it fills whatever the server lets it.
#[test]
fn an_upload_that_waits_for_its_bandwidth_holds_up_nothing_else_of_its_connection() {
    let server = TestServer::builder().sftpd("enabled_ssh_commands", ["scp"]).start();
    let user = server.user("alice").field("upload_bandwidth", 1_000).create();
    disk::write_noise(&server.work().join("up"), 2, 64 * MIB);
    std::fs::write(user.path("small"), b"small").unwrap();
    let before = server.rss_kib();
    let master = Master::open(&server);
    let mut lively = master.raw();
    let control = format!("ControlPath={}", master.socket);
    let port = server.port.to_string();
    let first = ["-O", "-q", "-P", &port, "-o", &control];
    let last = ["up", "alice@127.0.0.1:/up"];
    let mut upload = Tool::new("scp", "openssh-client")
        .args(first)
        .args(ssh_options())
        .args(last)
        .dir(&server.work())
        .start();
    wait_for("the upload to wait", secs(20), || {
        (user.path("up").metadata().ok()?.len() > 500_000).then_some(())
    });
    for _ in 0..30 {
        let start = Instant::now();
        assert_eq!(lively.get("/small").unwrap(), b"small");
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1_500), "three requests took {took:?} beside a slow upload");
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "grew by {grown} KiB");
    assert!(upload.try_wait().unwrap().is_none(), "the upload was not throttled, so this shows nothing");
    upload.kill().unwrap();
    upload.wait().unwrap();
}

/// Half a minute of bandwidth is left to wait for when each channel is closed: nobody waits for it.
#[test]
fn what_waits_for_bandwidth_ends_with_its_channel() {
    let server =
        TestServer::builder().sftpd("enabled_ssh_commands", ["scp"]).sftpd("max_channels", 4).start();
    let user = server.user("alice").field("upload_bandwidth", 1).field("download_bandwidth", 1).create();
    disk::write_noise(&user.path("down"), 1, 200_000);
    let login = python_login(&server, "alice");
    let mut client = python(&server, "close_while_waiting.py", &login.each_ref().map(String::as_str)).start();
    let transfers = || {
        let listed = server.connections();
        listed.first().and_then(|one| one["active_transfers"].as_array().map(Vec::len))
    };
    wait_for("three transfers", secs(20), || (transfers() == Some(3)).then_some(()));
    let mut go_on = client.stdin.take().unwrap();
    go_on.write_all(b"\n").unwrap();
    wait_for("the transfers to end with their channels", secs(10), || (transfers() == Some(0)).then_some(()));
    // The connection goes on.
    go_on.write_all(b"\n").unwrap();
    let mut said = String::new();
    client.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((client.wait().unwrap().code(), said.trim()), (Some(0), "closed\nroom"));
}

/// Its windows stay shut for ever then, so whoever has something to send must not wait.
#[test]
fn a_client_that_says_that_it_takes_no_more_is_believed() {
    let server = TestServer::builder().sftpd("enabled_ssh_commands", ["scp"]).start();
    let user = server.user("alice").create();
    disk::write_noise(&user.path("big"), 1, 17 * MIB);
    let login = python_login(&server, "alice");
    let done = python(&server, "takes_no_more.py", &login.each_ref().map(String::as_str)).ok();
    assert_eq!(done.trim(), "closed");
    wait_for("the files to be closed", secs(10), || {
        let open = server.open_files();
        (!open.iter().any(|file| file.contains("/homes/"))).then_some(())
    });
}

#[test]
fn connections_that_never_log_in_are_gone_after_the_grace_time() {
    let server = TestServer::builder().sftpd("login_grace_time", 2).start();
    let open = || {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream
    };
    let silent = open();
    let mut version_only = open();
    version_only.write_all(b"SSH-2.0-Silent\r\n").unwrap();
    let mut mid_kex = open();
    mid_kex.write_all(b"SSH-2.0-Stops_in_the_middle\r\n").unwrap();
    mid_kex.write_all(&kexinit()).unwrap();
    let mut ignoring = open();
    ignoring.write_all(b"SSH-2.0-Ignoring\r\n").unwrap();

    let start = Instant::now();
    let mut waiting = vec![
        ("silent", silent),
        ("version only", version_only),
        ("mid kex", mid_kex),
        ("ignoring", ignoring),
    ];
    let mut last_ignore = Instant::now();
    while !waiting.is_empty() {
        let names: Vec<_> = waiting.iter().map(|(name, _)| *name).collect();
        assert!(start.elapsed() < secs(8), "still open: {names:?}");
        let ignore_now = last_ignore.elapsed() > Duration::from_millis(900);
        if ignore_now {
            last_ignore = Instant::now();
        }
        waiting.retain_mut(|(name, stream)| {
            if ignore_now && *name == "ignoring" {
                let _ = stream.write_all(&binary_packet(&[2, 0, 0, 0, 4, 1, 2, 3, 4]));
            }
            !is_closed(stream)
        });
    }
    assert!(start.elapsed() > Duration::from_millis(1_500), "closed before the grace time");
    wait_for("the sockets to be closed", secs(2), || {
        server
            .log()
            .iter()
            .any(|line| line["sender"] == "connection_failed" && line["login_type"] == "no_auth_tryed")
            .then_some(())
    });
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4_096];
    match stream.read(&mut chunk) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

/// An unencrypted packet, RFC 4253 §6: length, padding length, payload, padding.
fn binary_packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let mut packet = u32::try_from(payload.len() + padding + 1).unwrap().to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend_from_slice(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

/// A KEXINIT that any server can agree with, RFC 4253 §7.1.
fn kexinit() -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend_from_slice(&[7; 16]);
    let cipher = "aes128-ctr";
    let mac = "hmac-sha2-256";
    for list in ["curve25519-sha256", "ssh-ed25519", cipher, cipher, mac, mac, "none", "none", "", ""] {
        payload.extend_from_slice(&u32::try_from(list.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(list.as_bytes());
    }
    payload.extend_from_slice(&[0; 5]);
    binary_packet(&payload)
}

#[test]
fn openssh_renegotiates_every_16_mib() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 1, 70 * MIB);
    for cipher in ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr"] {
        sftp(&server, "alice", &["-o", "RekeyLimit=16M", "-c", cipher], "put big\nget big back\n").ok();
        disk::same(&here.join("big"), &user.path("big"));
        disk::same(&here.join("big"), &here.join("back"));
    }
}

#[test]
fn the_server_renegotiates_every_16_mib_with_all_clients() {
    let server = TestServer::builder().sftpd("rekey_bytes", 16 << 20).start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 1, 50 * MIB);
    let check = |client: &str| {
        disk::same(&here.join("big"), &user.path("big"));
        disk::same(&here.join("big"), &here.join("back"));
        for path in [user.path("big"), here.join("back")] {
            std::fs::remove_file(path).unwrap_or_else(|error| panic!("{client}: {error}"));
        }
    };
    sftp(&server, "alice", &[], "put big\nget big back\n").ok();
    check("sftp");
    lftp(&server, "alice", "", "put big\nget big -o back").ok();
    check("lftp");
    tidegate_e2e::clients::rclone(&server, "alice", &["copyto", "big", "tide:big"]).ok();
    tidegate_e2e::clients::rclone(&server, "alice", &["copyto", "tide:big", "back"]).ok();
    check("rclone");
    let login = python_login(&server, "alice");
    let [port, name, key] = login.each_ref().map(String::as_str);
    for script in ["paramiko_client.py", "asyncssh_client.py"] {
        python(&server, script, &[port, name, key, "big", "back"]).ok();
        check(script);
    }
}

#[test]
fn other_clients_renegotiate_every_16_mib() {
    let server = TestServer::start();
    let user = server.user("alice").create();
    let here = server.work();
    disk::write_noise(&here.join("big"), 1, 40 * MIB);
    lftp(&server, "alice", "-o RekeyLimit=16M", "put big\nget big -o back").ok();
    disk::same(&here.join("big"), &here.join("back"));
    let login = python_login(&server, "alice");
    let [port, name, key] = login.each_ref().map(String::as_str);
    for script in ["paramiko_client.py", "asyncssh_client.py"] {
        python(&server, script, &[port, name, key, "big", "back", "16777216"]).ok();
        disk::same(&here.join("big"), &user.path("big"));
        disk::same(&here.join("big"), &here.join("back"));
    }
}

#[test]
fn uploads_and_downloads_run_side_by_side() {
    let (server, user) = with_big_file();
    disk::write_noise(&server.work().join("up"), 9, 20 * MIB);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let server = &server;
            scope.spawn(move || {
                sftp(server, "alice", &[], &format!("put up up{number}\nget big back{number}\n")).ok()
            });
        }
    });
    for number in 0..4 {
        disk::same(&server.work().join("up"), &user.path(format!("up{number}")));
        disk::same(&user.path("big"), &server.work().join(format!("back{number}")));
    }
}

#[test]
fn a_killed_client_leaves_nothing_behind() {
    let (server, _user) = with_big_file();
    let before = server.open_files().len();
    for _ in 0..5 {
        let mut sftp = RawSftp::connect(&server, "alice");
        flood_with_reads(&mut sftp, "/big", 100);
        let handle = b"x";
        let _ = sftp.send(&Packet::new(kind::CLOSE).u32(1).string(handle));
    }
    wait_for("everything of the killed clients to be closed", secs(5), || {
        (server.open_files().len() <= before && server.connections().is_empty()).then_some(())
    });
}
