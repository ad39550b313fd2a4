//! Users in a SQLite file (data model §1.1).
//!
//! One connection writes, a few read. The journal mode that a file has is kept; only a file that we create gets
//! a write-ahead log: see `docs/decisions/0002-sqlite.md` for the measurements behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tidegate_core::StorePool;

use super::cells::{bind, cells, utf8};
use super::{BUSY_TIMEOUT, Engine, SqlStore, dialect, migrations};
use crate::OpenError;
use crate::config::Settings;
use crate::private_file::create_private;
use crate::record::Value;

/// Connections that read: enough for logins to pass a long listing.
const READERS: u32 = 4;

/// Opens the file that `settings` name.
pub(crate) async fn open(settings: &Settings) -> Result<SqlStore, OpenError> {
    let target = Target::new(settings)?;
    target.check_file()?;
    let failed = |attempt| {
        let database = target.label.clone();
        move |source| OpenError::Database { attempt, database, source }
    };
    let table = match settings.users_table.split_once('.') {
        Some((schema, table)) if schema.eq_ignore_ascii_case("main") => table,
        _ => settings.users_table.as_str(),
    };
    target.probe().await.map_err(failed("open"))?;
    let writer = match target.writable {
        true => Some(target.pool(1, true).await.map_err(failed("open"))?),
        false => None,
    };
    if let Some(writer) = &writer {
        let mut connection = writer.acquire().await.map_err(failed("open"))?;
        use_write_ahead_log_if_new(&mut connection).await.map_err(failed("set up"))?;
        migrations::sqlite::migrate(&mut connection, table, &target.label).await?;
    }
    let reader = match &writer {
        Some(writer) if target.in_memory => writer.clone(),
        _ => target.pool(READERS, false).await.map_err(failed("open"))?,
    };
    let statements = dialect::SQLITE.statements(table);
    let engine = SqliteEngine { reader, writer };
    // A view may stand in for the table, and may lack a column.
    engine.fetch(&statements.ping, vec![]).await.map_err(failed("read the users of"))?;
    Ok(SqlStore { engine: Box::new(engine), statements, writable: target.writable })
}

/// A file without any table is ours to set up. Where a write-ahead log is impossible, such as on a network file
/// system, SQLite keeps the journal. This lock it does not wait for by itself when another process sets up the
/// same file.
async fn use_write_ahead_log_if_new(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let objects: i64 =
            sqlx::query_scalar(r#"SELECT count(*) FROM "sqlite_master""#).fetch_one(&mut *connection).await?;
        if objects > 0 {
            return Ok(());
        }
        match sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut *connection).await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.map(drop),
        }
    }
}

/// `SQLITE_BUSY`, in the low byte of its extended forms too.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// What to open and how.
struct Target {
    /// A path, or a `file:` URI, as SQLite takes it.
    filename: String,
    /// The file, if the filename is a path.
    path: Option<PathBuf>,
    /// For messages.
    label: String,
    in_memory: bool,
    writable: bool,
    create: bool,
}

impl Target {
    fn new(settings: &Settings) -> Result<Self, OpenError> {
        let writable = settings.manage_users;
        let Some(text) = &settings.connection_string else {
            let Some(filename) = settings.path.to_str() else {
                let problem = "has a name that is not UTF-8".to_owned();
                return Err(OpenError::File { path: settings.path.clone(), problem });
            };
            // SQLite would read such a relative path as a URI.
            let prefix = if filename.starts_with("file:") { "./" } else { "" };
            return Ok(Self::file(&format!("{prefix}{filename}"), writable));
        };
        match text.expose().strip_prefix("file:") {
            Some(rest) => Self::uri(rest, writable),
            // The reference's driver takes what follows a question mark as its own options.
            None => Ok(Self::file(text.expose().split('?').next().unwrap_or_default(), writable)),
        }
    }

    fn file(path: &str, writable: bool) -> Self {
        let in_memory = path == ":memory:";
        Self {
            filename: path.to_owned(),
            path: (!in_memory).then(|| PathBuf::from(path)),
            label: path.to_owned(),
            in_memory,
            writable,
            create: writable,
        }
    }

    /// `mode` becomes the flags that it stands for, which could contradict it otherwise. `cache=shared`, which
    /// the reference's users have, goes: connections that share a cache fail at each other's locks at once
    /// instead of waiting. Parameters that SQLite does not know it ignores by itself.
    fn uri(rest: &str, writable: bool) -> Result<Self, OpenError> {
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut target = Self { path: None, ..Self::file(path, writable) };
        let mut kept = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("cache", _) | ("mode", "rwc") => {}
                ("mode", "rw") => target.create = false,
                ("mode", "memory") => target.in_memory = true,
                ("mode", "ro") if writable => {
                    let problem = "mode=ro is only possible when data_provider.manage_users is 0";
                    return Err(OpenError::ConnectionString(problem.to_owned()));
                }
                ("mode", "ro") => {}
                ("mode", other) => {
                    return Err(OpenError::ConnectionString(format!(
                        "mode={other} is none of ro, rw, rwc, memory"
                    )));
                }
                _ => kept.push(parameter),
            }
        }
        if target.in_memory {
            target.filename = ":memory:".to_owned();
        } else {
            let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
            target.filename = format!("file:{path}{query}");
        }
        Ok(target)
    }

    /// A file that has to exist must; one that may be created is created here, as it will hold password hashes
    /// and SQLite would let everybody read it. Its journals take over the mode.
    fn check_file(&self) -> Result<(), OpenError> {
        let Some(path) = &self.path else { return Ok(()) };
        let error = |problem| Err(OpenError::File { path: path.clone(), problem });
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => error("is not a file".to_owned()),
            Ok(metadata) if !self.writable && metadata.len() == 0 => error("is empty".to_owned()),
            Ok(_) => Ok(()),
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound && self.writable => {
                create_private(path).or_else(|problem| error(format!("cannot be created: {problem}")))
            }
            Err(problem) => error(format!("cannot be used: {problem}")),
        }
    }

    fn options(&self, writes: bool) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.filename)
            .read_only(!writes)
            .create_if_missing(writes && self.create)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .thread_name(|number| format!("sqlite-{number}"))
            .disable_statement_logging()
    }

    /// A pool keeps trying to connect until its time is over, and then tells only that it is. One connection of
    /// its own tells at once why a file is no database.
    async fn probe(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.options(self.writable).connect().await?;
        let result = set_up(&mut connection, self.writable).await;
        connection.close().await?;
        result
    }

    async fn pool(&self, connections: u32, writes: bool) -> Result<SqlitePool, sqlx::Error> {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .min_connections(1)
            .acquire_timeout(BUSY_TIMEOUT)
            // Connections to a file do not age, and that to memory must not end.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .after_connect(move |connection, _| Box::pin(set_up(connection, writes)))
            .connect_with(self.options(writes))
            .await
    }
}

/// A journal that is kept between transactions costs a sixth of one that is deleted each time. This is a setting
/// of the connection, not of the file, unlike the write-ahead log, which must not be touched here.
async fn set_up(connection: &mut SqliteConnection, writes: bool) -> Result<(), sqlx::Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if writes && mode == "delete" {
        sqlx::raw_sql("PRAGMA journal_mode = PERSIST").execute(connection).await?;
    }
    Ok(())
}

struct SqliteEngine {
    reader: SqlitePool,
    /// `None`: nothing is ever written.
    writer: Option<SqlitePool>,
}

impl SqliteEngine {
    fn writer(&self) -> Result<&SqlitePool, sqlx::Error> {
        self.writer.as_ref().ok_or(sqlx::Error::PoolClosed)
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn fetch(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<Vec<Vec<Value>>, sqlx::Error> {
        // Each row is read as it comes: the library's rows are many times as large.
        bind(sql, args).try_map(|row| cells(&row, cell)).fetch_all(&self.reader).await
    }

    async fn execute(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<u64, sqlx::Error> {
        Ok(bind(sql, args).execute(self.writer()?).await?.rows_affected())
    }

    async fn insert(&self, sql: &Arc<str>, args: Vec<Value>) -> Result<i64, sqlx::Error> {
        Ok(bind(sql, args).execute(self.writer()?).await?.last_insert_rowid())
    }

    fn pool(&self) -> StorePool {
        let all = || [Some(&self.reader), self.writer.as_ref()].into_iter().flatten();
        let idle: u32 = all().map(|pool| u32::try_from(pool.num_idle()).unwrap_or(0)).sum();
        let open: u32 = all().map(SqlitePool::size).sum();
        let max = all().map(|pool| pool.options().get_max_connections()).sum();
        StorePool { busy: open.saturating_sub(idle), idle, max }
    }

    /// The last connection to leave folds a write-ahead log into the file.
    async fn close(&self) {
        self.reader.close().await;
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}

/// SQLite types values, not columns. Texts that somebody stored as bytes are texts to the reference too.
fn cell(row: &SqliteRow, index: usize, kind: &str) -> Option<Result<Value, sqlx::Error>> {
    match kind {
        "INTEGER" => Some(row.try_get_unchecked(index).map(Value::Int)),
        "TEXT" | "BLOB" => Some(utf8(row, index, kind)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{DataProvider, Secret};

    fn target(connection_string: &str, manage_users: i64) -> Result<Target, OpenError> {
        let section = DataProvider {
            connection_string: Secret::new(connection_string),
            manage_users,
            ..DataProvider::default()
        };
        Target::new(&section.validate(Path::new("/etc/tidegate")).unwrap())
    }

    #[test]
    fn connection_strings() {
        for (text, filename, create, in_memory) in [
            ("", "/etc/tidegate/sftpgo.db", true, false),
            ("/srv/a b.db", "/srv/a b.db", true, false),
            ("/srv/a.db?_busy_timeout=1", "/srv/a.db", true, false),
            ("file:/srv/a%20b.db?cache=shared", "file:/srv/a%20b.db", true, false),
            ("file:a.db?mode=rw&cache=shared&vfs=unix", "file:a.db?vfs=unix", false, false),
            ("file:a.db?mode=rwc#x", "file:a.db", true, false),
            ("file::memory:?cache=shared", ":memory:", true, true),
            ("file:x?mode=memory", ":memory:", true, true),
            (":memory:", ":memory:", true, true),
        ] {
            let target = target(text, 1).unwrap();
            assert_eq!(
                (target.filename.as_str(), target.create, target.in_memory),
                (filename, create, in_memory),
                "{text}"
            );
        }
        assert!(target("file:a.db?mode=ro", 0).is_ok_and(|target| !target.writable));
        for text in ["file:a.db?mode=ro", "file:a.db?mode=new"] {
            assert!(matches!(target(text, 1), Err(OpenError::ConnectionString(_))), "{text}");
        }
    }
}
