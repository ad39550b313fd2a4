//! Quota scans: which run, and starting one. The counting is core's.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use tidegate_core::{ScanError, StoreError};
use tracing::error;

use super::types::UserBody;
use crate::body::read_object;
use crate::error::{ApiError, envelope, json, provider_text};
use crate::state::Parts;

#[derive(Debug, Serialize)]
struct ScanJson {
    username: String,
    start_time: i64,
    /// Found so far.
    scanned_files: i64,
    scanned_size: i64,
}

/// `GET /api/v1/quota_scan`
pub(crate) async fn list(State(parts): State<Arc<Parts>>) -> Response {
    let running = parts.sessions.scans().into_iter();
    let scans: Vec<_> = running
        .map(|scan| ScanJson {
            username: scan.username,
            start_time: scan.start_time,
            scanned_files: scan.found.files,
            scanned_size: scan.found.size_bytes,
        })
        .collect();
    json(StatusCode::OK, &scans)
}

/// `POST /api/v1/quota_scan`. Any failure to look the user up is 404.
pub(crate) async fn start(State(parts): State<Arc<Parts>>, body: Body) -> Result<Response, ApiError> {
    let sent: UserBody = read_object(body).await?;
    let username = sent.into_patch().username.unwrap_or_default();
    Ok(match parts.sessions.scan(&username).await {
        Ok(()) => envelope(StatusCode::CREATED, "", "Scan started"),
        Err(ScanError::Running) => envelope(StatusCode::CONFLICT, "", "Another scan is already in progress"),
        Err(ScanError::User(failure)) => {
            if !matches!(failure, StoreError::NotFound) {
                error!(sender = "httpd", "the data provider failed: {failure}");
            }
            envelope(StatusCode::NOT_FOUND, provider_text(&failure), "")
        }
        Err(stopping @ ScanError::ShuttingDown) => {
            envelope(StatusCode::SERVICE_UNAVAILABLE, &stopping.to_string(), "")
        }
    })
}
