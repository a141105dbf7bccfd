//! The parts that the operations of the description share: responses, parameters and keys.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{ContentBuilder, Header, RefOr, Required};

/// The meaning of each error status of a ranking route.
pub const RANKING_ERRORS: [(&str, &str); 11] = [
    ("400", "The body is not JSON, it ended early, or it cannot be decompressed."),
    ("401", "A key is missing or wrong."),
    ("404", "The model is not served here."),
    ("408", "The body did not arrive in time."),
    (
        "413",
        "The body is over the limit, has so many values that parsing it would be, has more tokens than the queue \
         takes, or has documents that do not fit into the device's memory together.",
    ),
    ("415", "The body is not declared as application/json, or it is compressed with neither gzip nor zstd."),
    (
        "422",
        "A field is missing, of the wrong type or out of range; a text is too long and may not be cut; or a strict \
         budget is too small.",
    ),
    (
        "429",
        "The server is at capacity in requests, tokens or waiting time, or the key has used up its rate limit or its \
         share of the queue. Retry-After says when to try again.",
    ),
    ("500", "An error of the server. Its cause is in the log."),
    (
        "503",
        "The server is shutting down, its device has failed, or the model is not loaded at the moment. Retry-After \
         says when to try again.",
    ),
    (
        "504",
        "The request took longer than allowed. The message says how many passes had run and how many documents were \
         read.",
    ),
];

/// The headers of a ranking, beside the request's id.
const RANKING_HEADERS: [(&str, Type, &str); 5] = [
    ("podium-truncated-documents", Type::Integer, "The number of documents whose end was cut off."),
    ("podium-left-out-documents", Type::Integer, "The number of documents below `min_score`, if the request has one."),
    ("podium-warnings", Type::Integer, "The number of warnings."),
    (
        "podium-warning",
        Type::String,
        "The text of a warning, percent-encoded where it is not ASCII; one header for each of the first 8.",
    ),
    ("server-timing", Type::String, "The time of each stage: queue, tokenize, forward, total."),
];

/// A ranking.
pub fn ranking(reply: RefOr<Schema>, example: Option<serde_json::Value>) -> Response {
    let mut response = ResponseBuilder::new()
        .description("The ranking.")
        .content("application/json", ContentBuilder::new().schema(Some(reply)).example(example).build())
        .header("x-request-id", request_id());
    for (name, kind, description) in RANKING_HEADERS {
        response = response.header(name, header(kind, description));
    }
    response.build()
}

/// The reply of a route that does not rank.
pub fn reply(content_type: &str, schema: impl Into<RefOr<Schema>>) -> Response {
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description("The reply.").content(content_type, content).build()
}

/// An error with this status.
pub fn error(
    status: &str,
    description: &str,
    body: impl Into<RefOr<Schema>>,
    example: Option<serde_json::Value>,
) -> Response {
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", ContentBuilder::new().schema(Some(body)).example(example).build())
        .header("x-request-id", request_id());
    let response = match status {
        "429" | "503" => response.header("retry-after", header(Type::Integer, "Seconds.")),
        _ => response,
    };
    response.build()
}

fn request_id() -> Header {
    header(Type::String, "The request's id: the client's own, or a new one.")
}

fn header(kind: Type, description: &str) -> Header {
    let schema = ObjectBuilder::new().schema_type(kind);
    HeaderBuilder::new().schema(schema).description(Some(description)).build()
}

/// A parameter; one of the path is required.
pub fn parameter(name: &str, place: ParameterIn, schema: impl Into<RefOr<Schema>>) -> ParameterBuilder {
    let required = if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    ParameterBuilder::new().name(name).parameter_in(place).required(required).schema(Some(schema))
}

/// The headers that a key may come in.
pub fn security_schemes() -> [(&'static str, SecurityScheme); 3] {
    let header = |name| SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(name)));
    [
        ("bearer", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build())),
        ("apiKey", header("api-key")),
        ("xApiKey", header("x-api-key")),
    ]
}

/// A key in any of the headers.
pub fn key() -> Vec<SecurityRequirement> {
    let none: [&str; 0] = [];
    security_schemes().into_iter().map(|(name, _)| SecurityRequirement::new(name, none)).collect()
}

/// A key, if the server has keys.
pub fn key_or_none() -> Vec<SecurityRequirement> {
    [vec![SecurityRequirement::default()], key()].concat()
}
