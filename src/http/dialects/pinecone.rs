//! Pinecone's dialect, under `/pinecone`: records in, `data` with `score` and the record out.

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Call, Dialect, documents, no_headers, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Fields, expected, quoted};
use crate::rerank::RerankError;

pub(super) const DIALECT: Dialect =
    Dialect { name: "pinecone", documents: "documents", read, write, headers: no_headers, failure: ErrorShape::Podium };

#[derive(Serialize)]
struct Reply<'a> {
    model: &'a str,
    data: Vec<Rank<'a>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Rank<'a> {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a Value>,
}

#[derive(Serialize)]
struct Usage {
    rerank_units: usize,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let query = documents::query("query", &fields.required("query")?)?;
    let items = fields.required_list("documents")?;
    let texts = documents::texts("documents", &items, documents::rank_fields(fields)?.as_deref())?;
    let return_documents = fields.flag("return_documents", true)?;
    let parameters = fields.take(&["parameters"])?;
    let mut request = request(fields, query, texts)?;
    request.truncation = match &parameters {
        None => true,
        Some(Value::Object(parameters)) => match parameters.get("truncate") {
            None | Some(Value::Null) => true,
            Some(Value::String(word)) if word == "END" => true,
            Some(Value::String(word)) if word == "NONE" => false,
            Some(other) => {
                let problem = format!("{} is none of \"END\", \"NONE\"", quoted(&other.to_string()));
                return Err(RerankError::invalid("parameters.truncate", problem));
            }
        },
        Some(other) => return Err(expected("parameters", "an object", other)),
    };
    Ok(Call::new(request).echoing(return_documents.then_some(items)))
}

fn write(answer: &Answer<'_>) -> serde_json::Result<Vec<u8>> {
    let ranking = answer.ranking();
    let rank = |index, score| Rank { index, score, document: answer.echo(index) };
    serde_json::to_vec(&Reply {
        model: &ranking.model,
        data: ranking.results.iter().map(|row| rank(row.index, row.relevance_score)).collect(),
        usage: Usage { rerank_units: 1 },
    })
}
