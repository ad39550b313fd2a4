//! Downloads: the server is the source, as `source()` and `rsource()` of OpenSSH's `scp.c`.
//!
//! What cannot be sent costs a warning, and the next file follows. Links are followed, so a directory that is
//! met again below itself is left out. One block of data is under way at a time, like in SFTP.

use bytes::Bytes;
use tidegate_core::{Listing, Transfer, UserFs};
use tidegate_vfs::{DirEntry, FsError, Links, Metadata, VPath};

use super::control::{Record, is_plain};
use super::wire::{Answer, Wire};
use super::{Invocation, NOT_PLAIN, glob, step_bytes, virtual_path};
use crate::command::{End, told};

/// Sent at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// Open directories of one download: each holds a descriptor.
const MAX_DEPTH: usize = 256;

/// Entries taken from a directory at a time.
const DIR_BATCH: usize = 256;

const NOT_REGULAR: &str = "not a regular file";

/// What is sent instead of data that cannot be read any more: the announced size must be kept.
static ZEROES: [u8; 32 << 10] = [0; 32 << 10];

/// A directory that is being sent.
struct OpenDir {
    path: VPath,
    identity: Option<(u64, u64)>,
    listing: Listing,
    left_over: std::vec::IntoIter<DirEntry>,
}

struct Source<'a, 'b> {
    wire: &'a mut Wire<'b>,
    fs: &'a UserFs,
    invocation: &'a Invocation,
    /// The directories on the way to what is being sent.
    dirs: Vec<OpenDir>,
    step: usize,
}

/// Sends everything that the paths name.
pub(super) async fn run(wire: &mut Wire<'_>, fs: &UserFs, invocation: &Invocation) -> Result<(), End> {
    // The client begins; what it says makes no difference yet.
    wire.answer().await?;
    let step = step_bytes(fs.session().user().download_bandwidth, BLOCK_BYTES);
    let mut source = Source { wire, fs, invocation, dirs: Vec::new(), step };
    for raw in &invocation.paths {
        let paths = match virtual_path(raw) {
            Ok(path) => glob::expand(fs, &path, raw.ends_with(b"/"), || source.wire.is_over()).await,
            Err(error) => Err(error),
        };
        match paths {
            Ok(paths) => {
                for path in paths {
                    source.tree(path).await?;
                }
            }
            Err(FsError::Cancelled) => return Err(End::Closed),
            Err(error) => source.wire.warn(raw, &told(&error)).await?,
        }
    }
    Ok(())
}

impl Source<'_, '_> {
    /// Sends a file, or a directory with everything below it.
    async fn tree(&mut self, path: VPath) -> Result<(), End> {
        self.item(path, None).await?;
        while let Some(dir) = self.dirs.last_mut() {
            match dir.next().await {
                Ok(Some(entry)) => match dir.path.join(&entry.name) {
                    Ok(path) => self.item(path, Some(entry.metadata)).await?,
                    Err(error) => self.wire.warn(&entry.name, &told(&error)).await?,
                },
                ended => {
                    if let Err(error) = ended {
                        self.wire.warn(dir.path.as_bytes(), &told(&error)).await?;
                    }
                    self.dirs.pop();
                    self.wire.ask(Record::End.line()).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends a file, or begins a directory. `known` is what a listing tells of the name itself.
    async fn item(&mut self, path: VPath, known: Option<Metadata>) -> Result<(), End> {
        let metadata = match known.filter(|metadata| !metadata.is_symlink()) {
            Some(metadata) => Ok(metadata),
            None => self.fs.metadata(&path, Links::Follow).await,
        };
        let failed = match metadata {
            Ok(metadata) if metadata.is_dir() => return self.enter(path, Some(metadata)).await,
            // Who may download or list a directory, but not list the one above, may still fetch it.
            Ok(_) | Err(FsError::Denied) => match self.fs.download(&path).await {
                Ok(transfer) => return self.file(&transfer).await,
                Err(FsError::IsDir | FsError::Denied) if metadata.is_err() && self.invocation.recursive => {
                    return self.enter(path, None).await;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let why = match failed {
            FsError::Unsupported | FsError::IsDir => NOT_REGULAR.to_owned(),
            error => told(&error),
        };
        Ok(self.wire.warn(path.as_bytes(), &why).await?)
    }

    async fn enter(&mut self, path: VPath, metadata: Option<Metadata>) -> Result<(), End> {
        let name = self.name(&path);
        let identity = metadata.map(|metadata| metadata.identity);
        let why = if !self.invocation.recursive {
            NOT_REGULAR.to_owned()
        } else if !is_plain(&name) {
            NOT_PLAIN.to_owned()
        } else if identity.is_some() && self.dirs.iter().any(|dir| dir.identity == identity) {
            "the directory contains itself".to_owned()
        } else if self.dirs.len() >= MAX_DEPTH {
            "too many directories inside each other".to_owned()
        } else {
            match self.fs.list(&path).await {
                Ok(listing) => {
                    if !self.times(metadata.as_ref()).await? {
                        return Ok(());
                    }
                    let mode = metadata.map_or(0, |metadata| metadata.mode);
                    let record = Record::Dir { mode: if mode == 0 { 0o755 } else { mode }, name };
                    if self.wire.ask(record.line()).await? == Answer::Yes {
                        self.dirs.push(OpenDir {
                            path,
                            identity,
                            listing,
                            left_over: Vec::new().into_iter(),
                        });
                    }
                    return Ok(());
                }
                Err(error) => told(&error),
            }
        };
        Ok(self.wire.warn(path.as_bytes(), &why).await?)
    }

    async fn file(&mut self, transfer: &Transfer) -> Result<(), End> {
        match self.contents(transfer).await {
            Ok(Answer::Yes) => {
                // What goes wrong now is in the log; the client has everything.
                let _ = transfer.finish().await;
                Ok(())
            }
            Ok(Answer::No) => {
                transfer.abort("the file did not reach the client").await;
                Ok(())
            }
            Err(end) => {
                transfer.abort("the connection ended before the file was sent").await;
                Err(end)
            }
        }
    }

    /// Announces a file and sends its data; what the client made of it.
    async fn contents(&mut self, transfer: &Transfer) -> Result<Answer, End> {
        let name = self.name(transfer.path());
        let found = match transfer.metadata().await {
            Ok(metadata) if !metadata.is_file() => Err(NOT_REGULAR.to_owned()),
            Ok(_) if !is_plain(&name) => Err(NOT_PLAIN.to_owned()),
            Ok(metadata) => Ok(metadata),
            Err(error) => Err(told(&error)),
        };
        let metadata = match found {
            Ok(metadata) => metadata,
            Err(why) => {
                self.wire.warn(transfer.path().as_bytes(), &why).await?;
                return Ok(Answer::No);
            }
        };
        if !self.times(Some(&metadata)).await? {
            return Ok(Answer::No);
        }
        let mode = if metadata.mode == 0 { 0o644 } else { metadata.mode };
        let record = Record::File { mode, size: metadata.size, name };
        if self.wire.ask(record.line()).await? == Answer::No {
            return Ok(Answer::No);
        }
        let failed = self.data(transfer, metadata.size).await?;
        match &failed {
            None => self.wire.yes().await?,
            Some(why) => self.wire.warn(transfer.path().as_bytes(), why).await?,
        }
        let answer = self.wire.answer().await?;
        Ok(if failed.is_none() { answer } else { Answer::No })
    }

    /// Sends exactly `size` bytes; what went wrong with the file meanwhile.
    async fn data(&mut self, transfer: &Transfer, size: u64) -> Result<Option<String>, End> {
        let mut left = size;
        let failed = loop {
            if left == 0 {
                return Ok(None);
            }
            let room = usize::try_from(left).unwrap_or(self.step).min(self.step);
            let buffer = self.fs.session().buffers().take(room);
            match transfer.read_at(size - left, buffer).await {
                Ok(block) if block.is_empty() => break "the file became shorter".to_owned(),
                Ok(block) => {
                    left -= block.len() as u64;
                    self.wire.send(block.freeze()).await?;
                }
                Err(FsError::Cancelled) => return Err(End::Closed),
                Err(error) => break told(&error),
            }
        };
        while left > 0 {
            let zeroes = usize::try_from(left).unwrap_or(ZEROES.len()).min(ZEROES.len());
            self.wire.send(Bytes::from_static(&ZEROES[..zeroes])).await?;
            left -= zeroes as u64;
        }
        Ok(Some(failed))
    }

    /// Sends the times under `-p`; whether the client wants what follows.
    async fn times(&mut self, metadata: Option<&Metadata>) -> Result<bool, End> {
        let Some(metadata) = metadata.filter(|_| self.invocation.preserve) else { return Ok(true) };
        let (modified, accessed) = (metadata.modified.seconds, metadata.accessed.seconds);
        Ok(self.wire.ask(Record::Times { modified, accessed }.line()).await? == Answer::Yes)
    }

    /// The name in the record. The root has none of its own, and clients accept neither `.` nor an empty one.
    fn name(&self, path: &VPath) -> Vec<u8> {
        if !path.is_root() {
            return path.name().to_vec();
        }
        let user = self.fs.session().user().username.as_bytes();
        match VPath::root().join(user) {
            Ok(_) => user.to_vec(),
            Err(_) => b"home".to_vec(),
        }
    }
}

impl OpenDir {
    async fn next(&mut self) -> Result<Option<DirEntry>, FsError> {
        if self.left_over.as_slice().is_empty() {
            self.left_over = self.listing.next(DIR_BATCH).await?.into_iter();
        }
        Ok(self.left_over.next())
    }
}
