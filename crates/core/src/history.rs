//! What the server carried in the last hour: bytes, transfers and logins, for the pages of administrators.
//!
//! The door counts into [`Activity`] as things happen, running transfers included, and a task turns the counters
//! into a ring of [`SLOTS`] slots of [`SLOT`] each; its memory never grows. Nothing is kept across a restart:
//! whoever wants more reads `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Direction;

/// Time that a slot stands for.
pub const SLOT: Duration = Duration::from_secs(5);

/// Slots that are kept: an hour.
pub const SLOTS: usize = 720;

/// How often the counters are looked at. Shorter than a slot, so that a speed can be told at once.
const INTERVAL: Duration = Duration::from_secs(1);

/// What happened in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Bytes from clients, of transfers that still run as well.
    pub uploaded_bytes: u64,
    /// Bytes to clients, of transfers that still run as well.
    pub downloaded_bytes: u64,
    /// Uploads that ended well.
    pub uploads: u64,
    /// Downloads that ended well.
    pub downloads: u64,
    /// Transfers that failed or were broken off.
    pub failed_transfers: u64,
    /// Logins that were let in.
    pub logins: u64,
    /// Credentials that were refused.
    pub refused_logins: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    fn zip(self, other: Self, with: fn(u64, u64) -> u64) -> Self {
        Self {
            uploaded_bytes: with(self.uploaded_bytes, other.uploaded_bytes),
            downloaded_bytes: with(self.downloaded_bytes, other.downloaded_bytes),
            uploads: with(self.uploads, other.uploads),
            downloads: with(self.downloads, other.downloads),
            failed_transfers: with(self.failed_transfers, other.failed_transfers),
            logins: with(self.logins, other.logins),
            refused_logins: with(self.refused_logins, other.refused_logins),
        }
    }
}

/// The last hour, as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// What happened in each slot that is over, oldest first; slots before the start of the server are empty.
    pub slots: Vec<Counts>,
    /// Slots that have ended since the start of the server: tells which of two looks is newer, and by how much.
    pub ended: u64,
    /// Bytes per second from clients, in the last second.
    pub upload_rate: u64,
    /// Bytes per second to clients, in the last second.
    pub download_rate: u64,
    /// Everything since the start of the server.
    pub total: Counts,
    /// Since when the server counts.
    pub running: Duration,
}

/// Counts what happens, and remembers an hour of it. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uploaded_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
    uploads: AtomicU64,
    downloads: AtomicU64,
    failed_transfers: AtomicU64,
    logins: AtomicU64,
    refused_logins: AtomicU64,
    started: Instant,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    slots: Box<[Counts]>,
    /// Slots that have ended; the next one goes to this place of the ring.
    ended: u64,
    /// The counters when the running slot began.
    at_begin: Counts,
    /// The counters at the last look, and when that was.
    last: (Duration, Counts),
    upload_rate: u64,
    download_rate: u64,
}

impl Activity {
    /// Counts from now on.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            uploaded_bytes: AtomicU64::new(0),
            downloaded_bytes: AtomicU64::new(0),
            uploads: AtomicU64::new(0),
            downloads: AtomicU64::new(0),
            failed_transfers: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            refused_logins: AtomicU64::new(0),
            started: Instant::now(),
            ring: Mutex::new(Ring::new()),
        }))
    }

    /// Bytes went over the door.
    pub(crate) fn moved(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::Upload => &self.0.uploaded_bytes,
            Direction::Download => &self.0.downloaded_bytes,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A transfer ended.
    pub(crate) fn transferred(&self, direction: Direction, ok: bool) {
        let counter = match (ok, direction) {
            (false, _) => &self.0.failed_transfers,
            (true, Direction::Upload) => &self.0.uploads,
            (true, Direction::Download) => &self.0.downloads,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Credentials were looked at.
    pub(crate) fn login(&self, admitted: bool) {
        let counter = if admitted { &self.0.logins } else { &self.0.refused_logins };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Fills the ring until `shutdown` fires.
    pub async fn watch(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.look();
        }
    }

    /// The last hour.
    pub fn recent(&self) -> Recent {
        let total = self.total();
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        Recent {
            slots: ring.in_order(),
            ended: ring.ended,
            upload_rate: ring.upload_rate,
            download_rate: ring.download_rate,
            total,
            running: self.0.started.elapsed(),
        }
    }

    fn look(&self) {
        let total = self.total();
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.advance(self.0.started.elapsed(), total);
    }

    /// Everything since the start of the server.
    pub fn total(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            uploaded_bytes: read(&self.0.uploaded_bytes),
            downloaded_bytes: read(&self.0.downloaded_bytes),
            uploads: read(&self.0.uploads),
            downloads: read(&self.0.downloads),
            failed_transfers: read(&self.0.failed_transfers),
            logins: read(&self.0.logins),
            refused_logins: read(&self.0.refused_logins),
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    fn new() -> Self {
        Self {
            slots: vec![Counts::default(); SLOTS].into_boxed_slice(),
            ended: 0,
            at_begin: Counts::default(),
            last: (Duration::ZERO, Counts::default()),
            upload_rate: 0,
            download_rate: 0,
        }
    }

    /// Takes in the counters as they are at `now` after the start. What happened while nobody looked, because
    /// the machine slept or was too busy, counts in the first slot that was missed.
    fn advance(&mut self, now: Duration, total: Counts) {
        let (then, before) = self.last;
        let (elapsed, moved) = (now.saturating_sub(then), total.since(before));
        self.upload_rate = rate(moved.uploaded_bytes, elapsed);
        self.download_rate = rate(moved.downloaded_bytes, elapsed);
        self.last = (now, total);
        let ended = u64::try_from(now.as_millis() / SLOT.as_millis()).unwrap_or(u64::MAX);
        if ended <= self.ended {
            return;
        }
        self.push(total.since(self.at_begin));
        self.at_begin = total;
        let missed = (ended - self.ended).min(SLOTS as u64);
        self.ended = ended - missed;
        for _ in 0..missed {
            self.push(Counts::default());
        }
    }

    fn push(&mut self, counts: Counts) {
        let place = self.place(0);
        self.slots[place] = counts;
        self.ended += 1;
    }

    /// Where slot `ended` + `ahead` is.
    fn place(&self, ahead: usize) -> usize {
        (usize::try_from(self.ended % SLOTS as u64).unwrap_or(0) + ahead) % SLOTS
    }

    fn in_order(&self) -> Vec<Counts> {
        (0..SLOTS).map(|ahead| self.slots[self.place(ahead)]).collect()
    }
}

fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploaded(bytes: u64) -> Counts {
        Counts { uploaded_bytes: bytes, ..Counts::default() }
    }

    fn filled(ring: &Ring) -> Vec<(usize, u64)> {
        let slots = ring.in_order();
        let filled = slots.iter().enumerate().filter(|(_, counts)| **counts != Counts::default());
        filled.map(|(place, counts)| (SLOTS - place, counts.uploaded_bytes)).collect()
    }

    #[test]
    fn each_slot_holds_what_happened_in_it() {
        let mut ring = Ring::new();
        for second in 1..=12 {
            ring.advance(Duration::from_secs(second), uploaded(second * 100));
        }
        assert_eq!(filled(&ring), [(2, 500), (1, 500)], "the third slot still runs");
        assert_eq!((ring.ended, ring.upload_rate, ring.download_rate), (2, 100, 0));
    }

    #[test]
    fn a_pause_leaves_empty_slots_behind_what_came_before_it() {
        let mut ring = Ring::new();
        ring.advance(Duration::from_secs(4), uploaded(7));
        ring.advance(Duration::from_millis(25_001), uploaded(9));
        assert_eq!((filled(&ring), ring.ended), (vec![(5, 9)], 5));
        ring.advance(Duration::from_secs(1_000_000), uploaded(10));
        assert_eq!((filled(&ring), ring.ended), (vec![], 200_000), "longer ago than an hour");
        ring.advance(Duration::from_secs(1_000_005), uploaded(12));
        assert_eq!(filled(&ring), [(1, 2)]);
    }

    #[test]
    fn an_hour_later_the_oldest_goes() {
        let mut ring = Ring::new();
        let slots = SLOTS as u64;
        for slot in 1..=slots + 3 {
            ring.advance(SLOT * u32::try_from(slot).unwrap(), uploaded(slot * (slot + 1) / 2));
        }
        let found = filled(&ring);
        assert_eq!((found.len(), found[0], found[SLOTS - 1]), (SLOTS, (SLOTS, 4), (1, slots + 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_while_they_move_and_the_task_ends() {
        let activity = Activity::new();
        let stop = CancellationToken::new();
        let task = tokio::spawn(activity.clone().watch(stop.clone()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..12 {
            activity.moved(Direction::Download, 1000);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        activity.transferred(Direction::Download, true);
        activity.transferred(Direction::Upload, false);
        activity.login(true);
        activity.login(false);
        let recent = activity.recent();
        assert_eq!(recent.download_rate, 1000);
        assert_eq!((recent.slots.len(), recent.ended), (SLOTS, 2));
        assert_eq!(recent.slots.iter().map(|slot| slot.downloaded_bytes).sum::<u64>(), 10_000);
        let expected = Counts {
            downloaded_bytes: 12_000,
            downloads: 1,
            failed_transfers: 1,
            logins: 1,
            refused_logins: 1,
            ..Counts::default()
        };
        assert_eq!(recent.total, expected);
        stop.cancel();
        task.await.unwrap();
    }
}
