//! `md5sum` to `sha512sum`: the digest of a file or of what the client sends, printed as coreutils print it.
//!
//! A file is read and hashed by one thread, block by block, so that each block is copied once and is still in
//! the processor's cache when it is hashed. Such a run ends after a while, and another command has its turn:
//! there are as many turns as processors. Standard input arrives by itself: while one batch of it is hashed
//! on a thread that may be busy for long, the next one is received. What is under way is at most two batches.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::{Inspection, Perms, Protocol, Session};
use tidegate_vfs::{FsError, VPath};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::End;
use crate::channel::Channel;
use crate::hasher::Hasher;
use crate::stream::StreamInbox;

/// Received at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// Read from a file at a time: a call costs little against hashing it, and it fits the cache.
const READ_BYTES: usize = 64 << 10;

/// Read in one turn, 50 to 150 ms.
const TURN_BYTES: u64 = 64 << 20;

/// Hashed at a time: long against a change of threads, small enough for a processor's cache.
const BATCH_BYTES: usize = 512 << 10;

/// Pieces of a batch; bounds what many short ones cost.
const BATCH_PIECES: usize = 256;

/// A rest that is hashed where it is: it takes about as long as a packet's cipher.
const INLINE_BYTES: usize = 64 << 10;

/// Prints the digest of the file `path`, or of standard input if there is no path or it is `-`.
pub(super) async fn run(
    channel: &Channel<StreamInbox>,
    session: &Session,
    turns: &Turns,
    algorithm: &'static str,
    path: Option<&[u8]>,
    needs: Perms,
) -> Result<(), End> {
    let hasher = Hasher::new(algorithm).ok_or(FsError::Unsupported)?;
    let line = match path {
        None | Some(b"-") => line(&of_stdin(channel, Hashing::new(hasher)).await?, b"-"),
        Some(path) => {
            let path = VPath::parse(path)?;
            line(&of_file(channel, session, turns, &path, needs, hasher).await?, path.as_bytes())
        }
    };
    Ok(channel.send(line.into()).await?)
}

async fn of_stdin(channel: &Channel<StreamInbox>, mut hashing: Hashing) -> Result<Vec<u8>, End> {
    while let Some(bytes) = channel.recv(BLOCK_BYTES).await? {
        hashing.feed(bytes).await?;
    }
    hashing.finish().await
}

async fn of_file(
    channel: &Channel<StreamInbox>,
    session: &Session,
    turns: &Turns,
    path: &VPath,
    needs: Perms,
    hasher: Hasher,
) -> Result<Vec<u8>, End> {
    let source = session.files(Protocol::Ssh).inspect_with(path, needs).await?;
    let stop = [channel.ended().clone(), session.cancelled().clone()];
    let mut digest = FileDigest { session: session.clone(), source, stop, hasher, offset: 0, at_end: false };
    while !digest.at_end {
        digest = turns.take(digest).await?;
    }
    Ok(digest.hasher.finish())
}

/// How many files are hashed at the same time, by all sessions.
#[derive(Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, Into::into))))
    }

    async fn take(&self, mut digest: FileDigest) -> Result<FileDigest, End> {
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|_| FsError::Cancelled)?;
        let runtime = Handle::current();
        // The reads inside wait for other blocking threads only where a file is not cached; turns are few, so
        // there always are some.
        let done = spawn_blocking(move || {
            let outcome = runtime.block_on(digest.advance());
            drop(turn);
            outcome.map(|()| digest)
        });
        ended(done.await)?
    }
}

/// The digest of a file, as far as it was read.
struct FileDigest {
    session: Session,
    source: Inspection,
    stop: [CancellationToken; 2],
    hasher: Hasher,
    offset: u64,
    at_end: bool,
}

impl FileDigest {
    async fn advance(&mut self) -> Result<(), End> {
        let until = self.offset.saturating_add(TURN_BYTES);
        while !self.at_end && self.offset < until {
            if self.stop.iter().any(CancellationToken::is_cancelled) {
                return Err(End::Closed);
            }
            let block = self.source.read_at(self.offset, self.session.buffers().take(READ_BYTES)).await?;
            self.hasher.update(block.filled());
            self.offset += block.len() as u64;
            self.at_end = block.is_empty();
        }
        Ok(())
    }
}

/// A digest whose batches are hashed in the background, in order.
struct Hashing {
    /// `None` only once a batch could not be hashed; nothing is asked of it after that.
    state: Option<State>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

enum State {
    Idle(Hasher),
    Busy(JoinHandle<Hasher>),
}

impl Hashing {
    fn new(hasher: Hasher) -> Self {
        Self { state: Some(State::Idle(hasher)), batch: Vec::new(), batch_bytes: 0 }
    }

    async fn feed(&mut self, bytes: Bytes) -> Result<(), End> {
        self.batch_bytes += bytes.len();
        self.batch.push(bytes);
        if self.batch_bytes < BATCH_BYTES && self.batch.len() < BATCH_PIECES {
            return Ok(());
        }
        self.start_batch().await
    }

    async fn finish(mut self) -> Result<Vec<u8>, End> {
        if self.batch_bytes > INLINE_BYTES {
            self.start_batch().await?;
        }
        let mut hasher = self.idle().await?;
        self.batch.iter().for_each(|bytes| hasher.update(bytes));
        Ok(hasher.finish())
    }

    async fn start_batch(&mut self) -> Result<(), End> {
        let mut hasher = self.idle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.state = Some(State::Busy(spawn_blocking(move || {
            batch.iter().for_each(|bytes| hasher.update(bytes));
            hasher
        })));
        Ok(())
    }

    /// The hasher, once the batch before is through.
    async fn idle(&mut self) -> Result<Hasher, End> {
        match self.state.take() {
            Some(State::Idle(hasher)) => Ok(hasher),
            Some(State::Busy(batch)) => ended(batch.await),
            None => Err(End::Closed),
        }
    }
}

/// What a job on another thread gives.
fn ended<T>(job: Result<T, JoinError>) -> Result<T, End> {
    match job {
        Ok(result) => Ok(result),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime stops.
        Err(_) => Err(End::Closed),
    }
}

/// `<hexadecimal digest>  <name>`. As in coreutils, a name with a backslash or a line end is escaped and the
/// line starts with a backslash, so that a line is always one file.
fn line(digest: &[u8], name: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(digest.len() * 2 + name.len() + 4);
    if name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    for byte in digest {
        line.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    line.extend_from_slice(b"  ");
    for byte in name {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_give_the_digest_of_the_whole() {
        let data: Vec<u8> = (0..3_000_001u32).map(|i| (i % 253) as u8).collect();
        for (algorithm, piece) in
            [("md5", 7_000), ("sha1", 300_000), ("sha256", 262_144), ("sha512", 3_000_001)]
        {
            let mut whole = Hasher::new(algorithm).unwrap();
            whole.update(&data);
            let mut hashing = Hashing::new(Hasher::new(algorithm).unwrap());
            for piece in data.chunks(piece) {
                assert!(hashing.feed(Bytes::copy_from_slice(piece)).await.is_ok());
            }
            assert_eq!(hashing.finish().await.ok(), Some(whole.finish()), "{algorithm}");
        }
    }

    #[test]
    fn a_line_is_always_one_file() {
        for (name, want) in [
            (&b"-"[..], &b"00ff  -\n"[..]),
            (b"/a b", b"00ff  /a b\n"),
            (b"/a\nb\\c", b"\\00ff  /a\\nb\\\\c\n"),
        ] {
            assert_eq!(line(&[0, 255], name), want);
        }
    }
}
