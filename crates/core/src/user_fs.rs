//! The door: the file tree as one user may use it.
//!
//! Every method has the same four steps in the same order: authorize, act, account, report. Permissions
//! are checked on the path that was asked for and, where rules differ between directories, on the path
//! that it leads to; the operation then acts on that second path in a tree that refuses links, so that
//! nobody is carried across a boundary, not even by a link that changes in between.
//!
//! The account is looked at anew by every operation, so that a change of permissions counts at once; a
//! handle that is open keeps what it was given. A future of this module must be polled to its end: what is
//! on disk and what is in the books would differ otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_vfs::{
    DirEntry, DirStream, FsError, Links, Metadata, OpenOptions, SetAttrs, Space, Storage, Target, Timestamp,
    VPath,
};

use crate::open_files::{Resized, signed};
use crate::orphans;
use crate::upload::{COPY_BLOCK, Destination, Upload, is_temporary};
use crate::{
    Command, CommandKind, Event, Inspection, Perms, Protocol, Session, Transfer, UploadMode, UsageDelta,
};

/// How often an upload that meets a file which appears and disappears is tried.
const OPEN_ATTEMPTS: usize = 4;

/// What the configuration says about files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsPolicy {
    /// How uploads reach their place.
    pub upload_mode: UploadMode,
    /// Requests to change modes, owners and times are answered but ignored (`setstat_mode` 1).
    pub ignore_set_attrs: bool,
    /// Uploads are forced to stable storage before they count as done.
    pub fsync: bool,
}

/// How a client opens a file for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadOptions {
    /// It wants to read as well; granted if it may download.
    pub read: bool,
    /// Create the file if it does not exist.
    pub create: bool,
    /// Fail if it exists.
    pub exclusive: bool,
    /// Start with an empty file.
    pub truncate: bool,
    /// Keep what is there and continue behind it.
    pub resume: bool,
    /// Size that the client announced, 0 if it did not: what the quota has no room for is refused before
    /// anything is touched.
    pub expected_size: u64,
}

/// The files of one user, touched over one protocol. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UserFs {
    session: Session,
    protocol: Protocol,
}

/// Whose permissions decide: those of the directory itself, or of the one that holds the entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Own,
    Parent,
}

/// Where an authorized operation acts.
pub(crate) struct Place {
    storage: Arc<dyn Storage>,
    path: VPath,
}

impl UserFs {
    pub(crate) fn new(session: Session, protocol: Protocol) -> Self {
        Self { session, protocol }
    }

    /// The session that these files belong to.
    pub fn session(&self) -> &Session {
        &self.session
    }

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
        let session = self.session.clone();
        Ok(Transfer::new(session, self.protocol, path.clone(), place.path, real, file, true, None))
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
                drop(names);
                Upload::replacing(&self.session, &to, how, readable).await
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
                    let (session, real) = (self.session.clone(), self.real(path));
                    let (protocol, path) = (self.protocol, path.clone());
                    let upload = Some(upload);
                    let transfer =
                        Transfer::new(session, protocol, path, place.path, real, file, readable, upload);
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

    /// Changes the present attributes, each under its own permission: mode, owner, times, size.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] before anything was changed if one part is not allowed.
    pub async fn set_attrs(&self, path: &VPath, attrs: &SetAttrs, links: Links) -> Result<(), FsError> {
        if self.session.policy().ignore_set_attrs {
            self.session.touch();
            return Ok(());
        }
        let needed = permissions_for(attrs);
        let found = match self.find(path, links).await {
            Ok(found) => found,
            Err(error) => {
                // Who may change nothing here does not learn what is here either.
                self.check(path, needed, On::Own)?;
                return Err(error);
            }
        };
        let on = if found.1.is_dir() { On::Parent } else { On::Own };
        let place = self.authorize(path, needed, on, links).await?;
        if let Some(size) = attrs.size {
            self.truncate(&place, size).await?;
        }
        let rest = SetAttrs { size: None, ..*attrs };
        if rest != SetAttrs::default() {
            place.storage.set_attrs(&place.path, &rest, links).await?;
            self.report_attrs(path, &rest);
        }
        Ok(())
    }

    /// Changes the file of an open handle, under the same permissions as by its path.
    ///
    /// # Errors
    ///
    /// As [`UserFs::set_attrs`].
    pub async fn set_open_attrs(&self, transfer: &Transfer, attrs: &SetAttrs) -> Result<(), FsError> {
        if self.session.policy().ignore_set_attrs {
            self.session.touch();
            return Ok(());
        }
        if attrs.size.is_some() && !transfer.is_upload() {
            return Err(FsError::Denied);
        }
        // Whoever holds the handle was allowed to upload already.
        let rest = SetAttrs { size: None, ..*attrs };
        self.check_open(transfer, permissions_for(&rest), On::Own)?;
        transfer.set_attrs(attrs).await?;
        self.report_attrs(transfer.path(), &rest);
        Ok(())
    }

    /// Creates one directory. Needs `create_dirs` on its parent.
    ///
    /// # Errors
    ///
    /// [`FsError::Exists`], [`FsError::NotFound`] for a missing parent, else what the backend says.
    pub async fn create_dir(&self, path: &VPath) -> Result<(), FsError> {
        let place = self.authorize(path, Perms::CREATE_DIRS, On::Parent, Links::Keep).await?;
        {
            let account = self.session.account();
            let _names = account.names.lock().await;
            place.storage.create_dir(&place.path, 0o777).await?;
            if account.tally().is_some() {
                let made = place.storage.metadata(&place.path, Links::Keep).await;
                account.tell(|tally| match made {
                    Ok(made) => tally.made_dir(made.identity),
                    Err(_) => tally.spoil(),
                });
            }
        }
        self.report(CommandKind::Mkdir, path);
        Ok(())
    }

    /// Removes a file or a link. Needs `delete` on its directory.
    ///
    /// # Errors
    ///
    /// [`FsError::IsDir`] for a directory, else what the backend says.
    pub async fn remove_file(&self, path: &VPath) -> Result<(), FsError> {
        if path.is_root() {
            return Err(FsError::IsDir);
        }
        let place = self.authorize(path, Perms::DELETE, On::Parent, Links::Keep).await?;
        let account = self.session.account();
        account.changing().await;
        let removed = {
            let _names = account.names.lock().await;
            let removed = self.metadata_inside(&place, Links::Keep).await?;
            if removed.is_dir() {
                return Err(FsError::IsDir);
            }
            let dir = account.pin(&place.storage, &place.path, Some(&removed)).await;
            place.storage.remove_file(&place.path).await?;
            account.name_removed(dir, &place.path, &removed);
            removed
        };
        account.ledger.write_back().await;
        self.report(CommandKind::Remove { was_symlink: removed.is_symlink() }, path);
        Ok(())
    }

    /// Removes an empty directory. Needs `delete` on its parent.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] for the root, [`FsError::NotEmpty`], else what the backend says.
    pub async fn remove_dir(&self, path: &VPath) -> Result<(), FsError> {
        if path.is_root() {
            return Err(FsError::Denied);
        }
        let place = self.authorize(path, Perms::DELETE, On::Parent, Links::Keep).await?;
        let removed = match self.remove_empty_dir(&place).await {
            // Perhaps only what a crash left behind is in it, which the client cannot see.
            Err(FsError::NotEmpty) => {
                let (account, started) = (self.session.account(), self.session.server_started());
                let _ = orphans::sweep_dir(account, &place.storage, &place.path, started).await;
                self.remove_empty_dir(&place).await
            }
            removed => removed,
        };
        removed?;
        self.report(CommandKind::Rmdir, path);
        Ok(())
    }

    /// Renames. Needs `rename` on both directories, and `overwrite` on the target's if a file is
    /// replaced there. A directory below or at which other permissions begin stays where it is.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] for the root, else what the backend says.
    pub async fn rename(&self, from: &VPath, to: &VPath) -> Result<(), FsError> {
        if from.is_root() || to.is_root() {
            return Err(FsError::Denied);
        }
        let source = self.authorize(from, Perms::RENAME, On::Parent, Links::Keep).await?;
        let target = self.authorize(to, Perms::RENAME, On::Parent, Links::Keep).await?;
        let account = self.session.account();
        account.changing().await;
        {
            let _names = account.names.lock().await;
            let moved = self.metadata_inside(&source, Links::Keep).await?;
            if moved.is_dir() && (self.anchors_rules(&source.path) || self.anchors_rules(&target.path)) {
                return Err(FsError::Denied);
            }
            let replaced = match target.storage.metadata(&target.path, Links::Keep).await {
                Ok(replaced) => Some(replaced),
                Err(FsError::NotFound) => None,
                Err(error) => return Err(error),
            };
            if replaced.is_some_and(|r| r.identity == moved.identity) && source.path != target.path {
                // POSIX leaves both names of one file alone; the client is told that nothing moved.
                return Err(FsError::Exists);
            }
            if replaced.is_some_and(|r| r.is_dir()) {
                return Err(FsError::Exists);
            }
            if replaced.is_some() {
                self.check(to, Perms::OVERWRITE, On::Parent)?;
                self.check(&target.path, Perms::OVERWRITE, On::Parent)?;
            }
            // Where a directory is without links: afterwards its old path cannot be asked for.
            let dirs = if moved.is_dir() && account.follows_dirs() {
                let from = source.storage.resolve(&source.path, Links::Keep).await?;
                Some((from, target.storage.resolve(&target.path, Links::Keep).await?))
            } else {
                None
            };
            let from_dir = account.pin(&source.storage, &source.path, Some(&moved)).await;
            let to_dir = account.pin(&target.storage, &target.path, replaced.as_ref()).await;
            source.storage.rename(&source.path, &target.path, Target::Replace).await?;
            if source.path != target.path {
                if let Some(replaced) = replaced {
                    account.name_removed(to_dir, &target.path, &replaced);
                }
                if moved.is_file() {
                    account.file_moved((from_dir, &source.path), (to_dir, &target.path), &moved);
                }
                if let Some((from, to)) = dirs {
                    account.dir_moved(&moved, &from, &to);
                }
            }
        }
        account.ledger.write_back().await;
        self.report(CommandKind::Rename { target: to.clone(), real_target: self.real(to) }, from);
        Ok(())
    }

    /// Creates the link `link` to `target`. Needs `create_symlinks` on the link's directory; the target
    /// must not lead out of the home.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] for the root, [`FsError::Exists`], else what the backend says.
    pub async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError> {
        if link.is_root() || target.is_root() {
            return Err(FsError::Denied);
        }
        let place = self.authorize(link, Perms::CREATE_SYMLINKS, On::Parent, Links::Keep).await?;
        match self.session.storage()?.resolve(target, Links::Follow).await {
            Ok(_) | Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        place.storage.symlink(target, &place.path).await?;
        self.report(CommandKind::Symlink { target: link.clone(), real_target: self.real(link) }, target);
        Ok(())
    }

    /// Gives a file a second name. Needs `download` at the source, as the contents become reachable
    /// there, `upload` at the target, and no right at the target that is not held at the source. The
    /// second name counts against the quota like a copy, as it does in a scan.
    ///
    /// # Errors
    ///
    /// [`FsError::Exists`], [`FsError::InvalidInput`] for anything but a file, else what the backend says.
    pub async fn hard_link(&self, from: &VPath, to: &VPath) -> Result<(), FsError> {
        let source = self.authorize(from, Perms::DOWNLOAD, On::Parent, Links::Keep).await?;
        let target = self.authorize(to, Perms::UPLOAD, On::Parent, Links::Keep).await?;
        let parent = |path: &VPath| path.parent().unwrap_or_else(VPath::root);
        let rules = &self.session.current().permissions;
        for (from, to) in [(from, to), (&source.path, &target.path)] {
            if !rules.at(&parent(from)).contains(rules.at(&parent(to))) {
                return Err(FsError::Denied);
            }
        }
        let account = self.session.account();
        account.changing().await;
        {
            let _names = account.names.lock().await;
            let linked = self.metadata_inside(&source, Links::Keep).await?;
            if !linked.is_file() {
                return Err(FsError::InvalidInput("only files can have a second name"));
            }
            match target.storage.metadata(&target.path, Links::Keep).await {
                Ok(_) => return Err(FsError::Exists),
                Err(FsError::NotFound) => {}
                Err(error) => return Err(error),
            }
            account.ledger.check_room(true)?;
            let open = account.files.get(linked.identity);
            let known = account.known(&linked);
            let room = match &open {
                Some(_) => None,
                None => Some(account.ledger.hold(UsageDelta { size_bytes: signed(known.size), files: 1 })?),
            };
            let from_dir = account.dir_of(&source.storage, &source.path).await;
            account.track(from_dir, &source.path, &linked);
            let to_dir = account.pin(&target.storage, &target.path, None).await;
            if let Some(open) = &open {
                open.link()?;
            }
            if let Err(error) = target.storage.hard_link(&source.path, &target.path).await {
                if let Some(open) = open {
                    open.unlink();
                }
                return Err(error);
            }
            if let Some(room) = room {
                room.settle();
            }
            account.tell_at(to_dir, &target.path, |tally, at| tally.linked(known.identity, known.size, at));
        }
        account.ledger.write_back().await;
        Ok(())
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

    pub(crate) async fn authorize(
        &self,
        path: &VPath,
        needed: Perms,
        on: On,
        links: Links,
    ) -> Result<Place, FsError> {
        self.session.touch();
        self.check(path, needed, on)?;
        if is_temporary(path.name()) {
            // What is not listed cannot be named either.
            let creates = Perms::UPLOAD | Perms::CREATE_DIRS | Perms::CREATE_SYMLINKS;
            return Err(if creates.contains(needed) { FsError::Denied } else { FsError::NotFound });
        }
        let storage = self.session.storage()?;
        if !self.session.current().permissions.vary() {
            return Ok(Place { storage: Arc::clone(storage), path: path.clone() });
        }
        let resolved = storage.resolve(path, links).await?;
        if resolved != *path {
            self.check(&resolved, needed, on)?;
        }
        Ok(Place { storage: storage.without_links(), path: resolved })
    }

    pub(crate) fn check(&self, path: &VPath, needed: Perms, on: On) -> Result<(), FsError> {
        let rules = &self.session.current().permissions;
        let held = match (on, path.parent()) {
            (On::Parent, Some(parent)) => rules.at(&parent),
            _ => rules.at(path),
        };
        if held.contains(needed) { Ok(()) } else { Err(FsError::Denied) }
    }

    /// A handle gives no right that its path, or the path that it led to, does not give.
    fn check_open(&self, transfer: &Transfer, needed: Perms, on: On) -> Result<(), FsError> {
        self.check(transfer.path(), needed, on)?;
        self.check(transfer.resolved(), needed, on)
    }

    /// The object at `path`, before it is known which permission applies to it.
    async fn find(&self, path: &VPath, links: Links) -> Result<(Place, Metadata), FsError> {
        let place = Place { storage: Arc::clone(self.session.storage()?), path: path.clone() };
        let metadata = self.metadata_inside(&place, links).await?;
        Ok((place, metadata))
    }

    /// A link that leads out of the home makes every operation on it fail, also those that would not
    /// follow it.
    async fn metadata_inside(&self, place: &Place, links: Links) -> Result<Metadata, FsError> {
        let metadata = place.storage.metadata(&place.path, links).await?;
        if metadata.is_symlink() {
            let target = self.session.storage()?.resolve(&place.path, Links::Follow).await;
            if let Err(FsError::Outside) = target {
                return Err(FsError::Outside);
            }
        }
        Ok(metadata)
    }

    async fn remove_empty_dir(&self, place: &Place) -> Result<(), FsError> {
        let account = self.session.account();
        let _names = account.names.lock().await;
        let removed = if account.tally().is_some() {
            place.storage.metadata(&place.path, Links::Keep).await.ok()
        } else {
            None
        };
        place.storage.remove_dir(&place.path).await?;
        if let Some(removed) = removed {
            account.tell(|tally| tally.removed_dir(removed.identity));
        }
        Ok(())
    }

    /// Changes the size of a file by its name, within the quota.
    async fn truncate(&self, place: &Place, size: u64) -> Result<(), FsError> {
        let account = self.session.account();
        account.changing().await;
        {
            let _names = account.names.lock().await;
            let old = place.storage.metadata(&place.path, Links::Follow).await?;
            if !old.is_file() {
                return Err(FsError::Unsupported);
            }
            let cut = SetAttrs { size: Some(size), ..SetAttrs::default() };
            if let Some(open) = account.files.get(old.identity) {
                open.reserve(size)?;
                let done = place.storage.set_attrs(&place.path, &cut, Links::Follow).await;
                if done.is_ok() {
                    open.cut(size);
                }
                open.done();
                return done;
            }
            let names = i64::try_from(old.links).unwrap_or(i64::MAX);
            let more = names.saturating_mul(signed(size) - signed(old.size));
            let room = account.ledger.hold(UsageDelta { size_bytes: more.max(0), files: 0 })?;
            let counting = account.tally().is_some();
            let path = if counting {
                // A scan knows the file by its own name, not by that of a link to it.
                place.storage.resolve(&place.path, Links::Follow).await?
            } else {
                place.path.clone()
            };
            let dir = account.dir_of(&place.storage, &path).await;
            account.track(dir, &path, &old);
            place.storage.set_attrs(&place.path, &cut, Links::Follow).await?;
            room.settle();
            if more < 0 {
                account.ledger.settle(UsageDelta { size_bytes: more, files: 0 }, UsageDelta::default());
            }
            if dir.is_some() {
                account.resized(Resized { identity: old.identity, size });
            }
        }
        account.ledger.write_back().await;
        Ok(())
    }

    /// Whether a permission entry lies at or below `dir`: moving it would change what the entry means.
    fn anchors_rules(&self, dir: &VPath) -> bool {
        self.session.current().permissions.iter().any(|(entry, _)| !entry.is_root() && entry.is_within(dir))
    }

    fn real(&self, path: &VPath) -> Option<PathBuf> {
        self.session.storage().ok().and_then(|storage| storage.local_path(path))
    }

    fn report_attrs(&self, path: &VPath, attrs: &SetAttrs) {
        if let Some(mode) = attrs.mode {
            self.report(CommandKind::Chmod { mode }, path);
        }
        if attrs.uid.is_some() || attrs.gid.is_some() {
            let id = |id: Option<u32>| id.map_or(-1, i64::from);
            self.report(CommandKind::Chown { uid: id(attrs.uid), gid: id(attrs.gid) }, path);
        }
        if attrs.accessed.is_some() || attrs.modified.is_some() {
            let epoch = Timestamp::default();
            let kind = CommandKind::Chtimes {
                accessed: attrs.accessed.unwrap_or(epoch),
                modified: attrs.modified.unwrap_or(epoch),
            };
            self.report(kind, path);
        }
    }

    fn report(&self, kind: CommandKind, path: &VPath) {
        self.session.events().emit(Event::Commanded(Command {
            kind,
            username: self.session.user().username.clone(),
            connection_id: self.session.peer().connection_id.clone(),
            protocol: self.protocol,
            path: path.clone(),
            real_path: self.real(path),
        }));
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

/// What changing these attributes needs.
fn permissions_for(attrs: &SetAttrs) -> Perms {
    let mut needed = Perms::NONE;
    for (present, perm) in [
        (attrs.size.is_some(), Perms::UPLOAD | Perms::OVERWRITE),
        (attrs.mode.is_some(), Perms::CHMOD),
        (attrs.uid.is_some() || attrs.gid.is_some(), Perms::CHOWN),
        (attrs.accessed.is_some() || attrs.modified.is_some(), Perms::CHTIMES),
    ] {
        if present {
            needed = needed | perm;
        }
    }
    needed
}
