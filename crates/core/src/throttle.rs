//! Bandwidth: how long the next bytes must wait.
//!
//! One throttle per user and direction, shared by all transfers, so that a user cannot multiply the
//! rate by opening more files. Transfers queue in the order in which they ask, each with a piece of at most
//! [`Throttle::piece`] bytes, so that they get equal shares. Waiting is a timer and holds neither a thread
//! nor a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Lateness that may be made up for: timers are late and disks need time. Who was idle for longer starts
/// from nothing, so that no pause is saved up.
const CATCH_UP: Duration = Duration::from_millis(250);

/// Pieces are not made smaller than this: the draft lets clients ask for so much at once, and not all of
/// them expect less (filexfer-02 §3).
const SMALLEST_PIECE: u64 = 32 * 1024;

/// Time that one piece may take, where that is not too small.
const PIECES_PER_SECOND: u64 = 4;

const NANOS: u128 = 1_000_000_000;

/// A rate that several transfers share; a rate of 0 never waits.
#[derive(Debug)]
pub struct Throttle {
    line: Mutex<Line>,
    changed: Notify,
}

/// Positions count bytes times 10^9, so that nothing is ever rounded away.
#[derive(Debug)]
struct Line {
    bytes_per_second: u64,
    /// When `sent` was true.
    at: Instant,
    /// What the line has carried.
    sent: u128,
    /// The end of what waits.
    queued: u128,
}

impl Throttle {
    /// Limits to `kb_per_second` kilobytes (1000 bytes) a second; 0 or less is no limit.
    pub fn new(kb_per_second: i64) -> Self {
        let line = Line { bytes_per_second: rate(kb_per_second), at: Instant::now(), sent: 0, queued: 0 };
        Self { line: Mutex::new(line), changed: Notify::new() }
    }

    /// Changes the rate; who waits follows at once.
    pub fn set_rate(&self, kb_per_second: i64) {
        let mut line = self.line();
        let new = rate(kb_per_second);
        if line.bytes_per_second == new {
            return;
        }
        line.advance();
        line.bytes_per_second = new;
        drop(line);
        self.changed.notify_waiters();
    }

    /// Most bytes that should move at a time, so that no second sees twice the rate; `None` without a
    /// limit. Never less than 32 KiB.
    pub fn piece(&self) -> Option<usize> {
        let rate = self.line().bytes_per_second;
        (rate > 0)
            .then(|| usize::try_from((rate / PIECES_PER_SECOND).max(SMALLEST_PIECE)).unwrap_or(usize::MAX))
    }

    /// Waits until the line has carried `bytes` more, and tells how long that took. If the future is dropped while
    /// it waits, nothing was sent: who queued behind it waits that much less.
    pub async fn take(&self, bytes: usize) -> Duration {
        let end = {
            let mut line = self.line();
            if line.bytes_per_second == 0 {
                return Duration::ZERO;
            }
            line.advance();
            line.queued += bytes as u128 * NANOS;
            line.queued
        };
        let began = Instant::now();
        let mut waiting = Waiting { throttle: self, bytes };
        loop {
            // Registered before the look at the line, so that no change is missed.
            let changed = self.changed.notified();
            let Some(free_at) = self.line().free_at(end) else {
                waiting.bytes = 0;
                return began.elapsed();
            };
            tokio::select! {
                () = tokio::time::sleep_until(free_at) => {}
                () = changed => {}
            }
        }
    }

    /// What was queued is not sent after all. Whoever is before it in the line is let through early, by no
    /// more than that, and whoever comes later finds the line as it would be.
    fn give_back(&self, bytes: usize) {
        let mut line = self.line();
        line.advance();
        line.sent = line.sent.saturating_add(bytes as u128 * NANOS).min(line.queued);
        drop(line);
        self.changed.notify_waiters();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that wait in the line.
struct Waiting<'a> {
    throttle: &'a Throttle,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.throttle.give_back(self.bytes);
        }
    }
}

impl Line {
    /// Brings `sent` up to now.
    fn advance(&mut self) {
        let now = Instant::now();
        let carried =
            now.duration_since(self.at).as_nanos().saturating_mul(u128::from(self.bytes_per_second));
        self.at = now;
        let ahead = CATCH_UP.as_nanos() * u128::from(self.bytes_per_second);
        self.sent = self.sent.saturating_add(carried);
        if self.sent > self.queued + ahead || self.queued == 0 || self.bytes_per_second == 0 {
            self.sent = self.queued;
        }
    }

    /// When the line will have carried everything up to `end`; `None` if it has.
    fn free_at(&mut self, end: u128) -> Option<Instant> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let now = Instant::now();
        let carried =
            now.duration_since(self.at).as_nanos().saturating_mul(u128::from(self.bytes_per_second));
        let left = end.saturating_sub(self.sent.saturating_add(carried));
        if left == 0 {
            return None;
        }
        let nanos = left.div_ceil(u128::from(self.bytes_per_second));
        // A century is as good as forever, and still a point in time.
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            .min(Duration::from_secs(3_155_760_000));
        Some(now + wait)
    }
}

fn rate(kb_per_second: i64) -> u64 {
    u64::try_from(kb_per_second).unwrap_or(0).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Sends `count` pieces and notes when each was through, in milliseconds.
    async fn send(throttle: Arc<Throttle>, count: usize, piece: usize, start: Instant) -> Vec<(u64, usize)> {
        let mut sent = Vec::new();
        for _ in 0..count {
            throttle.take(piece).await;
            sent.push((u64::try_from(start.elapsed().as_millis()).unwrap(), piece));
        }
        sent
    }

    /// The most bytes of any second.
    fn peak(sent: &[(u64, usize)]) -> usize {
        let from = |start: u64| {
            let inside = sent.iter().filter(|(at, _)| (start..start + 1000).contains(at));
            inside.map(|(_, bytes)| bytes).sum()
        };
        sent.iter().map(|(at, _)| from(*at)).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn two_transfers_share_the_rate() {
        let throttle = Arc::new(Throttle::new(100));
        let start = Instant::now();
        let (a, b) = tokio::join!(
            send(throttle.clone(), 50, 10_000, start),
            send(throttle.clone(), 50, 10_000, start)
        );
        let elapsed = start.elapsed();
        assert!(
            (Duration::from_millis(10_000)..=Duration::from_millis(10_100)).contains(&elapsed),
            "{elapsed:?}"
        );
        for (a, b) in a.iter().zip(&b) {
            assert!(a.0.abs_diff(b.0) <= 110, "one is never more than a piece ahead: {a:?} {b:?}");
        }
        assert!(peak(&[a, b].concat()) <= 110_000);
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_twice_the_rate() {
        for kb_per_second in [30, 100, 1000, 20_000] {
            let throttle = Arc::new(Throttle::new(kb_per_second));
            let piece = throttle.piece().unwrap();
            let start = Instant::now();
            let mut sent = send(throttle.clone(), 20, piece, start).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            sent.extend(send(throttle.clone(), 20, piece, start).await);
            let limit = 2000 * usize::try_from(kb_per_second).unwrap();
            assert!(peak(&sent) <= limit, "{kb_per_second} KB/s: {} bytes in a second", peak(&sent));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_file_at_30_kb_takes_its_time() {
        let throttle = Throttle::new(30);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let start = Instant::now();
        for _ in 0..4 {
            throttle.take(32_768).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(4_366), "{:?}", start.elapsed());
        assert!(start.elapsed() <= Duration::from_millis(4_380), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn lateness_is_made_up_for_and_pauses_are_not() {
        let throttle = Throttle::new(100);
        let start = Instant::now();
        for _ in 0..20 {
            throttle.take(10_000).await;
            // The disk needs time as well.
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        assert!(start.elapsed() <= Duration::from_millis(2_050), "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        throttle.take(100_000).await;
        assert!(start.elapsed() >= Duration::from_millis(1000), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_reaches_those_who_wait() {
        let throttle = Arc::new(Throttle::new(10));
        let start = Instant::now();
        let waiting = tokio::spawn(send(throttle.clone(), 1, 261_120, start));
        tokio::time::sleep(Duration::from_secs(1)).await;
        throttle.set_rate(1000);
        waiting.await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(1_260), "{:?}", start.elapsed());
        let waiting = tokio::spawn(send(throttle.clone(), 1, 1 << 40, start));
        tokio::time::sleep(Duration::from_secs(1)).await;
        throttle.set_rate(0);
        waiting.await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(2_300), "{:?}", start.elapsed());
        throttle.set_rate(100);
        let start = Instant::now();
        throttle.take(100_000).await;
        assert!(
            start.elapsed() >= Duration::from_millis(990),
            "nothing of the past counts: {:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_takes_no_time_from_others_and_gives_them_none() {
        let throttle = Arc::new(Throttle::new(10));
        let start = Instant::now();
        let waiting: Vec<_> =
            (0..10).map(|_| tokio::spawn(send(throttle.clone(), 1, 50_000, start))).collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        waiting.iter().skip(1).for_each(|waiting| waiting.abort());
        tokio::time::sleep(Duration::from_millis(1)).await;
        // The first was let through 4 s early; who comes now waits for those and for the own bytes.
        let start = Instant::now();
        send(throttle.clone(), 4, 20_000, start).await;
        let elapsed = start.elapsed();
        assert!((11_900..=12_100).contains(&elapsed.as_millis()), "{elapsed:?}");

        // Again and again: no more goes through than the rate allows.
        let start = Instant::now();
        for _ in 0..50 {
            let first = tokio::spawn(send(throttle.clone(), 1, 10_000, start));
            let second = tokio::spawn(send(throttle.clone(), 1, 10_000, start));
            tokio::time::sleep(Duration::from_millis(10)).await;
            second.abort();
            first.await.unwrap();
        }
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_secs(48), "500 kB at 10 KB/s took {elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let throttle = Throttle::new(-1);
        let start = Instant::now();
        throttle.take(usize::MAX).await;
        assert_eq!((start.elapsed(), throttle.piece()), (Duration::ZERO, None));
    }
}
