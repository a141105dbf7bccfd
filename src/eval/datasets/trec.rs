//! Relevance judgements and runs, in TREC's columns or BEIR's.
//!
//! A run's order is `trec_eval`'s: score descending, equal scores by document id descending (compared as bytes); the
//! rank column is not read. Scores are kept as f64 (`trec_eval` rounds them to f32 first).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;

use super::lines::{columns, for_each_line, number};
use super::texts::Texts;
use super::{DataError, Grades};

/// The grades of every query's documents, by the query's place in `queries`.
///
/// # Errors
/// A line with other than three (query, document, grade) or four (query, iteration, document, grade) columns, a grade
/// that is no number, an unknown query or document, and a document with two different grades.
pub(super) fn read_grades(path: &Path, queries: &Texts, documents: &Texts) -> Result<Vec<Grades>, DataError> {
    let mut grades = vec![Grades::new(); queries.items.len()];
    for_each_line(path, |line_number, line| {
        let (query, document, grade) = match columns(line)[..] {
            // BEIR's header: no number, and no query of the set.
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
        let grade = number("grade", grade)?;
        let (query_place, document_place) = (queries.place("query", query)?, documents.place("document", document)?);
        match grades[query_place].insert(document_place, grade) {
            Some(earlier) if (earlier - grade).abs() > 0.0 => Err(format!(
                "the document {document:?} has the grade {grade} for query {query:?}, and {earlier} on an earlier line"
            )),
            _ => Ok(()),
        }
    })?;
    Ok(grades)
}

/// The ranking of every query's documents, by the query's place in `queries`.
///
/// # Errors
/// A line with other than six columns (query, Q0, document, rank, score, tag), a score that is no number, an unknown
/// query or document, and a document that is there twice for a query.
pub(super) fn read_run(path: &Path, queries: &Texts, documents: &Texts) -> Result<Vec<Vec<usize>>, DataError> {
    let mut scores: Vec<HashMap<usize, f64>> = vec![HashMap::new(); queries.items.len()];
    for_each_line(path, |_, line| {
        let [query, _, document, _, score, _] = columns(line)[..] else {
            let found = columns(line).len();
            return Err(format!("expected 6 columns (query, Q0, document, rank, score, tag), found {found}"));
        };
        let score = number("score", score)?;
        let (query_place, document_place) = (queries.place("query", query)?, documents.place("document", document)?);
        match scores[query_place].insert(document_place, score) {
            Some(_) => Err(format!("the document {document:?} is there twice for query {query:?}")),
            None => Ok(()),
        }
    })?;
    let id = |place: usize| documents.items[place].id.as_bytes();
    let ranked = scores.into_iter().map(|scores| {
        let mut ranking: Vec<(usize, f64)> = scores.into_iter().collect();
        ranking.sort_by(|(left, left_score), (right, right_score)| {
            let by_score = right_score.partial_cmp(left_score).unwrap_or(Ordering::Equal);
            by_score.then_with(|| id(*right).cmp(id(*left)))
        });
        ranking.into_iter().map(|(place, _)| place).collect()
    });
    Ok(ranked.collect())
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
        read_grades(file(content).path(), &queries, &documents).map_err(|error| after_line(&error))
    }

    fn run(content: &str) -> Result<Vec<Vec<usize>>, String> {
        let (queries, documents) = texts();
        read_run(file(content).path(), &queries, &documents).map_err(|error| after_line(&error))
    }

    fn after_line(error: &DataError) -> String {
        error.to_string().split_once(" line ").unwrap().1.to_owned()
    }

    #[test]
    fn both_kinds_of_judgements_are_read() {
        let expected = vec![Grades::from([(0, 2.0), (1, -1.0)]), Grades::from([(2, 1.0)])];
        assert_eq!(grades("query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t-1\nq2\tc\t1\n").unwrap(), expected);
        assert_eq!(grades("q1 0 a 2\nq1 0 b -1\nq2 0 c 1\n").unwrap(), expected);
        assert_eq!(grades("q1\t0\ta\t2\nq1\t0\tb\t-1\nq1 0 b -1\nq2\t0\tc\t1\n").unwrap(), expected);
    }

    #[test]
    fn a_wrong_judgement_is_named_by_line_and_value() {
        for (content, message) in [
            ("q1\ta\t1\nq1\tb\tx", "2: the grade \"x\" is no number"),
            ("q1 0 a nan", "1: the grade \"nan\" is no number"),
            (
                "q1 a",
                "1: expected 3 columns (query, document, grade) or 4 (query, iteration, document, grade), found 2",
            ),
            ("q1\ta\t1\nq1\ta\t2", "2: the document \"a\" has the grade 2 for query \"q1\", and 1 on an earlier line"),
        ] {
            assert_eq!(grades(content).unwrap_err(), message);
        }
        assert!(grades("q1 0 d 1").unwrap_err().starts_with("1: the document \"d\" is not in "));
        assert!(grades("q3 0 a 1").unwrap_err().starts_with("1: the query \"q3\" is not in "));
    }

    #[test]
    fn a_run_is_ordered_by_score_and_equal_scores_by_id_descending() {
        let found = run("q1 Q0 a 1 0.5 t\nq1 Q0 b 2 0.5 t\nq1 Q0 c 3 0.9 t\nq2 Q0 a 1 -1e3 t\n").unwrap();
        assert_eq!(found, [vec![2, 1, 0], vec![0]]);
    }

    #[test]
    fn a_wrong_line_of_a_run_is_named_by_line_and_value() {
        for (content, message) in [
            ("q1 Q0 a 1 0.5", "1: expected 6 columns (query, Q0, document, rank, score, tag), found 5"),
            ("q1 Q0 a 1 high t", "1: the score \"high\" is no number"),
            ("q1 Q0 a 1 2 t\nq1 Q0 a 2 1 t", "2: the document \"a\" is there twice for query \"q1\""),
        ] {
            assert_eq!(run(content).unwrap_err(), message);
        }
        assert!(run("q1 Q0 d 1 1 t").unwrap_err().starts_with("1: the document \"d\" is not in "));
        assert!(run("q9 Q0 a 1 1 t").unwrap_err().starts_with("1: the query \"q9\" is not in "));
    }
}
