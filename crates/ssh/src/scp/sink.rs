//! Uploads: the server is the sink, as `sink()` of OpenSSH's `scp.c`.
//!
//! A file or directory that cannot be taken costs a warning, and the client goes on with the next one; only
//! what makes the stream unintelligible ends the command. Data of a file that failed is read to its end, as the
//! client does not listen meanwhile.

use tidegate_core::{Transfer, UploadOptions, UserFs};
use tidegate_vfs::{FsError, Links, SetAttrs, Timestamp, VPath};

use super::control::{Record, is_plain};
use super::wire::{Answer, Wire};
use super::{Invocation, NOT_PLAIN, step_bytes, virtual_path};
use crate::channel::Closed;
use crate::command::{End, told};
use crate::inbox::WRITE_RUN_BYTES;

/// Where what the client sends is put.
struct Level {
    path: VPath,
    /// Whether `path` is a directory that takes entries by their names, or itself the name of what comes.
    is_dir: bool,
    /// What the directory gets once it is complete.
    attrs: SetAttrs,
}

struct Sink<'a, 'b> {
    wire: &'a mut Wire<'b>,
    fs: &'a UserFs,
    invocation: &'a Invocation,
    /// The target, and the directories on the way to what comes next. Each adds to a path of at most 4096
    /// bytes, which bounds the depth.
    levels: Vec<Level>,
    /// From a T record, for the next file or directory.
    times: SetAttrs,
    /// Written at a time.
    step: usize,
}

/// Takes what the client sends until it ends.
pub(super) async fn run(wire: &mut Wire<'_>, fs: &UserFs, invocation: &Invocation) -> Result<(), End> {
    let Some(raw) = invocation.paths.first() else { return Err(End::Told) };
    let target = match virtual_path(raw) {
        Ok(target) => target,
        Err(error) => {
            wire.warn(raw, &told(&error)).await?;
            return Err(End::Told);
        }
    };
    // What cannot be looked at is taken for a name; the upload itself will say what is wrong.
    let is_dir = fs.is_dir(&target).await.unwrap_or(false);
    if invocation.into_dir && !is_dir {
        wire.warn(target.as_bytes(), "not a directory").await?;
        return Err(End::Told);
    }
    wire.yes().await?;
    let step = step_bytes(fs.session().user().upload_bandwidth, WRITE_RUN_BYTES);
    let levels = vec![Level { path: target, is_dir, attrs: SetAttrs::default() }];
    Sink { wire, fs, invocation, levels, times: SetAttrs::default(), step }.take_all().await
}

impl Sink<'_, '_> {
    async fn take_all(&mut self) -> Result<(), End> {
        loop {
            let line = match self.wire.byte().await? {
                // The regular end, unless a directory is still open.
                None if self.levels.len() == 1 => return Ok(()),
                None | Some(2) => return Err(End::Told),
                Some(1) => {
                    // The client could not read something; there is nothing to answer.
                    self.wire.line(None).await?;
                    self.wire.note_error();
                    continue;
                }
                Some(b'\n') => return self.wire.fatal("unexpected <newline>").await,
                first => self.wire.line(first).await?,
            };
            match Record::parse(&line) {
                Ok(Record::Times { modified, accessed }) => {
                    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
                    let (modified, accessed) = (time(modified), time(accessed));
                    self.times = SetAttrs { modified, accessed, ..SetAttrs::default() };
                    self.wire.yes().await?;
                }
                Ok(Record::File { mode, size, name }) => {
                    let attrs = self.attrs(mode);
                    self.file(size, &name, attrs).await?;
                }
                Ok(Record::Dir { mode, name }) => {
                    if !self.invocation.recursive {
                        return self.wire.fatal("received directory without -r").await;
                    }
                    let attrs = self.attrs(mode);
                    self.enter(&name, attrs).await?;
                }
                Ok(Record::End) => {
                    if self.levels.len() == 1 {
                        self.wire.yes().await?;
                        return Ok(());
                    }
                    self.leave().await?;
                }
                Err(error) => return self.wire.fatal(&error.to_string()).await,
            }
        }
    }

    /// What the file or directory gets that comes next: times if the client sent them, the mode under `-p`.
    /// Set-id and sticky bits are dropped, as everywhere.
    fn attrs(&mut self, mode: u32) -> SetAttrs {
        let mode = self.invocation.preserve.then_some(mode & 0o777);
        SetAttrs { mode, ..std::mem::take(&mut self.times) }
    }

    fn place(&self, name: &[u8]) -> Result<VPath, FsError> {
        match self.levels.last() {
            Some(level) if level.is_dir => level.path.join(name),
            Some(level) => Ok(level.path.clone()),
            None => Err(FsError::NotDir),
        }
    }

    async fn file(&mut self, size: u64, name: &[u8], attrs: SetAttrs) -> Result<(), End> {
        if !is_plain(name) {
            return Ok(self.wire.warn(name, NOT_PLAIN).await?);
        }
        let how =
            UploadOptions { create: true, truncate: true, expected_size: size, ..UploadOptions::default() };
        let opened = match self.place(name) {
            // `file/` can only be a directory.
            Ok(path) if self.must_be_dir() => Err((path, FsError::NotDir)),
            Ok(path) => match self.fs.upload(&path, how).await {
                Ok(transfer) => Ok(transfer),
                Err(FsError::Unsupported) => Err((path, FsError::IsDir)),
                Err(error) => Err((path, error)),
            },
            Err(error) => return Ok(self.wire.warn(name, &told(&error)).await?),
        };
        let transfer = match opened {
            Ok(transfer) => transfer,
            Err((path, error)) => return Ok(self.wire.warn(path.as_bytes(), &told(&error)).await?),
        };
        let received = match self.wire.yes().await {
            Ok(()) => self.receive(&transfer, size).await,
            Err(closed) => Err(closed.into()),
        };
        match received {
            Ok(Answer::Yes) => self.conclude(&transfer, attrs).await,
            Ok(Answer::No) => {
                transfer.abort("the client could not read its file").await;
                Ok(self.wire.yes().await?)
            }
            Err(end) => {
                transfer.abort("the client ended before the file was complete").await;
                Err(end)
            }
        }
    }

    /// Writes the data of a file and returns what the client says about it. What goes wrong on this side is
    /// remembered by the transfer.
    async fn receive(&mut self, transfer: &Transfer, size: u64) -> Result<Answer, End> {
        let (mut offset, mut writing) = (0, true);
        while offset < size {
            let most = usize::try_from(size - offset).unwrap_or(self.step).min(self.step);
            let run = self.wire.run(most).await?;
            let count: u64 = run.iter().map(|bytes| bytes.len() as u64).sum();
            if count == 0 {
                return Err(End::Told);
            }
            if writing {
                writing = transfer.write_at(offset, run).await.is_ok();
            }
            offset += count;
        }
        self.wire.answer().await
    }

    /// Ends a file whose data is complete.
    async fn conclude(&mut self, transfer: &Transfer, attrs: SetAttrs) -> Result<(), End> {
        let path = transfer.path().clone();
        let kept = self.set_open_attrs(transfer, attrs).await;
        let outcome = transfer.finish().await.and(kept);
        self.settled(&path, outcome).await
    }

    async fn enter(&mut self, name: &[u8], attrs: SetAttrs) -> Result<(), End> {
        if !is_plain(name) {
            return Ok(self.wire.warn(name, NOT_PLAIN).await?);
        }
        let path = match self.place(name) {
            Ok(path) => path,
            Err(error) => return Ok(self.wire.warn(name, &told(&error)).await?),
        };
        let made = match self.fs.is_dir(&path).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(FsError::NotDir),
            Err(FsError::NotFound) => self.fs.create_dir(&path).await,
            // Who may not look may still create; what exists already is taken for a directory.
            Err(FsError::Denied) => match self.fs.create_dir(&path).await {
                Err(FsError::Exists) => Ok(()),
                made => made,
            },
            Err(error) => Err(error),
        };
        if made.is_ok() {
            self.levels.push(Level { path: path.clone(), is_dir: true, attrs });
        }
        self.settled(&path, made).await
    }

    /// Ends a directory. Its times and mode come last: entries change the times, and the mode may forbid them.
    async fn leave(&mut self) -> Result<(), End> {
        let Some(Level { path, attrs, .. }) = self.levels.pop() else { return Err(End::Told) };
        let mut outcome = Ok(());
        for part in parts(attrs) {
            outcome = outcome.and(tolerated(self.fs.set_attrs(&path, &part, Links::Follow).await));
        }
        self.settled(&path, outcome).await
    }

    async fn set_open_attrs(&self, transfer: &Transfer, attrs: SetAttrs) -> Result<(), FsError> {
        let mut outcome = Ok(());
        for part in parts(attrs) {
            outcome = outcome.and(tolerated(self.fs.set_open_attrs(transfer, &part).await));
        }
        outcome
    }

    /// Answers for a file or directory; a warning unless everything went well.
    async fn settled(&mut self, path: &VPath, outcome: Result<(), FsError>) -> Result<(), End> {
        match outcome {
            Ok(()) => self.wire.yes().await,
            Err(FsError::Cancelled) => Err(Closed),
            Err(error) => self.wire.warn(path.as_bytes(), &told(&error)).await,
        }
        .map_err(End::from)
    }

    /// Whether the target was written with a slash at its end but is no directory.
    fn must_be_dir(&self) -> bool {
        self.levels.last().is_some_and(|level| !level.is_dir)
            && self.invocation.paths.first().is_some_and(|raw| raw.ends_with(b"/"))
    }
}

/// Mode and times apart: each has a permission of its own.
fn parts(attrs: SetAttrs) -> impl Iterator<Item = SetAttrs> {
    let mode = SetAttrs { mode: attrs.mode, ..SetAttrs::default() };
    let times = SetAttrs { accessed: attrs.accessed, modified: attrs.modified, ..SetAttrs::default() };
    [mode, times].into_iter().filter(|part| *part != SetAttrs::default())
}

/// A user who may upload but not change modes or times keeps the file, as clients such as WinSCP always ask for
/// both.
fn tolerated(outcome: Result<(), FsError>) -> Result<(), FsError> {
    match outcome {
        Err(FsError::Denied) => Ok(()),
        outcome => outcome,
    }
}
