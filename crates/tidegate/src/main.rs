//! Tidegate, a self-hosted SFTP server: arguments → command → exit code.
//!
//! What belongs to the process as a whole is set here: allocator, log, panic hook, umask, signals.

mod advertise;
mod cli;
mod config;
#[cfg(target_os = "linux")]
mod confine;
#[cfg(not(target_os = "linux"))]
#[path = "confine/elsewhere.rs"]
mod confine;
mod convert_users;
mod ctl;
mod hooks;
mod htpasswd;
mod log;
mod portable;
mod serve;
mod signals;
mod version;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::cli::{Cli, Command, PortableArgs, ServeArgs, ServeOptions};
use crate::config::{Config, Env};
use crate::log::LogHandle;
use crate::signals::HangUp;
use crate::version::VERSION;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Not a command for people, and it must not start anything that it would have to take along.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == confine::COMMAND) {
        return confine::main(arguments);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no failure; everything else exits with 1, as every other failure to start.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {}", whole(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, without those that its text tells already.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: Cli) -> Result<ExitCode> {
    if cli.version {
        println!("Tidegate version: {VERSION}");
        return Ok(ExitCode::SUCCESS);
    }
    match cli.command {
        None => Cli::command().print_long_help().context("cannot print the help")?,
        Some(Command::Serve(args)) => return serve(args),
        Some(Command::Portable(args)) => portable(args)?,
        Some(Command::ConvertUsers(args)) => convert_users::run(&args)?,
        Some(Command::Htpasswd { name }) => block_on(async move { htpasswd::run(&name).await })?,
        Some(Command::Ctl(args)) => return Ok(ctl::run(&args)),
        Some(Command::Completions { shell }) => cli::completions(shell, &mut std::io::stdout()),
        Some(Command::Man { page }) => cli::man(page, &mut std::io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(args: ServeArgs) -> Result<ExitCode> {
    let env = environment();
    let options = args.settle(&|name| env.get(name).cloned())?;
    let log = log::init(&log::Settings::serve(&options))?;
    install_panic_hook();
    info!(console = true, "starting Tidegate {VERSION}, config dir: {:?}", options.config_dir);
    let outcome = configure_and_serve(&options, &env, log.handle());
    if let Err(error) = &outcome {
        error!("{}", whole(error));
        if options.log_file_path.as_os_str().is_empty() {
            // Standard error is the log, and one message is enough.
            return Ok(ExitCode::FAILURE);
        }
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

fn configure_and_serve(options: &ServeOptions, env: &Env, log: LogHandle) -> Result<()> {
    let config = Config::load(&options.config_dir, &options.config_file, env)?;
    match &config.file {
        Some(file) => info!(target: "tidegate::config", "configuration read from {}", file.display()),
        None => info!(target: "tidegate::config", "no configuration file found, the defaults apply"),
    }
    for warning in &config.warnings {
        warn!(target: "tidegate::config", console = true, "{warning}");
    }
    debug!(target: "tidegate::config", "effective configuration: {}", config.shown);
    set_umask(config.sftpd.umask);
    block_on(async move {
        let shutdown = CancellationToken::new();
        signals::watch(shutdown.clone(), log, HangUp::ReopensLog).context("cannot watch for signals")?;
        serve::run(config, options.config_dir.join(serve::MARKS_DIR), shutdown).await
    })
}

fn portable(args: PortableArgs) -> Result<()> {
    let log = log::init(&log::Settings::portable(args.log_file_path.clone()))?;
    install_panic_hook();
    set_umask(tidegate_ssh::config::Settings::default().umask);
    let handle = log.handle();
    block_on(async move {
        let shutdown = CancellationToken::new();
        signals::watch(shutdown.clone(), handle, HangUp::Stops).context("cannot watch for signals")?;
        portable::run(args, shutdown).await
    })
}

/// The variables that may concern us. A name that is not UTF-8 is none of ours.
fn environment() -> Env {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// A panic ends one task; the log says where it came from.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        error!(console = true, "defect in thread {name}: {panic}");
    }));
}

#[cfg(unix)]
fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask as _));
}

#[cfg(not(unix))]
fn set_umask(_: u32) {}
