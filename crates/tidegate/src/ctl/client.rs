//! Talks to the REST API: address, credentials, requests, and what each kind of failure is called.

use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Method, RequestBuilder, StatusCode, Url, redirect};
use serde_json::Value;

use super::table::clean;
use super::{CtlArgs, Failure, netrc};

/// How long a backup or a restore may take, of any number of users.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// More than any answer of the API has; 100,000 users are asked for in pages.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A server, and how to come in.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    credentials: Option<(String, String)>,
}

impl Client {
    pub(super) fn new(args: &CtlArgs, timeout: Duration) -> Result<Self, Failure> {
        let base = base(&args.url)?;
        let credentials = credentials(args, base.host_str().unwrap_or_default())?;
        if credentials.is_some() && base.scheme() == "http" && !is_local(&base) {
            eprintln!("tidegate: warning: the password goes over the network unencrypted; use https");
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("Tidegate-ctl/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .redirect(redirect::Policy::none());
        if is_local(&base) {
            builder = builder.no_proxy();
        }
        if let Some(file) = &args.ca_file {
            let unusable = |why: String| Failure::Usage(format!("--ca-file {}: {why}", file.display()));
            let pem = fs::read(file).map_err(|error| unusable(error.to_string()))?;
            let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(chain(&error)))?;
            if authorities.is_empty() {
                return Err(unusable("there is no certificate in it".to_owned()));
            }
            builder = builder.tls_certs_merge(authorities);
        } else if base.scheme() == "http" {
            // Works on a machine without any certificate authorities, too.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| Failure::Usage(chain(&error)))?;
        Ok(Self { http, base, credentials })
    }

    /// Asks for something.
    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.send(self.request(Method::GET, path, query)?).await
    }

    /// Changes something.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.request(method, path, query)?;
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        self.send(request).await
    }

    /// Changes something that may take long: the server says nothing until it is done.
    pub(super) async fn change_patiently(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        self.send(self.request(method, path, query)?.timeout(PATIENCE)).await
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder, Failure> {
        let url = format!("{}/api/v1/{path}", self.base.as_str().trim_end_matches('/'));
        let mut url = Url::parse(&url).map_err(|error| Failure::Usage(format!("{url}: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        Ok(match &self.credentials {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let failed =
            |error: reqwest::Error| Failure::Unreachable(format!("{}: {}", self.base, chain(&error)));
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Failure::Unreachable(format!("{}: the answer does not end", self.base)));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match (status.is_success(), answer) {
            (true, Some(answer)) => Ok(answer),
            (true, None) => {
                Err(Failure::Unreachable(format!("{}: this is not Tidegate's REST API", self.base)))
            }
            (false, answer) => Err(refusal(&self.base, status, answer.as_ref())),
        }
    }
}

fn refusal(base: &Url, status: StatusCode, answer: Option<&Value>) -> Failure {
    let said = |key: &str| answer.and_then(|answer| answer[key].as_str()).filter(|text| !text.is_empty());
    let text = match (said("error"), said("message")) {
        (Some(error), Some(message)) if error != message => format!("{message}: {error}"),
        (Some(text), _) | (None, Some(text)) => text.to_owned(),
        (None, None) => format!("the server answers {status}"),
    };
    let text = clean(&text);
    match status {
        StatusCode::UNAUTHORIZED => Failure::NotAllowedIn(format!(
            "{base} wants a name and a password: --user and TIDEGATE_PASSWORD, or ~/.netrc ({text})"
        )),
        StatusCode::TOO_MANY_REQUESTS => Failure::NotAllowedIn(text),
        StatusCode::NOT_FOUND => Failure::NotFound(text),
        _ if answer.is_none() => Failure::Unreachable(format!("{base}: {text}")),
        _ => Failure::Refused(text),
    }
}

fn base(text: &str) -> Result<Url, Failure> {
    let unusable = |why: &str| {
        Failure::Usage(format!(
            "--url {text:?} cannot be used: {why}, expected something like http://127.0.0.1:8080"
        ))
    };
    let url = Url::parse(text).map_err(|error| unusable(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(unusable("it is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unusable("name and password have flags of their own"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("it has a query or a fragment"));
    }
    Ok(url)
}

fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().map_or_else(|_| host == "localhost", |address| address.is_loopback())
}

/// Name and password: from flags and environment, else from the netrc file.
fn credentials(args: &CtlArgs, host: &str) -> Result<Option<(String, String)>, Failure> {
    let given = match &args.password_file {
        Some(file) => Some(first_line(file)?),
        None => std::env::var("TIDEGATE_PASSWORD").ok(),
    };
    if let (Some(user), Some(password)) = (&args.user, &given) {
        return Ok(Some((user.clone(), password.clone())));
    }
    if given.is_some() {
        return Err(Failure::Usage(
            "there is a password without a name: give --user or TIDEGATE_USER".to_owned(),
        ));
    }
    let (file, must_exist) = match &args.netrc {
        Some(file) => (file.clone(), true),
        None => match std::env::home_dir() {
            Some(home) => (home.join(".netrc"), args.user.is_some()),
            None => return Ok(None),
        },
    };
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(_) if !must_exist => return Ok(None),
        Err(error) if args.netrc.is_some() => {
            return Err(Failure::Usage(format!("--netrc {}: {error}", file.display())));
        }
        Err(_) => String::new(),
    };
    let entries = netrc::parse(&text);
    let found = netrc::find(&entries, host, args.user.as_deref());
    match (found, &args.user) {
        (Some(found), _) => Ok(Some(found)),
        (None, Some(user)) => Err(Failure::Usage(format!(
            "there is no password for {user:?}: set TIDEGATE_PASSWORD, or give --password-file, or add {host} to {}",
            file.display()
        ))),
        (None, None) => Ok(None),
    }
}

/// The first line of a file, which holds a secret.
pub(super) fn first_line(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::Usage(format!("cannot read the password from {}: {error}", file.display()))
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The error with its causes; the outermost text alone says little.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_be_used_are_named() {
        for text in ["", "127.0.0.1:8080", "ftp://a", "http://me:secret@host", "http://host/?a=b", "http://"]
        {
            let error = base(text).unwrap_err();
            assert!(matches!(&error, Failure::Usage(said) if said.contains("--url")), "{text}: {error}");
        }
        for text in ["http://127.0.0.1:8080", "https://files.example.org", "http://[::1]:80/proxy/"] {
            assert!(base(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for (text, local) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:1", true),
            ("https://localhost", true),
            ("http://192.0.2.1", false),
            ("http://localhost.example.org", false),
        ] {
            assert_eq!(is_local(&base(text).unwrap()), local, "{text}");
        }
    }
}
