//! Accounts: list, read, add, change, remove. The rules are core's `Accounts`; here is only what the REST API
//! adds, the order of its checks included.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use tidegate_core::{Order, Page};

use super::query::Pairs;
use super::types::{UserBody, UserJson};
use crate::body::read_object;
use crate::error::{ApiError, done, json};
use crate::state::Parts;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;

type Id = Result<Path<String>, PathRejection>;

/// `GET /api/v1/user`
pub(crate) async fn list(State(parts): State<Arc<Parts>>, query: Pairs) -> Result<Response, ApiError> {
    let users = parts.accounts.users(&page(&query)?).await?;
    let users: Vec<_> = users.iter().map(UserJson::from).collect();
    Ok(json(StatusCode::OK, &users))
}

/// `POST /api/v1/user`
pub(crate) async fn add(State(parts): State<Arc<Parts>>, body: Body) -> Result<Response, ApiError> {
    let sent: UserBody = read_object(body).await?;
    let stored = parts.accounts.create(sent.into_patch()).await?;
    Ok(json(StatusCode::OK, &UserJson::from(&stored)))
}

/// `GET /api/v1/user/{id}`
pub(crate) async fn one(State(parts): State<Arc<Parts>>, id: Id) -> Result<Response, ApiError> {
    let user = parts.accounts.user(number(id)?).await?;
    Ok(json(StatusCode::OK, &UserJson::from(&user)))
}

/// `PUT /api/v1/user/{id}`
pub(crate) async fn update(
    State(parts): State<Arc<Parts>>,
    id: Id,
    body: Body,
) -> Result<Response, ApiError> {
    let id = number(id)?;
    // Whether there is such a user comes before what the body says.
    parts.accounts.user(id).await?;
    let sent: UserBody = read_object(body).await?;
    if let Some(sent) = sent.id()
        && sent != id
    {
        return Err(ApiError::IdMismatch { sent, path: id });
    }
    parts.accounts.update(id, sent.into_patch()).await?;
    Ok(done("User updated"))
}

/// `DELETE /api/v1/user/{id}`
pub(crate) async fn remove(State(parts): State<Arc<Parts>>, id: Id) -> Result<Response, ApiError> {
    parts.accounts.delete(number(id)?).await?;
    Ok(done("User deleted"))
}

fn number(id: Id) -> Result<i64, ApiError> {
    let text = id.map_or_else(|_| String::new(), |Path(text)| text);
    text.parse().map_err(|_| ApiError::BadRequest(format!("the user id {text:?} is not an integer")))
}

fn page(query: &Pairs) -> Result<Page, ApiError> {
    let value = |name| query.first(name);
    let order = match value("order") {
        None | Some("ASC") => Order::Ascending,
        Some("DESC") => Order::Descending,
        Some(other) => {
            return Err(ApiError::BadRequest(format!("order is {other:?}, expected ASC or DESC")));
        }
    };
    Ok(Page {
        limit: value("limit").map_or(Ok(DEFAULT_LIMIT), |text| count("limit", text))?.clamp(1, MAX_LIMIT),
        offset: value("offset").map_or(Ok(0), |text| count("offset", text))?,
        order,
        username: value("username").filter(|name| !name.is_empty()).map(str::to_owned),
    })
}

/// A number that is not negative; one that is larger than any list is as good as the largest.
fn count(name: &str, text: &str) -> Result<u32, ApiError> {
    match text.parse::<i64>() {
        Ok(number) if number >= 0 => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        _ => {
            Err(ApiError::BadRequest(format!("{name} is {text:?}, expected an integer that is not negative")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let page = |pairs: &[(&str, &str)]| {
            page(&Pairs::from(pairs)).ok().map(|page| (page.limit, page.offset, page.order, page.username))
        };
        let (asc, desc) = (Order::Ascending, Order::Descending);
        for (pairs, expected) in [
            (&[][..], Some((100, 0, asc, None))),
            (&[("limit", "7"), ("offset", "3"), ("order", "DESC")], Some((7, 3, desc, None))),
            (&[("limit", "0")], Some((1, 0, asc, None))),
            (&[("limit", "501")], Some((500, 0, asc, None))),
            (&[("limit", "99999999999")], Some((500, 0, asc, None))),
            (&[("offset", "99999999999")], Some((100, u32::MAX, asc, None))),
            (&[("username", "anna")], Some((100, 0, asc, Some("anna".to_owned())))),
            (&[("username", "")], Some((100, 0, asc, None))),
            (&[("limit", "1"), ("limit", "x")], Some((1, 0, asc, None))),
            (&[("Limit", "x")], Some((100, 0, asc, None))),
            (&[("limit", "")], None),
            (&[("limit", "-1")], None),
            (&[("limit", "1.0")], None),
            (&[("limit", "99999999999999999999")], None),
            (&[("offset", "")], None),
            (&[("offset", "-1")], None),
            (&[("order", "")], None),
            (&[("order", "asc")], None),
        ] {
            assert_eq!(page(pairs), expected, "{pairs:?}");
        }
    }
}
