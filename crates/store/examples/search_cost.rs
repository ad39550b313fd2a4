//! Measures how long lists and searches take: `cargo run -p tidegate-store --example search_cost -- DRIVER DATABASE`,
//! where DATABASE is a file for `sqlite` and `bolt`, and a connection string for `postgresql` and `mysql`.
//!
//! Nothing is written. `scripts/bench-users` makes databases that are worth measuring.

use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_core::{UserQuery, UserSort, UserStatus};
use tidegate_store::config::{DataProvider, Secret};

const CALLS: u32 = 15;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: search_cost DRIVER DATABASE";
    let driver = std::env::args().nth(1).ok_or(USAGE)?;
    let database = std::env::args().nth(2).ok_or(USAGE)?;
    let mut section = DataProvider { driver, manage_users: 0, ..DataProvider::default() };
    match section.driver.as_str() {
        "sqlite" | "bolt" => section.name = database,
        _ => section.connection_string = Secret::new(database),
    }
    let store = tidegate_store::open(&section.validate(Path::new("."))?).await?;
    let all = UserQuery { limit: 100, ..UserQuery::default() };
    let with = |change: fn(&mut UserQuery)| {
        let mut query = all.clone();
        change(&mut query);
        query
    };
    let last = u32::try_from(store.search(&all).await?.total.saturating_sub(100))?;
    for (name, query) in [
        ("the first page", all.clone()),
        ("the last page", UserQuery { offset: last, ..all.clone() }),
        ("the last page, descending", UserQuery { offset: last, descending: true, ..all.clone() }),
        ("a text that few names have", with(|query| query.text = Some("0777".into()))),
        ("a text that all names have", with(|query| query.text = Some("USER".into()))),
        ("a text that no name has", with(|query| query.text = Some("zebra".into()))),
        ("those who are inactive", with(|query| query.status = Some(UserStatus::Inactive))),
        ("by last login", with(|query| (query.sort, query.descending) = (UserSort::LastLogin, true))),
        ("by size, the last page", UserQuery { sort: UserSort::UsedSize, offset: last, ..all.clone() }),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        let mut total = 0;
        for _ in 0..CALLS {
            let started = Instant::now();
            total = store.search(&query).await?.total;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        println!("{name:28} {total:7} found {:8.1} ms", median.as_secs_f64() * 1000.0);
    }
    Ok(())
}
