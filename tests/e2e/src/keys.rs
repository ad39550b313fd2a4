//! Keys made by `ssh-keygen`, once per test run: the client's, and host keys so that no test waits for RSA.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::process::Tool;

const PREFIX: &str = "tidegate-e2e-keys-";

/// The keys that all tests share. They live as long as the process.
#[derive(Debug)]
pub struct Keys {
    dir: tempfile::TempDir,
}

/// The shared keys, made at first use.
pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        remove_those_of_ended_runs();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        // PEM is the form that the server itself generates for RSA.
        generate(&dir.path().join("host_rsa"), &["-t", "rsa", "-b", "3072", "-m", "PEM"]);
        generate(&dir.path().join("host_ed25519"), &["-t", "ed25519"]);
        generate(&dir.path().join("client"), &["-t", "ed25519"]);
        Keys { dir }
    })
}

/// What is shared by all tests of a process is never dropped: the next run clears it away.
fn remove_those_of_ended_runs() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs `ssh-keygen` for a key without a passphrase; `file` must not exist.
pub fn generate(file: &Path, kind: &[&str]) {
    Tool::new("ssh-keygen", "openssh-client")
        .args(["-q", "-N", "", "-C", "e2e"])
        .args(kind)
        .arg("-f")
        .arg(file)
        .ok();
}

impl Keys {
    /// The private key that clients log in with.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.dir.path().join("client")
    }

    /// Its public half, as one `authorized_keys` line.
    #[must_use]
    pub fn client_public(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("client.pub")).unwrap().trim().to_owned()
    }

    /// Puts the host keys into a configuration directory, under the names the server looks for.
    pub fn install_host_keys(&self, config_dir: &Path) {
        for (from, to) in [("host_rsa", "id_rsa"), ("host_ed25519", "id_ed25519")] {
            std::fs::copy(self.dir.path().join(from), config_dir.join(to)).unwrap();
        }
    }
}
