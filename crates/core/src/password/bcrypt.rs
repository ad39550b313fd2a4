//! bcrypt: `$2a$<cost>$<salt, 22 characters><hash, 31 characters>`, also as `$2b$` and `$2y$`, which compute
//! the same. Passwords are cut at 72 bytes, as everywhere.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::PasswordError;
use super::scheme::{Scheme, number};

/// Salts that were not made from bytes have bits beyond the last one, which every implementation drops.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Each step doubles the time; 16 takes a few seconds.
const MAX_COST: u32 = 16;
const MIN_COST: u32 = 4;
const MAX_KEY_BYTES: usize = 72;

struct Bcrypt {
    cost: u32,
    salt: [u8; 16],
    hash: [u8; 23],
}

pub(super) fn parse(stored: &str) -> Result<Box<dyn Scheme>, PasswordError> {
    let parts: Vec<&str> = stored.split('$').collect();
    let ["", "2a" | "2b" | "2y", cost, rest] = parts[..] else {
        return Err(PasswordError::Unknown);
    };
    let (salt, hash) = rest.split_at_checked(22).ok_or(PasswordError::Unknown)?;
    if cost.len() != 2 || hash.len() != 31 {
        return Err(PasswordError::Unknown);
    }
    let cost = number(cost)?;
    match cost {
        ..MIN_COST => return Err(PasswordError::Unknown),
        MIN_COST..=MAX_COST => {}
        _ => return Err(PasswordError::Excessive),
    }
    Ok(Box::new(Bcrypt { cost, salt: decode(salt)?, hash: decode(hash)? }))
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], PasswordError> {
    let bytes = BASE64.decode(text).map_err(|_| PasswordError::Unknown)?;
    bytes.try_into().map_err(|_| PasswordError::Unknown)
}

impl Scheme for Bcrypt {
    fn matches(&self, password: &[u8]) -> Result<bool, PasswordError> {
        if password.contains(&0) || password.is_empty() {
            return Ok(false);
        }
        // The NUL at the end is part of the key, if there is room for it.
        let mut key = Zeroizing::new([0; MAX_KEY_BYTES]);
        let length = password.len().min(MAX_KEY_BYTES);
        key[..length].copy_from_slice(&password[..length]);
        let used = (length + 1).min(MAX_KEY_BYTES);
        let derived = ::bcrypt::bcrypt(self.cost, self.salt, &key[..used]);
        Ok(derived[..self.hash.len()].ct_eq(&self.hash).into())
    }
}
