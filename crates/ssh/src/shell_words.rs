//! Splits the command line of an `exec` request into words, as a POSIX shell would, and joins words again.
//!
//! Only quoting is understood (POSIX.1-2017, Shell Command Language §2.2 and §2.3). Nothing is ever
//! expanded: `$`, backquotes, wildcards, `;`, `|` and `>` are ordinary characters, because no shell is
//! involved. Words are bytes, like the names of files. What the words mean is decided by the code of the
//! commands.
//!
//! This file uses nothing else of the crate, so that its fuzz target can include it alone.

/// Longest command line in bytes; OpenSSH clients send less than 64 KiB.
pub const MAX_LINE_BYTES: usize = 131_072;
/// Most words in one line.
pub const MAX_WORDS: usize = 4096;

/// Why a line cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A single or double quote is not closed.
    #[error("a {0} quote is not closed")]
    UnterminatedQuote(&'static str),
    /// The line is longer than [`MAX_LINE_BYTES`].
    #[error("the command line has more than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// The line has more than [`MAX_WORDS`] words.
    #[error("the command line has more than {MAX_WORDS} words")]
    TooManyWords,
    /// The line contains a NUL byte, which no argument and no file name can carry.
    #[error("the command line contains a NUL byte")]
    Nul,
}

/// Splits `line` into words.
///
/// * Words are separated by blanks and line ends outside quotes.
/// * `'…'` keeps everything as it is.
/// * `"…"` keeps everything as it is, except that a backslash takes away the meaning of `$`, a backquote,
///   `"`, a backslash and a line end that follows it.
/// * Outside quotes a backslash makes the next character an ordinary one. Before a line end, both vanish;
///   at the very end of the line it stands for itself.
///
/// # Errors
/// [`SplitError`] for an open quote, a NUL byte, and lines beyond the bounds.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(SplitError::TooLong);
    }
    if line.contains(&0) {
        return Err(SplitError::Nul);
    }
    let mut words = Vec::new();
    // `None` between words; quotes start a word even if nothing is in them.
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' | b'\n' => {
                if let Some(finished) = word.take() {
                    push(&mut words, finished)?;
                }
            }
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some(b'\'') => break,
                        Some(byte) => word.push(byte),
                        None => return Err(SplitError::UnterminatedQuote("single")),
                    }
                }
            }
            b'"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            b'\\' => match rest.next() {
                Some(b'\n') => {}
                Some(byte) => word.get_or_insert_default().push(byte),
                None => word.get_or_insert_default().push(b'\\'),
            },
            byte => word.get_or_insert_default().push(byte),
        }
    }
    if let Some(finished) = word {
        push(&mut words, finished)?;
    }
    Ok(words)
}

/// Joins words into a line that [`split`] and any POSIX shell split into the same words again.
pub fn join<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut line = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            line.push(b' ');
        }
        quote(word.as_ref(), &mut line);
    }
    line
}

fn push(words: &mut Vec<Vec<u8>>, word: Vec<u8>) -> Result<(), SplitError> {
    if words.len() == MAX_WORDS {
        return Err(SplitError::TooManyWords);
    }
    words.push(word);
    Ok(())
}

fn double_quoted(rest: &mut impl Iterator<Item = u8>, word: &mut Vec<u8>) -> Result<(), SplitError> {
    const OPEN: SplitError = SplitError::UnterminatedQuote("double");
    loop {
        match rest.next().ok_or(OPEN)? {
            b'"' => return Ok(()),
            b'\\' => match rest.next().ok_or(OPEN)? {
                b'\n' => {}
                byte @ (b'$' | b'`' | b'"' | b'\\') => word.push(byte),
                byte => word.extend([b'\\', byte]),
            },
            byte => word.push(byte),
        }
    }
}

fn quote(word: &[u8], line: &mut Vec<u8>) {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        line.extend_from_slice(word);
        return;
    }
    line.push(b'\'');
    for &byte in word {
        match byte {
            b'\'' => line.extend_from_slice(b"'\\''"),
            byte => line.push(byte),
        }
    }
    line.push(b'\'');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_split_like_a_shell_does() {
        let rows: [(&[u8], &[&[u8]]); 22] = [
            (b"", &[]),
            (b" \t\n ", &[]),
            (b"pwd", &[b"pwd"]),
            (b"  scp  -t\t/dir\n", &[b"scp", b"-t", b"/dir"]),
            (b"md5sum 'a b' c", &[b"md5sum", b"a b", b"c"]),
            (b"md5sum \"a b\"c", &[b"md5sum", b"a bc"]),
            (b"''", &[b""]),
            (b"a '' \"\"", &[b"a", b"", b""]),
            (b"a''b", &[b"ab"]),
            (b"'it'\\''s'", &[b"it's"]),
            (b"a\\ b", &[b"a b"]),
            (b"a\\\nb", &[b"ab"]),
            (b"a \\\n b", &[b"a", b"b"]),
            (b"a\\", &[b"a\\"]),
            (b"'a\\b'", &[b"a\\b"]),
            (b"\"a\\b\"", &[b"a\\b"]),
            (b"\"\\$HOME \\`x\\` \\\" \\\\\"", &[b"$HOME `x` \" \\"]),
            (b"\"a\\\nb\"", &[b"ab"]),
            (b"'a\nb'", &[b"a\nb"]),
            (b"\"it's\" '\"'", &[b"it's", b"\""]),
            (b"rm $HOME *;`id`|x>y&#z~", &[b"rm", b"$HOME", b"*;`id`|x>y&#z~"]),
            (b"scp -t \xff\xfe", &[b"scp", b"-t", b"\xff\xfe"]),
        ];
        for (line, expected) in rows {
            let shown = String::from_utf8_lossy(line);
            assert_eq!(split(line).unwrap(), expected, "{shown}");
        }
    }

    #[test]
    fn open_quotes_and_nul_are_errors() {
        for line in [&b"scp 'a"[..], b"'", b"a b'c d", b"'a\\''"] {
            assert_eq!(split(line), Err(SplitError::UnterminatedQuote("single")));
        }
        for line in [&b"\""[..], b"a \"b'c'", b"\"a\\\"", b"\"a\\"] {
            assert_eq!(split(line), Err(SplitError::UnterminatedQuote("double")));
        }
        assert_eq!(split(b"rm a\0b"), Err(SplitError::Nul));
    }

    #[test]
    fn the_bounds_hold_exactly() {
        assert_eq!(split(&vec![b'a'; MAX_LINE_BYTES]).unwrap().len(), 1);
        assert_eq!(split(&vec![b'a'; MAX_LINE_BYTES + 1]), Err(SplitError::TooLong));
        assert_eq!(split(&b"a ".repeat(MAX_WORDS)).unwrap().len(), MAX_WORDS);
        assert_eq!(split(&b"a ".repeat(MAX_WORDS + 1)), Err(SplitError::TooManyWords));
    }

    #[test]
    fn joined_words_are_quoted_only_where_needed() {
        assert_eq!(join(&["scp", "-t", "/a b", "", "it's"]), b"scp -t '/a b' '' 'it'\\''s'");
    }

    proptest! {
        #[test]
        fn join_and_split_are_inverse(
            words in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 0..20),
        ) {
            prop_assert_eq!(split(&join(&words)).unwrap(), words);
        }

        #[test]
        fn any_bytes_are_split_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(words) = split(&line) {
                prop_assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());
                prop_assert_eq!(split(&join(&words)).unwrap(), words);
            }
        }

        #[test]
        fn quotes_and_backslashes_in_any_order(line in "[ab '\"\\\\\n$]{0,40}") {
            if let Ok(words) = split(line.as_bytes()) {
                prop_assert_eq!(split(&join(&words)).unwrap(), words);
            }
        }
    }

    /// The rules are the shell's: where one is at hand, it must agree on lines without expansions.
    #[cfg(unix)]
    #[test]
    fn a_real_shell_agrees() {
        let lines = [
            "a 'b c' \"d\\\"e\" f\\ g",
            "'' x'y'\"z\"",
            "\"\\q \\\\\" 'a\\b'",
            "a\\\nb \"c\\\nd\"",
            "it\\'s",
        ];
        for line in lines {
            let script = format!("printf '%s\\0' {line}");
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(script).output();
            let Ok(output) = output else {
                eprintln!("/bin/sh is not available, its agreement is not tested");
                return;
            };
            let mut expected: Vec<Vec<u8>> = output.stdout.split(|&b| b == 0).map(<[u8]>::to_vec).collect();
            expected.pop();
            assert_eq!(split(line.as_bytes()).unwrap(), expected, "{line}");
        }
    }
}
