//! Users on a MySQL or MariaDB server (data model §1.3): how to reach it, and what its values are.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Error, MySqlConnection, Row};

use super::cells::{bind, cells, utf8};
use super::migrations::server::Scripts;
use super::remote::{self, Answer, Call, Parts, Server};
use super::{SqlStore, dialect};
use crate::OpenError;
use crate::config::Settings;
use crate::connection_string::go_dsn::{self, Address};
use crate::record::Value;

/// Opens the database that `settings` name.
pub(crate) async fn open(settings: &Settings) -> Result<SqlStore, OpenError> {
    let options = options(settings)?;
    let label = format!(
        "{} on {}",
        options.get_database().unwrap_or_default(),
        match options.get_socket() {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        }
    );
    let table = settings.users_table.clone();
    let options = options
        .disable_statement_logging()
        // What these add to the server's mode is for other programs than ours.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None);
    let parts = Parts { server: MySqlServer { options }, dialect: &dialect::MYSQL, table, label };
    remote::open(parts, settings).await
}

/// From the parts of the configuration, or from a connection string in one of its two forms.
fn options(settings: &Settings) -> Result<MySqlConnectOptions, OpenError> {
    const FORM: &str = "mysql://user:password@host:port/database";
    match &settings.connection_string {
        None => Ok(from_parts(settings)),
        Some(text) => remote::options_of(text.expose(), &["mysql://", "mariadb://"], FORM, from_dsn),
    }
}

/// Each part is handed over as it is, so it may contain anything.
fn from_parts(settings: &Settings) -> MySqlConnectOptions {
    let options = MySqlConnectOptions::new().ssl_mode(match settings.ssl_mode {
        1 => MySqlSslMode::VerifyIdentity,
        2 => MySqlSslMode::Required,
        3 => MySqlSslMode::Preferred,
        _ => MySqlSslMode::Disabled,
    });
    let host = settings.host.as_str();
    let options = match host.is_empty() {
        _ if host.starts_with('/') => options.socket(host),
        true => options.port(settings.port),
        false => options.host(host.trim_start_matches('[').trim_end_matches(']')).port(settings.port),
    };
    let options = options.database(&settings.name).username(&settings.username);
    match settings.password.expose() {
        "" => options,
        password => options.password(password),
    }
}

/// The form of the reference's driver.
fn from_dsn(text: &str) -> Result<MySqlConnectOptions, String> {
    let dsn = go_dsn::parse(text)?;
    let mut options = MySqlConnectOptions::new().ssl_mode(MySqlSslMode::Disabled);
    options = match &dsn.address {
        Address::Tcp(host, port) => options.host(host).port(*port),
        Address::Unix(path) => options.socket(path),
    };
    if !dsn.username.is_empty() {
        options = options.username(&dsn.username);
    }
    if !dsn.password.is_empty() {
        options = options.password(&dsn.password);
    }
    if !dsn.database.is_empty() {
        options = options.database(&dsn.database);
    }
    for (key, value) in &dsn.parameters {
        options = match (key.as_str(), value.as_str()) {
            ("tls", "false" | "0") => options.ssl_mode(MySqlSslMode::Disabled),
            ("tls", "true" | "1") => options.ssl_mode(MySqlSslMode::VerifyIdentity),
            ("tls", "skip-verify") => options.ssl_mode(MySqlSslMode::Required),
            ("tls", "preferred") => options.ssl_mode(MySqlSslMode::Preferred),
            ("tls", other) => {
                return Err(format!("tls={other} is none of true, false, skip-verify, preferred"));
            }
            ("allowCleartextPasswords", value) => {
                options.enable_cleartext_plugin(matches!(value, "1" | "true" | "TRUE" | "True"))
            }
            // The limits on time and the encoding are ours; the rest is about that driver's own interface.
            (
                "charset"
                | "collation"
                | "interpolateParams"
                | "timeout"
                | "readTimeout"
                | "writeTimeout"
                | "parseTime"
                | "loc"
                | "maxAllowedPacket"
                | "multiStatements"
                | "clientFoundRows"
                | "columnsWithAlias"
                | "allowNativePasswords"
                | "allowOldPasswords"
                | "allowAllFiles"
                | "rejectReadOnly"
                | "checkConnLiveness"
                | "allowFallbackToPlaintext",
                _,
            ) => options,
            (key, _) => return Err(format!("the parameter {key} is not supported")),
        };
    }
    Ok(options)
}

struct MySqlServer {
    options: MySqlConnectOptions,
}

#[async_trait]
impl Server for MySqlServer {
    type Connection = MySqlConnection;

    const SCRIPTS: &'static Scripts = &Scripts {
        folder: "sql/mysql",
        scripts: [
            include_str!("../../../../sql/mysql/20190828.sql"),
            include_str!("../../../../sql/mysql/20191112.sql"),
            include_str!("../../../../sql/mysql/20191230.sql"),
        ],
        // Given back with the connection too.
        begin: "DO GET_LOCK('tidegate schema', 30)",
        end: "DO RELEASE_LOCK('tidegate schema')",
        relations: "SELECT CASE table_type WHEN 'BASE TABLE' THEN 'table' ELSE 'view' END, table_name \
                    FROM information_schema.tables WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) \
                    ORDER BY table_name",
        columns: "SELECT column_name FROM information_schema.columns \
                  WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?",
    };

    async fn connect(&self) -> Result<MySqlConnection, Error> {
        let mut connection = self.options.connect().await?;
        // A text that is too long, or a number that is too large, must be an error and not be cut.
        let mode = "SET SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',STRICT_ALL_TABLES')";
        sqlx::raw_sql(mode).execute(&mut connection).await?;
        Ok(connection)
    }

    async fn run(
        connection: &mut MySqlConnection,
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
            Call::Execute | Call::Insert => {
                let done = query.execute(connection).await?;
                let id = i64::try_from(done.last_insert_id()).unwrap_or(i64::MAX);
                Answer { found: done.rows_affected(), id, ..Answer::default() }
            }
        })
    }

    async fn script(connection: &mut MySqlConnection, sql: String) -> Result<(), Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
    }
}

/// A view may give other types than the table; those that say the same are read alike.
fn cell(row: &MySqlRow, index: usize, kind: &str) -> Option<Result<Value, Error>> {
    match kind {
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
            Some(row.try_get_unchecked(index).map(Value::Int))
        }
        "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
        | "BIGINT UNSIGNED" => {
            let number: Result<u64, Error> = row.try_get_unchecked(index);
            let int = |number| i64::try_from(number).map_or(Value::Other(kind.to_owned()), Value::Int);
            Some(number.map(int))
        }
        "VARCHAR" | "CHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "ENUM" | "JSON"
        | "VARBINARY" | "BINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" => {
            Some(utf8(row, index, kind))
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
        let mut section = DataProvider { driver: "mysql".into(), ..DataProvider::default() };
        change(&mut section);
        section.validate(Path::new("/etc/tidegate")).unwrap()
    }

    fn text(text: &str) -> Result<MySqlConnectOptions, String> {
        let settings = settings(|section| section.connection_string = Secret::new(text));
        options(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_become_options_as_they_are() {
        for (number, mode) in ["Disabled", "VerifyIdentity", "Required", "Preferred"].iter().enumerate() {
            let settings = settings(|section| {
                section.host = "db.example".into();
                section.port = 3307;
                section.name = "my/users".into();
                section.username = "o'neill@x".into();
                section.sslmode = i64::try_from(number).unwrap();
            });
            let options = options(&settings).unwrap();
            assert_eq!((options.get_host(), options.get_port()), ("db.example", 3307));
            assert_eq!((options.get_database(), options.get_username()), (Some("my/users"), "o'neill@x"));
            assert_eq!(format!("{:?}", options.get_ssl_mode()), *mode);
        }
        let local = options(&settings(|section| section.host = "/run/mysqld/mysqld.sock".into())).unwrap();
        assert_eq!(local.get_socket().unwrap(), Path::new("/run/mysqld/mysqld.sock"));
    }

    #[test]
    fn both_forms_of_connection_strings() {
        for string in [
            "o'neill:p@:/w@tcp([2001:db8::1]:3307)/users?charset=utf8&interpolateParams=true&timeout=10s&tls=skip-verify",
            "mysql://o'neill:p%40%3A%2Fw@[2001:db8::1]:3307/users?ssl-mode=REQUIRED",
        ] {
            let options = text(string).unwrap();
            assert_eq!(options.get_host().trim_matches(['[', ']']), "2001:db8::1", "{string}");
            assert_eq!((options.get_port(), options.get_username()), (3307, "o'neill"));
            assert_eq!(options.get_database(), Some("users"));
            assert!(matches!(options.get_ssl_mode(), MySqlSslMode::Required));
        }
        let local = text("u@unix(/run/mysqld/mysqld.sock)/users").unwrap();
        assert_eq!(local.get_socket().unwrap(), Path::new("/run/mysqld/mysqld.sock"));
        for (string, named) in [
            ("u:hunter2@tcp(h)/d?tls=custom", "tls=custom"),
            ("u:hunter2@tcp(h)/d?sql_mode=ANSI", "sql_mode"),
            ("u:hunter2@tcp(h)", "/"),
            ("mysql://u:hunter2@h:port/x", "no URL"),
        ] {
            let error = text(string).unwrap_err();
            assert!(error.contains(named) && !error.contains("hunter2"), "{error}");
        }
    }
}
