//! The administrator's door: the REST API and `/metrics` (`spec/rest-api.md`, `spec/metrics.md`).
//!
//! [`Server::bind`] takes the listener, [`Bound::run`] serves until told to stop. The table in `routes.rs` is
//! the whole list of paths. One request takes one road (`Site::answer`): request log → refusal of what a foreign
//! web page could send → handler, with panics caught → headers. The handlers live in `api/`, their wire
//! format in `api/types.rs`, and every status code that stands for a failure in `error.rs`.
//!
//! Who may come in is `auth/`'s matter: with `httpd.auth_user_file` each route asks for a sign-in; without it an
//! address that other machines can reach needs `httpd.allow_unauthenticated`. With a certificate (`tls.rs`) the
//! server speaks HTTPS and nothing else.

mod api;
mod auth;
mod backups;
mod body;
mod client;
pub mod config;
mod connection;
pub mod csv;
mod error;
mod guard;
mod headers;
mod json_text;
mod listener;
mod metrics;
mod places;
mod process;
mod request_log;
mod routes;
mod state;
mod tls;
mod watch;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::auth::Gate;
use crate::backups::Backups;
use crate::client::Client;
use crate::guard::Guard;
use crate::places::Places;
use crate::request_log::RequestLog;
use crate::state::AppState;
use crate::tls::Tls;
use crate::web::pages::Pages;
use crate::web::stream::Live;

pub use crate::auth::{UserFileError, check_user_name};
pub use crate::guard::Origin;
pub use crate::listener::BindError;
pub use crate::state::{Parts, VersionInfo};
pub use crate::tls::TlsError;

/// How long requests under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after a failed `accept`: the usual reason, too few file descriptors, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The HTTP server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts to listen; connections wait until [`Bound::run`].
    ///
    /// # Errors
    /// [`BindError`] if the address cannot be listened on, if other machines could reach it although there is
    /// neither `httpd.auth_user_file` nor `httpd.allow_unauthenticated`, or if one of the files cannot be used.
    pub async fn bind(settings: &config::Settings, parts: Parts) -> Result<Bound, BindError> {
        let listener = listener::listen(settings).await?;
        let addr = listener.local_addr().map_err(|source| BindError::Listen {
            address: settings.bind_address.clone(),
            port: settings.bind_port,
            source,
        })?;
        let metrics = parts.metrics.clone();
        let pages = Pages::load(&settings.templates_path, &settings.static_files_path, &parts.version);
        let backups = Arc::new(Backups::new(settings.backups_path.clone()));
        let gate = match &settings.auth_user_file {
            Some(users) => Some(Arc::new(Gate::load(users, addr.port())?)),
            None => None,
        };
        let tls = match &settings.certificate {
            Some((certificate, key)) => Some(Arc::new(Tls::load(certificate, key)?)),
            None => None,
        };
        warn_if_overheard(settings, addr);
        let parts = Arc::new(parts);
        let live = Live::new(Arc::clone(&parts), pages.clone());
        let places = Places::new(settings.trusted_proxies.clone());
        let state = AppState {
            parts,
            backups,
            pages,
            live: live.clone(),
            places: Arc::clone(&places),
            gate: gate.clone(),
        };
        let site = Site {
            router: routes::router(state),
            guard: Guard::new(
                addr.ip(),
                &settings.bind_address,
                settings.trusted_origins.clone(),
                gate.is_none(),
            ),
            log: RequestLog::new(metrics, addr, tls.is_some()),
            requests: TaskTracker::new(),
            live,
            places,
            gate,
            tls,
            trusted_proxies: settings.trusted_proxies.clone(),
        };
        Ok(Bound { listener, addr, site: Arc::new(site) })
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
    site: Arc<Site>,
}

impl Bound {
    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` fires. Then no connection is accepted any more, idle ones are closed, and
    /// requests under way get ten seconds to end.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, addr, site } = self;
        info!(sender = "httpd", "listening on {addr}");
        let places = Arc::clone(&site.places);
        let mut connections = JoinSet::new();
        let watch = tokio::spawn(Arc::clone(&site).watch_files(shutdown.clone()));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    // While there is no place, others wait in the listener's queue.
                    Ok((stream, peer)) => match shutdown.run_until_cancelled(places.take(peer.ip())).await {
                        Some(Some(place)) => {
                            let site = Arc::clone(&site);
                            connections.spawn(connection::serve(site, stream, peer, place, shutdown.clone()));
                        }
                        Some(None) => debug!(sender = "httpd", "too many connections of {peer} are at work"),
                        None => break,
                    },
                    Err(error) => accept_failed(&error).await,
                },
            }
        }
        drop(listener);
        site.requests.close();
        let drained = async {
            site.live.stop().await;
            while connections.join_next().await.is_some() {}
            site.requests.wait().await;
            let _ended = watch.await;
        };
        if tokio::time::timeout(GRACE, drained).await.is_err() {
            warn!(
                sender = "httpd",
                "{} connections are closed in the middle of a request",
                connections.len()
            );
            connections.shutdown().await;
        }
    }
}

/// Passwords that cross a network in clear are worth a loud word.
fn warn_if_overheard(settings: &config::Settings, addr: SocketAddr) {
    let is_local = addr.ip().to_canonical().is_loopback();
    if settings.auth_user_file.is_some() && settings.certificate.is_none() && !is_local {
        warn!(
            sender = "httpd",
            console = true,
            "administrators sign in on {addr} without HTTPS: passwords cross the network in clear unless a \
             reverse proxy speaks HTTPS; set httpd.certificate_file and httpd.certificate_key_file"
        );
    }
}

async fn accept_failed(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    warn!(sender = "httpd", "cannot accept a connection: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// What every request passes through.
#[derive(Debug)]
struct Site {
    router: Router,
    guard: Guard,
    log: RequestLog,
    requests: TaskTracker,
    live: Live,
    places: Arc<Places>,
    gate: Option<Arc<Gate>>,
    tls: Option<Arc<Tls>>,
    trusted_proxies: Vec<IpNet>,
}

impl Site {
    /// Takes over changed files of users and certificates, until `shutdown` fires.
    async fn watch_files(self: Arc<Self>, shutdown: CancellationToken) {
        if self.gate.is_none() && self.tls.is_none() {
            return;
        }
        while shutdown.run_until_cancelled(tokio::time::sleep(watch::INTERVAL)).await.is_some() {
            let site = Arc::clone(&self);
            let look = move || {
                site.gate.iter().for_each(|gate| gate.reload());
                site.tls.iter().for_each(|tls| tls.reload());
            };
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                warn!(sender = "httpd", "cannot look at the files of users and certificates: {error}");
            }
        }
    }

    /// Answers a request in a task of its own: a client that goes away does not stop a change half-way.
    async fn respond(self: Arc<Self>, peer: SocketAddr, request: Request) -> Response {
        let site = Arc::clone(&self);
        let answer = self.requests.spawn(async move { site.answer(peer, request).await });
        answer.await.unwrap_or_else(|_| error::internal())
    }

    async fn answer(&self, peer: SocketAddr, mut request: Request) -> Response {
        let entry = self.log.begin(&request, peer);
        let client = Client::of(request.headers(), peer, self.tls.is_some(), &self.trusted_proxies);
        request.extensions_mut().insert(client);
        let mut response = match self.guard.check(&request) {
            Err(refusal) => refusal.into_response(),
            Ok(()) => match request_log::catch_panic(self.router.clone().oneshot(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => {
                    self.log.panicked(&entry, &panic);
                    error::internal()
                }
            },
        };
        headers::secure(response.headers_mut(), client.https);
        self.log.end(&entry, &response);
        response
    }
}
