//! Writes for people: tables, sizes, times. What the server says of others, such as the names of users, goes
//! through [`clean`], so that it cannot play tricks on a terminal.

use serde_json::Value;
use tidegate_core::UnixMillis;

/// Rows under headings, in columns as wide as they need. The last column is not padded.
pub(super) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row; what is in its cells is cleaned.
    pub(super) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    pub(super) fn text(&self) -> String {
        let headings: Vec<String> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(headings.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column + 1 < row.len() {
                    let gap = widths.get(column).copied().unwrap_or(0) + 2 - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// An answer, indented.
pub(super) fn json(answer: &Value) -> String {
    format!("{answer:#}\n")
}

/// Text without what a terminal would obey or turn round: control and bidirectional formatting characters are
/// shown as `\u{…}`.
pub(super) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for letter in text.chars() {
        let formats = matches!(
            letter,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        );
        if letter.is_control() || formats {
            cleaned.extend(letter.escape_unicode());
        } else {
            cleaned.push(letter);
        }
    }
    cleaned
}

/// Bytes in units of 1000, as the web pages show them.
pub(super) fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["KB", "MB", "GB", "TB", "PB", "EB"];
    if bytes.unsigned_abs() < 1_000 {
        return format!("{bytes} B");
    }
    let bytes_abs = i128::from(bytes.unsigned_abs());
    let (mut divisor, mut unit) = (1_000_i128, 0);
    let tenths = |divisor: i128| (bytes_abs * 10 + divisor / 2) / divisor;
    while tenths(divisor) >= 10_000 && unit + 1 < UNITS.len() {
        divisor *= 1_000;
        unit += 1;
    }
    let (sign, tenths) = (if bytes < 0 { "-" } else { "" }, tenths(divisor));
    format!("{sign}{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Used and, if there is one, the limit.
pub(super) fn of_limit(used: String, limit: i64, show: impl Fn(i64) -> String) -> String {
    if limit > 0 { format!("{used} of {}", show(limit)) } else { used }
}

/// A date and a time in this machine's zone; empty for never.
pub(super) fn time(at: UnixMillis) -> String {
    local(at).map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A date; empty for never.
pub(super) fn date(at: UnixMillis) -> String {
    local(at).map_or_else(String::new, |at| at.strftime("%Y-%m-%d").to_string())
}

fn local(at: UnixMillis) -> Option<jiff::civil::DateTime> {
    let at = (at != 0).then(|| jiff::Timestamp::from_millisecond(at).ok())??;
    Some(jiff::tz::TimeZone::system().to_datetime(at))
}

/// A length of time: `MM:SS` or `HH:MM:SS`.
pub(super) fn duration(millis: i64) -> String {
    let seconds = millis.max(0) / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["ann".to_owned(), "1 B".to_owned()]);
        table.row(["b\u{1b}[2J\u{202e}".to_owned(), "2 B".to_owned()]);
        assert_eq!(
            table.text(),
            format!("{:20}SIZE\n{:20}1 B\n{:20}2 B\n", "NAME", "ann", "b\\u{1b}[2J\\u{202e}")
        );
    }

    #[test]
    fn sizes_and_durations() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 KB"),
            (1_049, "1.0 KB"),
            (1_050, "1.1 KB"),
            (999_949, "999.9 KB"),
            (999_950, "1.0 MB"),
            (i64::MAX, "9.2 EB"),
            (-1_500, "-1.5 KB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        assert_eq!((duration(61_000).as_str(), duration(3_661_000).as_str()), ("01:01", "01:01:01"));
        assert_eq!((time(0).as_str(), date(0).as_str()), ("", ""));
    }
}
