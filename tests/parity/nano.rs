//! podium-nano against a masked transformers forward on the same weights.

use podium::runtime::packed::PackedRuntime;
use podium::runtime::{Checkpoint, ForwardPass, JointLayers, Probe};
use serde::Deserialize;

use crate::deviation::{Table, largest};
use crate::fixtures::{golden, marks, run_alone};

/// `golden.json` of the embedded model.
#[derive(Deserialize)]
pub struct NanoGolden {
    pub shape: String,
    pub cases: Vec<NanoCase>,
}

#[derive(Deserialize)]
pub struct NanoCase {
    pub name: String,
    pub trunk: Vec<u32>,
    pub branches: Vec<Vec<u32>>,
    pub marks: Vec<(usize, usize)>,
    pub joint: usize,
    pub shared: Vec<(usize, usize)>,
    pub scores: Vec<f32>,
}

impl NanoCase {
    fn pass(&self) -> ForwardPass {
        ForwardPass {
            trunk: self.trunk.clone(),
            branches: self.branches.clone(),
            joint_layers: JointLayers { count: self.joint, shared: marks(&self.shared) },
            probe: Probe::HiddenStates { marks: marks(&self.marks), project: true },
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn the_embedded_models_cosines_are_those_of_a_masked_transformers_forward() {
    let golden: NanoGolden = golden("podium-nano");
    let runtime = PackedRuntime::load(&Checkpoint::embedded(), "cpu").unwrap();
    let mut table = Table::default();
    for case in &golden.cases {
        let vectors = run_alone(&runtime, case.pass());
        let (query, documents) = vectors.split_last().unwrap();
        let scores: Vec<f32> = documents.iter().map(|document| cosine(document, query)).collect();
        table.note(
            &format!("podium-nano, {}", case.name),
            &golden.shape,
            "cosines",
            largest(&[scores], &[case.scores.clone()]),
        );
    }
    println!("\nlargest deviation from transformers in f32\n{}", table.to_text());
    println!("(after training it anew: python tests/parity/make_golden.py podium-nano)");
    table.assert_within(1e-4);
}
