//! What the log says: one line per request, and one about a defect of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::support::{Mood, TestServer};

#[tokio::test]
async fn a_defect_is_500_and_ends_one_request_only() {
    let server = TestServer::start().await;
    server.store.set(Mood::Panics);
    let lines = Lines::of_this_thread();
    let answer = server.get("/api/v1/providerstatus").await.expect(500);
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
    assert!(!answer.text().contains("defect"), "{}", answer.text());
    let panic = lines.find(|line| line.contains_key("panic"));
    assert_eq!((&*panic["level"], &*panic["panic"]), ("ERROR", "the provider has a defect"));
    assert_eq!(lines.find(|line| line.contains_key("resp_status"))["resp_status"], "500");
    server.store.set(Mood::Works);
    server.get("/api/v1/providerstatus").await.expect(200);
}

#[tokio::test]
async fn one_log_line_per_request() {
    let server = TestServer::start().await;
    let lines = Lines::of_this_thread();
    let headers =
        [("User-Agent", "test/1"), ("X-Request-Id", "id-7"), ("X-Forwarded-For", "198.51.100.1, 10.0.0.1")];
    let answer = server.request("GET", "/api/v1/user?limit=1", &headers, None).await.expect(200);
    let line = lines.find(|line| line.contains_key("resp_status"));
    let uri = format!("http://localhost:{}/api/v1/user?limit=1", server.addr.port());
    for (key, value) in [
        ("level", "INFO"),
        ("sender", "httpd"),
        ("method", "GET"),
        ("proto", "HTTP/1.1"),
        ("remote_addr", "198.51.100.1"),
        ("request_id", "id-7"),
        ("uri", &uri),
        ("user_agent", "test/1"),
        ("resp_status", "200"),
        ("resp_size", &answer.body.len().to_string()),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    assert!(line["elapsed_ms"].parse::<u64>().is_ok());
    assert!(line["peer_addr"].starts_with("127.0.0.1:"), "beside what a header says: {line:?}");
    assert_eq!(line.len(), 12, "{line:?}");

    lines.clear();
    server
        .request("POST", "/api/v1/user", &[("Origin", "http://evil.example")], Some("{}"))
        .await
        .expect(403);
    assert_eq!(lines.find(|line| line.contains_key("resp_status"))["resp_status"], "403");
}

#[tokio::test]
async fn what_the_provider_said_is_in_the_log_only() {
    let server = TestServer::start().await;
    server.store.set(Mood::Fails);
    let lines = Lines::of_this_thread();
    let answer = server.get("/api/v1/user").await.expect(500);
    assert!(!answer.text().contains("secret detail"), "{}", answer.text());
    let line = lines.find(|line| line["level"] == "ERROR");
    assert!(line["message"].contains("secret detail"), "{line:?}");
}

/// Log lines, each as its fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

thread_local! {
    /// Where the lines of this thread go: a test and its server are one thread.
    static LINES: Lines = Lines::default();
}

/// Hands each line to its thread. There is one subscriber for all tests because tracing forgets about a line for
/// good when the first thread that comes by has no subscriber of its own, while another test's is the only one.
struct ToItsThread;

impl Lines {
    /// What this thread logs from now on.
    fn of_this_thread() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| tracing_subscriber::registry().with(ToItsThread).init());
        let lines = LINES.with(Self::clone);
        lines.clear();
        lines
    }

    fn find(&self, wanted: impl Fn(&BTreeMap<String, String>) -> bool) -> BTreeMap<String, String> {
        let lines = self.0.lock().unwrap();
        let found: Vec<_> = lines.iter().filter(|line| wanted(line)).collect();
        assert_eq!(found.len(), 1, "{lines:?}");
        found[0].clone()
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl<S: tracing::Subscriber> Layer<S> for ToItsThread {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields(BTreeMap<String, String>);
        impl Visit for Fields {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name().to_owned(), value.to_owned());
            }
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                self.0.insert(field.name().to_owned(), format!("{value:?}"));
            }
        }
        let mut fields = Fields(BTreeMap::from([("level".to_owned(), event.metadata().level().to_string())]));
        event.record(&mut fields);
        LINES.with(|lines| lines.0.lock().unwrap().push(fields.0));
    }
}
