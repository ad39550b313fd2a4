//! Who may come in. Without `httpd.auth_user_file` everybody who reaches the server; with it, whoever is in that
//! file.
//!
//! `door.rs` stands before each route and asks `gate.rs`, which knows the users of the file (`users.rs`, in the
//! form of `htpasswd.rs`), the sessions of the web pages (`sessions.rs`, `cookie.rs`), the header of HTTP Basic
//! (`basic.rs`) and the addresses that have failed too often (`attempts.rs`); `stream.rs` ends what a page still
//! receives when its session ends. Against requests that a foreign
//! web page makes a browser send there is also `guard.rs`, one level up.

mod attempts;
mod basic;
mod cookie;
mod door;
mod gate;
mod htpasswd;
mod sessions;
mod stream;
mod users;

use aws_lc_rs::constant_time;

use crate::error::ApiError;

pub(crate) use self::basic::Credentials;
pub(crate) use self::door::{Door, SignedIn, enter, local, retry_after};
pub(crate) use self::gate::{Denied, Gate};
pub use self::users::UserFileError;

/// What a route asks of its visitors when `httpd.auth_user_file` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// A name and a password with every request (HTTP Basic), or the session of the web pages.
    Api,
    /// The session of the web pages; without one the visitor is sent to the sign-in page.
    Page,
}

/// Who sent a request: an extension of every request that reaches a handler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visitor {
    /// The name that was signed in with; `None` where no sign-in is configured.
    pub(crate) name: Option<String>,
    /// The token that forms must send as `_csrf` and scripts as `X-CSRF-Token`; empty if none is needed.
    pub(crate) csrf: String,
}

impl Visitor {
    /// Checks a token that came with a request. Handlers need it for the first field of a multipart body only:
    /// everything else is checked before they are called.
    pub(crate) fn check_csrf(&self, sent: &str) -> Result<(), ApiError> {
        let same = constant_time::verify_slices_are_equal(self.csrf.as_bytes(), sent.as_bytes());
        if self.csrf.is_empty() || same.is_ok() {
            return Ok(());
        }
        let why = "the CSRF token is missing or belongs to another session: load the page again";
        Err(ApiError::Forbidden(why.to_owned()))
    }
}

/// Checks that `name` can stand in `httpd.auth_user_file`.
///
/// # Errors
/// What is wrong with it.
pub fn check_user_name(name: &str) -> Result<(), String> {
    htpasswd::check_name(name)
}
