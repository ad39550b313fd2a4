//! Pages that follow what happens: server-sent events (WHATWG HTML, section "Server-sent events").
//!
//! One task looks at the server once a second while anybody watches, renders the pieces of the page that may
//! change, and leaves them where every watcher finds the newest. A watcher is sent the pieces that differ from
//! those that it has, so one that is slow misses what lies between and holds up nobody.
//!
//! A message is one line of JSON: `now` (the server's clock in ms), `pieces` (HTML of elements by their ids) and,
//! if it changed, `rows` (ids of the rows of the list, in order). The client's side is `static/live.js`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::state::Parts;
use crate::web::dashboard::Dashboard;
use crate::web::pages::Pages;
use crate::web::{connections, moving};

/// Watchers at a time. Each takes one of the server's connections for itself.
const MAX_WATCHERS: usize = 32;

/// How often the server is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// After so much silence a comment shows that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Then the stream ends, and the browser asks again: one who was signed out meanwhile is not let in.
const LONGEST: Duration = Duration::from_secs(300);

/// Which page is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// `/web/dashboard`
    Dashboard,
    /// `/web/connections`
    Connections,
}

/// What a page shows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) now: i64,
    /// HTML of elements by their ids.
    pub(crate) pieces: HashMap<Arc<str>, Arc<str>>,
    /// The ids of the rows of its list, which are pieces as well.
    pub(crate) rows: Vec<Arc<str>>,
}

/// Everybody who follows a page. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

struct Shared {
    parts: Arc<Parts>,
    pages: Pages,
    dashboard: Channel,
    connections: Channel,
    places: Arc<Semaphore>,
    /// Whether the task runs. Watchers are added under this lock, so that it never ends before it saw them.
    running: Mutex<bool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

type Channel = watch::Sender<Option<Arc<Picture>>>;

impl Live {
    /// Shows these parts of the server. Nothing runs until somebody watches.
    pub(crate) fn new(parts: Arc<Parts>, pages: Pages) -> Self {
        Self(Arc::new(Shared {
            parts,
            pages,
            dashboard: watch::Sender::new(None),
            connections: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(MAX_WATCHERS)),
            running: Mutex::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The answer to one who wants to follow a page: a stream, or 503 if too many do.
    pub(crate) fn answer(&self, topic: Topic) -> Response {
        let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() else {
            let retry = [(header::RETRY_AFTER, "30"), (header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            return (StatusCode::SERVICE_UNAVAILABLE, retry, "Too many pages are being followed.\n")
                .into_response();
        };
        let mut pictures = self.watch(topic);
        // A picture that is there already is news to this one.
        pictures.mark_changed();
        let watcher = Watcher {
            pictures,
            last: None,
            until: Instant::now() + LONGEST,
            stop: self.0.stop.clone(),
            _place: place,
        };
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            // nginx would collect what must be sent at once.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::new(Events { next: Box::pin(watcher.next()) })).into_response()
    }

    /// The tasks that work for the pages; the server waits for them at its end.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Ends all streams and the task, and waits for the latter.
    pub(crate) async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn watch(&self, topic: Topic) -> watch::Receiver<Option<Arc<Picture>>> {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.0.channel(topic).subscribe();
        if !*running && !self.0.stop.is_cancelled() {
            *running = true;
            self.0.tasks.spawn(Arc::clone(&self.0).look_on());
        }
        receiver
    }
}

impl Shared {
    fn channel(&self, topic: Topic) -> &Channel {
        match topic {
            Topic::Dashboard => &self.dashboard,
            Topic::Connections => &self.connections,
        }
    }

    /// Renders until nobody watches any more.
    async fn look_on(self: Arc<Self>) {
        let mut speeds = moving::Speeds::default();
        let mut dashboard = Dashboard::new(&self.parts);
        let mut rows = connections::Rows::default();
        let mut complained = false;
        loop {
            let list = speeds.look(&self.parts.sessions);
            let now = self.parts.sessions.now();
            let mut pictures = Ok(());
            if self.dashboard.receiver_count() > 0 {
                dashboard.refresh(&self.parts, &self.tasks).await;
                pictures = dashboard.picture(&self.pages, &list, now).map(|picture| {
                    self.dashboard.send_replace(Some(Arc::new(picture)));
                });
            }
            if self.connections.receiver_count() > 0 {
                pictures = pictures.and(rows.picture(&self.pages, &list, now).map(|picture| {
                    self.connections.send_replace(Some(Arc::new(picture)));
                }));
            }
            if let Err(reason) = pictures
                && !complained
            {
                complained = true;
                error!(sender = "httpd", "a page cannot be kept up to date: {reason}");
            }
            let next = self.stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
            if next.is_none() || self.nobody_watches() {
                return;
            }
        }
    }

    /// Whether the task may end; then what it showed is forgotten.
    fn nobody_watches(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let channels = [&self.dashboard, &self.connections];
        if channels.iter().any(|channel| channel.receiver_count() > 0) {
            return false;
        }
        for channel in channels {
            channel.send_replace(None);
        }
        *running = false;
        true
    }
}

/// One who follows a page.
struct Watcher {
    pictures: watch::Receiver<Option<Arc<Picture>>>,
    /// What it was sent last.
    last: Option<Arc<Picture>>,
    until: Instant,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

type Next = Pin<Box<dyn Future<Output = Option<(Watcher, Bytes)>> + Send>>;

impl Watcher {
    /// The next message; `None` is the end.
    async fn next(mut self) -> Option<(Self, Bytes)> {
        let silence = Instant::now() + HEARTBEAT;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                changed = self.pictures.changed() => changed.ok()?,
                () = sleep_until(self.until) => return None,
                () = sleep_until(silence) => return Some((self, Bytes::from_static(b":\n\n"))),
            }
            let Some(picture) = self.pictures.borrow_and_update().clone() else { continue };
            if let Some(message) = message(self.last.as_deref(), &picture) {
                self.last = Some(picture);
                return Some((self, message));
            }
        }
    }
}

/// What somebody who has `before` needs to have `now`; `None` if that is nothing.
fn message(before: Option<&Picture>, now: &Picture) -> Option<Bytes> {
    let known = |id: &Arc<str>, html: &Arc<str>| {
        before
            .and_then(|before| before.pieces.get(id))
            .is_some_and(|old| Arc::ptr_eq(old, html) || old == html)
    };
    let pieces: HashMap<&str, &str> =
        now.pieces.iter().filter(|(id, html)| !known(id, html)).map(|(id, html)| (&**id, &**html)).collect();
    let rows = before.is_none_or(|before| before.rows != now.rows).then_some(&now.rows);
    if pieces.is_empty() && rows.is_none() {
        return None;
    }
    let rows = rows.map(|rows| rows.iter().map(|id| &**id).collect::<Vec<&str>>());
    let mut json = json!({ "now": now.now, "pieces": pieces });
    if let (Some(rows), Some(object)) = (rows, json.as_object_mut()) {
        object.insert("rows".to_owned(), rows.into());
    }
    Some(Bytes::from(format!("data: {json}\n\n")))
}

/// The messages of a watcher as the body of an answer.
struct Events {
    next: Next,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((watcher, message)) = ready!(self.next.as_mut().poll(cx)) else {
            self.next = Box::pin(std::future::ready(None));
            return Poll::Ready(None);
        };
        self.next = Box::pin(watcher.next());
        Poll::Ready(Some(Ok(Frame::data(message))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(pieces: &[(&str, &str)], rows: &[&str]) -> Picture {
        Picture {
            now: 5,
            pieces: pieces.iter().map(|(id, html)| ((*id).into(), (*html).into())).collect(),
            rows: rows.iter().map(|id| (*id).into()).collect(),
        }
    }

    fn sent(before: Option<&Picture>, now: &Picture) -> Option<serde_json::Value> {
        let message = message(before, now)?;
        let text = std::str::from_utf8(&message).unwrap();
        let line = text.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!line.contains(['\n', '\r']), "{line}");
        Some(serde_json::from_str(line).unwrap())
    }

    #[test]
    fn only_what_changed_is_sent() {
        let one = picture(&[("a", "<p>\n1"), ("b", "2")], &["b"]);
        assert_eq!(
            sent(None, &one).unwrap(),
            json!({"now": 5, "pieces": {"a": "<p>\n1", "b": "2"}, "rows": ["b"]})
        );
        assert_eq!(sent(Some(&one), &picture(&[("a", "<p>\n1"), ("b", "2")], &["b"])), None);
        let other = picture(&[("a", "<p>\n1"), ("b", "3")], &["b"]);
        assert_eq!(sent(Some(&one), &other).unwrap(), json!({"now": 5, "pieces": {"b": "3"}}));
        let fewer = picture(&[("a", "<p>\n1")], &[]);
        assert_eq!(sent(Some(&one), &fewer).unwrap(), json!({"now": 5, "pieces": {}, "rows": []}));
    }

    fn watcher(pictures: watch::Receiver<Option<Arc<Picture>>>, stop: &CancellationToken) -> Watcher {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Watcher { pictures, last: None, until: Instant::now() + LONGEST, stop: stop.clone(), _place: place }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_sees_the_newest_hears_a_heartbeat_and_ends() {
        let (sender, pictures) = watch::channel(None);
        let stop = CancellationToken::new();
        for text in ["1", "2", "3"] {
            sender.send_replace(Some(Arc::new(picture(&[("a", text)], &[]))));
        }
        let (one, message) = watcher(pictures, &stop).next().await.unwrap();
        assert!(std::str::from_utf8(&message).unwrap().contains(r#""a":"3""#));
        // The same again is no news.
        sender.send_replace(Some(Arc::new(picture(&[("a", "3")], &[]))));
        let (mut one, message) = one.next().await.unwrap();
        assert_eq!(&message[..], b":\n\n");
        let mut heartbeats = 1;
        while let Some((next, _)) = one.next().await {
            (one, heartbeats) = (next, heartbeats + 1);
        }
        assert_eq!(heartbeats, 19, "five minutes, and then the browser asks again");
        let again = watcher(sender.subscribe(), &stop);
        stop.cancel();
        assert!(again.next().await.is_none());
    }
}
