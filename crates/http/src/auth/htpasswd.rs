//! The text of `httpd.auth_user_file`: one `name:hash` on a line, as `htpasswd`, `mkpasswd` and
//! `tidegate htpasswd` write it. Reading the file and checking a password is `users.rs`'s.
//!
//! ```text
//! # a comment
//! anna:$2y$12$qRbfzBLuMBl8oVXoQNSnLuoeIjSwA6xZqpFVfZxqzJd3xRnAWs5du
//! ci:$argon2id$v=19$m=65536,t=2,p=1$…
//! ```
//!
//! Hashes that are quick to guess are refused with the reason instead of being skipped: a file that lets
//! somebody in by accident, or keeps somebody out without a word, is worse than one that stops the start.

use std::collections::BTreeMap;

/// Longest file that is read.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 20;

/// Longest name.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// How the hashes that are accepted begin.
const ACCEPTED: [&str; 7] = ["$2a$", "$2b$", "$2y$", "$argon2id$", "$5$", "$6$", "$y$"];

/// Named in the message about every hash that is not.
const ACCEPTED_NAMES: &str =
    "bcrypt ($2y$, $2b$, $2a$), argon2id ($argon2id$), SHA-crypt ($5$, $6$) and yescrypt ($y$)";

/// Reads the text: each name with its hash. `check` says of a hash of an accepted kind what is wrong with it.
///
/// # Errors
/// What is wrong with the first line that cannot be used, with its number and its name, and never with its
/// hash.
pub(crate) fn parse(
    text: &[u8],
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<BTreeMap<String, String>, String> {
    if text.len() > MAX_FILE_BYTES {
        return Err(format!("it has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(text).map_err(|error| {
        let line = text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut users: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, hash)) = line.split_once(':') else {
            return Err(format!("line {number} is not of the form name:hash"));
        };
        check_name(name).map_err(|what| format!("line {number}: {what}"))?;
        check_kind(hash)
            .and_then(|()| check(hash))
            .map_err(|what| format!("line {number}, user {name:?}: {what}"))?;
        if let Some((first, _)) = users.insert(name.to_owned(), (number, hash.to_owned())) {
            return Err(format!("line {number}, user {name:?}: the name was on line {first} already"));
        }
    }
    if users.is_empty() {
        return Err("it names no user: nobody could sign in".to_owned());
    }
    Ok(users.into_iter().map(|(name, (_, hash))| (name, hash)).collect())
}

/// Checks that `name` can be sent as a name in HTTP Basic and shown in a log.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty() || name.len() > MAX_NAME_BYTES || name.trim() != name;
    if bad || name.starts_with('#') || name.chars().any(|c| c.is_control() || matches!(c, ':' | '\u{feff}')) {
        return Err(format!(
            "the name {name:?} is not 1 to {MAX_NAME_BYTES} bytes without control characters, `:`, a `#` in \
             front and space around it"
        ));
    }
    Ok(())
}

fn check_kind(hash: &str) -> Result<(), String> {
    if ACCEPTED.iter().any(|prefix| hash.starts_with(prefix)) {
        return Ok(());
    }
    let what = match hash {
        "" => "there is no hash, so no password would fit".to_owned(),
        _ if hash.starts_with("$apr1$") || hash.starts_with("$1$") => {
            "an MD5 hash is quick to guess and not accepted".to_owned()
        }
        _ if hash.starts_with("{SHA}") || hash.starts_with("{SSHA}") => {
            "a plain SHA-1 hash is quick to guess and not accepted".to_owned()
        }
        _ => "the password is stored in clear or as a hash that is not accepted".to_owned(),
    };
    Err(format!("{what}; accepted are {ACCEPTED_NAMES}, for example from `tidegate htpasswd <name>`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "$6$salt$hash";

    fn read(text: &str) -> Result<Vec<String>, String> {
        parse(text.as_bytes(), |_| Ok(())).map(|users| users.into_keys().collect())
    }

    #[test]
    fn names_comments_and_empty_lines() {
        let text = format!("\u{feff}# who may come in\n\nanna:{HASH}\r\nbjörn b:{HASH}  \n");
        assert_eq!(read(&text).unwrap(), ["anna", "björn b"]);
        let users = parse(text.as_bytes(), |_| Ok(())).unwrap();
        assert!(users.values().all(|hash| hash == HASH), "{users:?}");
    }

    #[test]
    fn what_is_refused_names_line_and_user_but_no_hash() {
        for (text, expected) in [
            ("", "it names no user"),
            ("# nobody\n", "it names no user"),
            ("anna", "line 1 is not of the form name:hash"),
            ("\nanna:secret", "line 2, user \"anna\": the password is stored in clear"),
            ("anna:", "line 1, user \"anna\": there is no hash"),
            ("anna:$apr1$secret$secret", "line 1, user \"anna\": an MD5 hash"),
            ("anna:$1$secret$secret", "line 1, user \"anna\": an MD5 hash"),
            ("anna:{SHA}secret=", "line 1, user \"anna\": a plain SHA-1 hash"),
            (":$6$secret$secret", "line 1: the name \"\""),
            (" anna:$6$secret$secret", "line 1: the name \" anna\""),
            ("a\u{1b}b:$6$secret$secret", "line 1: the name \"a\\u{1b}b\""),
            ("a:$6$secret$x\na:$6$secret$y", "line 2, user \"a\": the name was on line 1 already"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(parse(b"a:$6$x$y\nb\xff:$6$x$y", |_| Ok(())), Err("line 2 is not UTF-8".to_owned()));
        assert!(read(&"#\n".repeat(MAX_FILE_BYTES)).unwrap_err().contains("1048576"));
        let damaged = parse(b"anna:$6$x$y", |_| Err("it is damaged".to_owned()));
        assert_eq!(damaged, Err("line 1, user \"anna\": it is damaged".to_owned()));
    }

    proptest! {
        #[test]
        fn any_bytes_give_users_or_a_message(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(users) = parse(&text, |_| Ok(())) {
                prop_assert!(!users.is_empty());
                prop_assert!(users.keys().all(|name| check_name(name).is_ok()));
            }
        }

        #[test]
        fn what_is_written_is_read(
            users in proptest::collection::btree_map("[a-zäß ._@-]{1,20}", "[a-zA-Z0-9./$]{1,40}", 1..6)
        ) {
            prop_assume!(users.keys().all(|name| check_name(name).is_ok()));
            let users: BTreeMap<_, _> =
                users.into_iter().map(|(name, hash)| (name, format!("$6${hash}"))).collect();
            let text: String = users.iter().map(|(name, hash)| format!("{name}:{hash}\n")).collect();
            prop_assert_eq!(parse(text.as_bytes(), |_| Ok(())), Ok(users));
        }
    }
}
