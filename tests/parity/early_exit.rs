//! An early exit changes no number: what goes on is what a full run gives, what leaves is what a run to the exit's layer gives,
//! and nothing else in the batch notices.

use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{
    Checkpoint, CrossDocumentLayers, EarlyExit, ForwardPass, Head, Output, OutputSpec, Pooling, Runtime, TokenPosition,
    TokenTypes,
};

use crate::deviation::{Table, largest_relative, largest_relative_of_row};
use crate::fixtures::{GoldenPass, RUNTIME_CASES, RuntimeGolden, golden, load, load_as, run_alone};

const TOLERANCE: f32 = 1e-5;

/// Suffixes of different lengths behind a prefix of three blocks of the prefix cache and a half, read at their ends as yes and no.
fn pass(exit: Option<EarlyExit>) -> ForwardPass {
    let tokens = |start: u32, count: u32| (start..start + count).map(|token| token * 7 % 37).collect::<Vec<u32>>();
    let suffixes: Vec<Vec<u32>> = (0..7).map(|number| tokens(3 * number + 1, 5 + 11 * (number % 3))).collect();
    let ends = suffixes.iter().enumerate().map(|(number, suffix)| TokenPosition::suffix(number, suffix.len() - 1));
    let output = OutputSpec::listed(ends.collect(), Head::Vocabulary(vec![3, 8])).with_exit(exit);
    ForwardPass { suffixes, ..ForwardPass::sequence(tokens(2, 56), output) }
}

fn exit(layer: usize, keep: usize) -> EarlyExit {
    EarlyExit { layer: layer as u16, keep }
}

/// The rows at the exit, and those after the last layer.
fn halves(mut output: Output) -> (Output, Output) {
    let last = output.split_off(7);
    (output, last)
}

/// The numbers of a pass that is read after some layer.
fn read_after(runtime: &PackedRuntime, layer: usize) -> Output {
    let mut pass = pass(None);
    pass.output.layer = Some(layer as u16);
    run_alone(runtime, pass)
}

/// How far the rows that went on are from those of a full run; what left must have no row.
fn deviation(output: Output, exit: EarlyExit, full: &Output) -> f32 {
    let (at_exit, last) = halves(output);
    let goes_on = exit.choose(&at_exit);
    assert_eq!(goes_on.iter().filter(|goes_on| **goes_on).count(), exit.keep.min(7));
    let mut largest = 0.0_f32;
    for ((row, expected), goes_on) in last.iter().zip(full).zip(goes_on) {
        assert_eq!(row.len(), if goes_on { 2 } else { 0 }, "{exit:?}");
        if goes_on {
            largest = largest.max(largest_relative_of_row(row, expected));
        }
    }
    largest
}

#[test]
fn suffixes_that_go_on_have_the_numbers_of_a_full_run() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        let full = run_alone(&runtime, pass(None));
        let layers = runtime.facts().layers;
        for layer in 1..=layers {
            for keep in [1, 3, 7, 100] {
                let output = run_alone(&runtime, pass(Some(exit(layer, keep))));
                table.note(case, &golden.shape, "goes on", deviation(output, exit(layer, keep), &full));
            }
            let (at_exit, last) = halves(run_alone(&runtime, pass(Some(exit(layer, 7)))));
            assert_eq!(last, full, "{case}: to the bit where all go on");
            table.note(case, &golden.shape, "at the exit", largest_relative(&at_exit, &read_after(&runtime, layer)));
            if layer == layers {
                assert_eq!(at_exit, full, "{case}: an exit after the last layer is none");
            }
        }
    }
    println!("\nlargest deviation from a full run, and at the exit from a run to that layer\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn other_passes_of_the_batch_are_untouched() {
    let mut table = Table::default();
    for case in RUNTIME_CASES {
        let (golden, runtime) = (golden::<RuntimeGolden>(case), load(case));
        let full = run_alone(&runtime, pass(None));
        let both = |pass: &GoldenPass| [pass.reading_states(false), pass.reading_logits()];
        let others: Vec<_> = golden.passes.iter().flat_map(both).collect();
        let single = ForwardPass::sequence(
            vec![5, 6, 7],
            OutputSpec::pooled(Pooling::Last, Head::Vocabulary(vec![3, 8])).with_exit(Some(exit(1, 1))),
        );
        let mut batch = others.clone();
        batch.extend([single, pass(Some(exit(1, 2))), pass(None), pass(Some(exit(2, 4))), pass(Some(exit(1, 3)))]);
        let outputs = runtime.run(&batch).unwrap();
        let prepared = runtime.prepare(batch.clone());
        assert_eq!(runtime.run_prepared(prepared).unwrap(), outputs, "{case}: prepared before it runs");
        for (pass, output) in batch.iter().zip(&outputs).take(others.len() + 1) {
            table.note(case, &golden.shape, "others", largest_relative(output, &run_alone(&runtime, pass.clone())));
        }
        table.note(case, &golden.shape, "without an exit", largest_relative(&outputs[others.len() + 2], &full));
        for (pass, output) in batch.iter().zip(outputs).skip(others.len() + 1) {
            if let Some(exit) = pass.output.exit {
                table.note(case, &golden.shape, "with an exit", deviation(output, exit, &full));
            }
        }
    }
    println!("\nlargest deviation in a batch with several exits, from alone\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_prefix_cache_stores_and_serves_passes_with_an_exit() {
    for case in ["qwen2-gqa2-head64", "qwen3-mha-f32"] {
        let (plain, cached) = (load(case), load(case).with_prefix_cache(1 << 30));
        let expected = run_alone(&plain, pass(Some(exit(1, 3))));
        let mut table = Table::default();
        for round in ["first", "second", "third"] {
            let found = run_alone(&cached, pass(Some(exit(1, 3))));
            let rows = found.iter().zip(&expected).map(|(found, expected)| (found.len(), expected.len()));
            assert!(rows.clone().all(|(found, expected)| found == expected), "{round}: {rows:?}");
            table.note(case, "", round, largest_relative(&[found.concat()], &[expected.concat()]));
        }
        // Blocks that a pass with an exit has stored serve one without, and the other way round.
        assert!(cached.prefix_cache().hit_tokens > 0);
        let full = largest_relative(&run_alone(&cached, pass(None)), &run_alone(&plain, pass(None)));
        table.note(case, "", "without an exit", full);
        table.assert_within(TOLERANCE);
    }
}

#[test]
fn the_layers_of_candle_give_the_same_with_an_exit() {
    let mut table = Table::default();
    for quantize in ["q8_0", "q4_0"] {
        let settings = ComputeSettings { quantize: quantize.to_owned(), ..ComputeSettings::reference() };
        for case in ["qwen2-gqa2-head64", "qwen3-gqa8-head128"] {
            let runtime = load_as(case, &settings).with_prefix_cache(1 << 30);
            let full = run_alone(&runtime, pass(None));
            for layer in 1..=runtime.facts().layers {
                for keep in [1, 3, 7] {
                    let (at_exit, last) = halves(run_alone(&runtime, pass(Some(exit(layer, keep)))));
                    let goes_on = exit(layer, keep).choose(&at_exit);
                    let expected = full.iter().zip(&goes_on).filter(|(_, goes_on)| **goes_on);
                    let expected: Output = expected.map(|(row, _)| row.clone()).collect();
                    assert!(last.iter().zip(goes_on).all(|(row, goes_on)| row.is_empty() != goes_on));
                    let found: Output = last.into_iter().filter(|row| !row.is_empty()).collect();
                    table.note(case, quantize, "goes on", largest_relative(&found, &expected));
                    let at_layer = read_after(&runtime, layer);
                    table.note(case, quantize, "at the exit", largest_relative(&at_exit, &at_layer));
                }
            }
        }
    }
    println!("\nlargest deviation with an exit, on candle's layers\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

/// Makes a pass one that cannot leave early.
type Change = dyn Fn(&mut ForwardPass);

#[test]
fn passes_that_cannot_leave_early_are_refused() {
    let runtime = load("qwen3-gqa4-projector");
    let refused = |change: &Change| {
        let mut pass = pass(Some(exit(1, 2)));
        change(&mut pass);
        runtime.run(&[pass]).unwrap_err().to_string()
    };
    let cases: [(&Change, &str); 6] = [
        (&|pass| pass.output.exit = Some(exit(0, 2)), "2 suffixes go on after layer 0"),
        (&|pass| pass.output.exit = Some(exit(99, 2)), "2 suffixes go on after layer 99"),
        (&|pass| pass.output.exit = Some(exit(1, 0)), "0 suffixes go on after layer 1"),
        (&|pass| pass.output.head = Head::Projector, "suffixes cannot leave early by their projector"),
        (
            &|pass| (pass.output.layer, pass.output.exit) = (Some(1), Some(exit(2, 2))),
            "layer 2, and the pass is read after 1",
        ),
        (&|pass| pass.output.at = OutputSpec::pooled(Pooling::Mean, Head::Hidden).at, "reads one position of each"),
    ];
    for (change, problem) in cases {
        let error = refused(change);
        assert!(error.contains(problem), "{error}");
    }
    let error = refused(&|pass| pass.cross_document = CrossDocumentLayers { count: 1, shared: Vec::new() });
    assert!(error.contains("suffixes that leave early see no others"), "{error}");
    let encoder = PackedRuntime::load(&Checkpoint::podium_mini(), &ComputeSettings::reference()).unwrap();
    let output = OutputSpec::pooled(Pooling::First, Head::Classifier).with_exit(Some(exit(1, 1)));
    let pairs = ForwardPass { token_types: TokenTypes::Zero, ..ForwardPass::sequence(vec![1, 2], output) };
    let error = encoder.run(&[pairs]).unwrap_err().to_string();
    assert!(error.contains("suffixes leave early only from a causal model"), "{error}");
}
