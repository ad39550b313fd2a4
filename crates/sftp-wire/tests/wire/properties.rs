//! What holds for every packet and for arbitrary bytes.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use tidegate_sftp_wire::{
    ExtendedReply, ExtendedRequest, FrameBuffer, FrameError, NameReply, Request, Response,
};

use crate::{
    frames::drain,
    hostile::assert_inside,
    strategies::{extended_reply, request, response},
};

const MAX: u32 = 20_000;

/// Bytes that look like a packet more often than chance would have it: a known type and small numbers.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0_u8), 2 => 0..12_u8, 1 => any::<u8>()];
    let kind = prop_oneof![4 => 1..21_u8, 2 => 101..106_u8, 2 => 200..202_u8, 1 => any::<u8>()];
    (kind, vec(byte, 0..120)).prop_map(|(kind, mut body)| {
        body.insert(0, kind);
        body
    })
}

/// What [`FrameBuffer`] does, said in the plainest way.
fn frames_of(mut stream: &[u8]) -> (Vec<Bytes>, Option<FrameError>) {
    let mut frames = Vec::new();
    while let Some((word, rest)) = stream.split_first_chunk::<4>() {
        let len = u32::from_be_bytes(*word);
        if len == 0 {
            return (frames, Some(FrameError::TooShort));
        }
        if len > MAX {
            return (frames, Some(FrameError::TooLong { len, max: MAX }));
        }
        let Some((frame, rest)) = rest.split_at_checked(len as usize) else { break };
        frames.push(Bytes::copy_from_slice(frame));
        stream = rest;
    }
    (frames, None)
}

proptest! {
    #[test]
    fn every_request_survives_the_wire(requests in vec(request(), 1..8), sizes in vec(1..9000_usize, 1..10)) {
        let mut stream = BytesMut::new();
        requests.iter().for_each(|request| request.encode(&mut stream));

        let mut frames = FrameBuffer::new(MAX);
        let mut arrived = Vec::new();
        for size in sizes.into_iter().cycle() {
            let chunk = stream.split_to(size.min(stream.len()));
            frames.extend(&chunk);
            let (whole, error) = drain(&mut frames);
            prop_assert_eq!(error, None);
            for frame in whole {
                let request = Request::decode(frame.clone());
                prop_assert!(request.is_ok(), "{:?}", request);
                let request = request.expect("checked");
                assert_inside(&frame, &request, "round trip");
                arrived.push(request);
            }
            if stream.is_empty() {
                break;
            }
        }
        prop_assert_eq!(arrived, requests);
        prop_assert_eq!(frames.buffered(), 0);
    }

    #[test]
    fn every_response_survives_the_wire(response in response()) {
        let mut frame = BytesMut::new();
        response.encode(&mut frame);
        prop_assert_eq!(u32::from_be_bytes(*frame.first_chunk().expect("a length word")) as usize, frame.len() - 4);
        prop_assert_eq!(Response::decode(frame.freeze().slice(4..)), Ok(response));
    }

    #[test]
    fn every_extended_reply_survives_the_wire((name, reply) in extended_reply(), id: u32) {
        let mut frame = BytesMut::new();
        Response::ExtendedReply { id, reply: reply.clone() }.encode(&mut frame);
        let Ok(Response::ExtendedReply { id: answered, reply: ExtendedReply::Raw(body) }) =
            Response::decode(frame.freeze().slice(4..))
        else {
            return Err(TestCaseError::fail("not an extended reply"));
        };
        prop_assert_eq!(answered, id);
        prop_assert_eq!(ExtendedReply::decode(name, body), Ok(reply));
    }

    #[test]
    fn a_name_reply_knows_its_length(response in response()) {
        let Response::Name { id, entries } = &response else { return Ok(()) };
        let mut reply = NameReply::new(*id);
        for entry in entries {
            let expected = reply.len() + NameReply::entry_len(&entry.name, &entry.longname, &entry.attrs);
            reply.push(&entry.name, &entry.longname, &entry.attrs);
            prop_assert_eq!(reply.len(), expected);
        }
        prop_assert_eq!(reply.count() as usize, entries.len());
        let (len, mut frame) = (reply.len(), BytesMut::new());
        response.encode(&mut frame);
        let finished = reply.finish();
        prop_assert_eq!(finished.len(), len);
        prop_assert_eq!(finished, frame);
    }

    #[test]
    fn bytes_after_a_request_are_tolerated(request in request(), junk in vec(any::<u8>(), 1..50)) {
        let has_no_end =
            matches!(request, Request::Extended { request: ExtendedRequest::Unknown { .. }, .. });
        prop_assume!(!has_no_end);
        let mut frame = BytesMut::new();
        request.encode(&mut frame);
        frame.extend_from_slice(&junk);
        prop_assert_eq!(Request::decode(frame.freeze().slice(4..)), Ok(request));
    }

    #[test]
    fn arbitrary_packets_are_read_within_their_bounds_or_refused(packet in packet()) {
        let payload = Bytes::from(packet);
        if let Ok(request) = Request::decode(payload.clone()) {
            assert_inside(&payload, &request, "arbitrary packet");
            let mut frame = BytesMut::new();
            request.encode(&mut frame);
            prop_assert_eq!(Request::decode(frame.freeze().slice(4..)), Ok(request));
        }
        if let Ok(response) = Response::decode(payload) {
            let mut frame = BytesMut::new();
            response.encode(&mut frame);
            prop_assert_eq!(Response::decode(frame.freeze().slice(4..)), Ok(response));
        }
    }

    #[test]
    fn arbitrary_streams_are_cut_as_the_draft_says(
        packets in vec((packet(), prop_oneof![9 => Just(None), 1 => any::<u32>().prop_map(Some)]), 0..60),
        sizes in vec(1..6000_usize, 1..20),
    ) {
        let mut stream = Vec::new();
        for (packet, length) in packets {
            stream.extend_from_slice(&length.unwrap_or(packet.len() as u32).to_be_bytes());
            stream.extend_from_slice(&packet);
        }

        let mut frames = FrameBuffer::new(MAX);
        let mut rest = &stream[..];
        for size in sizes.into_iter().cycle() {
            let (chunk, next) = rest.split_at(size.min(rest.len()));
            frames.extend(chunk);
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(drain(&mut frames), frames_of(&stream));
    }
}
