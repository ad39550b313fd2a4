//! Makes up packets for the property tests.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use tidegate_sftp_wire::{
    Attrs, ExtendedReply, ExtendedRequest, Limits, NameEntry, PFlags, Request, Response, SpaceAvailable,
    StatVfs, StatusCode, extension::names,
};

/// A string of the wire: any bytes, also none.
pub(crate) fn string() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

pub(crate) fn attrs() -> impl Strategy<Value = Attrs> {
    (
        any::<Option<u64>>(),
        any::<Option<(u32, u32)>>(),
        any::<Option<u32>>(),
        any::<Option<(u32, u32)>>(),
        pairs(),
    )
        .prop_map(|(size, owner, permissions, times, extended)| Attrs {
            size,
            owner,
            permissions,
            times,
            extended,
        })
}

fn pairs() -> impl Strategy<Value = Vec<(Bytes, Bytes)>> {
    option::weighted(0.3, vec((string(), string()), 0..4)).prop_map(Option::unwrap_or_default)
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let id = any::<u32>;
    let pflags = any::<u32>().prop_map(PFlags::from_bits_retain);
    let unknown_kind =
        any::<u8>().prop_filter("a kind that version 3 knows", |kind| !matches!(kind, 1 | 3..=20 | 200));
    prop_oneof![
        any::<u32>().prop_map(|version| Request::Init { version }),
        (id(), string(), pflags, attrs()).prop_map(|(id, path, pflags, attrs)| Request::Open {
            id,
            path,
            pflags,
            attrs
        }),
        (id(), string()).prop_map(|(id, handle)| Request::Close { id, handle }),
        (id(), string(), any::<u64>(), any::<u32>()).prop_map(|(id, handle, offset, len)| Request::Read {
            id,
            handle,
            offset,
            len
        }),
        (id(), string(), any::<u64>(), vec(any::<u8>(), 0..9000)).prop_map(|(id, handle, offset, data)| {
            Request::Write { id, handle, offset, data: Bytes::from(data) }
        }),
        (id(), string()).prop_map(|(id, path)| Request::Lstat { id, path }),
        (id(), string()).prop_map(|(id, handle)| Request::Fstat { id, handle }),
        (id(), string(), attrs()).prop_map(|(id, path, attrs)| Request::Setstat { id, path, attrs }),
        (id(), string(), attrs()).prop_map(|(id, handle, attrs)| Request::Fsetstat { id, handle, attrs }),
        (id(), string()).prop_map(|(id, path)| Request::Opendir { id, path }),
        (id(), string()).prop_map(|(id, handle)| Request::Readdir { id, handle }),
        (id(), string()).prop_map(|(id, path)| Request::Remove { id, path }),
        (id(), string(), attrs()).prop_map(|(id, path, attrs)| Request::Mkdir { id, path, attrs }),
        (id(), string()).prop_map(|(id, path)| Request::Rmdir { id, path }),
        (id(), string()).prop_map(|(id, path)| Request::Realpath { id, path }),
        (id(), string()).prop_map(|(id, path)| Request::Stat { id, path }),
        (id(), string(), string()).prop_map(|(id, from, to)| Request::Rename { id, from, to }),
        (id(), string()).prop_map(|(id, path)| Request::Readlink { id, path }),
        (id(), string(), string()).prop_map(|(id, target, link)| Request::Symlink { id, target, link }),
        (id(), unknown_kind).prop_map(|(id, kind)| Request::Unknown { id, kind }),
        (id(), extended_request()).prop_map(|(id, request)| Request::Extended { id, request }),
        (id(), extended_request()).prop_map(|(id, request)| Request::Extended { id, request }),
    ]
}

fn extended_request() -> impl Strategy<Value = ExtendedRequest> {
    use ExtendedRequest::*;
    let check = || (string(), string(), any::<u64>(), any::<u64>(), any::<u32>());
    let ids = || vec(any::<u32>(), 0..20);
    prop_oneof![
        (string(), string()).prop_map(|(from, to)| PosixRename { from, to }),
        string().prop_map(|path| StatVfs { path }),
        string().prop_map(|handle| FstatVfs { handle }),
        (string(), string()).prop_map(|(from, to)| HardLink { from, to }),
        string().prop_map(|handle| Fsync { handle }),
        (string(), attrs()).prop_map(|(path, attrs)| LSetstat { path, attrs }),
        Just(Limits),
        string().prop_map(|path| ExpandPath { path }),
        (string(), any::<u64>(), any::<u64>(), string(), any::<u64>()).prop_map(
            |(from, from_offset, len, to, to_offset)| CopyData { from, from_offset, len, to, to_offset }
        ),
        string().prop_map(|user| HomeDirectory { user }),
        (ids(), ids()).prop_map(|(uids, gids)| UsersGroupsById { uids, gids }),
        check().prop_map(|(path, algorithms, offset, len, block_size)| CheckFileName {
            path,
            algorithms,
            offset,
            len,
            block_size
        }),
        check().prop_map(|(handle, algorithms, offset, len, block_size)| CheckFileHandle {
            handle,
            algorithms,
            offset,
            len,
            block_size
        }),
        (string(), string(), any::<bool>()).prop_map(|(from, to, overwrite)| CopyFile {
            from,
            to,
            overwrite
        }),
        string().prop_map(|path| SpaceAvailable { path }),
        (string(), string(), string(), any::<u64>()).prop_map(|(vendor, product, version, build)| VendorId {
            vendor,
            product,
            version,
            build
        }),
        // No known name is that short.
        (vec(any::<u8>(), 0..8), string()).prop_map(|(name, body)| Unknown { name: Bytes::from(name), body }),
    ]
}

/// Replies; extended ones are raw, as [`Response::decode`] gives them.
pub(crate) fn response() -> impl Strategy<Value = Response> {
    let id = any::<u32>;
    let entry =
        (string(), string(), attrs()).prop_map(|(name, longname, attrs)| NameEntry { name, longname, attrs });
    let code = proptest::sample::select(StatusCode::ALL.to_vec());
    prop_oneof![
        vec((string(), string()), 0..20).prop_map(|extensions| Response::Version { extensions }),
        (id(), code, string()).prop_map(|(id, code, message)| Response::Status { id, code, message }),
        (id(), string()).prop_map(|(id, handle)| Response::Handle { id, handle }),
        (id(), vec(any::<u8>(), 0..9000))
            .prop_map(|(id, data)| Response::Data { id, data: Bytes::from(data) }),
        (id(), vec(entry, 0..20)).prop_map(|(id, entries)| Response::Name { id, entries }),
        (id(), attrs()).prop_map(|(id, attrs)| Response::Attrs { id, attrs }),
        (id(), string())
            .prop_map(|(id, body)| Response::ExtendedReply { id, reply: ExtendedReply::Raw(body) }),
    ]
}

/// An extended reply and the name of a request that it answers.
pub(crate) fn extended_reply() -> impl Strategy<Value = (&'static str, ExtendedReply)> {
    let users = || vec(string(), 0..20);
    prop_oneof![
        any::<[u64; 11]>().prop_map(
            |[bsize, frsize, blocks, bfree, bavail, files, ffree, favail, fsid, flag, namemax]| {
                let figures = StatVfs {
                    bsize,
                    frsize,
                    blocks,
                    bfree,
                    bavail,
                    files,
                    ffree,
                    favail,
                    fsid,
                    flag,
                    namemax,
                };
                (names::FSTATVFS, ExtendedReply::StatVfs(figures))
            }
        ),
        any::<[u64; 4]>().prop_map(|[max_packet_len, max_read_len, max_write_len, max_open_handles]| {
            let limits = Limits { max_packet_len, max_read_len, max_write_len, max_open_handles };
            (names::LIMITS, ExtendedReply::Limits(limits))
        }),
        (users(), users()).prop_map(|(users, groups)| (
            names::USERS_GROUPS_BY_ID,
            ExtendedReply::UsersGroups { users, groups }
        )),
        (string(), string()).prop_map(|(algorithm, hashes)| {
            (names::CHECK_FILE_NAME, ExtendedReply::CheckFile { algorithm, hashes })
        }),
        (any::<[u64; 4]>(), any::<u32>()).prop_map(|(bytes, bytes_per_allocation_unit)| {
            let space = SpaceAvailable {
                bytes_on_device: bytes[0],
                unused_bytes_on_device: bytes[1],
                bytes_available_to_user: bytes[2],
                unused_bytes_available_to_user: bytes[3],
                bytes_per_allocation_unit,
            };
            (names::SPACE_AVAILABLE, ExtendedReply::SpaceAvailable(space))
        }),
    ]
}

/// Every string in a request.
pub(crate) fn strings(request: &Request) -> Vec<&Bytes> {
    match request {
        Request::Init { .. } | Request::Unknown { .. } => vec![],
        Request::Close { handle: string, .. }
        | Request::Read { handle: string, .. }
        | Request::Fstat { handle: string, .. }
        | Request::Readdir { handle: string, .. }
        | Request::Lstat { path: string, .. }
        | Request::Opendir { path: string, .. }
        | Request::Remove { path: string, .. }
        | Request::Rmdir { path: string, .. }
        | Request::Realpath { path: string, .. }
        | Request::Stat { path: string, .. }
        | Request::Readlink { path: string, .. } => vec![string],
        Request::Write { handle: one, data: two, .. }
        | Request::Rename { from: one, to: two, .. }
        | Request::Symlink { target: one, link: two, .. } => vec![one, two],
        Request::Open { path: string, attrs, .. }
        | Request::Setstat { path: string, attrs, .. }
        | Request::Fsetstat { handle: string, attrs, .. }
        | Request::Mkdir { path: string, attrs, .. } => with_extended(string, attrs),
        Request::Extended { request, .. } => extended_strings(request),
    }
}

fn extended_strings(request: &ExtendedRequest) -> Vec<&Bytes> {
    use ExtendedRequest::*;
    match request {
        Limits | UsersGroupsById { .. } => vec![],
        StatVfs { path: string }
        | FstatVfs { handle: string }
        | Fsync { handle: string }
        | ExpandPath { path: string }
        | HomeDirectory { user: string }
        | SpaceAvailable { path: string } => vec![string],
        PosixRename { from: one, to: two }
        | HardLink { from: one, to: two }
        | CopyData { from: one, to: two, .. }
        | CopyFile { from: one, to: two, .. }
        | CheckFileName { path: one, algorithms: two, .. }
        | CheckFileHandle { handle: one, algorithms: two, .. }
        | Unknown { name: one, body: two } => vec![one, two],
        VendorId { vendor, product, version, .. } => vec![vendor, product, version],
        LSetstat { path, attrs } => with_extended(path, attrs),
    }
}

fn with_extended<'a>(string: &'a Bytes, attrs: &'a Attrs) -> Vec<&'a Bytes> {
    let mut strings = vec![string];
    for (name, data) in &attrs.extended {
        strings.extend([name, data]);
    }
    strings
}
