//! Runs a program of the system between the client and its files, confined.
//!
//! The server starts a copy of itself that confines itself to one directory and then becomes the program
//! (`docs/decisions/0007-confined-commands.md`). Three loops carry standard input, output and error at the
//! same time, so that none can hold up another; permissions, quota and bandwidth are those of
//! [`SystemRun`], and who may ask for what is decided by the grammars in `git.rs` and `rsync.rs`.
//!
//! Whatever ends the channel ends the whole process group. It is killed before its leader is reaped, so that
//! its number cannot have become another's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tidegate_core::{Direction, Perms, Protocol, Session, SystemRun, SystemStream};
use tidegate_vfs::{FsError, VPath};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

use super::End;
use super::programs::{Installed, Programs};
use crate::channel::Channel;
use crate::stream::StreamInbox;

/// How a message of the confinement itself begins: such text is for the log, not for the client.
pub const CONFINE_FAILURE: &str = "tidegate confine: ";

/// The most that is taken of such a message.
const MAX_FAILURE_BYTES: usize = 2048;

/// What a program has left to tidy up between being told to end and being killed.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest pause between two looks whether a program has ended.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Where programs look for others; what confines them decides what they find.
const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A path for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: VPath,
    /// Whether it ends with a slash for the program, which gives it another meaning for rsync.
    pub(super) slash: bool,
    /// What follows the path after `/./`, which for rsync is where the names that it sends begin.
    pub(super) sent: Option<Vec<u8>>,
}

/// A program to run on paths, which are appended to its arguments.
pub(super) struct Program<'a> {
    pub(super) installed: &'a Installed,
    /// Whether it may change files.
    pub(super) writes: bool,
    /// Whether it may add to files that are there, and not only write new ones.
    pub(super) adds: bool,
    /// All arguments but the paths.
    pub(super) arguments: Vec<OsString>,
    /// On top of the search path and a neutral language.
    pub(super) environment: Vec<(String, OsString)>,
}

/// Runs `program` on `targets` to its end. `needs` must be held at each of them and everywhere below.
pub(super) async fn run(
    channel: &Channel<StreamInbox>,
    session: &Session,
    programs: &Programs,
    program: Program<'_>,
    targets: &[Target],
    needs: Perms,
) -> Result<(), End> {
    let paths: Vec<VPath> = targets.iter().map(|target| target.path.clone()).collect();
    let run = session.files(Protocol::Ssh).system_run(&paths, needs, program.writes).await?;
    let mut child = command(programs, &program, targets, &run)?.spawn().map_err(FsError::from)?;
    let mut group = Group::of(&child)?;
    let outcome = tokio::select! {
        biased;
        () = channel.ended().cancelled() => Err(End::Closed),
        () = session.cancelled().cancelled() => Err(End::Closed),
        () = run.revoked() => Err(End::Failed(FsError::Denied)),
        outcome = exchange(channel, &run, &mut child, &group) => outcome,
    };
    let status = group.end(&mut child, outcome.is_err()).await;
    // Only now is it certain that nothing changes the files any more.
    drop(run);
    if let Some(failure) = outcome? {
        let id = &*session.peer().connection_id;
        error!(connection_id = id, "command not run: {}", failure.trim_end());
        return Err(End::Failed(FsError::Unsupported));
    }
    match code(status?) {
        0 => Ok(()),
        code => Err(End::Exited(code)),
    }
}

/// The copy of the server that confines itself and becomes the program. Its options are explained there.
fn command(
    programs: &Programs,
    program: &Program<'_>,
    targets: &[Target],
    run: &SystemRun,
) -> Result<Command, FsError> {
    let (confine, first) = programs.confine().ok_or(FsError::Unsupported)?;
    let mut command = Command::new(confine);
    command.args(first);
    command.arg("--home").arg(run.home());
    for (place, target) in run.places().iter().zip(targets) {
        command.arg("--dir").arg(OsStr::from_bytes(place.dir.as_bytes()));
        if let Some(name) = &place.name {
            command.arg("--name").arg(OsStr::from_bytes(name));
        }
        if let Some(sent) = &target.sent {
            command.arg("--sent").arg(OsStr::from_bytes(sent));
        }
        if target.slash {
            command.arg("--slash");
        }
    }
    if run.writes() {
        command.arg("--write");
    }
    if let Some(bytes) = run.largest_file(program.adds) {
        command.args(["--file-size", &bytes.to_string()]);
    }
    let (uid, gid) = run.owner();
    for (option, id) in [("--uid", uid), ("--gid", gid)] {
        if let Some(id) = id {
            command.args([option, &id.to_string()]);
        }
    }
    command.arg("--program").arg(&program.installed.program);
    if let Some(dir) = &program.installed.helpers {
        command.arg("--helpers").arg(dir);
    }
    for library in &program.installed.libraries {
        command.arg("--library").arg(library);
    }
    command.arg("--").args(&program.arguments);
    command.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C.UTF-8");
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// Carries everything between client and program until the program has ended; what the confinement had to
/// say if it did not become the program.
async fn exchange(
    channel: &Channel<StreamInbox>,
    run: &SystemRun,
    child: &mut Child,
    group: &Group,
) -> Result<Option<String>, End> {
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(End::Failed(FsError::Unsupported));
    };
    let input = async {
        match feed(channel, run.stream(Direction::Upload), stdin).await {
            // The program decides when it is done.
            Ok(()) => std::future::pending().await,
            Err(end) => end,
        }
    };
    let output = async {
        let stdout = forward(channel, run.stream(Direction::Download), stdout);
        let stderr = forward_errors(channel, run.stream(Direction::Download), stderr);
        let ((), failure) = tokio::try_join!(stdout, stderr)?;
        group.exited().await;
        run.ended();
        Ok(failure)
    };
    let full = run.watch(|hold| group.signal(if hold { Signal::STOP } else { Signal::CONT }));
    tokio::select! {
        end = input => Err(end),
        done = output => done,
        error = full => Err(End::Failed(error)),
    }
}

/// From the client to the program, until the client sends no more or the program takes no more.
async fn feed(
    channel: &Channel<StreamInbox>,
    mut stream: SystemStream,
    mut stdin: ChildStdin,
) -> Result<(), End> {
    let mut taking = true;
    while let Some(bytes) = channel.recv(stream.piece()).await? {
        if !taking {
            continue;
        }
        stream.pass(bytes.len()).await?;
        taking = stdin.write_all(&bytes).await.is_ok();
    }
    stream.end();
    Ok(())
}

/// From the program to the client.
async fn forward(
    channel: &Channel<StreamInbox>,
    mut stream: SystemStream,
    mut from: impl AsyncRead + Unpin,
) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    while let Some(bytes) = next(&mut from, &mut buffer, stream.piece()).await {
        stream.pass(bytes.len()).await?;
        channel.send(bytes).await?;
    }
    stream.end();
    Ok(())
}

/// As [`forward`] for standard error. What the confinement itself says is kept back and returned.
async fn forward_errors(
    channel: &Channel<StreamInbox>,
    mut stream: SystemStream,
    mut from: impl AsyncRead + Unpin,
) -> Result<Option<String>, End> {
    let mut buffer = BytesMut::new();
    let mut failure: Option<Vec<u8>> = None;
    let mut first = true;
    while let Some(bytes) = next(&mut from, &mut buffer, stream.piece()).await {
        if std::mem::take(&mut first) && bytes.starts_with(CONFINE_FAILURE.as_bytes()) {
            failure = Some(Vec::new());
        }
        if let Some(text) = &mut failure {
            let room = MAX_FAILURE_BYTES - text.len();
            text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            continue;
        }
        stream.pass(bytes.len()).await?;
        channel.stderr(bytes).await?;
    }
    stream.end();
    Ok(failure.map(|text| String::from_utf8_lossy(&text).into_owned()))
}

/// What a pipe holds, at most `most`; `None` at its end.
async fn next(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut, most: usize) -> Option<Bytes> {
    buffer.reserve(most);
    match from.read_buf(&mut (&mut *buffer).limit(most)).await {
        Ok(count) if count > 0 => Some(buffer.split().freeze()),
        Ok(_) => None,
        Err(error) => {
            debug!("a program's output cannot be read: {error}");
            None
        }
    }
}

/// The processes of a command. They are killed when it is dropped before their end was seen.
struct Group {
    leader: Pid,
    over: bool,
}

impl Group {
    fn of(child: &Child) -> Result<Self, FsError> {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { leader: id.ok_or(FsError::Cancelled)?, over: false })
    }

    /// Waits until the leader has ended; it is not reaped. A program whose output has ended ends soon, so
    /// looking is cheap.
    async fn exited(&self) {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let mut pause = Duration::from_millis(1);
        // An error means that it is not there at all.
        while let Ok(None) = waitid(WaitId::Pid(self.leader), how) {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn signal(&self, signal: Signal) {
        // It may be gone already.
        let _ = kill_process_group(self.leader, signal);
    }

    /// Ends whatever is left of the group and reaps its leader.
    async fn end(&mut self, child: &mut Child, early: bool) -> Result<ExitStatus, FsError> {
        if early {
            self.signal(Signal::TERM);
            // It may be held still.
            self.signal(Signal::CONT);
            let _ = timeout(LAST_WORDS, self.exited()).await;
        }
        self.signal(Signal::KILL);
        let status = child.wait().await;
        self.over = true;
        Ok(status?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.over {
            self.signal(Signal::KILL);
        }
    }
}

/// The exit status as a shell tells it: 128 and the number of the signal for who was killed.
fn code(status: ExitStatus) -> u32 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u32::try_from(code).unwrap_or(1)
}
