//! What differs between the SQL engines, and the statements that come out of it (data model §2.1).
//!
//! Adding an engine is adding a [`Dialect`] here and an `Engine` beside it; the statements are written once.

use std::sync::Arc;

use super::search::Search;
use crate::record::{FIXED, SETTINGS};

/// How one engine writes the few things that SQL leaves open.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    /// What stands around an identifier.
    quote: char,
    /// The n-th parameter, counted from 1.
    placeholder: fn(usize) -> String,
    /// `column + ?`, kept between zero and the given most.
    sum: fn(&str, i64) -> String,
    /// `column = ?`, true for the very same name only.
    same_name: fn(&str) -> String,
    /// Whether a column contains a text without regard to case: the condition for this column and text, whose
    /// parameter is what `contained` makes of the text.
    pub(super) contains: fn(&str, &str) -> String,
    pub(super) contained: fn(&str) -> String,
    /// The column by which chosen rows are found again, of those in the index over usernames.
    pub(super) row: &'static str,
    /// What rows are sorted by that are alike in what is asked for, made of the column of usernames.
    pub(super) alike: fn(&str) -> String,
    /// The largest number that the column of files takes.
    most_files: i64,
    /// What makes an insert yield the new id, where the protocol does not.
    returning_id: &'static str,
}

/// SQLite. A sum beyond 64 bits would become a floating point number, hence the upper bound.
pub(super) const SQLITE: Dialect = Dialect {
    quote: '"',
    placeholder: |_| "?".to_owned(),
    sum: |column, most| format!("min({most}, max(0, {column} + ?))"),
    same_name: |column| format!("{column} = ?"),
    // A third of the time of `instr(lower(…))`.
    contains: |column, _| format!("{column} LIKE ? ESCAPE '!'"),
    contained: |text| format!("%{}%", text.replace('!', "!!").replace('%', "!%").replace('_', "!_")),
    row: "username",
    alike: str::to_owned,
    most_files: i64::MAX,
    returning_id: "",
};

/// PostgreSQL. The sum is made in `numeric`, as `bigint` fails at its end.
#[cfg(feature = "postgresql")]
pub(super) const POSTGRESQL: Dialect = Dialect {
    quote: '"',
    placeholder: |number| format!("${number}"),
    sum: |column, most| format!("LEAST({most}, GREATEST(0, {column}::numeric + ?::bigint))"),
    same_name: |column| format!("{column} = ?"),
    // Most of the time goes into case: letters beyond ASCII cost twice as much as others, digits nothing.
    contains: |column, text| match text {
        _ if !text.chars().any(char::is_alphabetic) => format!("strpos({column}, ?) > 0"),
        _ if text.is_ascii() => format!("strpos(lower({column} COLLATE \"C\"), lower(? COLLATE \"C\")) > 0"),
        _ => format!("strpos(lower({column}), lower(?)) > 0"),
    },
    contained: str::to_owned,
    row: "username",
    alike: str::to_owned,
    most_files: i32::MAX as i64,
    returning_id: " RETURNING \"id\"",
};

/// MySQL and MariaDB. Their usual collations take `ANNA`, `änna` and `anna ` for `anna`: the first comparison
/// finds the row by the index, the second one tells whether it is the one that was meant.
#[cfg(feature = "mysql")]
pub(super) const MYSQL: Dialect = Dialect {
    quote: '`',
    placeholder: |_| "?".to_owned(),
    sum: |column, most| {
        format!("LEAST({most}, GREATEST(0, CAST({column} AS DECIMAL(30)) + CAST(? AS DECIMAL(30))))")
    },
    same_name: |column| {
        format!("{column} = ? AND CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)")
    },
    contains: |column, _| {
        format!("LOCATE(LOWER(?), LOWER(CONVERT({column} USING utf8mb4)) COLLATE utf8mb4_bin) > 0")
    },
    contained: str::to_owned,
    // They sort by all the 1020 bytes that a name might have, ten times as slowly as by these.
    row: "id",
    alike: |column| format!("LEFT({column}, 32)"),
    most_files: i32::MAX as i64,
    returning_id: "",
};

/// The statements of one provider, built once: the text is the key of the engine's cache of prepared statements.
pub(super) struct Statements {
    pub(super) by_name: Arc<str>,
    pub(super) by_id: Arc<str>,
    pub(super) page_of_one: Arc<str>,
    pub(super) all: Arc<str>,
    pub(super) insert: Arc<str>,
    pub(super) update: Arc<str>,
    pub(super) delete: Arc<str>,
    pub(super) usage: Arc<str>,
    pub(super) add_usage: Arc<str>,
    pub(super) set_usage: Arc<str>,
    pub(super) record_login: Arc<str>,
    pub(super) ping: Arc<str>,
    /// Makes those that depend on what is asked.
    pub(super) search: Search,
    /// How many times a statement wants the name that it compares.
    pub(super) names: usize,
    /// The largest number of files that can be stored.
    pub(super) most_files: i64,
}

impl Dialect {
    /// `name` or `schema.name` as an identifier. The configuration lets only letters, digits, `_` and a dot in.
    pub(super) fn identifier(&self, name: &str) -> String {
        let quote = self.quote;
        let parts: Vec<_> = name.split('.').map(|part| format!("{quote}{part}{quote}")).collect();
        parts.join(".")
    }

    /// Numbers the parameters of a statement that is written with `?`.
    pub(super) fn numbered(&self, sql: &str) -> Arc<str> {
        let mut parts = sql.split('?');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (index, part) in parts.enumerate() {
            text.push_str(&(self.placeholder)(index + 1));
            text.push_str(part);
        }
        text.into()
    }

    /// All statements for the users in `table`. Columns are always named: their order differs between databases.
    pub(super) fn statements(&self, table: &str) -> Statements {
        let search = Search::new(*self, table);
        let table = self.identifier(table);
        let id = self.identifier("id");
        let username = self.identifier("username");
        let columns = self.list(FIXED.iter().chain(&SETTINGS), "");
        let select = format!("SELECT {columns} FROM {table}");
        let inserted = self.list(FIXED.iter().skip(1).chain(&SETTINGS), "");
        let returning_id = self.returning_id;
        let parameters = vec!["?"; SETTINGS.len()].join(", ");
        let updated = self.list(SETTINGS.iter(), " = ?");
        let [size, files, at, login] =
            ["used_quota_size", "used_quota_files", "last_quota_update", "last_login"]
                .map(|c| self.identifier(c));
        let (size_sum, files_sum) = ((self.sum)(&size, i64::MAX), (self.sum)(&files, self.most_files));
        let named = (self.same_name)(&username);
        Statements {
            by_name: self.numbered(&format!("{select} WHERE {named}")),
            by_id: self.numbered(&format!("{select} WHERE {id} = ?")),
            page_of_one: self.numbered(&format!("{select} WHERE {named} LIMIT ? OFFSET ?")),
            all: self.numbered(&format!("{select} ORDER BY {username}")),
            insert: self.numbered(&format!(
                "INSERT INTO {table} ({inserted}) VALUES (?, 0, 0, 0, 0, {parameters}){returning_id}"
            )),
            update: self.numbered(&format!("UPDATE {table} SET {updated} WHERE {id} = ?")),
            delete: self.numbered(&format!("DELETE FROM {table} WHERE {id} = ?")),
            usage: self.numbered(&format!("SELECT {size}, {files} FROM {table} WHERE {named}")),
            add_usage: self.numbered(&format!(
                "UPDATE {table} SET {size} = {size_sum}, {files} = {files_sum}, {at} = ? WHERE {named}"
            )),
            set_usage: self
                .numbered(&format!("UPDATE {table} SET {size} = ?, {files} = ?, {at} = ? WHERE {named}")),
            record_login: self.numbered(&format!("UPDATE {table} SET {login} = ? WHERE {named}")),
            ping: self.numbered(&format!("SELECT {columns} FROM {table} LIMIT 1")),
            search,
            names: named.matches('?').count(),
            most_files: self.most_files,
        }
    }

    pub(super) fn list<'a>(&self, columns: impl Iterator<Item = &'a &'a str>, after: &str) -> String {
        let columns: Vec<_> = columns.map(|column| self.identifier(column) + after).collect();
        columns.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_where_the_engine_wants_it() {
        let numbered = Dialect { placeholder: |n| format!("${n}"), ..SQLITE };
        let statements = numbered.statements("s.users");
        assert_eq!(
            &*statements.record_login,
            r#"UPDATE "s"."users" SET "last_login" = $1 WHERE "username" = $2"#
        );
        assert!(statements.insert.ends_with(
            "VALUES ($1, 0, 0, 0, 0, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
        ));
        assert!(SQLITE.statements("users").update.ends_with(r#""filters" = ? WHERE "id" = ?"#));
    }
}
