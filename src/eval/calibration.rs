//! Calibration: whether a relevance score can be read as a probability.

use serde::{Deserialize, Serialize};

/// Number of bins of equal width over `[0, 1]`.
const BINS: usize = 10;

/// How well scores predict relevance, over documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error: the mean of |mean score - relevant share| over the bins,
    /// weighted by their counts (Naeini, Cooper and Hauskrecht 2015).
    pub ece: f64,
    /// Mean squared difference of score and relevance, 0 or 1 (Brier 1950).
    pub brier: f64,
    /// Share of relevant documents. Unjudged documents count as not relevant.
    pub relevant_share: f64,
    /// Number of scores outside `[0, 1]`; they were clamped to 0 or 1.
    pub clamped: usize,
    /// The bins, ascending.
    pub bins: Vec<Bin>,
}

/// The documents with scores in `[low, high)`; the last bin includes 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower bound, inclusive.
    pub low: f64,
    /// Upper bound, exclusive except in the last bin.
    pub high: f64,
    /// Number of documents.
    pub count: usize,
    /// Mean score; 0 if the bin is empty.
    pub mean_score: f64,
    /// Share of relevant documents; 0 if the bin is empty.
    pub relevant_share: f64,
}

/// The sums over a bin's documents.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: usize,
    score: f64,
    relevant: usize,
}

impl Calibration {
    /// Computes the calibration from pairs of a score and whether its document is relevant.
    #[must_use]
    pub fn from_scores(scored: &[(f64, bool)]) -> Self {
        let mut bins = [Sums::default(); BINS];
        let (mut squares, mut clamped, mut relevant_documents) = (0.0, 0, 0);
        for &(score, relevant) in scored {
            let clean = score.clamp(0.0, 1.0);
            clamped += usize::from((clean - score).abs() > 0.0);
            relevant_documents += usize::from(relevant);
            squares += (clean - f64::from(u8::from(relevant))).powi(2);
            let bin = &mut bins[((clean * BINS as f64) as usize).min(BINS - 1)];
            bin.count += 1;
            bin.score += clean;
            bin.relevant += usize::from(relevant);
        }
        let share = |part: f64, count: usize| if count == 0 { 0.0 } else { part / count as f64 };
        let gaps: f64 = bins.iter().map(|bin| (bin.score - bin.relevant as f64).abs()).sum();
        let bin = |(index, sums): (usize, &Sums)| Bin {
            low: index as f64 / BINS as f64,
            high: (index + 1) as f64 / BINS as f64,
            count: sums.count,
            mean_score: share(sums.score, sums.count),
            relevant_share: share(sums.relevant as f64, sums.count),
        };
        Self {
            ece: share(gaps, scored.len()),
            brier: share(squares, scored.len()),
            relevant_share: share(relevant_documents as f64, scored.len()),
            clamped,
            bins: bins.iter().enumerate().map(bin).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    #[test]
    fn bins_errors_and_shares_match_a_calculation_by_hand() {
        let scored = [(0.05, false), (0.09, true), (0.1, false), (0.95, true), (1.0, true), (1.5, false)];
        let found = Calibration::from_scores(&scored);
        assert_eq!(found.bins.iter().map(|bin| bin.count).collect::<Vec<_>>(), [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert!(close(found.bins[0].mean_score, 0.07) && close(found.bins[0].relevant_share, 0.5));
        assert!(close(found.bins[9].low, 0.9) && close(found.bins[9].high, 1.0));
        assert!(close(found.bins[4].mean_score, 0.0));
        assert_eq!(found.clamped, 1);
        assert!(close(found.relevant_share, 0.5));
        let (first, second, last) = (2.0 * (0.07 - 0.5_f64).abs(), 0.1, 3.0 * (2.95 / 3.0 - 2.0 / 3.0_f64).abs());
        assert!(close(found.ece, (first + second + last) / 6.0));
        assert!(close(found.brier, (0.0025 + 0.8281 + 0.01 + 0.0025 + 0.0 + 1.0) / 6.0));
    }

    #[test]
    fn without_scores_every_error_is_zero() {
        let found = Calibration::from_scores(&[]);
        assert!(close(found.ece, 0.0) && close(found.brier, 0.0) && found.bins.len() == 10);
    }
}
