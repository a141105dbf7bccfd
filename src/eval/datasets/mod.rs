//! What is judged: documents, queries, grades and the candidates to rerank.
//!
//! Readers are in [`collection`] (BEIR folders, TREC files) and [`slates`]; what the two have in common, and which
//! queries count, is here. Candidates that BM25 has to find are left to `first_stage`.

pub mod collection;
mod lines;
mod object;
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

/// The lowest grade that is relevant for MRR, Hit, Recall and MAP: `trec_eval`'s default.
pub const RELEVANT_FROM: f64 = 1.0;

/// A document with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id in the set.
    pub id: String,
    /// Title and text, with a space between.
    pub text: String,
}

/// The grades of a query's documents, by the document's place in [`Dataset::documents`].
pub type Grades = HashMap<usize, f64>;

/// A query, what is known of its documents, and its candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its id in the set.
    pub id: String,
    /// What is searched for.
    pub text: String,
    /// The set's own instruction.
    pub instruction: Option<String>,
    /// The judged documents.
    pub grades: Grades,
    /// The first stage's ranking, best first, each document once: places in [`Dataset::documents`].
    pub candidates: Vec<usize>,
}

/// Where candidates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStage {
    /// A run file, as it was named.
    Run(String),
    /// BM25 over the set's documents.
    Bm25,
    /// A slate's documents, in the file's order.
    FileOrder,
    /// A slate's documents, shuffled, because some lines list the positive ones first.
    Shuffled,
}

impl FirstStage {
    /// The words for people and reports.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Run(name) => format!("run {name}"),
            Self::Bm25 => "BM25 built here".to_owned(),
            Self::FileOrder => "order in the file".to_owned(),
            Self::Shuffled => "order in the file, positive/negative shuffled".to_owned(),
        }
    }
}

/// What a set holds and the evaluation does not use, or not as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Queries without any judged document.
    pub queries_unjudged: usize,
    /// Queries with judged documents of which none is relevant.
    pub queries_without_relevant: usize,
    /// Queries that could be evaluated but are not in the sample.
    pub queries_not_sampled: usize,
    /// Evaluated queries for which the first stage found nothing: they score 0 and no request is sent.
    pub queries_without_candidates: usize,
    /// Relevant documents that the first stage did not put among the documents to rerank, over the evaluated queries.
    pub relevant_not_reranked: usize,
}

/// One set, ready to be reranked.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What it is called in reports.
    pub name: String,
    /// Where it was read from.
    pub source: String,
    /// Its documents.
    pub documents: Vec<Document>,
    /// The queries that are evaluated, in the set's order.
    pub queries: Vec<Query>,
    /// Where the candidates come from.
    pub first_stage: FirstStage,
    /// What is not used.
    pub left_out: LeftOut,
}

impl Dataset {
    /// A set of the queries that can be evaluated, and of those `sample` at most, chosen by `seed`.
    ///
    /// # Errors
    /// When no query has a relevant document.
    fn of(
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
        let source = source.display().to_string();
        Ok(Self { name, source, documents, queries: usable, first_stage, left_out })
    }

    /// Counts what `top` candidates a query leave out. To be called when every query has its candidates.
    pub(super) fn count_out_of_reach(&mut self, top: usize) {
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

/// Whether a document is judged and its grade is relevant.
#[must_use]
pub fn is_relevant(grades: &Grades, document: usize) -> bool {
    grades.get(&document).is_some_and(|grade| *grade >= RELEVANT_FROM)
}

/// The name of a set that was read from `path`: its last part, without `.jsonl`.
#[must_use]
pub fn set_name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let last = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    last.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Why a set cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A line of a file is not what it has to be.
    #[error("{} line {line}: {problem}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it: field and value.
        problem: String,
    },
    /// A set is incomplete or cannot be used.
    #[error("{}: {problem}", place.display())]
    Set {
        /// The folder or file.
        place: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this content.
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
        Dataset::of(named, Vec::new(), queries, FirstStage::Bm25, (sample, seed)).unwrap()
    }

    #[test]
    fn a_sample_keeps_the_order_and_depends_on_the_seed_alone() {
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
    fn relevant_documents_out_of_reach_are_counted() {
        let mut set =
            set(vec![query(1, &[(0, 1.0), (1, 2.0), (2, 0.0)], &[2, 1, 0]), query(2, &[(0, 1.0)], &[])], None, 1);
        set.count_out_of_reach(2);
        assert_eq!((set.left_out.relevant_not_reranked, set.left_out.queries_without_candidates), (2, 1));
        set.count_out_of_reach(3);
        assert_eq!((set.left_out.relevant_not_reranked, set.left_out.queries_without_candidates), (1, 1));
    }

    #[test]
    fn a_set_is_called_by_its_last_part_without_the_ending() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, slates) = (folder.path().join("set.v1"), folder.path().join("slates.jsonl"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&slates, "").unwrap();
        assert_eq!((set_name(&inner), set_name(&slates)), ("set.v1".to_owned(), "slates".to_owned()));
    }
}
