//! What happened: one call writes the log line, moves the counters and offers the event to the hooks.
//!
//! [`Events::emit`] never blocks, and neither may the [`HookQueue`] that it offers events to: the client never
//! waits for a hook. The field names are those of the seed's log lines.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_vfs::{Timestamp, VPath};
use tracing::{debug, info, warn};

use crate::{Activity, Direction, LoginMethod, Metrics, Protocol, User};

/// How someone tried to log in, as the log and Fail2ban know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginType {
    /// With a password.
    Password,
    /// With a public key.
    PublicKey,
    /// The connection ended before any credentials were evaluated.
    None,
}

impl LoginType {
    /// The word in the log line (the last one's spelling is part of the interface).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::PublicKey => "public_key",
            Self::None => "no_auth_tryed",
        }
    }
}

impl From<LoginMethod> for LoginType {
    fn from(method: LoginMethod) -> Self {
        match method {
            LoginMethod::Password => Self::Password,
            LoginMethod::PublicKey => Self::PublicKey,
        }
    }
}

/// How a transfer went.
#[derive(Debug, Clone)]
pub struct TransferReport {
    /// Up or down.
    pub direction: Direction,
    /// Who.
    pub username: String,
    /// On which connection.
    pub connection_id: Arc<str>,
    /// Over which protocol.
    pub protocol: Protocol,
    /// Which file, as the user sees it.
    pub path: VPath,
    /// Which file, on the server.
    pub real_path: Option<PathBuf>,
    /// Bytes moved.
    pub bytes: u64,
    /// From open to close.
    pub elapsed_ms: i64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What a command did.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the seed's log senders, with the values that only they have")]
pub enum CommandKind {
    Rename { target: VPath, real_target: Option<PathBuf> },
    Rmdir,
    Mkdir,
    Symlink { target: VPath, real_target: Option<PathBuf> },
    Remove { was_symlink: bool },
    Chmod { mode: u32 },
    Chown { uid: i64, gid: i64 },
    Chtimes { accessed: Timestamp, modified: Timestamp },
    SshCommand { line: String },
}

/// A successful command on a file.
#[derive(Debug, Clone)]
pub struct Command {
    /// What was done.
    pub kind: CommandKind,
    /// By whom.
    pub username: String,
    /// On which connection.
    pub connection_id: Arc<str>,
    /// Over which protocol.
    pub protocol: Protocol,
    /// To which file, as the user sees it.
    pub path: VPath,
    /// To which file, on the server.
    pub real_path: Option<PathBuf>,
}

/// Something that happened.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields say what they are")]
pub enum Event {
    /// Someone logged in.
    LoggedIn { user: Arc<User>, label: String, connection_id: Arc<str>, remote_addr: String },
    /// Credentials were refused, or a connection ended before any.
    LoginFailed { client_ip: String, username: String, login_type: LoginType, error: String },
    /// A transfer ended.
    Transferred(TransferReport),
    /// A command succeeded.
    Commanded(Command),
    /// An account was added.
    UserAdded(Arc<User>),
    /// An account was changed.
    UserUpdated(Arc<User>),
    /// An account was removed.
    UserDeleted(Arc<User>),
}

/// Where events wait for what is to be done about them outside the server.
pub trait HookQueue: std::fmt::Debug + Send + Sync {
    /// Takes the event, or drops it where it matches nothing or does not fit; what does not fit is counted and
    /// logged. Never blocks: a client's request is waiting.
    fn offer(&self, event: Event);
}

/// The one place where events go.
#[derive(Debug, Clone)]
pub struct Events {
    metrics: Metrics,
    activity: Activity,
    hooks: Option<Arc<dyn HookQueue>>,
}

impl Events {
    /// Events that are logged and counted, and offered to `hooks` if there are any.
    pub fn new(metrics: Metrics, hooks: Option<Arc<dyn HookQueue>>) -> Self {
        Self { metrics, activity: Activity::new(), hooks }
    }

    /// The counters that events move.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What happened lately.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Tells everyone who must know.
    pub fn emit(&self, event: Event) {
        match &event {
            Event::LoggedIn { user, label, connection_id, remote_addr } => {
                self.activity.login(true);
                info!(
                    sender = "sftpd",
                    connection_id = &**connection_id,
                    "User id: {}, logged in with: {label:?}, username: {:?}, home_dir: {:?} remote addr: {remote_addr:?}",
                    user.id,
                    user.username,
                    user.home_dir,
                );
            }
            Event::LoginFailed { client_ip, username, login_type, error } => {
                if *login_type != LoginType::None {
                    self.activity.login(false);
                }
                debug!(
                    sender = "connection_failed",
                    client_ip,
                    username,
                    login_type = login_type.as_str(),
                    error,
                );
            }
            Event::Transferred(report) => self.transferred(report),
            Event::Commanded(command) => commanded(command),
            Event::UserAdded(user) => info!(sender = "dataProvider", "user {:?} added", user.username),
            Event::UserUpdated(user) => info!(sender = "dataProvider", "user {:?} updated", user.username),
            Event::UserDeleted(user) => info!(sender = "dataProvider", "user {:?} deleted", user.username),
        }
        if let Some(hooks) = &self.hooks {
            hooks.offer(event);
        }
    }

    fn transferred(&self, report: &TransferReport) {
        let sender = match report.direction {
            Direction::Upload => "Upload",
            Direction::Download => "Download",
        };
        let took = Duration::from_millis(u64::try_from(report.elapsed_ms).unwrap_or(0));
        self.metrics.transfer_ended(report.direction, report.bytes, took, report.error.is_none());
        self.activity.transferred(report.direction, report.error.is_none());
        let file_path = shown(report.real_path.as_ref(), &report.path);
        match &report.error {
            None => info!(
                sender,
                elapsed_ms = report.elapsed_ms,
                size_bytes = report.bytes,
                username = report.username,
                file_path,
                connection_id = &*report.connection_id,
                protocol = report.protocol.as_str(),
            ),
            Some(error) => warn!(
                connection_id = &*report.connection_id,
                "{} of {file_path:?} by {:?} failed after {} bytes: {error}",
                sender.to_lowercase(),
                report.username,
                report.bytes,
            ),
        }
    }
}

fn commanded(command: &Command) {
    let (mut target_path, mut filemode, mut uid, mut gid) = (String::new(), String::new(), -1, -1);
    let (mut access_time, mut modification_time, mut ssh_command) = (String::new(), String::new(), "");
    let sender = match &command.kind {
        CommandKind::Rename { target, real_target } => {
            target_path = shown(real_target.as_ref(), target);
            "Rename"
        }
        CommandKind::Symlink { target, real_target } => {
            target_path = shown(real_target.as_ref(), target);
            "Symlink"
        }
        CommandKind::Rmdir => "Rmdir",
        CommandKind::Mkdir => "Mkdir",
        CommandKind::Remove { .. } => "Remove",
        CommandKind::Chmod { mode } => {
            filemode = mode_text(*mode);
            "Chmod"
        }
        CommandKind::Chown { uid: new_uid, gid: new_gid } => {
            (uid, gid) = (*new_uid, *new_gid);
            "Chown"
        }
        CommandKind::Chtimes { accessed, modified } => {
            access_time = local_time(*accessed);
            modification_time = local_time(*modified);
            "Chtimes"
        }
        CommandKind::SshCommand { line } => {
            ssh_command = line;
            "SSHCommand"
        }
    };
    let file_path = match command.kind {
        CommandKind::SshCommand { .. } => command.path.to_string(),
        _ => shown(command.real_path.as_ref(), &command.path),
    };
    info!(
        sender,
        username = command.username,
        file_path,
        target_path,
        filemode,
        uid,
        gid,
        access_time,
        modification_time,
        ssh_command,
        connection_id = &*command.connection_id,
        protocol = command.protocol.as_str(),
    );
}

/// The real path where there is one: the log is the administrator's.
fn shown(real: Option<&PathBuf>, path: &VPath) -> String {
    real.map_or_else(|| path.to_string(), |real| real.to_string_lossy().into_owned())
}

/// `-rw-r--r--`, the form in which the seed logs a changed mode.
fn mode_text(mode: u32) -> String {
    let bits = "rwxrwxrwx".chars().enumerate();
    std::iter::once('-').chain(bits.map(|(i, c)| if mode & (0o400 >> i) != 0 { c } else { '-' })).collect()
}

fn local_time(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.seconds)
        .map(|t| t.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S").to_string())
        .unwrap_or_default()
}
