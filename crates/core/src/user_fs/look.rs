//! What a user may see without opening a file: attributes, directories, room.

use tidegate_vfs::{DirEntry, DirStream, FsError, Links, Metadata, Space, VPath};

use super::{On, UserFs};
use crate::upload::is_temporary;
use crate::{Perms, Transfer};

impl UserFs {
    /// Describes what is at `path`. Needs `list` on the directory that holds it.
    ///
    /// # Errors
    ///
    /// [`FsError::Outside`] for a link that leads out of the home, else what the backend says.
    pub async fn metadata(&self, path: &VPath, links: Links) -> Result<Metadata, FsError> {
        let place = self.authorize(path, Perms::LIST, On::Parent, links).await?;
        self.metadata_inside(&place, links).await
    }

    /// Describes the file of an open handle, under the same permission as by its path.
    ///
    /// # Errors
    ///
    /// As [`UserFs::metadata`].
    pub async fn open_metadata(&self, transfer: &Transfer) -> Result<Metadata, FsError> {
        self.check_open(transfer, Perms::LIST, On::Parent)?;
        transfer.metadata().await
    }

    /// Whether an upload to `path` would meet a directory. Needs `list` on its parent or, as whoever may put
    /// something into it learns the same by trying, `upload` or `create_dirs` on itself.
    ///
    /// # Errors
    ///
    /// [`FsError::NotFound`], else what the backend says.
    pub async fn is_dir(&self, path: &VPath) -> Result<bool, FsError> {
        let ways = [(Perms::LIST, On::Parent), (Perms::UPLOAD, On::Own), (Perms::CREATE_DIRS, On::Own)];
        for (needed, on) in ways {
            match self.authorize(path, needed, on, Links::Follow).await {
                Ok(place) => return Ok(self.metadata_inside(&place, Links::Follow).await?.is_dir()),
                Err(FsError::Denied) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Denied)
    }

    /// Lists a directory. Needs `list` on the directory itself.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn list(&self, path: &VPath) -> Result<Listing, FsError> {
        let place = self.authorize(path, Perms::LIST, On::Own, Links::Follow).await?;
        Ok(Listing { entries: place.storage.read_dir(&place.path).await? })
    }

    /// Room for this user at `path`: that of the quota where it is less than the device's. Needs `list`
    /// on the directory that holds it.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn space(&self, path: &VPath) -> Result<Space, FsError> {
        let place = self.authorize(path, Perms::LIST, On::Parent, Links::Follow).await?;
        let mut space = place.storage.space(&place.path).await?;
        let Some((used, limit_size, limit_files)) = self.session.account().ledger.limits() else {
            return Ok(space);
        };
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        if limit_size > 0 {
            let unit = space.fragment_size.max(1);
            let free = unsigned(limit_size - used.size_bytes) / unit;
            space.blocks = space.blocks.min(unsigned(limit_size) / unit);
            space.blocks_free = space.blocks_free.min(free);
            space.blocks_available = space.blocks_available.min(free);
        }
        if limit_files > 0 {
            let free = unsigned(limit_files - used.files);
            space.files = space.files.min(unsigned(limit_files));
            space.files_free = space.files_free.min(free);
            space.files_available = space.files_available.min(free);
        }
        Ok(space)
    }
}

/// A directory being listed; temporary upload files are left out.
pub struct Listing {
    entries: Box<dyn DirStream>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listing")
    }
}

impl Listing {
    /// Up to `at_most` further entries; empty at the end.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn next(&mut self, at_most: usize) -> Result<Vec<DirEntry>, FsError> {
        loop {
            let mut entries = self.entries.next(at_most).await?;
            if entries.is_empty() {
                return Ok(entries);
            }
            entries.retain(|entry| !is_temporary(&entry.name));
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}
