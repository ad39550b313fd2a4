//! Charts of the last hour as numbers for SVG: paths, bars, and the labels of their axes. How they look is the
//! stylesheet's; the words around them are the templates'.
//!
//! The drawing is stretched to the room that there is, so it holds no text: labels stand beside it. Every chart
//! has the same figures as a table for those who do not see it ([`periods`]).

use std::fmt::Write as _;

use serde::Serialize;
use tidegate_core::{Counts, Recent, SLOT};

use crate::web::text;

/// Slots of a point of a line: ten seconds.
const POINT: usize = 2;

/// Slots of a bar: a minute.
const MINUTE: usize = 12;

/// Slots of a row of the table: five minutes.
const PERIOD: usize = 60;

/// Height of every drawing, in its own units; its width is the number of points or bars.
const HEIGHT: f64 = 100.0;

/// Two lines over an hour, with the ground below them filled.
#[derive(Debug, Serialize)]
pub(crate) struct Lines {
    width: usize,
    upload: String,
    download: String,
    axis: Axis,
    hits: Vec<Hit>,
    upload_peak: i64,
    download_peak: i64,
}

/// A bar for each minute of an hour: what went well, and above it what did not.
#[derive(Debug, Serialize)]
pub(crate) struct Bars {
    width: usize,
    bars: Vec<Bar>,
    axis: Axis,
}

#[derive(Debug, Serialize)]
struct Bar {
    x: usize,
    /// Top and height of each part, from below.
    parts: Vec<Part>,
    title: String,
}

#[derive(Debug, Serialize)]
struct Part {
    kind: &'static str,
    y: f64,
    height: f64,
}

/// The labels beside a drawing, from below; the first one is 0.
#[derive(Debug, Serialize)]
struct Axis {
    top: String,
    middle: String,
}

/// A minute of a line chart: what the pointer finds there.
#[derive(Debug, Serialize)]
struct Hit {
    x: usize,
    width: usize,
    title: String,
}

/// Five minutes in figures.
#[derive(Debug, Serialize)]
pub(crate) struct Period {
    from: usize,
    to: usize,
    uploaded: i64,
    downloaded: i64,
    uploads: u64,
    downloads: u64,
    failed: u64,
    logins: u64,
    refused: u64,
}

/// Bytes per second in both directions.
pub(crate) fn throughput(recent: &Recent) -> Lines {
    let points = groups(recent, POINT, false);
    let rate = |bytes: u64| bytes / (POINT as u64 * SLOT.as_secs());
    let upload: Vec<u64> = points.iter().map(|point| rate(point.uploaded_bytes)).collect();
    let download: Vec<u64> = points.iter().map(|point| rate(point.downloaded_bytes)).collect();
    let peak = |rates: &[u64]| rates.iter().copied().max().unwrap_or(0);
    let (upload_peak, download_peak) = (peak(&upload), peak(&download));
    let top = step(upload_peak.max(download_peak), &[1, 2, 5]).max(1000);
    let minutes = groups(recent, MINUTE, false);
    let count = minutes.len();
    let per_minute = MINUTE / POINT;
    let hits = minutes.iter().enumerate().map(|(index, minute)| {
        let rate = |bytes: u64| speed(bytes / (MINUTE as u64 * SLOT.as_secs()));
        let title = format!(
            "{}: up {}, down {}",
            ago(count - 1 - index),
            rate(minute.uploaded_bytes),
            rate(minute.downloaded_bytes)
        );
        Hit { x: index * per_minute, width: per_minute, title }
    });
    Lines {
        width: points.len(),
        upload: path(&upload, top),
        download: path(&download, top),
        axis: Axis { top: short(&speed(top)), middle: short(&speed(top / 2)) },
        hits: hits.collect(),
        upload_peak: signed(upload_peak),
        download_peak: signed(download_peak),
    }
}

/// Logins that were let in, and those that were not.
pub(crate) fn logins(recent: &Recent) -> Bars {
    bars(recent, |minute| {
        let parts = vec![("ok", minute.logins), ("bad", minute.refused_logins)];
        (parts, format!("{} logins, {} refused", minute.logins, minute.refused_logins))
    })
}

/// Transfers that ended, by what became of them.
pub(crate) fn transfers(recent: &Recent) -> Bars {
    bars(recent, |minute| {
        let (up, down, failed) = (minute.uploads, minute.downloads, minute.failed_transfers);
        let parts = vec![("up", up), ("down", down), ("bad", failed)];
        (parts, format!("{up} uploads, {down} downloads, {failed} failed"))
    })
}

/// The hour as a table, newest first.
pub(crate) fn periods(recent: &Recent) -> Vec<Period> {
    let periods = groups(recent, PERIOD, true);
    let minutes = PERIOD / MINUTE;
    let row = |(index, counts): (usize, &Counts)| Period {
        from: (index + 1) * minutes,
        to: index * minutes,
        uploaded: signed(counts.uploaded_bytes),
        downloaded: signed(counts.downloaded_bytes),
        uploads: counts.uploads,
        downloads: counts.downloads,
        failed: counts.failed_transfers,
        logins: counts.logins,
        refused: counts.refused_logins,
    };
    periods.iter().rev().enumerate().map(row).collect()
}

/// The whole hour.
pub(crate) fn hour(recent: &Recent) -> Counts {
    recent.slots.iter().fold(Counts::default(), |sum, slot| sum.plus(*slot))
}

fn bars(recent: &Recent, split: impl Fn(&Counts) -> (Vec<(&'static str, u64)>, String)) -> Bars {
    let minutes = groups(recent, MINUTE, true);
    let count = minutes.len();
    let split: Vec<_> = minutes.iter().map(split).collect();
    let sum = |parts: &[(&str, u64)]| parts.iter().map(|(_, count)| count).sum::<u64>();
    let highest = split.iter().map(|(parts, _)| sum(parts)).max().unwrap_or(0);
    let top = step(highest, &[1, 2, 4]).max(4);
    let bars = split.into_iter().enumerate().map(|(x, (parts, what))| {
        let mut y = HEIGHT;
        let parts = parts.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| {
            let height = round(count as f64 / top as f64 * HEIGHT);
            y = round(y - height);
            Part { kind, y, height }
        });
        Bar { x, parts: parts.collect(), title: format!("{}: {what}", ago(count - 1 - x)) }
    });
    let label = |count: u64| text::thousands(signed(count));
    Bars { width: count, bars: bars.collect(), axis: Axis { top: label(top), middle: label(top / 2) } }
}

/// The slots in groups of `size`, oldest first, each with the same bounds at every look so that a drawing only
/// moves on. The newest group is the one that is not full yet (`partial`), or the last that is.
fn groups(recent: &Recent, size: usize, partial: bool) -> Vec<Counts> {
    let over = usize::try_from(recent.ended % size as u64).unwrap_or(0);
    let (full, rest) = recent.slots.split_at(recent.slots.len().saturating_sub(over));
    let count = recent.slots.len() / size;
    let sum = |slots: &[Counts]| slots.iter().fold(Counts::default(), |sum, slot| sum.plus(*slot));
    let mut groups: Vec<Counts> = Vec::with_capacity(count + 1);
    if partial && over > 0 {
        groups.push(sum(rest));
    }
    groups.extend(full.rchunks(size).map(sum));
    groups.truncate(count);
    groups.reverse();
    groups
}

/// A line from left to right that returns far below the drawing, so that the ground can be filled and only the
/// line itself is seen. A stretch without change is one line.
fn path(values: &[u64], top: u64) -> String {
    // Nothing is below what is seen, so that an idle hour shows no line.
    let height = |value: &u64| match value {
        0 => HEIGHT + 5.0,
        value => round(HEIGHT - *value as f64 / top as f64 * HEIGHT),
    };
    let heights: Vec<f64> = values.iter().map(height).collect();
    let mut path = format!("M-2 {}", HEIGHT + 20.0);
    for (x, y) in heights.iter().enumerate() {
        let same = |other: Option<&f64>| other.is_some_and(|other| (other - y).abs() < f64::EPSILON);
        let first = x == 0;
        if first {
            let _infallible = write!(path, "L-2 {y}");
        }
        if first || !(same(heights.get(x - 1)) && same(heights.get(x + 1))) {
            let _infallible = write!(path, "L{x} {y}");
        }
    }
    let last = heights.last().copied().unwrap_or(HEIGHT);
    let end = heights.len() + 1;
    let _infallible = write!(path, "L{end} {last}V{}Z", HEIGHT + 20.0);
    path
}

/// The smallest of `steps` × 10ⁿ that is not less than `value`.
fn step(value: u64, steps: &[u64]) -> u64 {
    let mut unit = 1_u64;
    loop {
        for step in steps {
            if let Some(candidate) = step.checked_mul(unit)
                && candidate >= value
            {
                return candidate;
            }
        }
        match unit.checked_mul(10) {
            Some(next) => unit = next,
            None => return value,
        }
    }
}

fn ago(minutes: usize) -> String {
    if minutes == 0 { "this minute".to_owned() } else { format!("{minutes} min ago") }
}

/// `1.5 MB/s`.
pub(crate) fn speed(bytes_per_second: u64) -> String {
    format!("{}/s", text::bytes(signed(bytes_per_second)))
}

/// An axis needs no `.0`.
fn short(label: &str) -> String {
    label.replace(".0 ", " ")
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The filters of the templates count with a sign.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `newest` are the last slots, `ended` how many there were since the start.
    fn recent(ended: u64, newest: &[Counts]) -> Recent {
        let mut slots = vec![Counts::default(); 720];
        let at = slots.len() - newest.len();
        slots[at..].copy_from_slice(newest);
        let (total, running) = (Counts::default(), Duration::ZERO);
        Recent { slots, ended, upload_rate: 0, download_rate: 0, total, running }
    }

    fn uploaded(bytes: u64) -> Counts {
        Counts { uploaded_bytes: bytes, ..Counts::default() }
    }

    #[test]
    fn a_line_only_moves_on() {
        let one = throughput(&recent(720, &[uploaded(50_000), uploaded(50_000)]));
        assert_eq!((one.width, one.upload_peak, one.download_peak), (360, 10_000, 0));
        assert_eq!(one.upload, "M-2 120L-2 105L0 105L358 105L359 0L361 0V120Z");
        assert_eq!((one.axis.top.as_str(), one.axis.middle.as_str()), ("10 KB/s", "5 KB/s"));
        // A slot later the newest point is not complete, and the line stands still.
        let two = throughput(&recent(721, &[uploaded(50_000), uploaded(50_000), uploaded(7)]));
        assert_eq!(two.upload, one.upload);
        let three = throughput(&recent(722, &[uploaded(50_000), uploaded(50_000), uploaded(0), uploaded(0)]));
        assert_eq!(three.upload, "M-2 120L-2 105L0 105L357 105L358 0L359 105L361 105V120Z");
    }

    #[test]
    fn bars_count_the_running_minute() {
        let counts = Counts { logins: 3, refused_logins: 1, ..Counts::default() };
        let chart = logins(&recent(13, &[counts]));
        assert_eq!((chart.width, chart.axis.top.as_str(), chart.axis.middle.as_str()), (60, "4", "2"));
        let bar = chart.bars.last().unwrap();
        let parts: Vec<_> = bar.parts.iter().map(|part| (part.kind, part.y, part.height)).collect();
        assert_eq!(parts, [("ok", 25.0, 75.0), ("bad", 0.0, 25.0)]);
        assert_eq!(bar.title, "this minute: 3 logins, 1 refused");
        assert!(chart.bars[..59].iter().all(|bar| bar.parts.is_empty()));
        let table = periods(&recent(13, &[counts]));
        assert_eq!((table.len(), table[0].to, table[0].from, table[0].logins), (12, 0, 5, 3));
    }

    #[test]
    fn axes_are_round() {
        for (value, expected) in [(0, 1), (1, 1), (3, 5), (5, 5), (6, 10), (1001, 2000), (u64::MAX, u64::MAX)]
        {
            assert_eq!(step(value, &[1, 2, 5]), expected, "{value}");
        }
        for (value, middle) in [(0, 2), (4, 2), (5, 5), (11, 10), (21, 20), (401, 500)] {
            assert_eq!(step(value, &[1, 2, 4]).max(4) / 2, middle, "{value}");
        }
    }
}
