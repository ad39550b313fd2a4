//! Status codes and the texts that go with them (draft §7).

/// A code of SSH_FXP_STATUS (draft §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum StatusCode {
    /// The request was carried out.
    Ok = 0,
    /// No more data in a file, no more names in a directory.
    Eof = 1,
    /// A file or a directory on the way to it does not exist.
    NoSuchFile = 2,
    /// The user may not do that.
    PermissionDenied = 3,
    /// Any other failure; the message may tell more.
    Failure = 4,
    /// The packet is malformed.
    BadMessage = 5,
    /// Made up by clients that have no connection; servers do not send it.
    NoConnection = 6,
    /// Made up by clients that lost the connection; servers do not send it.
    ConnectionLost = 7,
    /// The server does not do that.
    OpUnsupported = 8,
}

impl StatusCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [StatusCode; 9] = [
        StatusCode::Ok,
        StatusCode::Eof,
        StatusCode::NoSuchFile,
        StatusCode::PermissionDenied,
        StatusCode::Failure,
        StatusCode::BadMessage,
        StatusCode::NoConnection,
        StatusCode::ConnectionLost,
        StatusCode::OpUnsupported,
    ];

    /// The code of that number; `None` above 8.
    pub fn from_code(code: u32) -> Option<StatusCode> {
        StatusCode::ALL.get(code as usize).copied()
    }

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The message to send when there is nothing more precise to say. Some clients compare it: "Permission
    /// Denied" has to stay as it is.
    pub fn default_text(self) -> &'static str {
        match self {
            StatusCode::Ok => "",
            StatusCode::Eof => "EOF",
            StatusCode::NoSuchFile => "No Such File",
            StatusCode::PermissionDenied => "Permission Denied",
            StatusCode::Failure => "Failure",
            StatusCode::BadMessage => "Bad Message",
            StatusCode::NoConnection => "No Connection",
            StatusCode::ConnectionLost => "Connection Lost",
            StatusCode::OpUnsupported => "Operation Unsupported",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_of_the_draft() {
        for (number, code) in (0..).zip(StatusCode::ALL) {
            assert_eq!(code.code(), number);
            assert_eq!(StatusCode::from_code(number), Some(code));
        }
        assert_eq!(StatusCode::from_code(9), None);
        assert_eq!(StatusCode::from_code(u32::MAX), None);
    }
}
