//! `/web/backup`: the dumps in `httpd.backups_path`, making one, and restoring one after a look at what it would
//! change. A dump is never sent to the browser: it holds password hashes.
//!
//! What is restored is what was looked at: the form carries a digest of the file, and another content is shown
//! anew. A file that is sent here is put beside the others first, if it is a dump at all, so that there is one
//! road to a restore, with and without scripts.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use minijinja::{Value, context};
use tidegate_core::{RestoreMode, RestoreOutcome, RestorePreview, UnixMillis};
use tracing::info;

use crate::api::backup::{self as api, cannot_save, save_as, unusable};
use crate::api::dump::Unusable;
use crate::api::source::{self, Looked, Source};
use crate::backups::{Backups, ReadError};
use crate::error::ApiError;
use crate::state::Parts;
use crate::web::files::{self, BackupFile};
use crate::web::forms::{Form, encode};
use crate::web::pages::{View, see_other};
use crate::web::text;

/// Names on the page of each kind; more are only counted.
const MOST_NAMES: usize = 200;

/// `GET /web/backup`
pub(crate) async fn page(State(backups): State<Arc<Backups>>, view: View, uri: Uri) -> Response {
    let query = Form::parse(uri.query().unwrap_or_default().as_bytes()).unwrap_or_default();
    let list = files::list(backups.dir()).await;
    // Only a name that is there is repeated, so a link cannot put words into the page.
    let saved = query.first("saved").filter(|name| list.files.iter().any(|file| file.name == *name));
    show(&view, &backups, &list, &proposed_name(), saved, None)
}

fn show(
    view: &View,
    backups: &Backups,
    list: &files::Listing,
    name: &str,
    saved: Option<&str>,
    problem: Option<&str>,
) -> Response {
    let context = context! {
        title => "Backup",
        active => "backup",
        dir => backups.dir().display().to_string(),
        files => list.files.iter().map(file).collect::<Vec<_>>(),
        hidden => list.hidden,
        failure => list.failure.clone(),
        name,
        saved,
        problem,
    };
    view.render("backup.html", context)
}

fn file(file: &BackupFile) -> Value {
    context! {
        name => file.name.clone(),
        address => encode(&file.name),
        size => file.size_bytes,
        modified => file.modified,
    }
}

/// `POST /web/backup/save`
pub(crate) async fn save(
    State(parts): State<Arc<Parts>>,
    State(backups): State<Arc<Backups>>,
    view: View,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let form = Form::read(&headers, body).await.map_err(|failure| failed(&view, failure))?;
    let name = form.text("name").trim();
    let is_hidden = |part: &str| part.starts_with('.') && !matches!(part, "." | "..");
    let problem = if name.split('/').any(is_hidden) {
        "a name must not begin with a dot: this list does not show such files".to_owned()
    } else {
        match save_as(&parts, &backups, name).await {
            Ok(()) => return Ok(see_other(&format!("/web/backup?saved={}", encode(name)))),
            Err(failure) => words(failure).1,
        }
    };
    let list = files::list(backups.dir()).await;
    Ok(show(&view, &backups, &list, name, None, Some(&problem)))
}

/// `POST /web/backup/upload`: a dump from the visitor's machine, as `multipart/form-data` with the token first.
pub(crate) async fn upload(State(backups): State<Arc<Backups>>, view: View, request: Request) -> Response {
    match receive(&backups, &view, request).await {
        Ok(name) => see_other(&format!("/web/backup/restore?file={}", encode(&name))),
        Err(failure) => failed(&view, failure),
    }
}

async fn receive(backups: &Backups, view: &View, request: Request) -> Result<String, ApiError> {
    let (head, body) = request.into_parts();
    let text = backups.receive(body).await?;
    let request = Request::from_parts(head, Body::from(text));
    let bad = |what: &str| ApiError::BadRequest(what.to_owned());
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| bad("the form is not valid"))?;
    let mut token = None;
    while let Some(field) = form.next_field().await.map_err(|_| bad("the form is not valid"))? {
        let name = field.name().unwrap_or_default().to_owned();
        let content = field.bytes().await.map_err(|_| bad("the form ends early"))?;
        if token.is_none() {
            let sent = if name == "_csrf" { std::str::from_utf8(&content).unwrap_or_default() } else { "" };
            view.visitor.check_csrf(sent)?;
            token = Some(());
        } else if name == "file" {
            return keep(backups, &content).await;
        }
    }
    Err(bad("no file was chosen"))
}

/// Puts a dump that was sent beside the others.
async fn keep(backups: &Backups, content: &[u8]) -> Result<String, ApiError> {
    if content.is_empty() {
        return Err(ApiError::BadRequest("no file was chosen, or it is empty".to_owned()));
    }
    let _turn = backups.turn().await;
    let looked = Source::text(content.to_vec()).look().await;
    looked.map_err(|failure| unusable("the file", failure, |bad| bad.detail))?;
    let name = format!("uploaded-{}.json", stamp((tidegate_core::system_clock())()));
    let mut file = backups.create(&name).await.map_err(|failure| cannot_save(&name, failure))?;
    let written = async {
        file.write(content.to_vec()).await?;
        file.finish().await
    };
    if let Err(failure) = written.await {
        file.discard().await;
        return Err(cannot_save(&name, failure));
    }
    info!(sender = "httpd", "dump {name:?} received over the web pages, {} bytes", content.len());
    Ok(name)
}

/// `GET /web/backup/restore`: what restoring this file would change.
pub(crate) async fn preview(
    State(parts): State<Arc<Parts>>,
    State(backups): State<Arc<Backups>>,
    view: View,
    uri: Uri,
) -> Result<Response, Response> {
    let query = Form::parse(uri.query().unwrap_or_default().as_bytes()).unwrap_or_default();
    let _turn = backups.turn().await;
    let chosen =
        Chosen::look(&backups, query.text("file")).await.map_err(|failure| failed(&view, failure))?;
    Ok(chosen.show(&parts, &view, false).await)
}

/// `POST /web/backup/restore`
pub(crate) async fn restore(
    State(parts): State<Arc<Parts>>,
    State(backups): State<Arc<Backups>>,
    view: View,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let refuse = |failure| failed(&view, failure);
    let form = Form::read(&headers, body).await.map_err(refuse)?;
    let mode = match form.text("mode") {
        "1" => RestoreMode::KeepExisting,
        _ => RestoreMode::Replace,
    };
    let scan = match form.text("scan_quota") {
        "1" => 1,
        "2" => 2,
        _ => 0,
    };
    let _turn = backups.turn().await;
    let chosen = Chosen::look(&backups, form.text("file")).await.map_err(refuse)?;
    if chosen.looked.digest != form.text("digest") {
        return Ok(chosen.show(&parts, &view, true).await);
    }
    let by = view.visitor.name.as_deref().unwrap_or("an administrator");
    info!(sender = "httpd", "dump {:?} is restored by {by:?} on the web pages", chosen.name);
    let report = api::restore(&parts, &backups, chosen.looked, mode, scan).await.map_err(refuse)?;
    let failure = report.failure.as_ref().map(|failure| {
        let (_, problem) = words(ApiError::Account(failure.error.clone()));
        context! { index => failure.index, username => failure.username.clone(), problem }
    });
    let context = context! {
        title => "Restored",
        active => "backup",
        file => chosen.name,
        added => report.count(RestoreOutcome::Added),
        replaced => report.count(RestoreOutcome::Replaced),
        kept => report.count(RestoreOutcome::Kept),
        scans => scan > 0,
        failure,
    };
    Ok(view.render("restored.html", context))
}

/// A dump that was chosen from the list.
struct Chosen {
    name: String,
    looked: Looked,
}

impl Chosen {
    /// Looks at one of the files in the list.
    async fn look(backups: &Backups, name: &str) -> Result<Self, ApiError> {
        let missing = || ApiError::BadRequest(format!("there is no backup {name:?}"));
        let list = files::list(backups.dir()).await;
        if !list.files.iter().any(|file| file.name == name) {
            return Err(missing());
        }
        let what = format!("the backup {name:?}");
        let source =
            backups.open(&backups.dir().join(Path::new(name))).await.map_err(|failure| match failure {
                // Links out of the directory are not in the list.
                ReadError::Missing | ReadError::NotAFile | ReadError::TooLong(_) => missing(),
                ReadError::Io(cause) => unusable(&what, Unusable::Io(cause), |bad| bad.detail),
            })?;
        let looked = source.look().await.map_err(|failure| unusable(&what, failure, |bad| bad.detail))?;
        Ok(Self { name: name.to_owned(), looked })
    }

    async fn show(self, parts: &Parts, view: &View, changed: bool) -> Response {
        let Looked { source, count, digest } = self.looked;
        let preview = match preview_of(parts, source).await {
            Ok(preview) => preview,
            Err(failure) => return failed(view, failure),
        };
        let context = context! {
            title => "Restore",
            active => "backup",
            file => self.name,
            digest,
            count,
            changed_meanwhile => changed,
            ..contents(&preview)
        };
        view.render("restore.html", context)
    }
}

async fn preview_of(parts: &Parts, source: Source) -> Result<RestorePreview, ApiError> {
    let mut preview = parts.accounts.previewing()?;
    let (mut batches, reader) = source.users();
    while let Some(batch) = batches.recv().await {
        preview.add(batch).await?;
    }
    drop(batches);
    let read = reader.await.unwrap_or_else(|_| Err(source::ended()));
    read.map_err(|failure| unusable("the backup", failure, |bad| bad.detail))?;
    Ok(preview.into_preview())
}

/// The four kinds of users of a dump, each with the first of its names.
fn contents(preview: &RestorePreview) -> Value {
    let plain = |names: &[String]| {
        let shown = names.iter().take(MOST_NAMES).map(|name| context! { username => name });
        kind(shown.collect(), names.len())
    };
    let changed = preview.changed.iter().take(MOST_NAMES).map(|user| {
        let fields: Vec<_> = user.fields.iter().map(|field| field_name(field)).collect();
        context! { username => user.username.clone(), fields }
    });
    let invalid = preview.invalid.iter().take(MOST_NAMES).map(|user| {
        context! { username => user.username.clone(), index => user.index, problem => user.problem.to_string() }
    });
    context! {
        added => plain(&preview.added),
        changed => kind(changed.collect(), preview.changed.len()),
        unchanged => plain(&preview.unchanged),
        invalid => kind(invalid.collect(), preview.invalid.len()),
    }
}

fn kind(shown: Vec<Value>, count: usize) -> Value {
    let more = count - shown.len();
    context! { users => shown, count, more }
}

/// A setting as the user form calls it.
fn field_name(field: &str) -> &str {
    match field {
        "expiration_date" => "expiration",
        "public_keys" => "public keys",
        "home_dir" => "home directory",
        "uid" => "user id",
        "gid" => "group id",
        "max_sessions" => "sessions",
        "quota_size" => "quota (size)",
        "quota_files" => "quota (files)",
        "upload_bandwidth" => "upload speed",
        "download_bandwidth" => "download speed",
        "filters" => "addresses",
        other => other,
    }
}

/// A name that says when.
fn proposed_name() -> String {
    format!("backup-{}.json", stamp((tidegate_core::system_clock())()))
}

/// `20260131-235959`: sorts by time, and is a name on every system.
fn stamp(at: UnixMillis) -> String {
    text::date_time(at).replace(['-', ':'], "").replace(' ', "-")
}

fn failed(view: &View, failure: ApiError) -> Response {
    let (status, problem) = words(failure);
    view.message(status, &problem)
}

/// A failure for a page: as the API tells it, without its envelope.
fn words(failure: ApiError) -> (StatusCode, String) {
    let text = match &failure {
        ApiError::BadRequest(what)
        | ApiError::Forbidden(what)
        | ApiError::BadDump(what)
        | ApiError::Internal(what) => what.clone(),
        ApiError::NotADump { what, why } => format!("{what}: {why}"),
        ApiError::TooLarge { limit } => {
            format!("the file is larger than {}", text::bytes(i64::try_from(*limit).unwrap_or(i64::MAX)))
        }
        ApiError::TooSlow => "the file did not arrive in time".to_owned(),
        ApiError::Account(failure) => failure.to_string(),
        _ => "the server could not do it".to_owned(),
    };
    // Its status, and the line in the log that the API would write.
    (failure.into_response().status(), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::source::MAX_DUMP_BYTES;

    #[test]
    fn a_failure_has_the_status_of_the_api_and_says_what_is_wrong() {
        for (failure, status, text) in [
            (ApiError::BadRequest("x".to_owned()), 400, "x"),
            (ApiError::TooLarge { limit: MAX_DUMP_BYTES }, 413, "the file is larger than 10.5 MB"),
            (ApiError::Forbidden("no".to_owned()), 403, "no"),
            (ApiError::NotADump { what: "a".to_owned(), why: "b".to_owned() }, 400, "a: b"),
        ] {
            let (found, words) = words(failure);
            assert_eq!((found.as_u16(), words.as_str()), (status, text));
        }
    }

    #[test]
    fn proposed_names_are_taken() {
        let name = proposed_name();
        assert!(
            name.len() == "backup-20261123-235959.json".len() && !name.contains([':', '/', ' ']),
            "{name}"
        );
    }
}
