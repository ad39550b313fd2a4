//! `tidegate ctl`: an administrator's client of the REST API. It knows the API and nothing else of the server,
//! so it also manages one on another machine. `docs/ctl.md` has a transcript of every command.
//!
//! Here are the commands and what their exit codes mean; `client.rs` talks to the server, `table.rs` writes for
//! people, and each group of commands has a module.

mod backup;
mod client;
mod connections;
mod netrc;
mod quota;
mod status;
mod table;
mod users;
mod values;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use self::client::Client;

const EXIT_CODES: &str = "Exit codes:\n  0  done\n  1  the command line is wrong, or the server refused\n  \
                          3  there is no such user, connection or file\n  4  name or password are wrong, or missing\n  \
                          5  the server does not answer\n\n\
                          Examples:\n  tidegate ctl users add ann --home-dir /srv/ann --permissions '*'\n  \
                          tidegate ctl connections list --watch\n  \
                          TIDEGATE_PASSWORD=secret tidegate ctl --url https://files.example.org:8080 --user admin status";

/// Flags of `ctl`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CtlArgs {
    /// Where the server's REST API is
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TIDEGATE_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,

    /// Name of the administrator, if the server wants one
    ///
    /// Without it, ~/.netrc (or --netrc) is asked for name and password of the server's host.
    #[arg(long, global = true, value_name = "NAME", env = "TIDEGATE_USER")]
    user: Option<String>,

    /// File whose first line is the administrator's password
    ///
    /// The variable TIDEGATE_PASSWORD does the same. There is no flag for the password itself, because other users
    /// of the machine could read it.
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// File with names and passwords, in the format of .netrc
    ///
    /// Lines such as: machine files.example.org login admin password secret [default: ~/.netrc]
    #[arg(long, global = true, value_name = "FILE", env = "NETRC")]
    netrc: Option<PathBuf>,

    /// PEM file of a certificate authority to trust besides those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// How to write what the server answers
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    #[command(subcommand)]
    command: Group,
}

/// How to write an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// As the API answers, indented
    Json,
    /// Comma separated values, of `users list` only
    Csv,
}

#[derive(Debug, Subcommand)]
enum Group {
    /// List, show, add, change and delete users
    #[command(subcommand)]
    Users(users::Users),
    /// List and close connections
    #[command(subcommand)]
    Connections(connections::Connections),
    /// Count again what users have stored
    #[command(subcommand)]
    Quota(quota::Quota),
    /// Save all users to a file on the server, and restore them
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Whether the server and its data provider work
    Status,
    /// Which version the server has
    Version,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What the user gave cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The server refused.
    #[error("{0}")]
    Refused(String),
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// The server does not know the administrator.
    #[error("{0}")]
    NotAllowedIn(String),
    /// The server cannot be reached, or answers something else than its API.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Refused(_) => 1,
            Self::NotFound(_) => 3,
            Self::NotAllowedIn(_) => 4,
            Self::Unreachable(_) => 5,
        }
    }
}

/// Runs one command; what fails is told on standard error.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidegate: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

async fn dispatch(args: &CtlArgs) -> Result<(), Failure> {
    let client = Client::new(args, Duration::from_secs(args.timeout))?;
    let output = args.output;
    if output == Output::Csv && !matches!(args.command, Group::Users(users::Users::List { .. })) {
        return Err(Failure::Usage("only users list can be written as comma separated values".to_owned()));
    }
    match &args.command {
        Group::Users(command) => users::run(&client, command, output).await,
        Group::Connections(command) => connections::run(&client, command, output).await,
        Group::Quota(command) => quota::run(&client, command, output).await,
        Group::Backup(command) => backup::run(&client, command, output).await,
        Group::Status => status::status(&client, output).await,
        Group::Version => status::version(&client, output).await,
    }
}

/// Writes to standard output. A reader that has had enough, such as `head`, is no failure.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Refused(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes an answer as the API gave it, or what the server says about a change.
fn say_answer(answer: &Value, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => say(&table::json(answer)),
        Output::Table | Output::Csv => {
            say(&format!("{}\n", table::clean(answer["message"].as_str().unwrap_or("done"))))
        }
    }
}
