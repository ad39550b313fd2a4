//! The SSH library's callbacks for one connection: authentication and channel requests, nothing else.
//!
//! A callback runs in the connection's only task. It answers inside itself (the library keeps one
//! `wants_reply` flag per channel) and never waits for the client.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use russh::keys::ssh_key::Signature;
use russh::keys::{Algorithm, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Response, Session as RusshSession,
    VerifiedPublicKey,
};
use russh::{
    Channel as RusshChannel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Disconnect, MethodKind,
    MethodSet, Pty,
};
use tidegate_core::{Attempt, Authenticator, LoginMethod, Peer, Session, SignedKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::algorithms::is_accepted_signature;
use crate::channel::{Arrivals, Channel};
use crate::command::git::is_protocol;
use crate::command::{self, Commands};
use crate::inbox::Inbox;
use crate::limits::{HalfOpen, Open};
use crate::sftp::{self, SftpSettings};
use crate::socket::SocketControl;
use crate::stream::StreamInbox;
use crate::window::{Backlog, RoundTrip, Window};

/// Channels that one connection may open in its life: the library keeps a little for each.
const MAX_CHANNELS_EVER: u32 = 100_000;

/// Keys whose evaluation is remembered, so that a query and its signed request count once.
const REMEMBERED_KEYS: usize = 16;

/// How long a refused password takes at least; it slows guessing on one connection.
const REFUSAL_DELAY: Duration = Duration::from_millis(500);

/// For the log: what the client offered to sign with.
const REFUSED_ALGORITHM: &str = "signatures with SHA-1 or DSA are not accepted";

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) authenticator: Authenticator,
    pub(crate) sftp: SftpSettings,
    pub(crate) commands: Commands,
    pub(crate) max_channels: usize,
    pub(crate) max_auth_tries: Option<u32>,
    pub(crate) login_banner: Option<String>,
    pub(crate) workers: TaskTracker,
}

/// What the connection's task and its handler share.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) control: SocketControl,
    /// Fires when the connection has ended, for whatever reason.
    pub(crate) ended: CancellationToken,
    pub(crate) session: OnceLock<Session>,
    /// Fires once `session` is there.
    pub(crate) logged_in: CancellationToken,
    /// Where a disconnect is asked for; known once the library's task runs.
    pub(crate) handle: OnceLock<Handle>,
    pub(crate) place: Mutex<Option<Place>>,
    pub(crate) failures: AtomicU32,
}

/// The connection's place among those that are limited.
pub(crate) enum Place {
    BeforeLogin(HalfOpen),
    LoggedIn { _counted: Open },
}

impl Connection {
    fn log_in(&self, session: Session) {
        self.control.authenticated();
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = match place.take() {
            Some(Place::BeforeLogin(half)) => Some(Place::LoggedIn { _counted: half.authenticated() }),
            other => other,
        };
        // A connection logs in once; the library refuses further requests.
        let _ = self.session.set(session);
        self.logged_in.cancel();
    }
}

/// The callbacks of one connection.
pub(crate) struct ConnectionHandler {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    backlog: Arc<Backlog>,
    round_trip: RoundTrip,
    channels: HashMap<ChannelId, ChannelState>,
    opened: u32,
    keys: HashMap<(String, Vec<u8>), bool>,
    /// Requests without a method, which the first time is the client's probe for methods.
    probes: u32,
    /// A key was accepted whose signature has not been verified since.
    unproven: Option<String>,
}

struct ChannelState {
    /// Taken by the worker once a subsystem or command starts.
    out: Option<ChannelWriteHalf<Msg>>,
    arrivals: Option<Arrivals>,
    ended: CancellationToken,
    /// Fires with `ended`, or earlier when the client takes no more.
    deaf: CancellationToken,
    /// Fires when nothing runs on the channel any more; until then it counts.
    idle: CancellationToken,
    /// The protocol that a client of git asks for.
    git_protocol: Option<String>,
}

/// What a worker takes from its channel.
struct Claimed {
    session: Session,
    out: ChannelWriteHalf<Msg>,
    ended: CancellationToken,
    deaf: CancellationToken,
}

impl Drop for ConnectionHandler {
    fn drop(&mut self) {
        // The library's task is gone: nobody will wake a worker that waits for window, and whatever else
        // the session does is for nobody.
        self.connection.ended.cancel();
        if let Some(session) = self.connection.session.get() {
            session.cancelled().cancel();
        }
    }
}

impl ConnectionHandler {
    pub(crate) fn new(shared: Arc<Shared>, connection: Arc<Connection>) -> Self {
        let backlog = Arc::new(Backlog::new(shared.max_channels));
        let (channels, keys) = (HashMap::new(), HashMap::new());
        Self {
            shared,
            connection,
            backlog,
            round_trip: RoundTrip::default(),
            channels,
            opened: 0,
            keys,
            probes: 0,
            unproven: None,
        }
    }

    fn attempt(&self, user: &str) -> Attempt {
        Attempt { username: user.to_owned(), peer: self.connection.peer.clone() }
    }

    /// Counts a failure and, if it was one too many, asks for the disconnect that the client shall see.
    fn refuse(&self) -> Auth {
        let failures = self.connection.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shared.max_auth_tries.is_some_and(|most| failures >= most)
            && let Some(handle) = self.connection.handle.get().cloned()
        {
            let (control, ended) = (self.connection.control.clone(), self.connection.ended.clone());
            self.shared.workers.spawn(async move {
                let text = "too many authentication failures".to_owned();
                let told = handle.disconnect(Disconnect::ProtocolError, text, String::new());
                // The connection's task may be gone or stuck; the socket ends either way.
                let _ = tokio::time::timeout(Duration::from_secs(2), told).await;
                let _ = tokio::time::timeout(Duration::from_secs(2), ended.cancelled()).await;
                control.kill();
            });
        }
        rejected()
    }

    /// Refuses what never reaches the authenticator, so that it is logged and counted all the same.
    fn refuse_key(&self, user: &str, why: &'static str) -> Auth {
        let attempt = self.attempt(user);
        self.shared.authenticator.refuse(&attempt, LoginMethod::PublicKey, why);
        self.refuse()
    }

    /// The library does not tell of a signature that is wrong. It shows when the next request comes.
    fn note_unproven(&mut self) {
        if let Some(user) = self.unproven.take() {
            self.refuse_key(&user, "the signature was missing or wrong");
        }
    }

    async fn key_is_known(&mut self, user: &str, key: &PublicKey) -> bool {
        let Ok(blob) = key.to_bytes() else { return false };
        let remembered = (user.to_owned(), blob);
        if let Some(known) = self.keys.get(&remembered) {
            return *known;
        }
        let known = self.shared.authenticator.knows_key(&self.attempt(user), &remembered.1).await;
        if self.keys.len() < REMEMBERED_KEYS {
            self.keys.insert(remembered, known);
        }
        known
    }

    /// Hands the channel to a worker that speaks SFTP.
    fn start_sftp(&mut self, id: ChannelId, library: &RusshSession) -> bool {
        let inbox = Arc::new(Inbox::new(self.window(id, library)));
        let Some(claimed) = self.claim(id, Arrivals::Packets(Arc::clone(&inbox))) else { return false };
        let channel = Channel::new(claimed.out, inbox, claimed.ended, claimed.deaf);
        let shared = Arc::clone(&self.shared);
        self.spawn_worker(id, async move { sftp::serve(&channel, &claimed.session, &shared.sftp).await });
        true
    }

    /// Hands the channel to a worker that runs a command, if it is one that is enabled.
    fn start_command(&mut self, id: ChannelId, line: &[u8], library: &RusshSession) -> bool {
        let job = match self.shared.commands.parse(line) {
            Ok(job) => job,
            Err(error) => {
                let connection_id = &*self.connection.peer.connection_id;
                debug!(connection_id, "exec request of {} bytes refused: {error}", line.len());
                return false;
            }
        };
        let inbox = Arc::new(StreamInbox::new(self.window(id, library)));
        let Some(claimed) = self.claim(id, Arrivals::Stream(Arc::clone(&inbox))) else { return false };
        let channel = Channel::new(claimed.out, inbox, claimed.ended, claimed.deaf);
        let git_protocol = self.channels.get_mut(&id).and_then(|state| state.git_protocol.take());
        let shared = Arc::clone(&self.shared);
        self.spawn_worker(id, async move {
            let protocol = git_protocol.as_deref();
            command::serve(&channel, &claimed.session, &shared.commands, job, protocol).await;
        });
        true
    }

    /// The client has taken a step that may tell how long the line is.
    fn asked(&mut self) {
        if let Some(round_trip) = self.round_trip.asked() {
            self.backlog.over(round_trip);
        }
    }

    /// The window of a channel on which nothing was sent yet.
    fn window(&self, id: ChannelId, library: &RusshSession) -> Window {
        let handle = library.handle();
        // An error means that the connection is gone.
        Window::new(Arc::clone(&self.backlog), move |bytes| {
            let _ = handle.grant_window(id, bytes);
        })
    }

    /// Takes what a worker needs from a channel on which nothing runs yet.
    fn claim(&mut self, id: ChannelId, arrivals: Arrivals) -> Option<Claimed> {
        let session = self.connection.session.get().cloned()?;
        let state = self.channels.get_mut(&id)?;
        let out = state.out.take()?;
        state.arrivals = Some(arrivals);
        Some(Claimed { session, out, ended: state.ended.clone(), deaf: state.deaf.clone() })
    }

    fn spawn_worker(&self, id: ChannelId, work: impl Future<Output = ()> + Send + 'static) {
        let Some(ChannelState { arrivals: Some(arrivals), ended, idle, .. }) = self.channels.get(&id) else {
            return;
        };
        let (arrivals, ended, idle) = (arrivals.clone(), ended.clone(), idle.clone().drop_guard());
        let events = self.shared.authenticator.events().clone();
        let control = self.connection.control.clone();
        self.shared.workers.spawn(async move {
            let _idle = idle;
            // A defect in the worker ends this connection, and no other.
            if tokio::spawn(work).await.is_err() {
                events.metrics().panicked();
                control.kill();
            }
            arrivals.close();
            ended.cancel();
        });
    }

    fn cut_off(&self, why: &dyn std::fmt::Display) -> russh::Error {
        let peer = &self.connection.peer;
        warn!(connection_id = &*peer.connection_id, "connection from {} is cut off: {why}", peer.addr);
        self.connection.control.kill();
        russh::Error::Disconnect
    }
}

/// Both methods stay on offer; a plain refusal would take one away.
fn rejected() -> Auth {
    Auth::Reject { proceed_with_methods: Some(methods()), partial_success: false }
}

/// The methods on offer, in the order of failure replies.
pub(crate) fn methods() -> MethodSet {
    MethodSet::from([MethodKind::Password, MethodKind::PublicKey].as_slice())
}

/// Whether the signature of a security key says that its owner was there: it ends with flags and a counter
/// (OpenSSH's PROTOCOL.u2f), which are signed with the rest.
fn was_touched(signature: &Signature) -> bool {
    const USER_PRESENCE: u8 = 0x01;
    let is_of_security_key =
        matches!(signature.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256);
    let trailer = signature.as_bytes().last_chunk::<5>();
    is_of_security_key && trailer.is_some_and(|[flags, ..]| flags & USER_PRESENCE != 0)
}

/// Gives the client back the window of what was thrown away.
fn grant(library: &mut RusshSession, id: ChannelId, bytes: usize) -> Result<(), russh::Error> {
    library.grant_window(id, u32::try_from(bytes).unwrap_or(u32::MAX))
}

impl Handler for ConnectionHandler {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        self.note_unproven();
        self.probes += 1;
        // The first is the probe for methods that every client sends: not an attempt.
        if self.probes == 1 { Ok(rejected()) } else { Ok(self.refuse()) }
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.note_unproven();
        let earliest = tokio::time::Instant::now() + REFUSAL_DELAY;
        match self.shared.authenticator.password(&self.attempt(user), password).await {
            Ok(session) => {
                self.connection.log_in(session);
                Ok(Auth::Accept)
            }
            Err(_) => {
                tokio::time::sleep_until(earliest).await;
                Ok(self.refuse())
            }
        }
    }

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.note_unproven();
        if !is_accepted_signature(offer.algorithm) {
            return Ok(self.refuse_key(user, REFUSED_ALGORITHM));
        }
        if self.key_is_known(user, offer.public_key).await {
            self.unproven = Some(user.to_owned());
            Ok(Auth::Accept)
        } else {
            Ok(self.refuse())
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.unproven = None;
        if !is_accepted_signature(key.algorithm) {
            return Ok(self.refuse_key(user, REFUSED_ALGORITHM));
        }
        let Ok(blob) = key.public_key.to_bytes() else { return Ok(self.refuse()) };
        let signed = SignedKey { blob: &blob, touched: was_touched(key.signature) };
        match self.shared.authenticator.public_key(&self.attempt(user), signed).await {
            Ok(session) => {
                self.connection.log_in(session);
                Ok(Auth::Accept)
            }
            Err(_) => Ok(self.refuse()),
        }
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        _response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.note_unproven();
        Ok(self.refuse())
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(self.shared.login_banner.clone())
    }

    async fn auth_succeeded(&mut self, library: &mut RusshSession) -> Result<(), Self::Error> {
        if let Some(session) = self.connection.session.get() {
            session.set_client_version(String::from_utf8_lossy(library.remote_sshid()).into_owned());
        }
        self.round_trip.answered();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: RusshChannel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        self.asked();
        self.opened += 1;
        // A channel counts until its worker has ended, so that closing one early makes no room for another.
        self.channels.retain(|_, state| !(state.ended.is_cancelled() && state.idle.is_cancelled()));
        if self.channels.len() >= self.shared.max_channels || self.opened > MAX_CHANNELS_EVER {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        // The read half is dropped on purpose: see `channel.rs`.
        let (_, out) = channel.split();
        let (ended, idle) = (self.connection.ended.child_token(), CancellationToken::new());
        let id = out.id();
        let deaf = ended.child_token();
        let state = ChannelState { out: Some(out), arrivals: None, ended, deaf, idle, git_protocol: None };
        self.channels.insert(id, state);
        reply.accept().await;
        self.round_trip.answered();
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _channel: RusshChannel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::UnknownChannelType).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _channel: RusshChannel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::UnknownChannelType).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: RusshChannel<Msg>,
        _socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::UnknownChannelType).await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut RusshSession) -> Result<(), Self::Error> {
        if let Some(state) = self.channels.get(&id) {
            state.ended.cancel();
            if state.out.is_some() {
                // Nothing ever ran on it.
                state.idle.cancel();
            }
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut RusshSession) -> Result<(), Self::Error> {
        if let Some(ChannelState { arrivals: Some(arrivals), .. }) = self.channels.get(&id) {
            arrivals.finish();
        }
        Ok(())
    }

    async fn channel_eow(&mut self, id: ChannelId, _session: &mut RusshSession) -> Result<(), Self::Error> {
        if let Some(state) = self.channels.get(&id) {
            state.deaf.cancel();
        }
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        match self.channels.get(&id) {
            Some(ChannelState { arrivals: Some(arrivals), .. }) => {
                arrivals.push(data).map_err(|error| self.cut_off(&error))
            }
            // Data before a subsystem or command has nobody to go to.
            _ => grant(session, id, data.len()),
        }
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        _code: u32,
        data: &[u8],
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        grant(session, id, data.len())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        self.asked();
        if name == "sftp" && self.start_sftp(id, session) {
            session.channel_success(id)
        } else {
            session.channel_failure(id)
        }
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        self.asked();
        if self.start_command(id, data, session) {
            session.channel_success(id)
        } else {
            session.channel_failure(id)
        }
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut RusshSession) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single_connection: bool,
        _x11_auth_protocol: &str,
        _x11_auth_cookie: &str,
        _x11_screen_number: u32,
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        self.asked();
        match self.channels.get_mut(&id) {
            Some(state) if name == "GIT_PROTOCOL" && is_protocol(value) => {
                state.git_protocol = Some(value.to_owned());
                session.channel_success(id)
            }
            _ => session.channel_failure(id),
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        session: &mut RusshSession,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }
}
