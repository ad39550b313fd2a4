//! Failures as clients see them: domain error → status and JSON envelope (`spec/rest-api.md` §2).
//!
//! The only file that gives failures a status. What the data provider said is logged here and never sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_core::{AccountError, RestoreFailure, StoreError};
use tracing::error;

use crate::json_text;

/// The answer of every endpoint that returns no resource, and of every failure.
#[derive(Debug, Serialize)]
struct Envelope<'a> {
    error: &'a str,
    message: &'a str,
    status: u16,
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// No such path.
    NoSuchPath,
    /// The path exists, for these methods.
    MethodNotAllowed {
        /// Value of the `Allow` header.
        allowed: &'static str,
    },
    /// A parameter or the body cannot be used.
    BadRequest(String),
    /// The id in the body is not the one in the path.
    IdMismatch {
        /// The id in the body.
        sent: i64,
        /// The id in the path.
        path: i64,
    },
    /// The connection does not exist or is not active.
    NoSuchConnection,
    /// The request could come from a foreign web page.
    Forbidden(String),
    /// The body is longer than allowed.
    TooLarge {
        /// The bytes that are allowed.
        limit: usize,
    },
    /// The body did not arrive in time.
    TooSlow,
    /// The account could not be read or changed.
    Account(AccountError),
    /// A file cannot be a dump.
    BadDump(String),
    /// A text is not a dump of users.
    NotADump {
        /// Which text.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A user of a dump could not be stored.
    Restore {
        /// Which one, and why.
        failure: RestoreFailure,
        /// How many were before it.
        done: usize,
    },
    /// The system failed, which the log tells more of.
    Internal(String),
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        Self::Account(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::NoSuchPath | Self::NoSuchConnection => envelope(StatusCode::NOT_FOUND, "", "Not Found"),
            Self::MethodNotAllowed { allowed } => {
                let mut response = envelope(StatusCode::METHOD_NOT_ALLOWED, "", "Method not allowed");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
                response
            }
            Self::BadRequest(what) => envelope(StatusCode::BAD_REQUEST, &what, ""),
            Self::IdMismatch { sent, path } => {
                let what = format!("the id in the body is {sent}, the id in the path is {path}");
                envelope(StatusCode::BAD_REQUEST, "", &what)
            }
            Self::Forbidden(why) => envelope(StatusCode::FORBIDDEN, &why, ""),
            Self::TooLarge { limit } => {
                envelope(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {limit} bytes"), "")
            }
            Self::TooSlow => envelope(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", ""),
            Self::Account(failure) => account_failed(&failure),
            Self::BadDump(what) => envelope(StatusCode::BAD_REQUEST, "", &what),
            Self::NotADump { what, why } => envelope(StatusCode::BAD_REQUEST, &why, &what),
            Self::Restore { failure, done } => restore_failed(&failure, done),
            Self::Internal(what) => envelope(StatusCode::INTERNAL_SERVER_ERROR, &what, ""),
        }
    }
}

fn account_failed(failure: &AccountError) -> Response {
    let (status, text) = account_status(failure);
    envelope(status, &text, "")
}

/// What is stored already stays so; the answer says how far it came.
fn restore_failed(failure: &RestoreFailure, done: usize) -> Response {
    let (status, text) = account_status(&failure.error);
    let RestoreFailure { index, username, .. } = failure;
    envelope(
        status,
        &format!("{text} (users[{index}], {username:?}; {done} users before it were restored)"),
        "",
    )
}

fn account_status(failure: &AccountError) -> (StatusCode, String) {
    let status = match failure {
        AccountError::Invalid(_) => StatusCode::BAD_REQUEST,
        AccountError::NotFound => StatusCode::NOT_FOUND,
        AccountError::Disabled => StatusCode::FORBIDDEN,
        AccountError::Conflict | AccountError::Store(_) | AccountError::Hashing => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    match failure {
        AccountError::Store(source) => {
            error!(sender = "httpd", "the data provider failed: {source}");
            (status, provider_text(source).to_owned())
        }
        other => (status, other.to_string()),
    }
}

/// What clients may know of a failure of the data provider.
pub(crate) fn provider_text(failure: &StoreError) -> &'static str {
    match failure {
        StoreError::NotFound => "Not found: no such user",
        StoreError::Conflict => "username already exists",
        StoreError::Unavailable(_) => "the data provider is not available, the log says why",
        StoreError::Uncertain(_) => {
            "the data provider did not answer, the change may be done or not; the log says why"
        }
        StoreError::Corrupt(_) => "a record of the data provider is damaged, the log says which",
    }
}

/// The envelope of a success.
pub(crate) fn done(message: &str) -> Response {
    envelope(StatusCode::OK, "", message)
}

/// The answer to a defect of ours, which the log describes.
pub(crate) fn internal() -> Response {
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (StatusCode::INTERNAL_SERVER_ERROR, plain, "Internal Server Error\n").into_response()
}

/// An answer without a resource.
pub(crate) fn envelope(status: StatusCode, error: &str, message: &str) -> Response {
    json(status, &Envelope { error, message, status: status.as_u16() })
}

/// Any value as a JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let Ok(mut body) = json_text::to_vec(value) else { return internal() };
    body.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}
