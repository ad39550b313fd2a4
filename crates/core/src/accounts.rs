//! Accounts as they are managed: created, changed, removed. Validates, hashes, stores, emits.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use crate::password::{self, PasswordError};
use crate::{
    Event, Events, InvalidUser, Page, Passwords, Sessions, StoreError, StorePool, User, UserDraft, UserPage,
    UserPatch, UserQuery, UserStore,
};

/// How accounts may be managed.
#[derive(Debug, Clone, Default)]
pub struct AccountsConfig {
    /// Whether accounts may be changed at all (`data_provider.manage_users`).
    pub manage_users: bool,
    /// Where homes go that are not named.
    pub users_base_dir: Option<PathBuf>,
}

/// Why an account could not be managed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccountError {
    /// A field is wrong.
    #[error("Validation error: {0}")]
    Invalid(#[from] InvalidUser),
    /// No such account.
    #[error("Not found: no such user")]
    NotFound,
    /// The username is taken.
    #[error("username already exists")]
    Conflict,
    /// Management is switched off.
    #[error("Method disabled error: user management is disabled, manage_users is 0")]
    Disabled,
    /// The data provider failed.
    #[error("{0}")]
    Store(StoreError),
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Hashing,
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::NotFound,
            StoreError::Conflict => Self::Conflict,
            other => Self::Store(other),
        }
    }
}

/// What is done to several accounts. Not a closure: the future of one is not `Send` enough for a server's task.
#[derive(Debug, Clone, Copy)]
enum Change {
    Active(bool),
    Remove,
}

/// What became of one account among several.
#[derive(Debug, Clone)]
pub struct BulkOutcome {
    /// The id that was given.
    pub id: i64,
    /// Its name, if the account could be read.
    pub username: Option<String>,
    /// Whether it was done, or why not.
    pub result: Result<(), AccountError>,
}

/// Accounts that may be changed at the same time; those whose ids share a remainder wait for each other.
const TURNS: usize = 64;

/// The one place where accounts change.
///
/// A change reads an account, alters it and stores the whole. Two at once would each store what the other has not
/// seen, and an account that was just disabled would be back: so an account is changed by one after the other.
#[derive(Clone)]
pub struct Accounts {
    pub(crate) store: Arc<dyn UserStore>,
    passwords: Passwords,
    pub(crate) sessions: Sessions,
    pub(crate) events: Events,
    pub(crate) config: AccountsConfig,
    turns: Arc<[Mutex<()>; TURNS]>,
}

impl Accounts {
    /// Manages the accounts of `store`.
    pub fn new(
        store: Arc<dyn UserStore>,
        passwords: Passwords,
        sessions: Sessions,
        events: Events,
        config: AccountsConfig,
    ) -> Self {
        let turns = Arc::new(std::array::from_fn(|_| Mutex::default()));
        Self { store, passwords, sessions, events, config, turns }
    }

    /// Where homes go that are not named, for those who check a draft before it is sent.
    pub fn users_base_dir(&self) -> Option<&Path> {
        self.config.users_base_dir.as_deref()
    }

    /// The account with this id, with up-to-date usage.
    ///
    /// # Errors
    ///
    /// [`AccountError::NotFound`], or what the provider says.
    pub async fn user(&self, id: i64) -> Result<User, AccountError> {
        self.sessions.write_back_usage().await;
        Ok(self.store.user_by_id(id).await?)
    }

    /// A part of the list of accounts.
    ///
    /// # Errors
    ///
    /// What the provider says.
    pub async fn users(&self, page: &Page) -> Result<Vec<User>, AccountError> {
        self.sessions.write_back_usage().await;
        Ok(self.store.users(page).await?)
    }

    /// The accounts of `query` with up-to-date usage, and how many there are.
    ///
    /// # Errors
    ///
    /// What the provider says.
    pub async fn search(&self, query: &UserQuery) -> Result<UserPage, AccountError> {
        self.sessions.write_back_usage().await;
        Ok(self.store.search(query).await?)
    }

    /// Adds an account and returns it as it was stored.
    ///
    /// # Errors
    ///
    /// [`AccountError::Invalid`], [`AccountError::Conflict`], or what the provider says.
    pub async fn create(&self, patch: UserPatch) -> Result<User, AccountError> {
        self.check_managed()?;
        let mut draft = UserDraft::default();
        draft.apply(patch);
        check_parameters(&draft.password)?;
        let user = self.checked(draft).await?;
        let id = self.store.insert(&user).await?;
        let stored = self.store.user_by_id(id).await?;
        self.events.emit(Event::UserAdded(Arc::new(stored.clone())));
        Ok(stored)
    }

    /// Lays `patch` over the stored account. Open sessions follow at once: those that could not log in
    /// any more as they did end, the others go on by the new rules.
    ///
    /// # Errors
    ///
    /// [`AccountError::Invalid`] also for another username: an account keeps its name.
    pub async fn update(&self, id: i64, patch: UserPatch) -> Result<(), AccountError> {
        let _turn = self.turn(id).await;
        let before = self.store.user_by_id(id).await?;
        self.check_managed()?;
        if patch.username.as_ref().is_some_and(|name| *name != before.username) {
            let reason = format!("cannot be changed, the account is called {:?}", before.username);
            return Err(InvalidUser { field: "username", reason }.into());
        }
        let mut draft = UserDraft::from(&before);
        draft.apply(patch);
        draft.id = id;
        // A hash that is there already is no reason to refuse a change of something else.
        if draft.password != before.password {
            check_parameters(&draft.password)?;
        }
        let user = self.checked(draft).await?;
        self.replace(&user).await
    }

    /// Removes an account and ends its sessions; its files stay.
    ///
    /// # Errors
    ///
    /// [`AccountError::NotFound`], or what the provider says.
    pub async fn delete(&self, id: i64) -> Result<(), AccountError> {
        let _turn = self.turn(id).await;
        let user = self.store.user_by_id(id).await?;
        self.check_managed()?;
        self.remove(user).await
    }

    /// Lets several accounts log in, or disables them and ends their sessions. Each is told of; one that is so
    /// already is left as it is. Nothing else of an account is checked: disabling it must always be possible.
    ///
    /// # Errors
    ///
    /// [`AccountError::Disabled`]; nothing was done then.
    pub async fn set_status_many(&self, ids: &[i64], active: bool) -> Result<Vec<BulkOutcome>, AccountError> {
        self.for_each(ids, Change::Active(active)).await
    }

    /// Removes several accounts and ends their sessions; their files stay. Each is told of.
    ///
    /// # Errors
    ///
    /// [`AccountError::Disabled`]; nothing was done then.
    pub async fn delete_many(&self, ids: &[i64]) -> Result<Vec<BulkOutcome>, AccountError> {
        self.for_each(ids, Change::Remove).await
    }

    async fn change(&self, mut user: User, what: Change) -> Result<(), AccountError> {
        match what {
            Change::Remove => self.remove(user).await,
            Change::Active(active) if user.active == active => Ok(()),
            Change::Active(active) => {
                user.active = active;
                user.password = self.hashed(user.password).await?;
                self.replace(&user).await
            }
        }
    }

    /// Does `what` to one account after the other. A provider that is away is not asked for the rest.
    async fn for_each(&self, ids: &[i64], what: Change) -> Result<Vec<BulkOutcome>, AccountError> {
        self.check_managed()?;
        let mut away = None;
        let mut outcomes = Vec::with_capacity(ids.len());
        for &id in ids {
            let _turn = self.turn(id).await;
            let (username, result) = match &away {
                Some(error) => (None, Err(AccountError::clone(error))),
                None => match self.store.user_by_id(id).await {
                    Ok(user) => (Some(user.username.clone()), self.change(user, what).await),
                    Err(error) => (None, Err(error.into())),
                },
            };
            if let Err(error @ AccountError::Store(StoreError::Unavailable(_) | StoreError::Uncertain(_))) =
                &result
            {
                away = Some(error.clone());
            }
            outcomes.push(BulkOutcome { id, username, result });
        }
        Ok(outcomes)
    }

    /// Whether the data provider works.
    ///
    /// # Errors
    ///
    /// What it says.
    pub async fn ping(&self) -> Result<(), AccountError> {
        Ok(self.store.ping().await?)
    }

    /// The data provider's connections to its database.
    pub fn pool(&self) -> StorePool {
        self.store.pool()
    }

    /// Waits for the right to change this account.
    pub(crate) async fn turn(&self, id: i64) -> MutexGuard<'_, ()> {
        let remainder = id.rem_euclid(TURNS as i64);
        self.turns[usize::try_from(remainder).unwrap_or(0)].lock().await
    }

    async fn checked(&self, draft: UserDraft) -> Result<User, AccountError> {
        let mut user = draft.validate(self.config.users_base_dir.as_deref())?;
        user.password = self.hashed(user.password).await?;
        Ok(user)
    }

    pub(crate) async fn hashed(&self, password: String) -> Result<String, AccountError> {
        self.passwords.hash(password).await.map_err(|_| AccountError::Hashing)
    }

    /// Stores the settings of an account that exists, for its open sessions as well.
    pub(crate) async fn replace(&self, user: &User) -> Result<(), AccountError> {
        self.store.update(user).await?;
        let reading = self.sessions.reading(&user.username);
        let stored = Arc::new(self.store.user_by_id(user.id).await?);
        self.sessions.apply(&stored, reading);
        self.events.emit(Event::UserUpdated(stored));
        Ok(())
    }

    async fn remove(&self, user: User) -> Result<(), AccountError> {
        self.store.delete(user.id).await?;
        self.sessions.end_user(&user.username);
        self.events.emit(Event::UserDeleted(Arc::new(user)));
        Ok(())
    }

    pub(crate) fn check_managed(&self) -> Result<(), AccountError> {
        if self.config.manage_users { Ok(()) } else { Err(AccountError::Disabled) }
    }
}

/// Refuses a hash that is sent and whose parameters would cost more than a login may (data model §12.12).
pub(crate) fn check_parameters(password: &str) -> Result<(), InvalidUser> {
    match password::check_form(password) {
        Err(PasswordError::Excessive) => {
            let reason =
                "the parameters of the hash would cost more memory or time than a login may".to_owned();
            Err(InvalidUser { field: "password", reason })
        }
        _ => Ok(()),
    }
}
