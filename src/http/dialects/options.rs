//! The fields that every dialect takes beside its own, so that a client of any API can give an
//! instruction, a deadline or a budget.

use std::time::Duration;

use serde_json::Value;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::cascade::{CascadeFields, Scores};
use super::early_exit::{EarlyExitField, LayerField};
use super::passages::PassageFields;
use super::request;
use crate::http::fields::{Field, Flag, expected, flag_or, none_of, text};
use crate::rerank::{MAX_PRIORITY, MinScore, Mode, RequestBudget, RequestConstraints, RerankError, RerankRequest};

request! {
    /// Fields that every dialect takes.
    #[derive(Default)]
    pub(super) struct RequestOptions {
        model: Option<ModelName>,
        /// How to judge relevance, in plain language. Empty: no instruction, not even the server's
        /// default.
        pub(super) instruction | instruct: Option<String>,
        profile: Option<ProfileName>,
        /// The least relevance of a result, as a number in [0, 1] like `relevance_score`, also
        /// where the reply has raw scores; or `"auto"`. Results below it are left out, which may
        /// leave none.
        #[schema(value_type = Option<MinScoreField>)]
        pub(super) min_score | score_threshold | relevance_threshold: Option<MinScore>,
        /// The most tokens to read of each document; the family's limit if absent or 0.
        #[schema(minimum = 0)]
        max_tokens_per_doc: Option<usize>,
        #[schema(default = "auto")]
        mode: Option<ModeName>,
        /// The urgency: 0 is the most urgent, 999 the least. More urgent requests run first.
        #[schema(value_type = Option<usize>, minimum = 0, maximum = 999, default = 0)]
        priority: Option<Priority>,
        /// The most milliseconds that the request may take, from the end of its body; after that
        /// the answer is 504 and says how far the request came. The server's own limit applies
        /// too.
        #[schema(minimum = 1)]
        timeout_ms: Option<usize>,
        /// The milliseconds that the ranking should take, waiting included. If the measured
        /// throughput is too low to read everything in this time, less is read, and the warnings
        /// say what was left out.
        #[schema(minimum = 1)]
        max_latency_ms: Option<usize>,
        /// The most tokens to send through the model. If everything would be more, less is read of
        /// each document. If even that is too much, documents at the end stay unread: they keep
        /// the request's order with a score of 0, and the warnings say so.
        #[schema(minimum = 1)]
        max_total_tokens: Option<usize>,
        /// True: a budget that does not allow everything to be read is an error: 422, or 429 if it
        /// would be enough without the requests of others. So is a stage of a cascade that cannot
        /// rank.
        #[schema(default = false)]
        strict: Option<Flag>,
        cascade: Option<CascadeFields>,
        scores: Option<Scores>,
        /// Whether documents may leave the model before its last layer, where the family declares
        /// an exit. They stand behind the others, with `exit_layer`. The model's setting if absent.
        #[schema(value_type = Option<EarlyExitField>)]
        early_exit: Option<EarlyExitField>,
        /// The layer that all documents are scored after, of a layer-wise checkpoint, which has a
        /// head for each layer. The model's setting if absent.
        #[schema(value_type = Option<usize>, minimum = 1, maximum = 65535)]
        cutoff_layer: Option<LayerField>,
        /// In how many orders of the documents to rank them, for families whose scores depend on it
        /// (jina-v3, first, e2rank). The rankings are merged, and each result has its `spread`.
        #[schema(minimum = 1, maximum = 16, default = 1)]
        stability: Option<usize>,
        ..passages: PassageFields,
    }
}

impl RequestOptions {
    /// The request to rank `documents` by `query` under these options.
    pub(super) fn into_request(self, query: String, documents: Vec<String>, top_n: Option<usize>) -> RerankRequest {
        let constraints = self.constraints();
        RerankRequest {
            model: self.model.map(|ModelName(name)| name.into()),
            instruction: self.instruction.map(Into::into),
            profile: self.profile.map(|ProfileName(name)| name.into()),
            top_n,
            min_score: self.min_score,
            passages: self.passages.into(),
            max_tokens_per_doc: self.max_tokens_per_doc,
            mode: self.mode.map_or(Mode::Auto, Into::into),
            constraints,
            early_exit: self.early_exit.map(|EarlyExitField(choice)| choice),
            cutoff_layer: self.cutoff_layer.map(|LayerField(layer)| layer),
            stability: self.stability,
            cascade: self.cascade.unwrap_or_default().into_options(self.scores),
            ..RerankRequest::new(query, documents)
        }
    }

    /// Whether the client chose how to read the documents.
    pub(super) const fn has_mode(&self) -> bool {
        self.mode.is_some()
    }

    fn constraints(&self) -> RequestConstraints {
        let milliseconds = |count: Option<usize>| count.map(|count| Duration::from_millis(count as u64));
        RequestConstraints {
            priority: self.priority.map_or(0, |Priority(priority)| priority),
            timeout: milliseconds(self.timeout_ms),
            budget: RequestBudget {
                max_latency: milliseconds(self.max_latency_ms),
                max_total_tokens: self.max_total_tokens,
                strict: flag_or(self.strict, false),
                leaves_documents_out: false,
            },
        }
    }
}

impl Field for MinScore {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let in_range = |score: &f64| (0.0..=1.0).contains(score);
        match value {
            Value::Number(number) => number
                .as_f64()
                .filter(in_range)
                .map(|score| Self::Score(score as f32))
                .ok_or_else(|| RerankError::invalid(name, format!("is {number}; it must be between 0 and 1"))),
            Value::String(word) if word == "auto" => Ok(Self::Auto),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                Err(expected(name, "a number between 0 and 1 or \"auto\"", &value))
            }
        }
    }

    /// A number in a string.
    fn converted(value: &Value) -> Option<Value> {
        usize::converted(value)
    }
}

/// The least relevance of a result: a number, or `auto` to cut at the largest gap between the
/// scores of relevant documents and to return nothing if nothing is relevant.
#[derive(Debug)]
enum MinScoreField {}

impl PartialSchema for MinScoreField {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).maximum(Some(1));
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["auto"]));
        let either = AnyOfBuilder::new().item(number).item(word);
        let description = "A number in [0, 1], or `auto`: cut at the largest gap between the scores of relevant \
                           documents, and return nothing if nothing is relevant.";
        either.description(Some(description)).into()
    }
}

impl ToSchema for MinScoreField {
    fn name() -> std::borrow::Cow<'static, str> {
        "MinScore".into()
    }
}

/// A model's name, from `/v1/models`. A profile's name may follow, after an `@`.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = Model)]
struct ModelName(String);

impl Field for ModelName {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        text(name, value).map(Self)
    }
}

/// How urgent a request is: 0 is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Priority(u16);

impl Field for Priority {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let is_negative = value.as_f64().is_some_and(|number| number < 0.0);
        let shown = value.to_string();
        let count = if is_negative { None } else { u16::try_from(usize::from_value(name, value)?).ok() };
        count.filter(|priority| *priority <= MAX_PRIORITY).map(Self).ok_or_else(|| {
            let problem = format!("is {shown}; it must be between 0, the most urgent, and {MAX_PRIORITY}");
            RerankError::invalid(name, problem)
        })
    }

    fn converted(value: &Value) -> Option<Value> {
        usize::converted(value)
    }
}

/// The name of a stored instruction, from `/v1/instructions`. The model reads it before the
/// request's own instruction.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[schema(as = Profile)]
struct ProfileName(String);

impl Field for ProfileName {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        text(name, value).map(Self)
    }
}

/// How to read the documents: all documents of a slate in one pass (listwise), or one document at a
/// time (pointwise).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = Mode, rename_all = "lowercase")]
enum ModeName {
    Auto,
    Listwise,
    Pointwise,
}

impl Field for ModeName {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match text(name, value)?.as_str() {
            "auto" => Ok(Self::Auto),
            "listwise" => Ok(Self::Listwise),
            "pointwise" => Ok(Self::Pointwise),
            word => Err(none_of(name, word, &["auto", "listwise", "pointwise"])),
        }
    }
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Auto => Self::Auto,
            ModeName::Listwise => Self::Listwise,
            ModeName::Pointwise => Self::Pointwise,
        }
    }
}
