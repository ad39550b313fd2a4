//! yescrypt, the `$y$<parameters>$<salt>$<43 characters>` that current Linux distributions write.

use ::yescrypt::{Mode, Params};
use subtle::ConstantTimeEq;

use super::scheme::{Scheme, is_phrase};
use super::{PasswordError, crypt64};

/// Units of 128 bytes of memory: 1 GiB, which is the highest cost that crypt(5) offers (11; the default, 5,
/// takes 16 MiB).
const MAX_BLOCKS: u64 = 1 << 23;
const MAX_PARALLELISM: u32 = 64;
const MAX_SALT_BYTES: usize = 64;

struct Yescrypt {
    params: Params,
    salt: Vec<u8>,
    hash: [u8; 32],
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", "y", params, salt, hash] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let params: Params = params.parse().map_err(|_| PasswordError::Unknown)?;
    let (n, r, p) = (params.n(), params.r(), params.p());
    if n < 2 || r == 0 || p == 0 {
        return Err(PasswordError::Unknown);
    }
    let blocks = n.saturating_mul(u64::from(r));
    if blocks.saturating_mul(u64::from(p)) > MAX_BLOCKS || p > MAX_PARALLELISM {
        return Err(PasswordError::Excessive);
    }
    // The library does not tell the parameter t, which multiplies the time and which nobody sets: parameters
    // without it are equal to what `new` makes of the rest.
    let plain = |mode| Params::new(mode, n, r, p).is_ok_and(|plain| plain == params);
    if ![Mode::Rw, Mode::Worm, Mode::Classic].into_iter().any(plain) {
        return Err(PasswordError::Excessive);
    }
    let salt = crypt64::decode(salt).ok_or(PasswordError::Unknown)?;
    let hash = crypt64::decode(hash).and_then(|hash| hash.try_into().ok()).ok_or(PasswordError::Unknown)?;
    if salt.len() > MAX_SALT_BYTES {
        return Err(PasswordError::Excessive);
    }
    Ok(Box::new(Yescrypt { params, salt, hash }))
}

impl Scheme for Yescrypt {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        if !is_phrase(password) {
            return Ok(false);
        }
        let mut derived = [0; 32];
        let computed = ::yescrypt::yescrypt(password, &self.salt, &self.params, &mut derived);
        computed.map_err(|_| PasswordError::Unknown)?;
        Ok(derived.ct_eq(&self.hash).into())
    }

    fn memory_bytes(&self) -> u64 {
        128 * self.params.n() * u64::from(self.params.r())
    }
}
