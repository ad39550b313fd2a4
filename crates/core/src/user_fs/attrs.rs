//! Changes of mode, owner, times and size.

use tidegate_vfs::{FsError, Links, SetAttrs, Timestamp, VPath};

use super::{On, Place, UserFs, refuse_temporary};
use crate::open_files::{Resized, signed};
use crate::{CommandKind, Perms, Transfer, UsageDelta};

impl UserFs {
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
            refuse_temporary(&place.storage.resolve(&place.path, Links::Follow).await?)?;
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
