//! The options of `rsync --server`, one row each: what a client may send, and why not the others.
//!
//! A table and the grammars of the values, nothing else; how a command line is read is in
//! [`arguments`](super::arguments). The rows are what clients really send: rsync 3.2.7 and 3.5.0 were
//! run with their options in both directions (`testdata/rsync-clients.tsv`), and openrsync's list was read.
//! What is not here is refused. Descriptions: `rsync(1)`.

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It may be used.
    Allowed(Value, Effect),
    /// It is refused, for this reason, which the client is told.
    Refused(&'static str),
}

/// What follows an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing.
    None,
    /// A whole number of at most ten digits, with or without a minus sign.
    Number,
    /// A number of bytes: `4096`, `1.5m`, `10MiB-1`.
    Size,
    /// A number of bytes that is not above one GiB and not zero, which means "no bound".
    Allocation,
    /// Names of algorithms: lower case, digits, `-`, separated by commas.
    Algorithms,
    /// Names of kinds of messages: upper case and digits, separated by commas.
    Messages,
    /// Suffixes of file names: letters, digits and the pattern's `[`, `]`, separated by slashes.
    Suffixes,
    /// A name that is appended to another: no slash.
    Suffix,
    /// A path below the directory that is written: relative, without `.` and `..`.
    PathBelow,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
}

/// What an option asks for beyond the copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Modes are set: left out for a user without `chmod`.
    Modes,
    /// Times are set: left out for a user without `chtimes`.
    Times,
    /// Access control lists come in the stream: needs `chmod` where files are written.
    Acls,
    /// Access times come in the stream: needs `chtimes` where files are written.
    AccessTimes,
    /// Sources are deleted: needs `delete` where files are read.
    RemovesSources,
    /// Links are followed, which is safe only where the kernel keeps the program inside.
    FollowsLinks,
    /// Whole paths are sent, not only their last part.
    Relative,
    /// Directories above the destination are created.
    MakesPath,
    /// A source need not exist.
    AllowsMissing,
    /// Unsafe links are left out.
    SafeLinks,
    /// Links are made unusable.
    MungesLinks,
    /// Files that are there are changed in place, so they grow beyond what is left of a quota.
    Adds,
    /// Only where files are read: names of files, below the path, follow in the stream.
    NamesFollow,
}

/// An option of one letter.
pub(crate) struct Short {
    /// The letter.
    pub(crate) letter: u8,
    /// What becomes of it.
    pub(crate) rule: Rule,
}

/// An option with a long name.
pub(crate) struct Long {
    /// The name, without the dashes.
    pub(crate) name: &'static str,
    /// What becomes of it.
    pub(crate) rule: Rule,
}

const fn flag(letter: u8) -> Short {
    Short { letter, rule: Rule::Allowed(Value::None, Effect::None) }
}

const fn effect(letter: u8, effect: Effect) -> Short {
    Short { letter, rule: Rule::Allowed(Value::None, effect) }
}

const fn number(letter: u8) -> Short {
    Short { letter, rule: Rule::Allowed(Value::Number, Effect::None) }
}

const fn refused(letter: u8, why: &'static str) -> Short {
    Short { letter, rule: Rule::Refused(why) }
}

/// The letters. `e`, which carries the client's capabilities and ends its word, is not among them.
pub(crate) const SHORT: &[Short] = &[
    flag(b'C'),                  // leave out what CVS would: from `.cvsignore` files of the tree
    flag(b'D'), // devices and special files: the kernel and `--no-super` let no device come into being
    flag(b'H'), // hard links, inside what is copied
    flag(b'I'), // compare even what looks the same
    flag(b'O'), // leave times of directories alone
    flag(b'J'), // leave times of links alone
    flag(b'S'), // sparse files
    flag(b'W'), // whole files
    flag(b'X'), // extended attributes: only `user.*`, because of `--no-super`
    flag(b'b'), // keep what is replaced, beside it
    flag(b'c'), // compare by checksum
    flag(b'd'), // directories without what is in them
    flag(b'g'), // groups: those that the process has, because of `--no-super`
    flag(b'l'), // links: see `--safe-links` and `--munge-links`
    flag(b'm'), // leave out empty directories
    flag(b'n'), // only try
    flag(b'o'), // owners: nothing, because of `--no-super`
    flag(b'q'), // quiet
    flag(b'r'), // directories with what is in them
    flag(b'u'), // leave what is newer alone
    flag(b'v'), // tell more
    flag(b'x'), // stay on one file system
    flag(b'y'), // find a similar file to start from, in the same directory
    flag(b'z'), // compress
    effect(b'A', Effect::Acls), // access control lists
    effect(b'E', Effect::Modes), // whether files may be executed
    effect(b'p', Effect::Modes),
    effect(b't', Effect::Times),
    effect(b'U', Effect::AccessTimes),
    effect(b'R', Effect::Relative),
    effect(b'K', Effect::FollowsLinks), // a link to a directory is a directory, where files are written
    effect(b'L', Effect::FollowsLinks), // a link is what it leads to
    effect(b'k', Effect::FollowsLinks), // a link to a directory is a directory, where files are read
    number(b'@'),                       // times differ only if by more than this
    number(b'B'),                       // size of blocks
    refused(b'N', "creation times cannot be kept"),
    refused(b'T', "temporary files stay beside the files that they become"),
    refused(b'f', "rules are read from the stream, not from the command line"),
    refused(b'M', "it is for the client's own use"),
    refused(b's', "the paths would be hidden in the stream; leave out --secluded-args (--protect-args)"),
];

const fn long(name: &'static str) -> Long {
    Long { name, rule: Rule::Allowed(Value::None, Effect::None) }
}

const fn takes(name: &'static str, value: Value) -> Long {
    Long { name, rule: Rule::Allowed(value, Effect::None) }
}

const fn does(name: &'static str, effect: Effect) -> Long {
    Long { name, rule: Rule::Allowed(Value::None, effect) }
}

const fn never(name: &'static str, why: &'static str) -> Long {
    Long { name, rule: Rule::Refused(why) }
}

const ELSEWHERE: &str = "it names a path beside the one that is copied";
const PROGRAM: &str = "it names a program";
const DAEMON: &str = "there is no rsync daemon here";
const OWNERS: &str = "owners are the server's";
const STREAM: &str = "rules are read from the stream, not from the command line";
const DEVICES: &str = "devices are not files";
const LOCAL: &str = "it is for the client's own use";

/// The long names.
pub(crate) const LONG: &[Long] = &[
    does("append", Effect::Adds), // twice for --append-verify
    takes("block-size", Value::Number),
    takes("bwlimit", Value::Size),
    takes("checksum-choice", Value::Algorithms),
    takes("checksum-seed", Value::Number),
    takes("compress-choice", Value::Algorithms),
    takes("compress-level", Value::Number),
    takes("compress-threads", Value::Number),
    does("copy-unsafe-links", Effect::FollowsLinks),
    takes("debug", Value::Messages),
    long("delay-updates"),
    long("delete"),
    long("delete-after"),
    long("delete-before"),
    long("delete-delay"),
    long("delete-during"),
    long("delete-excluded"),
    does("delete-missing-args", Effect::AllowsMissing),
    long("existing"),
    Long { name: "files-from", rule: Rule::Allowed(Value::OneOf(&["-"]), Effect::NamesFollow) },
    long("force"),
    long("from0"),
    long("fsync"),
    takes("iconv", Value::OneOf(&["utf-8", "utf8"])), // others need tables from outside
    long("ignore-errors"),
    long("ignore-existing"),
    does("ignore-missing-args", Effect::AllowsMissing),
    takes("info", Value::Messages),
    does("inplace", Effect::Adds),
    long("list-only"),
    takes("log-format", Value::OneOf(&["X", "%i", "%i%I", "%o"])), // no file: it marks what is reported
    takes("max-alloc", Value::Allocation),
    takes("max-delete", Value::Number),
    takes("max-size", Value::Size),
    takes("min-size", Value::Size),
    does("mkpath", Effect::MakesPath),
    takes("modify-window", Value::Number),
    long("msgs2stderr"),
    does("munge-links", Effect::MungesLinks),
    long("new-compress"),
    long("no-W"),
    long("no-implied-dirs"),
    long("no-msgs2stderr"),
    long("no-r"),
    long("no-relative"),
    long("no-specials"),
    long("numeric-ids"),
    long("old-compress"),
    long("open-noatime"),
    long("partial"),
    takes("partial-dir", Value::PathBelow),
    does("remove-sent-files", Effect::RemovesSources),
    does("remove-source-files", Effect::RemovesSources),
    does("safe-links", Effect::SafeLinks),
    long("size-only"),
    takes("skip-compress", Value::Suffixes),
    long("specials"),
    long("stats"),
    takes("suffix", Value::Suffix),
    takes("timeout", Value::Number),
    long("use-qsort"),
    never("address", DAEMON),
    never("backup-dir", ELSEWHERE),
    never("chmod", LOCAL),
    never("compare-dest", ELSEWHERE),
    never("config", DAEMON),
    never("confine-root", LOCAL),
    never("copy-as", OWNERS),
    never("copy-dest", ELSEWHERE),
    never("copy-devices", DEVICES),
    never("daemon", DAEMON),
    never("dparam", DAEMON),
    never("early-input", DAEMON),
    never("exclude", STREAM),
    never("exclude-from", ELSEWHERE),
    never("fake-super", OWNERS),
    never("filter", STREAM),
    never("groupmap", OWNERS),
    never("include", STREAM),
    never("include-from", ELSEWHERE),
    never("insecure-links", "links that lead elsewhere are not followed"),
    never("link-dest", ELSEWHERE),
    never("log-file", ELSEWHERE),
    never("log-file-format", "there is no log file"),
    never("no-munge-links", "it is decided by the permission create_symlinks"),
    never("no-safe-links", "it is decided by the permission create_symlinks"),
    never("only-write-batch", ELSEWHERE),
    never("password-file", ELSEWHERE),
    never("preallocate", "it takes room that no quota sees"),
    never("protect-args", "the paths would be hidden in the stream"),
    never("read-batch", ELSEWHERE),
    never("remote-option", LOCAL),
    never("rsh", PROGRAM),
    never("rsync-path", PROGRAM),
    never("secluded-args", "the paths would be hidden in the stream"),
    never("sockopts", DAEMON),
    never("super", OWNERS),
    never("temp-dir", ELSEWHERE),
    never("usermap", OWNERS),
    never("write-batch", ELSEWHERE),
    never("write-devices", DEVICES),
];

/// Bytes of a value that is not a number; more is not sent by anyone.
const MAX_VALUE_BYTES: usize = 1024;

impl Value {
    /// Whether `text` is such a value.
    pub(crate) fn accepts(self, text: &[u8]) -> bool {
        if text.len() > MAX_VALUE_BYTES {
            return false;
        }
        match self {
            Self::None => false,
            Self::Number => {
                let digits = text.strip_prefix(b"-").unwrap_or(text);
                (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
            }
            Self::Size => is_size(text),
            Self::Allocation => allocation(text).is_some_and(|bytes| (1..=1 << 30).contains(&bytes)),
            Self::Algorithms => {
                is_list(text, b',', |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                    && !text.starts_with(b"-")
            }
            Self::Messages => is_list(text, b',', |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()),
            Self::Suffixes => {
                is_list(text, b'/', |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'[' | b']'))
            }
            Self::Suffix => is_name(text),
            Self::PathBelow => text.split(|&byte| byte == b'/').all(is_name),
            Self::OneOf(words) => words.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(text)),
        }
    }

    /// What is expected, for the client.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::None => "no value",
            Self::Number => "a whole number",
            Self::Size => "a number of bytes",
            Self::Allocation => "a number of bytes up to 1G",
            Self::Algorithms => "names of algorithms",
            Self::Messages => "kinds of messages",
            Self::Suffixes => "suffixes separated by slashes",
            Self::Suffix => "a suffix without a slash",
            Self::PathBelow => "a path below the destination, without . and ..",
            Self::OneOf(&["-"]) => "- (the names come from the client)",
            Self::OneOf(&["utf-8", ..]) => "utf-8",
            Self::OneOf(_) => "one of rsync's own formats",
        }
    }
}

/// Parts that are not empty, of bytes that `is_part` accepts.
fn is_list(text: &[u8], separator: u8, is_part: impl Fn(u8) -> bool) -> bool {
    text.split(|&byte| byte == separator)
        .all(|part| !part.is_empty() && part.iter().all(|&byte| is_part(byte)))
}

/// A name of one file, or a part of it.
fn is_name(text: &[u8]) -> bool {
    !matches!(text, b"" | b"." | b"..")
        && text.len() <= 255
        && !text.iter().any(|&byte| byte == b'/' || byte < 0x20 || byte == 0x7f)
}

/// Digits, perhaps a fraction, perhaps a unit (`K` to `P`, perhaps followed by `B` or `iB`), perhaps `+1` or
/// `-1`.
fn is_size(text: &[u8]) -> bool {
    let text = text.strip_suffix(b"+1").or_else(|| text.strip_suffix(b"-1")).unwrap_or(text);
    let end = text.iter().position(u8::is_ascii_alphabetic).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = match number.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&number[..dot], &number[dot + 1..]),
        None => (number, &b""[..]),
    };
    let unit = unit.to_ascii_lowercase();
    let known = match unit.as_slice() {
        [] | [b'b'] => true,
        [first, rest @ ..] => b"kmgtp".contains(first) && matches!(rest, b"" | b"b" | b"ib"),
    };
    known
        && (1..=19).contains(&whole.len())
        && fraction.len() <= 6
        && whole.iter().chain(fraction).all(u8::is_ascii_digit)
}

/// The bytes that a size without fraction means.
fn allocation(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(u8::is_ascii_alphabetic).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if !is_size(text) {
        return None;
    }
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let shift = match unit.first().map(u8::to_ascii_lowercase) {
        None | Some(b'b') => 0,
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
