//! One log line and one count per request (`spec/config-cli.md` §4.3, `spec/rest-api.md` §1), and the line
//! about a handler that panicked.

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use hyper::body::Body;
use tidegate_core::Metrics;
use tracing::{error, info};

use crate::auth::SignedIn;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Texts of the client are cut to this in log lines.
const MAX_TEXT_CHARS: usize = 2048;

/// Writes the request log and counts requests.
#[derive(Debug)]
pub(crate) struct RequestLog {
    metrics: Metrics,
    addr: SocketAddr,
    scheme: &'static str,
    id_prefix: String,
    next_id: AtomicU64,
}

/// A request under way, as the log will show it.
#[derive(Debug)]
pub(crate) struct Entry {
    started: Instant,
    method: String,
    proto: String,
    remote_addr: String,
    /// The other end of the connection, where `remote_addr` is what a header says.
    peer_addr: Option<String>,
    request_id: String,
    uri: String,
    user_agent: String,
}

impl RequestLog {
    /// Logs the requests to a server that listens on `addr`, with TLS or without.
    pub(crate) fn new(metrics: Metrics, addr: SocketAddr, tls: bool) -> Self {
        let id_prefix = format!("{}/{}", host_name(), random_alphanumeric());
        let scheme = if tls { "https" } else { "http" };
        Self { metrics, addr, scheme, id_prefix, next_id: AtomicU64::new(1) }
    }

    /// Notes what is known when a request arrives.
    pub(crate) fn begin(&self, request: &Request, peer: SocketAddr) -> Entry {
        let headers = request.headers();
        let forwarded =
            text(headers, &X_FORWARDED_FOR).and_then(|all| all.split(", ").next().map(str::to_owned));
        let remote_addr = forwarded.filter(|first| !first.is_empty()).or_else(|| text(headers, &X_REAL_IP));
        let uri = match text(headers, &header::HOST) {
            _ if request.uri().scheme().is_some() => request.uri().to_string(),
            Some(host) => format!("{}://{host}{}", self.scheme, request.uri()),
            None => format!("{}://{}{}", self.scheme, self.addr, request.uri()),
        };
        Entry {
            started: Instant::now(),
            method: request.method().to_string(),
            proto: format!("{:?}", request.version()),
            peer_addr: remote_addr.is_some().then(|| shown(peer)),
            remote_addr: remote_addr.unwrap_or_else(|| shown(peer)),
            request_id: text(headers, &X_REQUEST_ID).unwrap_or_else(|| self.new_id()),
            uri: cut(&uri),
            user_agent: text(headers, &header::USER_AGENT).unwrap_or_default(),
        }
    }

    /// Writes the line and counts the answer.
    pub(crate) fn end(&self, entry: &Entry, response: &Response) {
        let status = response.status().as_u16();
        self.metrics.http_request(status);
        let elapsed = entry.started.elapsed();
        info!(
            sender = "httpd",
            method = entry.method,
            proto = entry.proto,
            remote_addr = entry.remote_addr,
            request_id = entry.request_id,
            uri = entry.uri,
            user_agent = entry.user_agent,
            resp_status = status,
            resp_size = response.body().size_hint().exact().unwrap_or_default(),
            elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            peer_addr = entry.peer_addr,
            user = response.extensions().get::<SignedIn>().map(|who| who.0.as_str()),
        );
    }

    /// Counts a defect of ours and writes its line. The stack was lost with it: the program's panic hook has it.
    pub(crate) fn panicked(&self, entry: &Entry, panic: &str) {
        self.metrics.panicked();
        error!(
            sender = "httpd",
            request_id = entry.request_id,
            panic,
            "the handler of {} {} panicked",
            entry.method,
            entry.uri
        );
    }

    fn new_id(&self) -> String {
        format!("{}-{:06}", self.id_prefix, self.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

/// Runs a handler; its panic ends this request only.
pub(crate) async fn catch_panic<F: Future>(handler: F) -> Result<F::Output, String> {
    let mut handler = pin!(handler);
    std::future::poll_fn(move |cx| {
        // A handler that panicked is never polled again; core's locks survive a panic.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_text(&*panic))),
        }
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(cut(&String::from_utf8_lossy(value.as_bytes()))).filter(|text| !text.is_empty())
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn shown(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// Ten characters that tell the runs of the server apart; nothing secret.
fn random_alphanumeric() -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = RandomState::new().hash_one(std::process::id());
    let mut next = || {
        let digit = random % 62;
        random /= 62;
        usize::try_from(digit).map_or('A', |digit| char::from(ALPHABET[digit]))
    };
    (0..10).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(headers: &[(&str, &str)]) -> Entry {
        let log = RequestLog::new(Metrics::new(), "127.0.0.1:8080".parse().unwrap(), false);
        let mut request = axum::http::Request::builder().uri("/api/v1/user?limit=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        log.begin(
            &request.body(axum::body::Body::empty()).unwrap(),
            "[::ffff:192.0.2.7]:50000".parse().unwrap(),
        )
    }

    #[test]
    fn the_address_that_is_logged() {
        for (headers, expected) in [
            (&[][..], "192.0.2.7:50000"),
            (&[("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
            (&[("x-forwarded-for", "198.51.100.1, 10.0.0.1"), ("x-real-ip", "10.9.9.9")], "198.51.100.1"),
            (&[("x-real-ip", "10.9.9.9")], "10.9.9.9"),
            (&[("x-forwarded-for", "")], "192.0.2.7:50000"),
        ] {
            assert_eq!(begin(headers).remote_addr, expected, "{headers:?}");
        }
    }

    #[test]
    fn the_uri_names_the_host() {
        assert_eq!(begin(&[("host", "localhost:8080")]).uri, "http://localhost:8080/api/v1/user?limit=1");
        assert_eq!(begin(&[]).uri, "http://127.0.0.1:8080/api/v1/user?limit=1");
    }

    #[test]
    fn request_ids() {
        assert_eq!(begin(&[("x-request-id", "mine")]).request_id, "mine");
        let id = begin(&[("x-request-id", "")]).request_id;
        let (host, rest) = id.rsplit_once('/').unwrap();
        let (random, counter) = rest.split_once('-').unwrap();
        assert!(!host.is_empty() && random.len() == 10 && counter == "000001", "{id}");
        assert!(random.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
    }

    #[tokio::test]
    async fn a_panic_becomes_text() {
        assert_eq!(catch_panic(async { 7 }).await, Ok(7));
        let bad: Result<(), _> = catch_panic(async { panic!("value {}", 7) }).await;
        assert_eq!(bad, Err("value 7".to_owned()));
    }
}
