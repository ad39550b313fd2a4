//! Requests between the connection's task, which must never wait, and the channel's worker.
//!
//! # Why the bounds cannot lock up
//!
//! The library gives the client its window back when data arrives, so only we can slow the client down:
//! by not reading the socket ([`Gate`]). That is safe only while our worker makes progress without the
//! client, that is, while it waits for the disk. While any worker of the connection waits to *send*, the
//! socket is read on, because the window adjustment it waits for is behind the data. What accumulates
//! then is bounded by [`LIMIT_REQUEST_BYTES`] and [`LIMIT_BYTES`], beyond which the connection ends. A run of
//! READ requests, which clients that prefetch whole files send without limit, is kept as one entry of
//! constant size.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_sftp_wire::{FrameBuffer, FrameError, kind};
use tokio::sync::Notify;

use crate::socket::SocketControl;

/// Bytes waiting on a channel beyond which the socket is not read, as long as that is safe.
pub(crate) const PAUSE_BYTES: usize = 2 << 20;

/// Bytes waiting on a channel at which the socket is read again.
pub(crate) const RESUME_BYTES: usize = 1 << 20;

/// Bytes of requests without data waiting on a channel beyond which the connection ends: such a client
/// asks and does not read.
const LIMIT_REQUEST_BYTES: usize = 6 << 20;

/// Bytes waiting on a channel, data included, beyond which the connection ends. It is reached only when
/// uploads are slow while another channel of the same connection waits for the client.
pub(crate) const LIMIT_BYTES: usize = 24 << 20;

/// Entries waiting on a channel beyond which the connection ends; each costs about 100 bytes.
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
    fn cost(&self) -> usize {
        match self {
            Self::Packet(packet) => packet.len(),
            Self::Reads { .. } => READ_FIXED_BYTES,
        }
    }

    /// What counts as a request: everything but data to be written.
    fn request_cost(&self) -> usize {
        match self {
            Self::Packet(packet) if packet.first() == Some(&kind::WRITE) => 0,
            other => other.cost(),
        }
    }
}

/// Decides for one connection whether its socket is read.
#[derive(Debug)]
pub(crate) struct Gate {
    control: SocketControl,
    sending: AtomicUsize,
    full: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(control: SocketControl) -> Self {
        Self { control, sending: AtomicUsize::new(0), full: AtomicUsize::new(0) }
    }

    /// Too much waits on one more channel.
    pub(crate) fn filled(&self) {
        self.full.fetch_add(1, Ordering::SeqCst);
        self.update();
    }

    /// One channel fewer has too much waiting.
    pub(crate) fn drained(&self) {
        self.full.fetch_sub(1, Ordering::SeqCst);
        self.update();
    }

    /// Marks that a worker waits for the client; reading goes on until the guard is dropped.
    pub(crate) fn sending(&self) -> Sending<'_> {
        self.sending.fetch_add(1, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) > 0 {
            self.update();
        }
        Sending(self)
    }

    fn update(&self) {
        if self.full.load(Ordering::SeqCst) > 0 && self.sending.load(Ordering::SeqCst) == 0 {
            self.control.pause_reads();
            // A worker that began to send in between may have seen the gate open and passed on.
            if self.full.load(Ordering::SeqCst) > 0 && self.sending.load(Ordering::SeqCst) == 0 {
                return;
            }
        }
        self.control.resume_reads();
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
    bytes: usize,
    /// The part of `bytes` that is not data to be written.
    request_bytes: usize,
    full: bool,
    eof: bool,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        let state = State {
            frames: FrameBuffer::new(MAX_FRAME_BYTES),
            entries: VecDeque::new(),
            bytes: 0,
            request_bytes: 0,
            full: false,
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
        if state.bytes + state.frames.buffered() > LIMIT_BYTES
            || state.request_bytes > LIMIT_REQUEST_BYTES
            || state.entries.len() > LIMIT_ENTRIES
        {
            outcome = Err(InboxError::Full);
        }
        let full = state.bytes > PAUSE_BYTES && !state.full;
        state.full |= full;
        drop(state);
        if full {
            self.gate.filled();
        }
        self.arrived.notify_one();
        outcome
    }

    /// The client sends nothing more.
    pub(crate) fn finish(&self) {
        self.state().eof = true;
        self.arrived.notify_one();
    }

    /// The next request if one is waiting.
    pub(crate) fn try_take(&self) -> Option<Item> {
        let mut state = self.state();
        let item = state.take()?;
        self.released(state);
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
    pub(crate) fn take_if(&self, continues: impl FnOnce(&Bytes) -> bool, so_far: usize) -> Option<Bytes> {
        let mut state = self.state();
        match state.entries.front() {
            Some(Entry::Packet(packet)) if so_far + packet.len() <= WRITE_RUN_BYTES && continues(packet) => {}
            _ => return None,
        }
        let Some(Item::Packet(packet)) = state.take() else { return None };
        self.released(state);
        Some(packet)
    }

    /// Nobody takes any more: what waits is dropped, and so is what still comes. Otherwise a client that goes
    /// on sending to a worker that ended would fill the inbox, and its socket would never be read again.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.frames = FrameBuffer::new(MAX_FRAME_BYTES);
        state.entries = VecDeque::new();
        (state.bytes, state.request_bytes) = (0, 0);
        self.released(state);
    }

    fn released(&self, mut state: MutexGuard<'_, State>) {
        if state.full && state.bytes < RESUME_BYTES {
            state.full = false;
            drop(state);
            self.gate.drained();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if self.state().full {
            self.gate.drained();
        }
    }
}

/// While it lives, the socket is read whatever is waiting.
pub(crate) struct Sending<'a>(&'a Gate);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::SeqCst);
        if self.0.full.load(Ordering::SeqCst) > 0 {
            self.0.update();
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
        self.bytes += entry.cost();
        self.request_bytes += entry.request_cost();
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
        self.bytes -= entry.cost();
        self.request_bytes -= entry.request_cost();
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
        assert_eq!(inbox.state().bytes, 0);
        inbox.finish();
        assert_eq!(inbox.take().await, None);
    }

    #[tokio::test]
    async fn the_socket_is_paused_only_while_nobody_sends() {
        let (inbox, control) = inbox();
        let write = Request::Write {
            id: 1,
            handle: Bytes::from_static(b"hand"),
            offset: 0,
            data: Bytes::from(vec![0; 200_000]),
        };
        while inbox.state().bytes <= PAUSE_BYTES {
            inbox.push(&frame(&write)).unwrap();
        }
        assert!(control.is_paused());
        let sending = inbox.gate.sending();
        assert!(!control.is_paused());
        drop(sending);
        assert!(control.is_paused());
        while inbox.state().bytes >= RESUME_BYTES {
            inbox.take().await.unwrap();
        }
        assert!(!control.is_paused());
    }

    #[tokio::test]
    async fn an_inbox_that_nobody_reads_any_more_does_not_stop_the_socket() {
        let (inbox, control) = inbox();
        let (handle, data) = (Bytes::from_static(b"hand"), Bytes::from(vec![0; 200_000]));
        let write = frame(&Request::Write { id: 1, handle, offset: 0, data });
        while !control.is_paused() {
            inbox.push(&write).unwrap();
        }
        inbox.close();
        assert!(!control.is_paused());
        for _ in 0..2 * LIMIT_BYTES / write.len() {
            inbox.push(&write).unwrap();
        }
        assert!(!control.is_paused());
        assert_eq!(inbox.try_take(), None);
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
        (Inbox::new(Arc::new(Gate::new(control.clone()))), control)
    }
}
