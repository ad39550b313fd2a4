//! What a client sends to a command: a stream of bytes between the connection's task, which must never
//! wait, and the channel's worker. The sibling of [`Inbox`](crate::inbox::Inbox), which holds packets.
//!
//! What waits is bounded by the channel's [`Window`], which is opened again when bytes are taken. A worker never
//! waits for more than [`WRITE_RUN_BYTES`], which is below what a window always has open, so what it waits for
//! always arrives. Bytes are kept in blocks, as many small chunks would cost more than they hold.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::inbox::{InboxError, WRITE_RUN_BYTES};
use crate::window::{Load, Window};

/// Size of the first block; most commands send no more.
const FIRST_BLOCK_BYTES: usize = 4 << 10;

/// Size of a block while much arrives.
const BLOCK_BYTES: usize = 256 << 10;

/// How long a worker waits for a run to be complete once something is there.
const RUN_PATIENCE: Duration = Duration::from_millis(250);

/// Bytes that arrived on one channel.
#[derive(Debug)]
pub(crate) struct StreamInbox {
    state: Mutex<State>,
    arrived: Notify,
    window: Window,
}

#[derive(Debug)]
struct State {
    blocks: VecDeque<Bytes>,
    /// The block that is being filled.
    tail: BytesMut,
    next_block: usize,
    bytes: usize,
    /// So many must be there before the worker is woken.
    wanted: usize,
    eof: bool,
    closed: bool,
}

impl StreamInbox {
    pub(crate) fn new(window: Window) -> Self {
        let state = State {
            blocks: VecDeque::new(),
            tail: BytesMut::new(),
            next_block: FIRST_BLOCK_BYTES,
            bytes: 0,
            wanted: 1,
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
        state.append(chunk);
        let enough = state.bytes >= state.wanted;
        // Counted before anyone can take it, so that the count never falls below zero.
        let counted = self.window.filled(load(chunk.len()));
        drop(state);
        if enough {
            self.arrived.notify_one();
        }
        Ok(counted?)
    }

    /// The client sends nothing more.
    pub(crate) fn finish(&self) {
        self.state().eof = true;
        self.arrived.notify_one();
    }

    /// Nobody takes any more: what waits is dropped, and so is what still comes, so that it cannot stop the
    /// socket.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let bytes = state.bytes;
        (state.blocks, state.tail, state.bytes) = (VecDeque::new(), BytesMut::new(), 0);
        drop(state);
        self.taken(bytes, bytes);
    }

    /// The next bytes, at most `most`; `None` after the last. Cancel safe: nothing is taken before it returns.
    pub(crate) async fn take(&self, most: usize) -> Option<Bytes> {
        if !self.wait(1).await {
            return None;
        }
        let mut state = self.state();
        let waited = state.bytes;
        let bytes = state.take(most);
        drop(state);
        self.taken(bytes.as_ref().map_or(0, Bytes::len), waited);
        bytes
    }

    /// Bytes that belong into one write, at most `most` and 512 KiB: waits until so many are there, or some
    /// are and the client is slow. Empty after the last. Cancel safe.
    pub(crate) async fn take_run(&self, most: usize) -> Vec<Bytes> {
        let most = most.min(WRITE_RUN_BYTES);
        let mut run = Vec::new();
        if !self.wait(1).await {
            return run;
        }
        // Waking the worker once for the run instead of once for each packet is what makes uploads cheap.
        let _ = timeout(RUN_PATIENCE, self.wait(most)).await;
        let mut state = self.state();
        let waited = state.bytes;
        let mut left = most;
        while left > 0
            && let Some(bytes) = state.take(left)
        {
            left -= bytes.len();
            run.push(bytes);
        }
        drop(state);
        self.taken(most - left, waited);
        run
    }

    /// Waits until `wanted` bytes are there or no more come; `false` if there are none.
    async fn wait(&self, wanted: usize) -> bool {
        loop {
            {
                let mut state = self.state();
                state.wanted = wanted;
                if state.bytes >= wanted || state.eof {
                    return state.bytes > 0;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn taken(&self, bytes: usize, waited: usize) {
        self.window.taken(load(bytes), bytes, waited);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamInbox {
    fn drop(&mut self) {
        self.close();
    }
}

/// Standard input is data.
fn load(bytes: usize) -> Load {
    Load { data: bytes, requests: 0, entries: 0 }
}

impl State {
    fn append(&mut self, mut chunk: &[u8]) {
        self.bytes += chunk.len();
        loop {
            let room = self.tail.capacity() - self.tail.len();
            let (now, later) = chunk.split_at(chunk.len().min(room));
            self.tail.extend_from_slice(now);
            chunk = later;
            if chunk.is_empty() {
                return;
            }
            let full = std::mem::replace(&mut self.tail, BytesMut::with_capacity(self.next_block));
            if !full.is_empty() {
                self.blocks.push_back(full.freeze());
            }
            self.next_block = BLOCK_BYTES;
        }
    }

    fn take(&mut self, most: usize) -> Option<Bytes> {
        let mut block = match self.blocks.pop_front() {
            Some(block) => block,
            // The room behind stays for what follows.
            None if !self.tail.is_empty() => self.tail.split().freeze(),
            None => return None,
        };
        if block.len() > most {
            self.blocks.push_front(block.split_off(most));
        }
        self.bytes -= block.len();
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use crate::window::tests::window;
    use crate::window::{Backlog, BacklogError};

    fn inbox() -> (StreamInbox, Arc<AtomicUsize>) {
        let (window, granted) = window(&Arc::new(Backlog::new(1)));
        (StreamInbox::new(window), granted)
    }

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in_whatever_their_chunks() {
        let (inbox, _granted) = inbox();
        let sent: Vec<u8> = (0..1_500_000u32).map(|i| (i % 251) as u8).collect();
        let mut rest = &sent[..];
        for length in [1, 2, 4095, 7, 200_000, 32_768].iter().cycle() {
            let (now, later) = rest.split_at((*length).min(rest.len()));
            inbox.push(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        inbox.finish();
        let mut got = Vec::new();
        for most in [1, 10, 5000, 300_000].iter().cycle() {
            match inbox.take(*most).await {
                Some(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= *most);
                    got.extend_from_slice(&bytes);
                }
                None => break,
            }
        }
        assert!(got == sent);
        assert_eq!(inbox.state().bytes, 0);
        assert!(inbox.take_run(10).await.is_empty());
    }

    #[tokio::test]
    async fn chunks_of_one_byte_cost_no_more_than_long_ones() {
        let (inbox, _granted) = inbox();
        for _ in 0..2 * BLOCK_BYTES {
            inbox.push(b"x").unwrap();
        }
        assert!(inbox.state().blocks.len() <= 3, "{}", inbox.state().blocks.len());
        let run = inbox.take_run(usize::MAX).await;
        assert!(run.len() <= 3, "{}", run.len());
        assert_eq!(run.iter().map(Bytes::len).sum::<usize>(), WRITE_RUN_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_until_it_is_whole_but_not_for_a_slow_client() {
        let (inbox, _granted) = inbox();
        let inbox = Arc::new(inbox);
        let feeder = {
            let inbox = Arc::clone(&inbox);
            tokio::spawn(async move {
                for _ in 0..16 {
                    inbox.push(&vec![1; WRITE_RUN_BYTES / 16]).unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                inbox.push(b"slow").unwrap();
            })
        };
        let length = |run: &[Bytes]| run.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(length(&inbox.take_run(usize::MAX).await), WRITE_RUN_BYTES);
        assert_eq!(length(&inbox.take_run(usize::MAX).await), 4);
        feeder.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_taken_is_granted_again_to_the_byte() {
        let (inbox, granted) = inbox();
        for _ in 0..100 {
            inbox.push(&[0; 100_000]).unwrap();
            inbox.take(70_000).await.unwrap();
            inbox.take_run(usize::MAX).await;
        }
        assert_eq!(inbox.window.promised(&granted), 100 * 100_000 + inbox.window.grown());
    }

    #[tokio::test]
    async fn too_much_data_ends_the_connection_and_a_closed_inbox_takes_nothing() {
        let (inbox, granted) = inbox();
        let (mut outcome, mut sent) = (Ok(()), 0);
        while outcome.is_ok() {
            outcome = inbox.push(&[0; 200_000]);
            sent += 200_000;
        }
        assert_eq!(outcome, Err(InboxError::Backlog(BacklogError::Data)));
        inbox.close();
        assert_eq!(inbox.window.backlog(), Load::default());
        for _ in 0..100 {
            inbox.push(&[0; 200_000]).unwrap();
        }
        assert_eq!(inbox.state().bytes, 0);
        assert_eq!(inbox.window.grown(), 0, "what is for nobody needs no room");
        assert_eq!(inbox.window.promised(&granted), sent + 100 * 200_000);
    }
}
