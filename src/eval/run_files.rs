//! Writes rankings and judgements as TREC files, so that `trec_eval`, `ir_measures` and `ranx` can
//! recompute every measure.
//!
//! For a set `NAME` the folder gets `NAME.qrels` (the evaluated queries), `NAME.1.run` and so on
//! (the reranked lists, one file for each input order; a measure of the report is their mean),
//! `NAME.input.run` and `NAME.bm25.run`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::datasets::{Dataset, Query};
use super::run::{Pass, QueryRun};

/// Writes the files of a set, and returns their number. `runs` and `bm25` have one item for each
/// query; `bm25` has the reranked candidates in BM25's order. `tag` is the last column of a run.
///
/// # Errors
/// The operating system's error, with the file.
pub fn write(
    folder: &Path,
    set: &Dataset,
    runs: &[QueryRun],
    bm25: &[Vec<usize>],
    tag: &str,
) -> Result<usize, (PathBuf, io::Error)> {
    let writer = Writer { set, tag: word(tag) };
    let orders = runs.iter().map(|run| run.orders.len()).max().unwrap_or(0);
    let mut files = vec![
        ("qrels".to_owned(), writer.judgements()),
        ("input.run".to_owned(), writer.list(|index| by_rank(&set.queries[index].candidates))),
        ("bm25.run".to_owned(), writer.list(|index| by_rank(&complete(&bm25[index], &set.queries[index])))),
    ];
    for order in 0..orders {
        let reranked = |index: usize| {
            let pass: Option<&Pass> = runs[index].orders.get(order);
            pass.map_or_else(Vec::new, |pass| by_score(pass, &set.queries[index]))
        };
        files.push((format!("{}.run", order + 1), writer.list(reranked)));
    }
    // A set that is named after its path.
    let name = set.name.replace(['/', '\\'], "_");
    for (ending, content) in &files {
        let path = folder.join(format!("{name}.{ending}"));
        fs::write(&path, content).map_err(|cause| (path, cause))?;
    }
    Ok(files.len())
}

struct Writer<'a> {
    set: &'a Dataset,
    tag: String,
}

impl Writer<'_> {
    fn judgements(&self) -> String {
        let mut lines = String::new();
        for query in &self.set.queries {
            let mut grades: Vec<(&usize, &f64)> = query.grades.iter().collect();
            grades.sort_by_key(|(place, _)| **place);
            for (place, grade) in grades {
                let document = word(&self.set.documents[*place].id);
                let _infallible = writeln!(lines, "{} 0 {document} {grade}", word(&query.id));
            }
        }
        lines
    }

    /// The lines of a run; `ranked` returns a query's documents with their scores, best first.
    fn list(&self, ranked: impl Fn(usize) -> Vec<(usize, f64)>) -> String {
        let mut lines = String::new();
        for (index, query) in self.set.queries.iter().enumerate() {
            for (rank, (place, score)) in ranked(index).into_iter().enumerate() {
                let (query, document) = (word(&query.id), word(&self.set.documents[place].id));
                let _infallible = writeln!(lines, "{query} Q0 {document} {} {score} {}", rank + 1, self.tag);
            }
        }
        lines
    }
}

/// The documents of a ranking without scores, with scores that fall by one.
fn by_rank(ranking: &[usize]) -> Vec<(usize, f64)> {
    ranking.iter().enumerate().map(|(index, place)| (*place, (ranking.len() - index) as f64)).collect()
}

/// A ranking of some candidates, then the other candidates of the first stage.
fn complete(ranking: &[usize], query: &Query) -> Vec<usize> {
    ranking.iter().chain(query.candidates.iter().skip(ranking.len())).copied().collect()
}

/// The reranked documents with their scores, then the other candidates with lower ones. If a
/// listwise system's scores do not fall along its ranking, ranks take their place.
fn by_score(pass: &Pass, query: &Query) -> Vec<(usize, f64)> {
    let ranking: Vec<usize> = pass.ranking.iter().map(|candidate| query.candidates[*candidate]).collect();
    let scores: Vec<f64> = pass.ranking.iter().map(|candidate| pass.scores[*candidate]).collect();
    let ranking = complete(&ranking, query);
    if !scores.is_sorted_by(|left, right| left >= right) {
        return by_rank(&ranking);
    }
    let lowest = scores.last().copied().unwrap_or(0.0).floor();
    let others = (1..).map(|step| lowest - f64::from(step));
    ranking.into_iter().zip(scores.into_iter().chain(others)).collect()
}

/// A column of a TREC file: white space and `%` are percent-encoded, because columns end at white
/// space.
fn word(text: &str) -> String {
    if !text.contains(char::is_whitespace) {
        return text.to_owned();
    }
    let mut word = String::new();
    for letter in text.chars() {
        if letter.is_whitespace() || letter == '%' {
            for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                let _infallible = write!(word, "%{byte:02X}");
            }
        } else {
            word.push(letter);
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pass, query_run, set};
    use super::*;

    fn written(name: &str, scores: &[f64]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut set = set("s", 1);
        set.documents[4].id = "d 4".to_owned();
        let runs = [query_run(vec![pass(scores, &[0, 1, 2, 3]), pass(scores, &[3, 2, 1, 0])])];
        assert_eq!(write(folder.path(), &set, &runs, &[vec![1, 0, 2, 3]], "my model").unwrap(), 5);
        fs::read_to_string(folder.path().join(name)).unwrap()
    }

    #[test]
    fn a_run_has_the_reranked_documents_with_scores_and_then_the_others() {
        assert_eq!(
            written("s.2.run", &[0.1, 0.2, 0.9, 0.3]),
            "q0 Q0 d2 1 0.9 my%20model\nq0 Q0 d3 2 0.3 my%20model\nq0 Q0 d1 3 0.2 my%20model\n\
             q0 Q0 d0 4 0.1 my%20model\nq0 Q0 d%204 5 -1 my%20model\n"
        );
        assert_eq!(written("s.qrels", &[0.0; 4]), "q0 0 d2 1\nq0 0 d3 0\n");
        assert!(written("s.bm25.run", &[0.0; 4]).starts_with("q0 Q0 d1 1 5 my%20model\nq0 Q0 d0 2 4 my%20model\n"));
        assert!(written("s.input.run", &[0.0; 4]).ends_with("q0 Q0 d%204 5 1 my%20model\n"));
    }

    #[test]
    fn scores_that_do_not_fall_are_replaced_by_ranks() {
        let mut pass = pass(&[0.1, 0.2, 0.9, 0.3], &[0, 1, 2, 3]);
        pass.ranking = vec![0, 1, 2, 3];
        let ranked = by_score(&pass, &set("s", 1).queries[0]);
        assert_eq!(ranked, [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]);
    }
}
