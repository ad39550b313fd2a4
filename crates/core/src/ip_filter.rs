//! From where a user may log in (data model §6, IP filter).

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks in CIDR notation that may and may not log in. Denied wins; without any allowed network,
/// everyone who is not denied may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpFilters {
    allowed: Vec<String>,
    denied: Vec<String>,
}

impl IpFilters {
    /// Keeps the networks as they were written.
    pub fn new(allowed: Vec<String>, denied: Vec<String>) -> Self {
        Self { allowed, denied }
    }

    /// Networks that may log in.
    pub fn allowed(&self) -> &[String] {
        &self.allowed
    }

    /// Networks that may not.
    pub fn denied(&self) -> &[String] {
        &self.denied
    }

    /// Whether someone from `peer` may log in. An entry that is no network refuses everyone who reaches
    /// it: a filter that cannot be read must not let anybody in.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        for entry in &self.denied {
            match network(entry) {
                Some(network) if !network.contains(&peer) => {}
                _ => return false,
            }
        }
        for entry in &self.allowed {
            match network(entry) {
                Some(network) if network.contains(&peer) => return true,
                Some(_) => {}
                None => return false,
            }
        }
        self.allowed.is_empty()
    }
}

/// Reads `address/prefix`; an IPv4-mapped IPv6 network counts as IPv4, as addresses do. Every other IPv6
/// network, `::/0` as well, is about IPv6 peers alone. A mapped address with a prefix shorter than the
/// mapping is no network: `::ffff:10.0.0.0/8` would deny IPv6 where 10.0.0.0/8 was meant.
pub(crate) fn network(entry: &str) -> Option<IpNet> {
    let network: IpNet = entry.parse().ok()?;
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        return IpNet::new(v4.into(), v6.prefix_len().checked_sub(96)?).ok();
    }
    Some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_admitted() {
        let filters = |allowed: &[&str], denied: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
            IpFilters::new(own(allowed), own(denied))
        };
        for (allowed, denied, peer, want) in [
            (&[][..], &[][..], "10.0.0.1", true),
            (&["10.0.0.0/8"], &[], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "11.1.2.3", false),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false),
            (&[], &["10.1.0.0/16"], "10.2.2.3", true),
            (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], &[], "10.1.2.3", true),
            (&["2001:db8::/32"], &[], "2001:db8::1", true),
            (&["2001:db8::/32"], &[], "10.0.0.1", false),
            (&["rubbish"], &[], "10.0.0.1", false),
            (&[], &["rubbish"], "10.0.0.1", false),
            (&[], &["::/0"], "10.0.0.1", true),
            (&[], &["::/0"], "::ffff:10.0.0.1", true),
            (&[], &["::/0"], "2001:db8::1", false),
            (&["::/0"], &[], "::ffff:10.0.0.1", false),
            (&[], &["::ffff:0:0/96"], "10.0.0.1", false),
            (&[], &["::ffff:0:0/96"], "2001:db8::1", true),
        ] {
            let peer: IpAddr = peer.parse().unwrap();
            assert_eq!(filters(allowed, denied).admits(peer), want, "{allowed:?} {denied:?} {peer}");
        }
    }

    #[test]
    fn a_mapped_network_with_the_prefix_of_an_ipv4_network_denied_nobody_whom_it_meant() {
        for entry in ["::ffff:10.0.0.0/8", "::ffff:0:0/90", "::ffff:0:0/95", "::ffff:10.1.2.3/0"] {
            assert_eq!(network(entry), None, "{entry}");
            for (allowed, denied) in [(vec![], vec![entry.to_owned()]), (vec![entry.to_owned()], vec![])] {
                let filters = IpFilters::new(allowed, denied);
                for peer in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"] {
                    assert!(!filters.admits(peer.parse().unwrap()), "{filters:?} {peer}");
                }
            }
        }
    }
}
