//! One tracing event → one JSON line, with the keys and the order that Fail2ban filters and log readers expect.
//!
//! The kinds of lines and their keys are the tables below; section 4.3 of the reference's log description is
//! their source. What an event must carry to become a line of some kind is said in `log.rs`.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// A key of a line: its name and what is written if the event lacks it.
type Key = (&'static str, Absent);

#[derive(Clone, Copy)]
enum Absent {
    Text,
    Number(i64),
}

const TRANSFER: &[Key] = &[
    ("elapsed_ms", Absent::Number(0)),
    ("size_bytes", Absent::Number(0)),
    ("username", Absent::Text),
    ("file_path", Absent::Text),
    ("connection_id", Absent::Text),
    ("protocol", Absent::Text),
];

const COMMAND: &[Key] = &[
    ("username", Absent::Text),
    ("file_path", Absent::Text),
    ("target_path", Absent::Text),
    ("filemode", Absent::Text),
    ("uid", Absent::Number(-1)),
    ("gid", Absent::Number(-1)),
    ("access_time", Absent::Text),
    ("modification_time", Absent::Text),
    ("ssh_command", Absent::Text),
    ("connection_id", Absent::Text),
    ("protocol", Absent::Text),
];

const HTTP: &[Key] = &[
    ("method", Absent::Text),
    ("proto", Absent::Text),
    ("remote_addr", Absent::Text),
    ("request_id", Absent::Text),
    ("uri", Absent::Text),
    ("user_agent", Absent::Text),
    ("resp_status", Absent::Number(0)),
    ("resp_size", Absent::Number(0)),
    ("elapsed_ms", Absent::Number(0)),
];

/// The order up to `error`, which is last, is what keeps the Fail2ban filter simple and unforgeable.
const CONNECTION_FAILED: &[Key] = &[
    ("client_ip", Absent::Text),
    ("username", Absent::Text),
    ("login_type", Absent::Text),
    ("error", Absent::Text),
];

/// What an event says, before it is known which kind of line it becomes.
#[derive(Debug, Default)]
pub(super) struct Record {
    fields: Vec<(&'static str, FieldValue)>,
    message: String,
    sender: Option<String>,
    /// Whether the event also goes to the console.
    pub(super) console: bool,
}

#[derive(Debug)]
enum FieldValue {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Bool(bool),
}

impl Record {
    /// A record that did not come from tracing.
    pub(super) fn plain(sender: &str, message: String) -> Self {
        Self { message, sender: Some(sender.to_owned()), ..Self::default() }
    }

    /// The text of the event with its unnamed fields, as the console shows it.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            if *name != "connection_id" {
                let separator = if text.is_empty() { "" } else { " " };
                let _ = write!(text, "{separator}{name}={}", value.shown());
            }
        }
        text
    }

    /// Appends the line, with its line feed, to `out`.
    pub(super) fn write_line(&self, metadata: &Source<'_>, time: &str, out: &mut String) {
        let sender = self.sender.as_deref().unwrap_or(metadata.sender);
        let _ = write!(out, "{{\"level\":\"{}\",\"time\":\"{time}\",\"sender\":", metadata.level);
        quote(sender, out);
        match self.keys(sender) {
            Some(keys) => {
                for (name, absent) in keys {
                    self.write_key(name, *absent, out);
                }
                for extra in ["peer_addr", "user", "stack", "panic"] {
                    if self.field(extra).is_some() {
                        self.write_key(extra, Absent::Text, out);
                    }
                }
            }
            None => {
                self.write_key("connection_id", Absent::Text, out);
                out.push_str(",\"message\":");
                quote(&self.text(), out);
            }
        }
        out.push_str("}\n");
    }

    /// The keys of the kind of line that `sender` asks for; none for an app line.
    fn keys(&self, sender: &str) -> Option<&'static [Key]> {
        match sender {
            "Upload" | "Download" => Some(TRANSFER),
            "Rename" | "Rmdir" | "Mkdir" | "Symlink" | "Remove" | "Chmod" | "Chown" | "Chtimes"
            | "SSHCommand" => Some(COMMAND),
            "connection_failed" => Some(CONNECTION_FAILED),
            "httpd" if self.field("method").is_some() => Some(HTTP),
            _ => None,
        }
    }

    fn field(&self, name: &str) -> Option<&FieldValue> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn write_key(&self, name: &str, absent: Absent, out: &mut String) {
        let _ = write!(out, ",\"{name}\":");
        match (self.field(name), absent) {
            (None, Absent::Text) => out.push_str("\"\""),
            (None, Absent::Number(number)) => {
                let _ = write!(out, "{number}");
            }
            (Some(FieldValue::Signed(number)), Absent::Number(_)) => {
                let _ = write!(out, "{number}");
            }
            (Some(FieldValue::Unsigned(number)), Absent::Number(_)) => {
                let _ = write!(out, "{number}");
            }
            // A number in the guise of text stays a number, anything else would break the line's type.
            (Some(value), Absent::Number(number)) => {
                let _ = write!(out, "{}", value.shown().parse().unwrap_or(number));
            }
            (Some(value), Absent::Text) => quote(&value.shown(), out),
        }
    }

    fn push(&mut self, field: &Field, value: FieldValue) {
        match (field.name(), value) {
            ("message", value) => self.message = value.shown().into_owned(),
            ("sender", value) => self.sender = Some(value.shown().into_owned()),
            ("console", value) => self.console = matches!(value, FieldValue::Bool(true)),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, FieldValue::Text(value.to_owned()));
    }

    /// Paths are bytes; what is not UTF-8 is shown as U+FFFD.
    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.push(field, FieldValue::Text(String::from_utf8_lossy(value).into_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, FieldValue::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, FieldValue::Unsigned(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, FieldValue::Bool(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(inner) = source {
            let _ = write!(text, ": {inner}");
            source = inner.source();
        }
        self.push(field, FieldValue::Text(text));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, FieldValue::Text(format!("{value:?}")));
    }
}

impl FieldValue {
    fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Signed(number) => Cow::Owned(number.to_string()),
            Self::Unsigned(number) => Cow::Owned(number.to_string()),
            Self::Bool(on) => Cow::Owned(on.to_string()),
        }
    }
}

/// Where an event comes from.
pub(super) struct Source<'a> {
    /// `debug`, `info`, `warn` or `error`.
    pub(super) level: &'static str,
    /// The sender if the event names none.
    pub(super) sender: &'a str,
}

impl<'a> Source<'a> {
    /// Level and default sender of a tracing event.
    pub(super) fn of(metadata: &Metadata<'a>) -> Self {
        Self { level: level_name(*metadata.level()), sender: sender_of(metadata.target()) }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// The sender of an event that names none: the part of the server for our crates, else the name of the crate.
pub(super) fn sender_of(target: &str) -> &str {
    let mut parts = target.split("::");
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("tidegate_ssh", Some("scp")) => "scp",
        ("tidegate_ssh", Some("command")) => "ssh",
        ("tidegate_ssh", _) => "sftpd",
        ("tidegate_http", _) => "httpd",
        ("tidegate_store", _) => "dataProvider",
        ("tidegate", Some("config")) => "config",
        ("tidegate" | "tidegate_core" | "tidegate_vfs", _) => "service",
        (other, _) => other,
    }
}

/// Writes `text` as a JSON string. Beyond what JSON demands, every control character and the invisible line
/// and direction marks are escaped, so that a log on a terminal cannot be made to lie.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        quote(text, &mut out);
        out
    }

    #[test]
    fn strings_are_json_and_harmless_on_a_terminal() {
        assert_eq!(quoted("a\"b\\c\n\t\r"), r#""a\"b\\c\n\t\r""#);
        assert_eq!(quoted("\x1b[2J\u{9b}\u{7f}\0"), "\"\\u001b[2J\\u009b\\u007f\\u0000\"");
        assert_eq!(quoted("ä😀\u{202e}\u{200f}"), "\"ä😀\\u202e\\u200f\"");
        for text in ["\x1b\"\\\n", "a\u{2028}b", "", "plain"] {
            assert_eq!(serde_json::from_str::<String>(&quoted(text)).unwrap(), text);
        }
    }

    #[test]
    fn senders_of_targets() {
        let rows = [
            ("tidegate_ssh::sftp::engine", "sftpd"),
            ("tidegate_ssh::scp", "scp"),
            ("tidegate_ssh::command::hash", "ssh"),
            ("tidegate_http::api", "httpd"),
            ("tidegate_store", "dataProvider"),
            ("tidegate::config", "config"),
            ("tidegate", "service"),
            ("hyper::proto", "hyper"),
        ];
        for (target, sender) in rows {
            assert_eq!(sender_of(target), sender);
        }
    }
}
