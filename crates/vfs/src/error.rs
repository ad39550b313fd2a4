//! What can go wrong with a file, in the words of the domain. Protocols map it in one place each.

use std::io;
use std::sync::Arc;

/// Why an operation on a file failed. The text never contains a real path.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FsError {
    /// Nothing is there.
    #[error("no such file or directory")]
    NotFound,
    /// The user or the server's account may not do this.
    #[error("permission denied")]
    Denied,
    /// The name is taken.
    #[error("file already exists")]
    Exists,
    /// The directory is not empty.
    #[error("directory not empty")]
    NotEmpty,
    /// A file was expected.
    #[error("is a directory")]
    IsDir,
    /// A directory was expected.
    #[error("not a directory")]
    NotDir,
    /// The path contains NUL, is too long, or has a name that is too long.
    #[error("invalid path: {0}")]
    InvalidPath(&'static str),
    /// The path leads out of the home directory.
    #[error("path leads outside the home directory")]
    Outside,
    /// A link is on the way of a path that must not have one.
    #[error("symbolic link on the way")]
    Link,
    /// The request makes no sense for this file.
    #[error("invalid request: {0}")]
    InvalidInput(&'static str),
    /// The user's quota or the filesystem's (`EDQUOT`) is used up.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// The device is full.
    #[error("no space left on device")]
    NoSpace,
    /// Source and target lie on different devices.
    #[error("source and target are on different devices")]
    CrossDevice,
    /// The backend or the configuration does not offer this.
    #[error("operation unsupported")]
    Unsupported,
    /// The session was ended while the operation waited.
    #[error("session ended")]
    Cancelled,
    /// Anything else that the system reports.
    #[error("input/output error: {0}")]
    Io(Arc<io::Error>),
}

impl FsError {
    /// The operating system's own text, for the log.
    pub fn detail(&self) -> String {
        match self {
            Self::Io(source) => source.to_string(),
            other => other.to_string(),
        }
    }
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::NotFound => Self::NotFound,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Denied,
            Kind::AlreadyExists => Self::Exists,
            Kind::DirectoryNotEmpty => Self::NotEmpty,
            Kind::IsADirectory => Self::IsDir,
            Kind::NotADirectory => Self::NotDir,
            Kind::InvalidFilename => Self::InvalidPath("name too long"),
            Kind::QuotaExceeded => Self::QuotaExceeded,
            Kind::StorageFull => Self::NoSpace,
            Kind::CrossesDevices => Self::CrossDevice,
            Kind::Unsupported => Self::Unsupported,
            _ => Self::Io(Arc::new(error)),
        }
    }
}

impl From<rustix::io::Errno> for FsError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}
