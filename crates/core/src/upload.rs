//! How uploads reach their place: directly, or through a temporary file and a rename.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tidegate_vfs::{FsError, VPath};

/// What `sftpd.upload_mode` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UploadMode {
    /// Written in place; a failed upload leaves a partial file.
    #[default]
    Standard,
    /// Written to a temporary file that replaces the old one at close; a failed upload leaves nothing.
    Atomic,
    /// As atomic, but a failed upload is kept under the final name, to be resumed.
    AtomicWithResume,
}

impl UploadMode {
    /// Whether uploads go through a temporary file.
    pub fn is_atomic(self) -> bool {
        self != Self::Standard
    }
}

/// Start of every temporary name (sftp-server.md §6.2).
const PREFIX: &[u8] = b".sftpgo-upload.";

/// Characters of the random part, as the reference's identifiers have.
const ID_CHARS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const ID_LENGTH: usize = 20;

/// Whether `name` is one of ours: such files are no user's business.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_at_checked(ID_LENGTH))
        .is_some_and(|(id, rest)| rest.first() == Some(&b'.') && id.iter().all(|c| ID_CHARS.contains(c)))
}

/// A temporary name beside `path`, which must not be the root.
pub(crate) fn temporary(path: &VPath) -> Result<VPath, FsError> {
    let dir = path.parent().ok_or(FsError::IsDir)?;
    let mut random = [0; ID_LENGTH];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| FsError::InvalidInput("the system gives no random numbers"))?;
    let mut name = PREFIX.to_vec();
    name.extend(random.iter().map(|byte| ID_CHARS[usize::from(byte % 32)]));
    name.push(b'.');
    // A name may have 255 bytes; the end of the final one is enough to recognise it by.
    let room = 255 - name.len();
    name.extend_from_slice(&path.name()[path.name().len().saturating_sub(room)..]);
    dir.join(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_recognised_and_fit() {
        for name in ["a", &"x".repeat(255)] {
            let path = VPath::parse(format!("/dir/{name}").as_bytes()).unwrap();
            let temp = temporary(&path).unwrap();
            assert_eq!(temp.parent(), path.parent());
            assert!(is_temporary(temp.name()), "{temp}");
            assert!(temp.name().len() <= 255);
            assert_ne!(temporary(&path).unwrap(), temp);
        }
        assert!(!is_temporary(b".sftpgo-upload.notes"));
        assert!(!is_temporary(b"x"));
    }
}
