//! Who may come in.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::state::AppState;

/// What a route asks of its visitors when `httpd.auth_user_file` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the first open route is on its way")]
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
#[allow(dead_code, reason = "the first page that shows it is on its way")]
pub(crate) struct Visitor {
    /// The name that was signed in with; `None` where no sign-in is configured.
    pub(crate) name: Option<String>,
    /// The token that forms must send as `_csrf` and scripts as `X-CSRF-Token`; empty if none is needed.
    pub(crate) csrf: String,
}

#[allow(dead_code, reason = "the first page that takes a file is on its way")]
impl Visitor {
    /// Checks a token that came in the first field of a multipart body.
    pub(crate) fn check_csrf(&self, sent: &str) -> Result<(), ApiError> {
        if self.csrf.is_empty() || self.csrf == sent {
            return Ok(());
        }
        Err(ApiError::Forbidden("the CSRF token is missing or out of date: reload the page".to_owned()))
    }
}

/// What stands before one route.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    _access: Access,
    _multipart: bool,
}

impl Door {
    /// The door of a route.
    pub(crate) fn new(_state: &AppState, access: Access, multipart: bool) -> Self {
        Self { _access: access, _multipart: multipart }
    }
}

/// Lets a request in, with its [`Visitor`], or answers it.
pub(crate) async fn enter(State(_door): State<Door>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Visitor::default());
    next.run(request).await
}
