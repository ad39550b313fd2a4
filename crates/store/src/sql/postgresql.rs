//! Users on a PostgreSQL server (data model §1.2): how to reach it, and what its values are.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Error, PgConnection, Row};

use super::cells::{bind, cells};
use super::migrations::server::Scripts;
use super::remote::{self, Answer, Call, Parts, Server};
use super::{SqlStore, dialect};
use crate::OpenError;
use crate::config::Settings;
use crate::connection_string::key_values;
use crate::record::Value;

/// Opens the database that `settings` name.
pub(crate) async fn open(settings: &Settings) -> Result<SqlStore, OpenError> {
    let options = options(settings)?;
    let label = format!(
        "{} on {}",
        options.get_database().unwrap_or(options.get_username()),
        match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None if options.get_host().starts_with('/') => options.get_host().to_owned(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    );
    // The reference leaves the name without quotes, and so does this to it what the server did.
    let table = settings.users_table.to_ascii_lowercase();
    let server = PostgreSql { options: options.disable_statement_logging() };
    remote::open(Parts { server, dialect: &dialect::POSTGRESQL, table, label }, settings).await
}

/// From the parts of the configuration, or from a connection string in one of its two forms.
fn options(settings: &Settings) -> Result<PgConnectOptions, OpenError> {
    const FORM: &str = "postgres://user:password@host:port/database";
    match &settings.connection_string {
        None => Ok(from_parts(settings)),
        Some(text) => {
            remote::options_of(text.expose(), &["postgres://", "postgresql://"], FORM, from_key_values)
        }
    }
}

/// Each part is handed over as it is, so it may contain anything.
fn from_parts(settings: &Settings) -> PgConnectOptions {
    let mut options =
        PgConnectOptions::new_without_pgpass().port(settings.port).ssl_mode(match settings.ssl_mode {
            1 => PgSslMode::Require,
            2 => PgSslMode::VerifyCa,
            3 => PgSslMode::VerifyFull,
            _ => PgSslMode::Disable,
        });
    if !settings.host.is_empty() {
        options = options.host(&settings.host);
    }
    if !settings.username.is_empty() {
        options = options.username(&settings.username);
    }
    if !settings.password.expose().is_empty() {
        options = options.password(settings.password.expose());
    }
    if !settings.name.is_empty() {
        options = options.database(&settings.name);
    }
    options
}

/// The form of libpq. As in the reference's driver, TLS is required unless the text says otherwise.
fn from_key_values(text: &str) -> Result<PgConnectOptions, String> {
    let mut options = PgConnectOptions::new_without_pgpass().ssl_mode(PgSslMode::Require);
    for (key, value) in key_values::parse(text)? {
        let value = value.as_str();
        options = match key.as_str() {
            "host" | "hostaddr" => options.host(value),
            "port" => {
                let port = value.parse().map_err(|_| format!("port={value} is no port number"))?;
                options.port(port)
            }
            "dbname" => options.database(value),
            "user" => options.username(value),
            "password" => options.password(value),
            "sslmode" => {
                let mode = value.parse().map_err(|_| {
                    format!(
                        "sslmode={value} is none of disable, allow, prefer, require, verify-ca, verify-full"
                    )
                })?;
                options.ssl_mode(mode)
            }
            "sslrootcert" => options.ssl_root_cert(value),
            "sslcert" => options.ssl_client_cert(value),
            "sslkey" => options.ssl_client_key(value),
            "application_name" | "fallback_application_name" => options.application_name(value),
            // The limits on time are ours, and the encoding must be.
            "connect_timeout" | "client_encoding" | "binary_parameters" | "sslinline" => options,
            "search_path" | "statement_timeout" | "lock_timeout" | "timezone" | "TimeZone" | "role" => {
                options.options([(key.as_str(), value)])
            }
            _ => return Err(format!("the key {key} is not supported")),
        };
    }
    Ok(options)
}

struct PostgreSql {
    options: PgConnectOptions,
}

#[async_trait]
impl Server for PostgreSql {
    type Connection = PgConnection;

    const SCRIPTS: &'static Scripts = &Scripts {
        folder: "sql/pgsql",
        scripts: [
            include_str!("../../../../sql/pgsql/20190828.sql"),
            include_str!("../../../../sql/pgsql/20191112.sql"),
            include_str!("../../../../sql/pgsql/20191230.sql"),
        ],
        // The number is ours: "tidegate" in ASCII. The end of the transaction gives the lock back.
        begin: "BEGIN; SELECT pg_advisory_xact_lock(8388068020124906597)",
        end: "COMMIT",
        // What belongs to an extension is nobody's table.
        relations: "SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' \
                    WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END, c.relname::text \
                    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                    WHERE (n.nspname = $1 OR ($1 = '' AND n.nspname = ANY (current_schemas(false)) \
                    AND pg_catalog.pg_table_is_visible(c.oid))) \
                    AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d \
                    WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY c.relname",
        columns: "SELECT a.attname::text FROM pg_catalog.pg_attribute a \
                  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                  WHERE (n.nspname = $1 OR ($1 = '' AND n.nspname = ANY (current_schemas(false)) \
                    AND pg_catalog.pg_table_is_visible(c.oid))) AND c.relname = $2 \
                  AND a.attnum > 0 AND NOT a.attisdropped",
    };

    async fn connect(&self) -> Result<PgConnection, Error> {
        self.options.connect().await
    }

    async fn run(
        connection: &mut PgConnection,
        call: Call,
        sql: &Arc<str>,
        args: Vec<Value>,
    ) -> Result<Answer, Error> {
        let query = bind(sql, args);
        Ok(match call {
            Call::Fetch => {
                let rows = query.try_map(|row| cells(&row, cell)).fetch_all(connection).await?;
                Answer { rows, ..Answer::default() }
            }
            Call::Execute => {
                Answer { found: query.execute(connection).await?.rows_affected(), ..Answer::default() }
            }
            // Serial columns are 32 bits wide, unless somebody has widened them.
            Call::Insert => {
                let row = query.fetch_one(connection).await?;
                Answer { id: row.try_get_unchecked(0)?, ..Answer::default() }
            }
        })
    }

    async fn script(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
    }
}

/// A view may give other types than the table; those that say the same are read alike.
fn cell(row: &PgRow, index: usize, kind: &str) -> Option<Result<Value, Error>> {
    match kind.to_ascii_uppercase().as_str() {
        "INT2" | "INT4" | "INT8" => Some(row.try_get_unchecked(index).map(Value::Int)),
        "TEXT" | "VARCHAR" | "CHAR" | "BPCHAR" | "NAME" | "UNKNOWN" | "JSON" | "CITEXT" => {
            Some(row.try_get_unchecked(index).map(Value::Text))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{DataProvider, Secret};

    fn settings(change: impl FnOnce(&mut DataProvider)) -> Settings {
        let mut section = DataProvider { driver: "postgresql".into(), ..DataProvider::default() };
        change(&mut section);
        section.validate(Path::new("/etc/tidegate")).unwrap()
    }

    fn text(text: &str) -> Result<PgConnectOptions, String> {
        let settings = settings(|section| section.connection_string = Secret::new(text));
        options(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_become_options_as_they_are() {
        for (number, mode) in ["Disable", "Require", "VerifyCa", "VerifyFull"].iter().enumerate() {
            let settings = settings(|section| {
                section.host = "db.example".into();
                section.port = 5433;
                section.name = "my 'users'".into();
                section.username = "o'neill@x".into();
                section.sslmode = i64::try_from(number).unwrap();
            });
            let options = options(&settings).unwrap();
            assert_eq!((options.get_host(), options.get_port()), ("db.example", 5433));
            assert_eq!((options.get_database(), options.get_username()), (Some("my 'users'"), "o'neill@x"));
            assert_eq!(format!("{:?}", options.get_ssl_mode()), *mode);
        }
    }

    #[test]
    fn both_forms_of_connection_strings() {
        for string in [
            "host='db.example' port=5433 dbname='my users' user='o\\'neill' password='p@:/ w' sslmode=verify-full \
             connect_timeout=10",
            "postgres://o'neill:p%40%3A%2F%20w@db.example:5433/my%20users?sslmode=verify-full",
        ] {
            let options = text(string).unwrap();
            assert_eq!((options.get_host(), options.get_port()), ("db.example", 5433), "{string}");
            assert_eq!((options.get_database(), options.get_username()), (Some("my users"), "o'neill"));
            assert!(matches!(options.get_ssl_mode(), PgSslMode::VerifyFull));
        }
        assert!(matches!(text("host=x").unwrap().get_ssl_mode(), PgSslMode::Require));
        assert_eq!(text("search_path=hosting").unwrap().get_options(), Some("-c search_path=hosting"));
        for (string, named) in [
            ("host=x port=many", "port=many"),
            ("sslmode=maybe", "sslmode=maybe"),
            ("hots=x", "hots"),
            ("postgres://u:hunter2@h:port/x", "no URL"),
        ] {
            let error = text(string).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
