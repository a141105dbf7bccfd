//! The effect of the input order on scores and ranks.

use std::collections::BTreeMap;

use crate::eval::report::{Agreement, OrderEffect, PositionBias, PositionMean};
use crate::eval::run::{Pass, QueryRun};
use crate::eval::statistics::{kendall_tau_b, mean, quantile, spearman};

/// Computes the agreement between orders, and the position bias over the shuffled ones.
pub(super) fn order_effect(runs: &[QueryRun], orders: usize) -> OrderEffect {
    let mean_tau = |run: &QueryRun| {
        let pairs = run.orders.iter().enumerate().flat_map(|(place, left)| {
            run.orders[place + 1..].iter().filter_map(|right| kendall_tau_b(&left.scores, &right.scores))
        });
        let taus: Vec<f64> = pairs.collect();
        (!taus.is_empty()).then(|| mean(&taus))
    };
    let taus: Vec<f64> = runs.iter().filter_map(mean_tau).collect();
    let kendall_tau = (!taus.is_empty()).then(|| Agreement { mean: mean(&taus), p5: quantile(&taus, 0.05) });
    let shuffled: Vec<&Pass> = runs.iter().flat_map(|run| run.orders.iter().skip(1)).collect();
    OrderEffect { orders, kendall_tau, position_bias: position_bias(&shuffled) }
}

/// Computes the correlation within each request, and the curve over the requests of the most
/// frequent length. A curve over several lengths would mislead: late positions exist only in long
/// lists, which have larger ranks whatever the system does.
fn position_bias(passes: &[&Pass]) -> PositionBias {
    let within = passes.iter().filter_map(|pass| {
        let positions: Vec<f64> = pass.positions.iter().map(|position| *position as f64).collect();
        let ranks: Vec<f64> = ranks(pass).into_iter().map(|rank| rank as f64).collect();
        spearman(&positions, &ranks)
    });
    let spearman = mean(&within.collect::<Vec<_>>());
    let mut lengths: BTreeMap<usize, usize> = BTreeMap::new();
    for pass in passes {
        *lengths.entry(pass.ranking.len()).or_default() += 1;
    }
    let length = lengths.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(length, _)| length);
    let mut sums = vec![(0_usize, 0.0, 0.0); length];
    for pass in passes.iter().filter(|pass| pass.ranking.len() == length) {
        for ((position, rank), score) in pass.positions.iter().zip(ranks(pass)).zip(&pass.scores) {
            let (count, rank_sum, score_sum) = &mut sums[*position];
            *count += 1;
            *rank_sum += rank as f64;
            *score_sum += score;
        }
    }
    let point = |(index, (count, ranks, scores)): (usize, (usize, f64, f64))| PositionMean {
        position: index + 1,
        count,
        mean_rank: ranks / count.max(1) as f64,
        mean_score: scores / count.max(1) as f64,
    };
    PositionBias { spearman, curve: sums.into_iter().enumerate().map(point).collect() }
}

/// Each candidate's rank in a pass, from 1.
fn ranks(pass: &Pass) -> Vec<usize> {
    let mut ranks = vec![0; pass.ranking.len()];
    for (index, candidate) in pass.ranking.iter().enumerate() {
        ranks[*candidate] = index + 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::pass;

    #[test]
    fn keeping_the_input_order_is_full_position_bias() {
        let kept = pass(&[0.1, 0.4, 0.3, 0.2], &[3, 0, 1, 2]);
        let bias = position_bias(&[&kept]);
        assert!((bias.spearman - 1.0).abs() < 1e-9);
        let ranks: Vec<f64> = bias.curve.iter().map(|point| point.mean_rank).collect();
        assert_eq!(ranks, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn the_curve_covers_lists_of_one_length() {
        let (short, long) = (pass(&[0.2, 0.1], &[0, 1]), pass(&[0.3, 0.2, 0.1], &[0, 1, 2]));
        let bias = position_bias(&[&short, &long, &short]);
        assert_eq!(bias.curve.iter().map(|point| point.count).collect::<Vec<_>>(), [2, 2]);
    }
}
