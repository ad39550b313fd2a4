//! `git-upload-pack`, `git-receive-pack` and `git-upload-archive`: what clients of git ask for.
//!
//! What they may ask is in `git/request.rs`; what git is started with is made here. Its configuration on the command line wins over that of the repository, which the user
//! may have uploaded; where such configuration cannot be told apart, nothing but git itself can be executed
//! where it runs (`docs/decisions/0007-confined-commands.md`).

mod request;

use std::ffi::OsString;

use tidegate_core::{Perms, Protocol, Session};
use tidegate_vfs::{FsError, Links, VPath};

pub use self::request::{GitRefused, GitRequest, Service};
use super::child::{self, Program, Target};
use super::programs::{Installed, Needs, Programs};
use super::{End, printable};
use crate::channel::Channel;
use crate::stream::StreamInbox;

/// Reading needs less than writing, as the kernel lets a program that only reads change nothing.
const READS: Perms = Perms::LIST.and(Perms::DOWNLOAD);

/// Configuration that wins over the repository's.
const CONFIG: &[(&str, &str)] = &[
    // The repository may belong to another user of the system; who may use it was decided already.
    ("safe.directory", "*"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.sshCommand", "false"),
    ("core.askPass", "false"),
    ("core.editor", "false"),
    ("core.pager", "cat"),
    ("gpg.program", "false"),
    ("gpg.openpgp.program", "false"),
    ("gpg.x509.program", "false"),
    ("gpg.ssh.program", "false"),
    ("protocol.allow", "never"),
    // What runs after the client is gone would be killed, and its work is the administrator's.
    ("receive.autogc", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("receive.updateServerInfo", "false"),
    // Files of a repository are for its user alone, whatever it says.
    ("core.sharedRepository", "umask"),
    // Bounds of memory, of which the repository may ask for any amount. Larger files are streamed, neither
    // compared nor held.
    ("core.bigFileThreshold", "64m"),
    ("core.packedGitLimit", "256m"),
    ("core.packedGitWindowSize", "32m"),
    ("core.deltaBaseCacheLimit", "96m"),
    ("pack.threads", "2"),
    ("pack.window", "10"),
    ("pack.depth", "50"),
    ("pack.windowMemory", "256m"),
    ("pack.deltaCacheSize", "64m"),
    ("index.threads", "1"),
];

/// Where nothing else keeps the repository's own from being run. Elsewhere git would complain to the client that
/// it cannot start this one either.
const UNCONFINED: (&str, &str) = ("core.alternateRefsCommand", "true");

/// Whether a client may choose this value of `GIT_PROTOCOL`.
pub(crate) fn is_protocol(value: &str) -> bool {
    matches!(value, "version=0" | "version=1" | "version=2")
}

/// Serves one repository. `all` is what the user needs for a program that may change files.
pub(super) async fn run(
    channel: &Channel<StreamInbox>,
    session: &Session,
    programs: &Programs,
    (service, arguments): (Service, &[Vec<u8>]),
    protocol: Option<&str>,
    all: Perms,
) -> Result<(), End> {
    let name = service.command();
    let request = match GitRequest::parse(service, arguments) {
        Ok(request) => request,
        Err(refused) => return Err(told(channel, format!("{name}: refused: {refused}\n"), 128).await),
    };
    let Some(repository) = find(session, &request.path).await? else {
        let path = printable(request.path.as_bytes());
        let text = format!("{name}: '{path}' does not appear to be a git repository\n");
        return Err(told(channel, text, 128).await);
    };
    let installed = programs.get(Needs::Git).ok_or(FsError::Unsupported)?;
    let program = Program {
        installed,
        writes: service == Service::ReceivePack,
        adds: false,
        arguments: service.arguments().iter().map(OsString::from).collect(),
        environment: environment(session, programs, protocol, installed),
    };
    let reads = service != Service::ReceivePack && programs.confine_files();
    let needs = if reads { READS } else { all };
    let target = Target { path: repository, slash: false, sent: None };
    child::run(channel, session, programs, program, &[target], needs).await
}

async fn told(channel: &Channel<StreamInbox>, text: String, status: u32) -> End {
    match channel.stderr(text.into()).await {
        Ok(()) => End::Exited(status),
        Err(closed) => closed.into(),
    }
}

/// The directory that git itself would take for `path`, in its order.
async fn find(session: &Session, path: &VPath) -> Result<Option<VPath>, FsError> {
    let files = session.files(Protocol::Ssh);
    let mut candidates = vec![path.join(b".git")?, path.clone()];
    if !path.is_root() {
        let bare = VPath::parse(&[path.as_bytes(), b".git"].concat())?;
        candidates.extend([bare.join(b".git")?, bare]);
    }
    for candidate in candidates {
        match files.metadata(&candidate.join(b"HEAD")?, Links::Follow).await {
            Ok(_) => return Ok(Some(candidate)),
            Err(FsError::NotFound | FsError::NotDir | FsError::Outside) => {}
            // Where it is not even allowed to look, git is not allowed to work.
            Err(FsError::Denied) => return Err(FsError::Denied),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn environment(
    session: &Session,
    programs: &Programs,
    protocol: Option<&str>,
    git: &Installed,
) -> Vec<(String, OsString)> {
    let user = &session.user().username;
    let mut environment: Vec<(String, OsString)> = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "none"),
        // Who pushed, for the reflog; otherwise git would ask the system for its own user.
        ("GIT_COMMITTER_NAME", user),
        ("GIT_COMMITTER_EMAIL", "-"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect();
    let unconfined = (!programs.confine_files()).then_some(&UNCONFINED);
    let config: Vec<_> = CONFIG.iter().chain(unconfined).collect();
    environment.push(("GIT_CONFIG_COUNT".to_owned(), config.len().to_string().into()));
    for (number, (key, value)) in config.into_iter().enumerate() {
        environment.push((format!("GIT_CONFIG_KEY_{number}"), key.into()));
        environment.push((format!("GIT_CONFIG_VALUE_{number}"), value.into()));
    }
    environment.extend(protocol.map(|value| ("GIT_PROTOCOL".to_owned(), value.into())));
    environment.extend(git.helpers.as_ref().map(|dir| ("GIT_EXEC_PATH".to_owned(), dir.into())));
    environment
}
