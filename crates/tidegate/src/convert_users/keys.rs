//! The keys in an account's `.ssh/authorized_keys`.
//!
//! The file is the account's own, and this runs as root: it is read only if it is an ordinary file and no
//! link, and nothing of it is shown.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use tidegate_core::PublicKeyLine;

const MAX_FILE_BYTES: u64 = 1 << 20;
const KEY_TYPES: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

/// The keys below `home`, and what was left out of them.
pub(super) fn of(home: &Path) -> (Vec<String>, Vec<String>) {
    let path = home.join(".ssh/authorized_keys");
    match read(&path) {
        Ok(text) => select(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), Vec::new()),
        Err(error) => (Vec::new(), vec![format!("its keys are left out: cannot read {path:?}: {error}")]),
    }
}

/// The lines that are keys without options, each key once.
pub(super) fn select(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut remarks): (Vec<String>, Vec<String>) = Default::default();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if PublicKeyLine::parse(line).is_none() {
            remarks.push(format!("line {number} of its authorized keys is no key that can be used"));
            continue;
        }
        let plain = KEY_TYPES.iter().any(|kind| line.starts_with(kind));
        let only_untouched = line.starts_with("no-touch-required ");
        if !plain && !only_untouched {
            remarks.push(format!("line {number} of its authorized keys has options and is left out"));
            continue;
        }
        if !keys.iter().any(|key| key == line) {
            keys.push(line.to_owned());
        }
    }
    (keys, remarks)
}

fn read(path: &Path) -> std::io::Result<String> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not an ordinary file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(unix)]
fn open(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    // Without waiting, or a named pipe in its place would keep us for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}
