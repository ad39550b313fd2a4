//! One SSH channel as the code that runs over it sees it: bytes in order, bytes out with back-pressure.
//!
//! This is the only file that names the library's channel types. The library's read half is dropped: it
//! delivers with a blocking send inside the connection's only task and would lock up with clients that
//! do not read while they write. What arrives goes through [`Handler::data`](russh::server::Handler)
//! into the channel's [`Arrivals`]: packets for SFTP, a stream of bytes for commands.
//!
//! Every send is raced against a token, because the library does not wake a sender that waits for window when the
//! channel or the connection dies, or the client says that it takes no more (`eow@openssh.com`).

use std::sync::Arc;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio_util::sync::CancellationToken;

use crate::inbox::{Inbox, InboxError};
use crate::stream::StreamInbox;

/// `SSH_EXTENDED_DATA_STDERR` of RFC 4254 §5.2.
const STDERR: u32 = 1;

/// The channel or its connection has ended, or the client takes no more; nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub(crate) struct Closed;

/// Where the connection's task puts what a client sends on one channel.
#[derive(Clone)]
pub(crate) enum Arrivals {
    /// Packets of a subsystem.
    Packets(Arc<Inbox>),
    /// The standard input of a command.
    Stream(Arc<StreamInbox>),
}

impl Arrivals {
    /// Takes in what arrived; never waits.
    pub(crate) fn push(&self, data: &[u8]) -> Result<(), InboxError> {
        match self {
            Self::Packets(inbox) => inbox.push(data),
            Self::Stream(inbox) => inbox.push(data),
        }
    }

    /// The client sends nothing more.
    pub(crate) fn finish(&self) {
        match self {
            Self::Packets(inbox) => inbox.finish(),
            Self::Stream(inbox) => inbox.finish(),
        }
    }

    /// The worker has ended: nobody takes any more.
    pub(crate) fn close(&self) {
        match self {
            Self::Packets(inbox) => inbox.close(),
            Self::Stream(inbox) => inbox.close(),
        }
    }
}

/// The end of a channel that a worker holds; `I` is what its input arrives in.
pub(crate) struct Channel<I = Inbox> {
    out: ChannelWriteHalf<Msg>,
    inbox: Arc<I>,
    ended: CancellationToken,
    /// Fires with `ended`, or earlier when the client says that it takes no more data.
    deaf: CancellationToken,
}

impl Channel<StreamInbox> {
    /// The next bytes that the client sent, at most `most`; `None` once it sends nothing more.
    pub(crate) async fn recv(&self, most: usize) -> Result<Option<Bytes>, Closed> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(Closed),
            bytes = self.inbox.take(most) => Ok(bytes),
        }
    }

    /// Bytes that belong into one write, at most `most` and 512 KiB; empty once the client sends nothing more.
    pub(crate) async fn recv_run(&self, most: usize) -> Result<Vec<Bytes>, Closed> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(Closed),
            run = self.inbox.take_run(most) => Ok(run),
        }
    }
}

impl<I> Channel<I> {
    pub(crate) fn new(
        out: ChannelWriteHalf<Msg>,
        inbox: Arc<I>,
        ended: CancellationToken,
        deaf: CancellationToken,
    ) -> Self {
        Self { out, inbox, ended, deaf }
    }

    /// What the client sent.
    pub(crate) fn inbox(&self) -> &Arc<I> {
        &self.inbox
    }

    /// Fires when the channel, the connection or the session has ended.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Sends data; waits until the client's window and the connection's queue have room.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Closed> {
        race(&self.deaf, self.out.data_bytes(data)).await
    }

    /// Sends text for the client's standard error; waits like [`send`](Self::send).
    pub(crate) async fn stderr(&self, data: Bytes) -> Result<(), Closed> {
        race(&self.deaf, self.out.extended_data_bytes(STDERR, data)).await
    }

    /// Tells how it ended, then that nothing more comes, then closes; nothing if the channel has ended.
    pub(crate) async fn exit(&self, status: u32) -> Result<(), Closed> {
        race(&self.ended, self.out.exit_status(status)).await?;
        race(&self.ended, self.out.eof()).await?;
        race(&self.ended, self.out.close()).await
    }
}

/// A send that nobody waits for any more once `over` has fired.
async fn race(
    over: &CancellationToken,
    send: impl Future<Output = Result<(), russh::Error>>,
) -> Result<(), Closed> {
    if over.is_cancelled() {
        return Err(Closed);
    }
    tokio::select! {
        biased;
        sent = send => sent.map_err(|_| Closed),
        () = over.cancelled() => Err(Closed),
    }
}
