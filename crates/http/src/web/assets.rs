//! The files that the pages need, under `/static/`: embedded in the program, and replaced by files of the same
//! name in `httpd.static_files_path`, where more may lie.
//!
//! The embedded names are read once, at the start, so that a page never refers to half a file. Their address on
//! a page carries a hash of the content (`app.css?v=…`): asked for by that address, a browser may keep them for
//! good. Nothing here is secret, so no sign-in is needed.

use std::collections::HashMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::{error, warn};

use crate::error::{ApiError, internal};
use crate::web::pages::Pages;

/// Larger files of the directory are not served.
const MAX_FILE_BYTES: u64 = 8 << 20;

const EMBEDDED: [(&str, &[u8]); 9] = [
    ("app.css", include_bytes!("../../static/app.css")),
    ("app.js", include_bytes!("../../static/app.js")),
    ("user.js", include_bytes!("../../static/user.js")),
    ("theme.js", include_bytes!("../../static/theme.js")),
    ("live.css", include_bytes!("../../static/live.css")),
    ("live.js", include_bytes!("../../static/live.js")),
    ("htmx.min.js", include_bytes!("../../static/htmx.min.js")),
    ("favicon.svg", include_bytes!("../../static/favicon.svg")),
    ("favicon.ico", include_bytes!("../../static/favicon.ico")),
];

/// What is served under `/static/`.
#[derive(Debug, Clone)]
pub(crate) struct Assets {
    known: Arc<HashMap<&'static str, Asset>>,
    dir: Arc<PathBuf>,
}

/// One file, ready to be sent.
#[derive(Debug)]
struct Asset {
    content: Bytes,
    content_type: &'static str,
    hash: String,
    gzip: OnceLock<Option<Bytes>>,
}

impl Asset {
    fn new(name: &str, content: Bytes) -> Self {
        let hash = digest::digest(&digest::SHA256, &content);
        let hash = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { content, content_type: content_type(name), hash, gzip: OnceLock::new() }
    }

    /// The content compressed, if that makes it smaller.
    fn gzip(&self) -> Option<Bytes> {
        let compress = || {
            if self.content_type.starts_with("image/png") || self.content_type.starts_with("font/") {
                return None;
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(&self.content).ok()?;
            let small = encoder.finish().ok()?;
            (small.len() < self.content.len()).then(|| small.into())
        };
        self.gzip.get_or_init(compress).clone()
    }

    fn answer(&self, query: Option<&str>, asked: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", self.hash);
        let versioned =
            query.is_some_and(|query| query.strip_prefix("v=").is_some_and(|version| version == self.hash));
        let keep = if versioned { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        match self.gzip() {
            Some(small) if takes_gzip(asked) => {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                (headers, small).into_response()
            }
            _ => (headers, self.content.clone()).into_response(),
        }
    }
}

impl Assets {
    /// The embedded files, each replaced by the one in `dir` if there is one.
    pub(crate) fn load(dir: &Path) -> Self {
        let load = |(name, embedded): &(&'static str, &'static [u8])| {
            let content = override_of(&dir.join(name)).unwrap_or(Bytes::from_static(embedded));
            (*name, Asset::new(name, content))
        };
        Self { known: Arc::new(EMBEDDED.iter().map(load).collect()), dir: Arc::new(dir.to_owned()) }
    }

    /// The address of a file for use on a page.
    pub(crate) fn address(&self, name: &str) -> String {
        match self.known.get(name) {
            Some(asset) => format!("/static/{name}?v={}", asset.hash),
            None => format!("/static/{name}"),
        }
    }

    async fn serve(&self, name: &str, query: Option<&str>, asked: &HeaderMap) -> Response {
        if let Some(asset) = self.known.get(name) {
            return asset.answer(query, asked);
        }
        if !is_plain(name) {
            return ApiError::NoSuchPath.into_response();
        }
        let (dir, name) = (Arc::clone(&self.dir), name.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            read_within(&dir, &name).map(|content| content.map(|content| Asset::new(&name, content)))
        });
        match read.await {
            Ok(Ok(Some(asset))) => asset.answer(query, asked),
            Ok(Ok(None)) => ApiError::NoSuchPath.into_response(),
            Ok(Err(failure)) => {
                error!(sender = "httpd", "cannot read a file of httpd.static_files_path: {failure}");
                internal()
            }
            Err(_) => internal(),
        }
    }
}

/// `GET /static/*`
pub(crate) async fn serve(State(pages): State<Pages>, request: Request) -> Response {
    let name = request.uri().path().strip_prefix("/static/").unwrap_or_default().to_owned();
    pages.assets().serve(&name, request.uri().query(), request.headers()).await
}

fn override_of(path: &Path) -> Option<Bytes> {
    match std::fs::read(path) {
        Ok(content) => Some(content.into()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
        Err(error) => {
            warn!(sender = "httpd", "cannot read {}, the built-in one is used: {error}", path.display());
            None
        }
    }
}

/// Names without anything to decode, to climb up or to hide: letters, digits, `-`, `_`, `.` between `/`.
fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    })
}

/// Reads a regular file that, with links followed, lies in `dir`.
fn read_within(dir: &Path, name: &str) -> std::io::Result<Option<Bytes>> {
    let gone =
        |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let found = dir.canonicalize().and_then(|dir| Ok((dir.join(name).canonicalize()?, dir)));
    let path = match found {
        Ok((path, dir)) if path.starts_with(&dir) => path,
        Ok(_) => return Ok(None),
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = std::fs::metadata(&path)?;
    if !about.is_file() || about.len() > MAX_FILE_BYTES {
        return Ok(None);
    }
    Ok(Some(std::fs::read(path)?.into()))
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let Some(accepted) = asked.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        name.eq_ignore_ascii_case("gzip") && !refused
    })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "ico" => "image/x-icon",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "json" | "map" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn everything_together_stays_small() {
        let assets = Assets::load(Path::new("/nonexistent"));
        let sum: usize =
            assets.known.values().map(|a| a.gzip().map_or(a.content.len(), |small| small.len())).sum();
        assert!(sum < 300_000, "all assets take {sum} bytes compressed");
    }

    #[tokio::test]
    async fn an_address_with_the_hash_may_be_kept_for_good() {
        let assets = Assets::load(Path::new("/nonexistent"));
        let address = assets.address("app.css");
        let (path, query) = address.split_once('?').unwrap();
        assert_eq!(path, "/static/app.css");
        for (query, keep) in
            [(Some(query), "immutable"), (None, "no-cache"), (Some("v=0123456789abcdef"), "no-cache")]
        {
            let answer = assets.serve("app.css", query, &HeaderMap::new()).await;
            let control = answer.headers()[header::CACHE_CONTROL].to_str().unwrap().to_owned();
            assert!(control.contains(keep), "{query:?}: {control}");
            assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/css; charset=utf-8");
        }
    }

    #[tokio::test]
    async fn compressed_if_asked_for_and_not_sent_twice() {
        let assets = Assets::load(Path::new("/nonexistent"));
        let coding = async |accepted: &str| {
            let asked = headers(&[(header::ACCEPT_ENCODING, accepted)]);
            let answer = assets.serve("app.css", None, &asked).await;
            answer.headers().get(header::CONTENT_ENCODING).cloned()
        };
        assert_eq!(coding("br, gzip").await.unwrap(), "gzip");
        assert_eq!(coding("gzip;q=0").await, None);
        assert_eq!(coding("identity").await, None);
        let first = assets.serve("app.js", None, &HeaderMap::new()).await;
        let tag = first.headers()[header::ETAG].to_str().unwrap();
        let again = assets.serve("app.js", None, &headers(&[(header::IF_NONE_MATCH, tag)])).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn files_of_the_directory_replace_and_add() {
        let dir = std::env::temp_dir().join(format!("tidegate-assets-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("img")).unwrap();
        std::fs::write(dir.join("app.css"), "body{}").unwrap();
        std::fs::write(dir.join("img/logo.png"), "png").unwrap();
        std::fs::write(dir.join(".secret"), "no").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", dir.join("passwd")).unwrap();
        let assets = Assets::load(&dir);
        let get = async |name: &str| {
            let answer = assets.serve(name, None, &HeaderMap::new()).await;
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        assert_eq!(get("app.css").await, (200, "body{}".to_owned()));
        assert_eq!(get("img/logo.png").await, (200, "png".to_owned()));
        assert_eq!(get("favicon.ico").await.0, 200);
        let hidden =
            ["", ".secret", "passwd", "img", "img/../app.css", "../assets.rs", "img//logo.png", "%61"];
        for name in hidden {
            assert_eq!(get(name).await.0, 404, "{name}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
