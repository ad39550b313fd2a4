//! Names of algorithms in the configuration → the lists that russh negotiates with.
//!
//! Every list is explicit, because the library's own defaults contain SHA-1 signatures and lack
//! `aes128-gcm@openssh.com`. A name that administrators know from elsewhere is either
//! supported or refused at start with its reason; nothing is dropped silently. What is supported only for
//! old clients is used when it is configured, with a warning in the log. The default lists contain nothing
//! that `ssh-audit` calls a failure.
//!
//! Host key algorithms follow from the keys: see [`crate::host_keys`].

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};
use tracing::warn;

/// An algorithm that is configured but not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} names {name:?}: {reason}; supported are {supported}")]
pub struct AlgorithmError {
    /// The option, such as `sftpd.ciphers`.
    pub option: &'static str,
    /// The name as configured.
    pub name: String,
    /// Why it is not supported.
    pub reason: &'static str,
    /// Every name that the option accepts, the preferred ones first.
    pub supported: String,
}

/// A name that the configuration accepts.
struct Row<T> {
    id: T,
    /// Used without configuration.
    default: bool,
    /// Why the log warns about it.
    weakness: Option<&'static str>,
}

const fn default<T>(id: T) -> Row<T> {
    Row { id, default: true, weakness: None }
}

const fn optional<T>(id: T) -> Row<T> {
    Row { id, default: false, weakness: None }
}

const fn weak<T>(id: T, why: &'static str) -> Row<T> {
    Row { id, default: false, weakness: Some(why) }
}

const SHA1: &str = "it relies on SHA-1";
const CBC: &str = "CBC mode leaks plaintext to an active attacker";

// The NIST curves are good but not ours to choose: ssh-audit calls them a failure, and every client that has
// them has Curve25519. The large groups cost the server tens of milliseconds for each connection.
const KEX: &[Row<kex::Name>] = &[
    default(kex::MLKEM768X25519_SHA256),
    default(kex::CURVE25519),
    default(kex::CURVE25519_PRE_RFC_8731),
    default(kex::DH_G16_SHA512),
    default(kex::DH_G14_SHA256),
    optional(kex::ECDH_SHA2_NISTP256),
    optional(kex::ECDH_SHA2_NISTP384),
    optional(kex::ECDH_SHA2_NISTP521),
    optional(kex::DH_G15_SHA512),
    optional(kex::DH_G17_SHA512),
    optional(kex::DH_G18_SHA512),
    weak(kex::DH_G14_SHA1, SHA1),
];

/// Not algorithms: they tell the client that this server knows RFC 8308 and strict key exchange.
const KEX_MARKERS: [kex::Name; 2] =
    [kex::EXTENSION_SUPPORT_AS_SERVER, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER];

const CIPHERS: &[Row<cipher::Name>] = &[
    default(cipher::AES_128_GCM),
    default(cipher::AES_256_GCM),
    default(cipher::CHACHA20_POLY1305),
    default(cipher::AES_128_CTR),
    default(cipher::AES_192_CTR),
    default(cipher::AES_256_CTR),
    weak(cipher::AES_128_CBC, CBC),
    weak(cipher::AES_192_CBC, CBC),
    weak(cipher::AES_256_CBC, CBC),
];

const MACS: &[Row<mac::Name>] = &[
    default(mac::HMAC_SHA256_ETM),
    default(mac::HMAC_SHA512_ETM),
    default(mac::HMAC_SHA256),
    default(mac::HMAC_SHA512),
    weak(mac::HMAC_SHA1_ETM, SHA1),
    weak(mac::HMAC_SHA1, SHA1),
];

/// Names that are refused for a reason worth telling; all others are unknown.
const REFUSED: &[(&str, &str)] = &[
    ("diffie-hellman-group1-sha1", "a group of 1024 bits can be broken, and it relies on SHA-1"),
    ("diffie-hellman-group-exchange-sha1", "it relies on SHA-1, use diffie-hellman-group16-sha512"),
    (
        "diffie-hellman-group-exchange-sha256",
        "group exchange is not offered, use diffie-hellman-group16-sha512",
    ),
    ("sntrup761x25519-sha512", "it is not supported, mlkem768x25519-sha256 is its successor"),
    ("sntrup761x25519-sha512@openssh.com", "it is not supported, mlkem768x25519-sha256 is its successor"),
    ("arcfour", "RC4 is broken and not offered"),
    ("arcfour128", "RC4 is broken and not offered"),
    ("arcfour256", "RC4 is broken and not offered"),
    ("3des-cbc", "blocks of 64 bits are broken (SWEET32) and not offered"),
    ("blowfish-cbc", "blocks of 64 bits are broken (SWEET32) and not offered"),
    ("cast128-cbc", "blocks of 64 bits are broken (SWEET32) and not offered"),
    ("hmac-sha1-96", "a SHA-1 code cut to 96 bits is obsolete and not offered"),
    ("hmac-sha1-96-etm@openssh.com", "a SHA-1 code cut to 96 bits is obsolete and not offered"),
    ("hmac-md5", "MD5 is broken and not offered"),
    ("hmac-md5-96", "MD5 is broken and not offered"),
    ("umac-64@openssh.com", "UMAC is not supported"),
    ("umac-64-etm@openssh.com", "UMAC is not supported"),
    ("umac-128@openssh.com", "UMAC is not supported"),
    ("umac-128-etm@openssh.com", "UMAC is not supported"),
    ("none", "a connection without protection is not offered"),
    ("clear", "a connection without protection is not offered"),
];

/// Signature algorithms that are accepted from clients, and offered for the host keys that there are.
/// SHA-1 `ssh-rsa` is missing: russh then announces no `ssh-rsa`, but does **not** refuse one, so the code
/// that authenticates must ask [`is_accepted_signature`].
const SIGNATURES: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// Checks the names of the options `sftpd.kex_algorithms`, `sftpd.ciphers` and `sftpd.macs`, and builds the
/// lists for russh. An empty list means the defaults; a name that is given twice counts once.
///
/// # Errors
/// [`AlgorithmError`] for the first name that is not supported.
pub fn preferred(kex: &[String], ciphers: &[String], macs: &[String]) -> Result<Preferred, AlgorithmError> {
    let mut kex = choose("sftpd.kex_algorithms", kex, KEX)?;
    kex.extend(KEX_MARKERS);
    Ok(Preferred {
        kex: kex.into(),
        key: Cow::Borrowed(SIGNATURES),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: choose("sftpd.ciphers", ciphers, CIPHERS)?.into(),
        mac: choose("sftpd.macs", macs, MACS)?.into(),
        compression: Cow::Borrowed(&[compression::NONE]),
    })
}

/// Whether a client may prove its key with this signature algorithm; everything except SHA-1 and DSA.
pub fn is_accepted_signature(algorithm: &Algorithm) -> bool {
    SIGNATURES.contains(algorithm)
}

/// Puts the algorithms of `first` in front of [`Preferred::key`], in their order: russh offers host key
/// algorithms in the order of that list, not in the order of the keys.
pub(crate) fn prefer_signatures(preferred: &mut Preferred, first: &[Algorithm]) {
    let rest = SIGNATURES.iter().filter(|algorithm| !first.contains(algorithm));
    preferred.key = first.iter().chain(rest).cloned().collect();
}

fn choose<T: AsRef<str> + Copy>(
    option: &'static str,
    names: &[String],
    table: &[Row<T>],
) -> Result<Vec<T>, AlgorithmError> {
    if names.is_empty() {
        return Ok(table.iter().filter(|row| row.default).map(|row| row.id).collect());
    }
    let mut chosen: Vec<T> = Vec::with_capacity(names.len());
    for name in names {
        let name = name.trim();
        let Some(row) = table.iter().find(|row| row.id.as_ref() == name) else {
            return Err(refused(option, name, table));
        };
        if chosen.iter().any(|id| id.as_ref() == name) {
            continue;
        }
        if let Some(why) = row.weakness {
            warn!(sender = "sftpd", console = true, "{option} enables {name}, which is weak: {why}");
        }
        chosen.push(row.id);
    }
    Ok(chosen)
}

fn refused<T: AsRef<str>>(option: &'static str, name: &str, table: &[Row<T>]) -> AlgorithmError {
    let known = REFUSED.iter().find(|(refused, _)| *refused == name);
    let reason = known.map_or("it is not known", |(_, reason)| *reason);
    let supported = table.iter().map(|row| row.id.as_ref()).collect::<Vec<_>>().join(", ");
    AlgorithmError { option, name: name.to_owned(), reason, supported }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &[String] = &[];

    fn names<T: AsRef<str>>(list: &[T]) -> Vec<&str> {
        list.iter().map(AsRef::as_ref).collect()
    }

    fn one(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn the_defaults_are_modern_and_in_order() {
        let preferred = preferred(NONE, NONE, NONE).unwrap();
        let kex = [
            "mlkem768x25519-sha256",
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "diffie-hellman-group16-sha512",
            "diffie-hellman-group14-sha256",
            "ext-info-s",
            "kex-strict-s-v00@openssh.com",
        ];
        assert_eq!(names(&preferred.kex), kex);
        let ciphers = [
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "chacha20-poly1305@openssh.com",
            "aes128-ctr",
            "aes192-ctr",
            "aes256-ctr",
        ];
        assert_eq!(names(&preferred.cipher), ciphers);
        let macs = [
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha2-256",
            "hmac-sha2-512",
        ];
        assert_eq!(names(&preferred.mac), macs);
        assert_eq!(names(&preferred.compression), ["none"]);
        assert!(preferred.host_key_certificates.is_empty());
        let keys: Vec<&str> = preferred.key.iter().map(Algorithm::as_str).collect();
        let expected = [
            "ssh-ed25519",
            "ecdsa-sha2-nistp256",
            "ecdsa-sha2-nistp384",
            "ecdsa-sha2-nistp521",
            "sk-ssh-ed25519@openssh.com",
            "sk-ecdsa-sha2-nistp256@openssh.com",
            "rsa-sha2-512",
            "rsa-sha2-256",
        ];
        assert_eq!(keys, expected);
    }

    /// Every name that the documented options had so far, and what becomes of it.
    #[test]
    fn every_documented_name_is_supported_or_refused_with_a_reason() {
        const OK: Option<&str> = None;
        let rows: [(&str, &str, Option<&str>); 20] = [
            ("kex", "curve25519-sha256@libssh.org", OK),
            ("kex", "ecdh-sha2-nistp256", OK),
            ("kex", "ecdh-sha2-nistp384", OK),
            ("kex", "ecdh-sha2-nistp521", OK),
            ("kex", "diffie-hellman-group14-sha1", OK),
            ("kex", "diffie-hellman-group1-sha1", Some("1024 bits")),
            ("ciphers", "aes128-gcm@openssh.com", OK),
            ("ciphers", "chacha20-poly1305@openssh.com", OK),
            ("ciphers", "aes128-ctr", OK),
            ("ciphers", "aes192-ctr", OK),
            ("ciphers", "aes256-ctr", OK),
            ("ciphers", "arcfour256", Some("RC4 is broken")),
            ("ciphers", "arcfour128", Some("RC4 is broken")),
            ("ciphers", "arcfour", Some("RC4 is broken")),
            ("ciphers", "aes128-cbc", OK),
            ("ciphers", "3des-cbc", Some("SWEET32")),
            ("macs", "hmac-sha2-256-etm@openssh.com", OK),
            ("macs", "hmac-sha2-256", OK),
            ("macs", "hmac-sha1", OK),
            ("macs", "hmac-sha1-96", Some("96 bits")),
        ];
        for (kind, name, refusal) in rows {
            let list = one(name);
            let (result, option) = match kind {
                "kex" => (
                    preferred(&list, NONE, NONE).map(|p| p.kex[0].as_ref().to_owned()),
                    "sftpd.kex_algorithms",
                ),
                "ciphers" => {
                    (preferred(NONE, &list, NONE).map(|p| p.cipher[0].as_ref().to_owned()), "sftpd.ciphers")
                }
                _ => (preferred(NONE, NONE, &list).map(|p| p.mac[0].as_ref().to_owned()), "sftpd.macs"),
            };
            match refusal {
                None => assert_eq!(result.as_deref(), Ok(name)),
                Some(reason) => {
                    let error = result.unwrap_err();
                    assert_eq!((error.option, error.name.as_str()), (option, name));
                    assert!(error.reason.contains(reason), "{error}");
                }
            }
        }
    }

    /// A name that passes here must not fail in the library when a client chooses it.
    #[test]
    fn the_library_knows_every_supported_name() {
        for row in KEX {
            assert_eq!(kex::Name::try_from(row.id.as_ref()), Ok(row.id));
        }
        for row in CIPHERS {
            assert_eq!(cipher::Name::try_from(row.id.as_ref()), Ok(row.id));
        }
        for row in MACS {
            assert_eq!(mac::Name::try_from(row.id.as_ref()), Ok(row.id));
        }
    }

    #[test]
    fn nothing_that_ssh_audit_fails_is_a_default() {
        let defaults = preferred(NONE, NONE, NONE).unwrap();
        let all = [names(&defaults.kex), names(&defaults.cipher), names(&defaults.mac)].concat();
        for name in all {
            assert!(
                !["sha1", "cbc", "nistp", "md5", "arcfour", "none"].iter().any(|bad| name.contains(bad)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_configured_list_replaces_the_defaults_in_its_order() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let chosen = preferred(
            &list(&["ecdh-sha2-nistp256", "curve25519-sha256", " ecdh-sha2-nistp256 "]),
            &list(&["aes256-ctr", "aes128-gcm@openssh.com"]),
            &list(&["hmac-sha2-512"]),
        );
        let chosen = chosen.unwrap();
        let kex = ["ecdh-sha2-nistp256", "curve25519-sha256", "ext-info-s", "kex-strict-s-v00@openssh.com"];
        assert_eq!(names(&chosen.kex), kex);
        assert_eq!(names(&chosen.cipher), ["aes256-ctr", "aes128-gcm@openssh.com"]);
        assert_eq!(names(&chosen.mac), ["hmac-sha2-512"]);
    }

    #[test]
    fn unknown_names_and_markers_are_refused() {
        for name in ["aes512-ctr", "", "AES128-CTR", "none", "clear"] {
            let error = preferred(NONE, &one(name), NONE).unwrap_err();
            assert_eq!(error.name, name);
            assert!(error.supported.starts_with("aes128-gcm@openssh.com, aes256-gcm"), "{error}");
        }
        assert!(preferred(&one("kex-strict-s-v00@openssh.com"), NONE, NONE).is_err());
        assert!(preferred(&one("none"), NONE, NONE).is_err());
        assert!(preferred(NONE, NONE, &one("none")).is_err());
        let error = preferred(NONE, NONE, &one("hmac-x")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("sftpd.macs names \"hmac-x\": it is not known; supported are hmac-"),
            "{error}"
        );
    }

    #[test]
    fn sha1_signatures_are_not_accepted() {
        assert!(!is_accepted_signature(&Algorithm::Rsa { hash: None }));
        assert!(!is_accepted_signature(&Algorithm::Dsa));
        assert!(is_accepted_signature(&Algorithm::Rsa { hash: Some(HashAlg::Sha256) }));
        assert!(is_accepted_signature(&Algorithm::SkEd25519));
    }

    #[test]
    fn host_keys_come_first_in_their_order() {
        let mut lists = preferred(NONE, NONE, NONE).unwrap();
        let rsa = Algorithm::Rsa { hash: Some(HashAlg::Sha256) };
        prefer_signatures(&mut lists, &[rsa.clone(), Algorithm::Ed25519]);
        assert_eq!(lists.key[..2], [rsa, Algorithm::Ed25519]);
        assert_eq!(lists.key.len(), SIGNATURES.len());
    }
}
