//! Passwords: what a stored one looks like, and how one is checked (data model §5).
//!
//! Checking costs 64 MiB and tens of milliseconds on purpose, so it runs on the blocking pool under a
//! bounded number of permits: a flood of logins waits, it does not exhaust memory or starve transfers.

mod argon2id;

use std::sync::Arc;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Prefixes by which a text is known to be a hash rather than a password.
const HASH_PREFIXES: [&str; 9] = [
    "$argon2id$",
    "$2a$",
    "$2b$",
    "$2y$",
    "$pbkdf2-sha1$",
    "$pbkdf2-sha256$",
    "$pbkdf2-sha512$",
    "$1$",
    "$6$",
];

/// Why a password could not be checked or hashed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// The password does not match.
    #[error("Invalid credentials")]
    Mismatch,
    /// The stored text is not a hash of a known form.
    #[error("stored password has an unknown or damaged format")]
    Unknown,
    /// The stored parameters would cost more memory or time than any login may.
    #[error("stored password has excessive parameters")]
    Excessive,
    /// The operating system refused randomness or memory.
    #[error("password hashing failed")]
    Failed,
}

/// Whether `text` begins like a hash; such a text is stored as it is.
pub fn is_hashed(text: &str) -> bool {
    HASH_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Hashes and checks passwords, a bounded number at a time.
#[derive(Debug, Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
}

impl Passwords {
    /// Allows `at_once` computations at a time; each may take 64 MiB.
    pub fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once.max(1))) }
    }

    /// Checks `password` against what is stored.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Mismatch`], or what is wrong with the stored text.
    pub async fn verify(&self, password: &str, stored: &str) -> Result<(), PasswordError> {
        let (password, stored) = (Zeroizing::new(password.to_owned()), stored.to_owned());
        self.run(move || {
            if stored.starts_with("$argon2id$") {
                argon2id::verify(&password, &stored)
            } else {
                // Costs what a check costs, so that accounts of this kind cannot be told by time.
                argon2id::verify(&password, argon2id::DUMMY)?;
                Err(PasswordError::Unknown)
            }
        })
        .await
    }

    /// Spends the time of a check without one: what an unknown user costs.
    pub async fn waste(&self, password: &str) {
        let _mismatch = self.verify(password, argon2id::DUMMY).await;
    }

    /// Makes an argon2id hash; a text that already is a hash is returned as it is.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Failed`] if the system gives no randomness or memory.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        if password.is_empty() || is_hashed(&password) {
            return Ok(password);
        }
        let password = Zeroizing::new(password);
        self.run(move || argon2id::hash(&password)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| PasswordError::Failed)?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .map_err(|_| PasswordError::Failed)?
    }
}
