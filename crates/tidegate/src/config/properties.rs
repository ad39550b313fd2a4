//! Java properties and ini text → pairs of key and value.
//!
//! Properties follow the description of `java.util.Properties.load`: comments with `#` or `!`, keys ended by
//! `=`, `:` or white space, backslash escapes, lines continued by a final backslash. Ini adds `[section]`
//! lines and has no escapes, so that a Windows path needs none. Bytes that are not UTF-8 are read as latin-1,
//! the encoding of old properties files.

/// A parse error: the line, counted from 1, and what is wrong there. Never the text of the line.
pub(super) type LineError = (usize, &'static str);

/// Decodes a file: UTF-8 with or without byte order mark, else latin-1.
pub(super) fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// Reads Java properties.
pub(super) fn properties(text: &str) -> Result<Vec<(String, String)>, LineError> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut line = first.to_owned();
        while is_continued(&line) {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next.trim_start_matches(is_blank));
        }
        let (key, value) = split(&line);
        pairs.push((unescape(key, index + 1)?, unescape(value, index + 1)?));
    }
    Ok(pairs)
}

/// Reads an ini file; a key in `[section]` becomes `section.key`.
pub(super) fn ini(text: &str) -> Result<Vec<(String, String)>, LineError> {
    let mut pairs = Vec::new();
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.strip_suffix(']').ok_or((index + 1, "a section line without ]"))?.trim();
            section = if name.is_empty() { String::new() } else { format!("{name}.") };
            continue;
        }
        let (key, value) = line.split_once(['=', ':']).ok_or((index + 1, "a line without = or :"))?;
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|mark| value.strip_prefix(*mark)?.strip_suffix(*mark));
        pairs.push((format!("{section}{}", key.trim()), quoted.unwrap_or(value).to_owned()));
    }
    Ok(pairs)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// An odd number of backslashes at the end continues the line.
fn is_continued(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Splits at the first separator that no backslash protects.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (index, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || is_blank(c) {
            let rest = line[index..].trim_start_matches(is_blank);
            let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
            return (&line[..index], rest.trim_start_matches(is_blank));
        }
    }
    (line, "")
}

fn unescape(text: &str, line: usize) -> Result<String, LineError> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    let mut buffer = [0; 2];
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                None => break,
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let is_hex = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
                    units.push(unit.ok_or((line, "\\u without four hexadecimal digits"))?);
                    continue;
                }
                Some(other) => other,
            },
            other => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut buffer));
    }
    String::from_utf16(&units).map_err(|_| (line, "\\u with half a surrogate pair"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, String) {
        let mut pairs = properties(text).unwrap();
        assert_eq!(pairs.len(), 1, "{text:?}");
        pairs.remove(0)
    }

    #[test]
    fn separators_escapes_and_continuations() {
        let rows = [
            ("a.b=c", "a.b", "c"),
            ("  a.b : c d ", "a.b", "c d "),
            ("a.b c", "a.b", "c"),
            ("a.b\t=\t c", "a.b", "c"),
            ("a.b = = c", "a.b", "= c"),
            ("a\\ b\\=c=d", "a b=c", "d"),
            ("a=b\\\n   c\\\\", "a", "bc\\"),
            ("a=\\u00e4\\t\\ud83d\\ude00\\q", "a", "ä\t😀q"),
            ("a", "a", ""),
            ("a=b\\", "a", "b"),
        ];
        for (text, key, value) in rows {
            assert_eq!(one(text), (key.to_owned(), value.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn comments_blank_lines_and_line_ends() {
        let text = "# one\n! two \\\n\r\n \ta=1\r\nb=2\r\n#c=3";
        let pairs = properties(text).unwrap();
        assert_eq!(pairs, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn a_broken_escape_names_its_line() {
        for text in ["x=1\na=\\u12", "x=1\na=\\u12g4", "x=1\na=\\ud800"] {
            assert_eq!(properties(text).unwrap_err().0, 2, "{text:?}");
        }
    }

    #[test]
    fn latin_1_and_utf_8_files() {
        assert_eq!(decode(b"\xef\xbb\xbfa=\xc3\xa4"), "a=ä");
        assert_eq!(decode(b"a=\xe4"), "a=ä");
    }

    #[test]
    fn ini_sections_become_prefixes() {
        let text =
            "; note\ntop = 1\n[sftpd]\nbind_port = 2022\n[sftpd.actions]\ncommand: \"C:\\bin\\x = y\"\n";
        let pairs = ini(text).unwrap();
        let expected =
            [("top", "1"), ("sftpd.bind_port", "2022"), ("sftpd.actions.command", "C:\\bin\\x = y")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(ini("a=1\nnonsense").unwrap_err().0, 2);
        assert_eq!(ini("[open").unwrap_err().0, 1);
    }
}
