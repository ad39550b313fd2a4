//! The pages of the web administration (`spec/web-admin.md`): rendered here, usable without scripts, made quicker
//! by them. Accounts are core's `Accounts`, as they are for the REST API.

mod access;
pub(crate) mod assets;
pub(crate) mod backup;
mod chart;
pub(crate) mod connections;
pub(crate) mod dashboard;
pub(crate) mod export;
mod files;
mod flash;
mod forms;
pub(crate) mod login;
mod moving;
pub(crate) mod pages;
pub(crate) mod stream;
pub(crate) mod text;
pub(crate) mod user;
mod user_form;
pub(crate) mod users;
mod values;
