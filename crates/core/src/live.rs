//! How a change of an account reaches its open sessions.
//!
//! A change over the REST API is told at once ([`Sessions::apply`], [`Sessions::end_user`]). One that was
//! made in the database, or by another server on it, is found by [`Sessions::watch`], which reads the
//! accounts of those who are connected again, each once a second as long as they are few.
//!
//! A session ends when its account may not log in any more as it did: it is removed, disabled or expired,
//! its key is gone, its password is another, its address is filtered, its home has moved, its record is
//! damaged. Everything else (permissions, quota, bandwidth) counts from the next operation on. Owner and group of new files stay as
//! they were at the login.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::quota::Reading;
use crate::{PublicKeyLine, Session, Sessions, StoreError, UnixMillis, User, fingerprint};

/// How often expiry is looked at, and the next accounts are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Accounts that are read in an interval, at most: more than twice as many users at a time learn of a change in
/// the database after more than two seconds, and the provider is never asked for more.
const READ_AT_MOST: usize = 4096;

/// Accounts that are read with one call.
const BATCH: usize = 256;

impl Sessions {
    /// A point in time before a record is read that goes to [`Sessions::apply`].
    pub(crate) fn reading(&self, username: &str) -> Option<Reading> {
        self.account(username).map(|account| account.ledger.reading())
    }

    /// Takes an account as it is now into its open sessions.
    pub(crate) fn apply(&self, user: &Arc<User>, reading: Option<Reading>) {
        if let (Some(account), Some(reading)) = (self.account(&user.username), reading) {
            account.ledger.refresh(user, reading);
            account.upload.set_rate(user.upload_bandwidth);
            account.download.set_rate(user.download_bandwidth);
        }
        let now = (self.shared().clock)();
        for session in self.of_user(&user.username) {
            session.set_current(Arc::clone(user));
            if let Some(why) = why_it_ends(&session, user, now) {
                session.end(why);
            }
        }
    }

    /// Ends all sessions of an account that is gone.
    pub(crate) fn end_user(&self, username: &str) {
        self.end_all(username, "the account was removed");
    }

    fn end_all(&self, username: &str, why: &str) {
        for session in self.of_user(username) {
            if !session.cancelled().is_cancelled() {
                session.end(why);
            }
        }
    }

    /// Ends sessions whose account has expired, and looks for changes that were made elsewhere, until
    /// `shutdown` fires.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut last = String::new();
        while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.end_expired();
            if shutdown.run_until_cancelled(self.read_again(&mut last)).await.is_none() {
                return;
            }
        }
    }

    /// Ends sessions whose account has expired; the provider is not asked.
    fn end_expired(&self) {
        let now = (self.shared().clock)();
        for session in self.live() {
            if session.current().is_expired(now) && !session.cancelled().is_cancelled() {
                session.end("the account has expired");
            }
        }
    }

    /// Reads the accounts of some who are connected: those whose names follow `last`.
    async fn read_again(&self, last: &mut String) {
        let open = self.connected();
        let after = (Bound::Excluded(last.as_str()), Bound::Unbounded);
        let names = open
            .range::<str, _>(after)
            .chain(open.range::<str, _>((Bound::Unbounded, Bound::Included(last.as_str()))));
        let names: Vec<String> = names.take(READ_AT_MOST).cloned().collect();
        if let Some(name) = names.last() {
            last.clone_from(name);
        }
        for batch in names.chunks(BATCH) {
            if !self.read_batch(batch).await {
                // The provider is away: nobody is disconnected for that, and it is not asked further.
                return;
            }
        }
    }

    /// Reads several accounts; whether the provider answered.
    async fn read_batch(&self, names: &[String]) -> bool {
        let readings: Vec<_> = names.iter().map(|name| self.reading(name)).collect();
        let users = match self.shared().store.users_by_name(names).await {
            Ok(users) => users,
            Err(error @ StoreError::Unavailable(_)) => {
                debug!("accounts of {} users cannot be read again: {error}", names.len());
                return false;
            }
            // One record that cannot be read must not hide the others.
            Err(_) => {
                for name in names {
                    if !self.read_one(name).await {
                        return false;
                    }
                }
                return true;
            }
        };
        let mut users: HashMap<String, User> =
            users.into_iter().map(|user| (user.username.clone(), user)).collect();
        for (name, reading) in names.iter().zip(readings) {
            match users.remove(name) {
                Some(user) => self.apply(&Arc::new(user), reading),
                None => self.end_user(name),
            }
        }
        true
    }

    /// Reads one account; whether the provider answered.
    async fn read_one(&self, name: &str) -> bool {
        let reading = self.reading(name);
        match self.shared().store.user(name).await {
            Ok(user) => self.apply(&Arc::new(user), reading),
            Err(StoreError::NotFound) => self.end_user(name),
            // Nobody logs in with such a record. It may say that the account is disabled, or filtered.
            Err(error @ StoreError::Corrupt(_)) => self.end_all(name, &error.to_string()),
            Err(error @ StoreError::Unavailable(_)) => {
                debug!("account of user {name:?} cannot be read again: {error}");
                return false;
            }
            Err(error) => debug!("account of user {name:?} cannot be read again: {error}"),
        }
        true
    }
}

/// Why a session may not go on with the account as it is now.
fn why_it_ends(session: &Session, user: &User, now: UnixMillis) -> Option<&'static str> {
    let before = session.user();
    if session.cancelled().is_cancelled() {
        None
    } else if user.id != before.id {
        Some("the account was removed and made anew")
    } else if !user.active {
        Some("the account was disabled")
    } else if user.is_expired(now) {
        Some("the account has expired")
    } else if user.home_dir != before.home_dir {
        Some("the home directory was changed")
    } else if !user.filters.admits(session.peer().addr.ip()) {
        Some("the address is not allowed any more")
    } else {
        credential_gone(session.label(), before, user)
    }
}

/// Whether the credential that the session logged in with, which its label names, is still good. A
/// password counts as changed when its hash is another: it cannot be told whether both are of one password.
fn credential_gone(label: &str, before: &User, user: &User) -> Option<&'static str> {
    if label == "password" {
        return (before.password != user.password).then_some("the password was changed");
    }
    let key = label.strip_prefix("public_key:")?;
    let matches = |line: &PublicKeyLine| {
        let print = fingerprint(&line.blob);
        key.strip_prefix(print.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let mut lines = user.public_keys.iter().filter_map(|line| PublicKeyLine::parse(line));
    (!lines.any(|line| matches(&line))).then_some("the key that it logged in with was removed")
}
