//! Notices that a file was replaced or written: its time, size and inode, compared every two seconds. What is
//! done then is up to its reader (`auth/users.rs`, `tls.rs`).

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often files are looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// Some files, and what they looked like when they were last read.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Look>>,
}

/// What tells one content of a file from another without reading it.
type Look = (Option<SystemTime>, u64, u64);

impl Watched {
    /// Watches `paths`, beginning with what they look like now: call it before reading them.
    pub(crate) fn new(paths: &[&Path]) -> Self {
        let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
        let seen = look(&paths);
        Self { paths, seen }
    }

    /// Whether one of the files has changed since the last time that this was true, or since the beginning.
    pub(crate) fn changed(&mut self) -> bool {
        let now = look(&self.paths);
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

fn look(paths: &[PathBuf]) -> Vec<Option<Look>> {
    let one = |path: &PathBuf| {
        // Links are followed: Kubernetes and certbot replace the link and not the file.
        std::fs::metadata(path).ok().map(|found| (found.modified().ok(), found.len(), inode(&found)))
    };
    paths.iter().map(one).collect()
}

#[cfg(unix)]
fn inode(found: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(found)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_replaced_removed_and_back() {
        let dir = std::env::temp_dir().join(format!("tidegate-watch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "one").unwrap();
        let mut watched = Watched::new(&[&file]);
        assert!(!watched.changed());
        std::fs::write(&file, "longer").unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::write(dir.join("new"), "longes").unwrap();
        std::fs::rename(dir.join("new"), &file).unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::remove_file(&file).unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::write(&file, "longer").unwrap();
        assert!(watched.changed() && !watched.changed());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
