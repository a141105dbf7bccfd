//! Measures of one ranking, as `trec_eval` defines them. `tests/fixtures/measures.json` has
//! `trec_eval`'s own values.
//!
//! A document with a grade of 1 or more ([`RELEVANT_FROM`]) is relevant. A grade between 0 and 1
//! (only slates have them) is a gain for nDCG, but not relevant for the other measures. Unjudged
//! documents and negative grades have no gain.

use super::datasets::{Grades, RELEVANT_FROM, is_relevant};

/// A measure of a ranking, in `[0, 1]`; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Discounted cumulative gain of the first k documents, divided by that of the ideal ranking of
    /// all judged documents. Gain = grade, discount = log2(rank + 1) (`ndcg_cut`; Järvelin and
    /// Kekäläinen 2002).
    Ndcg(usize),
    /// 1 / rank of the first relevant document; 0 if it is not among the first k (`recip_rank` of
    /// the first k).
    Mrr(usize),
    /// 1 if a relevant document is among the first k, otherwise 0 (`success`).
    Hit(usize),
    /// Share of the relevant documents that are among the first k (`recall`).
    Recall(usize),
    /// Average precision: the mean over all relevant documents of the precision at their rank; 0
    /// for those that the ranking lacks (`map`).
    Map,
}

impl Measure {
    /// All measures, the primary one first.
    #[must_use]
    pub const fn all(k: usize) -> [Self; 5] {
        [Self::Ndcg(k), Self::Mrr(k), Self::Hit(k), Self::Recall(k), Self::Map]
    }

    /// The name in reports, such as `ndcg@10`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Ndcg(k) => format!("ndcg@{k}"),
            Self::Mrr(k) => format!("mrr@{k}"),
            Self::Hit(k) => format!("hit@{k}"),
            Self::Recall(k) => format!("recall@{k}"),
            Self::Map => "map".to_owned(),
        }
    }

    /// Computes the measure of a ranking: indices of documents, best first, each at most once.
    #[must_use]
    pub fn compute(self, ranking: &[usize], grades: &Grades) -> f64 {
        let relevant = grades.values().filter(|grade| **grade >= RELEVANT_FROM).count();
        let hits = |k: usize| ranking.iter().take(k).filter(|place| is_relevant(grades, **place)).count();
        match self {
            Self::Ndcg(k) => ndcg(k, ranking, grades),
            Self::Mrr(k) => {
                let first = ranking.iter().take(k).position(|place| is_relevant(grades, *place));
                first.map_or(0.0, |index| 1.0 / (index + 1) as f64)
            }
            Self::Hit(k) => f64::from(u8::from(hits(k) > 0)),
            Self::Recall(k) => ratio(hits(k) as f64, relevant),
            Self::Map => {
                let places = ranking.iter().enumerate().filter(|(_, place)| is_relevant(grades, **place));
                ratio(
                    places.enumerate().map(|(found, (index, _))| ratio((found + 1) as f64, index + 1)).sum(),
                    relevant,
                )
            }
        }
    }
}

fn ndcg(k: usize, ranking: &[usize], grades: &Grades) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
        gains.take(k).enumerate().map(|(index, gain)| gain.max(0.0) / ((index + 2) as f64).log2()).sum()
    };
    let mut ideal: Vec<f64> = grades.values().copied().collect();
    ideal.sort_by(|left, right| right.total_cmp(left));
    let best = discounted(&mut ideal.into_iter());
    if best > 0.0 {
        discounted(&mut ranking.iter().map(|place| grades.get(place).copied().unwrap_or(0.0))) / best
    } else {
        0.0
    }
}

/// `part / count`; 0 if `count` is 0.
fn ratio(part: f64, count: usize) -> f64 {
    if count == 0 { 0.0 } else { part / count as f64 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_measure_of_a_small_ranking_matches_a_calculation_by_hand() {
        let grades = Grades::from([(0, 3.0), (1, 1.0), (2, 0.0), (3, -2.0), (9, 1.0)]);
        let ranking = [2, 1, 3, 0, 5];
        let value = |measure: Measure| measure.compute(&ranking, &grades);
        let gained = 1.0 / 3_f64.log2() + 3.0 / 5_f64.log2();
        let ideal = 3.0 + 1.0 / 3_f64.log2() + 1.0 / 4_f64.log2();
        assert!((value(Measure::Ndcg(10)) - gained / ideal).abs() < 1e-12);
        assert!((value(Measure::Mrr(10)) - 0.5).abs() < 1e-12);
        assert!(value(Measure::Mrr(1)).abs() < 1e-12);
        assert!((value(Measure::Hit(2)) - 1.0).abs() < 1e-12);
        assert!(value(Measure::Hit(1)).abs() < 1e-12);
        assert!((value(Measure::Recall(4)) - 2.0 / 3.0).abs() < 1e-12);
        assert!((value(Measure::Map) - (0.5 + 0.5) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn grades_between_zero_and_one_gain_but_are_not_relevant() {
        let grades = Grades::from([(0, 0.5), (1, 1.5)]);
        assert!((Measure::Recall(1).compute(&[1, 0], &grades) - 1.0).abs() < 1e-12);
        assert!(Measure::Hit(1).compute(&[0, 1], &grades).abs() < 1e-12);
        let expected = (0.5 + 1.5 / 3_f64.log2()) / (1.5 + 0.5 / 3_f64.log2());
        assert!((Measure::Ndcg(2).compute(&[0, 1], &grades) - expected).abs() < 1e-12);
    }

    #[test]
    fn an_empty_ranking_scores_nothing() {
        for measure in Measure::all(10) {
            assert!(measure.compute(&[], &Grades::from([(0, 1.0)])).abs() < 1e-12);
            assert!(measure.compute(&[0], &Grades::new()).abs() < 1e-12);
        }
    }

    /// `trec_eval`'s values for a random ranking; `tests/eval/make_golden.py` writes 100 of them.
    #[derive(serde::Deserialize)]
    struct Golden {
        k: usize,
        qrels: BTreeMap<String, f64>,
        run: BTreeMap<String, f64>,
        expected: BTreeMap<String, f64>,
    }

    #[test]
    fn every_measure_matches_trec_eval() {
        let cases: Vec<Golden> = serde_json::from_str(include_str!("../../tests/fixtures/measures.json")).unwrap();
        assert_eq!(cases.len(), 100);
        for (number, case) in cases.iter().enumerate() {
            let names: Vec<&String> = case.qrels.keys().chain(case.run.keys()).collect();
            let place = |name: &String| names.iter().position(|other| *other == name).unwrap();
            let grades: Grades = case.qrels.iter().map(|(name, grade)| (place(name), *grade)).collect();
            let mut run: Vec<(&String, &f64)> = case.run.iter().collect();
            run.sort_by(|(left, left_score), (right, right_score)| {
                right_score.total_cmp(left_score).then_with(|| right.cmp(left))
            });
            let ranking: Vec<usize> = run.iter().map(|(name, _)| place(name)).collect();
            for measure in Measure::all(case.k) {
                let (found, expected) = (measure.compute(&ranking, &grades), case.expected[&measure.name()]);
                assert!((found - expected).abs() < 1e-9, "case {number}, {}: {found}, not {expected}", measure.name());
            }
        }
    }
}
