//! The fields of the shared dialect, and its scores.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::rerank::{Mode, RequestBudget, RequestConstraints};

fn parsed(json: &str) -> Result<RerankRequest, String> {
    parse(json.as_bytes()).map(|(request, _)| request).map_err(|error| error.to_string())
}

#[test]
fn the_smallest_request_has_every_default() {
    let request = parsed(r#"{"query":"q","documents":["a"]}"#).unwrap();
    assert_eq!(request, RerankRequest::new("q", vec!["a".to_owned()]));
}

#[test]
fn every_field_arrives() {
    let request = parsed(
        r#"{"model":"m","query":"q","instruction":"i","profile":"p","documents":["a",{"text":"b","title":"t"}],"top_k":1,
            "max_tokens_per_doc":9,"truncation":"false","mode":"pointwise","return_documents":"true","priority":7,
            "timeout_ms":800,"max_latency_ms":300,"max_total_tokens":4000,"strict":"true"}"#,
    )
    .unwrap();
    let expected = RerankRequest {
        model: Some("m".into()),
        instruction: Some("i".into()),
        profile: Some("p".into()),
        top_n: Some(1),
        max_tokens_per_doc: Some(9),
        truncation: false,
        mode: Mode::Pointwise,
        constraints: RequestConstraints {
            priority: 7,
            timeout: Some(Duration::from_millis(800)),
            budget: RequestBudget {
                max_latency: Some(Duration::from_millis(300)),
                max_total_tokens: Some(4000),
                strict: true,
                ..RequestBudget::default()
            },
        },
        ..RerankRequest::new("q", vec!["a".to_owned(), "b".to_owned()])
    };
    assert_eq!(request, expected);
}

#[test]
fn the_fields_of_other_servers_arrive() {
    for (more, instruction, document) in [
        (json!({"instruct": "i"}), Some("i"), "a"),
        (json!({"chat_template_kwargs": {"instruction": "i", "other": 1}}), Some("i"), "a"),
        (json!({"chat_template_kwargs": {}}), None, "a"),
        (json!({"metadata": ["from 2024"]}), None, "a\nmetadata: from 2024"),
        (json!({"metadata": []}), None, "a"),
        (json!({"query": {"content": [{"type": "text", "text": "q"}]}}), None, "a"),
    ] {
        let mut body = json!({"query": "q", "documents": ["a"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = parsed(&body.to_string()).unwrap();
        assert_eq!((request.query.as_str(), request.instruction.as_deref()), ("q", instruction), "{more}");
        assert_eq!(request.documents, [document], "{more}");
    }
}

#[test]
fn an_error_names_the_field_by_its_path() {
    for (json, message) in [
        (r#"{"documents":["a"]}"#, "query: this field is required"),
        (r#"{"query":null,"documents":["a"]}"#, "query: this field is required"),
        (
            r#"{"query":["q"],"documents":["a"]}"#,
            "query: expected a string, or an object with a `text`, found an array of 1 item",
        ),
        (r#"{"query":"q"}"#, "documents: this field is required"),
        (r#"{"query":"q","documents":3}"#, "documents: expected an array, found the number 3"),
        (
            r#"{"query":"q","documents":["a","b",3]}"#,
            "documents[2]: expected a string, or an object with a `text`, found the number 3",
        ),
        (r#"{"query":"q","documents":[{"text":null}]}"#, "documents[0]: an object with no field that could be read"),
        (
            r#"{"query":"q","documents":["a"],"metadata":["m","n"]}"#,
            "metadata: has 2 entries for 1 documents; give one for each",
        ),
        (
            r#"{"query":"q","documents":["a"],"instruction":"i","instruct":"j"}"#,
            "instruct: differs from `instruction`, which means the same; give one of them",
        ),
        (
            r#"{"query":"q","documents":["a"],"priority":1000}"#,
            "priority: is 1000; it must be between 0, the most urgent, and 999",
        ),
        (
            r#"{"query":"q","documents":["a"],"priority":-1}"#,
            "priority: is -1; it must be between 0, the most urgent, and 999",
        ),
        (r#"{"query":"q","documents":["a"],"top_k":"x"}"#, "top_k: expected a whole number, found the string \"x\""),
        (r#"{"query":"q","documents":[],"mode":"both"}"#, "mode: \"both\" is none of auto, listwise, pointwise"),
    ] {
        assert_eq!(parsed(json).unwrap_err(), message);
    }
}

#[test]
fn a_returned_document_is_the_one_that_was_sent() {
    let documents = json!(["a", {"text": "b", "title": "t"}, {"title": "u"}]);
    let fields = json!({"query": "q", "documents": documents, "metadata": ["x", "y", "z"], "return_documents": true});
    let mut fields = Fields::parse(fields.to_string().as_bytes()).unwrap();
    let (_, sent) = Request::read(&mut fields).unwrap().into_request().unwrap();
    let found: Vec<_> = (0..3).map(|index| (sent.document(index).unwrap(), sent.text(index).unwrap())).collect();
    let texts = ["a", "b", "title: u"];
    for (index, (document, text)) in found.into_iter().enumerate() {
        assert_eq!((document, text.as_ref()), (&documents[index], texts[index]));
    }
}
