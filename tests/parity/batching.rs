//! A pass gives the same numbers alone, in any batch, in any order, and as plain sequences.

use podium::runtime::{CrossDocumentLayers, ForwardPass, Head, OutputSpec, Runtime, TokenPosition, TokenTypes};

use crate::deviation::{Table, largest_relative};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, golden, load, run_alone};

const TOLERANCE: f32 = 1e-5;

#[test]
fn a_batch_gives_what_each_pass_gives_alone_in_any_order() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        // States and logits in one batch: heads mix.
        let passes: Vec<_> =
            golden.passes.iter().flat_map(|pass| [pass.reading_states(false), pass.reading_logits()]).collect();
        let alone: Vec<_> = passes.iter().map(|pass| run_alone(&runtime, pass.clone())).collect();
        let mut order: Vec<usize> = (0..passes.len()).collect();
        for arrangement in ["as they come", "back to front", "rotated"] {
            match arrangement {
                "back to front" => order.reverse(),
                "rotated" => order.rotate_left(passes.len() / 3),
                _ => (),
            }
            let batch: Vec<_> = order.iter().map(|&place| passes[place].clone()).collect();
            let outputs = runtime.run(&batch).unwrap();
            for (&place, output) in order.iter().zip(outputs) {
                table.note(case, &golden.shape, arrangement, largest_relative(&output, &alone[place]));
            }
        }
    }
    println!("\nlargest deviation of a pass in a batch, from alone\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn suffixes_give_what_one_sequence_each_gives() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.cross_document_layers == 0) {
            let together = run_alone(&runtime, pass.reading_states(false));
            let apart: Vec<_> = pass.marks.iter().map(|&mark| run_alone(&runtime, sequence(pass, mark))).collect();
            let apart: Vec<_> = apart.into_iter().flatten().collect();
            table.note(case, &golden.shape, "one sequence each", largest_relative(&together, &apart));
        }
    }
    println!("\nlargest deviation of a pass as suffixes, from one sequence each\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_order_of_suffixes_changes_nothing() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        for pass in golden.passes.iter().filter(|pass| pass.suffixes.len() > 1) {
            let given = run_alone(&runtime, pass.reading_states(false));
            let shuffled = run_alone(&runtime, with_suffixes_reversed(&pass.reading_states(false)));
            table.note(case, &golden.shape, "suffixes reversed", largest_relative(&shuffled, &given));
        }
    }
    println!("\nlargest deviation of a pass with its suffixes in another order\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

/// The path to one mark as a plain sequence of its own.
fn sequence(pass: &GoldenPass, (segment, offset): (usize, usize)) -> ForwardPass {
    let mut prefix = pass.prefix.clone();
    let mut mark = offset;
    if segment > 0 {
        mark += prefix.len();
        prefix.extend(&pass.suffixes[segment - 1]);
    }
    ForwardPass {
        prefix,
        suffixes: Vec::new(),
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers::default(),
        output: OutputSpec::listed(vec![TokenPosition::prefix(mark)], Head::Hidden),
    }
}

/// The same pass with its suffixes in the opposite order; marks are read in the old order.
fn with_suffixes_reversed(pass: &ForwardPass) -> ForwardPass {
    let count = pass.suffixes.len();
    let mirrored = |mark: &TokenPosition| match mark.segment {
        0 => *mark,
        segment => TokenPosition { segment: count + 1 - segment, offset: mark.offset },
    };
    ForwardPass {
        prefix: pass.prefix.clone(),
        suffixes: pass.suffixes.iter().rev().cloned().collect(),
        token_types: TokenTypes::Zero,
        cross_document: CrossDocumentLayers {
            count: pass.cross_document.count,
            shared: pass.cross_document.shared.iter().map(mirrored).collect(),
        },
        output: OutputSpec::listed(pass.read_positions().iter().map(mirrored).collect(), pass.output.head.clone()),
    }
}
