//! Every path that exists: method, handler, and who may come in. What a handler does is its own file's matter;
//! what [`Access`] means is `auth/`'s.
//!
//! Paths match exactly; what is not listed is 404, a method that is not listed 405. The rows that need no
//! sign-in are asserted literally in the tests below: a new one is a decision, not an accident.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any, delete, get, post};

use crate::auth::{self, Access};
use crate::error::ApiError;
use crate::state::AppState;
use crate::web::pages::View;
use crate::{api, metrics, web};

/// One path.
pub(crate) struct Route {
    /// As axum writes it: `/api/v1/user/{id}`.
    pub(crate) path: &'static str,
    /// The methods that are answered, as the header `Allow` lists them; empty means any.
    pub(crate) methods: &'static str,
    /// Who may come in.
    pub(crate) access: Access,
    /// Whether a body of `multipart/form-data` is taken. Its CSRF token is checked by the handler, which must
    /// call [`auth::Visitor::check_csrf`] on the first field; every other route refuses such a body.
    pub(crate) multipart: bool,
    handler: MethodRouter<AppState>,
}

/// The table.
#[rustfmt::skip]
pub(crate) fn table() -> Vec<Route> {
    use Access::{Api, Open, Page};
    use api::{backup, connections, docs, info, quota, users};

    let to_users = || async { (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/web/users")]) };
    vec![
        row("GET",              "/",                            Page, get(to_users)),
        row("GET",              "/web",                         Page, get(to_users)),

        row("GET, POST",        "/web/login",                   Open, get(web::login::show).post(web::login::sign_in)),
        row("POST",             "/web/logout",                  Page, post(web::login::sign_out)),

        row("GET",              "/web/dashboard",               Page, get(web::dashboard::page)),
        row("GET",              "/web/dashboard/live",          Page, get(web::dashboard::live)),
        row("GET, POST",        "/web/users",                   Page, get(web::users::list).post(web::users::act)),
        row("GET",              "/web/users/export.csv",        Page, get(web::export::users)),
        row("GET, POST",        "/web/user",                    Page, get(web::user::blank).post(web::user::add)),
        row("POST",             "/web/user/check",              Page, post(web::user::check)),
        row("GET, POST",        "/web/user/{id}",               Page, get(web::user::edit).post(web::user::update)),

        row("GET",              "/web/connections",             Page, get(web::connections::page)),
        row("GET",              "/web/connections/live",        Page, get(web::connections::live)),
        row("POST",             "/web/connections/disconnect",  Page, post(web::connections::disconnect)),
        row("GET",              "/web/backup",                  Page, get(web::backup::page)),
        row("POST",             "/web/backup/save",             Page, post(web::backup::save)),
        row("POST",             "/web/backup/upload",           Page, post(web::backup::upload).layer(DefaultBodyLimit::disable())).multipart(),
        row("GET, POST",        "/web/backup/restore",          Page, get(web::backup::preview).post(web::backup::restore)),

        row("",                 "/web/{*rest}",                 Page, any(no_such_page)),

        row("GET, HEAD",        "/static/{*path}",              Open, get(web::assets::serve)),

        row("",                 "/metrics",                     Api,  any(metrics::expose)),
        row("GET",              "/api/v1/version",              Api,  get(info::version)),
        row("GET",              "/api/v1/providerstatus",       Api,  get(info::provider_status)),
        row("GET",              "/api/v1/openapi.json",         Api,  get(docs::document)),
        row("GET",              "/api/v1/docs",                 Api,  get(docs::page)),
        row("GET",              "/api/v1/connection",           Api,  get(connections::list)),
        row("DELETE",           "/api/v1/connection/{id}",      Api,  delete(connections::close)),
        row("GET, POST",        "/api/v1/quota_scan",           Api,  get(quota::list).post(quota::start)),
        row("GET, POST",        "/api/v1/user",                 Api,  get(users::list).post(users::add)),
        row("GET, PUT, DELETE", "/api/v1/user/{id}",            Api,  get(users::one).put(users::update).delete(users::remove)),
        row("GET, POST",        "/api/v1/dumpdata",             Api,  get(backup::save).post(backup::save)),
        row("GET, POST",        "/api/v1/loaddata",             Api,  get(backup::load).post(backup::load)),
        row("GET",              "/api/v1/loaddata/progress",    Api,  get(backup::progress)),
    ]
}

fn row(methods: &'static str, path: &'static str, access: Access, handler: MethodRouter<AppState>) -> Route {
    Route { path, methods, access, multipart: false, handler }
}

impl Route {
    /// Lets bodies of `multipart/form-data` through to the handler, which checks their token.
    pub(crate) fn multipart(self) -> Self {
        Self { multipart: true, ..self }
    }
}

/// The table as a service.
pub(crate) fn router(state: AppState) -> Router {
    let mut router = Router::new();
    for route in table() {
        let door = auth::Door::new(&state, route.access, route.multipart);
        let handler = only(route.methods, route.handler).layer(from_fn_with_state(door, auth::enter));
        router = router.route(route.path, handler);
    }
    // What does not exist is not told to strangers either.
    let door = auth::Door::new(&state, Access::Api, false);
    let nothing = any(|| async { ApiError::NoSuchPath }).layer(from_fn_with_state(door, auth::enter));
    router.fallback_service(nothing.with_state(state.clone())).with_state(state)
}

/// People get a page; programs, which do not ask for one, the answer that the API gives (web admin §1).
async fn no_such_page(headers: HeaderMap, view: View) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.flat_map(|list| list.split(',')).any(|kind| kind.trim_start().starts_with("text/html")) {
        return view.message(StatusCode::NOT_FOUND, "");
    }
    ApiError::NoSuchPath.into_response()
}

/// Answers every other method with 405; `HEAD` too unless it is listed, which a `GET` handler would otherwise
/// take.
fn only(allowed: &'static str, methods: MethodRouter<AppState>) -> MethodRouter<AppState> {
    if allowed.is_empty() {
        return methods;
    }
    let refuse = move || async move { ApiError::MethodNotAllowed { allowed } };
    let methods = methods.fallback(refuse);
    if allowed.contains("HEAD") { methods } else { methods.head(refuse) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_sign_in() {
        let open: Vec<_> = table().into_iter().filter(|route| route.access == Access::Open).collect();
        let open: Vec<_> = open.iter().map(|route| (route.methods, route.path)).collect();
        assert_eq!(open, [("GET, POST", "/web/login"), ("GET, HEAD", "/static/{*path}")]);
    }

    #[test]
    fn pages_are_below_web_and_programs_elsewhere() {
        for route in table() {
            let is_page = route.path == "/" || route.path == "/web" || route.path.starts_with("/web/");
            let expected = if is_page { Access::Page } else { Access::Api };
            assert!(route.access == expected || route.access == Access::Open, "{}", route.path);
        }
    }
}
