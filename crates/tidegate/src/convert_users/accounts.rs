//! The lines of passwd, shadow, group and pureftpd.passwd files, and how what is wrong with one is told.
//!
//! ```text
//! passwd, AuthUserFile   name:password:uid:gid:gecos:home:shell
//! shadow                 name:password:changed:min:max:warn:inactive:expire:
//! group, AuthGroupFile   name:password:gid:member,member
//! pureftpd.passwd        name:password:uid:gid:gecos:home/./start:upload:download:up ratio:down ratio:sessions:
//!                        files:bytes:allowed local:denied local:allowed clients:denied clients:times
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tidegate_core::password::{self, PasswordError};
use tidegate_core::{Filters, UserDraft};

/// Larger files are refused; a million accounts fit.
const MAX_FILE_BYTES: u64 = 128 << 20;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// Reads a whole file, which `option` names.
pub(super) fn read(path: &Path, option: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text));
    read.with_context(|| format!("cannot read {} ({option})", path.display()))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("{} ({option}) has more than {} MiB", path.display(), MAX_FILE_BYTES >> 20);
    }
    Ok(text)
}

/// The lines that say something, each with its place.
pub(super) fn lines<'a>(text: &'a [u8], file: &'a Path) -> impl Iterator<Item = (Place<'a>, &'a [u8])> {
    text.split(|&byte| byte == b'\n').enumerate().filter_map(move |(index, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let says_nothing = line.trim_ascii().is_empty() || line.starts_with(b"#");
        (!says_nothing).then_some((Place { file, line: index + 1 }, line))
    })
}

/// A line of a file.
pub(super) struct Place<'a> {
    file: &'a Path,
    line: usize,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// Tells what is left out or changed, and counts it. Never tells a hash.
pub(super) struct Report<'a> {
    strict: bool,
    skipped: usize,
    say: &'a mut dyn FnMut(&str),
}

impl<'a> Report<'a> {
    pub(super) fn new(strict: bool, say: &'a mut dyn FnMut(&str)) -> Self {
        Self { strict, skipped: 0, say }
    }

    /// Accounts and lines that were left out.
    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }

    pub(super) fn say(&mut self, warning: &str) {
        (self.say)(warning);
    }

    /// A line that cannot be used: a warning, or with `--strict` the end.
    pub(super) fn bad_line(&mut self, place: &Place<'_>, reason: &str) -> Result<()> {
        if self.strict {
            bail!("{place}: {reason}");
        }
        self.skipped += 1;
        self.say(&format!("{place}: line skipped: {reason}"));
        Ok(())
    }

    /// An account that is left out for what it is.
    pub(super) fn skip(&mut self, place: &Place<'_>, name: &str, reason: &str) {
        self.skipped += 1;
        self.say(&format!("{place}: user {name:?} skipped: {reason}"));
    }

    /// An account that is kept, but not quite as it was.
    pub(super) fn remark(&mut self, place: &Place<'_>, name: &str, remark: &str) {
        self.say(&format!("{place}: user {name:?}: {remark}"));
    }
}

/// What stands where a password's hash is expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Secret {
    /// A hash that the server can check.
    Hash(String),
    /// A hash behind a `!` or `*`: somebody locked the account.
    Locked,
    /// `!`, `*` and the like: there never was a password.
    NoPassword,
    /// Anyone could log in without one.
    Empty,
    /// `x`, and no shadow file says more.
    Elsewhere,
    /// A hash that the server cannot check, with the name of its kind.
    Unsupported(String),
    /// A hash that would cost too much.
    Excessive,
}

impl Secret {
    pub(super) fn classify(text: &str) -> Self {
        match text {
            "" => return Self::Empty,
            _ if text.starts_with(['!', '*']) => {
                let rest = text.trim_start_matches(['!', '*']);
                // Solaris writes *LK* and *NP*.
                let never = rest.is_empty() || matches!(text, "*NP*" | "*LK*");
                return if never { Self::NoPassword } else { Self::Locked };
            }
            _ => {}
        }
        match password::check_form(text) {
            Ok(()) => Self::Hash(text.to_owned()),
            Err(PasswordError::Excessive) => Self::Excessive,
            Err(_) => Self::Unsupported(kind(text)),
        }
    }

    /// What is wrong with it, as the end of "the account cannot be taken over as it is, because".
    pub(super) fn why(&self) -> String {
        match self {
            Self::Hash(_) => "its password can be checked".to_owned(),
            Self::Locked => "it is locked".to_owned(),
            Self::NoPassword => "it has no password".to_owned(),
            Self::Empty => "its password is empty".to_owned(),
            Self::Elsewhere => "no shadow file has its password (--shadow)".to_owned(),
            Self::Unsupported(kind) => format!("its password is {kind}, which cannot be checked"),
            Self::Excessive => "its password has parameters that cost too much to check".to_owned(),
        }
    }
}

/// The kind of a hash, for people. Says nothing of the hash itself.
fn kind(text: &str) -> String {
    let id = text.strip_prefix('$').and_then(|rest| rest.split_once('$')).map(|(id, _)| id);
    match id {
        Some(id)
            if !id.is_empty()
                && id.len() <= 20
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
        {
            if password::is_hashed(text) {
                format!("a damaged ${id}$ hash")
            } else {
                format!("a ${id}$ hash")
            }
        }
        _ if text.len() == 13 => "an old DES hash".to_owned(),
        _ => "of an unknown form".to_owned(),
    }
}

/// An account as its file describes it; the password is still whatever stands there.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) draft: UserDraft,
    /// What is not taken over.
    pub(super) remarks: Vec<String>,
}

impl Entry {
    /// A line of a passwd file, or of ProFTPD's AuthUserFile.
    pub(super) fn passwd(line: &[u8]) -> Result<Self, String> {
        let fields = fields(line);
        if line.starts_with(b"+") || line.starts_with(b"-") {
            return Err(
                "refers to accounts of another directory service, which are not in this file".to_owned()
            );
        }
        if fields.len() != 7 {
            return Err(format!(
                "has {} fields, expected 7: name:password:uid:gid:gecos:home:shell",
                fields.len()
            ));
        }
        Self::first_six(&fields)
    }

    /// A line of pureftpd.passwd.
    pub(super) fn pure_ftpd(line: &[u8]) -> Result<Self, String> {
        let fields = fields(line);
        if !(6..=18).contains(&fields.len()) {
            return Err(format!(
                "has {} fields, expected 18, from the name to the time restrictions",
                fields.len()
            ));
        }
        let mut entry = Self::first_six(&fields)?;
        let field = |index: usize| text(fields.get(index).copied().unwrap_or_default());
        let number = |index: usize, what: &str| match field(index)? {
            "" => Ok(0),
            digits => decimal(digits, i64::MAX).ok_or_else(|| not_a_number(what, digits)),
        };
        // Bytes per second there, KB/s here; less than one would mean no limit.
        let bandwidth = |index, what| Ok::<_, String>(number(index, what)?.saturating_add(1023) / 1024);
        let draft = &mut entry.draft;
        draft.upload_bandwidth = bandwidth(6, "upload bandwidth")?;
        draft.download_bandwidth = bandwidth(7, "download bandwidth")?;
        draft.max_sessions = number(10, "number of connections")?;
        draft.quota_files = number(11, "files quota")?;
        draft.quota_size = number(12, "size quota")?;
        draft.filters = Filters { allowed_ip: networks(field(15)?)?, denied_ip: networks(field(16)?)? };
        if let Some((home, start)) = draft.home_dir.clone().split_once("/./") {
            draft.home_dir = if home.is_empty() { "/".to_owned() } else { home.to_owned() };
            if !start.is_empty() {
                entry.remarks.push(format!("it starts in its home directory, no longer in {start:?}"));
            }
        } else {
            entry.remarks.push("it was not confined to its home directory, now it is".to_owned());
        }
        for (indexes, what) in [
            (8..10, "upload and download ratio"),
            (13..15, "allowed and refused local addresses"),
            (17..18, "time restrictions"),
        ] {
            if indexes.clone().any(|index| !matches!(fields.get(index).copied(), None | Some(b"" | b"0"))) {
                entry.remarks.push(format!("its {what} cannot be expressed and are left out"));
            }
        }
        Ok(entry)
    }

    fn first_six(fields: &[&[u8]]) -> Result<Self, String> {
        let [name, password, uid, gid, _gecos, home, ..] = fields else {
            return Err("has too few fields".to_owned());
        };
        let name = text(name)?;
        if name.is_empty() {
            return Err("has no name".to_owned());
        }
        if name.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return Err(format!("the name {name:?} has white space or control characters"));
        }
        let id = |bytes, what: &str| {
            let digits = text(bytes)?;
            decimal(digits, u32::MAX.into()).ok_or_else(|| not_a_number(what, digits))
        };
        let draft = UserDraft {
            username: name.to_owned(),
            password: std::str::from_utf8(password).map_err(|_| "the password is not UTF-8")?.to_owned(),
            uid: id(uid, "uid")?,
            gid: id(gid, "gid")?,
            home_dir: text(home)?.to_owned(),
            ..UserDraft::default()
        };
        Ok(Self { draft, remarks: Vec::new() })
    }
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    // A line of nothing but colons must not become a list of them all.
    line.splitn(64, |&byte| byte == b':').collect()
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| format!("{:?} is not UTF-8", String::from_utf8_lossy(bytes)))
}

/// In a line whose fields have moved, a hash may stand where a number should: it is not shown.
fn not_a_number(what: &str, found: &str) -> String {
    if found.len() > 20 || found.contains('$') {
        return format!("{what} is not a number");
    }
    format!("{what} is {found:?}, expected a number")
}

/// Digits only, at most `max`.
fn decimal(digits: &str, max: i64) -> Option<i64> {
    let only_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| only_digits && *number <= max)
}

/// Addresses and networks, separated by commas, in CIDR notation. One that cannot be expressed makes the
/// account unusable: without it a filter would let in more than before.
fn networks(list: &str) -> Result<Vec<String>, String> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let network = |part: &str| {
        let unknown = || format!("client address {part:?} is neither an address nor address/bits");
        let (address, bits) =
            part.split_once('/').map_or((part, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| unknown())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| decimal(bits, most)).ok_or_else(unknown)?;
        Ok(format!("{address}/{bits}"))
    };
    parts.map(network).collect()
}

/// A shadow file.
#[derive(Debug, Default)]
pub(super) struct Shadow(BTreeMap<String, ShadowEntry>);

#[derive(Debug)]
pub(super) struct ShadowEntry {
    pub(super) password: String,
    /// Milliseconds since 1970, 0 for never.
    pub(super) expiration_date: i64,
}

impl Shadow {
    pub(super) fn read(path: &Path, report: &mut Report<'_>) -> Result<Self> {
        let mut shadow = Self::default();
        for (place, line) in lines(&read(path, "--shadow")?, path) {
            match ShadowEntry::parse(line) {
                Ok((name, entry)) => {
                    shadow.0.entry(name).or_insert(entry);
                }
                Err(reason) => report.bad_line(&place, &reason)?,
            }
        }
        Ok(shadow)
    }

    pub(super) fn entry(&self, name: &str) -> Option<&ShadowEntry> {
        self.0.get(name)
    }
}

impl ShadowEntry {
    fn parse(line: &[u8]) -> Result<(String, Self), String> {
        let fields = fields(line);
        let [name, password, ..] = fields[..] else {
            return Err("has one field, expected name:password:…".to_owned());
        };
        // What is not UTF-8 here may be a hash: it is not shown.
        let utf8 = |bytes| std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned());
        let expire = utf8(fields.get(7).copied().unwrap_or_default())?;
        let days = match expire {
            "" => 0,
            days => decimal(days, u32::MAX.into()).ok_or_else(|| not_a_number("expiration day", days))?,
        };
        let entry = Self { password: utf8(password)?.to_owned(), expiration_date: days * MILLIS_PER_DAY };
        Ok((utf8(name)?.to_owned(), entry))
    }
}

/// A group file.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug)]
pub(super) struct Group {
    name: String,
    pub(super) gid: i64,
    pub(super) members: Vec<String>,
}

impl Groups {
    pub(super) fn read(path: &Path, report: &mut Report<'_>) -> Result<Self> {
        let mut groups = Vec::new();
        for (place, line) in lines(&read(path, "--group-file")?, path) {
            match Group::parse(line) {
                Ok(group) => groups.push(group),
                Err(reason) => report.bad_line(&place, &reason)?,
            }
        }
        Ok(Self(groups))
    }

    /// The group of that name, else that of that number.
    pub(super) fn find(&self, name: &str, gid: Option<i64>) -> Option<&Group> {
        let named = self.0.iter().find(|group| group.name == name && gid.is_none());
        named.or_else(|| self.0.iter().find(|group| Some(group.gid) == gid))
    }
}

impl Group {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let fields = fields(line);
        let [name, _password, gid, members] = fields[..] else {
            return Err(format!("has {} fields, expected 4: name:password:gid:members", fields.len()));
        };
        let gid = text(gid)?;
        Ok(Self {
            name: text(name)?.to_owned(),
            gid: decimal(gid, u32::MAX.into()).ok_or_else(|| not_a_number("gid", gid))?,
            members: text(members)?.split(',').map(|name| name.trim().to_owned()).collect(),
        })
    }
}
