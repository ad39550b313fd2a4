//! The bytes of an `scp` conversation: lines, answers and runs of data in, answers and messages out.
//!
//! ```text
//! \0                  yes, go on
//! \1scp: <text>\n     this one failed, go on with the next
//! \2scp: <text>\n     the end
//! ```

use bytes::{Buf, Bytes};

use super::control::MAX_LINE_BYTES;
use crate::channel::{Channel, Closed};
use crate::command::{End, printable};
use crate::stream::StreamInbox;

/// What the other end says to a record or to the end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Go on.
    Yes,
    /// This file or directory not; go on with the next.
    No,
}

/// Both directions of the conversation, and whether anything went wrong so far.
pub(super) struct Wire<'a> {
    channel: &'a Channel<StreamInbox>,
    unread: Bytes,
    errors: bool,
}

impl<'a> Wire<'a> {
    pub(super) fn new(channel: &'a Channel<StreamInbox>) -> Self {
        Self { channel, unread: Bytes::new(), errors: false }
    }

    /// Whether either end reported an error: the exit status is 1 then.
    pub(super) fn had_errors(&self) -> bool {
        self.errors
    }

    /// Whether the conversation is over, for work that goes on without talking.
    pub(super) fn is_over(&self) -> bool {
        self.channel.ended().is_cancelled()
    }

    /// The next byte; `None` if the client sends nothing more.
    pub(super) async fn byte(&mut self) -> Result<Option<u8>, Closed> {
        if self.unread.is_empty() {
            match self.channel.recv(MAX_LINE_BYTES).await? {
                Some(bytes) => self.unread = bytes,
                None => return Ok(None),
            }
        }
        Ok(self.unread.try_get_u8().ok())
    }

    /// The rest of a line that begins with `first`, without its line end. Ends the conversation if the line
    /// is too long or does not end.
    pub(super) async fn line(&mut self, first: Option<u8>) -> Result<Vec<u8>, End> {
        let mut line: Vec<u8> = first.into_iter().collect();
        loop {
            match self.byte().await? {
                Some(b'\n') => return Ok(line),
                Some(_) if line.len() >= MAX_LINE_BYTES => return self.fatal("line too long").await,
                Some(byte) => line.push(byte),
                None => return Err(End::Told),
            }
        }
    }

    /// Data that is written at once: what is there up to `most` bytes, as soon as it is worth writing. Empty if
    /// the client sends nothing more.
    pub(super) async fn run(&mut self, most: usize) -> Result<Vec<Bytes>, Closed> {
        let first = self.unread.split_to(self.unread.len().min(most));
        if first.len() == most {
            return Ok(vec![first]);
        }
        let mut run = self.channel.recv_run(most - first.len()).await?;
        if !first.is_empty() {
            run.insert(0, first);
        }
        Ok(run)
    }

    /// Sends data of a file.
    pub(super) async fn send(&self, data: Bytes) -> Result<(), Closed> {
        self.channel.send(data).await
    }

    /// Sends a record and waits for the answer.
    pub(super) async fn ask(&mut self, record: Vec<u8>) -> Result<Answer, End> {
        self.channel.send(record.into()).await?;
        self.answer().await
    }

    /// Waits for an answer.
    pub(super) async fn answer(&mut self) -> Result<Answer, End> {
        match self.byte().await? {
            Some(0) => Ok(Answer::Yes),
            Some(1) => {
                self.errors = true;
                self.line(None).await?;
                Ok(Answer::No)
            }
            // The client is finished with us, or it speaks another protocol: more bytes than it announced, for
            // example, end up here.
            Some(2) | None => Err(End::Told),
            Some(_) => self.fatal("unexpected answer").await,
        }
    }

    /// Yes, go on.
    pub(super) async fn yes(&self) -> Result<(), Closed> {
        self.channel.send(Bytes::from_static(b"\0")).await
    }

    /// Tells that one file or directory failed.
    pub(super) async fn warn(&mut self, what: &[u8], why: &str) -> Result<(), Closed> {
        self.errors = true;
        let text = format!("\x01scp: {}: {why}\n", printable(what));
        self.channel.send(text.into()).await
    }

    /// Notes an error that the client knows of already.
    pub(super) fn note_error(&mut self) {
        self.errors = true;
    }

    /// Ends the conversation with a message.
    pub(super) async fn fatal<T>(&mut self, why: &str) -> Result<T, End> {
        self.channel.send(format!("\x02scp: protocol error: {why}\n").into()).await?;
        Err(End::Told)
    }
}
