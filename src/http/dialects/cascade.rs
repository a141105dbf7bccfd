//! The fields for cascades: what stages keep, when they are skipped, and the caller's own scores.

use serde_json::{Number, Value};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::http::fields::{Field, expected, list, none_of};
use crate::rerank::{CascadeOptions, Keep, RerankError};

/// The fields of a `cascade`.
const FIELDS: [&str; 2] = ["keep", "stop_when_sure"];

/// The options of a request for the stages.
#[derive(Debug, Default)]
pub(super) struct CascadeFields(CascadeOptions);

impl CascadeFields {
    /// The options, with the caller's scores.
    pub(super) fn into_options(self, scores: Option<Scores>) -> CascadeOptions {
        CascadeOptions { scores: scores.map(|Scores(scores)| scores), ..self.0 }
    }
}

impl Field for CascadeFields {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let Value::Object(fields) = value else { return Err(expected(name, "an object", &value)) };
        let mut options = CascadeOptions::default();
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{name}.{field}");
            match field.as_str() {
                "keep" => options.keep = Some(keeps(&path, value)?),
                "stop_when_sure" => options.stop_when_sure = Some(probability(&path, &value)?),
                _ => return Err(none_of(name, &field, &FIELDS)),
            }
        }
        Ok(Self(options))
    }
}

fn keeps(name: &str, value: Value) -> Result<Vec<Keep>, RerankError> {
    let keep = |(index, value): (usize, Value)| {
        let problem = || {
            let problem =
                format!("is {value}; give a whole number of at least 1, or a share such as 0.25, at most 1.0");
            RerankError::invalid(format!("{name}[{index}]"), problem)
        };
        let Value::Number(number) = &value else { return Err(problem()) };
        keep_of(number).ok_or_else(problem)
    };
    list(name, value)?.into_iter().enumerate().map(keep).collect()
}

fn keep_of(number: &Number) -> Option<Keep> {
    if let Some(count) = number.as_u64() {
        return usize::try_from(count).ok().filter(|count| *count > 0).map(Keep::Count);
    }
    let share = number.as_f64().filter(|share| *share > 0.0 && *share <= 1.0);
    share.map(Keep::Share)
}

fn probability(name: &str, value: &Value) -> Result<f64, RerankError> {
    let found = value.as_f64().filter(|probability| (0.0..=1.0).contains(probability));
    found.ok_or_else(|| RerankError::invalid(name, format!("is {value}; it must be between 0 and 1")))
}

impl PartialSchema for CascadeFields {
    fn schema() -> RefOr<Schema> {
        let number = || ObjectBuilder::new().schema_type(Type::Number);
        let keep = ArrayBuilder::new().items(number().exclusive_minimum(Some(0.0))).description(Some(
            "The documents that each stage but the last passes on: a whole number, or a share of all documents (0.25; \
             1.0 is all). One entry more, at the start, is for the caller's own scores.",
        ));
        let sure = number().minimum(Some(0.0)).maximum(Some(1.0)).description(Some(
            "Later stages are skipped if the order of the top_n is right with this probability; 0 skips none.",
        ));
        ObjectBuilder::new()
            .description(Some("Options of this request for the stages of a cascade."))
            .property("keep", keep)
            .property("stop_when_sure", sure)
            .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(false)))
            .into()
    }
}

impl ToSchema for CascadeFields {
    fn name() -> std::borrow::Cow<'static, str> {
        "Cascade".into()
    }
}

/// The caller's own scores, one for each document: the larger, the better.
#[derive(Debug)]
pub(super) struct Scores(Vec<f64>);

impl Field for Scores {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let items = list(name, value)?.into_iter().enumerate();
        let number = |(index, value): (usize, Value)| {
            value.as_f64().ok_or_else(|| expected(&format!("{name}[{index}]"), "a number", &value))
        };
        items.map(number).collect::<Result<_, _>>().map(Self)
    }
}

impl PartialSchema for Scores {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .description(Some(
                "The caller's own first-stage scores, one for each document: the larger, the better. They are stage 0 of \
                 the cascade.",
            ))
            .items(ObjectBuilder::new().schema_type(Type::Number))
            .into()
    }
}

impl ToSchema for Scores {
    fn name() -> std::borrow::Cow<'static, str> {
        "Scores".into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_and_shares_are_told_apart() {
        let CascadeFields(options) =
            CascadeFields::from_value("cascade", json!({"keep": [32, 0.5, 1.0, 1], "stop_when_sure": 0.95})).unwrap();
        let keep = [Keep::Count(32), Keep::Share(0.5), Keep::Share(1.0), Keep::Count(1)];
        assert_eq!((options.keep.as_deref(), options.stop_when_sure), (Some(&keep[..]), Some(0.95)));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_path() {
        let wrong = "give a whole number of at least 1, or a share such as 0.25, at most 1.0";
        for (value, message) in [
            (json!(3), "cascade: expected an object, found the number 3".to_owned()),
            (json!({"keep": [5, 0]}), format!("cascade.keep[1]: is 0; {wrong}")),
            (json!({"keep": [1.5]}), format!("cascade.keep[0]: is 1.5; {wrong}")),
            (json!({"keep": [-1]}), format!("cascade.keep[0]: is -1; {wrong}")),
            (json!({"keep": ["all"]}), format!("cascade.keep[0]: is \"all\"; {wrong}")),
            (json!({"stop_when_sure": 95}), "cascade.stop_when_sure: is 95; it must be between 0 and 1".to_owned()),
            (json!({"kep": [1]}), "cascade: \"kep\" is none of keep, stop_when_sure".to_owned()),
        ] {
            assert_eq!(CascadeFields::from_value("cascade", value).unwrap_err().to_string(), message);
        }
        let message = Scores::from_value("scores", json!([1, "a"])).unwrap_err().to_string();
        assert_eq!(message, "scores[1]: expected a number, found the string \"a\"");
    }
}
