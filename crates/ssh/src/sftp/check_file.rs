//! `check-file-name` and `check-file-handle` (filexfer-extensions-00 §3): digests of a file or its blocks.

use bytes::Bytes;
use tidegate_core::{Inspection, UserFs};
use tidegate_sftp_wire::ExtendedReply;
use tidegate_vfs::FsError;

use super::engine::Reply;
use crate::hasher::Hasher;

/// Read at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// The draft's least block size.
const MIN_BLOCK_BYTES: u32 = 256;

/// The reply must fit into a packet that every client takes.
const MAX_HASHES_BYTES: usize = 32_000;

/// Digests `length` bytes (all that follow for 0) from `offset`, in blocks of `block_size` (one for 0),
/// with the first algorithm of the client's list that is known.
pub(super) async fn reply(
    fs: &UserFs,
    source: &Inspection,
    algorithms: &[u8],
    mut offset: u64,
    length: u64,
    block_size: u32,
) -> Result<Reply, FsError> {
    if block_size != 0 && block_size < MIN_BLOCK_BYTES {
        return Err(FsError::InvalidInput("block size below 256"));
    }
    let names = std::str::from_utf8(algorithms).map_err(|_| FsError::InvalidInput("algorithm names"))?;
    let name = names
        .split(',')
        .find(|name| Hasher::new(name).is_some())
        .ok_or(FsError::InvalidInput("none of the algorithms is known"))?;
    let mut left = if length == 0 { u64::MAX } else { length };
    let mut hashes = Vec::new();
    let per_hash = if block_size == 0 { u64::MAX } else { u64::from(block_size) };
    loop {
        let mut hasher = Hasher::new(name).ok_or(FsError::Unsupported)?;
        let mut in_block = per_hash.min(left);
        let before = left;
        let mut at_end = false;
        while in_block > 0 {
            if fs.session().cancelled().is_cancelled() {
                return Err(FsError::Cancelled);
            }
            let room = usize::try_from(in_block).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            let block = source.read_at(offset, fs.session().buffers().take(room)).await?;
            if block.is_empty() {
                at_end = true;
                break;
            }
            // Hashing 256 KiB takes about as long as one packet's cipher; other tasks go on in between.
            hasher.update(block.filled());
            tokio::task::yield_now().await;
            let count = block.len() as u64;
            (offset, left, in_block) = (offset + count, left - count, in_block - count);
        }
        if before > left || hashes.is_empty() {
            hashes.extend_from_slice(&hasher.finish());
        }
        if hashes.len() > MAX_HASHES_BYTES {
            return Err(FsError::InvalidInput("too many blocks for one reply"));
        }
        if at_end || left == 0 {
            break;
        }
    }
    let algorithm = Bytes::copy_from_slice(name.as_bytes());
    Ok(Reply::Extended(ExtendedReply::CheckFile { algorithm, hashes: hashes.into() }))
}
