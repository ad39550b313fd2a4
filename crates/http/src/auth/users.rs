//! The users of `httpd.auth_user_file`: read at the start and again when the file changes, and the check of
//! their passwords. The form of the file is `htpasswd.rs`'s, the cost of a check core's.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use aws_lc_rs::rand::SystemRandom;
use tidegate_core::{Passwords, password};
use tokio::time::Instant;
use tracing::{error, info};

use super::basic::Credentials;
use super::htpasswd;
use crate::watch::Watched;

/// How long a password that was right need not be hashed again. Programs send theirs with every request.
const REMEMBERED_FOR: Duration = Duration::from_secs(5 * 60);

/// Right passwords that are remembered.
const MAX_REMEMBERED: usize = 256;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("httpd.auth_user_file {}: {what}", path.display())]
pub struct UserFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, with the line.
    pub what: String,
}

/// A password that is right.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The stored hash that it fits.
    pub(crate) hash: String,
    /// Whether it had to be computed, and was not still remembered.
    pub(crate) is_new: bool,
}

type Table = Arc<BTreeMap<String, String>>;

/// The users of the file.
pub(crate) struct Users {
    path: PathBuf,
    table: RwLock<Table>,
    watched: Mutex<Watched>,
    passwords: Passwords,
    remembered: Remembered,
}

impl Users {
    /// Reads the file.
    ///
    /// # Errors
    /// [`UserFileError`] that names the file and the line.
    pub(crate) fn load(path: &Path) -> Result<Self, UserFileError> {
        let watched = Watched::new(&[path]);
        let table = read(path)?;
        let remembered = Remembered::new().map_err(|_| UserFileError {
            path: path.to_owned(),
            what: "no randomness for a key".to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            table: RwLock::new(Arc::new(table)),
            watched: Mutex::new(watched),
            // Apart from those of SSH: neither door can keep the other one busy.
            passwords: Passwords::new(1),
            remembered,
        })
    }

    /// Reads the file again if it has changed; whether it was taken over. What cannot be used changes nothing
    /// and is logged.
    pub(crate) fn reload(&self) -> bool {
        if !self.watched.lock().unwrap_or_else(PoisonError::into_inner).changed() {
            return false;
        }
        match read(&self.path) {
            Ok(table) => {
                info!(sender = "httpd", "{} administrators read from {}", table.len(), self.path.display());
                *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
                true
            }
            Err(error) => {
                error!(sender = "httpd", console = true, "the administrators stay as they were: {error}");
                false
            }
        }
    }

    /// The stored hash of a user.
    pub(crate) fn hash(&self, name: &str) -> Option<String> {
        self.table().get(name).cloned()
    }

    /// Checks a password. An unknown name costs as much as a known one.
    pub(crate) async fn check(&self, credentials: &Credentials) -> Option<Checked> {
        let table = self.table();
        let Some(hash) = table.get(&credentials.name) else {
            // All hashes of a file tend to be of one kind and price.
            if let Some(any) = table.values().next() {
                let _never_right = self.passwords.verify(&credentials.password, any).await;
            }
            return None;
        };
        if self.remembered.contains(credentials, hash) {
            return Some(Checked { hash: hash.clone(), is_new: false });
        }
        self.passwords.verify(&credentials.password, hash).await.ok()?;
        self.remembered.insert(credentials, hash);
        Some(Checked { hash: hash.clone(), is_new: true })
    }

    fn table(&self) -> Table {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, UserFileError> {
    let failed = |what: String| UserFileError { path: path.to_owned(), what };
    let found = std::fs::metadata(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    if !found.is_file() || found.len() > htpasswd::MAX_FILE_BYTES as u64 {
        return Err(failed(format!("it is not a file of at most {} bytes", htpasswd::MAX_FILE_BYTES)));
    }
    let text = std::fs::read(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let check = |hash: &str| password::check_form(hash).map_err(|error| error.to_string());
    htpasswd::parse(&text, check).map_err(failed)
}

/// Right passwords of the last minutes, as keyed digests together with the stored hash: another hash in the
/// file makes another digest, so nothing needs to be forgotten when the file changes.
struct Remembered {
    key: Key,
    until: Mutex<HashMap<Vec<u8>, Instant>>,
}

impl Remembered {
    fn new() -> Result<Self, Unspecified> {
        Ok(Self { key: Key::generate(HMAC_SHA256, &SystemRandom::new())?, until: Mutex::default() })
    }

    fn contains(&self, credentials: &Credentials, hash: &str) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(&self.digest(credentials, hash)).is_some_and(|until| Instant::now() < *until)
    }

    fn insert(&self, credentials: &Credentials, hash: &str) {
        let now = Instant::now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= MAX_REMEMBERED {
            until.retain(|_, until| now < *until);
        }
        if until.len() < MAX_REMEMBERED {
            until.insert(self.digest(credentials, hash), now + REMEMBERED_FOR);
        }
    }

    fn digest(&self, credentials: &Credentials, hash: &str) -> Vec<u8> {
        // Neither a name nor a hash of the file holds a line feed.
        let text = format!("{hash}\n{}\n{}", credentials.name, credentials.password);
        sign(&self.key, text.as_bytes()).as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `secret`, as SHA-crypt with few rounds.
    const SECRET: &str = "$6$459ead56b72e44bc$uog86fUxscjt28BZxqFBE2pp2QD8P/1e98MNF75Z9xJfQvOckZnQ/1YJqiq1XeytPuDieHZvDAMoP7352ELkO1";

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.to_owned() }
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tidegate-users-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_password_is_remembered_for_five_minutes_and_for_its_hash_only() {
        let remembered = Remembered::new().unwrap();
        let anna = credentials("anna", "secret");
        remembered.insert(&anna, "hash");
        assert!(remembered.contains(&anna, "hash"));
        assert!(!remembered.contains(&anna, "another hash"));
        assert!(!remembered.contains(&credentials("anna", "secret2"), "hash"));
        assert!(!remembered.contains(&credentials("ann", "asecret"), "hash"));
        tokio::time::advance(REMEMBERED_FOR).await;
        assert!(!remembered.contains(&anna, "hash"));
        for n in 0..2 * MAX_REMEMBERED {
            remembered.insert(&credentials("anna", &n.to_string()), "hash");
        }
        assert_eq!(remembered.until.lock().unwrap().len(), MAX_REMEMBERED);
    }

    #[tokio::test]
    async fn a_file_that_changes() {
        let path = file("change", &format!("anna:{SECRET}\n"));
        let users = Users::load(&path).unwrap();
        assert!(!users.reload());
        std::fs::write(&path, format!("anna:{SECRET}\nbjörn:{SECRET}\n")).unwrap();
        assert!(users.reload() && users.hash("björn").is_some());
        std::fs::write(&path, "anna:clear\n").unwrap();
        assert!(!users.reload(), "a file that cannot be used");
        assert!(users.hash("anna").is_some() && users.hash("björn").is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(!users.reload() && users.hash("anna").is_some(), "a file that is gone");
        std::fs::write(&path, format!("björn:{SECRET}\n")).unwrap();
        assert!(users.reload() && users.hash("anna").is_none());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_line() {
        let path = file("bad", "anna:$6$damaged");
        let error = Users::load(&path).err().unwrap().to_string();
        assert!(
            error.contains(&path.display().to_string()) && error.contains("line 1, user \"anna\""),
            "{error}"
        );
        assert!(error.starts_with("httpd.auth_user_file ") && !error.contains("$6$"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(Users::load(&path).is_err(), "no file");
        assert!(Users::load(&std::env::temp_dir()).is_err(), "a directory");
    }
}
