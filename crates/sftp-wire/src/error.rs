//! What is wrong with a packet, at which field, and which request has to be answered.
//!
//! Errors of the framing itself, after which no further packet can be trusted, are [`crate::FrameError`].

use thiserror::Error;

/// A packet that is framed correctly but whose body is malformed. The channel can go on: the frame's end is
/// known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed packet{}: {field}: {kind}", for_request(*.id))]
pub struct DecodeError {
    /// The request to answer with `BAD_MESSAGE`; `None` if the packet ends before its id or has none.
    pub id: Option<u32>,
    /// The field that could not be read, by its name in the draft.
    pub field: &'static str,
    /// What is wrong with it.
    pub kind: DecodeErrorKind,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeErrorKind {
    /// The packet ends inside the field.
    #[error("needs {needed} bytes, {left} are left")]
    Truncated {
        /// Bytes the field would take from here, as far as is known.
        needed: u64,
        /// Bytes left in the packet.
        left: usize,
    },
    /// A count promises more items than the rest of the packet can hold.
    #[error("{count} items cannot fit in the {left} bytes left")]
    TooManyItems {
        /// The promised count.
        count: u32,
        /// Bytes left in the packet.
        left: usize,
    },
    /// Attribute flags that version 3 does not know, so that the fields behind them cannot be located.
    #[error("unknown attribute flags {0:#010x}")]
    UnknownFlags(u32),
    /// A list of 32-bit numbers whose length is not a multiple of four.
    #[error("a list of 32-bit numbers cannot be {0} bytes long")]
    UnevenList(usize),
    /// A reply of a type that servers do not send (replies only: unknown requests are
    /// [`crate::Request::Unknown`]).
    #[error("unknown packet type {0}")]
    UnknownType(u8),
    /// A status code that version 3 does not know (replies only).
    #[error("unknown status code {0}")]
    UnknownStatus(u32),
    /// A server that answers with another version than 3 (replies only).
    #[error("protocol version {0}, expected 3")]
    Version(u32),
}

fn for_request(id: Option<u32>) -> String {
    id.map_or_else(String::new, |id| format!(" of request {id}"))
}
