//! Data sets: documents, queries, grades, and the candidates to rerank.
//!
//! [`layout`] finds the files of a folder, [`collection`] reads them, [`slates`] reads labelled
//! slates. This file has their common types and selects the queries to evaluate. Where a set has no
//! candidates, `first_stage` retrieves them with BM25.

pub mod collection;
pub mod layout;
mod lines;
mod object;
mod parquet;
mod records;
pub mod slates;
mod texts;
mod trec;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::index;
use serde::{Deserialize, Serialize};

pub use collection::CollectionFiles;
pub use records::TableFiles;

/// The lowest grade that counts as relevant for MRR, Hit, Recall and MAP: `trec_eval`'s default.
pub const RELEVANT_FROM: f64 = 1.0;

/// A document with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id in the set.
    pub id: String,
    /// Title and text, joined by a space.
    pub text: String,
}

/// The grades of a query's documents, by index into [`Dataset::documents`].
pub type Grades = HashMap<usize, f64>;

/// A query with its judgements and its candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its id in the set.
    pub id: String,
    /// The query's text.
    pub text: String,
    /// The instruction that the set has for this query.
    pub instruction: Option<String>,
    /// The grades of the judged documents.
    pub grades: Grades,
    /// The first stage's ranking: indices into [`Dataset::documents`], best first, each at most
    /// once.
    pub candidates: Vec<usize>,
}

/// Where a set's candidates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStage {
    /// A run file, with its name.
    Run(String),
    /// BM25 over the set's documents.
    Bm25,
    /// The documents of each slate, in the order of the file.
    FileOrder,
    /// The documents of each slate. Those given as `positive` and `negative` are shuffled, because
    /// their order in the file would give away the answer.
    Shuffled,
}

impl FirstStage {
    /// The description in reports.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Run(name) => format!("run {name}"),
            Self::Bm25 => "BM25 over the corpus".to_owned(),
            Self::FileOrder => "order in the file".to_owned(),
            Self::Shuffled => "order in the file, with positive and negative documents shuffled".to_owned(),
        }
    }
}

/// Counts of the queries and documents that the evaluation does not use, or cannot rerank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Queries without any judged document.
    pub queries_unjudged: usize,
    /// Queries with judged documents, none of them relevant.
    pub queries_without_relevant: usize,
    /// Usable queries that are not in the sample.
    pub queries_not_sampled: usize,
    /// Evaluated queries without candidates. They score 0, and no request is sent for them.
    pub queries_without_candidates: usize,
    /// Relevant documents that are not among the candidates to rerank, over the evaluated queries.
    pub relevant_not_reranked: usize,
}

/// A data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The name in reports.
    pub name: String,
    /// The path that it was read from.
    pub source: String,
    /// Its documents. With a run, those that it or the judgements name; only the documents to
    /// rerank have a text.
    pub documents: Vec<Document>,
    /// Number of documents of the corpus.
    pub corpus_size: usize,
    /// The queries to evaluate, in the set's order.
    pub queries: Vec<Query>,
    /// Where the candidates come from.
    pub first_stage: FirstStage,
    /// Counts of what is not evaluated.
    pub left_out: LeftOut,
}

impl Dataset {
    /// Builds a set from the queries that have a relevant document: all of them, or `sample`,
    /// chosen by `seed`.
    ///
    /// # Errors
    /// [`DataError::Set`] if no query has a relevant document.
    fn new(
        (name, source): (String, &Path),
        documents: Vec<Document>,
        queries: Vec<Query>,
        first_stage: FirstStage,
        (sample, seed): (Option<usize>, u64),
    ) -> Result<Self, DataError> {
        let mut left_out = LeftOut::default();
        let (mut usable, mut highest) = (Vec::new(), f64::NEG_INFINITY);
        for query in queries {
            highest = query.grades.values().copied().fold(highest, f64::max);
            if query.grades.is_empty() {
                left_out.queries_unjudged += 1;
            } else if query.grades.values().any(|grade| *grade >= RELEVANT_FROM) {
                usable.push(query);
            } else {
                left_out.queries_without_relevant += 1;
            }
        }
        if usable.is_empty() {
            let found = if highest.is_finite() { format!("; the highest grade is {highest}") } else { String::new() };
            let problem = format!("no query has a relevant document (a grade of 1 or more){found}");
            return Err(DataError::Set { place: source.to_owned(), problem });
        }
        if let Some(wanted) = sample.filter(|wanted| *wanted < usable.len()) {
            left_out.queries_not_sampled = usable.len() - wanted;
            let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
            let mut chosen = vec![false; usable.len()];
            for place in index::sample(&mut generator, usable.len(), wanted) {
                chosen[place] = true;
            }
            let mut chosen = chosen.into_iter();
            usable.retain(|_| chosen.next().unwrap_or_default());
        }
        let (source, corpus_size) = (source.display().to_string(), documents.len());
        Ok(Self { name, source, documents, corpus_size, queries: usable, first_stage, left_out })
    }

    /// Counts the queries without candidates, and the relevant documents that are not among the
    /// first `top` candidates. Call it after every query has its candidates.
    pub(super) fn count_unreachable(&mut self, top: usize) {
        self.left_out.queries_without_candidates = 0;
        self.left_out.relevant_not_reranked = 0;
        for query in &self.queries {
            let reranked = &query.candidates[..top.min(query.candidates.len())];
            let relevant = query.grades.values().filter(|grade| **grade >= RELEVANT_FROM).count();
            let within = reranked.iter().filter(|place| is_relevant(&query.grades, **place)).count();
            self.left_out.relevant_not_reranked += relevant - within;
            self.left_out.queries_without_candidates += usize::from(query.candidates.is_empty());
        }
    }
}

/// Whether a document is judged relevant.
#[must_use]
pub fn is_relevant(grades: &Grades, document: usize) -> bool {
    grades.get(&document).is_some_and(|grade| *grade >= RELEVANT_FROM)
}

/// The name of the set at `path`: the name of the folder, or of the file without `.gz` and its
/// extension.
#[must_use]
pub fn set_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_gzip = whole.extension().is_some_and(|extension| extension == "gz");
    let plain = if is_gzip { whole.with_extension("") } else { whole.clone() };
    let last = if whole.is_dir() { whole.file_name() } else { plain.file_stem() };
    last.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The reason why a set cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        cause: io::Error,
    },
    /// A line of a file, or a row of a Parquet file, is invalid.
    #[error("{} {} {line}: {problem}", file.display(), record_word(file))]
    Line {
        /// The file.
        file: PathBuf,
        /// The number of the line or row, from 1.
        line: usize,
        /// The problem, with field and value.
        problem: String,
    },
    /// A set is incomplete, or has nothing to evaluate.
    #[error("{}: {problem}", place.display())]
    Set {
        /// The folder or file.
        place: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// The name of a record of this file in errors.
fn record_word(file: &Path) -> &'static str {
    if file.extension().is_some_and(|extension| extension == "parquet") { "row" } else { "line" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a temporary file with this content.
    pub(super) fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn query(id: usize, grades: &[(usize, f64)], candidates: &[usize]) -> Query {
        let (grades, candidates) = (grades.iter().copied().collect(), candidates.to_vec());
        Query { id: id.to_string(), text: "q".to_owned(), instruction: None, grades, candidates }
    }

    fn set(queries: Vec<Query>, sample: Option<usize>, seed: u64) -> Dataset {
        let named = ("set".to_owned(), Path::new("set"));
        Dataset::new(named, Vec::new(), queries, FirstStage::Bm25, (sample, seed)).unwrap()
    }

    #[test]
    fn a_sample_keeps_the_order_and_depends_only_on_the_seed() {
        let queries = || (0..50).map(|id| query(id, &[(0, 1.0)], &[])).collect();
        let ids = |set: &Dataset| set.queries.iter().map(|query| query.id.parse().unwrap()).collect::<Vec<usize>>();
        let first = set(queries(), Some(10), 1);
        assert_eq!((first.queries.len(), first.left_out.queries_not_sampled), (10, 40));
        assert!(ids(&first).is_sorted());
        assert_eq!(ids(&first), ids(&set(queries(), Some(10), 1)));
        assert_ne!(ids(&first), ids(&set(queries(), Some(10), 2)));
        assert_eq!(set(queries(), Some(60), 1).queries.len(), 50);
    }

    #[test]
    fn relevant_documents_outside_the_candidates_are_counted() {
        let mut set =
            set(vec![query(1, &[(0, 1.0), (1, 2.0), (2, 0.0)], &[2, 1, 0]), query(2, &[(0, 1.0)], &[])], None, 1);
        set.count_unreachable(2);
        assert_eq!((set.left_out.relevant_not_reranked, set.left_out.queries_without_candidates), (2, 1));
        set.count_unreachable(3);
        assert_eq!((set.left_out.relevant_not_reranked, set.left_out.queries_without_candidates), (1, 1));
    }

    #[test]
    fn a_set_is_named_after_its_folder_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, slates) = (folder.path().join("set.v1"), folder.path().join("slates.jsonl"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&slates, "").unwrap();
        assert_eq!((set_name(&inner), set_name(&slates)), ("set.v1".to_owned(), "slates".to_owned()));
    }
}
