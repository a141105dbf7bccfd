//! Reads labelled slates: JSONL or Parquet with a query, its documents and their grades in each
//! record.
//!
//! A record has either `documents` in the first stage's order, with a `grade` in each or
//! `relevance` with one number for each, or `positive` and `negative` documents (MTEB's reranking
//! tasks), which are shuffled because they have no order. Documents with the same id and text on
//! several lines are one document of the set.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::object::{Object, describe_value, join_title};
use super::records::{Record, TableFiles};
use super::{DataError, Dataset, Document, FirstStage, Grades, Query, set_name};

/// Reads a file of slates, with at most `sample` of its queries, chosen by `seed`.
///
/// # Errors
/// [`DataError`] for an unreadable file, an invalid line, or a file without relevant documents.
pub fn read(path: &Path, sample: Option<usize>, seed: u64) -> Result<Dataset, DataError> {
    let mut pool = Pool::default();
    let mut queries: Vec<Query> = Vec::new();
    let mut ids = HashSet::new();
    let mut shuffled = false;
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
    TableFiles::from(path.to_owned()).for_each_record(|place, record| {
        let fields = match record {
            Record::Fields(fields) => fields,
            Record::Line(line) => Object::parse(line)?,
        };
        let mut slate = Slate::parse(fields)?;
        let id = slate.id.take().unwrap_or_else(|| place.number.to_string());
        if !ids.insert(id.clone()) {
            return Err(format!("id: {id:?} is already used on an earlier line"));
        }
        if !slate.in_order {
            slate.documents.shuffle(&mut generator);
            shuffled = true;
        }
        let (mut grades, mut candidates) = (Grades::new(), Vec::new());
        for (document, grade) in slate.documents {
            let index = pool.insert(document, &grades);
            grades.insert(index, grade);
            candidates.push(index);
        }
        queries.push(Query { id, text: slate.query, instruction: slate.instruction, grades, candidates });
        Ok(())
    })?;
    let first_stage = if shuffled { FirstStage::Shuffled } else { FirstStage::FileOrder };
    Dataset::new((set_name(path), path), pool.documents, queries, first_stage, (sample, seed))
}

/// A document of a slate: its id, if it has one, and its text.
type SlateDocument = (Option<String>, String);

/// One line of the file.
#[derive(Debug, PartialEq)]
struct Slate {
    id: Option<String>,
    query: String,
    instruction: Option<String>,
    documents: Vec<(SlateDocument, f64)>,
    /// Whether the order of the documents is a ranking.
    in_order: bool,
}

impl Slate {
    fn parse(mut fields: Object) -> Result<Self, String> {
        let id = fields.id(&["id", "_id"])?;
        let query = fields.required_text("query")?;
        if query.trim().is_empty() {
            return Err("query: must not be blank".to_owned());
        }
        let instruction = fields.text("instruction")?.filter(|text| !text.trim().is_empty());
        let has_sides = fields.has("positive") || fields.has("negative");
        if has_sides && (fields.has("documents") || fields.has("relevance")) {
            return Err("documents and positive/negative cannot be combined; give documents with relevance, or positive with negative".to_owned());
        }
        let documents = if has_sides { parse_sides(&mut fields)? } else { parse_graded(&mut fields)? };
        if documents.is_empty() {
            return Err("documents: must not be empty".to_owned());
        }
        Ok(Self { id, query, instruction, documents, in_order: !has_sides })
    }
}

/// `positive` documents with grade 1, and `negative` ones with grade 0.
fn parse_sides(fields: &mut Object) -> Result<Vec<(SlateDocument, f64)>, String> {
    let mut documents = Vec::new();
    for (name, grade) in [("positive", 1.0), ("negative", 0.0)] {
        let side = parse_documents(name, fields.list_or_string(name)?)?;
        documents.extend(side.into_iter().map(|(document, _)| (document, grade)));
    }
    Ok(documents)
}

/// `documents` with the grades of `relevance`, or each with its own `grade`.
fn parse_graded(fields: &mut Object) -> Result<Vec<(SlateDocument, f64)>, String> {
    let documents = parse_documents("documents", fields.list("documents")?)?;
    if !fields.has("relevance") {
        let graded = documents.into_iter().map(|(document, grade)| Some((document, grade?)));
        return graded
            .collect::<Option<_>>()
            .ok_or_else(|| "relevance: this field is required, or a grade in each of documents".to_owned());
    }
    let grades = parse_grades(fields.list("relevance")?)?;
    if documents.len() != grades.len() {
        let (documents, grades) = (documents.len(), grades.len());
        return Err(format!("relevance: has {grades} numbers for {documents} documents; give one for each"));
    }
    Ok(documents.into_iter().map(|(document, _)| document).zip(grades).collect())
}

/// Documents, each with its `grade` if it has one.
fn parse_documents(name: &str, items: Vec<Value>) -> Result<Vec<(SlateDocument, Option<f64>)>, String> {
    let document = |(index, item)| match item {
        Value::String(text) => Ok(((None, text), None)),
        Value::Object(fields) => {
            let mut fields = Object::nested(fields, format!("{name}[{index}]."));
            let id = fields.id(&["id", "_id"])?;
            let title = fields.text("title")?;
            let grade = if fields.has("grade") { Some(fields.required_number(&["grade"])?) } else { None };
            Ok(((id, join_title(title, fields.required_text("text")?)), grade))
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => Err(format!(
            "{name}[{index}]: expected a string, or an object with a `text`, found {}",
            describe_value(&other)
        )),
    };
    items.into_iter().enumerate().map(document).collect()
}

fn parse_grades(items: Vec<Value>) -> Result<Vec<f64>, String> {
    let grade = |(index, item): (usize, Value)| {
        let number = item.as_f64().or_else(|| item.as_bool().map(|flag| f64::from(u8::from(flag))));
        number.ok_or_else(|| format!("relevance[{index}]: expected a number, found {}", describe_value(&item)))
    };
    items.into_iter().enumerate().map(grade).collect()
}

/// The distinct documents of a file.
#[derive(Default)]
struct Pool {
    documents: Vec<Document>,
    indices: HashMap<SlateDocument, usize>,
}

impl Pool {
    /// Returns the index of a document, and adds it if it is new. A document that its own slate
    /// (with these `grades`) already has is added a second time.
    fn insert(&mut self, document: SlateDocument, grades: &Grades) -> usize {
        if let Some(index) = self.indices.get(&document).filter(|index| !grades.contains_key(index)) {
            return *index;
        }
        let index = self.documents.len();
        let id = document.0.clone().unwrap_or_else(|| format!("document {}", index + 1));
        self.documents.push(Document { id, text: document.1.clone() });
        self.indices.insert(document, index);
        index
    }
}

#[cfg(test)]
mod tests {
    use super::super::parquet::tests::{Column, write};
    use super::super::tests::file;
    use super::*;

    fn read_text(content: &str) -> Result<Dataset, String> {
        read(file(content).path(), None, 1).map_err(|error| error.to_string())
    }

    fn problem(line: &str) -> String {
        read_text(line).unwrap_err().split_once(" line 1: ").unwrap().1.to_owned()
    }

    #[test]
    fn a_slate_keeps_its_order_grades_and_instruction() {
        let set = read_text(concat!(
            r#"{"query": "q", "instruction": "i", "id": "s", "relevance": [0, 2.5],"#,
            r#" "documents": ["x", {"id": 4, "title": "t", "text": "y"}]}"#,
            "\n\n",
            r#"{"query": "p", "documents": ["z", "x", "x"], "relevance": [true, 0, 0]}"#
        ))
        .unwrap();
        let ids: Vec<&str> = set.documents.iter().map(|document| document.id.as_str()).collect();
        assert_eq!(ids, ["document 1", "4", "document 3", "document 4"]);
        assert_eq!(set.documents[1].text, "t y");
        assert_eq!(set.first_stage, FirstStage::FileOrder);
        let [first, second] = &set.queries[..] else { panic!("two queries were given") };
        assert_eq!((first.id.as_str(), first.instruction.as_deref()), ("s", Some("i")));
        assert_eq!((&first.candidates[..], &first.grades), (&[0, 1][..], &Grades::from([(0, 0.0), (1, 2.5)])));
        assert_eq!((second.id.as_str(), second.instruction.as_deref()), ("3", None));
        assert_eq!(second.candidates, [2, 0, 3], "a document that is twice in a slate counts as two");
    }

    #[test]
    fn documents_may_have_grades_of_their_own() {
        let set = read_text(r#"{"query": "q", "documents": [{"text": "x", "grade": 0}, {"text": "y", "grade": 2}]}"#);
        let set = set.unwrap();
        assert_eq!(set.queries[0].grades, Grades::from([(0, 0.0), (1, 2.0)]));
        assert_eq!(set.first_stage, FirstStage::FileOrder);
        let missing = problem(r#"{"query": "q", "documents": [{"text": "x", "grade": 0}, {"text": "y"}]}"#);
        assert_eq!(missing, "relevance: this field is required, or a grade in each of documents");
    }

    #[test]
    fn a_parquet_file_of_slates_is_read_as_lines_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.parquet");
        let columns = [
            Column::Texts("query", &["one?", "two?"]),
            Column::Lists("positive", &[&["one"], &["two"]]),
            Column::Lists("negative", &[&["three", "four"], &["five"]]),
        ];
        write(&path, &columns, parquet::basic::Compression::SNAPPY);
        let set = read(&path, None, 1).unwrap();
        assert_eq!((set.name.as_str(), set.queries.len(), set.documents.len()), ("test", 2, 5));
        assert_eq!(set.first_stage, FirstStage::Shuffled);
    }

    #[test]
    fn positives_and_negatives_are_shuffled_by_the_seed() {
        let line = r#"{"query": "q", "positive": "p", "negative": ["a", "b", "c", "d", "e", "f", "g"]}"#;
        let file = file(&[line, &line.replace("\"p\"", "\"o\"")].join("\n"));
        let set = read(file.path(), None, 1).unwrap();
        assert_eq!(set.first_stage, FirstStage::Shuffled);
        assert_eq!(set, read(file.path(), None, 1).unwrap());
        let order = |set: &Dataset| -> String {
            set.queries[0].candidates.iter().map(|place| set.documents[*place].text.as_str()).collect()
        };
        assert_ne!(order(&set), "pabcdefg");
        assert_ne!(order(&set), order(&read(file.path(), None, 2).unwrap()));
        let relevant: Vec<&str> = set
            .queries
            .iter()
            .flat_map(|query| &query.grades)
            .filter(|(_, grade)| **grade > 0.0)
            .map(|(place, _)| set.documents[*place].text.as_str())
            .collect();
        assert_eq!(relevant, ["p", "o"]);
    }

    #[test]
    fn an_invalid_line_is_reported_with_field_and_value() {
        for (line, message) in [
            (r#"{"documents": ["a"], "relevance": [1]}"#, "query: this field is required"),
            (r#"{"query": " ", "documents": ["a"], "relevance": [1]}"#, "query: must not be blank"),
            (
                r#"{"query": "q", "documents": ["a"]}"#,
                "relevance: this field is required, or a grade in each of documents",
            ),
            (r#"{"query": "q", "relevance": [1]}"#, "documents: this field is required"),
            (r#"{"query": "q", "documents": [], "relevance": []}"#, "documents: must not be empty"),
            (
                r#"{"query": "q", "documents": ["a", "b"], "relevance": [1]}"#,
                "relevance: has 1 numbers for 2 documents; give one for each",
            ),
            (
                r#"{"query": "q", "documents": ["a"], "relevance": ["1"]}"#,
                "relevance[0]: expected a number, found the string \"1\"",
            ),
            (
                r#"{"query": "q", "documents": ["a", 3], "relevance": [1, 0]}"#,
                "documents[1]: expected a string, or an object with a `text`, found the number 3",
            ),
            (
                r#"{"query": "q", "documents": [{"title": "t"}], "relevance": [1]}"#,
                "documents[0].text: this field is required",
            ),
            (
                r#"{"query": "q", "documents": ["a"], "positive": "b"}"#,
                "documents and positive/negative cannot be combined; give documents with relevance, or positive with negative",
            ),
            (r#"{"query": "q", "positive": 1}"#, "positive: expected a string or an array, found the number 1"),
            ("[1]", "expected a JSON object, found an array of length 1"),
        ] {
            assert_eq!(problem(line), message, "{line}");
        }
    }

    #[test]
    fn a_duplicate_id_is_an_error() {
        let line = r#"{"id": "s", "query": "q", "documents": ["a"], "relevance": [1]}"#;
        let message = read_text(&[line, line].join("\n")).unwrap_err();
        assert!(message.ends_with(" line 2: id: \"s\" is already used on an earlier line"), "{message}");
    }

    #[test]
    fn grades_below_one_are_not_relevant_and_the_error_says_so() {
        let message = read_text(r#"{"query": "q", "documents": ["a"], "relevance": [0.9]}"#).unwrap_err();
        assert!(
            message.ends_with(": no query has a relevant document (a grade of 1 or more); the highest grade is 0.9"),
            "{message}"
        );
    }
}
