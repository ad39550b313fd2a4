//! Connections and their transfers as the pages show them: how far, how fast, how long still.
//!
//! [`Speeds`] remembers the last looks, so that a speed is that of the last seconds; without it, that of the
//! whole transfer is shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tidegate_core::{ConnectionInfo, Direction, Protocol, Sessions, TransferInfo, UnixMillis};
use tokio::time::Instant;

use crate::web::chart::signed;

/// Weight of the newest look in a speed: a stall shows after a few seconds, a hiccup does not.
const NEWEST: f64 = 0.4;

/// Looks closer together than this say nothing about speed.
const TOO_SOON: Duration = Duration::from_millis(200);

/// A connection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) client: String,
    pub(crate) address: String,
    pub(crate) protocol: &'static str,
    /// The command line, for the protocol SSH.
    pub(crate) command: Option<String>,
    pub(crate) since: UnixMillis,
    pub(crate) transfers: Vec<Moving>,
}

/// A transfer that runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Moving {
    /// Unique in the server, fit for an element's id.
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) upload: bool,
    pub(crate) path: String,
    pub(crate) moved: i64,
    /// Where it is in the file, and the file's size, where that is known.
    pub(crate) reached: i64,
    pub(crate) total: Option<i64>,
    pub(crate) percent: Option<i64>,
    /// Bytes per second.
    pub(crate) speed: i64,
    /// Until the end, at this speed: `3 min`.
    pub(crate) left: Option<String>,
    pub(crate) since: UnixMillis,
}

/// How fast transfers were lately.
#[derive(Debug, Default)]
pub(crate) struct Speeds {
    seen: HashMap<(Arc<str>, u64), Seen>,
    at: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    bytes: u64,
    speed: f64,
}

impl Speeds {
    /// Everybody who is connected, by name and then by time.
    pub(crate) fn look(&mut self, sessions: &Sessions) -> Vec<Connection> {
        self.look_at(sessions.list(), sessions.now(), Instant::now())
    }

    fn look_at(
        &mut self,
        mut list: Vec<ConnectionInfo>,
        now: UnixMillis,
        instant: Instant,
    ) -> Vec<Connection> {
        list.sort_by(|one, other| {
            let key = |info: &ConnectionInfo| (info.connection_time, Arc::clone(&info.connection_id));
            one.username.cmp(&other.username).then_with(|| key(one).cmp(&key(other)))
        });
        let elapsed = self.at.map(|at| instant.saturating_duration_since(at));
        let too_soon = elapsed.is_some_and(|elapsed| elapsed < TOO_SOON);
        let mut seen = HashMap::new();
        let mut connections = Vec::with_capacity(list.len());
        for info in list {
            let mut transfers = Vec::with_capacity(info.active_transfers.len());
            for transfer in &info.active_transfers {
                let key = (Arc::clone(&info.connection_id), transfer.id);
                let before = self.seen.remove(&key);
                let speed = match (before, elapsed) {
                    (Some(before), _) if too_soon => {
                        let speed = before.speed;
                        seen.insert(key, before);
                        speed
                    }
                    (before, elapsed) => {
                        let speed = lately(before.as_ref(), transfer, now, elapsed);
                        seen.insert(key, Seen { bytes: transfer.size, speed });
                        speed
                    }
                };
                transfers.push(moving(&info, transfer, speed));
            }
            connections.push(connection(info, transfers));
        }
        self.seen = seen;
        if !too_soon {
            self.at = Some(instant);
        }
        connections
    }
}

fn lately(before: Option<&Seen>, transfer: &TransferInfo, now: UnixMillis, elapsed: Option<Duration>) -> f64 {
    match (before, elapsed) {
        (Some(before), Some(elapsed)) => {
            let newest = transfer.size.saturating_sub(before.bytes) as f64 / elapsed.as_secs_f64();
            NEWEST * newest + (1.0 - NEWEST) * before.speed
        }
        // As the reference: bytes by milliseconds since the start.
        _ => transfer.size as f64 * 1000.0 / (now - transfer.start_time).max(1) as f64,
    }
}

fn connection(info: ConnectionInfo, transfers: Vec<Moving>) -> Connection {
    Connection {
        id: info.connection_id.to_string(),
        username: info.username,
        client: info.client_version,
        address: info.remote_address.to_string(),
        protocol: info.protocol.as_str(),
        command: (info.protocol == Protocol::Ssh).then_some(info.ssh_command),
        since: info.connection_time,
        transfers,
    }
}

fn moving(info: &ConnectionInfo, transfer: &TransferInfo, speed: f64) -> Moving {
    // A file that grows while it is read is at its end, not beyond it.
    let total = transfer.total.map(|total| total.max(transfer.reached));
    let percent = total.filter(|total| *total > 0).map(|total| {
        let percent = u128::from(transfer.reached) * 100 / u128::from(total);
        i64::try_from(percent).unwrap_or(100)
    });
    let left = total.map(|total| total - transfer.reached).filter(|left| *left > 0 && speed >= 1.0);
    Moving {
        id: format!("t-{}-{}", info.connection_id, transfer.id),
        username: info.username.clone(),
        upload: transfer.direction == Direction::Upload,
        path: transfer.path.to_string(),
        moved: signed(transfer.size),
        reached: signed(transfer.reached),
        total: total.map(signed),
        percent,
        speed: speed as i64,
        left: left.map(|left| duration((left as f64 / speed).ceil() as u64)),
        since: transfer.start_time,
    }
}

/// A time for people: `45 s`, `3 min`, `5 h 20 min`, `4 d 3 h`.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) if days < 1000 => format!("{days} d {} h", hours % 24),
        (days, ..) => format!("{days} d"),
    }
}

/// The time since a connection began as the reference writes it: `MM:SS` or `HH:MM:SS`.
pub(crate) fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 {
        format!("{minutes:02}:{seconds:02}")
    } else {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vfs::VPath;

    use super::*;

    fn info(name: &str, time: i64, transfers: Vec<TransferInfo>) -> ConnectionInfo {
        ConnectionInfo {
            username: name.to_owned(),
            connection_id: format!("{name}{time}").into(),
            client_version: String::new(),
            remote_address: "127.0.0.1:5".parse().unwrap(),
            connection_time: time,
            last_activity: time,
            protocol: Protocol::Sftp,
            active_transfers: transfers,
            ssh_command: String::new(),
        }
    }

    fn transfer(size: u64, reached: u64, total: Option<u64>) -> TransferInfo {
        TransferInfo {
            id: 1,
            direction: Direction::Upload,
            start_time: 1000,
            size,
            last_activity: 0,
            path: VPath::root(),
            reached,
            total,
        }
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let mut speeds = Speeds::default();
        let start = Instant::now();
        let mut speed = |size, millis| {
            let list = vec![info("a", 0, vec![transfer(size, size, Some(10_000))])];
            let seen = speeds.look_at(list, 3000, start + Duration::from_millis(millis));
            (seen[0].transfers[0].speed, seen[0].transfers[0].left.clone())
        };
        assert_eq!(speed(1000, 0), (500, Some("18 s".to_owned())), "the average since the start");
        assert_eq!(speed(3000, 1000).0, 1100);
        assert_eq!(speed(3100, 1100).0, 1100, "too soon to tell");
        assert_eq!(speed(3000, 2000).0, 660, "a stall shows");
        for second in 3..40 {
            speed(3000, second * 1000);
        }
        assert_eq!(speed(3000, 41_000), (0, None));
        assert_eq!(speed(10_000, 42_000), (2800, None), "nothing is left");
    }

    #[test]
    fn progress_and_order() {
        let list = vec![
            info(
                "b",
                1,
                vec![transfer(50, 250, Some(1000)), transfer(10, 10, None), transfer(9, 9, Some(5))],
            ),
            info("a", 9, vec![]),
            info("a", 3, vec![]),
        ];
        let seen = Speeds::default().look_at(list, 2000, Instant::now());
        let order: Vec<_> = seen.iter().map(|one| &*one.id).collect();
        assert_eq!(order, ["a3", "a9", "b1"]);
        let percent: Vec<_> = seen[2].transfers.iter().map(|one| one.percent).collect();
        assert_eq!(percent, [Some(25), None, Some(100)]);
    }

    #[test]
    fn times() {
        for (seconds, words, digits) in [
            (0, "0 s", "00:00"),
            (59, "59 s", "00:59"),
            (60, "1 min", "01:00"),
            (3599, "59 min", "59:59"),
            (3600, "1 h 0 min", "01:00:00"),
            (360_000, "4 d 4 h", "100:00:00"),
        ] {
            assert_eq!((duration(seconds).as_str(), clock(seconds).as_str()), (words, digits));
        }
    }
}
