//! One SSH channel as the code that runs over it sees it: bytes in order, bytes out with back-pressure.
//!
//! This is the only file that names the library's channel types. The library's read half is dropped: it
//! delivers with a blocking send inside the connection's only task and would lock up with clients that
//! do not read while they write. What arrives goes through [`Handler::data`](russh::server::Handler)
//! into the channel's [`Inbox`](crate::inbox::Inbox).
//!
//! Every send is raced against the channel's token, because the library does not wake a sender that
//! waits for window when the channel or the connection dies.

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio_util::sync::CancellationToken;

use crate::inbox::Inbox;
use std::sync::Arc;

/// The channel or its connection has ended; nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub(crate) struct Closed;

/// The end of a channel that a worker holds.
pub(crate) struct Channel {
    out: ChannelWriteHalf<Msg>,
    inbox: Arc<Inbox>,
    ended: CancellationToken,
}

impl Channel {
    pub(crate) fn new(out: ChannelWriteHalf<Msg>, inbox: Arc<Inbox>, ended: CancellationToken) -> Self {
        Self { out, inbox, ended }
    }

    /// What the client sent.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Fires when the channel, the connection or the session has ended.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Sends data; waits until the client's window and the connection's queue have room.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Closed> {
        // While this waits, requests must still be taken from the socket: the client's window
        // adjustment, which ends the wait, is behind them.
        let _sending = self.inbox.sending();
        self.race(self.out.data_bytes(data)).await
    }

    /// Tells how it ended, then that nothing more comes, then closes.
    pub(crate) async fn exit(&self, status: u32) -> Result<(), Closed> {
        self.race(self.out.exit_status(status)).await?;
        self.race(self.out.eof()).await?;
        self.race(self.out.close()).await
    }

    async fn race(&self, send: impl Future<Output = Result<(), russh::Error>>) -> Result<(), Closed> {
        tokio::select! {
            biased;
            sent = send => sent.map_err(|_| Closed),
            () = self.ended.cancelled() => Err(Closed),
        }
    }
}
