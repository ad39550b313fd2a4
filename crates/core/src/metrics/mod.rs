//! The facts that are counted, in a registry of their own (`spec/metrics.md`, names verbatim). What the
//! reference did not count is called `tidegate_…`; `docs/metrics.md` lists everything.

mod register;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    CounterVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use self::register::Register;
use crate::{Direction, LoginMethod, StoreError};

/// Upper bounds of the sizes of transfers: 1 KiB to 16 GiB.
const SIZE_BUCKETS: [f64; 9] = [
    1_024.0,
    16_384.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
    134_217_728.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
];

/// Upper bounds of the time that transfers take, in seconds: 10 ms to an hour.
const DURATION_BUCKETS: [f64; 10] = [0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0];

/// Upper bounds of the time that the data provider takes, in seconds: 250 µs to 10 s.
const STORE_BUCKETS: [f64; 10] = [0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

const DIRECTIONS: [&str; 2] = ["upload", "download"];

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
    handshake_failures: IntCounterVec,
    refused_connections: IntCounter,
    hooks_queued: IntGauge,
    hooks: IntCounterVec,
    quota_denials: IntCounter,
    throttled: CounterVec,
    store_seconds: [Histogram; 4],
    store_errors: IntCounterVec,
    store_connections: IntGaugeVec,
}

/// Why a connection ended before login, other than for its credentials. Each is a value of the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client left.
    Closed,
    /// The time for logging in was over.
    Timeout,
    /// Client and server have no algorithm in common.
    Negotiation,
    /// Something else than SSH, or SSH that breaks its rules.
    Protocol,
    /// More failed attempts to log in than are allowed.
    Attempts,
    /// The network failed.
    Network,
    /// Something else.
    Other,
}

impl HandshakeFailure {
    const ALL: [Self; 7] = [
        Self::Closed,
        Self::Timeout,
        Self::Negotiation,
        Self::Protocol,
        Self::Attempts,
        Self::Network,
        Self::Other,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Negotiation => "negotiation",
            Self::Protocol => "protocol",
            Self::Attempts => "attempts",
            Self::Network => "network",
            Self::Other => "other",
        }
    }
}

/// What was asked of the data provider: the label `operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreCall {
    /// One user, or what one has stored.
    Lookup,
    /// Several users.
    List,
    /// A change.
    Write,
    /// Whether it works.
    Ping,
}

const STORE_CALLS: [&str; 4] = ["lookup", "list", "write", "ping"];

/// The connections that a data provider holds to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorePool {
    /// Connections in use.
    pub busy: u32,
    /// Connections that wait for use.
    pub idle: u32,
    /// Connections that there may be.
    pub max: u32,
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
    sizes: Histogram,
    durations: Histogram,
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
    pub fn new() -> Self {
        let registry = Registry::new();
        let register = Register(&registry);
        let counter = |name: &str, help: &str| register.counter(name, help);
        let gauge = |name: &str, help: &str| register.gauge(name, help);
        let [upload_sizes, download_sizes] = register.histograms(
            "tidegate_transfer_size_bytes",
            "Bytes moved by transfers that ended, failed ones included",
            &SIZE_BUCKETS,
            "direction",
            DIRECTIONS,
        );
        let [upload_durations, download_durations] = register.histograms(
            "tidegate_transfer_duration_seconds",
            "Time that transfers took, from opening to closing, failed ones included",
            &DURATION_BUCKETS,
            "direction",
            DIRECTIONS,
        );
        let transfers = |one: &str, sizes, durations| TransferFacts {
            ok: counter(&format!("sftpgo_{one}s_total"), &format!("Number of successful {one}s")),
            errors: counter(&format!("sftpgo_{one}_errors_total"), &format!("Number of failed {one}s")),
            size: counter(&format!("sftpgo_{one}_size"), &format!("Bytes moved by successful {one}s")),
            sizes,
            durations,
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
        let facts = Facts {
            availability: gauge(
                "sftpgo_dataprovider_availability",
                "Whether the data provider answered the last check: 1 yes, 0 no",
            ),
            active_connections: gauge(
                "sftpgo_active_connections",
                "Number of connections with an open channel",
            ),
            uploads: transfers("upload", upload_sizes, upload_durations),
            downloads: transfers("download", download_sizes, download_durations),
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
                "tidegate_panics_total",
                "Number of connections and requests that a defect in the server ended",
            ),
            handshake_failures: register.counters(
                "tidegate_handshake_failures_total",
                "Number of connections that ended before login for another reason than credentials",
                "reason",
                &HandshakeFailure::ALL.map(HandshakeFailure::label),
            ),
            refused_connections: counter(
                "tidegate_refused_connections_total",
                "Number of connections refused because too many were open",
            ),
            hooks_queued: gauge("tidegate_hooks_queued", "Number of events that wait for their hook"),
            hooks: register.counters(
                "tidegate_hooks_total",
                "Number of events that a hook was configured for, by what became of them",
                "result",
                &HookResult::ALL.map(HookResult::label),
            ),
            quota_denials: counter(
                "tidegate_quota_denials_total",
                "Number of requests refused because a quota has no room",
            ),
            throttled: register.sums(
                "tidegate_throttled_seconds_total",
                "Time that transfers waited for their bandwidth",
                "direction",
                &DIRECTIONS,
            ),
            store_seconds: register.histograms(
                "tidegate_store_seconds",
                "Time that the data provider took to answer",
                &STORE_BUCKETS,
                "operation",
                STORE_CALLS,
            ),
            store_errors: register.counters(
                "tidegate_store_errors_total",
                "Number of calls that the data provider could not serve",
                "reason",
                &["unavailable", "corrupt"],
            ),
            store_connections: register.gauges(
                "tidegate_store_connections",
                "Connections to the database: in use, waiting for use, and allowed; 0 for providers without",
                "state",
                &["busy", "idle", "max"],
            ),
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
    pub fn transfer_ended(&self, direction: Direction, bytes: u64, took: Duration, ok: bool) {
        let facts = match direction {
            Direction::Upload => &self.0.uploads,
            Direction::Download => &self.0.downloads,
        };
        // Exact up to 2^53 bytes.
        #[expect(clippy::cast_precision_loss, reason = "a histogram counts in floating point")]
        facts.sizes.observe(bytes as f64);
        facts.durations.observe(took.as_secs_f64());
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

    /// A connection's task, or the handler of a request, panicked.
    pub fn panicked(&self) {
        self.0.panics.inc();
    }

    /// A connection ended before login, and not for wrong credentials.
    pub fn handshake_failed(&self, why: HandshakeFailure) {
        self.0.handshake_failures.with_label_values(&[why.label()]).inc();
    }

    /// A request was refused because a quota has no room.
    pub fn quota_denied(&self) {
        self.0.quota_denials.inc();
    }

    /// A transfer waited so long for its bandwidth.
    pub fn throttled(&self, direction: Direction, waited: Duration) {
        let label = match direction {
            Direction::Upload => DIRECTIONS[0],
            Direction::Download => DIRECTIONS[1],
        };
        self.0.throttled.with_label_values(&[label]).inc_by(waited.as_secs_f64());
    }

    /// The data provider answered after so long.
    pub fn store_answered<T>(&self, call: StoreCall, took: Duration, answer: &Result<T, StoreError>) {
        self.0.store_seconds[call as usize].observe(took.as_secs_f64());
        let reason = match answer {
            Ok(_) | Err(StoreError::NotFound | StoreError::Conflict) => return,
            Err(StoreError::Unavailable(_) | StoreError::Uncertain(_)) => "unavailable",
            Err(StoreError::Corrupt(_)) => "corrupt",
        };
        self.0.store_errors.with_label_values(&[reason]).inc();
    }

    /// So many connections to the database there are now.
    pub fn store_pool(&self, pool: StorePool) {
        for (state, count) in [("busy", pool.busy), ("idle", pool.idle), ("max", pool.max)] {
            self.0.store_connections.with_label_values(&[state]).set(i64::from(count));
        }
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
        metrics.transfer_ended(Direction::Upload, 7, Duration::from_millis(20), true);
        metrics.handshake_failed(HandshakeFailure::Timeout);
        metrics.throttled(Direction::Download, Duration::from_millis(1_500));
        metrics.store_answered(StoreCall::Ping, Duration::from_millis(2), &Ok(()));
        metrics.store_answered(
            StoreCall::Write,
            Duration::from_secs(60),
            &Err::<(), _>(StoreError::NotFound),
        );
        metrics.store_pool(StorePool { busy: 2, idle: 1, max: 8 });
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
            "tidegate_handshake_failures_total{reason=\"timeout\"} 1",
            "tidegate_handshake_failures_total{reason=\"protocol\"} 0",
            "tidegate_throttled_seconds_total{direction=\"download\"} 1.5",
            "tidegate_transfer_size_bytes_bucket{direction=\"upload\",le=\"1024\"} 1",
            "tidegate_transfer_duration_seconds_bucket{direction=\"upload\",le=\"0.01\"} 0",
            "tidegate_transfer_duration_seconds_count{direction=\"download\"} 0",
            "tidegate_store_seconds_bucket{operation=\"ping\",le=\"0.0025\"} 1",
            "tidegate_store_seconds_count{operation=\"write\"} 1",
            "tidegate_store_errors_total{reason=\"unavailable\"} 0",
            "tidegate_store_connections{state=\"busy\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
