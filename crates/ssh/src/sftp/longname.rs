//! The `longname` of SSH_FXP_NAME: one line in the style of `ls -l`, as OpenSSH's sftp-server makes it.
//!
//! filexfer-02 §7 leaves the form open, but clients parse it. Owner and group are numbers; times are UTC,
//! because the zone of the server means nothing to a client. A listing calls this once for every entry, so
//! the line is put together by hand, without the formatting machinery and without a lookup of any kind.

use tidegate_vfs::Metadata;

/// Half a year of 365 days: older or future times show the year instead of the time of day.
const RECENT_SECONDS: i64 = 365 * DAY_SECONDS / 2;
const DAY_SECONDS: i64 = 86_400;
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// Appends the line for `name` to `out`; `now` is the current time in seconds since 1970-01-01 UTC.
///
/// # Format
/// ```text
/// drwxr-xr-x    2 1000     1000         4096 Nov 23 20:27 name
/// -rw-r--r--    1 1000     1000      1048576 Jan  1  2020 other name
/// ```
/// Fields grow when a number does not fit. The name is appended as it is, control characters included.
pub(crate) fn longname(name: &[u8], metadata: &Metadata, now: i64, out: &mut Vec<u8>) {
    out.reserve(64 + name.len());
    out.extend_from_slice(&mode_text(metadata.st_mode()));
    out.extend_from_slice(b"  ");
    right(out, metadata.links, 3);
    out.push(b' ');
    left(out, metadata.uid.into(), 8);
    out.push(b' ');
    left(out, metadata.gid.into(), 8);
    out.push(b' ');
    right(out, metadata.size, 8);
    out.push(b' ');
    date(out, metadata.modified.seconds, now);
    out.push(b' ');
    out.extend_from_slice(name);
}

/// The first column of `ls -l` for a mode word with type bits: `drwxr-sr-t`.
pub(crate) fn mode_text(st_mode: u32) -> [u8; 10] {
    let kind = match st_mode & 0o170_000 {
        0o100_000 => b'-',
        0o040_000 => b'd',
        0o120_000 => b'l',
        0o010_000 => b'p',
        0o140_000 => b's',
        0o020_000 => b'c',
        0o060_000 => b'b',
        _ => b'?',
    };
    let mut text = [kind, b'r', b'w', b'x', b'r', b'w', b'x', b'r', b'w', b'x'];
    for (index, letter) in text.iter_mut().skip(1).enumerate() {
        if st_mode & (0o400 >> index) == 0 {
            *letter = b'-';
        }
    }
    for (bit, index, set) in [(0o4000, 3, b's'), (0o2000, 6, b's'), (0o1000, 9, b't')] {
        if st_mode & bit != 0 {
            text[index] = if text[index] == b'x' { set } else { set.to_ascii_uppercase() };
        }
    }
    text
}

/// The digits of `value`, at the end of the buffer, and where they start.
fn digits(mut value: u64) -> ([u8; 20], usize) {
    let mut buffer = [b'0'; 20];
    let mut start = buffer.len();
    loop {
        start -= 1;
        // The remainder is below 10, so nothing is cut off.
        buffer[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return (buffer, start);
        }
    }
}

fn right(out: &mut Vec<u8>, value: u64, width: usize) {
    let (buffer, start) = digits(value);
    let text = &buffer[start..];
    out.resize(out.len() + width.saturating_sub(text.len()), b' ');
    out.extend_from_slice(text);
}

fn left(out: &mut Vec<u8>, value: u64, width: usize) {
    let (buffer, start) = digits(value);
    let text = &buffer[start..];
    out.extend_from_slice(text);
    out.resize(out.len() + width.saturating_sub(text.len()), b' ');
}

/// `Nov 23 20:27` for the last half year, otherwise `Jan  1  2020`.
fn date(out: &mut Vec<u8>, time: i64, now: i64) {
    let (year, month, day) = civil(time.div_euclid(DAY_SECONDS));
    out.extend_from_slice(MONTHS[month]);
    out.push(b' ');
    right(out, day, 2);
    out.push(b' ');
    if time <= now && now.saturating_sub(time) < RECENT_SECONDS {
        let minutes = time.rem_euclid(DAY_SECONDS) / 60;
        let two = |value: i64| [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        out.extend_from_slice(&two(minutes / 60));
        out.push(b':');
        out.extend_from_slice(&two(minutes % 60));
    } else {
        out.push(b' ');
        if year < 0 {
            out.push(b'-');
        }
        right(out, year.unsigned_abs(), 1);
    }
}

/// Year, month (0 is January) and day of the month of a day counted from 1970-01-01, in the proleptic
/// Gregorian calendar. Days are counted in eras of 400 years that start on the first of March, so that a
/// leap day is the last day of its year.
fn civil(days_since_1970: i64) -> (i64, usize, u64) {
    const ERA: i64 = 146_097;
    let days = days_since_1970 + 719_468;
    let era = days.div_euclid(ERA);
    let day_of_era = days.rem_euclid(ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + i64::from(month < 2);
    (year, month as usize, day as u64)
}

#[cfg(test)]
mod tests {
    use tidegate_vfs::{FileType, Timestamp};

    use super::*;

    /// 2026-11-23 20:27:55 UTC.
    const NOW: i64 = 1_795_465_675;

    fn file() -> Metadata {
        Metadata {
            file_type: FileType::File,
            size: 65_535,
            mode: 0o644,
            uid: 1000,
            gid: 100,
            links: 1,
            accessed: Timestamp::default(),
            modified: Timestamp { seconds: NOW - 60, nanos: 999_999_999 },
            identity: (0, 0),
        }
    }

    fn line(name: &[u8], metadata: &Metadata) -> String {
        let mut out = b"|".to_vec();
        longname(name, metadata, NOW, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn lines_look_like_those_of_openssh() {
        assert_eq!(
            line(b"a b.txt", &file()),
            "|-rw-r--r--    1 1000     100         65535 Nov 23 20:26 a b.txt"
        );
        let dir = Metadata {
            file_type: FileType::Dir,
            mode: 0o1777,
            links: 12,
            uid: 0,
            gid: 0,
            size: 4096,
            modified: Timestamp { seconds: 1_577_836_800, nanos: 0 },
            ..file()
        };
        assert_eq!(line(b"tmp", &dir), "|drwxrwxrwt   12 0        0            4096 Jan  1  2020 tmp");
    }

    #[test]
    fn fields_grow_with_their_numbers() {
        let big = Metadata { size: u64::MAX, uid: u32::MAX, gid: u32::MAX, links: u64::MAX, ..file() };
        let expected = "|-rw-r--r--  18446744073709551615 4294967295 4294967295 18446744073709551615 \
                        Nov 23 20:26 x";
        assert_eq!(line(b"x", &big), expected);
    }

    #[test]
    fn names_are_kept_byte_for_byte() {
        let mut out = Vec::new();
        longname(b"\x01\n\xff", &file(), NOW, &mut out);
        assert!(out.ends_with(b" \x01\n\xff"));
    }

    #[test]
    fn the_year_replaces_the_time_for_old_and_future_files() {
        let shown = |seconds: i64| {
            let mut out = Vec::new();
            date(&mut out, seconds, NOW);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(NOW), "Nov 23 20:27");
        assert_eq!(shown(NOW + 1), "Nov 23  2026");
        assert_eq!(shown(NOW - RECENT_SECONDS + 1), "May 25 08:27");
        assert_eq!(shown(NOW - RECENT_SECONDS), "May 25  2026");
        assert_eq!(shown(0), "Jan  1  1970");
        assert_eq!(shown(-1), "Dec 31  1969");
        assert_eq!(shown(951_782_400), "Feb 29  2000");
        assert_eq!(shown(4_107_542_400), "Mar  1  2100");
        assert_eq!(shown(253_402_300_800), "Jan  1  10000");
        assert_eq!(shown(-62_198_755_200), "Jan  1  -1");
        assert!(shown(i64::MIN).len() > 12 && shown(i64::MAX).len() > 12);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(-720_000);
        for days in -719_999..800_000 {
            let (year, month, day) = civil(days);
            let next_day = (year, month, day) == (before.0, before.1, before.2 + 1);
            let next_month = day == 1
                && (year, month) == (before.0 + i64::from(before.1 == 11), (before.1 + 1) % 12)
                && before.2 >= 28;
            assert!(next_day || next_month, "day {days}: {before:?} then {year} {month} {day}");
            before = (year, month, day);
        }
    }

    #[test]
    fn mode_letters() {
        let rows = [
            (0o100_644, "-rw-r--r--"),
            (0o100_000, "----------"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o041_776, "drwxrwxrwT"),
            (0o104_755, "-rwsr-xr-x"),
            (0o104_644, "-rwSr--r--"),
            (0o102_755, "-rwxr-sr-x"),
            (0o102_745, "-rwxr-Sr-x"),
            (0o107_777, "-rwsrwsrwt"),
            (0o120_777, "lrwxrwxrwx"),
            (0o010_600, "prw-------"),
            (0o140_755, "srwxr-xr-x"),
            (0o020_620, "crw--w----"),
            (0o060_660, "brw-rw----"),
            (0o000_644, "?rw-r--r--"),
        ];
        for (mode, expected) in rows {
            assert_eq!(std::str::from_utf8(&mode_text(mode)).unwrap(), expected, "{mode:o}");
        }
    }
}
