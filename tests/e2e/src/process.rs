//! Runs a foreign program with a time limit. Which programs, and with which options, is `clients`' matter.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A program to run: its arguments, its input and how long it may take.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    package: String,
    input: Vec<u8>,
    limit: Duration,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// The exit code, or `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote to standard output.
    pub stdout: Vec<u8>,
    /// Everything it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Tool {
    /// Names a program and the package that a Debian machine gets it from.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>, package: &str) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8");
        Self { command, package: package.to_owned(), input: Vec::new(), limit: Duration::from_secs(60) }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program reads from standard input.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How long it may take; 60 seconds unless told.
    #[must_use]
    pub fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs to the end and expects success; returns standard output as text.
    pub fn ok(self) -> String {
        let done = self.run();
        done.expect_success();
        done.out()
    }

    /// Runs to the end and expects a failure exit code.
    pub fn fails(self) -> Finished {
        let done = self.run();
        assert!(done.code.is_some_and(|code| code != 0), "this was expected to fail:\n{}", done.report());
        done
    }

    /// Runs to the end, whatever it is. Exceeding the time limit fails the test with the output so far.
    pub fn run(mut self) -> Finished {
        let line = format!("{:?}", self.command);
        let mut running = self.spawn(Stdio::piped());
        let out = collect(running.stdout.take());
        let err = collect(running.stderr.take());
        let mut stdin = running.stdin.take().expect("stdin is a pipe");
        let input = std::mem::take(&mut self.input);
        // A client that ends early closes the pipe: its exit code tells why, not our write.
        std::thread::spawn(move || stdin.write_all(&input));

        let end = Instant::now() + self.limit;
        let code = loop {
            if let Some(exit) = running.try_wait().expect("the child is ours") {
                break Some(exit.code());
            }
            if Instant::now() >= end {
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if code.is_none() {
            kill_group(&running);
            running.wait().expect("the child is ours");
        }
        let finished = Finished { line, code: code.flatten(), stdout: out.take(), stderr: err.take() };
        assert!(code.is_some(), "not finished after {:?}:\n{}", self.limit, finished.report());
        finished
    }

    /// Starts the program and leaves it running, its three streams piped.
    pub fn start(mut self) -> Child {
        self.spawn(Stdio::piped())
    }

    fn spawn(&mut self, stdin: Stdio) -> Child {
        let program = self.command.get_program().to_string_lossy().into_owned();
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        match self.command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => panic!(
                "`{program}` is not installed: this test needs the package `{}` (scripts/test installs it)",
                self.package
            ),
            Err(error) => panic!("cannot start `{program}`: {error}"),
        }
    }
}

/// Ends a child and everything it started (each program here leads its own process group).
pub fn kill_group(child: &Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

impl Finished {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Both streams and the exit code, for a message.
    #[must_use]
    pub fn report(&self) -> String {
        format!(
            "{}\nexit {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.code,
            tail(&self.out()),
            tail(&self.err())
        )
    }

    /// Fails the test unless the exit code is 0.
    pub fn expect_success(&self) {
        assert_eq!(self.code, Some(0), "{}", self.report());
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A pipe that is read in the background.
#[derive(Debug)]
pub struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Starts to read a pipe in the background, so that its writer never blocks.
pub fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    let mut pipe = pipe.expect("the stream is a pipe");
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&bytes);
    let thread = std::thread::spawn(move || {
        let mut chunk = [0; 16_384];
        while let Ok(count @ 1..) = pipe.read(&mut chunk) {
            sink.lock().unwrap().extend_from_slice(&chunk[..count]);
        }
    });
    Collected { bytes, thread: Some(thread) }
}

impl Collected {
    /// What has arrived so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// Everything, once the writer is gone. A grandchild that keeps the pipe open is waited for two seconds.
    #[must_use]
    pub fn take(mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            let end = Instant::now() + Duration::from_secs(2);
            while !thread.is_finished() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.so_far()
    }
}
