//! The default runtime: decoders and encoders over packed passes, on mistral.rs and candle.
//!
//! mistral.rs provides linear layers and their quantised forms, candle tensors and devices.
//! Podium's own:
//!
//! | file | what it does |
//! |---|---|
//! | [`groups`], [`layout`], [`span`] | pack passes end to end, and say which keys each row sees |
//! | [`prefix_cache`] | stores keys and values of prefixes that passes share |
//! | [`attention`], [`cpu`] | attention over packed rows; the layers' kernels for CPUs |
//! | [`candle_layers`], [`fused`] | the layers on candle, and kernels for several of its operations |
//! | [`model`], [`heads`], [`readers`] | embeddings, layers and heads: the model as a whole |
//! | [`exit`], [`batch_threads`] | suffixes that leave early; encoders with a thread for each part of a batch |
//! | [`compute`], [`memory`], [`warm_up`] | precision and device, memory, the first passes on a GPU |
//! | [`weights`], [`table`] | weight files and checks of their tensors; matrices read row by row |
//!
//! In a CUDA build `cuda` finds the GPU, and `capability` checks that it fits the build.

mod attention;
mod batch_threads;
mod candle_layers;
#[cfg(any(feature = "cuda", test))]
mod capability;
mod compute;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod exit;
mod fused;
mod groups;
mod heads;
mod layout;
mod memory;
mod model;
mod prefix_cache;
mod product;
mod readers;
mod span;
mod table;
mod warm_up;
pub(super) mod weights;

use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candle_core::{Device, DeviceLocation, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

use self::batch_threads::{BatchThreads, Part};
pub use self::compute::ComputeSettings;
use self::compute::{Backend, CpuFeatures, Precision};
use self::cpu::{CpuDtype, CpuLayers, multiplies_bf16, multiplies_i8};
use self::groups::{Group, Layout};
use self::layout::Packed;
use self::model::Model;
use self::prefix_cache::{CacheLookup, PrefixCache};
pub use self::product::Product;
use super::checkpoint::Checkpoint;
use super::spec::{ModelSpec, OutputMatrix};
use super::tensors::TensorTable;
use super::{
    ClassifierFacts, ForwardPass, Head, LoadError, ModelFacts, Output, Pooling, Positions, PrefixCacheStatistics,
    PreparedBatch, Runtime, RuntimeError,
};

/// Runs passes on a model in this process.
pub struct PackedRuntime {
    model: Model,
    prefix_cache: PrefixCache,
    /// For encoders on a CPU.
    batch_threads: Option<BatchThreads>,
    facts: ModelFacts,
}

impl PackedRuntime {
    /// Loads a checkpoint on the device and in the precision of `settings`, without a prefix cache.
    ///
    /// # Errors
    /// [`LoadError`], naming file, key, tensor and shapes; a device or precision that is not
    /// available.
    pub fn load(checkpoint: &Checkpoint, settings: &ComputeSettings) -> Result<Self, LoadError> {
        let device = settings.device()?;
        let spec = parse_spec(checkpoint)?;
        let weights = Arc::new(weights::open(checkpoint)?);
        let precision = precision(settings, &device, &spec, &weights)?;
        let facts = facts(&spec, &weights, &device, precision);
        let bar = progress_bar(spec.layers.len(), &checkpoint.name);
        let model = Model::load(spec, &weights, precision, &device, &|layers| bar.set_position(layers as u64))?;
        bar.finish_and_clear();
        let prefix_cache = PrefixCache::new(0, model.block_bytes());
        let batch_threads = (!facts.causal && model.runs_on_cpu_kernels()).then(BatchThreads::new);
        let runtime = Self { model, prefix_cache, batch_threads, facts };
        if !device.is_cpu() {
            runtime.warm_up().map_err(|error| LoadError::Device(error.to_string()))?;
        }
        Ok(runtime)
    }

    /// Runs one pass of each shape.
    fn warm_up(&self) -> Result<(), RuntimeError> {
        let batches = warm_up::batches(self.model.spec(), self.model.heads());
        batches.iter().try_for_each(|batch| self.run_checked(batch, None).map(drop))
    }

    /// The facts of the model that [`PackedRuntime::load`] would load, without a prefix cache.
    /// Reads headers only, and checks that every tensor is there.
    ///
    /// # Errors
    /// As [`PackedRuntime::load`].
    pub fn read_facts(checkpoint: &Checkpoint, settings: &ComputeSettings) -> Result<ModelFacts, LoadError> {
        let device = settings.device()?;
        let spec = parse_spec(checkpoint)?;
        let weights = weights::open(checkpoint)?;
        weights.check_all(&TensorTable::new(&spec, &|name| weights.shape(name)), &spec)?;
        let precision = precision(settings, &device, &spec, &weights)?;
        Ok(facts(&spec, &weights, &device, precision))
    }

    /// Adds a prefix cache of at most `max_bytes`. A bidirectional model has no use for one.
    #[must_use]
    pub fn with_prefix_cache(mut self, max_bytes: u64) -> Self {
        let max_bytes = if self.facts.causal { max_bytes } else { 0 };
        self.prefix_cache = PrefixCache::new(max_bytes, self.model.block_bytes());
        self.facts.prefix_cache_bytes = max_bytes;
        self
    }
}

/// Names and shapes of the tensors that a checkpoint with this `config.json` must hold.
///
/// # Errors
/// [`LoadError`] for a configuration that is not supported.
pub fn tensor_shapes(config: &[u8]) -> Result<Vec<(String, Vec<usize>)>, LoadError> {
    let spec = ModelSpec::parse(config, std::path::Path::new("config.json"))?;
    let table = TensorTable::new(&spec, &|_| None);
    Ok(table.all().into_iter().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect())
}

fn parse_spec(checkpoint: &Checkpoint) -> Result<ModelSpec, LoadError> {
    let spec = ModelSpec::parse(&checkpoint.config, &checkpoint.location.join("config.json"))?;
    let malformed = |problem| LoadError::Malformed { path: checkpoint.location.join("modules.json"), problem };
    spec.with_modules(&checkpoint.modules).map_err(malformed)
}

fn precision(
    settings: &ComputeSettings,
    device: &Device,
    spec: &ModelSpec,
    weights: &weights::WeightFiles,
) -> Result<Precision, LoadError> {
    let features = CpuFeatures { bf16: multiplies_bf16(), int8: multiplies_i8() };
    let mut precision = settings.resolve(device, weights.stored(), features, CpuLayers::can_run(spec))?;
    if matches!(precision.backend, Backend::Cpu(CpuDtype::Int8)) && weights.has_row_scales() {
        precision.backend = Backend::Cpu(CpuDtype::Int8Rows);
    }
    Ok(precision)
}

fn facts(spec: &ModelSpec, weights: &weights::WeightFiles, device: &Device, precision: Precision) -> ModelFacts {
    let tensors = TensorTable::new(spec, &|name| weights.shape(name));
    let parameters = weights.parameters();
    let device = match device.location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id: 0 } => "cuda".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { .. } => "metal".to_owned(),
    };
    let classifier = spec.classifier.as_ref().map(|spec| ClassifierFacts {
        labels: spec.labels,
        pooling: spec.pooling,
        start_layer: spec.start_layer,
    });
    ModelFacts {
        architecture: spec.architecture.clone(),
        device,
        dtype: precision.name(),
        cpu_instructions: precision.cpu_instructions(),
        parameters,
        weight_bytes: memory::weight_bytes(parameters, spec, precision),
        workspace: memory::workspace(spec, precision),
        hidden_size: spec.hidden_size,
        layers: spec.layers.len(),
        vocabulary: spec.vocabulary,
        max_positions: spec.max_positions,
        causal: spec.causal,
        token_types: spec.embedding.token_types,
        projector: tensors.projector.is_some(),
        token_projection: tensors.token_projection.is_some(),
        vocabulary_head: spec.output != OutputMatrix::None,
        classifier,
        prefix_cache_bytes: 0,
    }
}

impl Runtime for PackedRuntime {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn prefix_cache(&self) -> PrefixCacheStatistics {
        self.prefix_cache.statistics()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        self.run_guarded(batch, None)
    }

    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        match self.lay_out(&passes) {
            Ok(groups) => PreparedBatch::with_layout(passes, groups),
            Err(_) => PreparedBatch::new(passes),
        }
    }

    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        let (passes, groups) = batch.into_parts();
        self.run_guarded(&passes, groups)
    }
}

impl PackedRuntime {
    /// Runs a batch, from its groups if it is laid out.
    fn run_guarded(&self, batch: &[ForwardPass], groups: Option<Vec<Group>>) -> Result<Vec<Output>, RuntimeError> {
        // Driver bindings panic here and there where the device fails.
        let ran = catch_unwind(AssertUnwindSafe(|| self.run_checked(batch, groups)));
        ran.unwrap_or_else(|panic| {
            let error = RuntimeError::from_panic(&*panic);
            if matches!(error, RuntimeError::OutOfMemory(_)) {
                self.prefix_cache.clear();
            }
            Err(error)
        })
    }

    fn run_checked(&self, batch: &[ForwardPass], groups: Option<Vec<Group>>) -> Result<Vec<Output>, RuntimeError> {
        let groups = groups.map_or_else(|| self.lay_out(batch), Ok)?;
        let mut outputs = vec![Vec::new(); batch.len()];
        for group in groups {
            let read = self.run_group(&group, batch).map_err(|error| error.in_batch(&group.numbers))?;
            for (number, output) in group.numbers.into_iter().zip(read) {
                outputs[number] = output;
            }
        }
        Ok(outputs)
    }

    /// Runs a group of a batch. Only runs through all layers use the prefix cache, which holds keys
    /// and values of all of them.
    fn run_group(&self, group: &Group, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        let (batch, depth) = (group.passes(batch), group.depth);
        let ((outputs, new_blocks), lookup) = match (&group.layout, &self.batch_threads) {
            (Layout::Parts(parts), Some(threads)) => {
                ((self.run_parts(threads, parts, batch, depth)?, Vec::new()), CacheLookup::none(batch.len()))
            }
            (Layout::Parts(_), None) => {
                return Err(RuntimeError::Device("parts of a batch without threads for them".to_owned()));
            }
            (Layout::Rows(rows), _) => {
                let run = |lookup: &CacheLookup| {
                    let packed = rows.take(batch, lookup, self.model.spec().causal);
                    let read = match group.exit {
                        Some(layer) => exit::read(&self.model, &packed, lookup, batch, (layer, depth)),
                        None => read(&self.model, &packed, lookup, batch, depth),
                    };
                    read.map_err(|error| RuntimeError::from_device_message(error.to_string()))
                };
                if depth == self.model.spec().layers.len() {
                    self.prefix_cache.run_with(batch, run)?
                } else {
                    let nothing = CacheLookup::none(batch.len());
                    (run(&nothing)?, nothing)
                }
            }
        };
        for (pass, rows) in outputs.iter().enumerate() {
            if let Some(row) = rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
                return Err(RuntimeError::NonFinite { pass, row });
            }
        }
        self.prefix_cache.store(batch, &lookup, new_blocks);
        Ok(outputs)
    }

    /// Runs the parts of a batch, and puts their rows together.
    fn run_parts(
        &self,
        threads: &BatchThreads,
        parts: &[Part],
        batch: &[ForwardPass],
        depth: usize,
    ) -> Result<Vec<Output>, RuntimeError> {
        let from_device = |error: candle_core::Error| RuntimeError::from_device_message(error.to_string());
        if batch.iter().any(|pass| matches!(pass.output.head, Head::Reader(_))) {
            return readers::read_parts(&self.model, threads, parts, batch, depth).map_err(from_device);
        }
        let nothing = CacheLookup::none(1);
        let results = threads.run(parts, |part| {
            let pass = std::slice::from_ref(&part.pass);
            read(&self.model, &Packed::new(pass, &nothing, self.model.spec().causal), &nothing, pass, depth)
        });
        let mut rows = Vec::with_capacity(parts.len());
        for (part, result) in parts.iter().zip(results) {
            let (outputs, _) = result.map_err(from_device)?;
            rows.push((part.number, part.first, outputs));
        }
        rows.sort_unstable_by_key(|(number, first, _)| (*number, *first));
        let mut outputs = vec![Output::new(); batch.len()];
        for (number, _, own) in rows {
            outputs[number].extend(own.into_iter().flatten());
        }
        Ok(outputs)
    }
}

/// The outputs of the passes, and the blocks that the prefix cache stores.
fn read(
    model: &Model,
    packed: &Packed,
    lookup: &CacheLookup,
    batch: &[ForwardPass],
    depth: usize,
) -> candle_core::Result<(Vec<Output>, Vec<Tensor>)> {
    if batch.iter().any(|pass| matches!(pass.output.head, Head::Reader(_))) {
        return Ok((readers::read(model, packed, batch, depth)?, Vec::new()));
    }
    let (states, new_blocks) = model.states(packed, &lookup.blocks, depth)?;
    Ok((apply_heads(model, batch, depth, &states, |_| true)?, new_blocks))
}

/// The output of each pass from the states, after `layer` layers, of the rows that it reads; empty
/// for passes that are not asked for.
fn apply_heads(
    model: &Model,
    batch: &[ForwardPass],
    layer: usize,
    states: &Tensor,
    is_asked_for: impl Fn(&ForwardPass) -> bool,
) -> candle_core::Result<Vec<Output>> {
    let mut start = 0;
    let mut outputs = Vec::with_capacity(batch.len());
    for passes in read_together(batch, states.device()) {
        let count = passes.iter().map(|pass| pass.read_positions().len()).sum();
        if !passes.iter().any(&is_asked_for) {
            start += count;
            outputs.extend(passes.iter().map(|_| Output::new()));
            continue;
        }
        let own = pooled(passes, states.narrow(0, start, count)?)?;
        start += count;
        let mut read = model.heads().apply(&passes[0].output.head, layer, &own)?;
        if matches!(passes[0].output.head, Head::MaxSim { .. }) {
            read = max_sim(passes, &read)?;
        }
        let mut rows = read.to_vec2()?.into_iter();
        outputs.extend(passes.iter().map(|pass| rows.by_ref().take(pass.output_rows()).collect::<Output>()));
    }
    Ok(outputs)
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

/// `MaxSim` of the documents of passes, `[documents, 1]`, from a unit vector per position.
fn max_sim(passes: &[ForwardPass], vectors: &Tensor) -> candle_core::Result<Tensor> {
    let mut scores = Vec::new();
    let mut start = 0;
    for pass in passes {
        let positions = pass.read_positions();
        let mut counts = positions.chunk_by(|one, next| one.segment == next.segment).map(<[_]>::len);
        let query = counts.next().unwrap_or_default();
        let documents = vectors.narrow(0, start + query, positions.len() - query)?;
        // [positions of all documents, positions of the query]
        let cosines = documents.matmul(&vectors.narrow(0, start, query)?.t()?)?;
        let mut row = 0;
        for count in counts {
            scores.push(cosines.narrow(0, row, count)?.max(0)?.sum_all()?);
            row += count;
        }
        start += positions.len();
    }
    Tensor::stack(&scores, 0)?.unsqueeze(1)
}

/// Runs of passes whose heads are applied together: passes with the same head share one copy from
/// the device, because each copy waits for it. On a CPU each pass is a run of its own, so its
/// numbers do not depend on the batch.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_of_a_decoder_and_of_an_encoder_runs() {
        for checkpoint in [Checkpoint::podium_nano(), Checkpoint::podium_mini()] {
            let runtime = PackedRuntime::load(&checkpoint, &ComputeSettings::reference()).unwrap();
            runtime.warm_up().unwrap_or_else(|error| panic!("{}: {error}", checkpoint.name));
        }
    }
}
