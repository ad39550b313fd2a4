//! The few fields of a stored user that a search looks at, read without the rest of the record.

use serde::Deserialize;
use tidegate_core::{StoreError, UnixMillis, UsedQuota, UserTraits};

/// What a search knows of a user.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) username: String,
    fields: Fields,
}

/// Fields of the record; one that is missing is zero, as everywhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    status: i64,
    expiration_date: UnixMillis,
    last_login: UnixMillis,
    used_quota_size: i64,
    used_quota_files: i64,
}

impl Outline {
    /// Of the user called `name`; without a record, only the name is looked at.
    pub(super) fn read(name: &str, record: Option<&[u8]>) -> Result<Self, StoreError> {
        let fields = record.map_or(Ok(Fields::default()), serde_json::from_slice);
        let fields = fields.map_err(|error| {
            StoreError::Corrupt(format!("record of user {name:?} cannot be read: {error}"))
        })?;
        Ok(Self { username: name.to_owned(), fields })
    }

    pub(super) fn traits(&self) -> UserTraits<'_> {
        let Fields { status, expiration_date, last_login, used_quota_size, used_quota_files } = self.fields;
        UserTraits {
            username: &self.username,
            active: status > 0,
            expiration_date,
            last_login,
            used: UsedQuota { size_bytes: used_quota_size.max(0), files: used_quota_files.max(0) },
        }
    }
}
