//! The fields that choose the layers after which documents are scored.

use serde_json::Value;
use utoipa::openapi::schema::{AdditionalProperties, AnyOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::http::fields::{Field, Flag, expected, none_of};
use crate::rerank::{EarlyExitChoice, RerankError};

/// The fields of an `early_exit`.
const FIELDS: [&str; 2] = ["layer", "keep"];

/// Whether documents leave early: true or false, or the layer and how many go on.
#[derive(Debug)]
pub(super) struct EarlyExitField(pub(super) EarlyExitChoice);

impl Field for EarlyExitField {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let fields = match value {
            Value::Object(fields) => fields,
            Value::Bool(_) | Value::String(_) => {
                let Flag(is_on) = Flag::from_value(name, value)?;
                return Ok(Self(if is_on { EarlyExitChoice::On } else { EarlyExitChoice::Off }));
            }
            Value::Null | Value::Number(_) | Value::Array(_) => {
                return Err(expected(name, "true, false or an object of layer and keep", &value));
            }
        };
        let (mut layer, mut keep) = (None, None);
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            let path = format!("{name}.{field}");
            match field.as_str() {
                "layer" => layer = Some(LayerField::from_value(&path, value)?),
                "keep" => keep = Some(keep_of(&path, value)?),
                _ => return Err(none_of(name, &field, &FIELDS)),
            }
        }
        let missing = |field: &str| RerankError::invalid(format!("{name}.{field}"), "is missing");
        let LayerField(layer) = layer.ok_or_else(|| missing("layer"))?;
        Ok(Self(EarlyExitChoice::After { layer, keep: keep.ok_or_else(|| missing("keep"))? }))
    }

    fn converted(value: &Value) -> Option<Value> {
        Flag::converted(value)
    }
}

/// How many documents go on.
fn keep_of(name: &str, value: Value) -> Result<usize, RerankError> {
    match usize::from_value(name, value)? {
        0 => Err(RerankError::invalid(name, "is 0; at least one document goes on")),
        keep => Ok(keep),
    }
}

impl PartialSchema for EarlyExitField {
    fn schema() -> RefOr<Schema> {
        let count = || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let choice = ObjectBuilder::new()
            .property(
                "layer",
                count().maximum(Some(u16::MAX)).description(Some("After how many layers documents leave.")),
            )
            .property("keep", count().description(Some("How many documents of a pass go on.")))
            .required("layer")
            .required("keep")
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let description = "Whether documents leave the model early where the family declares it; or, for a \
                           layer-wise checkpoint, after which layer, and how many go on.";
        AnyOfBuilder::new().item(Flag::schema()).item(choice).description(Some(description)).into()
    }
}

impl ToSchema for EarlyExitField {
    fn name() -> std::borrow::Cow<'static, str> {
        "EarlyExit".into()
    }
}

/// The number of a layer, counted from 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerField(pub(super) u16);

impl Field for LayerField {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let layer = usize::from_value(name, value)?;
        let read = u16::try_from(layer).ok().filter(|layer| *layer > 0).map(Self);
        read.ok_or_else(|| RerankError::invalid(name, format!("is {layer}; layers count from 1 to {}", u16::MAX)))
    }

    fn converted(value: &Value) -> Option<Value> {
        usize::converted(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_exit_is_a_flag_or_a_layer_and_how_many_go_on() {
        let read = |value: Value| EarlyExitField::from_value("early_exit", value).map(|EarlyExitField(choice)| choice);
        assert_eq!(read(json!(true)).unwrap(), EarlyExitChoice::On);
        assert_eq!(read(json!("false")).unwrap(), EarlyExitChoice::Off);
        let after = EarlyExitChoice::After { layer: 12, keep: 10 };
        assert_eq!(read(json!({"layer": 12, "keep": 10})).unwrap(), after);
        for (value, message) in [
            (json!([1]), "early_exit: expected true, false or an object of layer and keep, found an array of 1 item"),
            (json!("soon"), "early_exit: expected true or false, found the string \"soon\""),
            (json!({"layer": 12}), "early_exit.keep: is missing"),
            (json!({"layer": null, "keep": 2}), "early_exit.layer: is missing"),
            (json!({"layer": 0, "keep": 2}), "early_exit.layer: is 0; layers count from 1 to 65535"),
            (json!({"layer": 70_000, "keep": 2}), "early_exit.layer: is 70000; layers count from 1 to 65535"),
            (json!({"layer": 3, "keep": 0}), "early_exit.keep: is 0; at least one document goes on"),
            (json!({"layers": 3}), "early_exit: \"layers\" is none of layer, keep"),
        ] {
            assert_eq!(read(value).unwrap_err().to_string(), message);
        }
    }
}
