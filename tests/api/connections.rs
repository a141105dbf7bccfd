//! The limit on connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Server;

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_client_over_the_connection_limit_waits_until_another_leaves() {
    let server = Server::start_with(|settings| settings.server.max_connections = 1).await;
    let mut first = TcpStream::connect(&server.address).await.unwrap();
    first.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answered = [0; 12];
    first.read_exact(&mut answered).await.unwrap();
    assert_eq!(&answered, b"HTTP/1.1 200");

    let mut second = TcpStream::connect(&server.address).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), second.read_exact(&mut answered)).await;
    assert!(waited.is_err(), "the second connection was served beside the first");

    drop(first);
    second.read_exact(&mut answered).await.unwrap();
    assert_eq!(&answered, b"HTTP/1.1 200");
}
