//! Directories that are read to count what is in them, even if they were made unreadable.
//!
//! A client may take the right to read a directory from its owner. Where the server is not root and owns the
//! user's files, that would hide them from every count, so the server takes the right back. What belongs to
//! somebody else, and only its owner may write to, cannot hold anything of the user.

use async_trait::async_trait;
use tidegate_vfs::{DirEntry, DirStream, FsError, Links, Metadata, SetAttrs, Storage, VPath};
use tracing::{debug, info};

/// Entries of a directory that are taken at a time.
pub(crate) const BATCH: usize = 256;

/// Directories below what has the longest path cannot be opened.
pub(crate) const TOO_DEEP: FsError = FsError::InvalidPath("a directory is too deep to be counted");

/// What the owner needs to read a directory and to look at what is in it.
const READ_AND_SEARCH: u32 = 0o500;

/// Who else may write to it. Access lists cannot give more than the bits of the group say.
const OTHERS_WRITE: u32 = 0o022;

/// Opens the directory `dir` at `path`, in a tree without links, to count what is in it; `None` if nothing in it
/// can be the user's.
///
/// # Errors
///
/// What the storage says; [`FsError::Denied`] if files may be hidden there.
pub(crate) async fn open(
    storage: &dyn Storage,
    path: &VPath,
    dir: &Metadata,
) -> Result<Option<Box<dyn DirStream>>, FsError> {
    match begin(storage, path).await {
        Err(FsError::Denied) => {}
        opened => return opened.map(Some),
    }
    let readable = SetAttrs { mode: Some(dir.mode | READ_AND_SEARCH), ..SetAttrs::default() };
    match storage.set_attrs(path, &readable, Links::Keep).await {
        Ok(()) => {
            info!("the directory {path} could not be counted; its owner may read it again");
            begin(storage, path).await.map(Some)
        }
        Err(FsError::Denied) if dir.mode & OTHERS_WRITE == 0 => {
            debug!("the directory {path} belongs to somebody else, and is not counted");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The first entries tell whether they may be looked at.
async fn begin(storage: &dyn Storage, path: &VPath) -> Result<Box<dyn DirStream>, FsError> {
    let mut rest = storage.read_dir(path).await?;
    let first = rest.next(BATCH).await?;
    Ok(Box::new(Begun { first: Some(first), rest }))
}

struct Begun {
    first: Option<Vec<DirEntry>>,
    rest: Box<dyn DirStream>,
}

#[async_trait]
impl DirStream for Begun {
    async fn next(&mut self, at_most: usize) -> Result<Vec<DirEntry>, FsError> {
        match self.first.take() {
            Some(first) => Ok(first),
            None => self.rest.next(at_most).await,
        }
    }
}
