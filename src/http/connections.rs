//! Accepting connections and letting them finish.
//!
//! `axum::serve` sets no timer, so that a connection which never finishes a request's head, or never reads its answer, would
//! stay for good; this loop does. HTTP/1.1 only: whoever needs HTTP/2 or TLS has a proxy in front.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

use super::ServerSettings;

/// How long to wait when the system has no more sockets to give.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(500);

/// How long idle connections are kept after `stop`: a request that is on its way finds them open, and is answered.
const LINGER: Duration = Duration::from_secs(1);

/// Serves until `stop`; then takes in the connections that stand at the door, closes it, and a moment later the idle
/// connections, and returns when every request that is being answered has its answer. Dropping the future cuts the
/// connections off.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    settings: &ServerSettings,
    stop: CancellationToken,
) {
    let timeouts = Timeouts { header: settings.header_timeout(), write: settings.write_timeout() };
    let close = CancellationToken::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(serve_connection(stream, router.clone(), timeouts, close.clone()));
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                }
            },
        }
    }
    // The system has answered for those in the backlog already: closing the door on them would break their
    // connections.
    for stream in backlog(listener) {
        connections.spawn(serve_connection(stream, router.clone(), timeouts, close.clone()));
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let lingering = tokio::time::timeout(LINGER, all).await;
    if lingering.is_err() {
        close.cancel();
        while connections.join_next().await.is_some() {}
    }
}

/// Whoever has connected, and was not taken in yet. The listener is closed right behind them.
fn backlog(listener: TcpListener) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    // Asked without tokio, which may not have heard of the latest.
    let Ok(listener) = listener.into_std() else { return streams };
    while let Ok((stream, _peer)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            streams.extend(TcpStream::from_std(stream));
        }
    }
    streams
}

/// How long a client may leave a connection waiting.
#[derive(Clone, Copy)]
struct Timeouts {
    header: Duration,
    write: Duration,
}

async fn serve_connection(stream: TcpStream, router: Router, timeouts: Timeouts, close: CancellationToken) {
    // Whoever has connected and says nothing has asked nothing: hyper would wait for a first request.
    tokio::select! {
        readable = tokio::time::timeout(timeouts.header, stream.readable()) => {
            if !matches!(readable, Ok(Ok(()))) {
                return;
            }
        }
        () = close.cancelled() => return,
    }
    // Only latency is lost where this fails.
    let _unset = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header);
    // A client that asks and never reads would hold its response in memory for good.
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(timeouts.write));
    let stream = TokioIo::new(Box::pin(stream));
    let mut connection = pin!(builder.serve_connection(stream, TowerToHyperService::new(router)));
    // An error here is the client's: it left, or it does not speak HTTP. Requests are recorded by `observe`.
    tokio::select! {
        _ended = connection.as_mut() => {}
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
