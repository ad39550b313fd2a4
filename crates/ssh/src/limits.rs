//! What happens before a connection becomes an SSH session: listening, accepting, and counting.
//!
//! A peer costs memory and a key exchange before it has shown who it is, so connections before login are
//! limited in total and for each address. The counts are held by guards: whatever ends a connection gives
//! its place back. The time that a peer has to log in is kept by [`crate::socket`].

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

const BACKLOG: i32 = 1024;
/// Attempts to find a random port that is free on every address.
const PORT_ATTEMPTS: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A dead peer is noticed by the operating system even if SSH keep-alive is off.
const TCP_KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const TCP_KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// Counts connections and refuses those beyond the limits. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max_half_open: usize,
    max_half_open_per_address: usize,
    max_connections: Option<usize>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    half_open: usize,
    open: usize,
    /// Half-open connections of each [`network`]; no entry is zero.
    per_address: HashMap<IpAddr, usize>,
}

/// Why a connection is refused before anything is read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// `sftpd.max_half_open` is reached.
    #[error("{0} connections are already waiting for login")]
    HalfOpen(usize),
    /// `sftpd.max_half_open_per_ip` is reached.
    #[error("{0} connections from this address are already waiting for login")]
    HalfOpenPerAddress(usize),
    /// `sftpd.max_connections` is reached.
    #[error("{0} connections are already open")]
    Connections(usize),
}

/// The place of a connection before login.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub(crate) struct HalfOpen {
    shared: Arc<Shared>,
    network: IpAddr,
    /// Whether this place is still counted as half-open; false once it became [`Open`].
    counted: bool,
}

/// The place of a connection after login.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub(crate) struct Open(Arc<Shared>);

impl ConnectionLimits {
    /// Limits before login, in total and for each address, and over all connections (`None` for no limit).
    pub(crate) fn new(
        max_half_open: usize,
        max_half_open_per_address: usize,
        max_connections: Option<usize>,
    ) -> Self {
        let counts = Mutex::default();
        Self(Arc::new(Shared { max_half_open, max_half_open_per_address, max_connections, counts }))
    }

    /// Takes a place for a new connection from `address`.
    ///
    /// An IPv6 peer is counted with everyone in its /64, because it can pick any address in there.
    ///
    /// # Errors
    /// [`Refused`] says which limit is reached.
    pub(crate) fn try_open(&self, address: IpAddr) -> Result<HalfOpen, Refused> {
        let shared = &self.0;
        let network = network(address);
        let mut counts = shared.counts();
        if let Some(max) = shared.max_connections
            && counts.half_open + counts.open >= max
        {
            return Err(Refused::Connections(max));
        }
        if counts.half_open >= shared.max_half_open {
            return Err(Refused::HalfOpen(shared.max_half_open));
        }
        let here = counts.per_address.get(&network).copied().unwrap_or(0);
        if here >= shared.max_half_open_per_address {
            return Err(Refused::HalfOpenPerAddress(shared.max_half_open_per_address));
        }
        counts.per_address.insert(network, here + 1);
        counts.half_open += 1;
        drop(counts);
        Ok(HalfOpen { shared: Arc::clone(shared), network, counted: true })
    }

    /// Connections before and after login, at this moment.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let counts = self.0.counts();
        (counts.half_open, counts.open)
    }
}

impl Shared {
    /// Every change of the counts is complete before anything can panic, so a poisoned lock is harmless.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn leave_half_open(&mut self, network: IpAddr) {
        self.half_open -= 1;
        if let Some(count) = self.per_address.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&network);
            }
        }
    }
}

impl HalfOpen {
    /// Moves the connection from the half-open ones to the open ones, without a moment in between.
    pub(crate) fn authenticated(mut self) -> Open {
        let mut counts = self.shared.counts();
        counts.leave_half_open(self.network);
        counts.open += 1;
        drop(counts);
        self.counted = false;
        Open(Arc::clone(&self.shared))
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        if self.counted {
            self.shared.counts().leave_half_open(self.network);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts().open -= 1;
    }
}

/// What counts as one client: an IPv4 address (also if it is mapped into IPv6), or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// Listens on `address` and `port`; must be called within the runtime.
///
/// An empty address means all interfaces, IPv4 and IPv6. An IPv6 address may stand in brackets; a host name
/// stands for all of its addresses that this machine has. Port 0 picks a free port, the same for all.
///
/// # Errors
/// The error names address and port.
pub(crate) fn bind(address: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    bind_all(address, port).map_err(|error| {
        let place = if address.is_empty() { "all interfaces" } else { address };
        io::Error::new(error.kind(), format!("cannot listen on {place}, port {port}: {error}"))
    })
}

fn bind_all(address: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let host = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if host.is_empty() {
        // One socket for both families; where there is no IPv6, one for IPv4.
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        return match listen(any, true) {
            Err(error) if is_absent(&error) => {
                Ok(vec![listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), false)?])
            }
            result => Ok(vec![result?]),
        };
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for resolved in (host, port).to_socket_addrs()? {
        if !addresses.contains(&resolved) {
            addresses.push(resolved);
        }
    }
    let mut attempt = 1;
    loop {
        match listen_each(&addresses, port) {
            // Taken on one of the addresses: another random port may be free on all of them.
            Err(error) if port == 0 && error.kind() == ErrorKind::AddrInUse && attempt < PORT_ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn listen_each(addresses: &[SocketAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut absent = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let mut chosen = port;
    for mut address in addresses.iter().copied() {
        address.set_port(chosen);
        match listen(address, false) {
            Ok(listener) => {
                chosen = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) if is_absent(&error) => absent = error,
            Err(error) => return Err(error),
        }
    }
    if listeners.is_empty() { Err(absent) } else { Ok(listeners) }
}

/// Whether the address, or its whole family, does not exist on this machine.
fn is_absent(error: &io::Error) -> bool {
    const FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(FAMILY)
}

fn listen(address: SocketAddr, dual_stack: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    // On Windows this option would let another program take the port over.
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until `stop` is cancelled, and hands each one with its canonical address (an IPv4
/// peer is IPv4 whatever the socket says) to `on_connection`, which must not wait.
///
/// No error ends it: one that concerns a single connection is passed over, and when descriptors or memory
/// are exhausted it pauses, a little longer each time, and writes one line for the whole burst.
pub(crate) async fn accept_loop<F>(listeners: Vec<TcpListener>, stop: CancellationToken, mut on_connection: F)
where
    F: FnMut(TcpStream, SocketAddr),
{
    let mut turn = 0;
    accept_from(
        |context| poll_accept(&listeners, &mut turn, context),
        stop,
        |stream: TcpStream, peer| {
            set_options(&stream);
            on_connection(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        },
    )
    .await;
}

/// [`accept_loop`] over anything that can be accepted.
async fn accept_from<T>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(T, SocketAddr)>>,
    stop: CancellationToken,
    mut on_connection: impl FnMut(T, SocketAddr),
) {
    let mut pause = FIRST_PAUSE;
    let mut failures: u64 = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = std::future::poll_fn(&mut accept) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if failures > 0 {
                    info!(sender = "sftpd", "connections are accepted again after {failures} failures");
                    failures = 0;
                    pause = FIRST_PAUSE;
                }
                on_connection(stream, peer);
            }
            Err(error) if concerns_one_peer(&error) => {}
            Err(error) => {
                if failures == 0 {
                    error!(sender = "sftpd", "connections cannot be accepted for now: {error}");
                }
                failures += 1;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Asks every listener, beginning with another one each time, so that none is starved.
fn poll_accept(
    listeners: &[TcpListener],
    turn: &mut usize,
    context: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    *turn = turn.wrapping_add(1);
    for index in 0..listeners.len() {
        let listener = &listeners[turn.wrapping_add(index) % listeners.len()];
        if let Poll::Ready(accepted) = listener.poll_accept(context) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// Errors of `accept(2)` that belong to the connection which would have been accepted.
fn concerns_one_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    ) || cfg!(unix) && error.raw_os_error() == Some(rustix::io::Errno::PROTO.raw_os_error())
}

/// Options that make a connection better but are not worth refusing it: a peer that is gone already makes
/// them fail, and the first read will say so.
fn set_options(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE_AFTER).with_interval(TCP_KEEPALIVE_EVERY);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_limit_refuses_with_its_reason() {
        let limits = ConnectionLimits::new(3, 2, None);
        let first = limits.try_open(ip("192.0.2.1")).unwrap();
        let _second = limits.try_open(ip("192.0.2.1")).unwrap();
        assert_eq!(limits.try_open(ip("192.0.2.1")).unwrap_err(), Refused::HalfOpenPerAddress(2));
        let _third = limits.try_open(ip("192.0.2.2")).unwrap();
        assert_eq!(limits.try_open(ip("192.0.2.3")).unwrap_err(), Refused::HalfOpen(3));
        drop(first);
        let _fourth = limits.try_open(ip("192.0.2.1")).unwrap();
        assert_eq!(limits.counts(), (3, 0));
    }

    #[test]
    fn logging_in_frees_the_half_open_place_but_not_the_connection() {
        let limits = ConnectionLimits::new(1, 1, Some(2));
        let open = limits.try_open(ip("192.0.2.1")).unwrap().authenticated();
        assert_eq!(limits.counts(), (0, 1));
        let half_open = limits.try_open(ip("192.0.2.1")).unwrap();
        assert_eq!(limits.try_open(ip("192.0.2.1")).unwrap_err(), Refused::Connections(2));
        drop(open);
        assert_eq!(limits.try_open(ip("192.0.2.9")).unwrap_err(), Refused::HalfOpen(1));
        drop(half_open);
        assert_eq!(limits.counts(), (0, 0));
        assert!(limits.0.counts().per_address.is_empty(), "addresses must not pile up");
    }

    #[test]
    fn addresses_are_counted_by_what_a_client_can_choose() {
        assert_eq!(network(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(network(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_ne!(network(ip("2001:db8:1:3::1")), network(ip("2001:db8:1:2::1")));
        assert_ne!(network(ip("192.0.2.1")), network(ip("192.0.2.2")));
    }

    #[tokio::test]
    async fn all_interfaces_take_ipv4_and_ipv6_on_one_port() {
        let listeners = bind("", 0).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        let stop = CancellationToken::new();
        let (send, mut peers) = tokio::sync::mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept_loop(listeners, stop.clone(), move |stream, peer| {
            let _ = send.send((stream.nodelay().unwrap(), peer));
        }));

        let v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        assert_eq!(peers.recv().await, Some((true, v4.local_addr().unwrap())), "IPv4 is not mapped");
        match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            Ok(v6) => assert_eq!(peers.recv().await, Some((true, v6.local_addr().unwrap()))),
            Err(error) => eprintln!("no IPv6 here, not tested: {error}"),
        }
        stop.cancel();
        accepting.await.unwrap();
        assert_eq!(peers.recv().await, None);
    }

    #[tokio::test]
    async fn literals_with_and_without_brackets_and_names() {
        for address in ["127.0.0.1", "::1", "[::1]", "localhost"] {
            match bind(address, 0) {
                Ok(listeners) => {
                    let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
                    assert!(ports.iter().all(|port| *port == ports[0] && *port != 0), "{address}: {ports:?}");
                }
                Err(error) if address.contains(':') => eprintln!("no IPv6 here, not tested: {error}"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_in_the_error() {
        let taken = bind("127.0.0.1", 0).unwrap();
        let port = taken[0].local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(
            error.to_string().starts_with(&format!("cannot listen on 127.0.0.1, port {port}: ")),
            "{error}"
        );
        let error = bind("192.0.2.77", 2022).unwrap_err();
        assert!(error.to_string().contains("192.0.2.77"), "{error}");
    }

    #[tokio::test]
    async fn two_listeners_are_served_in_turn() {
        let listeners =
            vec![bind("127.0.0.1", 0).unwrap().remove(0), bind("127.0.0.1", 0).unwrap().remove(0)];
        let places: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let stop = CancellationToken::new();
        let (send, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(accept_loop(listeners, stop.clone(), move |stream, _| {
            let _ = send.send(stream.local_addr().unwrap());
        }));
        for place in [places[1], places[0], places[1]] {
            let _client = TcpStream::connect(place).await.unwrap();
            assert_eq!(accepted.recv().await, Some(place));
        }
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn errors_never_end_the_loop_and_exhaustion_slows_it_down() {
        use rustix::io::Errno;
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let exhausted = std::iter::repeat_n(Some(Errno::MFILE), 20);
        let script = [Some(Errno::CONNABORTED), None].into_iter().chain(exhausted).chain([None]);
        let mut script = script.map(|step| match step {
            Some(errno) => Err(io::Error::from_raw_os_error(errno.raw_os_error())),
            None => Ok((tokio::time::Instant::now(), peer)),
        });
        let stop = CancellationToken::new();
        let mut times = Vec::new();
        let start = tokio::time::Instant::now();
        let accept = |_: &mut Context<'_>| script.next().map_or(Poll::Pending, Poll::Ready);
        accept_from(accept, stop.clone(), |time, _| {
            times.push(time - start);
            if times.len() == 2 {
                stop.cancel();
            }
        })
        .await;
        assert_eq!(times[0], Duration::ZERO, "an aborted connection costs nothing");
        // 5, 10, 20 … 640 ms and then a second each time.
        assert_eq!(times[1].as_secs(), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_does_not_wait_for_the_end_of_a_pause() {
        let stop = CancellationToken::new();
        let accept = |_: &mut Context<'_>| -> Poll<io::Result<((), SocketAddr)>> {
            Poll::Ready(Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())))
        };
        let waiting =
            tokio::time::timeout(Duration::from_millis(1), accept_from(accept, stop.clone(), |(), _| {}));
        assert!(waiting.await.is_err());
        stop.cancel();
        accept_from(accept, stop, |(), _| {}).await;
    }

    #[test]
    fn only_errors_of_one_peer_are_passed_over() {
        let of = |errno: rustix::io::Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        use rustix::io::Errno;
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::NETUNREACH, Errno::HOSTUNREACH] {
            assert!(concerns_one_peer(&of(errno)), "{errno:?}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::BADF] {
            assert!(!concerns_one_peer(&of(errno)), "{errno:?}");
        }
    }
}
