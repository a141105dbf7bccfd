//! Reads relevance judgements (TREC's four columns or BEIR's three) and runs (TREC's six columns).
//!
//! A run is ordered as `trec_eval` orders it: by score, descending, and equal scores by document
//! id, descending (compared as bytes). The rank column is ignored. Scores are f64; `trec_eval`
//! rounds them to f32.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;

use super::lines::{for_each_line, parse_number, split_columns};
use super::texts::Texts;
use super::{DataError, Document, Grades};

/// The index of a document's id on a line, or the reason why there is none.
pub(super) type FindDocument<'a> = &'a mut dyn FnMut(usize, &str) -> Result<usize, String>;

/// Reads the grades of every query's documents, in the order of `queries`.
///
/// # Errors
/// [`DataError`] for a line without three (query, document, grade) or four (query, iteration,
/// document, grade) columns, a grade that is not a number, an unknown query or document, or a
/// document with two different grades.
pub(super) fn read_grades(path: &Path, queries: &Texts, find: FindDocument) -> Result<Vec<Grades>, DataError> {
    let mut grades = vec![Grades::new(); queries.items.len()];
    for_each_line(path, |line_number, line| {
        let (query, document, grade) = match split_columns(line)[..] {
            // BEIR's header line.
            [query, _, grade] if line_number == 1 && grade.parse::<f64>().is_err() && !queries.has(query) => {
                return Ok(());
            }
            [query, document, grade] | [query, _, document, grade] => (query, document, grade),
            ref other => {
                let found = other.len();
                return Err(format!(
                    "expected 3 columns (query, document, grade) or 4 (query, iteration, document, grade), found {found}"
                ));
            }
        };
        let grade = parse_number("grade", grade)?;
        let (query_index, document_index) = (queries.find("query", query)?, find(line_number, document)?);
        match grades[query_index].insert(document_index, grade) {
            Some(earlier) if (earlier - grade).abs() > 0.0 => Err(format!(
                "the document {document:?} has grade {grade} for query {query:?}, but {earlier} on an earlier line"
            )),
            _ => Ok(()),
        }
    })?;
    Ok(grades)
}

/// The documents of each query with their scores, as a run lists them.
pub(super) type Scores = Vec<HashMap<usize, f64>>;

/// Reads the scores of every query's documents, in the order of `queries`.
///
/// # Errors
/// [`DataError`] for a line without six columns (query, Q0, document, rank, score, tag), a score
/// that is not a number, an unknown query or document, or a document that a query has twice.
pub(super) fn read_run(path: &Path, queries: &Texts, find: FindDocument) -> Result<Scores, DataError> {
    let mut scores: Scores = vec![HashMap::new(); queries.items.len()];
    for_each_line(path, |line_number, line| {
        let [query, _, document, _, score, _] = split_columns(line)[..] else {
            let found = split_columns(line).len();
            return Err(format!("expected 6 columns (query, Q0, document, rank, score, tag), found {found}"));
        };
        let score = parse_number("score", score)?;
        let (query_index, document_index) = (queries.find("query", query)?, find(line_number, document)?);
        match scores[query_index].insert(document_index, score) {
            Some(_) => Err(format!("the document {document:?} is listed twice for query {query:?}")),
            None => Ok(()),
        }
    })?;
    Ok(scores)
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

    fn texts() -> (Texts, Texts) {
        (Texts::read(file("q1\tone\nq2\ttwo").path()).unwrap(), Texts::read(file("a\tx\nb\ty\nc\tz").path()).unwrap())
    }

    fn grades(content: &str) -> Result<Vec<Grades>, String> {
        let (queries, documents) = texts();
        read_grades(file(content).path(), &queries, &mut |_, id| documents.find("document", id))
            .map_err(|error| after_line(&error))
    }

    fn run(content: &str) -> Result<Vec<Vec<usize>>, String> {
        let (queries, documents) = texts();
        let scores = read_run(file(content).path(), &queries, &mut |_, id| documents.find("document", id));
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
