//! Length-prefixed frames out of arbitrary chunks (draft §3).
//!
//! An SSH channel is a stream: a chunk may hold half a frame or fifty. This file finds the frames' borders
//! and copies each byte once, to where it stays until the last slice of its frame is dropped. It does not
//! look into the frames.

use std::{collections::VecDeque, mem};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

const LENGTH_WORD: usize = 4;

/// Small frames of one chunk share an allocation up to this size. It bounds what one small slice, kept by a
/// request that waits, can keep alive of its neighbours.
const SHARED_BLOCK: usize = 4096;

/// Frames that the queue may have room for while it is empty: what an idle session holds on to.
const IDLE_SLOTS: usize = 16;

/// A length word that no frame can have. The border of the next frame is lost, so the channel has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Length 0: not even a type byte.
    #[error("frame of length 0")]
    TooShort,
    /// More than the receiver takes.
    #[error("frame of {len} bytes, at most {max} are accepted")]
    TooLong {
        /// The length word.
        len: u32,
        /// The highest length accepted.
        max: u32,
    },
}

/// Collects chunks and gives out whole frames.
///
/// # Format
///
/// ```text
/// uint32 length        of what follows
/// byte   type
/// byte[] body          length - 1 bytes
/// ```
///
/// A frame that spans chunks gets one allocation of its exact size as soon as its first byte is there (so at
/// most `max_len` + 4 bytes per buffer are ever reserved ahead of the data); frames that came whole are
/// copied together. Between frames nothing is held.
#[derive(Debug)]
pub struct FrameBuffer {
    max_len: u32,
    /// Whole frames with their length words, one or several per block.
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    under_way: UnderWay,
}

/// How far the frame at the end of the stream has come.
#[derive(Debug)]
enum UnderWay {
    /// Between frames, or inside a length word.
    Length { word: [u8; LENGTH_WORD], have: usize },
    /// Inside a frame: its length word and what came of it so far.
    Body { frame: BytesMut, missing: usize },
    /// After an impossible length word. Nothing that follows can be understood.
    Lost(FrameError),
}

impl UnderWay {
    const BETWEEN: UnderWay = UnderWay::Length { word: [0; LENGTH_WORD], have: 0 };
}

impl FrameBuffer {
    /// An empty buffer that accepts frames of up to `max_len` bytes, the length word not counted.
    pub fn new(max_len: u32) -> FrameBuffer {
        FrameBuffer { max_len, ready: VecDeque::new(), ready_bytes: 0, under_way: UnderWay::BETWEEN }
    }

    /// Takes the next bytes of the stream. After a [`FrameError`] they are dropped.
    pub fn extend(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = match mem::replace(&mut self.under_way, UnderWay::BETWEEN) {
                UnderWay::Length { have: 0, .. } => self.take_whole(chunk),
                UnderWay::Length { word, have } => self.take_length(word, have, chunk),
                UnderWay::Body { frame, missing } => self.take_body(frame, missing, chunk),
                UnderWay::Lost(error) => {
                    self.under_way = UnderWay::Lost(error);
                    return;
                }
            };
        }
    }

    /// The next whole frame without its length word, never empty: type byte and body. `None` until more bytes
    /// come.
    ///
    /// # Errors
    ///
    /// [`FrameError`] once all frames before the impossible length word have been given out, and from then on
    /// always.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(block) = self.ready.front_mut() else {
            return match self.under_way {
                UnderWay::Lost(error) => Err(error),
                UnderWay::Length { .. } | UnderWay::Body { .. } => Ok(None),
            };
        };
        let len = block.get_u32() as usize;
        let frame = block.split_to(len);
        self.ready_bytes -= LENGTH_WORD + len;
        if block.is_empty() {
            self.ready.pop_front();
            if self.ready.is_empty() {
                self.ready.shrink_to(IDLE_SLOTS);
            }
        }
        Ok(Some(frame))
    }

    /// Bytes taken and not yet given out, length words included.
    pub fn buffered(&self) -> usize {
        let under_way = match &self.under_way {
            UnderWay::Length { have, .. } => *have,
            UnderWay::Body { frame, .. } => frame.len(),
            UnderWay::Lost(_) => 0,
        };
        self.ready_bytes + under_way
    }

    /// Copies the whole frames at the start of `chunk` into a block of their own, or begins a frame if there
    /// are none.
    fn take_whole<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        match chunk.split_at(self.whole_frames(chunk)) {
            ([], rest) => self.take_length([0; LENGTH_WORD], 0, rest),
            (frames, rest) => {
                self.push(Bytes::copy_from_slice(frames));
                rest
            }
        }
    }

    fn take_length<'c>(&mut self, mut word: [u8; LENGTH_WORD], mut have: usize, chunk: &'c [u8]) -> &'c [u8] {
        let (head, rest) = chunk.split_at(chunk.len().min(LENGTH_WORD - have));
        word[have..have + head.len()].copy_from_slice(head);
        have += head.len();

        self.under_way = UnderWay::Length { word, have };
        if have < LENGTH_WORD {
            return rest;
        }
        let len = match self.check(u32::from_be_bytes(word)) {
            Ok(len) => len,
            Err(error) => {
                self.under_way = UnderWay::Lost(error);
                return rest;
            }
        };
        // Memory is reserved for a frame that comes, not for one that is only announced.
        if !rest.is_empty() {
            let mut frame = BytesMut::with_capacity(LENGTH_WORD + len);
            frame.extend_from_slice(&word);
            self.under_way = UnderWay::Body { frame, missing: len };
        }
        rest
    }

    fn take_body<'c>(&mut self, mut frame: BytesMut, missing: usize, chunk: &'c [u8]) -> &'c [u8] {
        let (part, rest) = chunk.split_at(chunk.len().min(missing));
        frame.extend_from_slice(part);
        if part.len() == missing {
            self.push(frame.freeze());
        } else {
            self.under_way = UnderWay::Body { frame, missing: missing - part.len() };
        }
        rest
    }

    fn push(&mut self, block: Bytes) {
        self.ready_bytes += block.len();
        self.ready.push_back(block);
    }

    /// How many bytes at the start of `chunk` are whole frames that may share a block.
    fn whole_frames(&self, chunk: &[u8]) -> usize {
        let mut end = 0;
        while let Some(word) = chunk[end..].first_chunk::<LENGTH_WORD>() {
            let Ok(len) = self.check(u32::from_be_bytes(*word)) else { break };
            let next = end + LENGTH_WORD + len;
            if next > chunk.len() || (end > 0 && next > SHARED_BLOCK) {
                break;
            }
            end = next;
        }
        end
    }

    fn check(&self, len: u32) -> Result<usize, FrameError> {
        match len {
            0 => Err(FrameError::TooShort),
            len if len > self.max_len => Err(FrameError::TooLong { len, max: self.max_len }),
            len => Ok(len as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle session holds no buffer: neither one that was drained nor one that waits for a body.
    #[test]
    fn nothing_big_is_held_between_frames() {
        let mut frames = FrameBuffer::new(262_144);
        for _ in 0..1000 {
            let mut chunk = Vec::new();
            for _ in 0..200 {
                chunk.extend_from_slice(&[0, 0, 0, 20]);
                chunk.extend_from_slice(&[7; 20]);
            }
            frames.extend(&chunk);
        }
        while frames.next_frame().expect("valid frames").is_some() {}
        assert!(frames.ready.capacity() <= IDLE_SLOTS);
        assert!(matches!(frames.under_way, UnderWay::Length { have: 0, .. }));

        frames.extend(&[0, 4, 0, 0]);
        assert!(matches!(frames.under_way, UnderWay::Length { have: 4, .. }));
        frames.extend(&[6]);
        let UnderWay::Body { frame, missing } = &frames.under_way else { panic!("the frame has begun") };
        assert_eq!((frame.capacity(), *missing), (4 + 262_144, 262_143));
    }

    #[test]
    fn a_long_frame_is_never_moved_while_it_grows() {
        let mut frames = FrameBuffer::new(262_144);
        frames.extend(&[0, 4, 0, 0, 6]);
        let address = |frames: &FrameBuffer| match &frames.under_way {
            UnderWay::Body { frame, .. } => frame.as_ptr() as usize,
            other => panic!("{other:?}"),
        };
        let start = address(&frames);
        for _ in 0..7 {
            frames.extend(&[1; 32_768]);
            assert_eq!(address(&frames), start);
        }
        frames.extend(&[1; 32_767]);
        let frame = frames.next_frame().expect("a valid frame").expect("a whole frame");
        assert_eq!((frame.as_ptr() as usize, frame.len()), (start + 4, 262_144));
        assert_eq!(frames.buffered(), 0);
    }

    /// A small request that waits behind a WRITE of the same chunk must not keep the WRITE's bytes alive.
    #[test]
    fn small_frames_share_blocks_of_bounded_size() {
        let mut chunk = vec![0, 0, 0x70, 0];
        chunk.extend_from_slice(&[6; 0x7000]);
        for _ in 0..300 {
            chunk.extend_from_slice(&[0, 0, 0, 16]);
            chunk.extend_from_slice(&[5; 16]);
        }
        let mut frames = FrameBuffer::new(262_144);
        frames.extend(&chunk);
        let sizes: Vec<usize> = frames.ready.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [0x7004, 204 * 20, 96 * 20]);
    }
}
