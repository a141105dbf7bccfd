//! Every architecture against transformers, one sequence at a time: states, pooled states and classes, in every precision and on
//! both backends.

use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{ForwardPass, Head, OutputSpec, Pooling, Runtime, TokenPosition, TokenTypes};
use serde::Deserialize;

use crate::deviation::{Table, largest};
use crate::fixtures::{golden, load_as, run_alone};

const CASES: [&str; 17] = [
    "bert-classifier",
    "bert-bare-bf16",
    "xlm-roberta-classifier",
    "xlm-roberta-jina-names",
    "modernbert-mean",
    "modernbert-cls-biases",
    "modernbert-bare",
    "llama3-rope",
    "llama-linear-rope-biases",
    "llama-bidirectional",
    "mistral-window",
    "qwen3-window",
    "qwen2-window-yarn",
    "qwen3-classifier",
    "gte-classifier",
    "gemma",
    "layer-wise-minicpm",
];

/// Architectures in which sequences may share a prefix.
const CAUSAL: [&str; 8] = [
    "llama3-rope",
    "llama-linear-rope-biases",
    "mistral-window",
    "qwen3-window",
    "qwen2-window-yarn",
    "qwen3-classifier",
    "gemma",
    "layer-wise-minicpm",
];

/// Cases whose heads are too narrow for the CPU's kernels: candle's layers compute them.
const ON_CANDLE: [&str; 3] = ["bert-bare-bf16", "modernbert-bare", "llama-linear-rope-biases"];

const TOLERANCE: f32 = 1e-4;

/// `golden.json` of a case.
#[derive(Deserialize)]
struct SequenceGolden {
    shape: String,
    sequences: Vec<Sequence>,
}

/// A sequence, and what transformers computes for it.
#[derive(Deserialize)]
struct Sequence {
    tokens: Vec<u32>,
    /// Where tokens of type 1 begin.
    second_start: Option<usize>,
    offsets: Vec<usize>,
    states: Vec<Vec<f32>>,
    mean: Vec<f32>,
    /// Empty if there is no classifier.
    classes: Vec<f32>,
}

impl Sequence {
    fn read(&self, output: OutputSpec) -> ForwardPass {
        let token_types = self.second_start.map_or(TokenTypes::Zero, |start| TokenTypes::Pairs(vec![start]));
        ForwardPass { token_types, ..ForwardPass::sequence(self.tokens.clone(), output) }
    }

    fn read_states(&self) -> ForwardPass {
        let positions = self.offsets.iter().map(|&offset| TokenPosition::prefix(offset)).collect();
        self.read(OutputSpec::listed(positions, Head::Hidden))
    }

    fn state_at(&self, offset: usize) -> Vec<Vec<f32>> {
        let place = self.offsets.iter().position(|&known| known == offset).expect("it is among the offsets");
        vec![self.states[place].clone()]
    }
}

fn settings(dtype: &str, quantize: &str) -> ComputeSettings {
    ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() }
}

/// The classes of a sequence, from the positions that the checkpoint's classifier reads.
fn classes(runtime: &PackedRuntime, sequence: &Sequence) -> Vec<Vec<f32>> {
    let classifier = runtime.facts().classifier.expect("the checkpoint has a classifier");
    run_alone(runtime, sequence.read(OutputSpec::pooled(classifier.pooling, Head::Classifier)))
}

#[test]
fn states_pooled_states_and_classes_are_those_of_transformers() {
    let mut table = Table::default();
    for case in CASES {
        let (golden, runtime) = (golden::<SequenceGolden>(case), load_as(case, &ComputeSettings::reference()));
        for sequence in &golden.sequences {
            let mut note = |what, found: Vec<Vec<f32>>, expected: &[Vec<f32>]| {
                table.note(case, &golden.shape, what, largest(&found, expected));
            };
            let pooled = |pooling| run_alone(&runtime, sequence.read(OutputSpec::pooled(pooling, Head::Hidden)));
            note("states", run_alone(&runtime, sequence.read_states()), &sequence.states);
            note("first", pooled(Pooling::First), &sequence.state_at(0));
            note("last", pooled(Pooling::Last), &sequence.state_at(sequence.tokens.len() - 1));
            note("mean", pooled(Pooling::Mean), std::slice::from_ref(&sequence.mean));
            if !sequence.classes.is_empty() {
                note("classes", classes(&runtime, sequence), std::slice::from_ref(&sequence.classes));
            }
        }
    }
    println!("\nlargest deviation from transformers in f32\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn sequences_in_one_pass_give_what_each_gives_alone() {
    let mut table = Table::default();
    for case in CASES {
        let (golden, runtime) = (golden::<SequenceGolden>(case), load_as(case, &ComputeSettings::reference()));
        let types = golden.sequences.iter().map(|sequence| sequence.second_start.unwrap_or(sequence.tokens.len()));
        let positions = golden.sequences.iter().enumerate().flat_map(|(number, sequence)| {
            sequence.offsets.iter().map(move |&offset| TokenPosition::suffix(number, offset))
        });
        let together = ForwardPass {
            suffixes: golden.sequences.iter().map(|sequence| sequence.tokens.clone()).collect(),
            token_types: TokenTypes::Pairs(types.collect()),
            ..ForwardPass::sequence(Vec::new(), OutputSpec::listed(positions.collect(), Head::Hidden))
        };
        let mean = ForwardPass { output: OutputSpec::pooled(Pooling::Mean, Head::Hidden), ..together.clone() };
        let means: Vec<_> = golden.sequences.iter().map(|sequence| sequence.mean.clone()).collect();
        let states: Vec<_> = golden.sequences.iter().flat_map(|sequence| sequence.states.clone()).collect();
        table.note(case, &golden.shape, "states", largest(&run_alone(&runtime, together), &states));
        table.note(case, &golden.shape, "mean", largest(&run_alone(&runtime, mean), &means));
    }
    println!("\nlargest deviation of sequences side by side\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn a_shared_prefix_and_the_prefix_cache_change_nothing() {
    let mut table = Table::default();
    for case in CAUSAL {
        let (golden, runtime) = (golden::<SequenceGolden>(case), load_as(case, &ComputeSettings::reference()));
        let runtime = runtime.with_prefix_cache(1 << 30);
        for sequence in golden.sequences.iter().filter(|sequence| sequence.tokens.len() > 60) {
            let split = sequence.tokens.len() / 2 + 1;
            let (prefix, suffix) = sequence.tokens.split_at(split);
            let end = TokenPosition::suffix(0, suffix.len() - 1);
            let pass = ForwardPass {
                suffixes: vec![suffix.to_vec()],
                ..ForwardPass::sequence(prefix.to_vec(), OutputSpec::listed(vec![end], Head::Hidden))
            };
            let expected = sequence.state_at(sequence.tokens.len() - 1);
            let mean = ForwardPass { output: OutputSpec::pooled(Pooling::Mean, Head::Hidden), ..pass.clone() };
            let found = run_alone(&runtime, mean);
            table.note(case, &golden.shape, "mean", largest(&found, std::slice::from_ref(&sequence.mean)));
            for run in ["cold", "again", "cached"] {
                table.note(case, &golden.shape, run, largest(&run_alone(&runtime, pass.clone()), &expected));
            }
        }
        assert!(runtime.prefix_cache().hit_tokens > 0, "{case}");
    }
    println!("\nlargest deviation of a suffix, by what the cache holds\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn candles_layers_stay_near_in_q8_0() {
    let mut table = Table::default();
    for case in CASES {
        let (golden, runtime) = (golden::<SequenceGolden>(case), load_as(case, &settings("f32", "q8_0")));
        assert_eq!(runtime.facts().dtype, "q8_0", "{case}");
        for sequence in &golden.sequences {
            let found = run_alone(&runtime, sequence.read_states());
            table.note(case, &golden.shape, "states", root_mean_square(&found, &sequence.states));
        }
    }
    println!("\nroot mean square of the deviation in q8_0\n{}", table.to_text());
    table.assert_within(0.1);
}

#[test]
fn bf16_and_int8_stay_near_f32() {
    // Final states have a root mean square of about 1, and random weights forgive less than trained ones.
    for (dtype, quantize, name, limit) in [("bf16", "none", "bf16", 0.03), ("f32", "int8", "int8", 0.12)] {
        let mut table = Table::default();
        for case in CASES.into_iter().filter(|case| !ON_CANDLE.contains(case)) {
            let (golden, runtime) = (golden::<SequenceGolden>(case), load_as(case, &settings(dtype, quantize)));
            assert_eq!(runtime.facts().dtype, name, "{case} is not computed in f32 instead");
            for sequence in &golden.sequences {
                let found = run_alone(&runtime, sequence.read_states());
                table.note(case, &golden.shape, name, root_mean_square(&found, &sequence.states));
            }
        }
        println!("\nroot mean square of the deviation from transformers in f32\n{}", table.to_text());
        table.assert_within(limit);
    }
}

#[test]
fn a_state_of_a_lower_layer_is_read_by_itself_and_in_a_batch() {
    let (golden, runtime) =
        (golden::<SequenceGolden>("modernbert-mean"), load_as("modernbert-mean", &ComputeSettings::reference()));
    let sequence = &golden.sequences[3];
    let after = |layer| {
        let output = OutputSpec { layer, ..OutputSpec::pooled(Pooling::First, Head::Hidden) };
        sequence.read(output)
    };
    let alone: Vec<_> = [Some(2), None, Some(5)].map(|layer| run_alone(&runtime, after(layer))).to_vec();
    assert_ne!(alone[0], alone[1]);
    assert_eq!(alone[1], alone[2], "the last layer by its number");
    let together = runtime.run(&[after(Some(2)), after(None), after(Some(5))]).expect("it runs");
    assert_eq!(together, alone);
}

/// Of the differences between found and expected numbers.
fn root_mean_square(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().flatten().zip(expected.iter().flatten());
    let squares: Vec<f32> = differences.map(|(found, expected)| (found - expected).powi(2)).collect();
    (squares.iter().sum::<f32>() / squares.len() as f32).sqrt()
}
