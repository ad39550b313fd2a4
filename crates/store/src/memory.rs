//! The memory provider (data model §1.6): users until the program ends, for portable mode and for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tidegate_core::{
    Order, Page, StoreError, UnixMillis, UsageDelta, UsedQuota, User, UserPage, UserQuery, UserStore,
};

use crate::OpenError;

/// Users in a map, ordered by the bytes of their names.
#[derive(Default)]
pub struct MemoryStore {
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    by_name: BTreeMap<String, User>,
    names: BTreeMap<i64, String>,
}

impl Users {
    fn named(&mut self, name: &str) -> Result<&mut User, StoreError> {
        self.by_name.get_mut(name).ok_or(StoreError::NotFound)
    }

    fn next_id(&self) -> i64 {
        self.names.last_key_value().map_or(0, |(id, _)| *id).saturating_add(1)
    }

    fn numbered(&mut self, id: i64) -> Result<&mut User, StoreError> {
        let name = self.names.get(&id).ok_or(StoreError::NotFound)?;
        self.by_name.get_mut(name).ok_or(StoreError::NotFound)
    }
}

impl MemoryStore {
    /// Begins with `users`, which come from the dump at `path`, as they are. A user without an id gets one.
    pub(crate) fn with_users(path: &Path, users: Vec<User>) -> Result<Self, OpenError> {
        let mut all = Users::default();
        let (with_id, without): (Vec<_>, Vec<_>) = users.into_iter().partition(|user| user.id > 0);
        for mut user in with_id.into_iter().chain(without) {
            if user.id <= 0 {
                user.id = all.next_id();
            }
            if all.by_name.contains_key(&user.username) {
                let problem = format!("has two users {:?}", user.username);
                return Err(OpenError::File { path: path.to_owned(), problem });
            }
            if all.names.insert(user.id, user.username.clone()).is_some() {
                let problem = format!("has two users with the id {}", user.id);
                return Err(OpenError::File { path: path.to_owned(), problem });
            }
            all.by_name.insert(user.username.clone(), user);
        }
        Ok(Self { users: Mutex::new(all) })
    }

    /// No method leaves the two maps half changed, so what a panicking caller left behind is sound.
    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl UserStore for MemoryStore {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        self.users().named(name).cloned()
    }

    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.users().numbered(id).cloned()
    }

    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError> {
        fn part<'a>(all: impl Iterator<Item = &'a User>, page: &Page) -> Vec<User> {
            all.skip(page.offset as usize).take(page.limit as usize).cloned().collect()
        }
        let users = self.users();
        let all = users.by_name.values();
        Ok(match (&page.username, page.order) {
            (Some(name), _) => part(users.by_name.get(name).into_iter(), page),
            (None, Order::Ascending) => part(all, page),
            (None, Order::Descending) => part(all.rev(), page),
        })
    }

    async fn search(&self, query: &UserQuery) -> Result<UserPage, StoreError> {
        let users = self.users();
        let (chosen, total) = query.choose(users.by_name.values(), |user| (*user).into());
        Ok(UserPage { users: chosen.into_iter().cloned().collect(), total })
    }

    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        Ok(self.users().by_name.values().cloned().collect())
    }

    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        let mut users = self.users();
        if users.by_name.contains_key(&user.username) {
            return Err(StoreError::Conflict);
        }
        let id = users.next_id();
        let new =
            User { id, used: UsedQuota::default(), last_quota_update: 0, last_login: 0, ..user.clone() };
        users.names.insert(id, new.username.clone());
        users.by_name.insert(new.username.clone(), new);
        Ok(id)
    }

    async fn update(&self, user: &User) -> Result<(), StoreError> {
        let mut users = self.users();
        let stored = users.numbered(user.id)?;
        *stored = User {
            username: stored.username.clone(),
            used: stored.used,
            last_quota_update: stored.last_quota_update,
            last_login: stored.last_login,
            ..user.clone()
        };
        Ok(())
    }

    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        let mut users = self.users();
        let name = users.names.remove(&id).ok_or(StoreError::NotFound)?;
        users.by_name.remove(&name);
        Ok(())
    }

    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        self.users().named(name).map(|user| user.used)
    }

    async fn add_usage(&self, name: &str, delta: UsageDelta, at: UnixMillis) -> Result<(), StoreError> {
        let mut users = self.users();
        let user = users.named(name)?;
        user.used = UsedQuota {
            size_bytes: user.used.size_bytes.saturating_add(delta.size_bytes).max(0),
            files: user.used.files.saturating_add(delta.files).max(0),
        };
        user.last_quota_update = at;
        Ok(())
    }

    async fn set_usage(&self, name: &str, used: UsedQuota, at: UnixMillis) -> Result<(), StoreError> {
        let mut users = self.users();
        let user = users.named(name)?;
        user.used = UsedQuota { size_bytes: used.size_bytes.max(0), files: used.files.max(0) };
        user.last_quota_update = at;
        Ok(())
    }

    async fn record_login(&self, name: &str, at: UnixMillis) -> Result<(), StoreError> {
        self.users().named(name)?.last_login = at;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
