//! The users in a file of the reference's bolt provider (data model §8.1, §8.2), whatever version wrote it.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use tidegate_core::{StoreError, User};

use super::file::{self, Bucket, Entry};
use crate::json_user;

/// The newest version of records that we know. Later ones have users of other kinds.
const NEWEST: i64 = 3;

/// What a file of the reference holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// In the order of their names.
    pub(crate) users: Vec<User>,
    /// The last id that was given.
    pub(crate) last_id: i64,
}

/// Reads the users in `data`, a whole file.
///
/// # Errors
/// What is wrong, as the rest of a sentence that begins with the file's name.
pub(crate) fn users(data: &[u8]) -> Result<Contents, String> {
    let root = file::read(data).map_err(|damage| format!("is damaged: {damage}"))?;
    let version = version(&root)?;
    if !(1..=NEWEST).contains(&version) {
        return Err(format!("has records of version {version}; versions 1 to {NEWEST} can be imported"));
    }
    let mut contents = Contents { users: Vec::new(), last_id: 0 };
    let Some(bucket) = bucket(&root, "users")? else { return Ok(contents) };
    let mut ids = BTreeSet::new();
    for (key, entry) in &bucket.entries {
        let name = String::from_utf8_lossy(key);
        let problem = |problem: String| format!("has an unreadable record for user {name:?}: {problem}");
        let Entry::Value(value) = entry else {
            return Err(problem("it is a bucket".to_owned()));
        };
        let user = user(value, version).map_err(problem)?;
        if user.username.as_bytes() != *key {
            return Err(problem(format!("it is about {:?}", user.username)));
        }
        if user.id < 1 || !ids.insert(user.id) {
            return Err(problem(format!("its id {} is not one of its own", user.id)));
        }
        contents.users.push(user);
    }
    // The sequence is what gave the ids, so it is not below them; but a number is given once in any case.
    let sequence = i64::try_from(bucket.sequence).unwrap_or(i64::MAX);
    contents.last_id = ids.last().copied().unwrap_or(0).max(sequence);
    Ok(contents)
}

fn user(value: &[u8], version: i64) -> Result<User, String> {
    let mut json: Json = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if version == 1
        && let Json::Object(object) = &mut json
    {
        object.insert("status".to_owned(), 1.into());
    }
    // Lists of permissions, as before version 3, are read in any version.
    json_user::read(json).map_err(|error| match error {
        StoreError::Corrupt(problem) => problem,
        other => other.to_string(),
    })
}

fn bucket<'a, 'b>(root: &'b Bucket<'a>, name: &str) -> Result<Option<&'b Bucket<'a>>, String> {
    match root.get(name.as_bytes()) {
        Some(Entry::Bucket(bucket)) => Ok(Some(bucket)),
        None => Ok(None),
        Some(Entry::Value(_)) => Err(format!("is damaged: {name} is not a bucket")),
    }
}

/// A file without a version is of the first.
fn version(root: &Bucket<'_>) -> Result<i64, String> {
    let unreadable = || "has no readable version in the bucket db_version".to_owned();
    match bucket(root, "db_version")?.and_then(|bucket| bucket.get(b"version")) {
        None => Ok(1),
        Some(Entry::Value(value)) => {
            let json: Json = serde_json::from_slice(value).map_err(|_| unreadable())?;
            let mut fields = json.as_object().into_iter().flatten();
            let field = fields.find(|(name, _)| name.eq_ignore_ascii_case("version"));
            field.and_then(|(_, version)| version.as_i64()).ok_or_else(unreadable)
        }
        Some(Entry::Bucket(_)) => Err(unreadable()),
    }
}
