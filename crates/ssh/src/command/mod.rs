//! SSH commands (`exec` requests): which exist, what each needs, and how they end.
//!
//! A command is started only if its line can be split, its name is in the table and enabled; everything else
//! is answered with a channel failure. A command that was started ends with exit status 0 or 1, a program of
//! the system with its own. Its line in
//! the log, its counter and its hook are written here, in one place; what a command does is in its own module.

#[cfg(unix)]
pub(crate) mod child;
pub(crate) mod git;
mod hash;
mod places;
pub(crate) mod programs;
mod rsync;

use bytes::Bytes;
use tidegate_core::{Command as CommandReport, CommandKind, Event, Perms, Protocol, Session};
use tidegate_vfs::{FsError, VPath};
use tracing::{debug, info, warn};

use self::git::Service;
use self::places::Places;
use self::programs::Programs;
use crate::channel::{Channel, Closed};
use crate::scp;
use crate::shell_words::{self, SplitError};
use crate::stream::StreamInbox;

/// One row of the table.
struct Command {
    name: &'static str,
    /// What the user needs at the path that is the last argument. Where the runner decides file by file,
    /// nothing is asked in advance.
    needs: Perms,
    runner: Runner,
}

/// What runs a command.
#[derive(Clone, Copy)]
enum Runner {
    /// Nothing to do: there is only one directory to start from.
    Cd,
    /// Prints where relative paths begin.
    Pwd,
    /// Prints a digest; the name is that of [`Hasher`](crate::hasher::Hasher).
    Hash(&'static str),
    /// Copies files.
    Scp,
    /// Serves a repository.
    Git(Service),
    /// Copies what has changed.
    Rsync,
}

impl Runner {
    /// Whether a program of the system does the work.
    fn is_program(self) -> bool {
        matches!(self, Self::Git(_) | Self::Rsync)
    }
}

/// What a program of the system may do cannot be told in advance, so the user must be allowed all of it.
const SYSTEM: Perms = Perms::LIST
    .and(Perms::DOWNLOAD)
    .and(Perms::UPLOAD)
    .and(Perms::OVERWRITE)
    .and(Perms::CREATE_DIRS)
    .and(Perms::DELETE)
    .and(Perms::RENAME);

const COMMANDS: &[Command] = &[
    Command { name: "cd", needs: Perms::NONE, runner: Runner::Cd },
    Command { name: "pwd", needs: Perms::NONE, runner: Runner::Pwd },
    Command { name: "md5sum", needs: Perms::LIST, runner: Runner::Hash("md5") },
    Command { name: "sha1sum", needs: Perms::LIST, runner: Runner::Hash("sha1") },
    Command { name: "sha256sum", needs: Perms::LIST, runner: Runner::Hash("sha256") },
    Command { name: "sha384sum", needs: Perms::LIST, runner: Runner::Hash("sha384") },
    Command { name: "sha512sum", needs: Perms::LIST, runner: Runner::Hash("sha512") },
    Command { name: "scp", needs: Perms::NONE, runner: Runner::Scp },
    Command { name: "git-upload-pack", needs: SYSTEM, runner: Runner::Git(Service::UploadPack) },
    Command { name: "git-receive-pack", needs: SYSTEM, runner: Runner::Git(Service::ReceivePack) },
    Command { name: "git-upload-archive", needs: SYSTEM, runner: Runner::Git(Service::UploadArchive) },
    Command { name: "rsync", needs: SYSTEM, runner: Runner::Rsync },
];

/// The commands that clients may run.
pub(crate) struct Commands {
    enabled: Vec<&'static Command>,
    programs: Programs,
    /// Bounds how many programs run.
    running: Places,
    turns: hash::Turns,
}

/// A command that may run, with its arguments.
pub(crate) struct Job {
    command: &'static Command,
    arguments: Vec<Vec<u8>>,
}

/// Why an `exec` request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The line cannot be split into words.
    #[error("{0}")]
    Line(#[from] SplitError),
    /// There is no such command, or it is not enabled.
    #[error("the command is unknown or not enabled")]
    Unknown,
    /// The command can do nothing with so few arguments.
    #[error("too few arguments")]
    Arguments,
}

/// Why a command did not succeed.
pub(crate) enum End {
    /// The client is gone.
    Closed,
    /// The client must be told.
    Failed(FsError),
    /// The client was told already.
    Told,
    /// A program ended with this status, and has told the client why.
    Exited(u32),
}

impl From<Closed> for End {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

impl From<FsError> for End {
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

impl Commands {
    /// The commands of the table that `names` enables and whose programs are there.
    pub(crate) fn new(names: &[String], programs: Programs, max_programs: usize) -> Self {
        let named = |command: &&Command| names.iter().any(|name| name == command.name);
        let enabled = COMMANDS.iter().filter(named).filter(|command| programs.allow(command.name)).collect();
        Self { enabled, programs, running: Places::new(max_programs), turns: hash::Turns::new() }
    }

    /// Finds what a command line asks for.
    pub(crate) fn parse(&self, line: &[u8]) -> Result<Job, Refused> {
        let mut words = shell_words::split(line)?.into_iter();
        let mut name = words.next().ok_or(Refused::Unknown)?;
        if name == b"git" {
            // The other way to name its services.
            name = [b"git-", &words.next().ok_or(Refused::Unknown)?[..]].concat();
        }
        let found = self.enabled.iter().find(|command| command.name.as_bytes() == name);
        let command = *found.ok_or(Refused::Unknown)?;
        let arguments: Vec<_> = words.collect();
        if matches!(command.runner, Runner::Scp) && arguments.len() < 2 {
            return Err(Refused::Arguments);
        }
        Ok(Job { command, arguments })
    }
}

impl Job {
    fn protocol(&self) -> Protocol {
        match self.command.runner {
            Runner::Scp => Protocol::Scp,
            Runner::Cd | Runner::Pwd | Runner::Hash(_) | Runner::Git(_) | Runner::Rsync => Protocol::Ssh,
        }
    }

    /// As the API lists it: the name, one space, the arguments joined by spaces.
    fn listed(&self) -> String {
        let arguments = self.arguments.join(&b' ');
        format!("{} {}", self.command.name, String::from_utf8_lossy(&arguments))
    }

    /// The path of a command is its last argument.
    fn path(&self) -> Result<VPath, FsError> {
        self.arguments.last().map_or(Ok(VPath::root()), |path| VPath::parse(path))
    }
}

/// Runs `job`, one of `commands`, on `channel` to its end. `git_protocol` is what the client asked for in its
/// environment.
pub(crate) async fn serve(
    channel: &Channel<StreamInbox>,
    session: &Session,
    commands: &Commands,
    job: Job,
    git_protocol: Option<&str>,
) {
    let _running = session.begin(job.protocol(), job.listed());
    let needs_place = job.command.runner.is_program();
    let place = needs_place.then(|| commands.running.take(&session.user().username));
    if matches!(place, Some(None)) {
        let (id, name) = (&*session.peer().connection_id, job.command.name);
        let why = "sftpd.max_programs are running, or all but those for users who have none";
        warn!(connection_id = id, "command {name} refused: {why}");
        session.events().metrics().ssh_command_ended(false);
        let text = format!("{name}: too many programs are running, try again later\n");
        let _ = channel.stderr(text.into()).await;
        let _ = channel.exit(1).await;
        return;
    }
    let outcome = match job.command.runner {
        Runner::Cd => Ok(()),
        Runner::Pwd => channel.send(Bytes::from_static(b"/\n")).await.map_err(End::from),
        Runner::Hash(algorithm) => {
            let path = job.arguments.last().map(Vec::as_slice);
            hash::run(channel, session, &commands.turns, algorithm, path, job.command.needs).await
        }
        Runner::Scp => {
            let files = session.files(Protocol::Scp).until(channel.ended());
            scp::serve(channel, files, &job.arguments).await
        }
        Runner::Git(service) => {
            let (programs, request) = (&commands.programs, (service, job.arguments.as_slice()));
            git::run(channel, session, programs, request, git_protocol, job.command.needs).await
        }
        Runner::Rsync => {
            rsync::run(channel, session, &commands.programs, &job.arguments, job.command.needs).await
        }
    };
    let (id, name) = (&*session.peer().connection_id, job.command.name);
    // Reported before the client learns of it: whoever saw a command end finds it in the log.
    session.events().metrics().ssh_command_ended(outcome.is_ok());
    let status = match outcome {
        Ok(()) => {
            report(session, &job);
            0
        }
        Err(End::Failed(error)) => {
            info!(connection_id = id, "command {name} failed: {}", error.detail());
            let path = job.path().map_or_else(|_| "/".to_owned(), |path| shown(&path));
            let text = format!("{name}: {path} {}\n", told(&error));
            // What programs write is for the program at the other end, not for eyes.
            let _ = if job.command.runner.is_program() {
                channel.stderr(text.into()).await
            } else {
                channel.send(text.into()).await
            };
            1
        }
        Err(End::Exited(status)) => {
            info!(connection_id = id, "command {name} ended with status {status}");
            status
        }
        Err(End::Told) => {
            info!(connection_id = id, "command {name} failed");
            1
        }
        Err(End::Closed) => {
            debug!(connection_id = id, "command {name} ended with its channel, or nobody takes what it says");
            1
        }
    };
    // The client may be gone already.
    let _ = channel.exit(status).await;
}

fn report(session: &Session, job: &Job) {
    session.events().emit(Event::Commanded(CommandReport {
        kind: CommandKind::SshCommand { line: job.listed().trim_end().to_owned() },
        username: session.user().username.clone(),
        connection_id: session.peer().connection_id.clone(),
        protocol: job.protocol(),
        path: job.path().unwrap_or_else(|_| VPath::root()),
        real_path: None,
    }));
}

/// What the peer may know of an error: the system's own words are for the log.
pub(crate) fn told(error: &FsError) -> String {
    match error {
        FsError::Io(_) => "input/output error".to_owned(),
        error => error.to_string(),
    }
}

/// A path for the eyes of the peer. Control characters, which could play tricks on a terminal, are replaced.
pub(crate) fn shown(path: &VPath) -> String {
    printable(path.as_bytes())
}

/// As [`shown`], for any bytes.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(names: &[&str]) -> Commands {
        Commands::new(
            &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
            Programs::default(),
            1,
        )
    }

    #[test]
    fn only_what_is_enabled_and_well_formed_is_run() {
        let some = commands(&["scp", "md5sum", "pwd", "no-such-command"]);
        for (line, want) in [
            (&b"md5sum /a"[..], None),
            (b" 'md5sum'\t'a b' ", None),
            (b"pwd", None),
            (b"scp -t /", None),
            (b"scp -t", Some(Refused::Arguments)),
            (b"scp", Some(Refused::Arguments)),
            (b"sha1sum /a", Some(Refused::Unknown)),
            (b"no-such-command", Some(Refused::Unknown)),
            (b"MD5SUM", Some(Refused::Unknown)),
            (b"/usr/bin/md5sum /a", Some(Refused::Unknown)),
            (b"md5sum;pwd", Some(Refused::Unknown)),
            (b"", Some(Refused::Unknown)),
            (b"md5sum 'a", Some(Refused::Line(SplitError::UnterminatedQuote("single")))),
        ] {
            assert_eq!(some.parse(line).err(), want, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_job_is_listed_as_its_name_one_space_and_its_arguments() {
        let all = commands(&COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>());
        for (line, want, path) in [
            (&b"pwd"[..], "pwd ", "/"),
            (b"md5sum  -b 'a  b'", "md5sum -b a  b", "/a  b"),
            (b"scp -r -t tmp/../../x/", "scp -r -t tmp/../../x/", "/x"),
        ] {
            let job = all.parse(line).unwrap();
            assert_eq!((job.listed(), job.path().unwrap().to_string()), (want.to_owned(), path.to_owned()));
        }
    }

    #[test]
    fn every_command_of_the_table_can_be_configured() {
        for command in COMMANDS {
            assert!(crate::config::SSH_COMMANDS.contains(&command.name), "{}", command.name);
        }
    }
}
