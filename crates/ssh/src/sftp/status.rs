//! What went wrong, as SFTP says it: the one place where [`FsError`] becomes a status code.

use bytes::Bytes;
use tidegate_sftp_wire::StatusCode;
use tidegate_vfs::FsError;

/// The code and the text for the client; never a real path.
pub(super) fn of(error: &FsError) -> (StatusCode, Bytes) {
    let code = match error {
        FsError::NotFound => StatusCode::NoSuchFile,
        FsError::Denied => StatusCode::PermissionDenied,
        FsError::Unsupported => StatusCode::OpUnsupported,
        FsError::Exists
        | FsError::NotEmpty
        | FsError::IsDir
        | FsError::NotDir
        | FsError::InvalidPath(_)
        | FsError::Outside
        | FsError::Link
        | FsError::InvalidInput(_)
        | FsError::QuotaExceeded
        | FsError::NoSpace
        | FsError::CrossDevice
        | FsError::Cancelled
        | FsError::Io(_) => StatusCode::Failure,
    };
    let text = match (code, error) {
        // The system's own words may name real paths; they are in the log.
        (_, FsError::Io(_)) => Bytes::from_static(b"Failure"),
        (StatusCode::Failure, error) => Bytes::from(format!("Failure: {error}")),
        (code, _) => Bytes::from_static(code.default_text().as_bytes()),
    };
    (code, text)
}
