//! File attributes and the flags that say which of them are present (draft §5).

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    error::{DecodeError, DecodeErrorKind},
    read::Reader,
    write::{length_word, put_string},
};

const SIZE: u32 = 0x0000_0001;
const UIDGID: u32 = 0x0000_0002;
const PERMISSIONS: u32 = 0x0000_0004;
const ACMODTIME: u32 = 0x0000_0008;
const EXTENDED: u32 = 0x8000_0000;
const KNOWN: u32 = SIZE | UIDGID | PERMISSIONS | ACMODTIME | EXTENDED;

/// Two empty strings: the least that an extended attribute takes.
const LEAST_EXTENDED: usize = 8;

/// File attributes (draft §5). What is `None` is not on the wire.
///
/// # Format
///
/// ```text
/// uint32 flags
/// uint64 size            if flags & SSH_FILEXFER_ATTR_SIZE         0x00000001
/// uint32 uid, gid        if flags & SSH_FILEXFER_ATTR_UIDGID       0x00000002
/// uint32 permissions     if flags & SSH_FILEXFER_ATTR_PERMISSIONS  0x00000004
/// uint32 atime, mtime    if flags & SSH_FILEXFER_ATTR_ACMODTIME    0x00000008
/// uint32 extended_count  if flags & SSH_FILEXFER_ATTR_EXTENDED     0x80000000
/// string extended_type, extended_data                              extended_count times
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs {
    /// Size in bytes.
    pub size: Option<u64>,
    /// Numeric owner and group, `(uid, gid)`.
    pub owner: Option<(u32, u32)>,
    /// The POSIX mode; from servers with the file type bits (0o170000).
    pub permissions: Option<u32>,
    /// Seconds since 1970, `(atime, mtime)`.
    pub times: Option<(u32, u32)>,
    /// Extended attributes, `(type, data)`.
    pub extended: Vec<(Bytes, Bytes)>,
}

impl Attrs {
    /// True if nothing is set, as in the replies to REALPATH and READLINK.
    pub fn is_empty(&self) -> bool {
        self.flags() == 0
    }

    /// The bytes that these attributes take on the wire.
    pub fn encoded_len(&self) -> usize {
        let mut len = 4;
        len += if self.size.is_some() { 8 } else { 0 };
        len += if self.owner.is_some() { 8 } else { 0 };
        len += if self.permissions.is_some() { 4 } else { 0 };
        len += if self.times.is_some() { 8 } else { 0 };
        if !self.extended.is_empty() {
            len += 4;
            len += self.extended.iter().map(|(name, data)| 8 + name.len() + data.len()).sum::<usize>();
        }
        len
    }

    /// Unknown flags are an error: the fields behind them have no known length.
    pub(crate) fn decode(reader: &mut Reader) -> Result<Attrs, DecodeError> {
        let flags = reader.u32("attrs flags")?;
        if flags & !KNOWN != 0 {
            return Err(reader.error("attrs flags", DecodeErrorKind::UnknownFlags(flags & !KNOWN)));
        }
        let mut attrs = Attrs::default();
        if flags & SIZE != 0 {
            attrs.size = Some(reader.u64("attrs size")?);
        }
        if flags & UIDGID != 0 {
            attrs.owner = Some((reader.u32("attrs uid")?, reader.u32("attrs gid")?));
        }
        if flags & PERMISSIONS != 0 {
            attrs.permissions = Some(reader.u32("attrs permissions")?);
        }
        if flags & ACMODTIME != 0 {
            attrs.times = Some((reader.u32("attrs atime")?, reader.u32("attrs mtime")?));
        }
        if flags & EXTENDED != 0 {
            let count = reader.count("attrs extended_count", LEAST_EXTENDED)?;
            attrs.extended.reserve_exact(count);
            for _ in 0..count {
                attrs
                    .extended
                    .push((reader.string("attrs extended_type")?, reader.string("attrs extended_data")?));
            }
        }
        Ok(attrs)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.flags());
        if let Some(size) = self.size {
            out.put_u64(size);
        }
        if let Some((uid, gid)) = self.owner {
            out.put_u32(uid);
            out.put_u32(gid);
        }
        if let Some(permissions) = self.permissions {
            out.put_u32(permissions);
        }
        if let Some((atime, mtime)) = self.times {
            out.put_u32(atime);
            out.put_u32(mtime);
        }
        if !self.extended.is_empty() {
            out.put_u32(length_word(self.extended.len()));
            for (name, data) in &self.extended {
                put_string(out, name);
                put_string(out, data);
            }
        }
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        flags |= if self.size.is_some() { SIZE } else { 0 };
        flags |= if self.owner.is_some() { UIDGID } else { 0 };
        flags |= if self.permissions.is_some() { PERMISSIONS } else { 0 };
        flags |= if self.times.is_some() { ACMODTIME } else { 0 };
        flags |= if self.extended.is_empty() { 0 } else { EXTENDED };
        flags
    }
}
