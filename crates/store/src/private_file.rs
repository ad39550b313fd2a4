//! Files that only the server's own account may read.

use std::path::Path;

/// Creates `path` unless it is there. It will hold password hashes, and libraries would let everybody read it.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}
