//! Measures of one ranking, as `trec_eval` and the tools beside it define them.
//! `tests/fixtures/measures.json` has their own values.
//!
//! A document with a grade of 1 or more ([`RELEVANT_FROM`]) is relevant. A grade between 0 and 1
//! (only slates have them) is a gain for nDCG, but not relevant for the other measures. Unjudged
//! documents and negative grades have no gain.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::datasets::{Grades, RELEVANT_FROM, is_relevant};

/// A measure of a ranking, in `[0, 1]`; higher is better. Written as [`Measure::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
    /// Share of the first k places that have a relevant document (`P`).
    Precision(usize),
    /// Average precision: the mean over all relevant documents of the precision at their rank; 0
    /// for those that the ranking lacks (`map`).
    Map,
    /// Expected reciprocal rank of the first k documents: the reader stops at a document of grade g
    /// with probability (2^g - 1) / 2^4, as in `gdeval.pl` (Chapelle and others 2009). Grades above
    /// 4 count as 4.
    Err(usize),
    /// Rank-biased precision with persistence p, in percent: (1 - p) times the sum of
    /// p^(rank - 1) over the relevant documents (Moffat and Zobel 2008).
    Rbp(u8),
}

/// The highest grade of [`Measure::Err`].
const HIGHEST_GRADE: f64 = 4.0;

/// Measures with a cut-off: the names in reports, the usual spelling, other spellings, and the
/// constructor.
type WithCutoff = (&'static str, &'static str, &'static [&'static str], fn(usize) -> Measure);
const WITH_CUTOFF: [WithCutoff; 6] = [
    ("ndcg", "nDCG", &["ndcg_cut"], Measure::Ndcg),
    ("mrr", "MRR", &["rr", "recip_rank"], Measure::Mrr),
    ("hit", "Hit", &["success"], Measure::Hit),
    ("recall", "Recall", &["r"], Measure::Recall),
    ("p", "P", &["precision"], Measure::Precision),
    ("err", "ERR", &[], Measure::Err),
];

impl Measure {
    /// The default measures with this cut-off, the primary one first.
    #[must_use]
    pub fn defaults(k: usize) -> Vec<Self> {
        vec![Self::Ndcg(k), Self::Mrr(k), Self::Hit(k), Self::Recall(k), Self::Map]
    }

    /// Parses a list such as `nDCG@1,5,10 P@5 MAP RBP(p=.8)`: measures separated by spaces or
    /// commas. A number alone is another cut-off of the measure before it.
    ///
    /// # Errors
    /// A message that names the unknown part and the known measures, or the measure that is listed
    /// twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut measures: Vec<Self> = Vec::new();
        let mut name = "";
        for part in text.split([' ', ',']).filter(|part| !part.is_empty()) {
            let measure = if part.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() {
                format!("{name}@{part}").parse()?
            } else {
                name = part.split_once('@').map_or("", |(name, _)| name);
                part.parse::<Self>()?
            };
            if measures.contains(&measure) {
                return Err(format!("{measure} is listed twice"));
            }
            measures.push(measure);
        }
        if measures.is_empty() { Err("expected at least one measure".to_owned()) } else { Ok(measures) }
    }

    /// The name in reports, such as `ndcg@10`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Ndcg(k) => format!("ndcg@{k}"),
            Self::Mrr(k) => format!("mrr@{k}"),
            Self::Hit(k) => format!("hit@{k}"),
            Self::Recall(k) => format!("recall@{k}"),
            Self::Precision(k) => format!("p@{k}"),
            Self::Map => "map".to_owned(),
            Self::Err(k) => format!("err@{k}"),
            Self::Rbp(p) => format!("rbp({p})"),
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
            Self::Precision(k) => ratio(hits(k) as f64, k),
            Self::Map => {
                let places = ranking.iter().enumerate().filter(|(_, place)| is_relevant(grades, **place));
                ratio(
                    places.enumerate().map(|(found, (index, _))| ratio((found + 1) as f64, index + 1)).sum(),
                    relevant,
                )
            }
            Self::Err(k) => expected_reciprocal_rank(k, ranking, grades),
            Self::Rbp(percent) => {
                let persistence = f64::from(percent) / 100.0;
                let weights = std::iter::successors(Some(1.0 - persistence), |weight| Some(weight * persistence));
                let weighted = ranking.iter().zip(weights).filter(|(place, _)| is_relevant(grades, **place));
                weighted.map(|(_, weight)| weight).sum()
            }
        }
    }
}

/// The usual spelling, such as `nDCG@10`.
impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, k) = match self {
            Self::Ndcg(k) => ("nDCG", k),
            Self::Mrr(k) => ("MRR", k),
            Self::Hit(k) => ("Hit", k),
            Self::Recall(k) => ("Recall", k),
            Self::Precision(k) => ("P", k),
            Self::Err(k) => ("ERR", k),
            Self::Map => return formatter.write_str("MAP"),
            Self::Rbp(p) => return write!(formatter, "RBP(p={})", f64::from(*p) / 100.0),
        };
        write!(formatter, "{name}@{k}")
    }
}

impl FromStr for Measure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if ["map", "ap"].contains(&&*lower) {
            return Ok(Self::Map);
        }
        if let Some(rest) = lower.strip_prefix("rbp") {
            return parse_persistence(rest).map(Self::Rbp).ok_or_else(|| {
                format!("{text:?}: expected RBP or RBP(p=0.8), with two decimals between 0.01 and 0.99")
            });
        }
        let (name, cutoff) = lower.split_once('@').unwrap_or((&lower, ""));
        let known = WITH_CUTOFF.iter().find(|(ours, _, others, _)| *ours == name || others.contains(&name));
        let Some((_, usual, _, measure)) = known else {
            return Err(format!(
                "unknown measure {text:?}; known are nDCG@k, MRR@k, Hit@k, Recall@k, P@k, ERR@k, MAP and RBP(p=0.8)"
            ));
        };
        let cutoff: NonZeroUsize =
            cutoff.parse().map_err(|_| format!("{text:?}: expected a cut-off of 1 or more, as in {usual}@10"))?;
        Ok(measure(cutoff.get()))
    }
}

/// Parses what follows `rbp`: nothing (p = .8), `(p=0.95)`, `(0.95)`, or percent as in `(95)`.
fn parse_persistence(text: &str) -> Option<u8> {
    if text.is_empty() {
        return Some(80);
    }
    let inside = text.strip_prefix('(')?.strip_suffix(')')?;
    let value: f64 = inside.strip_prefix("p=").unwrap_or(inside).parse().ok()?;
    let percent = if value < 1.0 { value * 100.0 } else { value };
    let rounded = percent.round();
    ((percent - rounded).abs() < 1e-9 && (1.0..=99.0).contains(&rounded)).then_some(rounded as u8)
}

impl TryFrom<String> for Measure {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Measure> for String {
    fn from(measure: Measure) -> Self {
        measure.name()
    }
}

fn expected_reciprocal_rank(k: usize, ranking: &[usize], grades: &Grades) -> f64 {
    let (mut reached, mut sum) = (1.0, 0.0);
    for (index, place) in ranking.iter().take(k).enumerate() {
        let grade = grades.get(place).copied().unwrap_or(0.0).clamp(0.0, HIGHEST_GRADE);
        let stops = (grade.exp2() - 1.0) / HIGHEST_GRADE.exp2();
        sum += reached * stops / (index + 1) as f64;
        reached *= 1.0 - stops;
    }
    sum
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

    const EVERY: &str = "nDCG@10 MRR@10 Hit@10 R@10 P@10 MAP ERR@10 RBP";

    #[test]
    fn measures_with_a_cut_off_a_stop_or_a_persistence_match_a_calculation_by_hand() {
        let grades = Grades::from([(0, 2.0), (1, 1.0), (2, 9.0)]);
        let value = |name: &str| name.parse::<Measure>().unwrap().compute(&[7, 0, 1], &grades);
        assert!((value("P@5") - 0.4).abs() < 1e-12 && (value("P@2") - 0.5).abs() < 1e-12);
        let (second, third) = (3.0 / 16.0, 1.0 / 16.0);
        assert!((value("ERR@20") - (second / 2.0 + (1.0 - second) * third / 3.0)).abs() < 1e-12);
        assert!((value("ERR@2") - second / 2.0).abs() < 1e-12);
        assert!((value("RBP(p=.5)") - 0.5 * (0.5 + 0.25)).abs() < 1e-12);
        let highest = Measure::Err(1).compute(&[2], &grades);
        assert!((highest - 15.0 / 16.0).abs() < 1e-12, "a grade of 9 counts as 4");
    }

    #[test]
    fn a_list_of_measures_is_parsed_with_several_cut_offs() {
        let names = |text: &str| -> Vec<String> {
            Measure::parse_list(text).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("nDCG@1,5,10 P@5, R@100"), ["nDCG@1", "nDCG@5", "nDCG@10", "P@5", "Recall@100"]);
        assert_eq!(
            names("ndcg_cut@3,rr@10,success@1,map,rbp(p=0.95),RBP"),
            ["nDCG@3", "MRR@10", "Hit@1", "MAP", "RBP(p=0.95)", "RBP(p=0.8)"]
        );
        for measure in Measure::parse_list(EVERY).unwrap() {
            assert_eq!(measure.name().parse(), Ok(measure));
            assert_eq!(measure.to_string().parse(), Ok(measure));
        }
    }

    #[test]
    fn an_unknown_or_incomplete_measure_is_an_error_that_names_it() {
        let problem = |text: &str| Measure::parse_list(text).unwrap_err();
        assert!(problem("nDCG@10,bpref").starts_with("unknown measure \"bpref\"; known are nDCG@k,"));
        assert_eq!(problem("P@0"), "\"P@0\": expected a cut-off of 1 or more, as in P@10");
        assert_eq!(problem("recall"), "\"recall\": expected a cut-off of 1 or more, as in Recall@10");
        assert!(problem("RBP(p=1.5)").contains("between 0.01 and 0.99"));
        assert_eq!(problem("MAP P@5 P@5"), "P@5 is listed twice");
        assert_eq!(problem(" ,"), "expected at least one measure");
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
        for measure in Measure::parse_list(EVERY).unwrap() {
            assert!(measure.compute(&[], &Grades::from([(0, 1.0)])).abs() < 1e-12);
            assert!(measure.compute(&[0], &Grades::new()).abs() < 1e-12);
        }
    }

    /// The values of `trec_eval` and `ir_measures` for a random ranking;
    /// `tests/eval/make_golden.py` writes 100 of them.
    #[derive(serde::Deserialize)]
    struct Golden {
        qrels: BTreeMap<String, f64>,
        run: BTreeMap<String, f64>,
        expected: BTreeMap<String, f64>,
    }

    #[test]
    fn every_measure_matches_trec_eval_or_ir_measures() {
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
            for (name, expected) in &case.expected {
                let found = name.parse::<Measure>().unwrap().compute(&ranking, &grades);
                // gdeval.pl prints five decimals of ERR.
                let tolerance = if name.starts_with("err") { 6e-6 } else { 1e-9 };
                assert!((found - expected).abs() < tolerance, "case {number}, {name}: {found}, not {expected}");
            }
        }
    }
}
