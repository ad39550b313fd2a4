//! Users from a JSON dump `{"users": […]}`, as the REST API's backup writes it, for the memory provider.

use std::path::Path;

use serde_json::Value as Json;
use tidegate_core::{User, UserDraft, password};

use crate::{OpenError, json_user};

/// A dump that is larger is refused: it would be kept in memory several times.
const MAX_BYTES: u64 = 256 << 20;

/// Reads all users of the dump at `path`. They are held to the rules of the REST API, as people write such files by
/// hand. Ids that are missing are 0.
pub(crate) fn load(path: &Path) -> Result<Vec<User>, OpenError> {
    let failed = |problem: String| OpenError::File { path: path.to_owned(), problem };
    let cannot = |error: std::io::Error| failed(format!("cannot be read: {error}"));
    let size_bytes = std::fs::metadata(path).map_err(cannot)?.len();
    if size_bytes > MAX_BYTES {
        return Err(failed(format!("is larger than a dump may be: {size_bytes} bytes of {MAX_BYTES}")));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    let json: Json =
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("is not a JSON dump: {error}")))?;
    let Some(entries) = json.get("users").and_then(Json::as_array) else {
        return Err(failed("is not a dump: it has no list \"users\"".to_owned()));
    };
    let mut users: Vec<User> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let user = user(entry)
            .map_err(|problem| failed(format!("has an unusable user {}: {problem}", index + 1)))?;
        users.push(user);
    }
    Ok(users)
}

fn user(entry: &Json) -> Result<User, String> {
    let user = json_user::read(entry.clone()).map_err(|error| error.to_string())?;
    let name = user.username.clone();
    if !user.password.is_empty() && !password::is_hashed(&user.password) {
        return Err(format!("the password of {name:?} is not a hash in a known form"));
    }
    let used = (user.used, user.last_quota_update, user.last_login);
    let user = UserDraft::from(&user).validate(None).map_err(|error| format!("{name:?}: {error}"))?;
    Ok(User { used: used.0, last_quota_update: used.1, last_login: used.2, ..user })
}
