//! The list of users: search, filter, order and pages on the server, so that a hundred thousand users are no
//! trouble; and what is done to several at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;
use tidegate_core::{
    AccountError, BulkOutcome, Perms, ScanError, StoreError, User, UserQuery, UserSort, UserStatus,
};
use tracing::error;

use crate::error::{ApiError, provider_text};
use crate::state::Parts;
use crate::web::flash::{self, Done};
use crate::web::forms::{Form, encode};
use crate::web::pages::View;
use crate::web::{access, text};

const PATH: &str = "/web/users";
const EXPORT_PATH: &str = "/web/users/export.csv";
const SIZES: [u32; 4] = [10, 25, 50, 100];
const DEFAULT_SIZE: u32 = 25;

/// Accounts that one request may change.
const MAX_PICKED: usize = 1000;

/// Failures that are told one by one.
const MAX_FAILURES: usize = 20;

const SORTS: [(UserSort, &str, bool); 6] = [
    (UserSort::Username, "username", false),
    (UserSort::Status, "status", false),
    (UserSort::Expiration, "expiration", false),
    (UserSort::UsedSize, "size", true),
    (UserSort::UsedFiles, "files", true),
    (UserSort::LastLogin, "last_login", true),
];

/// What part of the list is wanted. A value that makes no sense is as good as none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    text: String,
    status: Option<UserStatus>,
    sort: UserSort,
    descending: bool,
    size: u32,
    /// From 1.
    page: u32,
}

impl Wanted {
    pub(super) fn read(query: &Form) -> Self {
        let sort = SORTS.iter().find(|(_, key, _)| *key == query.text("sort")).unwrap_or(&SORTS[0]);
        let size = query.first("size").or(query.first("qlimit")).and_then(|size| size.parse().ok());
        Self {
            text: query.text("q").to_owned(),
            status: match query.text("status") {
                "active" => Some(UserStatus::Active),
                "inactive" => Some(UserStatus::Inactive),
                _ => None,
            },
            sort: sort.0,
            descending: match query.text("order") {
                "asc" => false,
                "desc" => true,
                _ => sort.2,
            },
            size: size.filter(|size| SIZES.contains(size)).unwrap_or(DEFAULT_SIZE),
            page: query.text("page").parse().unwrap_or(1).max(1),
        }
    }

    pub(super) fn query(&self) -> UserQuery {
        UserQuery {
            text: Some(self.text.clone()).filter(|text| !text.is_empty()),
            status: self.status,
            sort: self.sort,
            descending: self.descending,
            offset: (self.page - 1).saturating_mul(self.size),
            limit: self.size,
        }
    }

    /// The address of this part of the list.
    fn href(&self) -> String {
        let mut pairs = Vec::new();
        if !self.text.is_empty() {
            pairs.push(format!("q={}", encode(&self.text)));
        }
        if let Some(status) = self.status {
            pairs.push(format!("status={}", status_key(status)));
        }
        let (_, sort, usual) = SORTS.into_iter().find(|(sort, _, _)| *sort == self.sort).unwrap_or(SORTS[0]);
        if self.sort != UserSort::Username {
            pairs.push(format!("sort={sort}"));
        }
        if self.descending != usual {
            pairs.push(format!("order={}", if self.descending { "desc" } else { "asc" }));
        }
        if self.size != DEFAULT_SIZE {
            pairs.push(format!("size={}", self.size));
        }
        if self.page > 1 {
            pairs.push(format!("page={}", self.page));
        }
        if pairs.is_empty() { PATH.to_owned() } else { format!("{PATH}?{}", pairs.join("&")) }
    }

    /// The address of the file with all that the list finds.
    fn export_href(&self) -> String {
        let href = self.href_with(|other| {
            (other.sort, other.descending, other.size) = (UserSort::Username, false, DEFAULT_SIZE);
        });
        href.replacen(PATH, EXPORT_PATH, 1)
    }

    fn href_with(&self, change: impl FnOnce(&mut Self)) -> String {
        let mut other = self.clone();
        other.page = 1;
        change(&mut other);
        other.href()
    }

    /// The heads of the columns that the list can be ordered by.
    fn heads(&self) -> Value {
        let heads: BTreeMap<&str, Value> = SORTS
            .iter()
            .map(|(sort, key, usual)| {
                let current = *sort == self.sort;
                let descending = if current { !self.descending } else { *usual };
                let href = self.href_with(|other| (other.sort, other.descending) = (*sort, descending));
                let aria = match (current, self.descending) {
                    (false, _) => "none",
                    (true, false) => "ascending",
                    (true, true) => "descending",
                };
                (*key, context! { href, aria })
            })
            .collect();
        heads.into()
    }
}

fn status_key(status: UserStatus) -> &'static str {
    match status {
        UserStatus::Active => "active",
        UserStatus::Inactive => "inactive",
    }
}

/// One row of the list.
#[derive(Debug, Serialize)]
struct Row {
    id: i64,
    username: String,
    active: bool,
    expired: bool,
    expiration_date: i64,
    permissions: String,
    others: Vec<DirRow>,
    upload_bandwidth: i64,
    download_bandwidth: i64,
    used_size: i64,
    used_files: i64,
    quota_size: i64,
    quota_files: i64,
    size_percent: i64,
    files_percent: i64,
    last_login: i64,
    more: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DirRow {
    path: String,
    permissions: String,
}

impl Row {
    fn new(user: &User, now: i64) -> Self {
        let mut root = Perms::NONE;
        let mut others = Vec::new();
        for (path, perms) in user.permissions.iter() {
            if path.is_root() {
                root = perms;
            } else {
                others.push(DirRow { path: path.to_string(), permissions: access::summary(perms) });
            }
        }
        let mut more = Vec::new();
        let mut note = |count: usize, one: &str, many: &str| match count {
            0 => {}
            1 => more.push(format!("1 {one}")),
            count => more.push(format!("{count} {many}")),
        };
        note(user.public_keys.len(), "key", "keys");
        note(user.filters.allowed().len(), "allowed network", "allowed networks");
        note(user.filters.denied().len(), "denied network", "denied networks");
        if user.max_sessions > 0 {
            note(
                usize::try_from(user.max_sessions).unwrap_or(usize::MAX),
                "session at most",
                "sessions at most",
            );
        }
        for (name, id) in [("UID", user.uid), ("GID", user.gid)] {
            if id > 0 {
                more.push(format!("{name} {id}"));
            }
        }
        let percent = |used: i64, limit: i64| match limit {
            1.. => i64::try_from(i128::from(used.max(0)) * 100 / i128::from(limit)).unwrap_or(100).min(100),
            _ => 0,
        };
        Self {
            id: user.id,
            username: user.username.clone(),
            active: user.active,
            expired: user.is_expired(now),
            expiration_date: user.expiration_date,
            permissions: access::summary(root),
            others,
            upload_bandwidth: user.upload_bandwidth,
            download_bandwidth: user.download_bandwidth,
            used_size: user.used.size_bytes,
            used_files: user.used.files,
            quota_size: user.quota_size,
            quota_files: user.quota_files,
            size_percent: percent(user.used.size_bytes, user.quota_size),
            files_percent: percent(user.used.files, user.quota_files),
            last_login: user.last_login,
            more,
        }
    }
}

/// Page numbers with gaps: the first, the last, and those around the current one. 0 is a gap.
fn page_numbers(current: u32, last: u32) -> Vec<u32> {
    let mut numbers = Vec::new();
    for number in 1..=last {
        let near = number.abs_diff(current) <= 1 || (current <= 3 && number <= 4);
        let near = near || (current + 2 >= last && number + 3 >= last);
        if number == 1 || number == last || near {
            numbers.push(number);
        } else if numbers.last() != Some(&0) {
            numbers.push(0);
        }
        // The numbers of a hundred thousand users in tens need not all be looked at.
        if number > 4 && number > current + 1 && number + 4 < last {
            numbers.push(last);
            break;
        }
    }
    numbers
}

/// `GET /web/users`
pub(crate) async fn list(view: View, State(parts): State<Arc<Parts>>, request: Request) -> Response {
    let query = Form::parse(request.uri().query().unwrap_or_default().as_bytes());
    let notice = match &query {
        Ok(_) => flash::heard(request.headers()),
        Err(reason) => Some(context! { kind => "bad", text => reason }),
    };
    let response = show(&view, &parts, &Wanted::read(&query.unwrap_or_default()), notice.clone(), &[]).await;
    if notice.is_some() { flash::said(response) } else { response }
}

async fn show(
    view: &View,
    parts: &Parts,
    wanted: &Wanted,
    notice: Option<Value>,
    failures: &[(String, String)],
) -> Response {
    let mut wanted = wanted.clone();
    let mut found = parts.accounts.search(&wanted.query()).await;
    let mut last = 1;
    if let Ok(page) = &found {
        last = last_page(page.total, wanted.size);
        // A page that is not there any more, as after deleting what was on it.
        if wanted.page > last {
            wanted.page = last;
            found = parts.accounts.search(&wanted.query()).await;
        }
    }
    let page = match found {
        Ok(page) => page,
        Err(failure) => return view.message(StatusCode::INTERNAL_SERVER_ERROR, &told(&failure)),
    };
    let now = (tidegate_core::system_clock())();
    let rows: Vec<Row> = page.users.iter().map(|user| Row::new(user, now)).collect();
    let first = u64::from(wanted.page - 1) * u64::from(wanted.size);
    let href = |number: u32| wanted.href_with(|other| other.page = number);
    let numbers: Vec<Value> = page_numbers(wanted.page, last)
        .into_iter()
        .map(|number| context! { number, href => href(number), current => number == wanted.page })
        .collect();
    let (_, sort, _) = SORTS.into_iter().find(|(sort, _, _)| *sort == wanted.sort).unwrap_or(SORTS[0]);
    view.render(
        "users.html",
        context! {
            title => "Users", active => "users", notice,
            failures => failures.iter().take(MAX_FAILURES).map(|(who, why)| context! { who, why }).collect::<Vec<_>>(),
            more_failures => failures.len().saturating_sub(MAX_FAILURES),
            q => wanted.text.clone(), status => wanted.status.map_or("", status_key),
            sort, order => if wanted.descending { "desc" } else { "asc" }, size => wanted.size,
            sizes => SIZES.to_vec(), here => wanted.href(), export => wanted.export_href(), heads => wanted.heads(),
            rows => Serde(rows), total => page.total,
            first => first + 1, last => first + page.users.len() as u64,
            numbers, pages => last,
            previous => (wanted.page > 1).then(|| href(wanted.page - 1)),
            next => (wanted.page < last).then(|| href(wanted.page + 1)),
            filtered => !wanted.text.is_empty() || wanted.status.is_some(),
        },
    )
}

fn last_page(total: u64, size: u32) -> u32 {
    u32::try_from(total.div_ceil(u64::from(size))).unwrap_or(u32::MAX).max(1)
}

/// `POST /web/users`: does `action` to every `id`. Deleting asks first, unless `confirm` is `yes`.
pub(crate) async fn act(
    view: View,
    State(parts): State<Arc<Parts>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let form = match Form::read(&headers, body).await {
        Ok(form) => form,
        Err(failure) => return refused(&view, &failure),
    };
    let here = back(form.text("back"));
    let wanted = Wanted::read(
        &Form::parse(here.split_once('?').map_or("", |(_, query)| query).as_bytes()).unwrap_or_default(),
    );
    let mut picked = Vec::new();
    for id in form.all("id") {
        match id.parse::<i64>() {
            Ok(id) if picked.len() < MAX_PICKED => picked.push(id),
            Ok(_) => return view.message(StatusCode::BAD_REQUEST, &format!("more than {MAX_PICKED} users")),
            Err(_) => {
                return view
                    .message(StatusCode::BAD_REQUEST, &format!("the user id {id:?} is not an integer"));
            }
        }
    }
    // One that is there twice would fail the second time.
    let mut known = HashSet::new();
    picked.retain(|id| known.insert(*id));
    if picked.is_empty() {
        let notice = context! { kind => "warn", text => "Tick the users first that this is meant for." };
        return show(&view, &parts, &wanted, Some(notice), &[]).await;
    }
    let (done, outcomes) = match form.text("action") {
        "enable" => (Done::Enabled, parts.accounts.set_status_many(&picked, true).await),
        "disable" => (Done::Disabled, parts.accounts.set_status_many(&picked, false).await),
        "scan" => (Done::Scanning, Ok(scan_many(&parts, &picked).await)),
        "delete" if form.text("confirm") == "yes" => {
            (Done::Deleted, parts.accounts.delete_many(&picked).await)
        }
        "delete" => return ask(&view, &parts, &picked, here).await,
        other => return view.message(StatusCode::BAD_REQUEST, &format!("unknown action {other:?}")),
    };
    let outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(failure) => {
            let notice = context! { kind => "bad", text => told(&failure) };
            return show(&view, &parts, &wanted, Some(notice), &[]).await;
        }
    };
    let name =
        |outcome: &BulkOutcome| outcome.username.clone().unwrap_or_else(|| format!("id {}", outcome.id));
    let mut failures = Vec::new();
    for outcome in &outcomes {
        if let Err(failure) = &outcome.result {
            failures.push((text::plain(&name(outcome)), told(failure)));
        }
    }
    if failures.is_empty() {
        let whom = match outcomes.as_slice() {
            [one] => name(one),
            many => format!("{} users", many.len()),
        };
        return flash::tell(here, done, &whom);
    }
    let text = format!("This could not be done to {} of {} users:", failures.len(), outcomes.len());
    show(&view, &parts, &wanted, Some(context! { kind => "bad", text }), &failures).await
}

async fn scan_many(parts: &Parts, ids: &[i64]) -> Vec<BulkOutcome> {
    let mut outcomes = Vec::with_capacity(ids.len());
    for &id in ids {
        let (username, result) = match parts.accounts.user(id).await {
            Ok(user) => match parts.sessions.scan(&user.username).await {
                // What was asked for happens already.
                Ok(()) | Err(ScanError::Running) => (Some(user.username), Ok(())),
                Err(ScanError::User(failure)) => (Some(user.username), Err(failure.into())),
                Err(ScanError::ShuttingDown) => {
                    let stopping = StoreError::Unavailable("the server is stopping".to_owned());
                    (Some(user.username), Err(AccountError::Store(stopping)))
                }
            },
            Err(failure) => (None, Err(failure)),
        };
        outcomes.push(BulkOutcome { id, username, result });
    }
    outcomes
}

/// The page that asks before users are deleted, for those without scripts.
async fn ask(view: &View, parts: &Parts, picked: &[i64], here: &str) -> Response {
    let mut users = Vec::new();
    for &id in picked {
        match parts.accounts.user(id).await {
            Ok(user) => users.push(context! { id, username => user.username }),
            Err(AccountError::NotFound) => {}
            Err(failure) => return view.message(StatusCode::INTERNAL_SERVER_ERROR, &told(&failure)),
        }
    }
    if users.is_empty() {
        return view.message(StatusCode::NOT_FOUND, "none of these users exists any more");
    }
    view.render("delete.html", context! { title => "Delete users", active => "users", users, here })
}

/// The list to go back to: a part of it, or all.
fn back(text: &str) -> &str {
    let is_list = text.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('?'));
    if is_list && text.bytes().all(|byte| byte.is_ascii_graphic()) { text } else { PATH }
}

/// A failure in words for a page; what only the log should know goes there.
pub(crate) fn told(failure: &AccountError) -> String {
    match failure {
        AccountError::Store(source) => {
            error!(sender = "httpd", "the data provider failed: {source}");
            provider_text(source).to_owned()
        }
        other => other.to_string(),
    }
}

/// The page for a form that could not be read.
pub(crate) fn refused(view: &View, failure: &ApiError) -> Response {
    match failure {
        ApiError::BadRequest(reason) => view.message(StatusCode::BAD_REQUEST, reason),
        ApiError::TooLarge { limit } => {
            view.message(StatusCode::PAYLOAD_TOO_LARGE, &format!("the form is longer than {limit} bytes"))
        }
        ApiError::TooSlow => view.message(StatusCode::REQUEST_TIMEOUT, "the form did not arrive in time"),
        _ => view.message(StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Wanted {
        Wanted::read(&Form::parse(query.as_bytes()).unwrap())
    }

    #[test]
    fn an_address_says_what_it_was_made_of() {
        for query in [
            "",
            "q=a%26b",
            "status=inactive",
            "sort=size",
            "sort=size&order=asc",
            "order=desc",
            "q=x&status=active&sort=last_login&size=100&page=7",
        ] {
            let href = wanted(query).href();
            assert_eq!(href, if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{query}") });
            assert_eq!(wanted(href.split_once('?').map_or("", |(_, query)| query)), wanted(query));
        }
        assert_eq!(wanted("qlimit=50").size, 50);
        for nonsense in
            ["size=7", "qlimit=500", "size=x", "page=0", "page=x", "sort=x", "order=x", "status=x"]
        {
            assert_eq!(wanted(nonsense), wanted(""), "{nonsense}");
        }
        assert_eq!(wanted("page=4294967295&size=100").query().offset, u32::MAX);
        let export = wanted("q=x%26&status=active&sort=last_login&size=100&page=7").export_href();
        assert_eq!(export, "/web/users/export.csv?q=x%26&status=active");
    }

    #[test]
    fn few_page_numbers_of_many() {
        for (current, last, numbers) in [
            (1, 1, &[1][..]),
            (2, 3, &[1, 2, 3]),
            (1, 9, &[1, 2, 3, 4, 0, 9]),
            (5, 9, &[1, 0, 4, 5, 6, 0, 9]),
            (9, 9, &[1, 0, 6, 7, 8, 9]),
            (500, 1000, &[1, 0, 499, 500, 501, 0, 1000]),
        ] {
            assert_eq!(page_numbers(current, last), numbers, "{current} of {last}");
        }
    }

    #[test]
    fn only_the_list_is_gone_back_to() {
        for (text, to) in [
            ("/web/users?q=a%20b", "/web/users?q=a%20b"),
            ("/web/users", "/web/users"),
            ("/web/users/../x", PATH),
            ("//evil.example/web/users", PATH),
            ("/web/users?a\r\nb", PATH),
            ("", PATH),
        ] {
            assert_eq!(back(text), to);
        }
    }
}
