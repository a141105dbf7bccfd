//! A field that is an object with fields of its own.

use serde_json::Value;

use super::{Field, Fields, Reader, expected};
use crate::rerank::RerankError;

/// An object in a field, read as `T`, whose schema the field names (`#[schema(value_type = T)]`).
///
/// The fields in it that `T` does not read stay with it, until [`Part::take`] gives them to the
/// body.
#[derive(Debug)]
pub struct Part<T> {
    name: String,
    read: T,
    rest: Fields,
}

impl<T: Reader> Field for Part<T> {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        let Value::Object(values) = value else { return Err(expected(name, "an object", &value)) };
        let mut rest = Fields { values, ..Fields::default() };
        let read = T::read(&mut rest).map_err(|error| error.inside(name))?;
        Ok(Self { name: name.to_owned(), read, rest })
    }
}

impl<T> Part<T> {
    /// The part's value. Its warnings and its unread fields become the body's, with their path.
    pub fn take(self, body: &mut Fields) -> T {
        let Self { name, read, rest } = self;
        let path = |field: &str| format!("{name}.{field}");
        body.values.extend(rest.values.iter().map(|(field, value)| (path(field), value.clone())));
        body.warnings.extend(rest.warnings.iter().map(|warning| path(warning)));
        body.known_in_parts.extend(rest.known.iter().map(|field| path(field)));
        body.second_names.extend(rest.second_names.into_iter().map(|(field, sent)| (field, path(&sent))));
        read
    }
}
