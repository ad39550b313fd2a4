//! Adding and changing one user: the form, its checks while somebody types, and what comes of sending it.
//! What the fields mean is in `user_form.rs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde_json::json;
use tidegate_core::{AccountError, User};

use crate::error::{ApiError, json};
use crate::state::Parts;
use crate::web::access::{self, Dir, MAX_DIRS};
use crate::web::flash::{self, Done};
use crate::web::forms::Form;
use crate::web::pages::View;
use crate::web::user_form::{Errors, UserForm};
use crate::web::users::{refused, told};

/// The fields from the top of the page to its end.
const LABELS: [(&str, &str); 19] = [
    ("username", "Username"),
    ("status", "Status"),
    ("expiration_date", "Expiration"),
    ("expiration_time", "Until"),
    ("password", "Password"),
    ("public_keys", "Public keys"),
    ("home_dir", "Home directory"),
    ("permissions", "Permissions"),
    ("dir", "Directory"),
    ("sub_dirs_permissions", "Permissions of directories"),
    ("quota_size", "Space"),
    ("quota_files", "Files"),
    ("upload_bandwidth", "Upload bandwidth"),
    ("download_bandwidth", "Download bandwidth"),
    ("max_sessions", "Sessions at a time"),
    ("allowed_ip", "Allowed networks"),
    ("denied_ip", "Denied networks"),
    ("uid", "UID"),
    ("gid", "GID"),
];

/// Where the rows of directories are among them.
const DIRS_PLACE: usize = 8;

const OUTDATED: &str = "Somebody else has changed this user since you opened the form, and nothing was saved. Save again to \
     replace their changes with what you see here, or open the user anew to see them.";

type Id = Result<Path<String>, PathRejection>;

/// `GET /web/user`
pub(crate) async fn blank(view: View, State(parts): State<Arc<Parts>>) -> Response {
    show(&view, &parts, None, &UserForm::blank(), &Errors::new(), None)
}

/// `GET /web/user/{id}`
pub(crate) async fn edit(view: View, State(parts): State<Arc<Parts>>, id: Id) -> Response {
    match stored(&view, &parts, id).await {
        Ok(user) => show(&view, &parts, Some(&user), &UserForm::of(&user), &Errors::new(), None),
        Err(response) => *response,
    }
}

/// `POST /web/user`
pub(crate) async fn add(
    view: View,
    State(parts): State<Arc<Parts>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    save(&view, &parts, None, &headers, body).await
}

/// `POST /web/user/{id}`
pub(crate) async fn update(
    view: View,
    State(parts): State<Arc<Parts>>,
    id: Id,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match stored(&view, &parts, id).await {
        Ok(user) => save(&view, &parts, Some(&user), &headers, body).await,
        Err(response) => *response,
    }
}

/// `POST /web/user/check`: what is wrong with the form as it stands, while somebody fills it in. Nothing is
/// stored.
pub(crate) async fn check(
    State(parts): State<Arc<Parts>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let form = Form::read(&headers, body).await?;
    let stored = match form.text("id").parse() {
        Ok(id) => Some(parts.accounts.user(id).await?),
        Err(_) => None,
    };
    let sent = UserForm::sent(&form);
    let (_, errors) = sent.ask(stored.as_ref(), parts.accounts.users_base_dir());
    let answer =
        json!({ "errors": errors, "keys": sent.keys(), "warnings": warnings(stored.as_ref(), &sent) });
    Ok(json(StatusCode::OK, &answer))
}

async fn save(
    view: &View,
    parts: &Parts,
    stored: Option<&User>,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let form = match Form::read(headers, body).await {
        Ok(form) => form,
        Err(ApiError::BadRequest(reason)) => {
            let fresh = stored.map_or_else(UserForm::blank, UserForm::of);
            return show(view, parts, stored, &fresh, &Errors::new(), Some(reason));
        }
        Err(failure) => return refused(view, &failure),
    };
    let mut sent = UserForm::sent(&form);
    if let Some(user) = stored {
        sent.username.clone_from(&user.username);
    }
    match form.text("_action").split_once('.').unwrap_or((form.text("_action"), "")) {
        ("add_dir", _) => {
            if sent.dirs.len() < MAX_DIRS {
                sent.dirs.push(Dir::new("", ["list", "download"]));
            }
            return show(view, parts, stored, &sent, &Errors::new(), None);
        }
        ("remove_dir", row) => {
            if let Some(row) = row.parse().ok().filter(|row| *row < sent.dirs.len()) {
                sent.dirs.remove(row);
            }
            return show(view, parts, stored, &sent, &Errors::new(), None);
        }
        _ => {}
    }
    let (patch, mut errors) = sent.ask(stored, parts.accounts.users_base_dir());
    if !errors.is_empty() {
        return show(view, parts, stored, &sent, &errors, None);
    }
    if let Some(user) = stored
        && sent.is_outdated(user)
    {
        // Sent once more, it is meant.
        sent.seen = UserForm::of(user).seen;
        return show(view, parts, stored, &sent, &errors, Some(OUTDATED.to_owned()));
    }
    let keys_gone = patch.public_keys.as_ref().is_some_and(Vec::is_empty)
        && stored.is_some_and(|user| !user.public_keys.is_empty());
    let saved = match stored {
        None => parts.accounts.create(patch).await.map(|_| Done::Added),
        Some(user) => parts.accounts.update(user.id, patch).await.map(|()| Done::Updated),
    };
    let failure = match saved {
        Ok(_) if keys_gone => return flash::tell("/web/users", Done::KeysGone, &sent.username),
        Ok(done) => return flash::tell("/web/users", done, &sent.username),
        Err(failure) => failure,
    };
    let mut general = None;
    match &failure {
        AccountError::Invalid(wrong) => {
            let (field, reason) = sent.place(wrong);
            errors.insert(field, reason);
        }
        AccountError::Conflict => {
            errors.insert("username".to_owned(), "there is a user with this name already".to_owned());
        }
        other => general = Some(told(other)),
    }
    show(view, parts, stored, &sent, &errors, general)
}

/// What is not wrong but should be known before it is saved.
fn warnings(stored: Option<&User>, sent: &UserForm) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if stored.is_some_and(|user| !user.public_keys.is_empty()) && sent.keys().is_empty() {
        warnings.push("This removes the last public key: only the password will be left to log in with.");
    }
    warnings
}

async fn stored(view: &View, parts: &Parts, id: Id) -> Result<User, Box<Response>> {
    let text = id.map_or_else(|_| String::new(), |Path(text)| text);
    let Ok(id) = text.parse::<i64>() else {
        let reason = format!("the user id {text:?} is not an integer");
        return Err(Box::new(view.message(StatusCode::BAD_REQUEST, &reason)));
    };
    parts.accounts.user(id).await.map_err(|failure| {
        let status = match failure {
            AccountError::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Box::new(view.message(status, &told(&failure)))
    })
}

/// Where a field is on the page, and what it is called there.
fn label(field: &str) -> (usize, String) {
    if let Some(row) = field.strip_prefix("dir.") {
        let number = row.parse::<usize>().map_or(1, |row| row + 1);
        return (DIRS_PLACE, format!("Directory {number}"));
    }
    match LABELS.iter().position(|(name, _)| *name == field) {
        Some(place) => (place, LABELS[place].1.to_owned()),
        None => (LABELS.len(), field.replace('_', " ")),
    }
}

fn show(
    view: &View,
    parts: &Parts,
    stored: Option<&User>,
    form: &UserForm,
    errors: &Errors,
    general: Option<String>,
) -> Response {
    // The errors that have no field of their own on the page, and a list of all with links to their fields.
    let mut fields: Vec<_> = errors.iter().map(|(field, reason)| (label(field), field, reason)).collect();
    fields.sort_by_key(|((place, _), _, _)| *place);
    let fields: Vec<Value> = fields
        .into_iter()
        .map(|((_, label), field, reason)| context! { label, field => field.replace('.', "-"), reason })
        .collect();
    let dirs: Vec<Value> = form
        .dirs
        .iter()
        .enumerate()
        .map(|(row, dir)| context! { dir => Serde(dir.clone()), error => errors.get(&format!("dir.{row}")).cloned() })
        .collect();
    let title = if stored.is_some() { "Update user" } else { "Add a new user" };
    view.render(
        "user.html",
        context! {
            title, active => "users",
            id => stored.map(|user| user.id), seen => form.seen.clone(),
            outdated => general.as_deref() == Some(OUTDATED),
            form => Serde(form.clone()), dirs, errors => Serde(errors.clone()), fields, general,
            keys => Serde(form.keys()), warnings => warnings(stored, form),
            has_password => stored.is_some_and(|user| !user.password.is_empty()),
            retype => form.has_password(),
            homes => parts.accounts.users_base_dir().map(|dir| dir.to_string_lossy().into_owned()),
            presets => Serde(&access::PRESETS), tokens => access::TOKENS.map(|(key, label)| context! { key, label }).to_vec(),
            stored => stored.map(|user| context! {
                used_size => user.used.size_bytes, used_files => user.used.files,
                quota_size => user.quota_size, quota_files => user.quota_files,
                last_login => user.last_login, last_quota_update => user.last_quota_update,
            }),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stand_in_the_order_of_the_page_under_the_names_of_its_fields() {
        let mut fields =
            ["gid", "allowed_ip", "dir.11", "home_dir", "other_one", "quota_size", "username"].map(label);
        fields.sort();
        let labels: Vec<_> = fields.iter().map(|(_, label)| label.as_str()).collect();
        let want =
            ["Username", "Home directory", "Directory 12", "Space", "Allowed networks", "GID", "other one"];
        assert_eq!(labels, want);
        assert_eq!(LABELS[DIRS_PLACE].0, "dir");
    }
}
