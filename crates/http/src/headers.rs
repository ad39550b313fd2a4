//! Headers of every answer: what a browser must not do with it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const SECURE: [(HeaderName, &str); 8] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// Browsers that have seen the server over HTTPS use nothing else for a year. Only for this host name: the
/// names below it may be somebody else's.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds what the handler did not set itself; `https` says how the browser came here.
pub(crate) fn secure(headers: &mut HeaderMap, https: bool) {
    if https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    for (name, value) in SECURE {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
