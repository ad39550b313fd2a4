//! PBKDF2: `$pbkdf2-sha256$<iterations>$<salt>$<key>`, also with `sha1` and `sha512`. The salt is the text
//! itself, the key is as long as the digest and in padded standard base64.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2::{self, Algorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::PasswordError;
use super::scheme::{Scheme, number};

/// A few seconds; today's recommendations are below one million.
const MAX_ITERATIONS: u32 = 10_000_000;

struct Pbkdf2 {
    algorithm: Algorithm,
    iterations: NonZeroU32,
    salt: String,
    key: Vec<u8>,
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", name, iterations, salt, key] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let (algorithm, digest_bytes) = match name {
        "pbkdf2-sha1" => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
        "pbkdf2-sha256" => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
        "pbkdf2-sha512" => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
        _ => return Err(PasswordError::Unknown),
    };
    let iterations = NonZeroU32::new(number(iterations)?).ok_or(PasswordError::Unknown)?;
    if iterations.get() > MAX_ITERATIONS {
        return Err(PasswordError::Excessive);
    }
    let key = STANDARD.decode(key).map_err(|_| PasswordError::Unknown)?;
    if key.len() != digest_bytes {
        return Err(PasswordError::Unknown);
    }
    Ok(Box::new(Pbkdf2 { algorithm, iterations, salt: salt.to_owned(), key }))
}

impl Scheme for Pbkdf2 {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        let mut derived = Zeroizing::new(vec![0; self.key.len()]);
        pbkdf2::derive(self.algorithm, self.iterations, self.salt.as_bytes(), password, &mut derived);
        Ok(derived.ct_eq(&self.key).into())
    }
}
