//! Request bodies: read within limits of size and time, decoded as JSON. What the fields mean is in
//! `api/types.rs`.

use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// How long a body may take in all.
const READ_LIMIT: Duration = Duration::from_secs(300);

/// How long nothing of it may come.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Longest body of an object that is read.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Of a body that is too long, so much is read and thrown away: a client that writes its whole request before
/// it looks for an answer would otherwise see a reset connection and no reason.
const MAX_DISCARDED_BYTES: usize = 16 << 20;
const DISCARD_LIMIT: Duration = Duration::from_secs(10);

/// Reads `body` and decodes it. One JSON object and nothing behind it; `null` stands for an empty object.
pub(crate) async fn read_object<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    let text = read(body, MAX_BODY_BYTES).await?;
    decode(&text).map_err(|what| ApiError::BadRequest(format!("the body is not valid: {what}")))
}

/// Reads `body`, of which there may be `limit` bytes.
pub(crate) async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let read = async {
        let mut limited = Limited::new(&mut body, limit);
        let mut text = Vec::new();
        loop {
            let next = tokio::time::timeout(STALL_LIMIT, limited.frame()).await;
            let Some(frame) = next.map_err(|_| ApiError::TooSlow)? else { return Ok(text) };
            match frame {
                Ok(frame) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(error) if error.is::<LengthLimitError>() => return Err(ApiError::TooLarge { limit }),
                Err(_) => return Err(ApiError::BadRequest("the body ends early".to_owned())),
            }
        }
    };
    let text = tokio::time::timeout(READ_LIMIT, read).await.unwrap_or(Err(ApiError::TooSlow));
    if matches!(text, Err(ApiError::TooLarge { .. })) {
        let _best_effort = tokio::time::timeout(DISCARD_LIMIT, discard(body)).await;
    }
    text
}

async fn discard(mut body: Body) {
    let mut seen = 0;
    while let Some(Ok(frame)) = body.frame().await {
        seen += frame.data_ref().map_or(0, |data| data.len());
        if seen > MAX_DISCARDED_BYTES {
            return;
        }
    }
}

/// Goes through a map, because a structure alone would also be read from an array of its fields.
fn decode<T: DeserializeOwned + Default>(text: &[u8]) -> Result<T, String> {
    let object: Option<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let Some(object) = object else { return Ok(T::default()) };
    serde_path_to_error::deserialize(serde_json::Value::Object(object)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Bytes, Frame};
    use tokio::time::Instant;

    use super::*;

    /// One byte as often as it says, or never.
    struct Slow(Option<tokio::time::Interval>);

    impl hyper::body::Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(interval) = &mut self.0 else { return Poll::Pending };
            interval.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b" ")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_or_trickles_is_given_up() {
        let trickle = tokio::time::interval(Duration::from_secs(20));
        for (slow, limit) in [(Slow(None), STALL_LIMIT), (Slow(Some(trickle)), READ_LIMIT)] {
            let started = Instant::now();
            let answer = read_object::<()>(Body::new(slow)).await;
            assert!(matches!(answer, Err(ApiError::TooSlow)), "{answer:?}");
            assert_eq!(started.elapsed().as_secs(), limit.as_secs());
        }
    }
}
