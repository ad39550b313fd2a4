//! The permission editor of the user form: directories with ticked permissions, and presets that tick them.
//!
//! The root directory's permissions are the fields `permissions`, as in the form of the reference, whose text
//! area `sub_dirs_permissions` is still read. What the editor itself sends for other directories is
//! `dir.N.path`, `dir.N.perm` (once for each) and `dir.N.preset`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidegate_core::Perms;
use tidegate_vfs::VPath;

use crate::web::forms::Form;

/// Directories that a form may name; core refuses more.
pub(crate) const MAX_DIRS: usize = 1000;

/// A usual set of permissions.
#[derive(Debug, Serialize)]
pub(crate) struct Preset {
    pub(crate) key: &'static str,
    pub(crate) label: &'static str,
    pub(crate) about: &'static str,
    pub(crate) tokens: &'static [&'static str],
}

/// The presets, the widest first.
pub(crate) const PRESETS: [Preset; 4] = [
    Preset {
        key: "full",
        label: "Full access",
        about: "everything",
        tokens: &[
            "list",
            "download",
            "upload",
            "overwrite",
            "delete",
            "rename",
            "create_dirs",
            "create_symlinks",
            "chmod",
            "chown",
            "chtimes",
        ],
    },
    Preset {
        key: "keep",
        label: "Read and write, no delete",
        about: "add and replace files, never remove or rename any",
        tokens: &["list", "download", "upload", "overwrite", "create_dirs", "chtimes"],
    },
    Preset { key: "read", label: "Read only", about: "list and download", tokens: &["list", "download"] },
    Preset {
        key: "drop",
        label: "Upload only (drop box)",
        about: "hand in new files without seeing any",
        tokens: &["upload", "create_dirs"],
    },
];

/// Every single permission, with what it means.
pub(crate) const TOKENS: [(&str, &str); 11] = [
    ("list", "List directories"),
    ("download", "Download files"),
    ("upload", "Upload new files"),
    ("overwrite", "Overwrite files"),
    ("delete", "Delete"),
    ("rename", "Rename and move"),
    ("create_dirs", "Create directories"),
    ("create_symlinks", "Create symbolic links"),
    ("chmod", "Change modes"),
    ("chown", "Change owners"),
    ("chtimes", "Change times"),
];

/// What the form says about one directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Dir {
    pub(crate) path: String,
    pub(crate) tokens: BTreeSet<String>,
    /// The preset that these are, for scripts; empty if none.
    pub(crate) preset: &'static str,
}

impl Dir {
    pub(crate) fn new(path: &str, tokens: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut all = BTreeSet::new();
        for token in tokens {
            match token.into() {
                star if star == "*" => all.extend(PRESETS[0].tokens.iter().map(|token| (*token).to_owned())),
                token => {
                    all.insert(token);
                }
            }
        }
        let preset = PRESETS.iter().find(|preset| {
            preset.tokens.len() == all.len() && preset.tokens.iter().all(|token| all.contains(*token))
        });
        Self { path: path.to_owned(), tokens: all, preset: preset.map_or("", |preset| preset.key) }
    }

    /// Reads the ticked permissions, or those of the preset if one was chosen.
    fn read<'a>(path: &str, ticked: impl Iterator<Item = &'a str>, preset: &str) -> Self {
        match PRESETS.iter().find(|one| one.key == preset) {
            Some(preset) => Self::new(path, preset.tokens.iter().copied()),
            None => Self::new(path, ticked),
        }
    }

    fn is_blank(&self) -> bool {
        self.path.trim().is_empty() && self.tokens.is_empty()
    }
}

/// The root directory as the form has it.
pub(crate) fn root(form: &Form) -> Dir {
    Dir::read("/", form.all("permissions"), form.text("permissions_preset"))
}

/// The other directories as the form has them, rows that are blank included.
///
/// # Errors
/// A line of `sub_dirs_permissions` that cannot mean what it says.
pub(crate) fn others(form: &Form) -> Result<Vec<Dir>, String> {
    #[derive(Default)]
    struct Row<'a> {
        path: &'a str,
        ticked: Vec<&'a str>,
        preset: &'a str,
    }
    let mut rows: BTreeMap<u32, Row<'_>> = BTreeMap::new();
    for (name, value) in form.iter() {
        let Some((number, part)) = name.strip_prefix("dir.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        let row = rows.entry(number).or_default();
        match part {
            "path" => row.path = value,
            "perm" => row.ticked.push(value),
            "preset" => row.preset = value,
            _ => {}
        }
    }
    let mut dirs: Vec<Dir> =
        rows.into_values().map(|row| Dir::read(row.path, row.ticked.into_iter(), row.preset)).collect();
    for line in form.text("sub_dirs_permissions").lines() {
        let Some((dir, tokens)) = line.split_once(':') else { continue };
        if tokens.contains(':') {
            return Err(format!(
                "{:?} has more than one colon, so where the directory ends is not clear: use the fields for \
                 directories",
                line.trim()
            ));
        }
        let tokens: Vec<&str> = tokens.split(',').map(str::trim).filter(|token| !token.is_empty()).collect();
        if !dir.trim().is_empty() && !tokens.is_empty() {
            dirs.push(Dir::new(dir.trim(), tokens));
        }
    }
    Ok(dirs)
}

/// Permissions by directory, as a draft has them.
pub(crate) type Map = BTreeMap<String, Vec<String>>;

/// The row that something is wrong with, and what.
type Wrong = (Option<usize>, String);

/// The whole map, and what is wrong with which row (`None` is the root).
pub(crate) fn map(root: &Dir, others: &[Dir]) -> (Map, Vec<Wrong>) {
    let (mut map, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let mut errors = Vec::new();
    if root.tokens.is_empty() {
        errors.push((None, "tick at least one permission for the root directory".to_owned()));
    }
    for (row, dir) in
        [(None, root)].into_iter().chain(others.iter().enumerate().map(|(n, dir)| (Some(n), dir)))
    {
        if row.is_some() && dir.is_blank() {
            continue;
        }
        if let Some(unknown) = dir.tokens.iter().find(|token| Perms::from_token(token).is_none()) {
            errors.push((row, format!("unknown permission {unknown:?}")));
        }
        if row.is_some() {
            if dir.path.trim().is_empty() {
                errors.push((row, "name the directory, such as /incoming".to_owned()));
            } else if !dir.path.starts_with('/') {
                errors.push((row, format!("{:?} is not absolute: it must start with /", dir.path)));
            } else if dir.path.bytes().all(|byte| byte == b'/') {
                errors.push((row, "the root directory has its own permissions above".to_owned()));
            } else if dir.tokens.is_empty() {
                errors.push((row, "tick at least one permission, or remove the directory".to_owned()));
            }
        }
        // What core cannot read as a path it will say itself.
        if VPath::parse(dir.path.as_bytes()).is_ok_and(|path| !path.is_root() && !seen.insert(path)) {
            errors.push((row, format!("{:?} is named twice", dir.path)));
        }
        map.insert(dir.path.clone(), dir.tokens.iter().cloned().collect());
    }
    (map, errors)
}

/// Permissions in a few words: a preset's name, or the tokens.
pub(crate) fn summary(perms: Perms) -> String {
    let dir = Dir::new("", perms.tokens());
    match PRESETS.iter().find(|preset| preset.key == dir.preset) {
        Some(preset) => preset.label.to_owned(),
        None => perms.tokens().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_and_tokens_are_cores() {
        let all: Vec<_> = Perms::all_tokens().filter(|token| *token != "*").collect();
        assert_eq!(TOKENS.map(|(token, _)| token).to_vec(), all);
        assert_eq!(PRESETS[0].tokens, all);
        for preset in &PRESETS {
            assert!(preset.tokens.iter().all(|token| all.contains(token)), "{}", preset.key);
            assert_eq!(Dir::new("/", preset.tokens.iter().copied()).preset, preset.key);
        }
        assert_eq!(summary(Perms::ALL), "Full access");
        assert_eq!(summary(Perms::LIST | Perms::CHMOD), "list, chmod");
    }

    fn form(pairs: &[(&str, &str)]) -> Form {
        let text: Vec<_> =
            pairs.iter().map(|(key, value)| format!("{key}={}", crate::web::forms::encode(value))).collect();
        Form::parse(text.join("&").as_bytes()).unwrap()
    }

    #[test]
    fn rows_and_lines() {
        let form = form(&[
            ("permissions", "*"),
            ("dir.10.path", "/b:,"),
            ("dir.10.perm", "list"),
            ("dir.2.path", "/a"),
            ("dir.2.perm", "chmod"),
            ("dir.2.preset", "read"),
            ("dir.x.path", "/ignored"),
            ("sub_dirs_permissions", "/c: list , download\r\nnonsense\r\n/d:\r\n :list"),
        ]);
        assert_eq!(root(&form).preset, "full");
        let dirs = others(&form).unwrap();
        let expected = [
            Dir::new("/a", ["list", "download"]),
            Dir::new("/b:,", ["list"]),
            Dir::new("/c", ["list", "download"]),
        ];
        assert_eq!(dirs, expected);
        let (map, errors) = map(&root(&form), &dirs);
        assert_eq!((map.len(), errors), (4, vec![]));
    }

    #[test]
    fn what_is_wrong_with_a_row() {
        assert!(others(&form(&[("sub_dirs_permissions", "/a:b:list")])).is_err());
        let list = |path| Dir::new(path, ["list"]);
        for (dirs, wrong) in [
            (vec![Dir::default()], None),
            (vec![list("a")], Some(0)),
            (vec![list("/a"), list("//")], Some(1)),
            (vec![list("/a"), list("/b/../a/")], Some(1)),
            (vec![list("")], Some(0)),
            (vec![Dir::new("/a", [""; 0])], Some(0)),
            (vec![Dir::new("/a", ["fly"])], Some(0)),
        ] {
            let (_, errors) = map(&list("/"), &dirs);
            assert_eq!(errors.first().and_then(|(row, _)| *row), wrong, "{dirs:?}: {errors:?}");
        }
        assert_eq!(map(&Dir::new("/", [""; 0]), &[]).1.len(), 1);
    }
}
