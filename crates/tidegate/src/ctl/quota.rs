//! `tidegate ctl quota`: counting again what users have stored.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::client::Client;
use super::table::{Table, clean, duration, size};
use super::{Failure, Output, say, say_answer, table};

/// Between two looks at a scan.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Quota {
    /// List the scans that run, with what they have counted so far
    #[command(visible_alias = "ls")]
    Scans {
        /// Show them again and again, until none runs any more
        #[arg(short = 'w', long)]
        watch: bool,
    },
    /// Count what a user has stored
    ///
    /// The server walks through the home directory in the background; uploads go on, and the result is right even
    /// if files move meanwhile.
    Scan {
        /// Name of the user
        username: String,
        /// Wait for the end, and show the result
        #[arg(short = 'w', long)]
        wait: bool,
    },
}

pub(super) async fn run(client: &Client, command: &Quota, output: Output) -> Result<(), Failure> {
    match command {
        Quota::Scans { watch } => loop {
            let scans = client.get("quota_scan", &[]).await?;
            let none = scans.as_array().is_none_or(Vec::is_empty);
            match output {
                Output::Json => say(&table::json(&scans))?,
                Output::Table | Output::Csv => say(&listed(&scans))?,
            }
            if !*watch || none {
                return Ok(());
            }
            sleep(INTERVAL).await;
        },
        Quota::Scan { username, wait } => {
            let answer =
                client.change(Method::POST, "quota_scan", &[], Some(&json!({"username": username}))).await?;
            if !*wait {
                return say_answer(&answer, output);
            }
            wait_for(client, username).await?;
            let users = client.get("user", &[("limit", "1"), ("username", username)]).await?;
            let user = users.get(0).cloned().unwrap_or_default();
            let number = |key: &str| user[key].as_i64().unwrap_or_default();
            match output {
                Output::Json => say(&table::json(&user)),
                Output::Table | Output::Csv => say(&format!(
                    "{}: {} files, {}\n",
                    clean(username),
                    number("used_quota_files"),
                    size(number("used_quota_size"))
                )),
            }
        }
    }
}

async fn wait_for(client: &Client, username: &str) -> Result<(), Failure> {
    let shows = std::io::stderr().is_terminal();
    loop {
        let scans = client.get("quota_scan", &[]).await?;
        let mut running = scans.as_array().into_iter().flatten();
        let Some(scan) = running.find(|scan| scan["username"] == username) else { break };
        if shows {
            eprint!("\r\u{1b}[K{}", progress(scan));
        }
        sleep(INTERVAL / 4).await;
    }
    if shows {
        eprint!("\r\u{1b}[K");
    }
    Ok(())
}

fn progress(scan: &Value) -> String {
    let number = |key: &str| scan[key].as_i64().unwrap_or_default();
    format!("{} files, {} so far", number("scanned_files"), size(number("scanned_size")))
}

fn listed(scans: &Value) -> String {
    let scans = scans.as_array().map(Vec::as_slice).unwrap_or_default();
    if scans.is_empty() {
        return "no scan runs\n".to_owned();
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let mut table = Table::new(&["USERNAME", "TIME", "FOUND"]);
    for scan in scans {
        let since = scan["start_time"].as_i64().unwrap_or(now);
        let name = scan["username"].as_str().unwrap_or_default().to_owned();
        table.row([name, duration(now - since), progress(scan)]);
    }
    table.text()
}
