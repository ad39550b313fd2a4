//! A server's packet: reply, round trip, and the body of an extended reply read as each kind there is.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tidegate_sftp_wire::{ExtendedReply, Response, extension::names};

fuzz_target!(|packet: &[u8]| {
    let Ok(response) = Response::decode(Bytes::copy_from_slice(packet)) else { return };
    let mut frame = BytesMut::new();
    response.encode(&mut frame);
    assert_eq!(Response::decode(frame.freeze().slice(4..)), Ok(response.clone()));

    let Response::ExtendedReply { id, reply: ExtendedReply::Raw(body) } = response else { return };
    for name in [
        names::STATVFS,
        names::LIMITS,
        names::USERS_GROUPS_BY_ID,
        names::CHECK_FILE_NAME,
        names::SPACE_AVAILABLE,
    ] {
        let Ok(reply) = ExtendedReply::decode(name, body.clone()) else { continue };
        let mut frame = BytesMut::new();
        Response::ExtendedReply { id, reply: reply.clone() }.encode(&mut frame);
        // Length word, type byte and id stand in front of the body.
        assert_eq!(ExtendedReply::decode(name, frame.freeze().slice(9..)), Ok(reply));
    }
});
