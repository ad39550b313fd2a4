//! The templates of the pages: embedded in the program, and replaced by files of the same name in
//! `httpd.templates_path`.
//!
//! All are read once, at the start, so a page never consists of half a file. A file that cannot be used does not
//! silently give way to the built-in one: its page says what is wrong in which line, and so does the log. Only
//! the templates of the server that this one replaces, which may lie in the same directory and are written in
//! another language, are passed over with a warning.
//!
//! [`View`] is how a handler reaches them. Every page knows `visitor`, `csrf` and `version`; what else it needs
//! is handed over with it.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts as RequestParts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use tracing::{error, warn};

use crate::auth::Visitor;
use crate::error::internal;
use crate::state::VersionInfo;
use crate::web::assets::Assets;
use crate::web::text;

/// What a page may load, and from where: its own files, and nothing written into the page itself.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// Instructions that a template may take: a page of a hundred users needs about forty thousand.
const FUEL: u64 = 5_000_000;

const EMBEDDED: [(&str, &str); 16] = [
    ("api.html", include_str!("../../templates/api.html")),
    ("base.html", include_str!("../../templates/base.html")),
    ("macros.html", include_str!("../../templates/macros.html")),
    ("message.html", include_str!("../../templates/message.html")),
    ("login.html", include_str!("../../templates/login.html")),
    ("users.html", include_str!("../../templates/users.html")),
    ("delete.html", include_str!("../../templates/delete.html")),
    ("user.html", include_str!("../../templates/user.html")),
    ("dashboard.html", include_str!("../../templates/dashboard.html")),
    ("connections.html", include_str!("../../templates/connections.html")),
    ("disconnect.html", include_str!("../../templates/disconnect.html")),
    ("backup.html", include_str!("../../templates/backup.html")),
    ("restore.html", include_str!("../../templates/restore.html")),
    ("restored.html", include_str!("../../templates/restored.html")),
    ("live.html", include_str!("../../templates/live.html")),
    ("piece.html", include_str!("../../templates/piece.html")),
];

/// The templates, and the files that the pages need.
#[derive(Clone)]
pub(crate) struct Pages {
    shared: Arc<Shared>,
}

struct Shared {
    /// With the files of `templates_path`.
    env: Environment<'static>,
    /// Without, for the page that says what is wrong with one of them.
    plain: Environment<'static>,
    /// What is wrong with which template.
    broken: HashMap<&'static str, String>,
    dir: PathBuf,
    assets: Assets,
    version: String,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl Pages {
    /// Reads the templates and the other files.
    pub(crate) fn load(templates: &Path, static_files: &Path, version: &VersionInfo) -> Self {
        let assets = Assets::load(static_files);
        let (mut env, mut plain) = (environment(&assets), environment(&assets));
        let mut broken = HashMap::new();
        for (name, embedded) in EMBEDDED {
            let builtin = plain.add_template(name, embedded);
            debug_assert!(builtin.is_ok(), "{name}: {builtin:?}");
            let outcome = match override_of(&templates.join(name)) {
                Ok(None) => env.add_template(name, embedded).map_err(|error| error.to_string()),
                Ok(Some(source)) => env.add_template_owned(name, source).map_err(|error| place(name, &error)),
                Err(reason) => Err(format!("{name}: {reason}")),
            };
            if let Err(reason) = outcome {
                error!(sender = "httpd", "a template in {} cannot be used: {reason}", templates.display());
                broken.insert(name, reason);
            }
        }
        let shared =
            Shared { env, plain, broken, dir: templates.to_owned(), assets, version: full_version(version) };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn assets(&self) -> &Assets {
        &self.shared.assets
    }

    /// Renders a page for `visitor`, with `context` and what every page knows.
    pub(crate) fn render(
        &self,
        visitor: &Visitor,
        status: StatusCode,
        template: &str,
        context: Value,
    ) -> Response {
        let known = context! {
            visitor => context! { name => &visitor.name },
            csrf => &visitor.csrf,
            version => &self.shared.version,
        };
        // What is on the left wins: a page cannot pretend to be somebody else's.
        let context = context! { ..known.clone(), ..context };
        let reason = match self.try_render(template, &context) {
            Ok(html) => return page(status, html),
            Err(reason) => reason,
        };
        error!(sender = "httpd", "a page cannot be shown, templates {}: {reason}", self.shared.dir.display());
        let text = "One of the templates that this page is made of cannot be used.";
        let context = context! {
            title => "Internal Server Error", text, detail => reason, ..known
        };
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        match self.shared.plain.get_template("message.html").and_then(|message| message.render(context)) {
            Ok(html) => page(status, html),
            Err(failure) => {
                error!(sender = "httpd", "the page for errors cannot be shown: {failure:#}");
                internal()
            }
        }
    }

    /// Renders a part of a page that is followed (`live.html`), for everybody who follows it.
    pub(crate) fn piece(&self, name: &str, data: Value) -> Result<String, String> {
        self.try_render("piece.html", &context! { piece => name, d => data })
    }

    fn try_render(&self, template: &str, context: &Value) -> Result<String, String> {
        // Every page is made of these.
        let live = matches!(template, "dashboard.html" | "connections.html" | "piece.html");
        for part in ["base.html", "macros.html", if live { "live.html" } else { template }, template] {
            if let Some(reason) = self.shared.broken.get(part) {
                return Err(reason.clone());
            }
        }
        let found = self.shared.env.get_template(template).map_err(|error| place(template, &error))?;
        found.render(context).map_err(|error| place(template, &error))
    }
}

fn environment(assets: &Assets) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    env.set_fuel(Some(FUEL));
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    let assets = assets.clone();
    env.add_function("asset", move |name: &str| Value::from_safe_string(assets.address(name)));
    env.add_filter("shown", |text: &str| Value::from_safe_string(text::shown(text)));
    env.add_filter("plain", text::plain);
    env.add_filter("bytes", text::bytes);
    env.add_filter("bandwidth", text::bandwidth);
    env.add_filter("thousands", text::thousands);
    env.add_filter("date", text::date);
    env.add_filter("datetime", text::date_time);
    env.add_filter("iso", text::iso);
    env
}

/// The source in the directory; `None` if there is none that is meant for us.
fn override_of(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(source) if is_foreign(&source) => {
            warn!(
                sender = "httpd",
                "{} is written for another server's template engine, the built-in one is used",
                path.display()
            );
            Ok(None)
        }
        Ok(source) => Ok(Some(source)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether this is a template of the server that we replace: `{{template "base" .}}`, `{{define "title"}}`.
fn is_foreign(source: &str) -> bool {
    ["{{define \"", "{{template \"", "{{ define \"", "{{ template \"", "{{- define \"", "{{- template \""]
        .iter()
        .any(|mark| source.contains(mark))
}

/// What is wrong, with file and line.
fn place(template: &str, error: &minijinja::Error) -> String {
    use std::error::Error as _;
    // What a template includes is named by the innermost error.
    let mut inner = error;
    while let Some(next) = inner.source().and_then(|source| source.downcast_ref::<minijinja::Error>()) {
        inner = next;
    }
    let what = inner.detail().map_or_else(|| inner.kind().to_string(), |d| format!("{}: {d}", inner.kind()));
    let file = inner.name().unwrap_or(template);
    match inner.line() {
        Some(line) => format!("{file}, line {line}: {what}"),
        None => format!("{file}: {what}"),
    }
}

fn full_version(version: &VersionInfo) -> String {
    let build = [&version.commit_hash, &version.build_date];
    let build: Vec<_> = build.into_iter().filter(|part| !part.is_empty()).cloned().collect();
    if build.is_empty() {
        version.version.clone()
    } else {
        format!("{}-{}", version.version, build.join("-"))
    }
}

fn page(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        // With `no-referrer` browsers send `Origin: null` with the forms of a page, and it is refused.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (status, headers, html).into_response()
}

/// The pages as one visitor sees them: an extractor for handlers.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pages: Pages,
    /// Who asks.
    pub(crate) visitor: Visitor,
}

impl<S> FromRequestParts<S> for View
where
    Pages: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut RequestParts, state: &S) -> Result<Self, Response> {
        // Whoever stands at the door leaves it there for every request that may pass.
        let visitor = parts.extensions.get::<Visitor>().cloned().ok_or_else(internal)?;
        Ok(Self { pages: Pages::from_ref(state), visitor })
    }
}

impl View {
    /// A page with status 200. The context should name `title`, and `active` for the entry of the navigation:
    /// `dashboard`, `users`, `connections` or `backup`.
    pub(crate) fn render(&self, template: &str, context: Value) -> Response {
        self.render_as(StatusCode::OK, template, context)
    }

    /// A page with another status.
    pub(crate) fn render_as(&self, status: StatusCode, template: &str, context: Value) -> Response {
        self.pages.render(&self.visitor, status, template, context)
    }

    /// A page that only says something: 400 `Bad request`, 404 `Not found`, 500 `Internal Server Error`, and others.
    pub(crate) fn message(&self, status: StatusCode, detail: &str) -> Response {
        let (title, text) = match status {
            StatusCode::BAD_REQUEST => ("Bad request", "The server cannot make sense of this request."),
            StatusCode::FORBIDDEN => ("Forbidden", "The server does not do this."),
            StatusCode::NOT_FOUND => ("Not found", "The page you are looking for does not exist."),
            StatusCode::INTERNAL_SERVER_ERROR => {
                ("Internal Server Error", "The server could not answer. Its log says more.")
            }
            other => (other.canonical_reason().unwrap_or("Error"), ""),
        };
        self.render_as(status, "message.html", context! { title, text, detail })
    }
}

/// A page that takes the visitor elsewhere once a form is done.
pub(crate) fn see_other(location: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISITOR: Visitor = Visitor { name: None, csrf: String::new() };

    fn pages(dir: &Path) -> Pages {
        let version = VersionInfo { version: "1.2.3".to_owned(), ..VersionInfo::default() };
        Pages::load(dir, Path::new("/nonexistent"), &version)
    }

    async fn show(pages: &Pages, template: &str) -> (u16, String) {
        let context = context! { title => "T<b>", text => "", detail => "x\u{202e}&" };
        let answer = pages.render(&VISITOR, StatusCode::OK, template, context);
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], CONTENT_SECURITY_POLICY);
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_page_escapes_and_names_itself() {
        let (status, html) = show(&pages(Path::new("/nonexistent")), "message.html").await;
        assert_eq!(status, 200);
        assert!(html.contains("<title>Tidegate - T&lt;b&gt;</title>"), "{html}");
        assert!(html.contains("x<span class=\"code-point\">U+202E</span>&amp;"), "{html}");
        assert!(html.contains("Tidegate 1.2.3"), "{html}");
        assert!(!html.contains(" style="), "{html}");
    }

    #[tokio::test]
    async fn a_file_replaces_a_template_and_a_broken_one_says_where() {
        let dir = std::env::temp_dir().join(format!("tidegate-pages-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("message.html"), "mine: {{ title }}").unwrap();
        std::fs::write(dir.join("login.html"), "one\n{% if %}").unwrap();
        std::fs::write(dir.join("users.html"), "{{define \"title\"}}theirs{{end}}").unwrap();
        std::fs::write(dir.join("user.html"), "one\ntwo {{ nothing.at.all }}").unwrap();
        let pages = pages(&dir);
        assert_eq!(show(&pages, "message.html").await, (200, "mine: T&lt;b&gt;".to_owned()));
        let (status, html) = show(&pages, "login.html").await;
        assert_eq!(status, 500);
        assert!(html.contains("login.html, line 2:"), "{html}");
        let (status, html) = show(&pages, "user.html").await;
        assert_eq!(status, 500);
        assert!(html.contains("user.html, line 2:"), "{html}");
        assert!(!pages.shared.broken.contains_key("users.html"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
