//! How far two orders of the same documents agree, and what a shadow's ranking changed.

use std::cmp::Ordering;
use std::time::Duration;

use super::Ranking;

/// Longer lists are compared by their first documents: the pairs grow with the square.
const MAX_COMPARED_DOCUMENTS: usize = 512;

/// Kendall's tau-b of two scorings of the same documents, scaled to [0, 1]: 1 is the same order, 0
/// the reverse, one half no relation. `None` if one of them is all ties.
#[must_use]
pub fn order_agreement(left: &[f64], right: &[f64]) -> Option<f64> {
    let count = left.len().min(right.len()).min(MAX_COMPARED_DOCUMENTS);
    let (mut balance, mut left_pairs, mut right_pairs) = (0_i64, 0_i64, 0_i64);
    for first in 0..count {
        for second in first + 1..count {
            let (a, b) = (sign(left[first], left[second]), sign(right[first], right[second]));
            balance += a * b;
            left_pairs += a.abs();
            right_pairs += b.abs();
        }
    }
    let scale = (left_pairs as f64 * right_pairs as f64).sqrt();
    (scale > 0.0).then(|| f64::midpoint(1.0, balance as f64 / scale).clamp(0.0, 1.0))
}

fn sign(first: f64, second: f64) -> i64 {
    match first.partial_cmp(&second) {
        Some(Ordering::Less) => -1,
        Some(Ordering::Greater) => 1,
        Some(Ordering::Equal) | None => 0,
    }
}

/// The cost of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RankingCost {
    /// Tokens that the models read.
    pub tokens: usize,
    /// Time on the device.
    pub forward: Duration,
}

impl From<&Ranking> for RankingCost {
    fn from(ranking: &Ranking) -> Self {
        Self { tokens: ranking.usage.prompt_tokens, forward: ranking.timing.forward }
    }
}

/// A shadow's ranking beside the one that was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// [`order_agreement`] over the documents that were sent; `None` for fewer than two.
    pub agreement: Option<f64>,
    /// Whether another document is first.
    pub is_top_changed: bool,
    /// The cost of the ranking that was sent.
    pub sent: RankingCost,
    /// The cost of the shadow's.
    pub shadow: RankingCost,
}

impl Comparison {
    /// Compares the documents that were sent. The shadow has ranked all of them.
    #[must_use]
    pub fn new(sent: &Ranking, shadow: &Ranking) -> Self {
        let position = |index: usize| shadow.results.iter().position(|result| result.index == index);
        let positions = sent.results.iter().map(|result| position(result.index).map_or(f64::MAX, |place| place as f64));
        let positions: Vec<f64> = positions.collect();
        let order: Vec<f64> = (0..positions.len()).map(|place| place as f64).collect();
        let first = |ranking: &Ranking| ranking.results.first().map(|result| result.index);
        Self {
            agreement: order_agreement(&order, &positions),
            is_top_changed: first(sent) != first(shadow),
            sent: sent.into(),
            shadow: shadow.into(),
        }
    }
}

/// The outcome of a request that a shadow was to rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ShadowOutcome {
    /// It was ranked.
    Compared(Comparison),
    /// The shadow was still ranking another request.
    Busy,
    /// The shadow's model is not loaded.
    NotLoaded,
    /// The shadow's ranking failed, or took too long.
    Failed,
}

impl ShadowOutcome {
    /// The word in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Compared(_) => "compared",
            Self::Busy => "busy",
            Self::NotLoaded => "not_loaded",
            Self::Failed => "failed",
        }
    }
}

/// One request that a shadow was to rank.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSample {
    /// The name of the model whose ranking was sent.
    pub model: String,
    /// The name of the shadow.
    pub shadow: String,
    /// The outcome.
    pub outcome: ShadowOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_order_agrees_wholly_and_its_reverse_not_at_all() {
        let up = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(order_agreement(&up, &[10.0, 20.0, 30.0, 40.0]), Some(1.0));
        assert_eq!(order_agreement(&up, &[4.0, 3.0, 2.0, 1.0]), Some(0.0));
        assert_eq!(order_agreement(&up, &[2.0, 1.0, 4.0, 3.0]), Some(f64::midpoint(1.0, 2.0 / 6.0)));
    }

    #[test]
    fn ties_count_as_in_tau_b() {
        // By hand: 4 of 5 pairs agree, one is a tie on the left, one disagrees.
        let tau: f64 = 3.0 / (5.0_f64 * 6.0).sqrt();
        let found = order_agreement(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 4.0, 3.0]).unwrap();
        assert!((found - f64::midpoint(1.0, tau)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn one_document_or_only_ties_have_no_agreement() {
        assert_eq!(order_agreement(&[1.0], &[1.0]), None);
        assert_eq!(order_agreement(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(order_agreement(&[], &[]), None);
    }
}
