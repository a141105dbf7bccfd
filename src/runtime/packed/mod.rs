//! The default runtime: Qwen2 and Qwen3 decoders over packed passes, from mistral.rs's parts.
//!
//! mistral.rs gives the rotary tables, the tensor loading interface and, on other devices than CPUs ([`device`]), linear
//! layers, their quantised forms and norms. Written here: the packing of passes ([`layout`]), what is kept of one for the
//! next ([`prefixes`]), attention over packed rows ([`attention`]), the layers for CPUs ([`cpu`]), the decoder that ties them
//! together ([`decoder`]), in which numbers it computes and where ([`arithmetic`]; `cuda` finds the GPU, `capability` says
//! whether it fits the build), and checkpoints whose errors name file, tensor and shapes ([`weights`]).

mod arithmetic;
mod attention;
#[cfg(any(feature = "cuda", test))]
mod capability;
mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod device;
mod layout;
mod prefixes;
mod product;
pub(super) mod weights;

use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

pub use self::arithmetic::Arithmetic;
use self::arithmetic::{Fast, Numerics};
use self::config::DecoderConfig;
use self::cpu::{CpuLayers, multiplies_bf16, multiplies_i8};
use self::decoder::Decoder;
use self::layout::Packed;
use self::prefixes::{PrefixCache, Prefixes};
pub use self::product::Product;
use super::checkpoint::Checkpoint;
use super::{ForwardPass, LoadError, ModelFacts, PrefixStatistics, Probe, Readout, Runtime, RuntimeError};

/// Runs passes on a decoder in this process.
pub struct PackedRuntime {
    decoder: Arc<Decoder>,
    prefixes: Arc<PrefixCache>,
    facts: ModelFacts,
}

impl PackedRuntime {
    /// Loads a checkpoint where, and in the numbers that, `arithmetic` asks for. Nothing is kept from one batch to the next.
    ///
    /// # Errors
    /// [`LoadError`], naming file, tensor and shapes; a device or numbers that cannot be had.
    pub fn load(checkpoint: &Checkpoint, arithmetic: &Arithmetic) -> Result<Self, LoadError> {
        let device = arithmetic.device()?;
        let config = DecoderConfig::parse(&checkpoint.config, &checkpoint.location.join("config.json"))?;
        let weights = weights::open(checkpoint)?;
        let parameters = weights.parameters();
        let written_out = CpuLayers::can_run(&config);
        let numerics = arithmetic.resolve(&device, weights.stored(), processor(), written_out)?;
        let weight_bytes = bytes(parameters, &config, numerics);
        let bar = progress_bar(config.layers, &checkpoint.name);
        let decoder = Decoder::load(config, weights, numerics, &device, &|layers| bar.set_position(layers as u64))?;
        bar.finish_and_clear();
        let config = decoder.config();
        let facts = ModelFacts {
            architecture: config.architecture.clone(),
            device: match device {
                Device::Cpu => "cpu",
                Device::Cuda(_) => "cuda",
                Device::Metal(_) => "metal",
            }
            .to_owned(),
            dtype: numerics.name(),
            parameters,
            weight_bytes,
            hidden_size: config.hidden_size,
            layers: config.layers,
            vocabulary: config.vocabulary,
            max_positions: config.max_positions,
            projector: decoder.has_projector(),
            prefix_cache_bytes: 0,
        };
        let prefixes = Arc::new(PrefixCache::new(0, decoder.block_bytes()));
        Ok(Self { decoder: Arc::new(decoder), prefixes, facts })
    }

    /// Keeps keys and values of beginnings that passes share from one batch to the next, in so many bytes at most.
    #[must_use]
    pub fn with_prefix_cache(mut self, max_bytes: u64) -> Self {
        self.prefixes = Arc::new(PrefixCache::new(max_bytes, self.decoder.block_bytes()));
        self.facts.prefix_cache_bytes = max_bytes;
        self
    }

    /// Bytes that the weights of a checkpoint will take, about, in the numbers that `arithmetic` asks for. Reads headers
    /// only.
    ///
    /// # Errors
    /// A device or numbers that cannot be had, a configuration or weights file that cannot be read.
    pub fn weight_bytes(checkpoint: &Checkpoint, arithmetic: &Arithmetic) -> Result<u64, LoadError> {
        let weights = weights::open(checkpoint)?;
        let config = DecoderConfig::parse(&checkpoint.config, &checkpoint.location.join("config.json"))?;
        let written_out = CpuLayers::can_run(&config);
        let numerics = arithmetic.resolve(&arithmetic.device()?, weights.stored(), processor(), written_out)?;
        Ok(bytes(weights.parameters(), &config, numerics))
    }
}

impl Runtime for PackedRuntime {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn prefixes(&self) -> PrefixStatistics {
        self.prefixes.statistics()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Readout>, RuntimeError> {
        // A panic leaves the decoder as it was, and the cache keeps whole blocks only.
        let ran = catch_unwind(AssertUnwindSafe(|| run(&self.decoder, &self.prefixes, batch)));
        ran.unwrap_or_else(|panic| {
            let error = RuntimeError::of_panic(&*panic);
            if matches!(error, RuntimeError::OutOfMemory(_)) {
                self.prefixes.clear();
            }
            Err(error)
        })
    }
}

/// What this machine's processor is fast at.
fn processor() -> Fast {
    Fast { bf16: multiplies_bf16(), int8: multiplies_i8() }
}

/// What so many parameters take; embeddings are not quantised.
fn bytes(parameters: usize, config: &DecoderConfig, numerics: Numerics) -> u64 {
    let embeddings = parameters.min(config.vocabulary * config.hidden_size) as u64;
    let others = parameters as u64 - embeddings;
    embeddings * numerics.dtype.size_in_bytes() as u64 + others * numerics.bits_per_weight() / 8
}

fn run(decoder: &Decoder, cache: &PrefixCache, batch: &[ForwardPass]) -> Result<Vec<Readout>, RuntimeError> {
    if batch.iter().all(|pass| pass.probe.marks().is_empty()) {
        return Ok(batch.iter().map(|pass| readout(&pass.probe, Vec::new())).collect());
    }
    let config = decoder.config();
    layout::check(batch, config.vocabulary, config.max_positions)?;
    let read = |prefixes: &Prefixes| {
        read(decoder, prefixes, batch).map_err(|error| RuntimeError::of_device(error.to_string()))
    };
    let ((rows, brought), prefixes) = cache.with(batch, read)?;
    for (pass, rows) in rows.iter().enumerate() {
        if let Some(mark) = rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
            return Err(RuntimeError::NonFinite { pass, mark });
        }
    }
    cache.keep(batch, &prefixes, brought);
    Ok(batch.iter().zip(rows).map(|(pass, rows)| readout(&pass.probe, rows)).collect())
}

/// What is read of a pass: a row for each mark.
type Rows = Vec<Vec<f32>>;

/// The numbers that each pass's probe asks for; and the blocks that are wanted of the batch.
fn read(
    decoder: &Decoder,
    prefixes: &Prefixes,
    batch: &[ForwardPass],
) -> candle_core::Result<(Vec<Rows>, Vec<Tensor>)> {
    let (states, brought) = decoder.states(&Packed::new(batch, prefixes), &prefixes.held)?;
    let mut start = 0;
    let mut rows = Vec::with_capacity(batch.len());
    for passes in read_together(batch, states.device()) {
        let marks = passes.iter().map(|pass| pass.probe.marks().len()).sum();
        let own = states.narrow(0, start, marks)?;
        start += marks;
        let read = match &passes[0].probe {
            _ if marks == 0 => Vec::new(),
            Probe::HiddenStates { project: false, .. } => own.to_vec2()?,
            Probe::HiddenStates { project: true, .. } => decoder.project(&own)?.to_vec2()?,
            Probe::NextTokenLogits { token_ids, .. } => decoder.logits(&own, token_ids)?.to_vec2()?,
        };
        let mut read = read.into_iter();
        rows.extend(passes.iter().map(|pass| read.by_ref().take(pass.probe.marks().len()).collect()));
    }
    Ok((rows, brought))
}

/// Runs of passes that are read at once: each copy from a device waits for it, so those that are read alike. On a CPU each
/// pass is by itself, and its numbers do not depend on the batch by a single bit.
fn read_together<'a>(batch: &'a [ForwardPass], device: &Device) -> impl Iterator<Item = &'a [ForwardPass]> {
    let at_once = !device.is_cpu();
    batch.chunk_by(move |one, next| at_once && one.probe.reads_like(&next.probe))
}

fn readout(probe: &Probe, rows: Vec<Vec<f32>>) -> Readout {
    match probe {
        Probe::HiddenStates { .. } => Readout::HiddenStates(rows),
        Probe::NextTokenLogits { .. } => Readout::NextTokenLogits(rows),
    }
}

/// A bar over the layers, for people who watch; hidden when the model is small or nobody does.
fn progress_bar(layers: usize, name: &str) -> ProgressBar {
    if layers < 8 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("loading {msg} {bar:32} {pos}/{len} layers")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(layers as u64).with_style(style).with_message(name.to_owned())
}
