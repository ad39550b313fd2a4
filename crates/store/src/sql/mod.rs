//! Users in a SQL database: one implementation of [`UserStore`] for every engine.
//!
//! `dialect` knows how the engines differ in text, `record` how a user becomes a row; an [`Engine`] connects and
//! runs statements: `sqlite` over a file, `remote` over a server that `mysql` or `postgresql` know to talk to.
//! Schemas are created and brought up to date by `migrations`.

mod cells;
mod dialect;
mod migrations;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "postgresql")]
pub(crate) mod postgresql;
#[cfg(feature = "tls")]
mod remote;
mod search;
pub(crate) mod sqlite;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate_core::{
    Order, Page, StoreError, StorePool, UnixMillis, UsageDelta, UsedQuota, User, UserPage, UserQuery,
    UserStore,
};

use crate::record::{self, Value};
use dialect::Statements;

/// How long an engine waits for a lock or a free connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call takes at most. Longer than the engines wait, so that their reason is heard if they have one.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs statements in one database. Parameters are given in the order of their placeholders.
#[async_trait]
trait Engine: Send + Sync {
    /// All rows that a query yields.
    async fn fetch(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<Vec<Vec<Value>>, sqlx::Error>;
    /// Runs a change; the number of rows that it found.
    async fn execute(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<u64, sqlx::Error>;
    /// Adds a row; its new id.
    async fn insert(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<i64, sqlx::Error>;
    /// The connections that it holds.
    fn pool(&self) -> StorePool;
    /// Ends all connections in good order. Calls fail from then on.
    async fn close(&self);
}

/// A data provider over a SQL engine.
pub(crate) struct SqlStore {
    engine: Box<dyn Engine>,
    statements: Statements,
    writable: bool,
}

impl SqlStore {
    async fn rows(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<Vec<Vec<Value>>, StoreError> {
        in_time(self.engine.fetch(sql, args)).await
    }

    /// A row that cannot be read fails the whole call: a list that is silently shorter would lose users in a
    /// backup.
    async fn many(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<Vec<User>, StoreError> {
        self.rows(sql, args).await?.into_iter().map(record::read).collect()
    }

    async fn one(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<User, StoreError> {
        let row = self.rows(sql, args).await?.pop();
        record::read(row.ok_or(StoreError::NotFound)?)
    }

    async fn change(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<(), StoreError> {
        self.must_be_writable()?;
        match changed_in_time(self.engine.execute(sql, args)).await? {
            0 => Err(StoreError::NotFound),
            _ => Ok(()),
        }
    }

    async fn page(&self, query: &UserQuery, total: Option<u64>) -> Result<Vec<User>, StoreError> {
        let (sql, args) = self.statements.search.page(query, total);
        self.many(&sql, args).await
    }

    /// `args`, then the name as often as the statement wants it.
    fn named(&self, mut args: Vec<Value>, name: &str) -> Result<Vec<Value>, StoreError> {
        // No user has such a name, and PostgreSQL takes the question for an error.
        if name.contains('\0') {
            return Err(StoreError::NotFound);
        }
        args.resize(args.len() + self.statements.names, name.into());
        Ok(args)
    }

    fn must_be_writable(&self) -> Result<(), StoreError> {
        if self.writable {
            return Ok(());
        }
        Err(StoreError::Unavailable("it is opened for reading only, as manage_users is 0".to_owned()))
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.as_database_error().is_some_and(|e| e.is_unique_violation()) => {
            Err(StoreError::Conflict)
        }
        Ok(Err(sqlx::Error::Configuration(reason))) => Err(StoreError::Unavailable(reason.to_string())),
        Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

/// As [`in_time`], of a change. It may be done although nobody said so, if it was sent or goes on without us.
async fn changed_in_time<T>(call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    let mut returned = false;
    let mut unanswered = false;
    let call = async {
        let result = call.await;
        returned = true;
        unanswered = matches!(&result, Err(error) if Unanswered::is(error));
        result
    };
    match in_time(call).await {
        Err(StoreError::Unavailable(problem)) if unanswered || !returned => {
            Err(StoreError::Uncertain(problem))
        }
        result => result,
    }
}

/// What became of a statement that was sent is not known. It travels inside of the library's error.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unanswered(sqlx::Error);

impl Unanswered {
    fn wrap(error: sqlx::Error) -> sqlx::Error {
        sqlx::Error::Io(std::io::Error::other(Self(error)))
    }

    fn is(error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Io(error) => error.get_ref().is_some_and(|inner| inner.is::<Self>()),
            // The thread that works on a file ended, perhaps in the middle.
            sqlx::Error::WorkerCrashed => true,
            _ => false,
        }
    }
}

#[async_trait]
impl UserStore for SqlStore {
    async fn user(&self, name: &str) -> Result<User, StoreError> {
        self.one(&self.statements.by_name, self.named(vec![], name)?).await
    }

    async fn user_by_id(&self, id: i64) -> Result<User, StoreError> {
        self.one(&self.statements.by_id, vec![Value::Int(id)]).await
    }

    async fn users(&self, page: &Page) -> Result<Vec<User>, StoreError> {
        let Some(name) = &page.username else {
            let descending = page.order == Order::Descending;
            let query =
                UserQuery { descending, limit: page.limit, offset: page.offset, ..UserQuery::default() };
            return self.page(&query, None).await;
        };
        let mut args = match self.named(vec![], name) {
            Ok(args) => args,
            Err(_) => return Ok(Vec::new()),
        };
        args.extend([Value::Int(page.limit.into()), Value::Int(page.offset.into())]);
        self.many(&self.statements.page_of_one, args).await
    }

    async fn search(&self, query: &UserQuery) -> Result<UserPage, StoreError> {
        if query.is_hopeless() {
            return Ok(UserPage::default());
        }
        let mut users = None;
        if query.offset == 0 {
            let first = self.page(query, None).await?;
            // What is not full is all there is, and need not be counted.
            if first.len() < query.limit as usize {
                let total = u64::try_from(first.len()).unwrap_or(u64::MAX);
                return Ok(UserPage { users: first, total });
            }
            users = Some(first);
        }
        let (count, args) = self.statements.search.count(query);
        let total = match self.rows(&count, args).await?.first().and_then(|row| row.first()) {
            Some(&Value::Int(total)) => total.max(0).unsigned_abs(),
            other => return Err(StoreError::Corrupt(format!("the number of users is {other:?}"))),
        };
        let users = match users {
            Some(users) => users,
            None if u64::from(query.offset) >= total => Vec::new(),
            None => self.page(query, Some(total)).await?,
        };
        Ok(UserPage { users, total })
    }

    async fn users_by_name(&self, names: &[String]) -> Result<Vec<User>, StoreError> {
        let mut wanted: HashSet<&str> = HashSet::new();
        // A name that PostgreSQL takes for an error is nobody's.
        let names = names.iter().filter(|name| !name.contains('\0') && wanted.insert(name)).cloned();
        let names: Vec<String> = names.collect();
        let mut users = Vec::new();
        for (sql, args) in self.statements.search.named(&names) {
            users.extend(self.many(&sql, args).await?);
        }
        users.retain(|user| wanted.contains(user.username.as_str()));
        Ok(users)
    }

    async fn all_users(&self) -> Result<Vec<User>, StoreError> {
        self.many(&self.statements.all, vec![]).await
    }

    async fn insert(&self, user: &User) -> Result<i64, StoreError> {
        self.must_be_writable()?;
        let mut args = vec![user.username.as_str().into()];
        args.extend(record::settings(user)?);
        changed_in_time(self.engine.insert(&self.statements.insert, args)).await
    }

    async fn update(&self, user: &User) -> Result<(), StoreError> {
        let mut args = record::settings(user)?;
        args.push(Value::Int(user.id));
        self.change(&self.statements.update, args).await
    }

    async fn delete(&self, id: i64) -> Result<(), StoreError> {
        self.change(&self.statements.delete, vec![Value::Int(id)]).await
    }

    async fn usage(&self, name: &str) -> Result<UsedQuota, StoreError> {
        let row = self.rows(&self.statements.usage, self.named(vec![], name)?).await?.pop();
        record::read_usage(name, &row.ok_or(StoreError::NotFound)?)
    }

    async fn add_usage(&self, name: &str, delta: UsageDelta, at: UnixMillis) -> Result<(), StoreError> {
        let args = vec![Value::Int(delta.size_bytes), Value::Int(delta.files), Value::Int(at)];
        self.change(&self.statements.add_usage, self.named(args, name)?).await
    }

    async fn set_usage(&self, name: &str, used: UsedQuota, at: UnixMillis) -> Result<(), StoreError> {
        let (size_bytes, files) = (used.size_bytes.max(0), used.files.clamp(0, self.statements.most_files));
        let args = vec![Value::Int(size_bytes), Value::Int(files), Value::Int(at)];
        self.change(&self.statements.set_usage, self.named(args, name)?).await
    }

    async fn record_login(&self, name: &str, at: UnixMillis) -> Result<(), StoreError> {
        self.change(&self.statements.record_login, self.named(vec![Value::Int(at)], name)?).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.rows(&self.statements.ping, vec![]).await.map(drop)
    }

    fn pool(&self) -> StorePool {
        self.engine.pool()
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}
