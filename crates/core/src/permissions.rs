//! What a user may do in which directory (data model §4).
//!
//! The nearest entry above a path decides alone: lists are neither inherited nor merged.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::BitOr;

use tidegate_vfs::VPath;

/// A set of permissions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Perms(u16);

/// Every permission with the token that names it in configuration, database and API.
const TOKENS: [(Perms, &str); 11] = [
    (Perms::LIST, "list"),
    (Perms::DOWNLOAD, "download"),
    (Perms::UPLOAD, "upload"),
    (Perms::OVERWRITE, "overwrite"),
    (Perms::DELETE, "delete"),
    (Perms::RENAME, "rename"),
    (Perms::CREATE_DIRS, "create_dirs"),
    (Perms::CREATE_SYMLINKS, "create_symlinks"),
    (Perms::CHMOD, "chmod"),
    (Perms::CHOWN, "chown"),
    (Perms::CHTIMES, "chtimes"),
];

impl Perms {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// List a directory, describe its entries.
    pub const LIST: Self = Self(1);
    /// Read files.
    pub const DOWNLOAD: Self = Self(1 << 1);
    /// Write new files.
    pub const UPLOAD: Self = Self(1 << 2);
    /// Write existing files; needs `UPLOAD` as well.
    pub const OVERWRITE: Self = Self(1 << 3);
    /// Remove files and directories.
    pub const DELETE: Self = Self(1 << 4);
    /// Rename files and directories.
    pub const RENAME: Self = Self(1 << 5);
    /// Create directories.
    pub const CREATE_DIRS: Self = Self(1 << 6);
    /// Create symbolic links.
    pub const CREATE_SYMLINKS: Self = Self(1 << 7);
    /// Change modes.
    pub const CHMOD: Self = Self(1 << 8);
    /// Change owner and group.
    pub const CHOWN: Self = Self(1 << 9);
    /// Change access and modification times.
    pub const CHTIMES: Self = Self(1 << 10);
    /// Everything, `*`.
    pub const ALL: Self = Self((1 << 11) - 1);

    /// The permission that `token` names; `*` names all.
    pub fn from_token(token: &str) -> Option<Self> {
        if token == "*" {
            return Some(Self::ALL);
        }
        TOKENS.iter().find(|(_, name)| *name == token).map(|(perm, _)| *perm)
    }

    /// The tokens of this set: `["*"]` if it is complete.
    pub fn tokens(self) -> Vec<&'static str> {
        if self == Self::ALL {
            return vec!["*"];
        }
        TOKENS.iter().filter(|(perm, _)| self.contains(*perm)).map(|(_, name)| *name).collect()
    }

    /// Every valid token, `*` first.
    pub fn all_tokens() -> impl Iterator<Item = &'static str> {
        std::iter::once("*").chain(TOKENS.iter().map(|(_, name)| *name))
    }

    /// This set and `more`; what `|` is, for constants.
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether all of `needed` is in this set.
    pub fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

impl BitOr for Perms {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Perms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.tokens())
    }
}

/// Permissions per directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions(BTreeMap<VPath, Perms>);

impl Permissions {
    /// The same permissions everywhere.
    pub fn everywhere(perms: Perms) -> Self {
        Self(BTreeMap::from([(VPath::root(), perms)]))
    }

    /// Sets the permissions of one directory.
    pub fn insert(&mut self, dir: VPath, perms: Perms) {
        self.0.insert(dir, perms);
    }

    /// The entries, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&VPath, Perms)> {
        self.0.iter().map(|(dir, perms)| (dir, *perms))
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may be done at `path`: the nearest entry at or above it decides.
    pub fn at(&self, path: &VPath) -> Perms {
        let mut here = Some(path.clone());
        while let Some(path) = here {
            if let Some(perms) = self.0.get(&path) {
                return *perms;
            }
            here = path.parent();
        }
        Perms::NONE
    }

    /// Whether different rules hold in different directories, so that a link could carry someone from
    /// one to another.
    pub fn vary(&self) -> bool {
        self.0.len() > 1 || !self.0.contains_key(&VPath::root())
    }

    /// Whether an entry below `path` grants less than `needed`.
    pub fn narrower_below(&self, path: &VPath, needed: Perms) -> bool {
        self.0.iter().any(|(dir, perms)| dir != path && dir.is_within(path) && !perms.contains(needed))
    }
}

impl FromIterator<(VPath, Perms)> for Permissions {
    fn from_iter<I: IntoIterator<Item = (VPath, Perms)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> VPath {
        VPath::parse(raw.as_bytes()).unwrap()
    }

    #[test]
    fn nearest_entry_decides_alone() {
        let permissions: Permissions = [
            ("/", Perms::LIST),
            ("/p", Perms::DELETE),
            ("/p/1", Perms::DOWNLOAD | Perms::UPLOAD),
            ("/p/3", Perms::CHMOD),
            ("/p/3/4", Perms::CHTIMES),
        ]
        .into_iter()
        .map(|(dir, perms)| (path(dir), perms))
        .collect();
        for (at, want) in [
            ("/p34/x", Perms::LIST),
            ("/p/1/test/file.dat", Perms::DOWNLOAD | Perms::UPLOAD),
            ("/p/3/4/5/6", Perms::CHTIMES),
            ("/p/3/4/../4", Perms::CHTIMES),
            ("/p/2", Perms::DELETE),
            ("/../../..", Perms::LIST),
        ] {
            assert_eq!(permissions.at(&path(at)), want, "{at}");
        }
        assert!(permissions.vary());
        assert!(permissions.narrower_below(&path("/p"), Perms::LIST));
        assert!(!permissions.narrower_below(&path("/p/1"), Perms::LIST));
    }

    #[test]
    fn nothing_matches_nothing_granted() {
        let permissions: Permissions = [(path("/a"), Perms::ALL)].into_iter().collect();
        assert_eq!(permissions.at(&path("/b")), Perms::NONE);
        assert!(permissions.vary());
        assert!(!Permissions::everywhere(Perms::ALL).vary());
    }

    #[test]
    fn tokens_round_trip() {
        for token in Perms::all_tokens() {
            assert_eq!(Perms::from_token(token).unwrap().tokens(), [token]);
        }
        assert_eq!(Perms::from_token("List"), None);
    }
}
