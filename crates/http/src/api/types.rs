//! Wire ⇄ domain: the JSON objects of `spec/rest-api.md` §3 and §4.
//!
//! A field that is absent stays as it is. `null` leaves a number, a text or the filters as they are, and is
//! an empty list or map where those are expected. Unknown fields are ignored, a wrong type is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tidegate_core::{ConnectionInfo, Direction, User, UserDraft, UserPatch};

/// A user as it is answered: never with a password.
#[derive(Debug, Serialize)]
pub(crate) struct UserJson {
    id: i64,
    status: i64,
    username: String,
    expiration_date: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
    home_dir: String,
    uid: i64,
    gid: i64,
    max_sessions: i64,
    quota_size: i64,
    quota_files: i64,
    permissions: BTreeMap<String, Vec<String>>,
    used_quota_size: i64,
    used_quota_files: i64,
    last_quota_update: i64,
    upload_bandwidth: i64,
    download_bandwidth: i64,
    last_login: i64,
    filters: FiltersJson,
}

#[derive(Debug, Serialize)]
struct FiltersJson {
    allowed_ip: Vec<String>,
    denied_ip: Vec<String>,
}

impl From<&User> for UserJson {
    fn from(user: &User) -> Self {
        let draft = UserDraft::from(user);
        Self {
            id: draft.id,
            status: draft.status,
            username: draft.username,
            expiration_date: draft.expiration_date,
            public_keys: draft.public_keys,
            home_dir: draft.home_dir,
            uid: draft.uid,
            gid: draft.gid,
            max_sessions: draft.max_sessions,
            quota_size: draft.quota_size,
            quota_files: draft.quota_files,
            permissions: draft.permissions,
            used_quota_size: draft.used_quota_size,
            used_quota_files: draft.used_quota_files,
            last_quota_update: draft.last_quota_update,
            upload_bandwidth: draft.upload_bandwidth,
            download_bandwidth: draft.download_bandwidth,
            last_login: draft.last_login,
            filters: FiltersJson { allowed_ip: draft.filters.allowed_ip, denied_ip: draft.filters.denied_ip },
        }
    }
}

/// A user as it is sent. Not `Debug`: it may hold a password in clear.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct UserBody {
    #[serde(deserialize_with = "integer")]
    id: Option<i64>,
    #[serde(deserialize_with = "integer")]
    status: Option<i64>,
    username: Option<String>,
    #[serde(deserialize_with = "integer")]
    expiration_date: Option<i64>,
    password: Option<String>,
    #[serde(deserialize_with = "list")]
    public_keys: Option<Vec<String>>,
    home_dir: Option<String>,
    #[serde(deserialize_with = "integer")]
    uid: Option<i64>,
    #[serde(deserialize_with = "integer")]
    gid: Option<i64>,
    #[serde(deserialize_with = "integer")]
    max_sessions: Option<i64>,
    #[serde(deserialize_with = "integer")]
    quota_size: Option<i64>,
    #[serde(deserialize_with = "integer")]
    quota_files: Option<i64>,
    #[serde(deserialize_with = "lists")]
    permissions: Option<BTreeMap<String, Vec<String>>>,
    #[serde(deserialize_with = "integer")]
    upload_bandwidth: Option<i64>,
    #[serde(deserialize_with = "integer")]
    download_bandwidth: Option<i64>,
    #[serde(deserialize_with = "filters")]
    filters: FiltersBody,
    // Belongs to the server; a client that sends back what it was given is not refused, a wrong type is.
    #[serde(rename = "used_quota_size", deserialize_with = "integer")]
    _used_quota_size: Option<i64>,
    #[serde(rename = "used_quota_files", deserialize_with = "integer")]
    _used_quota_files: Option<i64>,
    #[serde(rename = "last_quota_update", deserialize_with = "integer")]
    _last_quota_update: Option<i64>,
    #[serde(rename = "last_login", deserialize_with = "integer")]
    _last_login: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FiltersBody {
    #[serde(deserialize_with = "list")]
    allowed_ip: Option<Vec<String>>,
    #[serde(deserialize_with = "list")]
    denied_ip: Option<Vec<String>>,
}

impl UserBody {
    /// The id, if there is one.
    pub(crate) fn id(&self) -> Option<i64> {
        self.id
    }

    /// What the body asks for.
    pub(crate) fn into_patch(self) -> UserPatch {
        UserPatch {
            id: self.id,
            status: self.status,
            username: self.username,
            expiration_date: self.expiration_date,
            password: self.password,
            public_keys: self.public_keys,
            home_dir: self.home_dir,
            uid: self.uid,
            gid: self.gid,
            max_sessions: self.max_sessions,
            quota_size: self.quota_size,
            quota_files: self.quota_files,
            permissions: self.permissions,
            upload_bandwidth: self.upload_bandwidth,
            download_bandwidth: self.download_bandwidth,
            allowed_ip: self.filters.allowed_ip,
            denied_ip: self.filters.denied_ip,
        }
    }
}

/// An integer or nothing. `3.0` is the integer 3, as it is in the words of JSON Schema; a number with a
/// point is read exactly as far as ten times itself is below `2⁵³`, and refused beyond.
pub(super) fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    struct Integer;
    impl Visitor<'_> for Integer {
        type Value = Option<i64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer of 64 bits")
        }
        fn visit_unit<E>(self) -> Result<Option<i64>, E> {
            Ok(None)
        }
        fn visit_i64<E>(self, number: i64) -> Result<Option<i64>, E> {
            Ok(Some(number))
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<Option<i64>, E> {
            i64::try_from(number).map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<Option<i64>, E> {
            const EXACT: f64 = 900_719_925_474_099.0;
            if number.fract() == 0.0 && number.abs() <= EXACT {
                #[expect(clippy::cast_possible_truncation, reason = "it is an integer of 54 bits")]
                return Ok(Some(number as i64));
            }
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }
    from.deserialize_any(Integer)
}

fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Some(Option::deserialize(from)?.unwrap_or_default()))
}

fn lists<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, Vec<String>>>, D::Error> {
    let map: Option<BTreeMap<String, Option<Vec<String>>>> = Option::deserialize(from)?;
    let full = |(dir, tokens): (String, Option<Vec<String>>)| (dir, tokens.unwrap_or_default());
    Ok(Some(map.unwrap_or_default().into_iter().map(full).collect()))
}

/// Only from an object: a structure alone would also be read from an array of its fields.
fn filters<'de, D: Deserializer<'de>>(from: D) -> Result<FiltersBody, D::Error> {
    match Option::<Map<String, Value>>::deserialize(from)? {
        None => Ok(FiltersBody::default()),
        Some(object) => serde_json::from_value(Value::Object(object)).map_err(D::Error::custom),
    }
}

/// An active connection.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectionJson<'a> {
    username: &'a str,
    connection_id: &'a str,
    client_version: &'a str,
    remote_address: String,
    connection_time: i64,
    last_activity: i64,
    protocol: &'static str,
    active_transfers: Vec<TransferJson>,
    ssh_command: &'a str,
}

#[derive(Debug, Serialize)]
struct TransferJson {
    operation_type: &'static str,
    start_time: i64,
    size: u64,
    last_activity: i64,
    path: String,
}

impl<'a> From<&'a ConnectionInfo> for ConnectionJson<'a> {
    fn from(info: &'a ConnectionInfo) -> Self {
        let transfers = info.active_transfers.iter().map(|transfer| TransferJson {
            operation_type: match transfer.direction {
                Direction::Upload => "upload",
                Direction::Download => "download",
            },
            start_time: transfer.start_time,
            size: transfer.size,
            last_activity: transfer.last_activity,
            path: transfer.path.to_string(),
        });
        Self {
            username: &info.username,
            connection_id: &info.connection_id,
            client_version: &info.client_version,
            remote_address: info.remote_address.to_string(),
            connection_time: info.connection_time,
            last_activity: info.last_activity,
            protocol: info.protocol.as_str(),
            active_transfers: transfers.collect(),
            ssh_command: &info.ssh_command,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_core::{Protocol, TransferInfo};
    use tidegate_vfs::VPath;

    use super::*;

    #[test]
    fn integers_with_a_point() {
        let read = |text: &str| {
            let body: Result<UserBody, _> = serde_json::from_str(&format!("{{\"uid\":{text}}}"));
            body.ok().map(|body| body.uid)
        };
        for (text, expected) in [
            ("null", Some(None)),
            ("-3.0", Some(Some(-3))),
            ("1e3", Some(Some(1000))),
            ("900719925474099.0", Some(Some(900_719_925_474_099))),
            ("9223372036854775807", Some(Some(i64::MAX))),
            ("9223372036854775808", None),
            ("9007199254740993.0", None),
            ("0.5", None),
            ("\"3\"", None),
            ("true", None),
            ("[]", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn a_connection_with_transfers() {
        let transfer = |direction, path: &[u8]| TransferInfo {
            id: 1,
            direction,
            start_time: 20,
            size: 7,
            last_activity: 30,
            path: VPath::parse(path).unwrap(),
            reached: 7,
            total: None,
        };
        let info = ConnectionInfo {
            username: "anna".to_owned(),
            connection_id: "00ff".into(),
            client_version: "SSH-2.0-x".to_owned(),
            remote_address: "[2001:db8::1]:22".parse().unwrap(),
            connection_time: 10,
            last_activity: 30,
            protocol: Protocol::Sftp,
            active_transfers: vec![
                transfer(Direction::Upload, b"dir/../up"),
                transfer(Direction::Download, b"/not utf-8 \xff"),
            ],
            ssh_command: String::new(),
        };
        let expected = json!({
            "username": "anna", "connection_id": "00ff", "client_version": "SSH-2.0-x",
            "remote_address": "[2001:db8::1]:22", "connection_time": 10, "last_activity": 30,
            "protocol": "SFTP", "ssh_command": "",
            "active_transfers": [
                {"operation_type": "upload", "start_time": 20, "size": 7, "last_activity": 30, "path": "/up"},
                {"operation_type": "download", "start_time": 20, "size": 7, "last_activity": 30,
                 "path": "/not utf-8 \u{fffd}"},
            ],
        });
        assert_eq!(serde_json::to_value(ConnectionJson::from(&info)).unwrap(), expected);
    }
}
