//! Reads sets that have a corpus, queries, relevance judgements and optionally a run: BEIR folders,
//! or files given one by one.

use std::path::{Path, PathBuf};

use super::texts::Texts;
use super::{DataError, Dataset, FirstStage, Query, set_name, trec};

/// The files of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionFiles {
    /// The set's name.
    pub name: String,
    /// The path that reports show for the set.
    pub source: PathBuf,
    /// The documents, as JSONL or as `id<TAB>text`.
    pub corpus: PathBuf,
    /// The queries, in the same formats.
    pub queries: PathBuf,
    /// The relevance judgements, in BEIR's three columns or TREC's four.
    pub qrels: PathBuf,
    /// The first stage's run and its name; `None` for BM25.
    pub run: Option<(PathBuf, String)>,
}

impl CollectionFiles {
    /// Finds the files of a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.
    /// The default `split` is `test`, or the only split of the folder. A relative `run` is looked
    /// for in the folder first.
    ///
    /// # Errors
    /// [`DataError`] if a file is missing.
    pub fn beir(folder: &Path, split: Option<&str>, run: Option<&Path>) -> Result<Self, DataError> {
        let invalid = |problem| DataError::Set { place: folder.to_owned(), problem };
        let part = |name: &str| {
            let path = folder.join(name);
            let expected =
                || invalid(format!("{name} is missing; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/"));
            path.is_file().then_some(path).ok_or_else(expected)
        };
        let (corpus, queries) = (part("corpus.jsonl")?, part("queries.jsonl")?);
        let splits = list_splits(&folder.join("qrels"))?;
        let find_split = |name: &str| splits.iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
        let qrels = match (split, &splits[..]) {
            (Some(split), _) => find_split(split),
            (None, [only]) => Some(only),
            (None, _) => find_split("test"),
        };
        let Some(qrels) = qrels.cloned() else {
            let available: Vec<String> = splits
                .iter()
                .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
                .collect();
            let available = if available.is_empty() { "none".to_owned() } else { available.join(", ") };
            let wanted = split.unwrap_or("test");
            let problem =
                format!("qrels/{wanted}.tsv is missing; choose a split with --split (available: {available})");
            return Err(invalid(problem));
        };
        let run = run.map(|run| {
            let inside = folder.join(run);
            (if inside.is_file() { inside } else { run.to_owned() }, run.display().to_string())
        });
        Ok(Self { name: set_name(folder), source: folder.to_owned(), corpus, queries, qrels, run })
    }

    /// Reads the set, with at most `sample` of its queries, chosen by `seed`.
    ///
    /// # Errors
    /// [`DataError`] for an unreadable file, an invalid line, or a set without relevant documents.
    pub fn read(&self, sample: Option<usize>, seed: u64) -> Result<Dataset, DataError> {
        let (documents, queries) = (Texts::read(&self.corpus)?, Texts::read(&self.queries)?);
        let grades = trec::read_grades(&self.qrels, &queries, &documents)?;
        let (ranked, first_stage) = match &self.run {
            Some((path, name)) => (trec::read_run(path, &queries, &documents)?, FirstStage::Run(name.clone())),
            None => (vec![Vec::new(); grades.len()], FirstStage::Bm25),
        };
        let texts = queries.items.into_iter().zip(grades).zip(ranked);
        let queries = texts
            .map(|((query, grades), candidates)| {
                if query.text.trim().is_empty() && !grades.is_empty() {
                    let problem = format!("the query {:?} is blank", query.id);
                    return Err(DataError::Set { place: self.queries.clone(), problem });
                }
                Ok(Query { id: query.id, text: query.text, instruction: None, grades, candidates })
            })
            .collect::<Result<Vec<Query>, DataError>>()?;
        Dataset::new((self.name.clone(), &self.source), documents.items, queries, first_stage, (sample, seed))
    }
}

/// Lists the `.tsv` files of a folder, sorted by name.
fn list_splits(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let unreadable = |cause| DataError::Unreadable { path: folder.to_owned(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "tsv") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CORPUS: &str = "{\"_id\": \"a\", \"title\": \"\", \"text\": \"one\"}\n{\"_id\": \"b\", \"text\": \"two\"}\n";
    const QUERIES: &str = "{\"_id\": \"q\", \"text\": \"one?\"}\n{\"_id\": \"p\", \"text\": \"two?\"}\n{\"_id\": \"r\", \"text\": \"three?\"}\n";

    fn folder(parts: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("qrels")).unwrap();
        for (name, content) in parts {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn complete_folder(more: &[(&str, &str)]) -> tempfile::TempDir {
        let parts = [("corpus.jsonl", CORPUS), ("queries.jsonl", QUERIES), ("qrels/test.tsv", "q\ta\t1\np\ta\t0\n")];
        folder(&[&parts, more].concat())
    }

    fn read(folder: &Path, split: Option<&str>, run: Option<&str>) -> Result<Dataset, String> {
        let files = CollectionFiles::beir(folder, split, run.map(Path::new)).map_err(|error| error.to_string())?;
        files.read(None, 1).map_err(|error| error.to_string())
    }

    #[test]
    fn a_beir_folder_is_read_and_unusable_queries_are_counted() {
        let folder = complete_folder(&[]);
        let set = read(folder.path(), None, None).unwrap();
        assert_eq!(set.name, set_name(folder.path()));
        assert_eq!(set.documents.len(), 2);
        assert_eq!(set.queries.len(), 1);
        assert_eq!((set.queries[0].id.as_str(), set.queries[0].grades.get(&0)), ("q", Some(&1.0)));
        assert_eq!(set.first_stage, FirstStage::Bm25);
        assert_eq!((set.left_out.queries_unjudged, set.left_out.queries_without_relevant), (1, 1));
    }

    #[test]
    fn a_run_is_looked_for_in_the_folder_first() {
        let folder = complete_folder(&[("first.trec", "q Q0 b 1 2 t\nq Q0 a 2 1 t\n")]);
        let set = read(folder.path(), None, Some("first.trec")).unwrap();
        assert_eq!(set.first_stage, FirstStage::Run("first.trec".to_owned()));
        assert_eq!(set.queries[0].candidates, [1, 0]);
        let missing = read(folder.path(), None, Some("second.trec")).unwrap_err();
        assert_eq!(missing, "cannot read second.trec");
    }

    #[test]
    fn the_default_split_is_test_or_the_only_one() {
        let folder = complete_folder(&[("qrels/dev.tsv", "p\tb\t2\n")]);
        assert_eq!(read(folder.path(), None, None).unwrap().queries[0].id, "q");
        assert_eq!(read(folder.path(), Some("dev"), None).unwrap().queries[0].id, "p");
        let missing = read(folder.path(), Some("train"), None).unwrap_err();
        assert!(missing.ends_with("qrels/train.tsv is missing; choose a split with --split (available: dev, test)"));
        fs::remove_file(folder.path().join("qrels/test.tsv")).unwrap();
        assert_eq!(read(folder.path(), None, None).unwrap().queries[0].id, "p");
    }

    #[test]
    fn errors_name_the_missing_file_or_the_unusable_query() {
        let no_corpus = read(folder(&[]).path(), None, None).unwrap_err();
        assert!(no_corpus.contains(": corpus.jsonl is missing; a BEIR folder has"), "{no_corpus}");
        let no_relevant = read(complete_folder(&[("qrels/test.tsv", "q\ta\t0\n")]).path(), None, None).unwrap_err();
        assert!(
            no_relevant.ends_with(": no query has a relevant document (a grade of 1 or more); the highest grade is 0"),
            "{no_relevant}"
        );
        let blank = complete_folder(&[(
            "queries.jsonl",
            "{\"_id\": \"q\", \"text\": \" \"}\n{\"_id\": \"p\", \"text\": \"x\"}",
        )]);
        assert!(read(blank.path(), None, None).unwrap_err().ends_with("the query \"q\" is blank"));
    }

    #[test]
    fn an_invalid_grade_is_reported_with_file_and_line() {
        let folder = complete_folder(&[("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\ta\tx\n")]);
        let message = read(folder.path(), None, None).unwrap_err();
        assert!(message.ends_with("qrels/test.tsv line 2: the grade \"x\" is not a number"), "{message}");
    }
}
