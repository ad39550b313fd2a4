//! Backup and restore of accounts (`spec/rest-api.md` §4, dumpdata and loaddata): the order of the checks, and
//! the scans that follow a restore. The form of a dump is in `dump.rs`, its file in `backups.rs`, the rules of
//! restoring are core's.
//!
//! Both change something, so both are `POST`; `GET` stays for the clients that know nothing else, and is held
//! to the same rules where a browser sends it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use tidegate_core::{RestoreMode, RestoreOutcome, RestoreReport, ScanError};
use tidegate_vfs::FsError;
use tracing::{error, info, warn};

use super::dump::{self, BadDump, Unusable};
use super::query::Pairs;
use super::source::{self, Looked, MAX_DUMP_BYTES, Source};
use crate::auth::Visitor;
use crate::backups::{Backups, ReadError, Unfinished};
use crate::error::{ApiError, done, json};
use crate::state::Parts;

/// Users that are written to the disk at a time.
const BATCH: usize = 200;

/// The log tells how far a restore is this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// `GET` and `POST /api/v1/dumpdata`
pub(crate) async fn save(
    State(parts): State<Arc<Parts>>,
    State(backups): State<Arc<Backups>>,
    Extension(visitor): Extension<Visitor>,
    method: Method,
    headers: HeaderMap,
    query: Pairs,
) -> Result<Response, ApiError> {
    refuse_foreign_get(&method, &headers, &visitor)?;
    let name = query.first("output_file").unwrap_or_default().trim().to_owned();
    save_as(&parts, &backups, &name).await?;
    Ok(done("Data saved"))
}

/// Writes all accounts to the file `name` in the directory of backups.
pub(crate) async fn save_as(parts: &Parts, backups: &Backups, name: &str) -> Result<(), ApiError> {
    check_name(name)?;
    let _turn = backups.turn().await;
    let users = parts.accounts.backup().await?;
    let count = users.len();
    let mut file = backups.create(name).await.map_err(|error| cannot_save(name, error))?;
    match write(&mut file, users).await {
        Ok(size_bytes) => {
            info!(sender = "httpd", "backup of {count} users saved to {name:?}, {size_bytes} bytes");
            Ok(())
        }
        Err(error) => {
            file.discard().await;
            Err(cannot_save(name, error))
        }
    }
}

async fn write(file: &mut Unfinished, users: Vec<tidegate_core::User>) -> Result<u64, FsError> {
    let mut text = dump::BEGIN.to_vec();
    let mut rest = users.into_iter().peekable();
    while rest.peek().is_some() {
        for user in rest.by_ref().take(BATCH) {
            dump::write_user(&mut text, &user).map_err(std::io::Error::from)?;
            text.push(b',');
        }
        if rest.peek().is_none() {
            text.pop();
        }
        file.write(std::mem::take(&mut text)).await?;
    }
    text.extend_from_slice(dump::END);
    file.write(text).await?;
    file.finish().await
}

/// A relative path without `..` anywhere, as the reference demands.
fn check_name(name: &str) -> Result<(), ApiError> {
    let problem = match name {
        "" => "is mandatory",
        _ if name.contains("..") => "must not contain \"..\"",
        _ if Path::new(name).is_absolute() || name.starts_with(['/', '\\']) => {
            "must be relative to the backup directory"
        }
        _ if name.chars().any(char::is_control) => "must not contain control characters",
        _ => return Ok(()),
    };
    Err(ApiError::BadRequest(format!("output_file is {name:?}, it {problem}")))
}

/// A failure to write a backup; the log tells more.
pub(crate) fn cannot_save(name: &str, failure: FsError) -> ApiError {
    let refused = |why: &str| ApiError::BadRequest(format!("output_file is {name:?}, {why}"));
    match failure {
        FsError::IsDir => refused("which is no file"),
        FsError::NotDir => refused("a part of which is a file, not a directory"),
        FsError::Link | FsError::Outside => refused("which leads through a symbolic link"),
        FsError::InvalidPath(why) => refused(why),
        other => {
            error!(sender = "httpd", "backup {name:?} cannot be written: {}", other.detail());
            let short = match other {
                FsError::Denied => "permission denied",
                FsError::NoSpace => "no space left",
                _ => "the log says why",
            };
            ApiError::Internal(format!("the backup cannot be written: {short}"))
        }
    }
}

/// `GET` and `POST /api/v1/loaddata`
pub(crate) async fn load(
    State(parts): State<Arc<Parts>>,
    State(backups): State<Arc<Backups>>,
    Extension(visitor): Extension<Visitor>,
    method: Method,
    headers: HeaderMap,
    query: Pairs,
    body: Body,
) -> Result<Response, ApiError> {
    refuse_foreign_get(&method, &headers, &visitor)?;
    let scan: i64 = query.integer("scan_quota")?.unwrap_or(0);
    let mode = match query.integer("mode")? {
        Some(1) => RestoreMode::KeepExisting,
        _ => RestoreMode::Replace,
    };
    let name = query.first("input_file").unwrap_or_default().trim().to_owned();
    // The body of a GET means nothing (RFC 9110, §9.3.1).
    let text = if method == Method::POST { backups.receive(body).await? } else { Vec::new() };
    let has_body = !text.trim_ascii().is_empty();
    if query.first("input_file").is_some() && has_body {
        let both = "there are input_file and a body, only one of them can be the dump";
        return Err(ApiError::BadRequest(both.to_owned()));
    }
    let turn = backups.turn().await;
    let looked = if has_body {
        Source::text(text).look().await.map_err(|failure| unusable("the body", failure, |bad| bad.detail))?
    } else {
        if !Path::new(&name).is_absolute() || name.contains('\0') {
            return Err(no_input(&name));
        }
        let source = backups.open(Path::new(&name)).await.map_err(|error| cannot_load(&name, error))?;
        // What is in a file of the server is not told: nobody may have wanted to show it.
        let unusable = |failure| unusable(&format!("input_file {name:?}"), failure, |bad| bad.place);
        source.look().await.map_err(unusable)?
    };
    let report = restore(&parts, &backups, looked, mode, scan).await?;
    drop(turn);
    match report.failure {
        None => Ok(done("Data restored")),
        Some(failure) => Err(ApiError::Restore { failure, done: report.done.len() }),
    }
}

/// `GET /api/v1/loaddata/progress`
pub(crate) async fn progress(State(backups): State<Arc<Backups>>) -> Response {
    let (done, total) = backups.progress().unwrap_or_default();
    json(StatusCode::OK, &serde_json::json!({ "running": total > 0, "done": done, "total": total }))
}

fn no_input(name: &str) -> ApiError {
    ApiError::BadRequest(format!("input_file is {name:?}, it must be an absolute path"))
}

/// A failure to read `what` as a dump, of which `shown` is told.
pub(crate) fn unusable(what: &str, failure: Unusable, shown: fn(BadDump) -> String) -> ApiError {
    match failure {
        Unusable::Bad(bad) => {
            ApiError::NotADump { what: format!("{what} is not a dump of users"), why: shown(bad) }
        }
        Unusable::Io(error) => {
            error!(sender = "httpd", "{what} cannot be read: {error}");
            ApiError::Internal(format!("{what} cannot be read, the log says why"))
        }
    }
}

fn cannot_load(name: &str, failure: ReadError) -> ApiError {
    match failure {
        ReadError::Missing => ApiError::BadRequest(format!("input_file {name:?} does not exist")),
        ReadError::NotAFile => ApiError::BadRequest(format!("input_file {name:?} is not an ordinary file")),
        ReadError::TooLong(size_bytes) => ApiError::BadDump(format!(
            "input_file {name:?} has {size_bytes} bytes; outside of httpd.backups_path a dump may have \
             {MAX_DUMP_BYTES}"
        )),
        ReadError::Io(error) => {
            error!(sender = "httpd", "dump {name:?} cannot be read: {error}");
            ApiError::Internal(format!("input_file {name:?} cannot be read, the log says why"))
        }
    }
}

/// Restores the users of a dump that was looked at, then starts the scans that are asked for: of none (0), of all
/// that were stored (1), or of those with a quota (2). Call it when it is one's turn.
///
/// # Errors
/// The dump has changed since it was looked at.
pub(crate) async fn restore(
    parts: &Parts,
    backups: &Backups,
    looked: Looked,
    mode: RestoreMode,
    scan: i64,
) -> Result<RestoreReport, ApiError> {
    let running = backups.running(looked.count);
    let mut restoring = parts.accounts.restoring(mode);
    let (mut batches, reader) = looked.source.users();
    let (mut count, mut told) = (0, Instant::now());
    'dump: while let Some(batch) = batches.recv().await {
        for user in batch {
            if !restoring.next(user).await {
                break 'dump;
            }
            count += 1;
            running.done(count);
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            info!(sender = "httpd", "a dump is restored: {count} of {} users", looked.count);
        }
    }
    drop(batches);
    let read = reader.await.unwrap_or_else(|_| Err(source::ended()));
    let report = restoring.into_report();
    log(&report);
    if report.failure.is_none()
        && let Err(failure) = read
    {
        warn!(sender = "httpd", "the dump has changed while it was restored: {failure:?}");
        let done = report.done.len();
        return Err(ApiError::BadDump(format!(
            "the dump has changed while it was restored, after {done} users"
        )));
    }
    for user in &report.done {
        let wanted = match scan {
            1 => user.outcome != RestoreOutcome::Kept,
            2 => user.outcome != RestoreOutcome::Kept && user.has_quota,
            _ => false,
        };
        if wanted
            && let Err(error) = parts.sessions.scan(&user.username).await
            && !matches!(error, ScanError::Running)
        {
            warn!(sender = "httpd", "scan of user {:?} not started: {error}", user.username);
        }
    }
    Ok(report)
}

/// Tells what a restore has done.
fn log(report: &RestoreReport) {
    let [added, replaced, kept] =
        [RestoreOutcome::Added, RestoreOutcome::Replaced, RestoreOutcome::Kept].map(|one| report.count(one));
    info!(sender = "httpd", "dump restored: {added} users added, {replaced} replaced, {kept} kept");
    if let Some(failure) = &report.failure {
        let (index, username, error) = (failure.index, &failure.username, &failure.error);
        warn!(sender = "httpd", "the restore ended at user {index} of the dump, {username:?}: {error}");
    }
}

/// A link or an image on another web page makes a browser send a `GET` without asking, and without `Origin`.
fn refuse_foreign_get(method: &Method, headers: &HeaderMap, visitor: &Visitor) -> Result<(), ApiError> {
    let own = |site: &[u8]| matches!(site, b"same-origin" | b"none");
    let foreign = headers.get_all("sec-fetch-site").iter().any(|site| !own(site.as_bytes()));
    // A visitor with a token came with the cookie of the web pages, which browsers send by themselves.
    let by_itself = foreign || headers.contains_key("origin") || !visitor.csrf.is_empty();
    if *method == Method::GET && by_itself {
        return Err(ApiError::Forbidden("the request could come from another web site; use POST".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backups() {
        for name in ["a", "a.json", "dir/a.json", "./a", ".hidden", "ü <&> \u{202e}"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "/a", "\\a", "..", "a/../b", "a..json", "a\nb", "a\0b"] {
            assert!(matches!(check_name(name), Err(ApiError::BadRequest(_))), "{name}");
        }
    }
}
