//! Host keys: load the configured ones, or generate `id_rsa` and `id_ed25519`.
//!
//! The file formats are PKCS#1, PKCS#8, SEC1 and OpenSSH, without a passphrase. A generated key appears under
//! its name only when it is complete and on disk: it is the identity of the server, and half of it would be
//! worse than none.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use russh::keys::signature::{Signer, Verifier};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::ssh_key::{LineEnding, Signature};
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use tracing::{info, warn};
use zeroize::Zeroizing;

const MIN_RSA_BITS: u32 = 2048;
/// No private key is longer: RSA with 16,384 bits takes 13 KiB.
const MAX_FILE_BYTES: u64 = 65_536;

/// The keys by which clients recognize this server, at most one for each algorithm, preferred ones first.
#[derive(Debug)]
pub struct HostKeys {
    /// The private keys.
    pub keys: Vec<PrivateKey>,
}

/// Why there are no usable host keys.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file cannot be read.
    #[error("cannot read host key {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds nothing that can be used.
    #[error("cannot use host key {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A generated key cannot be stored.
    #[error("cannot write host key {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The cryptographic library failed.
    #[error("cannot generate a host key: {0}")]
    Generate(String),
}

/// Loads the host keys at `paths`, or `id_rsa` and `id_ed25519` in `config_dir` if there are none; those two
/// are generated if they are missing.
///
/// Of several keys for one algorithm the last one counts, in the place of the first.
///
/// # Errors
/// [`HostKeyError`] names the file that cannot be used.
pub fn load(paths: &[PathBuf], config_dir: &Path) -> Result<HostKeys, HostKeyError> {
    let mut host_keys = HostKeys { keys: Vec::new() };
    if paths.is_empty() {
        // The file `id_rsa` decides whether there is an identity already, so it comes first here and last in
        // the offer.
        let rsa = load_or_generate(&config_dir.join("id_rsa"), generate_rsa_pem)?;
        match load_or_generate(&config_dir.join("id_ed25519"), generate_ed25519_pem) {
            Ok(ed25519) => host_keys.add(ed25519),
            // An identity that cannot be kept would alarm clients after every restart.
            Err(error @ HostKeyError::Write { .. }) => {
                warn!(sender = "sftpd", console = true, "{error}; id_rsa is the only host key");
            }
            Err(error) => return Err(error),
        }
        host_keys.add(rsa);
    }
    for path in paths {
        host_keys.add(load_file(path)?);
    }
    Ok(host_keys)
}

/// Generates an Ed25519 and an RSA key that are never written anywhere.
///
/// # Errors
/// [`HostKeyError::Generate`].
pub fn ephemeral() -> Result<HostKeys, HostKeyError> {
    let mut host_keys = HostKeys { keys: Vec::new() };
    for pem in [generate_ed25519_pem()?, rsa_pem(KeySize::Rsa3072)?] {
        host_keys.add(parse(&pem).map_err(HostKeyError::Generate)?);
    }
    Ok(host_keys)
}

impl HostKeys {
    /// `ssh-ed25519 SHA256:…` for every key.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(describe).collect()
    }

    /// Host key algorithms in the order of the keys; an RSA key stands for its SHA-2 signatures only.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let of = |key: &PrivateKey| match key.algorithm() {
            Algorithm::Rsa { .. } => {
                [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }).to_vec()
            }
            other => vec![other],
        };
        self.keys.iter().flat_map(of).collect()
    }

    fn add(&mut self, key: PrivateKey) {
        match self.keys.iter_mut().find(|present| present.algorithm() == key.algorithm()) {
            Some(earlier) => *earlier = key,
            None => self.keys.push(key),
        }
    }
}

fn describe(key: &PrivateKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

type Pem = Zeroizing<String>;

fn load_or_generate(
    path: &Path,
    generate: impl FnOnce() -> Result<Pem, HostKeyError>,
) -> Result<PrivateKey, HostKeyError> {
    match load_file(path) {
        Err(HostKeyError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        result => return result,
    }
    let pem = generate()?;
    let created = create(path, pem.as_bytes());
    let created = created.map_err(|source| HostKeyError::Write { path: path.to_owned(), source })?;
    // Also if another process was faster: what is on disk counts.
    let key = load_file(path)?;
    if created {
        let (path, key) = (path.display(), describe(&key));
        info!(sender = "sftpd", console = true, "host key {path} generated: {key}");
    }
    Ok(key)
}

fn load_file(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let read = |source| HostKeyError::Read { path: path.to_owned(), source };
    let unusable = |reason| HostKeyError::Unusable { path: path.to_owned(), reason };
    let file = File::open(path).map_err(read)?;
    let mut bytes = Zeroizing::new(Vec::new());
    (&file).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(unusable(format!("a private key has at most {MAX_FILE_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unusable("not a text file".to_owned()))?;
    let key = parse(text).map_err(unusable)?;
    warn_if_exposed(path, &file);
    Ok(key)
}

#[cfg(unix)]
fn warn_if_exposed(path: &Path, file: &File) {
    use std::os::unix::fs::MetadataExt;
    if let Ok(metadata) = file.metadata()
        && metadata.mode() & 0o077 != 0
    {
        let (path, mode) = (path.display(), metadata.mode() & 0o7777);
        warn!(
            sender = "sftpd",
            console = true,
            "host key {path} has mode {mode:04o}, others than its owner have access to it; 0600 is right"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_exposed(_path: &Path, _file: &File) {}

/// Reads a private key in any of the supported forms and tries it.
fn parse(text: &str) -> Result<PrivateKey, String> {
    let encrypted = || "it is protected by a passphrase, which a server cannot type".to_owned();
    let mut lines = text.lines().map(str::trim_end);
    let Some(label) = lines.by_ref().find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
    else {
        return Err("it is not a private key in PEM or OpenSSH form".to_owned());
    };
    match label {
        "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "PRIVATE KEY" | "OPENSSH PRIVATE KEY" | "EC PARAMETERS" => {}
        "ENCRYPTED PRIVATE KEY" => return Err(encrypted()),
        "DSA PRIVATE KEY" => return Err(DSA.to_owned()),
        label if label.contains("PUBLIC") => return Err("it is a public key, not the private one".to_owned()),
        label => return Err(format!("{label} is not a supported form of private key")),
    }
    if lines.any(|line| line.starts_with("Proc-Type:") && line.ends_with("ENCRYPTED")) {
        return Err(encrypted());
    }
    // The library does not expect blanks at the end of a line.
    let text = Zeroizing::new(text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect::<String>());
    let key = russh::keys::decode_secret_key(&text, None).map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => encrypted(),
        russh::keys::Error::UnknownAlgorithm(oid) if oid.to_string() == DSA_OID => DSA.to_owned(),
        error => format!("it cannot be read as {label}: {error}"),
    })?;
    check(&key)?;
    Ok(key)
}

const DSA: &str = "DSA keys are limited to 1024 bits and SHA-1 and are not supported";
const DSA_OID: &str = "1.2.840.10040.4.1";

fn check(key: &PrivateKey) -> Result<(), String> {
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => {}
        Algorithm::Rsa { .. } => {
            let bits = key.public_key().key_data().rsa().map_or(0, |rsa| rsa.key_size());
            if bits < MIN_RSA_BITS {
                return Err(format!("RSA keys need {MIN_RSA_BITS} bits or more, this one has {bits}"));
            }
        }
        Algorithm::Dsa => return Err(DSA.to_owned()),
        other => return Err(format!("{other} keys cannot be host keys")),
    }
    // A file whose halves do not belong together would let no client in.
    const PROBE: &[u8] = b"host key";
    let signature: Result<Signature, _> = key.try_sign(PROBE);
    match signature.map(|signature| Verifier::verify(key.public_key(), PROBE, &signature)) {
        Ok(Ok(())) => Ok(()),
        _ => Err("its private part does not belong to its public part".to_owned()),
    }
}

fn generate_rsa_pem() -> Result<Pem, HostKeyError> {
    rsa_pem(KeySize::Rsa4096)
}

/// A new RSA key as PKCS#1 PEM.
fn rsa_pem(size: KeySize) -> Result<Pem, HostKeyError> {
    let failed = || HostKeyError::Generate("RSA key generation failed".to_owned());
    let pair = RsaKeyPair::generate(size).map_err(|_| failed())?;
    let pkcs8: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| failed())?;
    let pkcs1 = pkcs1_in(pkcs8.as_ref()).ok_or_else(failed)?;
    let encoded = Zeroizing::new(BASE64.encode(pkcs1));
    // Room for the whole, so that no copy stays behind when it grows.
    let mut pem = Zeroizing::new(String::with_capacity(encoded.len() + encoded.len() / 64 + 80));
    pem.push_str("-----BEGIN RSA PRIVATE KEY-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END RSA PRIVATE KEY-----\n");
    Ok(pem)
}

/// The `RSAPrivateKey` inside a `PrivateKeyInfo` (RFC 5958 §2): version, algorithm, octet string.
fn pkcs1_in(pkcs8: &[u8]) -> Option<&[u8]> {
    const INTEGER: u8 = 0x02;
    const OCTET_STRING: u8 = 0x04;
    const SEQUENCE: u8 = 0x30;
    let mut fields = element(&mut &pkcs8[..], SEQUENCE)?;
    element(&mut fields, INTEGER)?;
    element(&mut fields, SEQUENCE)?;
    element(&mut fields, OCTET_STRING)
}

/// Takes one DER element with `tag` from the front and returns its content.
fn element<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    (found == tag).then_some(content)
}

/// A new Ed25519 key in OpenSSH's form.
fn generate_ed25519_pem() -> Result<Pem, HostKeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *seed).map_err(|_| HostKeyError::Generate("no random numbers".to_owned()))?;
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.to_openssh(LineEnding::LF).map_err(|error| HostKeyError::Generate(error.to_string()))
}

/// Creates `path` with `content` and mode 0600, complete or not at all; false if something is there already.
fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    let temporary = path.with_file_name(name);
    let result = write_new(&temporary, content).and_then(|()| publish(&temporary, path));
    // After a rename it is gone already.
    let _ = std::fs::remove_file(&temporary);
    result
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives the complete file its name, without ever replacing one that is there.
fn publish(temporary: &Path, path: &Path) -> io::Result<bool> {
    match std::fs::hard_link(temporary, path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        // Not every file system has hard links.
        Err(_) if !path.try_exists()? => std::fs::rename(temporary, path)?,
        Err(error) => return Err(error),
    }
    #[cfg(unix)]
    if let Some(directory) = path.parent() {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        // The key itself is safe; without this, a crash now could only lose its name.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
