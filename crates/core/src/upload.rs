//! How uploads reach their place: directly, or through a temporary file and a rename.
//!
//! A replacement is a file of its own, hidden beside its place, until it is complete; then it is synced if
//! the configuration says so, renamed over the old file, and the directory synced. Whatever fails before the
//! rename leaves the old file as it was. What the new file is charged meanwhile is what it is larger than
//! the old one (`open_files.rs`).

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tidegate_vfs::{File, FsError, Links, Metadata, OpenOptions, SetAttrs, Storage, Target, VPath};
use tokio::sync::MutexGuard;
use tracing::warn;

use crate::account::{Account, Replacing};
use crate::open_files::{OpenFile, TOO_LARGE, signed};
use crate::quota::Hold;
use crate::{Session, UploadOptions, UsageDelta};

/// Block of a copy within the server, in bytes.
pub(crate) const COPY_BLOCK: usize = 256 * 1024;

/// What `sftpd.upload_mode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UploadMode {
    /// Written in place; a failed upload leaves a partial file.
    #[default]
    Standard,
    /// Written to a temporary file that replaces the old one at close; a failed upload leaves nothing.
    Atomic,
    /// As atomic, but a failed upload is kept under the final name, to be resumed.
    AtomicWithResume,
}

impl UploadMode {
    /// Whether uploads go through a temporary file.
    pub fn is_atomic(self) -> bool {
        self != Self::Standard
    }
}

/// Start of every temporary name (sftp-server.md §6.2).
const PREFIX: &[u8] = b".sftpgo-upload.";

/// Characters of the random part, as the reference's identifiers have.
const ID_CHARS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const ID_LENGTH: usize = 20;

/// Whether `name` is one of ours: such files are no user's business.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_at_checked(ID_LENGTH))
        .is_some_and(|(id, rest)| rest.first() == Some(&b'.') && id.iter().all(|c| ID_CHARS.contains(c)))
}

/// A temporary name beside `path`, which must not be the root.
pub(crate) fn temporary(path: &VPath) -> Result<VPath, FsError> {
    let dir = path.parent().ok_or(FsError::IsDir)?;
    let mut random = [0; ID_LENGTH];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| FsError::InvalidInput("the system gives no random numbers"))?;
    let mut name = PREFIX.to_vec();
    name.extend(random.iter().map(|byte| ID_CHARS[usize::from(byte % 32)]));
    name.push(b'.');
    // A name may have 255 bytes; the end of the final one is enough to recognise it by.
    let room = 255 - name.len();
    name.extend_from_slice(&path.name()[path.name().len().saturating_sub(room)..]);
    dir.join(&name)
}

/// What only an upload has: where it goes, and what it is charged.
pub(crate) struct Upload {
    /// The tree in which `place` and the paths of `replacing` are names.
    storage: Arc<dyn Storage>,
    file: Arc<OpenFile>,
    /// Offsets below belong to the part that is being resumed.
    pub(crate) min_offset: u64,
    place: VPath,
    is_new: bool,
    replacing: Option<Arc<Replacing>>,
}

/// Where an upload goes, as it was authorized, and what is there.
pub(crate) struct Destination<'a> {
    pub(crate) storage: &'a Arc<dyn Storage>,
    pub(crate) place: &'a VPath,
    pub(crate) existing: Option<Metadata>,
}

impl Destination<'_> {
    /// Size of the part of the old file that stays.
    fn kept(&self, how: UploadOptions) -> Option<u64> {
        self.existing.filter(|_| !how.truncate).map(|old| old.size)
    }

    /// Room for what the client announced.
    fn room(&self, account: &Account, how: UploadOptions) -> Result<Hold, FsError> {
        let old = self.existing.map_or(0, |old| old.size);
        let more = how.expected_size.saturating_sub(old);
        if i64::try_from(more).is_err() {
            return Err(TOO_LARGE);
        }
        account.ledger.hold(UsageDelta { size_bytes: signed(more), files: 0 })
    }

    fn min_offset(&self, how: UploadOptions) -> u64 {
        self.kept(how).filter(|_| how.resume).unwrap_or(0)
    }
}

impl Upload {
    /// Opens the file itself. Call it under the lock of names.
    pub(crate) async fn direct(
        account: &Account,
        to: &Destination<'_>,
        how: UploadOptions,
        readable: bool,
    ) -> Result<(Self, Arc<dyn File>), FsError> {
        let open = OpenOptions {
            read: readable,
            write: true,
            create_new: to.existing.is_none(),
            truncate: how.truncate,
            ..OpenOptions::default()
        };
        let room = to.room(account, how)?;
        let new_name = match to.existing {
            None => Some(account.ledger.hold(UsageDelta { size_bytes: 0, files: 1 })?),
            Some(_) => None,
        };
        let dir = account.pin(to.storage, to.place, to.existing.as_ref()).await;
        if let Some(old) = &to.existing {
            account.track(dir, to.place, old);
        }
        let cut = to.existing.filter(|_| how.truncate).and_then(|old| account.files.get(old.identity));
        let _cutting = cut.map(|file| file.cutting());
        let handle = to.storage.open(to.place, &open).await?;
        let opened = handle.metadata().await?;
        let file = match to.existing {
            Some(old) => {
                // Cut already: the old size is the one that is in the books.
                let file = account.files.join(opened.identity, opened.links, old.size);
                if how.truncate {
                    file.cut(0);
                }
                file
            }
            None => {
                if let Some(new_name) = new_name {
                    new_name.settle();
                }
                account.tell_at(dir, to.place, |tally, at| tally.created(opened.identity, 0, at));
                account.files.join(opened.identity, 1, 0)
            }
        };
        drop(room);
        file.announce(how.expected_size);
        let upload = Self {
            storage: Arc::clone(to.storage),
            file,
            min_offset: to.min_offset(how),
            place: to.place.clone(),
            is_new: to.existing.is_none(),
            replacing: None,
        };
        Ok((upload, handle))
    }

    /// Opens a temporary file that will take the place. Call it with the lock of names, which it gives back once the
    /// file is there: no directory moves before it is known that the file must be followed.
    pub(crate) async fn replacing(
        session: &Session,
        to: &Destination<'_>,
        how: UploadOptions,
        readable: bool,
        names: MutexGuard<'_, ()>,
    ) -> Result<(Self, Arc<dyn File>), FsError> {
        let account = session.account();
        // Without links, so that it can be followed when a directory moves.
        let place = to.storage.resolve(to.place, Links::Keep).await?;
        let room = to.room(account, how)?;
        let temp = temporary(&place)?;
        let replacing = account.begin_replacing(place.clone(), temp.clone());
        let open = OpenOptions {
            read: readable || to.kept(how).is_some(),
            write: true,
            create_new: true,
            mode: to.existing.map(|old| old.mode & 0o777),
            ..OpenOptions::default()
        };
        let handle = match to.storage.open(&temp, &open).await {
            Ok(handle) => handle,
            Err(error) => {
                account.end_replacing(&replacing, false);
                return Err(error);
            }
        };
        drop(names);
        let mut upload = Self {
            storage: Arc::clone(to.storage),
            // Charged nothing until it is known what it is.
            file: Arc::new(OpenFile::temporary(&account.ledger, (0, 0), Some(0))?),
            min_offset: to.min_offset(how),
            place,
            is_new: to.existing.is_none(),
            replacing: Some(replacing),
        };
        match upload.prepare(session, to, how, &handle, room).await {
            Ok(()) => Ok((upload, handle)),
            Err(error) => {
                // The copy is incomplete and nobody asked for it: the old file is untouched.
                upload.discard(session).await;
                Err(error)
            }
        }
    }

    /// A replacement looks like what it replaces: same mode and owner, and same contents if they are kept.
    async fn prepare(
        &mut self,
        session: &Session,
        to: &Destination<'_>,
        how: UploadOptions,
        handle: &Arc<dyn File>,
        room: Hold,
    ) -> Result<(), FsError> {
        let ledger = &session.account().ledger;
        let new = handle.metadata().await?;
        self.file = Arc::new(OpenFile::temporary(ledger, new.identity, to.existing.map(|old| old.size))?);
        drop(room);
        self.file.announce(how.expected_size);
        let Some(old) = to.existing else { return Ok(()) };
        // Only the mode bits that the umask took away are missing.
        if new.mode & 0o777 != old.mode & 0o777 {
            handle.set_attrs(&SetAttrs { mode: Some(old.mode & 0o777), ..SetAttrs::default() }).await?;
        }
        let (uid, gid) = session.user().owner();
        let owner = SetAttrs {
            uid: (uid.is_none() && new.uid != old.uid).then_some(old.uid),
            gid: (gid.is_none() && new.gid != old.gid).then_some(old.gid),
            ..SetAttrs::default()
        };
        // Only root can give files away; without it, new files are the server's own.
        if owner != SetAttrs::default() && handle.set_attrs(&owner).await.is_ok() {
            // A change of owner may take mode bits with it.
            handle.set_attrs(&SetAttrs { mode: Some(old.mode & 0o777), ..SetAttrs::default() }).await?;
        }
        if how.truncate {
            return Ok(());
        }
        let reading = OpenOptions { read: true, ..OpenOptions::default() };
        let source = to.storage.open(to.place, &reading).await?;
        let mut offset = 0;
        loop {
            if session.cancelled().is_cancelled() {
                return Err(FsError::Cancelled);
            }
            let block = source.read_at(offset, session.buffers().take(COPY_BLOCK)).await?;
            if block.is_empty() {
                return Ok(());
            }
            let count = block.len() as u64;
            self.file.reserve(offset + count)?;
            let written = handle.write_at(offset, vec![block.freeze()]).await;
            self.file.done();
            written?;
            offset += count;
        }
    }

    /// Takes room for a file of `end` bytes; [`Upload::done`] follows.
    pub(crate) fn reserve(&self, end: u64) -> Result<(), FsError> {
        self.file.reserve(end)
    }

    /// What the room was taken for has ended.
    pub(crate) fn done(&self) {
        self.file.done();
    }

    /// The file was cut.
    pub(crate) fn cut(&self, size: u64) {
        self.file.cut(size);
    }

    /// Ends the upload. `ok` says whether the client asked for it and nothing failed before.
    pub(crate) async fn end(
        &self,
        session: &Session,
        handle: &Arc<dyn File>,
        ok: bool,
    ) -> Result<(), FsError> {
        let fsync = ok && session.policy().fsync;
        let synced = if fsync { handle.sync().await } else { Ok(()) };
        let ended = match &self.replacing {
            None => {
                {
                    let _names = session.account().names.lock().await;
                    let size = handle.metadata().await.map(|file| file.size).ok();
                    session.account().resized(session.account().files.leave(&self.file, size));
                }
                synced.and(handle.close().await)
            }
            Some(replacing) => {
                let size = handle.metadata().await.map(|file| file.size);
                let closed = synced.and(handle.close().await);
                let keeps_failed = session.policy().upload_mode == UploadMode::AtomicWithResume;
                match (closed, size) {
                    (Ok(()), Ok(size)) if ok || keeps_failed => self.commit(session, replacing, size).await,
                    (Err(error), Ok(size)) if keeps_failed => {
                        self.commit(session, replacing, size).await.and(Err(error))
                    }
                    (closed, size) => {
                        self.discard(session).await;
                        closed.and(size.map(drop))
                    }
                }
            }
        };
        let ended = match ended {
            Ok(()) if fsync && (self.is_new || self.replacing.is_some()) => self.sync_dir().await,
            other => other,
        };
        session.account().ledger.write_back().await;
        ended
    }

    /// Puts the new file in its place.
    async fn commit(&self, session: &Session, replacing: &Replacing, size: u64) -> Result<(), FsError> {
        let account = session.account();
        let renamed = {
            let _names = account.names.lock().await;
            let renamed = self.rename(account, replacing, size).await;
            if renamed.is_ok() {
                account.end_replacing(replacing, false);
            }
            renamed
        };
        if renamed.is_err() {
            self.discard(session).await;
        }
        renamed
    }

    async fn rename(&self, account: &Account, replacing: &Replacing, size: u64) -> Result<(), FsError> {
        let paths = replacing.paths();
        let old = match self.storage.metadata(&paths.place, Links::Keep).await {
            Ok(old) => Some(old),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if old.is_some_and(|old| old.is_dir()) {
            return Err(FsError::IsDir);
        }
        // A file that is open elsewhere keeps its room until it is closed there.
        let replaced = old.filter(Metadata::is_file).filter(|old| account.files.get(old.identity).is_none());
        self.file.can_replace(size, replaced.map(|old| old.size))?;
        let dir = account.pin(&self.storage, &paths.place, old.as_ref()).await;
        self.storage.rename(&paths.temporary, &paths.place, Target::Replace).await?;
        self.file.replaced();
        match (old, replaced) {
            (Some(old), Some(_)) => {
                account.tell_at(dir, &paths.place, |tally, at| tally.unlinked(old.identity, old.size, at));
            }
            (Some(old), None) => account.name_removed(dir, &paths.place, &old),
            (None, _) => {}
        }
        account.tell_at(dir, &paths.place, |tally, at| tally.created(self.file.identity(), size, at));
        Ok(())
    }

    /// Removes the temporary file; the old one is as it was.
    async fn discard(&self, session: &Session) {
        let Some(replacing) = &self.replacing else { return };
        let account = session.account();
        let _names = account.names.lock().await;
        let temporary = replacing.paths().temporary;
        let removed = match self.storage.remove_file(&temporary).await {
            Ok(()) | Err(FsError::NotFound) => true,
            Err(error) => {
                let id = &*session.peer().connection_id;
                warn!(connection_id = id, "temporary file {temporary} cannot be removed: {}", error.detail());
                false
            }
        };
        self.file.discarded();
        account.end_replacing(replacing, !removed);
    }

    async fn sync_dir(&self) -> Result<(), FsError> {
        let place = self.replacing.as_ref().map_or_else(|| self.place.clone(), |r| r.paths().place);
        self.storage.sync_dir(&place.parent().unwrap_or_else(VPath::root)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_recognised_and_fit() {
        for name in ["a", &"x".repeat(255)] {
            let path = VPath::parse(format!("/dir/{name}").as_bytes()).unwrap();
            let temp = temporary(&path).unwrap();
            assert_eq!(temp.parent(), path.parent());
            assert!(is_temporary(temp.name()), "{temp}");
            assert!(temp.name().len() <= 255);
            assert_ne!(temporary(&path).unwrap(), temp);
        }
        assert!(!is_temporary(b".sftpgo-upload.notes"));
        assert!(!is_temporary(b"x"));
    }
}
