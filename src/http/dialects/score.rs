//! The dialect of vLLM's scores: `/score` and `/v1/score`. It scores one text against many, or
//! pairs of texts, in the order of the request.
//!
//! A score is about one pair, so documents are read one at a time unless the request asks for
//! `"mode": "listwise"`.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, Object, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};

use super::documents::{Documents, Query, SentDocuments, not_blank};
use super::{
    Answer, Call, Dialect, ListObject, PassageReply, Reply, RequestOptions, TokenUsage, podium, raw_score_of, request,
};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Flag, Reader, flag_or, quoted};
use crate::http::schemas::SchemaOf;
use crate::rerank::{Mode, RerankError, RerankRequest};

pub(super) static DIALECT: Dialect = Dialect {
    name: "score",
    summary: "vLLM's scores",
    description: "The reply has one score for each pair, in the order of the request. Documents are read one at a time \
                  unless `mode` says otherwise.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<ScoreReply<'_>>(),
    errors: ErrorShape::Podium,
    read,
};

/// The names that the two sides may have.
const SIDE_NAMES: [(&str, &str); 4] =
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")];

request! {
    /// One text against many, or as many against as many. The sides may also be called `queries`
    /// with `documents` or `items`, or `data_1` with `data_2`.
    #[schema(
        as = ScoreRequest,
        example = json!({
            "text_1": "How do I reset my password?",
            "text_2": ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."],
        })
    )]
    struct Request {
        /// False: the family's own scores instead of scores in [0, 1].
        #[schema(default = true)]
        use_activation | activation: Option<Flag>,
        ..sides: Sides,
        ..options: RequestOptions,
    }
}

/// The two sides of the pairs, with the names that the client gave them.
#[derive(Debug)]
struct Sides {
    names: (&'static str, &'static str),
    queries: Vec<String>,
    texts: Vec<String>,
}

impl Reader for Sides {
    fn read(fields: &mut Fields) -> Result<Self, RerankError> {
        let names = side_names(fields)?;
        let mut texts = |name| Ok::<_, RerankError>(fields.read::<Texts>(&[name])?.0);
        Ok(Self { names, queries: texts(names.0)?, texts: texts(names.1)? })
    }

    fn aliases() -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
}

impl utoipa::PartialSchema for Sides {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String).build();
        let many = ArrayBuilder::new().items(text()).min_items(Some(1));
        let [(left, right), ..] = SIDE_NAMES;
        let mut sides: Object = ObjectBuilder::new()
            .property(left, not_blank())
            .property(right, AnyOfBuilder::new().item(text()).item(many))
            .required(left)
            .required(right)
            .build();
        // A second name for a side is an error.
        let others = ["queries", "data_1"].map(|name| json!({"required": [name]}));
        sides.extensions = Some(Extensions::from_iter([("not", json!({"anyOf": others}))]));
        sides.into()
    }
}

impl ToSchema for Sides {}

/// One text, or a list of texts that is not empty.
struct Texts(Vec<String>);

impl Field for Texts {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let value = Documents::converted(&value).filter(|_| value.is_object()).unwrap_or(value);
        match value {
            Value::Array(items) if items.is_empty() => Err(RerankError::invalid(name, "must hold at least one text")),
            Value::Array(items) => Documents(items).into_parts(name, None, false).map(|(texts, _)| Self(texts)),
            one @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                Query::from_value(name, one).map(|Query(text)| Self(vec![text]))
            }
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(
    example = json!({
        "id": "score-1",
        "object": "list",
        "created": 1_790_000_000,
        "model": "podium-mini",
        "data": [{"index": 0, "object": "score", "score": 0.04}, {"index": 1, "object": "score", "score": 0.62}],
        "usage": {"prompt_tokens": 52, "total_tokens": 52},
    })
)]
struct ScoreReply<'a> {
    id: String,
    #[schema(inline)]
    object: ListObject,
    created: u64,
    model: &'a str,
    /// In the order of the request.
    data: Vec<Score>,
    usage: TokenUsage,
}

#[derive(Serialize, ToSchema)]
struct Score {
    index: usize,
    #[schema(inline)]
    object: ScoreObject,
    #[serde(rename = "score")]
    value: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ScoreObject {
    Score,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    for name in ["top_n", "top_k", "min_score", "score_threshold", "relevance_threshold"] {
        if let Some(value) = fields.take(&[name])? {
            fields.warn(format!("{name}: {} has no effect here: every score comes back", quoted(&value.to_string())));
        }
    }
    let request = Request::read(fields)?;
    podium::ignore_fields(fields);
    let is_pointwise = !request.options.has_mode();
    let raw_scores = !flag_or(request.use_activation, true);
    let field_names = request.sides.names;
    let mut common = request.options.into_request(String::new(), Vec::new(), None);
    if is_pointwise {
        common.mode = Mode::Pointwise;
    }
    // A list of scores has no place to say that a text was not read.
    common.constraints.budget.strict = true;
    let requests = pairs(request.sides, &common)?;
    Ok(Call {
        requests,
        field_names,
        sent: SentDocuments::default(),
        write: Box::new(move |answer| reply(answer, raw_scores)),
    })
}

/// One request for one query against many texts, or one for each pair.
fn pairs(sides: Sides, common: &RerankRequest) -> Result<Vec<RerankRequest>, RerankError> {
    let request = |query: String, documents| RerankRequest { query, documents, ..common.clone() };
    let Sides { names: (left, right), queries, texts } = sides;
    match (queries.len(), texts.len()) {
        (1, _) => Ok(vec![request(queries.into_iter().next().unwrap_or_default(), texts)]),
        (count, other) if count == other => {
            Ok(queries.into_iter().zip(texts).map(|(query, text)| request(query, vec![text])).collect())
        }
        (count, other) => {
            let problem = format!(
                "{count} texts in `{left}` and {other} in `{right}` do not pair; give one in `{left}`, or as many as in `{right}`"
            );
            Err(RerankError::invalid(left, problem))
        }
    }
}

/// The names that this body has for the two sides.
fn side_names(fields: &Fields) -> Result<(&'static str, &'static str), RerankError> {
    let mut found = SIDE_NAMES.iter().filter(|(left, right)| fields.has(left) && fields.has(right));
    let Some(names) = found.next() else {
        let [(first, second), others @ ..] = SIDE_NAMES;
        let others = others.map(|(left, right)| format!("`{left}` and `{right}`")).join(", ");
        let problem = format!("give two sides, `{first}` and `{second}`; other names for them are {others}");
        return Err(RerankError::invalid(first, problem));
    };
    match found.next() {
        None => Ok(*names),
        Some(more) => Err(RerankError::invalid(more.1, format!("means the same as `{}`; give one of them", names.1))),
    }
}

fn reply(answer: &Answer<'_>, raw_scores: bool) -> serde_json::Result<Reply> {
    let mut data: Vec<Score> = Vec::new();
    for ranking in answer.rankings {
        let first = data.len();
        let raw_score = raw_score_of(&ranking.results);
        data.extend(ranking.results.iter().map(|row| Score {
            index: first + row.index,
            object: ScoreObject::Score,
            value: if raw_scores { raw_score(row) } else { row.relevance_score },
            passage: PassageReply::of(row),
        }));
    }
    data.sort_by_key(|row| row.index);
    Reply::json(&ScoreReply {
        id: format!("score-{}", answer.id),
        object: ListObject::List,
        created: answer.created,
        model: &answer.ranking().model,
        data,
        usage: answer.token_usage(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn one_query_against_many_texts_is_one_request_and_pairs_are_one_each() {
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
    fn sides_that_do_not_pair_are_an_error() {
        for (body, problem) in [
            (
                r#"{"text_1":["a","b"],"text_2":["c"]}"#,
                "text_1: 2 texts in `text_1` and 1 in `text_2` do not pair; give one in `text_1`, or as many as in `text_2`",
            ),
            (r#"{"text_1":"a","text_2":[]}"#, "text_2: must hold at least one text"),
            (
                r#"{"text_1":"a","text_2":"b","data_1":"a","data_2":"b"}"#,
                "data_2: means the same as `text_2`; give one of them",
            ),
        ] {
            assert_eq!(read(&DIALECT, body).err().unwrap(), problem);
        }
        let problem = read(&DIALECT, "{}").err().unwrap();
        assert!(problem.starts_with("text_1: give two sides, `text_1` and `text_2`; other names"), "{problem}");
    }
}
