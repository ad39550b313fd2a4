//! Split, merged and impossible frames.

use bytes::{Bytes, BytesMut};
use tidegate_sftp_wire::{FrameBuffer, FrameError, Request};

use crate::vectors;

const MAX: u32 = 262_144;

/// All frames that are whole, and the error that follows them if there is one.
pub(crate) fn drain(frames: &mut FrameBuffer) -> (Vec<Bytes>, Option<FrameError>) {
    let mut whole = Vec::new();
    loop {
        match frames.next_frame() {
            Ok(Some(frame)) => whole.push(frame),
            Ok(None) => return (whole, None),
            Err(error) => return (whole, Some(error)),
        }
    }
}

#[test]
fn any_chunk_size_gives_the_same_requests() {
    let mut stream = BytesMut::new();
    for (_, _, frame) in vectors::requests() {
        stream.extend_from_slice(&frame);
    }
    for size in 1..=stream.len() {
        let mut frames = FrameBuffer::new(MAX);
        let mut requests = Vec::new();
        for chunk in stream.chunks(size) {
            frames.extend(chunk);
            let (whole, error) = drain(&mut frames);
            assert_eq!(error, None);
            requests.extend(whole.into_iter().map(|frame| Request::decode(frame).expect("a valid request")));
        }
        let expected: Vec<Request> = vectors::requests().into_iter().map(|(_, request, _)| request).collect();
        assert_eq!(requests, expected, "chunks of {size}");
        assert_eq!(frames.buffered(), 0);
    }
}

#[test]
fn buffered_counts_what_has_not_been_given_out() {
    let mut frames = FrameBuffer::new(MAX);
    assert_eq!(frames.buffered(), 0);
    frames.extend(&[0, 0, 0]);
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(None), 3));
    frames.extend(&[2]);
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(None), 4));
    frames.extend(&[1]);
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(None), 5));
    frames.extend(&[9, 0, 0, 0, 1, 8, 0, 0]);
    assert_eq!(frames.buffered(), 13);
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(Some(Bytes::from_static(&[1, 9]))), 7));
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(Some(Bytes::from_static(&[8]))), 2));
    assert_eq!((frames.next_frame(), frames.buffered()), (Ok(None), 2));
}

#[test]
fn the_longest_frame_is_accepted_and_one_byte_more_is_not() {
    for (len, accepted) in [(MAX - 1, true), (MAX, true), (MAX + 1, false)] {
        let mut frames = FrameBuffer::new(MAX);
        frames.extend(&len.to_be_bytes());
        frames.extend(&vec![7; len as usize]);
        let expected = match accepted {
            true => Ok(Some(Bytes::from(vec![7; len as usize]))),
            false => Err(FrameError::TooLong { len, max: MAX }),
        };
        assert_eq!(frames.next_frame(), expected, "{len}");
    }
}

/// The error comes after the frames in front of it, whether the length word came whole or in pieces, and it
/// stays.
#[test]
fn an_impossible_length_ends_the_stream() {
    for (len, error) in [
        (0, FrameError::TooShort),
        (MAX + 1, FrameError::TooLong { len: MAX + 1, max: MAX }),
        (1 << 31, FrameError::TooLong { len: 1 << 31, max: MAX }),
        (u32::MAX, FrameError::TooLong { len: u32::MAX, max: MAX }),
    ] {
        let mut stream = vec![0, 0, 0, 1, 42];
        stream.extend_from_slice(&len.to_be_bytes());
        stream.extend_from_slice(&[0, 0, 0, 1, 43]);
        for size in 1..=stream.len() {
            let mut frames = FrameBuffer::new(MAX);
            stream.chunks(size).for_each(|chunk| frames.extend(chunk));
            assert_eq!(drain(&mut frames), (vec![Bytes::from_static(&[42])], Some(error)), "{len} by {size}");

            frames.extend(&[0, 0, 0, 1, 44]);
            assert_eq!((frames.next_frame(), frames.buffered()), (Err(error), 0));
        }
    }
}

#[test]
fn frames_of_length_1_and_4_are_frames_but_not_requests() {
    for frame in [&[0, 0, 0, 1, 3][..], &[0, 0, 0, 4, 3, 0, 0, 0][..]] {
        let mut frames = FrameBuffer::new(MAX);
        frames.extend(frame);
        let payload = frames.next_frame().expect("a possible length").expect("a whole frame");
        assert_eq!(payload, frame[4..]);
        assert_eq!(Request::decode(payload).expect_err("no id").id, None);
    }
}
