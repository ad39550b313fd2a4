//! The facts that are counted, in a registry of their own (`spec/metrics.md`, names verbatim).

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::{Direction, LoginMethod};

/// Counters and gauges of one server. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    registry: Registry,
    availability: IntGauge,
    active_connections: IntGauge,
    uploads: TransferFacts,
    downloads: TransferFacts,
    ssh_commands: IntCounter,
    ssh_command_errors: IntCounter,
    logins: LoginFacts,
    password_logins: LoginFacts,
    public_key_logins: LoginFacts,
    http_requests: IntCounter,
    http_ok: IntCounter,
    http_client_errors: IntCounter,
    http_server_errors: IntCounter,
    panics: IntCounter,
    handshake_failures: IntCounter,
    refused_connections: IntCounter,
    hooks_queued: IntGauge,
    hooks: IntCounterVec,
}

/// What became of an event that a hook was configured for. Of two results the later one in this list is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookResult {
    /// The command ended with 0, the notification was accepted.
    Done,
    /// The command or the notification failed.
    Failed,
    /// The command or the notification took too long.
    TimedOut,
    /// It was not begun, because the queue was full or the server stopped.
    Dropped,
}

impl HookResult {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::TimedOut, Self::Dropped];

    /// The value of the label `result`.
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Dropped => "dropped",
        }
    }
}

#[derive(Debug)]
struct TransferFacts {
    ok: IntCounter,
    errors: IntCounter,
    size: IntCounter,
}

#[derive(Debug)]
struct LoginFacts {
    attempts: IntCounter,
    ok: IntCounter,
    ko: IntCounter,
}

impl Metrics {
    /// Registers every metric, starting at zero.
    ///
    /// # Panics
    ///
    /// If two metrics had the same name, which a test would show.
    #[expect(
        clippy::expect_used,
        reason = "the names below are fixed; every test that starts a server checks them"
    )]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::with_opts(Opts::new(name, help)).expect("the name is valid");
            registry.register(Box::new(counter.clone())).expect("the name is unique");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::with_opts(Opts::new(name, help)).expect("the name is valid");
            registry.register(Box::new(gauge.clone())).expect("the name is unique");
            gauge
        };
        let transfers = |one: &str| TransferFacts {
            ok: counter(&format!("sftpgo_{one}s_total"), &format!("Number of successful {one}s")),
            errors: counter(&format!("sftpgo_{one}_errors_total"), &format!("Number of failed {one}s")),
            size: counter(&format!("sftpgo_{one}_size"), &format!("Bytes moved by successful {one}s")),
        };
        let logins = |prefix: &str, what: &str| LoginFacts {
            attempts: counter(
                &format!("sftpgo_{prefix}login_attempts_total"),
                &format!("Number of login attempts{what}"),
            ),
            ok: counter(
                &format!("sftpgo_{prefix}login_ok_total"),
                &format!("Number of successful logins{what}"),
            ),
            ko: counter(&format!("sftpgo_{prefix}login_ko_total"), &format!("Number of failed logins{what}")),
        };
        let hooks_help = "Number of events that a hook was configured for, by what became of them";
        let hooks = IntCounterVec::new(Opts::new("tidegate_hooks_total", hooks_help), &["result"]);
        let hooks = hooks.expect("the name is valid");
        registry.register(Box::new(hooks.clone())).expect("the name is unique");
        for result in HookResult::ALL {
            // A series exists from its first mention on, and rates need the zero.
            let _ = hooks.with_label_values(&[result.label()]);
        }
        let facts = Facts {
            availability: gauge(
                "sftpgo_dataprovider_availability",
                "Whether the data provider answered the last check: 1 yes, 0 no",
            ),
            active_connections: gauge(
                "sftpgo_active_connections",
                "Number of connections with an open channel",
            ),
            uploads: transfers("upload"),
            downloads: transfers("download"),
            ssh_commands: counter("sftpgo_ssh_commands_total", "Number of successful SSH commands"),
            ssh_command_errors: counter("sftpgo_ssh_command_errors_total", "Number of failed SSH commands"),
            logins: logins("", ""),
            password_logins: logins("password_", " with a password"),
            public_key_logins: logins("public_key_", " with a public key"),
            http_requests: counter("sftpgo_http_req_total", "Number of HTTP requests served"),
            http_ok: counter(
                "sftpgo_http_req_ok_total",
                "Number of HTTP requests answered with a 2xx status",
            ),
            http_client_errors: counter(
                "sftpgo_http_client_errors_total",
                "Number of HTTP requests answered with a 4xx status",
            ),
            http_server_errors: counter(
                "sftpgo_http_server_errors_total",
                "Number of HTTP requests answered with a 5xx status",
            ),
            panics: counter(
                "tidegate_connection_panics_total",
                "Number of connections ended by a defect in the server",
            ),
            handshake_failures: counter(
                "tidegate_handshake_failures_total",
                "Number of connections that ended before login for another reason than credentials",
            ),
            refused_connections: counter(
                "tidegate_refused_connections_total",
                "Number of connections refused because too many were open",
            ),
            hooks_queued: gauge("tidegate_hooks_queued", "Number of events that wait for their hook"),
            hooks,
            registry,
        };
        Self(Arc::new(facts))
    }

    /// Everything in the text exposition format 0.0.4.
    ///
    /// # Errors
    ///
    /// The encoder's text, if a metric cannot be written.
    pub fn encode(&self) -> Result<String, String> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather()).map_err(|error| error.to_string())
    }

    /// The data provider did or did not answer.
    pub fn provider_available(&self, available: bool) {
        self.0.availability.set(i64::from(available));
    }

    /// So many connections have an open channel now.
    pub fn active_connections(&self, count: usize) {
        self.0.active_connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A transfer ended.
    pub fn transfer_ended(&self, direction: Direction, bytes: u64, ok: bool) {
        let facts = match direction {
            Direction::Upload => &self.0.uploads,
            Direction::Download => &self.0.downloads,
        };
        if ok {
            facts.ok.inc();
            facts.size.inc_by(bytes);
        } else {
            facts.errors.inc();
        }
    }

    /// Credentials were evaluated.
    pub fn login(&self, method: LoginMethod, ok: bool) {
        let family = match method {
            LoginMethod::Password => &self.0.password_logins,
            LoginMethod::PublicKey => &self.0.public_key_logins,
        };
        for facts in [&self.0.logins, family] {
            facts.attempts.inc();
            if ok { facts.ok.inc() } else { facts.ko.inc() }
        }
    }

    /// An SSH command ended.
    pub fn ssh_command_ended(&self, ok: bool) {
        if ok { self.0.ssh_commands.inc() } else { self.0.ssh_command_errors.inc() }
    }

    /// An HTTP request was answered.
    pub fn http_request(&self, status: u16) {
        self.0.http_requests.inc();
        match status {
            200..=299 => self.0.http_ok.inc(),
            400..=499 => self.0.http_client_errors.inc(),
            500.. => self.0.http_server_errors.inc(),
            _ => {}
        }
    }

    /// A connection's task panicked.
    pub fn panicked(&self) {
        self.0.panics.inc();
    }

    /// A connection ended before login, and not for wrong credentials.
    pub fn handshake_failed(&self) {
        self.0.handshake_failures.inc();
    }

    /// A connection was refused at the door.
    pub fn connection_refused(&self) {
        self.0.refused_connections.inc();
    }

    /// Whether the data provider answered the last check.
    pub fn provider_is_available(&self) -> bool {
        self.0.availability.get() != 0
    }

    /// How many events met this end.
    pub fn hooks(&self, result: HookResult) -> u64 {
        self.0.hooks.with_label_values(&[result.label()]).get()
    }

    /// How many events wait for their hook.
    pub fn hooks_waiting(&self) -> u64 {
        u64::try_from(self.0.hooks_queued.get()).unwrap_or(0)
    }

    /// So many more events wait for their hook; a negative number is fewer.
    pub fn hooks_queued(&self, change: i64) {
        self.0.hooks_queued.add(change);
    }

    /// `count` events met this end.
    pub fn hooks_ended(&self, result: HookResult, count: u64) {
        self.0.hooks.with_label_values(&[result.label()]).inc_by(count);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_verbatim() {
        let metrics = Metrics::new();
        metrics.login(LoginMethod::Password, true);
        metrics.transfer_ended(Direction::Upload, 7, true);
        metrics.hooks_queued(2);
        metrics.hooks_ended(HookResult::TimedOut, 3);
        assert_eq!((metrics.hooks_waiting(), metrics.hooks(HookResult::TimedOut)), (2, 3));
        assert!(!metrics.provider_is_available());
        let text = metrics.encode().unwrap();
        for line in [
            "# TYPE sftpgo_upload_size counter",
            "sftpgo_upload_size 7",
            "sftpgo_uploads_total 1",
            "sftpgo_download_errors_total 0",
            "sftpgo_login_attempts_total 1",
            "sftpgo_password_login_ok_total 1",
            "sftpgo_public_key_login_attempts_total 0",
            "sftpgo_dataprovider_availability 0",
            "# TYPE tidegate_hooks_queued gauge",
            "tidegate_hooks_queued 2",
            "# TYPE tidegate_hooks_total counter",
            "tidegate_hooks_total{result=\"timeout\"} 3",
            "tidegate_hooks_total{result=\"dropped\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
