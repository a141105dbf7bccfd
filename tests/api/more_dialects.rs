//! The dialects of clouds and databases: the same ranking, in the form that their clients expect.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const TEXTS: [&str; 3] = ["one", "two", "three"];

/// Indices and scores of the shared dialect.
async fn reference(server: &Server) -> Vec<(Value, Value)> {
    let reply = server.rerank(&json!({"query": "q", "documents": TEXTS})).await.json();
    pairs(&reply["results"], "relevance_score")
}

fn pairs(rows: &Value, score: &str) -> Vec<(Value, Value)> {
    rows.as_array().unwrap().iter().map(|row| (row["index"].clone(), row[score].clone())).collect()
}

async fn ok(server: &Server, path: &str, body: &Value) -> Answer {
    let answer = server.post(path, body).await;
    assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
    answer
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("podium-warning").iter().map(|text| text.to_str().unwrap()).collect()
}

const DASHSCOPE: &str = "/api/v1/services/rerank/text-rerank/text-rerank";

#[tokio::test]
async fn dashscope_has_its_results_in_output() {
    let server = Server::start().await;
    let expected = reference(&server).await;
    let body = json!({"model": "podium-nano", "input": {"query": "q", "documents": TEXTS},
                      "parameters": {"return_documents": true, "top_n": 2}});
    for path in [DASHSCOPE, "/v1/rerank"] {
        let answer = ok(&server, path, &body).await;
        let reply = answer.json();
        assert_eq!(pairs(&reply["output"]["results"], "relevance_score"), expected[..2]);
        let first = &reply["output"]["results"][0];
        assert_eq!(first["document"]["text"], TEXTS[usize::try_from(first["index"].as_u64().unwrap()).unwrap()]);
        assert!(reply["usage"]["total_tokens"].as_u64().unwrap() > 0);
        assert_eq!(reply["request_id"], answer.header("x-request-id"));
    }
    let steered = json!({"input": {"query": "q", "documents": TEXTS}, "parameters": {"instruct": "prefer two"}});
    let same = server.rerank(&json!({"query": "q", "documents": TEXTS, "instruction": "prefer two"})).await.json();
    let found = ok(&server, DASHSCOPE, &steered).await.json();
    let same = pairs(&same["results"], "relevance_score");
    assert_eq!(pairs(&found["output"]["results"], "relevance_score"), same);
    let bare = json!({"input": {"query": "q", "documents": TEXTS, "zebra": 1}, "parameters": {"top_n": 0, "topn": 2}});
    let answer = ok(&server, DASHSCOPE, &bare).await;
    assert_eq!(pairs(&answer.json()["output"]["results"], "relevance_score"), expected);
    assert!(answer.json()["output"]["results"][0].get("document").is_none());
    let expected = [
        "\"input.zebra\" is not known and was ignored",
        "\"parameters.topn\" is not known and was ignored; did you mean \"parameters.top_n\"?",
    ];
    assert_eq!(warnings(&answer), expected);
    for (body, param, problem) in [
        (json!({"parameters": {}}), "input", "this field is required"),
        (json!({"input": {"documents": ["a"]}}), "input.query", "this field is required"),
        (json!({"input": {"query": " ", "documents": ["a"]}}), "input.query", "must not be empty or only whitespace"),
        (json!({"input": {"query": "q", "documents": []}}), "input.documents", "must hold at least one document"),
        (
            json!({"input": {"query": "q", "documents": ["a", 3]}}),
            "input.documents[1]",
            "expected a string, or an object with a `text`, found the number 3",
        ),
        (
            json!({"input": {"query": "q", "documents": ["a"]}, "parameters": {"top_n": "x"}}),
            "parameters.top_n",
            "expected a whole number, found the string \"x\"",
        ),
    ] {
        let message = format!("{param}: {problem}");
        server.post(DASHSCOPE, &body).await.assert_failure(422, "invalid_value", Some(param), &message);
    }
    // The addresses of its OpenAI-compatible API.
    for path in ["/compatible-api/v1/reranks", "/v1/reranks"] {
        let reply = ok(&server, path, &json!({"query": "q", "documents": TEXTS})).await.json();
        assert_eq!(reply["results"].as_array().unwrap().len(), 3, "{path}");
    }
}

fn bedrock(query: &str, model: &str) -> Value {
    let text = |text: &str| json!({"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}});
    json!({
        "queries": [{"type": "TEXT", "textQuery": {"text": query}}],
        "sources": TEXTS.map(text),
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": {
            "modelConfiguration": {"modelArn": format!("arn:aws:bedrock:us-west-2::foundation-model/{model}")},
            "numberOfResults": 2}},
    })
}

#[tokio::test]
async fn bedrock_has_relevance_scores_in_camel_case() {
    let server = Server::start().await;
    let expected = reference(&server).await;
    let answer = ok(&server, "/rerank", &bedrock("q", "podium-nano")).await;
    assert_eq!(pairs(&answer.json()["results"], "relevanceScore"), expected[..2]);
    assert_eq!(warnings(&answer), [""; 0]);
    let mut json_source = bedrock("q", "podium-nano");
    json_source["sources"][0]["inlineDocumentSource"] = json!({"type": "JSON", "jsonDocument": {"title": "t", "n": 1}});
    ok(&server, "/rerank", &json_source).await;
    let unknown = server.post("/rerank", &bedrock("q", "amazon.rerank-v1:0")).await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
    let blank = server.post("/rerank", &bedrock(" ", "podium-nano")).await;
    let message = "queries[0].textQuery.text: must not be empty or only whitespace";
    blank.assert_failure(422, "invalid_value", Some("queries[0].textQuery.text"), message);
    let mut two = bedrock("q", "podium-nano");
    two["queries"] = json!([1, 2]);
    let message = "queries: holds 2 queries; give one";
    server.post("/rerank", &two).await.assert_failure(422, "invalid_value", Some("queries"), message);
    let mut broken = bedrock("q", "podium-nano");
    broken["sources"][1] = json!({"type": "INLINE"});
    let message = "sources[1].inlineDocumentSource: this field is required";
    let param = Some("sources[1].inlineDocumentSource");
    server.post("/rerank", &broken).await.assert_failure(422, "invalid_value", param, message);
}

#[tokio::test]
async fn vertex_scores_records_with_titles_and_contents() {
    let server = Server::start().await;
    let path = "/v1/projects/p/locations/global/rankingConfigs/default_ranking_config:rank";
    let body = json!({"query": "q", "topN": 2, "userLabels": {"a": "b"}, "records": [
        {"id": "x", "title": "T", "content": "C"}, {"id": "y", "content": "D"}, {"title": "only"}]});
    let reply = ok(&server, path, &body).await.json();
    let plain = json!({"query": "q", "documents": ["title: T\ncontent: C", "content: D", "title: only"]});
    let plain = server.rerank(&plain).await.json();
    let records = reply["records"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    for (record, row) in records.iter().zip(plain["results"].as_array().unwrap()) {
        let index = usize::try_from(row["index"].as_u64().unwrap()).unwrap();
        assert_eq!(record["score"], row["relevance_score"]);
        assert_eq!(record["id"], ["x", "y", "2"][index]);
        assert_eq!(record.get("content"), body["records"][index].get("content"));
    }
    let mut bare = body.clone();
    bare["ignoreRecordDetailsInResponse"] = json!(true);
    let reply = ok(&server, path, &bare).await.json();
    assert!(reply["records"][0].get("content").is_none() && reply["records"][0].get("title").is_none());
}

#[tokio::test]
async fn elasticsearch_has_rerank_and_its_product_header() {
    let server = Server::start().await;
    let expected = reference(&server).await;
    let path = "/_inference/rerank/my-endpoint";
    let body = json!({"query": "q", "input": TEXTS, "task_settings": {"top_n": 2, "return_documents": true}});
    let answer = ok(&server, path, &body).await;
    assert_eq!(answer.header("x-elastic-product"), "Elasticsearch");
    let reply = answer.json();
    assert_eq!(pairs(&reply["rerank"], "relevance_score"), expected[..2]);
    assert!(reply["rerank"][0]["text"].is_string());
    let own = ok(&server, path, &json!({"query": "q", "input": "one", "top_n": 0})).await.json();
    assert_eq!(own["rerank"].as_array().unwrap().len(), 1);
    assert!(own["rerank"][0].get("text").is_none());
}

#[tokio::test]
async fn sglang_replies_with_a_bare_array_and_documents() {
    let server = Server::start().await;
    let expected = reference(&server).await;
    let body = json!({"query": "q", "documents": TEXTS, "top_n": 2});
    let reply = ok(&server, "/sglang/v1/rerank", &body).await.json();
    assert_eq!(pairs(&reply, "score"), expected[..2]);
    assert!(reply.as_array().unwrap().iter().all(|row| row["document"].is_string() && row["meta_info"].is_object()));
    let body = json!({"query": "q", "documents": TEXTS, "return_documents": false});
    let reply = ok(&server, "/sglang/v1/rerank", &body).await.json();
    assert!(reply[0].get("document").is_none(), "{reply}");
}

#[tokio::test]
async fn weaviate_gets_scores_in_the_order_of_the_request() {
    let server = Server::start().await;
    let mut expected = reference(&server).await;
    expected.sort_by_key(|(index, _)| index.as_u64());
    let body = json!({"query": "q", "documents": TEXTS, "property": ""});
    let answer = ok(&server, "/weaviate/rerank", &body).await;
    let reply = answer.json();
    let scores: Vec<_> =
        reply["scores"].as_array().unwrap().iter().map(|row| (&row["document"], &row["score"])).collect();
    let texts = TEXTS.map(Value::from);
    assert_eq!(scores, texts.iter().zip(expected.iter().map(|(_, score)| score)).collect::<Vec<_>>());
    assert_eq!((reply["query"].as_str(), warnings(&answer).len()), (Some("q"), 0));
    let failed = server.post("/weaviate/rerank", &json!({"query": "", "documents": ["a"]})).await;
    assert_eq!((failed.status, failed.json()["error"].is_string()), (422, true), "{}", failed.text);
    for path in ["/weaviate/.well-known/ready", "/weaviate/.well-known/live", "/weaviate/meta"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}
