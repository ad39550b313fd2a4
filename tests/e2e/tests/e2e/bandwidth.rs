//! Bandwidth limits over real sockets: the rate over the whole of a transfer, how transfers share it, how steady
//! it is, and what it costs to wait. The figures are printed; the bounds are wide, so that a busy machine does
//! not fail them. Exact figures of the throttle itself are in `core/throttle.rs`, where time stands still.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_e2e::clients::sftp;
use tidegate_e2e::{TestServer, User, disk, secs, wait_for};

use crate::flow::Master;

/// Kilobytes (1000 bytes) a second.
const RATE: u64 = 2_000;
const RATE_BYTES: f64 = 2_000_000.0;

/// Six seconds at that rate.
const SIZE: usize = 12_000_000;

const USER: &str = "alice";

/// How large files were, and when.
struct Curve(Vec<(Duration, u64)>);

/// Looks at the sizes of files until `done`.
fn watch(files: &[PathBuf], mut done: impl FnMut() -> bool) -> Vec<Curve> {
    let start = Instant::now();
    let mut curves: Vec<_> = files.iter().map(|_| Curve(Vec::new())).collect();
    while !done() {
        assert!(start.elapsed() < secs(120), "the transfers do not end");
        for (curve, file) in curves.iter_mut().zip(files) {
            let size = file.metadata().map_or(0, |file| file.len());
            curve.0.push((start.elapsed(), size));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    curves
}

impl Curve {
    /// The part between a tenth and nine tenths, away from login and close.
    fn steady(&self) -> (Duration, Duration) {
        let most = self.0.last().map_or(0, |(_, size)| *size);
        let when = |part: u64| self.0.iter().find(|(_, size)| *size >= most / 10 * part).unwrap().0;
        (when(1), when(9))
    }

    fn size_at(&self, at: Duration) -> u64 {
        self.0.iter().take_while(|(when, _)| *when <= at).last().map_or(0, |(_, size)| *size)
    }

    /// Bytes a second.
    fn rate(&self, (from, to): (Duration, Duration)) -> f64 {
        (self.size_at(to) - self.size_at(from)) as f64 / (to - from).as_secs_f64()
    }

    /// The most bytes of any second.
    fn peak(&self) -> u64 {
        let second = |(at, size): &(Duration, u64)| self.size_at(*at + secs(1)) - size;
        self.0.iter().map(second).max().unwrap_or(0)
    }
}

/// CPU time of the server so far, and its threads now.
fn effort(server: &TestServer) -> (Duration, u64) {
    let stat = disk::text(Path::new(&format!("/proc/{}/stat", server.pid())));
    // After the name in parentheses: state, ppid, …; utime and stime are fields 14 and 15, threads 20 (proc(5)).
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // A tick is 10 ms, to programs, on every Linux that we know.
    (Duration::from_millis((fields[11] + fields[12]) * 10), fields[17])
}

fn near(is: f64, should: f64, what: &str) {
    println!("{what}: {:.3} MB/s, {:+.1} % of what is allowed", is / 1e6, (is / should - 1.0) * 100.0);
    assert!((0.75..=1.25).contains(&(is / should)), "{what}: {is:.0} bytes a second instead of {should:.0}");
}

fn with_limits() -> (TestServer, User) {
    let server = TestServer::start();
    let user = server.user(USER).field("upload_bandwidth", RATE).field("download_bandwidth", RATE).create();
    disk::write_noise(&server.work().join("up"), 1, SIZE);
    disk::write_noise(&user.path("down"), 2, SIZE);
    // What a first login loads is loaded.
    sftp(&server, USER, &[], "ls\n").ok();
    (server, user)
}

#[test]
fn a_transfer_keeps_to_its_rate_and_costs_next_to_nothing() {
    let (server, user) = with_limits();
    let rows = [
        ("upload", "put up\n", user.path("up"), server.work().join("up")),
        ("download", "get down\n", server.work().join("down"), user.path("down")),
    ];
    for (what, batch, grows, original) in rows {
        let threads_before = effort(&server).1;
        let start = Instant::now();
        let (curve, (cpu, threads)) = std::thread::scope(|scope| {
            let before = effort(&server).0;
            let client = scope.spawn(|| sftp(&server, USER, &[], batch).ok());
            let mut most_threads = 0;
            let mut curves = watch(std::slice::from_ref(&grows), || {
                most_threads = most_threads.max(effort(&server).1);
                client.is_finished()
            });
            client.join().unwrap();
            (curves.remove(0), (effort(&server).0 - before, most_threads))
        });
        let elapsed = start.elapsed();
        disk::same(&original, &grows);
        near(curve.rate(curve.steady()), RATE_BYTES, what);
        println!("{what}: at most {:.3} MB in a second", curve.peak() as f64 / 1e6);
        println!(
            "{what}: {cpu:?} of CPU time in {elapsed:?}, {threads_before} threads before, {threads} at most"
        );
        assert!((curve.peak() as f64) < 2.0 * RATE_BYTES, "{what}: {} bytes in a second", curve.peak());
        assert!(cpu < elapsed / 3, "{what}: {cpu:?} of CPU time in {elapsed:?}: waiting is not free");
        assert!(threads <= threads_before + 2, "{what}: {threads} threads, {threads_before} before");
    }
}

#[test]
fn two_transfers_of_a_user_share_the_rate() {
    let (server, user) = with_limits();
    disk::write_noise(&user.path("down2"), 3, SIZE);
    let here = server.work();
    let rows = [
        ("two uploads", ["put up up1\n", "put up up2\n"], [user.path("up1"), user.path("up2")]),
        ("two downloads", ["get down a\n", "get down2 b\n"], [here.join("a"), here.join("b")]),
    ];
    for (what, batches, files) in rows {
        let curves = std::thread::scope(|scope| {
            let clients = batches.map(|batch| scope.spawn(|| sftp(&server, USER, &[], batch).ok()));
            let curves = watch(&files, || clients.iter().all(|client| client.is_finished()));
            clients.into_iter().for_each(|client| drop(client.join().unwrap()));
            curves
        });
        // The time in which both are in their steady part.
        let [one, two] = [curves[0].steady(), curves[1].steady()];
        let both = (one.0.max(two.0), one.1.min(two.1));
        let rates = [curves[0].rate(both), curves[1].rate(both)];
        near(rates[0] + rates[1], RATE_BYTES, what);
        near(rates[0], RATE_BYTES / 2.0, &format!("{what}, the one"));
        near(rates[1], RATE_BYTES / 2.0, &format!("{what}, the other"));
    }
}

/// Ends all connections of the limited user, whatever they do.
fn disconnect(server: &TestServer) {
    for connection in server.connections().iter().filter(|c| c["username"] == USER) {
        let id = connection["connection_id"].as_str().unwrap();
        server.rest("DELETE", &format!("/api/v1/connection/{id}"), None).expect(200);
    }
}

fn wait_transfers(server: &TestServer, count: usize) {
    wait_for("the transfers to be under way", secs(20), || {
        let connections = server.connections();
        let transfers = connections.iter().filter_map(|c| c["active_transfers"].as_array()).flatten();
        (transfers.count() == count).then_some(())
    });
}

/// Half a minute for the throttled ones, as long as a busy machine may need for the others.
#[test]
fn throttled_transfers_slow_no_other_user_and_a_download_no_other_channel() {
    let (server, user) = with_limits();
    disk::write_noise(&user.path("big"), 5, 5 * SIZE);
    disk::write_noise(&server.work().join("big"), 6, 5 * SIZE);
    let bob = server.user("bob").create();
    disk::write_noise(&bob.path("down"), 4, SIZE);
    let master = Master::open(&server);
    std::thread::scope(|scope| {
        let download = scope.spawn(|| master.sftp("get big back\n").run());
        wait_transfers(&server, 1);
        // The same connection: answered between the pieces of a transfer that waits most of the time.
        let mut raw = master.raw();
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let start = Instant::now();
            assert_eq!(raw.stat("/down").unwrap().size, Some(SIZE as u64));
            assert!(!raw.list("/").unwrap().is_empty());
            slowest = slowest.max(start.elapsed());
        }
        println!("the slowest of 50 stat and list beside a waiting download: {slowest:?}");
        let upload = scope.spawn(|| sftp(&server, USER, &[], "put big elsewhere\n").run());
        wait_transfers(&server, 2);
        // Whoever has no limit is done first, with much more in a second.
        sftp(&server, "bob", &[], "get down bobs\nput bobs\n").ok();
        assert!(!upload.is_finished() && !download.is_finished(), "the throttled ones were faster");
        disconnect(&server);
        for client in [upload, download] {
            assert_ne!(client.join().unwrap().code, Some(0), "it was ended in the middle");
        }
    });
    disk::same(&bob.path("down"), &bob.path("bobs"));
}
