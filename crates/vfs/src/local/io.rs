//! The way from the async world to blocking system calls, and the process-wide limits on it.
//!
//! [`blocking`] is the only place in this crate that changes threads. Data and metadata have permits of
//! their own, so that one slow disk under a few uploads does not keep others from listing a directory.
//! What is done without changing threads is in `file.rs` (cached reads) and `resolve.rs` (cached names).

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use crate::FsError;

/// Blocking calls for file contents that may run at the same time.
const DATA_PERMITS: usize = 64;

/// Blocking calls for names and attributes that may run at the same time.
const METADATA_PERMITS: usize = 64;

/// What all local storages of a process share: limits, and what was learned about the kernel. Cloning
/// gives another handle to the same.
#[derive(Debug, Clone)]
pub struct LocalIo {
    shared: Arc<Shared>,
    /// Whether calls are made on the caller's thread, as nothing there waits for a device.
    in_memory: bool,
}

#[derive(Debug)]
struct Shared {
    data: Arc<Semaphore>,
    metadata: Arc<Semaphore>,
    /// Whether the kernel resolves paths beneath a directory; found out at first use.
    openat2: OnceLock<bool>,
}

impl Default for LocalIo {
    fn default() -> Self {
        Self::new(DATA_PERMITS, METADATA_PERMITS)
    }
}

impl LocalIo {
    /// Sets how many blocking calls for data and for metadata may run at the same time (at least one
    /// each).
    pub fn new(data: usize, metadata: usize) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        let shared = Shared { data: permits(data), metadata: permits(metadata), openat2: OnceLock::new() };
        Self { shared: Arc::new(shared), in_memory: false }
    }

    /// Never uses `openat2`: every path is walked component by component, as on a system that lacks the
    /// call. For tests, and for sandboxes in which the call misbehaves.
    #[must_use]
    pub fn without_openat2(self) -> Self {
        let shared = Shared {
            data: self.shared.data.clone(),
            metadata: self.shared.metadata.clone(),
            openat2: OnceLock::from(false),
        };
        Self { shared: Arc::new(shared), in_memory: self.in_memory }
    }

    /// The same limits for files that are kept in memory (tmpfs): a call costs less than the change of
    /// threads, and waits for nothing. A disk that is mounted inside such a home is not known here; it may
    /// hold up one of the runtime's threads for a call.
    pub(super) fn for_memory(&self, in_memory: bool) -> Self {
        Self { shared: self.shared.clone(), in_memory }
    }

    /// Whether the kernel resolves beneath a directory; `probe` is asked once per process.
    pub(super) fn openat2(&self, probe: impl FnOnce() -> bool) -> bool {
        *self.shared.openat2.get_or_init(probe)
    }

    /// Runs work on file contents.
    pub(super) async fn data<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        if self.in_memory { work() } else { blocking(&self.shared.data, work).await }
    }

    /// Runs work on names and attributes.
    pub(super) async fn metadata<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FsError> + Send + 'static,
    ) -> Result<T, FsError> {
        if self.in_memory { work() } else { blocking(&self.shared.metadata, work).await }
    }
}

/// Runs `work` on a thread that may block. The permit travels with the work: a caller that gives up does
/// not make room for more than the limit.
async fn blocking<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, FsError> + Send + 'static,
) -> Result<T, FsError> {
    let permit = permits.clone().acquire_owned().await.map_err(|_| FsError::Cancelled)?;
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    match done.await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(FsError::Cancelled),
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}
