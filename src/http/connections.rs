//! Accepting connections and letting them finish.
//!
//! `axum::serve` sets no timers: a connection that never finishes a request's head, or never reads
//! its response, would stay forever. This loop sets both, and accepts no more connections than
//! `server.max_connections`. HTTP/1.1 only: a proxy provides HTTP/2 and TLS.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

use super::ServerSettings;

/// The pause after a failed accept, such as with no file descriptors left.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(500);

/// How long idle connections stay open after `stop`: a request that is on its way is still
/// answered.
const LINGER: Duration = Duration::from_secs(1);

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
    tokio::select! {
        readable = tokio::time::timeout(timeouts.header, stream.readable()) => {
            if !matches!(readable, Ok(Ok(()))) {
                return;
            }
        }
        () = close.cancelled() => return,
    }
    // A failure costs latency only.
    let _unset = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header);
    // A client that never reads would hold its response in memory forever.
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(timeouts.write));
    let stream = TokioIo::new(Box::pin(stream));
    let mut connection = pin!(builder.serve_connection(stream, TowerToHyperService::new(router)));
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

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
