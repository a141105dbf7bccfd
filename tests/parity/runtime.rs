//! The packed runtime against transformers: states, logits and projections of every kind of pass.

use crate::deviation::{Table, largest};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, golden, load, run_alone};

const TOLERANCE: f32 = 1e-4;

/// What kind of pass it is, for the table.
fn layout(pass: &GoldenPass) -> &'static str {
    match (pass.branches.is_empty(), pass.joint) {
        (true, _) => "causal",
        (false, 0) => "trunk and branches",
        (false, _) => "isolated, joint layers",
    }
}

#[test]
fn hidden_states_logits_and_projections_are_those_of_transformers() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in &golden.passes {
            let mut note = |quantity: &str, deviation| {
                table.note(case, &golden.shape, &format!("{}: {quantity}", layout(pass)), deviation);
            };
            let states = run_alone(&runtime, pass.reading_states(false));
            note("states", largest(&states, &pass.hidden_states));
            let logits = run_alone(&runtime, pass.reading_logits());
            note("logits", largest(&logits, &pass.logits));
            if let Some(projected) = &pass.projected {
                note("projected", largest(&run_alone(&runtime, pass.reading_states(true)), projected));
            }
        }
    }
    println!("{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_expected_numbers_would_show_a_branch_that_sees_another() {
    // The joint passes differ from the plain ones by far more than the tolerance, or they prove nothing.
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.joint > 0) {
            let mut apart = pass.reading_states(false);
            apart.joint_layers.count = 0;
            let difference = largest(&run_alone(&runtime, apart), &pass.hidden_states);
            assert!(difference > 0.01, "{case}, {}: {difference}", pass.name);
        }
    }
}
