//! NVIDIA NIM's dialect: `/v1/ranking`. Scores are logits there, and here the family's own numbers.

use serde::Serialize;

use super::{Answer, Call, Dialect, TokenUsage, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, quoted};
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect =
    Dialect { name: "nim", documents: "passages", read, write, headers: no_headers, failure: ErrorShape::Podium };

#[derive(Serialize)]
struct Reply {
    rankings: Vec<Rank>,
    usage: TokenUsage,
}

#[derive(Serialize)]
struct Rank {
    index: usize,
    logit: f32,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let texts = documents::texts("passages", &fields.required_list("passages")?, None)?;
    let mut request = request(fields, query, texts)?;
    // A passage that is too long is an error unless the caller lets it be cut.
    request.truncation = match fields.text("truncate")?.as_deref() {
        None | Some("NONE") => false,
        Some("END") => true,
        Some(other) => {
            return Err(RerankError::invalid("truncate", format!("{} is none of NONE, END", quoted(other))));
        }
    };
    Ok(Call::new(request))
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let rankings = answer.ranking().results.iter().map(|row| Rank { index: row.index, logit: row.raw_score }).collect();
    serde_json::to_vec(&Reply { rankings, usage: answer.token_usage() })
}

#[cfg(test)]
mod tests {
    use super::super::testing::read;
    use super::*;

    #[test]
    fn passages_are_cut_only_where_the_caller_says_so() {
        let body = |truncate: &str| format!(r#"{{"query":{{"text":"q"}},"passages":[{{"text":"a"}}]{truncate}}}"#);
        for (truncate, cut) in [("", false), (r#","truncate":"NONE""#, false), (r#","truncate":"END""#, true)] {
            let call = read(&DIALECT, &body(truncate)).unwrap();
            assert_eq!(call.requests[0].truncation, cut, "{truncate}");
            assert_eq!(call.requests[0].documents, ["a"]);
        }
        let problem = read(&DIALECT, &body(r#","truncate":"START""#)).unwrap_err();
        assert_eq!(problem, r#"truncate: "START" is none of NONE, END"#);
    }
}
