//! The memory for request bodies, as clients meet it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::support::Server;

/// The body of each request, and the memory for all of them: one fits, and two do not.
const BODY_BYTES: usize = 12 << 20;
const MEMORY_BYTES: usize = 32 << 20;

/// A request of which the model reads two words, and that gets megabytes of its documents back.
fn echoing_body() -> Value {
    let documents = [json!({"text": "one", "page": "x".repeat(BODY_BYTES)}), json!({"text": "two"})];
    json!({"query": "q", "documents": documents, "return_documents": true})
}

/// Sends the request over a connection that receives a few kilobytes at a time, and reads nothing.
async fn send_and_read_nothing(server: &Server) -> std::net::TcpStream {
    let address: SocketAddr = server.address.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    tokio::task::spawn_blocking(move || {
        let (mut stream, body) = (stream, echoing_body().to_string());
        let head = "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn returned_documents_hold_their_memory_until_the_client_has_read_them() {
    let server = Server::start_with(|settings| settings.server.max_parsing_bytes = MEMORY_BYTES).await;
    let mut slow = send_and_read_nothing(&server).await;
    server.until_metrics_say("podium_requests_total{kind=\"rank\",route=\"/v1/rerank\",status=\"200\"} 1").await;

    let refused = server.rerank(&echoing_body()).await;
    assert_eq!(refused.status, 429, "{}", &refused.text[..refused.text.len().min(200)]);
    assert_eq!(refused.json()["error"]["code"], "overloaded");

    let read = tokio::task::spawn_blocking(move || {
        let mut response = Vec::new();
        slow.read_to_end(&mut response).unwrap();
        slow.shutdown(Shutdown::Both).ok();
        response.len()
    });
    assert!(read.await.unwrap() > BODY_BYTES);
    assert_eq!(server.rerank(&echoing_body()).await.status, 200);
}
