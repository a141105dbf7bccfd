//! `stability` over HTTP. What the merged rankings are is tested beside the code.

use serde_json::json;

use crate::support::Server;

#[tokio::test]
async fn a_family_that_reads_documents_apart_says_that_stability_has_no_effect() {
    let server = Server::start().await;
    let plain = server.rerank(&json!({"query": "q", "documents": ["one", "two"]})).await.json();
    let answer = server.rerank(&json!({"query": "q", "documents": ["one", "two"], "stability": 3})).await.json();
    assert_eq!(answer["results"], plain["results"]);
    assert_eq!(answer["usage"], plain["usage"]);
    let warning = "stability had no effect: family `podium-nano` was not read in an order";
    assert_eq!(answer["meta"]["warnings"], json!([warning]));
    let once = server.rerank(&json!({"query": "q", "documents": ["one", "two"], "stability": 1})).await.json();
    assert_eq!(once["meta"]["warnings"], json!([]));
}

#[tokio::test]
async fn a_stability_out_of_range_is_422() {
    let server = Server::start().await;
    for (stability, problem) in [(0, "is 0"), (17, "is 17")] {
        let answer = server.rerank(&json!({"query": "q", "documents": ["one"], "stability": stability})).await;
        let message = format!("stability: {problem}; it must be between 1 and 16");
        answer.assert_failure(422, "invalid_value", Some("stability"), &message);
    }
}
