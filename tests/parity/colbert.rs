//! `ColBERT` checkpoints against `PyLate`'s formula on transformers: token ids, the tokens that are compared, and
//! `MaxSim`. Two kinds of layers run them: CPU kernels, and candle's where a head is 16 wide.

use podium::rerank::{LimitSettings, RerankRequest};
use podium::runtime::packed::ComputeSettings;
use podium::runtime::{Checkpoint, Head, Runtime};
use serde::Deserialize;

use crate::deviation::{Table, largest_of_row, largest_relative_of_row};
use crate::fixtures::{folder, golden};
use crate::requests::{Loaded, usual_limits};

const CASES: [&str; 3] = ["colbert-modernbert", "colbert-bert", "colbert-attends"];
const TOLERANCE: f32 = 1e-4;

/// `golden.json` of a `ColBERT` checkpoint.
#[derive(Deserialize)]
struct ColbertGolden {
    shape: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    query: String,
    documents: Vec<String>,
    /// Documents in one pass at most.
    block: Option<usize>,
    query_ids: Vec<u32>,
    document_ids: Vec<Vec<u32>>,
    /// Tokens of each document that are compared.
    compared: Vec<usize>,
    scores: Vec<f32>,
}

impl Case {
    fn request(&self) -> RerankRequest {
        RerankRequest::new(self.query.as_str(), self.documents.clone())
    }

    fn limits(&self) -> LimitSettings {
        let usual = usual_limits();
        LimitSettings { max_slate_documents: self.block.unwrap_or(usual.max_slate_documents), ..usual }
    }
}

fn load(case: &str, settings: &ComputeSettings) -> Loaded {
    let checkpoint = Checkpoint::folder(&folder(case)).unwrap_or_else(|error| panic!("{case}: {error}"));
    Loaded::new_as(&checkpoint, "auto", settings)
}

#[test]
fn sequences_are_those_of_the_reference() {
    for name in CASES {
        let loaded = load(name, &ComputeSettings::reference());
        for case in golden::<ColbertGolden>(name).cases {
            let (ran, _) = loaded.run(&case.request(), &case.limits());
            let expected_passes = case.documents.len().div_ceil(case.limits().max_slate_documents);
            assert_eq!(ran.len(), expected_passes, "{name}, {}", case.name);
            for (planned, _) in &ran {
                let pass = &planned.pass;
                assert!(pass.prefix.is_empty() && matches!(pass.output.head, Head::MaxSim { .. }));
                assert_eq!(pass.suffixes[0], case.query_ids, "{name}, {}: query", case.name);
                for (nth, &document) in planned.documents.iter().enumerate() {
                    let what = format!("{name}, {}, document {document}", case.name);
                    assert_eq!(pass.suffixes[nth + 1], case.document_ids[document], "{what}");
                    let compared = pass.read_positions().iter().filter(|read| read.segment == nth + 2).count();
                    assert_eq!(compared, case.compared[document], "{what}");
                }
                let compared = pass.read_positions().iter().filter(|read| read.segment == 1).count();
                assert_eq!(compared, case.query_ids.len(), "{name}, {}: query", case.name);
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_reference_alone_and_together() {
    let mut table = Table::default();
    for name in CASES {
        let (golden, loaded) = (golden::<ColbertGolden>(name), load(name, &ComputeSettings::reference()));
        for case in &golden.cases {
            let scores = loaded.run(&case.request(), &case.limits()).1;
            table.note(name, &golden.shape, "scores", largest_of_row(&scores.raw, &case.scores));
            assert!(scores.relevance.iter().all(|value| (0.0..=1.0).contains(value)));
            let alone = |document: &String| RerankRequest::new(case.query.as_str(), vec![document.clone()]);
            let raw = |document| loaded.run(&alone(document), &case.limits()).1.raw[0];
            let alone: Vec<f32> = case.documents.iter().map(raw).collect();
            table.note(name, &golden.shape, "alone", largest_relative_of_row(&alone, &scores.raw));
        }
    }
    println!("\nlargest deviation from PyLate's formula on transformers in f32\n{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
fn every_precision_keeps_the_order_of_clear_scores() {
    let settings = |dtype: &str, quantize: &str| ComputeSettings {
        dtype: dtype.to_owned(),
        quantize: quantize.to_owned(),
        ..ComputeSettings::reference()
    };
    for (settings, tolerance) in
        [(settings("bf16", "none"), 0.5), (settings("f32", "int8"), 1.5), (settings("f32", "q8_0"), 0.5)]
    {
        let (golden, loaded) = (golden::<ColbertGolden>(CASES[0]), load(CASES[0], &settings));
        let case = &golden.cases[0];
        let raw = loaded.run(&case.request(), &case.limits()).1.raw;
        let deviation = largest_of_row(&raw, &case.scores);
        println!("{}: {deviation} of {} query tokens", loaded.runtime.facts().dtype, case.query_ids.len());
        assert!(deviation < tolerance, "{}: {deviation}", loaded.runtime.facts().dtype);
    }
}
