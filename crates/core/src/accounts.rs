//! Accounts as they are managed: created, changed, removed. Validates, hashes, stores, emits.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{
    Event, Events, InvalidUser, Page, Passwords, Sessions, StoreError, User, UserDraft, UserPatch, UserStore,
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

/// The one place where accounts change.
#[derive(Clone)]
pub struct Accounts {
    store: Arc<dyn UserStore>,
    passwords: Passwords,
    sessions: Sessions,
    events: Events,
    config: AccountsConfig,
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
        Self { store, passwords, sessions, events, config }
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

    /// Adds an account and returns it as it was stored.
    ///
    /// # Errors
    ///
    /// [`AccountError::Invalid`], [`AccountError::Conflict`], or what the provider says.
    pub async fn create(&self, patch: UserPatch) -> Result<User, AccountError> {
        self.check_managed()?;
        let mut draft = UserDraft::default();
        draft.apply(patch);
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
        let before = self.store.user_by_id(id).await?;
        self.check_managed()?;
        if patch.username.as_ref().is_some_and(|name| *name != before.username) {
            let reason = format!("cannot be changed, the account is called {:?}", before.username);
            return Err(InvalidUser { field: "username", reason }.into());
        }
        let mut draft = UserDraft::from(&before);
        draft.apply(patch);
        draft.id = id;
        let user = self.checked(draft).await?;
        self.store.update(&user).await?;
        let reading = self.sessions.reading(&before.username);
        let stored = Arc::new(self.store.user_by_id(id).await?);
        self.sessions.apply(&stored, reading);
        self.events.emit(Event::UserUpdated(stored));
        Ok(())
    }

    /// Removes an account and ends its sessions; its files stay.
    ///
    /// # Errors
    ///
    /// [`AccountError::NotFound`], or what the provider says.
    pub async fn delete(&self, id: i64) -> Result<(), AccountError> {
        let user = self.store.user_by_id(id).await?;
        self.check_managed()?;
        self.store.delete(id).await?;
        self.sessions.end_user(&user.username);
        self.events.emit(Event::UserDeleted(Arc::new(user)));
        Ok(())
    }

    /// Whether the data provider works.
    ///
    /// # Errors
    ///
    /// What it says.
    pub async fn ping(&self) -> Result<(), AccountError> {
        Ok(self.store.ping().await?)
    }

    async fn checked(&self, draft: UserDraft) -> Result<User, AccountError> {
        let mut user = draft.validate(self.config.users_base_dir.as_deref())?;
        user.password = self.passwords.hash(user.password).await.map_err(|_| AccountError::Hashing)?;
        Ok(user)
    }

    fn check_managed(&self) -> Result<(), AccountError> {
        if self.config.manage_users { Ok(()) } else { Err(AccountError::Disabled) }
    }
}
