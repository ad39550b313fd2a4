//! Bandwidth: how long the next bytes must wait.
//!
//! One throttle per user and direction, shared by all transfers, so that a user cannot multiply the
//! rate by opening more files. It keeps only the moment at which the line is free again; waiting is a
//! timer and holds neither a thread nor a lock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Unused rate that may be made up for later; bounds the burst after a pause.
const BURST: Duration = Duration::from_millis(50);

/// A rate in bytes per second that several transfers share; a rate of 0 never waits.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Throttle {
    /// Limits to `kb_per_second` kilobytes (1000 bytes) a second; 0 or less is no limit.
    pub fn new(kb_per_second: i64) -> Self {
        Self { state: Mutex::new(State { bytes_per_second: rate(kb_per_second), free_at: Instant::now() }) }
    }

    /// Changes the rate; transfers under way follow with their next bytes.
    pub fn set_rate(&self, kb_per_second: i64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes_per_second = rate(kb_per_second);
    }

    /// Waits until the line is free, then takes it for `bytes`. Dropping the future while it waits
    /// gives nothing back: the bytes count as sent.
    pub async fn take(&self, bytes: usize) {
        let free_at = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.bytes_per_second == 0 {
                return;
            }
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let free_at = state.free_at.max(earliest);
            let nanos = bytes as u128 * 1_000_000_000 / u128::from(state.bytes_per_second);
            state.free_at = free_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
            state.free_at
        };
        tokio::time::sleep_until(free_at).await;
    }
}

fn rate(kb_per_second: i64) -> u64 {
    u64::try_from(kb_per_second).unwrap_or(0).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn two_transfers_share_the_rate() {
        let throttle = Arc::new(Throttle::new(100));
        let start = Instant::now();
        let send = |n: usize| {
            let throttle = Arc::clone(&throttle);
            async move {
                for _ in 0..n {
                    throttle.take(10_000).await;
                }
            }
        };
        tokio::join!(send(50), send(50));
        let elapsed = start.elapsed();
        assert!((Duration::from_millis(9_700)..=Duration::from_millis(10_100)).contains(&elapsed), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_saved_up() {
        let throttle = Throttle::new(100);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        throttle.take(100_000).await;
        assert!(start.elapsed() >= Duration::from_millis(940), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let throttle = Throttle::new(-1);
        let start = Instant::now();
        throttle.take(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
