//! Statistics over plain numbers: confidence intervals, a significance test and rank correlations.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Number of resamples for a bootstrap interval.
const RESAMPLES: usize = 2_000;

/// Maximum number of differences for the exact test, which tries every combination of signs.
const MAX_EXACT: usize = 16;

/// Number of random combinations of signs where there are more differences.
const DRAWS: usize = 10_000;

/// Tolerance for rounding: sums in another order differ by less.
const ROUNDING: f64 = 1e-12;

/// The mean; 0 for an empty slice.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The quantile at `share`, linearly interpolated (numpy's default); 0 for an empty slice.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

/// The 95 % confidence interval of the mean, by the percentile bootstrap with 2,000 resamples
/// (Efron 1979).
///
/// The same seed draws the same indices, so that the intervals of several measures rest on the same
/// resamples.
#[must_use]
pub fn bootstrap_interval(values: &[f64], seed: u64) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut resampled = || -> f64 {
        let sum: f64 = (0..values.len()).map(|_| values[generator.random_range(0..values.len())]).sum();
        sum / values.len() as f64
    };
    let means: Vec<f64> = (0..RESAMPLES).map(|_| resampled()).collect();
    (quantile(&means, 0.025), quantile(&means, 0.975))
}

/// The two-sided p value of paired differences by Fisher's randomisation test (Smucker, Allan and
/// Carterette 2007). The null hypothesis is that both signs of a difference are equally likely.
/// Exact for up to 16 differences that are not 0; otherwise `(hits + 1) / (draws + 1)` over 10,000
/// draws. 1 if nothing differs.
#[must_use]
pub fn sign_flip_test(differences: &[f64], seed: u64) -> f64 {
    let nonzero: Vec<f64> = differences.iter().copied().filter(|difference| difference.abs() > ROUNDING).collect();
    if nonzero.is_empty() {
        return 1.0;
    }
    let observed = nonzero.iter().sum::<f64>().abs() - ROUNDING;
    let sum = |negative: &dyn Fn(usize) -> bool| -> f64 {
        nonzero.iter().enumerate().map(|(index, value)| if negative(index) { -value } else { *value }).sum()
    };
    if nonzero.len() <= MAX_EXACT {
        let combinations = 1_usize << nonzero.len();
        let hits = (0..combinations).filter(|signs| sum(&|index| signs >> index & 1 == 1).abs() >= observed).count();
        return hits as f64 / combinations as f64;
    }
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut signs = vec![0_u64; nonzero.len().div_ceil(64)];
    let mut hits = 0;
    for _ in 0..DRAWS {
        signs.fill_with(|| generator.random());
        hits += usize::from(sum(&|index| signs[index / 64] >> (index % 64) & 1 == 1).abs() >= observed);
    }
    (hits + 1) as f64 / (DRAWS + 1) as f64
}

/// p values after Holm's step-down correction for their number (Holm 1979), in the same order.
#[must_use]
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|left, right| p[*left].total_cmp(&p[*right]));
    let (mut corrected, mut highest) = (vec![0.0; p.len()], 0.0_f64);
    for (smaller, place) in order.into_iter().enumerate() {
        highest = highest.max(((p.len() - smaller) as f64 * p[place]).min(1.0));
        corrected[place] = highest;
    }
    corrected
}

/// Kendall's tau-b of two lists of scores for the same items (Kendall 1945). Ties count for neither
/// order. `None` for fewer than two items, or if all values of a list are equal.
#[must_use]
pub fn kendall_tau_b(left: &[f64], right: &[f64]) -> Option<f64> {
    let (mut balance, mut left_differs, mut right_differs) = (0.0, 0.0, 0.0);
    for (later, (left_later, right_later)) in left.iter().zip(right).enumerate() {
        for (left_earlier, right_earlier) in left[..later].iter().zip(right) {
            let (by_left, by_right) = (direction(*left_earlier, *left_later), direction(*right_earlier, *right_later));
            balance += by_left * by_right;
            left_differs += by_left.abs();
            right_differs += by_right.abs();
        }
    }
    let scale = f64::sqrt(left_differs * right_differs);
    (scale > 0.0).then(|| balance / scale)
}

fn direction(from: f64, to: f64) -> f64 {
    f64::from(i8::from(to > from) - i8::from(to < from))
}

/// Spearman's rho of two lists for the same items: Pearson's correlation of their ranks; equal
/// values have their mean rank. `None` for fewer than two items, or if all values of a list are
/// equal.
#[must_use]
pub fn spearman(left: &[f64], right: &[f64]) -> Option<f64> {
    let (left, right) = (ranks(left), ranks(right));
    let (left_mean, right_mean) = (mean(&left), mean(&right));
    let (mut both, mut left_squares, mut right_squares) = (0.0, 0.0, 0.0);
    for (left, right) in left.iter().zip(&right) {
        let (left, right) = (left - left_mean, right - right_mean);
        both += left * right;
        left_squares += left * left;
        right_squares += right * right;
    }
    let scale = f64::sqrt(left_squares * right_squares);
    (scale > 0.0).then(|| both / scale)
}

/// Ranks from 1, ascending; equal values have their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|left, right| values[*left].total_cmp(&values[*right]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|left, right| values[*left].total_cmp(&values[*right]).is_eq()) {
        let shared = start as f64 + (group.len() + 1) as f64 / 2.0;
        for place in group {
            ranks[*place] = shared;
        }
        start += group.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn quantiles_match_numpy() {
        let values = [4.0, 1.0, 3.0, 10.0];
        for (share, expected) in [(0.0, 1.0), (0.5, 3.5), (0.95, 9.1), (0.05, 1.3), (1.0, 10.0)] {
            assert!(close(quantile(&values, share), expected), "{share}");
        }
        assert!(close(quantile(&[7.0], 0.95), 7.0) && close(quantile(&[], 0.5), 0.0));
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
        let values: Vec<f64> = (0..400).map(|place| f64::from(place % 20)).collect();
        let (low, high) = bootstrap_interval(&values, 1);
        // The standard deviation of 0..20 is 5.766, so 1.96 standard errors of 400 are 0.565.
        assert!((low - (9.5 - 0.565)).abs() < 0.05 && (high - (9.5 + 0.565)).abs() < 0.05, "{low} {high}");
        assert_eq!(bootstrap_interval(&values, 1), (low, high));
        assert_ne!(bootstrap_interval(&values, 2), (low, high));
        assert_eq!(bootstrap_interval(&[0.25; 9], 1), (0.25, 0.25));
    }

    #[test]
    fn few_differences_are_tested_exactly() {
        // Of the 16 sign combinations of 1, 2, 3, 4 only + + + + and - - - - are as far from 0.
        assert!(close(sign_flip_test(&[1.0, 2.0, 3.0, 4.0, 0.0], 1), 2.0 / 16.0));
        // |1 + 2 - 3 + 4| = 4: of the 16 sums 10, 8, 6, 4, 4, 2, 2, 0 and their negatives, five pairs are.
        assert!(close(sign_flip_test(&[1.0, 2.0, -3.0, 4.0], 1), 10.0 / 16.0));
        assert!(close(sign_flip_test(&[0.0, 0.0], 1), 1.0) && close(sign_flip_test(&[], 1), 1.0));
        assert!(close(sign_flip_test(&[0.1, 0.2, -0.3], 1), 1.0));
    }

    #[test]
    fn many_differences_are_tested_by_draws() {
        let one_sided = [0.1; 40];
        assert!(close(sign_flip_test(&one_sided, 1), 1.0 / 10_001.0));
        let balanced: Vec<f64> = (0..40).map(|place| if place % 2 == 0 { 0.1 } else { -0.1 }).collect();
        assert!(close(sign_flip_test(&balanced, 1), 1.0));
        // 26 of 40 equal steps up: the two-sided binomial test of scipy gives 0.0807.
        let mostly: Vec<f64> = (0..40).map(|place| if place < 26 { 0.1 } else { -0.1 }).collect();
        assert!((sign_flip_test(&mostly, 1) - 0.0807).abs() < 0.01, "{}", sign_flip_test(&mostly, 1));
    }

    #[test]
    fn holms_correction_matches_statsmodels() {
        // statsmodels.stats.multitest.multipletests([.01, .04, .03, .005], method="holm")
        for (found, expected) in holm(&[0.01, 0.04, 0.03, 0.005]).into_iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!(close(found, expected), "{found}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[]), [0.0; 0]);
    }

    #[test]
    fn correlations_match_scipy() {
        let left = [12.0, 2.0, 1.0, 12.0, 2.0];
        let right = [1.0, 4.0, 7.0, 1.0, 0.0];
        // scipy.stats.kendalltau(left, right) and spearmanr(left, right).
        assert!(close(kendall_tau_b(&left, &right).unwrap(), -0.471_404_520_791_031_7));
        assert!(close(spearman(&left, &right).unwrap(), -0.540_738_070_435_875_2));
        assert!(close(kendall_tau_b(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]).unwrap(), 1.0));
        assert!(close(spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, 1.0]).unwrap(), -1.0));
        assert_eq!((kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]), spearman(&[1.0, 1.0], &[1.0, 2.0])), (None, None));
        assert_eq!((kendall_tau_b(&[1.0], &[1.0]), spearman(&[], &[])), (None, None));
    }

    proptest! {
        #[test]
        fn correlations_lie_in_minus_one_to_one(pairs in proptest::collection::vec((0_u8..6, 0_u8..6), 2..30)) {
            let (left, right): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(left, right)| (f64::from(left), f64::from(right))).unzip();
            for value in [kendall_tau_b(&left, &right), spearman(&left, &right)].into_iter().flatten() {
                prop_assert!((-1.0 - 1e-9..=1.0 + 1e-9).contains(&value));
            }
            if let Some(itself) = kendall_tau_b(&left, &left) {
                prop_assert!(close(itself, 1.0));
            }
        }

        #[test]
        fn p_values_are_probabilities(differences in proptest::collection::vec(-1.0_f64..1.0, 0..12)) {
            let p = sign_flip_test(&differences, 1);
            prop_assert!(p > 0.0 && p <= 1.0);
        }
    }
}
