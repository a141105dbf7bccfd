//! The dialect of text-embeddings-inference: `texts` in, a bare array out. llama.cpp answers `texts` the same way.

use axum::http::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::{Answer, Call, Dialect, documents, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, quoted};
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect =
    Dialect { name: "tei", documents: "texts", read, write, headers, failure: ErrorShape::Tei };

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    score: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let items = fields.required_list("texts")?;
    let texts = documents::texts("texts", &items, None)?;
    let return_text = fields.flag("return_text", false)?;
    let raw_scores = fields.flag("raw_scores", false)?;
    // The end is cut, as everywhere here; a wish for the start to be cut cannot be met.
    if let Some(side) = fields.text("truncation_direction")?.filter(|side| !side.eq_ignore_ascii_case("right")) {
        let problem = format!("{} is not supported; texts are cut on the right", quoted(&side));
        return Err(RerankError::invalid("truncation_direction", problem));
    }
    let mut request = request(fields, query, texts)?;
    request.truncation = fields.flag("truncate", true)?;
    Ok(Call { raw_scores, ..Call::new(request).echoing(return_text.then_some(items)) })
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let raw = answer.call.raw_scores;
    let ranks: Vec<Rank<'_>> = answer
        .ranking()
        .results
        .iter()
        .map(|row| Rank {
            index: row.index,
            text: answer.echoed_text(row.index),
            score: if raw { row.raw_score } else { row.relevance_score },
        })
        .collect();
    serde_json::to_vec(&ranks)
}

/// What TEI says in headers, times in milliseconds.
fn headers(answer: &Answer<'_>, headers: &mut HeaderMap) {
    let timing = &answer.ranking().timing;
    let mut put = |name, number: u128| {
        if let Ok(value) = HeaderValue::try_from(number.to_string()) {
            headers.insert(name, value);
        }
    };
    put("x-compute-tokens", answer.prompt_tokens() as u128);
    put("x-compute-time", timing.total.as_millis());
    put("x-total-time", timing.total.as_millis());
    put("x-tokenization-time", timing.tokenize.as_millis());
    put("x-queue-time", timing.queue.as_millis());
    put("x-inference-time", timing.forward.as_millis());
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::read;
    use super::*;

    #[test]
    fn its_fields_arrive() {
        let call = read(
            &DIALECT,
            r#"{"query":"q","texts":["a"],"truncate":false,"raw_scores":true,"return_text":true,"instruction":"i"}"#,
        )
        .unwrap();
        let request = &call.requests[0];
        assert_eq!((request.truncation, request.instruction.as_deref()), (false, Some("i")));
        assert!(call.raw_scores);
        assert_eq!(call.echo, Some(vec![Value::from("a")]));
    }

    #[test]
    fn cutting_the_start_is_refused() {
        let body = r#"{"query":"q","texts":["a"],"truncation_direction":"Left"}"#;
        let problem = read(&DIALECT, body).unwrap_err();
        assert_eq!(problem, r#"truncation_direction: "Left" is not supported; texts are cut on the right"#);
    }
}
