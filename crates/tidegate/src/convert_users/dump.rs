//! The dump: `{"users":[…]}` with the user objects of the REST API (rest-api §3), password hashes included,
//! and how it gets to its place.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tidegate_core::UserDraft;

/// Larger dumps are refused by `loaddata`, unless they lie in the server's `httpd.backups_path`.
pub(super) const MAX_LOADDATA_BYTES: usize = 10 << 20;

#[derive(Serialize)]
struct UserJson<'a> {
    id: i64,
    status: i64,
    username: &'a str,
    expiration_date: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    password: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    public_keys: &'a [String],
    home_dir: &'a str,
    uid: i64,
    gid: i64,
    max_sessions: i64,
    quota_size: i64,
    quota_files: i64,
    permissions: &'a BTreeMap<String, Vec<String>>,
    used_quota_size: i64,
    used_quota_files: i64,
    last_quota_update: i64,
    upload_bandwidth: i64,
    download_bandwidth: i64,
    last_login: i64,
    filters: FiltersJson<'a>,
}

#[derive(Serialize)]
struct FiltersJson<'a> {
    allowed_ip: &'a [String],
    denied_ip: &'a [String],
}

impl<'a> From<&'a UserDraft> for UserJson<'a> {
    fn from(user: &'a UserDraft) -> Self {
        Self {
            id: user.id,
            status: user.status,
            username: &user.username,
            expiration_date: user.expiration_date,
            password: &user.password,
            public_keys: &user.public_keys,
            home_dir: &user.home_dir,
            uid: user.uid,
            gid: user.gid,
            max_sessions: user.max_sessions,
            quota_size: user.quota_size,
            quota_files: user.quota_files,
            permissions: &user.permissions,
            used_quota_size: user.used_quota_size,
            used_quota_files: user.used_quota_files,
            last_quota_update: user.last_quota_update,
            upload_bandwidth: user.upload_bandwidth,
            download_bandwidth: user.download_bandwidth,
            last_login: user.last_login,
            filters: FiltersJson { allowed_ip: &user.filters.allowed_ip, denied_ip: &user.filters.denied_ip },
        }
    }
}

/// The dump as text, one account on each line.
pub(super) fn json(users: &[UserDraft]) -> Result<Vec<u8>> {
    let mut text = b"{\"users\":[".to_vec();
    for (index, user) in users.iter().enumerate() {
        text.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        serde_json::to_writer(&mut text, &UserJson::from(user)).context("cannot write a user as JSON")?;
    }
    text.extend_from_slice(b"\n]}\n");
    Ok(text)
}

/// Puts `text` at `path` as a whole, for the eyes of the owner only; `-` is standard output.
pub(super) fn write(path: &Path, text: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return out.write_all(text).and_then(|()| out.flush()).context("cannot write to standard output");
    }
    let wrong = || format!("cannot write {} (--output)", path.display());
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => bail!("{}: it exists and is not an ordinary file", wrong()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(wrong),
        _ => {}
    }
    let Some(name) = path.file_name() else { bail!("{}: it is not the name of a file", wrong()) };
    let mut unfinished = name.to_owned();
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let unfinished = path.with_file_name(unfinished);
    let written = create(&unfinished)
        .and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&unfinished, path));
    if written.as_ref().is_err_and(|error| error.kind() != ErrorKind::AlreadyExists) {
        // It is ours and of no use; that it cannot be removed is not the error to tell.
        let _ = std::fs::remove_file(&unfinished);
    }
    written.with_context(wrong)
}

fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
