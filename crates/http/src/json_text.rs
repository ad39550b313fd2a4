//! JSON as it is answered: plain JSON, in which characters that do harm where it is shown are escapes.
//!
//! Names and paths come from anybody. A terminal obeys some control characters, a page that includes the text
//! obeys `<`, and marks of writing direction make a name look like another one. An escape is the same text to
//! whoever reads the JSON.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes `value`.
pub(crate) fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Harmless))?;
    Ok(text)
}

struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| does_harm(*c)) {
            to.write_all(&rest.as_bytes()[..at])?;
            write!(to, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        to.write_all(rest.as_bytes())
    }
}

/// All of them have four hexadecimal digits. What is below space, `"` and `\` are escapes in any JSON.
fn does_harm(c: char) -> bool {
    matches!(
        c,
        '<' | '>' | '&'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_without_its_tricks() {
        let text = "a<b>&\"\\\u{0}\u{1b}[2J\u{7f}\u{9b}31m\u{202e}gpj.exe\u{2066}\u{2028}ü€😀\u{feff}";
        let json = to_vec(&[text]).unwrap();
        let shown = String::from_utf8(json.clone()).unwrap();
        assert_eq!(
            shown,
            "[\"a\\u003cb\\u003e\\u0026\\\"\\\\\\u0000\\u001b[2J\\u007f\\u009b31m\\u202egpj.exe\\u2066\\u2028ü€😀\\ufeff\"]"
        );
        assert_eq!(serde_json::from_slice::<Vec<String>>(&json).unwrap(), [text]);
    }
}
