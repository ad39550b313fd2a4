//! Who is connected, and ending a connection.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::types::ConnectionJson;
use crate::error::{ApiError, done, json};
use crate::state::Parts;

/// `GET /api/v1/connection`
pub(crate) async fn list(State(parts): State<Arc<Parts>>) -> Response {
    let active = parts.sessions.list();
    let connections: Vec<_> = active.iter().map(ConnectionJson::from).collect();
    json(StatusCode::OK, &connections)
}

/// `DELETE /api/v1/connection/{id}`
pub(crate) async fn close(
    State(parts): State<Arc<Parts>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    match id {
        Ok(Path(id)) if parts.sessions.close(&id) => Ok(done("Connection closed")),
        _ => Err(ApiError::NoSuchConnection),
    }
}
