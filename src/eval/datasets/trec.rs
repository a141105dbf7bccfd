//! Reads relevance judgements (TREC's four columns or BEIR's three) and runs (TREC's six columns).
//! Both may also be JSONL or Parquet, with the field names of MTEB and ir_datasets.
//!
//! A run is ordered as `trec_eval` orders it: by score, descending, and equal scores by document
//! id, descending (compared as bytes). The rank column is ignored. Scores are f64; `trec_eval`
//! rounds them to f32.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::Value;

use super::lines::{parse_number, split_columns};
use super::object::describe_value;
use super::records::{Place, Record, TableFiles};
use super::texts::Texts;
use super::{DataError, Document, Grades};

/// The names of fields: MTEB's, and those of ir_datasets.
const QUERY_FIELDS: [&str; 2] = ["query-id", "query_id"];
const DOCUMENT_FIELDS: [&str; 2] = ["corpus-id", "doc_id"];
const GRADE_FIELDS: [&str; 2] = ["score", "relevance"];

/// The index of a document's id in a record, or the reason why there is none.
pub(super) type FindDocument<'a> = &'a mut dyn FnMut(Place, &str) -> Result<usize, String>;

/// Reads the grades of every query's documents, in the order of `queries`.
///
/// # Errors
/// [`DataError`] for a line without three (query, document, grade) or four (query, iteration,
/// document, grade) columns, a record without their fields, a grade that is not a number, an
/// unknown query or document, or a document with two different grades.
pub(super) fn read_grades(files: &TableFiles, queries: &Texts, find: FindDocument) -> Result<Vec<Grades>, DataError> {
    let mut grades = vec![Grades::new(); queries.items.len()];
    files.for_each_record(|place, record| {
        let Some((query, document, grade)) = parse_judgement(place, record, queries)? else { return Ok(()) };
        let (query_index, document_index) = (queries.find("query", &query)?, find(place, &document)?);
        match grades[query_index].insert(document_index, grade) {
            Some(earlier) if (earlier - grade).abs() > 0.0 => Err(format!(
                "the document {document:?} has grade {grade} for query {query:?}, but {earlier} on an earlier line"
            )),
            _ => Ok(()),
        }
    })?;
    Ok(grades)
}

/// A query's id, a document's id and the grade; `None` for BEIR's header line.
fn parse_judgement(place: Place, record: Record, queries: &Texts) -> Result<Option<(String, String, f64)>, String> {
    let line = match record {
        Record::Fields(mut fields) => {
            let (query, document) = (fields.required_id(&QUERY_FIELDS)?, fields.required_id(&DOCUMENT_FIELDS)?);
            return Ok(Some((query, document, fields.required_number(&GRADE_FIELDS)?)));
        }
        Record::Line(line) => line,
    };
    let (query, document, grade) = match split_columns(line)[..] {
        [query, _, grade] if place.number == 1 && grade.parse::<f64>().is_err() && !queries.has(query) => {
            return Ok(None);
        }
        [query, document, grade] | [query, _, document, grade] => (query, document, grade),
        ref other => {
            let found = other.len();
            return Err(format!(
                "expected 3 columns (query, document, grade) or 4 (query, iteration, document, grade), found {found}"
            ));
        }
    };
    Ok(Some((query.to_owned(), document.to_owned(), parse_number("grade", grade)?)))
}

/// The documents of each query with their scores, as a run lists them.
pub(super) type Scores = Vec<HashMap<usize, f64>>;

/// Reads the scores of every query's documents, in the order of `queries`.
///
/// # Errors
/// [`DataError`] for a line without six columns (query, Q0, document, rank, score, tag), a record
/// without their fields, a score that is not a number, an unknown query or document, or a document
/// that a query has twice.
pub(super) fn read_run(files: &TableFiles, queries: &Texts, find: FindDocument) -> Result<Scores, DataError> {
    let mut scores: Scores = vec![HashMap::new(); queries.items.len()];
    files.for_each_record(|place, record| {
        let (query, documents) = parse_ranked(record)?;
        let query_index = queries.find("query", &query)?;
        for (document, score) in documents {
            let document_index = find(place, &document)?;
            if scores[query_index].insert(document_index, score).is_some() {
                return Err(format!("the document {document:?} is listed twice for query {query:?}"));
            }
        }
        Ok(())
    })?;
    Ok(scores)
}

/// A query's id, and documents with scores: those of a line or of MTEB's list `corpus-ids`, whose
/// scores fall by one.
fn parse_ranked(record: Record) -> Result<(String, Vec<(String, f64)>), String> {
    match record {
        Record::Fields(mut fields) => {
            let query = fields.required_id(&QUERY_FIELDS)?;
            if fields.has("corpus-ids") {
                let ids = fields.list("corpus-ids")?.into_iter().enumerate();
                let ranked = ids.map(|(index, id)| Ok((parse_id(index, id)?, -(index as f64))));
                return Ok((query, ranked.collect::<Result<_, String>>()?));
            }
            let document = fields.required_id(&DOCUMENT_FIELDS)?;
            Ok((query, vec![(document, fields.required_number(&["score"])?)]))
        }
        Record::Line(line) => {
            let [query, _, document, _, score, _] = split_columns(line)[..] else {
                let found = split_columns(line).len();
                return Err(format!("expected 6 columns (query, Q0, document, rank, score, tag), found {found}"));
            };
            Ok((query.to_owned(), vec![(document.to_owned(), parse_number("score", score)?)]))
        }
    }
}

fn parse_id(index: usize, id: Value) -> Result<String, String> {
    match id {
        Value::String(id) => Ok(id),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("corpus-ids[{index}]: expected a string or an integer, found {}", describe_value(&other)))
        }
    }
}

/// Each query's ranking.
pub(super) fn rank(scores: Scores, documents: &[Document]) -> Vec<Vec<usize>> {
    let id = |index: usize| documents[index].id.as_bytes();
    let ranked = scores.into_iter().map(|scores| {
        let mut ranking: Vec<(usize, f64)> = scores.into_iter().collect();
        ranking.sort_by(|(left, left_score), (right, right_score)| {
            let by_score = right_score.partial_cmp(left_score).unwrap_or(Ordering::Equal);
            by_score.then_with(|| id(*right).cmp(id(*left)))
        });
        ranking.into_iter().map(|(index, _)| index).collect()
    });
    ranked.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    fn read_texts(content: &str) -> Texts {
        Texts::read(&file(content).path().to_owned().into()).unwrap()
    }

    fn texts() -> (Texts, Texts) {
        (read_texts("q1\tone\nq2\ttwo"), read_texts("a\tx\nb\ty\nc\tz"))
    }

    fn grades(content: &str) -> Result<Vec<Grades>, String> {
        let ((queries, documents), file) = (texts(), file(content));
        read_grades(&file.path().to_owned().into(), &queries, &mut |_, id| documents.find("document", id))
            .map_err(|error| after_line(&error))
    }

    fn run(content: &str) -> Result<Vec<Vec<usize>>, String> {
        let ((queries, documents), file) = (texts(), file(content));
        let scores = read_run(&file.path().to_owned().into(), &queries, &mut |_, id| documents.find("document", id));
        Ok(rank(scores.map_err(|error| after_line(&error))?, &documents.items))
    }

    fn after_line(error: &DataError) -> String {
        error.to_string().split_once(" line ").unwrap().1.to_owned()
    }

    #[test]
    fn judgements_in_three_or_four_columns_are_read() {
        let expected = vec![Grades::from([(0, 2.0), (1, -1.0)]), Grades::from([(2, 1.0)])];
        assert_eq!(grades("query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t-1\nq2\tc\t1\n").unwrap(), expected);
        assert_eq!(grades("q1 0 a 2\nq1 0 b -1\nq2 0 c 1\n").unwrap(), expected);
        assert_eq!(grades("q1\t0\ta\t2\nq1\t0\tb\t-1\nq1 0 b -1\nq2\t0\tc\t1\n").unwrap(), expected);
    }

    #[test]
    fn judgements_and_runs_may_be_json_with_the_fields_of_mteb_or_ir_datasets() {
        let lines = [
            r#"{"query-id": "q1", "corpus-id": "a", "score": 2}"#,
            r#"{"query_id": "q2", "doc_id": "c", "relevance": 1, "iteration": "0"}"#,
        ];
        assert_eq!(grades(&lines.join("\n")).unwrap(), [Grades::from([(0, 2.0)]), Grades::from([(2, 1.0)])]);
        let lines = [
            r#"{"query-id": "q1", "corpus-ids": ["b", "c", "a"]}"#,
            r#"{"query_id": "q2", "doc_id": "a", "score": 0.5}"#,
            r#"{"query_id": "q2", "doc_id": "b", "score": 0.75}"#,
        ];
        assert_eq!(run(&lines.join("\n")).unwrap(), [vec![1, 2, 0], vec![1, 0]]);
        for (content, message) in [
            (r#"{"query-id": "q1", "score": 1}"#, "1: corpus-id: this field is required"),
            (
                r#"{"query-id": "q1", "corpus-id": "a", "score": "1"}"#,
                "1: score: expected a number, found the string \"1\"",
            ),
        ] {
            assert_eq!(grades(content).unwrap_err(), message);
        }
        let invalid = run(r#"{"query-id": "q1", "corpus-ids": ["a", 1.5]}"#).unwrap_err();
        assert_eq!(invalid, "1: corpus-ids[1]: expected a string or an integer, found the number 1.5");
    }

    #[test]
    fn an_invalid_judgement_is_reported_with_line_and_value() {
        for (content, message) in [
            ("q1\ta\t1\nq1\tb\tx", "2: the grade \"x\" is not a number"),
            ("q1 0 a nan", "1: the grade \"nan\" is not a number"),
            (
                "q1 a",
                "1: expected 3 columns (query, document, grade) or 4 (query, iteration, document, grade), found 2",
            ),
            ("q1\ta\t1\nq1\ta\t2", "2: the document \"a\" has grade 2 for query \"q1\", but 1 on an earlier line"),
        ] {
            assert_eq!(grades(content).unwrap_err(), message);
        }
        assert!(grades("q1 0 d 1").unwrap_err().starts_with("1: the document \"d\" is not in "));
        assert!(grades("q3 0 a 1").unwrap_err().starts_with("1: the query \"q3\" is not in "));
    }

    #[test]
    fn a_run_is_ordered_by_score_and_then_by_id_descending() {
        let found = run("q1 Q0 a 1 0.5 t\nq1 Q0 b 2 0.5 t\nq1 Q0 c 3 0.9 t\nq2 Q0 a 1 -1e3 t\n").unwrap();
        assert_eq!(found, [vec![2, 1, 0], vec![0]]);
    }

    #[test]
    fn an_invalid_line_of_a_run_is_reported_with_line_and_value() {
        for (content, message) in [
            ("q1 Q0 a 1 0.5", "1: expected 6 columns (query, Q0, document, rank, score, tag), found 5"),
            ("q1 Q0 a 1 high t", "1: the score \"high\" is not a number"),
            ("q1 Q0 a 1 2 t\nq1 Q0 a 2 1 t", "2: the document \"a\" is listed twice for query \"q1\""),
        ] {
            assert_eq!(run(content).unwrap_err(), message);
        }
        assert!(run("q1 Q0 d 1 1 t").unwrap_err().starts_with("1: the document \"d\" is not in "));
        assert!(run("q9 Q0 a 1 1 t").unwrap_err().starts_with("1: the query \"q9\" is not in "));
    }
}
