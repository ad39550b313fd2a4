//! `/metrics`: what core counts and what the system says of the process, in the text format 0.0.4
//! (`spec/metrics.md`).

use std::io::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::error;

use crate::auth::Gate;
use crate::error::internal;
use crate::places::Places;
use crate::process;
use crate::state::Parts;

/// Answers any method with everything that is counted.
pub(crate) async fn expose(
    State(parts): State<Arc<Parts>>,
    State(gate): State<Option<Arc<Gate>>>,
    State(places): State<Arc<Places>>,
    headers: HeaderMap,
) -> Response {
    parts.metrics.store_pool(parts.accounts.pool());
    let mut text = match parts.metrics.encode() {
        Ok(text) => text,
        Err(error) => {
            error!(sender = "httpd", "the metrics cannot be written: {error}");
            return internal();
        }
    };
    text += &gate.map(|gate| gate.metrics()).unwrap_or_default();
    text += &places.metrics();
    text += &program(&parts);
    // Counting the descriptors of a busy server is some work for the kernel.
    text += &tokio::task::spawn_blocking(process::metrics).await.unwrap_or_default();
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    if accepts_gzip(&headers)
        && let Some(packed) = gzip(&text)
    {
        let mut response = (content_type, packed).into_response();
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return response;
    }
    (content_type, text).into_response()
}

/// What the other parts count by themselves.
fn program(parts: &Parts) -> String {
    let moved = parts.sessions.activity().total();
    let version = &parts.version;
    format!(
        "# HELP tidegate_transferred_bytes_total Bytes moved by transfers, running and failed ones included\n\
         # TYPE tidegate_transferred_bytes_total counter\n\
         tidegate_transferred_bytes_total{{direction=\"upload\"}} {}\n\
         tidegate_transferred_bytes_total{{direction=\"download\"}} {}\n\
         # HELP tidegate_build_info Which build this is; the value is always 1\n\
         # TYPE tidegate_build_info gauge\n\
         tidegate_build_info{{version={:?},commit={:?}}} 1\n",
        moved.uploaded_bytes, moved.downloaded_bytes, version.version, version.commit_hash,
    )
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn gzip(text: &str) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_only_where_it_is_accepted() {
        for (value, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("br , gzip ; q=1", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), accepted, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
