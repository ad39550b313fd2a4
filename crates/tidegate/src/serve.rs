//! Builds every part and runs it until told to stop; with `portable.rs` the only file that knows all crates.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use tidegate_core::{
    Accounts, AccountsConfig, Authenticator, Clock, ConfigError, Events, FsPolicy, MeasuredStore, Metrics,
    OpenStorage, Passwords, QuotaPolicy, Sessions, TrackQuota, UploadMode, User, UserStore, system_clock,
};
use tidegate_ssh::BindError;
use tidegate_ssh::config::HostKeys as KeySource;
use tidegate_ssh::host_keys::{self, HostKeys};
use tidegate_vfs::{FsError, LocalIo, LocalStorage, Owner, Storage};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::confine;
use crate::hooks::Hooks;
use crate::version::VERSION;

/// In the configuration directory: whose usage would be in doubt after a kill (`core/marks.rs`).
pub(crate) const MARKS_DIR: &str = "unsettled";

/// How often idle sessions are looked for and usage is written back.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(20);

/// How often the data provider is asked whether it works (data model §9).
const AVAILABILITY_INTERVAL: Duration = Duration::from_secs(30);

/// The parts at the centre, which every protocol shares.
pub(crate) struct Centre {
    pub(crate) authenticator: Authenticator,
    pub(crate) accounts: Accounts,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
}

impl Centre {
    /// Builds the centre over `store`, without hooks.
    pub(crate) fn new(
        store: Arc<dyn UserStore>,
        sftpd: &tidegate_ssh::config::Settings,
        provider: &tidegate_store::config::Settings,
    ) -> Self {
        Self::with_events(Events::new(Metrics::new(), None), store, sftpd, provider)
    }

    /// Builds the centre over `store`; what happens goes to `events`.
    fn with_events(
        events: Events,
        store: Arc<dyn UserStore>,
        sftpd: &tidegate_ssh::config::Settings,
        provider: &tidegate_store::config::Settings,
    ) -> Self {
        let metrics = events.metrics().clone();
        let store: Arc<dyn UserStore> = Arc::new(MeasuredStore::new(store, metrics.clone()));
        let clock: Clock = system_clock();
        let upload_mode = match sftpd.upload_mode {
            0 => UploadMode::Standard,
            1 => UploadMode::Atomic,
            _ => UploadMode::AtomicWithResume,
        };
        let policy =
            FsPolicy { upload_mode, ignore_set_attrs: sftpd.setstat_ignore, fsync: sftpd.upload_fsync };
        let track = match provider.track_quota {
            0 => TrackQuota::Off,
            1 => TrackQuota::Always,
            _ => TrackQuota::Restricted,
        };
        let quota = QuotaPolicy { track, write: provider.manage_users };
        // Each computation takes 64 MiB and a core.
        let passwords = Passwords::new(std::thread::available_parallelism().map_or(2, usize::from));
        let homes = Arc::new(LocalHomes::default());
        let sessions = Sessions::new(store.clone(), homes, events.clone(), clock.clone(), policy, quota);
        let authenticator = Authenticator::new(
            store.clone(),
            passwords.clone(),
            sessions.clone(),
            events.clone(),
            clock,
            provider.manage_users,
        );
        let managed = AccountsConfig {
            manage_users: provider.manage_users,
            users_base_dir: provider.users_base_dir.clone(),
        };
        let accounts = Accounts::new(store, passwords, sessions.clone(), events, managed);
        Self { authenticator, accounts, sessions, metrics }
    }

    /// Ends idle sessions and brings the provider up to date, until `shutdown` fires.
    pub(crate) async fn keep_house(
        sessions: Sessions,
        idle_timeout: Option<Duration>,
        shutdown: CancellationToken,
    ) {
        // A short timeout, as tests have, is met more closely.
        let interval = idle_timeout.map_or(HOUSEKEEPING_INTERVAL, |timeout| {
            HOUSEKEEPING_INTERVAL.min(timeout / 4).max(Duration::from_millis(100))
        });
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if let Some(timeout) = idle_timeout {
                sessions.sweep_idle(timeout);
            }
            sessions.write_back_usage().await;
            sessions.resolve_doubts().await;
        }
    }
}

/// Asks the provider every so often whether it works, until `shutdown` fires; the first time at once.
async fn watch_provider(accounts: Accounts, metrics: Metrics, shutdown: CancellationToken) {
    loop {
        let answer = accounts.ping().await;
        metrics.provider_available(answer.is_ok());
        if let Err(error) = answer {
            warn!(sender = "dataProvider", "the data provider is not available: {error}");
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(AVAILABILITY_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Opens users' homes on the local disk.
#[derive(Default)]
struct LocalHomes(LocalIo);

#[async_trait]
impl OpenStorage for LocalHomes {
    async fn open(&self, user: &User) -> Result<Arc<dyn Storage>, FsError> {
        let (uid, gid) = user.owner();
        let (io, home, owner) = (self.0.clone(), user.home_dir.clone(), Owner { uid, gid });
        let open = move || {
            LocalStorage::create_home(&home, owner)?;
            LocalStorage::open(&io, &home, owner)
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(std::io::Error::other)?;
        Ok(Arc::new(opened?))
    }
}

/// Runs the configured server until `shutdown` fires or a part of it ends. Whose usage would be in doubt after
/// a kill is kept in `marks`.
///
/// # Errors
/// A part cannot start; the message names it.
pub(crate) async fn run(config: Config, marks: PathBuf, shutdown: CancellationToken) -> Result<()> {
    let driver = config.data_provider.driver.name();
    let store = tidegate_store::open(&config.data_provider)
        .await
        .with_context(|| format!("cannot open the data provider {driver}"))?;
    let metrics = Metrics::new();
    let hooks = Hooks::start(&config.sftpd.actions, &config.data_provider.actions, &metrics);
    let events = Events::new(metrics, hooks.queue());
    let centre = Centre::with_events(events, store.clone(), &config.sftpd, &config.data_provider);
    if let Err(error) = centre.sessions.keep_marks(marks.clone()).await {
        let dir = marks.display();
        warn!("cannot use {dir}, so that a kill may leave a wrong usage until the next quota scan: {error}");
    }
    let host_keys = load_host_keys(config.sftpd.host_keys.clone()).await?;
    let programs = confine::programs(&config.sftpd).map_err(|error| config.explain(error))?;
    let ssh = bind_ssh(config.sftpd.clone(), &centre, host_keys, programs)
        .map_err(|error| explain(&config, error))?;
    let http = match &config.httpd {
        Some(settings) => Some(bind_http(settings, &centre).await?),
        None => None,
    };

    for addr in ssh.addrs() {
        info!(console = true, "SFTP server listening on {addr}");
    }
    match &http {
        Some(http) => info!(console = true, "HTTP server listening on {}", http.addr()),
        None => info!("HTTP server disabled"),
    }
    let tasks = TaskTracker::new();
    let idle_timeout = config.sftpd.idle_timeout;
    tasks.spawn(centre.sessions.clone().watch(shutdown.clone()));
    tasks.spawn(centre.sessions.activity().clone().watch(shutdown.clone()));
    tasks.spawn(watch_provider(centre.accounts.clone(), centre.metrics.clone(), shutdown.clone()));
    tasks.spawn(Centre::keep_house(centre.sessions.clone(), idle_timeout, shutdown.clone()));
    if let Some(http) = http {
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            http.run(shutdown.clone()).await;
            if !shutdown.is_cancelled() {
                error!(console = true, "the HTTP server ended by itself, so the whole server stops");
                shutdown.cancel();
            }
        });
    }
    ssh.run(shutdown.clone()).await;
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    centre.sessions.stop_accepting();
    centre.sessions.stopped().await;
    centre.sessions.write_back_usage().await;
    hooks.finish().await;
    store.close().await;
    info!(console = true, "stopped");
    Ok(())
}

/// Loads or generates the host keys, which takes a second for RSA and therefore a thread of its own.
pub(crate) async fn load_host_keys(source: KeySource) -> Result<HostKeys> {
    let load = move || match source {
        KeySource::Default(dir) => host_keys::load(&[], &dir),
        KeySource::Files(paths) => host_keys::load(&paths, std::path::Path::new("")),
        KeySource::InMemory => host_keys::ephemeral(),
    };
    let keys = tokio::task::spawn_blocking(load).await.context("the thread that loads host keys ended")??;
    for fingerprint in keys.fingerprints() {
        info!(target: "tidegate_ssh", "host key {fingerprint}");
    }
    Ok(keys)
}

/// Listens for SSH.
///
/// # Errors
/// The address cannot be listened on, or the configuration names an algorithm that is not supported.
pub(crate) fn bind_ssh(
    settings: tidegate_ssh::config::Settings,
    centre: &Centre,
    host_keys: HostKeys,
    programs: tidegate_ssh::Programs,
) -> Result<tidegate_ssh::Bound, BindError> {
    let parts = tidegate_ssh::Parts {
        authenticator: centre.authenticator.clone(),
        sessions: centre.sessions.clone(),
        host_keys,
        programs,
    };
    tidegate_ssh::Server::bind(settings, parts)
}

/// Says about a failure to listen what the option is and where it was set.
fn explain(config: &Config, error: BindError) -> anyhow::Error {
    let sftpd = &config.sftpd;
    match error {
        BindError::Algorithm(error) => {
            let expected = format!("any of {} ({})", error.supported, error.reason);
            config.explain(ConfigError::new(error.option, error.name, expected))
        }
        other => anyhow!(other).context(format!(
            "cannot start the SFTP server on sftpd.bind_address {:?}, sftpd.bind_port {}",
            sftpd.bind_address, sftpd.bind_port
        )),
    }
}

async fn bind_http(
    settings: &tidegate_http::config::Settings,
    centre: &Centre,
) -> Result<tidegate_http::Bound> {
    let parts = tidegate_http::Parts {
        accounts: centre.accounts.clone(),
        sessions: centre.sessions.clone(),
        metrics: centre.metrics.clone(),
        version: tidegate_http::VersionInfo {
            version: VERSION.number.to_owned(),
            commit_hash: VERSION.commit.to_owned(),
            build_date: VERSION.build_date.to_owned(),
        },
    };
    tidegate_http::Server::bind(settings, parts).await.context("cannot start the HTTP server")
}
