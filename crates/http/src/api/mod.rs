//! The REST API (`spec/rest-api.md` §4): one file per kind of resource, the wire format in `types.rs`
//! and `dump.rs`.

pub(crate) mod backup;
pub(crate) mod connections;
pub(crate) mod docs;
pub(crate) mod dump;
pub(crate) mod info;
mod query;
pub(crate) mod quota;
pub(crate) mod source;
pub(crate) mod types;
pub(crate) mod users;
