//! The bodies of SSH_FXP_EXTENDED_REPLY: what follows the request id.
//!
//! A reply does not say which request it answers, so [`ExtendedReply::decode`] has to be told.

use bytes::{BufMut, Bytes, BytesMut};

use super::names;
use crate::{
    error::DecodeError,
    read::Reader,
    write::{put_packed, put_string},
};

/// The body of an extended reply (draft §8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtendedReply {
    /// To `statvfs@openssh.com` and `fstatvfs@openssh.com`.
    StatVfs(StatVfs),
    /// To `limits@openssh.com`.
    Limits(Limits),
    /// To `users-groups-by-id@openssh.com`: `string usernames, string groupnames`, each packed with one
    /// string per number that was asked for; the string is empty where there is no name.
    UsersGroups {
        /// The users' names, in the order of the request.
        users: Vec<Bytes>,
        /// The groups' names, in the order of the request.
        groups: Vec<Bytes>,
    },
    /// To `check-file-name` and `check-file-handle`: `string hash-algo-used, byte hashes[]`, without a
    /// length.
    CheckFile {
        /// The algorithm that the server took from the client's list.
        algorithm: Bytes,
        /// The hashes of all blocks, one after the other.
        hashes: Bytes,
    },
    /// To `space-available`.
    SpaceAvailable(SpaceAvailable),
    /// Bytes whose meaning depends on the request; what [`crate::Response::decode`] gives.
    Raw(Bytes),
}

/// File system figures, as `statvfs(3)` has them: eleven `uint64` in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatVfs {
    /// Preferred block size in bytes.
    pub bsize: u64,
    /// Unit of the three block counts, in bytes.
    pub frsize: u64,
    /// All blocks, in units of `frsize`.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks that an ordinary user may fill.
    pub bavail: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Free inodes that an ordinary user may use.
    pub favail: u64,
    /// File system id.
    pub fsid: u64,
    /// Bit mask: 0x1 read-only, 0x2 no setuid.
    pub flag: u64,
    /// Longest file name in bytes.
    pub namemax: u64,
}

impl StatVfs {
    /// `flag`: the file system is read-only.
    pub const READ_ONLY: u64 = 0x1;
    /// `flag`: setuid and setgid bits have no effect.
    pub const NO_SUID: u64 = 0x2;

    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.bsize);
        out.put_u64(self.frsize);
        out.put_u64(self.blocks);
        out.put_u64(self.bfree);
        out.put_u64(self.bavail);
        out.put_u64(self.files);
        out.put_u64(self.ffree);
        out.put_u64(self.favail);
        out.put_u64(self.fsid);
        out.put_u64(self.flag);
        out.put_u64(self.namemax);
    }

    fn decode(r: &mut Reader) -> Result<StatVfs, DecodeError> {
        Ok(StatVfs {
            bsize: r.u64("f_bsize")?,
            frsize: r.u64("f_frsize")?,
            blocks: r.u64("f_blocks")?,
            bfree: r.u64("f_bfree")?,
            bavail: r.u64("f_bavail")?,
            files: r.u64("f_files")?,
            ffree: r.u64("f_ffree")?,
            favail: r.u64("f_favail")?,
            fsid: r.u64("f_fsid")?,
            flag: r.u64("f_flag")?,
            namemax: r.u64("f_namemax")?,
        })
    }
}

/// What the server accepts: four `uint64` in this order. 0 means that there is no particular limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet in bytes, either way.
    pub max_packet_len: u64,
    /// Most bytes that one READ returns.
    pub max_read_len: u64,
    /// Most bytes that one WRITE may carry.
    pub max_write_len: u64,
    /// Handles that may be open at a time.
    pub max_open_handles: u64,
}

impl Limits {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.max_packet_len);
        out.put_u64(self.max_read_len);
        out.put_u64(self.max_write_len);
        out.put_u64(self.max_open_handles);
    }

    fn decode(r: &mut Reader) -> Result<Limits, DecodeError> {
        Ok(Limits {
            max_packet_len: r.u64("max-packet-length")?,
            max_read_len: r.u64("max-read-length")?,
            max_write_len: r.u64("max-write-length")?,
            max_open_handles: r.u64("max-open-handles")?,
        })
    }
}

/// Free space (extensions-00 §4): four `uint64` and a `uint32` in this order. 0 means unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceAvailable {
    /// All bytes of the device.
    pub bytes_on_device: u64,
    /// Free bytes of the device.
    pub unused_bytes_on_device: u64,
    /// All bytes that the user may have, used or not.
    pub bytes_available_to_user: u64,
    /// Bytes that the user may still use.
    pub unused_bytes_available_to_user: u64,
    /// Bytes that a file grows by at a time.
    pub bytes_per_allocation_unit: u32,
}

impl SpaceAvailable {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.bytes_on_device);
        out.put_u64(self.unused_bytes_on_device);
        out.put_u64(self.bytes_available_to_user);
        out.put_u64(self.unused_bytes_available_to_user);
        out.put_u32(self.bytes_per_allocation_unit);
    }

    fn decode(r: &mut Reader) -> Result<SpaceAvailable, DecodeError> {
        Ok(SpaceAvailable {
            bytes_on_device: r.u64("bytes-on-device")?,
            unused_bytes_on_device: r.u64("unused-bytes-on-device")?,
            bytes_available_to_user: r.u64("bytes-available-to-user")?,
            unused_bytes_available_to_user: r.u64("unused-bytes-available-to-user")?,
            bytes_per_allocation_unit: r.u32("bytes-per-allocation-unit")?,
        })
    }
}

impl ExtendedReply {
    /// Reads the body of a reply to the extended request of that name; [`ExtendedReply::Raw`] if the name is
    /// not known or has no extended reply. For clients.
    ///
    /// # Errors
    ///
    /// A body that ends too early. The error has no id: the body does not contain it.
    pub fn decode(request_name: &str, body: Bytes) -> Result<ExtendedReply, DecodeError> {
        let mut reader = Reader::new(body);
        let r = &mut reader;
        Ok(match request_name {
            names::STATVFS | names::FSTATVFS => ExtendedReply::StatVfs(StatVfs::decode(r)?),
            names::LIMITS => ExtendedReply::Limits(Limits::decode(r)?),
            names::USERS_GROUPS_BY_ID => ExtendedReply::UsersGroups {
                users: strings(r, "usernames")?,
                groups: strings(r, "groupnames")?,
            },
            names::CHECK_FILE_NAME | names::CHECK_FILE_HANDLE => {
                ExtendedReply::CheckFile { algorithm: r.string("hash-algo-used")?, hashes: reader.rest() }
            }
            names::SPACE_AVAILABLE => ExtendedReply::SpaceAvailable(SpaceAvailable::decode(r)?),
            _ => ExtendedReply::Raw(reader.rest()),
        })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            ExtendedReply::StatVfs(figures) => figures.encode(out),
            ExtendedReply::Limits(limits) => limits.encode(out),
            ExtendedReply::UsersGroups { users, groups } => {
                put_packed(out, users, |name| 4 + name.len(), |out, name| put_string(out, name));
                put_packed(out, groups, |name| 4 + name.len(), |out, name| put_string(out, name));
            }
            ExtendedReply::CheckFile { algorithm, hashes } => {
                put_string(out, algorithm);
                out.put_slice(hashes);
            }
            ExtendedReply::SpaceAvailable(space) => space.encode(out),
            ExtendedReply::Raw(body) => out.put_slice(body),
        }
    }
}

/// A string that packs strings.
fn strings(reader: &mut Reader, field: &'static str) -> Result<Vec<Bytes>, DecodeError> {
    let mut packed = Reader::new(reader.string(field)?);
    let mut strings = Vec::new();
    while !packed.is_empty() {
        strings.push(packed.string(field)?);
    }
    Ok(strings)
}
