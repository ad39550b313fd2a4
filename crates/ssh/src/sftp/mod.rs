//! The SFTP subsystem (filexfer-02): the pump between a channel and the engine.
//!
//! # Flow control
//!
//! One worker per channel takes requests from the inbox, in order, and handles one at a time; so the
//! order that the draft demands (§6.1) holds by construction. Small replies are collected while further
//! requests wait and sent together; a reply with file data is sent before the next request is taken, so
//! at most one is unsent. When the client stops reading, the worker stops, and what it may still send is
//! bounded by the inbox. No channel ever waits for another.

mod check_file;
mod engine;
mod extended;
mod handles;
pub(crate) mod longname;
mod status;

use std::collections::HashSet;

use bytes::BytesMut;
use tidegate_core::{Protocol, Session};
use tracing::{debug, info};

use crate::channel::{Channel, Closed};
use engine::{Engine, EngineError};

/// Small replies are sent once they fill so much, in bytes.
const REPLIES_BYTES: usize = 32 * 1024;

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
    let mut engine = Engine::new(session.files(Protocol::Sftp), channel.inbox(), settings);
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
        Err(End::Closed) => debug!(connection_id = id, "SFTP channel closed"),
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
        match engine.handle(item, &mut replies).await {
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

async fn flush(channel: &Channel, replies: &mut BytesMut) -> Result<(), Closed> {
    if replies.is_empty() {
        return Ok(());
    }
    channel.send(replies.split().freeze()).await
}
