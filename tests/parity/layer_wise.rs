//! A layer-wise checkpoint is read after each layer that has a head, and documents leave after one
//! and are scored after another, with the scores of plain torch.

use std::collections::BTreeMap;

use podium::rerank::{EarlyExitChoice, RerankRequest};
use podium::runtime::packed::ComputeSettings;
use podium::runtime::{Checkpoint, Head, OutputSpec, Pooling, Runtime};
use podium::scoring::Scores;
use serde::Deserialize;

use crate::deviation::{Table, largest_of_row};
use crate::fixtures::{folder, golden, load, load_as, run_alone};
use crate::requests::{Loaded, Text, usual_limits};

const CASE: &str = "bge-layerwise";
const TOLERANCE: f32 = 1e-4;
const START: u16 = 2;
const LAYERS: u16 = 5;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    query: Text,
    instruction: Option<String>,
    documents: Vec<Text>,
    /// Scores of all documents, for each layer with a head.
    layer_scores: Vec<Vec<f32>>,
}

impl Case {
    fn request(&self, cutoff_layer: Option<u16>, early_exit: Option<EarlyExitChoice>) -> RerankRequest {
        let documents = self.documents.iter().map(Text::written_out).collect();
        let instruction = self.instruction.as_deref().map(Into::into);
        RerankRequest {
            instruction,
            cutoff_layer,
            early_exit,
            ..RerankRequest::new(self.query.written_out(), documents)
        }
    }

    fn scores_after(&self, layer: u16) -> &[f32] {
        &self.layer_scores[usize::from(layer - START)]
    }
}

/// The checkpoint, whose class says of which family it is.
fn loaded() -> Loaded {
    let checkpoint = Checkpoint::folder(&folder(CASE)).unwrap_or_else(|error| panic!("{error}"));
    let loaded = Loaded::new(&checkpoint, "auto");
    assert_eq!(loaded.prompter.facts().name, "bge-layerwise");
    loaded
}

fn layers_of(scores: &Scores) -> Vec<Option<u16>> {
    scores.early_exit.as_ref().map_or_else(|| vec![None; scores.raw.len()], |exits| exits.layers.clone())
}

#[test]
fn every_layer_with_a_head_gives_the_scores_of_torch() {
    let (golden, loaded) = (golden::<Golden>(CASE), loaded());
    let mut table = Table::default();
    for case in &golden.cases {
        for layer in START..=LAYERS {
            let request = case.request(Some(layer), None);
            loaded.prompter.check_choice_of_exit(&request).unwrap();
            let scores = loaded.run(&request, &usual_limits()).1;
            table.note(&case.name, CASE, "cutoff", largest_of_row(&scores.raw, case.scores_after(layer)));
            let expected = (layer < LAYERS).then_some(layer);
            assert_eq!(layers_of(&scores), vec![expected; scores.raw.len()], "{}, layer {layer}", case.name);
            let saved = scores.early_exit.map_or(0, |exits| exits.tokens_saved);
            assert_eq!(saved > 0, layer < LAYERS, "{}, layer {layer}", case.name);
        }
    }
    println!("\nlargest deviation from plain torch in f32, over layers\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn the_best_documents_of_a_layer_are_scored_after_the_cutoff_layer_and_the_others_there() {
    let (golden, loaded) = (golden::<Golden>(CASE), loaded());
    let mut table = Table::default();
    for case in &golden.cases {
        for (layer, last) in (START..LAYERS).flat_map(|layer| (layer + 1..=LAYERS).map(move |last| (layer, last))) {
            let keep = 2;
            let request = case.request(Some(last), Some(EarlyExitChoice::After { layer, keep }));
            loaded.prompter.check_choice_of_exit(&request).unwrap();
            let scores = loaded.run(&request, &usual_limits()).1;
            let mut best: Vec<usize> = (0..case.documents.len()).collect();
            best.sort_by(|a, b| case.scores_after(layer)[*b].total_cmp(&case.scores_after(layer)[*a]));
            let goes_on: BTreeMap<usize, bool> =
                best.iter().enumerate().map(|(rank, document)| (*document, rank < keep)).collect();
            let last_layer = (last < LAYERS).then_some(last);
            let layers: Vec<_> =
                goes_on.values().map(|goes_on| if *goes_on { last_layer } else { Some(layer) }).collect();
            assert_eq!(layers_of(&scores), layers, "{}, {layer} and {last}", case.name);
            let expected: Vec<f32> = goes_on
                .iter()
                .map(|(document, goes_on)| case.scores_after(if *goes_on { last } else { layer })[*document])
                .collect();
            table.note(&case.name, CASE, "exit and cutoff", largest_of_row(&scores.raw, &expected));
        }
    }
    println!("\nlargest deviation from plain torch in f32, with an exit\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn passes_read_after_different_layers_share_a_batch() {
    let runtime = load(CASE);
    let read = |layer: Option<u16>| {
        let output = OutputSpec { layer, ..OutputSpec::pooled(Pooling::Last, Head::Classifier) };
        podium::runtime::ForwardPass::sequence(vec![5, 6, 7, 8], output)
    };
    let passes: Vec<_> = (START..=LAYERS).map(|layer| read(Some(layer))).chain([read(None)]).collect();
    let alone: Vec<_> = passes.iter().map(|pass| run_alone(&runtime, pass.clone())).collect();
    assert_eq!(runtime.run(&passes).unwrap(), alone);
    let count = alone.len();
    assert_eq!(alone[count - 1], alone[count - 2], "the last layer by its number");
    assert!((0..count - 2).all(|place| alone[place] != alone[place + 1]), "{alone:?}");
    let error = runtime.run(&[read(Some(START - 1))]).unwrap_err().to_string();
    assert!(error.contains("it reads the classifier after layer 1, the first one is after 2"), "{error}");
}

#[test]
fn candles_layers_read_the_same_heads() {
    let settings = ComputeSettings { quantize: "q8_0".to_owned(), ..ComputeSettings::reference() };
    let (ours, candles) = (load(CASE), load_as(CASE, &settings));
    assert_eq!((ours.facts().classifier, candles.facts().dtype.as_str()), (candles.facts().classifier, "q8_0"));
    for layer in START..=LAYERS {
        let output = OutputSpec { layer: Some(layer), ..OutputSpec::pooled(Pooling::Last, Head::Classifier) };
        let pass = podium::runtime::ForwardPass::sequence((40..90).collect(), output);
        let (found, expected) = (run_alone(&candles, pass.clone())[0][0], run_alone(&ours, pass)[0][0]);
        assert!((found - expected).abs() < 0.1, "layer {layer}: {found} and {expected}");
    }
}
