//! What a web page of somebody else could make a browser send is refused (`spec/rest-api.md` §7.1).
//!
//! A form on any page can post here, and a name that suddenly points to 127.0.0.1 makes any page "same
//! origin" (DNS rebinding). Where no sign-in is configured, every request must therefore name this server in
//! `Host`; where one is, a browser has no cookie and no password for a foreign name. Requests that change
//! something must in both cases come from a page of this server, if they come from a page at all: programs send
//! no `Origin` and pass.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderName, Method, Version, header};

use crate::error::ApiError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Scheme, host and port of a web site: `https://admin.example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    authority: Authority,
}

impl Origin {
    /// Reads an origin as browsers write it; `None` if the text is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (scheme, written) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let authority =
            uri.authority().filter(|found| found.as_str() == written.trim_end_matches('/'))?.clone();
        let is_plain =
            uri.path_and_query().is_none_or(|path| path == "/") && !authority.as_str().contains('@');
        (is_plain && default_port(&scheme).is_some() && !authority.host().is_empty())
            .then_some(Self { scheme, authority })
    }

    /// Whether a `Host` header means this site.
    fn is_named_by(&self, host: &Authority) -> bool {
        same_place(&self.authority, host, default_port(&self.scheme))
    }
}

/// The names under which this server may be addressed.
#[derive(Debug)]
pub(crate) struct Guard {
    loopback: bool,
    own_name: String,
    trusted: Vec<Origin>,
    open: bool,
}

impl Guard {
    /// Guards a server that listens on `ip`, configured as `bind_address`, and that a reverse proxy offers as
    /// `trusted`. `open` says that nobody has to sign in.
    pub(crate) fn new(ip: IpAddr, bind_address: &str, trusted: Vec<Origin>, open: bool) -> Self {
        let loopback = ip.to_canonical().is_loopback();
        Self { loopback, own_name: bind_address.to_owned(), trusted, open }
    }

    /// Passes requests that cannot come from a foreign page, or give it nothing.
    pub(crate) fn check(&self, request: &Request) -> Result<(), ApiError> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        if reads && !self.open {
            return Ok(());
        }
        let host = self.check_host(request)?;
        let headers = request.headers();
        // A link on another site may lead here: only what it shows does not reach that site.
        if !reads && headers.get_all(SEC_FETCH_SITE).iter().any(|site| is_foreign(site.as_bytes())) {
            return forbidden("the request comes from another web site");
        }
        self.check_origin(headers, host.as_ref())
    }

    fn check_host(&self, request: &Request) -> Result<Option<Authority>, ApiError> {
        let Some(sent) = single(request.headers(), &header::HOST)? else {
            // HTTP/1.0 has no Host, and no browser speaks it.
            if request.version() == Version::HTTP_10 && request.uri().authority().is_none() {
                return Ok(None);
            }
            return forbidden("the Host header is missing");
        };
        let Some(host) = authority(sent) else {
            return forbidden(format!("the Host header {sent:?} is not valid"));
        };
        // A target in absolute form names the host as well, and must not name another one.
        if request.uri().authority().is_some_and(|target| !same_place(target, &host, None)) {
            return forbidden(format!("the request target names another host than the Host header {sent:?}"));
        }
        if !self.is_ours(&host) {
            return forbidden(format!(
                "the Host header {sent:?} is not a name of this server: behind a reverse proxy, add its \
                 address to httpd.trusted_origins"
            ));
        }
        Ok(Some(host))
    }

    /// Whether a `Host` may mean this server. Who has to sign in is safe from DNS rebinding: the browser keeps
    /// cookies and passwords per name. So is nobody who listens openly for other machines, unless
    /// `httpd.trusted_origins` says under which names.
    fn is_ours(&self, host: &Authority) -> bool {
        if !self.open || (!self.loopback && self.trusted.is_empty()) {
            return true;
        }
        let name = host.host();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        let is_address =
            bare.parse::<IpAddr>().is_ok_and(|ip| !self.loopback || ip.to_canonical().is_loopback());
        is_address
            || bare.eq_ignore_ascii_case("localhost")
            || bare.eq_ignore_ascii_case(&self.own_name)
            || self.trusted.iter().any(|origin| origin.is_named_by(host))
    }

    fn check_origin(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), ApiError> {
        let Some(origin) = single(headers, &header::ORIGIN)? else { return Ok(()) };
        let is_own = Origin::parse(origin).is_some_and(|origin| {
            self.trusted
                .iter()
                .any(|trusted| origin.scheme == trusted.scheme && trusted.is_named_by(&origin.authority))
                || host.is_some_and(|host| origin.is_named_by(host))
        });
        if is_own { Ok(()) } else { forbidden(format!("the Origin {origin:?} is not this server")) }
    }
}

fn is_foreign(site: &[u8]) -> bool {
    site.eq_ignore_ascii_case(b"cross-site")
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn same_place(one: &Authority, other: &Authority, default_port: Option<u16>) -> bool {
    let port = |authority: &Authority| authority.port_u16().or(default_port);
    one.host().eq_ignore_ascii_case(other.host()) && port(one) == port(other) && !one.as_str().contains('@')
}

/// `name`, `name:port`, `[v6]:port`; nothing else.
fn authority(text: &str) -> Option<Authority> {
    let parsed: Authority = text.parse().ok()?;
    let rest = text.strip_prefix(parsed.host())?;
    let port_is_valid = rest.is_empty() || (rest.starts_with(':') && parsed.port_u16().is_some());
    (port_is_valid && !parsed.host().is_empty()).then_some(parsed)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return forbidden(format!("there is more than one {name} header"));
    }
    match first.map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text.trim())),
        Some(Err(_)) => forbidden(format!("the {name} header is not valid")),
    }
}

fn forbidden<T>(why: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Forbidden(why.into()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn admits(guard: &Guard, method: &str, version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = axum::http::Request::builder().method(method).uri("/api/v1/user").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn host_and_origin_on_a_loopback_listener() {
        let guard = Guard::new("127.0.0.1".parse().unwrap(), "127.0.0.1", Vec::new(), true);
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);
        let rows: &[Row<'_>] = &[
            ("own address", &[("host", "127.0.0.1:8080")], true),
            ("address without a port", &[("host", "127.0.0.1")], true),
            ("any loopback address", &[("host", "127.9.9.9:1")], true),
            ("localhost", &[("host", "localhost:8080")], true),
            ("case does not matter", &[("host", "LocalHost")], true),
            ("IPv6 loopback", &[("host", "[::1]:8080")], true),
            ("mapped loopback", &[("host", "[::ffff:127.0.0.1]:8080")], true),
            ("no host", &[], false),
            ("empty host", &[("host", "")], false),
            ("foreign name", &[("host", "evil.example")], false),
            ("name that starts like ours", &[("host", "localhost.evil.example")], false),
            ("address that starts like ours", &[("host", "127.0.0.1.evil.example")], false),
            ("user part", &[("host", "localhost@evil.example")], false),
            ("user part that looks like a host", &[("host", "evil.example@localhost")], false),
            ("bad port", &[("host", "localhost:x")], false),
            ("port too large", &[("host", "localhost:65536")], false),
            ("bare IPv6", &[("host", "::1")], false),
            ("routable address", &[("host", "192.0.2.1:8080")], false),
            ("all interfaces", &[("host", "0.0.0.0:8080")], false),
            ("two hosts", &[("host", "localhost"), ("host", "localhost")], false),
            ("own origin", &[("host", "localhost:8080"), ("origin", "http://localhost:8080")], true),
            ("own origin, default port", &[("host", "localhost"), ("origin", "http://localhost:80")], true),
            ("own origin behind TLS", &[("host", "localhost"), ("origin", "https://localhost")], true),
            ("another port", &[("host", "localhost:8080"), ("origin", "http://localhost:3000")], false),
            ("no port", &[("host", "localhost:8080"), ("origin", "http://localhost")], false),
            (
                "another name of ours",
                &[("host", "127.0.0.1:8080"), ("origin", "http://localhost:8080")],
                false,
            ),
            ("foreign origin", &[("host", "localhost"), ("origin", "http://evil.example")], false),
            ("null origin", &[("host", "localhost"), ("origin", "null")], false),
            ("empty origin", &[("host", "localhost"), ("origin", "")], false),
            ("origin without a scheme", &[("host", "localhost"), ("origin", "localhost")], false),
            ("origin with a user", &[("host", "localhost"), ("origin", "http://x@localhost")], false),
            ("rebinding", &[("host", "evil.example"), ("origin", "http://evil.example")], false),
            ("cross-site", &[("host", "localhost"), ("sec-fetch-site", "cross-site")], false),
            ("same-origin", &[("host", "localhost"), ("sec-fetch-site", "same-origin")], true),
            ("typed by the user", &[("host", "localhost"), ("sec-fetch-site", "none")], true),
        ];
        for (what, headers, admitted) in rows {
            for method in ["POST", "PUT", "DELETE", "PATCH"] {
                assert_eq!(admits(&guard, method, Version::HTTP_11, headers), *admitted, "{what}: {method}");
            }
            let reads = *admitted || *what == "cross-site";
            assert_eq!(admits(&guard, "GET", Version::HTTP_11, headers), reads, "{what}: GET");
        }
        assert!(admits(&guard, "POST", Version::HTTP_10, &[]), "HTTP/1.0 has no Host");
        assert!(!admits(&guard, "POST", Version::HTTP_10, &[("origin", "http://evil.example")]));
    }

    #[test]
    fn an_open_listener_takes_any_host_but_no_foreign_origin() {
        let guard = Guard::new("0.0.0.0".parse().unwrap(), "", Vec::new(), true);
        let admits = |headers: &[(&str, &str)]| admits(&guard, "POST", Version::HTTP_11, headers);
        assert!(admits(&[("host", "files.example")]));
        assert!(admits(&[("host", "files.example"), ("origin", "https://files.example:443")]));
        assert!(!admits(&[("host", "files.example"), ("origin", "https://evil.example")]));
        assert!(!admits(&[]));
    }

    #[test]
    fn the_configured_name_is_ours() {
        let guard = Guard::new("::1".parse().unwrap(), "admin.internal", Vec::new(), true);
        assert!(admits(&guard, "POST", Version::HTTP_11, &[("host", "Admin.Internal:8080")]));
        assert!(!admits(&guard, "POST", Version::HTTP_11, &[("host", "other.internal:8080")]));
    }

    #[test]
    fn an_absolute_target_must_agree_with_the_host() {
        let guard = Guard::new("127.0.0.1".parse().unwrap(), "127.0.0.1", Vec::new(), true);
        let post = |uri: &str| {
            let request =
                axum::http::Request::builder().method("POST").uri(uri).header("host", "localhost:80");
            guard.check(&request.body(Body::empty()).unwrap()).is_ok()
        };
        assert!(post("http://localhost:80/api/v1/user"));
        assert!(!post("http://evil.example/api/v1/user"));
    }

    fn origins(texts: &[&str]) -> Vec<Origin> {
        texts.iter().map(|text| Origin::parse(text).unwrap()).collect()
    }

    #[test]
    fn who_signs_in_may_use_any_name_but_no_foreign_page() {
        let guard = Guard::new("127.0.0.1".parse().unwrap(), "127.0.0.1", Vec::new(), false);
        let admits =
            |method: &str, headers: &[(&str, &str)]| admits(&guard, method, Version::HTTP_11, headers);
        let proxied = [("host", "admin.example"), ("origin", "https://admin.example")];
        assert!(admits("GET", &[("host", "admin.example")]));
        assert!(admits("GET", &[("host", "admin.example"), ("origin", "https://evil.example")]));
        assert!(admits("POST", &proxied));
        assert!(!admits("POST", &[("host", "admin.example"), ("origin", "https://evil.example")]));
        assert!(!admits("POST", &[("host", "admin.example"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn origins_of_a_reverse_proxy() {
        let trusted = || origins(&["https://admin.example", "http://[2001:db8::1]:3000"]);
        for (ip, open) in [("127.0.0.1", true), ("127.0.0.1", false), ("0.0.0.0", true)] {
            let guard = Guard::new(ip.parse().unwrap(), ip, trusted(), open);
            let admits = |headers: &[(&str, &str)]| admits(&guard, "POST", Version::HTTP_11, headers);
            assert!(admits(&[("host", "admin.example"), ("origin", "https://admin.example")]), "{ip}");
            assert!(admits(&[("host", "admin.example:443")]), "{ip}");
            assert!(admits(&[("host", "127.0.0.1:8080"), ("origin", "https://admin.example")]), "{ip}");
            assert!(admits(&[("host", "127.0.0.1:8080"), ("origin", "https://ADMIN.example:443")]), "{ip}");
            assert!(admits(&[("host", "[2001:db8::1]:3000")]), "{ip}");
            assert!(!admits(&[("host", "127.0.0.1:8080"), ("origin", "http://admin.example")]), "{ip}");
            assert!(!admits(&[("host", "127.0.0.1:8080"), ("origin", "https://x.admin.example")]), "{ip}");
            assert_eq!(admits(&[("host", "evil.example")]), !open, "{ip}");
        }
        let guard = Guard::new("0.0.0.0".parse().unwrap(), "", trusted(), true);
        assert!(admits(&guard, "POST", Version::HTTP_11, &[("host", "192.0.2.1:8080")]), "an address");
    }
}
