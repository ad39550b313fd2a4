//! Lines of `authorized_keys`, compared by their key blob (RFC 4253 §6.6); no cryptography here.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Key types that a line may name.
const KEY_TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-dss",
];

/// One parsed `authorized_keys` line: options and comment around a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyLine {
    /// The key in SSH wire format.
    pub blob: Vec<u8>,
    /// What follows the key.
    pub comment: String,
    /// Whether the line has the option `no-touch-required` (sshd(8)): a security key may then sign
    /// without its owner's touch. Other options are ignored.
    pub no_touch_required: bool,
}

impl PublicKeyLine {
    /// Parses `[options] type base64 [comment]`; `None` if the line holds no key.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = Words(line);
        let mut word = words.next()?;
        let mut no_touch_required = false;
        if !KEY_TYPES.contains(&word) {
            no_touch_required =
                word.split(',').any(|option| option.eq_ignore_ascii_case("no-touch-required"));
            word = words.next()?;
        }
        let key_type = KEY_TYPES.iter().find(|t| **t == word)?;
        let blob = STANDARD.decode(words.next()?).ok()?;
        let length = usize::try_from(u32::from_be_bytes(blob.get(..4)?.try_into().ok()?)).ok()?;
        if blob.get(4..)?.get(..length)? != key_type.as_bytes() || blob.len() == 4 + length {
            return None;
        }
        Some(Self { blob, comment: words.0.trim().to_owned(), no_touch_required })
    }
}

impl PublicKeyLine {
    /// Whether the key lives in a security key (FIDO), whose owner may have to touch it.
    pub fn is_security_key(&self) -> bool {
        self.blob.get(4..7) == Some(b"sk-")
    }
}

/// Words separated by blanks outside double quotes, as options may hold blanks in quotes.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let (mut quoted, mut escaped) = (false, false);
        let end = text
            .find(|c: char| {
                let stop = !quoted && c.is_ascii_whitespace();
                quoted ^= c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                stop
            })
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// `SHA256:…` as OpenSSH shows it.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(digest::digest(&digest::SHA256, blob)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqgDEEIKURFp/mZUDstA6g+UdrHZAonNIRdYnS+ anna@example";

    #[test]
    fn options_and_comment_are_kept_apart() {
        let plain = PublicKeyLine::parse(KEY).unwrap();
        assert_eq!(plain.comment, "anna@example");
        let with_options =
            PublicKeyLine::parse(&format!(r#"from="10.0.0.0/8",command="echo \"a b\"" {KEY}"#)).unwrap();
        assert_eq!(with_options, plain);
    }

    #[test]
    fn the_waiver_of_touch_is_an_option_of_its_own() {
        let waived =
            |options: &str| PublicKeyLine::parse(&format!("{options} {KEY}")).unwrap().no_touch_required;
        assert!(waived("no-touch-required"));
        assert!(waived("no-pty,NO-TOUCH-REQUIRED,restrict"));
        assert!(!waived("no-pty"));
        assert!(!PublicKeyLine::parse(KEY).unwrap().is_security_key());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for line in
            ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIEgzuvqg x", "# x"]
        {
            assert_eq!(PublicKeyLine::parse(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_none(line in ".{0,200}") {
            let _ = PublicKeyLine::parse(&line);
        }
    }
}
