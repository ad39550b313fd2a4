//! SFTP packets as a test writes and reads them: filexfer-02 by hand, so that any packet, however wrong, can be
//! made. The session that carries them is in `raw`.

use std::collections::VecDeque;

/// Packet types, filexfer-02 §3.
pub mod kind {
    #![allow(missing_docs, reason = "the draft's own names")]
    pub const INIT: u8 = 1;
    pub const VERSION: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const READ: u8 = 5;
    pub const WRITE: u8 = 6;
    pub const LSTAT: u8 = 7;
    pub const FSTAT: u8 = 8;
    pub const SETSTAT: u8 = 9;
    pub const FSETSTAT: u8 = 10;
    pub const OPENDIR: u8 = 11;
    pub const READDIR: u8 = 12;
    pub const REMOVE: u8 = 13;
    pub const MKDIR: u8 = 14;
    pub const RMDIR: u8 = 15;
    pub const REALPATH: u8 = 16;
    pub const STAT: u8 = 17;
    pub const RENAME: u8 = 18;
    pub const READLINK: u8 = 19;
    pub const SYMLINK: u8 = 20;
    pub const STATUS: u8 = 101;
    pub const HANDLE: u8 = 102;
    pub const DATA: u8 = 103;
    pub const NAME: u8 = 104;
    pub const ATTRS: u8 = 105;
    pub const EXTENDED: u8 = 200;
    pub const EXTENDED_REPLY: u8 = 201;
}

/// Open flags, filexfer-02 §6.3.
pub mod flags {
    #![allow(missing_docs, reason = "the draft's own names")]
    pub const READ: u32 = 0x01;
    pub const WRITE: u32 = 0x02;
    pub const APPEND: u32 = 0x04;
    pub const CREAT: u32 = 0x08;
    pub const TRUNC: u32 = 0x10;
    pub const EXCL: u32 = 0x20;
}

/// Status codes, filexfer-02 §7.
pub mod status {
    #![allow(missing_docs, reason = "the draft's own names")]
    pub const OK: u32 = 0;
    pub const EOF: u32 = 1;
    pub const NO_SUCH_FILE: u32 = 2;
    pub const PERMISSION_DENIED: u32 = 3;
    pub const FAILURE: u32 = 4;
    pub const BAD_MESSAGE: u32 = 5;
    pub const OP_UNSUPPORTED: u32 = 8;
}

/// A packet under construction, without its length.
#[derive(Debug, Clone)]
pub struct Packet(pub(crate) Vec<u8>);

impl Packet {
    /// Begins a packet of this type.
    #[must_use]
    pub fn new(kind: u8) -> Self {
        Self(vec![kind])
    }

    /// Appends a number of four bytes.
    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a number of eight bytes.
    #[must_use]
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a string: its length, then its bytes.
    #[must_use]
    pub fn string(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The packet with its length in front.
    #[must_use]
    pub fn framed(&self) -> Vec<u8> {
        let mut bytes = u32::try_from(self.0.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.0);
        bytes
    }
}

/// File attributes, filexfer-02 §5. What is `None` is not sent, or was not received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs {
    /// The size in bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Mode, with the type bits.
    pub mode: Option<u32>,
    /// Access and modification time in seconds.
    pub times: Option<(u32, u32)>,
}

impl Attrs {
    /// Attributes that change the mode only.
    #[must_use]
    pub fn with_mode(mode: u32) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }

    pub(crate) fn encode(&self, packet: Packet) -> Packet {
        let bit = |present: bool, bit: u32| if present { bit } else { 0 };
        let present = bit(self.size.is_some(), 1)
            | bit(self.owner.is_some(), 2)
            | bit(self.mode.is_some(), 4)
            | bit(self.times.is_some(), 8);
        let mut packet = packet.u32(present);
        if let Some(size) = self.size {
            packet = packet.u64(size);
        }
        if let Some((uid, gid)) = self.owner {
            packet = packet.u32(uid).u32(gid);
        }
        if let Some(mode) = self.mode {
            packet = packet.u32(mode);
        }
        if let Some((atime, mtime)) = self.times {
            packet = packet.u32(atime).u32(mtime);
        }
        packet
    }
}

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// The `ls -l` line.
    pub longname: Vec<u8>,
    /// The attributes of the entry itself.
    pub attrs: Attrs,
}

/// An answer of the server.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The packet type.
    pub kind: u8,
    /// The request it answers.
    pub id: u32,
    body: VecDeque<u8>,
}

impl Reply {
    pub(crate) fn parse(packet: &[u8]) -> Self {
        let mut reply = Self { kind: 0, id: 0, body: packet.iter().copied().collect() };
        reply.kind = reply.body.pop_front().expect("a reply has a type");
        reply.id = reply.u32();
        reply
    }

    /// Takes a number of four bytes.
    pub fn u32(&mut self) -> u32 {
        self.take(4).iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
    }

    /// Takes a number of eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    /// Takes a string.
    pub fn string(&mut self) -> Vec<u8> {
        let length = self.u32() as usize;
        self.take(length)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        assert!(self.body.len() >= count, "the server sent a truncated reply of type {}", self.kind);
        self.body.drain(..count).collect()
    }

    pub(crate) fn attrs(&mut self) -> Attrs {
        let present = self.u32();
        assert_eq!(present & !0x8000_000f, 0, "unknown attribute bits {present:#x}");
        let mut attrs = Attrs::default();
        if present & 1 != 0 {
            attrs.size = Some(self.u64());
        }
        if present & 2 != 0 {
            attrs.owner = Some((self.u32(), self.u32()));
        }
        if present & 4 != 0 {
            attrs.mode = Some(self.u32());
        }
        if present & 8 != 0 {
            attrs.times = Some((self.u32(), self.u32()));
        }
        attrs
    }

    /// The status code and text of a STATUS reply.
    pub fn status(mut self) -> (u32, String) {
        assert_eq!(self.kind, kind::STATUS, "a status was expected");
        (self.u32(), String::from_utf8_lossy(&self.string()).into_owned())
    }
}
