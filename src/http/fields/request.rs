//! How a type is read from a field, and [`request!`].

use serde_json::{Number, Value};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::malformed::holds_list;
use super::{Fields, expected, text};
use crate::rerank::RerankError;

/// A type that can be read from one field.
pub trait Field: Sized {
    /// Reads the value of the field `name`.
    ///
    /// # Errors
    /// The value has the wrong type, or is out of range.
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError>;

    /// The value that is meant by one of another type, as servers that convert types read it.
    #[must_use]
    fn converted(_value: &Value) -> Option<Value> {
        None
    }

    /// The value of a field that is absent.
    ///
    /// # Errors
    /// The field is required: every type except `Option` is.
    fn if_absent(name: &str) -> Result<Self, RerankError> {
        Err(RerankError::invalid(name, "this field is required"))
    }
}

impl<T: Field> Field for Option<T> {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        T::from_value(name, value).map(Some)
    }

    fn converted(value: &Value) -> Option<Value> {
        T::converted(value)
    }

    fn if_absent(_: &str) -> Result<Self, RerankError> {
        Ok(None)
    }
}

impl Field for String {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        text(name, value)
    }
}

/// A list of texts.
impl Field for Vec<String> {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let items = list(name, value)?;
        items.into_iter().enumerate().map(|(index, item)| text(&format!("{name}[{index}]"), item)).collect()
    }

    /// One text is a list of one, unless it is a list that was encoded twice.
    fn converted(value: &Value) -> Option<Value> {
        let text = value.as_str().filter(|text| !holds_list(text))?;
        Some(Value::Array(vec![Value::from(text)]))
    }
}

/// A count: a whole number, 0 or more, also written as `3.0`. A number that is too large for
/// `usize` is read as the largest.
impl Field for usize {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match value {
            Value::Number(number) => count(name, &number),
            other @ (Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                Err(expected(name, "a whole number", &other))
            }
        }
    }

    /// A number in a string.
    fn converted(value: &Value) -> Option<Value> {
        let number: Number = serde_json::from_str(value.as_str()?.trim()).ok()?;
        Some(Value::Number(number))
    }
}

/// Strings that are read as true or false, in the API description.
pub const FLAG_WORDS: [&str; 8] = ["true", "false", "1", "0", "yes", "no", "on", "off"];

/// True or false, also as the string or number that some clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Field for Flag {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match value {
            Value::Bool(flag) => Ok(Self(flag)),
            Value::String(word) if word.eq_ignore_ascii_case("true") => Ok(Self(true)),
            Value::String(word) if word.eq_ignore_ascii_case("false") => Ok(Self(false)),
            other @ (Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                Err(expected(name, "true or false", &other))
            }
        }
    }

    /// 0 and 1, and the words that pydantic reads so.
    fn converted(value: &Value) -> Option<Value> {
        let word = match value {
            Value::Number(number) => number.to_string(),
            Value::String(word) => word.trim().to_lowercase(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        };
        match word.as_str() {
            "1" | "1.0" | "yes" | "y" | "on" | "t" => Some(Value::Bool(true)),
            "0" | "0.0" | "no" | "n" | "off" | "f" => Some(Value::Bool(false)),
            _ => None,
        }
    }
}

impl PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(FLAG_WORDS));
        let number = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([0, 1]));
        let flag = AnyOfBuilder::new().item(ObjectBuilder::new().schema_type(Type::Boolean)).item(word).item(number);
        flag.description(Some("True or false, also as a string, or as 1 or 0.")).into()
    }
}

impl ToSchema for Flag {}

/// The value of a flag that may be absent.
#[must_use]
pub fn flag_or(flag: Option<Flag>, default: bool) -> bool {
    flag.map_or(default, |Flag(flag)| flag)
}

/// The items of an array.
///
/// # Errors
/// Any other type.
pub fn list(name: &str, value: Value) -> Result<Vec<Value>, RerankError> {
    match value {
        Value::Array(items) => Ok(items),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            Err(expected(name, "an array", &other))
        }
    }
}

fn count(name: &str, number: &Number) -> Result<usize, RerankError> {
    if let Some(count) = number.as_u64() {
        return Ok(usize::try_from(count).unwrap_or(usize::MAX));
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    if value < 0.0 {
        return Err(RerankError::invalid(name, format!("{number} is negative; the least value is 1")));
    }
    if value.fract() != 0.0 {
        return Err(RerankError::invalid(name, format!("{number} is not a whole number")));
    }
    // The cast saturates.
    Ok(value as usize)
}

/// A type that is read from several fields of a body. [`request!`] implements it.
pub trait Reader: Sized {
    /// Takes and reads the fields.
    ///
    /// # Errors
    /// The first field that is missing, or that has the wrong type.
    fn read(fields: &mut Fields) -> Result<Self, RerankError>;

    /// Fields with a second name: the name that the schema describes, and the other one.
    #[must_use]
    fn aliases() -> Vec<(&'static str, &'static str)>;
}

/// Defines the request of an API once: as a struct, as a [`Reader`] and as a schema of the
/// description (`utoipa::ToSchema`), so that none of them can have a field that the others lack.
///
/// It is written as a struct, with two additions: `name | alias: Type` reads a field that has two
/// names, and `..part: Type`, at the end, takes in the fields of another [`Reader`].
macro_rules! request {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_visibility:vis $field:ident $(| $alias:ident)* : $type:ty, )*
            $( .. $part:ident : $part_type:ty, )*
        }
    ) => {
        #[derive(Debug, utoipa::ToSchema)]
        $(#[$meta])*
        $visibility struct $name {
            $( $(#[$field_meta])* $field_visibility $field: $type, )*
            $( #[serde(flatten)] $part: $part_type, )*
        }

        impl $crate::http::fields::Reader for $name {
            fn read(fields: &mut $crate::http::fields::Fields) -> Result<Self, $crate::rerank::RerankError> {
                Ok(Self {
                    $( $field: fields.read(&[stringify!($field) $(, stringify!($alias))*])?, )*
                    $( $part: $crate::http::fields::Reader::read(fields)?, )*
                })
            }

            fn aliases() -> Vec<(&'static str, &'static str)> {
                let own = [$( $( (stringify!($field), stringify!($alias)), )* )*];
                let of_parts: Vec<Vec<(&str, &str)>> =
                    vec![$( <$part_type as $crate::http::fields::Reader>::aliases(), )*];
                own.into_iter().chain(of_parts.into_iter().flatten()).collect()
            }
        }
    };
}

pub(crate) use request;
