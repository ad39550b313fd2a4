//! The `data_provider` section of the configuration: the keys as written, and the settings made from them.
//!
//! Whether a driver is compiled in is known where stores are opened, not here. Keys and defaults are those of
//! `docs/config.md`, which a test of the binary compares with the default of [`DataProvider`].

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
pub use tidegate_core::config_error::Actions;
use tidegate_core::config_error::{ActionsSection, ConfigError, in_range, resolve};

/// The conditions of `data_provider.actions.execute_on`.
pub const ACTION_CONDITIONS: &[&str] = &["add", "update", "delete"];

/// Text that must not appear in logs: its `Debug` form hides it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, to be handed to what needs it and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "[redacted]" })
    }
}

/// The `data_provider` section as written in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataProvider {
    /// `sqlite`, `mysql`, `postgresql`, `bolt` or `memory`. Default `sqlite`.
    pub driver: String,
    /// Database name; for sqlite and bolt the path of the file. Default `sftpgo.db`.
    pub name: String,
    /// Database host; empty for sqlite, bolt and memory. Default empty.
    pub host: String,
    /// Database port, ignored by sqlite, bolt and memory. Default 5432.
    pub port: i64,
    /// Database user. Default empty.
    pub username: String,
    /// Database password. Default empty.
    pub password: Secret,
    /// TLS to the database: 0 off, 1 required, 2 and 3 as the driver defines them. Default 0.
    pub sslmode: i64,
    /// Connection string used instead of the keys above. Default empty.
    #[serde(alias = "connectionstring")]
    pub connection_string: Secret,
    /// Table or view that holds the users. Default `users`.
    pub users_table: String,
    /// 1 lets the REST API and the web admin change users, 0 forbids it. Default 1.
    pub manage_users: i64,
    /// 0 no quota tracking, 1 for every user, 2 for users with a quota. Default 2.
    pub track_quota: i64,
    /// Most open database connections for mysql and postgresql; 0 means no limit. Default 0.
    pub pool_size: i64,
    /// Absolute path below which users without a home directory get one. Default empty, none.
    pub users_base_dir: String,
    /// Commands and notifications after changes of users. Default none.
    pub actions: ActionsSection,
}

impl Default for DataProvider {
    fn default() -> Self {
        Self {
            driver: "sqlite".to_owned(),
            name: "sftpgo.db".to_owned(),
            host: String::new(),
            port: 5432,
            username: String::new(),
            password: Secret::default(),
            sslmode: 0,
            connection_string: Secret::default(),
            users_table: "users".to_owned(),
            manage_users: 1,
            track_quota: 2,
            pool_size: 0,
            users_base_dir: String::new(),
            actions: ActionsSection::default(),
        }
    }
}

/// Where users are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// One SQLite file.
    Sqlite,
    /// A MySQL or MariaDB server.
    MySql,
    /// A PostgreSQL server.
    PostgreSql,
    /// One file of a transactional key-value store.
    Bolt,
    /// Memory only, lost at exit.
    Memory,
}

impl Driver {
    /// The name used in the configuration and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::MySql => "mysql",
            Self::PostgreSql => "postgresql",
            Self::Bolt => "bolt",
            Self::Memory => "memory",
        }
    }
}

/// The checked `data_provider` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where users are kept.
    pub driver: Driver,
    /// Database name as configured.
    pub name: String,
    /// The database file for sqlite and bolt: `name` resolved against the configuration directory.
    pub path: PathBuf,
    /// Database host.
    pub host: String,
    /// Database port.
    pub port: u16,
    /// Database user.
    pub username: String,
    /// Database password.
    pub password: Secret,
    /// TLS mode, 0 to 3, as the driver defines it.
    pub ssl_mode: u8,
    /// Replaces the parameters above.
    pub connection_string: Option<Secret>,
    /// Table or view of users: letters, digits and `_`, optionally after a schema name and a dot.
    pub users_table: String,
    /// Whether users may be changed through this server.
    pub manage_users: bool,
    /// 0 no quota tracking, 1 for every user, 2 for users with a quota.
    pub track_quota: u8,
    /// Most open connections; `None` for no limit.
    pub pool_size: Option<u32>,
    /// Absolute base of home directories that are not given.
    pub users_base_dir: Option<PathBuf>,
    /// Commands and notifications after changes of users.
    pub actions: Actions,
}

impl DataProvider {
    /// Turns the section into settings. Relative paths are taken from `config_dir`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that cannot be used.
    pub fn validate(self, config_dir: &Path) -> Result<Settings, ConfigError> {
        let driver = driver(&self.driver)?;
        let is_file = matches!(driver, Driver::Sqlite | Driver::Bolt);
        if is_file && self.name.is_empty() && self.connection_string.expose().is_empty() {
            return Err(ConfigError::new("data_provider.name", "", "the path of the database file"));
        }
        let pool_size = in_range("data_provider.pool_size", self.pool_size, 0..=100_000, "a number")?;
        let base = (!self.users_base_dir.is_empty()).then(|| PathBuf::from(&self.users_base_dir));
        if base.as_deref().is_some_and(|path| !path.is_absolute()) {
            let key = "data_provider.users_base_dir";
            return Err(ConfigError::new(key, self.users_base_dir, "an absolute path, or nothing"));
        }
        Ok(Settings {
            driver,
            path: resolve(config_dir, &self.name),
            name: self.name,
            host: self.host,
            port: in_range("data_provider.port", self.port, 0..=u16::MAX, "a port number")?,
            username: self.username,
            password: self.password,
            ssl_mode: in_range("data_provider.sslmode", self.sslmode, 0..=3, "a mode")?,
            connection_string: Some(self.connection_string).filter(|text| !text.expose().is_empty()),
            users_table: users_table(self.users_table)?,
            manage_users: in_range("data_provider.manage_users", self.manage_users, 0..=1_u8, "a switch")?
                == 1,
            track_quota: in_range("data_provider.track_quota", self.track_quota, 0..=2, "a mode")?,
            pool_size: (pool_size > 0).then_some(pool_size),
            users_base_dir: base,
            actions: self.actions.validate("data_provider", ACTION_CONDITIONS)?,
        })
    }
}

impl Settings {
    /// The settings of a memory store, for portable mode and tests.
    pub fn memory() -> Self {
        let section = DataProvider { driver: "memory".to_owned(), ..DataProvider::default() };
        let settings = section.validate(Path::new("."));
        settings.expect("the defaults of every option lie in its own range; a test proves it")
    }
}

fn driver(name: &str) -> Result<Driver, ConfigError> {
    let drivers = [Driver::Sqlite, Driver::MySql, Driver::PostgreSql, Driver::Bolt, Driver::Memory];
    let known = drivers.into_iter().find(|driver| driver.name() == name);
    known.ok_or_else(|| {
        let expected = format!("one of {}", drivers.map(Driver::name).join(", "));
        ConfigError::new("data_provider.driver", name, expected)
    })
}

/// The name becomes part of SQL text, so only plain identifiers pass.
fn users_table(name: String) -> Result<String, ConfigError> {
    let is_identifier = |part: &str| {
        let mut chars = part.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && part.len() <= 63 && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if name.split('.').count() <= 2 && name.split('.').all(is_identifier) {
        return Ok(name);
    }
    let expected = "a table name of ASCII letters, digits and _, optionally schema.table";
    Err(ConfigError::new("data_provider.users_table", name, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut DataProvider)) -> Result<Settings, ConfigError> {
        let mut section = DataProvider::default();
        change(&mut section);
        section.validate(Path::new("/etc/tidegate"))
    }

    #[test]
    fn defaults_are_valid_and_mean_what_they_say() {
        let settings = check(|_| {}).unwrap();
        assert_eq!((settings.driver, settings.driver.name()), (Driver::Sqlite, "sqlite"));
        assert_eq!(settings.path, Path::new("/etc/tidegate/sftpgo.db"));
        assert_eq!((settings.manage_users, settings.track_quota, settings.pool_size), (true, 2, None));
        assert_eq!((settings.connection_string, settings.users_base_dir), (None, None));
        assert_eq!(Settings::memory().driver, Driver::Memory);
    }

    #[test]
    fn values_that_cannot_be_used_are_refused_by_name() {
        type Change = fn(&mut DataProvider);
        let rows: [(&str, Change); 10] = [
            ("data_provider.driver", |s| s.driver = "oracle".into()),
            ("data_provider.name", |s| s.name = String::new()),
            ("data_provider.port", |s| s.port = 65_536),
            ("data_provider.sslmode", |s| s.sslmode = 4),
            ("data_provider.users_table", |s| s.users_table = "users; drop table x".into()),
            ("data_provider.users_table", |s| s.users_table = "a.b.c".into()),
            ("data_provider.manage_users", |s| s.manage_users = 2),
            ("data_provider.track_quota", |s| s.track_quota = -1),
            ("data_provider.users_base_dir", |s| s.users_base_dir = "srv".into()),
            ("data_provider.actions.execute_on", |s| s.actions.execute_on = vec!["upload".into()]),
        ];
        for (key, change) in rows {
            assert_eq!(check(change).map_err(|error| error.key), Err(key.to_owned()));
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let secret = |s: &mut DataProvider| {
            s.password = Secret::new("hunter2");
            s.connection_string = Secret::new("host=x password=hunter2");
        };
        let settings = check(secret).unwrap();
        assert_eq!(settings.password.expose(), "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn the_old_spelling_of_the_connection_string_is_accepted() {
        let section: DataProvider = serde_json::from_str(r#"{"connectionstring":"x"}"#).unwrap();
        assert_eq!(section.connection_string.expose(), "x");
    }
}
