//! Users in a file of redb: the tables, and the provider over them.
//!
//! | table | key | value |
//! |---|---|---|
//! | `users` | name | the user as JSON, with the password |
//! | `users_id_idx` | id | name |
//! | `state` | `format`, `last_id`, `imported_txid`, `imported_checksum` | number |
//!
//! A change is on the disk when its call ends. Writers take turns, and wait for their turn here and not in threads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle,
    WriteTransaction,
};
use tidegate_core::{
    Order, Page, StoreError, UnixMillis, UsageDelta, UsedQuota, User, UserPage, UserQuery, UserSort,
    UserStore,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::file::Meta;
use super::import::Contents;
use super::outline::Outline;
use crate::json_user;

const USERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("users");
const NAMES: TableDefinition<'_, i64, &str> = TableDefinition::new("users_id_idx");
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");

/// The form of the tables above.
const FORMAT: u64 = 1;

/// How long a turn is waited for.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call takes at most, its turn included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Calls that read at the same time.
const READERS: u32 = 8;

/// Makes the tables in a new file.
///
/// # Errors
/// The file holds something else; as the rest of a sentence that begins with its name.
pub(super) fn set_up(database: &Database) -> Result<(), String> {
    let transaction = database.begin_write().map_err(|error| error.to_string())?;
    let foreign = transaction
        .list_tables()
        .map_err(|error| error.to_string())?
        .any(|table| ![USERS.name(), NAMES.name(), STATE.name()].contains(&table.name()));
    if foreign {
        return Err("holds tables of another program".to_owned());
    }
    (|| {
        transaction.open_table(USERS)?;
        transaction.open_table(NAMES)?;
        let mut state = transaction.open_table(STATE)?;
        let format = state.get("format")?.map(|format| format.value());
        match format {
            Some(FORMAT) => return Ok(Ok(())),
            Some(format) => return Ok(Err(format!("is of format {format}; only {FORMAT} is known"))),
            None => state.insert("format", FORMAT)?,
        };
        drop(state);
        transaction.commit()?;
        Ok(Ok(()))
    })()
    .unwrap_or_else(|error: redb::Error| Err(format!("cannot be set up: {error}")))
}

/// Puts the users of a file of the reference into a new file, as they are.
pub(super) fn fill(database: &Database, contents: &Contents, meta: Meta) -> Result<(), String> {
    set_up(database)?;
    let transaction = database.begin_write().map_err(|error| error.to_string())?;
    for user in &contents.users {
        put(&transaction, user).map_err(|error| error.to_string())?;
        name_id(&transaction, user).map_err(|error| error.to_string())?;
    }
    (|| {
        let mut state = transaction.open_table(STATE)?;
        state.insert("last_id", contents.last_id.unsigned_abs())?;
        state.insert("imported_txid", meta.txid)?;
        state.insert("imported_checksum", meta.checksum)?;
        drop(state);
        transaction.commit()?;
        Ok(())
    })()
    .map_err(|error: redb::Error| error.to_string())
}

/// Which state of a file of the reference was imported: number of its last change, and checksum.
pub(super) fn imported(database: &Database) -> Option<(u64, u64)> {
    let transaction = database.begin_read().ok()?;
    let state = transaction.open_table(STATE).ok()?;
    let number = |name| state.get(name).ok().flatten().map(|number| number.value());
    Some((number("imported_txid")?, number("imported_checksum")?))
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(problem) => StoreError::Corrupt(problem),
        error => StoreError::Unavailable(error.to_string()),
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<User, StoreError> {
    let json = serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Corrupt(format!("record of user {name:?} cannot be read: {error}")))?;
    json_user::read(json)
}

fn get(users: &impl ReadableTable<&'static str, &'static [u8]>, name: &str) -> Result<User, StoreError> {
    let record = users.get(name).map_err(failed)?.ok_or(StoreError::NotFound)?;
    parse(name, record.value())
}

fn name_of(names: &impl ReadableTable<i64, &'static str>, id: i64) -> Result<String, StoreError> {
    let name = names.get(id).map_err(failed)?.ok_or(StoreError::NotFound)?;
    Ok(name.value().to_owned())
}

fn put(transaction: &WriteTransaction, user: &User) -> Result<(), StoreError> {
    let record = json_user::write(user)?.to_string();
    let mut users = transaction.open_table(USERS).map_err(failed)?;
    users.insert(user.username.as_str(), record.as_bytes()).map_err(failed)?;
    Ok(())
}

fn name_id(transaction: &WriteTransaction, user: &User) -> Result<(), StoreError> {
    let mut names = transaction.open_table(NAMES).map_err(failed)?;
    names.insert(user.id, user.username.as_str()).map_err(failed)?;
    Ok(())
}

/// The bolt provider.
pub(crate) struct BoltStore {
    /// `None` after [`UserStore::close`].
    database: Mutex<Option<Arc<Database>>>,
    readers: Arc<Semaphore>,
    writer: Arc<Semaphore>,
    writable: bool,
}

impl BoltStore {
    pub(super) fn new(database: Database, writable: bool) -> Self {
        Self {
            database: Mutex::new(Some(Arc::new(database))),
            readers: Arc::new(Semaphore::new(READERS as usize)),
            writer: Arc::new(Semaphore::new(1)),
            writable,
        }
    }

    /// Runs `work` in a thread that may wait for the disk, when it is this call's turn. A caller that goes away
    /// leaves the work to its end, and the turn with it.
    async fn run<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        work: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let late =
            |limit: Duration| StoreError::Unavailable(format!("no answer within {} s", limit.as_secs()));
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        let turn = timeout(TURN_TIMEOUT, Arc::clone(turns).acquire_owned()).await;
        let turn = turn.map_err(|_| late(TURN_TIMEOUT))?.map_err(|_| closed())?;
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let database = database.ok_or_else(closed)?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&database);
            drop((database, turn));
            result
        });
        match timeout(CALL_TIMEOUT, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(StoreError::Uncertain(error.to_string())),
            Err(_) => Err(StoreError::Uncertain(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.run(&self.readers, |database| work(&database.begin_read().map_err(failed)?)).await {
            Err(StoreError::Uncertain(problem)) => Err(StoreError::Unavailable(problem)),
            result => result,
        }
    }

    /// All of `work` is done, or nothing.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.writable {
            let problem = "it is opened for reading only, as manage_users is 0";
            return Err(StoreError::Unavailable(problem.to_owned()));
        }
        self.run(&self.writer, |database| {
            let transaction = database.begin_write().map_err(failed)?;
            let done = work(&transaction)?;
            // What the disk has of it is known only after the next start.
            transaction.commit().map_err(|error| StoreError::Uncertain(error.to_string()))?;
            Ok(done)
        })
        .await
    }

    /// Changes what is known of the user called `name`.
    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut User) + Send + 'static,
    ) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.write(move |transaction| {
            let mut user = get(&transaction.open_table(USERS).map_err(failed)?, &name)?;
            change(&mut user);
            put(transaction, &user)
        })
        .await
    }

    /// A part of all users, by name.
    async fn list(&self, page: Page) -> Result<Vec<User>, StoreError> {
        type Record<'a> = Result<
            (redb::AccessGuard<'a, &'static str>, redb::AccessGuard<'a, &'static [u8]>),
            redb::StorageError,
        >;
        fn part<'a>(all: impl Iterator<Item = Record<'a>>, page: &Page) -> Result<Vec<User>, StoreError> {
            let part = all.skip(page.offset as usize).take(page.limit as usize);
            part.map(|record| {
                let (name, record) = record.map_err(failed)?;
                parse(name.value(), record.value())
            })
            .collect()
        }
        self.read(move |transaction| {
            let users = transaction.open_table(USERS).map_err(failed)?;
            let all = users.iter().map_err(failed)?;
            match page.order {
                Order::Ascending => part(all, &page),
                Order::Descending => part(all.rev(), &page),
            }
        })
        .await
    }
}

#[async_trait]
impl UserStore for BoltStore {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        let name = name.to_owned();
        self.read(move |transaction| get(&transaction.open_table(USERS).map_err(failed)?, &name)).await
    }

    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.read(move |transaction| {
            let name = name_of(&transaction.open_table(NAMES).map_err(failed)?, id)?;
            get(&transaction.open_table(USERS).map_err(failed)?, &name)
        })
        .await
    }

    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError> {
        match &page.username {
            None => self.list(page.clone()).await,
            Some(_) if page.limit == 0 || page.offset > 0 => Ok(Vec::new()),
            Some(name) => match self.user(name).await {
                Err(StoreError::NotFound) => Ok(Vec::new()),
                other => other.map(|user| vec![user]),
            },
        }
    }

    async fn search(&self, query: &UserQuery) -> Result<UserPage, StoreError> {
        let query = query.clone();
        self.read(move |transaction| {
            let users = transaction.open_table(USERS).map_err(failed)?;
            let by_name = query.sort == UserSort::Username && query.status.is_none();
            let mut all = Vec::new();
            for record in users.iter().map_err(failed)? {
                let (name, record) = record.map_err(failed)?;
                let record = if by_name { None } else { Some(record.value()) };
                all.push(Outline::read(name.value(), record)?);
            }
            let (chosen, total) = query.choose(all.into_iter(), Outline::traits);
            let users = chosen.iter().map(|user| get(&users, &user.username)).collect::<Result<_, _>>()?;
            Ok(UserPage { users, total })
        })
        .await
    }

    async fn users_by_name(&self, names: &[String]) -> Result<Vec<User>, StoreError> {
        let names = names.to_vec();
        self.read(move |transaction| {
            let users = transaction.open_table(USERS).map_err(failed)?;
            let found = names.iter().map(|name| get(&users, name));
            found.filter(|user| !matches!(user, Err(StoreError::NotFound))).collect()
        })
        .await
    }

    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        self.list(Page { limit: u32::MAX, ..Page::default() }).await
    }

    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        let user = user.clone();
        self.write(move |transaction| {
            if transaction
                .open_table(USERS)
                .map_err(failed)?
                .get(user.username.as_str())
                .map_err(failed)?
                .is_some()
            {
                return Err(StoreError::Conflict);
            }
            let mut state = transaction.open_table(STATE).map_err(failed)?;
            let last = state.get("last_id").map_err(failed)?.map_or(0, |last| last.value());
            let id = last.checked_add(1).and_then(|id| i64::try_from(id).ok());
            let id = id.ok_or_else(|| StoreError::Unavailable("all ids are given".to_owned()))?;
            state.insert("last_id", id.unsigned_abs()).map_err(failed)?;
            let new = User { id, used: UsedQuota::default(), last_quota_update: 0, last_login: 0, ..user };
            put(transaction, &new)?;
            name_id(transaction, &new)?;
            Ok(id)
        })
        .await
    }

    async fn update(&self, user: &User) -> Result<(), StoreError> {
        let user = user.clone();
        self.write(move |transaction| {
            let name = name_of(&transaction.open_table(NAMES).map_err(failed)?, user.id)?;
            // A record that cannot be read is mended: all that can be kept of it is lost already.
            let stored = match get(&transaction.open_table(USERS).map_err(failed)?, &name) {
                Err(StoreError::Corrupt(_)) => {
                    User { used: UsedQuota::default(), last_quota_update: 0, last_login: 0, ..user.clone() }
                }
                other => other?,
            };
            let new = User {
                username: name,
                used: stored.used,
                last_quota_update: stored.last_quota_update,
                last_login: stored.last_login,
                ..user
            };
            put(transaction, &new)
        })
        .await
    }

    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        self.write(move |transaction| {
            let mut names = transaction.open_table(NAMES).map_err(failed)?;
            let name = name_of(&names, id)?;
            names.remove(id).map_err(failed)?;
            transaction.open_table(USERS).map_err(failed)?.remove(name.as_str()).map_err(failed)?;
            Ok(())
        })
        .await
    }

    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        self.user(name).await.map(|user| user.used)
    }

    async fn add_usage(&self, name: &str, delta: UsageDelta, at: UnixMillis) -> Result<(), StoreError> {
        self.change(name, move |user| {
            user.used = UsedQuota {
                size_bytes: user.used.size_bytes.saturating_add(delta.size_bytes).max(0),
                files: user.used.files.saturating_add(delta.files).max(0),
            };
            user.last_quota_update = at;
        })
        .await
    }

    async fn set_usage(&self, name: &str, used: UsedQuota, at: UnixMillis) -> Result<(), StoreError> {
        self.change(name, move |user| {
            user.used = UsedQuota { size_bytes: used.size_bytes.max(0), files: used.files.max(0) };
            user.last_quota_update = at;
        })
        .await
    }

    async fn record_login(&self, name: &str, at: UnixMillis) -> Result<(), StoreError> {
        self.change(name, move |user| user.last_login = at).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|transaction| match transaction.open_table(STATE) {
            Ok(_) => Ok(()),
            Err(TableError::Storage(error)) => Err(failed(error)),
            Err(error) => Err(StoreError::Corrupt(error.to_string())),
        })
        .await
    }

    async fn close(&self) {
        // Calls that are under way may end; they have the database until then.
        let readers = timeout(TURN_TIMEOUT, self.readers.acquire_many(READERS)).await;
        let writer = timeout(TURN_TIMEOUT, self.writer.acquire()).await;
        self.readers.close();
        self.writer.close();
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It tidies up the file, and gives back the lock.
        drop(tokio::task::spawn_blocking(move || drop(database)).await);
        drop((readers, writer));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use tidegate_core::testing::UserBuilder;

    use super::*;

    /// A file whose device may go away.
    #[derive(Debug)]
    struct Disk {
        file: InMemoryBackend,
        broken: Arc<AtomicBool>,
    }

    impl Disk {
        fn check(&self) -> io::Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                Err(io::Error::other("the disk is gone"))
            } else {
                Ok(())
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.check()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.file.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_change_that_the_disk_did_not_confirm_may_be_done_or_not() {
        let broken = Arc::new(AtomicBool::new(false));
        let disk = Disk { file: InMemoryBackend::new(), broken: Arc::clone(&broken) };
        let database = Database::builder().create_with_backend(disk).unwrap();
        set_up(&database).unwrap();
        let store = BoltStore::new(database, true);
        let user = UserBuilder::new("anna").build();
        store.insert(&user).await.unwrap();
        broken.store(true, Ordering::Relaxed);
        let lost = store.add_usage("anna", UsageDelta { size_bytes: 1, files: 1 }, 7).await;
        assert!(
            matches!(&lost, Err(StoreError::Uncertain(problem)) if problem.contains("the disk is gone")),
            "{lost:?}"
        );
    }
}
