//! One packet of each type, byte for byte, as the documents have it: draft-ietf-secsh-filexfer-02, OpenSSH's
//! `PROTOCOL`, draft-ietf-secsh-filexfer-extensions-00, and filexfer-13 §4.4.

use bytes::{Bytes, BytesMut};
use tidegate_sftp_wire::{
    Attrs, ExtendedReply, ExtendedRequest, Limits, NameEntry, NameReply, PFlags, Request, Response,
    SpaceAvailable, StatVfs, StatusCode, data_header, extension::names,
};

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn extended(id: u32, request: ExtendedRequest) -> Request {
    Request::Extended { id, request }
}

/// Bytes written as hexadecimal numbers and 'text', separated by blanks.
pub(crate) fn wire(notation: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    for token in notation.split_whitespace() {
        match token.strip_prefix('\'') {
            Some(text) => {
                bytes.extend_from_slice(text.strip_suffix('\'').expect("a closing quote").as_bytes())
            }
            None => {
                for pair in token.as_bytes().chunks(2) {
                    let digits = str::from_utf8(pair).expect("ASCII");
                    bytes.extend_from_slice(&[
                        u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
                    ]);
                }
            }
        }
    }
    bytes.freeze()
}

/// What it shows, the request, and its frame with the length word.
pub(crate) fn requests() -> Vec<(&'static str, Request, Bytes)> {
    vec![
        ("init", Request::Init { version: 3 }, wire("00000005 01 00000003")),
        (
            "open",
            Request::Open {
                id: 1,
                path: b("/a.txt"),
                pflags: PFlags::WRITE | PFlags::CREAT | PFlags::TRUNC,
                attrs: Attrs { permissions: Some(0o644), ..Attrs::default() },
            },
            wire("0000001b 03 00000001 00000006 '/a.txt' 0000001a 00000004 000001a4"),
        ),
        (
            "open with all attributes",
            Request::Open {
                id: 2,
                path: b("x"),
                pflags: PFlags::READ | PFlags::APPEND | PFlags::EXCL,
                attrs: Attrs {
                    size: Some(0x1_0000_0002),
                    owner: Some((1000, 100)),
                    permissions: Some(0o100_600),
                    times: Some((1, 2)),
                    extended: vec![(b("k"), b("")), (b("kk"), b("v"))],
                },
            },
            wire(
                "00000046 03 00000002 00000001 'x' 00000025 8000000f 0000000100000002 000003e8 00000064 00008180 00000001 00000002 00000002 00000001 'k' 00000000 00000002 'kk' 00000001 'v'",
            ),
        ),
        (
            "close",
            Request::Close { id: 0xffff_ffff, handle: b("h1") },
            wire("0000000b 04 ffffffff 00000002 'h1'"),
        ),
        (
            "read",
            Request::Read { id: 3, handle: b("h1"), offset: 0x0102_0304_0506_0708, len: 32_768 },
            wire("00000017 05 00000003 00000002 'h1' 0102030405060708 00008000"),
        ),
        (
            "write",
            Request::Write { id: 4, handle: b("h1"), offset: 9, data: b("abc") },
            wire("0000001a 06 00000004 00000002 'h1' 0000000000000009 00000003 'abc'"),
        ),
        (
            "write of nothing",
            Request::Write { id: 4, handle: b(""), offset: 0, data: b("") },
            wire("00000015 06 00000004 00000000 0000000000000000 00000000"),
        ),
        ("lstat", Request::Lstat { id: 5, path: b("/l") }, wire("0000000b 07 00000005 00000002 '/l'")),
        ("fstat", Request::Fstat { id: 6, handle: b("h") }, wire("0000000a 08 00000006 00000001 'h'")),
        (
            "setstat",
            Request::Setstat {
                id: 7,
                path: b("/f"),
                attrs: Attrs { owner: Some((1, 2)), ..Attrs::default() },
            },
            wire("00000017 09 00000007 00000002 '/f' 00000002 00000001 00000002"),
        ),
        (
            "fsetstat",
            Request::Fsetstat {
                id: 8,
                handle: b("h"),
                attrs: Attrs { times: Some((0x5e00_0000, 0x5e00_0001)), ..Attrs::default() },
            },
            wire("00000016 0a 00000008 00000001 'h' 00000008 5e000000 5e000001"),
        ),
        ("opendir", Request::Opendir { id: 9, path: b("/") }, wire("0000000a 0b 00000009 00000001 '/'")),
        ("readdir", Request::Readdir { id: 10, handle: b("d") }, wire("0000000a 0c 0000000a 00000001 'd'")),
        ("remove", Request::Remove { id: 11, path: b("/x") }, wire("0000000b 0d 0000000b 00000002 '/x'")),
        (
            "mkdir",
            Request::Mkdir { id: 12, path: b("/d"), attrs: Attrs::default() },
            wire("0000000f 0e 0000000c 00000002 '/d' 00000000"),
        ),
        ("rmdir", Request::Rmdir { id: 13, path: b("/d") }, wire("0000000b 0f 0000000d 00000002 '/d'")),
        ("realpath", Request::Realpath { id: 14, path: b(".") }, wire("0000000a 10 0000000e 00000001 '.'")),
        ("stat", Request::Stat { id: 15, path: b("/s") }, wire("0000000b 11 0000000f 00000002 '/s'")),
        (
            "rename",
            Request::Rename { id: 16, from: b("old"), to: b("new") },
            wire("00000013 12 00000010 00000003 'old' 00000003 'new'"),
        ),
        ("readlink", Request::Readlink { id: 17, path: b("/l") }, wire("0000000b 13 00000011 00000002 '/l'")),
        (
            "symlink has the target first",
            Request::Symlink { id: 18, target: b("target"), link: b("link") },
            wire("00000017 14 00000012 00000006 'target' 00000004 'link'"),
        ),
        ("unknown: LINK of version 6", Request::Unknown { id: 19, kind: 21 }, wire("00000005 15 00000013")),
        (
            "posix-rename",
            extended(20, ExtendedRequest::PosixRename { from: b("a"), to: b("bb") }),
            wire("0000002c c8 00000014 00000018 'posix-rename@openssh.com' 00000001 'a' 00000002 'bb'"),
        ),
        (
            "statvfs",
            extended(20, ExtendedRequest::StatVfs { path: b("/") }),
            wire("00000021 c8 00000014 00000013 'statvfs@openssh.com' 00000001 '/'"),
        ),
        (
            "fstatvfs",
            extended(20, ExtendedRequest::FstatVfs { handle: b("h") }),
            wire("00000022 c8 00000014 00000014 'fstatvfs@openssh.com' 00000001 'h'"),
        ),
        (
            "hardlink",
            extended(20, ExtendedRequest::HardLink { from: b("a"), to: b("bb") }),
            wire("00000028 c8 00000014 00000014 'hardlink@openssh.com' 00000001 'a' 00000002 'bb'"),
        ),
        (
            "fsync",
            extended(20, ExtendedRequest::Fsync { handle: b("h") }),
            wire("0000001f c8 00000014 00000011 'fsync@openssh.com' 00000001 'h'"),
        ),
        (
            "lsetstat",
            extended(
                20,
                ExtendedRequest::LSetstat {
                    path: b("l"),
                    attrs: Attrs { times: Some((3, 4)), ..Attrs::default() },
                },
            ),
            wire(
                "0000002e c8 00000014 00000014 'lsetstat@openssh.com' 00000001 'l' 00000008 00000003 00000004",
            ),
        ),
        (
            "limits",
            extended(20, ExtendedRequest::Limits),
            wire("0000001b c8 00000014 00000012 'limits@openssh.com'"),
        ),
        (
            "expand-path",
            extended(20, ExtendedRequest::ExpandPath { path: b("~/x") }),
            wire("00000027 c8 00000014 00000017 'expand-path@openssh.com' 00000003 '~/x'"),
        ),
        (
            "copy-data",
            extended(
                20,
                ExtendedRequest::CopyData { from: b("r"), from_offset: 1, len: 2, to: b("w"), to_offset: 3 },
            ),
            wire(
                "00000034 c8 00000014 00000009 'copy-data' 00000001 'r' 0000000000000001 0000000000000002 00000001 'w' 0000000000000003",
            ),
        ),
        (
            "home-directory",
            extended(20, ExtendedRequest::HomeDirectory { user: b("joe") }),
            wire("0000001e c8 00000014 0000000e 'home-directory' 00000003 'joe'"),
        ),
        (
            "users-groups-by-id",
            extended(20, ExtendedRequest::UsersGroupsById { uids: vec![0, 1000], gids: vec![0xffff_fffe] }),
            wire(
                "0000003b c8 00000014 0000001e 'users-groups-by-id@openssh.com' 00000008 00000000 000003e8 00000004 fffffffe",
            ),
        ),
        (
            "check-file-name",
            extended(
                20,
                ExtendedRequest::CheckFileName {
                    path: b("/f"),
                    algorithms: b("sha256,md5"),
                    offset: 1,
                    len: 2,
                    block_size: 256,
                },
            ),
            wire(
                "00000040 c8 00000014 0000000f 'check-file-name' 00000002 '/f' 0000000a 'sha256,md5' 0000000000000001 0000000000000002 00000100",
            ),
        ),
        (
            "check-file-handle",
            extended(
                20,
                ExtendedRequest::CheckFileHandle {
                    handle: b("h"),
                    algorithms: b("md5"),
                    offset: 0,
                    len: 0,
                    block_size: 0,
                },
            ),
            wire(
                "0000003a c8 00000014 00000011 'check-file-handle' 00000001 'h' 00000003 'md5' 0000000000000000 0000000000000000 00000000",
            ),
        ),
        (
            "copy-file",
            extended(20, ExtendedRequest::CopyFile { from: b("a"), to: b("bb"), overwrite: true }),
            wire("0000001e c8 00000014 00000009 'copy-file' 00000001 'a' 00000002 'bb' 01"),
        ),
        (
            "space-available",
            extended(20, ExtendedRequest::SpaceAvailable { path: b("/") }),
            wire("0000001d c8 00000014 0000000f 'space-available' 00000001 '/'"),
        ),
        (
            "vendor-id",
            extended(
                20,
                ExtendedRequest::VendorId { vendor: b("v"), product: b("pp"), version: b("1.0"), build: 7 },
            ),
            wire(
                "0000002c c8 00000014 00000009 'vendor-id' 00000001 'v' 00000002 'pp' 00000003 '1.0' 0000000000000007",
            ),
        ),
        (
            "an extension that we do not know",
            extended(
                20,
                ExtendedRequest::Unknown {
                    name: b("flock@openssh.com"),
                    body: Bytes::from_static(&[0, 0, 0, 1, b'h', 0, 0, 0, 2]),
                },
            ),
            wire("00000023 c8 00000014 00000011 'flock@openssh.com' 00000001 'h' 00000002"),
        ),
    ]
}

/// What it shows, the reply, and its frame with the length word.
pub(crate) fn responses() -> Vec<(&'static str, Response, Bytes)> {
    vec![
        (
            "version",
            Response::Version { extensions: vec![(b("posix-rename@openssh.com"), b("1"))] },
            wire("00000026 02 00000003 00000018 'posix-rename@openssh.com' 00000001 '1'"),
        ),
        (
            "status",
            Response::status(1, StatusCode::PermissionDenied),
            wire("00000022 65 00000001 00000003 00000011 'Permission' 20 'Denied' 00000000"),
        ),
        (
            "status ok",
            Response::status(1, StatusCode::Ok),
            wire("00000011 65 00000001 00000000 00000000 00000000"),
        ),
        (
            "status with its own text",
            Response::Status { id: 1, code: StatusCode::Failure, message: b("quota") },
            wire("00000016 65 00000001 00000004 00000005 'quota' 00000000"),
        ),
        ("handle", Response::Handle { id: 2, handle: b("h1") }, wire("0000000b 66 00000002 00000002 'h1'")),
        ("data", Response::Data { id: 3, data: b("abcde") }, wire("0000000e 67 00000003 00000005 'abcde'")),
        (
            "name",
            Response::Name {
                id: 4,
                entries: vec![
                    NameEntry {
                        name: b("a"),
                        longname: b("-rw-_a"),
                        attrs: Attrs { size: Some(5), ..Attrs::default() },
                    },
                    NameEntry { name: b("b"), ..NameEntry::default() },
                ],
            },
            wire(
                "00000031 68 00000004 00000002 00000001 'a' 00000006 '-rw-_a' 00000001 0000000000000005 00000001 'b' 00000000 00000000",
            ),
        ),
        (
            "name without entries",
            Response::Name { id: 4, entries: vec![] },
            wire("00000009 68 00000004 00000000"),
        ),
        (
            "attrs",
            Response::Attrs {
                id: 5,
                attrs: Attrs {
                    size: Some(1),
                    owner: Some((2, 3)),
                    permissions: Some(0o040_755),
                    times: Some((4, 5)),
                    extended: vec![],
                },
            },
            wire(
                "00000025 69 00000005 0000000f 0000000000000001 00000002 00000003 000041ed 00000004 00000005",
            ),
        ),
    ]
}

/// The name of the request, the reply to it, and the reply's frame with the length word.
fn extended_replies() -> Vec<(&'static str, ExtendedReply, Bytes)> {
    vec![
        (
            names::STATVFS,
            ExtendedReply::StatVfs(StatVfs {
                bsize: 1,
                frsize: 2,
                blocks: 3,
                bfree: 4,
                bavail: 5,
                files: 6,
                ffree: 7,
                favail: 8,
                fsid: 9,
                flag: 10,
                namemax: 11,
            }),
            wire(
                "0000005d c9 00000006 0000000000000001 0000000000000002 0000000000000003 0000000000000004 0000000000000005 0000000000000006 0000000000000007 0000000000000008 0000000000000009 000000000000000a 000000000000000b",
            ),
        ),
        (
            names::LIMITS,
            ExtendedReply::Limits(Limits {
                max_packet_len: 262_144,
                max_read_len: 261_120,
                max_write_len: 261_120,
                max_open_handles: 0,
            }),
            wire("00000025 c9 00000006 0000000000040000 000000000003fc00 000000000003fc00 0000000000000000"),
        ),
        (
            names::USERS_GROUPS_BY_ID,
            ExtendedReply::UsersGroups { users: vec![b("root"), b("")], groups: vec![b("wheel")] },
            wire("00000022 c9 00000006 0000000c 00000004 'root' 00000000 00000009 00000005 'wheel'"),
        ),
        (
            names::CHECK_FILE_HANDLE,
            ExtendedReply::CheckFile { algorithm: b("md5"), hashes: b("0123456789abcdef") },
            wire("0000001c c9 00000006 00000003 'md5' '0123456789abcdef'"),
        ),
        (
            names::SPACE_AVAILABLE,
            ExtendedReply::SpaceAvailable(SpaceAvailable {
                bytes_on_device: 1,
                unused_bytes_on_device: 2,
                bytes_available_to_user: 3,
                unused_bytes_available_to_user: 4,
                bytes_per_allocation_unit: 5,
            }),
            wire(
                "00000029 c9 00000006 0000000000000001 0000000000000002 0000000000000003 0000000000000004 00000005",
            ),
        ),
    ]
}

#[test]
fn requests_are_read_and_written_byte_for_byte() {
    for (name, request, frame) in requests() {
        assert_eq!(Request::decode(frame.slice(4..)), Ok(request.clone()), "{name}");
        let mut out = BytesMut::new();
        request.encode(&mut out);
        assert_eq!(out, frame, "{name}");
    }
}

#[test]
fn responses_are_read_and_written_byte_for_byte() {
    for (name, response, frame) in responses() {
        assert_eq!(Response::decode(frame.slice(4..)), Ok(response.clone()), "{name}");
        let mut out = BytesMut::new();
        response.encode(&mut out);
        assert_eq!(out, frame, "{name}");
    }
}

#[test]
fn extended_replies_are_read_and_written_byte_for_byte() {
    for (name, reply, frame) in extended_replies() {
        let mut out = BytesMut::new();
        Response::ExtendedReply { id: 6, reply: reply.clone() }.encode(&mut out);
        assert_eq!(out, frame, "{name}");

        let Ok(Response::ExtendedReply { id: 6, reply: ExtendedReply::Raw(body) }) =
            Response::decode(frame.slice(4..))
        else {
            panic!("{name}: {:?}", Response::decode(frame.slice(4..)));
        };
        assert_eq!(ExtendedReply::decode(name, body), Ok(reply), "{name}");
    }
}

/// Every type of the draft and every name of `names` is in the tables above.
#[test]
fn the_vectors_are_complete() {
    let mut kinds: Vec<u8> = requests().iter().map(|(_, request, _)| request.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 200]);

    let seen: Vec<Bytes> = requests()
        .iter()
        .filter_map(|(_, request, _)| match request {
            Request::Extended { request, .. } => Some(Bytes::copy_from_slice(request.name())),
            _ => None,
        })
        .collect();
    for name in [
        names::POSIX_RENAME,
        names::STATVFS,
        names::FSTATVFS,
        names::HARDLINK,
        names::FSYNC,
        names::LSETSTAT,
        names::LIMITS,
        names::EXPAND_PATH,
        names::COPY_DATA,
        names::HOME_DIRECTORY,
        names::USERS_GROUPS_BY_ID,
        names::CHECK_FILE_NAME,
        names::CHECK_FILE_HANDLE,
        names::COPY_FILE,
        names::SPACE_AVAILABLE,
        names::VENDOR_ID,
    ] {
        assert!(seen.iter().any(|seen| seen == name), "{name}");
    }
}

#[test]
fn extension_pairs_of_init_are_ignored() {
    let frame = wire("01 00000003 00000004 'name' 00000001 '1'");
    assert_eq!(Request::decode(frame), Ok(Request::Init { version: 3 }));
}

#[test]
fn the_data_header_stands_in_front_of_the_data() {
    let (_, _, frame) =
        responses().into_iter().find(|(name, ..)| *name == "data").expect("a row called data");
    assert_eq!(data_header(3, 5)[..], frame[..13]);
    assert_eq!(data_header(7, 262_000)[..], wire("0003ff79 67 00000007 0003ff70")[..]);
}

#[test]
fn names_can_be_written_one_by_one() {
    let size = Attrs { size: Some(5), ..Attrs::default() };
    let mut reply = NameReply::new(4);
    assert!(reply.is_empty());
    assert_eq!(reply.len(), 13);
    reply.push(b"a", b"-rw-_a", &size);
    assert_eq!(reply.len(), 13 + NameReply::entry_len(b"a", b"-rw-_a", &size));
    reply.push(b"b", b"", &Attrs::default());
    assert_eq!((reply.count(), reply.len()), (2, 13 + 27 + 13));
    let (_, _, frame) =
        responses().into_iter().find(|(name, ..)| *name == "name").expect("a row called name");
    assert_eq!(reply.finish(), frame);
}
