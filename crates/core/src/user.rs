//! An account: as it is sent (`UserPatch`, `UserDraft`), and as it is once checked (`User`).
//!
//! The rules of validation are those of the REST API (§3.1): in that order, the first failure wins.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use tidegate_vfs::VPath;

use crate::public_key::PublicKeyLine;
use crate::{IpFilters, Permissions, Perms, UnixMillis, UsedQuota, ip_filter};

/// Longest text that a column of the reference's schema takes, in bytes.
const MAX_TEXT_BYTES: usize = 255;

/// Lists longer than this are refused: keys, networks, directories.
const MAX_LIST_ENTRIES: usize = 1000;

/// A valid account.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// Assigned by the provider; 0 before.
    pub id: i64,
    /// Unique name.
    pub username: String,
    /// Hash in the form that its prefix names; empty if there is no password login.
    pub password: String,
    /// Lines of `authorized_keys`.
    pub public_keys: Vec<String>,
    /// Absolute path of the folder that the user sees as `/`.
    pub home_dir: PathBuf,
    /// Owner of the user's files, 0 for the server's own account.
    pub uid: i64,
    /// Group of the user's files, 0 for the server's own.
    pub gid: i64,
    /// Whether the account may log in.
    pub active: bool,
    /// End of the account, 0 for never.
    pub expiration_date: UnixMillis,
    /// Concurrent sessions, 0 for any number.
    pub max_sessions: i64,
    /// Bytes that may be stored, 0 for any number.
    pub quota_size: i64,
    /// Files that may be stored, 0 for any number.
    pub quota_files: i64,
    /// What may be done where.
    pub permissions: Permissions,
    /// What is stored now.
    pub used: UsedQuota,
    /// When `used` was last changed.
    pub last_quota_update: UnixMillis,
    /// KB/s, 0 for no limit.
    pub upload_bandwidth: i64,
    /// KB/s, 0 for no limit.
    pub download_bandwidth: i64,
    /// Last successful login, 0 for never.
    pub last_login: UnixMillis,
    /// From where the user may log in.
    pub filters: IpFilters,
}

impl User {
    /// Whether the account has ended at `now`.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expiration_date > 0 && self.expiration_date < now
    }

    /// Whether size or number of files is limited.
    pub fn has_quota(&self) -> bool {
        self.quota_size > 0 || self.quota_files > 0
    }

    /// The system account that the user's files belong to: ids 1 to 65535, else unchanged.
    pub fn owner(&self) -> (Option<u32>, Option<u32>) {
        let id = |id: i64| u32::try_from(id).ok().filter(|id| (1..=65_535).contains(id));
        (id(self.uid), id(self.gid))
    }
}

/// Networks as they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters {
    /// Networks that may log in.
    pub allowed_ip: Vec<String>,
    /// Networks that may not.
    pub denied_ip: Vec<String>,
}

/// An account before it is checked.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the fields of User, unchecked")]
pub struct UserDraft {
    pub id: i64,
    pub status: i64,
    pub username: String,
    pub expiration_date: UnixMillis,
    pub password: String,
    pub public_keys: Vec<String>,
    pub home_dir: String,
    pub uid: i64,
    pub gid: i64,
    pub max_sessions: i64,
    pub quota_size: i64,
    pub quota_files: i64,
    pub permissions: BTreeMap<String, Vec<String>>,
    pub used_quota_size: i64,
    pub used_quota_files: i64,
    pub last_quota_update: UnixMillis,
    pub upload_bandwidth: i64,
    pub download_bandwidth: i64,
    pub last_login: UnixMillis,
    pub filters: Filters,
}

/// The parts of an account that a request names; `None` leaves a part as it is.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the fields of User, unchecked")]
pub struct UserPatch {
    pub id: Option<i64>,
    pub status: Option<i64>,
    pub username: Option<String>,
    pub expiration_date: Option<UnixMillis>,
    pub password: Option<String>,
    pub public_keys: Option<Vec<String>>,
    pub home_dir: Option<String>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub max_sessions: Option<i64>,
    pub quota_size: Option<i64>,
    pub quota_files: Option<i64>,
    /// Replaces the whole map; an empty one is taken as absent.
    pub permissions: Option<BTreeMap<String, Vec<String>>>,
    pub upload_bandwidth: Option<i64>,
    pub download_bandwidth: Option<i64>,
    pub allowed_ip: Option<Vec<String>>,
    pub denied_ip: Option<Vec<String>>,
}

/// What is wrong with an account that was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidUser {
    /// The field, as the API names it.
    pub field: &'static str,
    /// What is wrong, naming the value.
    pub reason: String,
}

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Result<T, InvalidUser> {
    Err(InvalidUser { field, reason: reason.into() })
}

impl UserDraft {
    /// Lays the parts that a request names over this draft.
    pub fn apply(&mut self, patch: UserPatch) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(value) = from {
                *to = value;
            }
        }
        set(&mut self.status, patch.status);
        set(&mut self.username, patch.username);
        set(&mut self.expiration_date, patch.expiration_date);
        set(&mut self.password, patch.password);
        set(&mut self.public_keys, patch.public_keys);
        set(&mut self.home_dir, patch.home_dir);
        set(&mut self.uid, patch.uid);
        set(&mut self.gid, patch.gid);
        set(&mut self.max_sessions, patch.max_sessions);
        set(&mut self.quota_size, patch.quota_size);
        set(&mut self.quota_files, patch.quota_files);
        set(&mut self.permissions, patch.permissions.filter(|map| !map.is_empty()));
        set(&mut self.upload_bandwidth, patch.upload_bandwidth);
        set(&mut self.download_bandwidth, patch.download_bandwidth);
        set(&mut self.filters.allowed_ip, patch.allowed_ip);
        set(&mut self.filters.denied_ip, patch.denied_ip);
    }

    /// Checks and normalizes. The password is taken as it is: hashing it comes after.
    ///
    /// # Errors
    ///
    /// The first field that is wrong, in the order of the REST API's rules.
    pub fn validate(mut self, users_base_dir: Option<&Path>) -> Result<User, InvalidUser> {
        check_username(&self.username)?;
        if self.home_dir.is_empty()
            && let Some(base) = users_base_dir
        {
            self.home_dir = base.join(&self.username).to_string_lossy().into_owned();
        }
        if self.home_dir.is_empty() {
            return invalid("home_dir", "is mandatory, as users_base_dir is not set");
        }
        if self.password.is_empty() && self.public_keys.is_empty() {
            return invalid("password", "a password or at least one public key is mandatory");
        }
        let home_dir = clean_home(&self.home_dir)?;
        let permissions = check_permissions(&self.permissions)?;
        if !matches!(self.status, 0 | 1) {
            return invalid("status", format!("{} is neither 0 nor 1", self.status));
        }
        if self.password.len() > MAX_TEXT_BYTES {
            return invalid("password", "longer than 255 bytes");
        }
        // What ssh-keygen writes ends with a line end.
        for line in &mut self.public_keys {
            *line = line.trim_ascii().to_owned();
        }
        check_list("public_keys", &self.public_keys)?;
        for (index, line) in self.public_keys.iter().enumerate() {
            if PublicKeyLine::parse(line).is_none() || line.contains(['\n', '\r']) {
                return invalid("public_keys", format!("entry {index} is not an OpenSSH public key"));
            }
        }
        for (field, list) in
            [("denied_ip", &self.filters.denied_ip), ("allowed_ip", &self.filters.allowed_ip)]
        {
            check_list(field, list)?;
            if let Some(entry) = list.iter().find(|entry| ip_filter::network(entry).is_none()) {
                return invalid(field, format!("{entry:?} is not a network in CIDR notation"));
            }
        }
        self.check_ranges()?;
        Ok(User {
            id: self.id,
            username: self.username,
            password: self.password,
            public_keys: self.public_keys,
            home_dir,
            uid: self.uid,
            gid: self.gid,
            active: self.status == 1,
            expiration_date: self.expiration_date,
            max_sessions: self.max_sessions,
            quota_size: self.quota_size,
            quota_files: self.quota_files,
            permissions,
            used: UsedQuota { size_bytes: self.used_quota_size, files: self.used_quota_files },
            last_quota_update: self.last_quota_update,
            upload_bandwidth: self.upload_bandwidth,
            download_bandwidth: self.download_bandwidth,
            last_login: self.last_login,
            filters: IpFilters::new(self.filters.allowed_ip, self.filters.denied_ip),
        })
    }

    /// Negative limits mean "no limit" to the reference and are kept; what no column takes is refused.
    fn check_ranges(&self) -> Result<(), InvalidUser> {
        let int = i64::from(i32::MIN)..=i64::from(i32::MAX);
        for (field, value) in [
            ("uid", self.uid),
            ("gid", self.gid),
            ("max_sessions", self.max_sessions),
            ("quota_files", self.quota_files),
            ("upload_bandwidth", self.upload_bandwidth),
            ("download_bandwidth", self.download_bandwidth),
        ] {
            if !int.contains(&value) {
                return invalid(field, format!("{value} is out of range"));
            }
        }
        Ok(())
    }
}

impl From<&User> for UserDraft {
    fn from(user: &User) -> Self {
        let lists = |permissions: &Permissions| {
            let own = |perms: Perms| perms.tokens().into_iter().map(str::to_owned).collect();
            permissions.iter().map(|(dir, perms)| (dir.to_string(), own(perms))).collect()
        };
        Self {
            id: user.id,
            status: i64::from(user.active),
            username: user.username.clone(),
            expiration_date: user.expiration_date,
            password: user.password.clone(),
            public_keys: user.public_keys.clone(),
            home_dir: user.home_dir.to_string_lossy().into_owned(),
            uid: user.uid,
            gid: user.gid,
            max_sessions: user.max_sessions,
            quota_size: user.quota_size,
            quota_files: user.quota_files,
            permissions: lists(&user.permissions),
            used_quota_size: user.used.size_bytes,
            used_quota_files: user.used.files,
            last_quota_update: user.last_quota_update,
            upload_bandwidth: user.upload_bandwidth,
            download_bandwidth: user.download_bandwidth,
            last_login: user.last_login,
            filters: Filters {
                allowed_ip: user.filters.allowed().to_vec(),
                denied_ip: user.filters.denied().to_vec(),
            },
        }
    }
}

/// A username becomes a folder name below `users_base_dir`, so it must not be a path.
fn check_username(name: &str) -> Result<(), InvalidUser> {
    if name.is_empty() {
        return invalid("username", "is mandatory");
    }
    if name.len() > MAX_TEXT_BYTES {
        return invalid("username", "longer than 255 bytes");
    }
    if matches!(name, "." | "..") || name.contains(['/', '\\', '\0']) {
        return invalid("username", format!("{name:?} is not a single name"));
    }
    Ok(())
}

/// Absolute, without `.` and `..`, so that no two spellings of one folder exist.
fn clean_home(home: &str) -> Result<PathBuf, InvalidUser> {
    if home.len() > MAX_TEXT_BYTES {
        return invalid("home_dir", "longer than 255 bytes");
    }
    if home.contains('\0') || !Path::new(home).is_absolute() {
        return invalid("home_dir", format!("{home:?} is not an absolute path"));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(home).components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

fn check_permissions(map: &BTreeMap<String, Vec<String>>) -> Result<Permissions, InvalidUser> {
    const FIELD: &str = "permissions";
    if map.is_empty() {
        return invalid(FIELD, "are mandatory");
    }
    if map.len() > MAX_LIST_ENTRIES {
        return invalid(FIELD, format!("more than {MAX_LIST_ENTRIES} directories"));
    }
    if !map.contains_key("/") {
        return invalid(FIELD, "the root directory \"/\" is missing");
    }
    let mut permissions = Permissions::default();
    for (dir, tokens) in map {
        if tokens.is_empty() {
            return invalid(FIELD, format!("the list for directory {dir:?} is empty"));
        }
        let mut perms = Perms::NONE;
        for token in tokens {
            let Some(perm) = Perms::from_token(token) else {
                return invalid(FIELD, format!("unknown permission {token:?} for directory {dir:?}"));
            };
            perms = perms | perm;
        }
        if !dir.starts_with('/') {
            return invalid(FIELD, format!("directory {dir:?} is not absolute"));
        }
        match VPath::parse(dir.as_bytes()) {
            Ok(path) => permissions.insert(path, perms),
            Err(error) => return invalid(FIELD, format!("directory {dir:?}: {error}")),
        }
    }
    Ok(permissions)
}

fn check_list(field: &'static str, list: &[String]) -> Result<(), InvalidUser> {
    if list.len() > MAX_LIST_ENTRIES {
        return invalid(field, format!("more than {MAX_LIST_ENTRIES} entries"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> UserDraft {
        UserDraft {
            status: 1,
            username: "anna".into(),
            password: "secret".into(),
            home_dir: "/srv/anna".into(),
            permissions: BTreeMap::from([("/".into(), vec!["*".into()])]),
            ..UserDraft::default()
        }
    }

    #[test]
    fn a_valid_draft_round_trips() {
        let mut draft = draft();
        draft.permissions.insert("/somedir/../otherdir/".into(), vec!["list".into(), "*".into()]);
        draft.home_dir = "/srv/./x/../anna/".into();
        let user = draft.validate(None).unwrap();
        assert_eq!(user.home_dir, Path::new("/srv/anna"));
        let back = UserDraft::from(&user);
        assert_eq!(back.permissions["/otherdir"], ["*"]);
        assert_eq!(back.validate(None).unwrap(), user);
    }

    #[test]
    fn the_first_wrong_field_is_named() {
        type Spoil = fn(&mut UserDraft);
        let cases: [(&str, Spoil); 13] = [
            ("username", |d| d.username.clear()),
            ("username", |d| d.username = "../x".into()),
            ("home_dir", |d| d.home_dir.clear()),
            ("password", |d| d.password.clear()),
            ("home_dir", |d| d.home_dir = "relative".into()),
            ("permissions", |d| d.permissions.clear()),
            ("permissions", |d| d.permissions = BTreeMap::from([("//".into(), vec!["*".into()])])),
            ("permissions", |d| d.permissions.insert("/a".into(), vec![]).unwrap_or_default().clear()),
            ("permissions", |d| {
                d.permissions.insert("/a".into(), vec!["List".into()]).unwrap_or_default().clear()
            }),
            ("permissions", |d| {
                d.permissions.insert("not_abs".into(), vec!["*".into()]).unwrap_or_default().clear()
            }),
            ("status", |d| d.status = 2),
            ("public_keys", |d| d.public_keys = vec!["no key".into()]),
            ("denied_ip", |d| {
                d.filters = Filters { allowed_ip: vec!["x".into()], denied_ip: vec!["1.2.3.4".into()] }
            }),
        ];
        for (field, spoil) in cases {
            let mut draft = draft();
            spoil(&mut draft);
            assert_eq!(draft.validate(None).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_key_may_come_with_the_line_end_of_its_file_and_holds_one_line() {
        const KEY: &str =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna@example";
        for end in ["", "\n", "\r\n", " \n\n"] {
            let user = UserDraft { public_keys: vec![format!("{KEY}{end}")], ..draft() }.validate(None);
            assert_eq!(user.unwrap().public_keys, [KEY], "{end:?}");
        }
        for text in [format!("{KEY}\n{KEY}\n"), "\n".to_owned()] {
            let draft = UserDraft { public_keys: vec![text], ..draft() };
            assert_eq!(draft.validate(None).unwrap_err().field, "public_keys");
        }
    }

    #[test]
    fn home_comes_from_the_base_dir() {
        let mut draft = draft();
        draft.home_dir.clear();
        assert_eq!(draft.validate(Some(Path::new("/srv"))).unwrap().home_dir, Path::new("/srv/anna"));
    }

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let mut patched = draft();
        patched.filters.allowed_ip = vec!["10.0.0.0/8".into()];
        patched.apply(UserPatch {
            denied_ip: Some(vec!["11.0.0.0/8".into()]),
            permissions: Some(BTreeMap::new()),
            uid: Some(5),
            ..UserPatch::default()
        });
        assert_eq!(patched.uid, 5);
        assert_eq!(patched.permissions, draft().permissions);
        assert_eq!(patched.filters.allowed_ip, ["10.0.0.0/8"]);
        assert_eq!(patched.filters.denied_ip, ["11.0.0.0/8"]);
    }
}
