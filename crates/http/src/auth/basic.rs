//! The header `Authorization: Basic …` (RFC 7617): name and password, both UTF-8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest header value that is looked at; the password code takes no password of more than 1024 bytes.
const MAX_HEADER_BYTES: usize = 4096;

/// A name and a password as sent. Not `Debug`: it holds a password in clear.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The name.
    pub(crate) name: String,
    /// The password; may be empty.
    pub(crate) password: String,
}

/// Reads the value of an `Authorization` header; `None` for another scheme and for what is no such value.
pub(crate) fn parse(value: &[u8]) -> Option<Credentials> {
    let value = std::str::from_utf8(value).ok().filter(|value| value.len() <= MAX_HEADER_BYTES)?;
    let (scheme, rest) = value.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    if name.is_empty() || text.chars().any(char::is_control) {
        return None;
    }
    Some(Credentials { name: name.to_owned(), password: password.to_owned() })
}

/// The header value that says `credentials`.
#[cfg_attr(not(test), allow(dead_code, reason = "the round trip of tests and of the fuzz target"))]
pub(crate) fn format(credentials: &Credentials) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", credentials.name, credentials.password)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Option<(String, String)> {
        parse(value.as_bytes()).map(|credentials| (credentials.name, credentials.password))
    }

    #[test]
    fn what_is_read_and_what_is_not() {
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), aladdin);
        assert_eq!(read("bASIC  QWxhZGRpbjpvcGVuIHNlc2FtZQ== "), aladdin);
        assert_eq!(read("Basic dGVzdDoxMjPCow=="), Some(("test".to_owned(), "123£".to_owned())));
        let encoded = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(read(&encoded(b"a:b:c")), Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(read(&encoded(b"a:")), Some(("a".to_owned(), String::new())));
        for text in [&b"a"[..], b":b", b"", b"a\n:b", b"a:b\0", b"\xff:b"] {
            assert_eq!(read(&encoded(text)), None, "{text:?}");
        }
        for value in ["", "Basic", "Basic ", "Basic ???", "Bearer QTpi", "QTpi", "Basic QTpi QTpi"] {
            assert_eq!(read(value), None, "{value:?}");
        }
        assert_eq!(read(&encoded(&[b'a'; 5000])), None);
    }

    proptest! {
        #[test]
        fn any_bytes(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(credentials) = parse(&value) {
                prop_assert!(parse(format(&credentials).as_bytes()) == Some(credentials));
            }
        }

        #[test]
        fn what_is_written_is_read(name in "[^:\\p{Cc}]{1,40}", password in "\\P{Cc}{0,40}") {
            let sent = Credentials { name, password };
            prop_assert!(parse(format(&sent).as_bytes()) == Some(sent));
        }
    }
}
