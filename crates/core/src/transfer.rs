//! One open upload or download: bytes counted, throttled and charged as they move.
//!
//! A transfer ends by [`Transfer::finish`] or [`Transfer::abort`]; both await, so both are explicit.
//! Whatever happens in between is remembered: an upload with a failed write never counts as a success, and
//! what is left of it is the beginning of the file, without a gap, so that it can be resumed.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_vfs::{Buffer, File, FsError, Metadata, SetAttrs, VPath};
use tracing::warn;

use crate::session::Progress;
use crate::upload::Upload;
use crate::{Event, Session, TransferReport, UserFs};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Upload,
    /// To the client.
    Download,
}

impl Direction {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// One open file of one user.
pub struct Transfer {
    fs: UserFs,
    path: VPath,
    /// Where `path` led when the file was opened; permissions are asked for both.
    resolved: VPath,
    real_path: Option<PathBuf>,
    file: Arc<dyn File>,
    progress: Arc<Progress>,
    progress_id: u64,
    readable: bool,
    upload: Option<Upload>,
    failure: Mutex<Failure>,
    ended: AtomicBool,
}

/// What went wrong so far.
#[derive(Debug, Default)]
struct Failure {
    first: Option<FsError>,
    /// Offset of a write that failed and was not made good. Clients have many writes under way: those behind
    /// it would leave a gap.
    write_at: Option<u64>,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Transfer {
    pub(crate) fn new(
        fs: UserFs,
        path: VPath,
        resolved: VPath,
        real_path: Option<PathBuf>,
        file: Arc<dyn File>,
        readable: bool,
        upload: Option<Upload>,
    ) -> Self {
        let direction = if upload.is_some() { Direction::Upload } else { Direction::Download };
        let (progress_id, progress) = fs.session().begin_transfer(direction, path.clone());
        Self {
            fs,
            path,
            resolved,
            real_path,
            file,
            progress,
            progress_id,
            readable,
            upload,
            failure: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// The virtual path under which it was opened.
    pub fn path(&self) -> &VPath {
        &self.path
    }

    /// Where that path led when the file was opened.
    pub(crate) fn resolved(&self) -> &VPath {
        &self.resolved
    }

    /// Which way the bytes go.
    pub fn direction(&self) -> Direction {
        self.progress.direction
    }

    /// Fills the spare room of `buf` from `offset`; unchanged at the end of the file. Where bandwidth is
    /// limited it may fill less, but at least 32 KiB.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] for a file that was opened for writing only.
    pub async fn read_at(&self, offset: u64, mut buf: Buffer) -> Result<Buffer, FsError> {
        if !self.readable {
            return Err(FsError::Denied);
        }
        if let Some(piece) = self.session().account().throttle(Direction::Download).piece() {
            buf.limit(piece);
        }
        let before = buf.len();
        let buf = self.file.read_at(offset, buf).await.inspect_err(|error| self.fail(error))?;
        let count = buf.len() - before;
        self.fs.wait_for_bandwidth(Direction::Download, count).await?;
        if self.upload.is_none() {
            self.measure(count).await;
            self.moved(offset, count);
        }
        Ok(buf)
    }

    /// Writes `data`, piece after piece, from `offset`. The future must be polled to its end.
    ///
    /// # Errors
    ///
    /// [`FsError::QuotaExceeded`] at the byte where the quota ends (nothing of this call is written
    /// then, unless bandwidth is limited), [`FsError::Denied`] for a download, [`FsError::InvalidInput`]
    /// below the resumed part.
    pub async fn write_at(&self, offset: u64, data: Vec<Bytes>) -> Result<(), FsError> {
        let Some(upload) = &self.upload else { return Err(FsError::Denied) };
        if offset < upload.min_offset {
            let error = FsError::InvalidInput("offset below the part that is being resumed");
            self.fail(&error);
            return Err(error);
        }
        let Some(piece) = self.session().account().throttle(Direction::Upload).piece() else {
            return self.write(upload, offset, data).await;
        };
        let mut at = offset;
        for mut bytes in data {
            while !bytes.is_empty() {
                let now = bytes.split_to(bytes.len().min(piece));
                let count = now.len();
                self.fs.wait_for_bandwidth(Direction::Upload, count).await?;
                self.write(upload, at, vec![now]).await?;
                at = at.saturating_add(count as u64);
            }
        }
        Ok(())
    }

    async fn write(&self, upload: &Upload, offset: u64, data: Vec<Bytes>) -> Result<(), FsError> {
        let count: usize = data.iter().map(Bytes::len).sum();
        if count == 0 {
            return Ok(());
        }
        let end = offset.checked_add(count as u64).ok_or(FsError::InvalidInput("offset too large"));
        let end = end.inspect_err(|error| self.fail(error))?;
        if let Failure { first: Some(error), write_at: Some(at) } = &*self.failure()
            && offset > *at
        {
            return Err(error.clone());
        }
        let written = match upload.reserve(end) {
            Ok(()) => {
                let written = self.file.write_at(offset, data).await;
                upload.done();
                written
            }
            Err(error) => Err(error),
        };
        self.note_write(offset..end, &written);
        written?;
        self.moved(offset, count);
        Ok(())
    }

    /// Describes the open file.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn metadata(&self) -> Result<Metadata, FsError> {
        self.session().touch();
        self.file.metadata().await
    }

    /// Changes the open file; which parts the user may change was decided by the caller, `UserFs`.
    pub(crate) async fn set_attrs(&self, attrs: &SetAttrs) -> Result<(), FsError> {
        if let (Some(size), Some(upload)) = (attrs.size, &self.upload) {
            if size < upload.min_offset && self.failure().first.is_some() {
                // OpenSSH's sftp cuts a resumed file to nothing after a failed write.
                return Err(FsError::InvalidInput("what was there before a failed resume stays"));
            }
            upload.reserve(size).inspect_err(|error| self.fail(error))?;
            let cut = self.file.set_attrs(attrs).await;
            if cut.is_ok() {
                upload.cut(size);
            }
            upload.done();
            return cut;
        }
        self.file.set_attrs(attrs).await
    }

    /// Whether it may be written to.
    pub fn is_upload(&self) -> bool {
        self.upload.is_some()
    }

    /// Forces what was written to stable storage.
    ///
    /// # Errors
    ///
    /// What the backend says; the upload counts as failed then.
    pub async fn sync(&self) -> Result<(), FsError> {
        self.file.sync().await.inspect_err(|error| self.fail(error))
    }

    /// A look at the contents that moves nothing to the client.
    ///
    /// # Errors
    ///
    /// [`FsError::Denied`] for a file that was opened for writing only.
    pub fn inspect(&self) -> Result<Inspection, FsError> {
        if self.readable {
            Ok(Inspection::new(self.session().clone(), Arc::clone(&self.file)))
        } else {
            Err(FsError::Denied)
        }
    }

    /// Ends the transfer as the client asked: an upload takes its place, and the event is told. An
    /// upload whose write failed before ends as aborted, with that error.
    ///
    /// # Errors
    ///
    /// What failed, now or before.
    pub async fn finish(&self) -> Result<(), FsError> {
        let failure = self.failure().first.clone();
        if let Some(error) = failure {
            self.end(Some(error.detail())).await?;
            return Err(error);
        }
        self.end(None).await
    }

    /// Ends the transfer because the connection or the session did.
    pub async fn abort(&self, why: &'static str) {
        let first = self.failure().first.as_ref().map(FsError::detail);
        // What goes wrong on top of that is in the log already.
        let _ = self.end(Some(first.unwrap_or_else(|| why.to_owned()))).await;
    }

    /// `failed` says why the client did not get what it asked for.
    async fn end(&self, failed: Option<String>) -> Result<(), FsError> {
        if self.ended.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let closed = match &self.upload {
            Some(upload) => upload.end(self.session(), &self.file, failed.is_none()).await,
            None => self.file.close().await,
        };
        self.session().end_transfer(self.progress_id);
        let error = failed.or_else(|| closed.as_ref().err().map(FsError::detail));
        self.session().events().emit(Event::Transferred(TransferReport {
            direction: self.direction(),
            username: self.session().user().username.clone(),
            connection_id: self.session().peer().connection_id.clone(),
            protocol: self.fs.protocol(),
            path: self.path.clone(),
            real_path: self.real_path.clone(),
            bytes: self.progress.bytes.load(Ordering::Relaxed),
            elapsed_ms: self.session().touch() - self.progress.started,
            error,
        }));
        closed
    }

    /// Asks for the size of a file that is downloaded: once, and only if more than one piece of it is wanted,
    /// so that small files need not wait.
    async fn measure(&self, count: usize) {
        let progress = &self.progress;
        if count > 0 && progress.bytes.load(Ordering::Relaxed) > 0 && progress.total.get().is_none() {
            let size = self.file.metadata().await.map_or(0, |file| file.size);
            let _ = progress.total.set(size);
        }
    }

    /// Notes the size that the client announced for an upload; 0 if it did not.
    pub(crate) fn expect_size(&self, size: u64) {
        let _ = self.progress.total.set(size);
    }

    fn moved(&self, offset: u64, count: usize) {
        let count = count as u64;
        self.session().events().activity().moved(self.direction(), count);
        self.progress.reached.fetch_max(offset.saturating_add(count), Ordering::Relaxed);
        self.progress.bytes.fetch_add(count, Ordering::Relaxed);
        self.progress.last_activity.store(self.session().touch(), Ordering::Relaxed);
    }

    fn note_write(&self, range: Range<u64>, written: &Result<(), FsError>) {
        let mut failure = self.failure();
        match written {
            Ok(()) => failure.write_at = failure.write_at.filter(|at| !range.contains(at)),
            Err(error) => {
                failure.first.get_or_insert_with(|| error.clone());
                failure.write_at = Some(range.start);
            }
        }
    }

    fn session(&self) -> &Session {
        self.fs.session()
    }

    fn fail(&self, error: &FsError) {
        self.failure().first.get_or_insert_with(|| error.clone());
    }

    fn failure(&self) -> MutexGuard<'_, Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            self.session().end_transfer(self.progress_id);
            let id = &*self.session().peer().connection_id;
            warn!(connection_id = id, "transfer of {} was dropped without an end: a defect", self.path);
        }
    }
}

/// A file being looked at by the server itself: neither counted nor throttled, as nothing is sent.
pub struct Inspection {
    session: Session,
    file: Arc<dyn File>,
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inspection")
    }
}

impl Inspection {
    pub(crate) fn new(session: Session, file: Arc<dyn File>) -> Self {
        Self { session, file }
    }

    /// Fills the spare room of `buf` from `offset`; unchanged at the end of the file.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn read_at(&self, offset: u64, buf: Buffer) -> Result<Buffer, FsError> {
        self.session.touch();
        self.file.read_at(offset, buf).await
    }
}
