//! One TCP connection: HTTP/1 with its limits, until the client or the server ends it.

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

/// How long a client may take to send a request line with its headers, and again for the body. An idle
/// connection is closed after the same time.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(300);

/// How long a client may take to receive an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(300);

/// Longest request line with headers.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Serves `stream` until the client leaves, or `shutdown` fires and the request under way is answered.
pub(crate) async fn serve(site: Arc<Site>, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
    // Small answers must not wait for the acknowledgement of the one before.
    let _best_effort = stream.set_nodelay(true);
    let Some(tls) = site.tls.clone() else { return serve_http(site, stream, peer, shutdown).await };
    match shutdown.run_until_cancelled(tls.accept(stream)).await {
        Some(Ok(stream)) => serve_http(site, stream, peer, shutdown).await,
        Some(Err(error)) => debug!(sender = "httpd", "no TLS with {peer}: {error}"),
        None => {}
    }
}

async fn serve_http<S>(site: Arc<Site>, stream: S, peer: SocketAddr, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.respond(peer, request.map(Body::new)).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_LIMIT)
            .max_header_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(WriteDeadline::new(stream, WRITE_LIMIT)), service)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

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
}
