//! A pass gives the same numbers alone, in any batch, in any order, and as plain sequences.

use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Head, OutputSpec, Pooling, Runtime, TokenPosition, TokenTypes,
};

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
fn passes_that_share_a_prefix_give_what_each_gives_alone() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        let parts = golden.passes.iter().filter(|pass| pass.marks.iter().all(|&(segment, _)| segment > 0));
        let parts: Vec<_> = parts.flat_map(|pass| one_suffix_each(&pass.reading_states(false))).collect();
        assert!(parts.windows(2).filter(|parts| parts[0].prefix == parts[1].prefix).count() > 3, "{case}");
        for (part, output) in parts.iter().zip(runtime.run(&parts).unwrap()) {
            let alone = run_alone(&runtime, part.clone());
            table.note(case, &golden.shape, "shared prefix", largest_relative(&output, &alone));
        }
    }
    println!("\nlargest deviation of a pass that shares its prefix, from alone\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn our_kernels_give_the_same_bits_with_a_shared_prefix() {
    for (dtype, quantize) in [("f32", "none"), ("bf16", "none"), ("f32", "int8")] {
        let settings =
            ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() };
        let runtime = PackedRuntime::load(&Checkpoint::podium_nano(), &settings).unwrap();
        let last = || OutputSpec::pooled(Pooling::Last, Head::Hidden);
        let pass = |prefix: u32, suffixes: &[u32]| ForwardPass {
            suffixes: suffixes.iter().map(|&length| (7..7 + length).collect()).collect(),
            ..ForwardPass::sequence((1..=prefix).collect(), last())
        };
        let batch = [pass(70, &[5, 40]), pass(70, &[1, 130]), pass(20, &[9]), pass(20, &[9, 33]), pass(70, &[64])];
        let alone: Vec<_> = batch.iter().map(|pass| run_alone(&runtime, pass.clone())).collect();
        assert_eq!(runtime.run(&batch).unwrap(), alone, "{dtype} {quantize}");
    }
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

/// A pass for each suffix that is read, with the same prefix.
fn one_suffix_each(pass: &ForwardPass) -> Vec<ForwardPass> {
    let read = pass.read_positions();
    let part = |(number, suffix): (usize, &Vec<u32>)| {
        let own = read.iter().filter(|position| position.segment == number + 1);
        let own: Vec<_> = own.map(|position| TokenPosition { segment: 1, ..*position }).collect();
        ForwardPass {
            prefix: pass.prefix.clone(),
            suffixes: vec![suffix.clone()],
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers::default(),
            output: OutputSpec::listed(own, Head::Hidden),
        }
    };
    let parts = pass.suffixes.iter().enumerate().map(part);
    parts.filter(|part| !part.read_positions().is_empty()).collect()
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
