//! The files in the directory of backups, for the page that lists them. Only names, sizes and dates: what is in
//! them is read elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use tidegate_core::UnixMillis;
use tracing::error;

/// Files that are shown, the newest ones.
const MOST_FILES: usize = 200;

/// Entries that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// Directories below the first one.
const DEEPEST: usize = 3;

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupFile {
    /// Relative to the directory, with `/` between its parts.
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) modified: UnixMillis,
}

/// What is in the directory, newest first.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<BackupFile>,
    /// How many more there are.
    pub(crate) hidden: usize,
    /// Why it cannot be read.
    pub(crate) failure: Option<String>,
}

/// Lists `dir`. One that does not exist yet is empty.
pub(crate) async fn list(dir: &Path) -> Listing {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || read(&dir)).await.unwrap_or_default()
}

fn read(dir: &Path) -> Listing {
    let mut files = Vec::new();
    let mut left = MOST_ENTRIES;
    let failure = match walk(dir, "", 0, &mut left, &mut files) {
        Ok(()) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            error!(sender = "httpd", "backups in {} cannot be listed: {error}", dir.display());
            Some(error.kind().to_string())
        }
    };
    files.sort_by(|one, other| (other.modified, &one.name).cmp(&(one.modified, &other.name)));
    let hidden = files.len().saturating_sub(MOST_FILES);
    files.truncate(MOST_FILES);
    Listing { files, hidden, failure }
}

/// Links are left alone, and so are names that begin with a dot, as those of unfinished backups do.
fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    left: &mut usize,
    files: &mut Vec<BackupFile>,
) -> io::Result<()> {
    let mut dirs: Vec<(PathBuf, String)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let Ok(entry) = entry else { continue };
        let Ok(name) = entry.file_name().into_string() else { continue };
        // What is removed while one looks is not there.
        let Ok(found) = entry.metadata() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if found.is_dir() && depth < DEEPEST {
            dirs.push((entry.path(), name));
        } else if found.is_file() {
            let since = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let modified = since.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0);
            files.push(BackupFile { name, size_bytes: found.len(), modified });
        }
    }
    for (path, name) in dirs {
        // One that cannot be read does not hide the others.
        if let Err(error) = walk(&path, &name, depth + 1, left, files) {
            error!(sender = "httpd", "backups in {} cannot be listed: {error}", path.display());
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn files_newest_first_without_links_and_unfinished_ones() {
        let dir = std::env::temp_dir().join(format!("tidegate-backup-files-{}", std::process::id()));
        assert!(read(&dir).files.is_empty() && read(&dir).failure.is_none(), "not there is empty");
        fs::create_dir_all(dir.join("a/b/c/d")).unwrap();
        let start = SystemTime::now() - Duration::from_secs(1000);
        for (age, name) in ["old.json", "a/b/c/new.json", "a/b/c/d/too-deep", ".hidden"].iter().enumerate() {
            let file = fs::File::create(dir.join(name)).unwrap();
            file.set_modified(start + Duration::from_secs(age as u64)).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
        let names: Vec<_> = read(&dir).files.into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["a/b/c/new.json", "old.json"]);
        fs::remove_dir_all(&dir).unwrap();
        fs::write(&dir, "").unwrap();
        assert!(read(&dir).failure.is_some());
        fs::remove_file(&dir).unwrap();
    }
}
