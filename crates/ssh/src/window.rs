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
//! A window begins small, as most channels carry little. It doubles while data is taken faster than it comes,
//! which is when a long line needs more of it; never beyond [`LARGEST_BYTES`], and not beyond what the connection
//! has to [`spare`](SPARE_BYTES) for all of its channels.
//!
//! A client that does not keep to its windows, or asks without end and reads no replies, is cut off
//! ([`Backlog`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The window of a new channel.
pub(crate) const INITIAL_BYTES: u32 = 1 << 20;

/// The largest that one window becomes: enough for 160 MB/s over a round trip of 100 ms.
const LARGEST_BYTES: u32 = 16 << 20;

/// What the windows of a connection may grow by, all together.
const SPARE_BYTES: u32 = 15 << 20;

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

/// What waits on all channels of a connection, and what its windows may still grow by.
#[derive(Debug)]
pub(crate) struct Backlog {
    data: AtomicUsize,
    requests: AtomicUsize,
    entries: AtomicUsize,
    most_bytes: usize,
    spare: AtomicU32,
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
        }
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

    /// So much waits no longer, which were `bytes` on the wire; `waited` bytes were there before.
    pub(crate) fn taken(&self, load: Load, bytes: usize, waited: usize) {
        self.backlog.drained(load);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let owed = self.owed.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let size = self.size.load(Ordering::Relaxed);
        if owed < size / 4 {
            return;
        }
        // Whoever comes first grants it; the others find nothing.
        let owed = self.owed.swap(0, Ordering::Relaxed);
        if owed == 0 {
            return;
        }
        let mut more = 0;
        if waited < size as usize / 2 && size < LARGEST_BYTES {
            more = self.backlog.borrow(size.min(LARGEST_BYTES - size));
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

    #[test]
    fn windows_grow_while_data_is_taken_as_it_comes_and_share_what_is_spare() {
        let backlog = Arc::new(Backlog::new(10));
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
