//! The memory for request bodies, as clients meet it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpSocket;

use crate::support::{Answer, Server};

/// The body of each request, and the memory for all of them: one fits, and two do not.
const BODY_BYTES: usize = 12 << 20;
const MEMORY_BYTES: usize = 32 << 20;

/// A body of which four fit into the memory: a key has its share of it with two.
const QUARTER_BODY_BYTES: usize = 7 << 19;

/// A request of which the model reads two words, and that gets megabytes of its documents back.
fn echoing_body(bytes: usize) -> Value {
    let documents = [json!({"text": "one", "page": "x".repeat(bytes)}), json!({"text": "two"})];
    json!({"query": "q", "documents": documents, "return_documents": true})
}

/// Sends the request over a connection that receives a few kilobytes at a time, and reads nothing.
async fn send_and_read_nothing(server: &Server, key: &'static str, bytes: usize) -> std::net::TcpStream {
    let address: SocketAddr = server.address.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    tokio::task::spawn_blocking(move || {
        let (mut stream, body) = (stream, echoing_body(bytes).to_string());
        let head = "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn returned_documents_hold_their_memory_until_the_client_has_read_them() {
    let server = Server::start_with(|settings| settings.server.max_parsing_bytes = MEMORY_BYTES).await;
    let mut slow = send_and_read_nothing(&server, "none", BODY_BYTES).await;
    server.until_metrics_say("podium_requests_total{kind=\"rank\",route=\"/v1/rerank\",status=\"200\"} 1").await;

    let refused = server.rerank(&echoing_body(BODY_BYTES)).await;
    assert_eq!(refused.status, 429, "{}", &refused.text[..refused.text.len().min(200)]);
    assert_eq!(refused.json()["error"]["code"], "overloaded");

    let read = tokio::task::spawn_blocking(move || {
        let mut response = Vec::new();
        slow.read_to_end(&mut response).unwrap();
        slow.shutdown(Shutdown::Both).ok();
        response.len()
    });
    assert!(read.await.unwrap() > BODY_BYTES);
    assert_eq!(server.rerank(&echoing_body(BODY_BYTES)).await.status, 200);
}

#[tokio::test]
async fn a_key_holds_no_more_memory_for_bodies_than_it_leaves_free_for_other_keys() {
    let keys = NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "key-number-1 name=greedy\nkey-number-2 name=modest\n").unwrap();
    let server = Server::start_with(|settings| {
        settings.server.max_parsing_bytes = MEMORY_BYTES;
        settings.auth.keys_file = keys.path().display().to_string();
    });
    let server = server.await;
    let mut slow = Vec::new();
    for answered in 1..=2 {
        slow.push(send_and_read_nothing(&server, "key-number-1", QUARTER_BODY_BYTES).await);
        let line = format!("podium_requests_total{{kind=\"rank\",route=\"/v1/rerank\",status=\"200\"}} {answered}");
        server.until_metrics_say(&line).await;
    }
    let rerank_as = |key| {
        let request = server.request(Method::POST, "/v1/rerank").bearer_auth(key);
        Answer::of(request.json(&echoing_body(QUARTER_BODY_BYTES)))
    };

    let more = join_all((0..3).map(|_| rerank_as("key-number-1")));
    let modest = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let start = Instant::now();
        (rerank_as("key-number-2").await, start.elapsed())
    };
    let (more, (modest, waited)) = tokio::join!(more, modest);
    assert_eq!(modest.status, 200, "{}", &modest.text[..modest.text.len().min(200)]);
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    for refused in more {
        assert_eq!(refused.status, 429);
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        refused.assert_failure(429, "overloaded", None, &message);
        assert!(
            message.starts_with("this key has its share of the memory for bodies: those being parsed"),
            "{message}"
        );
    }
    drop(slow);
}
