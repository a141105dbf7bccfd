//! Cascades: cheap stages rank all documents, better stages rank the documents that are left.
//!
//! Pure arithmetic: how many documents each stage keeps, whether an order is decided, and scores
//! that fall along the list although stages measure on different scales.

use std::time::Duration;

use super::RankedDocument;

/// How many documents a stage passes on to the next one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// A number of documents, at least 1.
    Count(usize),
    /// A share of the request's documents, above 0 and at most 1; rounded up.
    Share(f64),
}

impl Keep {
    /// Documents that are kept of a request with `documents` documents, `present` of which reached
    /// the stage: at least one.
    #[must_use]
    pub fn apply(self, documents: usize, present: usize) -> usize {
        let wanted = match self {
            Self::Count(count) => count,
            Self::Share(share) => (documents as f64 * share).ceil() as usize,
        };
        wanted.clamp(1, present.max(1))
    }
}

/// A request's options for a cascade.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CascadeOptions {
    /// Replaces what the stages keep, in order. One entry more than the stages of models keep is
    /// for the caller's own scores, and comes first.
    pub keep: Option<Vec<Keep>>,
    /// Replaces the probability at which later stages are skipped; 0 skips none.
    pub stop_when_sure: Option<f64>,
    /// The caller's own scores, one for each document: the larger, the better.
    pub scores: Option<Vec<f64>>,
    /// The scores that stand in the documents, if each of them has one. They count only in a
    /// cascade that begins with the caller's scores.
    pub document_scores: Option<Vec<f64>>,
}

impl CascadeOptions {
    /// Whether the request asks for stages, also of a model that is no cascade.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.keep.is_some() || self.stop_when_sure.is_some() || self.scores.is_some()
    }
}

/// Why a stage did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// It would keep every document, so the next stage decides the order alone.
    KeepsAll,
    /// The order was decided by the stage before.
    Sure,
    /// The request's budget leaves nothing for it.
    Budget,
    /// Its model is not loaded.
    NotLoaded,
    /// It failed.
    Failed,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::KeepsAll, Self::Sure, Self::Budget, Self::NotLoaded, Self::Failed];

    /// The word on the wire and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeepsAll => "keeps_all",
            Self::Sure => "sure",
            Self::Budget => "budget",
            Self::NotLoaded => "not_loaded",
            Self::Failed => "failed",
        }
    }
}

/// The work of one stage for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageReport {
    /// Its number: the caller's scores are 0, the first model is 1.
    pub stage: usize,
    /// The model's name; `None` for the caller's scores.
    pub model: Option<String>,
    /// Documents that it ranked.
    pub documents: usize,
    /// Tokens that its model read.
    pub tokens: usize,
    /// From its beginning to its ranking; `None` if it did not run, and for the caller's scores.
    pub time: Option<Duration>,
    /// Why it did not run, if it did not.
    pub skipped: Option<SkipReason>,
}

/// The work of a cascade for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CascadeReport {
    /// The cascade's name.
    pub name: String,
    /// Its stages, in order.
    pub stages: Vec<StageReport>,
    /// Estimate of the tokens of other documents, which the last model alone would have read.
    pub tokens_saved: usize,
}

/// The probability that no document stands behind a less relevant one of the first `top_n`, if each
/// document is relevant with the probability `relevance`, independently of the others, and not
/// relevant otherwise. `relevance` is in the order of the ranking.
///
/// The order is right if the first `m` documents are relevant and all later ones are not, for some
/// `m` below `top_n`, or if the first `top_n` are relevant, whatever the others are. The terms
/// exclude each other, so their probabilities add up.
#[must_use]
pub fn probability_of_order(relevance: &[f32], top_n: usize) -> f64 {
    let top_n = top_n.min(relevance.len());
    // For each place, the probability that no document from there on is relevant.
    let mut none_from = vec![1.0; relevance.len() + 1];
    for (place, relevance) in relevance.iter().enumerate().rev() {
        none_from[place] = none_from[place + 1] * (1.0 - f64::from(*relevance));
    }
    let (mut all_before, mut sum) = (1.0, 0.0);
    for (place, relevance) in relevance[..top_n].iter().enumerate() {
        sum += all_before * none_from[place];
        all_before *= f64::from(*relevance);
    }
    sum + all_before
}

/// Reduces the numbers of documents of consecutive stages, all in proportion, until `fits`. A stage
/// with fewer than two documents would change no order: it gets none, and neither do later ones.
pub fn reduce_to_fit(counts: &[usize], fits: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    const PARTS: usize = 1024;
    let scaled = |parts: usize| {
        let mut is_empty = false;
        let mut scale = |count: &usize| {
            let scaled = (*count as u128 * parts as u128 / PARTS as u128) as usize;
            is_empty |= scaled < 2 && scaled < *count;
            if is_empty { 0 } else { scaled }
        };
        counts.iter().map(&mut scale).collect::<Vec<_>>()
    };
    if fits(&scaled(PARTS)) {
        return scaled(PARTS);
    }
    // `low` fits, or is nothing; `high` does not fit.
    let (mut low, mut high) = (0, PARTS);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(&scaled(middle)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    scaled(low)
}

/// Makes relevances fall along a list whose documents were ranked by different stages, the last
/// stage's first. The scores of each earlier stage, with their spreads and those of their passages,
/// are scaled down until its best is at most the worst of the stage above; those of the last stage
/// stay.
pub fn scale_down_earlier_stages(results: &mut [RankedDocument]) {
    scale_down_groups(results, |left, right| left.stage == right.stage);
}

/// Scales the scores of each group of neighbours but the first down until its best is at most the
/// worst of the group before.
pub(super) fn scale_down_groups(
    results: &mut [RankedDocument],
    is_same: impl FnMut(&RankedDocument, &RankedDocument) -> bool,
) {
    let mut ceiling = 1.0_f32;
    for group in results.chunk_by_mut(is_same) {
        let best = group.iter().map(|result| result.relevance_score).fold(0.0, f32::max);
        let factor = if best > ceiling { ceiling / best } else { 1.0 };
        // The quotient may be rounded up.
        let factor = if best * factor > ceiling { factor.next_down() } else { factor };
        for result in group.iter_mut() {
            result.relevance_score *= factor;
            result.spread = result.spread.map(|spread| spread * factor);
            if let Some(passage) = &mut result.passage {
                passage.relevance_score *= factor;
            }
        }
        ceiling = group.iter().map(|result| result.relevance_score).fold(ceiling, f32::min);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rerank::BestPassage;

    #[test]
    fn a_stage_keeps_a_number_or_a_share_and_at_least_one_document() {
        for (keep, present, kept) in [
            (Keep::Count(32), 100, 32),
            (Keep::Count(32), 10, 10),
            (Keep::Share(0.25), 100, 25),
            (Keep::Share(0.251), 100, 26),
            (Keep::Share(1.0), 40, 40),
            (Keep::Share(0.001), 100, 1),
        ] {
            assert_eq!(keep.apply(100, present), kept, "{keep:?}");
        }
    }

    #[test]
    fn an_order_is_sure_if_relevant_documents_cannot_stand_behind_others() {
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
        assert!(close(probability_of_order(&[1.0, 1.0, 0.0, 0.0], 4), 1.0));
        assert!(close(probability_of_order(&[0.0, 1.0], 2), 0.0));
        // By hand: neither is relevant, only the first is, or both are.
        assert!(close(probability_of_order(&[0.9, 0.2], 2), 0.1 * 0.8 + 0.9 * 0.8 + 0.9 * 0.2));
        // The first is relevant, or none is.
        assert!(close(probability_of_order(&[0.9, 0.2, 0.5], 1), 0.9 + 0.1 * 0.8 * 0.5));
        assert!(close(probability_of_order(&[0.3], 1), 1.0));
        assert!(close(probability_of_order(&[], 3), 1.0));
    }

    #[test]
    fn counts_shrink_in_proportion_until_they_fit() {
        let cost = |counts: &[usize]| counts[0] * 10 + counts[1] * 100;
        assert_eq!(reduce_to_fit(&[32, 10], |counts| cost(counts) <= 5000), [32, 10]);
        assert_eq!(reduce_to_fit(&[32, 10], |counts| cost(counts) <= 700), [19, 5]);
        assert_eq!(reduce_to_fit(&[32, 10], |counts| cost(counts) <= 60), [6, 0]);
        assert_eq!(reduce_to_fit(&[32, 10], |counts| cost(counts) <= 5), [0, 0]);
        assert_eq!(reduce_to_fit(&[1], |_| true), [1], "a list of one document is ranked");
        assert_eq!(reduce_to_fit(&[], |_| false), [0; 0]);
    }

    fn result(stage: usize, relevance_score: f32) -> RankedDocument {
        RankedDocument { relevance_score, stage: Some(stage), ..RankedDocument::default() }
    }

    #[test]
    fn spreads_and_passages_are_scaled_with_their_documents() {
        let passage = BestPassage { start: 3, end: 9, relevance_score: 0.8, count: 2 };
        let earlier = RankedDocument { spread: Some(0.2), passage: Some(passage), ..result(1, 0.8) };
        let mut results = [result(2, 0.4), earlier];
        scale_down_earlier_stages(&mut results);
        let scaled = results[1].passage.unwrap();
        assert_eq!((results[1].relevance_score, scaled.relevance_score), (0.4, 0.4));
        assert_eq!((results[1].spread, results[0].spread), (Some(0.1), None));
    }

    proptest! {
        /// Scores fall along the list, stay in [0, 1], and those of the last stage do not change.
        #[test]
        fn scores_fall_along_the_list(stages in prop::collection::vec(prop::collection::vec(0.0_f32..=1.0, 1..9), 1..4)) {
            let mut results = Vec::new();
            for (number, mut scores) in stages.into_iter().enumerate() {
                scores.sort_by(|left, right| right.total_cmp(left));
                results.extend(scores.into_iter().map(|score| result(9 - number, score)));
            }
            let before = results.clone();
            scale_down_earlier_stages(&mut results);
            prop_assert!(results.is_sorted_by(|left, right| left.relevance_score >= right.relevance_score));
            for (before, after) in before.iter().zip(&results) {
                prop_assert!((0.0..=1.0).contains(&after.relevance_score));
                prop_assert!(before.stage != Some(9) || before.relevance_score.to_bits() == after.relevance_score.to_bits());
            }
        }
    }
}
