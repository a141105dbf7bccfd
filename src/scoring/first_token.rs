//! First token (FIRST, arXiv 2406.15657): identifiers name the documents of a window, and the
//! logits of the identifiers as the answer's first token rank the documents.
//!
//! A document's raw score is the log-probability of its identifier among those of its window, so
//! raw scores compare only within a window. Windows slide from the end of the list to its start.
//! Each window reorders its documents, and the best move on into the next window.
//!
//! The relevance of a document estimates the probability that the model would name it first if one
//! window held all documents. Softmax logits satisfy Luce's choice axiom: the difference of two
//! documents' log-probabilities does not depend on the other documents in the window. So:
//!
//! 1. The documents that two windows share put both on one scale, by the mean difference of their
//!    scores.
//! 2. Each document keeps the value of its last window.
//! 3. A softmax over all values gives the probabilities.
//! 4. Where windows disagree about a pair, the final order decides: the values are made strictly
//!    decreasing along it, so that sorting by relevance gives the final order.
//!
//! With one window, the relevance is the softmax over its identifiers.

/// Log-probabilities over the identifiers of one window.
#[must_use]
pub fn log_probabilities(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
    logits.iter().map(|logit| logit - most - total.ln()).collect()
}

/// The order of the list while windows slide over it.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidingOrder {
    /// The documents, best first as far as the windows have ranked them.
    order: Vec<usize>,
    /// By document: the log-probability in its last window.
    raw: Vec<Option<f32>>,
    /// By document: its log-probability, shifted to the scale that all windows share.
    strength: Vec<f32>,
}

impl SlidingOrder {
    /// A list of `count` documents in the request's order.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { order: (0..count).collect(), raw: vec![None; count], strength: vec![0.0; count] }
    }

    /// The documents at these positions of the current order.
    #[must_use]
    pub fn at(&self, places: std::ops::Range<usize>) -> &[usize] {
        &self.order[places]
    }

    /// Sorts the documents at these positions by their log-probabilities, best first; equal ones
    /// keep their order. `scores` are in the order of [`SlidingOrder::at`].
    pub fn reorder(&mut self, places: std::ops::Range<usize>, scores: &[f32]) {
        let mut window: Vec<(usize, f32)> =
            self.order[places.clone()].iter().copied().zip(scores.iter().copied()).collect();
        let shared: Vec<f32> = window
            .iter()
            .filter(|(document, _)| self.raw[*document].is_some())
            .map(|(document, score)| self.strength[*document] - score)
            .collect();
        let shift = if shared.is_empty() { 0.0 } else { shared.iter().sum::<f32>() / shared.len() as f32 };
        window.sort_by(|left, right| right.1.total_cmp(&left.1));
        for (place, (document, score)) in places.zip(window) {
            self.order[place] = document;
            self.raw[document] = Some(score);
            self.strength[document] = score + shift;
        }
    }

    /// By document: its log-probability in its last window; `None` if it was in none.
    #[must_use]
    pub fn raw(&self) -> &[Option<f32>] {
        &self.raw
    }

    /// By document: the relevance in [0, 1], strictly decreasing along the order.
    #[must_use]
    pub fn relevance(&self) -> Vec<f32> {
        let along: Vec<f32> = self.order.iter().map(|document| self.strength[*document]).collect();
        let mut values: Vec<f32> = log_probabilities(&along).into_iter().map(f32::exp).collect();
        for place in 1..values.len() {
            values[place] = values[place].min(values[place - 1]);
        }
        // From the end, so that equal values, and values too small for f32, are raised apart.
        for place in (1..values.len()).rev() {
            values[place - 1] = values[place - 1].max(values[place].next_up());
        }
        let mut relevance = vec![0.0; values.len()];
        for (document, value) in self.order.iter().zip(values) {
            relevance[*document] = value.min(1.0);
        }
        relevance
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rerank::slates::{Window, windows};

    #[test]
    fn one_window_is_a_softmax() {
        let mut order = SlidingOrder::new(3);
        order.reorder(0..3, &log_probabilities(&[1.0, 3.0, 2.0]));
        assert_eq!(order.order, [1, 2, 0]);
        let total = 1.0_f32.exp() + 2.0_f32.exp() + 3.0_f32.exp();
        for (relevance, logit) in order.relevance().iter().zip([1.0_f32, 3.0, 2.0]) {
            assert!((relevance - logit.exp() / total).abs() < 1e-6);
        }
    }

    #[test]
    fn windows_that_agree_give_the_probabilities_of_one_window() {
        let logits = [0.5_f32, 2.0, -1.0, 3.0, 0.0, 1.0, 4.0, -0.5];
        let mut order = SlidingOrder::new(8);
        for places in windows(8, Window { documents: 4, stride: 2 }) {
            let scores: Vec<f32> = order.at(places.clone()).iter().map(|document| logits[*document]).collect();
            order.reorder(places, &log_probabilities(&scores));
        }
        assert_eq!(order.order[..2], [6, 3]);
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let relevance = order.relevance();
        assert!((relevance[6] - logits[6].exp() / total).abs() < 1e-5, "{relevance:?}");
    }

    #[test]
    fn equal_scores_keep_the_requests_order() {
        let mut order = SlidingOrder::new(3);
        order.reorder(0..3, &log_probabilities(&[1.0, 1.0, 1.0]));
        assert_eq!(order.order, [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn relevance_falls_strictly_along_the_final_order(
            logits in proptest::collection::vec(-300.0_f32..300.0, 1..60),
            noise in proptest::collection::vec(-9.0_f32..9.0, 64),
            documents in 2_usize..20, stride in 1_usize..19,
        ) {
            let mut order = SlidingOrder::new(logits.len());
            for (round, places) in windows(logits.len(), Window { documents, stride: stride.min(documents - 1) }).into_iter().enumerate() {
                // Windows that do not agree with each other.
                let scores: Vec<f32> = order.at(places.clone()).iter()
                    .map(|document| logits[*document] + noise[(document * 7 + round * 13) % 64]).collect();
                order.reorder(places, &log_probabilities(&scores));
            }
            let relevance = order.relevance();
            for pair in order.order.windows(2) {
                prop_assert!(relevance[pair[0]] > relevance[pair[1]]);
            }
            prop_assert!(relevance.iter().all(|value| (0.0..=1.0).contains(value)));
            let mut seen = order.order.clone();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..logits.len()));
            prop_assert!(order.raw().iter().all(Option::is_some));
        }
    }
}
