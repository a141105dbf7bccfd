//! The weight files that a sharded checkpoint's index names.

use std::collections::{BTreeMap, BTreeSet};

/// Name of the index.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// Name of the weight file of a checkpoint without an index.
pub(super) const SINGLE: &str = "model.safetensors";

/// The files that an index names, each once.
pub(super) fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains(['/', '\\']) || shard.starts_with('.')) {
        Some(shard) => Err(format!("names `{shard}`, which is not a file beside it")),
        None if shards.is_empty() => Err("names no files".to_owned()),
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_each_shard_once_and_none_elsewhere() {
        let index = br#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        assert_eq!(shard_names(index).unwrap().into_iter().collect::<Vec<_>>(), ["m-1.safetensors", "m-2.safetensors"]);
        assert!(shard_names(br#"{"weight_map": {"a": "../secret"}}"#).unwrap_err().contains("`../secret`"));
        assert!(shard_names(br#"{"weight_map": {}}"#).unwrap_err().contains("no files"));
    }
}
