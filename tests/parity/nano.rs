//! podium-nano, from texts to cosines, against a masked transformers forward on the same weights.

use podium::rerank::RerankRequest;
use podium::runtime::{Checkpoint, CrossDocumentLayers, ForwardPass, Head, OutputSpec, TokenTypes};
use serde::Deserialize;

use crate::deviation::{Table, largest_of_row};
use crate::fixtures::{golden, positions};
use crate::requests::{Loaded, Text, usual_limits};

/// `golden.json` of the embedded model.
#[derive(Deserialize)]
pub struct NanoGolden {
    shape: String,
    pub cases: Vec<NanoCase>,
}

#[derive(Deserialize)]
pub struct NanoCase {
    name: String,
    query: Text,
    instruction: Option<String>,
    documents: Vec<Text>,
    prefix: Vec<u32>,
    suffixes: Vec<Vec<u32>>,
    marks: Vec<(usize, usize)>,
    cross_document_layers: usize,
    shared: Vec<(usize, usize)>,
    pub scores: Vec<f32>,
}

impl NanoCase {
    pub fn request(&self) -> RerankRequest {
        let documents = self.documents.iter().map(Text::written_out).collect();
        let mut request = RerankRequest::new(self.query.written_out(), documents);
        request.instruction = self.instruction.as_deref().map(Into::into);
        request
    }

    fn pass(&self) -> ForwardPass {
        ForwardPass {
            prefix: self.prefix.clone(),
            suffixes: self.suffixes.clone(),
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers { count: self.cross_document_layers, shared: positions(&self.shared) },
            output: OutputSpec::listed(positions(&self.marks), Head::Projector),
        }
    }
}

/// Piece by piece, for a message that can be read.
fn assert_same(found: &ForwardPass, expected: &ForwardPass, case: &str) {
    assert_eq!(found.prefix, expected.prefix, "{case}: prefix");
    assert_eq!(found.suffixes.len(), expected.suffixes.len(), "{case}: suffixes");
    for (nth, (found, expected)) in found.suffixes.iter().zip(&expected.suffixes).enumerate() {
        assert_eq!(found, expected, "{case}: suffix {nth}");
    }
    assert_eq!(found, expected, "{case}");
}

#[test]
fn the_embedded_models_passes_and_cosines_are_those_of_a_masked_transformers_forward() {
    let golden: NanoGolden = golden("podium-nano");
    let loaded = Loaded::new(&Checkpoint::podium_nano(), "auto");
    let mut table = Table::default();
    for case in &golden.cases {
        let (ran, scores) = loaded.run(&case.request(), &usual_limits());
        assert_eq!(ran.len(), 1, "{}: one slate", case.name);
        assert_same(&ran[0].0.pass, &case.pass(), &case.name);
        let case_name = format!("podium-nano, {}", case.name);
        table.note(&case_name, &golden.shape, "cosines", largest_of_row(&scores.raw, &case.scores));
    }
    println!("\nlargest deviation from transformers in f32\n{}", table.to_text());
    println!("(after training it anew: python tests/parity/make_golden.py podium-nano)");
    table.assert_within(1e-4);
}

#[test]
fn the_order_of_documents_changes_no_score_of_the_embedded_model() {
    let golden: NanoGolden = golden("podium-nano");
    let loaded = Loaded::new(&Checkpoint::podium_nano(), "auto");
    for case in &golden.cases {
        let mut request = case.request();
        request.documents.reverse();
        let (_, mut scores) = loaded.run(&request, &usual_limits());
        scores.raw.reverse();
        let deviation = largest_of_row(&scores.raw, &case.scores);
        assert!(deviation <= 1e-5, "{}: {deviation}", case.name);
    }
}
