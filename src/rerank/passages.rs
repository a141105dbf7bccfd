//! Long documents as passages: how a request wants them split, and how the scores of passages
//! become those of documents.
//!
//! Passages are numbered over the whole request: the first passages of all documents, then the
//! second ones, and so on. A budget that allows only some of them so reads the beginning of every
//! document first.

use std::cmp::Ordering;

use super::{RankedDocument, RerankError};

/// How a document over the limit is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongDocuments {
    /// Its end is cut off.
    #[default]
    Truncate,
    /// It is split into passages, which are ranked in its place.
    Chunk,
}

/// How the scores of a document's passages become its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChunkMerge {
    /// The best passage's score.
    #[default]
    Max,
    /// The mean of the two best passages' scores.
    MeanTop2,
    /// The first passage's score. No other passage is read.
    First,
}

/// How long documents are read unless a request says otherwise (`[passages]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PassageSettings {
    /// How a document over the limit is read.
    pub long_documents: LongDocuments,
    /// The most tokens of a passage; 0 is the family's limit of a document.
    pub chunk_tokens: usize,
    /// The most tokens that a passage repeats of the one before it.
    pub chunk_overlap_tokens: usize,
    /// The most passages of a document; 0 is no limit of its own.
    pub max_chunks_per_doc: usize,
    /// How the scores of a document's passages become its own.
    pub chunk_merge: ChunkMerge,
}

/// A request's options for long documents; `None` is the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PassageOptions {
    /// How a document over the limit is read. Where this is `None`, any other option asks for
    /// [`LongDocuments::Chunk`].
    pub long_documents: Option<LongDocuments>,
    /// The most tokens of a passage.
    pub chunk_tokens: Option<usize>,
    /// The most tokens that a passage repeats of the one before it.
    pub chunk_overlap_tokens: Option<usize>,
    /// The most passages of a document.
    pub max_chunks_per_doc: Option<usize>,
    /// How the scores of a document's passages become its own.
    pub chunk_merge: Option<ChunkMerge>,
}

/// How the documents of one request are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// The most tokens of a passage; `None` is the family's limit of a document.
    pub tokens: Option<usize>,
    /// The most tokens that a passage repeats of the one before it.
    pub overlap: usize,
    /// The most passages of a document.
    pub max_passages: usize,
    /// How the scores of a document's passages become its own.
    pub merge: ChunkMerge,
}

impl PassageOptions {
    /// How the documents are split; `None` where they are truncated.
    ///
    /// # Errors
    /// An option about passages beside `long_documents: "truncate"`; a 0; an overlap over half of
    /// `chunk_tokens`.
    pub fn resolve(&self, settings: &PassageSettings) -> Result<Option<Chunking>, RerankError> {
        let given = [
            ("chunk_tokens", self.chunk_tokens),
            ("chunk_overlap_tokens", self.chunk_overlap_tokens),
            ("max_chunks_per_doc", self.max_chunks_per_doc),
        ];
        let named = given.iter().find(|(_, value)| value.is_some()).map(|(name, _)| *name);
        let named = named.or(self.chunk_merge.map(|_| "chunk_merge"));
        let mode = match (self.long_documents, named) {
            (Some(LongDocuments::Truncate), Some(field)) => {
                let problem = "has no effect with long_documents \"truncate\"; leave one of them out";
                return Err(RerankError::invalid(field, problem));
            }
            (Some(mode), _) => mode,
            (None, Some(_)) => LongDocuments::Chunk,
            (None, None) => settings.long_documents,
        };
        if mode == LongDocuments::Truncate {
            return Ok(None);
        }
        for (field, value) in given {
            if value == Some(0) && field != "chunk_overlap_tokens" {
                return Err(RerankError::invalid(field, "is 0; it must be at least 1"));
            }
        }
        let not_zero = |number: usize| Some(number).filter(|number| *number > 0);
        let merge = self.chunk_merge.unwrap_or(settings.chunk_merge);
        let max_passages = self.max_chunks_per_doc.or(not_zero(settings.max_chunks_per_doc)).unwrap_or(usize::MAX);
        let chunking = Chunking {
            tokens: self.chunk_tokens.or(not_zero(settings.chunk_tokens)),
            overlap: self.chunk_overlap_tokens.unwrap_or(settings.chunk_overlap_tokens),
            max_passages: if merge == ChunkMerge::First { 1 } else { max_passages },
            merge,
        };
        chunking.tokens.map_or(Ok(()), |tokens| chunking.check_overlap(tokens))?;
        Ok(Some(chunking))
    }
}

impl Chunking {
    /// Refuses an overlap over half of a passage of `tokens` tokens: a document would have far more
    /// passages than it needs.
    ///
    /// # Errors
    /// [`RerankError::InvalidField`] with both numbers.
    pub fn check_overlap(&self, tokens: usize) -> Result<(), RerankError> {
        if self.overlap <= tokens / 2 {
            return Ok(());
        }
        let problem =
            format!("is {}; it must be at most {}, half of a passage of {tokens} tokens", self.overlap, tokens / 2);
        Err(RerankError::invalid("chunk_overlap_tokens", problem))
    }
}

/// A part of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// The document's index in the request.
    pub document: usize,
    /// Where it starts, in characters (Unicode code points) of the document.
    pub start: usize,
    /// Where it ends, not included, in characters of the document.
    pub end: usize,
    /// Tokens that it repeats of the passage before it.
    pub overlap: usize,
}

/// A document that was split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SplitDocument {
    /// Tokens of the whole document.
    pub tokens: usize,
    /// Its passages.
    pub passages: usize,
    /// Tokens behind its last passage: they are not read.
    pub tokens_left: usize,
    /// Whether `tokens_left` is an estimate.
    pub is_estimate: bool,
}

/// The passages of a request's documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passages {
    /// All passages: the first ones of all documents, then the second ones, and so on.
    pub list: Vec<Passage>,
    /// The documents, in the request's order.
    pub documents: Vec<SplitDocument>,
    /// How scores are merged.
    pub merge: ChunkMerge,
}

/// The passage that a document's score comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BestPassage {
    /// Where it starts, in characters (Unicode code points) of the document.
    pub start: usize,
    /// Where it ends, not included.
    pub end: usize,
    /// Its own relevance, in `[0, 1]`.
    pub relevance_score: f32,
    /// Passages of the document that were read.
    pub count: usize,
}

impl Passages {
    /// Turns ranked passages, in any order, into ranked documents, best first. The `index` of each
    /// is that of its passage. A document without a ranked passage is left out.
    #[must_use]
    pub fn merge(&self, ranked: &[RankedDocument]) -> Vec<RankedDocument> {
        let mut by_document: Vec<Vec<&RankedDocument>> = vec![Vec::new(); self.documents.len()];
        for passage in ranked {
            by_document[self.list[passage.index].document].push(passage);
        }
        let merged = by_document.iter_mut().enumerate().filter(|(_, passages)| !passages.is_empty());
        let mut results: Vec<RankedDocument> =
            merged.map(|(document, passages)| self.merge_document(document, passages)).collect();
        sort_by_relevance(&mut results);
        results
    }

    fn merge_document(&self, document: usize, passages: &mut [&RankedDocument]) -> RankedDocument {
        // The earlier of two passages with the same score comes first.
        passages.sort_by_key(|passage| passage.index);
        if self.merge != ChunkMerge::First {
            passages.sort_by(|a, b| by_relevance(a, b));
        }
        let best = passages[0];
        let used = if self.merge == ChunkMerge::MeanTop2 { passages.len().min(2) } else { 1 };
        let mean = |score: fn(&RankedDocument) -> f32| {
            passages[..used].iter().map(|passage| score(passage)).sum::<f32>() / used as f32
        };
        let tokens_read =
            passages.iter().map(|passage| passage.tokens_read.saturating_sub(self.list[passage.index].overlap));
        let Passage { start, end, .. } = self.list[best.index];
        let tokens = self.documents[document].tokens;
        RankedDocument {
            index: document,
            relevance_score: mean(|passage| passage.relevance_score),
            raw_score: mean(|passage| passage.raw_score),
            tokens,
            tokens_read: tokens_read.sum::<usize>().min(tokens),
            passage: Some(BestPassage { start, end, relevance_score: best.relevance_score, count: passages.len() }),
            stage: None,
            exit_layer: best.exit_layer,
            spread: None,
        }
    }
}

/// Sorts ranked documents, best first; equal scores keep their order.
pub fn sort_by_relevance(results: &mut [RankedDocument]) {
    results.sort_by(by_relevance);
}

/// The better of two comes first; one that left early comes behind one that went through more
/// layers. Scores are finite; if relevances round to the same number, the raw scores still differ.
fn by_relevance(a: &RankedDocument, b: &RankedDocument) -> Ordering {
    let key =
        |result: &RankedDocument| (result.exit_layer.unwrap_or(u16::MAX), result.relevance_score, result.raw_score);
    key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(index: usize, relevance_score: f32) -> RankedDocument {
        RankedDocument {
            index,
            relevance_score,
            raw_score: 10.0 * relevance_score,
            tokens: 10,
            tokens_read: 10,
            passage: None,
            stage: None,
            exit_layer: None,
            spread: None,
        }
    }

    /// Two documents: the first of three passages, which repeat two tokens each, the second of one.
    fn passages(merge: ChunkMerge) -> Passages {
        let of = |document, start, overlap| Passage { document, start, end: start + 40, overlap };
        Passages {
            list: vec![of(0, 0, 0), of(1, 0, 0), of(0, 30, 2), of(0, 60, 2)],
            documents: vec![
                SplitDocument { tokens: 26, passages: 3, ..SplitDocument::default() },
                SplitDocument { tokens: 10, passages: 1, ..SplitDocument::default() },
            ],
            merge,
        }
    }

    fn merged(merge: ChunkMerge) -> Vec<RankedDocument> {
        passages(merge).merge(&[passage(3, 0.9), passage(1, 0.6), passage(2, 0.5), passage(0, 0.2)])
    }

    #[test]
    fn the_best_passage_counts() {
        let ranked = merged(ChunkMerge::Max);
        assert_eq!(ranked.iter().map(|row| row.index).collect::<Vec<_>>(), [0, 1]);
        assert!((ranked[0].relevance_score - 0.9).abs() < 1e-6 && (ranked[0].raw_score - 9.0).abs() < 1e-6);
        assert_eq!(ranked[0].passage, Some(BestPassage { start: 60, end: 100, relevance_score: 0.9, count: 3 }));
        assert_eq!((ranked[0].tokens, ranked[0].tokens_read), (26, 26), "repeated tokens count once");
    }

    #[test]
    fn the_mean_of_two_and_the_first_are_other_scores_of_the_same_passages() {
        let mean = merged(ChunkMerge::MeanTop2);
        assert!((mean[0].relevance_score - 0.7).abs() < 1e-6);
        assert_eq!(mean[0].passage.unwrap().start, 60, "the better of the two is shown");
        let first = merged(ChunkMerge::First);
        assert_eq!(first.iter().map(|row| row.index).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(first[1].passage.unwrap().start, 0);
    }

    #[test]
    fn a_document_whose_last_passages_were_not_read_is_truncated() {
        let ranked = passages(ChunkMerge::Max).merge(&[passage(0, 0.4)]);
        assert_eq!(ranked.len(), 1, "the other document has no ranked passage");
        assert!(ranked[0].truncated() && ranked[0].tokens_read == 10);
    }

    #[test]
    fn any_option_about_passages_asks_for_them() {
        let settings = PassageSettings::default();
        let resolve = |options: PassageOptions| options.resolve(&settings).map_err(|error| error.to_string());
        assert_eq!(resolve(PassageOptions::default()), Ok(None));
        let options = PassageOptions { max_chunks_per_doc: Some(3), ..PassageOptions::default() };
        let expected = Chunking { tokens: None, overlap: 0, max_passages: 3, merge: ChunkMerge::Max };
        assert_eq!(resolve(options), Ok(Some(expected)));
        let truncate = PassageOptions { long_documents: Some(LongDocuments::Truncate), ..options };
        assert!(
            resolve(truncate)
                .unwrap_err()
                .starts_with("max_chunks_per_doc: has no effect with long_documents \"truncate\"")
        );
        let zero = PassageOptions { chunk_tokens: Some(0), ..PassageOptions::default() };
        assert_eq!(resolve(zero).unwrap_err(), "chunk_tokens: is 0; it must be at least 1");
        let wide =
            PassageOptions { chunk_tokens: Some(99), chunk_overlap_tokens: Some(50), ..PassageOptions::default() };
        assert_eq!(
            resolve(wide).unwrap_err(),
            "chunk_overlap_tokens: is 50; it must be at most 49, half of a passage of 99 tokens"
        );
    }
}
