//! Sizes and dates as people write them, and back: what is shown in a field and sent again unchanged is exactly
//! what was stored.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use tidegate_core::UnixMillis;

/// Units of size, the largest first; the binary one before its decimal neighbour.
const UNITS: [(&str, i64); 12] = [
    ("EiB", 1 << 60),
    ("EB", 1_000_000_000_000_000_000),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
];

/// The last moment of a day, as `tidegate ctl` has it: an account whose end is a date alone may be used on that day.
const END_OF_DAY: &str = "23:59:59.999";

/// Reads `1500`, `10 GB` or `1.5 TiB` as bytes.
pub(crate) fn size(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let wrong =
        || format!("{text:?} is not a size: write a number of bytes, or for example 10 GB or 1.5 TiB");
    let letters = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = (text[..letters].trim_end(), &text[letters..]);
    let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => *factor,
        None if unit.eq_ignore_ascii_case("b") => 1,
        None if unit.len() == 1 && "kmgtpe".contains(&unit.to_ascii_lowercase()) => {
            let unit = unit.to_ascii_uppercase();
            return Err(format!(
                "{text:?} could mean two sizes: write {number} {unit}B (decimal) or {number} {unit}iB (binary)"
            ));
        }
        None => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
    if !is_number || number.ends_with('.') || fraction.len() > 9 {
        return Err(wrong());
    }
    let too_large = || format!("{text:?} is larger than any disk");
    let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| too_large())?;
    let bytes = digits.checked_mul(i128::from(factor)).ok_or_else(too_large)? / scale;
    i64::try_from(bytes).map_err(|_| too_large())
}

/// The shortest text that [`size`] reads as exactly `bytes`.
pub(crate) fn size_text(bytes: i64) -> String {
    if bytes > 0 {
        for (name, factor) in UNITS.into_iter().filter(|(_, factor)| *factor <= bytes) {
            let hundredths = i128::from(bytes) * 100;
            if hundredths % i128::from(factor) != 0 {
                continue;
            }
            let hundredths = hundredths / i128::from(factor);
            let (whole, rest) = (hundredths / 100, hundredths % 100);
            return match (rest, rest % 10) {
                (0, _) => format!("{whole} {name}"),
                (_, 0) => format!("{whole}.{} {name}", rest / 10),
                _ => format!("{whole}.{rest:02} {name}"),
            };
        }
    }
    bytes.to_string()
}

/// Reads the end of an account, in UTC: `2026-01-31` with a time or without, or both in `date`. Nothing is never.
pub(crate) fn end(date: &str, time: &str) -> Result<UnixMillis, String> {
    let (date, time) = (date.trim(), time.trim());
    if date.is_empty() {
        return if time.is_empty() { Ok(0) } else { Err("a time needs a date".to_owned()) };
    }
    let wrong = || format!("{date:?} is not a date: write YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, in UTC");
    let parts: Vec<&str> = date.split([' ', 'T']).collect();
    let (day, time) = match (parts.as_slice(), time) {
        ([day], "") => (*day, END_OF_DAY),
        ([day], time) => (*day, time),
        ([day, time], _) => (*day, *time),
        _ => return Err(wrong()),
    };
    // The parser of jiff takes more forms than a form field should.
    if day.len() != 10 || !day.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return Err(wrong());
    }
    if !time.bytes().all(|b| b.is_ascii_digit() || b":.".contains(&b)) {
        return Err(format!("{time:?} is not a time: write HH:MM:SS"));
    }
    let day: Date = day.parse().map_err(|_| wrong())?;
    let time: Time = time.parse().map_err(|_| format!("{time:?} is not a time: write HH:MM:SS"))?;
    let at = TimeZone::UTC.to_timestamp(DateTime::from_parts(day, time)).map_err(|_| wrong())?;
    match at.as_millisecond() {
        at if at > 0 => Ok(at),
        _ => Err(format!("{date:?} is before 1970")),
    }
}

/// Date and time of the end of an account as [`end`] reads them; the time is empty at the end of the day.
pub(crate) fn end_text(at: UnixMillis) -> (String, String) {
    let Some(at) = Some(at).filter(|at| *at > 0).and_then(|at| Timestamp::from_millisecond(at).ok()) else {
        return Default::default();
    };
    let at = TimeZone::UTC.to_datetime(at);
    let time = at.time().to_string();
    (at.date().to_string(), if time == END_OF_DAY { String::new() } else { time })
}

/// Reads a whole number.
pub(crate) fn integer(text: Option<&str>) -> Result<i64, String> {
    match text.map(str::trim) {
        None | Some("") => Err("a number is missing here".to_owned()),
        Some(text) => text.parse().map_err(|_| format!("{text:?} is not a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("1500", 1500),
            ("10 GB", 10_000_000_000),
            ("10gb", 10_000_000_000),
            (" 1.5 TiB ", 1_649_267_441_664),
            ("0.5 KB", 500),
            ("7 B", 7),
            ("8 EB", 8_000_000_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "x", "GB", "1.GB", ".5 GB", "1,5 GB", "1e3", "10 G", "10 XB", "-1 GB", "9 EiB", "1 2 GB"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size_text(10_737_418_240), "10 GiB");
        assert_eq!(size_text(10_000_000_000), "10 GB");
        assert_eq!(size_text(1_649_267_441_664), "1.5 TiB");
        assert_eq!(size_text(1_234_567), "1234567");
        assert_eq!(size_text(-3), "-3");
    }

    #[test]
    fn ends() {
        for (date, time, at) in [
            ("", "", 0),
            ("2025-12-31", "", 1_767_225_599_999),
            ("2025-12-31", "23:59:59", 1_767_225_599_000),
            ("2025-12-31 23:59:59", "", 1_767_225_599_000),
            ("2026-01-01T00:00:00", "12:00", 1_767_225_600_000),
            ("2026-01-01", "00:00:00.250", 1_767_225_600_250),
        ] {
            assert_eq!(end(date, time), Ok(at), "{date} {time}");
        }
        for (date, time) in [
            ("31.12.2025", ""),
            ("2025-02-30", ""),
            ("2025-12-31", "25:00"),
            ("2025-12-31", "noon"),
            ("", "12:00"),
            ("1969-01-01", ""),
            ("2025-12-31 1 2", ""),
            ("20251231", ""),
            ("-002025-12-31", ""),
            ("tomorrow", ""),
        ] {
            assert!(end(date, time).is_err(), "{date} {time}");
        }
        assert_eq!(end_text(i64::MAX), (String::new(), String::new()));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bytes: i64, at in 1_i64..253_402_207_200_000) {
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
            let (date, time) = end_text(at);
            prop_assert_eq!(end(&date, &time), Ok(at));
        }

        #[test]
        fn round_sizes_too(number in 1_i64..5000, unit in 0_usize..12) {
            let bytes = i128::from(number) * i128::from(UNITS[unit].1);
            if let Ok(bytes) = i64::try_from(bytes) {
                prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
            }
        }

        #[test]
        fn any_text_is_a_size_or_none(text in ".{0,40}") {
            let _ = (size(&text), end(&text, ""), end("2026-01-01", &text));
        }
    }
}
