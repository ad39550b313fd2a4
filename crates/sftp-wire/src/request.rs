//! Client to server: one [`Request`] variant per packet type (draft §4, §6).
//!
//! Bodies of extended requests are in [`crate::extension`]. What a request may do, and to which files, is the
//! server's business.

use std::ops::BitOr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    attrs::Attrs,
    error::DecodeError,
    extension::ExtendedRequest,
    kind,
    read::Reader,
    write::{frame, put_string},
};

/// A request. Each variant shows what follows the type byte on the wire; after INIT that is always `uint32
/// id` first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are described by the layout of their variant")]
pub enum Request {
    /// `uint32 version`, then extension pairs, which are ignored (draft §4).
    Init { version: u32 },
    /// `string filename, uint32 pflags, ATTRS attrs` (§6.3).
    Open { id: u32, path: Bytes, pflags: PFlags, attrs: Attrs },
    /// `string handle` (§6.3).
    Close { id: u32, handle: Bytes },
    /// `string handle, uint64 offset, uint32 len` (§6.4).
    Read { id: u32, handle: Bytes, offset: u64, len: u32 },
    /// `string handle, uint64 offset, string data` (§6.4).
    Write { id: u32, handle: Bytes, offset: u64, data: Bytes },
    /// `string path` (§6.8). Does not follow links.
    Lstat { id: u32, path: Bytes },
    /// `string handle` (§6.8).
    Fstat { id: u32, handle: Bytes },
    /// `string path, ATTRS attrs` (§6.9).
    Setstat { id: u32, path: Bytes, attrs: Attrs },
    /// `string handle, ATTRS attrs` (§6.9).
    Fsetstat { id: u32, handle: Bytes, attrs: Attrs },
    /// `string path` (§6.7).
    Opendir { id: u32, path: Bytes },
    /// `string handle` (§6.7).
    Readdir { id: u32, handle: Bytes },
    /// `string filename` (§6.5).
    Remove { id: u32, path: Bytes },
    /// `string path, ATTRS attrs` (§6.6).
    Mkdir { id: u32, path: Bytes, attrs: Attrs },
    /// `string path` (§6.6).
    Rmdir { id: u32, path: Bytes },
    /// `string path` (§6.11).
    Realpath { id: u32, path: Bytes },
    /// `string path` (§6.8). Follows links.
    Stat { id: u32, path: Bytes },
    /// `string oldpath, string newpath` (§6.5).
    Rename { id: u32, from: Bytes, to: Bytes },
    /// `string path` (§6.10).
    Readlink { id: u32, path: Bytes },
    /// `string targetpath, string linkpath` (§6.10). The draft has them the other way round; OpenSSH, and
    /// after it every client that matters, sends the target first.
    Symlink { id: u32, target: Bytes, link: Bytes },
    /// `string extended-request`, then its body (§8).
    Extended { id: u32, request: ExtendedRequest },
    /// A type that version 3 does not know, to be answered with `OP_UNSUPPORTED`.
    Unknown { id: u32, kind: u8 },
}

impl Request {
    /// Reads a frame: type byte and body, as [`crate::FrameBuffer::next_frame`] gives it. Strings are slices
    /// of it. Bytes after a complete body are tolerated: there are clients that send them.
    ///
    /// A request takes at most eight times the memory of its frame (when the frame is full of empty extended
    /// attributes), usually next to none beside it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], with the id to answer if the packet got that far.
    pub fn decode(frame: Bytes) -> Result<Request, DecodeError> {
        let mut reader = Reader::new(frame);
        let r = &mut reader;
        let kind = r.u8("type")?;
        if kind == kind::INIT {
            return Ok(Request::Init { version: r.u32("version")? });
        }

        // The fields of each struct are read in the order in which they are written here.
        let id = r.id()?;
        Ok(match kind {
            kind::OPEN => Request::Open {
                id,
                path: r.string("filename")?,
                pflags: PFlags(r.u32("pflags")?),
                attrs: Attrs::decode(r)?,
            },
            kind::CLOSE => Request::Close { id, handle: r.string("handle")? },
            kind::READ => Request::Read {
                id,
                handle: r.string("handle")?,
                offset: r.u64("offset")?,
                len: r.u32("len")?,
            },
            kind::WRITE => Request::Write {
                id,
                handle: r.string("handle")?,
                offset: r.u64("offset")?,
                data: r.string("data")?,
            },
            kind::LSTAT => Request::Lstat { id, path: r.string("path")? },
            kind::FSTAT => Request::Fstat { id, handle: r.string("handle")? },
            kind::SETSTAT => Request::Setstat { id, path: r.string("path")?, attrs: Attrs::decode(r)? },
            kind::FSETSTAT => Request::Fsetstat { id, handle: r.string("handle")?, attrs: Attrs::decode(r)? },
            kind::OPENDIR => Request::Opendir { id, path: r.string("path")? },
            kind::READDIR => Request::Readdir { id, handle: r.string("handle")? },
            kind::REMOVE => Request::Remove { id, path: r.string("filename")? },
            kind::MKDIR => Request::Mkdir { id, path: r.string("path")?, attrs: Attrs::decode(r)? },
            kind::RMDIR => Request::Rmdir { id, path: r.string("path")? },
            kind::REALPATH => Request::Realpath { id, path: r.string("path")? },
            kind::STAT => Request::Stat { id, path: r.string("path")? },
            kind::RENAME => Request::Rename { id, from: r.string("oldpath")?, to: r.string("newpath")? },
            kind::READLINK => Request::Readlink { id, path: r.string("path")? },
            kind::SYMLINK => {
                Request::Symlink { id, target: r.string("targetpath")?, link: r.string("linkpath")? }
            }
            kind::EXTENDED => Request::Extended { id, request: ExtendedRequest::decode(reader)? },
            kind => Request::Unknown { id, kind },
        })
    }

    /// The id that the reply has to carry; `None` for INIT.
    pub fn id(&self) -> Option<u32> {
        match self {
            Request::Init { .. } => None,
            Request::Open { id, .. }
            | Request::Close { id, .. }
            | Request::Read { id, .. }
            | Request::Write { id, .. }
            | Request::Lstat { id, .. }
            | Request::Fstat { id, .. }
            | Request::Setstat { id, .. }
            | Request::Fsetstat { id, .. }
            | Request::Opendir { id, .. }
            | Request::Readdir { id, .. }
            | Request::Remove { id, .. }
            | Request::Mkdir { id, .. }
            | Request::Rmdir { id, .. }
            | Request::Realpath { id, .. }
            | Request::Stat { id, .. }
            | Request::Rename { id, .. }
            | Request::Readlink { id, .. }
            | Request::Symlink { id, .. }
            | Request::Extended { id, .. }
            | Request::Unknown { id, .. } => Some(*id),
        }
    }

    /// The type byte.
    pub fn kind(&self) -> u8 {
        match self {
            Request::Init { .. } => kind::INIT,
            Request::Open { .. } => kind::OPEN,
            Request::Close { .. } => kind::CLOSE,
            Request::Read { .. } => kind::READ,
            Request::Write { .. } => kind::WRITE,
            Request::Lstat { .. } => kind::LSTAT,
            Request::Fstat { .. } => kind::FSTAT,
            Request::Setstat { .. } => kind::SETSTAT,
            Request::Fsetstat { .. } => kind::FSETSTAT,
            Request::Opendir { .. } => kind::OPENDIR,
            Request::Readdir { .. } => kind::READDIR,
            Request::Remove { .. } => kind::REMOVE,
            Request::Mkdir { .. } => kind::MKDIR,
            Request::Rmdir { .. } => kind::RMDIR,
            Request::Realpath { .. } => kind::REALPATH,
            Request::Stat { .. } => kind::STAT,
            Request::Rename { .. } => kind::RENAME,
            Request::Readlink { .. } => kind::READLINK,
            Request::Symlink { .. } => kind::SYMLINK,
            Request::Extended { .. } => kind::EXTENDED,
            Request::Unknown { kind, .. } => *kind,
        }
    }

    /// Appends the whole frame with its length word. For clients and tests.
    pub fn encode(&self, out: &mut BytesMut) {
        frame(out, self.kind(), |out| {
            if let Some(id) = self.id() {
                out.put_u32(id);
            }
            self.encode_body(out);
        });
    }

    /// What follows the id.
    fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Request::Init { version } => out.put_u32(*version),
            Request::Open { path, pflags, attrs, .. } => {
                put_string(out, path);
                out.put_u32(pflags.bits());
                attrs.encode(out);
            }
            Request::Read { handle, offset, len, .. } => {
                put_string(out, handle);
                out.put_u64(*offset);
                out.put_u32(*len);
            }
            Request::Write { handle, offset, data, .. } => {
                put_string(out, handle);
                out.put_u64(*offset);
                put_string(out, data);
            }
            Request::Close { handle: string, .. }
            | Request::Fstat { handle: string, .. }
            | Request::Readdir { handle: string, .. }
            | Request::Lstat { path: string, .. }
            | Request::Opendir { path: string, .. }
            | Request::Remove { path: string, .. }
            | Request::Rmdir { path: string, .. }
            | Request::Realpath { path: string, .. }
            | Request::Stat { path: string, .. }
            | Request::Readlink { path: string, .. } => put_string(out, string),
            Request::Setstat { path: string, attrs, .. }
            | Request::Fsetstat { handle: string, attrs, .. }
            | Request::Mkdir { path: string, attrs, .. } => {
                put_string(out, string);
                attrs.encode(out);
            }
            Request::Rename { from: first, to: second, .. }
            | Request::Symlink { target: first, link: second, .. } => {
                put_string(out, first);
                put_string(out, second);
            }
            Request::Extended { request, .. } => request.encode(out),
            Request::Unknown { .. } => {}
        }
    }
}

/// The `pflags` of OPEN (draft §6.3). Bits that the draft does not know are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PFlags(u32);

impl PFlags {
    /// Open for reading.
    pub const READ: PFlags = PFlags(0x01);
    /// Open for writing.
    pub const WRITE: PFlags = PFlags(0x02);
    /// Every write goes to the end.
    pub const APPEND: PFlags = PFlags(0x04);
    /// Create the file if it does not exist.
    pub const CREAT: PFlags = PFlags(0x08);
    /// Empty the file if it exists.
    pub const TRUNC: PFlags = PFlags(0x10);
    /// Fail if the file exists.
    pub const EXCL: PFlags = PFlags(0x20);

    /// The flags of that number, unknown ones included.
    pub const fn from_bits_retain(bits: u32) -> PFlags {
        PFlags(bits)
    }

    /// The number on the wire.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True if all of `flags` are set.
    pub const fn contains(self, flags: PFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// True if any of `flags` is set.
    pub const fn intersects(self, flags: PFlags) -> bool {
        self.0 & flags.0 != 0
    }
}

impl BitOr for PFlags {
    type Output = PFlags;

    fn bitor(self, other: PFlags) -> PFlags {
        PFlags(self.0 | other.0)
    }
}
