//! Names: directories, links, renames and removals, under the lock of names and in the books.

use tidegate_vfs::{FsError, Links, Target, VPath};

use super::{On, Place, UserFs};
use crate::open_files::signed;
use crate::upload::is_temporary;
use crate::{CommandKind, Perms, UsageDelta, orphans};

impl UserFs {
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
    /// [`FsError::Denied`] for the root and for temporary files, [`FsError::Exists`], else what the backend says.
    pub async fn symlink(&self, target: &VPath, link: &VPath) -> Result<(), FsError> {
        if link.is_root() || target.is_root() || is_temporary(target.name()) {
            return Err(FsError::Denied);
        }
        let place = self.authorize(link, Perms::CREATE_SYMLINKS, On::Parent, Links::Keep).await?;
        match self.session.storage()?.resolve(target, Links::Follow).await {
            Ok(_) | Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        {
            // Whoever looked at a name that led nowhere must not replace what it suddenly leads to.
            let _names = self.session.account().names.lock().await;
            place.storage.symlink(target, &place.path).await?;
        }
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

    /// Whether a permission entry lies at or below `dir`: moving it would change what the entry means.
    fn anchors_rules(&self, dir: &VPath) -> bool {
        self.session.current().permissions.iter().any(|(entry, _)| !entry.is_root() && entry.is_within(dir))
    }
}
