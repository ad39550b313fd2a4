//! SFTP version 3 packets to bytes and back.
//!
//! This crate speaks draft-ietf-secsh-filexfer-02 ("the draft" below), the extensions of OpenSSH's `PROTOCOL`
//! file, and those of draft-ietf-secsh-filexfer-extensions-00 that we serve. It does no I/O, knows no files
//! and no users, and never waits: bytes come in, typed packets come out, and the other way round.
//!
//! | module | what it covers | document |
//! |---|---|---|
//! | [`frame`] | length-prefixed frames out of arbitrary chunks | draft §3 |
//! | [`kind`] | the numbers of the packet types | draft §3 |
//! | [`request`] | client to server | draft §4, §6 |
//! | [`response`] | server to client | draft §4, §7 |
//! | [`attrs`] | file attributes | draft §5 |
//! | [`status`] | status codes and their texts | draft §7 |
//! | [`extension`] | names and bodies of extended requests and replies | `PROTOCOL`, extensions-00, filexfer-13 §4.4 |
//! | [`error`] | what was malformed, and where | |
//!
//! Strings are bytes ([`bytes::Bytes`]): version 3 has no character set, and a lossy conversion would make
//! files unreachable. Decoded strings are slices of the frame, never copies. Every length and count from the
//! peer is compared with the bytes that are really there before anything is allocated for it.

pub mod attrs;
pub mod error;
pub mod extension;
pub mod frame;
pub mod kind;
mod read;
pub mod request;
pub mod response;
pub mod status;
mod write;

pub use attrs::Attrs;
pub use error::{DecodeError, DecodeErrorKind};
pub use extension::{ExtendedReply, ExtendedRequest, Limits, SpaceAvailable, StatVfs};
pub use frame::{FrameBuffer, FrameError};
pub use request::{PFlags, Request};
pub use response::{DATA_HEADER_LEN, NameEntry, NameReply, Response, data_header};
pub use status::StatusCode;

/// The protocol version that this crate speaks, and the only one it offers (draft §4).
pub const VERSION: u32 = 3;
