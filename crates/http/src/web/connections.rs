//! `/web/connections`: who is connected and what they transfer, followed live; ending a connection.
//!
//! The rows are rendered by the same macro whether they are part of the page or sent after it, so there is one
//! place where names from elsewhere become HTML.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use minijinja::value::Serde;
use minijinja::{Value, context};
use tidegate_core::Sessions;
use tokio::time::Instant;
use tracing::info;

use crate::state::Parts;
use crate::web::forms::Form;
use crate::web::moving::{Connection, Speeds, clock};
use crate::web::pages::{Pages, View, see_other};
use crate::web::stream::{Live, Picture, Topic};
use crate::web::users::refused;

/// Connections on the page; more are only counted.
const MOST_ROWS: usize = 500;

/// How long the end of a connection is waited for, and how often it is looked for.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// `GET /web/connections`
pub(crate) async fn page(State(parts): State<Arc<Parts>>, view: View, query: Notice) -> Response {
    let mut list = Speeds::default().look(&parts.sessions);
    let now = parts.sessions.now();
    let summary = Summary::of(&list);
    list.truncate(MOST_ROWS);
    let rows: Vec<_> = list.iter().map(|one| row(one, Some(now))).collect();
    let context = context! {
        title => "Connections",
        active => "connections",
        notice => query.0,
        now,
        rows,
        summary => summary.value(),
    };
    view.render("connections.html", context)
}

/// `GET /web/connections/live`
pub(crate) async fn live(State(live): State<Live>) -> Response {
    live.answer(Topic::Connections)
}

/// `POST /web/connections/disconnect`: ends the connection `id`. Without scripts, `confirm` is asked for on a page
/// of its own.
pub(crate) async fn disconnect(
    State(parts): State<Arc<Parts>>,
    view: View,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let sent = match Form::read(&headers, body).await {
        Ok(sent) => sent,
        Err(failure) => return refused(&view, &failure),
    };
    let id = sent.text("id");
    let now = parts.sessions.now();
    let list = Speeds::default().look(&parts.sessions);
    let Some(connection) = list.iter().find(|one| *one.id == *id) else {
        return see_other("/web/connections?notice=gone");
    };
    if sent.text("confirm") != "yes" {
        let context = context! {
            title => "Disconnect",
            active => "connections",
            connection => row(connection, Some(now)),
        };
        return view.render("disconnect.html", context);
    }
    let closed = parts.sessions.close(id);
    if closed {
        let by = view.visitor.name.as_deref().unwrap_or("an administrator");
        info!(
            sender = "httpd",
            connection_id = &*connection.id,
            "connection closed by {by:?} on the web pages"
        );
        until_gone(&parts.sessions, id).await;
    }
    see_other(if closed { "/web/connections?notice=closed" } else { "/web/connections?notice=gone" })
}

/// The page that follows should not list it any more. On a busy machine the end of a connection takes a moment.
async fn until_gone(sessions: &Sessions, id: &str) {
    let end = Instant::now() + GONE_WITHIN;
    while Instant::now() < end && sessions.list().iter().any(|one| *one.connection_id == *id) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What was done before the page was shown: `notice` of the query.
#[derive(Debug)]
pub(crate) struct Notice(Option<&'static str>);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Notice {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        let known = ["closed", "gone"].into_iter();
        let mut found =
            known.filter(|notice| query.split('&').any(|pair| pair == format!("notice={notice}")));
        Ok(Self(found.next()))
    }
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Summary {
    connections: usize,
    users: usize,
    transfers: usize,
    hidden: usize,
}

impl Summary {
    /// Of a list that is sorted by name.
    fn of(list: &[Connection]) -> Self {
        let names = list.windows(2).filter(|pair| pair[0].username != pair[1].username).count();
        Self {
            connections: list.len(),
            users: if list.is_empty() { 0 } else { names + 1 },
            transfers: list.iter().map(|one| one.transfers.len()).sum(),
            hidden: list.len().saturating_sub(MOST_ROWS),
        }
    }

    fn value(self) -> Value {
        let Self { connections, users, transfers, hidden } = self;
        context! { connections, users, transfers, hidden }
    }
}

/// A connection for the macro. The time since its begin is text only where no script counts on (`now` given):
/// otherwise each row would change with each second.
fn row(connection: &Connection, now: Option<i64>) -> Value {
    let ages = |since: i64| now.map(|now| clock(u64::try_from((now - since) / 1000).unwrap_or(0)));
    let transfers: Vec<Value> = connection.transfers.iter().map(|one| moving(one, now)).collect();
    context! {
        age => ages(connection.since),
        transfers,
        ..Value::from(Serde(connection))
    }
}

/// A transfer for the macro; see [`row`].
pub(crate) fn moving(transfer: &crate::web::moving::Moving, now: Option<i64>) -> Value {
    let age = now.map(|now| clock(u64::try_from((now - transfer.since) / 1000).unwrap_or(0)));
    context! { age, ..Value::from(Serde(transfer)) }
}

/// The rows as they were rendered last.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    known: HashMap<Arc<str>, (Connection, Arc<str>)>,
    summary: Option<(Summary, Arc<str>)>,
}

impl Rows {
    /// The page's pieces at this moment; what did not change is not rendered again.
    pub(crate) fn picture(
        &mut self,
        pages: &Pages,
        list: &[Connection],
        now: i64,
    ) -> Result<Picture, String> {
        let mut picture = Picture { now, ..Picture::default() };
        let mut known = HashMap::with_capacity(list.len());
        for one in list.iter().take(MOST_ROWS) {
            let id: Arc<str> = format!("c-{}", one.id).into();
            let html = match self.known.remove(&id) {
                Some((before, html)) if before == *one => html,
                _ => pages.piece("row", row(one, None))?.into(),
            };
            known.insert(Arc::clone(&id), (one.clone(), Arc::clone(&html)));
            picture.rows.push(Arc::clone(&id));
            picture.pieces.insert(id, html);
        }
        self.known = known;
        let summary = Summary::of(list);
        let html = match self.summary.take() {
            Some((before, html)) if before == summary => html,
            _ => pages.piece("summary", summary.value())?.into(),
        };
        self.summary = Some((summary, Arc::clone(&html)));
        picture.pieces.insert("summary".into(), html);
        Ok(picture)
    }
}
