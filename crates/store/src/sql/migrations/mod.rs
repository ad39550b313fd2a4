//! Which version of the schema a table has, told by its columns (data model §2).
//!
//! The scripts are those of `sql/<engine>/`, named by date, which an administrator may apply by hand as well. No
//! table of versions is kept: the reference has none, and would not update it.

#[cfg(feature = "tls")]
pub(super) mod server;
pub(super) mod sqlite;

/// The columns that each script adds, by the script's name.
const ADDED: [(&str, &[&str]); 3] = [
    (
        "20190828",
        &[
            "id",
            "username",
            "password",
            "public_keys",
            "home_dir",
            "uid",
            "gid",
            "max_sessions",
            "quota_size",
            "quota_files",
            "permissions",
            "used_quota_size",
            "used_quota_files",
            "last_quota_update",
            "upload_bandwidth",
            "download_bandwidth",
        ],
    ),
    ("20191112", &["expiration_date", "last_login", "status"]),
    ("20191230", &["filters"]),
];

/// How many scripts were applied to a table with these columns.
///
/// # Errors
/// What is wrong with a table that has neither the columns of the first script nor those of a later one.
fn applied(columns: &[String]) -> Result<usize, String> {
    let has = |name: &&str| columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    let mut known = 0;
    for (count, (_, added)) in ADDED.iter().enumerate() {
        known += added.len();
        if columns.len() == known && ADDED[..=count].iter().flat_map(|(_, names)| *names).all(has) {
            return Ok(count + 1);
        }
    }
    let ours = || ADDED.iter().flat_map(|(_, names)| *names);
    let missing: Vec<_> = ours().filter(|name| !has(name)).copied().collect();
    let foreign = |column: &&String| !ours().any(|name| column.eq_ignore_ascii_case(name));
    let foreign: Vec<_> = columns.iter().filter(foreign).map(String::as_str).collect();
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(format!(
        "has a schema that is not known, so it is left alone (missing columns: {}; unknown columns: {})",
        list(&missing),
        list(&foreign)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_columns() {
        let mut columns: Vec<String> = Vec::new();
        for (count, (_, added)) in ADDED.iter().enumerate() {
            columns.extend(added.iter().map(|name| name.to_uppercase()));
            columns.reverse();
            assert_eq!(applied(&columns), Ok(count + 1));
        }
        let mut newer = columns.clone();
        newer.push("filesystem".into());
        assert!(applied(&newer).unwrap_err().contains("unknown columns: filesystem"));
        columns.retain(|name| name != "GID");
        assert!(applied(&columns).unwrap_err().contains("missing columns: gid"));
        assert!(applied(&[]).is_err());
    }
}
