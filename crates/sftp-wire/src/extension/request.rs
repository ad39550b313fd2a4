//! The bodies of SSH_FXP_EXTENDED: what follows the request id.

use bytes::{BufMut, Bytes, BytesMut};

use super::names;
use crate::{
    attrs::Attrs,
    error::DecodeError,
    read::Reader,
    write::{put_packed, put_string},
};

/// An extended request (draft §8). Each variant shows what follows its name on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are described by the layout of their variant")]
pub enum ExtendedRequest {
    /// `string oldpath, string newpath`. Answered by a status.
    PosixRename { from: Bytes, to: Bytes },
    /// `string path`. Answered by [`super::StatVfs`].
    StatVfs { path: Bytes },
    /// `string handle`. Answered by [`super::StatVfs`].
    FstatVfs { handle: Bytes },
    /// `string oldpath, string newpath`. Answered by a status.
    HardLink { from: Bytes, to: Bytes },
    /// `string handle`. Answered by a status.
    Fsync { handle: Bytes },
    /// `string path, ATTRS attrs`. Answered by a status.
    LSetstat { path: Bytes, attrs: Attrs },
    /// Nothing. Answered by [`super::Limits`].
    Limits,
    /// `string path`. Answered by a name.
    ExpandPath { path: Bytes },
    /// `string read-from-handle, uint64 read-from-offset, uint64 read-data-length, string write-to-handle,
    /// uint64 write-to-offset`. Length 0 means to the end of the file. Answered by a status.
    CopyData { from: Bytes, from_offset: u64, len: u64, to: Bytes, to_offset: u64 },
    /// `string username`. Empty means the user who is logged in. Answered by a name.
    HomeDirectory { user: Bytes },
    /// `string uids, string gids`, each packed with `uint32`. Answered by
    /// [`super::ExtendedReply::UsersGroups`].
    UsersGroupsById { uids: Vec<u32>, gids: Vec<u32> },
    /// `string name, string hash-algorithm-list, uint64 start-offset, uint64 length, uint32 block-size`. The
    /// list is separated by commas, best first; length 0 means to the end; block size 0 means one hash over
    /// all. Answered by [`super::ExtendedReply::CheckFile`].
    CheckFileName { path: Bytes, algorithms: Bytes, offset: u64, len: u64, block_size: u32 },
    /// As `CheckFileName`, with a handle that is open for reading in front.
    CheckFileHandle { handle: Bytes, algorithms: Bytes, offset: u64, len: u64, block_size: u32 },
    /// `string source-file, string destination-file, bool overwrite-destination`. Answered by a status.
    CopyFile { from: Bytes, to: Bytes, overwrite: bool },
    /// `string path`. Answered by [`super::SpaceAvailable`].
    SpaceAvailable { path: Bytes },
    /// `string vendor-name, string product-name, string product-version, uint64 product-build-number`.
    /// Answered by a status.
    VendorId { vendor: Bytes, product: Bytes, version: Bytes, build: u64 },
    /// A name that this crate does not know, and the rest of the packet.
    Unknown { name: Bytes, body: Bytes },
}

impl ExtendedRequest {
    /// The name on the wire.
    pub fn name(&self) -> &[u8] {
        let name = match self {
            ExtendedRequest::PosixRename { .. } => names::POSIX_RENAME,
            ExtendedRequest::StatVfs { .. } => names::STATVFS,
            ExtendedRequest::FstatVfs { .. } => names::FSTATVFS,
            ExtendedRequest::HardLink { .. } => names::HARDLINK,
            ExtendedRequest::Fsync { .. } => names::FSYNC,
            ExtendedRequest::LSetstat { .. } => names::LSETSTAT,
            ExtendedRequest::Limits => names::LIMITS,
            ExtendedRequest::ExpandPath { .. } => names::EXPAND_PATH,
            ExtendedRequest::CopyData { .. } => names::COPY_DATA,
            ExtendedRequest::HomeDirectory { .. } => names::HOME_DIRECTORY,
            ExtendedRequest::UsersGroupsById { .. } => names::USERS_GROUPS_BY_ID,
            ExtendedRequest::CheckFileName { .. } => names::CHECK_FILE_NAME,
            ExtendedRequest::CheckFileHandle { .. } => names::CHECK_FILE_HANDLE,
            ExtendedRequest::CopyFile { .. } => names::COPY_FILE,
            ExtendedRequest::SpaceAvailable { .. } => names::SPACE_AVAILABLE,
            ExtendedRequest::VendorId { .. } => names::VENDOR_ID,
            ExtendedRequest::Unknown { name, .. } => return name,
        };
        name.as_bytes()
    }

    /// Reads the name and the body. A struct's fields are read in the order in which they are written here.
    pub(crate) fn decode(mut reader: Reader) -> Result<ExtendedRequest, DecodeError> {
        let name = reader.string("extended-request")?;
        let r = &mut reader;
        Ok(match str::from_utf8(&name).unwrap_or_default() {
            names::POSIX_RENAME => {
                ExtendedRequest::PosixRename { from: r.string("oldpath")?, to: r.string("newpath")? }
            }
            names::STATVFS => ExtendedRequest::StatVfs { path: r.string("path")? },
            names::FSTATVFS => ExtendedRequest::FstatVfs { handle: r.string("handle")? },
            names::HARDLINK => {
                ExtendedRequest::HardLink { from: r.string("oldpath")?, to: r.string("newpath")? }
            }
            names::FSYNC => ExtendedRequest::Fsync { handle: r.string("handle")? },
            names::LSETSTAT => {
                ExtendedRequest::LSetstat { path: r.string("path")?, attrs: Attrs::decode(r)? }
            }
            names::LIMITS => ExtendedRequest::Limits,
            names::EXPAND_PATH => ExtendedRequest::ExpandPath { path: r.string("path")? },
            names::COPY_DATA => ExtendedRequest::CopyData {
                from: r.string("read-from-handle")?,
                from_offset: r.u64("read-from-offset")?,
                len: r.u64("read-data-length")?,
                to: r.string("write-to-handle")?,
                to_offset: r.u64("write-to-offset")?,
            },
            names::HOME_DIRECTORY => ExtendedRequest::HomeDirectory { user: r.string("username")? },
            names::USERS_GROUPS_BY_ID => {
                ExtendedRequest::UsersGroupsById { uids: r.u32_list("uids")?, gids: r.u32_list("gids")? }
            }
            names::CHECK_FILE_NAME => ExtendedRequest::CheckFileName {
                path: r.string("name")?,
                algorithms: r.string("hash-algorithm-list")?,
                offset: r.u64("start-offset")?,
                len: r.u64("length")?,
                block_size: r.u32("block-size")?,
            },
            names::CHECK_FILE_HANDLE => ExtendedRequest::CheckFileHandle {
                handle: r.string("handle")?,
                algorithms: r.string("hash-algorithm-list")?,
                offset: r.u64("start-offset")?,
                len: r.u64("length")?,
                block_size: r.u32("block-size")?,
            },
            names::COPY_FILE => ExtendedRequest::CopyFile {
                from: r.string("source-file")?,
                to: r.string("destination-file")?,
                overwrite: r.u8("overwrite-destination")? != 0,
            },
            names::SPACE_AVAILABLE => ExtendedRequest::SpaceAvailable { path: r.string("path")? },
            names::VENDOR_ID => ExtendedRequest::VendorId {
                vendor: r.string("vendor-name")?,
                product: r.string("product-name")?,
                version: r.string("product-version")?,
                build: r.u64("product-build-number")?,
            },
            _ => ExtendedRequest::Unknown { name, body: reader.rest() },
        })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_string(out, self.name());
        match self {
            ExtendedRequest::PosixRename { from, to } | ExtendedRequest::HardLink { from, to } => {
                put_string(out, from);
                put_string(out, to);
            }
            ExtendedRequest::StatVfs { path: string }
            | ExtendedRequest::FstatVfs { handle: string }
            | ExtendedRequest::Fsync { handle: string }
            | ExtendedRequest::ExpandPath { path: string }
            | ExtendedRequest::HomeDirectory { user: string }
            | ExtendedRequest::SpaceAvailable { path: string } => put_string(out, string),
            ExtendedRequest::LSetstat { path, attrs } => {
                put_string(out, path);
                attrs.encode(out);
            }
            ExtendedRequest::Limits => {}
            ExtendedRequest::CopyData { from, from_offset, len, to, to_offset } => {
                put_string(out, from);
                out.put_u64(*from_offset);
                out.put_u64(*len);
                put_string(out, to);
                out.put_u64(*to_offset);
            }
            ExtendedRequest::UsersGroupsById { uids, gids } => {
                put_packed(out, uids, |_| 4, |out, uid| out.put_u32(*uid));
                put_packed(out, gids, |_| 4, |out, gid| out.put_u32(*gid));
            }
            ExtendedRequest::CheckFileName { path: file, algorithms, offset, len, block_size }
            | ExtendedRequest::CheckFileHandle { handle: file, algorithms, offset, len, block_size } => {
                put_string(out, file);
                put_string(out, algorithms);
                out.put_u64(*offset);
                out.put_u64(*len);
                out.put_u32(*block_size);
            }
            ExtendedRequest::CopyFile { from, to, overwrite } => {
                put_string(out, from);
                put_string(out, to);
                out.put_u8(u8::from(*overwrite));
            }
            ExtendedRequest::VendorId { vendor, product, version, build } => {
                put_string(out, vendor);
                put_string(out, product);
                put_string(out, version);
                out.put_u64(*build);
            }
            ExtendedRequest::Unknown { name: _, body } => out.put_slice(body),
        }
    }
}
