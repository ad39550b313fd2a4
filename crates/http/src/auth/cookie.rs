//! Cookies (RFC 6265): one read from the header `Cookie`, and the `Set-Cookie` that gives or takes it away.
//! What the value means is `sessions.rs`'s.

/// The value of the cookie `name` in a `Cookie` header. A name that is there twice counts as absent: one of the
/// two was put there by somebody else.
pub(crate) fn find<'a>(header: &'a [u8], name: &str) -> Option<&'a str> {
    let header = std::str::from_utf8(header).ok()?;
    let mut found = header.split(';').filter_map(|pair| {
        let (key, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
        (key == name).then_some(value)
    });
    let value = found.next()?;
    let value = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    (found.next().is_none() && !value.is_empty() && value.bytes().all(is_value_byte)).then_some(value)
}

/// What a cookie's value may consist of: no control character, space, quote, comma, semicolon or backslash.
fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

/// A `Set-Cookie` that a browser sends back to this server only, never shows to a script and never sends with
/// a request that another site has started. It ends with the browser.
pub(crate) fn set(name: &str, value: &str, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

/// A `Set-Cookie` that removes the cookie.
pub(crate) fn remove(name: &str, secure: bool) -> String {
    format!("{}; Max-Age=0", set(name, "", secure))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_among_others() {
        for (header, value) in [
            ("s=abc", Some("abc")),
            ("a=1; s=abc; b=2", Some("abc")),
            ("a=1;s=abc", Some("abc")),
            ("s=\"abc\"", Some("abc")),
            ("s=a=b", Some("a=b")),
            ("s=", None),
            ("s", None),
            ("", None),
            ("xs=abc", None),
            ("S=abc", None),
            ("a=s=abc", None),
            ("s=abc; s=def", None),
            ("s=a b", None),
            ("s=a\\b", None),
            ("s=\"a", None),
        ] {
            assert_eq!(find(header.as_bytes(), "s"), value, "{header:?}");
        }
        assert_eq!(find(b"s=abc; t=\xff", "s"), None, "not UTF-8");
    }

    #[test]
    fn how_it_is_set() {
        assert_eq!(set("s", "v", false), "s=v; Path=/; HttpOnly; SameSite=Strict");
        assert_eq!(set("__Host-s", "v", true), "__Host-s=v; Path=/; HttpOnly; SameSite=Strict; Secure");
        assert_eq!(remove("s", true), "s=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0");
    }

    proptest! {
        #[test]
        fn any_bytes(header in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(value) = find(&header, "s") {
                prop_assert!(value.bytes().all(is_value_byte));
            }
        }

        #[test]
        fn what_is_set_is_found(value in "[a-zA-Z0-9_.=-]{1,60}", before in "[a-r]{1,5}=[a-z]{0,5}; ") {
            let set = set("s", &value, true);
            let sent = format!("{before}{}", set.split(';').next().unwrap());
            prop_assert_eq!(find(sent.as_bytes(), "s"), Some(value.as_str()));
        }
    }
}
