//! The list of users as a file for spreadsheets: those that the list finds, all of them, by name. What a line looks
//! like is `csv.rs`'s matter. The users are read and sent in batches, so a hundred thousand take no more memory than
//! one batch; who is added or removed meanwhile may be in the file or not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use tidegate_core::{AccountError, UserPage, UserQuery, UserSort};

use crate::api::types::UserJson;
use crate::csv;
use crate::state::Parts;
use crate::web::forms::Form;
use crate::web::pages::View;
use crate::web::text;
use crate::web::users::{Wanted, told};

/// Users that are read at a time: few enough for memory, and enough that finding their place costs little.
const BATCH: u32 = 2000;

/// `GET /web/users/export.csv`
pub(crate) async fn users(view: View, State(parts): State<Arc<Parts>>, uri: Uri) -> Response {
    let query = match Form::parse(uri.query().unwrap_or_default().as_bytes()) {
        Ok(form) => Wanted::read(&form).query(),
        Err(reason) => return view.message(StatusCode::BAD_REQUEST, &reason),
    };
    let query = UserQuery { sort: UserSort::Username, descending: false, offset: 0, limit: BATCH, ..query };
    let first = match parts.accounts.search(&query).await {
        Ok(page) => page,
        Err(failure) => return view.message(StatusCode::INTERNAL_SERVER_ERROR, &told(&failure)),
    };
    let name = format!("users-{}.csv", text::date((tidegate_core::system_clock())()));
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    let rows = Rows { parts, query, page: Some(first), text: csv::header() };
    (headers, Body::new(Lines { next: Box::pin(rows.next()) })).into_response()
}

/// Where the export is.
struct Rows {
    parts: Arc<Parts>,
    query: UserQuery,
    /// Users that were read and not sent yet.
    page: Option<UserPage>,
    /// What goes before them.
    text: String,
}

type Next = Pin<Box<dyn Future<Output = Option<Result<(Rows, Bytes), AccountError>>> + Send>>;

impl Rows {
    /// The lines of the next batch; `None` is the end.
    async fn next(mut self) -> Option<Result<(Self, Bytes), AccountError>> {
        let page = match self.page.take() {
            Some(page) => page,
            None => match self.parts.accounts.search(&self.query).await {
                Ok(page) => page,
                Err(failure) => return Some(Err(failure)),
            },
        };
        let mut text = std::mem::take(&mut self.text);
        for user in &page.users {
            // An object of numbers and texts cannot fail to become a value.
            let user = serde_json::to_value(UserJson::from(user)).unwrap_or_default();
            text.push_str(&csv::user(&user));
        }
        if text.is_empty() {
            return None;
        }
        self.query.offset = self.query.offset.saturating_add(BATCH);
        Some(Ok((self, Bytes::from(text))))
    }
}

/// The lines as the body of an answer. A failure in the middle ends it before its end, so nobody takes it for whole.
struct Lines {
    next: Next,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = AccountError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AccountError>>> {
        let next = ready!(self.next.as_mut().poll(cx));
        let (rest, answer): (Next, _) = match next {
            Some(Ok((rows, text))) => (Box::pin(rows.next()), Some(Ok(Frame::data(text)))),
            Some(Err(failure)) => {
                // For the log, which is the only one that can be told now.
                told(&failure);
                (Box::pin(std::future::ready(None)), Some(Err(failure)))
            }
            None => (Box::pin(std::future::ready(None)), None),
        };
        self.next = rest;
        Poll::Ready(answer)
    }
}
