//! Server to client: one [`Response`] variant per packet type (draft §4, §7), and two ways around it for what
//! is big: [`data_header`], so that file contents are never copied, and [`NameReply`], which is filled name
//! by name.
//!
//! Bodies of extended replies are in [`crate::extension`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    VERSION,
    attrs::Attrs,
    error::{DecodeError, DecodeErrorKind},
    extension::ExtendedReply,
    kind,
    read::Reader,
    status::StatusCode,
    write::{frame, put_string, set_length},
};

/// The least that an entry of NAME takes: two empty strings and attributes without any flag.
const LEAST_NAME_ENTRY: usize = 12;

/// A reply. Each variant shows what follows the type byte on the wire; after VERSION that is always `uint32
/// id` first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are described by the layout of their variant")]
pub enum Response {
    /// `uint32 version`, which is always 3, then pairs of `string extension-name, string extension-data`
    /// (draft §4).
    Version { extensions: Vec<(Bytes, Bytes)> },
    /// `uint32 code, string message, string language-tag` (§7). The tag is always empty.
    Status { id: u32, code: StatusCode, message: Bytes },
    /// `string handle` (§7), at most 256 bytes.
    Handle { id: u32, handle: Bytes },
    /// `string data` (§7). Servers use [`data_header`].
    Data { id: u32, data: Bytes },
    /// `uint32 count`, then per entry `string filename, string longname, ATTRS attrs` (§7). Servers use
    /// [`NameReply`].
    Name { id: u32, entries: Vec<NameEntry> },
    /// `ATTRS attrs` (§7).
    Attrs { id: u32, attrs: Attrs },
    /// The body depends on the request (§8).
    ExtendedReply { id: u32, reply: ExtendedReply },
}

/// One entry of [`Response::Name`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameEntry {
    /// The name alone for READDIR, a whole path for REALPATH and READLINK.
    pub name: Bytes,
    /// The line that `ls -l` would print, for people.
    pub longname: Bytes,
    /// The entry's attributes.
    pub attrs: Attrs,
}

impl Response {
    /// A status with its default text.
    pub fn status(id: u32, code: StatusCode) -> Response {
        Response::Status { id, code, message: Bytes::from_static(code.default_text().as_bytes()) }
    }

    /// Appends the whole frame with its length word.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Response::Version { extensions } => frame(out, kind::VERSION, |out| {
                out.put_u32(VERSION);
                for (name, data) in extensions {
                    put_string(out, name);
                    put_string(out, data);
                }
            }),
            Response::Status { id, code, message } => frame(out, kind::STATUS, |out| {
                out.put_u32(*id);
                out.put_u32(code.code());
                put_string(out, message);
                put_string(out, b"");
            }),
            Response::Handle { id, handle } => frame(out, kind::HANDLE, |out| {
                out.put_u32(*id);
                put_string(out, handle);
            }),
            Response::Data { id, data } => frame(out, kind::DATA, |out| {
                out.put_u32(*id);
                put_string(out, data);
            }),
            Response::Name { id, entries } => {
                let mut reply = NameReply::new(*id);
                for entry in entries {
                    reply.push(&entry.name, &entry.longname, &entry.attrs);
                }
                out.extend_from_slice(&reply.finish());
            }
            Response::Attrs { id, attrs } => frame(out, kind::ATTRS, |out| {
                out.put_u32(*id);
                attrs.encode(out);
            }),
            Response::ExtendedReply { id, reply } => frame(out, kind::EXTENDED_REPLY, |out| {
                out.put_u32(*id);
                reply.encode(out);
            }),
        }
    }

    /// Reads a frame: type byte and body, as [`crate::FrameBuffer::next_frame`] gives it. For clients. The
    /// body of an extended reply stays [`ExtendedReply::Raw`]; [`ExtendedReply::decode`] reads it further.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], also for packet types, status codes and versions that a server of version 3 does not
    /// send.
    pub fn decode(frame: Bytes) -> Result<Response, DecodeError> {
        let mut reader = Reader::new(frame);
        let r = &mut reader;
        let kind = r.u8("type")?;
        if kind == kind::VERSION {
            let version = r.u32("version")?;
            if version != VERSION {
                return Err(r.error("version", DecodeErrorKind::Version(version)));
            }
            let mut extensions = Vec::new();
            while !r.is_empty() {
                extensions.push((r.string("extension-name")?, r.string("extension-data")?));
            }
            return Ok(Response::Version { extensions });
        }

        // The fields of each struct are read in the order in which they are written here.
        let id = r.id()?;
        Ok(match kind {
            kind::STATUS => {
                let number = r.u32("code")?;
                let code = StatusCode::from_code(number)
                    .ok_or_else(|| r.error("code", DecodeErrorKind::UnknownStatus(number)))?;
                let message = r.string("message")?;
                r.string("language-tag")?;
                Response::Status { id, code, message }
            }
            kind::HANDLE => Response::Handle { id, handle: r.string("handle")? },
            kind::DATA => Response::Data { id, data: r.string("data")? },
            kind::NAME => {
                let count = r.count("count", LEAST_NAME_ENTRY)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    entries.push(NameEntry {
                        name: r.string("filename")?,
                        longname: r.string("longname")?,
                        attrs: Attrs::decode(r)?,
                    });
                }
                Response::Name { id, entries }
            }
            kind::ATTRS => Response::Attrs { id, attrs: Attrs::decode(r)? },
            kind::EXTENDED_REPLY => Response::ExtendedReply { id, reply: ExtendedReply::Raw(reader.rest()) },
            unknown => return Err(r.error("type", DecodeErrorKind::UnknownType(unknown))),
        })
    }
}

/// The length of [`data_header`].
pub const DATA_HEADER_LEN: usize = 13;

/// What stands in front of `data_len` bytes of file contents in SSH_FXP_DATA, so that they can go out from
/// where they were read to.
///
/// `data_len` has to be at most 2^32 - 10, the most that a frame can hold.
///
/// # Format
///
/// ```text
/// uint32 length        9 + data_len
/// byte   SSH_FXP_DATA
/// uint32 id
/// uint32 data_len
/// ```
pub fn data_header(id: u32, data_len: u32) -> [u8; DATA_HEADER_LEN] {
    debug_assert!(data_len <= u32::MAX - 9, "{data_len} bytes do not fit into one frame");
    let mut header = [0; DATA_HEADER_LEN];
    header[..4].copy_from_slice(&data_len.wrapping_add(9).to_be_bytes());
    header[4] = kind::DATA;
    header[5..9].copy_from_slice(&id.to_be_bytes());
    header[9..].copy_from_slice(&data_len.to_be_bytes());
    header
}

/// SSH_FXP_NAME, written entry by entry, so that the caller can stop before the reply grows too long.
///
/// # Format
///
/// ```text
/// uint32 length
/// byte   SSH_FXP_NAME
/// uint32 id
/// uint32 count
/// string filename, string longname, ATTRS attrs        count times
/// ```
#[derive(Debug)]
pub struct NameReply {
    frame: BytesMut,
    count: u32,
}

impl NameReply {
    const COUNT_AT: usize = 9;
    const HEADER_LEN: usize = 13;

    /// A reply without entries.
    pub fn new(id: u32) -> NameReply {
        let mut frame = BytesMut::with_capacity(256);
        frame.put_u32(0);
        frame.put_u8(kind::NAME);
        frame.put_u32(id);
        frame.put_u32(0);
        NameReply { frame, count: 0 }
    }

    /// The bytes that an entry adds to [`NameReply::len`].
    pub fn entry_len(name: &[u8], longname: &[u8], attrs: &Attrs) -> usize {
        4 + name.len() + 4 + longname.len() + attrs.encoded_len()
    }

    /// Appends an entry.
    pub fn push(&mut self, name: &[u8], longname: &[u8], attrs: &Attrs) {
        put_string(&mut self.frame, name);
        put_string(&mut self.frame, longname);
        attrs.encode(&mut self.frame);
        self.count += 1;
    }

    /// Entries so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True while there are no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the frame so far, the length word included.
    pub fn len(&self) -> usize {
        self.frame.len()
    }

    /// The whole frame with its length word.
    pub fn finish(mut self) -> Bytes {
        self.frame[NameReply::COUNT_AT..NameReply::HEADER_LEN].copy_from_slice(&self.count.to_be_bytes());
        set_length(&mut self.frame);
        self.frame.freeze()
    }
}
