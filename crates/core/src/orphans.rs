//! Temporary files that no upload writes to: after a crash, or where a failed upload could not remove its
//! own. They are nobody's, hidden from users, and removed.
//!
//! A file is taken for abandoned if no upload of this process writes to it and it was last written before
//! this process began, or if an upload of this process failed to remove it. A server that starts beside
//! another one on the same homes could take an upload that has stood still since before that for abandoned;
//! the other one's client is then told that its upload failed, and the old file stays.

use std::sync::Arc;

use tidegate_vfs::{FsError, Links, Storage, VPath};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::UnixMillis;
use crate::account::Account;
use crate::upload::is_temporary;

/// Entries of a directory that are taken at a time.
const BATCH: usize = 256;

/// Directories that a search remembers at most.
const MAX_PENDING: usize = 1_000_000;

/// Looks at a file with a temporary name, and removes it if it was abandoned. Gives its size if it stays
/// and belongs to no upload of this process. Call it under the lock of names.
pub(crate) async fn examine(
    account: &Account,
    storage: &Arc<dyn Storage>,
    path: &VPath,
    started: UnixMillis,
) -> Result<Option<u64>, FsError> {
    let name = path.name();
    if account.is_upload(path) {
        return Ok(None);
    }
    let file = match storage.metadata(path, Links::Keep).await {
        Ok(file) if file.is_file() => file,
        Ok(_) | Err(FsError::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    };
    let written =
        file.modified.seconds.saturating_mul(1000).saturating_add(i64::from(file.modified.nanos / 1_000_000));
    // Where a program has moved the file of an upload, its name still keeps it.
    if account.is_being_written(name) || (written >= started && !account.is_left_behind(name)) {
        return Ok(Some(file.size));
    }
    match storage.remove_file(path).await {
        Ok(()) | Err(FsError::NotFound) => {
            account.forget_left_behind(name);
            info!("abandoned temporary file {path} of {} bytes removed", file.size);
            Ok(None)
        }
        Err(error) => {
            warn!("abandoned temporary file {path} cannot be removed: {}", error.detail());
            Ok(Some(file.size))
        }
    }
}

/// Removes the abandoned temporary files of the directory `dir`.
pub(crate) async fn sweep_dir(
    account: &Account,
    storage: &Arc<dyn Storage>,
    dir: &VPath,
    started: UnixMillis,
) -> Result<Vec<VPath>, FsError> {
    let mut entries = storage.read_dir(dir).await?;
    let mut dirs = Vec::new();
    loop {
        let batch = entries.next(BATCH).await?;
        if batch.is_empty() {
            return Ok(dirs);
        }
        for entry in batch {
            if entry.metadata.is_dir() {
                dirs.extend(dir.join(&entry.name));
            } else if is_temporary(&entry.name) {
                let path = dir.join(&entry.name)?;
                let _names = account.names.lock().await;
                examine(account, storage, &path, started).await?;
            }
        }
    }
}

/// Removes the abandoned temporary files of a whole home. What cannot be read is left out.
pub(crate) async fn sweep(
    account: &Account,
    storage: &Arc<dyn Storage>,
    started: UnixMillis,
    stop: &CancellationToken,
) {
    let storage = storage.without_links();
    let mut pending = vec![VPath::root()];
    while let Some(dir) = pending.pop() {
        if stop.is_cancelled() {
            return;
        }
        match sweep_dir(account, &storage, &dir, started).await {
            Ok(dirs) => pending.extend(dirs),
            Err(FsError::NotFound | FsError::Link | FsError::NotDir) => {}
            Err(error) => warn!("temporary files in {dir} cannot be looked for: {}", error.detail()),
        }
        pending.truncate(MAX_PENDING);
    }
}
