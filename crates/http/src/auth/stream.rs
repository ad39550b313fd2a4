//! Answers that last as long as a page is open: they end with the session that asked for them, not only when
//! the page asks again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use hyper::body::Frame;

use super::gate::Gate;
use crate::client::Client;

/// The session of a request, to be looked at again.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    gate: Arc<Gate>,
    cookies: HeaderMap,
    client: Client,
}

impl Ticket {
    /// The ticket of a request with these headers.
    pub(crate) fn new(gate: &Arc<Gate>, headers: &HeaderMap, client: Client) -> Self {
        let mut cookies = HeaderMap::new();
        headers.get_all(header::COOKIE).iter().for_each(|value| {
            cookies.append(header::COOKIE, value.clone());
        });
        Self { gate: Arc::clone(gate), cookies, client }
    }

    /// Makes `response` end with the session if it is a stream of events.
    pub(crate) fn limit(self, response: Response) -> Response {
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return response;
        }
        response.map(|body| Body::new(Limited { body, ticket: self, ended: false }))
    }

    fn is_valid(&self) -> bool {
        self.gate.session(&self.cookies, self.client, false).is_some()
    }
}

/// A body that ends before its next piece once the session has ended.
struct Limited {
    body: Body,
    ticket: Ticket,
    ended: bool,
}

impl hyper::body::Body for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) && !self.ticket.is_valid() {
            self.ended = true;
            return Poll::Ready(None);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
