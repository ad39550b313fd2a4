//! Malformed and excessive input. At worst it ends the connection that sent it: other sessions stay up and
//! responsive, and memory stays bounded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidegate_e2e::clients::sftp;
use tidegate_e2e::server::greeting_delay;
use tidegate_e2e::{Packet, RawSftp, TestServer, User, disk, flags, kind, secs, status, wait_for};

/// A server with a bystander, whose session has to survive everything.
struct Scene {
    server: TestServer,
    user: User,
    bystander: RawSftp,
    rss_kib: u64,
    /// How much the process may grow.
    allowed_kib: u64,
}

impl Scene {
    fn new() -> Self {
        let server = TestServer::start();
        let user = server.user("alice").create();
        disk::write(&user.path("file"), b"content");
        let mut bystander = RawSftp::connect(&server, "alice");
        assert_eq!(bystander.get("/file"), Ok(b"content".to_vec()));
        let rss_kib = server.rss_kib();
        Self { server, user, bystander, rss_kib, allowed_kib: 24 * 1024 }
    }

    fn attacker(&self) -> RawSftp {
        RawSftp::connect(&self.server, "alice")
    }

    /// The bystander is answered soon, even on a busy machine, and the process has hardly grown.
    fn check(&mut self, what: &str) {
        let start = Instant::now();
        assert_eq!(self.bystander.get("/file"), Ok(b"content".to_vec()), "after {what}");
        assert!(start.elapsed() < secs(3), "after {what} a bystander waited {:?}", start.elapsed());
        assert!(greeting_delay(self.server.port) < secs(3), "after {what} newcomers wait");
        let grown = self.server.rss_kib().saturating_sub(self.rss_kib);
        assert!(grown < self.allowed_kib, "after {what} the process has grown by {grown} KiB");
        let panics = self.server.raw_log().into_iter().find(|line| line.contains("panic"));
        assert_eq!(panics, None, "after {what}");
    }
}

/// Sends bytes; the session must end, or go on as if nothing had happened, but never hang.
fn send_and_probe(sftp: &mut RawSftp, bytes: &[u8]) -> &'static str {
    if sftp.send_bytes(bytes).is_err() {
        return "ended";
    }
    let probe = Packet::new(kind::STAT).u32(0xbeef).string("/file");
    if sftp.send(&probe).is_err() {
        return "ended";
    }
    sftp.finish_sending();
    let mut last = None;
    while let Some(packet) = sftp.receive() {
        last = Some(packet);
    }
    match last {
        Some(packet) if packet.len() > 5 && packet[1..5] == 0xbeef_u32.to_be_bytes() => "went on",
        _ => "ended",
    }
}

#[test]
fn impossible_lengths_end_the_session_and_nothing_else() {
    let mut scene = Scene::new();
    for length in [0_u32, 1 << 31, u32::MAX, (256 << 10) + 1024, 1 << 24] {
        let mut sftp = scene.attacker();
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[kind::READ; 64]);
        assert_eq!(send_and_probe(&mut sftp, &bytes), "ended", "length {length}");
        scene.check(&format!("a packet of length {length}"));
    }
}

#[test]
fn packets_too_short_for_their_type_do_not_hang() {
    let mut scene = Scene::new();
    for length in [1_u32, 2, 3, 4, 5] {
        for kind in
            [kind::INIT, kind::OPEN, kind::READ, kind::WRITE, kind::READDIR, kind::EXTENDED, 0, 77, 255]
        {
            let mut sftp = scene.attacker();
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(4 + length as usize, 0);
            bytes[4] = kind;
            let _ = send_and_probe(&mut sftp, &bytes);
        }
        scene.check(&format!("packets of {length} bytes"));
    }
}

#[test]
fn a_partial_packet_at_the_end_of_the_stream_is_no_request() {
    let mut scene = Scene::new();
    for cut in [1, 3, 4, 5, 8, 9, 12, 14, 17] {
        let mut sftp = scene.attacker();
        let remove = sftp.packet(kind::REMOVE).string("/file").framed();
        sftp.send_bytes(&remove[..cut]).unwrap();
        sftp.finish_sending();
        assert!(sftp.receive().is_none(), "cut at {cut}");
    }
    scene.check("cut packets");
}

#[test]
fn unknown_types_are_unsupported() {
    let mut scene = Scene::new();
    let mut sftp = scene.attacker();
    for kind in [0_u8, 1, 2, 21, 50, 100, 101, 104, 105, 201, 255] {
        let packet = sftp.packet(kind).string("x");
        if sftp.send(&packet).is_err() {
            sftp = scene.attacker();
            continue;
        }
        // A second INIT may be answered like the first or end the session; anything else is refused.
        match sftp.receive() {
            Some(reply) if kind == kind::INIT => assert_eq!(reply[0], kind::VERSION),
            Some(reply) => assert_eq!((reply[0], reply[8]), (kind::STATUS, 8), "type {kind}: {reply:?}"),
            None => {
                assert_eq!(kind, kind::INIT, "type {kind} ended the session");
                sftp = scene.attacker();
            }
        }
    }
    scene.check("unknown types");
}

#[test]
fn truncated_and_lying_strings_are_bad_messages() {
    let mut scene = Scene::new();
    type Lie = fn(&mut RawSftp) -> Packet;
    let lies: [(&str, Lie); 11] = [
        ("a path longer than its packet", |s| s.packet(kind::STAT).u32(1_000).raw(b"/file")),
        ("a path of 2^32-1", |s| s.packet(kind::OPEN).u32(u32::MAX).raw(b"/file")),
        ("a handle of 2^31", |s| s.packet(kind::READ).u32(1 << 31).raw(&[0; 12])),
        ("data longer than its packet", |s| s.packet(kind::WRITE).string("h").u64(0).u32(1 << 30).raw(b"x")),
        ("no body", |s| s.packet(kind::RENAME)),
        ("one of two paths", |s| s.packet(kind::RENAME).string("/file")),
        ("attributes cut short", |s| s.packet(kind::SETSTAT).string("/file").u32(0xf).u32(1)),
        ("2^31 extended attributes", |s| {
            s.packet(kind::SETSTAT).string("/file").u32(0x8000_0000).u32(1 << 31)
        }),
        ("2^32-1 extended attributes in OPEN", |s| {
            s.packet(kind::OPEN).string("/file").u32(1).u32(0x8000_0000).u32(u32::MAX).raw(&[0; 64])
        }),
        ("an extension without a name", |s| s.packet(kind::EXTENDED).u32(1 << 31)),
        ("an extension without a body", |s| s.packet(kind::EXTENDED).string("posix-rename@openssh.com")),
    ];
    let mut sftp = scene.attacker();
    for (what, packet) in lies {
        let packet = packet(&mut sftp);
        sftp.send(&packet).unwrap();
        let reply = sftp.receive().unwrap_or_else(|| panic!("{what} ended the session"));
        assert_eq!((reply[0], reply[8]), (kind::STATUS, 5), "{what}: {reply:?}");
        scene.check(what);
    }
    assert_eq!(disk::text(&scene.user.path("file")), "content");
}

#[test]
fn unknown_extensions_are_unsupported_whatever_their_body() {
    let mut scene = Scene::new();
    let mut sftp = scene.attacker();
    for body in [vec![], vec![0xff; 4], vec![0; 100_000]] {
        let packet = sftp.packet(kind::EXTENDED).string("no-such@example.com").raw(&body);
        assert_eq!(sftp.request(&packet).status().0, status::OP_UNSUPPORTED);
    }
    scene.check("unknown extensions");
}

#[test]
fn an_init_with_2_31_extensions_or_garbage() {
    let mut scene = Scene::new();
    for body in [&[0xff_u8; 40][..], &[0x7f, 0xff, 0xff, 0xff], b"x", &[]] {
        let mut sftp = RawSftp::connect_without_init(&scene.server, "alice", &[]);
        let init = Packet::new(kind::INIT).u32(3).raw(body);
        let _ = send_and_probe(&mut sftp, &init.framed());
    }
    for version in [0_u32, 1, 2, 4, 6, u32::MAX] {
        let mut sftp = RawSftp::connect_without_init(&scene.server, "alice", &[]);
        sftp.send(&Packet::new(kind::INIT).u32(version)).unwrap();
        if let Some(reply) = sftp.receive() {
            assert_eq!(reply[..5], [kind::VERSION, 0, 0, 0, 3], "client version {version}");
        }
    }
    scene.check("odd INIT packets");
}

#[test]
fn a_request_before_init_is_not_served() {
    let mut scene = Scene::new();
    let mut sftp = RawSftp::connect_without_init(&scene.server, "alice", &[]);
    let _ = sftp.send(&Packet::new(kind::REMOVE).u32(1).string("/file"));
    sftp.finish_sending();
    while sftp.receive().is_some() {}
    assert!(scene.user.path("file").exists());
    scene.check("a request before INIT");
}

#[test]
fn handles_of_another_channel_are_unknown() {
    let mut scene = Scene::new();
    disk::write(&scene.user.path("mine"), b"mine");
    let mut first = scene.attacker();
    let mut handles = vec![first.open("/mine", flags::READ).unwrap(), first.opendir("/").unwrap()];
    handles.push(first.open("/upload", flags::WRITE | flags::CREAT).unwrap());
    let mut second = scene.attacker();
    for handle in &handles {
        assert!(second.read(handle, 0, 10).is_err());
        assert!(second.write(handle, 0, b"stolen").is_err());
        assert!(second.readdir(handle).is_err());
        assert!(second.fstat(handle).is_err());
        assert!(second.close(handle).is_err());
    }
    for guess in 0..2_000_u32 {
        for handle in [guess.to_be_bytes().to_vec(), guess.to_string().into_bytes()] {
            if second.fstat(&handle).is_ok() {
                panic!("guessed a handle: {handle:?}");
            }
        }
        if guess > 50 {
            break;
        }
    }
    assert_eq!(first.read(&handles[0], 0, 10), Ok(b"mine".to_vec()));
    scene.check("foreign handles");
}

#[test]
fn ten_thousand_opens_are_bounded() {
    let mut scene = Scene::new();
    let mut sftp = scene.attacker();
    let mut open = 0;
    for _ in 0..10_000 {
        match sftp.open("/file", flags::READ) {
            Ok(_) => open += 1,
            Err(code) => assert_eq!(code, status::FAILURE),
        }
    }
    assert!((16..=1_024).contains(&open), "{open} files could be opened at once");
    scene.check("10,000 opens");
    assert!(sftp.stat("/file").is_ok());
    drop(sftp);
    let home = format!("{}/", scene.user.home.display());
    let left =
        || scene.server.open_files().into_iter().filter(|file| file.starts_with(&home)).collect::<Vec<_>>();
    let end = Instant::now() + secs(5);
    while !left().is_empty() {
        assert!(Instant::now() < end, "still open: {:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_flood_of_requests_without_reading_the_answers_is_bounded() {
    let mut scene = Scene::new();
    // 6 MiB of requests may wait in the inbox, and the allocator keeps what their pieces leave over.
    scene.allowed_kib = 20 * 1024;
    let mut sftp = scene.attacker();
    sftp.stop_reading();
    // About 20 MB of requests, whose answers nobody takes.
    let packet = Packet::new(kind::REALPATH).u32(1).string([b'x'; 2_000]).framed();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| (0..10_000).take_while(|_| sftp.send_bytes(&packet).is_ok()).count());
        let end = Instant::now() + secs(5);
        while !flood.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        scene.check("a flood of requests");
        // A server that stops reading instead of ending the session blocks the sender: that is a bound, too.
        if !flood.is_finished() {
            sftp_kill(&scene.server);
        }
    });
    scene.check("the end of the flood");
}

/// Disconnects every session that is not the bystander's, through the REST API: the most recent ones.
fn sftp_kill(server: &TestServer) {
    let mut connections = server.connections();
    connections.sort_by_key(|connection| connection["connection_time"].as_i64());
    for connection in &connections[1..] {
        let id = connection["connection_id"].as_str().unwrap();
        server.rest("DELETE", &format!("/api/v1/connection/{id}"), None);
    }
}

#[test]
fn malformed_identification_lines() {
    let mut scene = Scene::new();
    let long = [b"SSH-2.0-".as_slice(), &[b'x'; 100_000]].concat();
    let lines = [
        "SSH-1.5-old\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "\r\n\r\n\r\n",
        "SSH-2.0-\0\0\0\r\n",
        "\u{16}\u{3}\u{1}",
    ];
    let mut inputs: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    inputs.extend([
        long,
        vec![0xff; 70_000],
        vec![b'\n'; 70_000],
        b"SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
    ]);
    inputs.push([b"SSH-2.0-x\r\n".as_slice(), &[0; 64]].concat());
    inputs.push([b"SSH-2.0-x\r\n".as_slice(), &[0x7f; 70_000]].concat());
    for input in inputs {
        let mut stream = TcpStream::connect(("127.0.0.1", scene.server.port)).unwrap();
        stream.set_read_timeout(Some(secs(5))).unwrap();
        stream.set_write_timeout(Some(secs(5))).unwrap();
        let _ = stream.write_all(&input);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            let start = String::from_utf8_lossy(&input[..input.len().min(20)]).into_owned();
            let open = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            assert!(!open, "{start:?} and an end of stream leave the connection open");
        }
    }
    scene.check("malformed identification lines");
}

#[test]
fn half_open_connections_of_one_address_are_capped() {
    let server = TestServer::builder().sftpd("max_half_open_per_ip", 8).sftpd("login_grace_time", 5).start();
    let user = server.user("alice").create();
    disk::write(&user.path("file"), b"content");
    let mut bystander = RawSftp::connect(&server, "alice");
    let streams: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", server.port)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let greeted = streams.iter().filter(|stream| greets(stream)).count();
    assert!(greeted <= 8, "{greeted} half-open connections were served");
    assert!(greeted >= 4, "only {greeted} half-open connections were served");
    assert_eq!(bystander.get("/file"), Ok(b"content".to_vec()));
    drop(streams);
    // Room for newcomers returns with the end of the flood.
    wait_for("a login after the flood", secs(15), || {
        (sftp(&server, "alice", &[], "pwd\n").run().code == Some(0)).then_some(())
    });
}

fn greets(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut start = [0; 4];
    stream.read_exact(&mut start).is_ok() && &start == b"SSH-"
}

#[test]
fn a_flood_of_half_open_connections_does_not_stop_sessions() {
    let mut scene = Scene::new();
    let mut streams = Vec::new();
    for _ in 0..600 {
        match TcpStream::connect_timeout(&([127, 0, 0, 1], scene.server.port).into(), secs(2)) {
            Ok(stream) => streams.push(stream),
            Err(_) => break,
        }
    }
    let start = Instant::now();
    assert_eq!(scene.bystander.get("/file"), Ok(b"content".to_vec()));
    assert!(start.elapsed() < secs(3), "a bystander waited {:?}", start.elapsed());
    drop(streams);
    wait_for("newcomers to be greeted again", secs(10), || tidegate_e2e::server::greeting(scene.server.port));
    scene.check("600 half-open connections");
}

#[test]
fn many_channels_are_refused_beyond_the_limit() {
    let server = TestServer::builder().sftpd("max_channels", 3).start();
    server.user("alice").create();
    let socket = server.path("cm").display().to_string();
    let mut master = tidegate_e2e::Tool::new("ssh", "openssh-client")
        .args(tidegate_e2e::clients::ssh_options())
        .args(["-p", &server.port.to_string(), "-M", "-S", &socket, "-N", "alice@127.0.0.1"])
        .start();
    wait_for("the master connection", secs(20), || std::path::Path::new(&socket).exists().then_some(()));
    let mut open: Vec<RawSftp> = (0..3)
        .map(|_| {
            let mut sftp = RawSftp::connect_without_init(&server, "alice", &["-S".into(), socket.clone()]);
            sftp.init();
            sftp
        })
        .collect();
    let mut fourth = RawSftp::connect_without_init(&server, "alice", &["-S".into(), socket]);
    let _ = fourth.send(&Packet::new(kind::INIT).u32(3));
    // When the master cannot open the channel, `ssh` may fall back to a connection of its own: count here.
    let _ = fourth.receive();
    assert!(server.connections().len() <= 2);
    assert!(open.iter_mut().all(|sftp| sftp.realpath("/").is_ok()));
    let _ = master.kill();
    let _ = master.wait();
}
