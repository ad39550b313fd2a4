//! Wildcards of downloads, which no shell expands here: `*`, `?` and `[...]` in any component.
//!
//! The rules are the shell's (POSIX.1-2017 §2.13): a name that begins with a dot is matched only by a pattern
//! that does, a pattern that matches nothing stands for itself, matches are sorted. What quoting took away is not
//! known any more, so a name that exists as it is written is taken before anything is expanded. Only what the
//! user may list is matched.

use tidegate_core::UserFs;
use tidegate_vfs::{FsError, Links, VPath};

/// Entries taken from a directory at a time.
const DIR_BATCH: usize = 256;

/// Memory that the paths of one expansion may take.
const MAX_MATCHES_BYTES: usize = 8 << 20;

/// The paths that `pattern` stands for, at least one. `dirs` asks for directories only; `is_over` ends the search.
pub(super) async fn expand(
    fs: &UserFs,
    pattern: &VPath,
    dirs: bool,
    is_over: impl Fn() -> bool,
) -> Result<Vec<VPath>, FsError> {
    let is_pattern = |name: &[u8]| name.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
    if !is_pattern(pattern.as_bytes()) || fs.metadata(pattern, Links::Keep).await.is_ok() {
        return Ok(vec![pattern.clone()]);
    }
    let mut found = vec![VPath::root()];
    let mut components = pattern.components().peekable();
    while let Some(component) = components.next() {
        // What follows needs directories to be found in.
        let only_dirs = dirs || components.peek().is_some();
        let mut next = Found::default();
        for dir in &found {
            if is_over() {
                return Err(FsError::Cancelled);
            }
            if is_pattern(component) {
                matches_in(fs, dir, component, only_dirs, &is_over, &mut next).await?;
            } else {
                let path = dir.join(component)?;
                // Checked at the end; most patterns begin with plain names.
                if components.peek().is_some() || exists(fs, &path, dirs).await {
                    next.push(path)?;
                }
            }
        }
        found = next.paths;
    }
    found.sort();
    if found.is_empty() {
        found.push(pattern.clone());
    }
    Ok(found)
}

/// What a part of a pattern stands for.
#[derive(Default)]
struct Found {
    paths: Vec<VPath>,
    /// The memory that they take, about.
    bytes: usize,
}

impl Found {
    fn push(&mut self, path: VPath) -> Result<(), FsError> {
        self.bytes += path.as_bytes().len() + size_of::<VPath>();
        if self.bytes > MAX_MATCHES_BYTES {
            return Err(FsError::InvalidInput("the pattern matches too many names"));
        }
        self.paths.push(path);
        Ok(())
    }
}

/// Adds the entries of `dir` that match; nothing if it is no directory or must not be listed.
async fn matches_in(
    fs: &UserFs,
    dir: &VPath,
    pattern: &[u8],
    only_dirs: bool,
    is_over: &impl Fn() -> bool,
    found: &mut Found,
) -> Result<(), FsError> {
    let Ok(mut listing) = fs.list(dir).await else { return Ok(()) };
    loop {
        if is_over() {
            return Err(FsError::Cancelled);
        }
        let entries = listing.next(DIR_BATCH).await?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if entry.name.starts_with(b".") && !pattern.starts_with(b".") || !matches(pattern, &entry.name) {
                continue;
            }
            let path = dir.join(&entry.name)?;
            let is_dir = entry.metadata.is_dir();
            if only_dirs && !is_dir && !(entry.metadata.is_symlink() && exists(fs, &path, true).await) {
                continue;
            }
            found.push(path)?;
        }
    }
}

async fn exists(fs: &UserFs, path: &VPath, dir: bool) -> bool {
    let links = if dir { Links::Follow } else { Links::Keep };
    fs.metadata(path, links).await.is_ok_and(|metadata| !dir || metadata.is_dir())
}

/// Whether `name` matches `pattern`. `?` and `[...]` stand for one character, or one byte that is none.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last `*` does not match: it takes one character more. Only the last
    // one matters, so the time is bounded by the product of both lengths.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        if n < name.len()
            && let Some(length) = matches_one(&pattern[p..], &name[n..])
        {
            p += length;
            n += char_length(&name[n..]);
            continue;
        }
        match retry {
            Some((after, at)) if at < name.len() => {
                let at = at + char_length(&name[at..]);
                retry = Some((after, at));
                (p, n) = (after, at);
            }
            _ => return false,
        }
    }
}

/// The length of the part of `pattern` that matches the first character of `name`.
fn matches_one(pattern: &[u8], name: &[u8]) -> Option<usize> {
    let char = &name[..char_length(name)];
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match bracket(pattern, char) {
            Some((length, matched)) => matched.then_some(length),
            // Never closed: an ordinary character.
            None => (char == b"[").then_some(1),
        },
        _ => pattern.starts_with(char).then_some(char.len()),
    }
}

/// The length of a bracket expression and whether `char` is in it; `None` if it is never closed.
fn bracket(pattern: &[u8], char: &[u8]) -> Option<(usize, bool)> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let wanted = code(char);
    let mut matched = false;
    let start = at;
    loop {
        let rest = pattern.get(at..).filter(|rest| !rest.is_empty())?;
        if rest[0] == b']' && at > start {
            return Some((at + 1, matched != negated));
        }
        let low = char_length(rest);
        let range = rest.get(low) == Some(&b'-') && rest.get(low + 1).is_some_and(|&byte| byte != b']');
        let high = if range { char_length(&rest[low + 1..]) } else { 0 };
        let last = if range { &rest[low + 1..low + 1 + high] } else { &rest[..low] };
        matched |= (code(&rest[..low])..=code(last)).contains(&wanted);
        at += low + if range { 1 + high } else { 0 };
    }
}

/// Length in bytes of the first character, 1 for a byte that begins none.
fn char_length(text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    match text.get(..length) {
        Some(char) if std::str::from_utf8(char).is_ok() => length,
        _ => 1,
    }
}

/// The number of a character; bytes that are none come behind all characters.
fn code(char: &[u8]) -> u32 {
    match std::str::from_utf8(char).ok().and_then(|text| text.chars().next()) {
        Some(char) => u32::from(char),
        None => 0x11_0000 + char.first().map_or(0, |&byte| u32::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_like_a_shells() {
        for (pattern, name, want) in [
            ("*", "a", true),
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt.txt.tx", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("*ä?", "xxäö", true),
            ("[abc]", "b", true),
            ("[abc]", "d", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]a]", "]", true),
            ("[!]a]", "]", false),
            ("[a-]", "-", true),
            ("[ä-ü]", "ö", true),
            ("[", "[", true),
            ("[ab", "[ab", true),
            ("[ab", "a", false),
            ("a[1].txt", "a1.txt", true),
            ("*[0-9]", "x19", true),
            ("\\*", "*", false),
            ("\\*", "\\anything", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
        assert!(matches(b"?\xff*", b"\xfe\xff\xfe"));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = b"*a".repeat(100);
        assert!(!matches(&pattern, &[b'a'; 255][..99]));
        let mut name = vec![b'a'; 254];
        name.push(b'b');
        assert!(!matches(&pattern, &name));
    }

    proptest! {
        #[test]
        fn plain_names_match_only_themselves(a in "[a-cä]{0,6}", b in "[a-cä]{0,6}") {
            prop_assert_eq!(matches(a.as_bytes(), b.as_bytes()), a == b);
        }

        #[test]
        fn a_star_stands_for_anything(front in "[a-c]{0,4}", back in "[a-c]{0,4}", name in "[a-c]{0,10}") {
            let pattern = format!("{front}*{back}");
            let want = name.len() >= front.len() + back.len() && name.starts_with(&front) && name.ends_with(&back);
            prop_assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want);
        }

        #[test]
        fn any_bytes_do_no_harm(pattern in prop::collection::vec(any::<u8>(), 0..40), name in prop::collection::vec(any::<u8>(), 0..40)) {
            matches(&pattern, &name);
        }
    }
}
