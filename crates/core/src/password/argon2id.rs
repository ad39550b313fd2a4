//! argon2id as the reference writes it:
//! `$argon2id$v=19$m=65536,t=3,p=2$<salt>$<key>`, both in unpadded standard base64 (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::PasswordError;

const MEMORY_KIB: u32 = 65_536;
const ITERATIONS: u32 = 3;
const PARALLELISM: u32 = 2;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// Most that a stored hash may ask for: 1 GiB, and as much work as 64 of our own.
const MAX_MEMORY_KIB: u32 = 1_048_576;
const MAX_WORK: u64 = 64 * MEMORY_KIB as u64 * ITERATIONS as u64;

/// A hash that no password matches, at the usual price.
pub(super) const DUMMY: &str = "$argon2id$v=19$m=65536,t=3,p=2$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub(super) fn hash(password: &str) -> Result<String, PasswordError> {
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| PasswordError::Failed)?;
    let key = derive(password, &salt, KEY_BYTES, MEMORY_KIB, ITERATIONS, PARALLELISM)?;
    Ok(format!(
        "$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={PARALLELISM}${}${}",
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(&*key)
    ))
}

pub(super) fn verify(password: &str, stored: &str) -> Result<(), PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", "argon2id", "v=19", params, salt, key] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let mut numbers = params.split(',').zip(["m=", "t=", "p="]).map(|(part, name)| {
        part.strip_prefix(name).and_then(|number| number.parse::<u32>().ok()).ok_or(PasswordError::Unknown)
    });
    let mut next = || numbers.next().unwrap_or(Err(PasswordError::Unknown));
    let (memory, iterations, parallelism) = (next()?, next()?, next()?);
    if params.split(',').count() != 3 {
        return Err(PasswordError::Unknown);
    }
    if memory > MAX_MEMORY_KIB || u64::from(memory) * u64::from(iterations) > MAX_WORK || parallelism > 64 {
        return Err(PasswordError::Excessive);
    }
    let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| PasswordError::Unknown)?;
    let key = STANDARD_NO_PAD.decode(key).map_err(|_| PasswordError::Unknown)?;
    if key.len() > 128 {
        return Err(PasswordError::Excessive);
    }
    let derived = derive(password, &salt, key.len(), memory, iterations, parallelism)?;
    if bool::from(derived.ct_eq(&key)) { Ok(()) } else { Err(PasswordError::Mismatch) }
}

fn derive(
    password: &str,
    salt: &[u8],
    length: usize,
    memory: u32,
    iterations: u32,
    parallelism: u32,
) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    let params =
        Params::new(memory, iterations, parallelism, Some(length)).map_err(|_| PasswordError::Unknown)?;
    let mut key = Zeroizing::new(vec![0; length]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut key)
        .map_err(|_| PasswordError::Unknown)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_hash_verifies() {
        let stored = "$argon2id$v=19$m=65536,t=3,p=2$2CifGy54DRQNFpUx8+XkLA$T1d0XuW1jLOG/tfxJRUIT0PouhLgg9TEzVzzmrlsxlM";
        assert_eq!(verify("anna-secret", stored), Ok(()));
        assert_eq!(verify("anna-secreT", stored), Err(PasswordError::Mismatch));
        assert_eq!(verify(stored, stored), Err(PasswordError::Mismatch));
        assert_eq!(verify("x", DUMMY), Err(PasswordError::Mismatch));
    }

    #[test]
    fn new_hashes_have_the_reference_form() {
        let stored = hash("secret").unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=65536,t=3,p=2$"), "{stored}");
        assert_eq!(verify("secret", &stored), Ok(()));
    }

    #[test]
    fn damaged_and_excessive_hashes_are_refused() {
        for (stored, want) in [
            ("$argon2id$", PasswordError::Unknown),
            ("$argon2id$v=18$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA", PasswordError::Unknown),
            ("$argon2id$v=19$t=1,m=8,p=1$c2FsdHNhbHQ$AAAA", PasswordError::Unknown),
            ("$argon2id$v=19$m=8,t=1,p=1,x=1$c2FsdHNhbHQ$AAAA", PasswordError::Unknown),
            ("$argon2id$v=19$m=8,t=1$c2FsdHNhbHQ$AAAA", PasswordError::Unknown),
            ("$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$AAAA", PasswordError::Excessive),
            ("$argon2id$v=19$m=8,t=4294967295,p=1$c2FsdHNhbHQ$AAAA", PasswordError::Excessive),
            ("$argon2id$v=19$m=8,t=1,p=1$!$AAAA", PasswordError::Unknown),
        ] {
            assert_eq!(verify("x", stored), Err(want), "{stored}");
        }
    }
}
