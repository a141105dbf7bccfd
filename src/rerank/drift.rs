//! What a ranking looks like from outside, in a few numbers: if they drift over weeks, the requests have changed, or the
//! model does not suit them any more.

use std::cmp::Ordering;

/// Lists beyond this are compared by their first so many documents: the pairs grow with the square.
const COMPARED_DOCUMENTS: usize = 512;

/// Where a request's instruction came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionSource {
    /// There was none.
    None,
    /// The request's own words.
    Own,
    /// A stored one, by its name.
    Profile(String),
}

impl InstructionSource {
    /// As metrics are labelled with it: from a closed list, since profiles are the operator's.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Own => "own",
            Self::Profile(name) => name,
        }
    }
}

/// One ranking, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftSample {
    /// The model that ranked: one of the names that are served.
    pub model: String,
    /// Where its instruction came from.
    pub instruction: InstructionSource,
    /// The relevance of every document, best first.
    pub scores: Vec<f32>,
    /// How far the ranking keeps the order in which the documents came; nothing for a list of one.
    pub input_agreement: Option<f64>,
    /// How far it is the order of BM25; nothing where BM25 tells no two documents apart.
    pub lexical_agreement: Option<f64>,
    /// The share of documents that were cut.
    pub truncated: f64,
}

impl DriftSample {
    /// The best document's relevance.
    #[must_use]
    pub fn top(&self) -> Option<f32> {
        self.scores.first().copied()
    }

    /// How far the best document is ahead of the second.
    #[must_use]
    pub fn lead(&self) -> Option<f32> {
        Some(self.scores.first()? - self.scores.get(1)?)
    }
}

/// How far two scorings of the same documents agree on their order, from Kendall's tau-b: 1 is the same order, 0 the
/// reverse, one half no relation. Nothing where one of them is all ties.
#[must_use]
pub fn agreement(left: &[f64], right: &[f64]) -> Option<f64> {
    let count = left.len().min(right.len()).min(COMPARED_DOCUMENTS);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_order_agrees_wholly_and_its_reverse_not_at_all() {
        let up = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(agreement(&up, &[10.0, 20.0, 30.0, 40.0]), Some(1.0));
        assert_eq!(agreement(&up, &[4.0, 3.0, 2.0, 1.0]), Some(0.0));
        assert_eq!(agreement(&up, &[2.0, 1.0, 4.0, 3.0]), Some(f64::midpoint(1.0, 2.0 / 6.0)));
    }

    #[test]
    fn ties_count_as_tau_b_counts_them() {
        // By hand: 4 of 5 pairs agree, one is a tie on the left, one disagrees.
        let tau: f64 = 3.0 / (5.0_f64 * 6.0).sqrt();
        let found = agreement(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 4.0, 3.0]).unwrap();
        assert!((found - f64::midpoint(1.0, tau)).abs() < 1e-12, "{found}");
    }

    #[test]
    fn nothing_can_be_said_of_one_document_or_of_all_ties() {
        assert_eq!(agreement(&[1.0], &[1.0]), None);
        assert_eq!(agreement(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(agreement(&[], &[]), None);
    }
}
