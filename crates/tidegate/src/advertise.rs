//! Announces the portable service in the local network with multicast DNS (RFC 6762, RFC 6763).

use std::time::Duration;

use anyhow::{Context as _, Result};
use mdns_sd::{ServiceDaemon, ServiceInfo, UnregisterStatus};

use crate::version::VERSION;

const SERVICE_TYPE: &str = "_sftp-ssh._tcp.local.";
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// A running announcement; [`Advertisement::stop`] says goodbye.
pub(crate) struct Advertisement {
    daemon: ServiceDaemon,
    full_name: String,
}

/// What is told to the network beside port and version.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Credentials<'a> {
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

impl Advertisement {
    /// Announces `Tidegate portable <port>` on all interfaces under the host name of this machine.
    ///
    /// # Errors
    /// No multicast socket, or a value that does not fit into a TXT record. Nothing that should stop the server.
    pub(crate) fn start(port: u16, credentials: Credentials<'_>) -> Result<Self> {
        let info = service(&host_name(), port, credentials)?;
        let full_name = info.get_fullname().to_owned();
        let daemon = ServiceDaemon::new().context("cannot open a multicast DNS socket")?;
        daemon.register(info).context("cannot announce the service")?;
        Ok(Self { daemon, full_name })
    }

    /// Withdraws the announcement. Blocks for a second at most.
    pub(crate) fn stop(self) {
        if let Ok(done) = self.daemon.unregister(&self.full_name) {
            let _: Result<UnregisterStatus, _> = done.recv_timeout(GOODBYE_PATIENCE);
        }
        let _ = self.daemon.shutdown();
    }
}

fn service(host: &str, port: u16, credentials: Credentials<'_>) -> Result<ServiceInfo> {
    let version = VERSION.to_string();
    let mut properties = vec![("version", version.as_str())];
    properties.extend(credentials.username.map(|name| ("user", name)));
    properties.extend(credentials.password.map(|password| ("password", password)));
    let name = format!("Tidegate portable {port}");
    let info = ServiceInfo::new(SERVICE_TYPE, &name, host, "", port, properties.as_slice());
    Ok(info.context("cannot announce the service")?.enable_addr_auto())
}

/// The name of this machine in the `.local` domain.
fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    // A fully qualified name would not resolve in .local, and a dot separates labels.
    let label = name.split('.').next().filter(|label| !label.is_empty()).unwrap_or("tidegate");
    format!("{label}.local.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_told_only_if_given() {
        let info = service("p1.local.", 53_705, Credentials::default()).unwrap();
        assert_eq!(info.get_fullname(), "Tidegate portable 53705._sftp-ssh._tcp.local.");
        assert_eq!(info.get_property_val_str("version"), Some(VERSION.to_string().as_str()));
        assert_eq!((info.get_property("user"), info.get_property("password")), (None, None));
        let credentials = Credentials { username: Some("user"), password: Some("EWOo6pJe") };
        let info = service("p1.local.", 53_705, credentials).unwrap();
        assert_eq!(info.get_property_val_str("user"), Some("user"));
        assert_eq!(info.get_property_val_str("password"), Some("EWOo6pJe"));
        let long = "x".repeat(300);
        assert!(service("p1.local.", 1, Credentials { username: Some(&long), password: None }).is_err());
    }

    #[test]
    fn the_host_name_is_one_label_in_local() {
        let name = host_name();
        assert!(name.ends_with(".local.") && name.matches('.').count() == 2, "{name}");
    }
}
