//! The records of the rcp protocol that `scp` speaks, as OpenSSH's `scp.c` reads and writes them.
//!
//! # Format
//!
//! ```text
//! T<mtime> <microseconds> <atime> <microseconds>\n    times of what follows
//! C<mode> <size> <name>\n                              a file; its bytes and a status byte follow
//! D<mode> <anything> <name>\n                          a directory begins
//! E\n                                                  it ends
//! ```
//!
//! Times are seconds since 1970, modes are four octal digits, names are one component of a path. Where the
//! bytes come from and what is done about a record is decided elsewhere. This file uses nothing else of the
//! crate, so that its fuzz target can include it alone.

/// Longest line in bytes without its line end; the longest name that exists is 255.
pub(crate) const MAX_LINE_BYTES: usize = 8192;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// Times of the file or directory that follows, in seconds since 1970.
    Times {
        /// Last change of the contents.
        modified: i64,
        /// Last access.
        accessed: i64,
    },
    /// A file of `size` bytes follows.
    File {
        /// Permission bits, `0o7777`.
        mode: u32,
        /// Length in bytes, below 2^63.
        size: u64,
        /// One component of a path.
        name: Vec<u8>,
    },
    /// What follows belongs into this directory.
    Dir {
        /// Permission bits, `0o7777`.
        mode: u32,
        /// One component of a path.
        name: Vec<u8>,
    },
    /// The directory is complete.
    End,
}

/// Why a line is no record. The texts are those of OpenSSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// The line begins with something else than T, C, D or E.
    #[error("expected control record")]
    Kind,
    /// A time is no number, or not followed by a space.
    #[error("bad time")]
    Time,
    /// The mode is not four octal digits and a space.
    #[error("bad mode")]
    Mode,
    /// The size is no number below 2^63, or not followed by a space.
    #[error("bad size")]
    Size,
    /// The name is empty, `.`, `..` or has a slash or NUL in it: it would lead elsewhere.
    #[error("unexpected filename")]
    Name,
}

impl Record {
    /// Reads a line without its line end.
    ///
    /// # Errors
    /// [`RecordError`] for everything that is not a record.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, RecordError> {
        let (kind, rest) = line.split_first().ok_or(RecordError::Kind)?;
        match kind {
            b'T' => {
                let mut fields = rest.split(|&byte| byte == b' ');
                let mut number = || fields.next().and_then(number).ok_or(RecordError::Time);
                let (modified, _, accessed, _) = (number()?, number()?, number()?, number()?);
                if fields.next().is_some() {
                    return Err(RecordError::Time);
                }
                Ok(Self::Times { modified, accessed })
            }
            b'C' => {
                let (mode, rest) = mode(rest)?;
                let (size, name) = field(rest).ok_or(RecordError::Size)?;
                let size = number(size).and_then(|size| u64::try_from(size).ok()).ok_or(RecordError::Size)?;
                Ok(Self::File { mode, size, name: checked(name)? })
            }
            b'D' => {
                let (mode, rest) = mode(rest)?;
                let (_, name) = field(rest).ok_or(RecordError::Size)?;
                Ok(Self::Dir { mode, name: checked(name)? })
            }
            // OpenSSH ignores what follows an E, so this does as well.
            b'E' => Ok(Self::End),
            _ => Err(RecordError::Kind),
        }
    }

    /// The line of this record, with its line end.
    pub(crate) fn line(&self) -> Vec<u8> {
        let (head, name): (_, &[u8]) = match self {
            Self::Times { modified, accessed } => {
                (format!("T{} 0 {} 0", (*modified).max(0), (*accessed).max(0)), b"")
            }
            Self::File { mode, size, name } => (format!("C{:04o} {size} ", mode & 0o7777), name),
            Self::Dir { mode, name } => (format!("D{:04o} 0 ", mode & 0o7777), name),
            Self::End => ("E".to_owned(), b""),
        };
        [head.as_bytes(), name, b"\n"].concat()
    }
}

/// Whether a name can be sent in a record and shown on a terminal without harm: no control characters.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    !name.iter().any(u8::is_ascii_control)
}

/// Digits only, below 2^63.
fn number(text: &[u8]) -> Option<i64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn mode(text: &[u8]) -> Result<(u32, &[u8]), RecordError> {
    let (digits, rest) = text.split_at_checked(4).ok_or(RecordError::Mode)?;
    let mut mode = 0;
    for digit in digits {
        match digit {
            b'0'..=b'7' => mode = mode << 3 | u32::from(digit - b'0'),
            _ => return Err(RecordError::Mode),
        }
    }
    Ok((mode, rest.strip_prefix(b" ").ok_or(RecordError::Mode)?))
}

fn field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|&byte| byte == b' ')?;
    Some((&text[..end], &text[end + 1..]))
}

fn checked(name: &[u8]) -> Result<Vec<u8>, RecordError> {
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(RecordError::Name);
    }
    Ok(name.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_as_openssh_writes_them() {
        let file = |mode, size, name: &str| Record::File { mode, size, name: name.into() };
        for (line, want) in [
            (
                &b"T1000000000 0 1234567890 0"[..],
                Ok(Record::Times { modified: 1_000_000_000, accessed: 1_234_567_890 }),
            ),
            (b"C0644 0 a", Ok(file(0o644, 0, "a"))),
            (b"C7755 9223372036854775807 a b  c", Ok(file(0o7755, i64::MAX as u64, "a b  c"))),
            (b"C0644 1  leading", Ok(file(0o644, 1, " leading"))),
            (b"D0755 0 dir", Ok(Record::Dir { mode: 0o755, name: b"dir".to_vec() })),
            (b"E", Ok(Record::End)),
            (b"", Err(RecordError::Kind)),
            (b"X", Err(RecordError::Kind)),
            (b"scp: no such file", Err(RecordError::Kind)),
            (b"T1 0 1", Err(RecordError::Time)),
            (b"T1 0 -1 0", Err(RecordError::Time)),
            (b"T1 0 1 0 0", Err(RecordError::Time)),
            (b"T99999999999999999999 0 1 0", Err(RecordError::Time)),
            (b"C644 1 a", Err(RecordError::Mode)),
            (b"C0888 1 a", Err(RecordError::Mode)),
            (b"C06441 1 a", Err(RecordError::Mode)),
            (b"C0644", Err(RecordError::Mode)),
            (b"C0644 ", Err(RecordError::Size)),
            (b"C0644 1", Err(RecordError::Size)),
            (b"C0644 -1 a", Err(RecordError::Size)),
            (b"C0644 +1 a", Err(RecordError::Size)),
            (b"C0644 9223372036854775808 a", Err(RecordError::Size)),
            (b"C0644 1 ", Err(RecordError::Name)),
            (b"C0644 1 .", Err(RecordError::Name)),
            (b"C0644 1 ..", Err(RecordError::Name)),
            (b"C0644 1 a/b", Err(RecordError::Name)),
            (b"D0755 0 ..", Err(RecordError::Name)),
            (b"D0755 0 /", Err(RecordError::Name)),
            (b"C0644 1 a\0b", Err(RecordError::Name)),
        ] {
            assert_eq!(Record::parse(line), want, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn special_bits_are_in_the_first_digit() {
        for (mode, want) in [(0o4755, "C4755 1 a\n"), (0o2755, "C2755 1 a\n"), (0o1777, "C1777 1 a\n")] {
            assert_eq!(Record::File { mode, size: 1, name: b"a".to_vec() }.line(), want.as_bytes());
        }
        assert_eq!(Record::Times { modified: -5, accessed: 7 }.line(), b"T0 0 7 0\n");
    }

    proptest! {
        #[test]
        fn any_line_is_a_record_or_an_error(line in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&line);
        }

        #[test]
        fn lines_like_records(line in "[TCDE][0-9]{0,5} [0-9 ]{0,25} [a-z./ ]{0,6}") {
            check(line.as_bytes());
        }

        #[test]
        fn what_is_written_is_read_again(mode in 0..0o10000u32, size in 0..1u64 << 63, name in "[^/\0\n]{3,40}") {
            let record = Record::File { mode, size, name: name.into_bytes() };
            let line = record.line();
            prop_assert_eq!(Record::parse(&line[..line.len() - 1]), Ok(record));
        }
    }

    fn check(line: &[u8]) {
        if let Ok(record) = Record::parse(line) {
            let again = record.line();
            assert_eq!(Record::parse(&again[..again.len() - 1]), Ok(record));
        }
    }
}
