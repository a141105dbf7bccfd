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
use tokio_util::sync::CancellationToken;

use super::ServerSettings;
use super::patience::Patient;

/// How long to wait when the system has no more sockets to give.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(500);

/// Serves until `stop`; then closes the listener and the idle connections, and returns when every request that is
/// being answered has its answer. Dropping the future cuts the connections off.
pub async fn serve_connections(
    listener: TcpListener,
    router: Router,
    settings: &ServerSettings,
    stop: CancellationToken,
) {
    let timeouts = Timeouts { header: settings.header_timeout(), write: settings.write_timeout() };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(serve_connection(stream, router.clone(), timeouts, stop.clone()));
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// How long a client may leave a connection waiting.
#[derive(Clone, Copy)]
struct Timeouts {
    header: Duration,
    write: Duration,
}

async fn serve_connection(stream: TcpStream, router: Router, timeouts: Timeouts, stop: CancellationToken) {
    // Only latency is lost where this fails.
    let _unset = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(timeouts.header);
    let stream = TokioIo::new(Patient::new(stream, timeouts.write));
    let mut connection = pin!(builder.serve_connection(stream, TowerToHyperService::new(router)));
    // An error here is the client's: it left, or it does not speak HTTP. Requests are recorded by `observe`.
    tokio::select! {
        _ended = connection.as_mut() => {}
        () = stop.cancelled() => {
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
