//! The description as a whole, and its ranking routes.

use serde_json::{Value, json};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, PathsBuilder, Ref, RefOr, Required, Server, Tag,
};

use super::super::dialects::{self, Dialect, Route};
use super::super::fields::FLAG_WORDS;
use super::super::schemas::{SchemaOf, Schemas};
use super::{parts, server_routes};

const DESCRIPTION: &str = "Ranks documents by their relevance to a query, following an instruction in plain language.\n\n\
    - `POST /v1/rerank` is the route to start with. The other paths take the requests of other vendors' clients.\n\
    - No text is cut silently. Each result of `/v1/rerank` has the document's tokens and how many of them the model \
    read, and the header `podium-truncated-documents` of every ranking counts the documents that were cut. \
    `truncation: false` (`truncate` in some APIs) makes a text that is too long an error.\n\
    - An error names the field and, where one applies, the value and the limit.";

const TAGS: [&str; 5] = ["Rerank", OTHER_APIS, "Models", "Server", "Administration"];
const OTHER_APIS: &str = "Other vendors' APIs";

/// The note that every ranking operation ends with.
const HEADERS_NOTE: &str = "A client that cannot add a field to the body may send the instruction in the header \
                            `podium-instruction` (percent-encoded UTF-8), and a profile in `podium-profile`.";

/// Headers of a ranking request.
const RANKING_HEADERS: [(&str, Type, &str); 7] = [
    ("x-request-id", Type::String, "The response and the log have the same id."),
    (
        "podium-profile",
        Type::String,
        "The name of a stored instruction, for clients that cannot add a field to the body.",
    ),
    ("podium-instruction", Type::String, "An instruction, percent-encoded UTF-8."),
    ("podium-priority", Type::Integer, "`priority`, for clients that cannot add a field to the body."),
    ("podium-timeout-ms", Type::Integer, "`timeout_ms`, likewise."),
    ("podium-max-latency-ms", Type::Integer, "`max_latency_ms`, likewise."),
    ("podium-max-total-tokens", Type::Integer, "`max_total_tokens`, likewise."),
];

/// The description, without what differs between servers.
pub fn build() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = PathsBuilder::new();
    for (path, item) in server_routes::paths(&mut schemas) {
        paths = paths.path(path, item);
    }
    for route in &dialects::ROUTES {
        paths = paths.path(route.path, PathItem::new(HttpMethod::Post, ranking_operation(route, &mut schemas)));
    }
    let license = LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build();
    let info = InfoBuilder::new()
        .title("Podium")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license));
    let document = OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .tags(Some(TAGS.map(Tag::new)))
        .paths(paths)
        .build();
    let mut document = json!(document);
    document["info"]["summary"] = json!("A rerank server that follows instructions");
    let security: serde_json::Map<String, Value> =
        parts::security_schemes().into_iter().map(|(name, scheme)| (name.to_owned(), json!(scheme))).collect();
    document["components"] = json!({"schemas": schemas.into_json(), "securitySchemes": security});
    document
}

fn ranking_operation(route: &Route, schemas: &mut Schemas) -> Operation {
    let Dialect { name, summary, description, request, reply, errors, .. } = *route.dialect;
    let dialects = route.dialects();
    let all = |part: fn(&Dialect) -> SchemaOf| dialects.iter().map(|dialect| part(dialect)).collect::<Vec<_>>();
    let body = any_of(&all(|dialect| dialect.request), schemas);
    let result = any_of(&all(|dialect| dialect.reply), schemas);
    let error = any_of(&all(|dialect| dialect.errors.schema()), schemas);
    let tag = if dialects.len() > 1 { "Rerank" } else { OTHER_APIS };
    let mut operation = OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(format!("{name}{}", route.path.replace(['/', '.'], "_").replace(['{', '}'], ""))))
        .summary(Some(summary))
        .description(Some(format!("{description} {HEADERS_NOTE}")))
        .parameters(Some(path_parameters(route.path).into_iter().chain(ranking_parameters())))
        .request_body(Some(request_body(body, request.example())))
        .response("200", parts::ranking(result, reply.example()))
        .securities(Some(parts::key_or_none()));
    for (status, description) in parts::RANKING_ERRORS {
        let example = (status == "422").then(|| errors.schema().example()).flatten();
        operation = operation.response(status, parts::error(status, description, error.clone(), example));
    }
    operation.build()
}

/// A reference to the schema, or to any of the schemas if there are several.
fn any_of(all: &[SchemaOf], schemas: &mut Schemas) -> RefOr<Schema> {
    let mut names: Vec<String> = Vec::new();
    for schema in all {
        let name = schema.add_to(schemas);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.as_slice() {
        [only] => Ref::from_schema_name(only).into(),
        several => several.iter().fold(AnyOfBuilder::new(), |any, name| any.item(Ref::from_schema_name(name))).into(),
    }
}

fn request_body(schema: RefOr<Schema>, example: Option<Value>) -> RequestBody {
    let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
    RequestBodyBuilder::new().required(Some(Required::True)).content("application/json", content).build()
}

/// The variable parts of a path. The server reads none of them.
fn path_parameters(path: &str) -> Vec<Parameter> {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let any = || ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_.:-]{1,64}$"));
    let parameters = names.map(|name| {
        parts::parameter(name, ParameterIn::Path, any()).example(Some("any".into())).description(Some("Any text."))
    });
    parameters.map(ParameterBuilder::build).collect()
}

fn ranking_parameters() -> Vec<Parameter> {
    let headers = RANKING_HEADERS.map(|(name, kind, description)| {
        parts::parameter(name, ParameterIn::Header, ObjectBuilder::new().schema_type(kind))
            .description(Some(description))
    });
    let flags = [
        ("podium-return-documents", "`return_documents`, for clients that read documents and cannot ask for them."),
        ("podium-strict", "`strict`, likewise."),
    ];
    let flags = flags.map(|(name, description)| {
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(FLAG_WORDS));
        parts::parameter(name, ParameterIn::Header, word).description(Some(description))
    });
    headers.into_iter().chain(flags).map(ParameterBuilder::build).collect()
}
