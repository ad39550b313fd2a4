//! A client's byte stream: frames, then requests, then their round trip.
//!
//! The first byte says how large the chunks are in which the rest arrives.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidegate_sftp_wire::{FrameBuffer, Request};

const MAX_FRAME: u32 = 262_144;

fuzz_target!(|input: &[u8]| {
    let Some((size, stream)) = input.split_first() else { return };
    let mut frames = FrameBuffer::new(MAX_FRAME);
    let mut taken = 0;
    for chunk in stream.chunks(usize::from(*size).max(1)) {
        frames.extend(chunk);
        while let Ok(Some(frame)) = frames.next_frame() {
            assert!(!frame.is_empty() && frame.len() <= MAX_FRAME as usize);
            taken += 4 + frame.len();
            let Ok(request) = Request::decode(frame) else { continue };

            let mut again = BytesMut::new();
            request.encode(&mut again);
            assert_eq!(Request::decode(again.freeze().slice(4..)), Ok(request));
        }
        assert!(taken + frames.buffered() <= stream.len());
    }
});
