//! The fixtures of `make_golden.py` as plain data, and the checkpoints beside them.

use std::fs;
use std::path::{Path, PathBuf};

use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Head, OutputSpec, Runtime, TokenPosition, TokenTypes,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The runtime's cases: one checkpoint of each shape.
pub const RUNTIME_CASES: [&str; 10] = [
    "qwen2-gqa2-head64",
    "qwen2-gqa2-untied",
    "qwen2-gqa4-f16",
    "qwen2-gqa8-int8",
    "qwen2-mha-f32",
    "qwen3-gqa2-sharded",
    "qwen3-gqa4-projector",
    "qwen3-gqa8-head128",
    "qwen3-int8",
    "qwen3-mha-f32",
];

/// `golden.json` of a runtime case.
#[derive(Deserialize)]
pub struct RuntimeGolden {
    pub shape: String,
    pub passes: Vec<GoldenPass>,
}

/// A pass, and what transformers reads from it.
#[derive(Clone, Deserialize)]
pub struct GoldenPass {
    pub name: String,
    pub prefix: Vec<u32>,
    pub suffixes: Vec<Vec<u32>>,
    pub marks: Vec<(usize, usize)>,
    pub cross_document_layers: usize,
    pub shared: Vec<(usize, usize)>,
    pub hidden_states: Vec<Vec<f32>>,
    pub token_ids: Vec<u32>,
    pub logits: Vec<Vec<f32>>,
    pub projected: Option<Vec<Vec<f32>>>,
}

impl GoldenPass {
    /// The pass that reads states, through the projector or not.
    pub fn reading_states(&self, project: bool) -> ForwardPass {
        self.with(if project { Head::Projector } else { Head::Hidden })
    }

    /// The pass that reads logits.
    pub fn reading_logits(&self) -> ForwardPass {
        self.with(Head::Vocabulary(self.token_ids.clone()))
    }

    fn with(&self, head: Head) -> ForwardPass {
        ForwardPass {
            prefix: self.prefix.clone(),
            suffixes: self.suffixes.clone(),
            token_types: TokenTypes::Zero,
            cross_document: CrossDocumentLayers { count: self.cross_document_layers, shared: positions(&self.shared) },
            output: OutputSpec::listed(positions(&self.marks), head),
        }
    }
}

/// `(segment, offset)` pairs as positions.
pub fn positions(pairs: &[(usize, usize)]) -> Vec<TokenPosition> {
    pairs.iter().map(|&(segment, offset)| TokenPosition { segment, offset }).collect()
}

/// The folder of a case.
pub fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures").join(case)
}

/// A case's `golden.json`.
pub fn golden<T: DeserializeOwned>(case: &str) -> T {
    let path = folder(case).join("golden.json");
    let json = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A case's checkpoint, loaded on the CPU.
pub fn load(case: &str) -> PackedRuntime {
    load_as(case, &ComputeSettings::reference())
}

/// A case's checkpoint, in other numbers.
pub fn load_as(case: &str, settings: &ComputeSettings) -> PackedRuntime {
    let checkpoint = Checkpoint::folder(&folder(case)).unwrap_or_else(|error| panic!("{case}: {error}"));
    PackedRuntime::load(&checkpoint, settings).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// Runs one pass by itself.
pub fn run_alone(runtime: &PackedRuntime, pass: ForwardPass) -> Vec<Vec<f32>> {
    runtime.run(&[pass]).unwrap_or_else(|error| panic!("{error}")).remove(0)
}
