//! A user as a row of a database and back (data model §2, §3): the columns, and the JSON texts in three of them.
//!
//! What is written is what the reference writes, to the byte: sorted keys, lists, and `<`, `>` and `&` as escapes.
//! What is read may also be what older versions wrote. Anything else is an error that names the column and the
//! user, never a guess: a guess would give rights that nobody granted. That includes filters with a key that we
//! do not know, as we would not apply them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tidegate_core::{IpFilters, Permissions, Perms, StoreError, UsedQuota, User};
use tidegate_vfs::VPath;

/// The columns that an update writes, in the order of [`settings`].
pub(crate) const SETTINGS: [&str; 14] = [
    "password",
    "public_keys",
    "home_dir",
    "uid",
    "gid",
    "max_sessions",
    "quota_size",
    "quota_files",
    "permissions",
    "upload_bandwidth",
    "download_bandwidth",
    "status",
    "expiration_date",
    "filters",
];

/// The columns that an update leaves alone. A row as [`read`] takes it is these, then [`SETTINGS`].
pub(crate) const FIXED: [&str; 6] =
    ["id", "username", "used_quota_size", "used_quota_files", "last_quota_update", "last_login"];

/// One cell of a row, whatever the engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `NULL`.
    Null,
    /// Any integer type.
    Int(i64),
    /// Any text type.
    Text(String),
    /// A value that no column of ours holds; the name of its type.
    Other(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The settings of `user`, in the order of [`SETTINGS`].
pub(crate) fn settings(user: &User) -> Result<Vec<Value>, StoreError> {
    let not_text = |column: &str| corrupt(column, &user.username, "is not UTF-8");
    let home_dir = user.home_dir.to_str().ok_or_else(|| not_text("home_dir"))?;
    let mut permissions = BTreeMap::new();
    for (dir, perms) in user.permissions.iter() {
        let dir = std::str::from_utf8(dir.as_bytes()).map_err(|_| not_text("permissions"))?;
        permissions.insert(dir, perms.tokens());
    }
    let filters = FilterRecord {
        allowed_ip: Some(user.filters.allowed().to_vec()),
        denied_ip: Some(user.filters.denied().to_vec()),
    };
    Ok(vec![
        user.password.as_str().into(),
        json(&user.public_keys, "public_keys", user)?,
        home_dir.into(),
        Value::Int(user.uid),
        Value::Int(user.gid),
        Value::Int(user.max_sessions),
        Value::Int(user.quota_size),
        Value::Int(user.quota_files),
        json(&permissions, "permissions", user)?,
        Value::Int(user.upload_bandwidth),
        Value::Int(user.download_bandwidth),
        Value::Int(i64::from(user.active)),
        Value::Int(user.expiration_date),
        json(&filters, "filters", user)?,
    ])
}

/// Reads a row of [`FIXED`] and [`SETTINGS`].
pub(crate) fn read(row: Vec<Value>) -> Result<User, StoreError> {
    let mut row = Row::new(row);
    let id = row.int()?;
    let username = row.text()?;
    let used_size_bytes = row.int()?;
    let used_files = row.int()?;
    Ok(User {
        id,
        username,
        used: usage(used_size_bytes, used_files),
        last_quota_update: row.int()?,
        last_login: row.int()?,
        password: row.optional_text()?.unwrap_or_default(),
        public_keys: row.json(public_keys)?.unwrap_or_default(),
        home_dir: PathBuf::from(row.text()?),
        uid: row.int()?,
        gid: row.int()?,
        max_sessions: row.int()?,
        quota_size: row.int()?,
        quota_files: row.int()?,
        permissions: row.json(permissions)?.ok_or_else(|| row.error("is NULL"))?,
        upload_bandwidth: row.int()?,
        download_bandwidth: row.int()?,
        active: row.int()? > 0,
        expiration_date: row.int()?,
        filters: row.json(filters)?.unwrap_or_default(),
    })
}

/// Reads a row of `used_quota_size` and `used_quota_files`.
pub(crate) fn read_usage(name: &str, row: &[Value]) -> Result<UsedQuota, StoreError> {
    match row {
        [Value::Int(size_bytes), Value::Int(files)] => Ok(usage(*size_bytes, *files)),
        _ => Err(corrupt("used_quota_size or used_quota_files", name, "is not an integer")),
    }
}

/// The reference lets usage fall below zero.
fn usage(size_bytes: i64, files: i64) -> UsedQuota {
    UsedQuota { size_bytes: size_bytes.max(0), files: files.max(0) }
}

fn corrupt(column: &str, user: &str, problem: &str) -> StoreError {
    StoreError::Corrupt(format!("column {column} of user {user:?} {problem}"))
}

/// The cells of one row, taken one after the other together with the names of their columns.
struct Row {
    user: String,
    cells: std::vec::IntoIter<Value>,
    columns: std::iter::Chain<std::array::IntoIter<&'static str, 6>, std::array::IntoIter<&'static str, 14>>,
    column: &'static str,
}

impl Row {
    fn new(cells: Vec<Value>) -> Self {
        let user = match cells.as_slice() {
            [_, Value::Text(name), ..] => name.clone(),
            [Value::Int(id), ..] => format!("with id {id}"),
            _ => "without id and name".to_owned(),
        };
        Self { user, cells: cells.into_iter(), columns: FIXED.into_iter().chain(SETTINGS), column: "id" }
    }

    fn error(&self, problem: &str) -> StoreError {
        corrupt(self.column, &self.user, problem)
    }

    fn next(&mut self) -> Result<Value, StoreError> {
        self.column = self.columns.next().unwrap_or("after the last");
        self.cells.next().ok_or_else(|| self.error("is missing"))
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        match self.next()? {
            Value::Int(number) => Ok(number),
            Value::Null => Err(self.error("is NULL")),
            Value::Text(_) => Err(self.error("is a text, not an integer")),
            Value::Other(kind) => Err(self.error(&format!("is a {kind}, not an integer"))),
        }
    }

    fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.next()? {
            Value::Text(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            Value::Int(_) => Err(self.error("is an integer, not a text")),
            Value::Other(kind) => Err(self.error(&format!("is a {kind}, not a text"))),
        }
    }

    fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(|| self.error("is NULL"))
    }

    fn json<T>(&mut self, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, StoreError> {
        let Some(text) = self.optional_text()? else { return Ok(None) };
        parse(&text).map(Some).map_err(|problem| self.error(&problem))
    }
}

/// The `filters` column. A missing or `null` list is empty.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterRecord {
    allowed_ip: Option<Vec<String>>,
    denied_ip: Option<Vec<String>>,
}

fn not_json(error: &serde_json::Error) -> String {
    format!("cannot be read: {error}")
}

fn filters(text: &str) -> Result<IpFilters, String> {
    let record: Option<FilterRecord> = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    let record = record.unwrap_or(FilterRecord { allowed_ip: None, denied_ip: None });
    Ok(IpFilters::new(record.allowed_ip.unwrap_or_default(), record.denied_ip.unwrap_or_default()))
}

fn public_keys(text: &str) -> Result<Vec<String>, String> {
    let keys: Option<Vec<String>> = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    Ok(keys.unwrap_or_default())
}

/// Reads `{"/":["*"],"/dir":["list"]}`, and the list alone that stood for `/` before directories had their own.
fn permissions(text: &str) -> Result<Permissions, String> {
    match serde_json::from_str(text).map_err(|e| not_json(&e))? {
        PermissionsRecord::Everywhere(list) => Ok(Permissions::everywhere(perms(&list, "/")?)),
        PermissionsRecord::Dirs(dirs) => {
            let mut permissions = BTreeMap::new();
            for (dir, list) in &dirs {
                let path = VPath::parse(dir.as_bytes()).ok().filter(|_| dir.starts_with('/'));
                let path = path.ok_or_else(|| format!("has {dir:?}, which is not an absolute directory"))?;
                if permissions.insert(path, perms(list, dir)?).is_some() {
                    return Err(format!("names the directory {dir:?} twice"));
                }
            }
            Ok(permissions.into_iter().collect())
        }
    }
}

/// The `permissions` column. A JSON object as a map would keep the last of two lists for one directory, and forget the
/// other.
enum PermissionsRecord {
    Everywhere(serde_json::Value),
    Dirs(Vec<(String, serde_json::Value)>),
}

impl<'de> Deserialize<'de> for PermissionsRecord {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = PermissionsRecord;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object of directories or a list of permissions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                let list = serde_json::Value::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(PermissionsRecord::Everywhere(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut dirs = Vec::new();
                while let Some(dir) = map.next_entry()? {
                    dirs.push(dir);
                }
                Ok(PermissionsRecord::Dirs(dirs))
            }
        }

        from.deserialize_any(Both)
    }
}

fn perms(list: &serde_json::Value, dir: &str) -> Result<Perms, String> {
    let tokens = match list {
        serde_json::Value::Array(tokens) => tokens.as_slice(),
        serde_json::Value::Null => &[],
        _ => return Err(format!("has no list of permissions for {dir:?}")),
    };
    let mut perms = Perms::NONE;
    for token in tokens {
        let known = token.as_str().and_then(Perms::from_token);
        perms = perms | known.ok_or_else(|| format!("has the unknown permission {token} for {dir:?}"))?;
    }
    Ok(perms)
}

/// JSON as the reference writes it: these characters occur only within strings, where an escape says the same.
fn json<T: Serialize>(value: &T, column: &str, user: &User) -> Result<Value, StoreError> {
    let plain = serde_json::to_string(value)
        .map_err(|error| corrupt(column, &user.username, &format!("cannot be written: {error}")))?;
    let mut text = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    Ok(Value::Text(text))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn row(changes: &[(&str, Value)]) -> Vec<Value> {
        let cell = |name: &str| match name {
            "username" => "anna".into(),
            "home_dir" => "/srv/anna".into(),
            "password" | "public_keys" | "filters" => Value::Null,
            "permissions" => r#"{"/":["*"]}"#.into(),
            _ => Value::Int(1),
        };
        let change =
            |name| changes.iter().find(|(column, _)| *column == name).map(|(_, value)| value.clone());
        FIXED.into_iter().chain(SETTINGS).map(|name| change(name).unwrap_or_else(|| cell(name))).collect()
    }

    fn path(text: &str) -> VPath {
        VPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn nulls_are_empty() {
        let user = read(row(&[])).unwrap();
        assert_eq!((user.password.as_str(), user.public_keys.len()), ("", 0));
        assert_eq!(user.filters, IpFilters::default());
        assert!(user.active);
        assert!(!read(row(&[("status", Value::Int(0))])).unwrap().active);
    }

    #[test]
    fn usage_below_zero_reads_as_zero() {
        let user =
            read(row(&[("used_quota_size", Value::Int(-5)), ("used_quota_files", Value::Int(-1))])).unwrap();
        assert_eq!(user.used, UsedQuota::default());
        assert_eq!(read_usage("anna", &[Value::Int(-5), Value::Int(7)]).unwrap().files, 7);
        let error = read_usage("anna", &[Value::Null, Value::Int(7)]).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }

    #[test]
    fn every_form_of_permissions_that_was_ever_written() {
        let list_download = Perms::LIST | Perms::DOWNLOAD;
        for (text, at_root, at_dir) in [
            (r#"["list","download"]"#, list_download, list_download),
            (r#"{"/":["list","download"],"/d/x":["*"]}"#, list_download, Perms::ALL),
            (r#"{"/":["list","download"],"/d/x":[]}"#, list_download, Perms::NONE),
            (r#"{"/":["list","download"],"/d/x":null}"#, list_download, Perms::NONE),
            ("{\"/\":[\"list\",\"download\"],\"/\\u0064/x\":[\"*\"]}", list_download, Perms::ALL),
            ("{}", Perms::NONE, Perms::NONE),
        ] {
            let user = read(row(&[("permissions", text.into())])).unwrap();
            assert_eq!(user.permissions.at(&path("/")), at_root, "{text}");
            assert_eq!(user.permissions.at(&path("/d/x/y")), at_dir, "{text}");
        }
    }

    #[test]
    fn the_last_of_two_lists_for_a_directory_won() {
        for text in [
            r#"{"/":["list"],"/":["*"]}"#,
            r#"{"/":["*"],"/d":[],"\u002fd":["*"]}"#,
            r#"{"/":["*"],"/d":["list"],"/d/":["*"]}"#,
        ] {
            let error = read(row(&[("permissions", text.into())])).unwrap_err().to_string();
            assert!(error.contains("twice"), "{text}: {error}");
        }
    }

    #[test]
    fn every_form_of_filters_that_was_ever_written() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (text, admitted) in [
            ("{}", true),
            ("null", true),
            (r#"{"allowed_ip":null,"denied_ip":null}"#, true),
            (r#"{"allowed_ip":["192.0.2.0/24"]}"#, false),
            (r#"{"denied_ip":["10.0.0.0/8"]}"#, false),
            (r#"{"allowed_ip":[],"denied_ip":["10.1.0.0/16"]}"#, true),
        ] {
            assert_eq!(
                read(row(&[("filters", text.into())])).unwrap().filters.admits(peer),
                admitted,
                "{text}"
            );
        }
    }

    #[test]
    fn a_damaged_cell_is_named_with_its_user() {
        for (column, value) in [
            ("uid", Value::Null),
            ("uid", "0".into()),
            ("last_login", Value::Other("REAL".into())),
            ("home_dir", Value::Null),
            ("password", Value::Int(1)),
            ("permissions", Value::Null),
            ("permissions", "".into()),
            ("permissions", "null".into()),
            ("permissions", r#""*""#.into()),
            ("permissions", r#"{"/":"*"}"#.into()),
            ("permissions", r#"{"/":["everything"]}"#.into()),
            ("permissions", r#"{"/":[1]}"#.into()),
            ("permissions", r#"{"/":["*"],"a":["list"]}"#.into()),
            ("permissions", r#"{"/a":["*"],"/a/":["list"]}"#.into()),
            ("permissions", r#"{"/":["*"]"#.into()),
            ("public_keys", "".into()),
            ("public_keys", "ssh-ed25519 AAAA".into()),
            ("public_keys", "[1]".into()),
            ("public_keys", "{}".into()),
            ("filters", "".into()),
            ("filters", r#"["10.0.0.0/8"]"#.into()),
            ("filters", r#"{"allowed_ip":"10.0.0.0/8"}"#.into()),
            ("filters", r#"{"denied_country":["xx"]}"#.into()),
        ] {
            let shown = format!("{value:?}");
            match read(row(&[(column, value)])) {
                Err(StoreError::Corrupt(text)) => {
                    assert!(text.starts_with(&format!("column {column} of user \"anna\" ")), "{text}");
                }
                other => panic!("{column} {shown}: {other:?}"),
            }
        }
        let nameless = read(row(&[("username", Value::Null)])).unwrap_err().to_string();
        assert!(nameless.contains("column username of user \"with id 1\""), "{nameless}");
        assert!(read(Vec::new()).is_err());
    }

    #[test]
    fn json_is_written_as_the_reference_writes_it() {
        let mut user = read(row(&[])).unwrap();
        user.permissions.insert(path("/z"), Perms::LIST);
        user.permissions.insert(path("/a <b> & c"), Perms::LIST | Perms::UPLOAD);
        user.filters = IpFilters::new(vec!["10.0.0.0/8".into()], vec![]);
        let cells = settings(&user).unwrap();
        let cell = |name| cells[SETTINGS.iter().position(|column| *column == name).unwrap()].clone();
        let want = r#"{"/":["*"],"/a \u003cb\u003e \u0026 c":["list","upload"],"/z":["list"]}"#;
        assert_eq!(cell("permissions"), want.into());
        assert_eq!(cell("public_keys"), "[]".into());
        assert_eq!(cell("filters"), r#"{"allowed_ip":["10.0.0.0/8"],"denied_ip":[]}"#.into());
        assert_eq!(cell("password"), "".into());
    }
}
