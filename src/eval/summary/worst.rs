//! The queries with the largest losses, and the documents that explain them.

use super::{Case, ROUNDING};
use crate::eval::datasets::{Dataset, Query, is_relevant};
use crate::eval::report::{QueryReport, WorstDocument, WorstQuery};

/// Maximum number of queries.
const MAX_QUERIES: usize = 8;

/// Number of top-ranked documents to include for each query.
const TOP_DOCUMENTS: usize = 5;
/// Maximum number of documents for each query, including relevant ones of lower rank.
const MAX_DOCUMENTS: usize = 12;

/// Maximum length of a document's text, in characters.
const TEXT_CHARACTERS: usize = 400;

/// Finds the queries with the largest losses against BM25.
pub(super) fn find_worst(set: &Dataset, cases: &[Case], per_query: &[QueryReport], primary: &str) -> Vec<WorstQuery> {
    let gain = |query: &QueryReport| query.scores.reranked[primary] - query.scores.bm25[primary];
    let mut losses: Vec<(f64, &Case)> =
        per_query.iter().map(gain).zip(cases).filter(|(gain, _)| *gain < -ROUNDING).collect();
    losses.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let shown = losses.into_iter().take(MAX_QUERIES).map(|(gain, case)| WorstQuery {
        id: case.query.id.clone(),
        query: case.query.text.clone(),
        instruction: case.run.instruction.clone(),
        gain,
        documents: worst_documents(set, case),
    });
    shown.collect()
}

fn worst_documents(set: &Dataset, case: &Case) -> Vec<WorstDocument> {
    let Some(pass) = case.run.orders.first() else { return Vec::new() };
    let Query { candidates, grades, .. } = case.query;
    let bm25_rank = |place: usize| case.bm25.iter().position(|other| *other == place).map_or(0, |index| index + 1);
    let ranked = pass.ranking.iter().enumerate().map(|(index, candidate)| (index + 1, *candidate));
    let shown =
        ranked.filter(|(rank, candidate)| *rank <= TOP_DOCUMENTS || is_relevant(grades, candidates[*candidate]));
    let document = |(rank, candidate): (usize, usize)| {
        let place = candidates[candidate];
        let document = &set.documents[place];
        WorstDocument {
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
