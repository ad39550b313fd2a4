//! The pages of the web administration (`spec/web-admin.md`): rendered here, usable without scripts, made quicker
//! by them. Accounts are core's `Accounts`, as they are for the REST API.

pub(crate) mod assets;
pub(crate) mod pages;
mod text;
