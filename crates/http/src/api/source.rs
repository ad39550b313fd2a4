//! A dump wherever it is, in a file or in the body of a request: looked at as a whole, and read in parts by who
//! restores it, so that one of any size takes little memory.
//!
//! What comes from elsewhere may have [`MAX_DUMP_BYTES`]; a file in the directory of backups, which this server
//! wrote or its administrator put there, may be of any size.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};

use aws_lc_rs::digest::{Context, SHA256};
use tidegate_core::UserDraft;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::dump::{self, Unusable};

/// Largest dump that is read from elsewhere (`spec/rest-api.md` §4, loaddata).
pub(crate) const MAX_DUMP_BYTES: usize = 10 << 20;

/// Most users in one of those. A valid user takes about a hundred bytes, so a dump of the largest size has no
/// more; one made of `{}` would keep the server busy for nothing.
pub(crate) const MAX_USERS: usize = 100_000;

/// Users that are handed over at a time.
const BATCH: usize = 200;

/// Batches that wait for who takes them.
const AHEAD: usize = 2;

/// How much of a file is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// A dump that can be read, from its beginning each time.
#[derive(Debug)]
pub(crate) struct Source {
    content: Content,
    max_users: usize,
}

#[derive(Debug)]
enum Content {
    Text(Vec<u8>),
    /// A file, of which so many bytes are read.
    File(File, u64),
}

/// A dump that is one.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) source: Source,
    /// How many users it has.
    pub(crate) count: usize,
    /// SHA-256 of all its bytes.
    pub(crate) digest: String,
}

impl Source {
    /// A dump that came over the network.
    pub(crate) fn text(text: Vec<u8>) -> Self {
        Self { content: Content::Text(text), max_users: MAX_USERS }
    }

    /// A file from anywhere.
    pub(crate) fn foreign_file(file: File) -> Self {
        Self { content: Content::File(file, MAX_DUMP_BYTES as u64), max_users: MAX_USERS }
    }

    /// A file in the directory of backups.
    pub(crate) fn own_file(file: File) -> Self {
        Self { content: Content::File(file, u64::MAX), max_users: usize::MAX }
    }

    /// Reads all of it, and keeps nothing but what it has.
    ///
    /// # Errors
    /// What is wrong with it; then it must not be restored.
    pub(crate) async fn look(mut self) -> Result<Looked, Unusable> {
        let look = move || {
            let (mut count, mut hash) = (0, Context::new(&SHA256));
            self.read(Some(&mut hash), &mut |_| {
                count += 1;
                true
            })?;
            let digest = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Looked { source: self, count, digest })
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| Err(ended()))
    }

    /// Its users in batches. The task ends when all are taken or nobody takes them any more, and tells whether the
    /// dump was one to its end.
    pub(crate) fn users(mut self) -> (mpsc::Receiver<Vec<UserDraft>>, JoinHandle<Result<(), Unusable>>) {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let task = tokio::task::spawn_blocking(move || {
            let mut batch = Vec::with_capacity(BATCH);
            let read = self.read(None, &mut |user| {
                batch.push(user);
                batch.len() < BATCH || sender.blocking_send(std::mem::take(&mut batch)).is_ok()
            });
            // Nobody wants the rest if this fails.
            let _taken = sender.blocking_send(batch);
            read
        });
        (receiver, task)
    }

    fn read(
        &mut self,
        hash: Option<&mut Context>,
        each: &mut dyn FnMut(UserDraft) -> bool,
    ) -> Result<(), Unusable> {
        match &mut self.content {
            Content::Text(text) => dump::read(Hashed { inner: &text[..], hash }, self.max_users, each),
            Content::File(file, limit) => {
                file.rewind().map_err(Unusable::Io)?;
                let file = BufReader::with_capacity(BUFFER_BYTES, file.take(*limit));
                dump::read(Hashed { inner: file, hash }, self.max_users, each)
            }
        }
    }
}

/// The task that read it has come to a sudden end.
pub(crate) fn ended() -> Unusable {
    Unusable::Io(io::Error::other("it was not read to its end"))
}

/// Digests what is read.
struct Hashed<'a, R> {
    inner: R,
    hash: Option<&'a mut Context>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        if let (Some(hash), Some(read)) = (&mut self.hash, buf.get(..count)) {
            hash.update(read);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn dump_of(count: usize) -> String {
        let users: Vec<_> = (0..count).map(|number| format!(r#"{{"username":"user{number}"}}"#)).collect();
        format!("{{\"users\":[{}]}}\n", users.join(","))
    }

    fn file_of(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[tokio::test]
    async fn all_users_come_in_order_whatever_the_number() {
        for count in [0, 1, BATCH, BATCH + 1, 5 * BATCH] {
            let text = dump_of(count);
            for source in [Source::text(text.clone().into()), Source::own_file(file_of(&text))] {
                let looked = source.look().await.unwrap();
                assert_eq!((looked.count, looked.digest.len()), (count, 64));
                let (mut batches, task) = looked.source.users();
                let mut seen = 0;
                while let Some(batch) = batches.recv().await {
                    for user in batch {
                        assert_eq!(user.username, format!("user{seen}"));
                        seen += 1;
                    }
                }
                assert_eq!(seen, count);
                task.await.unwrap().unwrap();
            }
        }
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_whole_file() {
        let digest = async |text: &str| Source::own_file(file_of(text)).look().await.unwrap().digest;
        let text = dump_of(3);
        let expected: String = aws_lc_rs::digest::digest(&SHA256, text.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest(&text).await, expected);
        assert_ne!(digest(&format!("{text}\n")).await, expected, "what is behind it counts");
    }

    #[tokio::test]
    async fn who_takes_no_more_ends_the_reading() {
        let (mut batches, task) = Source::text(dump_of(50 * BATCH).into()).users();
        assert_eq!(batches.recv().await.unwrap().len(), BATCH);
        drop(batches);
        assert!(task.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_dump_from_elsewhere_has_limits_and_a_backup_has_none() {
        let many = format!(r#"{{"users":[{}{{}}]}}"#, "{},".repeat(MAX_USERS));
        let bad = Source::foreign_file(file_of(&many)).look().await.unwrap_err();
        assert!(matches!(bad, Unusable::Bad(bad) if bad.detail.contains("more than 100000 users")));
        assert_eq!(Source::own_file(file_of(&many)).look().await.unwrap().count, MAX_USERS + 1);
        let long = format!(r#"{{"users":[],"x":"{}"}}"#, "x".repeat(MAX_DUMP_BYTES));
        assert!(Source::foreign_file(file_of(&long)).look().await.is_err());
        assert_eq!(Source::own_file(file_of(&long)).look().await.unwrap().count, 0);
    }
}
