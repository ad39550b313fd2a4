//! Signing in and out. Who is let in, and what a session is, is `auth/`'s.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::context;

use super::pages::View;
use crate::auth::{Credentials, Denied, Gate, local, retry_after};
use crate::body;
use crate::client::Client;
use crate::error::internal;

/// Longest form that is read.
const MAX_FORM_BYTES: usize = 16 << 10;

/// Where to go if the visitor did not come from a page.
const START: &str = "/web/users";

/// `GET /web/login`
pub(crate) async fn show(
    State(gate): State<Option<Arc<Gate>>>,
    view: View,
    RawQuery(query): RawQuery,
) -> Response {
    let next = field(query.unwrap_or_default().as_bytes(), "next");
    if gate.is_none() || view.visitor.name.is_some() {
        return see_other(local(&next).unwrap_or(START), None);
    }
    page(&view, StatusCode::OK, "", "", &next)
}

/// `POST /web/login`
pub(crate) async fn sign_in(
    State(gate): State<Option<Arc<Gate>>>,
    Extension(client): Extension<Client>,
    view: View,
    headers: HeaderMap,
    sent: Body,
) -> Response {
    let form = match body::read(sent, MAX_FORM_BYTES).await {
        Ok(form) => form,
        Err(error) => return error.into_response(),
    };
    let next = field(&form, "next");
    let Some(gate) = gate else { return see_other(START, None) };
    let credentials = Credentials { name: field(&form, "username"), password: field(&form, "password") };
    if credentials.name.is_empty() || credentials.password.is_empty() {
        let what = "Please enter a name and a password.";
        return page(&view, StatusCode::BAD_REQUEST, what, &credentials.name, &next);
    }
    match gate.sign_in(&credentials, &headers, client).await {
        Ok(cookie) => see_other(local(&next).unwrap_or(START), Some(&cookie)),
        Err(Denied::Wrong) => {
            let what = "Name or password are wrong.";
            page(&view, StatusCode::UNAUTHORIZED, what, &credentials.name, &next)
        }
        Err(Denied::TooOften(wait)) => {
            let what =
                format!("Too many failed attempts. Please try again in {} seconds.", wait.0.as_secs() + 1);
            let mut page = page(&view, StatusCode::TOO_MANY_REQUESTS, &what, &credentials.name, &next);
            page.headers_mut().insert(header::RETRY_AFTER, retry_after(wait));
            page
        }
        Err(Denied::Failed) => internal(),
    }
}

/// `POST /web/logout`
pub(crate) async fn sign_out(
    State(gate): State<Option<Arc<Gate>>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Response {
    match gate {
        Some(gate) => see_other("/web/login", Some(&gate.sign_out(&headers, client))),
        None => see_other(START, None),
    }
}

fn page(view: &View, status: StatusCode, error: &str, username: &str, next: &str) -> Response {
    let next = local(next).unwrap_or_default();
    view.render_as(status, "login.html", context! { title => "Sign in", error, username, next })
}

fn see_other(to: &str, cookie: Option<&str>) -> Response {
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
        Ok(value) => headers.insert(name, value).is_none(),
        Err(_) => false,
    };
    if !set(header::LOCATION, to) || cookie.is_some_and(|cookie| !set(header::SET_COOKIE, cookie)) {
        return internal();
    }
    (StatusCode::SEE_OTHER, headers).into_response()
}

/// The first value of a field; empty if there is none.
fn field(form: &[u8], name: &str) -> String {
    let mut fields = form_urlencoded::parse(form);
    fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}
