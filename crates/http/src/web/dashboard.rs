//! `/web/dashboard`: the last hour in charts, what moves now, who stores most, and whether all is well.
//!
//! Each part of the page is a piece that is rendered by the same macro whether it is part of the page or sent
//! after it. What changes with each second is small; charts follow their slots, and the data provider is asked
//! for the largest accounts now and then only.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use minijinja::value::Serde;
use minijinja::{Value, context};
use tidegate_core::{HookResult, Recent, UserQuery, UserSort};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use crate::state::Parts;
use crate::web::chart::{self, signed};
use crate::web::connections::moving;
use crate::web::moving::{Connection, Moving, Speeds, duration};
use crate::web::pages::{Pages, View};
use crate::web::stream::{Live, Picture, Topic};

/// Transfers on the page; more are only counted.
const MOST_TRANSFERS: usize = 12;

/// Accounts on the page.
const LEADERS: u32 = 6;

/// How often the data provider is asked for them while the page is followed.
const LEADERS_EVERY: Duration = Duration::from_secs(30);

/// How long the page waits for them.
const LEADERS_WITHIN: Duration = Duration::from_secs(2);

/// `GET /web/dashboard`
pub(crate) async fn page(State(parts): State<Arc<Parts>>, State(live): State<Live>, view: View) -> Response {
    let mut dashboard = Dashboard::new(&parts);
    dashboard.refresh(&parts, live.tasks()).await;
    let list = Speeds::default().look(&parts.sessions);
    let now = parts.sessions.now();
    let pieces: Vec<(&str, Value)> = dashboard.values(&list, Some(now));
    let pieces: std::collections::BTreeMap<&str, Value> = pieces.into_iter().collect();
    view.render("dashboard.html", context! { title => "Dashboard", active => "dashboard", now, pieces })
}

/// `GET /web/dashboard/live`
pub(crate) async fn live(State(live): State<Live>) -> Response {
    live.answer(Topic::Dashboard)
}

/// What the page shows, as far as it does not come from the connections.
pub(crate) struct Dashboard {
    recent: Recent,
    health: Health,
    leaders: Option<Vec<Leader>>,
    /// When they were asked for.
    asked: Option<Instant>,
    /// Values and HTML of the pieces as they were last.
    known: Vec<(&'static str, Value, Arc<str>)>,
}

/// An account and what it stores.
#[derive(Debug, Clone)]
struct Leader {
    id: i64,
    username: String,
    used_size: i64,
    used_files: i64,
    quota_size: i64,
}

/// Whether the parts that the server depends on work.
#[derive(Debug, Clone)]
struct Health {
    provider: bool,
    hooks_waiting: u64,
    hooks_done: u64,
    hooks_failed: u64,
    hooks_dropped: u64,
    uptime: String,
    version: String,
}

impl Health {
    fn of(parts: &Parts, recent: &Recent) -> Self {
        let hooks = |result| parts.metrics.hooks(result);
        Self {
            provider: parts.metrics.provider_is_available(),
            hooks_waiting: parts.metrics.hooks_waiting(),
            hooks_done: hooks(HookResult::Done),
            hooks_failed: hooks(HookResult::Failed) + hooks(HookResult::TimedOut),
            hooks_dropped: hooks(HookResult::Dropped),
            uptime: duration(recent.running.as_secs()),
            version: parts.version.version.clone(),
        }
    }

    fn value(&self) -> Value {
        context! {
            provider => self.provider,
            hooks_waiting => signed(self.hooks_waiting),
            hooks_done => signed(self.hooks_done),
            hooks_failed => signed(self.hooks_failed),
            hooks_dropped => signed(self.hooks_dropped),
            hooks_used => self.hooks_waiting + self.hooks_done + self.hooks_failed + self.hooks_dropped > 0,
            uptime => self.uptime.clone(),
            version => self.version.clone(),
        }
    }
}

impl Dashboard {
    /// Without the largest accounts yet.
    pub(crate) fn new(parts: &Parts) -> Self {
        let recent = parts.sessions.activity().recent();
        let health = Health::of(parts, &recent);
        Self { recent, health, leaders: None, asked: None, known: Vec::new() }
    }

    /// Looks at the server again.
    pub(crate) async fn refresh(&mut self, parts: &Parts, tasks: &TaskTracker) {
        self.recent = parts.sessions.activity().recent();
        self.health = Health::of(parts, &self.recent);
        if self.asked.is_none_or(|asked| asked.elapsed() >= LEADERS_EVERY) {
            self.asked = Some(Instant::now());
            self.leaders = leaders(parts, tasks).await;
        }
    }

    /// The page's pieces at this moment; what did not change is not rendered again.
    pub(crate) fn picture(
        &mut self,
        pages: &Pages,
        list: &[Connection],
        now: i64,
    ) -> Result<Picture, String> {
        let mut picture = Picture { now, ..Picture::default() };
        let mut known = Vec::new();
        for (name, value) in self.values(list, None) {
            let before = self.known.iter().find(|(other, before, _)| *other == name && *before == value);
            let html = match before {
                Some((.., html)) => Arc::clone(html),
                None => pages.piece(name, value.clone())?.into(),
            };
            picture.pieces.insert(name.into(), Arc::clone(&html));
            known.push((name, value, html));
        }
        self.known = known;
        Ok(picture)
    }

    /// What each piece is rendered from. `now` is given for a page, where no script may count on.
    fn values(&self, list: &[Connection], now: Option<i64>) -> Vec<(&'static str, Value)> {
        let mut transfers: Vec<&Moving> = list.iter().flat_map(|one| &one.transfers).collect();
        transfers.sort_by_key(|one| (one.since, one.id.clone()));
        let running = transfers.len();
        let shown: Vec<_> = transfers.iter().take(MOST_TRANSFERS).map(|one| moving(one, now)).collect();
        let hour = chart::hour(&self.recent);
        let tiles = context! {
            upload => signed(self.recent.upload_rate),
            download => signed(self.recent.download_rate),
            uploaded => signed(hour.uploaded_bytes),
            downloaded => signed(hour.downloaded_bytes),
            connections => list.len(),
            transfers => running,
            logins => signed(hour.logins),
            refused => signed(hour.refused_logins),
        };
        let bars = context! {
            logins => Value::from(Serde(chart::logins(&self.recent))),
            transfers => Value::from(Serde(chart::transfers(&self.recent))),
            total_logins => signed(hour.logins),
            total_refused => signed(hour.refused_logins),
            total_uploads => signed(hour.uploads),
            total_downloads => signed(hour.downloads),
            total_failed => signed(hour.failed_transfers),
        };
        vec![
            ("tiles", tiles),
            ("throughput", Value::from(Serde(chart::throughput(&self.recent)))),
            ("bars", bars),
            ("moving", context! { transfers => shown, more => running.saturating_sub(MOST_TRANSFERS) }),
            ("leaders", self.leaders_value()),
            ("health", self.health.value()),
            ("figures", Value::from(Serde(chart::periods(&self.recent)))),
        ]
    }

    fn leaders_value(&self) -> Value {
        let leader = |one: &Leader| {
            let limited = one.quota_size > 0;
            let percent =
                limited.then(|| i128::from(one.used_size.max(0)) * 100 / i128::from(one.quota_size));
            context! {
                id => one.id,
                username => one.username.clone(),
                used_size => one.used_size,
                used_files => one.used_files,
                quota_size => one.quota_size,
                percent => percent.map(|percent| i64::try_from(percent).unwrap_or(i64::MAX)),
            }
        };
        let known = self.leaders.is_some();
        let users: Vec<_> = self.leaders.iter().flatten().map(leader).collect();
        context! { known, users }
    }
}

/// Who stores most; `None` if the data provider does not say so in time.
async fn leaders(parts: &Parts, tasks: &TaskTracker) -> Option<Vec<Leader>> {
    let query =
        UserQuery { sort: UserSort::UsedSize, descending: true, limit: LEADERS, ..UserQuery::default() };
    // A search writes back what is used before it reads, and that must not be broken off.
    let accounts = parts.accounts.clone();
    let asked = tasks.spawn(async move { accounts.search(&query).await });
    let page = match timeout(LEADERS_WITHIN, asked).await {
        Ok(Ok(Ok(page))) => page,
        Ok(Ok(Err(error))) => {
            debug!(sender = "httpd", "the largest accounts are not known: {error}");
            return None;
        }
        Ok(Err(error)) => {
            error!(sender = "httpd", "the search for the largest accounts ended by a defect: {error}");
            return None;
        }
        Err(_) => {
            debug!(sender = "httpd", "the largest accounts are not known: the data provider is slow");
            return None;
        }
    };
    let leader = |user: tidegate_core::User| Leader {
        id: user.id,
        username: user.username,
        used_size: user.used.size_bytes,
        used_files: user.used.files,
        quota_size: user.quota_size,
    };
    Some(page.users.into_iter().filter(|user| user.used.size_bytes > 0).map(leader).collect())
}
