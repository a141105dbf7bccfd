//! Forward passes given as token ids, to compare a device with a reference.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::runtime::packed::{ComputeSettings, PackedRuntime};
use crate::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Head, ModelSettings, Output, OutputSpec, Pooling, Positions, Runtime,
    TokenPosition, TokenTypes,
};

/// A model, loaded to run passes.
pub struct PassRunner {
    runtime: PackedRuntime,
    load_ms: f64,
}

impl PassRunner {
    /// Loads the model that the settings name.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded.
    pub fn load(model: &ModelSettings) -> anyhow::Result<Self> {
        let started = Instant::now();
        let checkpoint = Checkpoint::open(model)?;
        let runtime = PackedRuntime::load(&checkpoint, &ComputeSettings::of(model))?;
        let runtime = runtime.with_prefix_cache(model.prefix_cache_bytes);
        Ok(Self { runtime, load_ms: started.elapsed().as_secs_f64() * 1e3 })
    }

    /// Describes the model.
    #[must_use]
    pub fn model_line(&self) -> ModelLine<'_> {
        let facts = self.runtime.facts();
        ModelLine {
            device: &facts.device,
            dtype: &facts.dtype,
            parameters: facts.parameters,
            weight_bytes: facts.weight_bytes,
            prefix_cache_bytes: facts.prefix_cache_bytes,
            load_ms: self.load_ms,
        }
    }

    /// Runs a batch so many times.
    ///
    /// # Errors
    /// Passes that the model cannot run, and failures of the device.
    pub fn run(&self, passes: &[ForwardPass], times: usize) -> anyhow::Result<BatchLine> {
        let mut batch = BatchLine { outputs: Vec::new(), ms: f64::INFINITY };
        for _ in 0..times {
            let started = Instant::now();
            batch.outputs = self.runtime.run(passes)?;
            batch.ms = batch.ms.min(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(batch)
    }
}

/// Reads a batch from a line of JSON.
///
/// # Errors
/// JSON that is not an array of passes.
pub fn parse(line: &str) -> Result<Vec<ForwardPass>, serde_json::Error> {
    let passes: Vec<PassInput> = serde_json::from_str(line)?;
    Ok(passes.into_iter().map(ForwardPass::from).collect())
}

/// A [`ForwardPass`] as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PassInput {
    #[serde(default)]
    prefix: Vec<u32>,
    #[serde(default)]
    suffixes: Vec<Vec<u32>>,
    types: Option<Vec<usize>>,
    read: ReadInput,
    head: HeadInput,
    #[serde(default)]
    cross_document_layers: usize,
    #[serde(default)]
    shared: Vec<(usize, usize)>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ReadInput {
    Listed(Vec<(usize, usize)>),
    Pooled(PoolingInput),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PoolingInput {
    First,
    Last,
    Mean,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HeadInput {
    Hidden,
    Projector,
    Classifier,
    Vocabulary(Vec<u32>),
}

/// The line of `podium passes` about the model.
#[derive(Debug, Serialize)]
pub struct ModelLine<'a> {
    device: &'a str,
    dtype: &'a str,
    parameters: usize,
    weight_bytes: u64,
    prefix_cache_bytes: u64,
    load_ms: f64,
}

/// The line of `podium passes` about a batch.
#[derive(Debug, Serialize)]
pub struct BatchLine {
    outputs: Vec<Output>,
    ms: f64,
}

impl From<PassInput> for ForwardPass {
    fn from(input: PassInput) -> Self {
        let head = match input.head {
            HeadInput::Hidden => Head::Hidden,
            HeadInput::Projector => Head::Projector,
            HeadInput::Classifier => Head::Classifier,
            HeadInput::Vocabulary(token_ids) => Head::Vocabulary(token_ids),
        };
        let at = match input.read {
            ReadInput::Listed(pairs) => Positions::Listed(positions(&pairs)),
            ReadInput::Pooled(PoolingInput::First) => Positions::Pooled(Pooling::First),
            ReadInput::Pooled(PoolingInput::Last) => Positions::Pooled(Pooling::Last),
            ReadInput::Pooled(PoolingInput::Mean) => Positions::Pooled(Pooling::Mean),
        };
        Self {
            prefix: input.prefix,
            suffixes: input.suffixes,
            token_types: input.types.map_or(TokenTypes::Zero, TokenTypes::Pairs),
            cross_document: CrossDocumentLayers {
                count: input.cross_document_layers,
                shared: positions(&input.shared),
            },
            output: OutputSpec { at, head, layer: None, exit: None },
        }
    }
}

fn positions(pairs: &[(usize, usize)]) -> Vec<TokenPosition> {
    pairs.iter().map(|&(segment, offset)| TokenPosition { segment, offset }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_batch_of_passes() {
        let line = r#"[{"prefix": [1, 2], "suffixes": [[3], [4, 5]], "read": [[1, 0]], "head": {"vocabulary": [7]},
            "cross_document_layers": 1, "shared": [[2, 1]]}, {"suffixes": [[6]], "types": [0], "read": "mean",
            "head": "classifier"}]"#;
        let passes = parse(line).unwrap();
        assert_eq!(passes[0].suffixes, [vec![3], vec![4, 5]]);
        assert_eq!(passes[0].output, OutputSpec::listed(vec![TokenPosition::suffix(0, 0)], Head::Vocabulary(vec![7])));
        assert_eq!(passes[0].cross_document.shared, [TokenPosition::suffix(1, 1)]);
        assert_eq!(passes[1].token_types, TokenTypes::Pairs(vec![0]));
        assert_eq!(passes[1].output, OutputSpec::pooled(Pooling::Mean, Head::Classifier));
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let problem = parse(r#"[{"read": "first", "head": "hidden", "sufixes": [[1]]}]"#).unwrap_err().to_string();
        assert!(problem.contains("unknown field `sufixes`"), "{problem}");
    }
}
