//! A raw SFTP client: the OpenSSH `ssh` carries the bytes, this module writes and reads every one of them.
//!
//! The encoding (filexfer-02) is written here a second time on purpose: a mistake in the server's own codec
//! must not cancel itself out, and hostile packets have no place in a good codec.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clients::ssh_options;
use crate::packet::{Attrs, Entry, Packet, Reply, flags, kind, status};
use crate::process::{Collected, Tool, collect, kill_group};
use crate::server::TestServer;

/// A raw session. Dropping it kills its `ssh`.
#[derive(Debug)]
pub struct RawSftp {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<Collected>,
    replies: Option<Receiver<Vec<u8>>>,
    paused: Arc<AtomicBool>,
    reader: Option<JoinHandle<ChildStdout>>,
    next_id: u32,
    /// The extensions that the server announced, name and data.
    pub extensions: Vec<(String, String)>,
}

impl RawSftp {
    /// Logs in with the shared key, opens the subsystem and exchanges versions.
    pub fn connect(server: &TestServer, user: &str) -> Self {
        let mut sftp = Self::connect_without_init(server, user, &[]);
        sftp.init();
        sftp
    }

    /// Logs in and opens the subsystem; sends nothing. `options` are added to the `ssh` command line.
    pub fn connect_without_init(server: &TestServer, user: &str, options: &[String]) -> Self {
        let mut child = Tool::new("ssh", "openssh-client")
            .args(ssh_options())
            .args(options)
            .args(["-p", &server.port.to_string(), "-l", user, "-s", "127.0.0.1", "sftp"])
            .start();
        let stderr = Some(collect(child.stderr.take()));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Self {
            child,
            stdin,
            stdout,
            stderr,
            replies: None,
            paused: Arc::default(),
            reader: None,
            next_id: 1,
            extensions: Vec::new(),
        }
    }

    /// Exchanges versions and remembers the extensions.
    pub fn init(&mut self) {
        self.send(&Packet::new(kind::INIT).u32(3)).expect("ssh takes the first packet");
        let packet = self
            .receive()
            .unwrap_or_else(|| panic!("the server ended the session at once: {}", self.complaint()));
        let mut reply = Reply::parse(&packet);
        assert_eq!((reply.kind, reply.id), (kind::VERSION, 3), "version 3 was expected");
        while !reply.is_empty() {
            let (name, data) = (reply.string(), reply.string());
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            self.extensions.push((text(name), text(data)));
        }
    }

    /// What `ssh` has said on standard error.
    #[must_use]
    pub fn complaint(&self) -> String {
        self.stderr
            .as_ref()
            .map_or(String::new(), |pipe| String::from_utf8_lossy(&pipe.so_far()).into_owned())
    }

    /// Sends a packet with its length.
    ///
    /// # Errors
    /// When `ssh` has ended, because the server closed the session.
    pub fn send(&mut self, packet: &Packet) -> io::Result<()> {
        self.send_bytes(&packet.framed())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When `ssh` has ended, because the server closed the session.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(bytes).and_then(|()| stdin.flush())
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        self.stdin = None;
    }

    /// Reads nothing more, not even in the background: what the server sends from now on stays on its way.
    pub fn stop_reading(&mut self) {
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Receives one packet without its length; `None` when the server has ended the session.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let replies = self.replies.get_or_insert_with(|| {
            let mut stdout = self.stdout.take().expect("taken only here");
            let (sender, receiver) = channel();
            let paused = Arc::clone(&self.paused);
            self.reader = Some(std::thread::spawn(move || {
                let mut length = [0; 4];
                while !paused.load(Ordering::SeqCst) && stdout.read_exact(&mut length).is_ok() {
                    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
                    if stdout.read_exact(&mut packet).is_err() || sender.send(packet).is_err() {
                        break;
                    }
                }
                // The pipe lives as long as the session: a closed one would tell `ssh` that nobody listens.
                stdout
            }));
            receiver
        });
        match replies.recv_timeout(Duration::from_secs(30)) {
            Ok(packet) => {
                // OpenSSH's client and others give up on anything longer.
                assert!(packet.len() <= 256 * 1024, "a reply of {} bytes", packet.len());
                Some(packet)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no reply within 30 s; ssh says: {}", self.complaint()),
        }
    }

    /// Receives one reply; fails the test if the session has ended.
    pub fn reply(&mut self) -> Reply {
        let packet =
            self.receive().unwrap_or_else(|| panic!("the session has ended; ssh says: {}", self.complaint()));
        Reply::parse(&packet)
    }

    /// A request of this type with a fresh number; the fields are still to be added.
    pub fn packet(&mut self, kind: u8) -> Packet {
        self.next_id += 1;
        Packet::new(kind).u32(self.next_id)
    }

    /// Sends a request and waits for its reply.
    pub fn request(&mut self, packet: &Packet) -> Reply {
        let id = u32::from_be_bytes(packet.0[1..5].try_into().unwrap());
        self.send(packet)
            .unwrap_or_else(|e| panic!("the session has ended ({e}); ssh says: {}", self.complaint()));
        let reply = self.reply();
        assert_eq!(reply.id, id, "the reply answers another request");
        reply
    }

    fn simple(&mut self, packet: &Packet) -> Result<(), u32> {
        match self.request(packet).status().0 {
            status::OK => Ok(()),
            code => Err(code),
        }
    }

    fn expect(&mut self, packet: &Packet, kind: u8) -> Result<Reply, u32> {
        let reply = self.request(packet);
        if reply.kind == kind {
            return Ok(reply);
        }
        let wanted = reply.clone();
        let (code, _) = reply.status();
        assert_ne!(code, status::OK, "OK is no answer to a request for data: {wanted:?}");
        Err(code)
    }
}

/// One function per request; `Err` holds the status code.
#[allow(missing_docs, reason = "the draft's own requests")]
impl RawSftp {
    pub fn open(&mut self, path: impl AsRef<[u8]>, pflags: u32) -> Result<Vec<u8>, u32> {
        let packet = self.packet(kind::OPEN).string(path).u32(pflags);
        let packet = Attrs::default().encode(packet);
        self.expect(&packet, kind::HANDLE).map(|mut reply| reply.string())
    }

    pub fn close(&mut self, handle: &[u8]) -> Result<(), u32> {
        let packet = self.packet(kind::CLOSE).string(handle);
        self.simple(&packet)
    }

    pub fn read(&mut self, handle: &[u8], offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        let packet = self.packet(kind::READ).string(handle).u64(offset).u32(length);
        self.expect(&packet, kind::DATA).map(|mut reply| reply.string())
    }

    pub fn write(&mut self, handle: &[u8], offset: u64, data: &[u8]) -> Result<(), u32> {
        let packet = self.packet(kind::WRITE).string(handle).u64(offset).string(data);
        self.simple(&packet)
    }

    pub fn stat(&mut self, path: impl AsRef<[u8]>) -> Result<Attrs, u32> {
        let packet = self.packet(kind::STAT).string(path);
        self.expect(&packet, kind::ATTRS).map(|mut reply| reply.attrs())
    }

    pub fn lstat(&mut self, path: impl AsRef<[u8]>) -> Result<Attrs, u32> {
        let packet = self.packet(kind::LSTAT).string(path);
        self.expect(&packet, kind::ATTRS).map(|mut reply| reply.attrs())
    }

    pub fn fstat(&mut self, handle: &[u8]) -> Result<Attrs, u32> {
        let packet = self.packet(kind::FSTAT).string(handle);
        self.expect(&packet, kind::ATTRS).map(|mut reply| reply.attrs())
    }

    pub fn setstat(&mut self, path: impl AsRef<[u8]>, attrs: &Attrs) -> Result<(), u32> {
        let packet = self.packet(kind::SETSTAT).string(path);
        self.simple(&attrs.encode(packet))
    }

    pub fn fsetstat(&mut self, handle: &[u8], attrs: &Attrs) -> Result<(), u32> {
        let packet = self.packet(kind::FSETSTAT).string(handle);
        self.simple(&attrs.encode(packet))
    }

    pub fn opendir(&mut self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, u32> {
        let packet = self.packet(kind::OPENDIR).string(path);
        self.expect(&packet, kind::HANDLE).map(|mut reply| reply.string())
    }

    /// One reply's worth of entries; `Err(EOF)` at the end.
    pub fn readdir(&mut self, handle: &[u8]) -> Result<Vec<Entry>, u32> {
        let packet = self.packet(kind::READDIR).string(handle);
        let mut reply = self.expect(&packet, kind::NAME)?;
        let count = reply.u32();
        Ok((0..count)
            .map(|_| Entry { name: reply.string(), longname: reply.string(), attrs: reply.attrs() })
            .collect())
    }

    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Result<(), u32> {
        let packet = self.packet(kind::REMOVE).string(path);
        self.simple(&packet)
    }

    pub fn mkdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), u32> {
        let packet = self.packet(kind::MKDIR).string(path).u32(0);
        self.simple(&packet)
    }

    pub fn rmdir(&mut self, path: impl AsRef<[u8]>) -> Result<(), u32> {
        let packet = self.packet(kind::RMDIR).string(path);
        self.simple(&packet)
    }

    pub fn rename(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), u32> {
        let packet = self.packet(kind::RENAME).string(from).string(to);
        self.simple(&packet)
    }

    /// The order of the arguments is OpenSSH's: what the link says, then where it is.
    pub fn symlink(&mut self, target: impl AsRef<[u8]>, link: impl AsRef<[u8]>) -> Result<(), u32> {
        let packet = self.packet(kind::SYMLINK).string(target).string(link);
        self.simple(&packet)
    }

    pub fn readlink(&mut self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, u32> {
        let packet = self.packet(kind::READLINK).string(path);
        self.name(&packet)
    }

    pub fn realpath(&mut self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, u32> {
        let packet = self.packet(kind::REALPATH).string(path);
        self.name(&packet)
    }

    fn name(&mut self, packet: &Packet) -> Result<Vec<u8>, u32> {
        let mut reply = self.expect(packet, kind::NAME)?;
        assert_eq!(reply.u32(), 1, "one name was expected");
        Ok(reply.string())
    }

    /// An extension request whose body is a list of strings and whose answer is a status.
    pub fn extended(&mut self, name: &str, strings: &[&[u8]]) -> Result<(), u32> {
        let mut packet = self.packet(kind::EXTENDED).string(name);
        for string in strings {
            packet = packet.string(string);
        }
        self.simple(&packet)
    }

    /// An extension request whose body is a list of strings and whose answer is an extended reply.
    pub fn extended_reply(&mut self, name: &str, strings: &[&[u8]]) -> Result<Reply, u32> {
        let mut packet = self.packet(kind::EXTENDED).string(name);
        for string in strings {
            packet = packet.string(string);
        }
        self.expect(&packet, kind::EXTENDED_REPLY)
    }
}

/// What tests want in one call.
impl RawSftp {
    /// All names of a directory, in the order of the server.
    pub fn list(&mut self, path: impl AsRef<[u8]>) -> Result<Vec<Entry>, u32> {
        let handle = self.opendir(path)?;
        let mut entries = Vec::new();
        let end = loop {
            match self.readdir(&handle) {
                Ok(more) => entries.extend(more),
                Err(code) => break code,
            }
        };
        self.close(&handle)?;
        if end == status::EOF { Ok(entries) } else { Err(end) }
    }

    /// The content of a file.
    pub fn get(&mut self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, u32> {
        let handle = self.open(path, flags::READ)?;
        let mut content = Vec::new();
        let end = loop {
            match self.read(&handle, content.len() as u64, 32_768) {
                Ok(data) => content.extend(data),
                Err(code) => break code,
            }
        };
        self.close(&handle)?;
        if end == status::EOF { Ok(content) } else { Err(end) }
    }

    /// Creates or replaces a file.
    pub fn put(&mut self, path: impl AsRef<[u8]>, content: &[u8]) -> Result<(), u32> {
        let handle = self.open(path, flags::WRITE | flags::CREAT | flags::TRUNC)?;
        let written = self.write(&handle, 0, content);
        self.close(&handle)?;
        written
    }

    /// Waits until the server has ended the session, and returns ssh's exit code.
    pub fn wait_end(&mut self, limit: Duration) -> Option<i32> {
        self.stdin = None;
        crate::wait_for("ssh to end", limit, || self.child.try_wait().unwrap()).code()
    }

    /// Whether `ssh` still runs.
    pub fn is_open(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for RawSftp {
    fn drop(&mut self) {
        kill_group(&self.child);
        let _ = self.child.wait();
    }
}
