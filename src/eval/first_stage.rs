//! BM25 over a set's documents. It retrieves candidates where the set has no run, and is the
//! baseline that reranking has to beat.
//!
//! The crate `bm25` scores, with k1 = 0.9 and b = 0.4 (the defaults of Anserini and of BEIR's
//! baselines). This module defines the terms.

use std::cmp::Ordering;

use bm25::{DefaultTokenizer, Embedder, EmbedderBuilder, Language, Scorer, Tokenizer};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::datasets::{Dataset, Document, FirstStage};
use super::settings::EvalSettings;

const K1: f32 = 0.9;
const B: f32 = 0.4;

/// Maximum number of documents that BM25 ranks for a query: the usual depth of a TREC run.
const DEPTH: usize = 1_000;

/// Ranges of characters that are written without spaces between words: kana, Han, Hangul.
const CJK: [(char, char); 6] = [
    ('\u{3040}', '\u{30FF}'),
    ('\u{31F0}', '\u{4DBF}'),
    ('\u{4E00}', '\u{9FFF}'),
    ('\u{AC00}', '\u{D7AF}'),
    ('\u{F900}', '\u{FAFF}'),
    ('\u{20000}', '\u{323AF}'),
];

/// Splits text into terms: words without English stop words, transliterated to Latin letters and
/// stemmed (Snowball). CJK text is split into pairs of neighbouring characters.
struct Terms {
    words: DefaultTokenizer,
}

impl Tokenizer for Terms {
    fn tokenize(&self, text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let cjk = is_cjk(first);
            let end = rest.find(|character| is_cjk(character) != cjk).unwrap_or(rest.len());
            let (run, after) = rest.split_at(end);
            rest = after;
            if cjk {
                let starts: Vec<usize> = run.char_indices().map(|(at, _)| at).chain([run.len()]).collect();
                let width = starts.len().min(3);
                terms.extend(starts.windows(width).map(|places| run[places[0]..places[width - 1]].to_owned()));
            } else {
                terms.extend(self.words.tokenize(run));
            }
        }
        terms
    }
}

fn is_cjk(character: char) -> bool {
    character >= CJK[0].0 && CJK.iter().any(|(low, high)| (*low..=*high).contains(&character))
}

/// A BM25 index of a set's documents.
pub struct Index {
    embedder: Embedder<u64, Terms>,
    scorer: Scorer<usize, u64>,
}

impl Index {
    /// Indexes the documents that have a text, by their index in the slice.
    #[must_use]
    pub fn build(documents: &[Document]) -> Self {
        let (indices, texts): (Vec<usize>, Vec<&str>) = documents
            .iter()
            .enumerate()
            .map(|(index, document)| (index, document.text.as_str()))
            .filter(|(_, text)| !text.is_empty())
            .unzip();
        let terms = Terms { words: DefaultTokenizer::new(Language::English) };
        let builder = EmbedderBuilder::with_tokenizer_and_fit_to_corpus(terms, &texts);
        let embedder = builder.k1(K1).b(B).build();
        let vectors: Vec<_> = texts.par_iter().map(|text| embedder.embed(text)).collect();
        let mut scorer = Scorer::new();
        for (index, embedding) in indices.iter().zip(vectors) {
            scorer.upsert(index, embedding);
        }
        Self { embedder, scorer }
    }

    /// Indices of the documents that share a term with the query, best first. Documents with equal
    /// scores keep the set's order.
    #[must_use]
    pub fn search(&self, query: &str) -> Vec<usize> {
        let mut found = self.scorer.matches(&self.embedder.embed(query));
        // `matches` returns equal scores in random order, because it iterates over a hash set.
        found.sort_by(|left, right| compare_descending(left.score, right.score).then(left.id.cmp(&right.id)));
        found.truncate(DEPTH);
        found.into_iter().map(|document| document.id).collect()
    }

    /// Sorts candidates by BM25 score. Candidates with equal scores keep their order.
    #[must_use]
    pub fn rank(&self, query: &str, candidates: &[usize]) -> Vec<usize> {
        let query = self.embedder.embed(query);
        let score = |place: &usize| self.scorer.score(place, &query).unwrap_or(0.0);
        let mut scored: Vec<(usize, f32)> = candidates.iter().map(|place| (*place, score(place))).collect();
        scored.sort_by(|(_, left), (_, right)| compare_descending(*left, *right));
        scored.into_iter().map(|(place, _)| place).collect()
    }
}

fn compare_descending(left: f32, right: f32) -> Ordering {
    right.partial_cmp(&left).unwrap_or(Ordering::Equal)
}

/// Retrieves candidates for a set without a run, leaves out the query's own document if the
/// settings say so, counts the relevant documents that are not among the candidates to rerank, and
/// returns the latter for every query in BM25's order.
///
/// With a run, BM25's statistics are those of the documents to rerank.
#[must_use]
pub fn prepare(set: &mut Dataset, settings: &EvalSettings) -> Vec<Vec<usize>> {
    let index = Index::build(&set.documents);
    if set.first_stage == FirstStage::Bm25 {
        for query in &mut set.queries {
            query.candidates = index.search(&query.text);
        }
    }
    if settings.ignore_identical_ids {
        let documents = &set.documents;
        for query in &mut set.queries {
            query.candidates.retain(|place| documents[*place].id != query.id);
        }
    }
    set.count_unreachable(settings.top);
    let first = |candidates: &[usize]| candidates[..settings.top.min(candidates.len())].to_vec();
    set.queries.iter().map(|query| index.rank(&query.text, &first(&query.candidates))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::{set, settings};

    fn index(texts: &[&str]) -> Index {
        let document = |(place, text): (usize, &&str)| Document { id: place.to_string(), text: (*text).to_owned() };
        Index::build(&texts.iter().enumerate().map(document).collect::<Vec<_>>())
    }

    #[test]
    fn terms_are_stemmed_words_and_pairs_of_cjk_characters() {
        let terms = Terms { words: DefaultTokenizer::new(Language::English) };
        assert_eq!(
            terms.tokenize("The running of the Café, 東京タワー 猫!"),
            ["run", "cafe", "東京", "京タ", "タワ", "ワー", "猫"]
        );
        assert_eq!(terms.tokenize(""), [""; 0]);
    }

    #[test]
    fn rare_words_rank_higher_and_ties_keep_the_sets_order() {
        let index = index(&["a red house", "a green house", "a blue house", "a blue house", "fish"]);
        assert_eq!(index.search("blue houses"), [2, 3, 0, 1]);
        assert_eq!(index.search("boats"), [0; 0]);
        assert_eq!(index.rank("fishing", &[3, 1, 4, 0]), [4, 3, 1, 0]);
    }

    #[test]
    fn the_querys_own_document_is_left_out_only_if_the_settings_say_so() {
        let mut with = set("s", 1);
        with.documents[1].id = "q0".to_owned();
        let mut without = with.clone();
        assert_eq!(prepare(&mut with, &settings())[0].len(), 4);
        assert_eq!(with.queries[0].candidates, [0, 1, 2, 3, 4]);
        let _ = prepare(&mut without, &EvalSettings { ignore_identical_ids: true, ..settings() });
        assert_eq!(without.queries[0].candidates, [0, 2, 3, 4]);
    }

    #[test]
    fn texts_without_spaces_are_found() {
        let index = index(&["東京都は日本の首都です", "京都は古い都です", "The capital of Japan is Tokyo"]);
        assert_eq!(index.search("東京都")[0], 0);
        assert_eq!(index.search("日本の首都はどこですか")[0], 0);
        assert_eq!(index.search("京都は古い")[0], 1);
    }
}
