//! `tidegate ctl backup`: all users to a file on the server, and back.

use clap::Subcommand;
use reqwest::Method;

use super::client::Client;
use super::{Failure, Output, say_answer};

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
    /// Users who are not in the file stay as they are.
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
            client.change(Method::POST, "dumpdata", &[("output_file", output_file)], None).await?
        }
        Backup::Load { input_file, scan_quota } => {
            let query = [("input_file", input_file.as_str()), ("scan_quota", &*scan_quota.to_string())];
            client.change(Method::POST, "loaddata", &query, None).await?
        }
    };
    say_answer(&answer, output)
}
