//! Requests from public reports on rerank servers and clients, by kind: what their senders meant is
//! what they get, or the answer says what to change.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Server};

const RERANK: &str = "/v1/rerank";

/// A valid request with more fields.
fn with(more: &Value) -> Value {
    let mut body = json!({"query": "q", "documents": ["a", "b"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The texts of the warnings, from the headers that every dialect has.
fn warnings(answer: &Answer) -> Vec<String> {
    let texts = answer.headers.get_all("podium-warning").iter();
    texts.map(|text| text.to_str().unwrap().to_owned()).collect()
}

async fn post_bytes(server: &Server, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = server.request(Method::POST, path).header("content-type", "application/json");
    Answer::of(request.body(body)).await
}

/// Kind E.
#[tokio::test]
async fn values_that_mean_none_to_the_vendor_mean_none_here() {
    let server = Server::start().await;
    for (path, more, warning) in [
        ("/rerank", json!({"top_n": 0}), "top_n: 0 was read as all results"),
        (RERANK, json!({"top_n": 0}), "top_n: 0 was read as all results"),
        ("/v2/rerank", json!({"top_n": 0.0}), "top_n: 0.0 was read as all results"),
        ("/infinity/rerank", json!({"top_n": -1}), "top_n: -1 was read as all results"),
        ("/rerank", json!({"max_tokens_per_doc": 0}), "max_tokens_per_doc: 0 was read as no limit"),
        ("/v1/models/rerank", json!({"max_tokens_per_doc": 0}), "max_tokens_per_doc: 0 was read as no limit"),
    ] {
        let answer = server.post(path, &with(&more)).await;
        assert_eq!(answer.status, 200, "{path} {more}: {}", answer.text);
        assert_eq!(answer.json()["results"].as_array().unwrap().len(), 2, "{path} {more}");
        assert_eq!(warnings(&answer), [warning], "{path} {more}");
    }
    let tei = json!({"query": "q", "texts": ["a", "b"], "top_n": 0});
    assert_eq!(server.post("/rerank", &tei).await.json().as_array().unwrap().len(), 2);
    // vLLM itself refuses a negative number.
    assert_eq!(server.post("/rerank", &with(&json!({"top_n": -1}))).await.status, 422);
}

#[tokio::test]
async fn the_model_that_infinitys_client_sends_by_default_is_none() {
    let server = Server::start().await;
    let body = with(&json!({"model": "default/not-specified", "raw_scores": false}));
    let answer = server.post("/infinity/rerank", &body).await;
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("podium-nano")), "{}", answer.text);
    assert_eq!(server.post(RERANK, &body).await.status, 404);
}

#[tokio::test]
async fn fields_that_vllms_scores_ignore_are_ignored_with_a_warning() {
    let server = Server::start().await;
    let body = json!({"text_1": ["p", "q"], "text_2": ["a", "b"], "encoding_format": "float", "score_threshold": 0.7,
                      "top_n": 32});
    let answer = server.post("/v1/score", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
    let texts = warnings(&answer);
    assert!(texts.iter().any(|text| text.starts_with("top_n: \"32\" has no effect here")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("score_threshold: \"0.7\" has no effect here")), "{texts:?}");
    assert_eq!(texts.len(), 2, "{texts:?}");
}

/// Kind F.
#[tokio::test]
async fn half_a_surrogate_pair_is_replaced_with_a_warning_that_names_the_place() {
    let server = Server::start().await;
    for (path, body, place) in [
        (RERANK, r#"{"query":"q","documents":["fine","cut emoji \ud83d"]}"#, "documents[1]"),
        (RERANK, r#"{"query":"q","documents":["fine","tail \udc4b"]}"#, "documents[1]"),
        (RERANK, r#"{"query":"q \uD83D and","documents":["fine"]}"#, "query"),
        (RERANK, r#"{"query":"q","documents":["fine"],"metadata":["\ud83d\ud83d x"]}"#, "metadata[0]"),
        (RERANK, r#"{"query":"q","documents":[{"text":"\udc4b","title":"t"}]}"#, "documents[0].text"),
        ("/rerank", r#"{"query":"q","texts":["fine","tail \udc4b"]}"#, "texts[1]"),
        ("/v1/score", r#"{"text_1":"q","text_2":["\ud83d"]}"#, "text_2[0]"),
        ("/v1/ranking", r#"{"query":{"text":"q"},"passages":[{"text":"\ud83dx"}]}"#, "passages[0].text"),
    ] {
        let answer = post_bytes(&server, path, body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text);
        let expected = format!("{place}: half of a surrogate pair was replaced by U+FFFD");
        assert_eq!(warnings(&answer), [expected], "{body}");
    }
    let body = r#"{"query":"q","documents":["x \ud83d y"],"return_documents":true}"#;
    let reply = post_bytes(&server, RERANK, body).await.json();
    assert_eq!(reply["results"][0]["document"]["text"], "x \u{fffd} y");
    // Whole pairs, and backslashes before a `u`, are as they were.
    let body = r#"{"query":"q","documents":["\ud83d\ude00 \\ud83d"],"return_documents":true}"#;
    let answer = post_bytes(&server, RERANK, body).await;
    assert_eq!(answer.json()["results"][0]["document"]["text"], "\u{1f600} \\ud83d");
    assert_eq!(warnings(&answer), [""; 0]);
}

#[tokio::test]
async fn another_encoding_is_an_error_that_names_the_document() {
    let server = Server::start().await;
    for (body, problem) in [
        (&b"{\"query\":\"q\",\"documents\":[\"ok\",\"caf\xe9\"]}"[..], "byte 0xe9 at offset 35 in documents[1]"),
        (&b"{\"query\":\"\xd6\xd0\",\"documents\":[\"ok\"]}"[..], "byte 0xd6 at offset 10 in query"),
        (&b"\xe9{"[..], "byte 0xe9 at offset 0"),
    ] {
        let message = format!("the body is not valid JSON: it is not UTF-8: {problem}; send it encoded as UTF-8");
        post_bytes(&server, RERANK, body).await.assert_failure(400, "malformed_json", None, &message);
    }
}

/// Kind M.
#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_utf_16_is_read() {
    let server = Server::start().await;
    let body = json!({"query": "日本 q", "documents": ["a", "😀"]}).to_string();
    let plain = post_bytes(&server, RERANK, body.clone()).await;
    let expected = plain.json()["results"].clone();
    let marked = post_bytes(&server, RERANK, format!("\u{feff}{body}")).await;
    assert_eq!((marked.status, warnings(&marked)), (200, warnings(&plain)), "{}", marked.text);
    assert_eq!(marked.json()["results"], expected);
    for mark in ["\u{feff}", ""] {
        let units: Vec<u16> = format!("{mark}{body}").encode_utf16().collect();
        for bytes in [
            units.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>(),
            units.iter().flat_map(|unit| unit.to_be_bytes()).collect(),
        ] {
            let answer = post_bytes(&server, RERANK, bytes).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.json()["results"], expected);
            let found = warnings(&answer);
            assert!(found.iter().any(|text| text.starts_with("the body is UTF-16")), "{found:?}");
        }
    }
    let odd = post_bytes(&server, RERANK, &b"{\0\"\0q"[..]).await;
    let message = "the body is not valid JSON: it seems to be UTF-16, but has an odd number of bytes, 5";
    odd.assert_failure(400, "malformed_json", None, message);
}

#[tokio::test]
async fn surrogates_in_utf_8_and_in_the_names_of_fields_are_read() {
    let server = Server::start().await;
    for (body, place) in [
        (&b"{\"query\":\"q\",\"documents\":[\"a\",\"cut \xed\xa0\xbd\"]}"[..], "documents[1]"),
        (b"{\"query\":\"q\",\"documents\":[\"a\"],\"user\":\"\xed\xb1\x8b\"}", "user"),
        (br#"{"query":"q","documents":["a"],"user":{"\ud83d":1}}"#, "user.\u{fffd}"),
    ] {
        let answer = post_bytes(&server, RERANK, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let expected = format!("{place}: half of a surrogate pair was replaced by U+FFFD");
        assert_eq!(warnings(&answer)[0].replace("%EF%BF%BD", "\u{fffd}"), expected);
    }
    let name = post_bytes(&server, RERANK, &br#"{"query":"q","documents":["a"],"x\ud83d":1}"#[..]).await;
    assert_eq!(name.status, 200, "{}", name.text);
    assert!(warnings(&name)[0].starts_with("the name of the field \"x%EF%BF%BD\": half of"), "{:?}", warnings(&name));
    // A whole pair in this encoding is a character.
    let body = b"{\"query\":\"q\",\"documents\":[\"\xed\xa0\xbd\xed\xb8\x80\"],\"return_documents\":true}";
    let answer = post_bytes(&server, RERANK, &body[..]).await;
    assert_eq!(answer.json()["results"][0]["document"]["text"], "\u{1f600}");
    assert_eq!(warnings(&answer), [""; 0]);
}

/// Kind G.
#[tokio::test]
async fn joined_addresses_work_or_name_the_right_one() {
    let server = Server::start().await;
    for path in ["/v1/rerank/", "/rerank/", "/v2/rerank/", "/infinity/rerank/"] {
        assert_eq!(server.post(path, &with(&json!({}))).await.status, 200, "{path}");
    }
    for (path, meant) in [
        ("//v1/rerank", "/v1/rerank"),
        ("/v1//rerank", "/v1/rerank"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/rerank/v1/rerank", "/v1/rerank"),
        ("/rerank/rerank", "/rerank"),
        ("/reranks", "/rerank"),
        ("/v3/rerank", "/rerank"),
        ("/api/v1/rerank/", "/v1/rerank"),
        ("/openai/v1/rerank", "/v1/rerank"),
        ("/V1/Rerank", "/v1/rerank"),
    ] {
        let message = format!("there is no route {path:?}; did you mean {meant}?");
        server.post(path, &with(&json!({}))).await.assert_failure(404, "route_not_found", None, &message);
    }
}

#[tokio::test]
async fn the_health_paths_of_nim_and_kubernetes_answer() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/v1/health/live", "/readyz", "/v1/health/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
        assert_eq!(Answer::of(server.request(Method::HEAD, path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn options_lists_the_methods_and_head_answers() {
    let server = Server::start().await;
    for (path, allow) in [(RERANK, "POST"), ("/health", "GET,HEAD"), ("/", "GET,HEAD,POST")] {
        let answer = Answer::of(server.request(Method::OPTIONS, path)).await;
        let mut methods: Vec<&str> = answer.header("allow").split(',').collect();
        methods.sort_unstable();
        assert_eq!((answer.status, methods.join(",").as_str()), (204, allow), "{path}");
        assert_eq!(answer.text, "");
    }
    assert_eq!(Answer::of(server.request(Method::OPTIONS, "/zebra")).await.status, 404);
    for (path, status) in [("/", 200), ("/v1/models", 200), (RERANK, 405)] {
        let answer = Answer::of(server.request(Method::HEAD, path)).await;
        assert_eq!((answer.status, answer.text.as_str()), (status, ""), "{path}");
    }
}

/// Kind G.
#[tokio::test]
async fn a_prefix_of_the_proxy_is_removed() {
    let server = Server::start_with(|settings| settings.server.path_prefix = "/rerankers".to_owned()).await;
    for path in ["/rerankers/v1/rerank", "/rerankers/rerank/", RERANK] {
        assert_eq!(server.post(path, &with(&json!({}))).await.status, 200, "{path}");
    }
    assert_eq!(server.get("/rerankers").await.json()["name"], "podium");
    assert!(server.get("/rerankers/docs").await.text.contains("\"/rerankers/docs/swagger-ui.css\""));
    assert_eq!(server.get("/rerankers/openapi.json").await.json()["servers"], json!([{"url": "/rerankers"}]));
    assert_eq!(server.get("/other/health").await.status, 404);

    let server = Server::start().await;
    let get =
        |path: &str, prefix: &str| Answer::of(server.request(Method::GET, path).header("x-forwarded-prefix", prefix));
    for (path, prefix) in [("/p/health", "/p"), ("/health", "/p"), ("/p/q/health", "/p/q/")] {
        assert_eq!(get(path, prefix).await.status, 200, "{path} {prefix}");
    }
    assert!(get("/docs", "/p").await.text.contains("\"/p/docs/swagger-ui.css\""));
    // A prefix with other characters is none: it would be part of a page.
    assert!(get("/docs", "/\"><script>").await.text.contains("\"/docs/swagger-ui.css\""));
}

/// Kind H.
#[tokio::test]
async fn an_empty_picture_is_no_picture_and_a_null_text_is_absent() {
    let server = Server::start().await;
    for (field, empty) in [("image", json!("")), ("image_url", json!([])), ("audio", json!(false)), ("video", json!(0))]
    {
        let body = json!({"query": "q", "documents": [{"text": "a shoe", field: empty}]});
        assert_eq!(server.rerank(&body).await.status, 200, "{field}");
    }
    let body = json!({"query": "q", "documents": [{"text": null, "title": "t"}], "return_documents": true});
    let answer = server.rerank(&body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.text.matches("\"text\"").count(), 1, "{}", answer.text);
    assert_eq!(answer.json()["results"][0]["document"], json!({"text": "title: t", "title": "t"}));
    let body = json!({"query": "q", "documents": [{"title": "Red shoes", "image": "https://x/1.jpg"}]});
    let message = "documents[0].image: is not text, and only text is read; leave it out, or list text fields in \
                   rank_fields where the API has it";
    server.rerank(&body).await.assert_failure(422, "invalid_value", Some("documents[0].image"), message);
}

/// Kind J.
#[tokio::test]
async fn an_error_names_the_field_that_was_sent_and_its_own_limit() {
    let server = Server::start().await;
    for (path, body, param, problem) in [
        (RERANK, with(&json!({"top_k": 0})), "top_k", "is 0; it must be at least 1"),
        (RERANK, with(&json!({"top_k": "x"})), "top_k", "expected a whole number, found the string \"x\""),
        (RERANK, with(&json!({"instruct": 3})), "instruct", "expected a string, found the number 3"),
        (RERANK, with(&json!({"priority": -1})), "priority", "is -1; it must be between 0, the most urgent, and 999"),
        ("/v1/reranking", json!({"query": "q", "input": ["a"], "top_k": 0}), "top_k", "is 0; it must be at least 1"),
    ] {
        let message = format!("{param}: {problem}");
        server.post(path, &body).await.assert_failure(422, "invalid_value", Some(param), &message);
    }
    let voyage = server.rerank(&with(&json!({"top_k": 0, "truncation": true}))).await;
    assert_eq!((voyage.status, voyage.json()), (422, json!({"detail": "top_k: is 0; it must be at least 1"})));
}

/// Kind K.
#[tokio::test]
async fn a_missing_field_is_an_error_that_names_the_unknown_field_that_was_sent() {
    let server = Server::start().await;
    for sent in ["passages", "candidates", "docs", "inputs", "document", "Documents", "documnts"] {
        let message =
            format!("documents: this field is required; \"{sent}\" is not known here; did you mean `documents`?");
        let answer = server.rerank(&json!({"query": "q", sent: ["a", "b"]})).await;
        answer.assert_failure(422, "invalid_value", Some("documents"), &message);
    }
    for sent in ["querry", "q", "question", "Query", "search_query"] {
        let message = format!("query: this field is required; \"{sent}\" is not known here; did you mean `query`?");
        let answer = server.rerank(&json!({sent: "q", "documents": ["a"]})).await;
        answer.assert_failure(422, "invalid_value", Some("query"), &message);
    }
    let body = json!({"request": {"query": "q", "documents": ["a"]}});
    let message =
        "query: this field is required; it is inside \"request\", and is read only at the top level of the body";
    server.rerank(&body).await.assert_failure(422, "invalid_value", Some("query"), message);
}

/// Kind P.
#[tokio::test]
async fn warnings_reach_the_caller_in_every_dialect() {
    let server = Server::start().await;
    for (path, body) in [
        (RERANK, with(&json!({"zebra": 1}))),
        ("/rerank", json!({"query": "q", "texts": ["a"], "zebra": 1})),
        ("/v1/ranking", json!({"query": {"text": "q"}, "passages": [{"text": "a"}], "zebra": 1})),
        ("/v1/score", json!({"text_1": "q", "text_2": "a", "zebra": 1})),
        ("/v1/reranking", json!({"query": "q", "input": ["a"], "zebra": 1})),
        ("/v1/models/rerank", with(&json!({"zebra": 1}))),
        ("/infinity/rerank", with(&json!({"zebra": 1}))),
        ("/pinecone/rerank", with(&json!({"zebra": 1}))),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.header("podium-warnings"), "1", "{path}: {}", answer.text);
        assert_eq!(warnings(&answer), ["\"zebra\" is not known and was ignored"], "{path}");
    }
    let answer = server.rerank(&with(&json!({"zébra 100%": 1}))).await;
    assert_eq!(warnings(&answer), ["\"z%C3%A9bra 100%25\" is not known and was ignored"]);
    let many: serde_json::Map<String, Value> =
        (10..30).map(|nth| (format!("zebra {nth} {}", "x".repeat(500)), json!(1))).collect();
    let answer = server.rerank(&with(&Value::Object(many))).await;
    let sizes: usize = warnings(&answer).iter().map(String::len).sum();
    assert!(answer.status == 200 && sizes < 5_000, "{sizes} bytes of warnings in the headers");
}

/// Kind I.
#[tokio::test]
async fn numbers_and_flags_may_be_strings_with_a_warning() {
    let server = Server::start().await;
    for (path, more, warning) in [
        (RERANK, json!({"top_n": "2"}), "top_n: the string \"2\" was read as 2"),
        ("/rerank", json!({"top_k": "1"}), "top_k: the string \"1\" was read as 1"),
        (RERANK, json!({"max_tokens_per_doc": "512"}), "max_tokens_per_doc: the string \"512\" was read as 512"),
        ("/infinity/rerank", json!({"timeout_ms": "60000"}), "timeout_ms: the string \"60000\" was read as 60000"),
        ("/v1/models/rerank", json!({"priority": "3"}), "priority: the string \"3\" was read as 3"),
        (RERANK, json!({"return_documents": 1}), "return_documents: 1 was read as true"),
        ("/v2/rerank", json!({"strict": "off"}), "strict: the string \"off\" was read as false"),
        ("/v2/rerank", json!({"top_n": "0"}), "top_n: the string \"0\" was read as all results"),
        (RERANK, json!({"documents": "one"}), "documents: the string \"one\" was read as a list of 1 item"),
        (RERANK, json!({"documents": {"text": "one"}}), "documents: an object of 1 field was read as a list of 1 item"),
        (
            RERANK,
            json!({"documents": {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}}),
            "documents: an object of 1 field was read as a list of 2 items",
        ),
    ] {
        let answer = server.post(path, &with(&more)).await;
        assert_eq!(answer.status, 200, "{path} {more}: {}", answer.text);
        assert_eq!(warnings(&answer), [warning], "{path} {more}");
    }
    assert_eq!(server.rerank(&with(&json!({"top_n": "1"}))).await.json()["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn parts_of_a_message_are_a_query_or_a_document() {
    let server = Server::start().await;
    let parts = |text: &str| json!([{"type": "text", "text": text}, {"type": "text", "text": "more"}]);
    let sent =
        json!({"query": parts("q"), "documents": [parts("a"), {"content": parts("b")}], "return_documents": true});
    let reply = server.rerank(&sent).await.json();
    let plain = json!({"query": "q\nmore", "documents": ["a\nmore", "b\nmore"]});
    let expected = server.rerank(&plain).await.json();
    let scores = |reply: &Value| {
        reply["data"].as_array().unwrap().iter().map(|row| row["raw_score"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(scores(&reply), scores(&expected), "{reply}");
    let image = json!({"query": "q", "documents": {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}});
    let message = "documents[0].image_url: is not text, and only text is read; leave it out, or list text fields in \
                   rank_fields where the API has it";
    server.rerank(&image).await.assert_failure(422, "invalid_value", Some("documents[0].image_url"), message);
}

#[tokio::test]
async fn documents_without_text_come_last() {
    let server = Server::start().await;
    let body = json!({"query": "q", "documents": ["", "one", " \n", "two", "\u{200b}", "three", "four"]});
    for (path, mode) in [(RERANK, "auto"), (RERANK, "pointwise"), ("/rerank", "auto")] {
        let mut body = body.clone();
        body["mode"] = json!(mode);
        let answer = server.post(path, &body).await;
        let rows = answer.json()["results"].clone();
        let last: Vec<_> =
            rows.as_array().unwrap()[4..].iter().map(|row| (&row["index"], &row["relevance_score"])).collect();
        assert_eq!(last, [(&json!(0), &json!(0.0)), (&json!(2), &json!(0.0)), (&json!(4), &json!(0.0))], "{mode}");
        let raw: Vec<f64> = rows.as_array().unwrap().iter().map(|row| row["raw_score"].as_f64().unwrap()).collect();
        assert!(raw.windows(2).all(|pair| pair[0] >= pair[1]), "{raw:?}");
        let found = warnings(&answer);
        let expected = "documents[0] and 2 more: without text, so with a score of 0";
        assert!(found.iter().any(|text| text == expected), "{found:?}");
    }
}

#[tokio::test]
async fn a_script_that_the_model_does_not_read_is_warned_of() {
    let server = Server::start().await;
    let answer = server.rerank(&json!({"query": "q", "documents": ["one", "日本語の文", "Привет"]})).await;
    let expected = "documents[1] and 1 more: podium-nano reads English; most letters are of another script";
    assert_eq!(warnings(&answer), [expected]);
    let answer = server.rerank(&json!({"query": "睡眠", "documents": ["one"]})).await;
    assert!(warnings(&answer)[0].starts_with("query: podium-nano reads English"), "{:?}", warnings(&answer));
}
