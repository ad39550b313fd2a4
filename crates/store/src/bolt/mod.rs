//! The bolt provider (data model §1.5, §8): users in one file, without a server.
//!
//! The file is one of redb: an open file of bbolt is only read, once, and what was in it goes on beside it. Which
//! file is used when is decided here; `docs/decisions/0004-bolt.md` tells why. `file` and `import` read what the
//! reference wrote, `store` is the provider.

mod file;
mod import;
mod outline;
mod store;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError};
use tracing::{info, warn};

pub(crate) use store::BoltStore;

use crate::OpenError;
use crate::config::Settings;
use crate::private_file::create_private;

/// How long another process is waited for that has the file open.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A file of the reference that is larger is not read: it would hold millions of users.
const MAX_IMPORT: u64 = 1 << 30;

/// Memory for pages of the file.
const CACHE: usize = 32 << 20;

const REDB_MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// Opens the file that `settings` name, which may take as long as [`LOCK_TIMEOUT`].
pub(crate) async fn open(settings: &Settings) -> Result<BoltStore, OpenError> {
    let path = match &settings.connection_string {
        Some(_) => {
            let problem = "the bolt provider has none: set data_provider.name to the file".to_owned();
            return Err(OpenError::ConnectionString(problem));
        }
        None => settings.path.clone(),
    };
    let writable = settings.manage_users;
    let shown = path.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let found = locate(&path, writable)?;
        let database = open_locked(&found.path)?;
        store::set_up(&database).map_err(|problem| failed(&found.path, problem))?;
        if let Some(head) = found.imported {
            warn_if_changed(&path, &head, &found.path, &database);
        }
        Ok(BoltStore::new(database, writable))
    });
    // A damaged file makes the library panic in the worst case.
    opened.await.unwrap_or_else(|_| Err(failed(&shown, "is damaged")))
}

fn failed(path: &Path, problem: impl Into<String>) -> OpenError {
    OpenError::File { path: path.to_owned(), problem: problem.into() }
}

/// What a file is, told by its beginning.
enum Kind {
    Missing,
    Empty,
    /// Ours.
    Redb,
    /// The reference's.
    Bolt(Vec<u8>),
}

fn kind(path: &Path) -> Result<Kind, OpenError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a file"));
        }
        file.take(file::HEAD as u64).read_to_end(&mut head)
    });
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Kind::Missing),
        Err(error) => Err(failed(path, format!("cannot be read: {error}"))),
        Ok(0) => Ok(Kind::Empty),
        Ok(_) if head.starts_with(REDB_MAGIC) => Ok(Kind::Redb),
        Ok(_) if file::is_bolt(&head) || head.len() > 4096 && file::meta(&head).is_ok() => {
            Ok(Kind::Bolt(head))
        }
        Ok(_) if head.starts_with(b"SQLite format 3\0") => {
            Err(failed(path, "is a SQLite database: set data_provider.driver to \"sqlite\""))
        }
        Ok(_) => Err(failed(path, "is neither a file of bbolt nor one of redb")),
    }
}

/// The file to use.
struct Found {
    path: PathBuf,
    /// The beginning of a file of the reference that was imported into it earlier.
    imported: Option<Vec<u8>>,
}

/// The configured file, or the one beside it that its users were moved to.
fn locate(path: &Path, writable: bool) -> Result<Found, OpenError> {
    let found = |path: &Path| Ok(Found { path: path.to_owned(), imported: None });
    let mut beside = OsString::from(path);
    beside.push(".redb");
    let beside = PathBuf::from(beside);
    let moved = beside.try_exists().map_err(|error| failed(&beside, format!("cannot be used: {error}")))?;
    match kind(path)? {
        Kind::Redb => found(path),
        Kind::Bolt(head) if moved => Ok(Found { path: beside, imported: Some(head) }),
        Kind::Bolt(_) => {
            import(path, &beside)?;
            found(&beside)
        }
        Kind::Missing | Kind::Empty if moved => found(&beside),
        Kind::Missing | Kind::Empty if !writable => {
            Err(failed(path, "does not exist, and is not created as data_provider.manage_users is 0"))
        }
        Kind::Missing | Kind::Empty => {
            create_private(path).map_err(|error| failed(path, format!("cannot be created: {error}")))?;
            found(path)
        }
    }
}

/// Waits for whoever has the file open. The library does not wait.
fn open_locked(path: &Path) -> Result<Database, OpenError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        // The check reads the whole file once. Without it, a file that somebody has changed is trusted.
        match Database::builder().set_cache_size(CACHE).set_check_integrity_on_open(true).create(path) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(failed(
                    path,
                    format!("is used by another process, since {} s", LOCK_TIMEOUT.as_secs()),
                ));
            }
            Err(error) => return Err(failed(path, format!("cannot be opened: {error}"))),
        }
    }
}

/// Reads the users of the file `path` of the reference into the new file `beside`, all or none.
fn import(path: &Path, beside: &Path) -> Result<(), OpenError> {
    let cannot = |error| failed(path, format!("cannot be read: {error}"));
    let mut source = File::open(path).map_err(cannot)?;
    // The reference holds this lock while it runs. So does another server of ours that imports at the same time.
    lock(&source, path)?;
    if beside.exists() {
        return Ok(());
    }
    let size_bytes = source.metadata().map_err(cannot)?.len();
    if size_bytes > MAX_IMPORT {
        return Err(failed(path, format!("is too large to be imported: {size_bytes} bytes")));
    }
    let mut data = Vec::new();
    (&mut source).take(MAX_IMPORT).read_to_end(&mut data).map_err(cannot)?;
    let contents = import::users(&data).map_err(|problem| failed(path, problem))?;
    let meta = file::meta(data.get(..file::HEAD).unwrap_or(&data));
    let meta = meta.map_err(|damage| failed(path, format!("is damaged: {damage}")))?;

    let mut unfinished = OsString::from(beside);
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let written = write_new(&unfinished, &contents, meta)
        .and_then(|()| std::fs::rename(&unfinished, beside).map_err(|error| error.to_string()));
    if let Err(problem) = written {
        // What is left of an attempt is removed before the next one too.
        drop(std::fs::remove_file(&unfinished));
        return Err(failed(beside, format!("cannot be written: {problem}")));
    }
    sync_folder(beside);
    info!(
        "{} users were imported from {} into {}, which is used from now on; the former is left as it is",
        contents.users.len(),
        path.display(),
        beside.display()
    );
    Ok(())
}

fn write_new(path: &Path, contents: &import::Contents, meta: file::Meta) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    create_private(path).map_err(|error| error.to_string())?;
    let database =
        Database::builder().set_cache_size(CACHE).create(path).map_err(|error| error.to_string())?;
    store::fill(&database, contents, meta)?;
    database.close().map_err(|error| error.to_string())
}

fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(failed(
                    path,
                    format!("is used by another process, since {} s", LOCK_TIMEOUT.as_secs()),
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(path, format!("cannot be locked: {error}")));
            }
        }
    }
}

/// A rename lasts when its folder is on the disk. Where folders cannot be opened, the system sees to it.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        drop(folder.sync_all());
    }
}

/// What the reference wrote after the import is not taken over; somebody must choose.
fn warn_if_changed(path: &Path, head: &[u8], used: &Path, database: &Database) {
    let imported = store::imported(database);
    let now = file::meta(head).ok().map(|meta| (meta.txid, meta.checksum));
    if imported.is_some() && imported != now {
        warn!(
            "{} was changed after its users were imported into {}, which is used; remove the latter to import again",
            path.display(),
            used.display()
        );
    }
}
