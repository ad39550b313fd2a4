//! The server under test: a process of its own, with a temporary configuration directory and free ports.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Map, Value, json};

use crate::http::{self, Response};
use crate::keys::keys;
use crate::process::{Collected, Tool, collect};
use crate::users::UserBuilder;
use crate::wait_for;

/// A running server. Dropping it ends the process and removes its directory.
#[derive(Debug)]
pub struct TestServer {
    child: Child,
    root: tempfile::TempDir,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    /// Arguments and environment, to start it again.
    again: (Vec<OsString>, Vec<(String, String)>),
    /// The port that serves SSH.
    pub port: u16,
    /// The port that serves the REST API; 0 if there is none.
    pub http_port: u16,
}

/// How to start a server.
#[derive(Debug)]
pub struct ServerBuilder {
    root: tempfile::TempDir,
    config: Value,
    env: Vec<(String, String)>,
    args: Vec<String>,
    host_keys: bool,
    log_file: bool,
    unprivileged: bool,
}

/// An account of the system that no file belongs to.
pub const NOBODY_ELSE: u32 = 61_234;

/// The binary under test: `TIDEGATE_BIN`, else the one that cargo built beside this test.
///
/// # Panics
/// When it is missing, with what to do about it.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "TIDEGATE_BIN names {}, which is not a file", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("a process knows its own file");
    let dir = test.parent().and_then(Path::parent).expect("tests run from target/<profile>/deps");
    let path = dir.join("tidegate");
    assert!(
        path.is_file(),
        "{} does not exist: build the server first (`cargo build`; scripts/test does so), or name one in TIDEGATE_BIN",
        path.display()
    );
    path
}

/// A command for the binary that sees nothing of this machine's own settings.
#[must_use]
pub fn command(home: &Path) -> Command {
    command_of(&binary(), home)
}

fn command_of(binary: &Path, home: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SFTPGO_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", home).env("TZ", "UTC").current_dir(home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A port on which nobody listens, below the range that the kernel hands out to clients.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 100) as u16 * 100;
    for _ in 0..2_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

impl ServerBuilder {
    /// Sets a key of the `sftpd` section.
    #[must_use]
    pub fn sftpd(self, key: &str, value: impl Into<Value>) -> Self {
        self.set("sftpd", key, value)
    }

    /// Sets a key of any section.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        self.config[section][key] = value.into();
        self
    }

    /// Sets an environment variable of the server.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a command-line argument after `serve`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Uses the SQLite store instead of the memory store, with this file as its content if there is one.
    #[must_use]
    pub fn sqlite(self, from: Option<&Path>) -> Self {
        if let Some(from) = from {
            std::fs::copy(from, self.root.path().join("conf/sftpgo.db")).unwrap();
        }
        self.set("data_provider", "driver", "sqlite").set("data_provider", "name", "sftpgo.db")
    }

    /// Leaves the configuration directory without host keys: the server makes its own.
    #[must_use]
    pub fn without_host_keys(mut self) -> Self {
        self.host_keys = false;
        self
    }

    /// Logs to standard error instead of `log.json`.
    #[must_use]
    pub fn without_log_file(mut self) -> Self {
        self.log_file = false;
        self
    }

    /// Runs the server as [`NOBODY_ELSE`] if the test is root. The homes of users must be given to that account.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = rustix::process::geteuid().is_root();
        self
    }

    /// The directory that will hold the configuration, to put files into it before the start.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.root.path().join("conf")
    }

    /// Starts the server and waits until it answers on its ports.
    pub fn start(self) -> TestServer {
        let root = self.root.path();
        if self.host_keys {
            keys().install_host_keys(&root.join("conf"));
        }
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        std::fs::write(root.join("conf/sftpgo.json"), text).unwrap();
        let log = if self.log_file { root.join("log.json") } else { PathBuf::new() };
        let mut command = command(root);
        if self.unprivileged {
            // The build directory may be for its owner alone.
            let copy = root.join("tidegate");
            std::fs::copy(binary(), &copy).unwrap();
            command = command_of(&copy, root);
            command.uid(NOBODY_ELSE).gid(NOBODY_ELSE);
            Tool::new("chmod", "coreutils").arg("755").arg(root).ok();
            let owner = format!("{NOBODY_ELSE}:{NOBODY_ELSE}");
            Tool::new("chown", "coreutils").args(["-R", &owner]).arg(root).ok();
        }
        command.arg("serve").arg("-c").arg(root.join("conf")).args(["-f", "sftpgo", "-l"]).arg(log);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        let again = (command.get_args().map(OsString::from).collect(), self.env);
        let port = |section: &str| self.config[section]["bind_port"].as_u64().map_or(0, |port| port as u16);
        let mut server = TestServer::launch(command, port("sftpd"), port("httpd"), self.root);
        server.again = again;
        server
    }
}

impl TestServer {
    /// A server with the memory store and otherwise default settings.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server to be configured further.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        let root = tempfile::Builder::new().prefix("tidegate-e2e-").tempdir().unwrap();
        for dir in ["conf", "homes", "work"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        let config = json!({
            "sftpd": {"bind_port": free_port(), "bind_address": "127.0.0.1"},
            "httpd": {"bind_port": free_port(), "bind_address": "127.0.0.1"},
            "data_provider": {"driver": "memory", "name": ""},
        });
        ServerBuilder {
            root,
            config,
            env: Vec::new(),
            args: Vec::new(),
            host_keys: true,
            log_file: true,
            unprivileged: false,
        }
    }

    /// Runs a command that starts a server and waits until it answers. `http_port` 0 means: no REST API.
    pub fn launch(mut command: Command, port: u16, http_port: u16, root: tempfile::TempDir) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Some(collect(child.stdout.take()));
        let stderr = Some(collect(child.stderr.take()));
        let again = (Vec::new(), Vec::new());
        let mut server = Self { child, root, stdout, stderr, again, port, http_port };
        server.wait_ready();
        server
    }

    fn wait_ready(&mut self) {
        wait_for("the server to answer on its ports", Duration::from_secs(60), || {
            if let Some(exit) = self.child.try_wait().unwrap() {
                panic!("the server ended at its start, {exit}:\n{}", self.console());
            }
            let ssh = greeting(self.port).is_some_and(|line| line.starts_with("SSH-2.0-"));
            let http = self.http_port == 0 || TcpStream::connect(("127.0.0.1", self.http_port)).is_ok();
            (ssh && http).then_some(())
        });
    }

    /// Starts a server that has ended once more, with the same configuration and in the same directory. Only
    /// for one that a [`ServerBuilder`] has started.
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "the server still runs");
        let (args, env) = &self.again;
        assert!(!args.is_empty(), "only a builder's server can be started again");
        let mut command = command(self.root.path());
        command.args(args).envs(env.iter().map(|(name, value)| (name, value)));
        self.child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        self.stdout = Some(collect(self.child.stdout.take()));
        self.stderr = Some(collect(self.child.stderr.take()));
        self.wait_ready();
    }

    /// A path in the server's temporary directory: `conf/`, `homes/`, `work/` (for clients), `log.json`.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(relative)
    }

    /// A directory for the client's side of a test.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// Begins to describe a user; `create` makes it.
    #[must_use]
    pub fn user(&self, name: &str) -> UserBuilder<'_> {
        UserBuilder::new(self, name)
    }

    /// Sends a request to the REST API.
    pub fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(Value::to_string);
        http::request(self.http_port, method, path, &[], body.as_deref())
    }

    /// The active connections, as the REST API lists them.
    pub fn connections(&self) -> Vec<Value> {
        self.rest("GET", "/api/v1/connection", None).expect(200).json().as_array().expect("an array").clone()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("the server is our child");
    }

    /// Waits until the process has ended by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        wait_for("the server to end", limit, || self.child.try_wait().unwrap())
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Resident memory in KiB: anonymous pages only, because cached file pages belong to nobody.
    #[must_use]
    pub fn rss_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux has this line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// What the process's open descriptors refer to, such as `socket:[1]` or a path.
    #[must_use]
    pub fn open_files(&self) -> Vec<String> {
        let Ok(dir) = std::fs::read_dir(format!("/proc/{}/fd", self.pid())) else { return Vec::new() };
        let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
        dir.flatten().filter_map(target).map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// The lines of the JSON log so far. A line that is not JSON fails the test.
    #[must_use]
    pub fn log(&self) -> Vec<Map<String, Value>> {
        let line =
            |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("log line {line:?}: {e}"));
        self.raw_log().iter().map(line).collect()
    }

    /// The lines of the log as text.
    #[must_use]
    pub fn raw_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log.json")).unwrap_or_default();
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits for a log line whose fields have these values.
    pub fn wait_log(&self, fields: &[(&str, Value)]) -> Map<String, Value> {
        wait_for(&format!("a log line with {fields:?}"), Duration::from_secs(10), || {
            self.log()
                .into_iter()
                .find(|line| fields.iter().all(|(key, value)| line.get(*key) == Some(value)))
        })
    }

    /// What the server wrote to standard output and standard error.
    #[must_use]
    pub fn console(&self) -> String {
        std::thread::sleep(Duration::from_millis(50));
        let both = [&self.stdout, &self.stderr];
        both.into_iter().flatten().map(|pipe| String::from_utf8_lossy(&pipe.so_far()).into_owned()).collect()
    }
}

/// The first line that a server sends, or `None` if it does not answer within two seconds.
#[must_use]
pub fn greeting(port: u16) -> Option<String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    (!line.is_empty()).then_some(line)
}

/// How long a fresh connection waits for the server's first line.
pub fn greeting_delay(port: u16) -> Duration {
    let start = Instant::now();
    greeting(port).expect("the server greets");
    start.elapsed()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.raw_log();
            eprintln!("--- last lines of the server's log");
            log.iter().rev().take(40).rev().for_each(|line| eprintln!("{line}"));
            eprintln!("--- its console\n{}", self.console());
        }
    }
}
