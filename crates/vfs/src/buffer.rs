//! Buffers that travel: filled by a file, framed by a protocol, sent, and used again.
//!
//! A fresh 256 KiB allocation per packet costs page faults and a memset; the pool hands out the same
//! few blocks instead. What is kept is bounded, so an idle server gives its memory back.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Room in front of the data for a protocol's header, included in every block.
const HEADROOM: usize = 64;

/// Sizes of the blocks, in bytes of payload.
const CLASSES: [usize; 2] = [32 * 1024, 256 * 1024];

/// How many blocks of each class are kept for the next user: 1 MiB and 4 MiB at most.
const KEPT: [usize; 2] = [32, 16];

/// Blocks for data under way, shared by all sessions.
#[derive(Debug, Clone, Default)]
pub struct BufferPool(Arc<[Shelf; 2]>);

/// The blocks of one class that wait for their next user.
type Shelf = Mutex<Vec<Box<[u8]>>>;

impl BufferPool {
    /// Creates an empty pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a buffer with room for `room` bytes (beyond any header that is put first). More than 256
    /// KiB are never given: `room` is cut to that.
    pub fn take(&self, room: usize) -> Buffer {
        let class = usize::from(room > CLASSES[0]);
        let kept = self.0[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        let block = kept.unwrap_or_else(|| vec![0; CLASSES[class] + HEADROOM].into_boxed_slice());
        Buffer { block, filled: 0, limit: room.min(CLASSES[class]), class, pool: Some(self.clone()) }
    }

    fn give_back(&self, class: usize, block: Box<[u8]>) {
        let mut kept = self.0[class].lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT[class] {
            kept.push(block);
        }
    }
}

/// A block being filled. Goes back to its pool when it, or the [`Bytes`] made from it, is dropped.
#[derive(Debug)]
pub struct Buffer {
    block: Box<[u8]>,
    filled: usize,
    limit: usize,
    class: usize,
    pool: Option<BufferPool>,
}

impl Buffer {
    /// Puts a protocol's header in front; it does not count against the room.
    ///
    /// # Panics
    ///
    /// If more than 64 bytes of headers are put: a mistake in the caller, not in any input.
    pub fn put_header(&mut self, header: &[u8]) {
        self.block[self.filled..self.filled + header.len()].copy_from_slice(header);
        self.filled += header.len();
        self.limit += header.len();
        assert!(self.limit <= self.block.len(), "headers exceed the headroom");
    }

    /// Overwrites the first bytes, once the length they tell is known.
    pub fn set_header(&mut self, header: &[u8]) {
        self.block[..header.len()].copy_from_slice(header);
    }

    /// The room that is left.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.block[self.filled..self.limit]
    }

    /// Leaves room for `n` bytes at most.
    pub fn limit(&mut self, n: usize) {
        self.limit = self.limit.min(self.filled.saturating_add(n));
    }

    /// Counts `n` bytes of the spare room as filled.
    pub fn advance(&mut self, n: usize) {
        self.filled = (self.filled + n).min(self.limit);
    }

    /// Bytes filled so far, headers included.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was filled.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// What was filled.
    pub fn filled(&self) -> &[u8] {
        &self.block[..self.filled]
    }

    /// Turns the filled part into shared bytes without copying it.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give_back(self.class, std::mem::take(&mut self.block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_does_not_eat_the_room() {
        let pool = BufferPool::new();
        let mut buffer = pool.take(10);
        buffer.put_header(&[0; 13]);
        buffer.limit(11);
        assert_eq!(buffer.spare().len(), 10);
        buffer.spare()[..4].copy_from_slice(b"data");
        buffer.advance(4);
        buffer.set_header(&[7; 13]);
        assert_eq!(&buffer.freeze()[..], b"\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07data");
    }

    #[test]
    fn blocks_are_used_again_and_bounded() {
        let pool = BufferPool::new();
        drop(pool.take(1));
        assert_eq!(pool.0[0].lock().unwrap().len(), 1);
        drop((0..100).map(|_| pool.take(1)).collect::<Vec<_>>());
        assert_eq!(pool.0[0].lock().unwrap().len(), KEPT[0]);
        assert_eq!(pool.take(usize::MAX).spare().len(), CLASSES[1]);
    }
}
