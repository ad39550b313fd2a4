//! The `scp` command: the rcp protocol as OpenSSH's `scp.c` speaks it, in both directions.
//!
//! Here is what the command line means. The records are in `control`, the bytes between them in `wire`,
//! uploads in `sink`, downloads in `source`, wildcards in `glob`. Who may do what is decided at the door,
//! [`UserFs`]; how an upload takes its place, what it costs and what is logged are the business of
//! [`Transfer`](tidegate_core::Transfer).

mod control;
mod glob;
mod sink;
mod source;
mod wire;

use tidegate_core::UserFs;
use tidegate_vfs::{FsError, VPath};

use crate::channel::Channel;
use crate::command::End;
use crate::stream::StreamInbox;
use wire::Wire;

/// Why a name is neither taken nor sent: a line end in it would be a record of its own, and other control
/// characters play tricks on terminals.
const NOT_PLAIN: &str = "the name has control characters";

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Invocation {
    role: Role,
    /// `-r`: whole directories.
    recursive: bool,
    /// `-p`: modes and times.
    preserve: bool,
    /// `-d`: the target must be a directory.
    into_dir: bool,
    paths: Vec<Vec<u8>>,
}

/// Which end of the copy the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// `-f`: the client downloads.
    Source,
    /// `-t`: the client uploads.
    Sink,
}

/// Why a command line makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UsageError {
    #[error("unknown option -{0}")]
    Option(char),
    #[error("exactly one of -f and -t is needed")]
    Role,
    #[error("no file is named")]
    Path,
    #[error("ambiguous target")]
    Target,
}

impl Invocation {
    /// Options come first, alone or together (`-r -t`, `-rt`); `--` ends them.
    fn parse(arguments: &[Vec<u8>]) -> Result<Self, UsageError> {
        let (mut source, mut sink) = (false, false);
        let (mut recursive, mut preserve, mut into_dir) = (false, false, false);
        let mut rest = arguments;
        while let Some((word, after)) = rest.split_first() {
            let Some(letters) = word.strip_prefix(b"-").filter(|letters| !letters.is_empty()) else { break };
            rest = after;
            if letters == b"-" {
                break;
            }
            for letter in letters {
                match letter {
                    b'f' => source = true,
                    b't' => sink = true,
                    b'r' => recursive = true,
                    b'p' => preserve = true,
                    b'd' => into_dir = true,
                    // What clients say for the sake of their own end: verbose, quiet, batch, old protocol.
                    b'v' | b'q' | b'B' | b'C' | b'O' | b'T' | b'1' | b'2' | b'4' | b'6' => {}
                    letter => return Err(UsageError::Option(char::from(*letter))),
                }
            }
        }
        let role = match (source, sink) {
            (true, false) => Role::Source,
            (false, true) => Role::Sink,
            _ => return Err(UsageError::Role),
        };
        match (role, rest.len()) {
            (_, 0) => Err(UsageError::Path),
            (Role::Sink, 2..) => Err(UsageError::Target),
            _ => Ok(Self { role, recursive, preserve, into_dir, paths: rest.to_vec() }),
        }
    }
}

/// Runs `scp` with these arguments to its end.
pub(crate) async fn serve(
    channel: &Channel<StreamInbox>,
    fs: UserFs,
    arguments: &[Vec<u8>],
) -> Result<(), End> {
    let invocation = match Invocation::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) => {
            // No protocol was agreed on yet, so this is for people.
            channel.stderr(format!("scp: {error}\n").into()).await?;
            return Err(End::Told);
        }
    };
    let mut wire = Wire::new(channel);
    match invocation.role {
        Role::Source => source::run(&mut wire, &fs, &invocation).await?,
        Role::Sink => sink::run(&mut wire, &fs, &invocation).await?,
    }
    if wire.had_errors() { Err(End::Told) } else { Ok(()) }
}

/// The path that an argument names; `~`, which the client's user expects a shell to expand, is the home.
fn virtual_path(raw: &[u8]) -> Result<VPath, FsError> {
    VPath::parse(match raw {
        b"~" => b"/",
        raw => raw.strip_prefix(b"~/").unwrap_or(raw),
    })
}

/// Bytes per step of a transfer: `most`, or what a quarter of a second of the user's bandwidth carries, so
/// that slow transfers move steadily and end soon when they are told to.
fn step_bytes(kb_per_second: i64, most: usize) -> usize {
    match usize::try_from(kb_per_second) {
        Ok(rate @ 1..) => rate.saturating_mul(250).clamp(4096, most),
        _ => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, UsageError> {
        Invocation::parse(&line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_alone_and_together() {
        let sink = |recursive, preserve, into_dir, path: &str| {
            Ok(Invocation { role: Role::Sink, recursive, preserve, into_dir, paths: vec![path.into()] })
        };
        for (line, want) in [
            ("-t /a", sink(false, false, false, "/a")),
            ("-v -r -p -d -t /a", sink(true, true, true, "/a")),
            ("-rpdt /a", sink(true, true, true, "/a")),
            ("-rt -- -a", sink(true, false, false, "-a")),
            ("-t -", sink(false, false, false, "-")),
            ("-t ", sink(false, false, false, "")),
            ("-t /a /b", Err(UsageError::Target)),
            ("-t", Err(UsageError::Path)),
            ("-t --", Err(UsageError::Path)),
            ("-r /a", Err(UsageError::Role)),
            ("/a -t", Err(UsageError::Role)),
            ("-ft /a", Err(UsageError::Role)),
            ("-S /bin/sh -t /a", Err(UsageError::Option('S'))),
            ("-oProxyCommand=x -t /a", Err(UsageError::Option('o'))),
        ] {
            assert_eq!(parse(line), want, "{line}");
        }
        let source = parse("-pf a b").unwrap();
        assert_eq!((source.role, source.preserve, source.paths.len()), (Role::Source, true, 2));
    }

    #[test]
    fn a_tilde_is_the_home() {
        for (raw, want) in [("~", "/"), ("~/a", "/a"), ("", "/"), ("~a", "/~a"), ("a/~", "/a/~"), (".", "/")]
        {
            assert_eq!(virtual_path(raw.as_bytes()).unwrap().to_string(), want, "{raw}");
        }
    }

    #[test]
    fn slow_transfers_take_small_steps() {
        assert_eq!(step_bytes(0, 1 << 18), 1 << 18);
        assert_eq!(step_bytes(-1, 1 << 18), 1 << 18);
        assert_eq!(step_bytes(100, 1 << 18), 25_000);
        assert_eq!(step_bytes(1, 1 << 18), 4096);
        assert_eq!(step_bytes(i64::MAX, 1 << 18), 1 << 18);
    }
}
