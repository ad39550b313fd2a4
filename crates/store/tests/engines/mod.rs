//! Real database servers for tests: each in a folder and on a port of its own, gone with the test.
//!
//! The programs are those of the Debian packages `postgresql` and `mariadb-server`. They refuse to run as root, so a
//! test that is root runs them as the account that the package made. A program that is missing fails the test.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod proxy;

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Characters that mean something in every connection string.
pub(crate) const PASSWORD: &str = "p'w@:/ \"\\%+&=?";
pub(crate) const USER: &str = "o.neill@x y";
pub(crate) const DATABASE: &str = "users of tidegate";

/// How long a server may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A database server that runs, or was killed.
pub(crate) struct Server {
    engine: &'static Engine,
    dir: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

/// How one kind of server is made.
pub(crate) struct Engine {
    name: &'static str,
    /// The Debian package.
    package: &'static str,
    account: &'static str,
    prepare: fn(&Path) -> Command,
    run: fn(&Path, u16) -> Command,
    /// A command that succeeds when the server works.
    ask: fn(&Path, u16) -> Command,
    /// A command that runs the statements of its input.
    client: fn(&Path, u16) -> Command,
}

pub(crate) static POSTGRESQL: Engine = Engine {
    name: "PostgreSQL",
    package: "postgresql",
    account: "postgres",
    prepare: |dir| {
        std::fs::write(dir.join("password"), PASSWORD).unwrap();
        let mut command = Command::new(postgresql("initdb"));
        command.arg("-D").arg(dir.join("data")).args(["-U", USER, "--pwfile"]).arg(dir.join("password"));
        command.args(["-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
        command
    },
    run: |dir, port| {
        let mut command = Command::new(postgresql("postgres"));
        command.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=100"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", dir.display()));
        if dir.join("server.pem").exists() {
            command.args(["-c", "ssl=on"]);
            command.arg("-c").arg(format!("ssl_cert_file={}", dir.join("server.pem").display()));
            command.arg("-c").arg(format!("ssl_key_file={}", dir.join("server.key").display()));
        }
        command
    },
    ask: |dir, port| {
        // Makes the database of the tests on its first success; later it is there already.
        let mut command = Command::new(postgresql("psql"));
        command.arg("-h").arg(dir).args(["-p", &port.to_string(), "-U", USER, "-d", "template1", "-q"]);
        command.env("PGPASSWORD", PASSWORD).arg("-c");
        command.arg(format!("CREATE DATABASE \"{DATABASE}\""));
        command
    },
    client: |dir, port| {
        let mut command = Command::new(postgresql("psql"));
        command.arg("-h").arg(dir).args(["-p", &port.to_string(), "-U", USER, "-d", DATABASE]);
        command.args(["-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command.env("PGPASSWORD", PASSWORD);
        command
    },
};

pub(crate) static MARIADB: Engine = Engine {
    name: "MariaDB",
    package: "mariadb-server",
    account: "mysql",
    prepare: |dir| {
        let mut command = Command::new("mariadb-install-db");
        command.arg("--no-defaults").arg(format!("--datadir={}", dir.join("data").display()));
        // Several at once would take each other's tables in the common one.
        command.arg(format!("--tmpdir={}", dir.display()));
        command.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        command
    },
    run: |dir, port| {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
        let (user, password) = (quoted(USER), quoted(PASSWORD));
        let statements = [
            format!("CREATE DATABASE IF NOT EXISTS `{DATABASE}`;"),
            format!("CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{password}';"),
            format!("GRANT ALL ON *.* TO '{user}'@'%';"),
        ];
        std::fs::write(dir.join("init.sql"), statements.join("\n")).unwrap();
        let mut command = Command::new(mariadb("mariadbd"));
        command.arg("--no-defaults").arg(format!("--datadir={}", dir.join("data").display()));
        command.args([format!("--port={port}"), "--bind-address=127.0.0.1".to_owned()]);
        command.arg(format!("--socket={}", dir.join("m.sock").display()));
        command.arg(format!("--pid-file={}", dir.join("m.pid").display()));
        command.arg(format!("--init-file={}", dir.join("init.sql").display()));
        command.args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2", "--skip-log-bin"]);
        command.args(["--innodb-buffer-pool-size=32M", "--max-connections=100"]);
        // As older installations have it, where names compare without case and accents.
        command.args(["--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci"]);
        if dir.join("server.pem").exists() {
            command.arg(format!("--ssl-cert={}", dir.join("server.pem").display()));
            command.arg(format!("--ssl-key={}", dir.join("server.key").display()));
        }
        command
    },
    ask: |_, port| {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-h127.0.0.1", "-e", "SELECT 1", "--connect-timeout=2"]);
        command.args([format!("-P{port}"), format!("-u{USER}"), format!("-p{PASSWORD}")]);
        command.arg(DATABASE);
        command
    },
    client: |_, port| {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-h127.0.0.1", "-N", "-B", "--default-character-set=utf8mb4"]);
        command.args([format!("-P{port}"), format!("-u{USER}"), format!("-p{PASSWORD}")]);
        command.arg(DATABASE);
        command
    },
};

/// The programs of the newest version that is installed.
fn postgresql(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    versions.pop().map_or_else(|| program.into(), |bin| bin.join(program))
}

/// It may be where only root looks.
fn mariadb(program: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(program);
    if path.exists() { path } else { program.into() }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}

impl Engine {
    fn command(&self, inner: &Command) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={}", self.account), format!("--regid={}", self.account)]);
            command.args(["--init-groups", "--"]).arg(inner.get_program());
            command
        } else {
            Command::new(inner.get_program())
        };
        command.args(inner.get_args()).current_dir("/").stdin(Stdio::null());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
    }

    fn run_to_end(&self, inner: &Command) {
        let output =
            self.command(inner).output().unwrap_or_else(|error| self.missing(inner, &error.to_string()));
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(127) {
            self.missing(inner, &text);
        }
        assert!(output.status.success(), "{:?} failed: {text}", inner.get_program());
    }

    fn missing(&self, inner: &Command, error: &str) -> ! {
        panic!(
            "{} is needed for this test and cannot be run ({:?}: {error}): install the Debian package {}",
            self.name,
            inner.get_program(),
            self.package
        )
    }
}

impl Server {
    /// Makes a server and waits until it works.
    pub(crate) fn start(engine: &'static Engine) -> Self {
        Self::start_with(engine, |_| {})
    }

    /// The same, with something prepared in its folder first.
    pub(crate) fn start_with(engine: &'static Engine, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("tidegate-db").tempdir().unwrap();
        prepare(dir.path());
        let command = (engine.prepare)(dir.path());
        if is_root() {
            let owner = format!("{0}:{0}", engine.account);
            let chown = Command::new("chown").arg("-R").arg(owner).arg(dir.path()).output().unwrap();
            if !chown.status.success() {
                engine.missing(&command, &String::from_utf8_lossy(&chown.stderr));
            }
        }
        engine.run_to_end(&command);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { engine, dir, port, child: None };
        server.restart();
        server
    }

    /// Starts it again, on the same port, and waits until it works.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let log = self.path("log");
        loop {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                let inner = (self.engine.run)(self.dir.path(), self.port);
                let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
                let mut command = self.engine.command(&inner);
                command.stdout(output.try_clone().unwrap()).stderr(output);
                // Away from the terminal's signals: the test ends it.
                command.process_group(0);
                let child = command.spawn();
                self.child = Some(child.unwrap_or_else(|e| self.engine.missing(&inner, &e.to_string())));
            }
            let mut ask = (self.engine.ask)(self.dir.path(), self.port);
            let answer = ask.stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8_lossy(&answer.stderr).into_owned();
            if answer.status.success() || text.contains("already exists") {
                return;
            }
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} does not come up: {text}\n{}", self.engine.name, log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it as the loss of power would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Makes it silent (`STOP`), lets it speak again (`CONT`), or ends it (`KILL`), and all processes that it
    /// started.
    pub(crate) fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        let mut ids = vec![child.id().to_string()];
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        ids.extend(children.split_whitespace().map(str::to_owned));
        // One of them may have ended meanwhile.
        drop(Command::new("kill").arg(format!("-{name}")).arg("--").args(&ids).output());
        let end = Instant::now() + Duration::from_secs(10);
        while name == "STOP" && !ids.iter().all(|id| is_stopped(id)) {
            assert!(Instant::now() < end, "the server does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs statements as the tests' user, and returns what they yield: a line for each row, its cells with tabs
    /// between them.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let mut command = (self.engine.client)(self.dir.path(), self.port);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("ERROR"), "{statements}: {text}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("KILL");
        self.kill();
    }
}

/// Writes `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1, which the former signed.
pub(crate) fn make_certificates(dir: &Path) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(dir).output();
        let output = output.unwrap_or_else(|error| panic!("install the Debian package openssl: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"];
    let ca = ["req", "-x509", "-days", "30", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&ca[..], &ec[..], &["/CN=tidegate test authority"]].concat());
    let request = ["req", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &ec[..], &["/CN=database"]].concat());
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        "san",
        "-out",
        "server.pem",
    ]);
}

/// Whether every thread of a process stands still, or the process is gone. A thread that works when it is told to stop
/// may well answer a call before it does.
fn is_stopped(id: &str) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
    })
}
