//! `rsync`: files are read or written by the system's rsync, on what a client's command line is left to mean.
//!
//! Reading the line is in [`arguments`], the options that may be used in [`options`]; running and confining
//! the program is `child.rs`. Here is what a line needs: which permissions, which paths, what is prepared.
//! Wildcards are expanded by nobody, as there is no shell.

mod arguments;
#[cfg(test)]
mod arguments_tests;
mod options;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use tidegate_core::{Perms, Protocol, Session};
use tidegate_vfs::{FsError, VPath};

use self::arguments::{Arguments, May};
use super::End;
use super::child::{self, Program, Target};
use super::programs::{Needs, Programs};
use crate::channel::Channel;
use crate::stream::StreamInbox;

/// The exit status with which rsync itself refuses a command line.
const REFUSED: u32 = 1;

/// Reading needs less than writing, as the kernel lets a program that only reads change nothing.
const READS: Perms = Perms::LIST.and(Perms::DOWNLOAD);

/// Serves one copy. `writes` is what the user needs for a program that changes files.
pub(super) async fn run(
    channel: &Channel<StreamInbox>,
    session: &Session,
    programs: &Programs,
    words: &[Vec<u8>],
    writes: Perms,
) -> Result<(), End> {
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(refusal) => return refuse(channel, &refusal.to_string()).await,
    };
    let targets = match targets(&arguments) {
        Ok(targets) => targets,
        Err(Reason(reason)) => return refuse(channel, reason).await,
    };
    let (may, needs) = match rights(session, &arguments, &targets, programs.confine_files(), writes) {
        Ok(rights) => rights,
        Err(Reason(reason)) => return refuse(channel, reason).await,
    };
    if arguments.asks.makes_path && !arguments.sender {
        for target in &targets {
            make_parents(session, &target.path).await?;
        }
    }
    let program = Program {
        installed: programs.get(Needs::Rsync).ok_or(FsError::Unsupported)?,
        writes: changes(&arguments),
        adds: arguments.asks.adds,
        arguments: arguments.line(may).into_iter().map(OsString::from_vec).collect(),
        environment: Vec::new(),
    };
    child::run(channel, session, programs, program, &targets, needs).await
}

/// Why a command that can be read is not run.
#[derive(Debug, PartialEq, Eq)]
struct Reason(&'static str);

/// On standard error: on the other stream a client expects its protocol.
async fn refuse(channel: &Channel<StreamInbox>, reason: &str) -> Result<(), End> {
    channel.stderr(format!("rsync: refused: {reason}\n").into()).await?;
    Err(End::Exited(REFUSED))
}

/// Whether files of the user are changed.
fn changes(arguments: &Arguments) -> bool {
    !arguments.sender || arguments.asks.removes_sources
}

/// What the user may do besides copying, and what all of it needs. What is asked for here is asked for again
/// at the resolved paths, so no link leads to where less is allowed.
fn rights(
    session: &Session,
    arguments: &Arguments,
    targets: &[Target],
    confined: bool,
    writes: Perms,
) -> Result<(May, Perms), Reason> {
    if arguments.asks.follows_links.is_some() && !confined {
        return Err(Reason("links are not followed, because programs cannot be confined here"));
    }
    let rules = &session.current().permissions;
    let held = |perms: Perms| {
        targets.iter().all(|target| {
            rules.at(&target.path).contains(perms) && !rules.narrower_below(&target.path, perms)
        })
    };
    let may = May {
        link: held(Perms::CREATE_SYMLINKS),
        set_modes: held(Perms::CHMOD),
        set_times: held(Perms::CHTIMES),
    };
    if arguments.sender {
        let removes = if arguments.asks.removes_sources { Perms::DELETE } else { Perms::NONE };
        return Ok((may, READS.and(removes)));
    }
    if arguments.asks.acls && !may.set_modes {
        return Err(Reason("the option -A needs the permission chmod"));
    }
    if arguments.asks.access_times && !may.set_times {
        return Err(Reason("the option -U needs the permission chtimes"));
    }
    let mut needs = writes;
    for (may, perms) in
        [(may.link, Perms::CREATE_SYMLINKS), (may.set_modes, Perms::CHMOD), (may.set_times, Perms::CHTIMES)]
    {
        if may {
            needs = needs.and(perms);
        }
    }
    Ok((may, needs))
}

/// The paths of the command line.
fn targets(arguments: &Arguments) -> Result<Vec<Target>, Reason> {
    // With a list the path itself is where the names begin.
    let whole = arguments.sender && arguments.asks.relative && !arguments.asks.names_follow;
    arguments.paths.iter().map(|raw| target(raw, whole)).collect()
}

/// What a client's path means. One that ends with a slash, `.` or `..` is what is in a directory. Where
/// `whole` paths are sent, they begin after the first `/./`, else at the home directory; the program then
/// gets the directory where they begin.
fn target(raw: &[u8], whole: bool) -> Result<Target, Reason> {
    const UNUSABLE: Reason = Reason("the path cannot be used");
    // What the client's user expects a shell to expand.
    let raw = match raw {
        b"~" => b"/",
        raw => raw.strip_prefix(b"~/").unwrap_or(raw),
    };
    let path = VPath::parse(raw).map_err(|_| UNUSABLE)?;
    let last = raw.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let slash = path.is_root() || matches!(last, b"" | b"." | b"..");
    if !whole {
        return Ok(Target { path, slash, sent: None });
    }
    let marker = raw.windows(3).position(|window| window == b"/./");
    let start = VPath::parse(&raw[..marker.unwrap_or(0)]).map_err(|_| UNUSABLE)?;
    if !path.is_within(&start) {
        return Err(Reason("the path leads out of where it begins"));
    }
    let sent = path.components().skip(start.components().count()).collect::<Vec<_>>().join(&b'/');
    Ok(Target { path: start, slash, sent: Some(sent) })
}

/// Creates the directories above `path` that are missing, under the rules for any directory.
async fn make_parents(session: &Session, path: &VPath) -> Result<(), FsError> {
    let files = session.files(Protocol::Ssh);
    let mut missing = Vec::new();
    let mut above = path.parent();
    while let Some(dir) = above {
        match files.is_dir(&dir).await {
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
            // If it is no directory, creating what is below it fails.
            Ok(_) => break,
        }
        above = dir.parent();
        missing.push(dir);
    }
    for dir in missing.iter().rev() {
        match files.create_dir(dir).await {
            Ok(()) | Err(FsError::Exists) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(raw: &str, whole: bool) -> Result<String, Reason> {
        let target = target(raw.as_bytes(), whole)?;
        let sent = target.sent.map(|sent| format!(" {}", String::from_utf8_lossy(&sent)));
        let path = format!("{}{}", target.path, sent.unwrap_or_default());
        Ok(if target.slash && path != "/" { path + "/" } else { path })
    }

    #[test]
    fn a_path_keeps_its_meaning() {
        for (raw, want) in [
            ("a", "/a"),
            ("/a/b", "/a/b"),
            ("a/", "/a/"),
            ("a//b/", "/a/b/"),
            ("a/.", "/a/"),
            ("a/b/..", "/a/"),
            ("./-x", "/-x"),
            ("-x", "/-x"),
            (".", "/"),
            ("", "/"),
            ("/", "/"),
            ("~", "/"),
            ("~/a", "/a"),
            ("~a", "/~a"),
            ("../../etc/passwd", "/etc/passwd"),
            ("a b", "/a b"),
            ("*", "/*"),
            ("h:x", "/h:x"),
        ] {
            assert_eq!(shown(raw, false).as_deref(), Ok(want), "{raw}");
        }
        assert_eq!(shown("a\0b", false), Err(Reason("the path cannot be used")));
    }

    #[test]
    fn a_whole_path_is_sent_from_its_marker_on() {
        for (raw, want) in [
            ("a/b", "/ a/b"),
            ("/a/b/", "/ a/b/"),
            ("a/./b", "/a b"),
            ("/a/./b/./c/", "/a b/c/"),
            ("a/b/./", "/a/b /"),
            ("./a", "/ a"),
            (".", "/ /"),
            ("a/../b/./c", "/b c"),
        ] {
            assert_eq!(shown(raw, true).as_deref(), Ok(want), "{raw}");
        }
        assert_eq!(shown("a/./../b", true), Err(Reason("the path leads out of where it begins")));
    }
}
