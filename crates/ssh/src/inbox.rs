//! Requests between the connection's task, which must never wait, and the channel's worker.
//!
//! # Why the bounds cannot lock up
//!
//! The library gives the client its window back when data arrives, so only we can slow the client down:
//! by reading its socket at a slower pace ([`Gate`]). The pace is never zero. While no worker of the
//! connection waits to *send*, the socket is all but stopped: the disk and the throttle go on without the
//! client, and the little that is read lets keep-alive answers through. While a worker waits to send, the
//! socket is read on, because the window adjustment it waits for is behind the data; the more is waiting,
//! the slower, so that a slow upload holds back the download beside it instead of filling memory. What may
//! wait on one connection is bounded by [`LIMIT_REQUEST_BYTES`] and [`LIMIT_BYTES`], beyond which it ends. A
//! run of READ requests, which clients that prefetch whole files send without limit, is kept as one entry
//! of constant size.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidegate_sftp_wire::{FrameBuffer, FrameError, kind};
use tokio::sync::Notify;

use crate::socket::SocketControl;

/// Bytes waiting on a connection beyond which its socket is read more slowly.
pub(crate) const PAUSE_BYTES: usize = 2 << 20;

/// Bytes waiting on a connection at which its socket is read at full speed again.
pub(crate) const RESUME_BYTES: usize = 1 << 20;

/// Bytes of requests without data waiting on a connection beyond which it ends: such a client asks and
/// does not read.
const LIMIT_REQUEST_BYTES: usize = 6 << 20;

/// Bytes waiting on a connection, data included, beyond which it ends. The pace makes that all but
/// impossible: it takes a client that sends on for many minutes to a disk that has stopped.
const LIMIT_BYTES: usize = 24 << 20;

/// Entries waiting on a connection beyond which it ends; each costs about 100 bytes.
const LIMIT_ENTRIES: usize = 64 * 1024;

/// Longest SFTP packet, as OpenSSH's limit: type and body, without the length word.
const MAX_FRAME_BYTES: u32 = 262_144;

/// Data written together: one system call, and one hop to the disk's thread, while it is still in the
/// processor's second cache.
pub(crate) const WRITE_RUN_BYTES: usize = 512 << 10;

/// Size of a READ packet without its handle: type, id, handle length, offset, length.
const READ_FIXED_BYTES: usize = 1 + 4 + 4 + 8 + 4;

/// Why the client must be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InboxError {
    /// It sends requests and does not read the answers.
    #[error("too many requests are waiting while the client does not read the replies")]
    Full,
    /// It sends data that cannot be written as fast.
    #[error("too much data is waiting to be written")]
    TooMuchData,
    /// The packets cannot be told apart any more.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// What the worker takes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// One packet: type byte and body.
    Packet(Bytes),
    /// One READ of a run.
    Read { id: u32, handle: Bytes, offset: u64, length: u32 },
}

#[derive(Debug)]
enum Entry {
    Packet(Bytes),
    Reads { id: u32, handle: Bytes, offset: u64, length: u32, count: u32 },
}

impl Entry {
    /// Everything but data to be written counts as a request.
    fn load(&self) -> Load {
        match self {
            Self::Packet(packet) if packet.first() == Some(&kind::WRITE) => {
                Load { data: packet.len(), requests: 0, entries: 1 }
            }
            Self::Packet(packet) => Load { data: 0, requests: packet.len(), entries: 1 },
            Self::Reads { .. } => Load { data: 0, requests: READ_FIXED_BYTES, entries: 1 },
        }
    }
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

/// Decides for one connection how fast its socket is read, by what waits on all of its channels.
#[derive(Debug)]
pub(crate) struct Gate {
    control: SocketControl,
    /// The pace at which keep-alive answers of a client that must wait are still seen.
    trickle: Duration,
    sending: AtomicUsize,
    data: AtomicUsize,
    requests: AtomicUsize,
    entries: AtomicUsize,
    slowed: AtomicBool,
    /// Held while the pace is decided, so that the last decision is made on the latest numbers.
    deciding: Mutex<()>,
}

impl Gate {
    pub(crate) fn new(control: SocketControl, trickle: Duration) -> Self {
        Self {
            control,
            trickle,
            sending: AtomicUsize::new(0),
            data: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            slowed: AtomicBool::new(false),
            deciding: Mutex::new(()),
        }
    }

    /// So much more waits.
    pub(crate) fn filled(&self, load: Load) -> Result<(), InboxError> {
        let data = self.data.fetch_add(load.data, Ordering::SeqCst) + load.data;
        let requests = self.requests.fetch_add(load.requests, Ordering::SeqCst) + load.requests;
        let entries = self.entries.fetch_add(load.entries, Ordering::SeqCst) + load.entries;
        if data + requests > PAUSE_BYTES {
            self.decide();
        }
        if requests > LIMIT_REQUEST_BYTES || entries > LIMIT_ENTRIES {
            return Err(InboxError::Full);
        }
        if data + requests > LIMIT_BYTES { Err(InboxError::TooMuchData) } else { Ok(()) }
    }

    /// So much was taken.
    pub(crate) fn drained(&self, load: Load) {
        self.data.fetch_sub(load.data, Ordering::SeqCst);
        self.requests.fetch_sub(load.requests, Ordering::SeqCst);
        self.entries.fetch_sub(load.entries, Ordering::SeqCst);
        if self.slowed.load(Ordering::SeqCst) {
            self.decide();
        }
    }

    /// Marks that a worker waits for the client; reading goes on until the guard is dropped.
    pub(crate) fn sending(&self) -> Sending<'_> {
        self.sending.fetch_add(1, Ordering::SeqCst);
        if self.slowed.load(Ordering::SeqCst) {
            self.decide();
        }
        Sending(self)
    }

    fn decide(&self) {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.data.load(Ordering::SeqCst) + self.requests.load(Ordering::SeqCst);
        let before = self.slowed.load(Ordering::SeqCst);
        let slow = waiting > if before { RESUME_BYTES } else { PAUSE_BYTES };
        self.slowed.store(slow, Ordering::SeqCst);
        let pace = match (slow, self.sending.load(Ordering::SeqCst)) {
            (false, _) => Duration::ZERO,
            (true, 0) => self.trickle,
            // 4 ms with little waiting, doubled by every 2 MiB more: a second and more near the limit.
            (true, _) => Duration::from_millis(4 << (waiting / (2 << 20)).min(8)).min(self.trickle),
        };
        self.control.set_pace(pace);
    }
}

/// Requests of one channel.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct State {
    frames: FrameBuffer,
    entries: VecDeque<Entry>,
    /// What the gate counts for this channel.
    load: Load,
    eof: bool,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        let state = State {
            frames: FrameBuffer::new(MAX_FRAME_BYTES),
            entries: VecDeque::new(),
            load: Load::default(),
            eof: false,
            closed: false,
        };
        Self { state: Mutex::new(state), arrived: Notify::new(), gate }
    }

    /// Takes in what arrived; never waits.
    pub(crate) fn push(&self, chunk: &[u8]) -> Result<(), InboxError> {
        let mut state = self.state();
        if state.closed {
            return Ok(());
        }
        let before = state.load;
        state.frames.extend(chunk);
        let mut outcome = Ok(());
        loop {
            match state.frames.next_frame() {
                Ok(Some(frame)) => state.append(frame),
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            }
        }
        // Counted before anyone can take it, so that the count never falls below zero.
        let counted = self.gate.filled(state.load - before);
        drop(state);
        self.arrived.notify_one();
        outcome.and(counted)
    }

    /// The client sends nothing more.
    pub(crate) fn finish(&self) {
        self.state().eof = true;
        self.arrived.notify_one();
    }

    /// The next request if one is waiting.
    pub(crate) fn try_take(&self) -> Option<Item> {
        let mut state = self.state();
        let before = state.load;
        let item = state.take()?;
        self.released(before, state);
        Some(item)
    }

    /// The next request, or `None` after the last one. Cancel safe: nothing is taken before it returns.
    pub(crate) async fn take(&self) -> Option<Item> {
        loop {
            if let Some(item) = self.try_take() {
                return Some(item);
            }
            if self.state().eof {
                return None;
            }
            self.arrived.notified().await;
        }
    }

    /// The next packet if `continues` accepts it; used to write what belongs together at once. `room`
    /// is what may still be taken.
    pub(crate) fn take_if(
        &self,
        continues: impl FnOnce(&Bytes) -> bool,
        so_far: usize,
        most: usize,
    ) -> Option<Bytes> {
        let mut state = self.state();
        let before = state.load;
        match state.entries.front() {
            Some(Entry::Packet(packet)) if so_far + packet.len() <= most && continues(packet) => {}
            _ => return None,
        }
        let Some(Item::Packet(packet)) = state.take() else { return None };
        self.released(before, state);
        Some(packet)
    }

    /// Nobody takes any more: what waits is dropped, and so is what still comes. Otherwise a client that goes
    /// on sending to a worker that ended would fill the inbox, and its socket would never be read again.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.frames = FrameBuffer::new(MAX_FRAME_BYTES);
        let before = state.load;
        state.entries = VecDeque::new();
        state.load = Load::default();
        self.released(before, state);
    }

    fn released(&self, before: Load, state: MutexGuard<'_, State>) {
        let load = before - state.load;
        drop(state);
        self.gate.drained(load);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
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

/// While it lives, the socket is read whatever is waiting.
pub(crate) struct Sending<'a>(&'a Gate);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::SeqCst);
        if self.0.slowed.load(Ordering::SeqCst) {
            self.0.decide();
        }
    }
}

impl State {
    fn append(&mut self, frame: Bytes) {
        let read = parse_read(&frame);
        if let (Some(next), Some(Entry::Reads { id, handle, offset, length, count })) =
            (&read, self.entries.back_mut())
            && next.0 == id.wrapping_add(*count)
            && next.1 == *handle
            && next.2 == offset.wrapping_add(u64::from(*length) * u64::from(*count))
            && next.3 == *length
        {
            *count = count.saturating_add(1);
            return;
        }
        let entry = match read {
            Some((id, handle, offset, length)) => {
                // A copy, so that the run does not keep the block of its first packet alive.
                Entry::Reads { id, handle: Bytes::copy_from_slice(&handle), offset, length, count: 1 }
            }
            None => Entry::Packet(frame),
        };
        let load = entry.load();
        self.load.data += load.data;
        self.load.requests += load.requests;
        self.load.entries += load.entries;
        self.entries.push_back(entry);
    }

    fn take(&mut self) -> Option<Item> {
        if let Some(Entry::Reads { id, handle, offset, length, count }) = self.entries.front_mut()
            && *count > 1
        {
            let item = Item::Read { id: *id, handle: handle.clone(), offset: *offset, length: *length };
            *id = id.wrapping_add(1);
            *offset = offset.wrapping_add(u64::from(*length));
            *count -= 1;
            return Some(item);
        }
        let entry = self.entries.pop_front()?;
        self.load = self.load - entry.load();
        if self.entries.is_empty() {
            // An idle session must cost nothing.
            self.entries.shrink_to(8);
        }
        Some(match entry {
            Entry::Packet(packet) => Item::Packet(packet),
            Entry::Reads { id, handle, offset, length, .. } => Item::Read { id, handle, offset, length },
        })
    }
}

/// Recognises a well-formed READ (filexfer-02 §6.4); anything else is decoded by the worker.
fn parse_read(frame: &Bytes) -> Option<(u32, Bytes, u64, u32)> {
    if frame.first() != Some(&kind::READ) {
        return None;
    }
    let word = |at: usize| frame.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let handle_length = usize::try_from(word(5)?).ok()?;
    if frame.len() != READ_FIXED_BYTES.checked_add(handle_length)? {
        return None;
    }
    let at = 9 + handle_length;
    let offset = u64::from_be_bytes(frame.get(at..at + 8)?.try_into().ok()?);
    Some((word(1)?, frame.slice(9..at), offset, word(at + 8)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use tidegate_sftp_wire::Request;

    const TRICKLE: Duration = Duration::from_secs(30);

    fn frame(request: &Request) -> BytesMut {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        out
    }

    fn read(id: u32, offset: u64) -> Request {
        Request::Read { id, handle: Bytes::from_static(b"hand"), offset, len: 1000 }
    }

    #[tokio::test]
    async fn a_run_of_reads_is_one_entry_and_comes_out_as_it_went_in() {
        let (inbox, _control) = inbox();
        let mut bytes = BytesMut::new();
        for i in 0..100_000u32 {
            bytes.extend_from_slice(&frame(&read(7 + i, u64::from(i) * 1000)));
        }
        bytes.extend_from_slice(&frame(&read(5, 0)));
        for chunk in bytes.chunks(30_000) {
            inbox.push(chunk).unwrap();
        }
        assert_eq!(inbox.state().entries.len(), 2);
        for i in 0..100_000u32 {
            let want = Item::Read {
                id: 7 + i,
                handle: Bytes::from_static(b"hand"),
                offset: u64::from(i) * 1000,
                length: 1000,
            };
            assert_eq!(inbox.take().await, Some(want));
        }
        assert!(matches!(inbox.take().await, Some(Item::Read { id: 5, .. })));
        assert_eq!(inbox.state().load, Load::default());
        inbox.finish();
        assert_eq!(inbox.take().await, None);
    }

    #[tokio::test]
    async fn the_socket_is_slowed_by_all_channels_and_all_but_stopped_only_while_nobody_sends() {
        let (inbox, control) = inbox();
        let other = Inbox::new(Arc::clone(&inbox.gate));
        let write = Request::Write {
            id: 1,
            handle: Bytes::from_static(b"hand"),
            offset: 0,
            data: Bytes::from(vec![0; 200_000]),
        };
        for _ in 0..6 {
            inbox.push(&frame(&write)).unwrap();
            other.push(&frame(&write)).unwrap();
        }
        assert_eq!(control.pace(), TRICKLE);
        let sending = inbox.gate.sending();
        let slow = control.pace();
        assert!(slow < TRICKLE / 100, "{slow:?}");
        while inbox.state().load.data < 12 << 20 {
            inbox.push(&frame(&write)).unwrap();
        }
        assert!(control.pace() > slow * 10, "the more waits, the slower");
        drop(sending);
        assert_eq!(control.pace(), TRICKLE);
        drop(other);
        while inbox.state().load.data >= RESUME_BYTES {
            inbox.take().await.unwrap();
        }
        assert!(control.pace().is_zero());
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_cut_off() {
        let (inbox, _control) = inbox();
        let stat = frame(&Request::Stat { id: 1, path: Bytes::from_static(b"/") });
        let error = loop {
            if let Err(error) = inbox.push(&stat) {
                break error;
            }
        };
        assert_eq!(error, InboxError::Full);
    }

    fn inbox() -> (Inbox, SocketControl) {
        let control = SocketControl::detached();
        (Inbox::new(Arc::new(Gate::new(control.clone(), TRICKLE))), control)
    }
}
