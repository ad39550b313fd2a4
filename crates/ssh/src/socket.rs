//! The stream under an SSH session: a TCP connection that the server can end and put under a deadline
//! whatever the SSH library is doing with it, and that needs one system call for each packet or less.
//!
//! * **Ending.** The library reads its own queue of messages only between packets and not during a key
//!   exchange, so a disconnect that goes through it may never happen. After [`SocketControl::kill`] every
//!   read and write fails, and the session ends with its stream.
//! * **Deadline.** Until [`SocketControl::authenticated`], reads and writes fail once the login grace time is
//!   over, however busy the peer keeps the connection.
//! * **Reading ahead.** The library asks for the length of a packet, then for its body. Small requests are
//!   answered from a buffer that one read filled; large ones get their bytes directly, and the same call
//!   fetches the beginning of what follows. Nothing is held while a connection is silent.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What one read ahead asks for; enough for a request with 4 KiB of data.
const SMALL_FILL: usize = 8192;
/// What is asked for after a fill that left nothing in the kernel's buffer untouched: a burst of requests.
const LARGE_FILL: usize = 65_536;
/// A reader with at least this much room gets its bytes without a copy.
const DIRECT: usize = SMALL_FILL;
/// What a direct read fetches beyond its own room: the length of the next packet, and small packets in
/// between. More would only be copied.
const LOOK_AHEAD: usize = 1024;

const KILLED: u32 = 1;
const EXPIRED: u32 = 2;
const AUTHENTICATED: u32 = 4;

/// A TCP connection under the control of [`SocketControl`].
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    control: SocketControl,
    /// Bytes that were read and not yet asked for. Holds no memory while the connection is silent.
    ahead: BytesMut,
    next_fill: usize,
    /// `None` once the peer is known to be authenticated.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Ends a [`Socket`] from anywhere. Clones are the same control.
#[derive(Debug, Clone)]
pub(crate) struct SocketControl(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Changed only while `waiting` is locked, so that nobody goes to sleep on an old value.
    flags: AtomicU32,
    waiting: Mutex<Waiting>,
}

/// Who to wake when the flags change.
#[derive(Debug, Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Side {
    Reader,
    Writer,
}

impl Socket {
    /// Wraps a connection whose peer has to log in before `deadline`.
    pub(crate) fn new(stream: TcpStream, deadline: Instant) -> (Self, SocketControl) {
        let control = SocketControl::detached();
        let socket = Self {
            stream,
            control: control.clone(),
            ahead: BytesMut::new(),
            next_fill: SMALL_FILL,
            deadline: Some(Box::pin(tokio::time::sleep_until(deadline))),
        };
        (socket, control)
    }

    /// Fails if the connection was ended or its deadline is over, and returns the flags as they are.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<u32> {
        let flags = self.control.flags();
        if flags & KILLED != 0 {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was ended by the server",
            ));
        }
        if flags & AUTHENTICATED != 0 {
            self.deadline = None;
        }
        if let Some(sleep) = &mut self.deadline
            && (flags & EXPIRED != 0 || sleep.as_mut().poll(context).is_ready())
        {
            // The timer wakes one task only; the other side may wait in another.
            self.control.change(|flags| flags | EXPIRED);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the login grace time is over"));
        }
        Ok(flags)
    }

    fn poll_read_stream(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.ahead.is_empty() {
            if self.stream.poll_read_ready(context)?.is_pending() {
                self.ahead = BytesMut::new();
                return Poll::Pending;
            }
            if buf.remaining() >= DIRECT {
                return self.poll_read_direct(context, buf);
            }
            ready!(self.poll_fill(context))?;
        }
        let count = buf.remaining().min(self.ahead.len());
        buf.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }

    /// Fills the empty buffer with one read; it stays empty at the end of the stream.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.clear();
        self.ahead.reserve(self.next_fill);
        let filled = ready!(pin!(self.stream.read_buf(&mut self.ahead)).poll(context))?;
        self.next_fill = if filled >= self.next_fill { LARGE_FILL } else { SMALL_FILL };
        Poll::Ready(Ok(()))
    }

    /// Reads into the caller's buffer and a little further with one call.
    fn poll_read_direct(&mut self, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.next_fill = SMALL_FILL;
        let (stream, ahead) = (&self.stream, &mut self.ahead);
        let room = buf.remaining();
        loop {
            ahead.clear();
            ahead.resize(LOOK_AHEAD, 0);
            let mut short = None;
            let outcome = stream.try_io(Interest::READABLE, || {
                let mut parts = [IoSliceMut::new(buf.initialize_unfilled()), IoSliceMut::new(ahead)];
                let count = (&*SockRef::from(stream)).read_vectored(&mut parts)?;
                if count == 0 || count == room + LOOK_AHEAD {
                    return Ok(count);
                }
                // A short read has emptied the kernel's buffer. Saying so spares the next read a call that
                // would find nothing; tokio's own reads do the same.
                short = Some(count);
                Err(io::ErrorKind::WouldBlock.into())
            });
            let count = match (short, outcome) {
                (Some(count), _) => count,
                (None, Ok(count)) => count,
                (None, Err(error)) => {
                    ahead.clear();
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Poll::Ready(Err(error));
                    }
                    ready!(stream.poll_read_ready(context))?;
                    continue;
                }
            };
            let direct = count.min(room);
            buf.advance(direct);
            ahead.truncate(count - direct);
            return Poll::Ready(Ok(()));
        }
    }

    /// Runs `write` until it is ready or the task is registered for a change of the flags.
    fn poll_write_with(
        &mut self,
        context: &mut Context<'_>,
        mut write: impl FnMut(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let flags = self.check(context)?;
            if let Poll::Ready(written) = write(Pin::new(&mut self.stream), context) {
                return Poll::Ready(written);
            }
            if self.control.park(Side::Writer, context, flags) {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        loop {
            let flags = socket.check(context)?;
            if let Poll::Ready(result) = socket.poll_read_stream(context, buf) {
                return Poll::Ready(result);
            }
            if socket.control.park(Side::Reader, context, flags) {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(context, |stream, context| stream.poll_write(context, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(context, |stream, context| stream.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl SocketControl {
    /// A control that no socket obeys yet.
    pub(crate) fn detached() -> Self {
        Self(Arc::new(Shared { flags: AtomicU32::new(0), waiting: Mutex::default() }))
    }

    /// Ends the connection: reads and writes fail from now on, also those that are waiting.
    pub(crate) fn kill(&self) {
        self.change(|flags| flags | KILLED);
    }

    /// Whether [`kill`](Self::kill) was called.
    #[cfg(test)]
    pub(crate) fn is_killed(&self) -> bool {
        self.flags() & KILLED != 0
    }

    /// Lifts the deadline, for ever, unless it is over already.
    pub(crate) fn authenticated(&self) {
        self.change(|flags| if flags & EXPIRED == 0 { flags | AUTHENTICATED } else { flags });
    }

    /// Whether the deadline passed before [`authenticated`](Self::authenticated), and a read or write failed
    /// for it.
    #[cfg(test)]
    pub(crate) fn is_expired(&self) -> bool {
        self.flags() & EXPIRED != 0
    }

    fn flags(&self) -> u32 {
        self.0.flags.load(Ordering::Acquire)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs while it is locked.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the flags and, if they are different now, wakes both sides to look at them.
    fn change(&self, change: impl FnOnce(u32) -> u32) {
        let mut waiting = self.waiting();
        let before = self.0.flags.load(Ordering::Relaxed);
        let after = change(before);
        if after == before {
            return;
        }
        self.0.flags.store(after, Ordering::Release);
        let Waiting { reader, writer } = std::mem::take(&mut *waiting);
        drop(waiting);
        for waker in [reader, writer].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Registers the task for the next change of the flags; false if they are no longer `seen`.
    fn park(&self, side: Side, context: &Context<'_>, seen: u32) -> bool {
        let mut waiting = self.waiting();
        if self.0.flags.load(Ordering::Relaxed) != seen {
            return false;
        }
        let place = match side {
            Side::Reader => &mut waiting.reader,
            Side::Writer => &mut waiting.writer,
        };
        match place {
            Some(waker) => waker.clone_from(context.waker()),
            None => *place = Some(context.waker().clone()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn pair(grace: Duration) -> (Socket, SocketControl, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (socket, control) = Socket::new(server, Instant::now() + grace);
        (socket, control, client)
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(30)).await;
    }

    /// Polls a read once, outside of any task's own waiting.
    async fn is_pending(socket: &mut Socket) -> bool {
        let mut room = [0; 4];
        std::future::poll_fn(|context| {
            let polled = Pin::new(&mut *socket).poll_read(context, &mut ReadBuf::new(&mut room));
            Poll::Ready(polled.is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn one_read_serves_the_length_and_the_body_of_many_packets() {
        let (mut socket, _control, mut client) = pair(HOUR).await;
        client.write_all(&[7; 1000]).await.unwrap();
        settle().await;
        assert_eq!(socket.read_u32().await.unwrap(), 0x0707_0707);
        assert_eq!(socket.ahead.len(), 996);
        socket.read_exact(&mut [0; 996]).await.unwrap();
        assert!(is_pending(&mut socket).await);
        assert_eq!(socket.ahead.capacity(), 0, "a silent connection holds no buffer");
    }

    #[tokio::test]
    async fn a_burst_is_read_in_large_pieces() {
        let (mut socket, _control, mut client) = pair(HOUR).await;
        client.write_all(&vec![1; 60_000]).await.unwrap();
        settle().await;
        socket.read_exact(&mut [0; 4]).await.unwrap();
        assert!(socket.next_fill == LARGE_FILL && socket.ahead.len() >= SMALL_FILL - 4);
        let first = socket.ahead.len();
        socket.read_exact(&mut vec![0; first]).await.unwrap();
        socket.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(socket.ahead.len(), 60_000 - 8 - first);
    }

    #[tokio::test]
    async fn a_large_read_is_direct_and_looks_a_little_ahead() {
        let (mut socket, _control, mut client) = pair(HOUR).await;
        client.write_all(&[1; 40_000]).await.unwrap();
        settle().await;
        let mut body = vec![0; 32_768];
        assert_eq!(socket.read(&mut body).await.unwrap(), 32_768);
        assert_eq!(socket.ahead.len(), LOOK_AHEAD);
        // The rest is shorter than asked for: it is delivered, and the next read waits.
        socket.read_exact(&mut vec![0; LOOK_AHEAD]).await.unwrap();
        assert_eq!(socket.read(&mut body).await.unwrap(), 40_000 - 32_768 - LOOK_AHEAD);
        assert!(is_pending(&mut socket).await);
        client.write_all(&[9; 20_000]).await.unwrap();
        socket.read_exact(&mut body[..20_000]).await.unwrap();
        assert!(body[..20_000].iter().all(|byte| *byte == 9));
    }

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order_whatever_the_sizes() {
        let (mut socket, _control, mut client) = pair(HOUR).await;
        let sent: Vec<u8> =
            (0..3_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let copy = sent.clone();
        let sending = tokio::spawn(async move {
            for (index, chunk) in copy.chunks(50_021).enumerate() {
                client.write_all(chunk).await.unwrap();
                if index % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        let sizes = [4, 100, 4, 32_768, 16, 8191, 8192, 4, 200_000, 1, 9000, 4, 4, 60_000];
        let mut received = Vec::new();
        for size in sizes.iter().cycle() {
            let mut part = vec![0; *size];
            let count = socket.read(&mut part).await.unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&part[..count]);
        }
        sending.await.unwrap();
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert_eq!(socket.read(&mut [0; 4]).await.unwrap(), 0, "the end stays the end");
    }

    #[tokio::test]
    async fn kill_ends_a_waiting_read_and_everything_after_it() {
        let (mut socket, control, mut client) = pair(HOUR).await;
        let killer = control.clone();
        tokio::spawn(async move {
            settle().await;
            killer.kill();
        });
        assert_eq!(socket.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        client.write_all(b"more").await.unwrap();
        settle().await;
        assert_eq!(socket.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(socket.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(control.is_killed() && !control.is_expired());
    }

    #[tokio::test]
    async fn kill_discards_what_was_read_ahead() {
        let (mut socket, control, mut client) = pair(HOUR).await;
        client.write_all(b"abcdef").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'a');
        control.kill();
        assert!(socket.read_u8().await.is_err());
    }

    #[tokio::test]
    async fn kill_ends_a_waiting_write() {
        let (mut socket, control, _client) = pair(HOUR).await;
        let killer = control.clone();
        let writing = tokio::spawn(async move { socket.write_all(&vec![0; 64 << 20]).await });
        settle().await;
        assert!(!writing.is_finished(), "nobody reads, so the write has to wait");
        killer.kill();
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_silent_login() {
        let (mut socket, control, _client) = pair(Duration::from_secs(120)).await;
        let start = Instant::now();
        assert_eq!(socket.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 120);
        assert_eq!(socket.write(b"x").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        control.authenticated();
        assert!(control.is_expired());
        assert!(socket.write(b"x").await.is_err(), "too late");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_login_that_never_stops_talking() {
        let (mut socket, _control, mut client) = pair(Duration::from_secs(10)).await;
        let mut received = 0;
        let error = loop {
            client.write_all(b"ignore me").await.unwrap();
            match socket.read(&mut [0; 64]).await {
                Ok(count) => received += count,
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!((81..=99).contains(&received), "{received}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_lifted_by_a_login() {
        let (mut socket, control, mut client) = pair(Duration::from_secs(120)).await;
        client.write_all(b"a").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'a');
        control.authenticated();
        tokio::time::advance(Duration::from_secs(500)).await;
        client.write_all(b"b").await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'b');
        assert!(socket.deadline.is_none() && !control.is_expired());
    }
}
