//! A way to a database server on which the answer to one statement is lost.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What becomes of the next statement that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection breaks before the server has it.
    Statement = 1,
    /// The connection breaks when the server has done it.
    Answer = 2,
}

/// Passes connections on, in threads that end with their connections.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    next: Arc<AtomicU8>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), next: Arc::default() };
        let next = Arc::clone(&proxy.next);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A server that is away.
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                pass(client, server, &next);
            }
        });
        proxy
    }

    /// The next statement that is run is lost in this way.
    pub(crate) fn lose(&self, what: Loss) {
        self.next.store(what as u8, Ordering::SeqCst);
    }

    /// Whether it has happened.
    pub(crate) fn has_lost(&self) -> bool {
        self.next.load(Ordering::SeqCst) == 0
    }
}

/// Whether a packet runs a prepared statement: `COM_STMT_EXECUTE` of MySQL, or a `Bind` of PostgreSQL.
fn runs(packet: &[u8]) -> bool {
    packet.get(4) == Some(&0x17) && packet.get(3) == Some(&0) || packet.first() == Some(&b'B')
}

fn pass(client: TcpStream, server: TcpStream, next: &Arc<AtomicU8>) {
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let cut = Arc::new(AtomicU8::new(0));
    let (cut_after, next) = (Arc::clone(&cut), Arc::clone(next));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = from_client.read(&mut buffer) {
            let packet = &buffer[..length];
            if runs(packet) {
                match next.swap(0, Ordering::SeqCst) {
                    1 => break,
                    armed => cut.store(armed, Ordering::SeqCst),
                }
            }
            if to_server.write_all(packet).is_err() {
                break;
            }
        }
        drop((from_client.shutdown(Shutdown::Both), to_server.shutdown(Shutdown::Both)));
    });
    let (mut from_server, mut to_client) = (server, client);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(length @ 1..) = from_server.read(&mut buffer) {
            // The server has answered, so it has done what it was told.
            if cut_after.load(Ordering::SeqCst) != 0 || to_client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        drop((from_server.shutdown(Shutdown::Both), to_client.shutdown(Shutdown::Both)));
    });
}
