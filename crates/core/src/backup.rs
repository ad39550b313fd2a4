//! Backup and restore of accounts: all of them at once, and what a dump would change before it does.
//!
//! The form of a dump, the file that it is in and the scans that may follow belong to who asks; here are its
//! users and the rules. A dump is put back one user after the other, as if each had been sent alone, and the
//! first one that cannot be stored ends it. Neither a restore nor a preview needs all users at once: they come in
//! any number of parts, and of those that were there little more than the names is kept.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use crate::accounts::check_parameters;
use crate::{AccountError, Accounts, Event, InvalidUser, StoreError, User, UserDraft};

/// Names that the data provider is asked for at a time.
const BATCH: usize = 500;

/// What happens to an account that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestoreMode {
    /// The dump's values take the place of all its settings; usage and last login stay.
    #[default]
    Replace,
    /// It stays as it is.
    KeepExisting,
}

/// What became of one user of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreOutcome {
    /// It is new.
    Added,
    /// Its settings were replaced.
    Replaced,
    /// It existed and was left alone.
    Kept,
}

/// One user of a dump that is in the data provider now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredUser {
    /// The name.
    pub username: String,
    /// What was done.
    pub outcome: RestoreOutcome,
    /// Whether its size or number of files is limited.
    pub has_quota: bool,
}

/// Why a restore ended before the end of its dump.
#[derive(Debug, Clone)]
pub struct RestoreFailure {
    /// Which user of the dump, from 0.
    pub index: usize,
    /// Its name, as the dump has it.
    pub username: String,
    /// What was wrong.
    pub error: AccountError,
}

/// What a restore has done.
#[derive(Debug, Clone, Default)]
pub struct RestoreReport {
    /// The users that were processed, in the dump's order. They stay as they are now even after a failure.
    pub done: Vec<RestoredUser>,
    /// What ended it early.
    pub failure: Option<RestoreFailure>,
}

impl RestoreReport {
    /// How many users had this outcome.
    pub fn count(&self, outcome: RestoreOutcome) -> usize {
        self.done.iter().filter(|user| user.outcome == outcome).count()
    }
}

/// A user whose settings a restore would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedUser {
    /// The name.
    pub username: String,
    /// The settings that differ, as the API names them.
    pub fields: Vec<&'static str>,
}

/// A user of a dump that would end a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableUser {
    /// Which user of the dump, from 0.
    pub index: usize,
    /// Its name, as the dump has it; may be empty.
    pub username: String,
    /// What is wrong with it.
    pub problem: InvalidUser,
}

/// What a restore would do, in the dump's order. Accounts that the dump does not name would stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestorePreview {
    /// Users that are new.
    pub added: Vec<String>,
    /// Users that exist and would change.
    pub changed: Vec<ChangedUser>,
    /// Users that exist exactly so.
    pub unchanged: Vec<String>,
    /// Users that cannot be stored: the restore would end at the first of them.
    pub invalid: Vec<UnusableUser>,
}

impl Accounts {
    /// All accounts with their password hashes, for a backup: as they are at one moment, or an error. One that
    /// cannot be read fails the backup, which would lack it otherwise.
    ///
    /// # Errors
    ///
    /// What the provider says.
    pub async fn backup(&self) -> Result<Vec<User>, AccountError> {
        self.sessions.write_back_usage().await;
        Ok(self.store.all_users().await?)
    }

    /// What [`Accounts::restore`] would do with these users now. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`AccountError::Disabled`] if it would be refused, or what the provider says.
    pub async fn preview(&self, users: Vec<UserDraft>) -> Result<RestorePreview, AccountError> {
        let mut preview = self.previewing()?;
        preview.add(users).await?;
        Ok(preview.into_preview())
    }

    /// Begins to look at a dump that comes in parts.
    ///
    /// # Errors
    ///
    /// [`AccountError::Disabled`] if a restore would be refused.
    pub fn previewing(&self) -> Result<Previewing, AccountError> {
        self.check_managed()?;
        let accounts = self.clone();
        Ok(Previewing {
            accounts,
            next: 0,
            known: HashMap::new(),
            state: RandomState::new(),
            seen: RestorePreview::default(),
        })
    }

    /// Stores these users one after the other, each by the rules for a user that is sent: new ones are added,
    /// open sessions of the others follow, hooks are told. Accounts that are not named stay. Ends at the first
    /// user that cannot be stored.
    pub async fn restore(&self, users: Vec<UserDraft>, mode: RestoreMode) -> RestoreReport {
        let mut restoring = self.restoring(mode);
        for user in users {
            if !restoring.next(user).await {
                break;
            }
        }
        restoring.into_report()
    }

    /// Begins to restore a dump that comes in parts.
    pub fn restoring(&self, mode: RestoreMode) -> Restoring {
        Restoring { accounts: self.clone(), mode, report: RestoreReport::default() }
    }

    async fn restore_one(&self, draft: UserDraft, mode: RestoreMode) -> Result<RestoredUser, AccountError> {
        self.check_managed()?;
        let found = match self.store.user(&draft.username).await {
            Ok(user) => Some(user),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        // Once it is our turn, it may be another one.
        let (_turn, before) = match found {
            Some(found) => (Some(self.turn(found.id).await), Some(self.store.user_by_id(found.id).await?)),
            None => (None, None),
        };
        let restored = |user: &User, outcome| RestoredUser {
            username: user.username.clone(),
            outcome,
            has_quota: user.has_quota(),
        };
        if let (Some(before), RestoreMode::KeepExisting) = (&before, mode) {
            return Ok(restored(before, RestoreOutcome::Kept));
        }
        let has_password = before.as_ref().is_some_and(|before| before.password == draft.password);
        let mut user = self.validated(draft, has_password)?;
        user.password = self.hashed(user.password).await?;
        match before {
            Some(before) => {
                // Providers that do not tell case apart may have found another spelling.
                user = User { id: before.id, username: before.username, ..user };
                self.replace(&user).await?;
                Ok(restored(&user, RestoreOutcome::Replaced))
            }
            None => {
                let id = self.store.insert(&user).await?;
                let stored = Arc::new(self.store.user_by_id(id).await?);
                self.events.emit(Event::UserAdded(Arc::clone(&stored)));
                Ok(restored(&stored, RestoreOutcome::Added))
            }
        }
    }

    fn validated(&self, draft: UserDraft, has_password: bool) -> Result<User, InvalidUser> {
        // A hash that is there already is no reason to refuse the rest.
        if !has_password {
            check_parameters(&draft.password)?;
        }
        draft.validate(self.config.users_base_dir.as_deref())
    }
}

/// A restore on its way: [`Accounts::restoring`].
pub struct Restoring {
    accounts: Accounts,
    mode: RestoreMode,
    report: RestoreReport,
}

impl Restoring {
    /// Stores the next user; whether it could be stored. After one that could not, nothing more is.
    pub async fn next(&mut self, draft: UserDraft) -> bool {
        if self.report.failure.is_some() {
            return false;
        }
        let (index, username) = (self.report.done.len(), draft.username.clone());
        match self.accounts.restore_one(draft, self.mode).await {
            Ok(user) => self.report.done.push(user),
            Err(error) => self.report.failure = Some(RestoreFailure { index, username, error }),
        }
        self.report.failure.is_none()
    }

    /// What was done.
    pub fn into_report(self) -> RestoreReport {
        self.report
    }
}

/// A look at a dump on its way: [`Accounts::previewing`].
pub struct Previewing {
    accounts: Accounts,
    /// The number of the next user.
    next: usize,
    /// A name that a dump has twice is compared with what its first user leaves there.
    known: HashMap<String, Settings>,
    state: RandomState,
    seen: RestorePreview,
}

impl Previewing {
    /// Looks at the next users.
    ///
    /// # Errors
    ///
    /// What the provider says.
    pub async fn add(&mut self, users: Vec<UserDraft>) -> Result<(), AccountError> {
        let mut users = users.into_iter().peekable();
        while users.peek().is_some() {
            let drafts: Vec<_> = users.by_ref().take(BATCH).collect();
            let names = drafts.iter().map(|draft| draft.username.clone());
            let names: Vec<_> = names.filter(|name| !self.known.contains_key(name)).collect();
            let mut stored = HashMap::new();
            for user in self.accounts.store.users_by_name(&names).await? {
                stored.insert(user.username.clone(), Settings::of(&user, &self.state));
            }
            for draft in drafts {
                let username = draft.username.clone();
                let (index, before) =
                    (self.next, self.known.get(&username).or_else(|| stored.get(&username)));
                self.next += 1;
                let password = self.state.hash_one(&draft.password);
                let has_password = before.is_some_and(|before| before.password() == password);
                let after = match self.accounts.validated(draft, has_password) {
                    Ok(user) => Settings::of(&user, &self.state),
                    Err(problem) => {
                        self.seen.invalid.push(UnusableUser { index, username, problem });
                        continue;
                    }
                };
                match before.map(|before| before.differences(&after)) {
                    None => self.seen.added.push(username.clone()),
                    Some(fields) if fields.is_empty() => self.seen.unchanged.push(username.clone()),
                    Some(fields) => {
                        self.seen.changed.push(ChangedUser { username: username.clone(), fields })
                    }
                }
                self.known.insert(username, after);
            }
        }
        Ok(())
    }

    /// What a restore would do.
    pub fn into_preview(self) -> RestorePreview {
        self.seen
    }
}

/// The settings of an account, of each only its digest: enough to see which ones differ.
struct Settings([u64; SETTINGS.len()]);

/// As the API names them.
const SETTINGS: [&str; 14] = [
    "status",
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
    "upload_bandwidth",
    "download_bandwidth",
    "filters",
];

impl Settings {
    fn of(user: &User, state: &RandomState) -> Self {
        fn digest(state: &RandomState, setting: impl Hash) -> u64 {
            state.hash_one(setting)
        }
        let permissions: Vec<_> =
            user.permissions.iter().map(|(dir, perms)| (dir.to_string(), perms)).collect();
        Self([
            digest(state, user.active),
            digest(state, user.expiration_date),
            digest(state, &user.password),
            digest(state, &user.public_keys),
            digest(state, &user.home_dir),
            digest(state, user.uid),
            digest(state, user.gid),
            digest(state, user.max_sessions),
            digest(state, user.quota_size),
            digest(state, user.quota_files),
            digest(state, permissions),
            digest(state, user.upload_bandwidth),
            digest(state, user.download_bandwidth),
            digest(state, (user.filters.allowed(), user.filters.denied())),
        ])
    }

    fn password(&self) -> u64 {
        self.0[2]
    }

    /// The settings in which two accounts differ. A password that is not hashed yet always does.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = SETTINGS.iter().zip(self.0.iter().zip(&other.0));
        pairs.filter_map(|(setting, (one, other))| (one != other).then_some(*setting)).collect()
    }
}
