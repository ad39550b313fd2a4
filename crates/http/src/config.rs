//! The `httpd` section of the configuration: the keys as written, and the settings made from them.
//!
//! Keys and defaults are those of `docs/config.md`, which a test of the binary compares with the default of
//! [`Httpd`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_core::config_error::{ConfigError, bind_address, in_range, resolve};

/// The `httpd` section as written in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Httpd {
    /// TCP port to listen on; 0 disables the HTTP server. Default 8080.
    pub bind_port: i64,
    /// Address to listen on; empty means all interfaces. Default `127.0.0.1`.
    pub bind_address: String,
    /// Directory of the page templates. Default `templates`.
    pub templates_path: String,
    /// Directory of the files that the pages need. Default `static`.
    pub static_files_path: String,
    /// Directory of the backups that the REST API writes. Default `backups`.
    pub backups_path: String,
    /// Allows an address that other machines can reach although there is no authentication. Default false.
    pub allow_unauthenticated: bool,
}

impl Default for Httpd {
    fn default() -> Self {
        Self {
            bind_port: 8080,
            bind_address: "127.0.0.1".to_owned(),
            templates_path: "templates".to_owned(),
            static_files_path: "static".to_owned(),
            backups_path: "backups".to_owned(),
            allow_unauthenticated: false,
        }
    }
}

/// The checked `httpd` section of a server that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address or host name to listen on, without brackets; empty means all interfaces.
    pub bind_address: String,
    /// Port to listen on, not 0.
    pub bind_port: u16,
    /// Directory of the page templates.
    pub templates_path: PathBuf,
    /// Directory of the files that the pages need.
    pub static_files_path: PathBuf,
    /// Directory of backups.
    pub backups_path: PathBuf,
    /// Whether the address may be reachable from other machines without authentication.
    pub allow_unauthenticated: bool,
}

impl Httpd {
    /// Turns the section into settings, or into `None` if `bind_port` 0 disables the HTTP server. Relative
    /// paths are taken from `config_dir`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that cannot be used, and for an address that other machines can
    /// reach unless `allow_unauthenticated` is set.
    pub fn validate(self, config_dir: &Path) -> Result<Option<Settings>, ConfigError> {
        let bind_port = in_range("httpd.bind_port", self.bind_port, 0..=u16::MAX, "a port number")?;
        let address = bind_address("httpd.bind_address", &self.bind_address)?;
        if bind_port == 0 {
            return Ok(None);
        }
        if !self.allow_unauthenticated && !is_loopback(&address) {
            let expected = "a loopback address such as 127.0.0.1, because whoever reaches the REST API can \
                            create users; set httpd.allow_unauthenticated to true to listen there anyway";
            return Err(ConfigError::new("httpd.bind_address", self.bind_address, expected));
        }
        Ok(Some(Settings {
            bind_address: address,
            bind_port,
            templates_path: resolve(config_dir, &self.templates_path),
            static_files_path: resolve(config_dir, &self.static_files_path),
            backups_path: resolve(config_dir, &self.backups_path),
            allow_unauthenticated: self.allow_unauthenticated,
        }))
    }
}

fn is_loopback(address: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => address.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Httpd)) -> Result<Option<Settings>, ConfigError> {
        let mut section = Httpd::default();
        change(&mut section);
        section.validate(Path::new("/etc/tidegate"))
    }

    #[test]
    fn defaults_listen_on_loopback() {
        let settings = check(|_| {}).unwrap().unwrap();
        assert_eq!((settings.bind_address.as_str(), settings.bind_port), ("127.0.0.1", 8080));
        assert_eq!(settings.backups_path, Path::new("/etc/tidegate/backups"));
    }

    #[test]
    fn port_zero_disables_the_server() {
        assert_eq!(check(|s| s.bind_port = 0), Ok(None));
        assert_eq!(check(|s| s.bind_port = 70_000).map_err(|e| e.key), Err("httpd.bind_port".to_owned()));
    }

    #[test]
    fn an_open_address_needs_an_explicit_decision() {
        for address in ["", "0.0.0.0", "[::]", "192.0.2.1", "files.example.org", "::ffff:192.0.2.1"] {
            let error = check(|s| s.bind_address = address.into()).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), ("httpd.bind_address", address));
            let allowed = check(|s| {
                s.bind_address = address.into();
                s.allow_unauthenticated = true;
            });
            assert!(allowed.unwrap().is_some(), "{address}");
        }
        for address in ["127.0.0.1", "127.8.9.1", "[::1]", "localhost", "::ffff:127.0.0.1"] {
            assert!(check(|s| s.bind_address = address.into()).is_ok(), "{address}");
        }
    }
}
