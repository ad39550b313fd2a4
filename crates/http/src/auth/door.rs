//! What stands before each route: the visitor is found, or the request is answered here. With
//! `httpd.auth_user_file` the gate decides; without it everybody comes in, and `guard.rs` alone keeps foreign
//! web pages out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use minijinja::context;

use super::gate::{Denied, Gate};
use super::stream::Ticket;
use super::{Access, Visitor};
use crate::body;
use crate::client::Client;
use crate::error::{ApiError, envelope, internal};
use crate::state::AppState;
use crate::web::pages::Pages;

const X_CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrf-token");
const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const HX_CURRENT_URL: HeaderName = HeaderName::from_static("hx-current-url");
const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");

/// What `WWW-Authenticate` says.
const CHALLENGE: &str = "Basic realm=\"Tidegate\", charset=\"UTF-8\"";

/// Who sent a request that a gate let in: an extension of the response, for the log.
#[derive(Debug, Clone)]
pub(crate) struct SignedIn(pub(crate) String);

/// What stands before one route.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    gate: Option<Arc<Gate>>,
    pages: Pages,
    access: Access,
    multipart: bool,
}

impl Door {
    /// The door of a route that asks for `access`; `multipart` says that the handler takes such bodies and
    /// checks their token itself.
    pub(crate) fn new(state: &AppState, access: Access, multipart: bool) -> Self {
        Self { gate: state.gate.clone(), pages: state.pages.clone(), access, multipart }
    }

    /// The visitor of a request, which is handed back: its body may have been read.
    async fn admit(&self, request: Request) -> Result<(Visitor, Request), Response> {
        let Some(gate) = &self.gate else { return Ok((Visitor::default(), request)) };
        let Some(client) = request.extensions().get::<Client>().copied() else { return Err(internal()) };
        // A stream is not somebody at the keyboard.
        let touch = request.headers().get(header::ACCEPT).is_none_or(|value| value != "text/event-stream");
        if self.access == Access::Api {
            // A password that is sent is checked, whatever cookie comes with it.
            match gate.basic(request.headers(), client).await {
                Ok(Some(visitor)) => return Ok((visitor, request)),
                Ok(None) => {}
                Err(denied) => return Err(denied_response(denied)),
            }
        }
        match gate.session(request.headers(), client, touch) {
            Some(visitor) if self.access == Access::Open => Ok((visitor, request)),
            Some(visitor) => match self.check_csrf(&visitor, request).await {
                Ok(request) => Ok((visitor, request)),
                Err(error) => Err(self.refuse(&visitor, error)),
            },
            None if self.access == Access::Open => Ok((Visitor::default(), request)),
            None => Err(self.challenge(&request)),
        }
    }

    /// A request that changes something and comes with a cookie must know the token of the session: in a
    /// header, or in the form. A body of `multipart/form-data` is left to the handlers that take such bodies.
    async fn check_csrf(&self, visitor: &Visitor, request: Request) -> Result<Request, ApiError> {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(request);
        }
        if let Some(token) = request.headers().get(X_CSRF_TOKEN) {
            visitor.check_csrf(token.to_str().unwrap_or_default())?;
            return Ok(request);
        }
        match content_type(request.headers()).as_str() {
            "multipart/form-data" if self.multipart => Ok(request),
            "application/x-www-form-urlencoded" => {
                let (parts, sent) = request.into_parts();
                let text = body::read(sent, body::MAX_BODY_BYTES).await?;
                let token = form_urlencoded::parse(&text).find(|(name, _)| name == "_csrf");
                visitor.check_csrf(token.as_ref().map_or("", |(_, token)| token))?;
                Ok(Request::from_parts(parts, Body::from(text)))
            }
            _ => visitor.check_csrf("").map(|()| request),
        }
    }

    /// The session that a visitor came with, if it was one.
    fn ticket(&self, visitor: &Visitor, request: &Request) -> Option<Ticket> {
        let gate = self.gate.as_ref().filter(|_| !visitor.csrf.is_empty())?;
        Some(Ticket::new(gate, request.headers(), *request.extensions().get::<Client>()?))
    }

    fn refuse(&self, visitor: &Visitor, error: ApiError) -> Response {
        match error {
            ApiError::Forbidden(why) if self.access == Access::Page => {
                let context = context! { title => "Forbidden", text => why, detail => "" };
                self.pages.render(visitor, StatusCode::FORBIDDEN, "message.html", context)
            }
            error => error.into_response(),
        }
    }

    /// Asks for a sign-in, in the way that the visitor understands.
    fn challenge(&self, request: &Request) -> Response {
        if self.access == Access::Api {
            let mut response = envelope(StatusCode::UNAUTHORIZED, "a name and a password are needed", "");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
            return response;
        }
        let headers = request.headers();
        if headers.contains_key(HX_REQUEST) {
            // A part of a page cannot become the sign-in page: the whole page has to.
            let current = headers.get(HX_CURRENT_URL).and_then(|url| url.to_str().ok()).unwrap_or_default();
            let current = current.parse::<axum::http::Uri>().unwrap_or_default();
            let to = sign_in_address(current.path_and_query().map_or("", |target| target.as_str()));
            return (StatusCode::UNAUTHORIZED, [(HX_REDIRECT, to)]).into_response();
        }
        let is_page = matches!(*request.method(), Method::GET | Method::HEAD);
        let target = request.uri().path_and_query().filter(|_| is_page);
        let to = sign_in_address(target.map_or("", |target| target.as_str()));
        (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
    }
}

/// Lets a request in, with its [`Visitor`], or answers it.
pub(crate) async fn enter(State(door): State<Door>, request: Request, next: Next) -> Response {
    match door.admit(request).await {
        Ok((visitor, mut request)) => {
            let signed_in = visitor.name.clone().map(SignedIn);
            let ticket = door.ticket(&visitor, &request);
            request.extensions_mut().insert(visitor);
            let mut response = next.run(request).await;
            if let Some(ticket) = ticket {
                response = ticket.limit(response);
            }
            if let Some(signed_in) = signed_in {
                response.extensions_mut().insert(signed_in);
            }
            response
        }
        Err(response) => response,
    }
}

/// Where a visitor signs in who wanted to see `target`.
fn sign_in_address(target: &str) -> String {
    match local(target) {
        Some(target) => {
            let next: String = form_urlencoded::byte_serialize(target.as_bytes()).collect();
            format!("/web/login?next={next}")
        }
        None => "/web/login".to_owned(),
    }
}

/// A path of this server: `target`, unless a browser could take it for an address elsewhere, or it is the
/// sign-in page itself.
pub(crate) fn local(target: &str) -> Option<&str> {
    let mut rest = target.strip_prefix('/')?.bytes();
    let is_path = !target.starts_with("//") && rest.all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_sign = ["/web/login", "/web/logout"].iter().any(|path| target.starts_with(path));
    (is_path && !is_sign && target != "/" && target.len() <= 2048).then_some(target)
}

fn denied_response(denied: Denied) -> Response {
    match denied {
        Denied::Wrong => {
            let mut response = envelope(StatusCode::UNAUTHORIZED, "Invalid credentials", "");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
            response
        }
        Denied::TooOften(wait) => {
            let why = "too many failed attempts to sign in from this address";
            let mut response = envelope(StatusCode::TOO_MANY_REQUESTS, why, "");
            response.headers_mut().insert(header::RETRY_AFTER, retry_after(wait));
            response
        }
        Denied::Failed => internal(),
    }
}

/// The value of `Retry-After`: whole seconds, rounded up.
pub(crate) fn retry_after(wait: super::attempts::Wait) -> HeaderValue {
    HeaderValue::from(wait.0.as_secs() + 1)
}

/// The media type of the body, in lower case and without its parameters.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_go_after_signing_in() {
        for (target, expected) in [
            ("/web/users", true),
            ("/web/users?q=a%20b&page=2", true),
            ("/", false),
            ("", false),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("\\\\evil.example", false),
            ("https://evil.example/", false),
            ("javascript:alert(1)", false),
            ("/web/\r\nSet-Cookie: a=b", false),
            ("/web/\tx", false),
            ("/web/ü", false),
            ("/web/login?next=/web/login", false),
            ("/web/logout", false),
        ] {
            assert_eq!(local(target).is_some(), expected, "{target:?}");
        }
        assert_eq!(sign_in_address("/web/users?q=a&b"), "/web/login?next=%2Fweb%2Fusers%3Fq%3Da%26b");
        assert_eq!(sign_in_address("//evil.example"), "/web/login");
    }
}
