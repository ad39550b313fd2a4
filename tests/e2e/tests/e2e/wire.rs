//! A wire between a client and the server that a test can cut: no test of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Forwards connections to a port of this machine.
pub(crate) struct Wire {
    /// Where clients connect.
    pub(crate) port: u16,
    cut: Arc<AtomicBool>,
}

impl Wire {
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let was_cut = Arc::clone(&cut);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    // Closed with something unsent, such a socket is reset instead.
                    rustix::net::sockopt::set_socket_linger(from, Some(Duration::ZERO)).unwrap();
                    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(&was_cut);
                    std::thread::spawn(move || forward(from, to, &cut));
                }
            }
        });
        Self { port, cut }
    }

    /// Resets all connections, towards both ends.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut chunk = [0; 65_536];
    // A stalled end must not keep the other one from noticing the cut.
    to.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    while !cut.load(Ordering::SeqCst) {
        let count = match from.read(&mut chunk) {
            Ok(0) => {
                let _ = to.shutdown(std::net::Shutdown::Write);
                return;
            }
            Ok(count) => count,
            Err(error) if is_timeout(&error) => continue,
            Err(_) => return,
        };
        let mut left = &chunk[..count];
        while !left.is_empty() {
            match to.write(left) {
                Ok(0) => return,
                Ok(written) => left = &left[written..],
                Err(error) if is_timeout(&error) && !cut.load(Ordering::SeqCst) => {}
                Err(_) => return,
            }
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
