//! How often an address may fail to sign in: ten times in a minute. Who it is that fails, and what the answer
//! looks like, is `gate.rs`'s.
//!
//! Attempts under way count as if they had failed, so that many at once do not slip through while their
//! passwords are being checked. One too many of those waits until another one has ended: a script that begins
//! with twenty requests at once is not refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::places::network;

/// Failures within [`WINDOW`] after which an address has to wait.
pub(crate) const MAX_FAILURES: usize = 10;

/// How long a failure counts.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; beyond that the one that has been quiet for longest is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// The attempts of each address.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    addresses: Mutex<HashMap<IpAddr, Address>>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Address {
    failures: Vec<Instant>,
    under_way: usize,
}

/// The address has failed too often; it may try again after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

/// An attempt under way. Dropped it counts for nothing, unless it has [failed](Attempt::fail).
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    attempts: &'a Attempts,
    ip: IpAddr,
}

impl Attempts {
    /// Begins an attempt of `ip`, when not too many others of it are under way. Whoever waits here has a
    /// connection of the server, so there are not many.
    ///
    /// # Errors
    /// [`Wait`] if it has failed too often.
    pub(crate) async fn begin(&self, ip: IpAddr) -> Result<Attempt<'_>, Wait> {
        let ip = network(ip);
        loop {
            // Made before looking, so that no end is missed in between.
            let ended = self.ended.notified();
            if self.try_begin(ip)? {
                return Ok(Attempt { attempts: self, ip });
            }
            ended.await;
        }
    }

    /// Whether the attempt may begin now.
    fn try_begin(&self, ip: IpAddr) -> Result<bool, Wait> {
        let now = Instant::now();
        let mut all = self.addresses();
        if !all.contains_key(&ip) && all.len() >= MAX_ADDRESSES {
            make_room(&mut all, now);
        }
        let address = all.entry(ip).or_default();
        address.failures.retain(|at| now.duration_since(*at) < WINDOW);
        match address.failures.first() {
            Some(first) if address.failures.len() >= MAX_FAILURES => {
                Err(Wait(WINDOW - now.duration_since(*first)))
            }
            _ if address.failures.len() + address.under_way >= MAX_FAILURES => Ok(false),
            _ => {
                address.under_way += 1;
                Ok(true)
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Address>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Notes that it has failed.
    pub(crate) fn fail(self) {
        if let Some(address) = self.attempts.addresses().get_mut(&self.ip) {
            address.failures.push(Instant::now());
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut all = self.attempts.addresses();
        if let Some(address) = all.get_mut(&self.ip) {
            address.under_way = address.under_way.saturating_sub(1);
            if address.under_way == 0 && address.failures.is_empty() {
                all.remove(&self.ip);
            }
        }
        drop(all);
        self.attempts.ended.notify_waiters();
    }
}

/// Forgets whose failures are old; if there is nobody, who has been quiet for longest.
fn make_room(all: &mut HashMap<IpAddr, Address>, now: Instant) {
    let is_recent = |address: &Address| {
        address.under_way > 0 || address.failures.last().is_some_and(|at| now.duration_since(*at) < WINDOW)
    };
    all.retain(|_, address| is_recent(address));
    let resting = all.iter().filter(|(_, address)| address.under_way == 0);
    if all.len() >= MAX_ADDRESSES
        && let Some(quiet) = resting.min_by_key(|(_, address)| address.failures.last()).map(|(ip, _)| *ip)
    {
        all.remove(&quiet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    async fn fail(attempts: &Attempts, address: &str) -> Result<(), Wait> {
        attempts.begin(ip(address)).await.map(Attempt::fail)
    }

    #[tokio::test(start_paused = true)]
    async fn ten_failures_in_a_minute() {
        let attempts = Attempts::default();
        for _ in 0..MAX_FAILURES {
            assert_eq!(fail(&attempts, "192.0.2.1").await, Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let wait = Err(Wait(Duration::from_secs(50)));
        assert_eq!(fail(&attempts, "192.0.2.1").await, wait);
        assert_eq!(fail(&attempts, "::ffff:192.0.2.1").await, wait);
        assert_eq!(fail(&attempts, "192.0.2.2").await, Ok(()), "another address");
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(fail(&attempts, "192.0.2.1").await, Ok(()));
        assert_eq!(fail(&attempts, "192.0.2.1").await, Err(Wait(Duration::from_secs(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_attempt_does_not_count() {
        let attempts = Attempts::default();
        for _ in 0..10 * MAX_FAILURES {
            assert!(attempts.begin(ip("192.0.2.1")).await.is_ok());
        }
        assert!(attempts.addresses().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_wait_for_each_other() {
        let attempts = Attempts::default();
        let address = ip("192.0.2.1");
        let mut under_way = Vec::new();
        for _ in 0..MAX_FAILURES {
            under_way.push(attempts.begin(address).await.unwrap());
        }
        let late = attempts.begin(address);
        tokio::pin!(late);
        let waited = tokio::time::timeout(Duration::from_secs(1), late.as_mut()).await;
        assert!(waited.is_err(), "one too many waits");
        drop(under_way.pop());
        assert!(late.await.is_ok());

        let late = attempts.begin(address);
        let (late, ()) = tokio::join!(late, async { under_way.drain(..).for_each(Attempt::fail) });
        assert!(late.is_ok(), "nine have failed");
        late.unwrap().fail();
        assert!(attempts.begin(address).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..MAX_FAILURES {
            assert_eq!(fail(&attempts, &format!("2001:db8::{host}")).await, Ok(()));
        }
        assert!(fail(&attempts, "2001:db8::ffff").await.is_err());
        assert_eq!(fail(&attempts, "2001:db8:0:1::1").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_has_an_end() {
        let attempts = Attempts::default();
        for n in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 100 {
            attempts.begin(std::net::Ipv4Addr::from_bits(n).into()).await.unwrap().fail();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(attempts.addresses().len(), MAX_ADDRESSES);
    }
}
