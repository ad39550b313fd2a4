//! Files that are opened: downloads, uploads, looks at the contents, and copies within the server.

use tidegate_vfs::{FsError, Links, Metadata, OpenOptions, VPath};

use super::{On, Place, UploadOptions, UserFs, refuse_temporary};
use crate::upload::{COPY_BLOCK, Destination, Upload};
use crate::{Inspection, Perms, Transfer};

/// How often an upload that meets a file which appears and disappears is tried.
const OPEN_ATTEMPTS: usize = 4;

impl UserFs {
    /// Opens a file for reading. Needs `download` on its directory.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] before anything is revealed, else what the backend says.
    pub async fn download(&self, path: &VPath) -> Result<Transfer, FsError> {
        let place = self.authorize(path, Perms::DOWNLOAD, On::Parent, Links::Follow).await?;
        let how = OpenOptions { read: true, ..OpenOptions::default() };
        let file = place.storage.open(&place.path, &how).await?;
        let real = self.real(path);
        Ok(Transfer::new(self.clone(), path.clone(), place.path, real, file, true, None))
    }

    /// Opens a file for writing. Needs `upload` on its directory, and `overwrite` if it exists.
    ///
    /// # Errors
    ///
    /// [`FsError::Unsupported`] for a directory, [`FsError::QuotaExceeded`], [`FsError::Exists`] and
    /// [`FsError::NotFound`] by the options, else what the backend says.
    pub async fn upload(&self, path: &VPath, how: UploadOptions) -> Result<Transfer, FsError> {
        let mut place = self.authorize(path, Perms::UPLOAD, On::Parent, Links::Follow).await?;
        let account = self.session.account();
        account.changing().await;
        for _ in 0..OPEN_ATTEMPTS {
            let names = account.names.lock().await;
            let existing = match place.storage.metadata(&place.path, Links::Keep).await {
                Ok(link) if link.is_symlink() => {
                    drop(names);
                    // The file that the link leads to is the one to write or to replace, never the link.
                    place.path = place.storage.resolve(&place.path, Links::Follow).await?;
                    refuse_temporary(&place.path)?;
                    if how.exclusive {
                        return Err(FsError::Exists);
                    }
                    continue;
                }
                Ok(existing) => Some(existing),
                Err(FsError::NotFound) => None,
                Err(error) => return Err(error),
            };
            self.check_upload(path, &place, how, existing)?;
            account.ledger.check_room(existing.is_none())?;
            let readable = how.read
                && [path, &place.path]
                    .iter()
                    .all(|path| self.check(path, Perms::DOWNLOAD, On::Parent).is_ok());
            let to = Destination { storage: &place.storage, place: &place.path, existing };
            let opened = if self.session.policy().upload_mode.is_atomic() {
                Upload::replacing(&self.session, &to, how, readable, names).await
            } else {
                let opened = Upload::direct(account, &to, how, readable).await;
                drop(names);
                opened
            };
            match opened {
                // Somebody who does not come through the door was faster: look again.
                Err(FsError::Exists) if existing.is_none() && !how.exclusive => {}
                Err(FsError::NotFound) if existing.is_some() && how.create => {}
                Err(error) => return Err(error),
                Ok((upload, file)) => {
                    let (path, real, upload) = (path.clone(), self.real(path), Some(upload));
                    let transfer =
                        Transfer::new(self.clone(), path, place.path, real, file, readable, upload);
                    transfer.expect_size(how.expected_size);
                    return Ok(transfer);
                }
            }
        }
        Err(FsError::Exists)
    }

    fn check_upload(
        &self,
        path: &VPath,
        place: &Place,
        how: UploadOptions,
        existing: Option<Metadata>,
    ) -> Result<(), FsError> {
        match existing {
            Some(existing) if !existing.is_file() => Err(FsError::Unsupported),
            Some(_) => {
                self.check(path, Perms::OVERWRITE, On::Parent)?;
                self.check(&place.path, Perms::OVERWRITE, On::Parent)?;
                if how.exclusive { Err(FsError::Exists) } else { Ok(()) }
            }
            None if !how.create => Err(FsError::NotFound),
            None => Ok(()),
        }
    }

    /// Opens a file for a look that moves nothing to the client, such as a digest of its contents.
    /// Needs what a download needs, as digests of small ranges reveal the contents.
    ///
    /// # Errors
    ///
    /// As [`UserFs::download`].
    pub async fn inspect(&self, path: &VPath) -> Result<Inspection, FsError> {
        let place = self.authorize(path, Perms::DOWNLOAD, On::Parent, Links::Follow).await?;
        let how = OpenOptions { read: true, ..OpenOptions::default() };
        Ok(Inspection::new(self.session.clone(), place.storage.open(&place.path, &how).await?))
    }

    /// Opens a file for a look under other permissions than those of [`UserFs::inspect`]: `needed` at the path
    /// itself. A digest of all of a file, for example, reveals little about it.
    ///
    /// # Errors
    ///
    /// As [`UserFs::download`].
    pub async fn inspect_with(&self, path: &VPath, needed: Perms) -> Result<Inspection, FsError> {
        let place = self.authorize(path, needed, On::Own, Links::Follow).await?;
        let how = OpenOptions { read: true, ..OpenOptions::default() };
        Ok(Inspection::new(self.session.clone(), place.storage.open(&place.path, &how).await?))
    }

    /// Copies `length` bytes (all that follow for 0) between two open files, through the same counting,
    /// throttle and quota as if the client had carried them.
    ///
    /// # Errors
    ///
    /// [`FsError::InvalidInput`] if both handles are the same file, as source and target would overlap.
    pub async fn copy_data(
        &self,
        source: (&Transfer, u64),
        target: (&Transfer, u64),
        length: u64,
    ) -> Result<(), FsError> {
        if source.0.metadata().await?.identity == target.0.metadata().await?.identity {
            return Err(FsError::InvalidInput("source and target are the same file"));
        }
        let mut left = if length == 0 { u64::MAX } else { length };
        let (mut read_offset, mut write_offset) = (source.1, target.1);
        while left > 0 {
            if self.session.cancelled().is_cancelled() {
                return Err(FsError::Cancelled);
            }
            let room = usize::try_from(left).unwrap_or(COPY_BLOCK).min(COPY_BLOCK);
            let block = source.0.read_at(read_offset, self.session.buffers().take(room)).await?;
            if block.is_empty() {
                break;
            }
            let count = block.len() as u64;
            target.0.write_at(write_offset, vec![block.freeze()]).await?;
            (read_offset, write_offset, left) = (read_offset + count, write_offset + count, left - count);
        }
        Ok(())
    }

    /// Copies a file within the server. Needs what a download of `from` and an upload of `to` need.
    ///
    /// # Errors
    ///
    /// [`FsError::Exists`] without `overwrite`; a failed copy ends by the rules of the upload mode.
    pub async fn copy_file(&self, from: &VPath, to: &VPath, overwrite: bool) -> Result<(), FsError> {
        let source = self.download(from).await?;
        let same = match self.session.storage()?.metadata(to, Links::Follow).await {
            Ok(target) => source.metadata().await.is_ok_and(|s| s.identity == target.identity),
            Err(_) => false,
        };
        let opened = if same {
            Err(FsError::InvalidInput("source and target are the same file"))
        } else {
            let how = UploadOptions {
                create: true,
                exclusive: !overwrite,
                truncate: true,
                ..UploadOptions::default()
            };
            self.upload(to, how).await
        };
        let target = match opened {
            Ok(target) => target,
            Err(error) => {
                source.abort("the copy could not begin").await;
                return Err(error);
            }
        };
        let copied = self.copy_data((&source, 0), (&target, 0), 0).await;
        match copied {
            Ok(()) => {
                let finished = target.finish().await;
                source.finish().await.and(finished)
            }
            Err(error) => {
                target.abort("the copy failed").await;
                source.abort("the copy failed").await;
                Err(error)
            }
        }
    }
}
