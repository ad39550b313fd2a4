//! The log: tracing events rendered as the JSON lines that log readers and Fail2ban know, and a few of them as
//! text on the console.
//!
//! `log/format.rs` knows the lines, `log/writer.rs` the queue and its thread, `log/rotate.rs` the file.
//!
//! # What emitters do
//!
//! Any crate logs with `tracing`; the field `sender` chooses the kind of line, and the field names below are the
//! names in the line. Their order in the event does not matter, absent ones get a neutral value.
//!
//! | kind | level | `sender` | fields |
//! |---|---|---|---|
//! | transfer | info | `Upload`, `Download` | `elapsed_ms`, `size_bytes`, `username`, `file_path`, `connection_id`, `protocol` |
//! | command | info | `Rename`, `Rmdir`, `Mkdir`, `Symlink`, `Remove`, `Chmod`, `Chown`, `Chtimes`, `SSHCommand` | `username`, `file_path`, `target_path`, `filemode`, `uid`, `gid`, `access_time`, `modification_time`, `ssh_command`, `connection_id`, `protocol` |
//! | connection failed | debug | `connection_failed` | `client_ip`, `username`, `login_type`, `error` |
//! | HTTP | info | `httpd` and a field `method` | `method`, `proto`, `remote_addr`, `request_id`, `uri`, `user_agent`, `resp_status`, `resp_size`, `elapsed_ms`; where there is one also `peer_addr` (the other end, if `remote_addr` is what a header says) and `user` (who is signed in), after a failure `stack`, `panic` |
//! | app | any | anything else, by default named after the crate | `connection_id`, the message; all other fields are appended to the message as `name=value` |
//!
//! Values are text or integers. A path that may not be UTF-8 is passed as `&[u8]` or lossily converted.
//! `console = true` sends an app event to the console too. An event with a field `login_type` is kept whatever
//! the verbosity. Crates that are not ours are heard from warnings upwards, through `tracing` or `log`.

mod format;
mod rotate;
mod writer;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use self::format::{Record, Source};
use self::rotate::{Limits, Now, RotatingFile};
use self::writer::{Priority, Queue, Sink, Writer};
use crate::cli::ServeOptions;

/// Megabytes of a log file if the option says 0.
const DEFAULT_MAX_MEGABYTES: u64 = 100;

/// Where the JSON lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// A file that is rotated.
    File(PathBuf),
    /// Standard error.
    Stderr,
    /// Nowhere.
    None,
}

/// How to log.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    output: Output,
    limits: Limits,
    /// Whether events marked `console` are shown on standard output.
    console: bool,
    /// Whether debug lines of our own crates are kept.
    verbose: bool,
}

impl Settings {
    /// The log of `serve`: a file and the console, or standard error alone.
    pub(crate) fn serve(options: &ServeOptions) -> Self {
        let has_file = !options.log_file_path.as_os_str().is_empty();
        let megabytes =
            if options.log_max_size_mb == 0 { DEFAULT_MAX_MEGABYTES } else { options.log_max_size_mb };
        Self {
            output: if has_file { Output::File(options.log_file_path.clone()) } else { Output::Stderr },
            limits: Limits {
                max_bytes: megabytes.saturating_mul(1_048_576),
                max_backups: options.log_max_backups,
                max_age_days: options.log_max_age_days,
                compress: options.log_compress,
            },
            console: has_file,
            verbose: options.log_verbose,
        }
    }

    /// The log of `portable`: the console, and a file if one is named.
    pub(crate) fn portable(path: PathBuf) -> Self {
        let has_file = !path.as_os_str().is_empty();
        let limits = Limits { max_bytes: 10 * 1_048_576, max_backups: 5, max_age_days: 28, compress: false };
        let output = if has_file { Output::File(path) } else { Output::None };
        Self { output, limits, console: true, verbose: true }
    }
}

/// The running log. Dropping it writes what is pending; keep it until the very end of `main`.
pub(crate) struct Log {
    json: Option<Writer>,
    console: Option<Writer>,
}

/// What signal handlers need of the log.
#[derive(Clone)]
pub(crate) struct LogHandle(Option<Arc<Queue>>);

impl LogHandle {
    /// Closes and opens the log file again, so that another program may rotate it.
    pub(crate) fn reopen(&self) {
        if let Some(queue) = &self.0 {
            queue.reopen();
        }
    }

    /// Waits, for seconds at most, until everything logged so far is written.
    pub(crate) fn flush(&self) {
        if let Some(queue) = &self.0 {
            queue.flush();
        }
    }
}

impl Log {
    /// The handle for signal handlers.
    pub(crate) fn handle(&self) -> LogHandle {
        LogHandle(self.json.as_ref().map(|writer| writer.queue.clone()))
    }
}

/// Makes this log the one of the process.
///
/// # Errors
/// The log file cannot be opened, or a log is running already.
pub(crate) fn init(settings: &Settings) -> Result<Log> {
    let now: Now = Arc::new(Timestamp::now);
    let sink = match &settings.output {
        Output::File(path) => {
            let file = RotatingFile::open(path, settings.limits.clone(), now.clone());
            Some(Sink::File(file.with_context(|| format!("cannot open log file {}", path.display()))?))
        }
        Output::Stderr => Some(Sink::Stream(Box::new(std::io::stderr()))),
        Output::None => None,
    };
    let console = settings.console.then(|| Sink::Stream(Box::new(std::io::stdout())));
    let is_coloured =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() && !cfg!(windows);
    let (log, layer) = build(sink, console, is_coloured, settings.verbose, now, TimeZone::system())?;
    // The bridge is for crates that use `log`; ours do not.
    log::set_logger(Box::leak(Box::new(Bridge(layer.clone())))).map_err(|error| anyhow!("{error}"))?;
    log::set_max_level(log::LevelFilter::Warn);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .context("a log is running already")?;
    Ok(log)
}

fn build(
    json: Option<Sink>,
    console: Option<Sink>,
    is_coloured: bool,
    verbose: bool,
    now: Now,
    zone: TimeZone,
) -> Result<(Log, LogLayer)> {
    let clock = Clock { now, zone };
    let lost =
        |count: u64| format!("{count} log lines were lost because the log could not be written in time");
    let (json_clock, console_clock) = (clock.clone(), clock.clone());
    let json_notice = move |count| {
        let mut line = String::new();
        let source = Source { level: "warn", sender: "service" };
        Record::plain("service", lost(count)).write_line(&source, &json_clock.text(), &mut line);
        line
    };
    let console_notice = move |count| format!("{} WRN {}\n", console_clock.text(), lost(count));
    let start = "cannot start the log's thread";
    let json = json.map(|sink| Writer::spawn("log", sink, json_notice)).transpose().context(start)?;
    let console =
        console.map(|sink| Writer::spawn("console", sink, console_notice)).transpose().context(start)?;
    let queue = |writer: &Option<Writer>| writer.as_ref().map(|writer| writer.queue.clone());
    let layer = LogLayer { json: queue(&json), console: queue(&console), is_coloured, verbose, clock };
    Ok((Log { json, console }, layer))
}

impl Drop for Log {
    fn drop(&mut self) {
        // Console last: it is what a person looks at while the other one is written.
        drop(self.json.take());
        drop(self.console.take());
    }
}

#[derive(Clone)]
struct Clock {
    now: Now,
    zone: TimeZone,
}

impl Clock {
    /// Local time with milliseconds and without zone.
    fn text(&self) -> String {
        (self.now)().to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string()
    }
}

/// The tracing layer.
#[derive(Clone)]
struct LogLayer {
    json: Option<Arc<Queue>>,
    console: Option<Arc<Queue>>,
    is_coloured: bool,
    verbose: bool,
    clock: Clock,
}

impl LogLayer {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours =
            target == "tidegate" || target.starts_with("tidegate::") || target.starts_with("tidegate_");
        let least = match (is_ours, self.verbose) {
            (false, _) => Level::WARN,
            (true, false) => Level::INFO,
            (true, true) => Level::DEBUG,
        };
        *metadata.level() <= least || (is_ours && metadata.fields().field("login_type").is_some())
    }

    fn emit(&self, record: &Record, source: &Source<'_>, priority: Priority) {
        let time = self.clock.text();
        if let Some(queue) = &self.json {
            let mut line = String::with_capacity(320);
            record.write_line(source, &time, &mut line);
            queue.push(&line, priority);
        }
        if let Some(queue) = self.console.as_ref().filter(|_| record.console) {
            queue.push(&self.console_line(record, source, &time), Priority::Keep);
        }
    }

    fn console_line(&self, record: &Record, source: &Source<'_>, time: &str) -> String {
        let (short, colour) = match source.level {
            "error" => ("ERR", "31"),
            "warn" => ("WRN", "33"),
            "info" => ("INF", "32"),
            _ => ("DBG", "36"),
        };
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let text: String = record.text().chars().map(escape).collect();
        match self.is_coloured {
            true => format!("\x1b[90m{time}\x1b[0m \x1b[{colour}m{short}\x1b[0m {text}\n"),
            false => format!("{time} {short} {text}\n"),
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::default();
        event.record(&mut record);
        let is_audit = *metadata.level() <= Level::INFO || metadata.fields().field("login_type").is_some();
        let priority = if is_audit { Priority::Keep } else { Priority::MayDrop };
        self.emit(&record, &Source::of(metadata), priority);
    }
}

/// Lets crates that use `log` be heard.
struct Bridge(LogLayer);

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = if record.level() == log::Level::Error { "error" } else { "warn" };
            let source = Source { level, sender: format::sender_of(record.target()) };
            let text = Record::plain(source.sender, record.args().to_string());
            self.0.emit(&text, &source, Priority::Keep);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests;
