//! md5crypt, the `$1$<salt>$<22 characters>` of old shadow files. Only the first 8 bytes of the salt count.
//!
//! Written out here because no maintained library has it; the algorithm is that of FreeBSD's crypt(3), 1994.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::scheme::{Scheme, is_phrase};
use super::{PasswordError, crypt64};

const MAX_SALT_BYTES: usize = 8;
const ROUNDS: u32 = 1000;

/// The digest's bytes in the order in which they are written.
const ORDER: [usize; 16] = [12, 6, 0, 13, 7, 1, 14, 8, 2, 15, 9, 3, 5, 10, 4, 11];

struct Md5Crypt {
    salt: Vec<u8>,
    hash: [u8; 16],
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", "1", salt, hash] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let hash = crypt64::decode(hash).and_then(|hash| hash.try_into().ok()).ok_or(PasswordError::Unknown)?;
    let salt = salt.bytes().take(MAX_SALT_BYTES).collect();
    Ok(Box::new(Md5Crypt { salt, hash }))
}

impl Scheme for Md5Crypt {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        if !is_phrase(password) {
            return Ok(false);
        }
        let digest = derive(password, &self.salt);
        Ok(ORDER.map(|index| digest[index]).ct_eq(&self.hash).into())
    }
}

fn derive(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] =
        Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut first = Md5::new().chain_update(password).chain_update(b"$1$").chain_update(salt);
    for chunk in password.chunks(inner.len()) {
        first.update(&inner[..chunk.len()]);
    }
    // One byte for each bit of the length, lowest first: the odd choice of bytes is the algorithm's.
    let mut length = password.len();
    while length > 0 {
        first.update(if length & 1 == 1 { &[0] } else { &password[..1] });
        length >>= 1;
    }
    let mut digest: [u8; 16] = first.finalize().into();
    for round in 0..ROUNDS {
        let (begin, end): (&[u8], &[u8]) =
            if round % 2 == 1 { (password, &digest) } else { (&digest, password) };
        let mut next = Md5::new().chain_update(begin);
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        digest = next.chain_update(end).finalize().into();
    }
    digest
}
