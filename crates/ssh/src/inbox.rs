//! Requests between the connection's task, which must never wait, and the channel's worker.
//!
//! What waits is bounded by the channel's [`Window`], which is opened again when a request is taken. A run of
//! READ requests, which clients that prefetch whole files send without limit, is kept as one entry of constant
//! size, and all of it but the first counts as taken when it arrives.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_sftp_wire::{FrameBuffer, FrameError, kind};
use tokio::sync::Notify;

use crate::window::{BacklogError, Load, Window};

/// Longest SFTP packet, as OpenSSH's limit: type and body, without the length word.
const MAX_FRAME_BYTES: u32 = 262_144;

/// Data written together: one system call, and one hop to the disk's thread, while it is still in the
/// processor's second cache.
pub(crate) const WRITE_RUN_BYTES: usize = 512 << 10;

/// Size of a READ packet without its handle: type, id, handle length, offset, length.
const READ_FIXED_BYTES: usize = 1 + 4 + 4 + 8 + 4;

/// Size of the length word in front of each packet.
const LENGTH_WORD_BYTES: usize = 4;

/// Why the client must be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InboxError {
    /// Too much is waiting.
    #[error("{0}")]
    Backlog(#[from] BacklogError),
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

    /// What it took on the wire; of a run, its first.
    fn wire_bytes(&self) -> usize {
        LENGTH_WORD_BYTES
            + match self {
                Self::Packet(packet) => packet.len(),
                Self::Reads { handle, .. } => READ_FIXED_BYTES + handle.len(),
            }
    }
}

/// Requests of one channel.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    window: Window,
}

#[derive(Debug)]
struct State {
    frames: FrameBuffer,
    entries: VecDeque<Entry>,
    load: Load,
    /// What was taken since the window was last told, as on the wire.
    taken_bytes: usize,
    eof: bool,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(window: Window) -> Self {
        let state = State {
            frames: FrameBuffer::new(MAX_FRAME_BYTES),
            entries: VecDeque::new(),
            load: Load::default(),
            taken_bytes: 0,
            eof: false,
            closed: false,
        };
        Self { state: Mutex::new(state), arrived: Notify::new(), window }
    }

    /// Takes in what arrived; never waits.
    pub(crate) fn push(&self, chunk: &[u8]) -> Result<(), InboxError> {
        let mut state = self.state();
        if state.closed {
            self.window.thrown_away(chunk.len());
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
        let counted = self.window.filled(state.load - before);
        self.released(state.load, state);
        self.arrived.notify_one();
        outcome.and(counted.map_err(InboxError::from))
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
        state.taken_bytes +=
            state.frames.buffered() + state.entries.iter().map(Entry::wire_bytes).sum::<usize>();
        state.frames = FrameBuffer::new(MAX_FRAME_BYTES);
        let before = state.load;
        state.entries = VecDeque::new();
        state.load = Load::default();
        self.released(before, state);
    }

    fn released(&self, before: Load, mut state: MutexGuard<'_, State>) {
        let load = before - state.load;
        let bytes = std::mem::take(&mut state.taken_bytes);
        drop(state);
        if bytes > 0 {
            self.window.taken(load, bytes, before.bytes());
        }
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
            self.taken_bytes += LENGTH_WORD_BYTES + frame.len();
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
        self.taken_bytes += entry.wire_bytes();
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
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use bytes::BytesMut;
    use tidegate_sftp_wire::Request;

    use super::*;
    use crate::window::Backlog;
    use crate::window::tests::window;

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
        let (inbox, _granted) = inbox();
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
    async fn what_is_taken_is_granted_again_to_the_byte() {
        let (inbox, granted) = inbox();
        let mut sent = 0;
        for id in 0..2000 {
            let handle = Bytes::from_static(b"hand");
            let data = Bytes::from(vec![0; 10_000]);
            let written = frame(&Request::Write { id, handle, offset: 0, data });
            let asked = frame(&read(id, u64::from(id) * 1000));
            for chunk in [&written[..7], &written[7..], &asked] {
                inbox.push(chunk).unwrap();
                sent += chunk.len();
            }
            while inbox.try_take().is_some() {}
        }
        assert_eq!(inbox.state().load, Load::default());
        assert_eq!(inbox.window.backlog(), Load::default());
        inbox.push(&[0, 0, 0, 9, 1]).unwrap();
        inbox.close();
        inbox.push(&[0; 100]).unwrap();
        sent += 105;
        assert_eq!(inbox.window.promised(&granted), sent + inbox.window.grown());
    }

    #[tokio::test]
    async fn a_client_that_never_reads_is_cut_off() {
        let (inbox, _granted) = inbox();
        let stat = frame(&Request::Stat { id: 1, path: Bytes::from_static(b"/") });
        let error = loop {
            if let Err(error) = inbox.push(&stat) {
                break error;
            }
        };
        assert_eq!(error, InboxError::Backlog(BacklogError::Requests));
    }

    fn inbox() -> (Inbox, Arc<AtomicUsize>) {
        let (window, granted) = window(&Arc::new(Backlog::new(1)));
        (Inbox::new(window), granted)
    }
}
