//! argon2id as the reference writes it:
//! `$argon2id$v=19$m=65536,t=3,p=2$<salt>$<key>`, both in unpadded standard base64 (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::PasswordError;
use super::scheme::{Scheme, number};

const MEMORY_KIB: u32 = 65_536;
const ITERATIONS: u32 = 3;
const PARALLELISM: u32 = 2;
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// What one of our own hashes takes.
pub(super) const MEMORY_BYTES: u64 = MEMORY_KIB as u64 * 1024;

/// Most that a stored hash may ask for: 1 GiB, and as much work as 64 of our own.
const MAX_MEMORY_KIB: u32 = 1_048_576;
const MAX_WORK: u64 = 64 * MEMORY_KIB as u64 * ITERATIONS as u64;
const MAX_PARALLELISM: u32 = 64;
const MAX_KEY_BYTES: usize = 128;

/// A hash that no password matches, at the usual price.
pub(super) const DUMMY: &str =
    "$argon2id$v=19$m=65536,t=3,p=2$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

struct Argon2id {
    params: Params,
    salt: Vec<u8>,
    key: Vec<u8>,
}

/// Makes a hash with our own parameters and a new salt.
pub(super) fn hash(password: &str) -> Result<String, PasswordError> {
    let salt = random_bytes::<SALT_BYTES>()?;
    let key = derive(password.as_bytes(), &salt, params(MEMORY_KIB, KEY_BYTES)?)?;
    Ok(write(&salt, &key))
}

/// Makes up a hash without a password.
pub(super) fn random() -> Result<String, PasswordError> {
    Ok(write(&random_bytes::<SALT_BYTES>()?, &random_bytes::<KEY_BYTES>()?))
}

/// Computes for `thousandths` of the price of one of our own hashes, which is proportional to the memory.
pub(super) fn spend(thousandths: u32) -> Result<(), PasswordError> {
    let memory =
        (MEMORY_KIB * thousandths.min(1000) / 1000).clamp(Params::MIN_M_COST * PARALLELISM, MEMORY_KIB);
    derive(b"spend", &[0; SALT_BYTES], params(memory, KEY_BYTES)?).map(drop)
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", "argon2id", "v=19", numbers, salt, key] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let numbers: Vec<&str> = numbers.split(',').collect();
    let [memory, iterations, parallelism] = numbers[..] else {
        return Err(PasswordError::Unknown);
    };
    let named = |text: &str, name| number(text.strip_prefix(name).ok_or(PasswordError::Unknown)?);
    let (memory, iterations) = (named(memory, "m=")?, named(iterations, "t=")?);
    let parallelism = named(parallelism, "p=")?;
    let work = u64::from(memory) * u64::from(iterations);
    if memory > MAX_MEMORY_KIB || work > MAX_WORK || parallelism > MAX_PARALLELISM {
        return Err(PasswordError::Excessive);
    }
    let decode = |text| STANDARD_NO_PAD.decode(text).map_err(|_| PasswordError::Unknown);
    let (salt, key) = (decode(salt)?, decode(key)?);
    if salt.len() < argon2::MIN_SALT_LEN {
        return Err(PasswordError::Unknown);
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(PasswordError::Excessive);
    }
    let params = Params::new(memory, iterations, parallelism, Some(key.len()));
    let params = params.map_err(|_| PasswordError::Unknown)?;
    Ok(Box::new(Argon2id { params, salt, key }))
}

impl Scheme for Argon2id {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        let derived = derive(password, &self.salt, self.params.clone())?;
        Ok(derived.ct_eq(&self.key).into())
    }

    fn memory_bytes(&self) -> u64 {
        u64::from(self.params.m_cost()) * 1024
    }

    fn is_usual(&self) -> bool {
        let params = &self.params;
        (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, ITERATIONS, PARALLELISM)
    }
}

fn params(memory: u32, key_bytes: usize) -> Result<Params, PasswordError> {
    Params::new(memory, ITERATIONS, PARALLELISM, Some(key_bytes)).map_err(|_| PasswordError::Failed)
}

fn derive(password: &[u8], salt: &[u8], params: Params) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    let mut key = Zeroizing::new(vec![0; params.output_len().unwrap_or(KEY_BYTES)]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut key)
        .map_err(|_| PasswordError::Failed)?;
    Ok(key)
}

fn write(salt: &[u8], key: &[u8]) -> String {
    let (salt, key) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(key));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={PARALLELISM}${salt}${key}")
}

fn random_bytes<const N: usize>() -> Result<[u8; N], PasswordError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PasswordError::Failed)?;
    Ok(bytes)
}
