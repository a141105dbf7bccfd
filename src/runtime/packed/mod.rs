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
use super::{
    ForwardPass, LoadError, ModelFacts, Output, Pooling, Positions, PrefixCacheStatistics, Runtime, RuntimeError,
};

/// Runs passes on a decoder in this process.
pub struct PackedRuntime {
    decoder: Decoder,
    prefixes: PrefixCache,
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
            causal: true,
            projector: decoder.has_projector(),
            vocabulary_head: true,
            classifier: None,
            prefix_cache_bytes: 0,
        };
        let prefixes = PrefixCache::new(0, decoder.block_bytes());
        Ok(Self { decoder, prefixes, facts })
    }

    /// Keeps keys and values of beginnings that passes share from one batch to the next, in so many bytes at most.
    #[must_use]
    pub fn with_prefix_cache(mut self, max_bytes: u64) -> Self {
        self.prefixes = PrefixCache::new(max_bytes, self.decoder.block_bytes());
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

    fn prefix_cache(&self) -> PrefixCacheStatistics {
        self.prefixes.statistics()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        // Driver bindings panic here and there where the device fails.
        let ran = catch_unwind(AssertUnwindSafe(|| run(&self.decoder, &self.prefixes, batch)));
        ran.unwrap_or_else(|panic| {
            let error = RuntimeError::from_panic(&*panic);
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

fn run(decoder: &Decoder, cache: &PrefixCache, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
    if batch.iter().all(|pass| pass.output_rows() == 0) {
        return Ok(vec![Vec::new(); batch.len()]);
    }
    let config = decoder.config();
    layout::check(batch, config.vocabulary, config.max_positions)?;
    let read = |prefixes: &Prefixes| {
        read(decoder, prefixes, batch).map_err(|error| RuntimeError::from_device_message(error.to_string()))
    };
    let ((outputs, brought), prefixes) = cache.with(batch, read)?;
    for (pass, rows) in outputs.iter().enumerate() {
        if let Some(row) = rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
            return Err(RuntimeError::NonFinite { pass, row });
        }
    }
    cache.keep(batch, &prefixes, brought);
    Ok(outputs)
}

/// The numbers that each pass asks for; and the blocks that are wanted of the batch.
fn read(
    decoder: &Decoder,
    prefixes: &Prefixes,
    batch: &[ForwardPass],
) -> candle_core::Result<(Vec<Output>, Vec<Tensor>)> {
    let (states, brought) = decoder.states(&Packed::new(batch, prefixes), &prefixes.held)?;
    let mut start = 0;
    let mut outputs = Vec::with_capacity(batch.len());
    for passes in read_together(batch, states.device()) {
        let read = passes.iter().map(|pass| pass.read_positions().len()).sum();
        let own = pooled(passes, states.narrow(0, start, read)?)?;
        start += read;
        let rows =
            if own.dim(0)? == 0 { Vec::new() } else { decoder.apply(&passes[0].output.head, &own)?.to_vec2()? };
        let mut rows = rows.into_iter();
        outputs.extend(passes.iter().map(|pass| rows.by_ref().take(pass.output_rows()).collect()));
    }
    Ok((outputs, brought))
}

/// One row per output row of the passes, from a row per position that they read.
fn pooled(passes: &[ForwardPass], states: Tensor) -> candle_core::Result<Tensor> {
    let is_mean = |pass: &ForwardPass| pass.output.at == Positions::Pooled(Pooling::Mean);
    if !passes.iter().any(is_mean) {
        return Ok(states);
    }
    let mut start = 0;
    let mut rows = Vec::new();
    for pass in passes {
        if is_mean(pass) {
            for tokens in pass.sequence_lengths() {
                rows.push(states.narrow(0, start, tokens)?.mean_keepdim(0)?);
                start += tokens;
            }
        } else {
            rows.push(states.narrow(0, start, pass.output_rows())?);
            start += pass.output_rows();
        }
    }
    Tensor::cat(&rows, 0)
}

/// Runs of passes that are read at once: each copy from a device waits for it, so passes with the same head share one. On
/// a CPU each pass is by itself, and its numbers do not depend on the batch by a single bit.
fn read_together<'a>(batch: &'a [ForwardPass], device: &Device) -> impl Iterator<Item = &'a [ForwardPass]> {
    let at_once = !device.is_cpu();
    batch.chunk_by(move |one, next| at_once && one.output.head == next.output.head)
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
