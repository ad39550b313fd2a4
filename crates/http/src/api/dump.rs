//! A dump of accounts as JSON, `{"users":[…]}`: the user objects of `spec/rest-api.md` §3 with their password
//! hashes. Written by backups, read by restores and by the page that shows what one would change.
//!
//! What is read may come from any version of the reference: a missing field is zero or empty, the permissions
//! may be the list that stood for `/` before directories had their own, unknown fields are ignored. The one
//! exception are filters: a restriction that this server does not know would silently be lifted, so it is an
//! error unless it is empty.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tidegate_core::{Filters, User, UserDraft};

/// Why a text is no dump.
#[derive(Debug)]
pub(crate) struct BadDump {
    /// Where, without a word of the text itself: it may be a file that nobody wanted to show.
    pub(crate) place: String,
    /// What is wrong there. May quote the text.
    pub(crate) detail: String,
}

/// Why a dump cannot be read.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It is none.
    Bad(BadDump),
    /// Its file cannot be read.
    Io(std::io::Error),
}

/// Reads the users of a dump and hands over `each` of them, until that says no, which is an error, or there are
/// more than `max_users`. A dump without `users` has none.
pub(crate) fn read(
    text: impl Read,
    max_users: usize,
    each: &mut dyn FnMut(UserDraft) -> bool,
) -> Result<(), Unusable> {
    let mut json = serde_json::Deserializer::from_reader(text);
    let mut track = serde_path_to_error::Track::new();
    let dump = Dump { max_users, count: 0, each };
    let parsed = dump.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let unusable = |at: serde_json::Error, path: String| {
        if at.is_io() {
            return Unusable::Io(at.into());
        }
        let place = match path.as_str() {
            "" | "." | "?" => format!("line {}, column {}", at.line(), at.column()),
            _ => format!("{path}, line {}, column {}", at.line(), at.column()),
        };
        Unusable::Bad(BadDump { place, detail: at.to_string() })
    };
    parsed.map_err(|error| unusable(error, known_path(&track.path())))?;
    json.end().map_err(|error| unusable(error, String::new()))
}

/// The part of a path that consists of names which every dump has.
fn known_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let known = |segment: &&Segment| match segment {
        Segment::Seq { .. } => true,
        Segment::Map { key } => key == "users" || FIELDS.contains(&key.as_str()),
        Segment::Enum { .. } | Segment::Unknown => false,
    };
    let mut text = String::new();
    for segment in path.iter().take_while(known) {
        match segment {
            Segment::Seq { index } => text += &format!("[{index}]"),
            other if text.is_empty() => text += &other.to_string(),
            other => text += &format!(".{other}"),
        }
    }
    text
}

/// The beginning and the end of a dump; the users between them are separated by commas.
pub(crate) const BEGIN: &[u8] = b"{\"users\":[";
/// See [`BEGIN`].
pub(crate) const END: &[u8] = b"]}\n";

/// Appends one user, with its password hash.
pub(crate) fn write_user(text: &mut Vec<u8>, user: &User) -> Result<(), serde_json::Error> {
    serde_json::to_writer(text, &DumpUser::from(UserDraft::from(user)))
}

/// A dump on its way to whoever takes its users.
struct Dump<'a> {
    max_users: usize,
    count: usize,
    each: &'a mut dyn FnMut(UserDraft) -> bool,
}

/// The fields of [`DumpUser`].
const FIELDS: [&str; 20] = [
    "id",
    "status",
    "username",
    "expiration_date",
    "password",
    "public_keys",
    "home_dir",
    "uid",
    "gid",
    "max_sessions",
    "quota_size",
    "quota_files",
    "permissions",
    "used_quota_size",
    "used_quota_files",
    "last_quota_update",
    "upload_bandwidth",
    "download_bandwidth",
    "last_login",
    "filters",
];

/// A user as a dump has it. Not `Debug`: it holds a password.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct DumpUser {
    #[serde(deserialize_with = "integer")]
    id: i64,
    #[serde(deserialize_with = "integer")]
    status: i64,
    #[serde(deserialize_with = "nullable")]
    username: String,
    #[serde(deserialize_with = "integer")]
    expiration_date: i64,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    public_keys: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    home_dir: String,
    #[serde(deserialize_with = "integer")]
    uid: i64,
    #[serde(deserialize_with = "integer")]
    gid: i64,
    #[serde(deserialize_with = "integer")]
    max_sessions: i64,
    #[serde(deserialize_with = "integer")]
    quota_size: i64,
    #[serde(deserialize_with = "integer")]
    quota_files: i64,
    #[serde(deserialize_with = "permissions")]
    permissions: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "integer")]
    used_quota_size: i64,
    #[serde(deserialize_with = "integer")]
    used_quota_files: i64,
    #[serde(deserialize_with = "integer")]
    last_quota_update: i64,
    #[serde(deserialize_with = "integer")]
    upload_bandwidth: i64,
    #[serde(deserialize_with = "integer")]
    download_bandwidth: i64,
    #[serde(deserialize_with = "integer")]
    last_login: i64,
    #[serde(deserialize_with = "object")]
    filters: DumpFilters,
}

#[derive(Default, Serialize)]
struct DumpFilters {
    allowed_ip: Vec<String>,
    denied_ip: Vec<String>,
}

impl From<UserDraft> for DumpUser {
    fn from(user: UserDraft) -> Self {
        Self {
            id: user.id,
            status: user.status,
            username: user.username,
            expiration_date: user.expiration_date,
            password: user.password,
            public_keys: user.public_keys,
            home_dir: user.home_dir,
            uid: user.uid,
            gid: user.gid,
            max_sessions: user.max_sessions,
            quota_size: user.quota_size,
            quota_files: user.quota_files,
            permissions: user.permissions,
            used_quota_size: user.used_quota_size,
            used_quota_files: user.used_quota_files,
            last_quota_update: user.last_quota_update,
            upload_bandwidth: user.upload_bandwidth,
            download_bandwidth: user.download_bandwidth,
            last_login: user.last_login,
            filters: DumpFilters { allowed_ip: user.filters.allowed_ip, denied_ip: user.filters.denied_ip },
        }
    }
}

impl From<DumpUser> for UserDraft {
    fn from(user: DumpUser) -> Self {
        Self {
            id: user.id,
            status: user.status,
            username: user.username,
            expiration_date: user.expiration_date,
            password: user.password,
            public_keys: user.public_keys,
            home_dir: user.home_dir,
            uid: user.uid,
            gid: user.gid,
            max_sessions: user.max_sessions,
            quota_size: user.quota_size,
            quota_files: user.quota_files,
            permissions: user.permissions,
            used_quota_size: user.used_quota_size,
            used_quota_files: user.used_quota_files,
            last_quota_update: user.last_quota_update,
            upload_bandwidth: user.upload_bandwidth,
            download_bandwidth: user.download_bandwidth,
            last_login: user.last_login,
            filters: Filters { allowed_ip: user.filters.allowed_ip, denied_ip: user.filters.denied_ip },
        }
    }
}

/// `null` is what is there without a value.
fn nullable<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Ok(super::types::integer(from)?.unwrap_or_default())
}

/// What is read from an object only. (A derived structure is read from an array of its fields as well.)
trait FromObject: Default {
    fn read<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error>;
}

fn object<'de, T: FromObject, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: FromObject> Visitor<'de> for Object<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_unit<E>(self) -> Result<T, E> {
            Ok(T::default())
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::read(map)
        }
    }
    from.deserialize_any(Object(PhantomData))
}

impl FromObject for DumpUser {
    fn read<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        Self::deserialize(MapAccessDeserializer::new(map))
    }
}

impl FromObject for DumpFilters {
    fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut filters = Self::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "allowed_ip" => filters.allowed_ip = list(&mut map)?,
                "denied_ip" => filters.denied_ip = list(&mut map)?,
                _ if is_nothing(&map.next_value()?) => {}
                _ => return Err(Error::custom(format_args!("{key:?} is a filter that is not known here"))),
            }
        }
        Ok(filters)
    }
}

fn list<'de, A: MapAccess<'de>, T: DeserializeOwned + Default>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

/// What any program writes for a restriction that was not made.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    }
}

impl<'de> DeserializeSeed<'de> for Dump<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Dump<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "users" {
                map.next_value_seed(Users(&mut self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The list of users in a dump.
struct Users<'a, 'b>(&'a mut Dump<'b>);

impl<'de> DeserializeSeed<'de> for Users<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Users<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of users")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self(dump) = self;
        while let Some(Entry(user)) = seq.next_element()? {
            if dump.count == dump.max_users {
                return Err(Error::custom(format_args!("more than {} users", dump.max_users)));
            }
            dump.count += 1;
            if !(dump.each)(user.into()) {
                return Err(Error::custom("nobody takes more of its users"));
            }
        }
        Ok(())
    }
}

struct Entry(DumpUser);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Entry)
    }
}

/// Lists by directory, or one list for `/`.
fn permissions<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    struct Permissions;
    impl<'de> Visitor<'de> for Permissions {
        type Value = BTreeMap<String, Vec<String>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("lists of permissions by directory")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut lists = BTreeMap::new();
            while let Some(dir) = map.next_key()? {
                lists.insert(dir, list(&mut map)?);
            }
            Ok(lists)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut tokens = Vec::new();
            while let Some(token) = seq.next_element()? {
                tokens.push(token);
            }
            Ok(BTreeMap::from([("/".to_owned(), tokens)]))
        }
    }
    from.deserialize_any(Permissions)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn parse(text: &[u8]) -> Result<Vec<UserDraft>, BadDump> {
        let mut users = Vec::new();
        let read = read(text, 1000, &mut |user| {
            users.push(user);
            true
        });
        match read {
            Ok(()) => Ok(users),
            Err(Unusable::Bad(bad)) => Err(bad),
            Err(Unusable::Io(error)) => panic!("{error}"),
        }
    }

    fn draft(name: &str) -> UserDraft {
        UserDraft {
            id: 7,
            status: 1,
            username: name.to_owned(),
            expiration_date: 8,
            password: "$6$salt$hash".to_owned(),
            home_dir: "/srv/<&>".to_owned(),
            uid: 1,
            gid: 2,
            max_sessions: 3,
            quota_size: 4,
            quota_files: 5,
            permissions: BTreeMap::from([("/".to_owned(), vec!["list".to_owned()])]),
            used_quota_size: 6,
            used_quota_files: 7,
            last_quota_update: 8,
            upload_bandwidth: 9,
            download_bandwidth: 10,
            last_login: 11,
            filters: Filters { allowed_ip: vec!["10.0.0.0/8".to_owned()], denied_ip: Vec::new() },
            ..UserDraft::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let user = draft("ann\u{202e}a \"<&>").validate(None).unwrap();
        assert_eq!(user.home_dir, PathBuf::from("/srv/<&>"));
        let mut text = BEGIN.to_vec();
        write_user(&mut text, &user).unwrap();
        text.push(b',');
        write_user(&mut text, &user).unwrap();
        text.extend_from_slice(END);
        let value: Value = serde_json::from_slice(&text).unwrap();
        let object = value["users"][0].as_object().unwrap();
        let mut names: Vec<_> = FIELDS.to_vec();
        names.retain(|name| *name != "public_keys");
        assert_eq!(object.keys().collect::<Vec<_>>(), names, "no key is a key that is left out");
        let read = parse(&text).unwrap();
        assert_eq!(read, [UserDraft::from(&user), UserDraft::from(&user)]);
    }

    #[test]
    fn what_older_and_other_versions_wrote() {
        let one = |user: Value| parse(json!({"users": [user]}).to_string().as_bytes()).unwrap().remove(0);
        assert_eq!(one(json!({"permissions": ["list", "download"]})).permissions["/"], ["list", "download"]);
        assert_eq!(one(json!({"permissions": {"/": null}})).permissions["/"], [""; 0]);
        assert_eq!(one(json!({"uid": -7.0, "quota_size": i64::MAX})).uid, -7);
        let nulls = one(json!({"uid": null, "public_keys": null, "filters": null, "permissions": null}));
        assert_eq!(nulls, UserDraft::default());
        let newer = one(json!({"username": "a", "description": "x", "virtual_folders": [{"a": 1}],
            "filters": {"denied_ip": null, "denied_login_methods": [], "file_extensions": null}}));
        assert_eq!((newer.username.as_str(), newer.filters), ("a", Filters::default()));
        for none in ["{}", "null", r#"{"users":null}"#, r#"{"users":[],"folders":[{}]}"#, " {\n}\n"] {
            assert_eq!(parse(none.as_bytes()).unwrap(), [], "{none}");
        }
    }

    #[test]
    fn what_is_no_dump_is_placed_without_a_word_of_it() {
        for (text, place) in [
            ("secret", ""),
            ("", ""),
            ("[]", ""),
            (r#"{"users":[]} secret"#, ""),
            (r#"{"users":"secret"}"#, "users"),
            (r#"{"users":[["secret"]]}"#, "users[0]"),
            (r#"{"users":[{"uid":"secret"}]}"#, "users[0].uid"),
            (r#"{"users":[{"uid":0.5}]}"#, "users[0].uid"),
            (r#"{"users":[{"uid":9223372036854775808}]}"#, "users[0].uid"),
            (r#"{"users":[{"permissions":{"/secret":1}}]}"#, "users[0].permissions"),
            (r#"{"users":[{"filters":{"secret":["x"]}}]}"#, "users[0].filters"),
        ] {
            let bad = parse(text.as_bytes()).unwrap_err();
            assert!(!bad.place.contains("secret"), "{}", bad.place);
            let (path, at) = bad.place.split_at(bad.place.find("line 1, column ").unwrap());
            assert_eq!(path.trim_end_matches(", "), place, "{text}: {at} {}", bad.detail);
        }
        let many = format!(r#"{{"users":[{}{{}}]}}"#, "{},".repeat(1000));
        assert!(parse(many.as_bytes()).unwrap_err().detail.contains("more than 1000 users"));
    }
}
