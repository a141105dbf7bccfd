//! Long texts: they are read in a moment, and requests that give up on them leave nothing behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Server;

/// A document of 15 MB.
fn long_document() -> String {
    "Some Words of a long text. ".repeat(15_000_000 / 27)
}

fn short_request() -> Value {
    json!({"query": "q", "documents": ["one", "two"]})
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn a_document_of_15_mb_takes_no_longer_than_its_parsing() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": [long_document(), "short"]});
    let started = Instant::now();
    let answer = server.rerank(&body).await;
    let elapsed = started.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let reply = answer.json();
    let row = reply["results"].as_array().unwrap().iter().find(|row| row["index"] == 0).unwrap().clone();
    assert_eq!((&row["tokens_read"], &row["truncated"]), (&json!(200), &json!(true)));
    // The exact number is 7 tokens for each of 555,555 sentences.
    let tokens = row["tokens"].as_u64().unwrap();
    assert!((3_800_000..4_000_000).contains(&tokens), "{tokens}");
    let warnings = reply["meta"]["warnings"].to_string();
    assert!(warnings.contains("tokens is an estimate for 1 of 2 documents, longer than 64 KiB: index 0"), "{warnings}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_requests_are_answered_while_two_huge_ones_are_read() {
    let server = Server::start().await;
    // From now on the server knows how fast the device is, and refuses requests that would wait too long.
    assert_eq!(server.rerank(&short_request()).await.status, 200);
    let body = json!({"query": "q", "documents": [long_document()]});
    let huge = [server.rerank_later(&body), server.rerank_later(&body)];
    let mut short = 0;
    while !huge.iter().all(tokio::task::JoinHandle::is_finished) {
        let answer = server.rerank(&short_request()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        short += 1;
    }
    assert!(short > 0);
    for answer in huge {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_give_up_on_a_long_text_keep_neither_memory_nor_threads() {
    // The batches of the fake device are too small to tell its speed, by which a long wait would be refused.
    let server = Server::start_with(|settings| {
        settings.schedule.max_wait_seconds = 0;
        settings.schedule.timeout_seconds = 0;
    })
    .await;
    let document = long_document();
    let body = json!({"query": "q", "documents": [document], "timeout_ms": 1});
    // The first of them grows the heap for good.
    server.rerank(&body).await;
    let before = resident_mib();
    let mut slowest = Duration::ZERO;
    let mut most = before;
    for _ in 0..12 {
        let answer = server.rerank(&body).await;
        assert!(matches!(answer.status, 200 | 429 | 504), "{} {}", answer.status, answer.text);
        let started = Instant::now();
        let short = server.rerank(&short_request()).await;
        assert_eq!(short.status, 200, "{}", short.text);
        slowest = slowest.max(started.elapsed());
        most = most.max(resident_mib());
    }
    assert!(slowest < Duration::from_secs(2), "a short request took {slowest:?}");
    assert!(most < before + 200, "memory grew from {before} to {most} MiB");
}
