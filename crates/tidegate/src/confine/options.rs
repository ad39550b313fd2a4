//! The options of `tidegate confine`, as the server writes them; people have no use for them.
//!
//! `--namespaces | --landlock | --unconfined`, then `--home DIR`, one or more groups of
//! `--dir VIRTUAL-DIR [--name NAME] [--sent REST] [--slash]`, `--write`, `--file-size BYTES`, `--uid N`, `--gid N`,
//! `--program PATH`, `--helpers DIR`, `--library PATH` any number of times, then `--` and the program's arguments, to which the
//! paths are appended.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// How far a program is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confinement {
    /// By Landlock and a filter of system calls, in namespaces of its own.
    Namespaces,
    /// By Landlock and a filter of system calls.
    Landlock,
    /// Not at all.
    None,
}

impl Confinement {
    const ALL: [Self; 3] = [Self::Namespaces, Self::Landlock, Self::None];

    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Namespaces => "--namespaces",
            Self::Landlock => "--landlock",
            Self::None => "--unconfined",
        }
    }

    /// For the log.
    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces, Landlock and a filter of system calls",
            Self::Landlock => "Landlock and a filter of system calls",
            Self::None => "nothing",
        }
    }
}

/// A directory beneath the home that the program may use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its virtual path, without links.
    pub(super) dir: PathBuf,
    /// What the program is asked for, if it is not the directory itself.
    pub(super) name: Option<OsString>,
    /// What follows it after `/./`, which for rsync is where the names that it sends begin.
    pub(super) sent: Option<OsString>,
    /// Whether the path is given with a slash at its end.
    pub(super) slash: bool,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) how: Confinement,
    /// Only try the confinement.
    pub(super) probe: bool,
    pub(super) home: PathBuf,
    pub(super) places: Vec<Target>,
    pub(super) write: bool,
    pub(super) file_size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) program: PathBuf,
    pub(super) helpers: Option<PathBuf>,
    /// What the program is linked with; empty if that is not known.
    pub(super) libraries: Vec<PathBuf>,
    pub(super) arguments: Vec<OsString>,
}

impl Options {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let how = arguments.next().unwrap_or_default();
        let how = Confinement::ALL.into_iter().find(|known| *known.option() == *how);
        let mut options = Self {
            how: how.ok_or(
                "the first option must say how to confine; this command is for the server's own use",
            )?,
            probe: false,
            home: "/".into(),
            places: Vec::new(),
            write: false,
            file_size: None,
            uid: None,
            gid: None,
            program: PathBuf::new(),
            helpers: None,
            libraries: Vec::new(),
            arguments: Vec::new(),
        };
        while let Some(option) = arguments.next() {
            let known = option.to_str().unwrap_or_default();
            let value = |arguments: &mut dyn Iterator<Item = OsString>| {
                arguments.next().ok_or_else(|| format!("{known} needs a value"))
            };
            match known {
                "--probe" => options.probe = true,
                "--write" => options.write = true,
                "--home" => options.home = value(&mut arguments)?.into(),
                "--dir" => {
                    let dir = value(&mut arguments)?.into();
                    options.places.push(Target { dir, name: None, sent: None, slash: false });
                }
                "--name" | "--sent" | "--slash" => {
                    let place = options.places.last_mut().ok_or_else(|| format!("{known} without --dir"))?;
                    match known {
                        "--slash" => place.slash = true,
                        "--sent" => place.sent = Some(value(&mut arguments)?),
                        _ => place.name = Some(value(&mut arguments)?),
                    }
                }
                "--file-size" => options.file_size = Some(number(known, &value(&mut arguments)?)?),
                "--uid" => options.uid = Some(number(known, &value(&mut arguments)?)?),
                "--gid" => options.gid = Some(number(known, &value(&mut arguments)?)?),
                "--program" => options.program = value(&mut arguments)?.into(),
                "--library" => options.libraries.push(value(&mut arguments)?.into()),
                "--helpers" => options.helpers = Some(value(&mut arguments)?.into()),
                "--" => {
                    options.arguments = arguments.collect();
                    break;
                }
                _ => return Err(format!("unknown option {option:?}")),
            }
        }
        if !options.probe && !options.program.is_absolute() {
            return Err(format!("--program: {:?} is not an absolute path", options.program));
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &OsStr) -> Result<T, String> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{option}: {value:?} is not a number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_the_server_writes_is_understood() {
        let options = parse(
            "--landlock --home /srv/u --dir /a --name f --dir / --sent b/c --slash --write --file-size 7 --uid 5 \
             --program /bin/x --helpers /lib/x --library /lib/y --library /lib/z -- -a --uid",
        );
        let options = options.unwrap();
        assert_eq!(options.how, Confinement::Landlock);
        assert_eq!(
            options.places,
            [
                Target { dir: "/a".into(), name: Some("f".into()), sent: None, slash: false },
                Target { dir: "/".into(), name: None, sent: Some("b/c".into()), slash: true }
            ]
        );
        assert_eq!(
            (options.write, options.file_size, options.uid, options.gid),
            (true, Some(7), Some(5), None)
        );
        assert_eq!(options.libraries, [PathBuf::from("/lib/y"), PathBuf::from("/lib/z")]);
        assert_eq!(options.arguments, ["-a", "--uid"]);
    }

    #[test]
    fn everything_else_is_refused() {
        for line in [
            "",
            "--home /x",
            "--landlock --uid x --program /x",
            "--landlock --uid",
            "--landlock --name x --program /x",
            "--landlock --program x",
            "--landlock --program /x --shell",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
