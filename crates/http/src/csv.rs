//! Users as comma separated values (RFC 4180), for spreadsheets: the export of the web admin and of `tidegate ctl`.
//!
//! A spreadsheet takes a cell for a formula if it begins with one of a few characters, and names come from
//! elsewhere: such a cell gets an apostrophe in front. Control characters, and those that show nothing or turn the
//! text around them, are shown as `U+202E`, so no cell has a line end of its own.

use serde_json::Value;

use crate::web::text::{iso, plain};

/// What a formula may begin with, in the wide forms of East Asian keyboards as well.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// A column's name, and its cell made of a user as the REST API shows it.
type Column = (&'static str, fn(&Value) -> String);

const COLUMNS: [Column; 20] = [
    ("id", |user| number(user, "id")),
    ("username", |user| text(user, "username")),
    ("status", |user| quoted(if user["status"] == 1 { "active" } else { "inactive" })),
    ("expiration_date", |user| time(user, "expiration_date")),
    ("home_dir", |user| text(user, "home_dir")),
    ("permissions", |user| quoted(&permissions(user))),
    ("public_keys", |user| quoted(&list(&user["public_keys"], " | "))),
    ("uid", |user| number(user, "uid")),
    ("gid", |user| number(user, "gid")),
    ("max_sessions", |user| number(user, "max_sessions")),
    ("quota_size", |user| number(user, "quota_size")),
    ("quota_files", |user| number(user, "quota_files")),
    ("used_quota_size", |user| number(user, "used_quota_size")),
    ("used_quota_files", |user| number(user, "used_quota_files")),
    ("last_quota_update", |user| time(user, "last_quota_update")),
    ("upload_bandwidth", |user| number(user, "upload_bandwidth")),
    ("download_bandwidth", |user| number(user, "download_bandwidth")),
    ("last_login", |user| time(user, "last_login")),
    ("allowed_ip", |user| quoted(&list(&user["filters"]["allowed_ip"], ", "))),
    ("denied_ip", |user| quoted(&list(&user["filters"]["denied_ip"], ", "))),
];

/// The first line: the columns' names.
pub fn header() -> String {
    line(COLUMNS.iter().map(|(name, _)| (*name).to_owned()))
}

/// The line of a user, an object as the REST API answers it. Times are UTC, as ISO 8601; empty is never.
pub fn user(user: &Value) -> String {
    line(COLUMNS.iter().map(|(_, cell)| cell(user)))
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let mut line = cells.collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

fn number(user: &Value, key: &str) -> String {
    user[key].as_i64().unwrap_or_default().to_string()
}

fn time(user: &Value, key: &str) -> String {
    iso(user[key].as_i64().unwrap_or_default())
}

fn text(user: &Value, key: &str) -> String {
    quoted(user[key].as_str().unwrap_or_default())
}

fn list(values: &Value, between: &str) -> String {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(between)
}

/// `/: list, download; /in: *`
fn permissions(user: &Value) -> String {
    let dirs = user["permissions"].as_object().into_iter().flatten();
    dirs.map(|(dir, tokens)| format!("{dir}: {}", list(tokens, ", "))).collect::<Vec<_>>().join("; ")
}

/// A text as a cell, always in quotes.
fn quoted(text: &str) -> String {
    let apostrophe = if text.starts_with(FORMULA) { "'" } else { "" };
    format!("\"{apostrophe}{}\"", plain(text).replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hostile_name_is_no_formula_and_no_line() {
        for (text, cell) in [
            ("anna", "\"anna\""),
            ("", "\"\""),
            ("=cmd|'/C calc'!A0", "\"'=cmd|'/C calc'!A0\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@sum", "\"'@sum\""),
            ("＝1", "\"'＝1\""),
            ("\t=1", "\"'U+0009=1\""),
            ("\r\n=1", "\"'U+000DU+000A=1\""),
            ("a\"b,c;d", "\"a\"\"b,c;d\""),
            ("<b>\u{202e}x", "\"<b>U+202Ex\""),
            ("ü=1", "\"ü=1\""),
        ] {
            assert_eq!(quoted(text), cell, "{text:?}");
        }
    }

    #[test]
    fn a_line_has_a_cell_for_each_column() {
        let anna = json!({
            "id": 7, "status": 1, "username": "=anna", "expiration_date": 1_893_456_000_000_i64,
            "public_keys": ["ssh-ed25519 AAAA a", "ssh-ed25519 BBBB b"], "home_dir": "/srv/anna", "uid": 1,
            "gid": 2, "max_sessions": 3, "quota_size": 4, "quota_files": 5,
            "permissions": {"/": ["list", "download"], "/in": ["*"]}, "used_quota_size": 6,
            "used_quota_files": 7, "last_quota_update": 0, "upload_bandwidth": 8, "download_bandwidth": 9,
            "last_login": 0, "filters": {"allowed_ip": ["10.0.0.0/8", "::1/128"], "denied_ip": []},
        });
        assert_eq!(
            user(&anna),
            "7,\"'=anna\",\"active\",2030-01-01T00:00:00Z,\"/srv/anna\",\"/: list, download; /in: *\",\
             \"ssh-ed25519 AAAA a | ssh-ed25519 BBBB b\",1,2,3,4,5,6,7,,8,9,,\"10.0.0.0/8, ::1/128\",\"\"\r\n"
        );
        assert!(header().starts_with("id,username,status,") && header().ends_with(",denied_ip\r\n"));
        assert_eq!(header().matches(',').count(), COLUMNS.len() - 1);
        assert_eq!(user(&json!({})).matches(',').count(), COLUMNS.len() - 1);
    }
}
