//! The routes of the description that do not rank.

use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathItemBuilder};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::super::error_body::ErrorBody;
use super::super::route_table::{
    ADMIN_ROUTES, DOCS, HEALTH, INFO, INSTRUCTIONS, METRICS, MODELS, NEEDS_KEY, OPENAPI, READY, VERSION,
};
use super::super::schemas::Schemas;
use super::super::{admin, routes};
use super::parts::{error, key, key_or_none, parameter, reply};

const JSON: &str = "application/json";

/// An error of a route that does not rank: its status and what it means.
type Error = (&'static str, &'static str);

const NO_KEY: Error = ("401", "A key is missing or wrong.");
const RATE_LIMITED: Error = ("429", "The key has used up its rate limit. Retry-After says when to try again.");
const LOADING: Error = ("503", "The models are loading. Retry-After says when to try again.");
const NOT_READY: Error = (
    "503",
    "The models are loading, the server is shutting down (shutting_down), its device has failed and it will end soon \
     (device_lost), or a batch does not come back from the device (device_stalled).",
);
const NO_ADMIN_KEY: Error = ("401", "A key is missing or not an administrator's.");
const UNKNOWN_MODEL: Error = ("404", "The model is not served here.");
const UNKNOWN_SETTING: Error = ("404", "The configuration has no such model.");

/// Describes operations with one tag.
struct Describe<'a> {
    tag: &'static str,
    schemas: &'a mut Schemas,
}

impl Describe<'_> {
    /// A reply in JSON.
    fn json<T: ToSchema>(&mut self) -> Response {
        reply(JSON, self.schemas.add::<T>())
    }

    /// An operation that may end in these errors.
    fn operation(&mut self, summary: &str, reply: Response, errors: &[Error]) -> OperationBuilder {
        let operation = OperationBuilder::new().tag(self.tag).summary(Some(summary)).response("200", reply);
        errors.iter().fold(operation, |operation, (status, description)| {
            let body = self.schemas.add::<ErrorBody<'_>>();
            operation.response(*status, error(status, description, body, None))
        })
    }

    /// The same operation on several paths, of which the first is the usual one.
    fn same(
        &mut self,
        paths: &[&'static str],
        summary: &str,
        reply: &Response,
        errors: &[Error],
    ) -> Vec<(&'static str, PathItem)> {
        let Some(usual) = paths.first() else { return Vec::new() };
        let alias = format!("The same as {usual}");
        let summary_of = |path: &str| if path == *usual { summary } else { &alias };
        paths.iter().map(|path| (*path, get(self.operation(summary_of(path), reply.clone(), errors)))).collect()
    }

    /// An operation for clients with a key, if the server has keys.
    fn protected(&mut self, summary: &str, reply: Response, more: &[Error]) -> OperationBuilder {
        let errors = [&[NO_KEY, RATE_LIMITED], more].concat();
        self.operation(summary, reply, &errors).securities(Some(key_or_none()))
    }

    /// An operation for administrators.
    fn administration(&mut self, summary: &str, reply: Response, more: &[Error]) -> OperationBuilder {
        self.operation(summary, reply, &[&[NO_ADMIN_KEY, LOADING], more].concat()).securities(Some(key()))
    }
}

/// Every path that does not rank, and `GET /`.
pub fn paths(schemas: &mut Schemas) -> Vec<(&'static str, PathItem)> {
    let mut paths = model_paths(schemas);
    paths.extend(server_paths(schemas));
    paths.extend(admin_paths(schemas));
    paths
}

fn get(operation: OperationBuilder) -> PathItem {
    PathItem::new(HttpMethod::Get, operation)
}

fn model_paths(schemas: &mut Schemas) -> Vec<(&'static str, PathItem)> {
    let mut describe = Describe { tag: "Models", schemas };
    let models = describe.json::<routes::Models>();
    let models = get(describe.protected("Every name that a request may give a model", models, &[LOADING]));
    let model = describe.json::<routes::Model>();
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_.-]{1,64}$"));
    let name = parameter("model", ParameterIn::Path, name).example(Some("podium-mini".into()));
    let model = describe.protected("One model", model, &[UNKNOWN_MODEL, LOADING]).parameter(name);
    let profiles = describe.json::<routes::Profiles>();
    let profiles = describe.protected("The stored instructions", profiles, &[LOADING]);
    let info = reply(JSON, ObjectBuilder::new().schema_type(Type::Object));
    let info = describe.protected("The model, as text-embeddings-inference describes it", info, &[LOADING]).description(Some(
        "`max_input_length` is the number of tokens that are read of a document by default, `max_client_batch_size` \
         the number of documents in one request (`limits.max_documents`), `max_batch_tokens` the number of tokens in \
         one batch on the device (`schedule.max_batch_tokens`), and `max_concurrent_requests` the number of requests \
         that may be accepted and unfinished (`schedule.max_queued_requests`).",
    ));
    let mut paths: Vec<(&str, PathItem)> = MODELS.into_iter().map(|path| (path, models.clone())).collect();
    paths.extend([("/v1/models/{model}", get(model)), (INSTRUCTIONS, get(profiles)), (INFO, get(info))]);
    paths
}

fn server_paths(schemas: &mut Schemas) -> Vec<(&'static str, PathItem)> {
    let mut describe = Describe { tag: "Server", schemas };
    let string = || ObjectBuilder::new().schema_type(Type::String);
    let object = ObjectBuilder::new().schema_type(Type::Object);
    let mut index = describe.json::<routes::Index>();
    index.description = "JSON, or the page if the client prefers text/html.".into();
    index.content.extend(reply("text/html", string()).content);
    let (alive, ready) = (describe.json::<routes::Status>(), describe.json::<routes::Status>());
    let (needs_key, version) = (describe.json::<routes::NeedsKey>(), describe.json::<routes::Version>());
    let metrics = "Metrics in Prometheus's text format; they need no key unless the operator protects them";
    let mut paths = vec![
        ("/", get(describe.operation("Facts about this server; for browsers, the playground", index, &[LOADING]))),
        (NEEDS_KEY, get(describe.operation("Whether requests need a key", needs_key, &[]))),
        (OPENAPI, get(describe.operation("This description", reply(JSON, object), &[LOADING]))),
        (DOCS, get(describe.operation("This description as a page", reply("text/html", string()), &[]))),
        (METRICS, get(describe.protected(metrics, reply("text/plain", string()), &[]))),
    ];
    paths.extend(describe.same(&HEALTH, "The process is alive", &alive, &[]));
    paths.extend(describe.same(&READY, "New requests are accepted, or why not", &ready, &[NOT_READY]));
    paths.extend(describe.same(&VERSION, "The server's version", &version, &[]));
    paths
}

fn admin_paths(schemas: &mut Schemas) -> Vec<(&'static str, PathItem)> {
    let mut describe = Describe { tag: "Administration", schemas };
    let models = describe.json::<admin::Models>();
    let models = describe.administration("Every model, its state and its memory", models, &[]);
    let loaded = describe.json::<admin::Model>();
    let load = describe.administration(
        "Load a model. The answer comes when that is done",
        loaded,
        &[
            UNKNOWN_SETTING,
            ("409", "It is the default model, it is being unloaded, or it does not fit into models.max_memory_bytes."),
            ("500", "The checkpoint cannot be loaded; the message says why."),
        ],
    );
    let unloaded = describe.json::<admin::Model>();
    let unload = describe.administration(
        "Unload a model. The answer comes when the requests that it had accepted are answered",
        unloaded,
        &[UNKNOWN_SETTING, ("409", "It is the default model or a cascade, or it is being loaded.")],
    );
    let named = |operation: OperationBuilder| {
        let name = parameter("model", ParameterIn::Path, ObjectBuilder::new().schema_type(Type::String));
        let name = name.description(Some("A name from the configuration ([models.NAME])."));
        PathItemBuilder::new()
            .parameters(Some([ParameterBuilder::build(name)]))
            .operation(HttpMethod::Post, operation)
            .build()
    };
    let [list, loading, unloading] = ADMIN_ROUTES;
    vec![(list, get(models)), (loading, named(load)), (unloading, named(unload))]
}
