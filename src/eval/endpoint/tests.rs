//! Requests, replies and retries of an endpoint.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;

fn endpoint(url: &str, api: Api) -> Endpoint {
    Endpoint::new(url, api, Some("m".to_owned()), Some("secret".to_owned())).unwrap()
}

fn request() -> RerankRequest {
    RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
}

#[test]
fn every_api_has_its_request_format() {
    let mut asked = request();
    asked.instruction = Some("i".into());
    let body = |api| endpoint("http://h", api).body(&asked);
    let both = json!(["a", "b"]);
    assert_eq!(
        body(Api::Rerank),
        json!({"query": "q", "documents": both, "top_n": 2, "model": "m", "instruction": "i"})
    );
    assert_eq!(
        body(Api::Voyage),
        json!({"query": "q", "documents": both, "top_k": 2, "model": "m", "instruction": "i"})
    );
    assert_eq!(
        body(Api::Tei),
        json!({"query": "q", "texts": both, "truncate": true, "model": "m", "instruction": "i"})
    );
    let asked = RerankRequest { max_tokens_per_doc: Some(9), mode: Mode::Pointwise, ..request() };
    let more = endpoint("http://h", Api::Rerank).body(&asked);
    assert_eq!((&more["mode"], &more["max_tokens_per_doc"]), (&json!("pointwise"), &json!(9)));
}

#[test]
fn a_url_gets_its_usual_path_and_is_displayed_without_secrets() {
    let displayed = |url, api| endpoint(url, api).display_url();
    assert_eq!(displayed("http://h:1", Api::Rerank), "http://h:1/v1/rerank");
    assert_eq!(displayed("http://h:1/", Api::Tei), "http://h:1/rerank");
    assert_eq!(displayed("https://user:pass@h/v2/rerank?key=k#f", Api::Rerank), "https://h/v2/rerank");
    for (url, problem) in [("h:1", "its scheme is \"h\""), ("/x", "relative URL without a base")] {
        let error = Endpoint::new(url, Api::Rerank, None, None).unwrap_err().to_string();
        assert_eq!(error, format!("{url:?} is not a valid http or https URL: {problem}"));
    }
}

#[test]
fn every_reply_format_is_parsed_and_sorted_best_first() {
    let rows = r#"[{"index": 1, "relevance_score": 0.2, "tokens_read": 3, "truncated": true}, {"index": 0, "relevance_score": 0.9}]"#;
    let rerank = format!(r#"{{"results": {rows}, "model": "x", "usage": {{"prompt_tokens": 7, "total_tokens": 8}}}}"#);
    let answer = parse_reply(Api::Rerank, rerank.as_bytes(), 2, 2).unwrap();
    assert_eq!((answer.model.as_deref(), answer.prompt_tokens), (Some("x"), Some(7)));
    let second = ScoredDocument { index: 1, score: 0.2, tokens_read: Some(3), truncated: Some(true) };
    let first = ScoredDocument { index: 0, score: 0.9, tokens_read: None, truncated: None };
    assert_eq!(answer.documents, [first, second]);
    assert_eq!(answer.timing, None);
    let timed = format!(
        r#"{{"results": {rows}, "meta": {{"timing_ms": {{"queue": 0.5, "tokenize": 1, "forward": 20, "total": 22}}}}}}"#
    );
    let timing = parse_reply(Api::Rerank, timed.as_bytes(), 2, 2).unwrap().timing.unwrap();
    assert_eq!((timing.queue, timing.forward), (Duration::from_micros(500), Duration::from_millis(20)));
    let voyage = format!(r#"{{"data": {rows}, "usage": {{"total_tokens": 8}}}}"#);
    let answer = parse_reply(Api::Voyage, voyage.as_bytes(), 2, 2).unwrap();
    assert_eq!((answer.documents.len(), answer.prompt_tokens), (2, Some(8)));
    let tei = br#"[{"index": 0, "score": 0.1}, {"index": 1, "score": 0.4}]"#;
    let answer = parse_reply(Api::Tei, tei, 2, 2).unwrap();
    assert_eq!(answer.documents.iter().map(|document| document.index).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn documents_that_a_shorter_reply_lacks_follow_in_their_order() {
    let reply = br#"{"results": [{"index": 2, "relevance_score": 0.7}, {"index": 1, "relevance_score": 0.4}]}"#;
    let answer = parse_reply(Api::Rerank, reply, 4, 2).unwrap();
    let found: Vec<_> = answer.documents.iter().map(|document| (document.index, document.score)).collect();
    assert_eq!(found, [(2, 0.7), (1, 0.4), (0, 0.0), (3, 0.0)]);
    let short = parse_reply(Api::Rerank, reply, 4, 3).unwrap_err();
    assert_eq!(short, "results: has 2 of 3 documents; document 0 is missing");
}

#[test]
fn a_request_for_the_best_results_of_a_cascade_says_so() {
    let mut request = request();
    request.top_n = Some(1);
    request.cascade.stop_when_sure = Some(0.8);
    let body = endpoint("http://x/", Api::Rerank).body(&request);
    assert_eq!((&body["top_n"], &body["cascade"]), (&json!(1), &json!({"stop_when_sure": 0.8})));
}

#[test]
fn a_reply_without_one_finite_score_for_each_document_is_an_error() {
    for (reply, problem) in [
        (
            r#"{"results": [{"index": 0, "relevance_score": 1}]}"#,
            "results: has 1 of 2 documents; document 1 is missing",
        ),
        (
            r#"{"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]}"#,
            "results[1].index: 0 occurs twice",
        ),
        (r#"{"results": [{"index": 2, "relevance_score": 1}]}"#, "results[0].index: 2 is out of range for 2 documents"),
        (
            r#"{"results": [{"index": 0, "relevance_score": null}]}"#,
            "results[0].relevance_score: expected a number, found null",
        ),
        (r#"{"results": [{"index": -1}]}"#, "results[0].index: expected an integer of 0 or more, found -1"),
        (r#"{"results": [7]}"#, "results[0].index: expected an integer of 0 or more, found nothing"),
        (r#"{"error": "x"}"#, r#"results: expected an array: {"error": "x"}"#),
    ] {
        assert_eq!(parse_reply(Api::Rerank, reply.as_bytes(), 2, 2).unwrap_err(), problem, "{reply}");
    }
    assert!(parse_reply(Api::Rerank, b"<html>", 2, 2).unwrap_err().ends_with(": <html>"));
    assert!(parse_reply(Api::Tei, br#"[{"index": 0, "score": 1e999}]"#, 1, 1).is_err());
}

/// Starts a server that sends these replies in turn. The thread returns the requests.
fn server(replies: Vec<&'static str>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let answer = |reply: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = Vec::new();
            let mut buffer = [0; 4096];
            while !sent.ends_with(b"}") {
                let read = stream.read(&mut buffer).unwrap();
                sent.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(reply.as_bytes()).unwrap();
            String::from_utf8(sent).unwrap()
        };
        replies.into_iter().map(answer).collect()
    });
    (url, serving)
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"results\": [{\"index\": 0, \"relevance_score\": 0.5}, {\"index\": 1, \"relevance_score\": 0.6}]}";
const BUSY: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\nconnection: close\r\n\r\n{}";

#[tokio::test]
async fn a_request_to_a_busy_server_is_retried_with_the_key() {
    let (url, serving) = server(vec![BUSY, BUSY, GOOD]);
    let answer = endpoint(&url, Api::Rerank).rerank(&request()).await.unwrap();
    assert_eq!((answer.retries, answer.documents.len()), (2, 2));
    let sent = serving.join().unwrap();
    assert!(sent.iter().all(|sent| sent.starts_with("POST /v1/rerank HTTP/1.1\r\n")), "{sent:?}");
    assert!(sent.iter().all(|sent| sent.contains("authorization: Bearer secret\r\n")), "{sent:?}");
}

#[tokio::test]
async fn a_server_that_stays_busy_or_replies_an_error_is_reported_with_status_and_body() {
    let (url, _serving) = server(vec![BUSY; MAX_RETRIES + 1]);
    let error = endpoint(&url, Api::Rerank).rerank(&request()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{url}/v1/rerank replied 429 Too Many Requests 6 times: {{}}"));
    let (url, _serving) = server(vec!["HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n\r\nno\n  key"]);
    let error = endpoint(&url, Api::Rerank).rerank(&request()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{url}/v1/rerank replied 401 Unauthorized: no key"));
}

#[test]
fn the_wait_is_retry_after_or_doubles_up_to_a_limit() {
    let headers = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
    assert_eq!(retry_wait(&headers("7"), 3), Duration::from_secs(7));
    assert_eq!(retry_wait(&headers("9999"), 0), MAX_WAIT);
    assert_eq!(retry_wait(&headers("Wed, 21 Oct 2015 07:28:00 GMT"), 2), Duration::from_secs(4));
    assert_eq!(retry_wait(&HeaderMap::new(), 0), FIRST_WAIT);
}
