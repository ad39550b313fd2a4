//! The statements that list and search users, made for each question.
//!
//! A page is chosen by the columns that decide alone, so that an engine walks its index or sorts narrow rows, and
//! only what is shown is read in full: a page far behind costs little more than the first one.

use std::sync::Arc;

use tidegate_core::{UserQuery, UserSort, UserStatus};

use super::dialect::Dialect;
use crate::record::{FIXED, SETTINGS, Value};

/// How many names one statement asks for: the smallest that is enough is filled up, so that few statements are
/// prepared. All engines take the largest.
const NAMES_AT_ONCE: [usize; 2] = [16, 256];

/// What the statements are made of.
pub(super) struct Search {
    dialect: Dialect,
    /// As identifiers.
    table: String,
    username: String,
    columns: String,
}

/// A statement and what is bound to it.
pub(super) type Question = (Arc<str>, Vec<Value>);

impl Search {
    pub(super) fn new(dialect: Dialect, table: &str) -> Self {
        Self {
            table: dialect.identifier(table),
            username: dialect.identifier("username"),
            columns: dialect.list(FIXED.iter().chain(&SETTINGS), ""),
            dialect,
        }
    }

    /// The users that `query` wants. If `total` tells how many there are, a page of the second half is counted
    /// from the end: what an engine skips it has sorted.
    pub(super) fn page(&self, query: &UserQuery, total: Option<u64>) -> Question {
        let Self { dialect, table, username, columns } = self;
        let (condition, mut args) = self.condition(query);
        let order = self.order(query, &[username], false);
        let row = dialect.identifier(dialect.row);
        let alike = (dialect.alike)(username);
        let offset = u64::from(query.offset);
        let backwards = total.filter(|total| offset > total / 2);
        let (limit, offset) = match backwards.and_then(|total| total.checked_sub(offset)) {
            Some(left) => (left.min(query.limit.into()), left.saturating_sub(query.limit.into())),
            None => (query.limit.into(), offset),
        };
        // A part of the name may be the same where names are not.
        let alike = if alike == *username { vec![username] } else { vec![&alike, &row] };
        let chosen = self.order(query, &alike, backwards.is_some());
        args.extend([limit, offset].map(|number| Value::Int(i64::try_from(number).unwrap_or(i64::MAX))));
        let sql = format!(
            "SELECT {columns} FROM (SELECT {row} AS page_row FROM {table}{condition} ORDER BY {chosen} \
             LIMIT ? OFFSET ?) page JOIN {table} ON {row} = page_row ORDER BY {order}"
        );
        (dialect.numbered(&sql), args)
    }

    /// How many users there are, whatever the limit.
    pub(super) fn count(&self, query: &UserQuery) -> Question {
        let (condition, args) = self.condition(query);
        (self.dialect.numbered(&format!("SELECT count(*) FROM {}{condition}", self.table)), args)
    }

    /// The users called `names`, and perhaps some whose names the engine takes for the same.
    pub(super) fn named(&self, names: &[String]) -> impl Iterator<Item = Question> {
        let at_most = NAMES_AT_ONCE.into_iter().max().unwrap_or(1);
        names.chunks(at_most).filter_map(move |names| {
            let last = names.last()?;
            let count = NAMES_AT_ONCE.into_iter().find(|count| names.len() <= *count).unwrap_or(names.len());
            let mut args: Vec<Value> = names.iter().map(|name| name.as_str().into()).collect();
            args.resize(count, last.as_str().into());
            let Self { table, username, columns, .. } = self;
            let parameters = vec!["?"; count].join(", ");
            let sql = format!("SELECT {columns} FROM {table} WHERE {username} IN ({parameters})");
            Some((self.dialect.numbered(&sql), args))
        })
    }

    fn condition(&self, query: &UserQuery) -> (String, Vec<Value>) {
        let mut conditions = Vec::new();
        let mut args = Vec::new();
        if let Some(text) = query.text() {
            conditions.push((self.dialect.contains)(&self.username, text));
            args.push(Value::Text((self.dialect.contained)(text)));
        }
        if let Some(status) = query.status {
            let compared = if status == UserStatus::Active { ">" } else { "<=" };
            conditions.push(format!("{} {compared} 0", self.dialect.identifier("status")));
        }
        let condition = match conditions.as_slice() {
            [] => String::new(),
            all => format!(" WHERE {}", all.join(" AND ")),
        };
        (condition, args)
    }

    /// What users are ordered by, and `alike` for those that are alike in that. Numbers that are not above zero
    /// all say the same: inactive, never, nothing.
    fn order(&self, query: &UserQuery, alike: &[&String], backwards: bool) -> String {
        let word = |descending| if descending { "DESC" } else { "ASC" };
        let direction = word(query.descending != backwards);
        let (column, above_zero, otherwise) = match query.sort {
            UserSort::Username => return format!("{} {direction}", self.username),
            UserSort::Status => ("status", Some("1"), "0"),
            UserSort::Expiration => ("expiration_date", None, "9223372036854775807"),
            UserSort::LastLogin => ("last_login", None, "0"),
            UserSort::UsedSize => ("used_quota_size", None, "0"),
            UserSort::UsedFiles => ("used_quota_files", None, "0"),
        };
        let column = self.dialect.identifier(column);
        let above_zero = above_zero.unwrap_or(&column);
        let mut order = format!("CASE WHEN {column} > 0 THEN {above_zero} ELSE {otherwise} END {direction}");
        for alike in alike {
            order = format!("{order}, {alike} {}", word(backwards));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::dialect::SQLITE;

    #[test]
    fn what_is_asked_for_is_bound_and_never_written_into_the_statement() {
        let query = UserQuery {
            text: Some("a'; DROP".into()),
            status: Some(UserStatus::Inactive),
            sort: UserSort::UsedFiles,
            descending: true,
            offset: 90_000,
            limit: 25,
        };
        let search = Search::new(SQLITE, "main.users");
        let (sql, args) = search.page(&query, None);
        assert!(!sql.contains("DROP") && !sql.contains("90000"), "{sql}");
        assert!(sql.contains(r#"AND "status" <= 0 ORDER BY CASE WHEN "used_quota_files" > 0"#), "{sql}");
        assert_eq!(args, ["%a'; DROP%".into(), Value::Int(25), Value::Int(90_000)]);
        let (sql, args) = search.count(&UserQuery { text: Some(String::new()), ..UserQuery::default() });
        assert_eq!((&*sql, args.len()), (r#"SELECT count(*) FROM "main"."users""#, 0));
    }

    #[test]
    fn a_page_near_the_end_is_counted_from_the_end() {
        let search = Search::new(SQLITE, "users");
        let question = |offset, total| {
            let query = UserQuery { sort: UserSort::LastLogin, offset, limit: 10, ..UserQuery::default() };
            let (sql, args) = search.page(&query, total);
            let inner = sql.split(") page JOIN").next().unwrap_or_default();
            (inner.contains("END DESC, \"username\" DESC"), args)
        };
        let numbers = |limit, offset| vec![Value::Int(limit), Value::Int(offset)];
        assert_eq!(question(90, None), (false, numbers(10, 90)));
        assert_eq!(question(50, Some(100)), (false, numbers(10, 50)));
        assert_eq!(question(60, Some(100)), (true, numbers(10, 30)));
        assert_eq!(question(90, Some(100)), (true, numbers(10, 0)));
        assert_eq!(question(95, Some(100)), (true, numbers(5, 0)));
    }

    #[test]
    fn names_are_asked_for_in_batches_of_few_sizes() {
        let search = Search::new(SQLITE, "users");
        for (names, want) in [(0, vec![]), (1, vec![16]), (17, vec![256]), (300, vec![256, 256])] {
            let names: Vec<String> = (0..names).map(|number| format!("user {number}")).collect();
            let questions: Vec<_> = search.named(&names).collect();
            assert_eq!(questions.iter().map(|(_, args)| args.len()).collect::<Vec<_>>(), want);
            for name in &names {
                assert!(questions.iter().any(|(_, args)| args.contains(&name.as_str().into())), "{name}");
            }
        }
    }
}
