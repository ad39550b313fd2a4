//! Creates the schema on a database server and brings an old one up to date. Safe to repeat, and against other
//! servers of ours that try the same: a lock of the database server lets one after the other.
//!
//! PostgreSQL changes a schema in a transaction. MySQL does not; there each script is one statement that matters,
//! so a change that is cut short leaves a schema that is known.

use std::sync::Arc;

use super::applied;
use crate::OpenError;
use crate::record::Value;
use crate::sql::remote::{Call, Parts, Server};

/// The schema in the language of one engine, and the questions about what is there.
pub(in crate::sql) struct Scripts {
    /// The folder of the scripts, for messages.
    pub(in crate::sql) folder: &'static str,
    /// By date.
    pub(in crate::sql) scripts: [&'static str; 3],
    /// Takes the lock, and begins the transaction if there are such.
    pub(in crate::sql) begin: &'static str,
    /// Ends it, and keeps what was done.
    pub(in crate::sql) end: &'static str,
    /// Kind and name of everything in the schema that the first parameter names, or else in the usual one.
    /// Kinds: `table`, or what else it is.
    pub(in crate::sql) relations: &'static str,
    /// The columns of the table in the second parameter, of that schema.
    pub(in crate::sql) columns: &'static str,
}

/// Applies the scripts that were not yet applied. A table that is up to date stays untouched; one that is not known
/// is refused.
pub(in crate::sql) async fn migrate<S: Server>(
    connection: &mut S::Connection,
    parts: &Parts<S>,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database {
        attempt: "create or update the schema of",
        database: parts.label.clone(),
        source,
    };
    S::script(connection, S::SCRIPTS.begin.to_owned()).await.map_err(failed)?;
    let (schema, table) = match parts.table.split_once('.') {
        Some((schema, table)) => (schema.into(), table),
        None => (Value::Text(String::new()), parts.table.as_str()),
    };
    let relations = S::run(connection, Call::Fetch, &Arc::from(S::SCRIPTS.relations), vec![schema.clone()])
        .await
        .map_err(failed)?;
    let columns = vec![schema, table.into()];
    let columns =
        S::run(connection, Call::Fetch, &Arc::from(S::SCRIPTS.columns), columns).await.map_err(failed)?;
    let relations: Vec<(String, String)> =
        relations.rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
    let columns: Vec<String> = columns.rows.iter().map(|row| text(row, 0)).collect();
    let done = plan(&relations, table, &columns, S::SCRIPTS.folder).map_err(|problem| OpenError::Schema {
        database: parts.label.clone(),
        table: parts.table.clone(),
        problem,
    })?;
    let identifier = parts.dialect.identifier(&parts.table);
    let users = parts.dialect.identifier("users");
    for script in &S::SCRIPTS.scripts[done..] {
        let script = script.replace(&users, &identifier).replace("BEGIN;", "").replace("COMMIT;", "");
        S::script(connection, script).await.map_err(failed)?;
    }
    S::script(connection, S::SCRIPTS.end.to_owned()).await.map_err(failed)?;
    if done < S::SCRIPTS.scripts.len() {
        let count = S::SCRIPTS.scripts.len() - done;
        tracing::info!("schema of {} brought up to date: {count} scripts applied", parts.label);
    }
    Ok(())
}

fn text(row: &[Value], index: usize) -> String {
    match row.get(index) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

/// How many scripts were applied to what is there.
fn plan(
    relations: &[(String, String)],
    table: &str,
    columns: &[String],
    folder: &str,
) -> Result<usize, String> {
    let Some((kind, _)) = relations.iter().find(|(_, name)| name == table) else {
        if relations.is_empty() {
            return Ok(0);
        }
        let mut others: Vec<_> = relations.iter().map(|(_, name)| name.as_str()).take(6).collect();
        if relations.len() > 5 {
            others[5] = "and more";
        }
        return Err(format!(
            "does not exist, and is not created beside {}: create it with the scripts of {folder}, or correct \
             data_provider.users_table",
            others.join(", ")
        ));
    };
    let done = applied(columns)?;
    if kind != "table" && done < super::ADDED.len() {
        return Err(format!("is a {kind} and lacks columns of the current version"));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_decides_what_is_done() {
        let all: Vec<String> =
            super::super::ADDED.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
        let relations =
            |rows: &[(&str, &str)]| rows.iter().map(|(k, n)| ((*k).into(), (*n).into())).collect::<Vec<_>>();
        let plan =
            |rows: &[(&str, &str)], columns: &[String]| plan(&relations(rows), "users", columns, "sql/x");
        assert_eq!(plan(&[], &[]), Ok(0));
        assert_eq!(plan(&[("table", "users"), ("table", "orders")], &all), Ok(3));
        assert_eq!(plan(&[("table", "users")], &all[..16]), Ok(1));
        assert_eq!(plan(&[("table", "users")], &all[..19]), Ok(2));
        assert_eq!(plan(&[("view", "users"), ("table", "people")], &all), Ok(3));
        assert!(plan(&[("view", "users")], &all[..19]).unwrap_err().starts_with("is a view"));
        assert!(plan(&[("table", "users")], &all[..7]).unwrap_err().contains("not known"));
        let eight: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| ("table", name)).into();
        let refusal = plan(&eight, &[]).unwrap_err();
        assert!(refusal.contains("beside a, b, c, d, e, and more:"), "{refusal}");
    }
}
