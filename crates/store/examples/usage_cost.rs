//! Measures what a SQLite file costs: `cargo run -p tidegate-store --example usage_cost -- FILE`.
//!
//! FILE is created if it is missing, else kept as it is. One account is added for the measurement and removed.

use std::path::Path;
use std::time::Instant;

use tidegate_core::{UsageDelta, UserDraft};
use tidegate_store::config::DataProvider;

const CALLS: u32 = 2000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: usage_cost FILE")?;
    let settings = DataProvider { name, ..DataProvider::default() }.validate(Path::new("."))?;
    let store = tidegate_store::open(&settings).await?;
    let draft = UserDraft {
        status: 1,
        username: "usage cost".into(),
        password: "x".into(),
        home_dir: "/tmp".into(),
        permissions: [("/".to_owned(), vec!["*".to_owned()])].into(),
        ..UserDraft::default()
    };
    let user = draft.validate(None)?;
    let id = store.insert(&user).await?;
    let started = Instant::now();
    for at in 0..i64::from(CALLS) {
        store.add_usage(&user.username, UsageDelta { size_bytes: 4096, files: 1 }, at).await?;
    }
    let written = started.elapsed();
    let started = Instant::now();
    for _ in 0..CALLS {
        store.user(&user.username).await?;
    }
    let read = started.elapsed();
    store.delete(id).await?;
    println!("usage update: {:?} each, {written:?} for {CALLS}", written / CALLS);
    println!("user by name: {:?} each, {read:?} for {CALLS}", read / CALLS);
    Ok(())
}
