//! Tidegate, a self-hosted SFTP server: arguments → command → exit code.

mod cli;
mod config;
mod version;

use clap::Parser as _;

fn main() {
    let cli = cli::Cli::parse();
    println!("{cli:?} {}", version::VERSION);
}
