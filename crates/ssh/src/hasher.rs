//! The digests that clients may ask for, by name. What is digested, and for whom, is decided elsewhere.

use aws_lc_rs::digest::{self, Context};
use fast_md5::Md5;

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

#[cfg(test)]
mod tests {
    use md5::Digest as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_other_name_starts_a_digest() {
        for name in ["", "MD5", "md4", "sha", "sha512/256", "sha3-256"] {
            assert!(Hasher::new(name).is_none(), "{name}");
        }
    }

    proptest! {
        // What computes MD5 is written in assembly: it must agree with an implementation in plain Rust, wherever
        // the data lies and however it is cut.
        #[test]
        fn md5_is_what_another_implementation_computes(
            data in proptest::collection::vec(any::<u8>(), 0..1000),
            skipped in 0usize..8,
            cuts in proptest::collection::vec(1usize..200, 1..8),
        ) {
            let data = data.get(skipped..).unwrap_or_default();
            let mut hasher = Hasher::new("md5").unwrap();
            let mut rest = data;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                hasher.update(piece);
                rest = after;
            }
            prop_assert_eq!(hasher.finish(), md5::Md5::digest(data).to_vec());
        }
    }
}
