//! Fields about long documents, which every dialect takes, and the passage in a reply.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::request;
use crate::http::fields::{Field, none_of, text};
use crate::rerank::{BestPassage, ChunkMerge, LongDocuments, PassageOptions, RankedDocument, RerankError};

request! {
    /// How documents over the limit are read.
    #[derive(Default)]
    pub(super) struct PassageFields {
        long_documents | long_document_strategy: Option<LongDocumentsField>,
        /// The most tokens of a passage; the family's limit of a document if absent.
        #[schema(minimum = 1)]
        chunk_tokens: Option<usize>,
        /// The most tokens that a passage repeats of the one before it, in whole sentences or
        /// words; at most half of a passage.
        #[schema(minimum = 0)]
        chunk_overlap_tokens | overlap_tokens: Option<usize>,
        /// The most passages of a document. The text behind them is not read, and a warning says
        /// so.
        #[schema(minimum = 0)]
        max_chunks_per_doc: Option<usize>,
        chunk_merge: Option<ChunkMergeField>,
    }
}

impl From<PassageFields> for PassageOptions {
    fn from(fields: PassageFields) -> Self {
        Self {
            long_documents: fields.long_documents.map(|field| match field {
                LongDocumentsField::Truncate => LongDocuments::Truncate,
                LongDocumentsField::Chunk => LongDocuments::Chunk,
            }),
            chunk_tokens: fields.chunk_tokens,
            chunk_overlap_tokens: fields.chunk_overlap_tokens,
            max_chunks_per_doc: fields.max_chunks_per_doc,
            chunk_merge: fields.chunk_merge.map(|field| match field {
                ChunkMergeField::Max => ChunkMerge::Max,
                ChunkMergeField::MeanTop2 => ChunkMerge::MeanTop2,
                ChunkMergeField::First => ChunkMerge::First,
            }),
        }
    }
}

/// How a document over the limit is read: `truncate` cuts its end off; `chunk` splits it into
/// passages at the ends of paragraphs, sentences or words, and ranks these. Any other field about
/// chunks asks for `chunk` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = LongDocuments, rename_all = "lowercase")]
enum LongDocumentsField {
    Truncate,
    Chunk,
}

impl Field for LongDocumentsField {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match text(name, value)?.as_str() {
            "truncate" => Ok(Self::Truncate),
            "chunk" => Ok(Self::Chunk),
            word => Err(none_of(name, word, &["truncate", "chunk"])),
        }
    }
}

/// The score of a document that was split: `max` is its best passage's, `mean_top_2` the mean of
/// its two best passages', `first` its first passage's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = ChunkMerge, rename_all = "snake_case")]
enum ChunkMergeField {
    Max,
    #[schema(rename = "mean_top_2")]
    MeanTop2,
    First,
}

impl Field for ChunkMergeField {
    fn from_value(name: &str, value: Value) -> Result<Self, RerankError> {
        match text(name, value)?.as_str() {
            "max" => Ok(Self::Max),
            "mean_top_2" => Ok(Self::MeanTop2),
            "first" => Ok(Self::First),
            word => Err(none_of(name, word, &["max", "mean_top_2", "first"])),
        }
    }
}

/// The passage that a document's score comes from; only if the documents were split.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = Passage)]
pub(super) struct PassageReply {
    /// Where it starts, in characters (Unicode code points) of the text that was ranked.
    start: usize,
    /// Where it ends, not included.
    end: usize,
    /// Its own relevance in [0, 1].
    #[schema(minimum = 0, maximum = 1)]
    relevance_score: f32,
    /// The passages of the document that were read.
    count: usize,
}

impl PassageReply {
    /// The passage of a result, if there is one.
    pub(super) fn of(row: &RankedDocument) -> Option<Self> {
        let BestPassage { start, end, relevance_score, count } = row.passage?;
        Some(Self { start, end, relevance_score, count })
    }
}
