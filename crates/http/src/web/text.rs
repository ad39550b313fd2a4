//! How values look on the pages: names from elsewhere made harmless, sizes, speeds, dates.
//!
//! Escaping for HTML is the template engine's; here is what escaping does not do. A name may hold control
//! characters and marks that turn the direction of the text around it: they are shown as what they are, and
//! the whole stands in a `<bdi>` of its own (`spec/web-admin.md` §8.4).

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidegate_core::UnixMillis;

/// HTML of a text that somebody else chose.
pub(crate) fn shown(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    html.push_str("<bdi>");
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c if is_unseen(c) => {
                let _infallible = write!(html, "<span class=\"code-point\">{}</span>", point(c));
            }
            c => html.push(c),
        }
    }
    html.push_str("</bdi>");
    html
}

/// The same without HTML, for attributes, titles and notices.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) { plain.push_str(&point(c)) } else { plain.push(c) }
    }
    plain
}

fn point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// Characters that show nothing, or that change how others are shown.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0x00ad | 0x034f | 0x061c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
            | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfeff | 0xffa0
            | 0xfff9..=0xfffb | 0xe0000..=0xe0fff)
}

/// Bytes for people, in steps of 1000: `5 B`, `1.4 MB`.
pub(crate) fn bytes(count: i64) -> String {
    const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if count.unsigned_abs() < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // What would be rounded to 1000.0 is one of the next unit.
    while value.abs() >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A limit in KB/s as `1.5 MB/s`; 0 and less is no limit.
pub(crate) fn bandwidth(kb_per_second: i64) -> String {
    if kb_per_second <= 0 {
        return "unlimited".to_owned();
    }
    format!("{}/s", bytes(kb_per_second.saturating_mul(1000)))
}

/// `2026-01-31`, in UTC; empty for never.
pub(crate) fn date(at: UnixMillis) -> String {
    strftime(at, "%Y-%m-%d")
}

/// `2026-01-31 23:59:59`, in UTC; empty for never.
pub(crate) fn date_time(at: UnixMillis) -> String {
    strftime(at, "%Y-%m-%d %H:%M:%S")
}

/// `2026-01-31T23:59:59Z`, for the `datetime` of `<time>`; empty for never.
pub(crate) fn iso(at: UnixMillis) -> String {
    strftime(at, "%Y-%m-%dT%H:%M:%SZ")
}

fn strftime(at: UnixMillis, format: &str) -> String {
    if at <= 0 {
        return String::new();
    }
    match Timestamp::from_millisecond(at) {
        Ok(at) => at.to_zoned_datetime(TimeZone::UTC).strftime(format).to_string(),
        Err(_) => "after the year 9999".to_owned(),
    }
}

/// `1,234,567`.
pub(crate) fn thousands(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if count < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_only_text() {
        let html = shown("<b>\"x'&\u{202e}\n\u{200b}é");
        assert_eq!(
            html,
            "<bdi>&lt;b&gt;&quot;x&#39;&amp;<span class=\"code-point\">U+202E</span>\
             <span class=\"code-point\">U+000A</span><span class=\"code-point\">U+200B</span>é</bdi>"
        );
        assert_eq!(plain("a\u{2066}\tb"), "aU+2066U+0009b");
    }

    #[test]
    fn sizes() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (-5, "-5 B"),
            (1000, "1.0 KB"),
            (1449, "1.4 KB"),
            (999_949, "999.9 KB"),
            (999_950, "1.0 MB"),
            (10_737_418_240, "10.7 GB"),
            (i64::MAX, "9.2 EB"),
            (i64::MIN, "-9.2 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bandwidth(0), "unlimited");
        assert_eq!(bandwidth(1500), "1.5 MB/s");
        assert_eq!(bandwidth(i64::MAX), "9.2 EB/s");
    }

    #[test]
    fn dates_are_utc() {
        assert_eq!(date(0), "");
        assert_eq!(date(1_767_225_599_000), "2025-12-31");
        assert_eq!(date_time(1_767_225_599_000), "2025-12-31 23:59:59");
        assert_eq!(iso(1_767_225_600_999), "2026-01-01T00:00:00Z");
        assert_eq!(date(i64::MAX), "after the year 9999");
    }

    #[test]
    fn groups_of_three() {
        for (count, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567"), (-12_345, "-12,345")]
        {
            assert_eq!(thousands(count), text);
        }
    }
}
