//! The dialect of AWS Bedrock's Rerank (the client `bedrock-agent-runtime`): `queries` and
//! `sources` in, `relevanceScore` out. It is on every shared path where a body has `sources`.

#![expect(non_snake_case, reason = "the names of the fields on the wire")]

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::documents::{Documents, Query, not_blank};
use super::{Answer, Call, Dialect, PassageReply, Reply, RequestOptions, request};
use crate::http::error_body::ErrorShape;
use crate::http::fields::{Field, Fields, Part, Reader, expected, list};
use crate::http::schemas::SchemaOf;
use crate::rerank::RerankError;

pub(super) static DIALECT: Dialect = Dialect {
    name: "bedrock",
    summary: "AWS Bedrock",
    description: "The model is the one of `modelArn`, by its name behind the last slash.",
    request: SchemaOf::request::<Request>(),
    reply: SchemaOf::reply::<BedrockReply>(),
    errors: ErrorShape::Podium,
    read,
};

request! {
    #[schema(
        as = BedrockRequest,
        example = json!({
            "queries": [{"type": "TEXT", "textQuery": {"text": "How do I reset my password?"}}],
            "sources": [
                {"type": "INLINE", "inlineDocumentSource": {
                    "type": "TEXT", "textDocument": {"text": "Cats sleep a lot."}}},
                {"type": "INLINE", "inlineDocumentSource": {
                    "type": "JSON", "jsonDocument": {"title": "Passwords", "steps": "Open Settings, then Security."}}},
            ],
            "rerankingConfiguration": {
                "type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": {
                    "modelConfiguration": {"modelArn": "arn:aws:bedrock:us-west-2::foundation-model/podium-mini"},
                    "numberOfResults": 2,
                },
            },
        })
    )]
    struct Request {
        queries: Queries,
        sources: Sources,
        #[schema(value_type = Option<Configuration>)]
        rerankingConfiguration: Option<Part<Configuration>>,
        ..options: RequestOptions,
    }
}

request! {
    #[schema(as = BedrockConfiguration)]
    struct Configuration {
        #[schema(value_type = Option<BedrockConfiguration>)]
        bedrockRerankingConfiguration: Option<Part<BedrockConfiguration>>,
    }
}

request! {
    #[schema(as = BedrockRerankingConfiguration)]
    struct BedrockConfiguration {
        #[schema(value_type = Option<ModelConfiguration>)]
        modelConfiguration: Option<Part<ModelConfiguration>>,
        /// The number of results; all if absent.
        #[schema(minimum = 1)]
        numberOfResults: Option<usize>,
    }
}

request! {
    #[schema(as = BedrockModelConfiguration)]
    struct ModelConfiguration {
        modelArn: Option<String>,
    }
}

/// The only query of a call.
#[derive(Debug)]
struct Queries(Query);

impl Field for Queries {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let mut queries = list(name, value)?;
        if queries.len() != 1 {
            return Err(RerankError::invalid(name, format!("holds {} queries; give one", queries.len())));
        }
        let path = format!("{name}[0]");
        let (path, query) = inner(&path, queries.swap_remove(0), "textQuery")?;
        Query::from_value(&path, query).map(Self)
    }
}

impl PartialSchema for Queries {
    fn schema() -> RefOr<Schema> {
        let text = object("text", not_blank());
        ArrayBuilder::new().items(object("textQuery", text)).min_items(Some(1)).max_items(Some(1)).into()
    }
}

impl ToSchema for Queries {}

/// The documents of a call.
#[derive(Debug)]
struct Sources(Vec<Value>);

impl Field for Sources {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let sources = list(name, value)?.into_iter().enumerate().map(|(index, source)| {
            let (path, source) = inner(&format!("{name}[{index}]"), source, "inlineDocumentSource")?;
            let is_json = source.get("jsonDocument").is_some_and(|document| !document.is_null());
            inner(&path, source, if is_json { "jsonDocument" } else { "textDocument" }).map(|(_, document)| document)
        });
        sources.collect::<Result<_, _>>().map(Self)
    }
}

impl PartialSchema for Sources {
    fn schema() -> RefOr<Schema> {
        let text = object("text", ObjectBuilder::new().schema_type(Type::String).build());
        let json = ObjectBuilder::new().schema_type(Type::Object).min_properties(Some(1)).build();
        let document = utoipa::openapi::schema::AnyOfBuilder::new()
            .item(object("textDocument", text))
            .item(object("jsonDocument", json));
        let source = ObjectBuilder::new().property("inlineDocumentSource", document).required("inlineDocumentSource");
        ArrayBuilder::new().items(source).min_items(Some(1)).into()
    }
}

impl ToSchema for Sources {}

/// An object with one required field.
fn object(name: &str, field: Object) -> Object {
    ObjectBuilder::new().property(name, field).required(name).build()
}

/// A required field of the object `outer`, with its path.
fn inner(outer: &str, value: Value, name: &str) -> Result<(String, Value), RerankError> {
    let path = format!("{outer}.{name}");
    let mut object: Map<String, Value> = match value {
        Value::Object(object) => object,
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(expected(outer, "an object", &other));
        }
    };
    match object.swap_remove(name).filter(|value| !value.is_null()) {
        Some(value) => Ok((path, value)),
        None => Err(RerankError::invalid(path, "this field is required")),
    }
}

#[derive(Serialize, ToSchema)]
struct BedrockReply {
    /// Best first.
    results: Vec<BedrockResult>,
}

#[derive(Serialize, ToSchema)]
struct BedrockResult {
    index: usize,
    #[serde(rename = "relevanceScore")]
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    passage: Option<PassageReply>,
}

fn read(fields: &mut Fields) -> Result<Call, RerankError> {
    let request = Request::read(fields)?;
    fields.ignore(&["nextToken"]);
    let configuration = request.rerankingConfiguration.map(|part| part.take(fields));
    fields.ignore(&["rerankingConfiguration.type"]);
    let bedrock = configuration.and_then(|part| part.bedrockRerankingConfiguration).map(|part| part.take(fields));
    let (model, top_n) = bedrock.map_or((None, None), |part| (part.modelConfiguration, part.numberOfResults));
    let arn = model.and_then(|part| part.take(fields).modelArn);
    let (texts, sent) = Documents(request.sources.0).into_parts("sources", None, false)?;
    let mut ranking = request.options.into_request(request.queries.0.0, texts, top_n);
    if let Some(arn) = arn.filter(|_| ranking.model.is_none()) {
        ranking.model = Some(arn.rsplit('/').next().unwrap_or_default().into());
    }
    let mut call = Call::new(ranking, "sources", sent, reply);
    call.field_names.0 = "queries[0].textQuery.text";
    Ok(call)
}

fn reply(answer: &Answer<'_>) -> serde_json::Result<Reply> {
    let results = answer.ranking().results.iter();
    let results = results.map(|row| BedrockResult {
        index: row.index,
        relevance_score: row.relevance_score,
        passage: PassageReply::of(row),
    });
    Reply::json(&BedrockReply { results: results.collect() })
}
