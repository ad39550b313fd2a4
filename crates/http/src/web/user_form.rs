//! The fields of the user form (`spec/web-admin.md` §4): as they are shown, as they come back, and what they ask
//! for.
//!
//! A field that comes back as it was shown asks for nothing, so saving without a change changes nothing, even
//! where a value cannot be written in a field. Everything that is wrong is reported at once, each beside its
//! field; the rules are core's, asked again and again until nothing is left.

use std::collections::BTreeMap;
use std::path::Path;

use aws_lc_rs::digest;
use serde::Serialize;
use tidegate_core::{InvalidUser, PublicKeyLine, User, UserDraft, UserPatch, fingerprint};

use crate::web::access::{self, Dir, Map};
use crate::web::forms::Form;
use crate::web::values;

/// What is wrong, by the name of the field; `dir.N` for the row of a directory.
pub(crate) type Errors = BTreeMap<String, String>;

/// The fields, as texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct UserForm {
    pub(crate) username: String,
    pub(crate) status: String,
    pub(crate) expiration_date: String,
    pub(crate) expiration_time: String,
    #[serde(skip)]
    password: String,
    password_clear: bool,
    public_keys: String,
    root: Dir,
    pub(crate) dirs: Vec<Dir>,
    home_dir: String,
    quota_size: String,
    quota_files: String,
    upload_bandwidth: String,
    download_bandwidth: String,
    max_sessions: String,
    uid: String,
    gid: String,
    allowed_ip: String,
    denied_ip: String,
    /// The digest of what the form showed when it was opened.
    #[serde(skip)]
    pub(crate) seen: String,
    #[serde(skip)]
    numbers_missing: Vec<&'static str>,
    #[serde(skip)]
    dirs_wrong: Option<String>,
}

/// A key of the field `public_keys`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct KeyShown {
    kind: String,
    fingerprint: String,
    comment: String,
    valid: bool,
}

impl UserForm {
    /// The form for a user who is yet to be made.
    pub(crate) fn blank() -> Self {
        let zero = || "0".to_owned();
        Self {
            status: "1".to_owned(),
            root: Dir::new("/", ["*"]),
            quota_size: zero(),
            quota_files: zero(),
            upload_bandwidth: zero(),
            download_bandwidth: zero(),
            max_sessions: zero(),
            uid: zero(),
            gid: zero(),
            ..Self::default()
        }
    }

    /// The form for a user who exists.
    pub(crate) fn of(user: &User) -> Self {
        let draft = UserDraft::from(user);
        let (expiration_date, expiration_time) = values::end_text(draft.expiration_date);
        let mut root = Dir::default();
        let mut dirs = Vec::new();
        for (path, tokens) in draft.permissions {
            let dir = Dir::new(&path, tokens);
            if path == "/" { root = dir } else { dirs.push(dir) }
        }
        let form = Self {
            username: draft.username,
            status: draft.status.to_string(),
            expiration_date,
            expiration_time,
            password: String::new(),
            password_clear: false,
            public_keys: draft.public_keys.join("\n"),
            root,
            dirs,
            home_dir: draft.home_dir,
            quota_size: values::size_text(draft.quota_size),
            quota_files: draft.quota_files.to_string(),
            upload_bandwidth: draft.upload_bandwidth.to_string(),
            download_bandwidth: draft.download_bandwidth.to_string(),
            max_sessions: draft.max_sessions.to_string(),
            uid: draft.uid.to_string(),
            gid: draft.gid.to_string(),
            allowed_ip: draft.filters.allowed_ip.join(", "),
            denied_ip: draft.filters.denied_ip.join(", "),
            ..Self::default()
        };
        Self { seen: form.digest(), ..form }
    }

    /// Tells what the fields say from anything else that they could say.
    fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = digest::digest(&digest::SHA256, &text);
        digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the user has been changed since the form was opened. Scripts do not tell what they have seen.
    pub(crate) fn is_outdated(&self, stored: &User) -> bool {
        !self.seen.is_empty() && self.seen != Self::of(stored).seen
    }

    /// The form as it was sent.
    pub(crate) fn sent(form: &Form) -> Self {
        let text = |name| form.text(name).to_owned();
        let mut numbers_missing = Vec::new();
        let mut number = |name: &'static str| {
            if form.first(name).is_none() {
                numbers_missing.push(name);
            }
            form.text(name).to_owned()
        };
        let (dirs, dirs_wrong) = match access::others(form) {
            Ok(dirs) => (dirs, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        Self {
            username: text("username"),
            expiration_date: text("expiration_date"),
            expiration_time: text("expiration_time"),
            password: text("password"),
            password_clear: form.first("password_clear").is_some(),
            public_keys: text("public_keys"),
            root: access::root(form),
            dirs,
            home_dir: text("home_dir"),
            status: number("status"),
            quota_size: number("quota_size"),
            quota_files: number("quota_files"),
            upload_bandwidth: number("upload_bandwidth"),
            download_bandwidth: number("download_bandwidth"),
            max_sessions: number("max_sessions"),
            uid: number("uid"),
            gid: number("gid"),
            allowed_ip: text("allowed_ip"),
            denied_ip: text("denied_ip"),
            seen: text("_seen"),
            numbers_missing,
            dirs_wrong,
        }
    }

    /// Whether a password was typed; it is not sent back to the page.
    pub(crate) fn has_password(&self) -> bool {
        !self.password.is_empty()
    }

    /// The keys of the field, line by line.
    pub(crate) fn keys(&self) -> Vec<KeyShown> {
        lines(&self.public_keys).into_iter().map(|line| KeyShown::of(&line)).collect()
    }

    /// What the form asks for, compared with what is stored; and everything that is wrong with it.
    /// `users_base_dir` is where homes go that are not named.
    pub(crate) fn ask(&self, stored: Option<&User>, users_base_dir: Option<&Path>) -> (UserPatch, Errors) {
        let shown = stored.map(Self::of);
        let mut errors = Errors::new();
        let mut patch = match &shown {
            Some(shown) => self.with_paths_of(shown).read(Some(shown), &mut errors),
            None => self.read(None, &mut errors),
        };
        if let Some(stored) = stored {
            patch.permissions = patch.permissions.and_then(|map| changed_permissions(stored, map));
        }
        let mut draft = stored.map_or_else(UserDraft::default, UserDraft::from);
        draft.apply(patch.clone());
        for wrong in all_wrong(draft, users_base_dir) {
            let (field, reason) = self.place(&wrong);
            errors.entry(field).or_insert(reason);
        }
        (patch, errors)
    }

    /// With the paths that were shown where only their line ends are missing: a field cannot hold those.
    fn with_paths_of(&self, shown: &Self) -> Self {
        let mut whole = self.clone();
        for dir in &mut whole.dirs {
            if !shown.dirs.iter().any(|known| known.path == dir.path)
                && let Some(known) = shown.dirs.iter().find(|known| as_sent(&known.path) == dir.path)
            {
                dir.path.clone_from(&known.path);
            }
        }
        whole
    }

    /// Reads every field that does not say what `shown` says.
    fn read(&self, shown: Option<&Self>, errors: &mut Errors) -> UserPatch {
        let changed = |field: fn(&Self) -> &str| {
            let sent = field(self);
            let same = shown.is_some_and(|shown| as_sent(field(shown)) == as_sent(sent));
            (!same).then_some(sent)
        };
        let mut note = |field: &str, reason: String| {
            errors.insert(field.to_owned(), reason);
        };
        let mut number =
            |name: &'static str, field: fn(&Self) -> &str, read: fn(&str) -> Result<i64, String>| {
                let sent = changed(field)?;
                let sent = (!self.numbers_missing.contains(&name)).then_some(sent);
                let number = values::integer(sent).or_else(|reason| match sent {
                    Some(sent) if !sent.trim().is_empty() => read(sent),
                    _ => Err(reason),
                });
                number.map_err(|reason| note(name, reason)).ok()
            };
        let plain = |text: &str| Err(format!("{text:?} is not a whole number"));
        let mut patch = UserPatch {
            uid: number("uid", |form| &form.uid, plain),
            gid: number("gid", |form| &form.gid, plain),
            max_sessions: number("max_sessions", |form| &form.max_sessions, plain),
            quota_size: number("quota_size", |form| &form.quota_size, values::size),
            quota_files: number("quota_files", |form| &form.quota_files, plain),
            upload_bandwidth: number("upload_bandwidth", |form| &form.upload_bandwidth, plain),
            download_bandwidth: number("download_bandwidth", |form| &form.download_bandwidth, plain),
            status: number("status", |form| &form.status, plain),
            ..UserPatch::default()
        };
        let end = (as_sent(&self.expiration_date), as_sent(&self.expiration_time));
        if shown.is_none_or(|shown| (as_sent(&shown.expiration_date), as_sent(&shown.expiration_time)) != end)
        {
            patch.expiration_date = values::end(&self.expiration_date, &self.expiration_time)
                .map_err(|reason| note("expiration_date", reason))
                .ok();
        }
        // A user keeps the name; what is sent for it is not looked at.
        patch.username = shown.is_none().then(|| self.username.clone());
        patch.home_dir = changed(|form| &form.home_dir).map(str::to_owned);
        let list = |field: fn(&Self) -> &str, split: fn(&str) -> Vec<String>| {
            let sent = split(field(self));
            shown.is_none_or(|shown| split(field(shown)) != sent).then_some(sent)
        };
        patch.public_keys = list(|form| &form.public_keys, lines);
        patch.allowed_ip = list(|form| &form.allowed_ip, items);
        patch.denied_ip = list(|form| &form.denied_ip, items);
        if !self.password.is_empty() {
            patch.password = Some(self.password.clone());
        } else if self.password_clear {
            patch.password = Some(String::new());
        }
        if let Some(reason) = &self.dirs_wrong {
            note("sub_dirs_permissions", reason.clone());
        }
        let (map, wrong) = access::map(&self.root, &self.dirs);
        for (row, reason) in wrong {
            note(&row.map_or_else(|| "permissions".to_owned(), |row| format!("dir.{row}")), reason);
        }
        patch.permissions = Some(map);
        patch
    }

    /// The field beside which a failure of core's rules belongs, in words for a page.
    pub(crate) fn place(&self, wrong: &InvalidUser) -> (String, String) {
        let field = match wrong.field {
            "permissions" => {
                let row = self.dirs.iter().position(|dir| wrong.reason.contains(&format!("{:?}", dir.path)));
                row.map_or_else(|| "permissions".to_owned(), |row| format!("dir.{row}"))
            }
            other => other.to_owned(),
        };
        (field, wrong.reason.clone())
    }
}

impl KeyShown {
    fn of(line: &str) -> Self {
        match PublicKeyLine::parse(line) {
            Some(key) => Self {
                kind: kind(&key.blob),
                fingerprint: fingerprint(&key.blob),
                comment: key.comment,
                valid: true,
            },
            None => Self {
                kind: "not a public key".to_owned(),
                fingerprint: String::new(),
                comment: line.chars().take(60).collect(),
                valid: false,
            },
        }
    }
}

/// `ED25519`, `RSA 3072`, `ECDSA nistp256`, from the key's wire format (RFC 4253 §6.6).
fn kind(blob: &[u8]) -> String {
    let (name, rest) = field(blob).unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    match name.strip_suffix("@openssh.com").unwrap_or(&name) {
        "ssh-ed25519" => "ED25519".to_owned(),
        "sk-ssh-ed25519" => "ED25519-SK".to_owned(),
        "ssh-dss" => "DSA".to_owned(),
        "ssh-rsa" => {
            let modulus = field(rest).and_then(|(_, rest)| field(rest)).map_or(&[][..], |(n, _)| n);
            let modulus = &modulus[modulus.iter().take_while(|byte| **byte == 0).count()..];
            let top = modulus.first().map_or(0, |byte| 8 - byte.leading_zeros() as usize);
            format!("RSA {}", top + 8 * modulus.len().saturating_sub(1))
        }
        other => match other.rsplit_once("-sha2-") {
            Some(("sk-ecdsa", curve)) => format!("ECDSA-SK {curve}"),
            Some((_, curve)) => format!("ECDSA {curve}"),
            None => other.to_owned(),
        },
    }
}

/// A string of the wire format, and what follows.
fn field(wire: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = wire.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// A value as a browser sends it back from a field of one line: without line ends.
fn as_sent(shown: &str) -> String {
    shown.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn items(text: &str) -> Vec<String> {
    text.split([',', '\n', '\r']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// The map, unless it says what is stored.
fn changed_permissions(stored: &User, sent: Map) -> Option<Map> {
    let sets = |map: &Map| -> Vec<_> {
        map.iter().map(|(path, tokens)| Dir::new(path, tokens.iter().cloned())).collect()
    };
    (sets(&sent) != sets(&UserDraft::from(stored).permissions)).then_some(sent)
}

/// Everything that core finds wrong: what was found is replaced by something that is right, and core is asked
/// again.
fn all_wrong(mut draft: UserDraft, users_base_dir: Option<&Path>) -> Vec<InvalidUser> {
    let mut all = Vec::new();
    // More fields than there are cannot be wrong.
    for _ in 0..16 {
        let Err(wrong) = draft.clone().validate(users_base_dir) else { break };
        match wrong.field {
            "username" => draft.username = "name".to_owned(),
            "home_dir" => draft.home_dir = "/".to_owned(),
            "password" => draft.password = "password".to_owned(),
            "permissions" => draft.permissions = BTreeMap::from([("/".to_owned(), vec!["*".to_owned()])]),
            "status" => draft.status = 1,
            "public_keys" => draft.public_keys.clear(),
            "denied_ip" => draft.filters.denied_ip.clear(),
            "allowed_ip" => draft.filters.allowed_ip.clear(),
            "uid" => draft.uid = 0,
            "gid" => draft.gid = 0,
            "max_sessions" => draft.max_sessions = 0,
            "quota_size" => draft.quota_size = 0,
            "quota_files" => draft.quota_files = 0,
            "upload_bandwidth" => draft.upload_bandwidth = 0,
            "download_bandwidth" => draft.download_bandwidth = 0,
            _ => {
                all.push(wrong);
                break;
            }
        }
        // Without its keys the account lacks a credential, which is not what is wrong with it.
        if wrong.field == "public_keys" && draft.password.is_empty() {
            draft.password = "password".to_owned();
        }
        all.push(wrong);
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_core::Filters;

    use super::*;
    use crate::web::forms::encode;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna <b>@example";

    /// What a browser sends of a form: line ends as CR LF, and none in fields of one line.
    fn browser(form: &UserForm) -> String {
        let mut pairs = vec![
            ("username".to_owned(), as_sent(&form.username)),
            ("status".to_owned(), form.status.clone()),
            ("expiration_date".to_owned(), form.expiration_date.clone()),
            ("expiration_time".to_owned(), form.expiration_time.clone()),
            ("password".to_owned(), String::new()),
            ("public_keys".to_owned(), form.public_keys.replace('\n', "\r\n")),
            ("home_dir".to_owned(), as_sent(&form.home_dir)),
            ("quota_size".to_owned(), form.quota_size.clone()),
            ("quota_files".to_owned(), form.quota_files.clone()),
            ("upload_bandwidth".to_owned(), form.upload_bandwidth.clone()),
            ("download_bandwidth".to_owned(), form.download_bandwidth.clone()),
            ("max_sessions".to_owned(), form.max_sessions.clone()),
            ("uid".to_owned(), form.uid.clone()),
            ("gid".to_owned(), form.gid.clone()),
            ("allowed_ip".to_owned(), form.allowed_ip.clone()),
            ("denied_ip".to_owned(), form.denied_ip.clone()),
        ];
        pairs.extend(form.root.tokens.iter().map(|token| ("permissions".to_owned(), token.clone())));
        for (row, dir) in form.dirs.iter().enumerate() {
            pairs.push((format!("dir.{row}.path"), as_sent(&dir.path)));
            pairs.push((format!("dir.{row}.preset"), dir.preset.to_owned()));
            pairs.extend(dir.tokens.iter().map(|token| (format!("dir.{row}.perm"), token.clone())));
        }
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
        pairs.join("&")
    }

    fn draft() -> UserDraft {
        UserDraft {
            id: 7,
            status: 1,
            username: "anna \"<x>".into(),
            password: "$2a$10$hash".into(),
            public_keys: vec![KEY.into()],
            home_dir: "/srv/a\nb".into(),
            permissions: BTreeMap::from([
                ("/".into(), vec!["*".into()]),
                ("/a:,\n b".into(), vec!["list".into(), "chmod".into()]),
            ]),
            ..UserDraft::default()
        }
    }

    fn ask(text: &str, stored: Option<&User>) -> (UserPatch, Errors) {
        UserForm::sent(&Form::parse(text.as_bytes()).unwrap()).ask(stored, None)
    }

    proptest! {
        #[test]
        fn saving_without_a_change_changes_nothing(
            numbers in prop::collection::vec(any::<i32>(), 6),
            quota_size: i64, expiration_date: i64, status in 0_i64..2,
            home in "/[ -~\u{a0}-\u{2fff}\n]{0,30}", dir in "/[ -.0-~\u{a0}-\u{2fff}\n]{1,20}",
        ) {
            let mut draft = UserDraft { quota_size, expiration_date, status, home_dir: home, ..draft() };
            let mut numbers = numbers.into_iter().map(i64::from);
            let mut next = || numbers.next().unwrap();
            (draft.uid, draft.gid, draft.max_sessions) = (next(), next(), next());
            (draft.quota_files, draft.upload_bandwidth, draft.download_bandwidth) = (next(), next(), next());
            draft.permissions.insert(dir, vec!["upload".into()]);
            draft.filters = Filters { allowed_ip: vec!["10.0.0.0/8".into(), "::/0".into()], denied_ip: vec![] };
            let Ok(user) = draft.validate(None) else { return Err(TestCaseError::reject("not a user")) };
            let (patch, errors) = ask(&browser(&UserForm::of(&user)), Some(&user));
            prop_assert_eq!(errors, Errors::new());
            prop_assert_eq!(patch, UserPatch::default());
        }
    }

    #[test]
    fn the_form_of_a_script_for_the_reference() {
        let text = "username=anna&status=1&expiration_date=2026-01-01+12%3A00%3A00&password=secret&public_keys=\
                    &permissions=list&permissions=download&sub_dirs_permissions=%2Fin%3Aupload%2Clist&home_dir=%2Fsrv\
                    &quota_files=5&quota_size=1000000&upload_bandwidth=1&download_bandwidth=2&max_sessions=3&uid=4\
                    &gid=5&denied_ip=&allowed_ip=10.0.0.0%2F8%2C+11.0.0.0%2F8";
        let (patch, errors) = ask(text, None);
        assert_eq!(errors, Errors::new());
        assert_eq!((patch.quota_size, patch.quota_files, patch.uid), (Some(1_000_000), Some(5), Some(4)));
        assert_eq!(patch.expiration_date, Some(1_767_268_800_000));
        assert_eq!(patch.allowed_ip.unwrap(), ["10.0.0.0/8", "11.0.0.0/8"]);
        let permissions = patch.permissions.unwrap();
        assert_eq!(permissions["/"], ["download", "list"]);
        assert_eq!(permissions["/in"], ["list", "upload"]);
    }

    #[test]
    fn everything_that_is_wrong_at_once() {
        let text = "username=a%2Fb&status=2&expiration_date=soon&public_keys=nonsense&permissions=fly&home_dir=rel\
                    &quota_files=x&quota_size=10+G&upload_bandwidth=&max_sessions=99999999999&uid=1&gid=1\
                    &denied_ip=1.2.3.4&allowed_ip=x&dir.0.path=in&dir.0.perm=list&dir.1.path=&dir.1.perm=list";
        let (_, errors) = ask(text, None);
        let fields: Vec<_> = errors.keys().map(String::as_str).collect();
        let expected = [
            "allowed_ip",
            "denied_ip",
            "dir.0",
            "dir.1",
            "download_bandwidth",
            "expiration_date",
            "home_dir",
            "max_sessions",
            "permissions",
            "public_keys",
            "quota_files",
            "quota_size",
            "status",
            "upload_bandwidth",
            "username",
        ];
        assert_eq!(fields, expected, "{errors:#?}");
        assert!(ask("", None).1.contains_key("password"));
    }

    #[test]
    fn what_is_removed_and_what_stays() {
        let user = draft().validate(None).unwrap();
        let mut form = UserForm::of(&user);
        form.public_keys.clear();
        let (patch, errors) = ask(&browser(&form), Some(&user));
        assert_eq!((patch.public_keys, errors.len()), (Some(vec![]), 0));
        let (patch, errors) =
            ask(&format!("{}&password_clear=1", browser(&UserForm::of(&user))), Some(&user));
        assert_eq!((patch.password.as_deref(), errors.len()), (Some(""), 0));
        let (_, errors) = ask(&format!("{}&password_clear=1", browser(&form)), Some(&user));
        assert_eq!(errors.keys().collect::<Vec<_>>(), ["password"]);
        form.dirs.clear();
        let (patch, _) = ask(&browser(&form), Some(&user));
        assert_eq!(patch.permissions.unwrap().len(), 1);
    }

    #[test]
    fn keys_are_described() {
        let form = UserForm { public_keys: format!("{KEY}\r\n\r\nrubbish"), ..UserForm::default() };
        let keys = form.keys();
        assert_eq!((keys[0].kind.as_str(), keys[0].comment.as_str()), ("ED25519", "anna <b>@example"));
        assert!(keys[0].fingerprint.starts_with("SHA256:"));
        assert!(!keys[1].valid);
        let mut blob = Vec::new();
        for part in [&b"ssh-rsa"[..], &[1, 0, 1], &[&[0, 0x80][..], &[0; 383]].concat()] {
            blob.extend((part.len() as u32).to_be_bytes());
            blob.extend(part);
        }
        assert_eq!(kind(&blob), "RSA 3072");
        assert_eq!(kind(&[0, 0]), "");
    }
}
