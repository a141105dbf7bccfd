//! The queries with the largest losses and gains, and the documents that explain them.

use super::{Case, ROUNDING};
use crate::eval::datasets::{Dataset, Query, is_relevant};
use crate::eval::report::{ExampleDocument, ExampleQuery, QueryReport};

/// Maximum number of queries with losses, and with gains.
const MAX_QUERIES: usize = 8;

/// Number of top-ranked documents to include for each query.
const TOP_DOCUMENTS: usize = 5;
/// Maximum number of documents for each query, including relevant ones of lower rank.
const MAX_DOCUMENTS: usize = 12;

/// Maximum length of a document's text, in characters.
const TEXT_CHARACTERS: usize = 400;

/// Finds the queries with the largest losses against BM25, and those with the largest gains, each
/// the largest first.
pub(super) fn find_examples(
    set: &Dataset,
    cases: &[Case],
    per_query: &[QueryReport],
    primary: &str,
) -> (Vec<ExampleQuery>, Vec<ExampleQuery>) {
    let gain = |query: &QueryReport| query.scores.reranked[primary] - query.scores.bm25[primary];
    let mut gains: Vec<(f64, &Case)> =
        per_query.iter().map(gain).zip(cases).filter(|(gain, _)| gain.abs() > ROUNDING).collect();
    gains.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let example = |(gain, case): &(f64, &Case)| ExampleQuery {
        id: case.query.id.clone(),
        query: case.query.text.clone(),
        instruction: case.run.instruction.clone(),
        gain: *gain,
        documents: example_documents(set, case),
    };
    let losses = gains.iter().take_while(|(gain, _)| *gain < 0.0).take(MAX_QUERIES).map(example).collect();
    let wins = gains.iter().rev().take_while(|(gain, _)| *gain > 0.0).take(MAX_QUERIES).map(example).collect();
    (losses, wins)
}

fn example_documents(set: &Dataset, case: &Case) -> Vec<ExampleDocument> {
    let Some(pass) = case.run.orders.first() else { return Vec::new() };
    let Query { candidates, grades, .. } = case.query;
    let bm25_rank = |place: usize| case.bm25.iter().position(|other| *other == place).map_or(0, |index| index + 1);
    let ranked = pass.ranking.iter().enumerate().map(|(index, candidate)| (index + 1, *candidate));
    let shown =
        ranked.filter(|(rank, candidate)| *rank <= TOP_DOCUMENTS || is_relevant(grades, candidates[*candidate]));
    let document = |(rank, candidate): (usize, usize)| {
        let place = candidates[candidate];
        let document = &set.documents[place];
        ExampleDocument {
            id: document.id.clone(),
            text: excerpt(&document.text),
            grade: grades.get(&place).copied(),
            rank,
            input_rank: candidate + 1,
            bm25_rank: bm25_rank(place),
            score: pass.scores[candidate],
            truncated: pass.truncated.as_ref().map(|cut| cut[candidate]),
        }
    };
    shown.take(MAX_DOCUMENTS).map(document).collect()
}

/// The first 400 characters of a text. The last one is `…` if the text is longer.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARACTERS) {
        None => text.to_owned(),
        Some(_) => text.chars().take(TEXT_CHARACTERS - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_ends_with_an_ellipsis() {
        assert_eq!(excerpt(&"x".repeat(400)).chars().count(), 400);
        assert!(excerpt(&"x".repeat(401)).ends_with("x…"));
        assert_eq!(excerpt(&"x".repeat(401)).chars().count(), 400);
    }
}
