//! `tidegate htpasswd`: a line for `httpd.auth_user_file`. The file itself is left to the administrator, and what
//! it may hold to `http`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, anyhow, bail};
use tidegate_core::{Passwords, password};

/// Longer ones no login takes.
const MAX_PASSWORD_BYTES: usize = 1024;

/// Asks for a password, twice on a terminal, and prints `name:hash`.
///
/// # Errors
/// The name or the password cannot be used.
pub(crate) async fn run(name: &str) -> Result<()> {
    tidegate_http::check_user_name(name).map_err(|what| anyhow!(what))?;
    let typed = ask()?;
    if typed.is_empty() {
        bail!("the password is empty");
    }
    if typed.len() > MAX_PASSWORD_BYTES || typed.chars().any(char::is_control) {
        bail!(
            "the password has more than {MAX_PASSWORD_BYTES} bytes or control characters, which no login takes"
        );
    }
    if password::is_hashed(&typed) {
        bail!("the password begins like a hash: give the password itself");
    }
    let hash = Passwords::new(1).hash(typed).await.context("cannot hash the password")?;
    writeln!(std::io::stdout(), "{name}:{hash}").context("cannot write the line")
}

fn ask() -> Result<String> {
    if !std::io::stdin().is_terminal() {
        return read_line();
    }
    let first = ask_unseen("Password: ")?;
    if ask_unseen("Once more: ")? != first {
        bail!("the two passwords are not the same");
    }
    Ok(first)
}

/// The first line of standard input, without its end.
fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(unix)]
fn ask_unseen(prompt: &str) -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let terminal = std::io::stdin();
    eprint!("{prompt}");
    let seen = tcgetattr(&terminal).context("cannot read the modes of the terminal")?;
    let mut unseen = seen.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &unseen).context("cannot hide what is typed")?;
    let line = read_line();
    let shown = tcsetattr(&terminal, OptionalActions::Flush, &seen);
    eprintln!();
    shown.context("cannot show again what is typed")?;
    line
}

#[cfg(not(unix))]
fn ask_unseen(prompt: &str) -> Result<String> {
    eprint!("{prompt}");
    read_line()
}
