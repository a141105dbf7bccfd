//! The least score of a result: given as a number, or chosen from the scores of the ranking.

use super::{RankedDocument, Ranking};

/// The least `relevance_score` of a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MinScore {
    /// This score, in `[0, 1]`.
    Score(f32),
    /// The upper end of the largest gap between the scores of the documents that count as relevant.
    Auto,
}

/// The minimum score of a ranking, and how many documents it left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinScoreReport {
    /// The least `relevance_score` of a result.
    pub min_score: f32,
    /// Documents with a lower score.
    pub left_out: usize,
}

impl MinScore {
    /// The least score of a result, given the ranked documents, best first.
    ///
    /// `relevant_from` is the score from which a document counts as relevant, where the family's
    /// scores say that. [`MinScore::Auto`] considers the relevant documents only. It cuts below the
    /// largest gap between two neighbours, where the distance of the last one to `relevant_from`
    /// counts as a gap too: documents that are all clearly relevant all stay. If no document is
    /// relevant, the score is `relevant_from` itself. Without `relevant_from`, the largest gap
    /// between two neighbours decides, and at least one document stays.
    #[must_use]
    pub fn resolve(self, results: &[RankedDocument], relevant_from: Option<f32>) -> f32 {
        let floor = match self {
            Self::Score(score) => return score,
            Self::Auto => relevant_from.unwrap_or(0.0),
        };
        // Unread documents have no score of their own.
        let is_candidate = |result: &&RankedDocument| result.is_read() && result.relevance_score >= floor;
        let scores: Vec<f32> = results.iter().filter(is_candidate).map(|result| result.relevance_score).collect();
        let Some(last) = scores.last() else { return floor };
        let between = scores.windows(2).map(|pair| (pair[0], pair[0] - pair[1]));
        let to_floor = relevant_from.map(|floor| (*last, last - floor));
        // Of equal gaps the last wins, so that more documents stay.
        let largest = between.chain(to_floor).max_by(|(_, left), (_, right)| left.total_cmp(right));
        largest.map_or(*last, |(score, _)| score)
    }
}

impl Ranking {
    /// Leaves out the results below a minimum score, and keeps the best `top_n` of the others.
    /// `relevant_from` is as for [`MinScore::resolve`].
    pub fn select(&mut self, min_score: Option<MinScore>, relevant_from: Option<f32>, top_n: Option<usize>) {
        self.min_score = min_score.map(|rule| {
            let min_score = rule.resolve(&self.results, relevant_from);
            let all = self.results.len();
            self.results.retain(|result| result.relevance_score >= min_score);
            MinScoreReport { min_score, left_out: all - self.results.len() }
        });
        self.results.truncate(top_n.unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(scores: &[f32]) -> Vec<RankedDocument> {
        let scores = scores.iter().enumerate();
        scores
            .map(|(index, score)| RankedDocument {
                index,
                relevance_score: *score,
                raw_score: *score,
                tokens: 3,
                tokens_read: 3,
                passage: None,
                stage: None,
                exit_layer: None,
                spread: None,
            })
            .collect()
    }

    fn kept(scores: &[f32], relevant_from: Option<f32>) -> usize {
        let min_score = MinScore::Auto.resolve(&results(scores), relevant_from);
        scores.iter().filter(|score| **score >= min_score).count()
    }

    #[test]
    fn a_number_is_the_least_score() {
        let same = MinScore::Score(0.3).resolve(&results(&[0.9, 0.1]), Some(0.5));
        assert!((same - 0.3).abs() < f32::EPSILON);
    }

    #[test]
    fn auto_cuts_at_the_largest_gap_between_relevant_documents() {
        assert_eq!(kept(&[0.98, 0.97, 0.62, 0.6, 0.1], Some(0.5)), 2);
        assert_eq!(kept(&[0.98, 0.97, 0.96, 0.3], Some(0.5)), 3, "all of them are clearly relevant");
        assert_eq!(kept(&[0.9], Some(0.5)), 1);
        assert_eq!(kept(&[0.9, 0.9, 0.9], Some(0.5)), 3);
    }

    #[test]
    fn auto_keeps_nothing_where_nothing_is_relevant() {
        assert_eq!(kept(&[0.49, 0.1], Some(0.5)), 0);
        assert_eq!(kept(&[0.49, 0.1], Some(0.4)), 1);
    }

    #[test]
    fn auto_keeps_something_where_the_scores_do_not_tell_what_is_relevant() {
        assert_eq!(kept(&[0.2, 0.19, 0.05], None), 2);
        assert_eq!(kept(&[0.01], None), 1);
        assert_eq!(kept(&[], None), 0);
    }

    #[test]
    fn a_document_that_was_not_read_makes_no_gap() {
        let mut ranked = results(&[0.8, 0.7, 0.0]);
        ranked[2].tokens_read = 0;
        let min_score = MinScore::Auto.resolve(&ranked, None);
        assert!((min_score - 0.8).abs() < f32::EPSILON, "{min_score}");
    }
}
