//! The SFTP subsystem (filexfer-02): the pump between a channel and the engine.
//!
//! # Flow control
//!
//! One worker per channel takes requests from the inbox, in order, and handles one at a time; so the
//! order that the draft demands (§6.1) holds by construction. Small replies are collected while further
//! requests wait, for 10 ms at most, and sent together; a reply with file data is sent before the next request is taken, so
//! at most one is unsent. When the client stops reading, the worker stops, and what it may still send is
//! bounded by the inbox. No channel ever waits for another.

mod check_file;
mod engine;
mod extended;
mod handles;
pub(crate) mod longname;
mod status;

use std::collections::HashSet;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::BytesMut;
use tidegate_core::{Protocol, Session};
use tracing::{debug, info};

use crate::channel::{Channel, Closed};
use engine::{Engine, EngineError};

/// Small replies are sent once they fill so much, in bytes.
const REPLIES_BYTES: usize = 32 * 1024;

/// How long replies may wait for the next request to be handled.
const REPLY_PATIENCE: Duration = Duration::from_millis(10);

/// What the configuration says about SFTP.
#[derive(Debug, Clone, Default)]
pub(crate) struct SftpSettings {
    /// Files and directories that one channel may have open.
    pub(crate) max_open_handles: usize,
    /// Extensions that are neither announced nor answered.
    pub(crate) disabled: HashSet<String>,
}

/// Serves SFTP on `channel` until the client or the session ends.
pub(crate) async fn serve(channel: &Channel, session: &Session, settings: &SftpSettings) {
    let _running = session.begin(Protocol::Sftp, String::new());
    let files = session.files(Protocol::Sftp).until(channel.ended());
    let mut engine = Engine::new(files, channel.inbox(), settings);
    let id = &*session.peer().connection_id;
    let ended = pump(channel, &mut engine).await;
    // Whatever is still open was not closed by the client: by the rules of the upload mode, it failed.
    engine.abort_all().await;
    match ended {
        Ok(()) => {
            debug!(connection_id = id, "SFTP channel ended by the client");
            // The client may be gone already.
            let _ = channel.exit(0).await;
        }
        Err(End::Closed) => {
            debug!(connection_id = id, "SFTP channel closed");
            // Perhaps the client only takes no more.
            let _ = channel.exit(1).await;
        }
        Err(End::Engine(error)) => {
            info!(connection_id = id, "SFTP channel ends: {error}");
            let _ = channel.exit(1).await;
        }
    }
}

enum End {
    Closed,
    Engine(EngineError),
}

impl From<Closed> for End {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

async fn pump(channel: &Channel, engine: &mut Engine<'_>) -> Result<(), End> {
    let mut replies = BytesMut::new();
    loop {
        let item = match channel.inbox().try_take() {
            Some(item) => item,
            None => {
                flush(channel, &mut replies).await?;
                // Nothing waits: give the memory back.
                replies = BytesMut::new();
                tokio::select! {
                    biased;
                    () = channel.ended().cancelled() => return Err(End::Closed),
                    item = channel.inbox().take() => match item {
                        Some(item) => item,
                        None => return Ok(()),
                    },
                }
            }
        };
        if channel.ended().is_cancelled() {
            return Err(End::Closed);
        }
        let mut reply = BytesMut::new();
        let handled = {
            let handling = pin!(engine.handle(item, &mut reply));
            handle_promptly(channel, &mut replies, handling).await?
        };
        if replies.is_empty() {
            replies = reply
        } else {
            replies.extend_from_slice(&reply)
        }
        match handled {
            Ok(None) if replies.len() < REPLIES_BYTES => {}
            Ok(None) => flush(channel, &mut replies).await?,
            Ok(Some(data)) => {
                flush(channel, &mut replies).await?;
                channel.send(data).await?;
            }
            Err(error) => {
                flush(channel, &mut replies).await?;
                return Err(End::Engine(error));
            }
        }
    }
}

/// Waits for a request to be handled. If that takes its time, replies to those before it are sent
/// meanwhile: a client must not wait for them because the disk or its bandwidth limit is slow.
async fn handle_promptly<T>(
    channel: &Channel,
    replies: &mut BytesMut,
    mut handling: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Closed> {
    if !replies.is_empty() {
        match tokio::time::timeout(REPLY_PATIENCE, &mut handling).await {
            Ok(handled) => return Ok(handled),
            Err(_) => flush(channel, replies).await?,
        }
    }
    Ok(handling.await)
}

async fn flush(channel: &Channel, replies: &mut BytesMut) -> Result<(), Closed> {
    if replies.is_empty() {
        return Ok(());
    }
    channel.send(replies.split().freeze()).await
}
