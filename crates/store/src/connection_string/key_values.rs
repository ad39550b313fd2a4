//! `key=value` pairs as libpq writes them (PostgreSQL documentation, "Keyword/Value Connection Strings").
//!
//! ```text
//! text  = { space } [ pair { space { space } pair } { space } ]
//! pair  = key { space } "=" { space } value
//! value = bare | "'" { any but "'" and "\" | "\" any } "'"
//! bare  = { any but space and "\" | "\" any }
//! ```

/// The pairs in their order. The last one of a key counts, as in libpq.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let number = pairs.len() + 1;
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(format!("there is no \"=\" after the key of pair {number}"));
        };
        if key.is_empty() {
            return Err(format!("pair {number} has no key"));
        }
        let (value, after) =
            value(after.trim_start()).ok_or_else(|| format!("the value of {} does not end", shown(key)))?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A key that is no word may be a piece of a password that was not quoted.
fn shown(key: &str) -> &str {
    if key.chars().all(|c| c.is_ascii_alphabetic() || c == '_') { key } else { "a pair" }
}

fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let mut value = String::new();
    let body = quoted.unwrap_or(text);
    let mut chars = body.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted.is_some() => return Some((value, body.get(index + 1..)?)),
            c if quoted.is_none() && c.is_whitespace() => return Some((value, body.get(index..)?)),
            c => value.push(c),
        }
    }
    quoted.is_none().then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        for (text, want) in [
            ("", &[][..]),
            ("  ", &[]),
            ("host=x", &[("host", "x")]),
            (" host = x  port=1 ", &[("host", "x"), ("port", "1")]),
            ("password='a b=c\\'d\\\\' user=u", &[("password", "a b=c'd\\"), ("user", "u")]),
            ("password=a\\ b user=''", &[("password", "a b"), ("user", "")]),
            ("a=1 a=2", &[("a", "1"), ("a", "2")]),
            ("password= user=x", &[("password", "user=x")]),
        ] {
            let want: Vec<_> = want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        for text in ["host", "host x=1", "=x", "password='secret", "password=secret\\", "a=b =c"] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read(values in proptest::collection::vec(any::<String>(), 0..6)) {
            let quote = |value: &String| value.replace('\\', "\\\\").replace('\'', "\\'");
            let text: Vec<_> = values.iter().map(|value| format!("k = '{}'", quote(value))).collect();
            let pairs: Vec<_> = values.iter().map(|value| ("k".to_owned(), value.clone())).collect();
            prop_assert_eq!(parse(&text.join(" ")), Ok(pairs));
        }

        #[test]
        fn nothing_is_invented(text in "[ a='\\\\\\nü]{0,40}") {
            if let Ok(pairs) = parse(&text) {
                let length: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + 1).sum();
                prop_assert!(length <= text.len());
            }
        }
    }
}
