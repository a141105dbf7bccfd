//! Connections: their number, HTTP/2, half-closed ones, and compressed bodies.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Client, Method, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, Server};

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
    let waited = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut answered)).await;
    assert!(waited.is_err(), "the second connection was served beside the first");

    drop(first);
    second.read_exact(&mut answered).await.unwrap();
    assert_eq!(&answered, b"HTTP/1.1 200");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

async fn post_encoded(server: &Server, encoding: &str, body: Vec<u8>) -> Answer {
    let request = server.request(Method::POST, "/v1/rerank").header("content-type", "application/json");
    Answer::of(request.header("content-encoding", encoding).body(body)).await
}

#[tokio::test]
async fn a_gzip_or_zstd_body_ranks_as_it_does_plain() {
    let server = Server::start().await;
    let long = "word ".repeat(40_000);
    for documents in [json!(["one", "two"]), json!(["one", long])] {
        let body = json!({"query": "q", "documents": documents});
        let expected = server.rerank(&body).await.json()["results"].clone();
        let text = body.to_string();
        let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
        for (encoding, packed) in [("gzip", gzip(text.as_bytes())), ("X-Gzip", gzip(text.as_bytes())), ("zstd", zstd)] {
            let answer = post_encoded(&server, encoding, packed).await;
            assert_eq!(answer.status, 200, "{encoding}: {}", answer.text);
            assert_eq!(answer.json()["results"], expected, "{encoding}");
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_limited_when_it_is_decompressed() {
    let server = Server::start_with(|settings| settings.server.max_body_bytes = 100_000).await;
    let bomb = vec![b' '; 20_000_000];
    for (encoding, packed) in [("gzip", gzip(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 1).unwrap())] {
        assert!(packed.len() < 100_000);
        let message = "the body is over the limit of 100000 bytes when it is decompressed";
        post_encoded(&server, encoding, packed).await.assert_failure(413, "body_too_large", None, message);
    }
    let plain = json!({"query": "q", "documents": ["a"]}).to_string().into_bytes();
    for encoding in ["gzip", "zstd"] {
        let answer = post_encoded(&server, encoding, plain.clone()).await;
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&format!("the body is not valid {encoding}: ")), "{message}");
        answer.assert_failure(400, "invalid_encoding", None, &message);
    }
}

#[tokio::test]
async fn a_long_reply_is_compressed_if_the_client_accepts_that() {
    let server = Server::start().await;
    let documents: Vec<String> = (0..30).map(|number| format!("document {number}")).collect();
    let body = json!({"query": "q", "documents": documents, "return_documents": true});
    let raw = |accepted: &'static str| {
        let request = server.request(Method::POST, "/v1/rerank").header("accept-encoding", accepted).json(&body);
        async move {
            let response = request.send().await.unwrap();
            let encoding = response.headers().get("content-encoding").map(|value| value.to_str().unwrap().to_owned());
            (encoding, response.bytes().await.unwrap())
        }
    };
    let (none, plain) = raw("identity").await;
    assert_eq!(none, None);
    let rows = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["results"].clone();
    let (encoding, packed) = raw("gzip").await;
    assert_eq!(encoding.as_deref(), Some("gzip"));
    assert!(packed.len() < plain.len() / 2);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
    assert_eq!(rows(&unpacked), rows(&plain));
    let (encoding, packed) = raw("zstd").await;
    assert_eq!(encoding.as_deref(), Some("zstd"));
    assert_eq!(rows(&zstd::decode_all(&packed[..]).unwrap()), rows(&plain));
    // A short one is not worth it.
    let short = server.request(Method::GET, "/health").header("accept-encoding", "gzip").send().await.unwrap();
    assert!(!short.headers().contains_key("content-encoding"));
}

#[tokio::test]
async fn http_2_without_tls_is_served_on_the_same_port() {
    let server = Server::start().await;
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/v1/rerank", server.address);
    let body = json!({"query": "q", "documents": ["one", "two"]});
    let asked = (0..20).map(|_| {
        let request = client.post(&url).json(&body).send();
        async move {
            let response = request.await.unwrap();
            assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
            response.json::<serde_json::Value>().await.unwrap()["results"].clone()
        }
    });
    let replies = futures_util::future::join_all(asked).await;
    let expected = server.rerank(&body).await.json()["results"].clone();
    assert!(replies.iter().all(|reply| *reply == expected));
    // A client of HTTP/1 whose first bytes come slowly is not taken for one of HTTP/2.
    let mut slow = TcpStream::connect(&server.address).await.unwrap();
    for part in [&b"P"[..], b"OST /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"] {
        slow.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn an_http_2_client_that_leaves_is_499() {
    let server = Server::start().await;
    server.controls.hold();
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let request = client.post(format!("http://{}/v1/rerank", server.address));
    let request = tokio::spawn(request.json(&json!({"query": "q", "documents": ["one"]})).send());
    server.controls.held(1).await;
    request.abort();
    server.until_metrics_say(r#"podium_requests_total{kind="rank",route="/v1/rerank",status="499"} 1"#).await;
    server.controls.release();
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let server = Server::start().await;
    server.controls.hold();
    let body = json!({"query": "q", "documents": ["one", "two"]}).to_string();
    let head = format!(
        "POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    server.controls.held(1).await;
    // Long after the end of the client's bytes was seen.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.controls.release();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("relevance_score"), "{answer}");
}

#[tokio::test]
async fn a_reset_drops_the_request_at_once_even_after_a_half_close() {
    let server = Server::start().await;
    server.controls.hold();
    let body = json!({"query": "q", "documents": ["one", "two"]}).to_string();
    let head = format!(
        "POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for (count, closes_first) in [(1, false), (2, true)] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.set_zero_linger().unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        server.controls.held(1).await;
        if closes_first {
            stream.shutdown().await.unwrap();
            // Long after the end of the client's bytes was seen.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(stream);
        let line = format!(r#"podium_requests_total{{kind="rank",route="/v1/rerank",status="499"}} {count}"#);
        server.until_metrics_say(&line).await;
    }
    server.controls.release();
}
