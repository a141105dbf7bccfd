//! Reads sets that have a corpus, queries, relevance judgements and optionally a run.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::records::{Place, TableFiles};
use super::texts::{Texts, for_each_text};
use super::{DataError, Dataset, Document, FirstStage, Grades, Query, trec};
use crate::eval::settings::EvalSettings;

/// The files of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionFiles {
    /// The set's name.
    pub name: String,
    /// The path that reports show for the set.
    pub source: PathBuf,
    /// The documents, as JSONL, Parquet or `id<TAB>text`.
    pub corpus: TableFiles,
    /// The queries, in the same formats.
    pub queries: TableFiles,
    /// The queries' instructions, if they have a table of their own.
    pub instructions: Option<TableFiles>,
    /// The relevance judgements, in BEIR's three columns or TREC's four, JSONL or Parquet.
    pub qrels: TableFiles,
    /// The first stage's run and its name; `None` for BM25.
    pub run: Option<(TableFiles, String)>,
}

impl CollectionFiles {
    /// Reads the set with at most `settings.queries` queries. With a run, only the texts of the
    /// documents to rerank are kept, so that the corpus may be larger than the memory.
    ///
    /// # Errors
    /// [`DataError`] for an unreadable file, an invalid line, or a set without relevant documents.
    pub fn read(&self, settings: &EvalSettings) -> Result<Dataset, DataError> {
        let mut queries = Texts::read(&self.queries)?;
        if let Some(instructions) = &self.instructions {
            queries.read_instructions(instructions)?;
        }
        let Some((run, name)) = &self.run else {
            let documents = Texts::read(&self.corpus)?;
            let grades = trec::read_grades(&self.qrels, &queries, &mut |_, id| documents.find("document", id))?;
            let candidates = vec![Vec::new(); grades.len()];
            return self.dataset(queries, (grades, candidates), documents.items, FirstStage::Bm25, settings);
        };
        let mut named = NamedDocuments::default();
        let grades = trec::read_grades(&self.qrels, &queries, &mut |place, id| Ok(named.index(id, place)))?;
        let scores = trec::read_run(run, &queries, &mut |place, id| Ok(named.index(id, place)))?;
        let candidates = trec::rank(scores, &named.documents);
        let first_stage = FirstStage::Run(name.clone());
        let documents = std::mem::take(&mut named.documents);
        let mut set = self.dataset(queries, (grades, candidates), documents, first_stage, settings)?;
        self.read_texts(&mut set, &named, settings)?;
        Ok(set)
    }

    /// Makes the set of these queries, each with its grades and candidates.
    fn dataset(
        &self,
        mut queries: Texts,
        (grades, candidates): (Vec<Grades>, Vec<Vec<usize>>),
        documents: Vec<Document>,
        first_stage: FirstStage,
        settings: &EvalSettings,
    ) -> Result<Dataset, DataError> {
        let rows = queries.items.into_iter().zip(grades).zip(candidates).enumerate();
        let queries = rows
            .map(|(index, ((query, grades), candidates))| {
                if query.text.trim().is_empty() && !grades.is_empty() {
                    let problem = format!("the query {:?} is blank", query.id);
                    return Err(DataError::Set { place: self.queries.path().to_owned(), problem });
                }
                let instruction = queries.instructions.remove(&index);
                Ok(Query { id: query.id, text: query.text, instruction, grades, candidates })
            })
            .collect::<Result<Vec<Query>, DataError>>()?;
        let sample = (settings.queries, settings.seed);
        Dataset::new((self.name.clone(), &self.source), documents, queries, first_stage, sample)
    }

    /// Reads the texts of the documents to rerank, and checks that the corpus has all named ones.
    fn read_texts(&self, set: &mut Dataset, named: &NamedDocuments, settings: &EvalSettings) -> Result<(), DataError> {
        // One more, because the query's own document may be left out.
        let top = settings.top + usize::from(settings.ignore_identical_ids);
        let reranked: HashSet<usize> =
            set.queries.iter().flat_map(|query| query.candidates.iter().take(top)).copied().collect();
        let mut is_there = vec![false; set.documents.len()];
        set.corpus_size = for_each_text(&self.corpus, |_, text| {
            let document = text.document;
            let Some(index) = named.indices.get(&document.id).copied() else { return Ok(()) };
            if std::mem::replace(&mut is_there[index], true) {
                return Err(format!("the id {:?} is already used on an earlier line", document.id));
            }
            if reranked.contains(&index) {
                set.documents[index].text = document.text;
            }
            Ok(())
        })?;
        match is_there.iter().position(|is_there| !is_there) {
            None => Ok(()),
            Some(missing) => {
                let (file, line) = named.first_mentions[missing].clone();
                let problem = format!("the document {:?} is not in {}", set.documents[missing].id, self.corpus);
                Err(DataError::Line { file, line, problem })
            }
        }
    }
}

/// The documents that judgements and a run name, without their texts.
#[derive(Default)]
struct NamedDocuments {
    documents: Vec<Document>,
    indices: HashMap<String, usize>,
    /// The file and the line that name each first.
    first_mentions: Vec<(PathBuf, usize)>,
}

impl NamedDocuments {
    /// The index of an id; a new one is added.
    fn index(&mut self, id: &str, place: Place) -> usize {
        if let Some(index) = self.indices.get(id) {
            return *index;
        }
        self.documents.push(Document { id: id.to_owned(), text: String::new() });
        self.first_mentions.push((place.file.to_owned(), place.number));
        self.indices.insert(id.to_owned(), self.documents.len() - 1);
        self.documents.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::eval::datasets::set_name;
    use crate::eval::testing::settings;

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
        let files = CollectionFiles::find(folder, split, run.map(Path::new)).map_err(|error| error.to_string())?;
        files.read(&settings()).map_err(|error| error.to_string())
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
    fn with_a_run_only_the_texts_to_rerank_are_kept_and_a_missing_document_is_an_error() {
        let long = "q Q0 a 1 9 t\n".to_owned() + "q Q0 b 2 8 t\n";
        let folder = complete_folder(&[("first.trec", &long)]);
        let files = CollectionFiles::find(folder.path(), None, Some(Path::new("first.trec"))).unwrap();
        let set = files.read(&EvalSettings { top: 1, ..settings() }).unwrap();
        let text = |id: &str| set.documents.iter().find(|document| document.id == id).unwrap().text.as_str();
        assert_eq!((text("a"), text("b"), set.corpus_size), ("one", "", 2));
        let folder = complete_folder(&[("first.trec", "q Q0 a 1 9 t\nq Q0 z 2 8 t\n")]);
        let missing = read(folder.path(), None, Some("first.trec")).unwrap_err();
        assert!(missing.contains("first.trec line 2: the document \"z\" is not in "), "{missing}");
    }

    #[test]
    fn compressed_files_are_read_as_plain_ones() {
        use std::io::Write;
        let folder = folder(&[]);
        for (name, content) in
            [("corpus.jsonl.gz", CORPUS), ("queries.jsonl.gz", QUERIES), ("qrels/test.tsv.gz", "q\ta\t1\n")]
        {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            let mut writer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            writer.write_all(content.as_bytes()).unwrap();
            writer.finish().unwrap();
        }
        let set = read(folder.path(), None, None).unwrap();
        assert_eq!((set.documents.len(), set.queries.len()), (2, 1));
        let other = read(folder.path(), Some("dev"), None).unwrap_err();
        assert!(other.ends_with("choose a split with --split (available: test)"), "{other}");
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
