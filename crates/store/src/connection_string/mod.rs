//! The forms of `data_provider.connection_string` that no library of ours reads: they are in the configurations of
//! people who come from the reference. Only the text is taken apart here; what it means is said in `sql`.
//!
//! No message repeats the text: it may hold a password, and where is not known when it cannot be read.

#[cfg(feature = "mysql")]
pub(crate) mod go_dsn;
#[cfg(feature = "postgresql")]
pub(crate) mod key_values;
