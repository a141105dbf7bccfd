//! API keys, their limits, and pages in browsers.

use std::time::Duration;

use podium::config::Settings;
use podium::http::auth::Reloaded;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, Server};

const MISSING: &str = "no API key; send one as authorization: Bearer KEY, as x-api-key: KEY or as api-key: KEY";

fn body() -> Value {
    json!({"query": "q", "documents": ["one", "two"]})
}

fn write(file: &NamedTempFile, text: &str) {
    std::fs::write(file.path(), text).unwrap();
}

/// A server with these keys, and the file that they are in.
async fn start(keys: &str) -> (Server, NamedTempFile) {
    start_with(keys, |_| {}).await
}

async fn start_with(keys: &str, change: impl FnOnce(&mut Settings)) -> (Server, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    write(&file, keys);
    let server = Server::start_with(|settings| {
        settings.auth.keys_file = file.path().display().to_string();
        change(settings);
    });
    (server.await, file)
}

fn rerank(server: &Server) -> RequestBuilder {
    server.request(Method::POST, "/v1/rerank").json(&body())
}

async fn rerank_as(server: &Server, key: &str) -> Answer {
    Answer::of(rerank(server).bearer_auth(key)).await
}

/// Limit, remaining, reset.
fn rate_limit_headers(answer: &Answer) -> [&str; 3] {
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]
        .map(|name| answer.header(name))
}

#[tokio::test]
async fn without_keys_every_request_is_accepted() {
    let server = Server::start().await;
    assert_eq!(server.rerank(&body()).await.status, 200);
    let answer = rerank_as(&server, "any-key").await;
    assert_eq!(answer.status, 200);
    assert_eq!(rate_limit_headers(&answer), [""; 3]);
}

#[tokio::test]
async fn a_request_needs_one_of_the_keys_in_one_of_three_headers() {
    let (server, _file) = start("key-number-1\nkey-number-2\n").await;
    server.rerank(&body()).await.assert_failure(401, "missing_api_key", None, MISSING);
    for (header, value) in [
        ("authorization", "Bearer key-number-1"),
        ("authorization", "bearer key-number-2"),
        ("authorization", "ApiKey key-number-2"),
        ("api-key", "key-number-2"),
        ("x-api-key", "key-number-1"),
    ] {
        assert_eq!(Answer::of(rerank(&server).header(header, value)).await.status, 200, "{header}: {value}");
        let wrong = Answer::of(rerank(&server).header(header, format!("{value}2"))).await;
        wrong.assert_failure(401, "invalid_api_key", None, "the API key is not valid");
    }
    let form = "the authorization header is not of the form \"Bearer KEY\"; send the key so, as x-api-key: KEY or as \
                api-key: KEY";
    for value in ["key-number-1", "Basic a2V5LW51bWJlci0x", "Token key-number-1"] {
        let unread = Answer::of(rerank(&server).header("authorization", value)).await;
        unread.assert_failure(401, "missing_api_key", None, form);
    }
    let both = rerank(&server).bearer_auth("key-number-1").header("x-api-key", "key-number-2");
    let message = "different API keys in one request; authorization, x-api-key and api-key must agree";
    Answer::of(both).await.assert_failure(401, "conflicting_api_keys", None, message);
}

#[tokio::test]
async fn status_routes_need_no_key_and_the_path_decides_the_body_of_a_401() {
    let (server, _file) = start("key-number-1\n").await;
    for path in ["/", "/health", "/ready", "/metrics"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let ranks = server.post("/", &serde_json::json!({"query": "q", "texts": ["a"]})).await;
    assert_eq!((ranks.status, ranks.json()["error_type"].as_str()), (401, Some("Unauthorized")));
    // The fields of a body are not read before its key is known.
    let voyage = serde_json::json!({"query": "q", "documents": ["a"], "top_k": null, "truncation": true});
    server.post("/v1/rerank", &voyage).await.assert_failure(401, "missing_api_key", None, MISSING);
    assert_eq!(server.get("/v1/cluster/auth").await.json()["auth"], true);
    assert_eq!(server.get("/nowhere").await.status, 404);
    server.get("/v1/models").await.assert_failure(401, "missing_api_key", None, MISSING);
    assert_eq!(server.get("/v1/rerank").await.status, 401, "the key is checked before the method");
    let models = server.request(Method::GET, "/v1/models").header("x-api-key", "key-number-1");
    assert_eq!(Answer::of(models).await.status, 200);
}

#[tokio::test]
async fn metrics_can_require_a_key() {
    let (server, _file) = start_with("key-number-1\n", |settings| {
        settings.auth.protect_metrics = true;
    })
    .await;
    server.get("/metrics").await.assert_failure(401, "missing_api_key", None, MISSING);
    let scrape = server.request(Method::GET, "/metrics").bearer_auth("key-number-1");
    assert_eq!(Answer::of(scrape).await.status, 200);
}

/// A body that never ends does not delay the response.
#[tokio::test]
async fn a_request_without_a_key_is_rejected_before_its_body_arrives() {
    let (server, _file) = start("key-number-1\n").await;
    for length in ["content-length: 1000000", "transfer-encoding: chunked", "content-length: 9000000000000"] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let head = format!("POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n");
        stream.write_all(format!("{head}5\r\n{{\"que").as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await;
        read.expect("the answer waits for the body").unwrap();
        assert_eq!(answer, b"HTTP/1.1 401");
    }
}

/// Many HTTP libraries send the whole request before they read.
#[tokio::test]
async fn a_client_that_sends_its_whole_body_first_gets_its_response() {
    let (server, _file) = start("key-number-1 requests_per_minute=1\n").await;
    assert_eq!(rerank_as(&server, "key-number-1").await.status, 200);
    let body = vec![b' '; 4_000_000];
    for (key, status) in [("", 401), ("key-number-1", 429)] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let head = "POST /v1/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        let head = format!("{head}\r\nx-api-key: {key}\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn a_key_over_its_limit_gets_429_with_retry_after() {
    let (server, _file) = start("key-number-1 requests_per_minute=2\nkey-number-2\n").await;
    let first = rerank_as(&server, "key-number-1").await;
    assert_eq!((first.status, &rate_limit_headers(&first)[..2]), (200, &["2", "1"][..]));
    let reset = rate_limit_headers(&first)[2];
    assert!(reset == "30s" || reset.starts_with("29."), "{reset}");
    // A request that fails counts as well.
    let failed =
        Answer::of(server.request(Method::POST, "/v1/rerank").bearer_auth("key-number-1").json(&json!({}))).await;
    assert_eq!((failed.status, &rate_limit_headers(&failed)[..2]), (422, &["2", "0"][..]));

    for _again in 0..3 {
        let refused = rerank_as(&server, "key-number-1").await;
        let wait = refused.header("retry-after");
        assert!((25..=30).contains(&wait.parse::<u64>().unwrap()), "{wait}");
        let message = format!("this key's limit of 2 requests per minute is used up; try again in {wait} s");
        refused.assert_failure(429, "rate_limit_exceeded", None, &message);
        assert_eq!(rate_limit_headers(&refused)[..2], ["2", "0"]);
    }
    let other = rerank_as(&server, "key-number-2").await;
    assert_eq!(other.status, 200, "one key's limit is not another's");
    assert_eq!(rate_limit_headers(&other), [""; 3], "no limit, no headers");
}

#[tokio::test]
async fn the_default_limit_applies_to_keys_without_their_own() {
    let (server, _file) = start_with("key-number-1\nkey-number-2 requests_per_minute=0\n", |settings| {
        settings.auth.requests_per_minute = 7;
    })
    .await;
    assert_eq!(rate_limit_headers(&rerank_as(&server, "key-number-1").await)[..2], ["7", "6"]);
    assert_eq!(rate_limit_headers(&rerank_as(&server, "key-number-2").await), [""; 3]);
}

#[tokio::test]
async fn keys_change_while_the_server_runs_and_an_invalid_file_changes_nothing() {
    let (server, file) = start("key-number-1 requests_per_minute=2\n").await;
    assert_eq!(rerank_as(&server, "key-number-1").await.status, 200);
    write(&file, "key-number-2\nkey-number-1 requests_per_minute=2\n");
    assert_eq!(server.authenticator.reload(None).unwrap(), Reloaded::Keys(2));
    assert_eq!(rerank_as(&server, "key-number-2").await.status, 200);
    assert_eq!(rate_limit_headers(&rerank_as(&server, "key-number-1").await)[1], "0", "used requests stay used");

    write(&file, "key-number-3\nshort\n");
    let problem = server.authenticator.reload(None).unwrap_err().to_string();
    assert!(problem.ends_with(" line 2: a key must have 8 to 1024 characters, not 5"), "{problem}");
    assert_eq!(rerank_as(&server, "key-number-2").await.status, 200);
    assert_eq!(rerank_as(&server, "key-number-3").await.status, 401);

    write(&file, "key-number-3\n");
    assert_eq!(server.authenticator.reload(None).unwrap(), Reloaded::Keys(1));
    assert_eq!(rerank_as(&server, "key-number-2").await.status, 401);
    assert_eq!(rerank_as(&server, "key-number-3").await.status, 200);
}

#[tokio::test]
async fn requests_are_counted_by_the_name_of_their_key() {
    let (server, _file) = start("key-number-1 name=search requests_per_minute=1\nkey-number-2\n").await;
    for key in ["key-number-1", "key-number-1", "key-number-2", "key-number-3"] {
        rerank_as(&server, key).await;
    }
    let text = server.get("/metrics").await.text;
    let mut counted: Vec<&str> = text.lines().filter(|line| line.starts_with("podium_key_requests_total{")).collect();
    counted.sort_unstable();
    let expected = [("search", 200), ("search", 429), ("unnamed-1", 200)]
        .map(|(name, status)| format!(r#"podium_key_requests_total{{key="{name}",status="{status}"}} 1"#));
    assert_eq!(counted, expected);
    assert!(!text.contains("key-number"), "{text}");
}

#[tokio::test]
async fn a_page_of_a_listed_origin_can_call() {
    let (server, _file) = start_with("key-number-1 requests_per_minute=9\n", |settings| {
        settings.server.cors_origins = "https://a.example, http://b.example:81".to_owned();
    })
    .await;
    // Browsers send no key with a preflight.
    let preflight = |origin: &str| {
        let request = server.request(Method::OPTIONS, "/v1/rerank").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        Answer::of(request.header("access-control-request-headers", "authorization,content-type,podium-profile"))
    };
    for origin in ["https://a.example", "http://b.example:81"] {
        let answer = preflight(origin).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""));
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("access-control-allow-methods"), "GET,POST");
        let allowed = "authorization,content-type,podium-profile";
        assert_eq!(answer.header("access-control-allow-headers"), allowed);
        assert_eq!(answer.header("access-control-max-age"), "600");
        assert!(answer.header("vary").contains("origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), "");

        for (key, status) in [("key-number-1", 200), ("key-number-2", 401)] {
            let answer = Answer::of(rerank(&server).bearer_auth(key).header("origin", origin)).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("access-control-allow-origin"), origin, "a page may read failures too");
            assert!(answer.header("vary").contains("origin"));
            let exposed = "x-request-id,retry-after,x-ratelimit-limit-requests,x-ratelimit-remaining-requests,\
                           x-ratelimit-reset-requests,server-timing,podium-truncated-documents,podium-left-out-documents,podium-warnings,podium-warning";
            assert_eq!(answer.header("access-control-expose-headers"), exposed);
        }
    }
    for stranger in ["https://b.example", "https://a.example:8443", "https://a.example.evil.example", "null"] {
        assert_eq!(preflight(stranger).await.header("access-control-allow-origin"), "", "{stranger}");
        let answer = Answer::of(rerank(&server).bearer_auth("key-number-1").header("origin", stranger)).await;
        assert_eq!(answer.header("access-control-allow-origin"), "", "{stranger}");
    }
}

#[tokio::test]
async fn a_star_allows_every_origin_and_an_empty_setting_none() {
    let server = Server::start_with(|settings| "*".clone_into(&mut settings.server.cors_origins)).await;
    let answer = Answer::of(rerank(&server).header("origin", "https://any.example")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "*"));
    assert_eq!(answer.header("access-control-allow-credentials"), "");

    let server = Server::start().await;
    let answer = Answer::of(rerank(&server).header("origin", "https://any.example")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ""));
    assert_eq!(answer.header("vary"), "");
    assert_eq!(server.get("/health").await.header("access-control-allow-origin"), "");
}
