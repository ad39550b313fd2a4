//! The `httpd` section of the configuration: the keys as written, and the settings made from them.
//!
//! Keys and defaults are those of `docs/config.md`, which a test of the binary compares with the default of
//! [`Httpd`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tidegate_core::config_error::{ConfigError, bind_address, in_range, resolve};

use crate::guard::Origin;

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
    /// Allows an address that other machines can reach although there is no `auth_user_file`. Default false.
    pub allow_unauthenticated: bool,
    /// File of the administrators, one `name:hash` on a line. Default: empty, everybody is let in.
    pub auth_user_file: String,
    /// Certificate chain for HTTPS, in PEM. Default: empty, plain HTTP.
    pub certificate_file: String,
    /// Private key of the certificate, in PEM. Default: empty.
    pub certificate_key_file: String,
    /// Origins, such as `https://admin.example.org`, under which a reverse proxy offers this server. Default:
    /// none.
    pub trusted_origins: Vec<String>,
    /// Addresses and networks of reverse proxies that are believed who the client is. Default: none.
    pub trusted_proxies: Vec<String>,
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
            auth_user_file: String::new(),
            certificate_file: String::new(),
            certificate_key_file: String::new(),
            trusted_origins: Vec::new(),
            trusted_proxies: Vec::new(),
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
    /// File of the administrators; without one everybody is let in.
    pub auth_user_file: Option<PathBuf>,
    /// Certificate chain and private key for HTTPS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Origins under which a reverse proxy offers this server.
    pub trusted_origins: Vec<Origin>,
    /// Reverse proxies that are believed who the client is.
    pub trusted_proxies: Vec<IpNet>,
}

impl Httpd {
    /// Turns the section into settings, or into `None` if `bind_port` 0 disables the HTTP server. Relative
    /// paths are taken from `config_dir`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that cannot be used, and for an address that other machines can
    /// reach unless `auth_user_file` or `allow_unauthenticated` is set.
    pub fn validate(self, config_dir: &Path) -> Result<Option<Settings>, ConfigError> {
        let bind_port = in_range("httpd.bind_port", self.bind_port, 0..=u16::MAX, "a port number")?;
        let address = bind_address("httpd.bind_address", &self.bind_address)?;
        if bind_port == 0 {
            return Ok(None);
        }
        let file = |path: &str| (!path.is_empty()).then(|| resolve(config_dir, path));
        let auth_user_file = file(&self.auth_user_file);
        if auth_user_file.is_none() && !self.allow_unauthenticated && !is_loopback(&address) {
            let expected = "a loopback address such as 127.0.0.1, because whoever reaches the REST API can \
                            create users; name the administrators in httpd.auth_user_file, or set \
                            httpd.allow_unauthenticated to true, to listen there";
            return Err(ConfigError::new("httpd.bind_address", self.bind_address, expected));
        }
        let certificate = match (file(&self.certificate_file), file(&self.certificate_key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                let expected = "the private key of httpd.certificate_file, which is set";
                return Err(ConfigError::new("httpd.certificate_key_file", "", expected));
            }
            (None, Some(_)) => {
                let expected = "the certificate of httpd.certificate_key_file, which is set";
                return Err(ConfigError::new("httpd.certificate_file", "", expected));
            }
        };
        Ok(Some(Settings {
            bind_address: address,
            bind_port,
            templates_path: resolve(config_dir, &self.templates_path),
            static_files_path: resolve(config_dir, &self.static_files_path),
            backups_path: resolve(config_dir, &self.backups_path),
            allow_unauthenticated: self.allow_unauthenticated,
            auth_user_file,
            certificate,
            trusted_origins: origins(&self.trusted_origins)?,
            trusted_proxies: networks(&self.trusted_proxies)?,
        }))
    }
}

fn origins(texts: &[String]) -> Result<Vec<Origin>, ConfigError> {
    let one = |text: &String| {
        Origin::parse(text).ok_or_else(|| {
            let expected = "an origin such as https://admin.example.org, without a path";
            ConfigError::new("httpd.trusted_origins", text, expected)
        })
    };
    texts.iter().map(one).collect()
}

/// An address alone is a network of one.
fn networks(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let one = |text: &String| {
        let text = text.trim();
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| {
            let expected = "an address such as 10.0.0.1 or a network such as 10.0.0.0/8";
            ConfigError::new("httpd.trusted_proxies", text, expected)
        })
    };
    texts.iter().map(one).collect()
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

    #[test]
    fn an_open_address_with_a_sign_in() {
        let settings = check(|s| {
            s.bind_address = String::new();
            s.auth_user_file = "admins".into();
        });
        assert_eq!(settings.unwrap().unwrap().auth_user_file.unwrap(), Path::new("/etc/tidegate/admins"));
    }

    #[test]
    fn certificate_and_key_come_together() {
        let both = check(|s| {
            s.certificate_file = "tls/cert.pem".into();
            s.certificate_key_file = "/run/key.pem".into();
        });
        let (certificate, key) = both.unwrap().unwrap().certificate.unwrap();
        assert_eq!(
            (&*certificate, &*key),
            (Path::new("/etc/tidegate/tls/cert.pem"), Path::new("/run/key.pem"))
        );
        let error = check(|s| s.certificate_file = "cert.pem".into()).unwrap_err();
        assert_eq!(error.key, "httpd.certificate_key_file");
        let error = check(|s| s.certificate_key_file = "key.pem".into()).unwrap_err();
        assert_eq!(error.key, "httpd.certificate_file");
    }

    #[test]
    fn what_a_reverse_proxy_needs() {
        let settings = check(|s| {
            s.trusted_origins = vec!["https://admin.example.org".into(), "http://[::1]:3000".into()];
            s.trusted_proxies = vec!["10.0.0.1".into(), "fd00::/8".into()];
        });
        let settings = settings.unwrap().unwrap();
        assert_eq!((settings.trusted_origins.len(), settings.trusted_proxies.len()), (2, 2));
        for text in
            ["admin.example.org", "https://", "https://a/b", "https://a?b", "ftp://a", "null", "https://u@a"]
        {
            let error = check(|s| s.trusted_origins = vec![text.into()]).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), ("httpd.trusted_origins", text));
        }
        for text in ["", "proxy.example.org", "10.0.0.0/33", "10.0.0.1:80"] {
            let error = check(|s| s.trusted_proxies = vec![text.into()]).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), ("httpd.trusted_proxies", text));
        }
    }
}
