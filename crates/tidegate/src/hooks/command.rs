//! Runs the command of a hook: its arguments, its environment, its end.
//!
//! The command sees nothing of the server but its arguments, a few variables and the working directory: no
//! standard streams, and none of the variables that may hold a database password. It is the leader of a process
//! group of its own, so that what it has started can be ended with it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tidegate_core::HookResult;
use tokio::process::{Child, Command as Process};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::action::Action;

/// What a command may see of the server's environment.
const KEPT_VARIABLES: [&str; 11] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SystemRoot", "TEMP"];

/// A script that is being replaced cannot be started for a moment.
const BUSY_ATTEMPTS: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The command of one section.
#[derive(Debug)]
pub(super) struct Command {
    program: PathBuf,
    timeout: Duration,
    environment: Vec<(&'static str, OsString)>,
}

impl Command {
    /// Runs `program`, which may take as long as `timeout`.
    pub(super) fn new(program: PathBuf, timeout: Duration) -> Self {
        let kept = KEPT_VARIABLES.into_iter();
        let environment = kept.filter_map(|name| Some((name, std::env::var_os(name)?))).collect();
        Self { program, timeout, environment }
    }

    /// Why the command cannot be run as things are now.
    pub(super) fn obstacle(&self) -> Option<String> {
        match std::fs::metadata(&self.program) {
            Err(error) => Some(format!("cannot be read: {error}")),
            Ok(metadata) if !metadata.is_file() => Some("is not a file".to_owned()),
            Ok(metadata) if !is_executable(&metadata) => Some("is not executable".to_owned()),
            Ok(_) => None,
        }
    }

    /// The path, for messages.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Starts the command before anything is awaited, and waits for its end. Dropping the future ends the command
    /// and its group.
    pub(super) async fn run(&self, action: &Action) -> HookResult {
        let (program, what, begun) = (&self.program, action.shown(), Instant::now());
        let mut group = match self.start(action).await {
            Ok(child) => Group(child),
            Err(error) => {
                warn!(sender = "hooks", "cannot run {program:?} for {what}: {error}");
                return HookResult::Failed;
            }
        };
        let Ok(status) = timeout(self.timeout, group.0.wait()).await else {
            warn!(
                sender = "hooks",
                "{program:?} for {what} is killed, it ran longer than {:?}", self.timeout
            );
            group.kill();
            let _ = group.0.wait().await;
            return HookResult::TimedOut;
        };
        let elapsed_ms = begun.elapsed().as_millis();
        match status {
            Ok(status) if status.success() => {
                debug!(sender = "hooks", "{program:?} for {what} ended well after {elapsed_ms} ms");
                HookResult::Done
            }
            Ok(status) => {
                warn!(sender = "hooks", "{program:?} for {what} ended with {status} after {elapsed_ms} ms");
                HookResult::Failed
            }
            Err(error) => {
                warn!(sender = "hooks", "nobody knows how {program:?} for {what} ended: {error}");
                HookResult::Failed
            }
        }
    }

    async fn start(&self, action: &Action) -> io::Result<Child> {
        let mut attempts = BUSY_ATTEMPTS;
        loop {
            match self.process(action).spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempts > 1 => {
                    attempts -= 1;
                    sleep(BUSY_PAUSE).await;
                }
                started => return started,
            }
        }
    }

    fn process(&self, action: &Action) -> Process {
        let mut process = Process::new(&self.program);
        process
            .args(&action.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        process.process_group(0);
        process
    }
}

/// A command and everything that it has started and left in its group.
struct Group(Child);

impl Group {
    #[cfg(unix)]
    fn kill(&mut self) {
        // There is a number only as long as nobody has waited for the leader, so it cannot belong to another yet.
        let leader =
            self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(leader) = leader {
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }

    #[cfg(not(unix))]
    fn kill(&mut self) {
        let _ = self.0.start_kill();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    true
}
