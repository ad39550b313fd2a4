//! Virtual paths: absolute, normalized, and made of bytes, because SFTP v3 names are bytes.

use std::fmt;

use crate::FsError;

/// Longest path accepted, in bytes; Linux takes no longer one in a single call.
const MAX_PATH_BYTES: usize = 4096;

/// Longest name within a path, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// An absolute virtual path: it starts with `/`, and has no empty, `.` or `..` part and no NUL.
///
/// `..` never climbs above the root. Only ever built by [`VPath::parse`] and [`VPath::join`], so whoever
/// holds one need not check again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VPath(Vec<u8>);

impl VPath {
    /// The root of every tree, `/`.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Normalizes raw bytes from a peer. A relative path is taken from `/`.
    ///
    /// # Errors
    ///
    /// [`FsError::InvalidPath`] for a NUL byte, a path of more than 4096 or a name of more than 255 bytes.
    pub fn parse(raw: &[u8]) -> Result<Self, FsError> {
        if raw.len() > MAX_PATH_BYTES {
            return Err(FsError::InvalidPath("path longer than 4096 bytes"));
        }
        Self::root().join_path(raw)
    }

    /// Resolves `raw` as a shell would: from `/` if it is absolute, else from this directory.
    ///
    /// # Errors
    ///
    /// As [`VPath::parse`].
    pub fn join_path(&self, raw: &[u8]) -> Result<Self, FsError> {
        if raw.contains(&0) {
            return Err(FsError::InvalidPath("NUL byte in path"));
        }
        let mut path = if raw.first() == Some(&b'/') { Vec::new() } else { self.base().to_vec() };
        path.reserve(raw.len() + 1);
        for part in raw.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    let parent = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    path.truncate(parent);
                }
                name if name.len() > MAX_NAME_BYTES => {
                    return Err(FsError::InvalidPath("name longer than 255 bytes"));
                }
                name => {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(FsError::InvalidPath("path longer than 4096 bytes"));
        }
        Ok(Self(path))
    }

    /// The entry `name` of this directory.
    ///
    /// # Errors
    ///
    /// [`FsError::InvalidPath`] if `name` is not a single name: empty, `.`, `..`, or with a `/` or NUL.
    pub fn join(&self, name: &[u8]) -> Result<Self, FsError> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(FsError::InvalidPath("not a single name"));
        }
        self.join_path(name)
    }

    /// The directory that holds this entry; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&b| b == b'/') {
            None | Some(0) => Some(Self::root()),
            Some(end) => Some(Self(self.0[..end].to_vec())),
        }
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// Whether this is `dir` or lies below it, by component.
    pub fn is_within(&self, dir: &Self) -> bool {
        dir.is_root()
            || self
                .0
                .strip_prefix(dir.0.as_slice())
                .is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
    }

    /// This path as a text relative to the directory `dir`: `../b/c` for `/b/c` seen from `/a`; `.` for
    /// the directory itself. It leads here only if no link is on the way to `dir`.
    pub fn relative_to(&self, dir: &Self) -> Vec<u8> {
        let shared = self.components().zip(dir.components()).take_while(|(a, b)| a == b).count();
        let up = std::iter::repeat_n(&b".."[..], dir.components().count() - shared);
        let parts: Vec<&[u8]> = up.chain(self.components().skip(shared)).collect();
        if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
    }

    /// The names from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// The path as bytes, starting with `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path without its leading `/`: empty for the root.
    pub fn relative(&self) -> &[u8] {
        &self.0[1..]
    }

    fn base(&self) -> &[u8] {
        if self.is_root() { b"" } else { &self.0 }
    }
}

/// Shows bytes that are not UTF-8 as U+FFFD: for people, never for looking files up.
impl fmt::Display for VPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for VPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(raw: &str) -> VPath {
        VPath::parse(raw.as_bytes()).unwrap()
    }

    #[test]
    fn normalizes() {
        for (raw, want) in [
            ("", "/"),
            ("/", "/"),
            (".", "/"),
            ("..", "/"),
            ("/../../etc", "/etc"),
            ("a//b/./c/", "/a/b/c"),
            ("/tmp/../../../path", "/path"),
            ("a/b/../../..", "/"),
        ] {
            assert_eq!(path(raw).as_bytes(), want.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn within_goes_by_component() {
        assert!(path("/home/user").is_within(&path("/home/user")));
        assert!(path("/home/user/x").is_within(&path("/home/user")));
        assert!(!path("/home/user2").is_within(&path("/home/user")));
        assert!(path("/x").is_within(&VPath::root()));
    }

    #[test]
    fn parent_and_name() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(VPath::root()));
        assert_eq!(VPath::root().parent(), None);
        assert_eq!(path("/a/b").name(), b"b");
        assert_eq!(VPath::root().name(), b"");
    }

    #[test]
    fn relative_text_leads_back() {
        for (target, dir, want) in [
            ("/b/c", "/a", "../b/c"),
            ("/a/b", "/a", "b"),
            ("/a", "/a", "."),
            ("/", "/a/b", "../.."),
            ("/", "/", "."),
            ("/ab", "/a", "../ab"),
        ] {
            let text = path(target).relative_to(&path(dir));
            assert_eq!(text, want.as_bytes(), "{target} from {dir}");
            assert_eq!(path(dir).join_path(&text).unwrap(), path(target));
        }
    }

    #[test]
    fn refuses_what_no_file_system_has() {
        assert!(VPath::parse(b"a\0b").is_err());
        assert!(VPath::parse(&[b'a'; 256]).is_err());
        assert!(VPath::parse(&[b'/'; 4097]).is_err());
        assert!(VPath::root().join(b"..").is_err());
        assert!(VPath::root().join(b"a/b").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_become_a_normal_path_or_an_error(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(path) = VPath::parse(&raw) {
                prop_assert_eq!(&VPath::parse(path.as_bytes()).unwrap(), &path);
                prop_assert!(path.components().all(|n| !n.is_empty() && n != b"." && n != b".."));
                prop_assert!(path.as_bytes()[0] == b'/');
            }
        }
    }
}
