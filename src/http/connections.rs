//! Accepting connections and letting them finish.
//!
//! `axum::serve` sets no timers: a connection that never finishes a request's head, or never reads
//! its response, would stay forever. This loop sets both, and accepts no more connections than
//! `server.max_connections`. HTTP/1.1, and HTTP/2 without TLS for clients that begin with its
//! preface (prior knowledge); a proxy provides TLS.
//!
//! The request of a client that disconnects is dropped. A client that closes only its sending side
//! together with its request (`nc -N`) still gets its response. Until the first byte of a response
//! is written, TCP does not tell the two apart: readiness, `SO_ERROR` and `TCP_INFO` are the same
//! for both, and an interim response (102) would confuse simple clients. So the time decides. A
//! client that closes within [`HALF_CLOSE`] of its request's end counts as one that waits for its
//! response; one that closes later has disconnected. A reset, as proxies send it for a client that
//! has disconnected, drops the request at any time.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Response, Version};
use futures_util::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::ServerSettings;

/// The pause after a failed accept, such as with no file descriptors left.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(500);

/// How long idle connections stay open after `stop`: a request that is on its way is still
/// answered.
const LINGER: Duration = Duration::from_secs(1);

/// The beginning of HTTP/2's preface. No method of HTTP/1 begins so.
const HTTP2_PREFACE: &[u8] = b"PRI";

/// The most requests that one HTTP/2 connection may have in flight.
const MAX_HTTP2_STREAMS: u32 = 100;

/// How soon after its request a client closes its sending side if it only has nothing more to send.
const HALF_CLOSE: Duration = Duration::from_millis(25);

/// How often a connection is looked at that has unread bytes.
const RECHECK: Duration = Duration::from_millis(100);

/// Serves connections until `stop`.
///
/// Then it accepts what is in the listener's backlog, closes the listener, a moment later the idle
/// connections, and returns when every request has its response. Dropping the future closes all
/// connections at once.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    settings: &ServerSettings,
    stop: CancellationToken,
) {
    let timeouts = Timeouts { header: settings.header_timeout(), write: settings.write_timeout() };
    let close = CancellationToken::new();
    let limit = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &limit) => match accepted {
                Ok((stream, permit)) => {
                    let serving = serve_connection(stream, router.clone(), timeouts, close.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                }
            },
        }
    }
    // The system has completed the handshakes in the backlog: these clients believe they are
    // connected.
    for stream in take_backlog(listener) {
        connections.spawn(serve_connection(stream, router.clone(), timeouts, close.clone()));
    }
    let all_closed = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LINGER, all_closed).await.is_err() {
        close.cancel();
        while connections.join_next().await.is_some() {}
    }
}

/// Accepts a connection once there are fewer than the limit. Until then, clients wait in the
/// backlog.
async fn accept(listener: &TcpListener, limit: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(limit).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, permit))
}

/// The connections that were made and not accepted yet. Closes the listener.
fn take_backlog(listener: TcpListener) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    // Not through tokio, whose readiness may lag behind the newest connections.
    let Ok(listener) = listener.into_std() else { return streams };
    while let Ok((stream, _peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            streams.extend(TcpStream::from_std(stream));
        }
    }
    streams
}

/// Time limits of one connection.
#[derive(Clone, Copy)]
struct Timeouts {
    header: Duration,
    write: Duration,
}

async fn serve_connection(stream: TcpStream, router: Router, timeouts: Timeouts, close: CancellationToken) {
    // hyper would wait forever for a first request.
    let is_http2 = tokio::select! {
        is_http2 = tokio::time::timeout(timeouts.header, begins_with_http2(&stream)) => match is_http2 {
            Ok(Ok(is_http2)) => is_http2,
            Ok(Err(_)) | Err(_) => return,
        },
        () = close.cancelled() => return,
    };
    // A failure costs latency only.
    let _unset = stream.set_nodelay(true);
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header).half_close(true);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_HTTP2_STREAMS);
    http2.keep_alive_interval(timeouts.header).keep_alive_timeout(timeouts.header);
    let (reader, writer) = stream.into_split();
    let reader = Arc::new(reader);
    // A client that never reads would hold its response in memory forever.
    let mut stream = TimeoutWriter::new(tokio::io::join(SharedReader(Arc::clone(&reader)), writer));
    stream.set_timeout(Some(timeouts.write));
    let answer = tower::service_fn(move |request| answer(request, router.clone(), Arc::clone(&reader)));
    let answer = TowerToHyperService::new(answer);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(Box::pin(stream)), answer));
    // Errors here are the client's: it disconnected, or does not speak HTTP. `access_log` records
    // requests.
    tokio::select! {
        _ended = connection.as_mut() => {}
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }
}

/// Whether the client's first bytes are those of HTTP/2. They stay unread.
async fn begins_with_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != HTTP2_PREFACE[..count] {
            return Ok(false);
        }
        if count == first.len() {
            return Ok(true);
        }
        tokio::time::sleep(RECHECK).await;
    }
}

/// Answers a request, unless its client goes before.
async fn answer<B>(
    mut request: Request<B>,
    router: Router,
    reader: Arc<OwnedReadHalf>,
) -> io::Result<Response<axum::body::Body>>
where
    B: axum::body::HttpBody<Data = axum::body::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    let received = BodyReceived::default();
    if request.body().is_end_stream() {
        received.notify();
    }
    request.extensions_mut().insert(received.clone());
    // HTTP/2 itself says which of its requests are cancelled.
    let is_watched = request.version() != Version::HTTP_2;
    let gone = async {
        received.0.notified().await;
        client_gone(&reader).await;
    };
    tokio::select! {
        Ok(response) = router.oneshot(request) => Ok(response),
        () = gone, if is_watched => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Ends when the client closes or resets the connection. It does not end for a client that has
/// closed its sending side together with its request, which has just been received, unless that
/// client resets the connection later.
async fn client_gone(reader: &OwnedReadHalf) {
    tokio::time::sleep(HALF_CLOSE).await;
    let mut interest = Interest::READABLE | Interest::ERROR;
    let first = reader.ready(interest).now_or_never().and_then(Result::ok);
    if first.is_some_and(|ready| ready.is_read_closed() && !ready.is_error()) {
        interest = Interest::ERROR;
    }
    loop {
        match reader.ready(interest).await {
            Ok(ready) if ready.is_read_closed() || ready.is_error() => return,
            // The beginning of the next request, which is read after this one.
            Ok(_) => tokio::time::sleep(RECHECK).await,
            Err(_) => return,
        }
    }
}

/// Tells a request's connection that its body has arrived. From then on the end of the client's
/// bytes means that the client has gone.
#[derive(Debug, Clone, Default)]
pub struct BodyReceived(Arc<Notify>);

impl BodyReceived {
    /// The whole body has arrived.
    pub fn notify(&self) {
        self.0.notify_one();
    }
}

/// The reading side of a connection, which its requests watch too.
struct SharedReader(Arc<OwnedReadHalf>);

impl AsyncRead for SharedReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream: &TcpStream = (*self.0).as_ref();
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
