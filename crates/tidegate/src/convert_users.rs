//! `tidegate convert-users`: accounts of the system, of ProFTPD or of Pure-FTPd → a dump that `loaddata`
//! takes (rest-api §5). Here are the flags and the order of the steps; `accounts` reads the files, `keys` the
//! authorized keys, `dump` writes the result. `docs/migration.md` is the guide.
//!
//! The files may be damaged or hostile: a line that cannot be used is named and left out, and what an
//! account could not do before, it can do after only if that was said aloud.

mod accounts;
mod dump;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tidegate_core::{InvalidUser, Perms, UserDraft, password};

use self::accounts::{Entry, Groups, Place, Report, Secret, Shadow};

/// Largest id that the server gives files to.
const MAX_OWNER_ID: i64 = 65_535;

/// The flags of `convert-users`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConvertArgs {
    /// What kind of file the accounts are in
    #[arg(short = 'F', long, value_enum, default_value_t = Format::UnixPasswd)]
    format: Format,

    /// File with the accounts: passwd, ProFTPD's AuthUserFile, or pureftpd.passwd
    ///
    /// With --format unix-passwd the default is /etc/passwd.
    #[arg(short = 'i', long, value_name = "FILE")]
    passwd: Option<PathBuf>,

    /// Shadow file with the passwords of a passwd file
    ///
    /// The default is /etc/shadow, unless --passwd is given: then there is none. Its expiration dates are
    /// taken over.
    #[arg(long, value_name = "FILE")]
    shadow: Option<PathBuf>,

    /// Group file, for --group
    ///
    /// Also ProFTPD's AuthGroupFile. With --format unix-passwd the default is /etc/group, unless --passwd is
    /// given: then there is none.
    #[arg(long, value_name = "FILE")]
    group_file: Option<PathBuf>,

    /// File to write, readable by its owner only; "-" is standard output
    ///
    /// It is written beside its place and renamed when it is complete, so a file of that name is replaced as
    /// a whole or not at all.
    #[arg(short = 'o', long, value_name = "FILE")]
    output: PathBuf,

    /// Leave out accounts with a lower user id
    ///
    /// [default: 1000 with --format unix-passwd, so that system accounts stay out; else 0]
    #[arg(long, value_name = "UID")]
    min_uid: Option<u32>,

    /// Leave out accounts with a higher user id
    #[arg(long, value_name = "UID")]
    max_uid: Option<u32>,

    /// Only these accounts, comma separated or repeated
    #[arg(short = 'u', long, value_name = "NAMES", value_delimiter = ',')]
    usernames: Vec<String>,

    /// Only members of these groups, by name or number, comma separated or repeated
    ///
    /// A group is somebody's own if it is the account's group id, or if the group file lists the account.
    #[arg(short = 'g', long, value_name = "GROUPS", value_delimiter = ',')]
    group: Vec<String>,

    /// Give all files to this user id, instead of each account's own; 0 is the account of the server
    #[arg(long, value_name = "UID")]
    force_uid: Option<u32>,

    /// Give all files to this group id, instead of each account's own; 0 is that of the server
    #[arg(long, value_name = "GID")]
    force_gid: Option<u32>,

    /// What the accounts may do in their home directory, comma separated or repeated; "*" means everything
    ///
    /// Any of list, download, upload, overwrite, delete, rename, create_dirs, create_symlinks, chmod, chown,
    /// chtimes.
    #[arg(short = 'p', long, value_name = "LIST", value_delimiter = ',', default_value = "*")]
    permissions: Vec<String>,

    /// Also take the keys in each account's .ssh/authorized_keys
    ///
    /// An account that never had a password is kept if it has a key. A key with options, such as command= or
    /// from=, is left out, because the options would have no effect.
    #[arg(long)]
    authorized_keys: bool,

    /// Keep accounts whose password cannot be taken over
    ///
    /// They get a random password that nobody knows, until you give them another. Without this they are
    /// skipped. Locked accounts are always skipped.
    #[arg(long)]
    keep_without_password: bool,

    /// Stop at a line that cannot be used, and write nothing
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// passwd, with shadow and group file
    UnixPasswd,
    /// AuthUserFile of ProFTPD
    Proftpd,
    /// pureftpd.passwd of Pure-FTPd
    PureFtpd,
}

/// Converts and writes, telling warnings and the result on standard error.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    let mut say = |warning: &str| eprintln!("tidegate: warning: {warning}");
    let conversion = convert(args, &mut say)?;
    if conversion.users.is_empty() {
        bail!("no account is left to write: {} were skipped, all others filtered out", conversion.skipped);
    }
    let text = dump::json(&conversion.users)?;
    if text.len() > dump::MAX_LOADDATA_BYTES {
        let hint = "put it into the server's httpd.backups_path to load it";
        say(&format!("the dump has {} bytes, more than the 10 MiB of a file elsewhere: {hint}", text.len()));
    }
    dump::write(&args.output, &text)?;
    eprintln!("tidegate: {} accounts written, {} skipped", conversion.users.len(), conversion.skipped);
    Ok(())
}

/// What became of the accounts.
#[derive(Debug)]
struct Conversion {
    users: Vec<UserDraft>,
    skipped: usize,
}

/// Reads, filters and checks the accounts; `say` is told every warning.
fn convert(args: &ConvertArgs, say: &mut dyn FnMut(&str)) -> Result<Conversion> {
    let files = Files::settle(args)?;
    let permissions = permissions(&args.permissions)?;
    let mut report = Report::new(args.strict, say);
    let shadow = match &files.shadow {
        Some(path) => Shadow::read(path, &mut report)?,
        None => Shadow::default(),
    };
    let groups = match &files.groups {
        Some(path) if !args.group.is_empty() => Groups::read(path, &mut report)?,
        _ => Groups::default(),
    };
    let filter = Filter::new(args, &groups)?;
    let mut seen = BTreeSet::new();
    let mut users = Vec::new();
    for (place, line) in accounts::lines(&accounts::read(&files.passwd, "--passwd")?, &files.passwd) {
        let parsed = match args.format {
            Format::UnixPasswd | Format::Proftpd => Entry::passwd(line),
            Format::PureFtpd => Entry::pure_ftpd(line),
        };
        let entry = match parsed {
            Ok(entry) if !seen.insert(entry.draft.username.clone()) => {
                report.bad_line(
                    &place,
                    &format!("{:?} has an earlier line, which counts", entry.draft.username),
                )?;
                continue;
            }
            Ok(entry) => entry,
            Err(reason) => {
                report.bad_line(&place, &reason)?;
                continue;
            }
        };
        if !filter.admits(&entry.draft) {
            if args.usernames.contains(&entry.draft.username) {
                let reason = "it is one of --usernames, but its uid or group is filtered out";
                report.skip(&place, &entry.draft.username, reason);
            }
        } else {
            let entry =
                Entry { draft: UserDraft { permissions: permissions.clone(), ..entry.draft }, ..entry };
            users.extend(finish(args, &shadow, &place, entry, &mut report)?);
        }
    }
    for name in args.usernames.iter().filter(|name| !seen.contains(*name)) {
        report.say(&format!("--usernames: {} has no account {name:?}", files.passwd.display()));
    }
    Ok(Conversion { users, skipped: report.skipped() })
}

/// Which file is read for what.
struct Files {
    passwd: PathBuf,
    shadow: Option<PathBuf>,
    groups: Option<PathBuf>,
}

impl Files {
    /// The system's own files belong together: with another passwd file none of them is assumed.
    fn settle(args: &ConvertArgs) -> Result<Self> {
        let unix = args.format == Format::UnixPasswd;
        if let (false, Some(shadow)) = (unix, &args.shadow) {
            bail!("--shadow is {shadow:?}, but only --format unix-passwd has a shadow file");
        }
        if let (false, true) = (unix, args.authorized_keys) {
            bail!("--authorized-keys needs --format unix-passwd: other accounts have no such file");
        }
        match &args.passwd {
            Some(passwd) => Ok(Self {
                passwd: passwd.clone(),
                shadow: args.shadow.clone(),
                groups: args.group_file.clone(),
            }),
            None if unix => {
                let or =
                    |file: &Option<PathBuf>, default| Some(file.clone().unwrap_or(PathBuf::from(default)));
                Ok(Self {
                    passwd: "/etc/passwd".into(),
                    shadow: or(&args.shadow, "/etc/shadow"),
                    groups: or(&args.group_file, "/etc/group"),
                })
            }
            None => bail!("--passwd is missing: with this --format there is no usual place of the accounts"),
        }
    }
}

/// The permissions of every account, checked once so that a typing error is not told for each.
fn permissions(tokens: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    if let Some(wrong) = tokens.iter().find(|token| Perms::from_token(token).is_none()) {
        bail!("--permissions has {wrong:?}, expected \"*\" or any of list, download, upload, …: see --help");
    }
    if tokens.is_empty() {
        bail!("--permissions is empty, expected \"*\" or any of list, download, upload, …: see --help");
    }
    Ok(BTreeMap::from([("/".to_owned(), tokens.to_vec())]))
}

/// Who is asked for.
struct Filter<'a> {
    uids: std::ops::RangeInclusive<i64>,
    usernames: BTreeSet<&'a str>,
    /// `None` admits every group.
    groups: Option<(BTreeSet<i64>, BTreeSet<&'a str>)>,
}

impl<'a> Filter<'a> {
    fn new(args: &'a ConvertArgs, groups: &'a Groups) -> Result<Self> {
        let usual = if args.format == Format::UnixPasswd { 1000 } else { 0 };
        let (min, max) = (args.min_uid.unwrap_or(usual), args.max_uid.unwrap_or(u32::MAX));
        if min > max {
            bail!("--max-uid is {max}, which is below --min-uid, {min}");
        }
        let mut wanted = (BTreeSet::new(), BTreeSet::new());
        for group in &args.group {
            let number = group.parse::<u32>().ok().map(i64::from);
            let found = groups.find(group, number);
            let Some(gid) = number.or(found.map(|group| group.gid)) else {
                bail!("--group is {group:?}, which is not in the group file (--group-file) and not a number");
            };
            wanted.0.insert(gid);
            wanted.1.extend(found.iter().flat_map(|group| group.members.iter().map(String::as_str)));
        }
        Ok(Self {
            uids: i64::from(min)..=i64::from(max),
            usernames: args.usernames.iter().map(String::as_str).collect(),
            groups: (!args.group.is_empty()).then_some(wanted),
        })
    }

    fn admits(&self, draft: &UserDraft) -> bool {
        let name = draft.username.as_str();
        self.uids.contains(&draft.uid)
            && (self.usernames.is_empty() || self.usernames.contains(name))
            && self
                .groups
                .as_ref()
                .is_none_or(|(ids, names)| ids.contains(&draft.gid) || names.contains(name))
    }
}

/// Gives an account its password, keys and owner, and checks it as the server will. `None` if it is skipped.
fn finish(
    args: &ConvertArgs,
    shadow: &Shadow,
    place: &Place<'_>,
    mut entry: Entry,
    report: &mut Report<'_>,
) -> Result<Option<UserDraft>> {
    let name = entry.draft.username.clone();
    if args.authorized_keys {
        let (keys, remarks) = keys::of(Path::new(&entry.draft.home_dir));
        entry.draft.public_keys = keys;
        entry.remarks.extend(remarks);
    }
    let secret = match entry.draft.password.as_str() {
        "x" => {
            let stored = shadow.entry(&name);
            entry.draft.expiration_date = stored.map_or(0, |stored| stored.expiration_date);
            stored.map_or(Secret::Elsewhere, |stored| Secret::classify(&stored.password))
        }
        text => Secret::classify(text),
    };
    let has_key = !entry.draft.public_keys.is_empty();
    entry.draft.password = match secret {
        Secret::Hash(hash) => hash,
        Secret::Locked => {
            report.skip(place, &name, "the account is locked");
            return Ok(None);
        }
        Secret::NoPassword if has_key => String::new(),
        Secret::NoPassword => {
            report.skip(place, &name, "it cannot log in with a password");
            return Ok(None);
        }
        other => {
            let why = other.why();
            if has_key {
                entry.remarks.push(format!("{why}: it can log in with its keys only"));
                String::new()
            } else if args.keep_without_password {
                entry
                    .remarks
                    .push(format!("{why}: it gets a random one and cannot log in until you set another"));
                password::unusable()?
            } else {
                report.skip(place, &name, &format!("{why} (--keep-without-password keeps it)"));
                return Ok(None);
            }
        }
    };
    own(args, &mut entry);
    entry.draft.status = 1;
    match entry.draft.validate(None) {
        Ok(user) if user.home_dir.parent().is_none() => {
            report.skip(
                place,
                &name,
                "its home directory is /, in which it could read every file of the system",
            );
            Ok(None)
        }
        Ok(user) => {
            for remark in &entry.remarks {
                report.remark(place, &name, remark);
            }
            Ok(Some(UserDraft::from(&user)))
        }
        Err(InvalidUser { field, reason }) => {
            report.bad_line(place, &format!("user {name:?}: {field}: {reason}"))?;
            Ok(None)
        }
    }
}

/// Settles whom the files will belong to.
fn own(args: &ConvertArgs, entry: &mut Entry) {
    let mut settle = |what: &str, id: &mut i64, forced: Option<u32>| match forced {
        Some(forced) => *id = forced.into(),
        None if *id == 0 => entry
            .remarks
            .push(format!("its {what} is 0: files will belong to the account that runs the server")),
        None if *id > MAX_OWNER_ID => {
            entry.remarks.push(format!(
                "its {what} is {id}, above {MAX_OWNER_ID}: files will belong to the account that runs the server"
            ));
        }
        None => {}
    };
    settle("uid", &mut entry.draft.uid, args.force_uid);
    settle("gid", &mut entry.draft.gid, args.force_gid);
}
