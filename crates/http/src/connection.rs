//! One TCP connection: HTTP/1 with its limits of time, until the client or the server ends it. How many there
//! may be, and who leaves when there are more, is `places.rs`'s.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::Site;
use crate::places::Place;

/// How long a client may take to send a request line with its headers. The first time counts from the moment
/// it connects (or, with HTTPS, has shaken hands), later from the first byte.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long a connection may be idle between two requests.
const IDLE_LIMIT: Duration = Duration::from_secs(180);

/// How long a client may take to receive an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(300);

/// Longest request line with headers.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Serves `stream` until the client leaves, or `shutdown` fires and the request under way is answered.
pub(crate) async fn serve(
    site: Arc<Site>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    shutdown: CancellationToken,
) {
    // Small answers must not wait for the acknowledgement of the one before.
    let _best_effort = stream.set_nodelay(true);
    let served = async {
        let Some(tls) = site.tls.clone() else {
            return serve_http(site, stream, peer, &place, shutdown).await;
        };
        match shutdown.run_until_cancelled(tls.accept(stream)).await {
            Some(Ok(stream)) => serve_http(site, stream, peer, &place, shutdown).await,
            Some(Err(error)) => debug!(sender = "httpd", "no TLS with {peer}: {error}"),
            None => {}
        }
    };
    tokio::select! {
        () = served => {}
        () = place.ousted() => debug!(sender = "httpd", "connection from {peer} gives its place to another"),
    }
}

async fn serve_http<S>(
    site: Arc<Site>,
    stream: S,
    peer: SocketAddr,
    place: &Place,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = HeadDeadline::new(WriteDeadline::new(stream, WRITE_LIMIT), HEAD_LIMIT, place.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (site, turn) = (Arc::clone(&site), place.begin());
        async move {
            let answer = site.respond(peer, request.map(|body| Body::new(turn.receive(body)))).await;
            Ok::<_, Infallible>(answer.map(|body| turn.answer(body)))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_LIMIT)
            .max_header_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(sender = "httpd", "connection from {peer} ends: {error}");
    }
}

/// A stream whose reader must take everything within a limit: hyper itself waits for ever. The time runs from
/// the first write that has to wait until all is written.
struct WriteDeadline<S> {
    stream: S,
    limit: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteDeadline<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, deadline: None }
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.deadline = None;
        }
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, polled)
    }
}

/// A stream whose writer must send the head of a request within a limit: hyper's own runs while a connection is
/// idle as well.
struct HeadDeadline<S> {
    stream: S,
    limit: Duration,
    place: Place,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Requests whose heads have come.
    heads: u64,
}

impl<S> HeadDeadline<S> {
    fn new(stream: S, limit: Duration, place: Place) -> Self {
        Self { stream, limit, place, deadline: None, heads: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let begun = self.place.begun();
        if begun != self.heads {
            (self.heads, self.deadline) = (begun, None);
        }
        // Bytes that come while a request is answered are its body's, which has a limit of its own.
        let is_head = !self.place.is_in_request() && (begun == 0 || buf.filled().len() > before);
        if is_head && self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(self.limit)));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadDeadline<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::places::Places;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_ends_the_connection() {
        let (ours, mut theirs) = duplex(1024);
        let writer = tokio::spawn(async move {
            let mut stream = WriteDeadline::new(ours, Duration::from_secs(300));
            stream.write_all(&[0; 1 << 20]).await
        });
        // One byte now and then is not enough: the limit holds for the whole answer.
        for _ in 0..20 {
            sleep(Duration::from_secs(20)).await;
            if theirs.read_u8().await.is_err() {
                break;
            }
        }
        assert_eq!(writer.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_time() {
        let (ours, mut theirs) = duplex(1024);
        let reader = tokio::spawn(async move {
            let mut buf = [0; 1536];
            for _ in 0..4 {
                sleep(Duration::from_secs(200)).await;
                theirs.read_exact(&mut buf).await.unwrap();
            }
        });
        let mut stream = WriteDeadline::new(ours, Duration::from_secs(300));
        for _ in 0..4 {
            stream.write_all(&[0; 1536]).await.unwrap();
            stream.flush().await.unwrap();
        }
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_a_request_has_its_time_and_an_idle_connection_more() {
        let places = Places::new(Vec::new());
        let place = places.take("192.0.2.1".parse().unwrap()).await.unwrap();
        let (ours, mut theirs) = duplex(1024);
        let mut stream = HeadDeadline::new(ours, HEAD_LIMIT, place.clone());
        let mut buf = [0; 64];
        theirs.write_all(b"GET").await.unwrap();
        assert_eq!(stream.read(&mut buf).await.unwrap(), 3);
        let turn = place.begin();
        theirs.write_all(b"a body").await.unwrap();
        sleep(2 * HEAD_LIMIT).await;
        assert_eq!(stream.read(&mut buf).await.unwrap(), 6, "a body has another limit");
        drop(turn);
        let idle = tokio::time::timeout(3 * HEAD_LIMIT, stream.read(&mut buf)).await;
        assert!(idle.is_err(), "{idle:?}");
        theirs.write_all(b"G").await.unwrap();
        assert_eq!(stream.read(&mut buf).await.unwrap(), 1);
        let failure = stream.read(&mut buf).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        let (silent, _theirs) = duplex(1024);
        let place = places.take("192.0.2.1".parse().unwrap()).await.unwrap();
        let failure = HeadDeadline::new(silent, HEAD_LIMIT, place).read(&mut buf).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::TimedOut, "who never says a word");
    }
}
