//! What a configuration section needs to turn raw values into settings that cannot be wrong: the error, the
//! range check, the path rule and the `actions` structure that two sections share.
//!
//! The sections themselves live in the crates that use them (`ssh`, `store`, `http`); files, environment and
//! flags are merged in the binary. The keys are documented in `docs/config.md`.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An option whose value cannot be used: which one, what it says and what would be accepted.
///
/// Values of secret options never appear here: they have no wrong form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value:?}, expected {expected}")]
pub struct ConfigError {
    /// The full key, such as `sftpd.umask`.
    pub key: String,
    /// The offending value as text.
    pub value: String,
    /// What would be accepted, as the end of the sentence "expected …".
    pub expected: String,
}

impl ConfigError {
    /// Builds an error for `key`.
    pub fn new(key: impl Into<String>, value: impl Display, expected: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.to_string(), expected: expected.into() }
    }
}

/// Checks that `value` lies in `range` and converts it to the type of the range.
///
/// `what` names the quantity with its unit: "a time in seconds".
///
/// # Errors
/// [`ConfigError`] that names the key, the value and the range.
pub fn in_range<T>(key: &str, value: i64, range: RangeInclusive<T>, what: &str) -> Result<T, ConfigError>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    match T::try_from(value) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(ConfigError::new(key, value, format!("{what} from {} to {}", range.start(), range.end()))),
    }
}

/// Resolves a path of the configuration: a relative one is taken from the configuration directory.
pub fn resolve(config_dir: &Path, path: &str) -> PathBuf {
    config_dir.join(path)
}

/// Checks a listen address: empty means all interfaces, a literal IPv6 address may stand in brackets.
///
/// # Errors
/// [`ConfigError`] if the text cannot be an address or a host name.
pub fn bind_address(key: &str, value: &str) -> Result<String, ConfigError> {
    let address = value.trim();
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let is_name = |c: char| c.is_alphanumeric() || "-._:%".contains(c);
    let looks_like_ipv6 = !address.contains(':') || address.matches(':').count() > 1;
    if address.chars().all(is_name) && looks_like_ipv6 {
        return Ok(address.to_owned());
    }
    let expected = "an IP address or host name without a port, or nothing for all interfaces";
    Err(ConfigError::new(key, value, expected))
}

/// The `actions` of a section as written: what to run or to notify, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActionsSection {
    /// The conditions that trigger the actions. Default: none.
    pub execute_on: Vec<String>,
    /// Absolute path of the command to run. Default: empty, no command.
    pub command: String,
    /// URL to notify, `http://` or `https://`. Default: empty, no notification.
    pub http_notification_url: String,
    /// Seconds that a command may run. Default 30.
    pub command_timeout: i64,
    /// Seconds that one attempt of a notification may take. Default 15.
    pub http_timeout: i64,
    /// Further attempts after a notification could not be delivered. Default 2.
    pub http_retries: i64,
    /// Events of this section that are worked on at the same time. Default 16.
    pub max_concurrent: i64,
    /// Events of this section that may wait. Default 10000.
    pub queue_size: i64,
    /// Seconds that waiting events get when the server stops. Default 10.
    pub shutdown_grace_time: i64,
}

impl Default for ActionsSection {
    fn default() -> Self {
        Self {
            execute_on: Vec::new(),
            command: String::new(),
            http_notification_url: String::new(),
            command_timeout: 30,
            http_timeout: 15,
            http_retries: 2,
            max_concurrent: 16,
            queue_size: 10_000,
            shutdown_grace_time: 10,
        }
    }
}

/// The checked `actions` of a section.
#[derive(Clone, PartialEq, Eq)]
pub struct Actions {
    /// The conditions, each one of those that the section knows.
    pub execute_on: Vec<String>,
    /// Absolute path of the command to run.
    pub command: Option<PathBuf>,
    /// URL to notify.
    pub http_notification_url: Option<String>,
    /// How long a command may run.
    pub command_timeout: Duration,
    /// How long one attempt of a notification may take.
    pub http_timeout: Duration,
    /// Further attempts after a notification could not be delivered.
    pub http_retries: u32,
    /// Events that are worked on at the same time.
    pub max_concurrent: usize,
    /// Events that may wait.
    pub queue_size: usize,
    /// How long waiting events get when the server stops.
    pub shutdown_grace_time: Duration,
}

impl fmt::Debug for Actions {
    /// Without the URL, which may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (on, command) = (&self.execute_on, &self.command);
        f.debug_struct("Actions").field("execute_on", on).field("command", command).finish_non_exhaustive()
    }
}

impl ActionsSection {
    /// Checks the actions of section `section`, which knows the conditions `known`.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown condition, a relative command or a URL of another scheme.
    pub fn validate(self, section: &str, known: &[&str]) -> Result<Actions, ConfigError> {
        for condition in &self.execute_on {
            if !known.contains(&condition.as_str()) {
                let key = format!("{section}.actions.execute_on");
                return Err(ConfigError::new(key, condition, format!("any of {}", known.join(", "))));
            }
        }
        let command = (!self.command.is_empty()).then(|| PathBuf::from(&self.command));
        if command.as_deref().is_some_and(|path| !path.is_absolute()) {
            let key = format!("{section}.actions.command");
            return Err(ConfigError::new(key, self.command, "an absolute path, or nothing for no command"));
        }
        let url = (!self.http_notification_url.is_empty()).then_some(self.http_notification_url);
        if url.as_deref().is_some_and(|url| !is_http_url(url)) {
            let key = format!("{section}.actions.http_notification_url");
            // The value may hold credentials, so it is not repeated.
            return Err(ConfigError::new(key, "[redacted]", "an http:// or https:// URL, or nothing"));
        }
        let key = |name: &str| format!("{section}.actions.{name}");
        let seconds = |name: &str, value: i64, least: u64| {
            in_range(&key(name), value, least..=86_400, "a time in seconds").map(Duration::from_secs)
        };
        Ok(Actions {
            execute_on: self.execute_on,
            command,
            http_notification_url: url,
            command_timeout: seconds("command_timeout", self.command_timeout, 1)?,
            http_timeout: seconds("http_timeout", self.http_timeout, 1)?,
            http_retries: in_range(&key("http_retries"), self.http_retries, 0..=10, "a number")?,
            max_concurrent: in_range(&key("max_concurrent"), self.max_concurrent, 1..=1000, "a number")?,
            queue_size: in_range(&key("queue_size"), self.queue_size, 1..=1_000_000, "a number")?,
            shutdown_grace_time: seconds("shutdown_grace_time", self.shutdown_grace_time, 0)?,
        })
    }
}

fn is_http_url(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    let rest = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_key_value_and_expectation() {
        let error = in_range("sftpd.bind_port", 70_000, 0..=u16::MAX, "a port number").unwrap_err();
        let text = "sftpd.bind_port is \"70000\", expected a port number from 0 to 65535";
        assert_eq!(error.to_string(), text);
        assert!(in_range("sftpd.bind_port", -1, 0..=u16::MAX, "a port number").is_err());
        assert_eq!(in_range("sftpd.bind_port", 0, 0..=u16::MAX, "a port number"), Ok(0));
    }

    #[test]
    fn listen_addresses() {
        for (value, address) in [
            ("", ""),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("::", "::"),
            (" localhost ", "localhost"),
        ] {
            assert_eq!(bind_address("sftpd.bind_address", value).as_deref(), Ok(address));
        }
        for value in ["127.0.0.1:2022", "a b", "http://x", "[::1]:22"] {
            assert!(bind_address("k", value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn relative_paths_start_at_the_config_dir() {
        assert_eq!(resolve(Path::new("/etc/tidegate"), "id_rsa"), Path::new("/etc/tidegate/id_rsa"));
        assert_eq!(resolve(Path::new("/etc/tidegate"), "/keys/id_rsa"), Path::new("/keys/id_rsa"));
    }

    #[test]
    fn actions_refuse_what_could_never_run() {
        let known = ["upload", "download"];
        let section = |on: &str, command: &str, url: &str| ActionsSection {
            execute_on: vec![on.to_owned()],
            command: command.to_owned(),
            http_notification_url: url.to_owned(),
            ..ActionsSection::default()
        };
        let good = section("upload", "/bin/true", "https://user:pw@host/x?y=1").validate("sftpd", &known);
        assert_eq!(good.map(|a| a.command), Ok(Some(PathBuf::from("/bin/true"))));
        let error = section("uplaod", "", "").validate("sftpd", &known).unwrap_err();
        assert_eq!((error.key.as_str(), error.value.as_str()), ("sftpd.actions.execute_on", "uplaod"));
        assert_eq!(
            section("upload", "bin/true", "").validate("x", &known).unwrap_err().key,
            "x.actions.command"
        );
        let error = section("upload", "", "ftp://user:pw@host").validate("x", &known).unwrap_err();
        assert!(!error.to_string().contains("pw"));
        let secret = section("upload", "", "http://user:hunter2@host").validate("x", &known).unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
        let never = ActionsSection { command_timeout: 0, ..ActionsSection::default() };
        assert_eq!(never.validate("x", &known).unwrap_err().key, "x.actions.command_timeout");
    }
}
