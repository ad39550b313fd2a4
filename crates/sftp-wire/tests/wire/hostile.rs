//! Truncated fields, lengths and counts that lie. A request must be refused with its id, without a panic and
//! without allocating for what is not there.

use bytes::{Bytes, BytesMut};
use tidegate_sftp_wire::{
    DecodeError,
    DecodeErrorKind::{
        self, TooManyItems, Truncated, UnevenList, UnknownFlags, UnknownStatus, UnknownType, Version,
    },
    ExtendedReply, ExtendedRequest, Request, Response,
    extension::names,
};

use crate::{
    strategies::strings,
    vectors::{self, wire},
};

/// Cutting a packet anywhere leaves some field incomplete; only the body of an unknown extension has no
/// fields.
#[test]
fn a_request_cut_anywhere_is_refused_with_its_id() {
    for (name, request, frame) in vectors::requests() {
        let payload = frame.slice(4..);
        for len in 0..payload.len() {
            let error = match Request::decode(payload.slice(..len)) {
                Err(error) => error,
                Ok(Request::Extended { request: ExtendedRequest::Unknown { name, body }, .. }) => {
                    assert_eq!(len, 5 + 4 + name.len() + body.len());
                    continue;
                }
                Ok(request) => panic!("{name} cut to {len} bytes: {request:?}"),
            };
            assert_eq!(error.id, if len < 5 { None } else { request.id() }, "{name} cut to {len} bytes");
            assert!(
                matches!(error.kind, Truncated { .. } | TooManyItems { .. }),
                "{name} cut to {len}: {error}"
            );
        }
    }
}

#[test]
fn a_response_cut_anywhere_is_refused() {
    for (name, _, frame) in vectors::responses() {
        let payload = frame.slice(4..);
        for len in 0..payload.len() {
            match Response::decode(payload.slice(..len)) {
                Err(error) => {
                    assert!(matches!(error.kind, Truncated { .. } | TooManyItems { .. }), "{name}: {error}")
                }
                // The list of extensions has no count, so it may end after any pair.
                Ok(Response::Version { extensions }) => assert!(extensions.is_empty() && len == 5),
                Ok(response) => panic!("{name} cut to {len} bytes: {response:?}"),
            }
        }
    }
}

/// Whatever number stands wherever a length or a count may stand, what is decoded are slices of the packet.
#[test]
fn no_number_anywhere_reaches_beyond_the_packet() {
    for (name, _, frame) in vectors::requests() {
        for at in 4..frame.len().saturating_sub(3) {
            let left = (frame.len() - at - 4) as u32;
            for number in [0, 1, 4, left, left + 1, 1 << 31, (1 << 31) - 1, u32::MAX - 3, u32::MAX] {
                let mut bytes = BytesMut::from(&frame[4..]);
                bytes[at - 4..at].copy_from_slice(&number.to_be_bytes());
                let payload = bytes.freeze();
                if let Ok(request) = Request::decode(payload.clone()) {
                    assert_inside(&payload, &request, name);
                }
            }
        }
    }
}

/// Every string of `request` is a slice of `payload`, and its lists have no more room than the payload had
/// bytes for.
pub(crate) fn assert_inside(payload: &Bytes, request: &Request, context: &str) {
    let range = payload.as_ptr_range();
    for string in strings(request) {
        let inside = string.as_ptr_range();
        assert!(
            string.is_empty() || (range.start <= inside.start && inside.end <= range.end),
            "{context}: {string:?}"
        );
    }
    let lists = match request {
        Request::Open { attrs, .. }
        | Request::Setstat { attrs, .. }
        | Request::Fsetstat { attrs, .. }
        | Request::Mkdir { attrs, .. }
        | Request::Extended { request: ExtendedRequest::LSetstat { attrs, .. }, .. } => {
            attrs.extended.capacity() * 8
        }
        Request::Extended { request: ExtendedRequest::UsersGroupsById { uids, gids }, .. } => {
            (uids.capacity() + gids.capacity()) * 4
        }
        _ => 0,
    };
    assert!(lists <= payload.len(), "{context}: room for {lists} bytes from {}", payload.len());
}

fn refused(id: u32, field: &'static str, kind: DecodeErrorKind) -> DecodeError {
    DecodeError { id: Some(id), field, kind }
}

#[test]
fn lies_are_refused_and_named() {
    let cut = |needed, left| Truncated { needed, left };
    for (name, packet, error) in [
        ("a path of 2^31 bytes", "07 00000001 80000000 '/'", refused(1, "path", cut(1 << 31, 1))),
        ("a path of 2^32-1 bytes", "07 00000002 ffffffff '/'", refused(2, "path", cut(0xffff_ffff, 1))),
        ("a handle one byte too long", "04 00000003 00000003 'h1'", refused(3, "handle", cut(3, 2))),
        (
            "data of 2^31 bytes",
            "06 00000004 00000001 'h' 0000000000000000 80000000 'abc'",
            refused(4, "data", cut(1 << 31, 3)),
        ),
        (
            "2^31 extended attributes",
            "09 00000005 00000001 'f' 80000000 80000000 0000000000000000",
            refused(5, "attrs extended_count", TooManyItems { count: 1 << 31, left: 8 }),
        ),
        (
            "2^32-1 extended attributes",
            "03 00000006 00000001 'f' 00000001 80000000 ffffffff",
            refused(6, "attrs extended_count", TooManyItems { count: u32::MAX, left: 0 }),
        ),
        (
            "an extended attribute of 2^32-1 bytes",
            "09 00000007 00000001 'f' 80000000 00000001 ffffffff 00000000",
            refused(7, "attrs extended_type", cut(0xffff_ffff, 4)),
        ),
        (
            "attribute flags of version 6",
            "0e 00000008 00000001 'd' 00000130 00000000",
            refused(8, "attrs flags", UnknownFlags(0x130)),
        ),
        (
            "an extension name of 2^31 bytes",
            "c8 00000009 80000000",
            refused(9, "extended-request", cut(1 << 31, 0)),
        ),
        (
            "uids that are not whole numbers",
            "c8 0000000a 0000001e 'users-groups-by-id@openssh.com' 00000005 0000000000 00000000",
            refused(10, "uids", UnevenList(5)),
        ),
        (
            "2^31 bytes of gids",
            "c8 0000000b 0000001e 'users-groups-by-id@openssh.com' 00000000 80000000",
            refused(11, "gids", cut(1 << 31, 0)),
        ),
        ("no body at all", "14 0000000c", refused(12, "targetpath", cut(4, 0))),
        ("no id", "ff 0000", DecodeError { id: None, field: "id", kind: cut(4, 2) }),
        ("no version", "01 000000", DecodeError { id: None, field: "version", kind: cut(4, 3) }),
        ("nothing", "", DecodeError { id: None, field: "type", kind: cut(1, 0) }),
    ] {
        assert_eq!(Request::decode(wire(packet)), Err(error), "{name}");
    }
}

#[test]
fn lies_of_a_server_are_refused_and_named() {
    for (name, packet, error) in [
        (
            "2^31 names",
            "68 00000001 80000000 00000000 00000000 00000000",
            refused(1, "count", TooManyItems { count: 1 << 31, left: 12 }),
        ),
        (
            "a status of version 6",
            "65 00000002 00000009 00000000 00000000",
            refused(2, "code", UnknownStatus(9)),
        ),
        ("a request", "03 00000003", refused(3, "type", UnknownType(3))),
        ("version 4", "02 00000004", DecodeError { id: None, field: "version", kind: Version(4) }),
    ] {
        assert_eq!(Response::decode(wire(packet)), Err(error), "{name}");
    }
    let inner = ExtendedReply::decode(names::USERS_GROUPS_BY_ID, wire("00000004 80000000 00000000"));
    assert_eq!(
        inner,
        Err(DecodeError { id: None, field: "usernames", kind: Truncated { needed: 1 << 31, left: 0 } })
    );
}

#[test]
fn errors_say_which_request_and_which_field() {
    let error = Request::decode(wire("07 00000007 80000000")).expect_err("a path that is not there");
    assert_eq!(error.to_string(), "malformed packet of request 7: path: needs 2147483648 bytes, 0 are left");
    let error = Request::decode(Bytes::new()).expect_err("nothing");
    assert_eq!(error.to_string(), "malformed packet: type: needs 1 bytes, 0 are left");
}
