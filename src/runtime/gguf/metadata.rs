//! The metadata of a GGUF file: keys and typed values.

use candle_core::quantized::gguf_file::{Content, Value};

/// Reads metadata by key. The architecture's own keys begin with its name.
pub(super) struct Metadata<'a> {
    content: &'a Content,
    pub architecture: &'a str,
}

impl<'a> Metadata<'a> {
    /// # Errors
    /// A file without an architecture, or one of several parts.
    pub fn new(content: &'a Content) -> Result<Self, String> {
        let architecture = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok());
        let architecture = architecture.ok_or("has no general.architecture")?;
        let metadata = Self { content, architecture };
        match metadata.whole("split.count")? {
            Some(parts) if parts > 1 => Err(format!(
                "is one of {parts} parts of a model; join them with llama.cpp's `llama-gguf-split --merge FIRST OUTPUT`"
            )),
            Some(_) | None => Ok(metadata),
        }
    }

    /// The keys that begin with the architecture's name, without it.
    pub fn own_keys(&self) -> Vec<&'a str> {
        let keys = self.content.metadata.keys();
        let mut keys: Vec<&str> =
            keys.filter_map(|key| key.strip_prefix(self.architecture)?.strip_prefix('.')).collect();
        keys.sort_unstable();
        keys
    }

    /// The name of one of the architecture's own keys.
    pub fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    /// A whole number that is not negative.
    pub fn whole(&self, key: &str) -> Result<Option<u64>, String> {
        self.typed(key, "a whole number", |value| match value {
            Value::I8(number) => u64::try_from(*number).ok(),
            Value::I16(number) => u64::try_from(*number).ok(),
            Value::I32(number) => u64::try_from(*number).ok(),
            Value::I64(number) => u64::try_from(*number).ok(),
            Value::U8(_) | Value::U16(_) | Value::U32(_) | Value::U64(_) => value.to_u64().ok(),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
        })
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a number", |value| value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok())
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "true or false", |value| value.to_bool().ok())
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.typed(key, "a string", |value| value.to_string().ok().map(String::as_str))
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, String> {
        self.list(key, "a list of strings", |value| value.to_string().ok().map(String::as_str))
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        self.list(key, "a list of numbers", |value| value.to_f32().ok())
    }

    pub fn whole_numbers(&self, key: &str) -> Result<Option<Vec<i64>>, String> {
        let read = |value: &Value| value.to_i32().map(i64::from).ok().or_else(|| value.to_u32().map(i64::from).ok());
        self.list(key, "a list of whole numbers", read)
    }

    /// A list of bytes, with or without signs.
    pub fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let read = |value: &Value| value.to_u8().or_else(|_| value.to_i8().map(i8::cast_unsigned)).ok();
        self.list(key, "a list of bytes", read)
    }

    fn list<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let items: Option<Vec<T>> = value.to_vec().ok().and_then(|values| values.iter().map(read).collect());
        items.map(Some).ok_or_else(|| format!("{key} is not {kind}"))
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("{key} is not {kind}"))
    }
}
