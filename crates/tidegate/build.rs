//! Embeds the commit and the build date, without dependencies and without rebuilding on every compile.
//!
//! `TIDEGATE_COMMIT` and `TIDEGATE_BUILD_DATE` replace what is found here, even when empty;
//! `SOURCE_DATE_EPOCH` makes the date reproducible. No git, or a tree that is no repository: no commit.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    for variable in ["TIDEGATE_COMMIT", "TIDEGATE_BUILD_DATE", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let commit = std::env::var("TIDEGATE_COMMIT").ok().or_else(commit).unwrap_or_default();
    let date = std::env::var("TIDEGATE_BUILD_DATE").unwrap_or_else(|_| build_date());
    println!("cargo::rustc-env=TIDEGATE_COMMIT={}", commit.trim());
    println!("cargo::rustc-env=TIDEGATE_BUILD_DATE={}", date.trim());
}

/// The commit, only if the repository found is this project's own and not one that merely contains it.
fn commit() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().ok()?;
    if Path::new(&top).canonicalize().ok()? != workspace {
        return None;
    }
    // The reflog grows with every commit, checkout and merge; HEAD itself often stays the same.
    for name in ["logs/HEAD", "HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
            break;
        }
    }
    git(&["describe", "--always", "--dirty"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn build_date() -> String {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    iso_utc(given.unwrap_or_else(now))
}

/// Seconds since 1970 as `YYYY-MM-DDTHH:MM:SSZ`.
fn iso_utc(seconds: u64) -> String {
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, days + 1)
}
