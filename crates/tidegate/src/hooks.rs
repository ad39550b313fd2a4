//! Hooks: commands and HTTP notifications after file operations (`sftpd.actions`) and changes of accounts
//! (`data_provider.actions`). `docs/hooks.md` is the contract.
//!
//! `hooks/action.rs` says which events matter and with which values, `hooks/queue.rs` holds them until there is
//! time, `hooks/command.rs` and `hooks/http.rs` carry them out. Each section has a queue of its own, so that a
//! receiver of uploads that is slow holds up no news of accounts.

mod action;
mod command;
mod http;
mod queue;

use std::sync::Arc;

use tidegate_core::config_error::Actions;
use tidegate_core::{Event, HookQueue, Metrics};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::action::Action;
use self::queue::{Queue, Runner};

/// The queues and those who work on them.
pub(crate) struct Hooks {
    queues: Arc<Queues>,
    workers: TaskTracker,
    stop: CancellationToken,
}

/// Where events go; `None` where nothing is configured.
#[derive(Debug)]
struct Queues {
    files: Option<Queue>,
    accounts: Option<Queue>,
}

impl Hooks {
    /// Starts the workers. What is configured and cannot work is a warning that names the option.
    pub(crate) fn start(files: &Actions, accounts: &Actions, metrics: &Metrics) -> Self {
        let (workers, stop) = (TaskTracker::new(), CancellationToken::new());
        let start = |section: &'static str, actions: &Actions| {
            let runner = Runner::new(section, actions, &mut |text| warn!(console = true, "{text}"))?;
            let (queue, work) = queue::open(section, actions, runner, metrics.clone(), stop.clone());
            workers.spawn(work);
            Some(queue)
        };
        let queues = Queues { files: start("sftpd", files), accounts: start("data_provider", accounts) };
        Self { queues: Arc::new(queues), workers, stop }
    }

    /// Where the server's events are to be offered; `None` if no hook is configured.
    pub(crate) fn queue(&self) -> Option<Arc<dyn HookQueue>> {
        let any = self.queues.files.is_some() || self.queues.accounts.is_some();
        any.then(|| Arc::clone(&self.queues) as Arc<dyn HookQueue>)
    }

    /// Works on what is left for the configured time, and returns when that is over or nothing is left.
    pub(crate) async fn finish(self) {
        self.stop.cancel();
        self.workers.close();
        self.workers.wait().await;
    }
}

impl HookQueue for Queues {
    fn offer(&self, event: Event) {
        let queue = match &event {
            Event::Transferred(_) | Event::Commanded(_) => &self.files,
            Event::UserAdded(_) | Event::UserUpdated(_) | Event::UserDeleted(_) => &self.accounts,
            Event::LoggedIn { .. } | Event::LoginFailed { .. } => return,
        };
        if let (Some(queue), Some(condition)) = (queue, action::condition(&event))
            && queue.wants(condition)
        {
            queue.offer(Action::new(condition, event));
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
