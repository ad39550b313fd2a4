//! From an event to what hooks are told: the name of the condition and its values, in the documented order.
//!
//! Nothing is run or sent here. The values are those of the seed's `actions`: real paths where the storage has
//! them, as the bytes that they are.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use serde_json::{Value, json};
use tidegate_core::{Command, CommandKind, Direction, Event, TransferReport, User, UserDraft};
use tidegate_vfs::VPath;

/// The names of a file operation's values in a query, in the order of the command's arguments.
const FILE_PARAMETERS: [&str; 5] = ["action", "username", "path", "target_path", "ssh_cmd"];

/// What happened, ready to be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    /// The word of `execute_on`.
    pub(super) condition: &'static str,
    /// The arguments of the command: the condition, then the values; empty ones keep their place.
    pub(super) arguments: Vec<OsString>,
    /// The account as JSON; `None` for file operations, which are told in the query alone.
    pub(super) body: Option<String>,
}

/// The word of `execute_on` that stands for this event. What failed has none: hooks learn of successes only.
pub(super) fn condition(event: &Event) -> Option<&'static str> {
    match event {
        Event::Transferred(TransferReport { error: Some(_), .. }) => None,
        Event::Transferred(TransferReport { direction: Direction::Download, .. }) => Some("download"),
        Event::Transferred(TransferReport { direction: Direction::Upload, .. }) => Some("upload"),
        Event::Commanded(command) => match &command.kind {
            CommandKind::Remove { .. } => Some("delete"),
            CommandKind::Rename { .. } => Some("rename"),
            // The files of a scp are uploads and downloads already.
            CommandKind::SshCommand { line } => (command_name(line) != "scp").then_some("ssh_cmd"),
            _ => None,
        },
        Event::UserAdded(_) => Some("add"),
        Event::UserUpdated(_) => Some("update"),
        Event::UserDeleted(_) => Some("delete"),
        Event::LoggedIn { .. } | Event::LoginFailed { .. } => None,
    }
}

impl Action {
    /// The values of an event that `condition` stands for.
    pub(super) fn new(condition: &'static str, event: Event) -> Self {
        let mut arguments = vec![OsString::from(condition)];
        let mut body = None;
        match event {
            Event::Transferred(report) => {
                let path = place(report.real_path, &report.path);
                arguments.extend([report.username.into(), path, OsString::new(), OsString::new()]);
            }
            Event::Commanded(command) => arguments.extend(command_values(command)),
            Event::UserAdded(user) | Event::UserUpdated(user) | Event::UserDeleted(user) => {
                arguments.extend(user_values(&user));
                body = Some(user_json(&user).to_string());
            }
            Event::LoggedIn { .. } | Event::LoginFailed { .. } => {}
        }
        Self { condition, arguments, body }
    }

    /// The query of a notification, as `application/x-www-form-urlencoded`. Bytes that are not UTF-8 stay what
    /// they are.
    pub(super) fn query(&self) -> String {
        // Of an account only the action is told here; optional values are left out when they are empty.
        let (told, always) = if self.body.is_some() { (1, 1) } else { (FILE_PARAMETERS.len(), 3) };
        let mut query = String::new();
        for (index, (name, value)) in FILE_PARAMETERS.iter().zip(&self.arguments).take(told).enumerate() {
            if index >= always && value.is_empty() {
                continue;
            }
            if index > 0 {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            query.extend(form_urlencoded::byte_serialize(value.as_encoded_bytes()));
        }
        query
    }

    /// About how much memory the action takes while it waits.
    pub(super) fn size_bytes(&self) -> usize {
        let arguments: usize = self.arguments.iter().map(|value| value.len() + size_of::<OsString>()).sum();
        size_of::<Self>() + arguments + self.body.as_ref().map_or(0, String::len)
    }

    /// Who and what, for the log.
    pub(super) fn shown(&self) -> String {
        let value = |index: usize| self.arguments.get(index).map(OsString::as_os_str).unwrap_or_default();
        match self.body {
            Some(_) => format!("{} of user {:?}", self.condition, value(1)),
            None => format!("{} of {:?} by {:?}", self.condition, value(2), value(1)),
        }
    }
}

fn command_values(command: Command) -> [OsString; 4] {
    let username = command.username.into();
    match command.kind {
        CommandKind::Rename { target, real_target } => {
            let from = place(command.real_path, &command.path);
            [username, from, place(real_target, &target), OsString::new()]
        }
        CommandKind::SshCommand { line } => {
            let name = command_name(&line).to_owned();
            // The last argument is the path; a command without arguments has none.
            let has_path = line.trim().contains(char::is_whitespace);
            let path = if has_path { os_string(command.path.as_bytes()) } else { OsString::new() };
            [username, path, OsString::new(), name.into()]
        }
        _ => [username, place(command.real_path, &command.path), OsString::new(), OsString::new()],
    }
}

fn user_values(user: &User) -> [OsString; 7] {
    [
        user.username.clone().into(),
        user.id.to_string().into(),
        i64::from(user.active).to_string().into(),
        user.expiration_date.to_string().into(),
        user.home_dir.clone().into_os_string(),
        user.uid.to_string().into(),
        user.gid.to_string().into(),
    ]
}

/// The account as the REST API shows it: never with its password.
fn user_json(user: &User) -> Value {
    let draft = UserDraft::from(user);
    let mut object = json!({
        "id": draft.id,
        "status": draft.status,
        "username": draft.username,
        "expiration_date": draft.expiration_date,
        "public_keys": draft.public_keys,
        "home_dir": draft.home_dir,
        "uid": draft.uid,
        "gid": draft.gid,
        "max_sessions": draft.max_sessions,
        "quota_size": draft.quota_size,
        "quota_files": draft.quota_files,
        "permissions": draft.permissions,
        "used_quota_size": draft.used_quota_size,
        "used_quota_files": draft.used_quota_files,
        "last_quota_update": draft.last_quota_update,
        "upload_bandwidth": draft.upload_bandwidth,
        "download_bandwidth": draft.download_bandwidth,
        "last_login": draft.last_login,
        "filters": {"allowed_ip": draft.filters.allowed_ip, "denied_ip": draft.filters.denied_ip},
    });
    if let Some(map) = object.as_object_mut()
        && user.public_keys.is_empty()
    {
        map.shift_remove("public_keys");
    }
    object
}

/// The first word of an SSH command.
fn command_name(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default().trim_matches(['\'', '"'])
}

/// The path on the server, or the user's view of it where the storage has no other.
fn place(real: Option<PathBuf>, path: &VPath) -> OsString {
    real.map_or_else(|| os_string(path.as_bytes()), PathBuf::into_os_string)
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStrExt as _;

    OsStr::from_bytes(bytes).to_owned()
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    OsStr::new(&*String::from_utf8_lossy(bytes)).to_owned()
}
