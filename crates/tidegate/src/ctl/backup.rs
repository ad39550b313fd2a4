//! `tidegate ctl backup`: all users to a file on the server, and back.

use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;

use super::client::Client;
use super::{Failure, Output, say_answer};

/// How often the server is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Backup {
    /// Save all users, with the hashes of their passwords, to a file on the server
    ///
    /// Only the server's user can read the file. Folders are created, and an older file of that name is replaced
    /// once the new one is complete.
    #[command(after_help = "Example:\n  tidegate ctl backup dump monday/users.json")]
    Dump {
        /// Name of the file, beneath the server's httpd.backups_path
        output_file: String,
    },
    /// Add the users of such a file, or give existing ones its values
    ///
    /// Users who are not in the file stay as they are. On a terminal it is shown how far the server is. A file
    /// in the server's httpd.backups_path may be of any size, another one has 10 MiB at most.
    #[command(
        after_help = "Example:\n  tidegate ctl backup load /var/lib/sftpgo/backups/monday/users.json --scan-quota 2"
    )]
    Load {
        /// Absolute path of the file on the server
        input_file: String,
        /// Whose stored files are counted afterwards: nobody's (0), everybody's (1), those of users with a quota (2)
        #[arg(short = 'Q', long, value_name = "0-2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
        scan_quota: u8,
    },
}

pub(super) async fn run(client: &Client, command: &Backup, output: Output) -> Result<(), Failure> {
    let answer = match command {
        Backup::Dump { output_file } => {
            client.change_patiently(Method::POST, "dumpdata", &[("output_file", output_file)]).await?
        }
        Backup::Load { input_file, scan_quota } => {
            let query = [("input_file", input_file.as_str()), ("scan_quota", &*scan_quota.to_string())];
            let restored = client.change_patiently(Method::POST, "loaddata", &query);
            if std::io::stderr().is_terminal() { watched(client, restored).await? } else { restored.await? }
        }
    };
    say_answer(&answer, output)
}

/// Waits for a restore and shows how far it is.
async fn watched(
    client: &Client,
    restored: impl Future<Output = Result<Value, Failure>>,
) -> Result<Value, Failure> {
    let mut restored = pin!(restored);
    loop {
        tokio::select! {
            answer = &mut restored => {
                eprint!("\r\u{1b}[K");
                return answer;
            }
            () = sleep(INTERVAL) => {}
        }
        // The restore's own answer tells what is wrong.
        if let Ok(progress) = client.get("loaddata/progress", &[]).await
            && let (Some(done), Some(total @ 1..)) = (progress["done"].as_u64(), progress["total"].as_u64())
        {
            eprint!("\r\u{1b}[K{done} of {total} users");
        }
    }
}
