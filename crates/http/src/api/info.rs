//! Which build this is, and whether the data provider works.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::error::{ApiError, done, json};
use crate::state::Parts;

/// `GET /api/v1/version`
pub(crate) async fn version(State(parts): State<Arc<Parts>>) -> Response {
    json(StatusCode::OK, &parts.version)
}

/// `GET /api/v1/providerstatus`
pub(crate) async fn provider_status(State(parts): State<Arc<Parts>>) -> Result<Response, ApiError> {
    parts.accounts.ping().await?;
    Ok(done("Alive"))
}
