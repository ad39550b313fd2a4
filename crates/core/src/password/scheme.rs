//! The kinds of hash: by which prefix each is known, and what they have in common.

use super::{PasswordError, argon2id, bcrypt, md5crypt, pbkdf2, sha_crypt, yescrypt};

/// A stored hash whose form is whole and whose price is bounded.
pub(super) trait Scheme: Send {
    /// Whether `password`, never empty, is the one that was hashed; compared in constant time.
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError>;

    /// Memory that a check takes.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Whether a check costs exactly what one of our own hashes costs.
    fn is_usual(&self) -> bool {
        false
    }
}

/// The longest stored text that is looked at: a column takes 255 bytes, files of users may take more.
const MAX_STORED_BYTES: usize = 1024;

type Parse = fn(&str) -> Result<Box<dyn Scheme>, PasswordError>;

/// Prefix and parser. `$5$`, `$y$`, `$2b$` and `$2y$` are more than the seed asks for: they are what current
/// systems write.
const SCHEMES: [(&str, Parse); 11] = [
    ("$argon2id$", argon2id::parse),
    ("$2a$", bcrypt::parse),
    ("$2b$", bcrypt::parse),
    ("$2y$", bcrypt::parse),
    ("$pbkdf2-sha1$", pbkdf2::parse),
    ("$pbkdf2-sha256$", pbkdf2::parse),
    ("$pbkdf2-sha512$", pbkdf2::parse),
    ("$1$", md5crypt::parse),
    ("$5$", sha_crypt::parse),
    ("$6$", sha_crypt::parse),
    ("$y$", yescrypt::parse),
];

/// Whether `stored` begins like a hash.
pub(super) fn is_named(stored: &str) -> bool {
    SCHEMES.iter().any(|(prefix, _)| stored.starts_with(prefix))
}

/// Reads a stored hash.
pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    if stored.len() > MAX_STORED_BYTES {
        return Err(PasswordError::Unknown);
    }
    let scheme = SCHEMES.iter().find(|(prefix, _)| stored.starts_with(prefix));
    let (_, parse) = scheme.ok_or(PasswordError::Unknown)?;
    parse(stored)
}

/// A decimal number of a stored hash: digits only; one that no `u32` takes is excessive.
pub(super) fn number(text: &str) -> Result<u32, PasswordError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PasswordError::Unknown);
    }
    text.parse().map_err(|_| PasswordError::Excessive)
}

/// Whether crypt(3) could have hashed `password`: C ends it at a NUL, and libxcrypt refuses more than 511
/// bytes, because the price of the SHA schemes grows with the length.
pub(super) fn is_phrase(password: &[u8]) -> bool {
    password.len() < 512 && !password.contains(&0)
}
