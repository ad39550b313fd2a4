//! Passwords: what a stored one looks like, and how one is checked (data model §5).
//!
//! Checking costs up to tens of milliseconds and 64 MiB on purpose, so it runs on the blocking pool under a
//! bounded number of permits, of which a hash that wants more memory takes more: a flood of logins waits, it
//! does not exhaust memory or starve transfers.
//!
//! Names cannot be found out by time: an unknown one costs an argon2id of our own parameters, and a check
//! that fails sooner than that, because the account's hash is of a cheaper kind, is filled up with argon2id
//! to the same price. A hash that is dearer than our own (bcrypt with cost 14) takes longer to refuse than
//! an unknown name; only a new password for the account changes that.

mod argon2id;
mod bcrypt;
mod crypt64;
mod md5crypt;
mod pbkdf2;
mod scheme;
mod sha_crypt;
mod yescrypt;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Longer passwords match nothing, so that their length cannot be used to keep a processor busy. An account
/// cannot be given one of this length; OpenSSH sets the same bound.
const MAX_PASSWORD_BYTES: usize = 1024;

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
    scheme::is_named(text)
}

/// Checks that `stored` is a whole hash of a known kind, whose parameters a login may cost.
///
/// # Errors
///
/// [`PasswordError::Unknown`] or [`PasswordError::Excessive`].
pub fn check_form(stored: &str) -> Result<(), PasswordError> {
    scheme::parse(stored).map(drop)
}

/// A well-formed hash, different each time, of which nobody knows a password: for an account that must have
/// one until it is given its own.
///
/// # Errors
///
/// [`PasswordError::Failed`] if the system gives no randomness.
pub fn unusable() -> Result<String, PasswordError> {
    argon2id::random()
}

/// Hashes and checks passwords, a bounded number at a time.
#[derive(Debug, Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    at_once: u32,
    usual: Arc<UsualTime>,
}

impl Passwords {
    /// Allows `at_once` computations at a time, of 64 MiB each; a hash that wants more memory counts for
    /// several, and one that wants more than all of them together runs alone.
    pub fn new(at_once: usize) -> Self {
        let at_once = u32::try_from(at_once.clamp(1, 1024)).unwrap_or(1);
        Self { permits: Arc::new(Semaphore::new(at_once as usize)), at_once, usual: Arc::default() }
    }

    /// Checks `password` against what is stored. An empty one matches nothing.
    ///
    /// # Errors
    ///
    /// [`PasswordError::Mismatch`], or what is wrong with the stored text.
    pub async fn verify(&self, password: &str, stored: &str) -> Result<(), PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Mismatch);
        }
        let scheme = match password.len() {
            ..=MAX_PASSWORD_BYTES => scheme::parse(stored),
            _ => Err(PasswordError::Mismatch),
        };
        let memory = scheme.as_ref().map_or(0, |scheme| scheme.memory_bytes());
        let password = Zeroizing::new(password.to_owned());
        let usual = Arc::clone(&self.usual);
        self.run(memory, move || {
            let began = Instant::now();
            let is_usual = scheme.as_ref().is_ok_and(|scheme| scheme.is_usual());
            let outcome = match scheme.and_then(|scheme| scheme.matches(password.as_bytes())) {
                Ok(true) => Ok(()),
                Ok(false) => Err(PasswordError::Mismatch),
                Err(error) => Err(error),
            };
            if is_usual {
                usual.observe(began.elapsed());
            } else if outcome.is_err() {
                usual.fill_up(began.elapsed())?;
            }
            outcome
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
        self.run(0, move || argon2id::hash(&password)).await
    }

    /// Runs `work`, which needs at least `memory` bytes, when there is room for it.
    async fn run<T: Send + 'static>(
        &self,
        memory: u64,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let wanted = u32::try_from(memory.div_ceil(argon2id::MEMORY_BYTES)).unwrap_or(u32::MAX);
        let wanted = wanted.clamp(1, self.at_once);
        let permits = Arc::clone(&self.permits).acquire_many_owned(wanted).await;
        let permits = permits.map_err(|_| PasswordError::Failed)?;
        tokio::task::spawn_blocking(move || {
            let _permits = permits;
            work()
        })
        .await
        .map_err(|_| PasswordError::Failed)?
    }
}

/// How long an argon2id of our own parameters takes on this machine under its present load: a moving mean
/// in microseconds, 0 before the first one. Updates that overtake each other lose nothing that matters.
#[derive(Debug, Default)]
struct UsualTime(AtomicU64);

impl UsualTime {
    fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = match self.0.load(Ordering::Relaxed) {
            0 => took,
            mean => (mean / 8 * 7).saturating_add(took / 8).max(1),
        };
        self.0.store(mean, Ordering::Relaxed);
    }

    /// Computes for as long as a check that took `spent` was cheaper than a usual one.
    fn fill_up(&self, spent: Duration) -> Result<(), PasswordError> {
        let part = self.part_left(spent);
        let began = Instant::now();
        if part > 0 {
            argon2id::spend(part)?;
        }
        if part == 1000 {
            self.observe(began.elapsed());
        }
        Ok(())
    }

    /// What is left of the usual time after `spent`, in thousandths of it.
    fn part_left(&self, spent: Duration) -> u32 {
        let usual = self.0.load(Ordering::Relaxed);
        if usual == 0 {
            return 1000;
        }
        let left = u128::from(usual).saturating_sub(spent.as_micros());
        u32::try_from((left * 1000).div_ceil(u128::from(usual))).unwrap_or(1000).min(1000)
    }
}

#[cfg(test)]
mod tests;
