//! The packed runtime against transformers: states, logits and projections of every kind of pass.

use crate::deviation::{Table, largest};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, golden, load, run_alone};

const TOLERANCE: f32 = 1e-4;

/// Columns of the table: states, logits and projections of this kind of pass.
fn columns(pass: &GoldenPass) -> [&'static str; 3] {
    match (pass.suffixes.is_empty(), pass.cross_document_layers) {
        (true, _) => ["causal: states", "logits", "projected"],
        (false, 0) => ["suffixes: states", "logits ", "projected "],
        (false, _) => ["cross-document: states", "logits  ", "projected  "],
    }
}

#[test]
fn hidden_states_logits_and_projections_are_those_of_transformers() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in &golden.passes {
            let [states, logits, projected] = columns(pass);
            let mut note = |quantity, deviation| table.note(case, &golden.shape, quantity, deviation);
            note(states, largest(&run_alone(&runtime, pass.reading_states(false)), &pass.hidden_states));
            note(logits, largest(&run_alone(&runtime, pass.reading_logits()), &pass.logits));
            if let Some(expected) = &pass.projected {
                note(projected, largest(&run_alone(&runtime, pass.reading_states(true)), expected));
            }
        }
    }
    println!("\nlargest deviation from transformers in f32\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_expected_numbers_would_show_a_suffix_that_sees_another() {
    // The cross-document passes differ from the plain ones by far more than the tolerance, or they prove nothing.
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.cross_document_layers > 0) {
            let mut apart = pass.reading_states(false);
            apart.cross_document.count = 0;
            let difference = largest(&run_alone(&runtime, apart), &pass.hidden_states);
            assert!(difference > 0.01, "{case}, {}: {difference}", pass.name);
        }
    }
}
