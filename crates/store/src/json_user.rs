//! A user as a JSON object, as the REST API, its backups and the records of the bolt provider have it: the names are
//! those of the columns, so it is read as a row is, with the same checks.
//!
//! What is missing is what Go leaves there: zero, or nothing. A field that we do not know is an error, as it may
//! stand for a restriction that we would not apply.

use serde_json::Value as Json;
use tidegate_core::{StoreError, User};

use crate::record::{self, FIXED, SETTINGS, Value};

/// The columns that hold JSON, which here is no text.
const NESTED: [&str; 3] = ["public_keys", "permissions", "filters"];

/// The object with everything that is known of `user`, its password included.
#[cfg(any(feature = "bolt", test))]
pub(crate) fn write(user: &User) -> Result<Json, StoreError> {
    let mut object = serde_json::Map::new();
    object.insert("id".to_owned(), user.id.into());
    object.insert("username".to_owned(), user.username.clone().into());
    object.insert("used_quota_size".to_owned(), user.used.size_bytes.into());
    object.insert("used_quota_files".to_owned(), user.used.files.into());
    object.insert("last_quota_update".to_owned(), user.last_quota_update.into());
    object.insert("last_login".to_owned(), user.last_login.into());
    for (name, value) in SETTINGS.into_iter().zip(record::settings(user)?) {
        let json = match value {
            Value::Int(number) => number.into(),
            Value::Text(text) if NESTED.contains(&name) => serde_json::from_str(&text)
                .map_err(|error| StoreError::Corrupt(format!("field {name} cannot be written: {error}")))?,
            Value::Text(text) => text.into(),
            Value::Null | Value::Other(_) => Json::Null,
        };
        object.insert(name.to_owned(), json);
    }
    Ok(Json::Object(object))
}

/// Reads such an object.
pub(crate) fn read(json: Json) -> Result<User, StoreError> {
    let Json::Object(mut object) = json else {
        return Err(StoreError::Corrupt("a user is not a JSON object".to_owned()));
    };
    let row = FIXED.into_iter().chain(SETTINGS).map(|name| cell(name, object.remove(name))).collect();
    let user = record::read(row)?;
    match object.keys().next() {
        None => Ok(user),
        Some(field) => {
            Err(StoreError::Corrupt(format!("user {:?} has the unknown field {field:?}", user.username)))
        }
    }
}

fn cell(name: &str, json: Option<Json>) -> Value {
    let text = matches!(name, "username" | "password" | "home_dir");
    match json {
        None | Some(Json::Null) if text || NESTED.contains(&name) => Value::Null,
        None | Some(Json::Null) => Value::Int(0),
        Some(json) if NESTED.contains(&name) => Value::Text(json.to_string()),
        Some(Json::String(text)) => Value::Text(text),
        Some(Json::Number(number)) => match number.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::Other(format!("number {number}")),
        },
        Some(Json::Bool(_)) => Value::Other("boolean".to_owned()),
        Some(Json::Array(_)) => Value::Other("list".to_owned()),
        Some(Json::Object(_)) => Value::Other("object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_core::UsedQuota;
    use tidegate_core::testing::UserBuilder;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let user = UserBuilder::new("anna <&> ü")
            .public_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ a")
            .permissions("/", tidegate_core::Perms::LIST)
            .permissions("/<&>", tidegate_core::Perms::ALL)
            .quota(1 << 50, 3)
            .denied_ip("10.0.0.0/8")
            .build();
        let used = UsedQuota { size_bytes: 5, files: 6 };
        let user = User { id: 7, used, last_quota_update: 8, last_login: 9, ..user };
        assert_eq!(read(write(&user).unwrap()).unwrap(), user);
    }

    #[test]
    fn what_is_missing_is_nothing() {
        let user = read(json!({"username": "a", "home_dir": "/a", "permissions": ["*"]})).unwrap();
        assert_eq!((user.id, user.active, user.password.as_str()), (0, false, ""));
        assert_eq!((user.public_keys.len(), user.used), (0, UsedQuota::default()));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let base = json!({"username": "a", "home_dir": "/a", "permissions": {"/": ["*"]}});
        for (field, value, named) in [
            ("username", Json::Null, "username"),
            ("home_dir", json!(5), "home_dir"),
            ("uid", json!("0"), "uid"),
            ("uid", json!(1.5), "uid"),
            ("uid", json!(true), "uid"),
            ("permissions", Json::Null, "permissions"),
            ("permissions", json!({"/": ["fly"]}), "fly"),
            ("filters", json!({"denied_country": []}), "filters"),
            ("filesystem", json!({}), "unknown field \"filesystem\""),
        ] {
            let mut object = base.clone();
            object[field] = value;
            match read(object) {
                Err(StoreError::Corrupt(text)) => assert!(text.contains(named), "{text}"),
                other => panic!("{field}: {other:?}"),
            }
        }
        assert!(read(json!([])).is_err());
    }
}
