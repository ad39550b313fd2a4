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
//!
//! Here is what all of them share: who may, where it acts, what is reported. The operations are in `open.rs`
//! (contents), `look.rs`, `names.rs` and `attrs.rs`.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_vfs::{FsError, Links, Metadata, Storage, VPath};
use tokio_util::sync::CancellationToken;

use crate::upload::is_temporary;
use crate::{Command, CommandKind, Direction, Event, Perms, Protocol, Session, Transfer, UploadMode};

mod attrs;
mod look;
mod names;
mod open;

pub use look::Listing;

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
    /// Nobody is left who waits for anything.
    ended: CancellationToken,
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

/// A link to the temporary file of an upload leads nowhere, however the name was learnt: the file is charged to
/// nobody yet, so whoever cut it would get room back that was never taken.
fn refuse_temporary(resolved: &VPath) -> Result<(), FsError> {
    if is_temporary(resolved.name()) { Err(FsError::NotFound) } else { Ok(()) }
}

impl UserFs {
    pub(crate) fn new(session: Session, protocol: Protocol) -> Self {
        let ended = session.cancelled().clone();
        Self { session, protocol, ended }
    }

    /// The same files for as long as `ended` has not fired, which it must when the session ends: what waits for
    /// bandwidth gives up then.
    pub fn until(self, ended: &CancellationToken) -> Self {
        Self { ended: ended.clone(), ..self }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Waits until the user's bandwidth lets `count` more bytes pass.
    ///
    /// # Errors
    ///
    /// [`FsError::Cancelled`] once nobody waits any more.
    pub(crate) async fn wait_for_bandwidth(&self, direction: Direction, count: usize) -> Result<(), FsError> {
        tokio::select! {
            biased;
            passed = self.session.wait_for_bandwidth(direction, count) => passed,
            () = self.ended.cancelled() => Err(FsError::Cancelled),
        }
    }

    /// The session that these files belong to.
    pub fn session(&self) -> &Session {
        &self.session
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
            refuse_temporary(&resolved)?;
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

    fn real(&self, path: &VPath) -> Option<PathBuf> {
        self.session.storage().ok().and_then(|storage| storage.local_path(path))
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
