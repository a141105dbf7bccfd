//! A model: embeddings, layers over packed rows, and heads for the final states.
//!
//! Layers have two implementations: [`CpuLayers`], and [`CandleLayers`] for every other device and
//! for mistral.rs's own quantised forms.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor};

use super::candle_layers::{CandleLayers, Loader};
use super::compute::{Backend, Precision};
use super::cpu::{CpuEmbeddings, CpuLayers};
use super::heads::Heads;
use super::layout::{Exit, Packed};
use super::prefix_cache::BLOCK;
use super::table::Table;
use super::weights::WeightFiles;
use crate::runtime::LoadError;
use crate::runtime::spec::{ModelSpec, OutputMatrix};
use crate::runtime::tensors::TensorTable;

pub(super) struct Model {
    spec: ModelSpec,
    /// Word embeddings, `[vocabulary, hidden]`.
    words: Table,
    /// The type of the layers' keys and values.
    dtype: DType,
    layers: Layers,
    heads: Heads,
}

enum Layers {
    Cpu(Box<(CpuEmbeddings, CpuLayers)>),
    Candle(Box<CandleLayers>),
}

impl Model {
    /// Checks every tensor, then builds the model on `device`. `progress` is called with the number
    /// of layers that are loaded, after each.
    pub fn load(
        spec: ModelSpec,
        weights: &Arc<WeightFiles>,
        precision: Precision,
        device: &Device,
        progress: &dyn Fn(usize),
    ) -> std::result::Result<Self, LoadError> {
        let tensors = TensorTable::new(&spec, &|name| weights.shape(name));
        weights.check_all(&tensors, &spec)?;
        Self::build(spec, &tensors, weights, precision, device, progress)
            .map_err(|error| LoadError::Device(error.to_string()))
    }

    fn build(
        spec: ModelSpec,
        tensors: &TensorTable,
        weights: &Arc<WeightFiles>,
        precision: Precision,
        device: &Device,
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let dtype = precision.dtype;
        let words = Table::load(weights, &tensors.words, dtype, device)?;
        let layers = match precision.backend {
            Backend::Cpu(products) => Layers::Cpu(Box::new((
                CpuEmbeddings::load(&spec, tensors, weights)?,
                CpuLayers::load(&spec, tensors, weights, products, progress)?,
            ))),
            Backend::Candle(isq) => {
                let loader = Loader { weights, device, dtype, isq };
                Layers::Candle(Box::new(CandleLayers::load(&spec, tensors, loader, progress)?))
            }
        };
        let output = match (spec.output, &tensors.output) {
            (OutputMatrix::Tied, _) => Some(words.clone()),
            (OutputMatrix::Own, Some(slice)) => Some(Table::load(weights, slice, dtype, device)?),
            (OutputMatrix::Own | OutputMatrix::None, _) => None,
        };
        let heads = Heads::load(&spec, tensors, Loader { weights, device, dtype, isq: None }, output)?;
        weights.release();
        let dtype = match layers {
            Layers::Cpu(_) => DType::F32,
            Layers::Candle(_) => dtype,
        };
        Ok(Self { spec, words, dtype, layers, heads })
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Whether its layers are those of [`super::cpu`].
    pub fn runs_on_cpu_kernels(&self) -> bool {
        matches!(self.layers, Layers::Cpu(_))
    }

    /// Bytes that a block of keys and values takes, over all layers.
    pub fn block_bytes(&self) -> usize {
        2 * self.spec.layers.len() * self.spec.key_width() * BLOCK * self.dtype.size_in_bytes()
    }

    /// The final states of the rows that are read, `[read rows of all passes, hidden]` in f32,
    /// after the first `depth` layers; and the blocks that the prefix cache stores. `cached` are
    /// the blocks that the batch uses of it.
    pub fn states(&self, packed: &Packed, cached: &[Tensor], depth: usize) -> Result<(Tensor, Vec<Tensor>)> {
        let (states, _, stored) = self.run(packed, cached, depth, &[], None)?;
        Ok((states, stored))
    }

    /// As [`Self::states`], of the rows that go on after `exit`, whose layer is below `depth`.
    pub fn states_with_exit(
        &self,
        packed: &Packed,
        cached: &[Tensor],
        depth: usize,
        exit: Exit<'_, Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let (states, _, stored) = self.run(packed, cached, depth, &[], Some(exit))?;
        Ok((states, stored))
    }

    /// The states of the rows that are read, and those of all rows after each of `earlier` layers,
    /// which are fewer than `depth`.
    pub fn states_after(&self, packed: &Packed, depth: usize, earlier: &[usize]) -> Result<(Tensor, Vec<Tensor>)> {
        let (states, kept, _) = self.run(packed, &[], depth, earlier, None)?;
        Ok((states, kept))
    }

    fn run(
        &self,
        packed: &Packed,
        cached: &[Tensor],
        depth: usize,
        earlier: &[usize],
        exit: Option<Exit<'_, Tensor>>,
    ) -> Result<(Tensor, Vec<Tensor>, Vec<Tensor>)> {
        match &self.layers {
            Layers::Candle(layers) => {
                let words = self.words.rows(&packed.tokens)?;
                let mut kept: Vec<_> = earlier.iter().map(|layer| (*layer, None)).collect();
                let (states, stored) = layers.states(words, packed, cached, depth, &mut kept, exit)?;
                Ok((states, kept.into_iter().filter_map(|(_, states)| states).collect(), stored))
            }
            Layers::Cpu(layers) => {
                let (embeddings, layers) = &**layers;
                let words = self.words.rows(&packed.tokens)?.flatten_all()?.to_vec1()?;
                let rows = embeddings.embed(words, packed);
                let cached: Vec<_> = cached.iter().map(|block| block.storage_and_layout().0).collect();
                let cached: Vec<&[f32]> = cached.iter().map(|block| floats(block)).collect::<Result<_>>()?;
                let mut kept: Vec<_> = earlier.iter().map(|layer| (*layer, Vec::new())).collect();
                let states = |states| Tensor::from_vec(states, ((), self.spec.hidden_size), &Device::Cpu);
                let mut choose_by_rows;
                let exit = match exit {
                    Some(Exit { layer, choose }) => {
                        choose_by_rows = |read| choose(states(read)?);
                        Some(Exit { layer, choose: &mut choose_by_rows })
                    }
                    None => None,
                };
                let (final_states, stored) = layers.states(rows, packed, &cached, depth, &mut kept, exit)?;
                let stored = stored.into_iter().map(|block| Tensor::from_vec(block, (), &Device::Cpu));
                let kept = kept.into_iter().map(|(_, rows)| states(rows)).collect::<Result<_>>()?;
                Ok((states(final_states)?, kept, stored.collect::<Result<_>>()?))
            }
        }
    }
}

/// A whole tensor on the CPU, as it lies.
pub(super) fn floats(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(storage) => storage.as_slice(),
        Storage::Cuda(_) | Storage::Metal(_) => candle_core::bail!("a block of these layers is not on the CPU"),
    }
}
