//! What handlers may reach, handed over once when the server is built.

use std::sync::Arc;

use axum::extract::FromRef;
use serde::Serialize;
use tidegate_core::{Accounts, Metrics, Sessions};

use crate::auth::Gate;
use crate::backups::Backups;
use crate::places::Places;
use crate::web::pages::Pages;
use crate::web::stream::Live;

/// The parts of the program that the HTTP server shows and changes.
#[derive(Clone)]
pub struct Parts {
    /// The accounts.
    pub accounts: Accounts,
    /// Who is connected.
    pub sessions: Sessions,
    /// What is counted.
    pub metrics: Metrics,
    /// Which build this is.
    pub version: VersionInfo,
}

/// The state of the router. A handler asks for the piece that it needs: `State(parts): State<Arc<Parts>>`.
#[derive(Clone)]
pub(crate) struct AppState {
    /// The parts of the program.
    pub(crate) parts: Arc<Parts>,
    /// Where backups go.
    pub(crate) backups: Arc<Backups>,
    /// The pages of the web administration.
    pub(crate) pages: Pages,
    /// Who follows a page.
    pub(crate) live: Live,
    /// The places of connections.
    pub(crate) places: Arc<Places>,
    /// Who may come in; `None` without `httpd.auth_user_file`.
    pub(crate) gate: Option<Arc<Gate>>,
}

impl FromRef<AppState> for Option<Arc<Gate>> {
    fn from_ref(state: &AppState) -> Self {
        state.gate.clone()
    }
}

impl FromRef<AppState> for Arc<Backups> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.backups)
    }
}

impl FromRef<AppState> for Arc<Parts> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.parts)
    }
}

impl FromRef<AppState> for Live {
    fn from_ref(state: &AppState) -> Self {
        state.live.clone()
    }
}

impl FromRef<AppState> for Pages {
    fn from_ref(state: &AppState) -> Self {
        state.pages.clone()
    }
}

/// Which build this is, as `GET /api/v1/version` shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VersionInfo {
    /// Semantic version, such as `0.1.0`.
    pub version: String,
    /// Build date, may be empty.
    pub build_date: String,
    /// Commit, may be empty.
    pub commit_hash: String,
}

impl FromRef<AppState> for Arc<Places> {
    fn from_ref(state: &AppState) -> Self {
        Self::clone(&state.places)
    }
}
