//! Every dialect: the same ranking and the same errors, in the form that its clients expect.

use serde_json::{Value, json};

use crate::support::{Answer, Server};

const TEXTS: [&str; 3] = ["one", "two", "three"];

/// Indices and scores of the shared dialect, for comparison with the others.
async fn reference(server: &Server, score: &str) -> Vec<(u64, Value)> {
    let reply = server.rerank(&json!({"query": "q", "documents": TEXTS})).await.json();
    pairs(&reply["results"], score)
}

fn pairs(rows: &Value, score: &str) -> Vec<(u64, Value)> {
    rows.as_array().unwrap().iter().map(|row| (row["index"].as_u64().unwrap(), row[score].clone())).collect()
}

/// The text of each row at a JSON pointer.
fn texts(rows: &Value, pointer: &str) -> Vec<String> {
    let text = |row: &Value| row.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    rows.as_array().unwrap().iter().map(text).collect()
}

fn in_order(order: &[(u64, Value)]) -> Vec<String> {
    order.iter().map(|(index, _)| TEXTS[usize::try_from(*index).unwrap()].to_owned()).collect()
}

async fn ok(server: &Server, path: &str, body: &Value) -> Answer {
    let answer = server.post(path, body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    assert_eq!(answer.header("content-type"), "application/json", "{path}");
    assert_eq!(answer.header("podium-truncated-documents"), "0", "{path}");
    answer
}

#[tokio::test]
async fn tei_replies_with_a_bare_array_and_its_own_headers() {
    let server = Server::start().await;
    let expected = reference(&server, "relevance_score").await;
    for path in ["/rerank", "/", "/invocations", "/v1/rerank", "/v1/reranking"] {
        let answer = ok(&server, path, &json!({"query": "q", "texts": TEXTS, "return_text": true})).await;
        let rows = answer.json();
        assert_eq!(pairs(&rows, "score"), expected, "{path}");
        assert_eq!(texts(&rows, "/text"), in_order(&expected), "{path}");
        assert!(answer.header("x-compute-tokens").parse::<u64>().unwrap() > 0);
    }
    let raw = ok(&server, "/rerank", &json!({"query": "q", "texts": TEXTS, "raw_scores": true})).await.json();
    assert_eq!(pairs(&raw, "score"), reference(&server, "raw_score").await);
    assert!(!raw.to_string().contains("text"));

    let info = server.get("/info").await.json();
    assert_eq!(info["model_id"], "podium-nano");
    assert_eq!(info["max_input_length"], 200);
    assert_eq!(info["max_batch_tokens"], 16_384);
    assert!(info["model_type"]["reranker"].is_object());
}

#[tokio::test]
async fn nim_mixedbread_zeroentropy_infinity_and_pinecone_reply_in_their_own_form() {
    let server = Server::start().await;
    let expected = reference(&server, "relevance_score").await;
    let passages: Vec<Value> = TEXTS.iter().map(|text| json!({"text": text})).collect();

    let body = json!({"model": "podium-nano", "query": {"text": "q"}, "passages": passages});
    for path in ["/v1/ranking", "/ranking"] {
        let reply = ok(&server, path, &body).await.json();
        assert_eq!(pairs(&reply["rankings"], "logit"), reference(&server, "raw_score").await);
    }

    let body = json!({"query": "q", "input": TEXTS, "top_k": 2, "return_input": true});
    for path in ["/v1/reranking", "/reranking", "/rerank"] {
        let reply = ok(&server, path, &body).await.json();
        assert_eq!(pairs(&reply["data"], "score"), expected[..2]);
        assert_eq!(texts(&reply["data"], "/input"), in_order(&expected[..2]));
        assert_eq!((&reply["object"], &reply["top_k"]), (&json!("list"), &json!(2)));
        assert_eq!(reply["data"][0]["object"], "rank_result");
    }

    let body = json!({"query": "q", "documents": TEXTS, "latency": "fast"});
    for path in ["/v1/models/rerank", "/models/rerank"] {
        let reply = ok(&server, path, &body).await.json();
        assert_eq!(pairs(&reply["results"], "relevance_score"), expected);
        assert_eq!(reply["total_bytes"], 3 * 151 + 11);
        assert_eq!(reply["actual_latency_mode"], "fast");
    }

    let body = json!({"query": "q", "documents": TEXTS, "return_documents": true});
    for path in ["/infinity/rerank", "/infinity/v1/rerank"] {
        let reply = ok(&server, path, &body).await.json();
        assert_eq!(pairs(&reply["results"], "relevance_score"), expected);
        assert_eq!(texts(&reply["results"], "/document"), in_order(&expected));
        assert_eq!(reply["object"], "rerank");
    }

    let body = json!({"query": "q", "documents": passages, "rank_fields": ["text"], "parameters": {"truncate": "END"}});
    let reply = ok(&server, "/pinecone/rerank", &body).await.json();
    assert_eq!(pairs(&reply["data"], "score"), expected);
    assert_eq!(texts(&reply["data"], "/document/text"), in_order(&expected));
    assert_eq!(reply["usage"]["rerank_units"], 1);
}

#[tokio::test]
async fn scores_are_in_the_order_of_the_request_and_pointwise() {
    let server = Server::start().await;
    let alone = |query: &'static str, text: &'static str| {
        let server = &server;
        async move {
            let body = json!({"query": query, "documents": [text], "mode": "pointwise"});
            server.rerank(&body).await.json()["results"][0]["relevance_score"].clone()
        }
    };
    for path in ["/score", "/v1/score"] {
        let reply = ok(&server, path, &json!({"text_1": "q", "text_2": TEXTS})).await.json();
        assert_eq!(reply["object"], "list");
        for (index, text) in TEXTS.into_iter().enumerate() {
            let row = json!({"index": index, "object": "score", "score": alone("q", text).await});
            assert_eq!(reply["data"][index], row);
        }
        let before = server.controls.calls();
        let reply = ok(&server, path, &json!({"queries": ["p", "q"], "documents": ["one", "two"]})).await.json();
        assert_eq!(server.controls.calls() - before, 1, "all pairs are one batch");
        assert_eq!(reply["data"][0]["score"], alone("p", "one").await);
        assert_eq!(reply["data"][1]["score"], alone("q", "two").await);
    }
}

#[tokio::test]
async fn pairs_have_the_limit_of_documents() {
    let server = Server::start_with(|settings| settings.limits.max_documents = 2).await;
    let answer = server.post("/score", &json!({"text_1": TEXTS, "text_2": TEXTS})).await;
    let message = "text_2: 3 documents are over the limit of 2 in one request";
    answer.assert_failure(422, "too_many_documents", Some("text_2"), message);
    // All pairs are validated before any runs.
    let answer = server.post("/score", &json!({"queries": ["p", " "], "items": ["a", "b"]})).await;
    let message = "queries[1]: must not be empty or only whitespace";
    answer.assert_failure(422, "invalid_value", Some("queries[1]"), message);
    assert_eq!(server.controls.calls(), 0);
}

#[tokio::test]
async fn every_dialect_accepts_an_instruction_a_profile_and_a_model() {
    let server = Server::start().await;
    for (path, documents) in [
        ("/v1/rerank", "documents"),
        ("/rerank", "texts"),
        ("/v1/ranking", "passages"),
        ("/v1/reranking", "input"),
        ("/v1/models/rerank", "documents"),
        ("/infinity/rerank", "documents"),
        ("/pinecone/rerank", "documents"),
        ("/score", "text_2"),
    ] {
        let query = if path == "/score" { "text_1" } else { "query" };
        let mut replies = Vec::new();
        for (field, value) in [
            ("mode", json!("auto")),
            ("instruction", json!("prefer the newest")),
            ("profile", json!("legal")),
            ("model", json!("vendor/rerank@recent")),
        ] {
            let body = json!({query: "q", documents: TEXTS, "mode": "auto", field: value});
            let reply = ok(&server, path, &body).await.json();
            let rows = ["results", "rankings", "data"].into_iter().find_map(|name| reply.get(name)).unwrap_or(&reply);
            replies.push(rows.to_string());
        }
        replies.sort();
        replies.dedup();
        assert_eq!(replies.len(), 4, "{path}: {replies:#?}");
    }
}

#[tokio::test]
async fn an_instruction_may_be_sent_in_a_header() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": TEXTS});
    let with = |header: &'static str, value: &'static str| {
        Answer::of(server.request(reqwest::Method::POST, "/v2/rerank").header(header, value).json(&body))
    };
    let mut with_instruction = body.clone();
    with_instruction["instruction"] = json!("prefer 日本語");
    let expected = server.rerank(&with_instruction).await.json()["results"].clone();
    let answer = with("podium-instruction", "prefer %E6%97%A5%E6%9C%AC%E8%AA%9E").await;
    assert_eq!(answer.json()["results"], expected);
    assert_eq!(with("podium-profile", "legal").await.json()["meta"]["profile"], "legal");
    let message = "instruction: the header podium-instruction is not percent-encoded UTF-8";
    with("podium-instruction", "%ff").await.assert_failure(422, "invalid_value", Some("instruction"), message);
    let twice = server
        .request(reqwest::Method::POST, "/v1/rerank")
        .header("podium-instruction", "other")
        .json(&with_instruction);
    let message = "instruction: given in the body and in the header podium-instruction; give one of them";
    Answer::of(twice).await.assert_failure(422, "invalid_value", Some("instruction"), message);
}

#[tokio::test]
async fn stored_instructions_are_listed_and_one_can_be_the_default() {
    let server = Server::start_with(|settings| settings.instructions.default = "legal".to_owned()).await;
    let listed = server.get("/v1/instructions").await.json();
    let legal = listed["data"].as_array().unwrap().iter().find(|row| row["id"] == "legal").unwrap();
    assert_eq!(legal["default"], true);
    let by_default = server.rerank(&json!({"query": "q", "documents": TEXTS})).await.json();
    assert_eq!(by_default["meta"]["profile"], "legal");
    let explicit = json!({"query": "q", "documents": TEXTS, "instruction": legal["text"]});
    assert_eq!(server.rerank(&explicit).await.json()["results"], by_default["results"]);
    let none = server.rerank(&json!({"query": "q", "documents": TEXTS, "instruction": ""})).await.json();
    assert_ne!(none["results"], by_default["results"]);
}

#[tokio::test]
async fn records_are_read_by_rank_fields_and_returned_whole() {
    let server = Server::start().await;
    let records = json!([{"title": "T", "body": "B", "year": 2024}, {"title": "U", "body": "C", "year": 2020}]);
    let body = json!({"query": "q", "documents": records, "rank_fields": ["title", "body"], "return_documents": true});
    let reply = server.rerank(&body).await.json();
    let plain = json!({"query": "q", "documents": ["title: T\nbody: B", "title: U\nbody: C"]});
    let expected = server.rerank(&plain).await.json();
    assert_eq!(pairs(&reply["results"], "relevance_score"), pairs(&expected["results"], "relevance_score"));
    for (row, datum) in reply["results"].as_array().unwrap().iter().zip(reply["data"].as_array().unwrap()) {
        let index = usize::try_from(row["index"].as_u64().unwrap()).unwrap();
        let mut record = records[index].clone();
        let text = plain["documents"][index].clone();
        record["text"] = text.clone();
        assert_eq!(row["document"], record);
        assert_eq!(datum["document"], text);
    }
}

#[tokio::test]
async fn an_error_has_the_form_of_its_dialect() {
    let server = Server::start().await;
    let tei = server.post("/rerank", &json!({"query": "q", "texts": []})).await;
    assert_eq!(tei.status, 422);
    let message = "texts: must hold at least one document";
    assert_eq!(tei.json(), json!({"error": message, "error_type": "Empty"}));
    let tei = server.post("/", &json!({"query": 1, "texts": ["a"]})).await;
    assert_eq!(tei.json()["error_type"], "Validation");

    let voyage = json!({"query": " ", "documents": ["a"], "top_k": null, "truncation": true, "model": "podium-nano"});
    let voyage = server.post("/v1/rerank", &voyage).await;
    assert_eq!((voyage.status, voyage.json()), (422, json!({"detail": "query: must not be empty or only whitespace"})));

    for (path, body, param, problem) in [
        ("/v1/ranking", json!({"query": {"text": "q"}}), "passages", "this field is required"),
        ("/v1/models/rerank", json!({}), "query", "this field is required"),
        ("/infinity/rerank", json!({"query": "q", "documents": []}), "documents", "must hold at least one document"),
        (
            "/pinecone/rerank",
            json!({"query": "q", "documents": [3]}),
            "documents[0]",
            "expected a string, or an object with a `text`, found the number 3",
        ),
        ("/v1/reranking", json!({"query": "q", "input": [""], "top_k": 0}), "top_k", "is 0; it must be at least 1"),
        ("/score", json!({"text_1": "", "text_2": "a"}), "text_1", "must not be empty or only whitespace"),
    ] {
        let message = format!("{param}: {problem}");
        server.post(path, &body).await.assert_failure(422, "invalid_value", Some(param), &message);
    }
    // A field that is null counts as absent.
    for (path, body) in [
        ("/rerank", json!({"query": "q", "texts": ["a"], "documents": null, "input": null})),
        ("/rerank", json!({"query": "q", "input": ["a"], "texts": null})),
        ("/infinity/rerank", json!({"query": "q", "texts": ["a"], "documents": null})),
        ("/score", json!({"text_1": "q", "text_2": ["a"], "queries": null, "documents": null, "mode": null})),
    ] {
        assert_eq!(server.post(path, &body).await.status, 200, "{path} {body}");
    }
}

#[tokio::test]
async fn unknown_fields_are_errors_if_the_operator_says_so() {
    let server = Server::start_with(|settings| settings.server.refuse_unknown_fields = true).await;
    let body = json!({"query": "q", "documents": TEXTS, "priority": 1, "instructions": "i"});
    let message = "body: the field \"instructions\" is not known here; did you mean \"instruction\"?";
    server.rerank(&body).await.assert_failure(422, "invalid_value", Some("body"), message);
}

#[tokio::test]
async fn a_field_without_effect_is_warned_of_with_the_reason_or_a_suggestion() {
    let server = Server::start().await;
    let warnings = async |more: Value| {
        let mut body = json!({"query": "q", "documents": TEXTS});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.rerank(&body).await.json()["meta"]["warnings"].clone()
    };
    let first_warning = async |more: Value| warnings(more).await[0].as_str().unwrap().to_owned();
    assert_eq!(
        first_warning(json!({"instructions": "i"})).await,
        "\"instructions\" is not known and was ignored; did you mean \"instruction\"?"
    );
    assert_eq!(first_warning(json!({"zebra": 1})).await, "\"zebra\" is not known and was ignored");
    let many: serde_json::Map<String, Value> = (10..20).map(|nth| (format!("zebra {nth}"), json!(1))).collect();
    let many = warnings(Value::Object(many)).await;
    assert_eq!(many.as_array().unwrap().len(), 6);
    assert_eq!(many[5], "5 more fields are not known and were ignored");
    for (field, value, without) in
        [("truncate_prompt_tokens", json!(512), json!(-1)), ("return_embeddings", json!(true), json!(false))]
    {
        let found = warnings(json!({field: value})).await;
        let [warning] = found.as_array().unwrap().as_slice() else { panic!("{found}") };
        let expected = format!("\"{field}\" has no effect here: ");
        assert!(warning.as_str().unwrap().starts_with(&expected), "{warning}");
        assert_eq!(warnings(json!({field: without})).await, json!([]), "{field}");
    }
}
