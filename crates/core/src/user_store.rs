//! Where users live: rows in, rows out. No validation, hashing, hooks or logging policy. What may be searched for
//! is in `user_query`.

use async_trait::async_trait;

use crate::{StorePool, UnixMillis, User, UserPage, UserQuery};

/// Why the data provider could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No such user.
    #[error("user not found")]
    NotFound,
    /// The username is taken.
    #[error("username already exists")]
    Conflict,
    /// The provider cannot be reached or refuses to work.
    #[error("data provider unavailable: {0}")]
    Unavailable(String),
    /// A change was sent and not answered: it is done, or will be, or not.
    #[error("data provider unavailable, a change may be done or not: {0}")]
    Uncertain(String),
    /// A stored record cannot be read.
    #[error("stored record is damaged: {0}")]
    Corrupt(String),
}

/// The direction of a listing, by username.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// A to Z.
    #[default]
    Ascending,
    /// Z to A.
    Descending,
}

/// A part of the list of users.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// At most so many users.
    pub limit: u32,
    /// Skip so many first.
    pub offset: u32,
    /// By username.
    pub order: Order,
    /// Only this user.
    pub username: Option<String>,
}

/// What a user has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsedQuota {
    /// Bytes.
    pub size_bytes: i64,
    /// Number of files.
    pub files: i64,
}

/// A change of what a user has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageDelta {
    /// Bytes, negative for less.
    pub size_bytes: i64,
    /// Number of files, negative for fewer.
    pub files: i64,
}

impl UsageDelta {
    /// Whether nothing changes.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// A data provider.
///
/// # Contract
///
/// * Names compare as the provider's own engine compares them; the memory provider compares bytes.
/// * [`UserStore::insert`] ignores the id, usage and last login of the given user: a new user starts with none.
///   [`UserStore::update`] writes by id and leaves username, usage and last login alone.
/// * Usage is changed by one atomic statement, and never falls below zero.
/// * A call ends within the provider's time-out; it never hangs.
///
/// [`UserStore::search`] and [`UserStore::users_by_name`] are written here for providers with few users; one
/// that may have many does better.
#[async_trait]
pub trait UserStore: Send + Sync {
    /// The user called `name`.
    async fn user(&self, name: &str) -> Result<User, StoreError>;
    /// The user with this id.
    async fn user_by_id(&self, id: i64) -> Result<User, StoreError>;
    /// Users by name.
    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError>;
    /// The users of this query, and how many there are without its limit.
    async fn search(&self, query: &UserQuery) -> Result<UserPage, StoreError> {
        let users = self.all_users().await?;
        let (chosen, total) = query.choose(users.iter(), |user| (*user).into());
        Ok(UserPage { users: chosen.into_iter().cloned().collect(), total })
    }
    /// The users with these names, each given once, in any order. A name that is not there is left out; a record
    /// that cannot be read fails the call.
    async fn users_by_name(&self, names: &[String]) -> Result<Vec<User>, StoreError> {
        let mut users = Vec::new();
        for name in names {
            match self.user(name).await {
                Err(StoreError::NotFound) => {}
                user => users.push(user?),
            }
        }
        Ok(users)
    }
    /// All users, for a backup.
    async fn all_users(&self) -> Result<Vec<User>, StoreError>;
    /// Adds a user and returns its new id.
    async fn insert(&self, user: &User) -> Result<i64, StoreError>;
    /// Replaces a user's settings.
    async fn update(&self, user: &User) -> Result<(), StoreError>;
    /// Removes a user.
    async fn delete(&self, id: i64) -> Result<(), StoreError>;
    /// What a user has stored.
    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError>;
    /// Adds to what a user has stored.
    async fn add_usage(&self, name: &str, delta: UsageDelta, at: UnixMillis) -> Result<(), StoreError>;
    /// Replaces what a user has stored, after a scan.
    async fn set_usage(&self, name: &str, used: UsedQuota, at: UnixMillis) -> Result<(), StoreError>;
    /// Remembers a login.
    async fn record_login(&self, name: &str, at: UnixMillis) -> Result<(), StoreError>;
    /// Whether the provider works.
    async fn ping(&self) -> Result<(), StoreError>;
    /// The connections to the database, for providers that have some.
    fn pool(&self) -> StorePool {
        StorePool::default()
    }
    /// Ends the work in good order, at the end of the program: files are left complete, connections closed. Calls
    /// that come later fail.
    async fn close(&self) {}
}
