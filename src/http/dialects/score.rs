//! vLLM's scores: `/score` and `/v1/score`. One text against many, or pairs; in the order of the request, not ranked.
//!
//! A score is about one pair, so documents are read one by one unless the request asks for `"mode": "listwise"`.

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Call, Dialect, TokenUsage, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::Fields;
use crate::rerank::{Mode, RerankError, RerankRequest};

pub(super) const DIALECT: Dialect =
    Dialect { name: "score", documents: "text_2", read, write, headers: no_headers, failure: ErrorShape::Podium };

/// How the two sides may be named.
const SIDES: [(&str, &str); 4] =
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")];

#[derive(Serialize)]
struct Reply<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Row>,
    usage: TokenUsage,
}

#[derive(Serialize)]
struct Row {
    index: usize,
    object: &'static str,
    #[serde(rename = "score")]
    value: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let (left, right) = sides(fields)?;
    let queries = take_texts(fields, left)?;
    let texts = take_texts(fields, right)?;
    let raw_scores = !fields.flag_of(&["use_activation", "activation"], true)?;
    let pointwise = !fields.has("mode");
    let mut request = request(fields, String::new(), Vec::new())?;
    if let Some(top_n) = request.top_n {
        return Err(RerankError::invalid("top_n", format!("is {top_n}; every score comes back here, leave it out")));
    }
    if pointwise {
        request.mode = Mode::Pointwise;
    }
    // A list of scores has no words for what was not read.
    request.terms.budget.strict = true;
    let of = |query: String, documents| RerankRequest { query, documents, ..request.clone() };
    let requests = match (queries.len(), texts.len()) {
        (1, _) => vec![of(queries.into_iter().next().unwrap_or_default(), texts)],
        (count, texts_count) if count == texts_count => {
            queries.into_iter().zip(texts).map(|(query, text)| of(query, vec![text])).collect()
        }
        (count, other) => {
            let problem =
                format!("{count} texts in `{left}` and {other} in `{right}` do not pair; give one, or as many");
            return Err(RerankError::invalid(left, problem));
        }
    };
    Ok(Call { requests, raw_scores, words: Some((left, right)), ..Call::new(request) })
}

/// Which of the names this call has.
fn sides(fields: &Fields) -> Result<(&'static str, &'static str), RerankError> {
    let mut found = SIDES.iter().filter(|(left, right)| fields.has(left) && fields.has(right));
    let Some(sides) = found.next() else {
        let [(first, second), others @ ..] = SIDES;
        let others = others.map(|(left, right)| format!("`{left}` and `{right}`")).join(", ");
        let problem = format!("give two sides, `{first}` and `{second}`; other names for them are {others}");
        return Err(RerankError::invalid(first, problem));
    };
    match found.next() {
        None => Ok(*sides),
        Some(more) => Err(RerankError::invalid(more.1, format!("means the same as `{}`; give one of them", sides.1))),
    }
}

/// One text, or a list that is not empty.
fn take_texts(fields: &mut Fields, name: &str) -> Result<Vec<String>, RerankError> {
    match fields.required(name)? {
        Value::Array(items) if items.is_empty() => Err(RerankError::invalid(name, "must hold at least one text")),
        Value::Array(items) => documents::texts(name, &items, None),
        one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Ok(vec![documents::query(name, &one)?])
        }
    }
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let raw = answer.call.raw_scores;
    let mut data: Vec<Row> = Vec::new();
    for ranking in answer.rankings {
        let first = data.len();
        data.extend(ranking.results.iter().map(|row| Row {
            index: first + row.index,
            object: "score",
            value: if raw { row.raw_score } else { row.relevance_score },
        }));
    }
    data.sort_by_key(|row| row.index);
    serde_json::to_vec(&Reply {
        id: format!("score-{}", answer.id),
        object: "list",
        created: answer.created,
        model: &answer.ranking().model,
        data,
        usage: answer.token_usage(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::read;
    use super::*;

    #[test]
    fn one_against_many_is_one_ranking_and_pairs_are_one_each() {
        let many = read(&DIALECT, r#"{"text_1":"q","text_2":["a","b"]}"#).unwrap();
        assert_eq!(many.requests.len(), 1);
        assert_eq!(many.requests[0].documents, ["a", "b"]);
        assert_eq!(many.requests[0].mode, Mode::Pointwise);
        let pairs = read(&DIALECT, r#"{"queries":["p","q"],"documents":["a","b"],"mode":"auto"}"#).unwrap();
        let pairs: Vec<_> =
            pairs.requests.iter().map(|r| (r.query.as_str(), r.documents[0].as_str(), r.mode)).collect();
        assert_eq!(pairs, [("p", "a", Mode::Auto), ("q", "b", Mode::Auto)]);
    }

    #[test]
    fn sides_that_do_not_pair_are_refused() {
        for (body, problem) in [
            (
                r#"{"text_1":["a","b"],"text_2":["c"]}"#,
                "text_1: 2 texts in `text_1` and 1 in `text_2` do not pair; give one, or as many",
            ),
            (r#"{"text_1":"a","text_2":[]}"#, "text_2: must hold at least one text"),
            (
                r#"{"text_1":"a","text_2":"b","data_1":"a","data_2":"b"}"#,
                "data_2: means the same as `text_2`; give one of them",
            ),
            (r#"{"text_1":"a","text_2":"b","top_n":1}"#, "top_n: is 1; every score comes back here, leave it out"),
        ] {
            assert_eq!(read(&DIALECT, body).unwrap_err(), problem);
        }
        assert!(
            read(&DIALECT, "{}").unwrap_err().starts_with("text_1: give two sides, `text_1` and `text_2`; other names")
        );
    }
}
