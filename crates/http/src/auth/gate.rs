//! The gate of a server with `httpd.auth_user_file`: name and password become a visitor, once (HTTP Basic) or
//! as a session with a cookie, and whoever fails too often has to wait. What a route asks for, and how a
//! refusal looks, is `door.rs`'s.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, header};
use tracing::{debug, error, info};

use super::Visitor;
use super::attempts::{Attempts, Wait};
use super::basic::{self, Credentials};
use super::cookie;
use super::sessions::Sessions;
use super::users::{UserFileError, Users};
use crate::client::Client;

/// Users, sessions and failures of one server.
pub(crate) struct Gate {
    users: Users,
    sessions: Sessions,
    attempts: Attempts,
    counts: Counts,
    port: u16,
}

/// Why nobody is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No such name, or not its password.
    Wrong,
    /// The address has failed too often.
    TooOften(Wait),
    /// The system gives no randomness for a session.
    Failed,
}

/// How somebody signs in, as the log calls it.
#[derive(Debug, Clone, Copy)]
enum By {
    Basic,
    Form,
}

impl Gate {
    /// Reads the users. `port` tells the cookies of several servers on one host apart.
    ///
    /// # Errors
    /// [`UserFileError`] that names the file and the line.
    pub(crate) fn load(users: &Path, port: u16) -> Result<Self, UserFileError> {
        let sessions = Sessions::new().map_err(|_| UserFileError {
            path: users.to_owned(),
            what: "the system gives no randomness for the key of its sessions".to_owned(),
        })?;
        let users = Users::load(users)?;
        Ok(Self { users, sessions, attempts: Attempts::default(), counts: Counts::default(), port })
    }

    /// Takes over a changed user file: who is no longer in it, or has another password, is signed out.
    pub(crate) fn reload(&self) {
        if self.users.reload() {
            self.sessions.keep(|name, hash| self.users.hash(name).as_deref() == Some(hash));
        }
    }

    /// The visitor whose name and password are in the headers; `None` if there are none.
    ///
    /// # Errors
    /// [`Denied`] if they are wrong.
    pub(crate) async fn basic(&self, headers: &HeaderMap, client: Client) -> Result<Option<Visitor>, Denied> {
        let Some(sent) = single(headers, &header::AUTHORIZATION) else { return Ok(None) };
        let Some(credentials) = basic::parse(sent) else { return Ok(None) };
        self.check(&credentials, client, By::Basic).await?;
        Ok(Some(Visitor { name: Some(credentials.name), csrf: String::new() }))
    }

    /// The visitor whose session is in the headers. `touch` false leaves its idle time running.
    pub(crate) fn session(&self, headers: &HeaderMap, client: Client, touch: bool) -> Option<Visitor> {
        let found = self.sessions.find(self.cookie(headers, client)?, touch)?;
        let is_current = self.users.hash(&found.name).as_deref() == Some(found.hash.as_str());
        is_current.then_some(Visitor { name: Some(found.name), csrf: found.csrf })
    }

    /// Opens a session; the `Set-Cookie` for it. One that the browser already had ends.
    ///
    /// # Errors
    /// [`Denied`] if name or password are wrong.
    pub(crate) async fn sign_in(
        &self,
        credentials: &Credentials,
        headers: &HeaderMap,
        client: Client,
    ) -> Result<String, Denied> {
        let hash = self.check(credentials, client, By::Form).await?;
        if let Some(old) = self.cookie(headers, client) {
            self.sessions.close(old);
        }
        let Ok(session) = self.sessions.open(&credentials.name, &hash) else {
            error!(sender = "httpd", "the system gives no randomness for a session");
            return Err(Denied::Failed);
        };
        info!(sender = "httpd", "administrator {:?} signed in from {}", credentials.name, client.ip);
        Ok(cookie::set(&self.cookie_name(client), &session, client.https))
    }

    /// Ends the session in the headers; the `Set-Cookie` that removes it.
    pub(crate) fn sign_out(&self, headers: &HeaderMap, client: Client) -> String {
        if let Some(session) = self.cookie(headers, client) {
            self.sessions.close(session);
        }
        cookie::remove(&self.cookie_name(client), client.https)
    }

    /// What became of the attempts to sign in, in the text format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        let Counts { ok, failed, limited } = &self.counts;
        let name = "tidegate_admin_logins_total";
        let mut text = format!(
            "# HELP {name} Number of attempts to sign in to the administration, by what became of them\n\
             # TYPE {name} counter\n"
        );
        for (result, count) in [("ok", ok), ("failed", failed), ("limited", limited)] {
            text += &format!("{name}{{result=\"{result}\"}} {}\n", count.load(Ordering::Relaxed));
        }
        text
    }

    async fn check(&self, credentials: &Credentials, client: Client, by: By) -> Result<String, Denied> {
        let attempt = match self.attempts.begin(client.ip).await {
            Ok(attempt) => attempt,
            Err(wait) => {
                self.counts.limited.fetch_add(1, Ordering::Relaxed);
                log_failure(credentials, client, by, "Too many attempts");
                return Err(Denied::TooOften(wait));
            }
        };
        let Some(checked) = self.users.check(credentials).await else {
            attempt.fail();
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            log_failure(credentials, client, by, "Invalid credentials");
            return Err(Denied::Wrong);
        };
        if checked.is_new {
            self.counts.ok.fetch_add(1, Ordering::Relaxed);
        }
        Ok(checked.hash)
    }

    fn cookie<'a>(&self, headers: &'a HeaderMap, client: Client) -> Option<&'a str> {
        cookie::find(single(headers, &header::COOKIE)?, &self.cookie_name(client))
    }

    /// Cookies are shared by all ports of a host. The prefix makes the browser keep the cookie to this host
    /// and to HTTPS.
    fn cookie_name(&self, client: Client) -> String {
        let prefix = if client.https { "__Host-" } else { "" };
        format!("{prefix}tidegate_{}", self.port)
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

/// The kind of line that Fail2ban reads for SSH, with a `login_type` of its own (`docs/admin.md`).
fn log_failure(credentials: &Credentials, client: Client, by: By, why: &str) {
    let login_type = match by {
        By::Basic => "http_basic",
        By::Form => "web_form",
    };
    debug!(
        sender = "connection_failed",
        client_ip = client.ip.to_string(),
        username = credentials.name,
        login_type,
        error = why,
    );
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.as_bytes())
}

/// Attempts to sign in. A password that is still remembered as right is not counted again.
#[derive(Debug, Default)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
}
