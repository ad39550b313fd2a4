//! The SSH transport and what runs over its channels.
//!
//! [`Server::bind`] listens, [`Bound::run`] accepts until it is told to stop. The accept loop is our own:
//! it limits connections before login, gives each a deadline and a task, and outlives every error. What a
//! client may do is decided in `tidegate-core`; here is only how it asks.

pub mod algorithms;
mod channel;
mod command;
pub mod config;
mod handler;
mod hasher;
pub mod host_keys;
mod inbox;
mod limits;
mod scp;
mod sftp;
pub mod shell_words;
mod socket;
mod stream;
mod window;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use russh::SshId;
use russh::server::Config;
use tidegate_core::{Authenticator, Event, HandshakeFailure, LoginType, Peer, Sessions};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

#[cfg(unix)]
pub use command::child::CONFINE_FAILURE;
pub use command::git::{GitRefused, GitRequest, Service as GitService};
pub use command::programs::Programs;

use command::Commands;
use handler::{Connection, ConnectionHandler, Place, Shared, methods};
use host_keys::HostKeys;
use limits::{ConnectionLimits, accept_loop};
use sftp::SftpSettings;
use socket::Socket;

/// Longest channel packet that we announce: fewer, larger packets are what makes uploads cheap.
const MAX_PACKET_BYTES: u32 = 200_000;

/// Messages between the workers of a connection and its task; bounds what is batched into one write.
const EVENT_BUFFER: usize = 16;

/// Grace for what ends by itself once all sessions were told to.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// The refusals that the library itself counts before it disconnects: ours plus probes for methods.
const EXTRA_REFUSALS: usize = 8;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nothing can listen there.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// An algorithm is not available.
    #[error("{0}")]
    Algorithm(#[from] algorithms::AlgorithmError),
    /// The identification line is not ASCII.
    #[error("sftpd.banner cannot be sent")]
    Banner,
}

/// What the server works with.
pub struct Parts {
    /// Decides who may come in.
    pub authenticator: Authenticator,
    /// Who is in.
    pub sessions: Sessions,
    /// The server's identity.
    pub host_keys: HostKeys,
    /// The programs that commands may start.
    pub programs: Programs,
}

/// The SSH server before it listens.
#[derive(Debug)]
pub struct Server;

/// The SSH server, listening.
pub struct Bound {
    listeners: Vec<TcpListener>,
    config: Arc<Config>,
    limits: ConnectionLimits,
    shared: Arc<Shared>,
    sessions: Sessions,
    login_grace_time: Duration,
    shutdown_grace_time: Duration,
}

impl Server {
    /// Checks the algorithms and listens on the configured address.
    ///
    /// # Errors
    ///
    /// [`BindError`], which names the option or the address.
    pub fn bind(settings: config::Settings, parts: Parts) -> Result<Bound, BindError> {
        let mut preferred =
            algorithms::preferred(&settings.kex_algorithms, &settings.ciphers, &settings.macs)?;
        algorithms::prefer_signatures(&mut preferred, &parts.host_keys.algorithms());
        let unlimited = Duration::from_secs(u64::from(u32::MAX));
        let rekey_bytes = usize::try_from(settings.rekey_bytes).unwrap_or(usize::MAX);
        let config = Config {
            server_id: SshId::Standard(settings.banner.clone().into()),
            methods: methods(),
            auth_rejection_time: Duration::ZERO,
            keys: parts.host_keys.keys,
            limits: russh::Limits {
                rekey_write_limit: rekey_bytes,
                rekey_read_limit: rekey_bytes,
                rekey_time_limit: settings.rekey_interval.unwrap_or(unlimited),
            },
            window_size: window::INITIAL_BYTES,
            manual_window: Some(window::most_bytes(settings.max_channels)),
            maximum_packet_size: MAX_PACKET_BYTES,
            channel_buffer_size: 1,
            event_buffer_size: EVENT_BUFFER,
            preferred,
            max_auth_attempts: settings.max_auth_tries.map_or(0, |tries| tries as usize + EXTRA_REFUSALS),
            inactivity_timeout: None,
            keepalive_interval: settings.keepalive_interval,
            keepalive_max: settings.keepalive_max,
            nodelay: true,
            ..Config::default()
        };
        let listeners = limits::bind(&settings.bind_address, settings.bind_port)?;
        let shared = Shared {
            authenticator: parts.authenticator,
            sftp: SftpSettings {
                max_open_handles: settings.max_open_handles,
                disabled: settings.disabled_sftp_extensions.into_iter().collect(),
            },
            commands: Commands::new(&settings.ssh_commands, parts.programs, settings.max_programs),
            max_channels: settings.max_channels,
            max_auth_tries: settings.max_auth_tries,
            login_banner: settings.login_banner,
            workers: TaskTracker::new(),
        };
        Ok(Bound {
            listeners,
            config: Arc::new(config),
            limits: ConnectionLimits::new(
                settings.max_half_open,
                settings.max_half_open_per_ip,
                settings.max_connections,
            ),
            shared: Arc::new(shared),
            sessions: parts.sessions,
            login_grace_time: settings.login_grace_time,
            shutdown_grace_time: settings.shutdown_grace_time,
        })
    }
}

impl Bound {
    /// Where it listens.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown` fires; then running transfers get their grace period, and every
    /// connection ends by the rules of its upload mode.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listeners, config, limits, shared, sessions, .. } = self;
        let all = CancellationToken::new();
        let metrics = shared.authenticator.events().metrics().clone();
        accept_loop(listeners, shutdown, |stream, addr| {
            let place = match limits.try_open(addr.ip()) {
                Ok(place) => place,
                Err(refused) => {
                    metrics.connection_refused();
                    debug!("connection from {addr} refused: {refused}");
                    return;
                }
            };
            let deadline = Instant::now() + self.login_grace_time;
            let connection = serve(Arc::clone(&shared), Arc::clone(&config), stream, addr, place, deadline);
            let all = all.clone();
            shared.workers.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = all.cancelled() => {}
                }
            });
        })
        .await;
        sessions.stop_accepting();
        let end = Instant::now() + self.shutdown_grace_time;
        while sessions.is_transferring() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sessions.close_all("the server stops");
        let end = Instant::now() + LAST_GRACE;
        while sessions.count() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        all.cancel();
        shared.workers.close();
        let _ = tokio::time::timeout(LAST_GRACE, shared.workers.wait()).await;
    }
}

/// One connection, from its first byte to its last.
async fn serve(
    shared: Arc<Shared>,
    config: Arc<Config>,
    stream: TcpStream,
    addr: SocketAddr,
    place: limits::HalfOpen,
    deadline: Instant,
) {
    let (socket, control) = Socket::new(stream, deadline);
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let Some(connection_id) = connection_id() else { return };
    let connection = Arc::new(Connection {
        peer: Peer { addr, connection_id },
        control: control.clone(),
        ended,
        session: OnceLock::new(),
        logged_in: CancellationToken::new(),
        handle: OnceLock::new(),
        place: Mutex::new(Some(Place::BeforeLogin(place))),
        failures: AtomicU32::new(0),
    });
    let handler = ConnectionHandler::new(Arc::clone(&shared), Arc::clone(&connection));
    let outcome = match russh::server::run_stream(config, socket, handler).await {
        Ok(mut running) => {
            let _ = connection.handle.set(running.handle());
            let session_ended = async {
                connection.logged_in.cancelled().await;
                match connection.session.get() {
                    Some(session) => session.cancelled().cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                outcome = &mut running => outcome,
                () = session_ended => {
                    // Workers end their transfers by the rules first; then nothing holds the client.
                    control.kill();
                    running.await
                }
            }
        }
        Err(error) => Err(error),
    };
    concluded(&shared, &connection, &outcome);
}

/// Notes how a connection ended, where that is worth noting.
fn concluded(shared: &Shared, connection: &Connection, outcome: &Result<(), russh::Error>) {
    let events = shared.authenticator.events();
    let peer = &connection.peer;
    // Nobody aborts the library's task, so it can only have panicked.
    if let Err(russh::Error::Join(_)) = outcome {
        events.metrics().panicked();
        tracing::error!(
            connection_id = &*peer.connection_id,
            "connection from {} ended by a defect",
            peer.addr
        );
    }
    if connection.session.get().is_some() {
        info!(connection_id = &*peer.connection_id, "connection from {} closed", peer.addr);
        return;
    }
    let too_many = shared.max_auth_tries.is_some_and(|m| connection.failures.load(Ordering::Relaxed) >= m);
    let error = if too_many {
        "too many authentication failures".to_owned()
    } else {
        match outcome {
            // Gave up after failed attempts, each of which was logged.
            Ok(()) if connection.failures.load(Ordering::Relaxed) > 0 => return,
            Err(error) if is_end(error) && connection.failures.load(Ordering::Relaxed) > 0 => return,
            Ok(()) => "connection closed before authentication".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let why = match outcome {
        _ if too_many => HandshakeFailure::Attempts,
        Ok(()) => HandshakeFailure::Closed,
        Err(error) => failure(error),
    };
    events.metrics().handshake_failed(why);
    events.emit(Event::LoginFailed {
        client_ip: peer.addr.ip().to_string(),
        username: String::new(),
        login_type: LoginType::None,
        error,
    });
}

/// What ended a connection before login.
fn failure(error: &russh::Error) -> HandshakeFailure {
    use russh::Error;
    match error {
        error if is_end(error) => HandshakeFailure::Closed,
        Error::ConnectionTimeout | Error::InactivityTimeout | Error::KeepaliveTimeout | Error::Elapsed(_) => {
            HandshakeFailure::Timeout
        }
        Error::IO(error) if error.kind() == io::ErrorKind::TimedOut => HandshakeFailure::Timeout,
        Error::IO(_) => HandshakeFailure::Network,
        Error::NoCommonAlgo { .. } | Error::UnknownAlgo => HandshakeFailure::Negotiation,
        Error::Join(_) => HandshakeFailure::Other,
        _ => HandshakeFailure::Protocol,
    }
}

/// The client went away, in whatever way.
fn is_end(error: &russh::Error) -> bool {
    match error {
        russh::Error::HUP | russh::Error::Disconnect => true,
        russh::Error::IO(error) => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}

/// 64 hexadecimal digits, as the reference's SSH session ids.
fn connection_id() -> Option<Arc<str>> {
    let mut id = [0; 32];
    SystemRandom::new().fill(&mut id).ok()?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}
