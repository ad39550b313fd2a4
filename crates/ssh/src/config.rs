//! The `sftpd` section of the configuration: the keys as written, and the settings made from them.
//!
//! Everything that needs no SSH library is checked here. The names of algorithms are only carried through;
//! the code that knows the library checks them. Keys and defaults are those of `docs/config.md`, which a test
//! of the binary compares with the default of [`Sftpd`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
pub use tidegate_core::config_error::Actions;
use tidegate_core::config_error::{ActionsSection, ConfigError, bind_address, in_range, resolve};

/// Every SSH command that this server knows by name; `*` in the configuration means all of them.
pub const SSH_COMMANDS: &[&str] = &[
    "scp",
    "md5sum",
    "sha1sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "cd",
    "pwd",
    "git-receive-pack",
    "git-upload-pack",
    "git-upload-archive",
    "rsync",
];

/// The SSH commands that are enabled if the configuration does not say otherwise.
pub const DEFAULT_SSH_COMMANDS: &[&str] = &["md5sum", "sha1sum", "cd", "pwd"];

/// The SFTP extensions that can be switched off. `check-file` stands for both of its requests.
pub const SFTP_EXTENSIONS: &[&str] = &[
    "posix-rename@openssh.com",
    "statvfs@openssh.com",
    "fstatvfs@openssh.com",
    "hardlink@openssh.com",
    "fsync@openssh.com",
    "lsetstat@openssh.com",
    "limits@openssh.com",
    "expand-path@openssh.com",
    "copy-data",
    "home-directory",
    "users-groups-by-id@openssh.com",
    "check-file",
    "check-file-name",
    "check-file-handle",
    "copy-file",
    "space-available",
    "vendor-id",
];

/// The conditions of `sftpd.actions.execute_on`.
pub const ACTION_CONDITIONS: &[&str] = &["download", "upload", "delete", "rename", "ssh_cmd"];

const DEFAULT_BANNER: &str = concat!("Tidegate_", env!("CARGO_PKG_VERSION"));
/// RFC 4253 §4.2 allows 255 bytes for the whole line; some clients allow less.
const MAX_BANNER_BYTES: usize = 200;
const MAX_LOGIN_BANNER_BYTES: u64 = 32_768;
const DEFAULT_REKEY_BYTES: u64 = 1 << 30;
const DAY_SECONDS: u64 = 86_400;

/// The `sftpd` section as written in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sftpd {
    /// TCP port to listen on; 0 picks a free one. Default 2022.
    pub bind_port: i64,
    /// Address to listen on; empty means all interfaces. Default empty.
    pub bind_address: String,
    /// Minutes without activity after which a client is disconnected; 0 disables. Default 15.
    pub idle_timeout: i64,
    /// Failed authentication attempts per connection; 0 means 6, negative means no limit. Default 0.
    pub max_auth_tries: i64,
    /// File mode creation mask, octal, up to 0377. Default `0022`. No effect on Windows.
    pub umask: String,
    /// Software part of the identification line; empty means `Tidegate_<version>`. Default empty.
    pub banner: String,
    /// 0 standard, 1 atomic, 2 atomic with resume. Default 0.
    pub upload_mode: i64,
    /// Commands and notifications after file operations. Default none.
    pub actions: ActionsSection,
    /// Host keys; empty means `id_rsa` and `id_ed25519`, generated if missing. Default empty.
    pub keys: Vec<HostKey>,
    /// Deprecated: adds `scp` to the enabled SSH commands. Default false.
    pub enable_scp: bool,
    /// Key exchange algorithms in order of preference; empty means the defaults. Default empty.
    pub kex_algorithms: Vec<String>,
    /// Ciphers; empty means the defaults. Default empty.
    pub ciphers: Vec<String>,
    /// Message authentication codes in order of preference; empty means the defaults. Default empty.
    pub macs: Vec<String>,
    /// File whose content is shown before authentication; empty means none. Default empty.
    pub login_banner_file: String,
    /// 0 executes requests to change mode, owner and times, 1 ignores them. Default 0.
    pub setstat_mode: i64,
    /// SSH commands that clients may run; `*` means all. Default `md5sum`, `sha1sum`, `cd`, `pwd`.
    pub enabled_ssh_commands: Vec<String>,
    /// Whether git and rsync may run where the system cannot confine them to the user's files. Default false.
    pub allow_unconfined_commands: bool,
    /// Seconds that a client has to log in, counted from the TCP connection. Default 120.
    pub login_grace_time: i64,
    /// Connections that may be open before login, in total. Default 512.
    pub max_half_open: i64,
    /// Connections that may be open before login, for each client address. Default 64.
    pub max_half_open_per_ip: i64,
    /// Connections that may be open in total; 0 means no limit. Default 0.
    pub max_connections: i64,
    /// Seconds of silence after which the server sends a keep-alive request; 0 disables. Default 60.
    pub keepalive_interval: i64,
    /// Unanswered keep-alive requests after which the connection is closed. Default 3.
    pub keepalive_max: i64,
    /// Bytes in one direction after which new keys are negotiated; 0 means 1 GiB. Default 1073741824.
    pub rekey_bytes: i64,
    /// Seconds after which new keys are negotiated; 0 means by bytes only. Default 3600.
    pub rekey_seconds: i64,
    /// Seconds that running transfers get to finish when the server stops. Default 30.
    pub shutdown_grace_time: i64,
    /// SFTP extensions that are neither announced nor answered. Default none.
    pub disabled_sftp_extensions: Vec<String>,
    /// Whether an upload is on stable storage before its close is confirmed. Default false.
    pub upload_fsync: bool,
    /// Files and directories that one SFTP channel may have open. Default 1024.
    pub max_open_handles: i64,
    /// Channels that one connection may have open. Default 10.
    pub max_channels: i64,
    /// Programs (git, rsync) that may run at the same time. Default 100.
    pub max_programs: i64,
}

/// One entry of `sftpd.keys`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostKey {
    /// Path of the private key file; a relative one is taken from the configuration directory.
    pub private_key: String,
}

impl Default for Sftpd {
    fn default() -> Self {
        Self {
            bind_port: 2022,
            bind_address: String::new(),
            idle_timeout: 15,
            max_auth_tries: 0,
            umask: "0022".to_owned(),
            banner: String::new(),
            upload_mode: 0,
            actions: ActionsSection::default(),
            keys: Vec::new(),
            enable_scp: false,
            kex_algorithms: Vec::new(),
            ciphers: Vec::new(),
            macs: Vec::new(),
            login_banner_file: String::new(),
            setstat_mode: 0,
            enabled_ssh_commands: DEFAULT_SSH_COMMANDS.iter().map(|name| (*name).to_owned()).collect(),
            allow_unconfined_commands: false,
            login_grace_time: 120,
            max_half_open: 512,
            max_half_open_per_ip: 64,
            max_connections: 0,
            keepalive_interval: 60,
            keepalive_max: 3,
            rekey_bytes: 1_073_741_824,
            rekey_seconds: 3600,
            shutdown_grace_time: 30,
            disabled_sftp_extensions: Vec::new(),
            upload_fsync: false,
            max_open_handles: 1024,
            max_channels: 10,
            max_programs: 100,
        }
    }
}

/// The checked `sftpd` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address or host name to listen on, without brackets; empty means all interfaces, IPv4 and IPv6.
    pub bind_address: String,
    /// Port to listen on; 0 lets the system choose.
    pub bind_port: u16,
    /// Idle time after which a client is disconnected; `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Failed attempts after which the connection ends; `None` for no limit.
    pub max_auth_tries: Option<u32>,
    /// File mode creation mask of the process.
    pub umask: u32,
    /// The whole identification line without its line end, `SSH-2.0-…`.
    pub banner: String,
    /// 0 standard, 1 atomic, 2 atomic with resume.
    pub upload_mode: u8,
    /// Whether requests to change mode, owner and times succeed without effect.
    pub setstat_ignore: bool,
    /// Commands and notifications after file operations.
    pub actions: Actions,
    /// Where the host keys come from.
    pub host_keys: HostKeys,
    /// Names of key exchange algorithms, unchecked; empty means the defaults.
    pub kex_algorithms: Vec<String>,
    /// Names of ciphers, unchecked; empty means the defaults.
    pub ciphers: Vec<String>,
    /// Names of message authentication codes, unchecked; empty means the defaults.
    pub macs: Vec<String>,
    /// Text shown before authentication.
    pub login_banner: Option<String>,
    /// Enabled SSH commands, each one of [`SSH_COMMANDS`], without duplicates.
    pub ssh_commands: Vec<String>,
    /// Whether programs of the system may run without confinement.
    pub allow_unconfined_commands: bool,
    /// Time from the TCP connection to the end of the login.
    pub login_grace_time: Duration,
    /// Connections before login, in total.
    pub max_half_open: usize,
    /// Connections before login, for each client address.
    pub max_half_open_per_ip: usize,
    /// Connections in total; `None` for no limit.
    pub max_connections: Option<usize>,
    /// Silence before a keep-alive request; `None` for never.
    pub keepalive_interval: Option<Duration>,
    /// Unanswered keep-alive requests before the connection is closed.
    pub keepalive_max: usize,
    /// Bytes in one direction between key exchanges.
    pub rekey_bytes: u64,
    /// Time between key exchanges; `None` for no limit.
    pub rekey_interval: Option<Duration>,
    /// Time for running transfers when the server stops.
    pub shutdown_grace_time: Duration,
    /// SFTP extensions that are switched off, each one of [`SFTP_EXTENSIONS`].
    pub disabled_sftp_extensions: Vec<String>,
    /// Whether closing an upload waits for stable storage.
    pub upload_fsync: bool,
    /// Open files and directories of one SFTP channel.
    pub max_open_handles: usize,
    /// Open channels of one connection.
    pub max_channels: usize,
    /// Programs of the system that run at the same time.
    pub max_programs: usize,
}

/// Where the host keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeys {
    /// `id_rsa` and `id_ed25519` in this directory, generated if they are missing.
    Default(PathBuf),
    /// Exactly these files, each of which must load.
    Files(Vec<PathBuf>),
    /// Made at start and never written: portable mode.
    InMemory,
}

impl Sftpd {
    /// Turns the section into settings. Relative paths are taken from `config_dir`; what can be ignored is
    /// reported to `warn` as one sentence each.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that cannot be used.
    pub fn validate(self, config_dir: &Path, warn: &mut dyn FnMut(String)) -> Result<Settings, ConfigError> {
        let seconds = |key: &str, value: i64, least: u64| {
            in_range(key, value, least..=DAY_SECONDS, "a time in seconds").map(Duration::from_secs)
        };
        let optional = |time: Duration| (!time.is_zero()).then_some(time);
        let count = |key: &str, value: i64, least: usize| in_range(key, value, least..=1_000_000, "a number");
        let idle_minutes =
            in_range("sftpd.idle_timeout", self.idle_timeout, 0..=525_600_u64, "a time in minutes")?;
        let max_connections = count("sftpd.max_connections", self.max_connections, 0)?;
        let rekey_bytes = match self.rekey_bytes {
            0 => DEFAULT_REKEY_BYTES,
            bytes => in_range("sftpd.rekey_bytes", bytes, 1_048_576..=1_u64 << 36, "0 or a size in bytes")?,
        };
        Ok(Settings {
            bind_address: bind_address("sftpd.bind_address", &self.bind_address)?,
            bind_port: in_range("sftpd.bind_port", self.bind_port, 0..=u16::MAX, "a port number")?,
            idle_timeout: optional(Duration::from_secs(idle_minutes * 60)),
            max_auth_tries: max_auth_tries(self.max_auth_tries)?,
            umask: umask(&self.umask)?,
            banner: banner(&self.banner)?,
            upload_mode: in_range("sftpd.upload_mode", self.upload_mode, 0..=2, "a mode")?,
            setstat_ignore: in_range("sftpd.setstat_mode", self.setstat_mode, 0..=1_u8, "a mode")? == 1,
            actions: self.actions.validate("sftpd", ACTION_CONDITIONS)?,
            host_keys: host_keys(&self.keys, config_dir)?,
            kex_algorithms: self.kex_algorithms,
            ciphers: self.ciphers,
            macs: self.macs,
            login_banner: login_banner(&self.login_banner_file, config_dir, warn),
            ssh_commands: ssh_commands(&self.enabled_ssh_commands, self.enable_scp, warn),
            allow_unconfined_commands: self.allow_unconfined_commands,
            login_grace_time: seconds("sftpd.login_grace_time", self.login_grace_time, 1)?,
            max_half_open: count("sftpd.max_half_open", self.max_half_open, 1)?,
            max_half_open_per_ip: count("sftpd.max_half_open_per_ip", self.max_half_open_per_ip, 1)?,
            max_connections: (max_connections > 0).then_some(max_connections),
            keepalive_interval: optional(seconds("sftpd.keepalive_interval", self.keepalive_interval, 0)?),
            keepalive_max: count("sftpd.keepalive_max", self.keepalive_max, 1)?,
            rekey_bytes,
            rekey_interval: optional(seconds("sftpd.rekey_seconds", self.rekey_seconds, 0)?),
            shutdown_grace_time: seconds("sftpd.shutdown_grace_time", self.shutdown_grace_time, 0)?,
            disabled_sftp_extensions: disabled_extensions(self.disabled_sftp_extensions)?,
            upload_fsync: self.upload_fsync,
            max_open_handles: count("sftpd.max_open_handles", self.max_open_handles, 1)?,
            max_channels: in_range("sftpd.max_channels", self.max_channels, 1..=1000, "a number")?,
            max_programs: in_range("sftpd.max_programs", self.max_programs, 1..=100_000, "a number")?,
        })
    }
}

impl Default for Settings {
    /// The settings of an empty section with the current directory as configuration directory.
    fn default() -> Self {
        let defaults = Sftpd::default().validate(Path::new("."), &mut |_| {});
        defaults.expect("the defaults of every option lie in its own range; a test proves it")
    }
}

fn max_auth_tries(value: i64) -> Result<Option<u32>, ConfigError> {
    match value {
        0 => Ok(Some(6)),
        i64::MIN..0 => Ok(None),
        _ => in_range("sftpd.max_auth_tries", value, 1..=1000, "a number").map(Some),
    }
}

fn umask(text: &str) -> Result<u32, ConfigError> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0o").unwrap_or(digits);
    match u32::from_str_radix(digits, 8) {
        Ok(mask) if mask <= 0o377 && !digits.starts_with('+') => Ok(mask),
        _ => Err(ConfigError::new("sftpd.umask", text, "an octal number from 0000 to 0377, such as 0022")),
    }
}

/// The identification line of RFC 4253 §4.2, without CR LF.
fn banner(text: &str) -> Result<String, ConfigError> {
    let software = if text.trim().is_empty() { DEFAULT_BANNER } else { text.trim() };
    let printable = software.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !printable || software.len() > MAX_BANNER_BYTES {
        let expected = format!("printable ASCII text of at most {MAX_BANNER_BYTES} bytes");
        return Err(ConfigError::new("sftpd.banner", text, expected));
    }
    Ok(format!("SSH-2.0-{software}"))
}

fn host_keys(keys: &[HostKey], config_dir: &Path) -> Result<HostKeys, ConfigError> {
    if keys.is_empty() {
        return Ok(HostKeys::Default(config_dir.to_owned()));
    }
    let mut paths = Vec::with_capacity(keys.len());
    for key in keys {
        if key.private_key.is_empty() {
            return Err(ConfigError::new("sftpd.keys.private_key", "", "the path of a private key file"));
        }
        paths.push(resolve(config_dir, &key.private_key));
    }
    Ok(HostKeys::Files(paths))
}

fn login_banner(file: &str, config_dir: &Path, warn: &mut dyn FnMut(String)) -> Option<String> {
    if file.is_empty() {
        return None;
    }
    let path = resolve(config_dir, file);
    let too_big = |meta: std::fs::Metadata| meta.len() > MAX_LOGIN_BANNER_BYTES;
    let content = match std::fs::metadata(&path).map(too_big) {
        Ok(true) => Err(std::io::Error::other(format!("larger than {MAX_LOGIN_BANNER_BYTES} bytes"))),
        Ok(false) => std::fs::read(&path),
        Err(error) => Err(error),
    };
    match content {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            let path = path.display();
            warn(format!("sftpd.login_banner_file: cannot read {path}: {error}; no login banner is sent"));
            None
        }
    }
}

fn ssh_commands(enabled: &[String], enable_scp: bool, warn: &mut dyn FnMut(String)) -> Vec<String> {
    if enabled.iter().any(|name| name == "*") {
        return SSH_COMMANDS.iter().map(|name| (*name).to_owned()).collect();
    }
    let mut commands: Vec<String> = Vec::new();
    for name in enabled {
        if !SSH_COMMANDS.contains(&name.as_str()) {
            let known = SSH_COMMANDS.join(", ");
            warn(format!(
                "sftpd.enabled_ssh_commands: unknown command {name:?} is ignored, known are {known}"
            ));
        } else if !commands.contains(name) {
            commands.push(name.clone());
        }
    }
    if enable_scp && !commands.iter().any(|name| name == "scp") {
        warn("sftpd.enable_scp is deprecated: add scp to sftpd.enabled_ssh_commands instead".to_owned());
        commands.push("scp".to_owned());
    }
    commands
}

fn disabled_extensions(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    match names.iter().find(|name| !SFTP_EXTENSIONS.contains(&name.as_str())) {
        None => Ok(names),
        Some(unknown) => {
            let expected = format!("any of {}", SFTP_EXTENSIONS.join(", "));
            Err(ConfigError::new("sftpd.disabled_sftp_extensions", unknown, expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Sftpd)) -> (Result<Settings, ConfigError>, Vec<String>) {
        let mut section = Sftpd::default();
        change(&mut section);
        let mut warnings = Vec::new();
        let result = section.validate(Path::new("/etc/tidegate"), &mut |text| warnings.push(text));
        (result, warnings)
    }

    #[test]
    fn defaults_are_valid_and_mean_what_they_say() {
        let (settings, warnings) = check(|_| {});
        let settings = settings.unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!((settings.bind_port, settings.bind_address.as_str()), (2022, ""));
        assert_eq!(settings.idle_timeout, Some(Duration::from_secs(900)));
        assert_eq!(settings.max_auth_tries, Some(6));
        assert_eq!(settings.umask, 0o022);
        assert_eq!(settings.banner, format!("SSH-2.0-Tidegate_{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(settings.ssh_commands, DEFAULT_SSH_COMMANDS);
        assert_eq!(settings.rekey_bytes, 1 << 30);
        assert_eq!(settings.host_keys, HostKeys::Default("/etc/tidegate".into()));
        assert_eq!(Settings::default().host_keys, HostKeys::Default(".".into()));
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        type Change = fn(&mut Sftpd);
        let rows: [(&str, Change); 13] = [
            ("sftpd.bind_port", |s| s.bind_port = 65_536),
            ("sftpd.bind_address", |s| s.bind_address = "0.0.0.0:2022".into()),
            ("sftpd.idle_timeout", |s| s.idle_timeout = -1),
            ("sftpd.umask", |s| s.umask = "0400".into()),
            ("sftpd.umask", |s| s.umask = "89".into()),
            ("sftpd.banner", |s| s.banner = "a\r\nb".into()),
            ("sftpd.banner", |s| s.banner = "x".repeat(201)),
            ("sftpd.upload_mode", |s| s.upload_mode = 3),
            ("sftpd.setstat_mode", |s| s.setstat_mode = 2),
            ("sftpd.max_half_open", |s| s.max_half_open = 0),
            ("sftpd.login_grace_time", |s| s.login_grace_time = 0),
            ("sftpd.keys.private_key", |s| s.keys = vec![HostKey::default()]),
            ("sftpd.disabled_sftp_extensions", |s| s.disabled_sftp_extensions = vec!["statvfs".into()]),
        ];
        for (key, change) in rows {
            assert_eq!(check(change).0.map_err(|error| error.key), Err(key.to_owned()));
        }
    }

    #[test]
    fn special_values() {
        assert_eq!(check(|s| s.max_auth_tries = -3).0.unwrap().max_auth_tries, None);
        assert_eq!(check(|s| s.idle_timeout = 0).0.unwrap().idle_timeout, None);
        assert_eq!(check(|s| s.umask = "377".into()).0.unwrap().umask, 0o377);
        assert_eq!(check(|s| s.banner = " my server ".into()).0.unwrap().banner, "SSH-2.0-my server");
        assert_eq!(check(|s| s.rekey_bytes = 0).0.unwrap().rekey_bytes, 1 << 30);
        assert_eq!(check(|s| s.max_connections = 7).0.unwrap().max_connections, Some(7));
        let keys = |s: &mut Sftpd| {
            s.keys = ["id_rsa", "/keys/ed"].map(|path| HostKey { private_key: path.to_owned() }).into();
        };
        let expected = vec![PathBuf::from("/etc/tidegate/id_rsa"), PathBuf::from("/keys/ed")];
        assert_eq!(check(keys).0.unwrap().host_keys, HostKeys::Files(expected));
    }

    #[test]
    fn the_list_of_ssh_commands_replaces_the_defaults() {
        let commands = |names: &[&str], scp: bool| {
            let (settings, warnings) = check(|s| {
                s.enabled_ssh_commands = names.iter().map(|name| (*name).to_owned()).collect();
                s.enable_scp = scp;
            });
            (settings.unwrap().ssh_commands, warnings.len())
        };
        assert_eq!(commands(&[], false), (vec![], 0));
        assert_eq!(commands(&["scp", "scp", "rm"], true), (vec!["scp".to_owned()], 1));
        assert_eq!(commands(&["pwd"], true), (vec!["pwd".to_owned(), "scp".to_owned()], 1));
        assert_eq!(commands(&["cd", "*"], false).0, SSH_COMMANDS);
    }

    #[test]
    fn an_unreadable_login_banner_is_only_a_warning() {
        let (settings, warnings) = check(|s| s.login_banner_file = "missing.txt".into());
        assert_eq!(settings.unwrap().login_banner, None);
        assert!(warnings[0].contains("/etc/tidegate/missing.txt"), "{warnings:?}");
    }
}
