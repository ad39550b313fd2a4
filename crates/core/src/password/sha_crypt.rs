//! sha256crypt and sha512crypt, the `$5$[rounds=<n>$]<salt>$<43 characters>` and `$6$…$<86 characters>` of
//! shadow files. Only the first 16 bytes of the salt count.
//!
//! The library computes the digest; its own parser is not used because it takes a number of rounds that is
//! out of range for a salt.

use ::sha_crypt::{Params, sha256_crypt, sha512_crypt};
use subtle::ConstantTimeEq;

use super::scheme::{Scheme, is_phrase, number};
use super::{PasswordError, crypt64};

/// A few seconds; the format's own bound is 999999999.
const MAX_ROUNDS: u32 = 5_000_000;

/// The digests' bytes in the order in which they are written.
const ORDER_SHA256: [usize; 32] = [
    20, 10, 0, 11, 1, 21, 2, 22, 12, 23, 13, 3, 14, 4, 24, 5, 25, 15, 26, 16, 6, 17, 7, 27, 8, 28, 18, 29,
    19, 9, 30, 31,
];
const ORDER_SHA512: [usize; 64] = [
    42, 21, 0, 1, 43, 22, 23, 2, 44, 45, 24, 3, 4, 46, 25, 26, 5, 47, 48, 27, 6, 7, 49, 28, 29, 8, 50, 51,
    30, 9, 10, 52, 31, 32, 11, 53, 54, 33, 12, 13, 55, 34, 35, 14, 56, 57, 36, 15, 16, 58, 37, 38, 17, 59,
    60, 39, 18, 19, 61, 40, 41, 20, 62, 63,
];

struct ShaCrypt {
    params: Params,
    salt: String,
    hash: Hash,
}

enum Hash {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let (name, rounds, salt, hash) = match parts[..] {
        ["", name, salt, hash] if !salt.starts_with("rounds=") => {
            (name, Params::RECOMMENDED_ROUNDS, salt, hash)
        }
        ["", name, rounds, salt, hash] => {
            let rounds = rounds.strip_prefix("rounds=").ok_or(PasswordError::Unknown)?;
            (name, number(rounds)?, salt, hash)
        }
        _ => return Err(PasswordError::Unknown),
    };
    if rounds > MAX_ROUNDS {
        return Err(PasswordError::Excessive);
    }
    let params = Params::new(rounds.max(Params::ROUNDS_MIN)).map_err(|_| PasswordError::Unknown)?;
    let hash = crypt64::decode(hash).ok_or(PasswordError::Unknown)?;
    let hash = match name {
        "5" => hash.try_into().map(Hash::Sha256),
        "6" => hash.try_into().map(Hash::Sha512),
        _ => return Err(PasswordError::Unknown),
    };
    let hash = hash.map_err(|_| PasswordError::Unknown)?;
    Ok(Box::new(ShaCrypt { params, salt: salt.to_owned(), hash }))
}

impl Scheme for ShaCrypt {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        if !is_phrase(password) {
            return Ok(false);
        }
        let salt = self.salt.as_bytes();
        let equal = match &self.hash {
            Hash::Sha256(hash) => {
                let digest = sha256_crypt(password, salt, self.params);
                ORDER_SHA256.map(|index| digest[index]).ct_eq(hash)
            }
            Hash::Sha512(hash) => {
                let digest = sha512_crypt(password, salt, self.params);
                ORDER_SHA512.map(|index| digest[index]).ct_eq(hash)
            }
        };
        Ok(equal.into())
    }
}
