//! Which files the program can use: those of its directories, and what it needs to run at all. Landlock
//! holds it to that, and to no network, no signals and no sockets of others where the kernel is new enough.
//!
//! Nothing in a user's directory can be executed, and of the system's programs only the one that was asked for
//! and those that belong to it. There is no shell.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
};
use rustix::fs::{Mode, OFlags};

use super::{Failure, Place};

/// Without these a program could not be held: moving between directories is in the second version.
const NEEDED: ABI = ABI::V2;

/// Whatever the kernel knows up to this is forbidden as well.
const KNOWN: ABI = ABI::V9;

/// Where libraries are, for a program that does not tell which ones it needs. A link of a user may lead here, so
/// whole directories are the last resort.
const LIBRARIES: &[&str] = &[
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib32",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/lib",
    "/lib64",
    "/lib32",
    "/nix/store",
    "/gnu/store",
];

/// Single files that are read.
const READ: &[&str] = &["/etc/ld.so.cache", "/etc/ld-musl-x86_64.path", "/etc/ld-musl-aarch64.path"];

/// What the C library knows of the language that programs run in, of UTF-8 above all.
const LANGUAGE: &[&str] = &["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"];

/// Devices, with whether they are written to.
const DEVICES: &[(&str, bool)] = &[("/dev/null", true), ("/dev/zero", false), ("/dev/urandom", false)];

/// The longest path of a loader that is believed.
const MAX_LOADER_BYTES: u64 = 4096;

/// What of the system a program needs; only what exists.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// To be executed: the program, its loader, and the directory of its helpers.
    pub(super) execute: Vec<PathBuf>,
    /// To be read.
    pub(super) read: Vec<PathBuf>,
    /// Devices, with whether they are written to.
    pub(super) devices: Vec<(PathBuf, bool)>,
}

impl Needs {
    /// What `program` needs, which starts the programs in `helpers` and is linked with `libraries`.
    pub(super) fn of(program: &Path, helpers: Option<&Path>, libraries: &[PathBuf]) -> Self {
        let mut execute = vec![program.to_owned()];
        execute.extend(helpers.map(Path::to_owned));
        execute.extend(loader(program));
        execute.retain(|path| path.exists());
        let existing = |path: &&&str| Path::new(path).exists();
        let unknown = if libraries.is_empty() { LIBRARIES } else { LANGUAGE };
        let mut read: Vec<PathBuf> = unknown.iter().chain(READ).filter(existing).map(PathBuf::from).collect();
        read.extend(libraries.iter().filter(|path| path.exists()).cloned());
        let devices = DEVICES.iter().filter(|(path, _)| Path::new(path).exists());
        Self { execute, read, devices: devices.map(|(path, write)| (path.into(), *write)).collect() }
    }
}

/// Whether the kernel can hold a program to its files.
pub(super) fn available() -> Result<(), String> {
    ruleset()
        .map(drop)
        .map_err(|error| format!("this kernel cannot: {error}; Linux 5.19 or later with Landlock can"))
}

/// From now on, only `places` and `needs` can be used.
pub(super) fn restrict(places: &[Place], needs: &Needs, write: bool) -> Result<(), Failure> {
    let failed = |error: landlock::RulesetError| Failure::new("cannot restrict the use of files", error);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSym
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let mut rules: Vec<(OwnedFd, BitFlags<AccessFs>)> = Vec::new();
    for path in &needs.execute {
        rules.push((open(path)?, read | AccessFs::Execute));
    }
    for path in &needs.read {
        rules.push((open(path)?, read));
    }
    for (path, write) in &needs.devices {
        let write = if *write { AccessFs::WriteFile | AccessFs::Truncate } else { BitFlags::EMPTY };
        let access = write | AccessFs::ReadFile;
        rules.push((open(path)?, access));
    }
    let mut ruleset = ruleset().map_err(failed)?;
    for (fd, access) in rules {
        ruleset = add(ruleset, &fd, access)?;
    }
    for place in places {
        ruleset = add(ruleset, &place.fd, if write { read | change } else { read })?;
    }
    ruleset.restrict_self().map(drop).map_err(failed)
}

fn add(ruleset: RulesetCreated, fd: &OwnedFd, access: BitFlags<AccessFs>) -> Result<RulesetCreated, Failure> {
    let is_dir =
        rustix::fs::fstat(fd).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    // The kernel takes only what has a meaning for what is there.
    let access = if is_dir { access } else { access & AccessFs::from_file(KNOWN) };
    ruleset
        .add_rule(PathBeneath::new(fd, access))
        .map_err(|error| Failure::new("cannot allow the use of a file", error))
}

/// A ruleset that forbids everything, as far as the kernel can.
fn ruleset() -> Result<RulesetCreated, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Failure::new(format_args!("cannot open {}", path.display()), error))
}

/// The loader that a program names (`PT_INTERP` of an ELF file of 64 bits); it is executed first.
fn loader(program: &Path) -> Option<PathBuf> {
    let file = std::fs::File::open(program).ok()?;
    let read = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let header = read(0, 64)?;
    if !header.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let big = header[5] == 2;
    let number = |bytes: &[u8]| {
        let digit = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if big { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) }
    };
    let (table, size, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    for index in 0..count {
        let entry = read(table.checked_add(index * size)?, 56)?;
        if number(&entry[..4]) != 3 {
            continue;
        }
        let (offset, length) = (number(&entry[8..16]), number(&entry[32..40]));
        let path = read(offset, usize::try_from(length.min(MAX_LOADER_BYTES)).ok()?)?;
        let path = path.split(|byte| *byte == 0).next()?;
        return Some(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_of_a_program_is_found() {
        let this = std::env::current_exe().unwrap();
        let loader = loader(&this).unwrap();
        assert!(loader.is_absolute() && loader.exists(), "{loader:?}");
        assert_eq!(super::loader(Path::new("/etc/passwd")), None);
        assert_eq!(super::loader(Path::new("/missing")), None);
    }
}
