//! Users on a database server: connections that are shared, checked, recycled and never waited for without end.
//!
//! A statement runs in a task of its own, so a caller that goes away leaves no connection in the middle of an
//! answer, and a server that is silent costs its connection and nothing else. What a server is told, and how, is
//! in `mysql` and `postgresql`. The time limits are those of the data model, §1.2 and §1.3; the measurements and
//! reasons are in `docs/decisions/0003-database-servers.md`.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::{Connection, Error};
use tidegate_core::StorePool;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::dialect::Dialect;
use super::migrations::server::{self, Scripts};
use super::{Engine, SqlStore, Unanswered};
use crate::OpenError;
use crate::config::Settings;
use crate::record::Value;

/// How long a free connection is waited for, its making included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long looking at the schema and changing it may take.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that is older is not used again, so that a proxy may move it and a server free its memory.
const MAX_AGE: Duration = Duration::from_secs(1800);

/// A connection that was not used for so long is closed.
const MAX_IDLE: Duration = Duration::from_secs(300);

/// A connection that was not used for so long is asked first whether it is alive.
const TRUSTED: Duration = Duration::from_millis(500);

/// Connections when `data_provider.pool_size` sets no limit. PostgreSQL takes a hundred unless told otherwise.
const UNLIMITED: u32 = 64;

/// Times that a statement is tried which the server sacrificed to end a deadlock.
const ATTEMPTS: u32 = 4;

/// What a statement is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Its rows.
    Fetch,
    /// The number of rows that it changes.
    Execute,
    /// The id of the row that it adds.
    Insert,
}

/// What came of a statement: the part that the [`Call`] is about.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<Vec<Value>>,
    pub(super) found: u64,
    pub(super) id: i64,
}

/// A database server: how to connect to it, and how statements are given to it.
#[async_trait]
pub(super) trait Server: Send + Sync + 'static {
    /// A connection to it.
    type Connection: Connection + Send;
    /// The schema, in its language.
    const SCRIPTS: &'static Scripts;
    /// Connects and logs in.
    async fn connect(&self) -> Result<Self::Connection, Error>;
    /// Runs one statement.
    async fn run(
        connection: &mut Self::Connection,
        call: Call,
        sql: &Arc<str>,
        args: Vec<Value>,
    ) -> Result<Answer, Error>;
    /// Runs a script of several statements.
    async fn script(connection: &mut Self::Connection, sql: String) -> Result<(), Error>;
}

/// What a provider over a server is made of.
pub(super) struct Parts<S> {
    pub(super) server: S,
    pub(super) dialect: &'static Dialect,
    /// The table, as the server would spell it.
    pub(super) table: String,
    /// The database, for messages.
    pub(super) label: String,
}

/// Opens the provider. A server that cannot be reached is no error; one that answers and refuses is.
pub(super) async fn open<S: Server>(parts: Parts<S>, settings: &Settings) -> Result<SqlStore, OpenError> {
    let size = settings.pool_size.unwrap_or(UNLIMITED);
    let statements = parts.dialect.statements(&parts.table);
    let pool = Arc::new(Pool {
        slots: Semaphore::new(size as usize),
        size,
        idle: Mutex::default(),
        closed: AtomicBool::new(false),
        prepared: AtomicBool::new(false),
        preparing: tokio::sync::Mutex::new(()),
        writable: settings.manage_users,
        probe: Arc::clone(&statements.ping),
        parts,
    });
    match pool.connect().await {
        Ok(connection) => pool.keep(connection),
        Err(OpenError::Database { source, .. }) if may_pass(&source) => {
            warn!("{} cannot be reached, which is tried again with every call: {source}", pool.parts.label);
        }
        Err(error) => return Err(error),
    }
    Ok(SqlStore { engine: Box::new(Remote(pool)), statements, writable: settings.manage_users })
}

/// The options that a connection string stands for: a URL that begins with one of `schemes` and has the given
/// form, or else what `other` reads.
pub(super) fn options_of<O: FromStr>(
    text: &str,
    schemes: &[&str],
    form: &str,
    other: fn(&str) -> Result<O, String>,
) -> Result<O, OpenError> {
    let options = match schemes.iter().any(|scheme| text.starts_with(scheme)) {
        // The message of the parser could repeat the password.
        true => O::from_str(text).map_err(|_| format!("it is no URL of the form {form}")),
        false => other(text),
    };
    options.map_err(OpenError::ConnectionString)
}

/// Whether another attempt may end otherwise without anybody changing the configuration. A server that knows the
/// database or the password not, or whose certificate is not trusted, will not know better in a minute.
fn may_pass(error: &Error) -> bool {
    match error {
        // A certificate that is not trusted arrives as data that is not valid.
        Error::Io(error) => error.kind() != std::io::ErrorKind::InvalidData,
        // Classes of SQLSTATE: login, name of the database, of a schema, and what a statement names or may not do.
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            !["28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

struct Pool<S: Server> {
    parts: Parts<S>,
    /// One for each connection that is used.
    slots: Semaphore,
    size: u32,
    /// The one that was used last is the last.
    idle: Mutex<Vec<Pooled<S::Connection>>>,
    closed: AtomicBool,
    /// Whether the schema was seen to be as it should be.
    prepared: AtomicBool,
    preparing: tokio::sync::Mutex<()>,
    writable: bool,
    probe: Arc<str>,
}

struct Pooled<C> {
    connection: C,
    born: Instant,
    used: Instant,
}

impl<S: Server> Pool<S> {
    async fn run(&self, call: Call, sql: &Arc<str>, args: Vec<Value>) -> Result<Answer, Error> {
        let slot = match timeout(CONNECT_TIMEOUT, self.slots.acquire()).await {
            Ok(slot) => slot.map_err(|_| Error::PoolClosed)?,
            Err(_) => return Err(late(format!("all {} connections are busy", self.size))),
        };
        let mut pooled = match self.take_idle().await {
            Some(pooled) => pooled,
            None => self.connect().await.map_err(as_sqlx)?,
        };
        let mut attempt = 1;
        let result = loop {
            let statement = S::run(&mut pooled.connection, call, sql, args.clone());
            // A connection that is dropped here closes; the server ends what it was doing.
            let result = timeout(STATEMENT_TIMEOUT, statement).await.unwrap_or_else(|_| {
                Err(late(format!("no answer to a statement within {} s", STATEMENT_TIMEOUT.as_secs())))
            });
            match result {
                // The server says nothing about what it was told.
                Err(error @ (Error::Io(_) | Error::Tls(_) | Error::Protocol(_))) => {
                    break Err(Unanswered::wrap(error));
                }
                Err(error) if attempt < ATTEMPTS && is_deadlock(&error) => attempt += 1,
                result => break result,
            }
        };
        // After any other error it is not worth finding out what state the connection is in.
        let sound = match &result {
            Ok(_) => true,
            Err(error) => error.as_database_error().is_some_and(|error| error.is_unique_violation()),
        };
        if sound {
            pooled.used = Instant::now();
            self.keep(pooled);
        }
        drop(slot);
        result
    }

    /// A connection that is there and alive.
    async fn take_idle(&self) -> Option<Pooled<S::Connection>> {
        loop {
            let mut pooled = self.idle().pop()?;
            if pooled.born.elapsed() > MAX_AGE {
                say_goodbye(pooled.connection).await;
                continue;
            }
            if pooled.used.elapsed() < TRUSTED {
                return Some(pooled);
            }
            // A dead one is most often refused at once; a silent one must not take the time of a new one.
            if let Ok(Ok(())) = timeout(Duration::from_secs(2), pooled.connection.ping()).await {
                return Some(pooled);
            }
        }
    }

    /// A new connection, to a schema that is as it should be.
    async fn connect(&self) -> Result<Pooled<S::Connection>, OpenError> {
        let failed =
            |attempt, source| OpenError::Database { attempt, database: self.parts.label.clone(), source };
        let connected = timeout(CONNECT_TIMEOUT, self.parts.server.connect()).await;
        let connected = connected
            .unwrap_or_else(|_| Err(late(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))));
        let mut connection = connected.map_err(|source| failed("connect to", source))?;
        if !self.prepared.load(Ordering::Acquire) {
            let prepared = timeout(PREPARE_TIMEOUT, self.prepare(&mut connection)).await;
            prepared.unwrap_or_else(|_| {
                let problem = format!("no answer within {} s", PREPARE_TIMEOUT.as_secs());
                Err(failed("read the schema of", late(problem)))
            })?;
        }
        let now = Instant::now();
        Ok(Pooled { connection, born: now, used: now })
    }

    async fn prepare(&self, connection: &mut S::Connection) -> Result<(), OpenError> {
        let _one_at_a_time = self.preparing.lock().await;
        if self.prepared.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.writable {
            server::migrate::<S>(connection, &self.parts).await?;
        }
        // A view may stand in for the table, and may lack a column.
        S::run(connection, Call::Fetch, &self.probe, Vec::new()).await.map_err(|source| {
            OpenError::Database { attempt: "read the users of", database: self.parts.label.clone(), source }
        })?;
        self.prepared.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes a connection ready for the next call, and lets those go that were not needed for long.
    fn keep(&self, pooled: Pooled<S::Connection>) {
        let mut idle = self.idle();
        let unused = idle.iter().take_while(|other| other.used.elapsed() > MAX_IDLE).count();
        let gone: Vec<_> = idle.drain(..unused).collect();
        if !self.closed.load(Ordering::Acquire) {
            idle.push(pooled);
        }
        drop(idle);
        for pooled in gone {
            tokio::spawn(say_goodbye(pooled.connection));
        }
    }

    /// No panic leaves the list half changed.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Pooled<S::Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close(&self) {
        // Calls that are under way may end.
        let all = timeout(CONNECT_TIMEOUT, self.slots.acquire_many(self.size)).await;
        self.closed.store(true, Ordering::Release);
        self.slots.close();
        drop(all);
        let idle: Vec<_> = self.idle().drain(..).collect();
        let farewells: Vec<_> =
            idle.into_iter().map(|pooled| tokio::spawn(say_goodbye(pooled.connection))).collect();
        for farewell in farewells {
            // It ends by itself, within its own time.
            drop(farewell.await);
        }
    }
}

/// A server that is told does not log that a client broke off.
async fn say_goodbye(connection: impl Connection) {
    drop(timeout(Duration::from_secs(1), connection.close()).await);
}

fn late(problem: String) -> Error {
    Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, problem))
}

/// The server undid the statement, which may now succeed.
fn is_deadlock(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// A schema that is refused after the start is an error of each call.
fn as_sqlx(error: OpenError) -> Error {
    match error {
        OpenError::Database { source, .. } => source,
        other => Error::Configuration(Box::new(other)),
    }
}

/// The calls of a provider, each in a task of its own.
struct Remote<S: Server>(Arc<Pool<S>>);

impl<S: Server> Remote<S> {
    async fn run(&self, call: Call, sql: &Arc<str>, args: Vec<Value>) -> Result<Answer, Error> {
        let (pool, sql) = (Arc::clone(&self.0), Arc::clone(sql));
        let task = tokio::spawn(async move { pool.run(call, &sql, args).await });
        task.await.unwrap_or_else(|error| Err(Unanswered::wrap(Error::Io(std::io::Error::other(error)))))
    }
}

#[async_trait]
impl<S: Server> Engine for Remote<S> {
    async fn fetch(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<Vec<Vec<Value>>, Error> {
        Ok(self.run(Call::Fetch, sql, args).await?.rows)
    }

    async fn execute(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<u64, Error> {
        Ok(self.run(Call::Execute, sql, args).await?.found)
    }

    async fn insert(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<i64, Error> {
        Ok(self.run(Call::Insert, sql, args).await?.id)
    }

    fn pool(&self) -> StorePool {
        let max = self.0.size;
        let free = u32::try_from(self.0.slots.available_permits()).unwrap_or(max);
        let idle = u32::try_from(self.0.idle().len()).unwrap_or(max);
        StorePool { busy: max.saturating_sub(free), idle, max }
    }

    async fn close(&self) {
        self.0.close().await;
    }
}
