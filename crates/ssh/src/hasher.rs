//! The digests that clients may ask for, by name. What is digested, and for whom, is decided elsewhere.

use aws_lc_rs::digest::{self, Context};
use md5::{Digest as _, Md5};

/// A digest being made.
pub(crate) enum Hasher {
    /// RFC 1321.
    Md5(Md5),
    /// FIPS 180-4.
    Sha(Context),
}

impl Hasher {
    /// Starts the digest that `name` stands for on the wire.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Some(match name {
            "md5" => Self::Md5(Md5::new()),
            "sha1" => Self::Sha(Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY)),
            "sha224" => Self::Sha(Context::new(&digest::SHA224)),
            "sha256" => Self::Sha(Context::new(&digest::SHA256)),
            "sha384" => Self::Sha(Context::new(&digest::SHA384)),
            "sha512" => Self::Sha(Context::new(&digest::SHA512)),
            _ => return None,
        })
    }

    /// Takes in the next bytes.
    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Md5(md5) => md5.update(data),
            Self::Sha(sha) => sha.update(data),
        }
    }

    /// The digest of everything that was taken in.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Md5(md5) => md5.finalize().to_vec(),
            Self::Sha(sha) => sha.finish().as_ref().to_vec(),
        }
    }
}
