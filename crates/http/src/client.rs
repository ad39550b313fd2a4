//! Where a request comes from: the address at the other end of the connection, or the one that a trusted
//! reverse proxy names (`httpd.trusted_proxies`). Attempts to sign in are limited for this address; what the
//! request log shows is its own matter.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who sent a request: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address that is held responsible.
    pub(crate) ip: IpAddr,
    /// Whether the browser speaks HTTPS, with us or with the proxy.
    pub(crate) https: bool,
}

impl Client {
    /// The client of a request that came from `peer`, over TLS or not.
    pub(crate) fn of(headers: &HeaderMap, peer: SocketAddr, tls: bool, proxies: &[IpNet]) -> Self {
        let is_proxy = |ip: IpAddr| proxies.iter().any(|net| net.contains(&ip));
        let peer = peer.ip().to_canonical();
        if !is_proxy(peer) {
            return Self { ip: peer, https: tls };
        }
        let proto = headers.get(X_FORWARDED_PROTO).is_some_and(|value| value.as_bytes() == b"https");
        Self { ip: forwarded_for(headers, is_proxy).unwrap_or(peer), https: tls || proto }
    }
}

/// The last address of `X-Forwarded-For` that is not a trusted proxy's: the ones before it are the word of
/// whoever sent them. `None` if there is none, or what stands there is not an address.
fn forwarded_for(headers: &HeaderMap, is_proxy: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    for line in lines.iter().rev() {
        for text in line.to_str().ok()?.rsplit(',') {
            let ip = address(text.trim())?;
            if !is_proxy(ip) {
                return Some(ip);
            }
        }
    }
    None
}

/// Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|addr| addr.ip()));
    ip.ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str], proto: &str) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_str(proto).unwrap());
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let client = Client::of(&headers, SocketAddr::new(peer.parse().unwrap(), 1), false, &proxies);
        (client.ip.to_string(), client.https)
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let of = |peer: &str, forwarded: &[&str]| client(peer, forwarded, "http").0;
        assert_eq!(of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["203.0.113.9", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1:5000"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:5000"]), "2001:db8::1");
        for nothing in ["", "unknown", "198.51.100.1, x", "10.0.0.7"] {
            assert_eq!(of("10.0.0.1", &[nothing]), "10.0.0.1", "{nothing:?}");
        }
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn https_at_the_proxy() {
        assert!(client("10.0.0.1", &[], "https").1);
        assert!(!client("10.0.0.1", &[], "http").1);
        assert!(!client("192.0.2.1", &[], "https").1, "anybody could say so");
    }
}
