//! The programs of the system that SSH commands need: where they are, and what starts them.
//!
//! They are looked for once, when the server starts. A command whose program is not installed is not offered.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What SSH commands start, found when the server starts.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// What confines itself and then becomes the program: a program with its first arguments. Empty where
    /// there is none; then no program is started.
    confine: Vec<OsString>,
    /// Whether it can keep a program from the files of others.
    keeps_files: bool,
    git: Option<Installed>,
    rsync: Option<Installed>,
}

/// A program that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Its path, without links.
    pub(crate) program: PathBuf,
    /// The directory of the programs that it starts itself.
    pub(crate) helpers: Option<PathBuf>,
    /// The libraries that it is linked with; empty if it does not tell.
    pub(crate) libraries: Vec<PathBuf>,
}

/// One of the programs that a command may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Git,
    Rsync,
}

/// Which command needs which program.
const NEEDS: &[(&str, Needs)] = &[
    ("git-upload-pack", Needs::Git),
    ("git-receive-pack", Needs::Git),
    ("git-upload-archive", Needs::Git),
    ("rsync", Needs::Rsync),
];

impl Programs {
    /// Whether one of these commands starts a program of the system.
    pub fn are_needed(commands: &[String]) -> bool {
        NEEDS.iter().any(|(command, _)| commands.iter().any(|name| name == command))
    }

    /// Looks for the programs in the directories of `PATH`. `confine` is what confines itself and becomes the
    /// program that follows: itself and its first arguments; `keeps_files` is whether it really keeps a program
    /// from the files of others.
    pub fn find(confine: Vec<OsString>, keeps_files: bool) -> Self {
        let git = installed("git").map(|program| {
            let (helpers, libraries) = (exec_path(&program), libraries(&program));
            Installed { program, helpers, libraries }
        });
        let rsync = installed("rsync").map(|program| {
            let libraries = libraries(&program);
            Installed { program, helpers: None, libraries }
        });
        Self { confine, keeps_files, git, rsync }
    }

    /// Those of `commands` whose program is not there, with its name.
    pub fn missing(&self, commands: &[String]) -> Vec<(&'static str, &'static str)> {
        let missing = |(command, needs): &(&'static str, Needs)| {
            let name = match needs {
                Needs::Git => "git",
                Needs::Rsync => "rsync",
            };
            let wanted = commands.iter().any(|name| name == command);
            (wanted && self.get(*needs).is_none()).then_some((*command, name))
        };
        NEEDS.iter().filter_map(missing).collect()
    }

    /// Whether the command can be run as far as programs are concerned.
    pub(crate) fn allow(&self, command: &str) -> bool {
        NEEDS.iter().find(|(name, _)| *name == command).is_none_or(|(_, needs)| self.get(*needs).is_some())
    }

    pub(crate) fn get(&self, needs: Needs) -> Option<&Installed> {
        match needs {
            _ if self.confine.is_empty() => None,
            Needs::Git => self.git.as_ref(),
            Needs::Rsync => self.rsync.as_ref(),
        }
    }

    /// Whether programs are kept from the files of others.
    pub(crate) fn confine_files(&self) -> bool {
        self.keeps_files
    }

    /// What confines: a program and its first arguments.
    pub(crate) fn confine(&self) -> Option<(&OsString, &[OsString])> {
        self.confine.split_first()
    }
}

fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
        .and_then(|path| path.canonicalize().ok())
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Programs cannot be confined here, so none is started.
#[cfg(not(unix))]
fn is_program(_: &Path) -> bool {
    false
}

/// Where git keeps the programs that it starts.
fn exec_path(git: &Path) -> Option<PathBuf> {
    let mut command = Command::new(git);
    command.arg("--exec-path").env_clear().current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    PathBuf::from(line.trim_end()).canonicalize().ok()
}

/// The libraries of a program, asked of its loader as `ldd` of glibc does it. Other loaders run the program, which
/// says then how it is used.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut command = Command::new(program);
    command.env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").current_dir("/");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    match command.output() {
        Ok(output) => traced(&String::from_utf8_lossy(&output.stdout)),
        Err(_) => Vec::new(),
    }
}

/// The paths in lines such as `\tlibz.so.1 => /lib/libz.so.1 (0x00007f…)`.
fn traced(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let (_, found) = line.strip_prefix('\t')?.split_once(" => ")?;
        let (path, address) = found.rsplit_once(" (0x")?;
        (path.starts_with('/') && address.ends_with(')')).then(|| PathBuf::from(path))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_the_loader_names() {
        let text = "\tlinux-vdso.so.1 (0x00007fa2)\n\tlibz.so.1 => /lib/a b/libz.so.1 (0x00007fa2)\n\t\
                    libx.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007fa2)\nusage: x => /y (0x1)\n";
        assert_eq!(traced(text), [PathBuf::from("/lib/a b/libz.so.1")]);
    }

    #[test]
    fn without_confinement_there_are_no_programs() {
        let none = Programs::find(Vec::new(), true);
        let commands: Vec<String> = ["git-upload-pack", "rsync", "pwd"].map(str::to_owned).into();
        assert_eq!(none.missing(&commands), [("git-upload-pack", "git"), ("rsync", "rsync")]);
        assert!(!none.allow("rsync") && !none.allow("git-receive-pack") && none.allow("pwd"));
        assert!(Programs::are_needed(&commands));
        assert!(!Programs::are_needed(&["pwd".to_owned(), "scp".to_owned()]));
    }
}
