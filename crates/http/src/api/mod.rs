//! The REST API (`spec/rest-api.md` §4): one file per kind of resource, the wire format in `types.rs`.

pub(crate) mod connections;
pub(crate) mod info;
pub(crate) mod quota;
mod types;
pub(crate) mod users;
