//! How much a client may send before what it sent is used: the windows of its channels (RFC 4254 §5.2).
//!
//! # Why the bounds cannot lock up
//!
//! A window is opened again by whoever *takes* data, never on its arrival. So what waits on a channel is at
//! most its window, the socket is always read, and an upload that waits for its disk or its bandwidth holds up
//! nothing but itself: the requests, window adjustments and keep-alive answers of all other channels go past it.
//! What is taken is granted once it is a quarter of the window, so at least three quarters are open to a client
//! whose data is taken; a worker never waits for more than that at a time.
//!
//! A window begins small, and doubles while data is taken faster than it comes up to what the line can have under
//! way, which its round trip tells ([`RoundTrip`]). More would do harm: OpenSSH's client buffers as much as it may
//! send, and is three times slower over loopback with 16 MiB than with 1 MiB. All windows of a connection have a
//! common [`bound`](SPARE_BYTES) as well.
//!
//! A client that does not keep to its windows, or asks without end and reads no replies, is cut off
//! ([`Backlog`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The window of a new channel.
pub(crate) const INITIAL_BYTES: u32 = 1 << 20;

/// The largest that one window becomes. OpenSSH's client has 16 MiB of requests under way, and loses time if the
/// window has room for only just as many: 24 MiB are enough for 160 MB/s over a round trip of 100 ms.
const LARGEST_BYTES: u32 = 24 << 20;

/// What was taken is granted again in pieces of a quarter of the window, but not larger than this.
const GRANT_BYTES: u32 = 1 << 20;

/// What a window may grow by for each millisecond of the round trip: 500 MB/s.
const BYTES_PER_MS: u128 = 512 << 10;

/// The largest while nothing is known of the round trip.
const LARGEST_UNKNOWN_BYTES: u32 = 4 << 20;

/// What the windows of a connection may grow by, all together.
const SPARE_BYTES: u32 = 23 << 20;

/// Bytes of requests without data waiting on a connection beyond which it ends: such a client asks and
/// does not read.
const LIMIT_REQUEST_BYTES: usize = 6 << 20;

/// Entries waiting on a connection beyond which it ends; each costs about 100 bytes.
const LIMIT_ENTRIES: usize = 64 * 1024;

/// The most that the windows of a connection with so many channels come to, and so the most that waits on it.
pub(crate) fn most_bytes(channels: usize) -> u32 {
    u32::try_from(channels).unwrap_or(u32::MAX).saturating_mul(INITIAL_BYTES).saturating_add(SPARE_BYTES)
}

/// Why the client must be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BacklogError {
    /// It sends requests and does not read the answers.
    #[error("too many requests are waiting while the client does not read the replies")]
    Requests,
    /// It does not keep to its windows.
    #[error("the client sends more than its windows have room for")]
    Data,
}

/// What waits, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Bytes of data to be written.
    pub(crate) data: usize,
    /// Bytes of everything else.
    pub(crate) requests: usize,
    /// Number of entries.
    pub(crate) entries: usize,
}

impl Load {
    /// Bytes of any kind.
    pub(crate) fn bytes(self) -> usize {
        self.data + self.requests
    }
}

impl std::ops::Sub for Load {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            data: self.data - other.data,
            requests: self.requests - other.requests,
            entries: self.entries - other.entries,
        }
    }
}

/// How long an answer and what the client says to it take on the line, told from the steps of a login and of opening
/// a channel, which clients take one by one. The quickest counts; a client that does not wait for answers is
/// taken for a near one.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    answered: Option<Instant>,
    quickest: Option<Duration>,
}

impl RoundTrip {
    /// The client takes the next step.
    pub(crate) fn asked(&mut self) -> Option<Duration> {
        if let Some(answered) = self.answered.take() {
            let took = answered.elapsed();
            self.quickest = Some(self.quickest.map_or(took, |quickest| quickest.min(took)));
        }
        self.quickest
    }

    /// A step of the client was answered, and it cannot take the next one before it knows.
    pub(crate) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }
}

/// The largest window that does something for a line with this round trip.
fn largest_bytes(round_trip: Duration) -> u32 {
    let more = round_trip.as_micros() * BYTES_PER_MS / 1000;
    u32::try_from(more).unwrap_or(u32::MAX).saturating_add(INITIAL_BYTES).min(LARGEST_BYTES)
}

/// What waits on all channels of a connection, and what its windows may still grow by.
#[derive(Debug)]
pub(crate) struct Backlog {
    data: AtomicUsize,
    requests: AtomicUsize,
    entries: AtomicUsize,
    most_bytes: usize,
    spare: AtomicU32,
    largest: AtomicU32,
}

impl Backlog {
    /// Nothing waits; there may be so many channels.
    pub(crate) fn new(channels: usize) -> Self {
        Self {
            data: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            most_bytes: usize::try_from(most_bytes(channels)).unwrap_or(usize::MAX),
            spare: AtomicU32::new(SPARE_BYTES),
            largest: AtomicU32::new(LARGEST_UNKNOWN_BYTES),
        }
    }

    /// What is known of the line decides how large a window may become.
    pub(crate) fn over(&self, round_trip: Duration) {
        self.largest.store(largest_bytes(round_trip), Ordering::Relaxed);
    }

    fn filled(&self, load: Load) -> Result<(), BacklogError> {
        let data = self.data.fetch_add(load.data, Ordering::Relaxed) + load.data;
        let requests = self.requests.fetch_add(load.requests, Ordering::Relaxed) + load.requests;
        let entries = self.entries.fetch_add(load.entries, Ordering::Relaxed) + load.entries;
        if requests > LIMIT_REQUEST_BYTES || entries > LIMIT_ENTRIES {
            return Err(BacklogError::Requests);
        }
        if data + requests > self.most_bytes { Err(BacklogError::Data) } else { Ok(()) }
    }

    fn drained(&self, load: Load) {
        self.data.fetch_sub(load.data, Ordering::Relaxed);
        self.requests.fetch_sub(load.requests, Ordering::Relaxed);
        self.entries.fetch_sub(load.entries, Ordering::Relaxed);
    }

    /// Up to `wanted` bytes of what is spare.
    fn borrow(&self, wanted: u32) -> u32 {
        let mut got = 0;
        let _ = self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| {
            got = wanted.min(spare);
            Some(spare - got)
        });
        got
    }
}

/// The window of one channel.
pub(crate) struct Window {
    backlog: Arc<Backlog>,
    /// Tells the client; never waits.
    grant: Box<dyn Fn(u32) + Send + Sync>,
    /// What the client may have under way, waiting included.
    size: AtomicU32,
    /// Taken, and not yet granted again.
    owed: AtomicU32,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("size", &self.size).field("owed", &self.owed).finish_non_exhaustive()
    }
}

impl Window {
    /// The window of a channel that was just opened; `grant` opens it further.
    pub(crate) fn new(backlog: Arc<Backlog>, grant: impl Fn(u32) + Send + Sync + 'static) -> Self {
        let (size, owed) = (AtomicU32::new(INITIAL_BYTES), AtomicU32::new(0));
        Self { backlog, grant: Box::new(grant), size, owed }
    }

    /// So much more waits. Call this before anyone can take it.
    pub(crate) fn filled(&self, load: Load) -> Result<(), BacklogError> {
        self.backlog.filled(load)
    }

    /// So many bytes arrived that nobody takes any more: they are granted again, and are no reason to grow.
    pub(crate) fn thrown_away(&self, bytes: usize) {
        self.taken(Load::default(), bytes, usize::MAX);
    }

    /// So much waits no longer, which were `bytes` on the wire; `waited` bytes were there before.
    pub(crate) fn taken(&self, load: Load, bytes: usize, waited: usize) {
        self.backlog.drained(load);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let owed = self.owed.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let size = self.size.load(Ordering::Relaxed);
        if owed < (size / 4).min(GRANT_BYTES) {
            return;
        }
        // Whoever comes first grants it; the others find nothing.
        let owed = self.owed.swap(0, Ordering::Relaxed);
        if owed == 0 {
            return;
        }
        let mut more = 0;
        let room = self.backlog.largest.load(Ordering::Relaxed).saturating_sub(size);
        if waited < size as usize / 2 && room > 0 {
            more = self.backlog.borrow(size.min(room));
            self.size.fetch_add(more, Ordering::Relaxed);
        }
        (self.grant)(owed.saturating_add(more));
    }

    /// What was granted and what is owed.
    #[cfg(test)]
    pub(crate) fn promised(&self, granted: &AtomicUsize) -> usize {
        granted.load(Ordering::Relaxed) + self.owed.load(Ordering::Relaxed) as usize
    }

    /// What it has grown by.
    #[cfg(test)]
    pub(crate) fn grown(&self) -> usize {
        (self.size.load(Ordering::Relaxed) - INITIAL_BYTES) as usize
    }

    #[cfg(test)]
    pub(crate) fn backlog(&self) -> Load {
        let Backlog { data, requests, entries, .. } = &*self.backlog;
        let now = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Load { data: now(data), requests: now(requests), entries: now(entries) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.backlog.spare.fetch_add(*self.size.get_mut() - INITIAL_BYTES, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A window, and what the client was granted.
    pub(crate) fn window(backlog: &Arc<Backlog>) -> (Window, Arc<AtomicUsize>) {
        let granted = Arc::new(AtomicUsize::new(0));
        let sum = Arc::clone(&granted);
        let grant = move |bytes: u32| {
            sum.fetch_add(bytes as usize, Ordering::Relaxed);
        };
        (Window::new(Arc::clone(backlog), grant), granted)
    }

    fn data(bytes: usize) -> Load {
        Load { data: bytes, requests: 0, entries: 1 }
    }

    const INITIAL: usize = INITIAL_BYTES as usize;

    #[test]
    fn only_what_was_taken_is_granted_and_in_few_messages() {
        let (window, granted) = window(&Arc::new(Backlog::new(10)));
        window.filled(data(INITIAL)).unwrap();
        let quarter = INITIAL / 4;
        window.taken(data(quarter - 1), quarter - 1, INITIAL);
        assert_eq!(granted.load(Ordering::Relaxed), 0);
        window.taken(Load { data: 1, ..Load::default() }, 1, INITIAL);
        assert_eq!(granted.load(Ordering::Relaxed), quarter, "a client that is slowed down gets no more");
    }

    #[tokio::test(start_paused = true)]
    async fn the_quickest_step_tells_the_round_trip_and_that_the_largest_window() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.asked(), None);
        for (ms, quickest) in [(5000, 5000), (30, 30), (80, 30)] {
            round_trip.answered();
            tokio::time::advance(Duration::from_millis(ms)).await;
            assert_eq!(round_trip.asked(), Some(Duration::from_millis(quickest)));
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(round_trip.asked(), Some(Duration::from_millis(30)), "nothing was answered in between");
        for (us, bytes) in [(0, 1 << 20), (100, 1_101_004), (2_000, 2 << 20), (100_000, 24 << 20)] {
            assert_eq!(largest_bytes(Duration::from_micros(us)), bytes, "{us} µs");
        }
        assert_eq!(largest_bytes(Duration::MAX), LARGEST_BYTES);
    }

    #[test]
    fn windows_grow_while_data_is_taken_as_it_comes_and_share_what_is_spare() {
        let backlog = Arc::new(Backlog::new(10));
        backlog.over(Duration::from_millis(100));
        let (first, granted) = window(&backlog);
        for _ in 0..100 {
            let bytes = first.size.load(Ordering::Relaxed) as usize / 4;
            first.filled(data(bytes)).unwrap();
            first.taken(data(bytes), bytes, bytes);
        }
        assert_eq!(first.size.load(Ordering::Relaxed), LARGEST_BYTES);
        assert!(granted.load(Ordering::Relaxed) > 100 * INITIAL);
        let (second, _) = window(&backlog);
        second.taken(Load::default(), INITIAL, 0);
        assert_eq!(second.size.load(Ordering::Relaxed), INITIAL_BYTES, "nothing is left");
        drop(first);
        second.taken(Load::default(), INITIAL, 0);
        assert_eq!(second.size.load(Ordering::Relaxed), 2 * INITIAL_BYTES);
        drop(second);
        assert_eq!(backlog.spare.load(Ordering::Relaxed), SPARE_BYTES);
    }

    #[test]
    fn a_client_that_does_not_keep_to_its_windows_is_cut_off() {
        let (window, _) = window(&Arc::new(Backlog::new(2)));
        let most = 2 * INITIAL + SPARE_BYTES as usize;
        window.filled(data(most)).unwrap();
        assert_eq!(window.filled(data(1)), Err(BacklogError::Data));
    }
}
