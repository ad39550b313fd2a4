//! Backup and restore of accounts: all of them at once, and what a dump would change before it does.
//!
//! The form of a dump, the file that it is in and the scans that may follow belong to who asks; here are its
//! users and the rules. A dump is put back one user after the other, as if each had been sent alone, and the
//! first one that cannot be stored ends it.

use std::collections::HashMap;
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
    pub async fn preview(&self, users: &[UserDraft]) -> Result<RestorePreview, AccountError> {
        self.check_managed()?;
        let mut preview = RestorePreview::default();
        // A name that a dump has twice is compared with what its first user leaves there.
        let mut known: HashMap<String, User> = HashMap::new();
        for (batch, drafts) in users.chunks(BATCH).enumerate() {
            let names = drafts.iter().map(|draft| draft.username.clone());
            let names: Vec<_> = names.filter(|name| !known.contains_key(name)).collect();
            let stored = self.store.users_by_name(&names).await?;
            known.extend(stored.into_iter().map(|user| (user.username.clone(), user)));
            for (index, draft) in drafts.iter().enumerate() {
                let username = draft.username.clone();
                let index = batch * BATCH + index;
                let before = known.get(&username);
                let user = match self.validated(draft.clone(), before) {
                    Ok(user) => user,
                    Err(problem) => {
                        preview.invalid.push(UnusableUser { index, username, problem });
                        continue;
                    }
                };
                match before.map(|before| differences(before, &user)) {
                    None => preview.added.push(username.clone()),
                    Some(fields) if fields.is_empty() => preview.unchanged.push(username.clone()),
                    Some(fields) => preview.changed.push(ChangedUser { username: username.clone(), fields }),
                }
                known.insert(username, user);
            }
        }
        Ok(preview)
    }

    /// Stores these users one after the other, each by the rules for a user that is sent: new ones are added,
    /// open sessions of the others follow, hooks are told. Accounts that are not named stay. Ends at the first
    /// user that cannot be stored.
    pub async fn restore(&self, users: Vec<UserDraft>, mode: RestoreMode) -> RestoreReport {
        let mut report = RestoreReport::default();
        for (index, draft) in users.into_iter().enumerate() {
            let username = draft.username.clone();
            match self.restore_one(draft, mode).await {
                Ok(user) => report.done.push(user),
                Err(error) => {
                    report.failure = Some(RestoreFailure { index, username, error });
                    break;
                }
            }
        }
        report
    }

    async fn restore_one(&self, draft: UserDraft, mode: RestoreMode) -> Result<RestoredUser, AccountError> {
        self.check_managed()?;
        let before = match self.store.user(&draft.username).await {
            Ok(user) => Some(user),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        let restored = |user: &User, outcome| RestoredUser {
            username: user.username.clone(),
            outcome,
            has_quota: user.has_quota(),
        };
        if let (Some(before), RestoreMode::KeepExisting) = (&before, mode) {
            return Ok(restored(before, RestoreOutcome::Kept));
        }
        let mut user = self.validated(draft, before.as_ref())?;
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

    fn validated(&self, draft: UserDraft, before: Option<&User>) -> Result<User, InvalidUser> {
        // A hash that is there already is no reason to refuse the rest.
        if before.is_none_or(|before| before.password != draft.password) {
            check_parameters(&draft.password)?;
        }
        draft.validate(self.config.users_base_dir.as_deref())
    }
}

/// The settings in which two accounts differ. A password that is not hashed yet always does.
fn differences(before: &User, after: &User) -> Vec<&'static str> {
    let networks = |user: &User| (user.filters.allowed().to_vec(), user.filters.denied().to_vec());
    [
        ("status", before.active != after.active),
        ("expiration_date", before.expiration_date != after.expiration_date),
        ("password", before.password != after.password),
        ("public_keys", before.public_keys != after.public_keys),
        ("home_dir", before.home_dir != after.home_dir),
        ("uid", before.uid != after.uid),
        ("gid", before.gid != after.gid),
        ("max_sessions", before.max_sessions != after.max_sessions),
        ("quota_size", before.quota_size != after.quota_size),
        ("quota_files", before.quota_files != after.quota_files),
        ("permissions", before.permissions != after.permissions),
        ("upload_bandwidth", before.upload_bandwidth != after.upload_bandwidth),
        ("download_bandwidth", before.download_bandwidth != after.download_bandwidth),
        ("filters", networks(before) != networks(after)),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}
