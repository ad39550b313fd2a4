//! HTTPS (`httpd.certificate_file`, `httpd.certificate_key_file`): certificate and key are read at the start
//! and again when one of the files changes. TLS 1.2 and 1.3; the handshake has ten seconds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

use crate::watch::Watched;

/// How long a client may take for the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Certificates and keys are a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The first byte of every TLS connection: a record of the type *handshake* (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 0x16;

/// What a client gets that speaks HTTP where HTTPS is spoken.
const PLAIN_REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 54\r\nConnection: close\r\n\r\nThis port speaks HTTPS: use an address with https://.\n";

/// Why there can be no HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("httpd.{option} {}: {what}", path.display())]
    File {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The two files do not fit together, or cannot be used for TLS.
    #[error(
        "httpd.certificate_file {} and httpd.certificate_key_file {} cannot be used together: {what}",
        certificate.display(),
        key.display()
    )]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The TLS side of a listener.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads certificate chain and key, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`] that names the option and the file.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = |error: rustls::Error| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            what: error.to_string(),
        };
        let certificate = Arc::new(Certificate::load(certificate, key, Arc::clone(&provider))?);
        let builder = ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Takes over certificate and key if they have changed. A pair that cannot be used changes nothing and is
    /// logged.
    pub(crate) fn reload(&self) {
        self.certificate.reload();
    }

    /// Shakes hands with a client. One that speaks plain HTTP is told so.
    ///
    /// # Errors
    /// The client speaks no TLS, or not in time.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        timeout(HANDSHAKE_LIMIT, self.shake_hands(stream)).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake takes more than 10 seconds"))
        })
    }

    async fn shake_hands(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            // What the client has sent must be read, or closing resets the connection before it sees the answer.
            let _request = stream.read(&mut [0; 4096]).await?;
            stream.write_all(PLAIN_REFUSAL).await?;
            stream.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
        }
        self.acceptor.accept(stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate.path).finish_non_exhaustive()
    }
}

/// The certificate in use, and where it came from.
#[derive(Debug)]
struct Certificate {
    path: PathBuf,
    key_path: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
    watched: Mutex<Watched>,
}

impl Certificate {
    fn load(path: &Path, key_path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let watched = Mutex::new(Watched::new(&[path, key_path]));
        let current = RwLock::new(Arc::new(read(path, key_path, &provider)?));
        Ok(Self { path: path.to_owned(), key_path: key_path.to_owned(), provider, current, watched })
    }

    fn reload(&self) {
        if !self.watched.lock().unwrap_or_else(PoisonError::into_inner).changed() {
            return;
        }
        match read(&self.path, &self.key_path, &self.provider) {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                info!(sender = "httpd", "certificate read from {}", self.path.display());
            }
            // Also between the moments when one file is replaced and the other one: the next look finds both.
            Err(error) => error!(sender = "httpd", "the certificate stays as it was: {error}"),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(path: &Path, key_path: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let failed = |what: String| TlsError::File { option: "certificate_file", path: path.to_owned(), what };
    let text = file(path).map_err(failed)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| failed(format!("it is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(failed("it holds no certificate in PEM".to_owned()));
    }
    let failed =
        |what: String| TlsError::File { option: "certificate_key_file", path: key_path.to_owned(), what };
    let text = file(key_path).map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| failed(format!("it holds no private key in PEM without a passphrase: {error}")))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Pair {
        certificate: path.to_owned(),
        key: key_path.to_owned(),
        what: error.to_string(),
    })
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    let found = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !found.is_file() || found.len() > MAX_FILE_BYTES {
        return Err(format!("it is not a file of at most {MAX_FILE_BYTES} bytes"));
    }
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}
