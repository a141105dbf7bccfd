//! How `[limits]` and `[passages]` are read into types that know nothing of files.

use serde::{Deserialize, Serialize};

use crate::rerank::{ChunkMerge, LimitSettings, LongDocuments, PassageSettings};

/// The fields of [`LimitSettings`], for serde.
#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are the keys of the configuration")]
#[serde(remote = "LimitSettings", deny_unknown_fields)]
pub(super) struct LimitSettingsDef {
    max_documents: usize,
    max_passages: usize,
    max_slate_documents: usize,
    max_slate_tokens: usize,
}

/// The fields of [`PassageSettings`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "PassageSettings", deny_unknown_fields)]
pub(super) struct PassageSettingsDef {
    #[serde(with = "LongDocumentsDef")]
    long_documents: LongDocuments,
    chunk_tokens: usize,
    chunk_overlap_tokens: usize,
    max_chunks_per_doc: usize,
    #[serde(with = "ChunkMergeDef")]
    chunk_merge: ChunkMerge,
}

/// The words for [`LongDocuments`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "LongDocuments", rename_all = "lowercase")]
enum LongDocumentsDef {
    Truncate,
    Chunk,
}

/// The words for [`ChunkMerge`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ChunkMerge")]
enum ChunkMergeDef {
    #[serde(rename = "max")]
    Max,
    #[serde(rename = "mean_top_2")]
    MeanTop2,
    #[serde(rename = "first")]
    First,
}
