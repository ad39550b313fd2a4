//! `tidegate ctl connections`: who is connected, what moves and how fast.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::table::{Table, duration, size};
use super::{Failure, Output, say, say_answer, table};

#[derive(Debug, Subcommand)]
pub(super) enum Connections {
    /// List connections with what they transfer
    #[command(visible_alias = "ls")]
    List {
        /// Show them again and again, with the speed of every transfer, until interrupted
        ///
        /// As JSON, one list in a line each time.
        #[arg(short = 'w', long)]
        watch: bool,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Close a connection at once
    Close {
        /// Id of the connection, or its beginning if no other has the same
        id: String,
    },
}

pub(super) async fn run(client: &Client, command: &Connections, output: Output) -> Result<(), Failure> {
    match command {
        Connections::List { watch: false, .. } => {
            let connections = client.get("connection", &[]).await?;
            match output {
                Output::Json => say(&table::json(&connections)),
                Output::Table | Output::Csv => say(&listed(&connections, &Speeds::default())),
            }
        }
        Connections::List { watch: true, interval } => {
            watch(client, Duration::from_secs(*interval), output).await
        }
        Connections::Close { id } => {
            let connections = client.get("connection", &[]).await?;
            let id = whole_id(&connections, id)?;
            let answer = client.change(Method::DELETE, &format!("connection/{id}"), &[], None).await?;
            say_answer(&answer, output)
        }
    }
}

fn whole_id(connections: &Value, beginning: &str) -> Result<String, Failure> {
    let ids = connections.as_array().into_iter().flatten().filter_map(|one| one["connection_id"].as_str());
    let mut found = ids.filter(|id| id.starts_with(beginning) && !beginning.is_empty());
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id.to_owned()),
        (Some(_), Some(_)) => {
            Err(Failure::Usage(format!("more than one connection begins with {beginning:?}")))
        }
        (None, _) => Err(Failure::NotFound(format!("there is no connection {beginning:?}"))),
    }
}

async fn watch(client: &Client, interval: Duration, output: Output) -> Result<(), Failure> {
    let mut speeds = Speeds::default();
    loop {
        let connections = client.get("connection", &[]).await?;
        match output {
            Output::Json => say(&format!("{connections}\n"))?,
            Output::Table | Output::Csv => {
                speeds.note(&connections);
                // Home and clear, on a terminal; elsewhere a list after the other.
                let again = if std::io::stdout().is_terminal() { "\u{1b}[H\u{1b}[2J" } else { "" };
                say(&format!("{again}{}\n", listed(&connections, &speeds)))?;
            }
        }
        sleep(interval).await;
    }
}

/// Bytes per second of each transfer, from two looks.
#[derive(Default)]
struct Speeds {
    seen: HashMap<String, (Instant, i64, Option<i64>)>,
}

impl Speeds {
    fn note(&mut self, connections: &Value) {
        let now = Instant::now();
        let mut seen = HashMap::new();
        for connection in connections.as_array().into_iter().flatten() {
            for transfer in connection["active_transfers"].as_array().into_iter().flatten() {
                let (key, bytes) = (key(connection, transfer), transfer["size"].as_i64().unwrap_or_default());
                let speed = self.seen.get(&key).and_then(|(then, before, _)| {
                    let millis = i64::try_from(now.duration_since(*then).as_millis()).ok()?;
                    (bytes - before).checked_mul(1_000)?.checked_div(millis)
                });
                seen.insert(key, (now, bytes, speed));
            }
        }
        self.seen = seen;
    }

    fn of(&self, connection: &Value, transfer: &Value) -> Option<i64> {
        self.seen.get(&key(connection, transfer))?.2
    }
}

fn key(connection: &Value, transfer: &Value) -> String {
    format!(
        "{} {} {} {}",
        connection["connection_id"], transfer["start_time"], transfer["operation_type"], transfer["path"]
    )
}

fn listed(connections: &Value, speeds: &Speeds) -> String {
    let connections = connections.as_array().map(Vec::as_slice).unwrap_or_default();
    if connections.is_empty() {
        return "nobody is connected\n".to_owned();
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let mut table =
        Table::new(&["ID", "USERNAME", "TIME", "FROM", "PROTOCOL", "TRANSFER", "SIZE", "SPEED", "PATH"]);
    for connection in connections {
        let text = |key: &str| connection[key].as_str().unwrap_or_default();
        let id: String = text("connection_id").chars().take(12).collect();
        let since = connection["connection_time"].as_i64().unwrap_or(now);
        let head = [
            id,
            text("username").to_owned(),
            duration(now - since),
            text("remote_address").to_owned(),
            text("protocol").to_owned(),
        ];
        let transfers = connection["active_transfers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if transfers.is_empty() {
            let command = text("ssh_command").trim().to_owned();
            table.row(head.into_iter().chain(["".to_owned(), String::new(), String::new(), command]));
            continue;
        }
        for (index, transfer) in transfers.iter().enumerate() {
            let head = if index == 0 { head.clone() } else { std::array::from_fn(|_| String::new()) };
            let moved = transfer["size"].as_i64().unwrap_or_default();
            let begun = transfer["start_time"].as_i64().unwrap_or(now);
            // The first look knows only the average.
            let average = moved.saturating_mul(1_000).checked_div(now - begun).unwrap_or(0);
            let speed = speeds.of(connection, transfer).unwrap_or(average);
            table.row(head.into_iter().chain([
                transfer["operation_type"].as_str().unwrap_or_default().to_owned(),
                size(moved),
                format!("{}/s", size(speed)),
                transfer["path"].as_str().unwrap_or_default().to_owned(),
            ]));
        }
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_beginning_names_one_connection_or_none() {
        let connections = json!([{"connection_id": "abc1"}, {"connection_id": "abd2"}]);
        assert_eq!(whole_id(&connections, "abc").ok().as_deref(), Some("abc1"));
        assert!(matches!(whole_id(&connections, "ab"), Err(Failure::Usage(_))));
        assert!(matches!(whole_id(&connections, "x"), Err(Failure::NotFound(_))));
        assert!(matches!(whole_id(&connections, ""), Err(Failure::NotFound(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn speed_is_what_came_since_the_last_look() {
        let look = |size: i64| json!([{"connection_id": "a", "active_transfers": [{"operation_type": "upload", "path": "/f", "size": size}]}]);
        let mut speeds = Speeds::default();
        speeds.note(&look(1_000));
        sleep(Duration::from_secs(2)).await;
        let now = look(5_000);
        speeds.note(&now);
        assert_eq!(speeds.of(&now[0], &now[0]["active_transfers"][0]), Some(2_000));
    }
}
