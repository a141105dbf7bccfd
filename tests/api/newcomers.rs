//! Requests as they are first tried by hand or from another library: what is lost on the way to a
//! ranking is said, and HTTP that is unusual and valid is served.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, Server};

const RERANK: &str = "/v1/rerank";

/// A valid request with more fields.
fn with(more: &Value) -> Value {
    let mut body = json!({"query": "q", "documents": ["a", "b"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn warnings(answer: &Answer) -> Vec<String> {
    let texts = answer.headers.get_all("podium-warning").iter();
    texts.map(|text| text.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn parameters_in_the_address_that_are_fields_have_a_warning() {
    let server = Server::start().await;
    let expected = ["\"top_n\" in the address has no effect; send it as a field of the body"];
    for path in ["/v1/rerank?top_n=1", "/rerank?api-version=2024-05-01&top_n=1&x&top_n=2", "/v2/rerank?top_n"] {
        let answer = server.post(path, &with(&json!({}))).await;
        assert_eq!((answer.status, warnings(&answer)), (200, expected.map(str::to_owned).to_vec()), "{path}");
    }
    let tei = server.post("/rerank?return_text=true", &json!({"query": "q", "texts": ["a"]})).await;
    assert_eq!(warnings(&tei), ["\"return_text\" in the address has no effect; send it as a field of the body"]);
    let plain = server.post("/v1/rerank?api-version=2024-05-01", &with(&json!({}))).await;
    assert_eq!(warnings(&plain), [""; 0]);
    let server = Server::start_with(|settings| settings.server.refuse_unknown_fields = true).await;
    let message = "top_n: \"top_n\" in the address has no effect; send it as a field of the body";
    let refused = server.post("/v1/rerank?top_n=1", &with(&json!({}))).await;
    refused.assert_failure(422, "invalid_value", Some("top_n"), message);
}

#[tokio::test]
async fn documents_come_back_if_a_header_asks_for_them() {
    let server = Server::start().await;
    let ask = |path: &str, flag: &str, body: Value| {
        let request = server.request(Method::POST, path).header("podium-return-documents", flag);
        Answer::of(request.json(&body))
    };
    for (path, flag, returned) in
        [(RERANK, "true", true), ("/v2/rerank", "false", false), ("/infinity/rerank", "True", true)]
    {
        let answer = ask(path, flag, with(&json!({}))).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert_eq!(answer.json()["results"][0].get("document").is_some(), returned, "{path}: {}", answer.text);
        assert_eq!(warnings(&answer), [""; 0], "{path}");
    }
    // Also where the API has no such field.
    let message = "return_documents: the header podium-return-documents is not true or false";
    let pairs = json!({"text_1": "q", "text_2": ["a"]});
    for (path, body) in [(RERANK, with(&json!({}))), ("/score", pairs)] {
        let answer = ask(path, "maybe", body).await;
        answer.assert_failure(422, "invalid_value", Some("return_documents"), message);
    }
    let both = ask(RERANK, "true", with(&json!({"return_documents": true}))).await;
    let message = "return_documents: given in the body and in the header podium-return-documents; give one of them";
    both.assert_failure(422, "invalid_value", Some("return_documents"), message);
}

#[tokio::test]
async fn the_text_of_langchains_documents_is_read_without_their_metadata() {
    let server = Server::start().await;
    let documents = json!([
        {"id": "1", "metadata": {"source": "a.pdf"}, "page_content": "one", "type": "Document"},
        {"page_content": "two", "metadata": {}},
    ]);
    let reply = server.rerank(&with(&json!({"documents": documents, "return_documents": true}))).await.json();
    let mut texts: Vec<&Value> =
        reply["results"].as_array().unwrap().iter().map(|row| &row["document"]["text"]).collect();
    texts.sort_by_key(|text| text.as_str().map(str::to_owned));
    assert_eq!(texts, ["one", "two"]);
    // `text` and `content` come first; a value that is no text makes the record one of any fields.
    for (document, text) in [
        (json!({"text": "a", "page_content": "b"}), "a"),
        (json!({"content": "a", "page_content": "b"}), "a"),
        (json!({"page_content": null, "title": "t"}), "title: t"),
        (json!({"page_content": 3}), "page_content: 3"),
    ] {
        let body = with(&json!({"documents": [document], "return_documents": true}));
        assert_eq!(server.rerank(&body).await.json()["results"][0]["document"]["text"], text, "{document}");
    }
}

#[tokio::test]
async fn a_list_that_was_encoded_twice_is_an_error() {
    let server = Server::start().await;
    for (path, field) in [(RERANK, "documents"), ("/rerank", "texts"), ("/v1/reranking", "input")] {
        let message = format!("{field}: expected an array, found the string \"[\\\"a\\\"]\"");
        let answer = server.post(path, &json!({"query": "q", field: "[\"a\"]"})).await;
        assert_eq!(answer.status, 422, "{path}: {}", answer.text);
        assert!(answer.text.contains(&serde_json::to_string(&message).unwrap()), "{path}: {}", answer.text);
    }
    let text = server.rerank(&json!({"query": "q", "documents": "[not a list"})).await;
    assert_eq!(warnings(&text), ["documents: the string \"[not a list\" was read as a list of 1 item"]);
}

#[tokio::test]
async fn a_field_in_another_spelling_or_place_has_a_warning_that_names_it() {
    let server = Server::start().await;
    for (more, warning) in [
        (json!({"topN": 1}), "\"topN\" is not known and was ignored; did you mean \"top_n\"?"),
        (json!({"limit": 1}), "\"limit\" is not known and was ignored; did you mean \"top_n\"?"),
        (
            json!({"returnDocuments": true}),
            "\"returnDocuments\" is not known and was ignored; did you mean \"return_documents\"?",
        ),
        (json!({"threshold": 0.5}), "\"threshold\" is not known and was ignored; did you mean \"min_score\"?"),
        (
            json!({"extra_body": {"instruction": "i"}}),
            "\"extra_body\" is not known and was ignored; \"instruction\" is read only at the top level of the body",
        ),
        (json!({"min_score": "0.0"}), "min_score: the string \"0.0\" was read as 0.0"),
    ] {
        let answer = server.rerank(&with(&more)).await;
        assert_eq!((answer.status, warnings(&answer)), (200, vec![warning.to_owned()]), "{more}");
    }
}

#[tokio::test]
async fn a_reply_has_what_strict_clients_of_voyage_and_together_require() {
    let server = Server::start().await;
    let voyage = server.rerank(&with(&json!({"top_k": 1, "return_documents": false, "truncation": true}))).await.json();
    assert_eq!((&voyage["object"], voyage["data"].as_array().unwrap().len()), (&json!("list"), 1), "{voyage}");
    let together = server.rerank(&with(&json!({"top_n": 1, "return_documents": false}))).await.json();
    assert_eq!(together["object"], "rerank");
    assert_eq!(together["usage"]["completion_tokens"], 0);
}

/// Sends parts of a request as they are. Returns everything that comes back until the connection closes.
async fn send(server: &Server, parts: &[&str]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    for part in parts {
        stream.write_all(part.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn unusual_http_is_served() {
    let server = Server::start().await;
    let body = r#"{"query":"q","documents":["a"]}"#;
    let length = body.len();
    let json = "content-type: application/json\r\n";
    let head = format!("POST /v1/rerank HTTP/1.1\r\nhost: x\r\n{json}");
    let close = "connection: close\r\n";
    let (first, rest) = body.split_at(9);
    let chunks =
        format!("{:x}\r\n{first}\r\n{:x};name=value\r\n{rest}\r\n0\r\nx-trailer: 1\r\n\r\n", first.len(), rest.len());
    for (what, parts) in [
        ("chunks", vec![format!("{head}{close}transfer-encoding: chunked\r\n\r\n{chunks}")]),
        (
            "a wait for 100",
            vec![format!("{head}{close}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"), body.to_owned()],
        ),
        ("HTTP/1.0", vec![format!("POST /v1/rerank HTTP/1.0\r\n{json}content-length: {length}\r\n\r\n{body}")]),
        (
            "upper case",
            vec![format!(
                "POST /v1/rerank HTTP/1.1\r\nHOST: x\r\nCONNECTION: CLOSE\r\nCONTENT-TYPE: APPLICATION/JSON\r\nCONTENT-LENGTH: {length}\r\n\r\n{body}"
            )],
        ),
        (
            "a whole address",
            vec![format!(
                "POST http://podium/v1/rerank HTTP/1.1\r\nhost: podium\r\n{json}{close}content-length: {length}\r\n\r\n{body}"
            )],
        ),
        (
            "an offer of HTTP/2",
            vec![format!(
                "{head}connection: close, Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\ncontent-length: {length}\r\n\r\n{body}"
            )],
        ),
    ] {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let answer = send(&server, &parts).await;
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        let status = if what == "HTTP/1.0" { "HTTP/1.0 200 OK" } else { "HTTP/1.1 200 OK" };
        assert!(answer.starts_with(status) && answer.contains("relevance_score"), "{what}: {answer}");
    }
    let one = format!("{head}content-length: {length}\r\n\r\n{body}");
    let last = format!("{head}{close}content-length: {length}\r\n\r\n{body}");
    let answer = send(&server, &[&format!("{one}{one}{last}")]).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
}

#[tokio::test]
async fn a_header_that_sets_no_field_is_warned_of() {
    let server = Server::start().await;
    let request = |server: &Server, name: &str| {
        let request = server.request(Method::POST, "/v1/rerank").json(&json!({"query": "q", "documents": ["a"]}));
        Answer::of(request.header(name, "1"))
    };
    for (name, hint) in [("podium-instrution", "; did you mean podium-instruction?"), ("podium-unheard-of-words", "")] {
        let answer = request(&server, name).await;
        let warning = format!("the header \"{name}\" is not known and was ignored{hint}");
        assert_eq!(answer.json()["meta"]["warnings"], json!([warning]));
    }
    assert_eq!(request(&server, "podium-priority").await.json()["meta"]["warnings"], json!([]));

    let server = Server::start_with(|settings| settings.server.refuse_unknown_fields = true).await;
    let message = "headers: the header \"podium-instrution\" is not known; did you mean podium-instruction?";
    request(&server, "podium-instrution").await.assert_failure(422, "invalid_value", Some("headers"), message);
}

#[tokio::test]
async fn warnings_name_the_fields_that_were_sent() {
    let server = Server::start().await;
    for (path, body, warning) in [
        ("/rerank", json!({"query": "q", "texts": ["a", ""]}), "texts[1]: without text, so with a score of 0"),
        ("/score", json!({"text_1": "q", "text_2": ["", "a"]}), "text_2[0]: without text, so with a score of 0"),
        (
            "/score",
            json!({"text_1": ["q", "q"], "text_2": ["a", ""]}),
            "pair 1: text_2[0]: without text, so with a score of 0",
        ),
    ] {
        let answer = server.post(path, &body).await;
        assert_eq!((answer.status, answer.header("podium-warning")), (200, warning), "{path}: {}", answer.text);
    }
}
