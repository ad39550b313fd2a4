//! Signals: which ones stop the server, and which one reopens the log.
//!
//! SIGTERM and SIGINT stop gracefully, a second one ends the process at once. SIGHUP and SIGUSR1 reopen the
//! log file; in portable mode, which belongs to a terminal, SIGHUP stops.

use std::io;

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::log::LogHandle;

/// Exit status of a process that was told twice to stop, as shells report SIGINT.
const ENDED_BY_SIGNAL: i32 = 130;

/// What the end of the terminal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HangUp {
    /// Nothing: a service has no terminal.
    ReopensLog,
    /// The end.
    Stops,
}

/// Watches for signals in a task of its own; `shutdown` fires at the first that stops.
///
/// # Errors
/// The system refuses to deliver signals.
#[cfg(unix)]
pub(crate) fn watch(shutdown: CancellationToken, log: LogHandle, hang_up: HangUp) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        loop {
            let stops = tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = hangup.recv() => hang_up == HangUp::Stops,
                _ = user.recv() => false,
            };
            if stops {
                stop(&shutdown, &log);
            } else {
                log.reopen();
                info!("log file opened again");
            }
        }
    });
    Ok(())
}

/// Watches for the console's interrupt; see the Unix form.
#[cfg(not(unix))]
pub(crate) fn watch(shutdown: CancellationToken, log: LogHandle, _: HangUp) -> io::Result<()> {
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            stop(&shutdown, &log);
        }
    });
    Ok(())
}

fn stop(shutdown: &CancellationToken, log: &LogHandle) {
    if shutdown.is_cancelled() {
        info!(console = true, "stopped at once");
        log.flush();
        std::process::exit(ENDED_BY_SIGNAL);
    }
    info!(console = true, "stopping, running transfers may finish; a second signal ends at once");
    shutdown.cancel();
}
