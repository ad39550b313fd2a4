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

/// Reads `address/prefix`; an IPv4-mapped IPv6 network counts as IPv4, as addresses do.
pub(crate) fn network(entry: &str) -> Option<IpNet> {
    let network: IpNet = entry.parse().ok()?;
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && v6.prefix_len() >= 96
    {
        return IpNet::new(v4.into(), v6.prefix_len() - 96).ok();
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
        ] {
            let peer: IpAddr = peer.parse().unwrap();
            assert_eq!(filters(allowed, denied).admits(peer), want, "{allowed:?} {denied:?} {peer}");
        }
    }
}
