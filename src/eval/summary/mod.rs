//! Computes the report of a set from the results of its queries: means, intervals and comparisons.
//! The effect of the input order, the cost of requests and the largest losses and gains have
//! files of their own.

mod cost;
mod examples;
mod instructions;
mod order;

use crate::eval::calibration::Calibration;
use crate::eval::datasets::{Dataset, Query, RELEVANT_FROM, is_relevant};
use crate::eval::measures::Measure;
use crate::eval::report::{ByMeasure, Estimate, Gain, Gains, QueryReport, SetReport, Systems, Verdict};
use crate::eval::run::{Pass, QueryRun};
use crate::eval::settings::EvalSettings;
use crate::eval::statistics::{bootstrap_interval, mean, sign_flip_test};

use self::cost::{latency_ms, summarize_latency, summarize_tokens, truncated_share};
use self::examples::find_examples;
use self::instructions::instruction_effect;
use self::order::order_effect;

/// Tolerance for rounding: measures that differ by less are equal.
const ROUNDING: f64 = 1e-9;

/// Selects the measures of one order (reranked, input or BM25) of a query.
type Order = fn(&Systems<ByMeasure<f64>>) -> &ByMeasure<f64>;

/// Computes the report of a set. `runs` and `bm25` have one item for each query; `bm25` has the
/// reranked candidates in BM25's order.
#[must_use]
pub fn summarize(set: &Dataset, runs: &[QueryRun], bm25: &[Vec<usize>], settings: &EvalSettings) -> SetReport {
    let cases: Vec<Case> =
        set.queries.iter().zip(runs).zip(bm25).map(|((query, run), bm25)| Case { query, run, bm25 }).collect();
    let (reranked, input, by_bm25): (Order, Order, Order) = (|all| &all.reranked, |all| &all.input, |all| &all.bm25);
    let measures = &settings.measures;
    let per_query: Vec<QueryReport> = cases.iter().map(|case| case.report(measures)).collect();
    let column =
        |order: Order, name: &str| -> Vec<f64> { per_query.iter().map(|query| order(&query.scores)[name]).collect() };
    let means = |order: Order| by_measure(measures, |_, name| estimate(&column(order, name), settings.seed));
    let gains_over = |baseline: Order| {
        by_measure(measures, |_, name| {
            let pairs = column(reranked, name).into_iter().zip(column(baseline, name));
            paired_gain(&pairs.map(|(reranked, baseline)| reranked - baseline).collect::<Vec<_>>(), settings.seed)
        })
    };
    let gains = Gains { input: gains_over(input), bm25: gains_over(by_bm25) };
    let primary = measures[0].name();
    let passes: Vec<&Pass> = runs.iter().flat_map(|run| &run.orders).collect();
    let (worst, best) = find_examples(set, &cases, &per_query, &primary);
    SetReport {
        name: set.name.clone(),
        source: set.source.clone(),
        queries: set.queries.len(),
        queries_without_relevant: set.left_out.queries_without_relevant,
        left_out: set.left_out,
        documents: set.corpus_size,
        first_stage: set.first_stage.describe(),
        systems: Systems { reranked: means(reranked), input: means(input), bm25: means(by_bm25) },
        verdict: verdict(gains.bm25[&primary].estimate),
        gains,
        order: (settings.orders > 1).then(|| order_effect(runs, settings.orders)),
        instruction: instruction_effect(&cases, settings),
        calibration: Calibration::from_scores(&cases.iter().flat_map(Case::scores_with_relevance).collect::<Vec<_>>()),
        truncated_share: truncated_share(&passes),
        latency_ms: summarize_latency(&passes),
        tokens: summarize_tokens(&passes),
        worst,
        best,
        per_query,
    }
}

/// A query with its results and its BM25 ranking.
struct Case<'a> {
    query: &'a Query,
    run: &'a QueryRun,
    bm25: &'a [usize],
}

impl Case<'_> {
    /// The full ranking: the reranked candidates, then the other candidates of the first stage.
    fn full_ranking(&self, pass: &Pass) -> Vec<usize> {
        let reranked = pass.ranking.iter().map(|candidate| self.query.candidates[*candidate]);
        reranked.chain(self.query.candidates.iter().skip(pass.ranking.len()).copied()).collect()
    }

    fn compute_measure(&self, measure: Measure, pass: &Pass) -> f64 {
        measure.compute(&self.full_ranking(pass), &self.query.grades)
    }

    fn report(&self, measures: &[Measure]) -> QueryReport {
        let Self { query, run, bm25 } = self;
        let bm25: Vec<usize> = bm25.iter().chain(query.candidates.iter().skip(bm25.len())).copied().collect();
        let first = run.orders.first();
        let values = |compute: &dyn Fn(Measure) -> f64| by_measure(measures, |measure, _| compute(measure));
        QueryReport {
            id: query.id.clone(),
            query: query.text.clone(),
            instruction: run.instruction.clone(),
            documents: first.map_or(0, |pass| pass.ranking.len()),
            relevant: query.grades.values().filter(|grade| **grade >= RELEVANT_FROM).count(),
            tokens: first.and_then(|pass| pass.prompt_tokens),
            latency_ms: mean(&run.orders.iter().map(latency_ms).collect::<Vec<_>>()),
            truncated: first.and_then(|pass| Some(pass.truncated.as_ref()?.iter().filter(|cut| **cut).count())),
            scores: Systems {
                reranked: values(&|measure| {
                    mean(&run.orders.iter().map(|pass| self.compute_measure(measure, pass)).collect::<Vec<_>>())
                }),
                input: values(&|measure| measure.compute(&query.candidates, &query.grades)),
                bm25: values(&|measure| measure.compute(&bm25, &query.grades)),
            },
        }
    }

    /// The scores of the first input order, each with whether its document is relevant.
    fn scores_with_relevance(&self) -> Vec<(f64, bool)> {
        let scores = self.run.orders.first().map_or(&[][..], |pass| &pass.scores);
        let relevant = self.query.candidates.iter().map(|place| is_relevant(&self.query.grades, *place));
        scores.iter().copied().zip(relevant).collect()
    }
}

fn by_measure<T>(measures: &[Measure], mut compute: impl FnMut(Measure, &str) -> T) -> ByMeasure<T> {
    let named = measures.iter().map(|measure| {
        let name = measure.name();
        let value = compute(*measure, &name);
        (name, value)
    });
    named.collect()
}

fn estimate(values: &[f64], seed: u64) -> Estimate {
    let (low, high) = bootstrap_interval(values, seed);
    Estimate { mean: mean(values), low, high }
}

/// The mean of paired differences, with its interval and its p value.
#[must_use]
pub fn paired_gain(differences: &[f64], seed: u64) -> Gain {
    let wins = differences.iter().filter(|difference| **difference > ROUNDING).count();
    let losses = differences.iter().filter(|difference| **difference < -ROUNDING).count();
    Gain {
        estimate: estimate(differences, seed),
        p: sign_flip_test(differences, seed),
        wins,
        ties: differences.len() - wins - losses,
        losses,
    }
}

fn verdict(gain: Estimate) -> Verdict {
    if gain.mean < -ROUNDING {
        Verdict::NotBetter
    } else if gain.mean <= ROUNDING {
        Verdict::Even
    } else if gain.low <= ROUNDING {
        Verdict::Unclear
    } else {
        Verdict::Better
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::{pass, query_run, set, settings};

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    const IN_ORDER: [usize; 4] = [0, 1, 2, 3];

    /// A report on two queries. The relevant document of the first query is ranked first in both
    /// orders; that of the second is ranked first, then last. BM25 ranks it first for the second
    /// query.
    fn two_queries() -> SetReport {
        let mut set = set("s", 2);
        set.left_out.queries_unjudged = 7;
        let good = [0.1, 0.2, 0.9, 0.3];
        let bad = [0.4, 0.5, 0.1, 0.6];
        let runs = [
            query_run(vec![pass(&good, &IN_ORDER), pass(&good, &[3, 2, 1, 0])]),
            query_run(vec![pass(&good, &IN_ORDER), pass(&bad, &[1, 0, 3, 2])]),
        ];
        summarize(&set, &runs, &[vec![0, 1, 2, 3], vec![2, 0, 1, 3]], &settings())
    }

    #[test]
    fn scores_are_means_over_orders_and_gains_are_paired() {
        let report = two_queries();
        let mrr = |values: &ByMeasure<f64>| values["mrr@10"];
        let scores: Vec<[f64; 3]> = report
            .per_query
            .iter()
            .map(|query| [&query.scores.reranked, &query.scores.input, &query.scores.bm25].map(mrr))
            .collect();
        let expected = [[1.0, 1.0 / 3.0, 1.0 / 3.0], [0.625, 1.0 / 3.0, 1.0]];
        for (found, expected) in scores.iter().flatten().zip(expected.iter().flatten()) {
            assert!(close(*found, *expected), "{scores:?}");
        }
        assert!(close(report.systems.reranked["mrr@10"].mean, 0.8125));
        let gain = &report.gains.bm25["mrr@10"];
        assert!(close(gain.estimate.mean, (2.0 / 3.0 - 0.375) / 2.0), "{gain:?}");
        assert_eq!((gain.wins, gain.ties, gain.losses), (1, 0, 1));
        assert!(close(gain.p, 1.0), "of two differences any signs are as likely: {gain:?}");
        assert_eq!(report.gains.input["mrr@10"].wins, 2);
        assert_eq!(report.left_out.queries_unjudged, 7);
    }

    #[test]
    fn the_verdict_follows_from_the_gain_and_its_interval() {
        let verdict = |mean, low| verdict(Estimate { mean, low, high: 1.0 });
        assert_eq!(verdict(0.1, 0.05), Verdict::Better);
        assert_eq!(verdict(0.1, 0.0), Verdict::Unclear);
        assert_eq!(verdict(0.0, -0.1), Verdict::Even);
        assert_eq!(verdict(-0.1, -0.2), Verdict::NotBetter);
    }

    #[test]
    fn orders_are_compared_within_a_query() {
        let order = two_queries().order.unwrap();
        // The first query's orders agree; of the second's six pairs only 0, 1 and 0, 3 and 1, 3 do.
        assert!(close(order.kendall_tau.unwrap().mean, 0.5), "{order:?}");
        assert_eq!(order.position_bias.curve.len(), 4);
        let first = order.position_bias.curve[0];
        // Position 1 of the shuffled orders has candidate 3 with rank 2 and candidate 1 with rank
        // 2.
        assert_eq!((first.position, first.count), (1, 2));
        assert!(close(first.mean_rank, 2.0) && close(first.mean_score, 0.4), "{first:?}");
    }

    #[test]
    fn cost_is_computed_over_all_requests() {
        let report = two_queries();
        assert!(close(report.truncated_share.unwrap(), 0.25));
        assert_eq!(report.latency_ms.requests, 4);
        assert!(close(report.latency_ms.p95, 10.0) && close(report.latency_ms.mean, 10.0));
        let tokens = report.tokens.unwrap();
        assert!(close(tokens.per_request.mean, 100.0) && close(tokens.per_document.mean, 25.0));
        assert!(close(tokens.per_second, 10_000.0) && close(tokens.per_document.max, 40.0));
        let query = &report.per_query[0];
        assert_eq!((query.documents, query.relevant, query.tokens, query.truncated), (4, 1, Some(100), Some(1)));
    }

    #[test]
    fn values_that_a_system_does_not_report_are_none() {
        let reported = pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER);
        let silent = Pass { truncated: None, tokens_read: None, prompt_tokens: None, ..reported.clone() };
        let summary = |pass| summarize(&set("s", 1), &[query_run(vec![pass])], &[IN_ORDER.to_vec()], &settings());
        let report = summary(silent);
        assert_eq!((report.truncated_share, report.tokens, report.per_query[0].truncated), (None, None, None));
        let tokens = summary(Pass { tokens_read: None, ..reported }).tokens.unwrap();
        assert!(close(tokens.per_document.mean, 25.0), "a request's tokens over its documents");
    }

    #[test]
    fn the_worst_queries_have_the_top_documents_and_all_relevant_ones() {
        let report = two_queries();
        let [worst] = &report.worst[..] else { panic!("one query lost: {:?}", report.worst) };
        assert_eq!(worst.id, "q1");
        assert!(worst.gain < 0.0);
        let best: Vec<(&str, bool)> = report.best.iter().map(|query| (query.id.as_str(), query.gain > 0.0)).collect();
        assert_eq!(best, [("q0", true)]);
        let shown: Vec<(&str, usize, usize, usize, Option<f64>)> = worst
            .documents
            .iter()
            .map(|document| {
                (document.id.as_str(), document.rank, document.input_rank, document.bm25_rank, document.grade)
            })
            .collect();
        assert_eq!(
            shown,
            [("d2", 1, 3, 1, Some(1.0)), ("d3", 2, 4, 4, Some(0.0)), ("d1", 3, 2, 3, None), ("d0", 4, 1, 2, None)]
        );
    }

    #[test]
    fn a_query_without_candidates_scores_nothing_and_costs_nothing() {
        let mut set = set("s", 1);
        set.queries[0].candidates.clear();
        let report = summarize(&set, &[query_run(Vec::new())], &[Vec::new()], &settings());
        assert!(close(report.systems.reranked["ndcg@10"].mean, 0.0));
        assert_eq!((report.latency_ms.requests, report.per_query[0].documents), (0, 0));
        assert_eq!(report.order.unwrap().kendall_tau, None);
        let json = serde_json::to_string(&report.calibration).unwrap();
        assert!(!json.contains("null"), "{json}");
    }
}
