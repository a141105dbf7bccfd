//! The schemas of the API description, collected from the Rust types (`utoipa::ToSchema`).

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::openapi::{Ref, RefOr, Schema};

use super::fields::Reader;

/// The `object` of a reply that is a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListObject {
    List,
}

/// The `object` of a reply that is a model.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelObject {
    Model,
}

/// The schema of a model's state.
pub fn model_state() -> Object {
    let states = ["loaded", "loading", "unloading", "unloaded", "failed"];
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(states)).build()
}

/// The schema of a request or reply.
#[derive(Debug, Clone, Copy)]
pub struct SchemaOf {
    add: fn(&mut Schemas) -> String,
    schema: fn() -> RefOr<Schema>,
}

impl SchemaOf {
    /// The schema of a request.
    pub const fn request<T: Reader + ToSchema>() -> Self {
        Self { add: Schemas::add_request::<T>, schema: T::schema }
    }

    /// The schema of a reply.
    pub const fn reply<T: ToSchema>() -> Self {
        Self { add: Schemas::add_type::<T>, schema: T::schema }
    }

    /// Adds the schema, with those that it refers to, and returns its name.
    pub fn add_to(self, schemas: &mut Schemas) -> String {
        (self.add)(schemas)
    }

    /// The schema's example, if it has one.
    pub fn example(self) -> Option<Value> {
        json!((self.schema)()).get("example").cloned()
    }
}

/// Schemas by name.
#[derive(Default)]
pub struct Schemas {
    /// Names and schemas, in the order they were added; a name may be there twice.
    added: Vec<(String, RefOr<Schema>)>,
    /// The names that operations refer to.
    roots: BTreeSet<String>,
    /// For a request's name, the fields that have a second name.
    aliases: Vec<(String, Vec<(&'static str, &'static str)>)>,
}

impl Schemas {
    /// Adds the schema of a type, with those that it refers to, and returns a reference to it.
    pub fn add<T: ToSchema>(&mut self) -> Ref {
        Ref::from_schema_name(self.add_type::<T>())
    }

    fn add_type<T: ToSchema>(&mut self) -> String {
        let name = T::name().into_owned();
        self.roots.insert(name.clone());
        self.added.push((name.clone(), T::schema()));
        T::schemas(&mut self.added);
        name
    }

    fn add_request<T: Reader + ToSchema>(&mut self) -> String {
        let name = self.add_type::<T>();
        self.aliases.push((name.clone(), T::aliases()));
        name
    }

    /// The schemas as JSON, by name. Each is complete: fields of another type that a type takes in
    /// (`#[serde(flatten)]`) are among its own, and a field with two names has two properties.
    /// Types that are only taken in are left out.
    pub fn into_json(self) -> Map<String, Value> {
        let mut schemas = Map::new();
        for (name, schema) in self.added {
            schemas.entry(name).or_insert_with(|| json!(schema));
        }
        let mut complete: Map<String, Value> =
            schemas.iter().map(|(name, schema)| (name.clone(), merged(schema, &schemas))).collect();
        for (name, aliases) in &self.aliases {
            let Some(properties) = complete[name]["properties"].as_object_mut() else { continue };
            for (field, alias) in aliases {
                let Some(mut property) = properties.get(*field).cloned() else { continue };
                property["description"] = json!(format!("The same as `{field}`."));
                properties.insert((*alias).to_owned(), property);
            }
        }
        let requests = self.aliases.iter().map(|(name, _)| name.clone()).collect();
        for name in reachable(&complete, requests) {
            let properties = complete.get_mut(&name).and_then(|schema| schema.get_mut("properties"));
            if let Some(Value::Object(properties)) = properties {
                properties.values_mut().for_each(also_as_string);
            }
        }
        let references = json!(complete).to_string();
        let is_used = |name: &String| references.contains(&format!("schemas/{name}\""));
        complete.retain(|name, _| self.roots.contains(name) || is_used(name));
        complete
    }
}

/// The names of these schemas and of all that they refer to, each once.
fn reachable(all: &Map<String, Value>, mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    let mut next = 0;
    while let Some(name) = names.get(next) {
        let text = all.get(name).map(Value::to_string).unwrap_or_default();
        let is_new = |other: &&String| text.contains(&format!("schemas/{other}\"")) && !names.contains(other);
        let new: Vec<String> = all.keys().filter(is_new).cloned().collect();
        names.extend(new);
        next += 1;
    }
    names
}

/// Describes that a number may be sent as a string, and a list of one text as that text.
fn also_as_string(property: &mut Value) {
    let types: Vec<String> = match &property["type"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return,
    };
    let has = |name: &str| types.iter().any(|found| found == name);
    let is_list_of_texts = has("array") && property["items"]["type"] == "string";
    if has("integer") {
        property["pattern"] = json!("^[1-9][0-9]{0,2}$");
    }
    if has("integer") || is_list_of_texts {
        property["type"] = json!(types.into_iter().chain(["string".to_owned()]).collect::<Vec<_>>());
    }
}

/// A schema with `allOf` replaced by the properties of its parts: its own first, then those that it
/// takes in.
fn merged(schema: &Value, all: &Map<String, Value>) -> Value {
    let Some(parts) = schema["allOf"].as_array() else { return schema.clone() };
    let mut whole = json!({"type": "object", "required": [], "properties": {}});
    for part in parts.iter().rev() {
        let name = part["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let part = merged(name.and_then(|name| all.get(name)).unwrap_or(part), all);
        for (keyword, value) in part.as_object().into_iter().flatten() {
            match (keyword.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    whole["properties"].as_object_mut().into_iter().for_each(|all| all.extend(properties.clone()));
                }
                ("required", Value::Array(names)) => {
                    whole["required"].as_array_mut().into_iter().for_each(|all| all.extend(names.clone()));
                }
                ("not", _) => whole["not"] = value.clone(),
                // A part's description does not describe the whole.
                _ => {}
            }
        }
    }
    for (keyword, value) in schema.as_object().into_iter().flatten().filter(|(keyword, _)| *keyword != "allOf") {
        whole[keyword] = value.clone();
    }
    whole
}
