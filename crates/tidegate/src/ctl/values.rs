//! Values as people give them on the command line: sizes, dates, permissions. The server checks the rest.

use serde_json::{Map, Value, json};

/// Reads a number of bytes, or one with a unit: `1500`, `10GB`, `1.5 TiB`.
pub(super) fn size(text: &str) -> Result<i64, String> {
    const UNITS: [(&str, i128); 14] = [
        ("", 1),
        ("B", 1),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("PB", 1_000_000_000_000_000),
        ("EB", 1_000_000_000_000_000_000),
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("PIB", 1 << 50),
        ("EIB", 1 << 60),
    ];
    let expected = || "expected a size such as 1500, 10GB or 1.5TiB".to_owned();
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim().to_ascii_uppercase());
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 19 || part.len() > 9 || number.ends_with('.') {
        return Err(expected());
    }
    let whole: i128 = whole.parse().map_err(|_| expected())?;
    let scale = 10_i128.pow(u32::try_from(part.len()).map_err(|_| expected())?);
    let part: i128 = if part.is_empty() { 0 } else { part.parse().map_err(|_| expected())? };
    let scaled = whole * factor * scale + part * factor;
    if scaled % scale != 0 {
        return Err("expected a whole number of bytes".to_owned());
    }
    i64::try_from(scaled / scale).map_err(|_| "expected less than 9.2 EB".to_owned())
}

/// Reads the last moment of a day (UTC, as the web pages do), a moment (RFC 3339), or `never`.
pub(super) fn expiration(text: &str) -> Result<i64, String> {
    if text.eq_ignore_ascii_case("never") || text == "0" {
        return Ok(0);
    }
    let expected =
        || "expected a date such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, or never".to_owned();
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(moment.as_millisecond());
    }
    let day: jiff::civil::Date = text.parse().map_err(|_| expected())?;
    let end =
        jiff::tz::TimeZone::UTC.to_timestamp(day.at(23, 59, 59, 999_000_000)).map_err(|_| expected())?;
    Ok(end.as_millisecond())
}

/// Reads `DIRECTORY:PERMISSION[,PERMISSION…]`. The directory may hold a colon, a permission cannot.
pub(super) fn directory(text: &str) -> Result<(String, Vec<String>), String> {
    let expected = || "expected DIRECTORY:PERMISSIONS, for example /inbox:list,upload".to_owned();
    let (directory, permissions) = text.rsplit_once(':').ok_or_else(expected)?;
    let permissions = list(permissions);
    if !directory.starts_with('/') || permissions.is_empty() {
        return Err(expected());
    }
    Ok((directory.to_owned(), permissions))
}

/// The parts of a comma-separated list.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// `/` and other directories as the API wants them.
pub(super) fn permissions(root: &[String], directories: &[(String, Vec<String>)]) -> Value {
    let mut map = Map::new();
    if !root.is_empty() {
        map.insert("/".to_owned(), json!(root));
    }
    map.extend(directories.iter().map(|(directory, list)| (directory.clone(), json!(list))));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1_500),
            ("10 GB", 10_000_000_000),
            ("1.5tib", 1_649_267_441_664),
            ("8KiB", 8_192),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1.", ".5", "1,5 GB", "10 XB", "1.5", "99999999999 GB", "9.3EB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dates() {
        for (text, at) in [
            ("never", 0),
            ("0", 0),
            ("1970-01-01", 86_399_999),
            ("2027-01-31T12:00:00Z", 1_801_396_800_000),
            ("2027-01-31T13:00:00+01:00", 1_801_396_800_000),
        ] {
            assert_eq!(expiration(text), Ok(at), "{text}");
        }
        assert!(expiration("31.1.2027").is_err() && expiration("2027-02-30").is_err());
    }

    #[test]
    fn directories_with_permissions() {
        let pair = |a: &str, b: &[&str]| Ok((a.to_owned(), b.iter().map(|&p| p.to_owned()).collect()));
        assert_eq!(directory("/in: list , upload"), pair("/in", &["list", "upload"]));
        assert_eq!(directory("/a:b:*"), pair("/a:b", &["*"]));
        for text in ["", "/in", "/in:", "in:list", ":list"] {
            assert!(directory(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_size_is_what_its_number_says(number in 0_i64..1 << 40) {
            proptest::prop_assert_eq!(size(&number.to_string()), Ok(number));
            proptest::prop_assert_eq!(size(&format!("{number}KiB")), Ok(number * 1_024));
        }

        #[test]
        fn no_text_does_harm(text in "\\PC*") {
            let _ = (size(&text), expiration(&text), directory(&text));
        }
    }
}
