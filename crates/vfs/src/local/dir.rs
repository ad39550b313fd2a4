//! Listing a local directory, a batch of entries per hop.

use async_trait::async_trait;
use rustix::fs::{AtFlags, Dir, statat};
use rustix::io::Errno;

use super::io::LocalIo;
use super::unix;
use crate::{DirEntry, DirStream, FsError};

/// Most entries of one batch, whatever the caller asks for.
const MAX_BATCH: usize = 1024;

/// A directory that is being listed. Holds one block of names, however many there are.
pub(super) struct LocalDirStream {
    /// `None` while a batch is being read, at the end, and after an error.
    dir: Option<Dir>,
    io: LocalIo,
}

impl LocalDirStream {
    pub(super) fn new(dir: Dir, io: LocalIo) -> Self {
        Self { dir: Some(dir), io }
    }
}

#[async_trait]
impl DirStream for LocalDirStream {
    async fn next(&mut self, at_most: usize) -> Result<Vec<DirEntry>, FsError> {
        let Some(mut dir) = self.dir.take() else {
            return Ok(Vec::new());
        };
        let (dir, entries) = self
            .io
            .metadata(move || {
                let entries = batch(&mut dir, at_most.clamp(1, MAX_BATCH))?;
                Ok((dir, entries))
            })
            .await?;
        self.dir = (!entries.is_empty()).then_some(dir);
        Ok(entries)
    }
}

fn batch(dir: &mut Dir, at_most: usize) -> Result<Vec<DirEntry>, FsError> {
    let mut entries = Vec::with_capacity(at_most.min(128));
    while entries.len() < at_most {
        let Some(entry) = dir.read() else {
            break;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                entries.push(DirEntry { name: name.to_bytes().to_vec(), metadata: unix::metadata(&stat) });
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(entries)
}
