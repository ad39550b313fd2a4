//! Creates the schema in SQLite and brings an old one up to date. Safe to repeat, and against other processes
//! that try the same: everything happens in one transaction that locks the database first.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::applied;
use crate::OpenError;

const SCRIPTS: [&str; 3] = [
    include_str!("../../../../../sql/sqlite/20190828.sql"),
    include_str!("../../../../../sql/sqlite/20191112.sql"),
    include_str!("../../../../../sql/sqlite/20191230.sql"),
];

/// Applies to `table` the scripts that were not yet applied. A table that is up to date stays untouched, to the
/// byte; one that is not known is refused.
pub(in crate::sql) async fn migrate(
    connection: &mut SqliteConnection,
    table: &str,
    database: &str,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database {
        attempt: "create or update the schema of",
        database: database.to_owned(),
        source,
    };
    // Taken also when there is nothing to do: a database that cannot be written is noticed now.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let state = inspect(&mut transaction, table).await.map_err(failed)?;
    let refuse = |problem| {
        Err(OpenError::Schema { database: database.to_owned(), table: state.table.clone(), problem })
    };
    let done = match state.kind.as_str() {
        "table" => match applied(&state.columns) {
            Ok(done) => done,
            Err(problem) => return refuse(problem),
        },
        "" if state.others.is_empty() => 0,
        "" => {
            return refuse(format!(
                "does not exist, and is not created beside {}: create it with the scripts of sql/sqlite, or \
                 correct data_provider.users_table",
                state.others.join(", ")
            ));
        }
        kind => {
            return refuse(format!(
                "is a {kind}, which cannot be written: set data_provider.manage_users to 0"
            ));
        }
    };
    if done < SCRIPTS.len() && !state.attached.is_empty() {
        let attached = state.attached.join(", ");
        return refuse(format!(
            "is of an old version and would lose {attached} in an update: apply the scripts of sql/sqlite by hand"
        ));
    }
    for script in &SCRIPTS[done..] {
        let script = AssertSqlSafe(prepare(script, &state.table));
        sqlx::raw_sql(script).execute(&mut *transaction).await.map_err(failed)?;
    }
    if done < SCRIPTS.len() {
        tracing::info!("schema of {database} brought up to date: {} scripts applied", SCRIPTS.len() - done);
        return transaction.commit().await.map_err(failed);
    }
    transaction.rollback().await.map_err(failed)
}

/// What a database has in the place of our table.
struct State {
    /// The table's name as the database spells it.
    table: String,
    /// `table`, `view`, or nothing.
    kind: String,
    columns: Vec<String>,
    /// Tables and views that are not ours.
    others: Vec<String>,
    /// Indexes and triggers that somebody made on the table.
    attached: Vec<String>,
}

async fn inspect(connection: &mut SqliteConnection, table: &str) -> Result<State, sqlx::Error> {
    let objects: Vec<(String, String, String, bool)> =
        sqlx::query_as(r#"SELECT "name", "type", "tbl_name", "sql" IS NOT NULL FROM "sqlite_master""#)
            .fetch_all(&mut *connection)
            .await?;
    let columns = sqlx::query_scalar(r#"SELECT "name" FROM pragma_table_xinfo(?)"#)
        .bind(table)
        .fetch_all(connection)
        .await?;
    let mut state = State {
        table: table.to_owned(),
        kind: String::new(),
        columns,
        others: Vec::new(),
        attached: Vec::new(),
    };
    for (name, kind, on, written) in objects {
        let relation = kind == "table" || kind == "view";
        if relation && name.eq_ignore_ascii_case(table) {
            (state.table, state.kind) = (name, kind);
        } else if relation && !name.starts_with("sqlite_") {
            state.others.push(name);
        } else if written && on.eq_ignore_ascii_case(table) {
            state.attached.push(format!("{kind} {name}"));
        }
    }
    Ok(state)
}

/// The script for another name of the table, without its own transaction.
fn prepare(script: &str, table: &str) -> String {
    let mut text = script.replace("BEGIN IMMEDIATE;", "").replace("COMMIT;", "");
    for quote in ['"', '\''] {
        for prefix in ["", "new__"] {
            let from = format!("{quote}{prefix}users{quote}");
            text = text.replace(&from, &format!("{quote}{prefix}{table}{quote}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_prepared_for_another_table() {
        for script in SCRIPTS {
            let text = prepare(script, "staff");
            assert!(!text.contains("users\"") && !text.contains("users'"), "{text}");
            assert!(!text.contains("COMMIT") && !text.contains("BEGIN"), "{text}");
            assert!(text.contains("\"staff\""), "{text}");
        }
    }
}
