//! How often an address may fail to sign in: ten times in a minute. Who it is that fails, and what the answer
//! looks like, is `gate.rs`'s.
//!
//! An attempt counts as failed from its beginning until it is known to be good, so that many at once do not
//! slip through while their passwords are being checked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures within [`WINDOW`] after which an address has to wait.
pub(crate) const MAX_FAILURES: usize = 10;

/// How long a failure counts.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; beyond that the one that has been quiet for longest is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// The failures of each address.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Vec<Instant>>>);

/// The address has failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl Attempts {
    /// Notes that `ip` tries to sign in.
    ///
    /// # Errors
    /// [`Wait`] with the time after which it may try again.
    pub(crate) fn begin(&self, ip: IpAddr) -> Result<(), Wait> {
        let now = Instant::now();
        let ip = network(ip);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&ip) && all.len() >= MAX_ADDRESSES {
            make_room(&mut all, now);
        }
        let failures = all.entry(ip).or_default();
        failures.retain(|at| now.duration_since(*at) < WINDOW);
        match failures.first() {
            Some(first) if failures.len() >= MAX_FAILURES => Err(Wait(WINDOW - now.duration_since(*first))),
            _ => {
                failures.push(now);
                Ok(())
            }
        }
    }

    /// Takes back the latest attempt of `ip`: it was good, or it was not the visitor's fault that it failed.
    pub(crate) fn forgive(&self, ip: IpAddr) {
        let ip = network(ip);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failures) = all.get_mut(&ip) {
            failures.pop();
            if failures.is_empty() {
                all.remove(&ip);
            }
        }
    }
}

fn make_room(all: &mut HashMap<IpAddr, Vec<Instant>>, now: Instant) {
    all.retain(|_, failures| failures.last().is_some_and(|at| now.duration_since(*at) < WINDOW));
    if all.len() >= MAX_ADDRESSES
        && let Some(quiet) =
            all.iter().min_by_key(|(_, failures)| failures.last().copied()).map(|(ip, _)| *ip)
    {
        all.remove(&quiet);
    }
}

/// What counts as one address: whoever has one IPv6 address has its whole /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_in_a_minute() {
        let attempts = Attempts::default();
        let anna = ip("192.0.2.1");
        for _ in 0..MAX_FAILURES {
            assert_eq!(attempts.begin(anna), Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(attempts.begin(anna), Err(Wait(Duration::from_secs(50))));
        assert_eq!(attempts.begin(ip("::ffff:192.0.2.1")), Err(Wait(Duration::from_secs(50))));
        assert_eq!(attempts.begin(ip("192.0.2.2")), Ok(()), "another address");
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(attempts.begin(anna), Ok(()));
        assert_eq!(attempts.begin(anna), Err(Wait(Duration::from_secs(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_attempt_does_not_count() {
        let attempts = Attempts::default();
        for _ in 0..10 * MAX_FAILURES {
            assert_eq!(attempts.begin(ip("192.0.2.1")), Ok(()));
            attempts.forgive(ip("192.0.2.1"));
        }
        assert!(attempts.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..MAX_FAILURES {
            assert_eq!(attempts.begin(ip(&format!("2001:db8::{host}"))), Ok(()));
        }
        assert!(attempts.begin(ip("2001:db8::ffff")).is_err());
        assert_eq!(attempts.begin(ip("2001:db8:0:1::1")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_has_an_end() {
        let attempts = Attempts::default();
        for n in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 100 {
            attempts.begin(std::net::Ipv4Addr::from_bits(n).into()).unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(attempts.0.lock().unwrap().len(), MAX_ADDRESSES);
    }
}
