//! Sends the notification of a hook: GET for file operations, POST with the account as JSON for accounts.
//!
//! What could not be delivered is tried again: no connection, a broken one, a status from 500 on. A time-out is
//! not, because the receiver may be at work on it. URL and query may hold secrets and stay out of the log.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, redirect};
use tidegate_core::HookResult;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::action::Action;

const MAX_REDIRECTS: usize = 5;

/// The pause before the second attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// An answer is read to its end so that the connection can be used again, unless it is longer than this.
const MAX_ANSWER_BYTES: usize = 65_536;

/// The receiver of one section's notifications.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The option, for messages.
    option: String,
    url: Url,
    client: Client,
    retries: u32,
    /// Before the second attempt; shorter in tests.
    pub(super) first_pause: Duration,
}

/// What became of one attempt.
enum Attempt {
    Accepted(StatusCode),
    Refused(StatusCode),
    TimedOut,
    /// Worth another one, if there is one left.
    Undelivered(String),
    Impossible(String),
}

impl Receiver {
    /// Notifies `url`, the value of `option`. An attempt may take as long as `timeout`.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the option: why no notification can be sent there.
    pub(super) fn new(option: String, url: &str, timeout: Duration, retries: u32) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("is not a valid URL: {error}"))?;
        let client = client(&url, timeout).map_err(|error| format!("cannot be used: {}", chain(&error)))?;
        Ok(Self { option, url, client, retries, first_pause: FIRST_PAUSE })
    }

    /// Sends the notification, and again if it could not be delivered.
    pub(super) async fn notify(&self, action: &Action) -> HookResult {
        let (option, what) = (&self.option, action.shown());
        let mut pause = self.first_pause;
        for left in (0..=self.retries).rev() {
            match self.attempt(action).await {
                Attempt::Accepted(status) => {
                    debug!(sender = "hooks", "{option}: the receiver answered {status} to {what}");
                    return HookResult::Done;
                }
                Attempt::Refused(status) => {
                    warn!(sender = "hooks", "{option}: the receiver answered {status} to {what}");
                    return HookResult::Failed;
                }
                Attempt::TimedOut => {
                    warn!(sender = "hooks", "{option}: the receiver did not answer to {what} in time");
                    return HookResult::TimedOut;
                }
                Attempt::Undelivered(reason) if left > 0 => {
                    debug!(sender = "hooks", "{option}: {what} is sent again in {pause:?}: {reason}");
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Attempt::Undelivered(reason) | Attempt::Impossible(reason) => {
                    warn!(sender = "hooks", "{option}: {what} could not be delivered: {reason}");
                    return HookResult::Failed;
                }
            }
        }
        HookResult::Failed
    }

    async fn attempt(&self, action: &Action) -> Attempt {
        let mut url = self.url.clone();
        let query = match url.query() {
            Some(own) if !own.is_empty() => format!("{own}&{}", action.query()),
            _ => action.query(),
        };
        url.set_query(Some(&query));
        let request = match &action.body {
            None => self.client.get(url),
            Some(json) => self.client.post(url).header(CONTENT_TYPE, "application/json").body(json.clone()),
        };
        match request.send().await {
            Ok(response) => {
                let status = response.status();
                skip_body(response).await;
                match status {
                    _ if status.is_success() => Attempt::Accepted(status),
                    _ if status.is_server_error() => {
                        Attempt::Undelivered(format!("the receiver answered {status}"))
                    }
                    _ => Attempt::Refused(status),
                }
            }
            Err(error) => {
                // A connection that takes too long is none, whatever the reason.
                let (again, late) = (error.is_connect() || error.is_request(), error.is_timeout());
                let is_connect = error.is_connect();
                let reason = chain(&error.without_url());
                match () {
                    () if late && !is_connect => Attempt::TimedOut,
                    () if again => Attempt::Undelivered(reason),
                    () => Attempt::Impossible(reason),
                }
            }
        }
    }
}

async fn skip_body(mut response: Response) {
    let mut length = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        length += chunk.len();
        if length > MAX_ANSWER_BYTES {
            return;
        }
    }
}

fn client(url: &Url, timeout: Duration) -> reqwest::Result<Client> {
    let builder = || -> ClientBuilder {
        let builder = Client::builder()
            .user_agent(concat!("Tidegate/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .redirect(redirect::Policy::limited(MAX_REDIRECTS));
        // `HTTP_PROXY` and its kin count, but no proxy is asked for what runs on this machine.
        if is_loopback(url) { builder.no_proxy() } else { builder }
    };
    match builder().build() {
        // A machine without any certificate authorities can still be asked to notify a neighbour in clear.
        Err(_) if url.scheme() == "http" => builder().tls_certs_only([]).build(),
        built => built,
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    address.map_or_else(|_| host == "localhost", |address| address.is_loopback())
}

/// The error with its causes; the outermost text alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
