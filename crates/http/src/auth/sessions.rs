//! Who is signed in to the web pages. The cookie carries a random id with a signature; everything else stays
//! here, so that signing out, an expired session and a removed user take effect at once.
//!
//! The key is made at every start: a restart signs everybody out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use aws_lc_rs::rand::{SystemRandom, fill};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

/// A session that was not used for so long has ended.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A session of this age has ended, used or not.
pub(crate) const AGE_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);

/// Sessions at a time; beyond that the one that has been idle for longest ends.
const MAX_SESSIONS: usize = 1024;

const ID_BYTES: usize = 32;
const TAG_BYTES: usize = 32;

/// The sessions.
pub(crate) struct Sessions {
    key: Key,
    open: Mutex<HashMap<[u8; ID_BYTES], Session>>,
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
struct Session {
    name: String,
    hash: String,
    opened: Instant,
    used: Instant,
}

/// What a valid cookie stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Who is signed in.
    pub(crate) name: String,
    /// The stored hash that the password was checked against.
    pub(crate) hash: String,
    /// The CSRF token of the session.
    pub(crate) csrf: String,
}

impl Sessions {
    /// No sessions, and a fresh key.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn new() -> Result<Self, Unspecified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())?;
        Ok(Self { key, open: Mutex::default() })
    }

    /// Opens a session for `name`, whose password was checked against `hash`; the value of its cookie.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(crate) fn open(&self, name: &str, hash: &str) -> Result<String, Unspecified> {
        let mut id = [0; ID_BYTES];
        fill(&mut id)?;
        let now = Instant::now();
        let session = Session { name: name.to_owned(), hash: hash.to_owned(), opened: now, used: now };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_SESSIONS {
            open.retain(|_, session| session.is_alive(now));
        }
        if open.len() >= MAX_SESSIONS
            && let Some(idle) = open.iter().min_by_key(|(_, session)| session.used).map(|(id, _)| *id)
        {
            open.remove(&idle);
        }
        open.insert(id, session);
        Ok(URL_SAFE_NO_PAD.encode([&id[..], self.tag(b"cookie", &id).as_ref()].concat()))
    }

    /// The session of a cookie, which counts as used now. `touch` false leaves its idle time running: for
    /// requests that a page sends by itself.
    pub(crate) fn find(&self, cookie: &str, touch: bool) -> Option<Found> {
        let id = self.id(cookie)?;
        let now = Instant::now();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let session = open.get_mut(&id)?;
        if !session.is_alive(now) {
            open.remove(&id);
            return None;
        }
        if touch {
            session.used = now;
        }
        let csrf = URL_SAFE_NO_PAD.encode(self.tag(b"csrf", &id));
        Some(Found { name: session.name.clone(), hash: session.hash.clone(), csrf })
    }

    /// Ends the session of a cookie.
    pub(crate) fn close(&self, cookie: &str) {
        if let Some(id) = self.id(cookie) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// Ends every session that `keep` refuses, given its user and the hash the password was checked against.
    pub(crate) fn keep(&self, keep: impl Fn(&str, &str) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, session| keep(&session.name, &session.hash));
    }

    /// The id in a cookie that this server has signed.
    fn id(&self, cookie: &str) -> Option<[u8; ID_BYTES]> {
        if cookie.len() > 2 * (ID_BYTES + TAG_BYTES) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (id, tag) = bytes.split_at_checked(ID_BYTES)?;
        verify(&self.key, &[b"cookie", id].concat(), tag).ok()?;
        id.try_into().ok()
    }

    fn tag(&self, what: &[u8], id: &[u8]) -> aws_lc_rs::hmac::Tag {
        sign(&self.key, &[what, id].concat())
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        now.duration_since(self.used) < IDLE_LIMIT && now.duration_since(self.opened) < AGE_LIMIT
    }
}

impl std::fmt::Debug for Sessions {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Sessions").field("open", &open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_from_its_opening_to_its_end() {
        let sessions = Sessions::new().unwrap();
        let cookie = sessions.open("anna", "hash").unwrap();
        let found = sessions.find(&cookie, true).unwrap();
        assert_eq!((found.name.as_str(), found.hash.as_str()), ("anna", "hash"));
        assert!(found.csrf.len() == 43 && !cookie.contains(&found.csrf), "{found:?}");
        let other = sessions.open("anna", "hash").unwrap();
        assert_ne!(sessions.find(&other, true).unwrap().csrf, found.csrf, "each session has its own");
        sessions.close(&cookie);
        assert_eq!(sessions.find(&cookie, true), None);
        assert!(sessions.find(&other, true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn half_an_hour_idle_or_half_a_day_in_all() {
        let sessions = Sessions::new().unwrap();
        let cookie = sessions.open("anna", "hash").unwrap();
        let almost = IDLE_LIMIT - Duration::from_secs(1);
        for _ in 0..AGE_LIMIT.as_secs() / almost.as_secs() {
            tokio::time::advance(almost).await;
            assert!(sessions.find(&cookie, true).is_some());
        }
        tokio::time::advance(almost).await;
        assert_eq!(sessions.find(&cookie, true), None, "too old");

        let cookie = sessions.open("anna", "hash").unwrap();
        tokio::time::advance(almost).await;
        assert!(sessions.find(&cookie, false).is_some(), "a request that does not count as use");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(sessions.find(&cookie, true), None, "too long idle");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_signed_here_is_nothing() {
        let sessions = Sessions::new().unwrap();
        let cookie = sessions.open("anna", "hash").unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(&cookie).unwrap();
        assert_eq!(Sessions::new().unwrap().find(&cookie, true), None, "another server's key");
        for at in [0, ID_BYTES, bytes.len() - 1] {
            bytes[at] ^= 1;
            assert_eq!(sessions.find(&URL_SAFE_NO_PAD.encode(&bytes), true), None, "byte {at}");
            bytes[at] ^= 1;
        }
        for text in ["", "x", &cookie[..cookie.len() - 2], &cookie.repeat(3), "ü"] {
            assert_eq!(sessions.find(text, true), None, "{text:?}");
        }
        assert!(sessions.find(&cookie, true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_has_an_end_and_forgets_users() {
        let sessions = Sessions::new().unwrap();
        let first = sessions.open("anna", "hash").unwrap();
        for _ in 0..MAX_SESSIONS {
            tokio::time::advance(Duration::from_millis(1)).await;
            sessions.open("björn", "hash").unwrap();
        }
        assert_eq!(sessions.open.lock().unwrap().len(), MAX_SESSIONS);
        assert_eq!(sessions.find(&first, true), None);
        sessions.keep(|name, _| name == "anna");
        assert!(sessions.open.lock().unwrap().is_empty());
    }
}
