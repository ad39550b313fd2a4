//! The command line that a client of rsync sends: read completely, or refused.
//!
//! ```text
//! rsync --server [--sender] -logDtpre.iLsfxCIvu [--long-option[=value]]… . path…
//! ```
//!
//! What comes out is not what came in: the line is written anew from the options that the table knows, so
//! that nothing reaches the program in a spelling that only the program understands. Nothing here looks at
//! files; the module stands alone to be fuzzed.

use super::options::{Effect, LONG, Rule, SHORT, Value};

/// Paths of one command.
pub(crate) const MAX_PATHS: usize = 256;

/// Options of one command; rsync's own clients send fewer than its options.
const MAX_OPTIONS: usize = 128;

/// Letters of one word; the longest that clients send has about thirty.
const MAX_LETTERS: usize = 64;

/// A command line that may be run once its paths are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Whether files are read here and sent to the client.
    pub(crate) sender: bool,
    /// The options, in the order of the client, each as one word.
    pub(crate) options: Vec<Vec<u8>>,
    /// The paths, at least one; exactly one where files are written.
    pub(crate) paths: Vec<Vec<u8>>,
    /// What the options ask for.
    pub(crate) asks: Asks,
}

/// What a command asks for beyond copying.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asks {
    /// The first option that follows links.
    pub(crate) follows_links: Option<String>,
    /// Access control lists are copied.
    pub(crate) acls: bool,
    /// Access times are copied.
    pub(crate) access_times: bool,
    /// Sources are deleted.
    pub(crate) removes_sources: bool,
    /// Files are changed in place.
    pub(crate) adds: bool,
    /// Whole paths are sent.
    pub(crate) relative: bool,
    /// Names of files, below the path, come in the stream.
    pub(crate) names_follow: bool,
    /// Directories above the destination are created.
    pub(crate) makes_path: bool,
    /// A source need not exist.
    pub(crate) allows_missing: bool,
    /// The client itself asks to leave unsafe links out.
    pub(crate) safe_links: bool,
    /// The client itself asks to make links unusable.
    pub(crate) munges_links: bool,
}

/// Why a command line is refused. Says which word, and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It does not begin as clients begin.
    #[error("only what rsync's own clients send is run: --server comes first")]
    NotServer,
    /// An option that is known and not accepted.
    #[error("the option {option} is refused: {why}")]
    Option {
        /// As the client wrote it.
        option: String,
        /// The reason in the table.
        why: &'static str,
    },
    /// An option that clients do not send.
    #[error("the option {0} is refused: it is not known here")]
    Unknown(String),
    /// An option where it does not belong.
    #[error("the option {0} is refused: it belongs to downloads")]
    Side(String),
    /// A value that the option does not take.
    #[error("the option {option} is refused: {expected} is expected, not {value:?}")]
    Value {
        /// As the client wrote it.
        option: String,
        /// Its value.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// Options without end.
    #[error("there are too many options")]
    TooManyOptions,
    /// No `.`, or nothing after it.
    #[error("a path is missing")]
    NoPath,
    /// More than can be written to.
    #[error("there can be one destination only; quote a name with spaces")]
    TwoDestinations,
    /// Sources without end.
    #[error("there are more than {MAX_PATHS} sources")]
    TooManyPaths,
}

impl Arguments {
    /// Reads the words after the name of the command.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: anything that is not in the table.
    pub(crate) fn parse(words: &[Vec<u8>]) -> Result<Self, Refusal> {
        let mut words = words.iter().map(Vec::as_slice).peekable();
        if words.next() != Some(b"--server") {
            return Err(Refusal::NotServer);
        }
        let mut read = Self { sender: words.next_if_eq(&&b"--sender"[..]).is_some(), ..Self::default() };
        loop {
            match words.next().ok_or(Refusal::NoPath)? {
                b"." => break,
                _ if read.options.len() == MAX_OPTIONS => return Err(Refusal::TooManyOptions),
                word => match word.strip_prefix(b"--") {
                    Some(long) => read.long(long, &mut words)?,
                    None => match word.strip_prefix(b"-") {
                        Some(letters) => read.short(letters)?,
                        // A path before the `.`, which clients always send.
                        None => return Err(Refusal::Unknown(shown(word))),
                    },
                },
            }
        }
        read.paths = words.map(<[u8]>::to_vec).collect();
        match read.paths.len() {
            0 => Err(Refusal::NoPath),
            2.. if !read.sender => Err(Refusal::TwoDestinations),
            count if count > MAX_PATHS => Err(Refusal::TooManyPaths),
            _ => Ok(read),
        }
    }

    /// `-logDtpre.iLsfxCIvu`, `-B700`.
    fn short(&mut self, letters: &[u8]) -> Result<(), Refusal> {
        let whole = || format!("-{}", shown(letters));
        if letters.is_empty() || letters.len() > MAX_LETTERS {
            return Err(Refusal::Unknown(whole()));
        }
        for (at, &letter) in letters.iter().enumerate() {
            let option = format!("-{}", shown(&[letter]));
            let rest = &letters[at + 1..];
            if letter == b'e' {
                // For a server the value is what the client can do; to a client it would be a program.
                if !is_capabilities(rest) {
                    let expected = "the client's capabilities";
                    return Err(Refusal::Value { option, value: shown(rest), expected });
                }
                break;
            }
            let row = SHORT.iter().find(|row| row.letter == letter);
            match row.ok_or_else(|| Refusal::Unknown(option.clone()))?.rule {
                Rule::Refused(why) => return Err(Refusal::Option { option, why }),
                Rule::Allowed(Value::None, effect) => self.asks.note(effect, option),
                Rule::Allowed(value, effect) => {
                    // A value takes the rest of the word; clients put such an option into a word of its own.
                    if at > 0 || !value.accepts(rest) {
                        let expected = value.expected();
                        return Err(Refusal::Value { option, value: shown(rest), expected });
                    }
                    self.asks.note(effect, option);
                    break;
                }
            }
        }
        self.options.push([b"-", letters].concat());
        Ok(())
    }

    /// `--name`, `--name=value`, or `--name` whose value is the next word.
    fn long<'a>(
        &mut self,
        word: &'a [u8],
        words: &mut impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Refusal> {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(equals) => (&word[..equals], Some(&word[equals + 1..])),
            None => (word, None),
        };
        let option = format!("--{}", shown(name));
        let row = LONG.iter().find(|row| row.name.as_bytes() == name);
        let (takes, effect) = match row.ok_or_else(|| Refusal::Unknown(option.clone()))?.rule {
            Rule::Refused(why) => return Err(Refusal::Option { option, why }),
            Rule::Allowed(takes, effect) => (takes, effect),
        };
        if effect == Effect::NamesFollow && !self.sender {
            return Err(Refusal::Side(option));
        }
        let mut canonical = [b"--", name].concat();
        let refusal = |value: &[u8]| {
            let expected = takes.expected();
            Refusal::Value { option: option.clone(), value: shown(value), expected }
        };
        if takes == Value::None {
            if let Some(value) = value {
                return Err(refusal(value));
            }
        } else {
            let value = value.or_else(|| words.next()).ok_or_else(|| refusal(b""))?;
            if !takes.accepts(value) {
                return Err(refusal(value));
            }
            canonical.push(b'=');
            canonical.extend_from_slice(value);
        }
        self.asks.note(effect, option);
        // They come first in the line that is run, see `Arguments::line`.
        if !matches!(effect, Effect::SafeLinks | Effect::MungesLinks) {
            self.options.push(canonical);
        }
        Ok(())
    }

    /// The words to run after the program's name, up to the `.` that the paths follow.
    ///
    /// Links that lead out of what is copied are left out if the user may create links, else all that arrive
    /// are made unusable (seed: `--safe-links`, `--munge-links`).
    pub(crate) fn line(&self, may: May) -> Vec<Vec<u8>> {
        let mut line: Vec<Vec<u8>> = Vec::with_capacity(self.options.len() + 7);
        let mut push = |word: &[u8]| line.push(word.to_vec());
        if may.link || self.asks.safe_links {
            push(b"--safe-links");
        }
        if !may.link || self.asks.munges_links {
            push(b"--munge-links");
        }
        // Nothing that only root may do: no owners, no devices, no attributes but the user's own.
        push(b"--no-super");
        push(b"--server");
        if self.sender {
            push(b"--sender");
        } else {
            // As over SFTP: set-user-id, set-group-id and sticky bits are not a client's to give.
            push(b"--chmod=ug-s,o-t");
        }
        for option in &self.options {
            match option.strip_prefix(b"-") {
                Some(letters) if !self.sender && !letters.starts_with(b"-") => {
                    let left = may.left_of(letters);
                    if !left.is_empty() {
                        push(&[b"-", &left[..]].concat());
                    }
                }
                _ => push(option),
            }
        }
        push(b".");
        line
    }
}

/// What the user may do at the paths, and everywhere below, besides copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct May {
    /// Create links.
    pub(crate) link: bool,
    /// Set modes.
    pub(crate) set_modes: bool,
    /// Set times.
    pub(crate) set_times: bool,
}

impl May {
    /// `letters` without those that only say what is set at the end. They do not change what is sent, so the
    /// client need not know.
    fn left_of(self, letters: &[u8]) -> Vec<u8> {
        let end = letters.iter().position(|letter| b"e@B".contains(letter)).unwrap_or(letters.len());
        let (flags, rest) = letters.split_at(end);
        let effect = |letter: u8| {
            SHORT.iter().find(|row| row.letter == letter).map_or(Effect::None, |row| match row.rule {
                Rule::Allowed(_, effect) => effect,
                Rule::Refused(_) => Effect::None,
            })
        };
        let stays = |letter: &&u8| match effect(**letter) {
            Effect::Modes => self.set_modes,
            Effect::Times => self.set_times,
            _ => true,
        };
        flags.iter().filter(stays).chain(rest).copied().collect()
    }
}

impl Asks {
    fn note(&mut self, effect: Effect, option: String) {
        match effect {
            Effect::None => {}
            // Looked at again when the line is written.
            Effect::Modes | Effect::Times => {}
            Effect::Acls => self.acls = true,
            Effect::AccessTimes => self.access_times = true,
            Effect::FollowsLinks => _ = self.follows_links.get_or_insert(option),
            Effect::RemovesSources => self.removes_sources = true,
            Effect::Adds => self.adds = true,
            Effect::Relative => self.relative = true,
            Effect::NamesFollow => self.names_follow = true,
            Effect::MakesPath => self.makes_path = true,
            Effect::AllowsMissing => self.allows_missing = true,
            Effect::SafeLinks => self.safe_links = true,
            Effect::MungesLinks => self.munges_links = true,
        }
    }
}

/// `.LsfxCIvu`, or `31.14iLsfx` from a version before its release.
fn is_capabilities(text: &[u8]) -> bool {
    let Some(dot) = text.iter().position(|&byte| byte == b'.') else { return false };
    let (version, rest) = (&text[..dot], &text[dot + 1..]);
    let letters = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    version.len() <= 3
        && version.iter().all(u8::is_ascii_digit)
        && letters <= 3
        && rest[letters..].iter().all(u8::is_ascii_alphabetic)
}

/// A word for the eyes of the client: short, and without what could play tricks on a terminal.
fn shown(word: &[u8]) -> String {
    const MAX_SHOWN_BYTES: usize = 64;
    let cut = &word[..word.len().min(MAX_SHOWN_BYTES)];
    String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
