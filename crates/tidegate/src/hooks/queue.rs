//! One section's queue: bounded by number and by bytes, worked on by a bounded number of tasks, drained at the
//! end.
//!
//! Every action that is taken in is counted once when it leaves: done, failed, timed out or dropped. The order of
//! the queue is that of the events; actions that run at the same time finish in any order.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_core::config_error::Actions;
use tidegate_core::{HookResult, Metrics};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::action::Action;
use super::command::Command;
use super::http::Receiver;

/// Ten thousand actions take a few megabytes. Names of four kilobytes and accounts with a thousand keys must not
/// make gigabytes of them.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// A full queue is worth a line each second, not one for each action.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// The end where actions come in.
#[derive(Debug)]
pub(super) struct Queue {
    conditions: Vec<String>,
    sender: mpsc::Sender<Action>,
    state: Arc<State>,
}

/// What both ends share.
#[derive(Debug)]
struct State {
    section: &'static str,
    queue_size: usize,
    queued_bytes: AtomicUsize,
    /// Dropped, counted, and not in the log yet.
    unreported: AtomicU64,
    dropped: Notify,
    metrics: Metrics,
}

/// Carries out a section's actions.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) command: Option<Command>,
    pub(super) receiver: Option<Receiver>,
}

/// Makes a queue and the work of its other end, which ends after `stop` and the section's grace time.
pub(super) fn open(
    section: &'static str,
    actions: &Actions,
    runner: Runner,
    metrics: Metrics,
    stop: CancellationToken,
) -> (Queue, impl Future<Output = ()> + Send + use<>) {
    let (sender, receiver) = mpsc::channel(actions.queue_size);
    let state = Arc::new(State {
        section,
        queue_size: actions.queue_size,
        queued_bytes: AtomicUsize::new(0),
        unreported: AtomicU64::new(0),
        dropped: Notify::new(),
        metrics,
    });
    let queue = Queue { conditions: actions.execute_on.clone(), sender, state: Arc::clone(&state) };
    let (most, grace) = (actions.max_concurrent, actions.shutdown_grace_time);
    (queue, work(state, receiver, Arc::new(runner), most, grace, stop))
}

impl Queue {
    /// Whether the section asks for this.
    pub(super) fn wants(&self, condition: &str) -> bool {
        self.conditions.iter().any(|known| known == condition)
    }

    /// Takes the action in, or counts it as dropped.
    pub(super) fn offer(&self, action: Action) {
        let state = &*self.state;
        let bytes = action.size_bytes();
        let before = state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Counted before it is sent: the other end may be faster.
        state.metrics.hooks_queued(1);
        if before.saturating_add(bytes) > MAX_QUEUED_BYTES || self.sender.try_send(action).is_err() {
            state.left(bytes);
            state.drop_actions(1);
        }
    }
}

impl State {
    /// An action of this size waits no longer.
    fn left(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.hooks_queued(-1);
    }

    fn drop_actions(&self, count: u64) {
        self.metrics.hooks_ended(HookResult::Dropped, count);
        self.unreported.fetch_add(count, Ordering::Relaxed);
        self.dropped.notify_one();
    }

    fn report(&self) {
        let (count, section) = (self.unreported.swap(0, Ordering::Relaxed), self.section);
        if count > 0 {
            let (size, bytes) = (self.queue_size, MAX_QUEUED_BYTES);
            warn!(
                sender = "hooks",
                "{count} events got no hook, because the queue is full: {section}.actions.queue_size is {size}, \
                 and at most {bytes} bytes wait"
            );
        }
    }

    async fn keep_reporting(&self) -> Infallible {
        loop {
            self.dropped.notified().await;
            self.report();
            sleep(REPORT_PAUSE).await;
        }
    }
}

impl Runner {
    /// What `actions` of `section` asks for; `None` if that is nothing. `warn` hears of what cannot work.
    pub(super) fn new(section: &str, actions: &Actions, warn: &mut dyn FnMut(String)) -> Option<Self> {
        let option = |name: &str| format!("{section}.actions.{name}");
        if actions.execute_on.is_empty() {
            let set = [
                ("command", actions.command.is_some()),
                ("http_notification_url", actions.http_notification_url.is_some()),
            ];
            for (name, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
                warn(format!("{} has no effect, because {} is empty", option(name), option("execute_on")));
            }
            return None;
        }
        let command = actions.command.clone().map(|path| Command::new(path, actions.command_timeout));
        if let Some(command) = &command
            && let Some(obstacle) = command.obstacle()
        {
            warn(format!("{} {:?} {obstacle}", option("command"), command.program()));
        }
        let receiver = actions.http_notification_url.as_ref().and_then(|url| {
            let option = option("http_notification_url");
            let made = Receiver::new(option.clone(), url, actions.http_timeout, actions.http_retries);
            made.inspect_err(|error| warn(format!("{option} {error}; no notifications are sent"))).ok()
        });
        if command.is_none() && receiver.is_none() {
            if actions.http_notification_url.is_none() {
                let (on, one, other) =
                    (option("execute_on"), option("command"), option("http_notification_url"));
                warn(format!("{on} has no effect, because {one} and {other} are empty"));
            }
            return None;
        }
        Some(Self { command, receiver })
    }

    /// Runs the command and, once it has been started, sends the notification. The worse result counts.
    async fn run(&self, action: &Action) -> HookResult {
        let command = async {
            match &self.command {
                Some(command) => command.run(action).await,
                None => HookResult::Done,
            }
        };
        let notification = async {
            match &self.receiver {
                Some(receiver) => receiver.notify(action).await,
                None => HookResult::Done,
            }
        };
        // In this order: the command is started at the first poll.
        let (command, notification) = tokio::join!(biased; command, notification);
        command.max(notification)
    }
}

async fn work(
    state: Arc<State>,
    mut actions: mpsc::Receiver<Action>,
    runner: Arc<Runner>,
    most: usize,
    grace: Duration,
    stop: CancellationToken,
) {
    let mut running = JoinSet::new();
    let mut is_empty = false;
    let ended = |outcome: Result<HookResult, _>| {
        // A task that panicked has failed; the panic itself is in the log.
        state.metrics.hooks_ended(outcome.unwrap_or(HookResult::Failed), 1);
    };
    {
        let grace_is_over = async {
            stop.cancelled().await;
            sleep(grace).await;
        };
        let reports = state.keep_reporting();
        tokio::pin!(grace_is_over, reports);
        while !(is_empty && running.is_empty()) {
            tokio::select! {
                biased;
                () = &mut grace_is_over => break,
                () = stop.cancelled(), if !actions.is_closed() => actions.close(),
                never = &mut reports => match never {},
                Some(outcome) = running.join_next() => ended(outcome),
                next = actions.recv(), if !is_empty && running.len() < most => match next {
                    Some(action) => {
                        state.left(action.size_bytes());
                        let runner = Arc::clone(&runner);
                        running.spawn(async move { runner.run(&action).await });
                    }
                    None => is_empty = true,
                },
            }
        }
    }
    // Nobody can have been added: the queue was closed when the grace time began.
    actions.close();
    let mut unfinished = 0;
    while let Some(outcome) = running.try_join_next() {
        ended(outcome);
    }
    running.abort_all();
    while let Some(outcome) = running.join_next().await {
        unfinished += u64::from(outcome.is_err());
        ended(outcome);
    }
    state.report();
    let mut waiting = 0;
    while let Ok(action) = actions.try_recv() {
        state.left(action.size_bytes());
        waiting += 1;
    }
    if waiting + unfinished > 0 {
        state.metrics.hooks_ended(HookResult::Dropped, waiting);
        let section = state.section;
        warn!(
            sender = "hooks",
            "{waiting} events got no hook and {unfinished} hooks were cut short, because the server stops: \
             {section}.actions.shutdown_grace_time is over"
        );
    }
}
