//! The effect of instructions: quality with and without them, queries that they harm, and queries
//! that differ in nothing but their instruction.

use std::collections::{HashMap, HashSet};

use super::{Case, by_measure, estimate, paired_gain};
use crate::eval::datasets::{Grades, RELEVANT_FROM};
use crate::eval::measures::Measure;
use crate::eval::report::{InstructionEffect, InstructionSystems, TwinEffect};
use crate::eval::run::Pass;
use crate::eval::settings::EvalSettings;
use crate::eval::statistics::{kendall_tau_b, mean};

/// The drop of the primary measure from which on an instruction harmed a query.
const HARM: f64 = 0.05;

/// Compares the given order with and without the instruction. `None` if no query has one.
pub(super) fn instruction_effect(cases: &[Case], settings: &EvalSettings) -> Option<InstructionEffect> {
    let (measures, seed) = (&settings.measures, settings.seed);
    let pairs: Vec<(&Case, &Pass, &Pass)> =
        cases.iter().filter_map(|case| Some((case, case.run.plain.as_ref()?, case.run.orders.first()?))).collect();
    if pairs.is_empty() {
        return None;
    }
    let values = |measure: Measure, instructed: bool| -> Vec<f64> {
        pairs
            .iter()
            .map(|(case, plain, with)| case.compute_measure(measure, if instructed { with } else { plain }))
            .collect()
    };
    let differences = |measure: Measure| -> Vec<f64> {
        values(measure, true).into_iter().zip(values(measure, false)).map(|(with, plain)| with - plain).collect()
    };
    let share = |count: usize| count as f64 / pairs.len() as f64;
    let taus: Vec<f64> =
        pairs.iter().filter_map(|(_, plain, with)| kendall_tau_b(&plain.scores, &with.scores)).collect();
    let changed = pairs.iter().filter(|(_, plain, with)| plain.ranking.first() != with.ranking.first()).count();
    let harmed = differences(measures[0]).iter().filter(|difference| **difference < -HARM).count();
    let texts: HashSet<&str> = pairs.iter().filter_map(|(case, ..)| case.run.instruction.as_deref()).collect();
    Some(InstructionEffect {
        texts: texts.len(),
        queries: pairs.len(),
        systems: InstructionSystems {
            plain: by_measure(measures, |measure, _| estimate(&values(measure, false), seed)),
            instructed: by_measure(measures, |measure, _| estimate(&values(measure, true), seed)),
        },
        gain: by_measure(measures, |measure, _| paired_gain(&differences(measure), seed)),
        kendall_tau: (!taus.is_empty()).then(|| mean(&taus)),
        first_changed: share(changed),
        harmed: share(harmed),
        twins: twin_effect(cases),
    })
}

/// Compares queries with the same text and the same candidates, but another instruction and other
/// grades. `None` if there are none.
fn twin_effect(cases: &[Case]) -> Option<TwinEffect> {
    let mut groups: HashMap<(&str, Vec<usize>), Vec<&Case>> = HashMap::new();
    for case in cases.iter().filter(|case| case.run.instruction.is_some() && !case.run.orders.is_empty()) {
        let mut candidates = case.query.candidates.clone();
        candidates.sort_unstable();
        groups.entry((&case.query.text, candidates)).or_default().push(case);
    }
    let differ = |left: &Case, right: &Case| {
        left.run.instruction != right.run.instruction && left.query.grades != right.query.grades
    };
    let (mut right, mut changes) = (Vec::new(), Vec::new());
    for group in groups.values() {
        for (later, second) in group.iter().enumerate() {
            for first in group[..later].iter().filter(|first| differ(first, second)) {
                right.push(f64::from(u8::from(first.has_best_document_first() && second.has_best_document_first())));
                let ranks = [rank_changes(first, second), rank_changes(second, first)].concat();
                if !ranks.is_empty() {
                    changes.push(mean(&ranks));
                }
            }
        }
    }
    (!right.is_empty()).then(|| TwinEffect {
        pairs: right.len(),
        both_right: mean(&right),
        p_mrr: (!changes.is_empty()).then(|| mean(&changes)),
    })
}

impl Case<'_> {
    /// Whether the first document is relevant and no candidate has a higher grade.
    fn has_best_document_first(&self) -> bool {
        let grade = |place: &usize| self.query.grades.get(place).copied().unwrap_or(0.0);
        let best = self.query.candidates.iter().map(grade).fold(RELEVANT_FROM, f64::max);
        let first = self.run.orders.first().and_then(|pass| pass.ranking.first());
        first.is_some_and(|candidate| grade(&self.query.candidates[*candidate]) >= best)
    }

    /// The rank of a document in the first input order, from 1.
    fn rank_of(&self, document: usize) -> Option<usize> {
        let pass = self.run.orders.first()?;
        let at = pass.ranking.iter().position(|candidate| self.query.candidates[*candidate] == document)?;
        Some(at + 1)
    }
}

/// The change of rank, in [-1, 1], of every document that is relevant for `before` and not for
/// `after`: 1 - before / after if it fell, after / before - 1 if it did not (p-MRR of FollowIR,
/// Weller and others 2024).
fn rank_changes(before: &Case, after: &Case) -> Vec<f64> {
    let is_relevant =
        |grades: &Grades, document: &usize| grades.get(document).is_some_and(|grade| *grade >= RELEVANT_FROM);
    let lost =
        before.query.grades.keys().filter(|document| {
            is_relevant(&before.query.grades, document) && !is_relevant(&after.query.grades, document)
        });
    let change = |document: &usize| {
        let (before, after) = (before.rank_of(*document)? as f64, after.rank_of(*document)? as f64);
        Some(if before >= after { after / before - 1.0 } else { 1.0 - before / after })
    };
    lost.filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::super::summarize;
    use crate::eval::datasets::Grades;
    use crate::eval::run::QueryRun;
    use crate::eval::testing::{pass, query_run, set, settings};

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    const IN_ORDER: [usize; 4] = [0, 1, 2, 3];

    #[test]
    fn an_instruction_is_compared_with_the_same_order_without_it() {
        let mut with = query_run(vec![pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER), pass(&[0.9, 0.2, 0.1, 0.3], &IN_ORDER)]);
        with.instruction = Some("i".to_owned());
        with.plain = Some(pass(&[0.9, 0.3, 0.1, 0.2], &IN_ORDER));
        let without = query_run(vec![pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER); 2]);
        let bm25 = [IN_ORDER.to_vec(), IN_ORDER.to_vec()];
        let effect = summarize(&set("s", 2), &[with, without], &bm25, &settings()).instruction.unwrap();
        assert_eq!((effect.texts, effect.queries), (1, 1));
        assert!(close(effect.systems.instructed["mrr@10"].mean, 1.0));
        assert!(close(effect.systems.plain["mrr@10"].mean, 0.25));
        assert!(close(effect.gain["mrr@10"].estimate.mean, 0.75));
        assert!(close(effect.harmed, 0.0) && effect.twins.is_none(), "{effect:?}");
        assert!(close(effect.first_changed, 1.0) && close(effect.kendall_tau.unwrap(), -1.0), "{effect:?}");
    }

    #[test]
    fn an_instruction_that_lowers_the_primary_measure_harms_its_query() {
        let mut harmed = query_run(vec![pass(&[0.9, 0.2, 0.1, 0.3], &IN_ORDER)]);
        harmed.instruction = Some("i".to_owned());
        harmed.plain = Some(pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER));
        let mut same = query_run(vec![pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER)]);
        same.instruction = Some("j".to_owned());
        same.plain = Some(pass(&[0.1, 0.2, 0.9, 0.3], &IN_ORDER));
        let bm25 = [IN_ORDER.to_vec(), IN_ORDER.to_vec()];
        let effect = summarize(&set("s", 2), &[harmed, same], &bm25, &settings()).instruction.unwrap();
        assert!(close(effect.harmed, 0.5), "{effect:?}");
    }

    /// Two queries that differ in instruction and grades, ranked with these scores.
    fn twins(first: [f64; 4], second: [f64; 4]) -> super::TwinEffect {
        let mut set = set("s", 2);
        for (query, relevant) in set.queries.iter_mut().zip([0, 3]) {
            query.text = "the same".to_owned();
            query.grades = Grades::from([(relevant, 1.0)]);
        }
        let instructed = |scores: [f64; 4], text: &str| QueryRun {
            instruction: Some(text.to_owned()),
            plain: Some(pass(&[0.4, 0.3, 0.2, 0.1], &IN_ORDER)),
            ..query_run(vec![pass(&scores, &IN_ORDER)])
        };
        let runs = [instructed(first, "i"), instructed(second, "j")];
        let effect = summarize(&set, &runs, &[IN_ORDER.to_vec(), IN_ORDER.to_vec()], &settings());
        effect.instruction.unwrap().twins.unwrap()
    }

    #[test]
    fn twins_are_right_if_both_first_documents_are() {
        let followed = twins([0.9, 0.5, 0.4, 0.1], [0.1, 0.5, 0.4, 0.9]);
        assert_eq!(followed.pairs, 1);
        assert!(close(followed.both_right, 1.0), "{followed:?}");
        // Document 0 fell from rank 1 to 4, and document 3, in the other direction, did too.
        assert!(close(followed.p_mrr.unwrap(), 0.75), "{followed:?}");
        let ignored = twins([0.9, 0.5, 0.4, 0.1], [0.9, 0.5, 0.4, 0.1]);
        assert!(close(ignored.both_right, 0.0) && close(ignored.p_mrr.unwrap(), 0.0), "{ignored:?}");
        let reversed = twins([0.1, 0.5, 0.4, 0.9], [0.9, 0.5, 0.4, 0.1]);
        assert!(close(reversed.both_right, 0.0) && close(reversed.p_mrr.unwrap(), -0.75), "{reversed:?}");
    }
}
