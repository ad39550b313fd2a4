//! The query of a request: pairs of texts, of which the first of a name counts.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::error::ApiError;

/// The pairs, decoded.
#[derive(Debug, Default)]
pub(crate) struct Pairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(ApiError::BadRequest("the query is not valid".to_owned())),
        }
    }
}

impl Pairs {
    /// The first value of this name.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value of this name as an integer; one that is there and empty is none.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.first(name) else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| ApiError::BadRequest(format!("{name} is {text:?}, expected an integer")))
    }
}

#[cfg(test)]
impl From<&[(&str, &str)]> for Pairs {
    fn from(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }
}
