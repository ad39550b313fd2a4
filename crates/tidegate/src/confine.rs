//! `tidegate confine`: a process that gives up everything but one user's directory and then becomes git or
//! rsync. The server starts it for each such SSH command; nobody else has a use for it.
//!
//! Everything is applied in this process and stays with it and its children: limits, namespaces
//! (`confine/mounts.rs`), files (`confine/files.rs`), system calls (`confine/calls.rs`).
//! `docs/decisions/0007-confined-commands.md` says why each of them is there. Whether the kernel can do it is
//! asked once, when the server starts ([`programs`]).

mod calls;
mod files;
mod mounts;
mod options;

use std::ffi::OsString;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::CapabilitySet;
use tidegate_core::ConfigError;
use tidegate_ssh::{CONFINE_FAILURE, Programs};
use tracing::{info, warn};

use options::{Confinement, Options};

/// The word on the command line.
pub(crate) const COMMAND: &str = "confine";

/// The program that runs, even if its file was replaced by a newer one since.
const THIS: &str = "/proc/self/exe";

/// Exit status if the process could not be confined.
const CANNOT_CONFINE: u8 = 126;

/// Exit status if it was confined and the program could not be started.
const CANNOT_START: u8 = 127;

/// Most memory of one process: several times what git needs within the bounds that `git.rs` sets it.
const DATA_BYTES: u64 = 4 << 30;

/// Most open files of one process.
const OPEN_FILES: u64 = 4096;

/// Most processes of the user that the program runs as, where that is not root.
const PROCESSES: u64 = 4096;

/// What stays of root's rights where a program runs as root: the rights to work on anybody's files. Which
/// files there are is decided otherwise.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Finds the programs that the enabled SSH commands need, and how they can be confined here.
///
/// # Errors
///
/// Nothing can confine them, and `sftpd.allow_unconfined_commands` is not set.
pub(crate) fn programs(sftpd: &tidegate_ssh::config::Settings) -> Result<Programs, ConfigError> {
    let commands = &sftpd.ssh_commands;
    if !Programs::are_needed(commands) {
        return Ok(Programs::default());
    }
    let how = match best() {
        Ok(how) => how,
        Err(reason) if sftpd.allow_unconfined_commands => {
            warn!(
                console = true,
                "sftpd.allow_unconfined_commands: git and rsync run without confinement: {reason}"
            );
            Confinement::None
        }
        Err(reason) => {
            let shown = commands.join(", ");
            let expected = format!(
                "no git and rsync commands where programs cannot be confined ({reason}), or \
                 sftpd.allow_unconfined_commands"
            );
            return Err(ConfigError::new("sftpd.enabled_ssh_commands", shown, expected));
        }
    };
    let confine = vec![THIS.into(), COMMAND.into(), how.option().into()];
    let programs = Programs::find(confine, how != Confinement::None);
    for (command, program) in programs.missing(commands) {
        warn!(
            "sftpd.enabled_ssh_commands: {command} is not offered: {program} is not installed in any \
             directory of PATH"
        );
    }
    info!("git and rsync are confined by {}", how.shown());
    Ok(programs)
}

/// The strongest confinement that works here. A child tries it, as there is no way back from it.
fn best() -> Result<Confinement, String> {
    files::available()?;
    match probe(Confinement::Namespaces) {
        Ok(()) => return Ok(Confinement::Namespaces),
        Err(reason) => info!("git and rsync run without namespaces of their own: {reason}"),
    }
    probe(Confinement::Landlock).map(|()| Confinement::Landlock)
}

fn probe(how: Confinement) -> Result<(), String> {
    let child = Command::new(THIS).args([COMMAND, how.option(), "--probe"]).env_clear().output();
    match child {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("cannot start a copy of this program: {error}")),
    }
}

/// Why the process ends instead of becoming the program.
struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    fn new(what: impl Display, error: impl Display) -> Self {
        Self { status: CANNOT_CONFINE, text: format!("{what}: {error}") }
    }
}

/// What `main` does for `tidegate confine`. Returns only if it fails.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = Options::parse(arguments).map_err(|text| Failure { status: CANNOT_CONFINE, text });
    match outcome.and_then(|options| confine(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // One write, so that the server sees whose message it is.
            let line = format!("{CONFINE_FAILURE}{}\n", failure.text);
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            ExitCode::from(failure.status)
        }
    }
}

/// A directory that the program may use.
struct Place {
    /// The directory itself, whatever its name is by now.
    fd: OwnedFd,
    /// How the program calls it.
    path: PathBuf,
    /// How the user calls it.
    shown: PathBuf,
}

fn confine(options: &Options) -> Result<(), Failure> {
    follow_server()?;
    close_inherited();
    limit(options)?;
    let needs = files::Needs::of(&options.program, options.helpers.as_deref(), &options.libraries);
    if options.how == Confinement::Namespaces {
        mounts::leave()?;
    }
    let mut places = open_places(options)?;
    if options.how == Confinement::Namespaces {
        mounts::enter(&mut places, &needs, options.write)?;
    }
    let mut command = Command::new(&options.program);
    command.args(&options.arguments).current_dir("/");
    for (place, target) in places.iter().zip(&options.places) {
        let mut path = place.path.clone();
        path.extend(&target.name);
        let mut path = path.into_os_string().into_vec();
        if let Some(sent) = &target.sent {
            path.extend_from_slice(b"/./");
            path.extend_from_slice(sent.as_bytes());
        }
        if target.slash && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        command.arg(OsString::from_vec(path));
    }
    give_up_rights(options)?;
    if options.how != Confinement::None {
        files::restrict(&places, &needs, options.write)?;
        drop(places);
        calls::restrict()?;
    }
    if options.probe {
        return Ok(());
    }
    become_owner(options)?;
    // The kernel forgets it for a process whose user changes.
    follow_server()?;
    let error = command.exec();
    let status = CANNOT_START;
    Err(Failure { status, text: format!("cannot start {}: {error}", options.program.display()) })
}

/// Opens the directories without following any link beneath the home.
fn open_places(options: &Options) -> Result<Vec<Place>, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = rustix::fs::open(&options.home, flags, Mode::empty())
        .map_err(|error| Failure::new(format_args!("cannot open {}", options.home.display()), error))?;
    let mut places = Vec::new();
    for target in &options.places {
        let inside = target.dir.strip_prefix("/").unwrap_or(&target.dir);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let path = if inside == Path::new(".") { options.home.clone() } else { options.home.join(inside) };
        let fd = open_beneath(&home, inside, flags)
            .map_err(|error| Failure::new(format_args!("cannot open {}", path.display()), error))?;
        places.push(Place { fd, path, shown: target.dir.clone() });
    }
    Ok(places)
}

fn open_beneath(home: &OwnedFd, inside: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(home, inside, flags, Mode::empty(), how)
}

/// The server's own files are closed by the system when this program starts; whoever started the server may have
/// left others open. Nothing is open here yet but the three streams.
fn close_inherited() {
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let open: Vec<i32> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(number).collect(),
        Err(_) => (0..1024).collect(),
    };
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The one for the listing itself is closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

fn limit(options: &Options) -> Result<(), Failure> {
    let mut limits = vec![(Resource::Core, 0), (Resource::Nofile, OPEN_FILES), (Resource::Data, DATA_BYTES)];
    let runs_as_root = rustix::process::geteuid().is_root() && options.uid.is_none();
    if !runs_as_root {
        limits.push((Resource::Nproc, PROCESSES));
    }
    if let Some(bytes) = options.file_size {
        limits.push((Resource::Fsize, bytes));
    }
    for (resource, most) in limits {
        let now = rustix::process::getrlimit(resource);
        let most = now.maximum.map_or(most, |maximum| maximum.min(most));
        let new = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, new)
            .map_err(|error| Failure::new(format_args!("cannot limit {resource:?} to {most}"), error))?;
    }
    Ok(())
}

/// Gives up root's rights but those that are kept, and the groups of the server's account where the user has one
/// of its own.
fn give_up_rights(options: &Options) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        // Some are not known to every kernel.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    if options.uid.is_some() || options.gid.is_some() {
        rustix::thread::set_thread_groups(&[])
            .map_err(|error| Failure::new("cannot give up supplementary groups", error))?;
    }
    Ok(())
}

/// Changes to the user's own account. Without root the server's account is the only one there is.
fn become_owner(options: &Options) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // There is one thread, so that of the thread is that of the process.
    if let Some(gid) = options.gid {
        rustix::thread::set_thread_gid(Gid::from_raw(gid))
            .map_err(|error| Failure::new(format_args!("cannot become group {gid}"), error))?;
    }
    if let Some(uid) = options.uid {
        rustix::thread::set_thread_uid(Uid::from_raw(uid))
            .map_err(|error| Failure::new(format_args!("cannot become user {uid}"), error))?;
    }
    Ok(())
}

/// A server that is killed leaves no programs behind. The signal comes when the thread ends that started this
/// process; those of the runtime live as long as it does, as nothing here uses `block_in_place`.
fn follow_server() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::new("cannot follow the server's end", error))
}
