//! `podium passes`: runs forward passes given as token ids, to compare a device with a reference.

use std::io::{self, BufRead, Write};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{SettingsArgs, UsageError, start_quiet_logs};
use crate::runtime::packed::{ComputeSettings, PackedRuntime};
use crate::runtime::{
    Checkpoint, CrossDocumentLayers, ForwardPass, Head, Output, OutputSpec, Pooling, Positions, Runtime, TokenPosition,
    TokenTypes,
};

#[derive(Debug, Args)]
#[command(after_help = "\
Reads one batch from each line of standard input, an array of passes:
  [{\"prefix\": [1, 2], \"suffixes\": [[3], [4, 5]], \"read\": [[1, 0], [2, 1]], \"head\": \"hidden\"}]
and writes the batch's rows and its time on one line, after a first line that describes the model:
  {\"outputs\": [[[0.1, 0.2], [0.3, 0.4]]], \"ms\": 1.5}

  prefix, suffixes         token ids; each suffix sees the prefix and itself
  types                    where tokens of type 1 begin, for each sequence
  read                     [segment, offset] pairs (segment 0 is the prefix), \"first\", \"last\" or
                           \"mean\"
  head                     \"hidden\", \"projector\", \"classifier\", or {\"vocabulary\": [token ids]}
  cross_document_layers    top layers in which read positions also see the positions of \"shared\"")]
pub(super) struct PassesArgs {
    /// Run each batch N times, and write the shortest time
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: std::num::NonZeroUsize,
    #[command(flatten)]
    settings: SettingsArgs,
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

/// The first line of the output.
#[derive(Debug, Serialize)]
struct ModelLine<'a> {
    device: &'a str,
    dtype: &'a str,
    parameters: usize,
    weight_bytes: u64,
    prefix_cache_bytes: u64,
    load_ms: f64,
}

#[derive(Debug, Serialize)]
struct BatchLine {
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
            output: OutputSpec { at, head, layer: None },
        }
    }
}

fn positions(pairs: &[(usize, usize)]) -> Vec<TokenPosition> {
    pairs.iter().map(|&(segment, offset)| TokenPosition { segment, offset }).collect()
}

pub(super) fn run(args: &PassesArgs) -> anyhow::Result<()> {
    let configuration = args.settings.configuration(Vec::new())?;
    start_quiet_logs(&configuration)?;
    let model = &configuration.settings.model;
    let started = Instant::now();
    let checkpoint = Checkpoint::open(model)?;
    let runtime = PackedRuntime::load(&checkpoint, &ComputeSettings::of(model))?;
    let runtime = runtime.with_prefix_cache(model.prefix_cache_bytes);
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut out = io::stdout().lock();
    write_model_line(&mut out, &runtime, load_ms)?;
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        let passes = parse(&line).map_err(|problem| UsageError(format!("line {}: {problem}", number + 1)))?;
        let batch = run_batch(&runtime, &passes, args.repeat.get()).with_context(|| format!("batch {}", number + 1))?;
        write_line(&mut out, &batch)?;
    }
    Ok(())
}

fn parse(line: &str) -> Result<Vec<ForwardPass>, serde_json::Error> {
    let passes: Vec<PassInput> = serde_json::from_str(line)?;
    Ok(passes.into_iter().map(ForwardPass::from).collect())
}

/// Runs a batch so many times.
fn run_batch(runtime: &impl Runtime, passes: &[ForwardPass], times: usize) -> anyhow::Result<BatchLine> {
    let mut batch = BatchLine { outputs: Vec::new(), ms: f64::INFINITY };
    for _ in 0..times {
        let started = Instant::now();
        batch.outputs = runtime.run(passes)?;
        batch.ms = batch.ms.min(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(batch)
}

fn write_model_line(out: &mut impl Write, runtime: &impl Runtime, load_ms: f64) -> anyhow::Result<()> {
    let facts = runtime.facts();
    let line = ModelLine {
        device: &facts.device,
        dtype: &facts.dtype,
        parameters: facts.parameters,
        weight_bytes: facts.weight_bytes,
        prefix_cache_bytes: facts.prefix_cache_bytes,
        load_ms,
    };
    write_line(out, &line)
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)?;
    Ok(out.flush()?)
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
