//! Long documents as passages: what a reply says of them, and that they count before the model runs.

use podium::rerank::LongDocuments;
use serde_json::{Value, json};

use crate::support::{Answer, Server};

/// A document of ten paragraphs with three sentences each.
fn long_document() -> String {
    let paragraph = |number: usize| {
        let sentence = |nth: usize| {
            format!("Sentence {nth} of paragraph {number} says nothing at all that anyone would ever want to know.")
        };
        (1..=3).map(sentence).collect::<Vec<_>>().join(" ")
    };
    (1..=10).map(paragraph).collect::<Vec<_>>().join("\n\n")
}

fn chunked(documents: &Value) -> Value {
    json!({"query": "q", "documents": documents, "long_documents": "chunk", "chunk_tokens": 66})
}

fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn row(reply: &Value, place: &str, index: u64) -> Value {
    let rows = reply.pointer(place).unwrap().as_array().unwrap();
    rows.iter().find(|row| row["index"] == index).unwrap().clone()
}

#[tokio::test]
async fn each_result_says_which_passage_won_in_every_dialect() {
    let server = Server::start().await;
    let document = long_document();
    let documents = json!([document, "A short one."]);
    let records = json!([{"text": document}, {"text": "A short one."}]);
    let with = |mut body: Value| {
        body["long_documents"] = "chunk".into();
        body["chunk_tokens"] = 66.into();
        body
    };
    let expected = row(&ok(&server.rerank(&chunked(&documents)).await), "/results", 0)["passage"].clone();
    assert_eq!(expected["count"], 10, "one for each paragraph: {expected}");
    for (path, body, place) in [
        ("/v2/rerank", json!({"query": "q", "documents": documents}), "/data"),
        ("/rerank", json!({"query": "q", "texts": documents}), ""),
        ("/v1/reranking", json!({"query": "q", "input": documents}), "/data"),
        ("/v1/ranking", json!({"query": {"text": "q"}, "passages": records}), "/rankings"),
        ("/v1/models/rerank", json!({"query": "q", "documents": documents}), "/results"),
        ("/_inference/rerank/any", json!({"query": "q", "input": documents}), "/rerank"),
        ("/infinity/rerank", json!({"query": "q", "documents": documents}), "/results"),
        ("/pinecone/rerank", json!({"query": "q", "documents": records}), "/data"),
    ] {
        let reply = ok(&server.post(path, &with(body)).await);
        assert_eq!(row(&reply, place, 0)["passage"], expected, "{path}");
        assert_eq!(row(&reply, place, 1)["passage"]["count"], 1, "{path}");
    }
    let plain = ok(&server.rerank(&json!({"query": "q", "documents": documents})).await);
    assert_eq!(row(&plain, "/results", 0).get("passage"), None);
}

#[tokio::test]
async fn a_passage_is_a_range_of_characters_that_begins_and_ends_with_a_sentence() {
    let server = Server::start().await;
    // Characters of several bytes before and within the passages.
    let document = format!("Über Äpfel 🍎.\n\n{}", long_document());
    let reply = ok(&server.rerank(&chunked(&json!([document]))).await);
    let result = row(&reply, "/results", 0);
    let place = |name: &str| usize::try_from(result["passage"][name].as_u64().unwrap()).unwrap();
    let passage: String = document.chars().skip(place("start")).take(place("end") - place("start")).collect();
    assert!(passage.ends_with('.') && document.contains(&passage), "{passage}");
    assert!(passage.starts_with("Sentence ") || passage.starts_with("Über"), "{passage}");
    assert_eq!(result["passage"]["relevance_score"], result["relevance_score"]);
    assert_eq!(result["truncated"], false);
    assert_eq!(result["tokens"], result["tokens_read"]);
    assert_eq!(reply["meta"]["warnings"], json!([]));
}

#[tokio::test]
async fn max_chunks_per_doc_reads_the_first_passages_and_says_so() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": [long_document(), "b"], "max_chunks_per_doc": 2});
    let reply = ok(&server.rerank(&body).await);
    let result = row(&reply, "/results", 0);
    assert_eq!((&result["passage"]["count"], &result["truncated"]), (&json!(2), &json!(true)));
    assert_eq!(reply["meta"]["warnings"], json!(["1 of 2 documents was not read to the end: index 0"]));
    assert_eq!(reply["usage"]["truncated_documents"], 1);

    let mut strict = body.clone();
    strict["truncation"] = false.into();
    let refused = server.rerank(&strict).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (422, &json!("text_too_long")));
    assert!(refused.text.contains("documents[0]"), "{}", refused.text);
}

#[tokio::test]
async fn other_servers_values_for_no_number_are_not_a_wish_for_passages() {
    let server = Server::start().await;
    for value in [json!(0), json!(-1), json!(false)] {
        let body = json!({"query": "q", "documents": [long_document()], "max_chunks_per_doc": value});
        let reply = ok(&server.rerank(&body).await);
        assert_eq!(row(&reply, "/results", 0).get("passage"), None);
        let warnings = reply["meta"]["warnings"].to_string();
        assert!(warnings.contains(&format!("max_chunks_per_doc: {value} was read as not given")), "{warnings}");
    }
}

#[tokio::test]
async fn the_configuration_decides_where_the_request_says_nothing() {
    let server = Server::start_with(|settings| {
        settings.passages.long_documents = LongDocuments::Chunk;
        settings.passages.max_chunks_per_doc = 3;
    })
    .await;
    let body = json!({"query": "q", "documents": [long_document()]});
    assert_eq!(row(&ok(&server.rerank(&body).await), "/results", 0)["passage"]["count"], 3);
    let body = json!({"query": "q", "documents": [long_document()], "long_document_strategy": "truncate"});
    assert_eq!(row(&ok(&server.rerank(&body).await), "/results", 0).get("passage"), None);
}

#[tokio::test]
async fn contradictions_are_errors_that_name_the_field() {
    let server = Server::start().await;
    for (name, value, message) in [
        ("chunk_tokens", json!(0), "chunk_tokens: is 0; it must be at least 1"),
        (
            "chunk_overlap_tokens",
            json!(101),
            "chunk_overlap_tokens: is 101; it must be at most 100, half of a passage of 200 tokens",
        ),
        ("chunk_merge", json!("sum"), r#"chunk_merge: "sum" is none of max, mean_top_2, first"#),
        ("long_documents", json!("split"), r#"long_documents: "split" is none of truncate, chunk"#),
    ] {
        let mut body = json!({"query": "q", "documents": [long_document()]});
        body[name] = value;
        server.rerank(&body).await.assert_failure(422, "invalid_value", Some(name), message);
    }
    let both = json!({"query": "q", "documents": ["a"], "long_documents": "truncate", "chunk_tokens": 9});
    let message = "chunk_tokens: has no effect with long_documents \"truncate\"; leave one of them out";
    server.rerank(&both).await.assert_failure(422, "invalid_value", Some("chunk_tokens"), message);
}

#[tokio::test]
async fn too_many_passages_are_refused_before_the_model_runs() {
    let server = Server::start_with(|settings| settings.limits.max_passages = 9).await;
    let answer = server.rerank(&chunked(&json!([long_document()]))).await;
    let message = "documents: 10 passages of 1 documents are over the limit of 9 in one request \
                   (limits.max_passages); send fewer or shorter documents, or set max_chunks_per_doc";
    answer.assert_failure(422, "too_many_documents", Some("documents"), message);
    assert_eq!(server.controls.calls(), 0);
    let mut body = chunked(&json!([long_document()]));
    body["max_chunks_per_doc"] = 9.into();
    assert_eq!(server.rerank(&body).await.status, 200);
}

#[tokio::test]
async fn admission_counts_all_passages_and_not_one_beginning() {
    let server = Server::start_with(|settings| settings.schedule.max_queued_tokens = 400).await;
    let plain = json!({"query": "q", "documents": [long_document()]});
    assert_eq!(server.rerank(&plain).await.status, 200);
    let answer = server.rerank(&chunked(&json!([long_document()]))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("too_many_tokens")), "{}", answer.text);
    assert_eq!(server.controls.calls(), 1, "only the first request ran");
}

#[tokio::test]
async fn a_budget_drops_the_last_passages_of_every_document_first() {
    let server = Server::start().await;
    let mut body = chunked(&json!([long_document(), long_document()]));
    body["max_total_tokens"] = 500.into();
    let reply = ok(&server.rerank(&body).await);
    assert!(reply["usage"]["prompt_tokens"].as_u64().unwrap() <= 500, "{reply}");
    let counts: Vec<u64> =
        [0, 1].map(|index| row(&reply, "/results", index)["passage"]["count"].as_u64().unwrap()).to_vec();
    assert!(counts[0] < 10 && counts[0] - counts[1] <= 1, "{counts:?}");
    assert_eq!(reply["meta"]["budget"]["documents_read"], 2);
    let warnings = reply["meta"]["warnings"].to_string();
    assert!(warnings.contains("of 20 passages were not read"), "{warnings}");
    assert!(row(&reply, "/results", 0)["truncated"] == true);

    body["max_total_tokens"] = 90.into();
    let reply = ok(&server.rerank(&body).await);
    assert_eq!(reply["meta"]["budget"]["documents_left_in_input_order"], 1, "{reply}");
    assert_eq!(row(&reply, "/results", 1)["tokens_read"], 0);

    body["strict"] = true.into();
    assert_eq!(server.rerank(&body).await.json()["error"]["code"], "over_budget");
}

#[tokio::test]
async fn a_deadline_counts_documents_and_not_passages() {
    let server = Server::start().await;
    server.controls.hold();
    let mut body = chunked(&json!([long_document(), "b", "c"]));
    body["timeout_ms"] = 300.into();
    let answer = server.rerank(&body).await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    assert!(answer.text.contains("of 3 documents were read"), "{}", answer.text);
}

#[tokio::test]
async fn a_thousand_documents_and_one_document_are_split_alike() {
    let server = Server::start().await;
    let document = long_document();
    let many: Vec<&str> = vec![&document; 1000];
    let mut body = chunked(&json!(many));
    body["top_n"] = 1.into();
    let reply = ok(&server.rerank(&body).await);
    let passage = &reply["results"][0]["passage"];
    assert_eq!(passage["count"], 10);
    let alone = ok(&server.rerank(&chunked(&json!([document]))).await);
    assert_eq!(row(&alone, "/results", 0)["passage"]["count"], 10);
    server.until_metrics_say("podium_passages_total 10010").await;
}

#[tokio::test]
async fn control_tokens_are_counted_for_documents() {
    let server = Server::start().await;
    let document = format!("<|im_end|>{}\n\n<|im_end|>", long_document());
    let reply = ok(&server.rerank(&chunked(&json!(["a", document]))).await);
    assert_eq!(reply["meta"]["warnings"], json!(["documents[1]: 2 control tokens were removed"]));
}
