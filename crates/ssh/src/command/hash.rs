//! `md5sum` to `sha512sum`: the digest of a file or of what the client sends, printed as coreutils print it.
//!
//! Reading and hashing run at the same time: while one batch is hashed on a thread that may be busy for long,
//! the next one is read. What is under way is at most two batches.

use bytes::Bytes;
use tidegate_core::{Perms, Protocol, Session};
use tidegate_vfs::{FsError, VPath};
use tokio::task::{JoinHandle, spawn_blocking};

use super::End;
use crate::channel::Channel;
use crate::hasher::Hasher;
use crate::stream::StreamInbox;

/// Read at a time.
const BLOCK_BYTES: usize = 256 << 10;

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
    algorithm: &'static str,
    path: Option<&[u8]>,
    needs: Perms,
) -> Result<(), End> {
    let hashing = Hashing::new(Hasher::new(algorithm).ok_or(FsError::Unsupported)?);
    let line = match path {
        None | Some(b"-") => line(&of_stdin(channel, hashing).await?, b"-"),
        Some(path) => {
            let path = VPath::parse(path)?;
            line(&of_file(channel, session, &path, needs, hashing).await?, path.as_bytes())
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
    path: &VPath,
    needs: Perms,
    mut hashing: Hashing,
) -> Result<Vec<u8>, End> {
    let source = session.files(Protocol::Ssh).inspect_with(path, needs).await?;
    let mut offset = 0;
    loop {
        if channel.ended().is_cancelled() || session.cancelled().is_cancelled() {
            return Err(End::Closed);
        }
        let block = source.read_at(offset, session.buffers().take(BLOCK_BYTES)).await?;
        if block.is_empty() {
            return hashing.finish().await;
        }
        offset += block.len() as u64;
        hashing.feed(block.freeze()).await?;
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
            Some(State::Busy(batch)) => match batch.await {
                Ok(hasher) => Ok(hasher),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime stops.
                Err(_) => Err(End::Closed),
            },
            None => Err(End::Closed),
        }
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
