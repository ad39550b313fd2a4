//! Places for connections: how many there may be, how many of them one address may have, and who has to leave
//! when there is no place for a new one.
//!
//! A connection works while its request is being answered; otherwise it waits for its client, be it for a
//! handshake, for the head or the body of a request, or for the next one. Whoever has waited longest gives its
//! place to a newcomer, those first that never asked for anything: a client that opens connections and says
//! nothing pushes out its own, and nobody else is kept waiting. A connection that works is never ended.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Connections at a time. With the limits of a request this bounds the memory that clients can take.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// Connections of one address, unless it is that of a trusted proxy.
pub(crate) const MAX_OF_ADDRESS: usize = 64;

/// The log speaks of clients that have to leave this often at most.
const QUIET: Duration = Duration::from_secs(60);

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    of_address: usize,
    proxies: Vec<IpNet>,
    table: Mutex<Table>,
    /// A place became free, or whoever has it began to wait.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    taken: HashMap<u64, Taken>,
    /// Connections that had to leave, and that were refused, since the start.
    ousted: u64,
    refused: u64,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Taken {
    /// `None` is a trusted proxy, which has as many as it wants.
    address: Option<IpAddr>,
    /// Whether it ever asked for anything.
    spoke: bool,
    /// Since when it waits for its client; `None` while it works.
    waits: Option<Instant>,
    /// Which of its requests is answered; another number when that is done.
    request: u64,
    leave: CancellationToken,
}

/// Whether there is a place.
enum Room {
    Taken(Place),
    /// All that the address may have are at work.
    NoneForAddress,
    /// All are at work.
    None,
}

impl Places {
    /// As many places as the limits above say.
    pub(crate) fn new(proxies: Vec<IpNet>) -> Arc<Self> {
        Self::with_limits(MAX_CONNECTIONS, MAX_OF_ADDRESS, proxies)
    }

    fn with_limits(limit: usize, of_address: usize, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { limit, of_address, proxies, table: Mutex::default(), changed: Notify::new() })
    }

    /// A place for a connection from `ip`; somebody else may have to leave for it. Waits while all are at work.
    /// `None` if the address has as many as it may, and all of them are at work.
    pub(crate) async fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        loop {
            // Made before looking, so that no change is missed in between.
            let changed = self.changed.notified();
            match self.try_take(ip) {
                Room::Taken(place) => return Some(place),
                Room::NoneForAddress => {
                    self.table().refused += 1;
                    return None;
                }
                Room::None => changed.await,
            }
        }
    }

    /// How many places are taken, and who went without, in the text format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let table = self.table();
        format!(
            "# HELP tidegate_http_connections Connections of the HTTP server\n\
             # TYPE tidegate_http_connections gauge\n\
             tidegate_http_connections {}\n\
             # HELP tidegate_http_connections_limited_total Connections of the HTTP server that were closed for a \
             newer one while they waited for their client, or refused because all of their address are at work\n\
             # TYPE tidegate_http_connections_limited_total counter\n\
             tidegate_http_connections_limited_total{{result=\"closed\"}} {}\n\
             tidegate_http_connections_limited_total{{result=\"refused\"}} {}\n",
            table.taken.len(),
            table.ousted,
            table.refused,
        )
    }

    fn try_take(self: &Arc<Self>, ip: IpAddr) -> Room {
        let ip = ip.to_canonical();
        let address = (!self.proxies.iter().any(|proxy| proxy.contains(&ip))).then(|| network(ip));
        let mut table = self.table();
        let own = |taken: &Taken| address.is_some() && taken.address == address;
        if table.taken.values().filter(|taken| own(taken)).count() >= self.of_address
            && !table.oust(own, "of one address", self.of_address)
        {
            return Room::NoneForAddress;
        }
        if table.taken.len() >= self.limit && !table.oust(|_| true, "in all", self.limit) {
            return Room::None;
        }
        table.next_id += 1;
        let (id, leave) = (table.next_id, CancellationToken::new());
        let waits = Some(Instant::now());
        table.taken.insert(id, Taken { address, spoke: false, waits, request: 0, leave: leave.clone() });
        drop(table);
        let (places, begun, in_request) = (Arc::clone(self), AtomicU64::new(0), AtomicBool::new(false));
        Room::Taken(Place(Arc::new(Held { places, id, leave, begun, in_request })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Sends away who has waited longest among those that `may` leave.
    fn oust(&mut self, may: impl Fn(&Taken) -> bool, which: &str, limit: usize) -> bool {
        let waiting = self.taken.iter().filter(|(_, taken)| may(taken));
        let waiting = waiting.filter_map(|(id, taken)| Some(((taken.spoke, taken.waits?), *id)));
        let Some((_, id)) = waiting.min() else { return false };
        if let Some(taken) = self.taken.remove(&id) {
            taken.leave.cancel();
            self.ousted += 1;
            let now = Instant::now();
            if self.warned.is_none_or(|at| now.duration_since(at) >= QUIET) {
                self.warned = Some(now);
                let address = taken.address.map_or_else(|| "a proxy".to_owned(), |ip| ip.to_string());
                warn!(
                    sender = "httpd",
                    "there are {limit} connections {which}: those that wait longest are closed, one of {address} first"
                );
            }
        }
        true
    }
}

/// A connection's place, free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    places: Arc<Places>,
    id: u64,
    leave: CancellationToken,
    /// Requests that have begun.
    begun: AtomicU64,
    in_request: AtomicBool,
}

impl Place {
    /// Waits until the place is needed for somebody else.
    pub(crate) async fn ousted(&self) {
        self.0.leave.cancelled().await;
    }

    /// How many requests have begun, each when the end of its head arrived.
    pub(crate) fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// Whether a request is under way, from the end of its head to the end of its answer.
    pub(crate) fn is_in_request(&self) -> bool {
        self.0.in_request.load(Ordering::Relaxed)
    }

    /// Begins a request whose head has arrived. What is returned follows its body and its answer.
    pub(crate) fn begin(&self) -> Turn {
        let mut request = 0;
        self.change(|taken| {
            taken.request += 1;
            taken.spoke = true;
            taken.waits = Some(Instant::now());
            request = taken.request;
        });
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.in_request.store(true, Ordering::Relaxed);
        Turn { place: self.clone(), request }
    }

    fn change(&self, change: impl FnOnce(&mut Taken)) {
        if let Some(taken) = self.0.places.table().taken.get_mut(&self.0.id) {
            change(taken);
        }
        self.0.places.changed.notify_one();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.places.table().taken.remove(&self.id);
        self.places.changed.notify_one();
    }
}

/// One request of a connection.
#[derive(Debug)]
pub(crate) struct Turn {
    place: Place,
    request: u64,
}

impl Turn {
    /// The body of the request: the connection waits for its client until all of it has arrived.
    pub(crate) fn receive<B: hyper::body::Body>(&self, body: B) -> Received<B> {
        let received = Received { body, place: self.place.clone(), request: self.request };
        if received.body.is_end_stream() {
            received.heard(None);
        }
        received
    }

    /// The body of the answer: the connection waits for the next request when it is at its end.
    pub(crate) fn answer(self, body: Body) -> Body {
        Body::new(Answer { body, _turn: self })
    }

    /// Changes the place if this is its request still.
    fn change(place: &Place, request: u64, change: impl FnOnce(&mut Taken)) {
        place.change(|taken| {
            if taken.request == request {
                change(taken);
            }
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.place.0.in_request.store(false, Ordering::Relaxed);
        Self::change(&self.place, self.request, |taken| {
            // What is left of the body changes nothing any more.
            taken.request += 1;
            taken.waits = Some(Instant::now());
        });
    }
}

/// The body of a request on its way. At its end, and when it is dropped because nobody wants it, work begins.
#[derive(Debug)]
pub(crate) struct Received<B> {
    body: B,
    place: Place,
    request: u64,
}

impl<B> Received<B> {
    fn heard(&self, waits: Option<Instant>) {
        Turn::change(&self.place, self.request, |taken| taken.waits = waits);
    }
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Received<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            self.heard((frame.is_some() && !self.body.is_end_stream()).then(Instant::now));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Received<B> {
    fn drop(&mut self) {
        self.heard(None);
    }
}

struct Answer {
    body: Body,
    _turn: Turn,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What counts as one address: whoever has one IPv6 address has its whole /64.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};
    use tokio::time::{advance, timeout};

    use super::*;

    async fn take(places: &Arc<Places>, ip: &str) -> Option<Place> {
        advance(Duration::from_millis(1)).await;
        timeout(Duration::from_secs(1), places.take(ip.parse().unwrap())).await.expect("no place at all")
    }

    fn left(place: &Place) -> bool {
        place.0.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_longest_leaves_and_first_who_never_spoke() {
        let places = Places::with_limits(3, 9, Vec::new());
        let browser = take(&places, "192.0.2.1").await.unwrap();
        drop(browser.begin());
        let silent = take(&places, "192.0.2.2").await.unwrap();
        let later = take(&places, "192.0.2.2").await.unwrap();
        let newest = take(&places, "192.0.2.3").await.unwrap();
        assert_eq!([&browser, &silent, &later, &newest].map(left), [false, true, false, false]);
        // Its place is the newcomer's: that it goes now frees nothing more.
        drop(silent);
        let _another = take(&places, "192.0.2.3").await.unwrap();
        assert_eq!([&browser, &later, &newest].map(left), [false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_never_ended_and_its_end_makes_room() {
        let places = Places::with_limits(1, 9, Vec::new());
        let one = take(&places, "192.0.2.1").await.unwrap();
        let turn = one.begin();
        drop(turn.receive(Body::empty()));
        assert!(one.is_in_request() && one.begun() == 1);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take("192.0.2.2".parse().unwrap()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && !left(&one));
        let answer = turn.answer(Body::from("x"));
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "x");
        assert!(waiting.await.unwrap().is_some());
        assert!(left(&one) && !one.is_in_request());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_gives_way() {
        let places = Places::with_limits(2, 9, Vec::new());
        let slow = take(&places, "192.0.2.1").await.unwrap();
        let turn = slow.begin();
        let _body = turn.receive(Body::from("x"));
        let quick = take(&places, "192.0.2.1").await.unwrap();
        let working = quick.begin();
        let body = working.receive(Full::new(Bytes::from_static(b"y")));
        body.collect().await.unwrap();
        let _new = take(&places, "192.0.2.3").await.unwrap();
        assert_eq!([&slow, &quick].map(left), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_pushes_out_only_its_own() {
        let proxies = vec!["10.0.0.1/32".parse().unwrap()];
        let places = Places::with_limits(9, 2, proxies);
        let other = take(&places, "2001:db8:0:1::1").await.unwrap();
        let mut own = Vec::new();
        for last in 1..=3 {
            own.push(take(&places, &format!("2001:db8::{last}")).await.unwrap());
        }
        assert_eq!(own.iter().map(left).collect::<Vec<_>>(), [true, false, false]);
        assert!(!left(&other));
        let turns: Vec<_> = own[1..].iter().map(Place::begin).collect();
        turns.iter().for_each(|turn| drop(turn.receive(Body::empty())));
        assert!(take(&places, "2001:db8::9").await.is_none(), "all that it may have are at work");
        let mut proxied = Vec::new();
        for _ in 0..5 {
            proxied.push(take(&places, "::ffff:10.0.0.1").await.unwrap());
        }
        assert!(!proxied.iter().any(left));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_left_over_after_the_answer_holds_no_place() {
        let places = Places::with_limits(1, 9, Vec::new());
        let one = take(&places, "192.0.2.1").await.unwrap();
        let turn = one.begin();
        let body = turn.receive(Body::from("x"));
        drop(turn);
        drop(body);
        assert!(take(&places, "192.0.2.2").await.is_some());
    }
}
