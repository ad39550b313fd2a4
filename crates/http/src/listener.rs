//! Where the server listens: from the configured address to a socket, and the refusal of addresses that other
//! machines can reach.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

use crate::auth::UserFileError;
use crate::config::Settings;
use crate::tls::TlsError;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host name has no address.
    #[error("httpd.bind_address is {address:?}, which cannot be resolved: {source}")]
    Resolve {
        /// The configured address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Whoever reaches the address could manage the users.
    #[error(
        "httpd.bind_address is {address:?}, which other machines can reach, and there is no authentication: \
         listen on 127.0.0.1, name the administrators in httpd.auth_user_file, or set \
         httpd.allow_unauthenticated to true"
    )]
    Unauthenticated {
        /// The configured address.
        address: String,
    },
    /// The system refuses.
    #[error("cannot listen on httpd.bind_address {address:?}, httpd.bind_port {port}: {source}")]
    Listen {
        /// The configured address.
        address: String,
        /// The configured port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The file of the administrators cannot be used.
    #[error(transparent)]
    Users(#[from] UserFileError),
    /// Certificate and key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Listens on the configured address: an empty one is all interfaces, a name is the first of its addresses
/// that works, IPv4 first.
pub(crate) async fn listen(settings: &Settings) -> Result<TcpListener, BindError> {
    let address = settings.bind_address.clone();
    let candidates = match addresses(&address, settings.bind_port).await {
        Ok(candidates) => candidates,
        Err(source) => return Err(BindError::Resolve { address, source }),
    };
    let reachable = |addr: &SocketAddr| !addr.ip().to_canonical().is_loopback();
    let is_guarded = settings.auth_user_file.is_some() || settings.allow_unauthenticated;
    if !is_guarded && candidates.iter().any(reachable) {
        return Err(BindError::Unauthenticated { address });
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in candidates {
        match open(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(BindError::Listen { address, port: settings.bind_port, source: last })
}

async fn addresses(address: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if address.is_empty() {
        let all: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return Ok(all.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let mut found: Vec<_> = lookup_host((address, port)).await?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // All interfaces means IPv4 as well, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
