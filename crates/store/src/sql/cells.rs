//! Values on their way into statements and out of rows: what is the same for every engine. Which of its types stand
//! for what, each engine knows itself.

use std::sync::Arc;

use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ColumnIndex, Database, Decode, Encode, Error, Row, Type, TypeInfo, ValueRef};

use crate::record::Value;

/// A statement with its parameters, in the order of their placeholders.
pub(super) fn bind<DB>(sql: &Arc<str>, args: Vec<Value>) -> Query<'static, DB, DB::Arguments>
where
    DB: Database,
    i64: Encode<'static, DB> + Type<DB>,
    String: Encode<'static, DB> + Type<DB>,
    Option<String>: Encode<'static, DB> + Type<DB>,
{
    let query = sqlx::query(AssertSqlSafe(Arc::clone(sql)));
    args.into_iter().fold(query, |query, arg| match arg {
        Value::Null | Value::Other(_) => query.bind(None::<String>),
        Value::Int(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
    })
}

/// The cells of a row. `read` is given those that are not `NULL`, with the name of their type; what it knows
/// nothing of it leaves.
pub(super) fn cells<R>(
    row: &R,
    read: fn(&R, usize, &str) -> Option<Result<Value, Error>>,
) -> Result<Vec<Value>, Error>
where
    R: Row,
    usize: ColumnIndex<R>,
{
    (0..row.len())
        .map(|index| {
            let raw = row.try_get_raw(index)?;
            if raw.is_null() {
                return Ok(Value::Null);
            }
            let kind = raw.type_info().name().to_owned();
            read(row, index, &kind).unwrap_or(Ok(Value::Other(kind)))
        })
        .collect()
}

/// A text that the engine may have as bytes.
pub(super) fn utf8<'r, R>(row: &'r R, index: usize, kind: &str) -> Result<Value, Error>
where
    R: Row,
    usize: ColumnIndex<R>,
    Vec<u8>: Decode<'r, R::Database>,
{
    let bytes: Vec<u8> = row.try_get_unchecked(index)?;
    let text = String::from_utf8(bytes);
    Ok(text.map_or_else(|_| Value::Other(format!("{kind} that is not UTF-8")), Value::Text))
}
