//! A model's layers on a CPU: slices of f32 between matrix products in f32, bf16 or 8-bit integers.
//!
//! Between two products there is one pass over the rows: the norm, the rotary positions, the activation, the conversion to
//! what the next product reads. Weights lie in the order in which they are read: query, key and value in one matrix, gate and
//! up in another.

#![expect(clippy::inline_always, reason = "what `vectorised` compiles per instruction set must be inlined into it")]

mod attention;
mod blocks;
mod embeddings;
mod gemm;
mod large_product;
mod layer;
mod linear;
mod project;
mod quantise;
mod row_blocks;
mod rows;
mod transpose;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::Result;
use rayon::prelude::*;

pub(super) use self::attention::{Attention, Heads, PanelMemory};
use self::blocks::Blocks;
pub(super) use self::embeddings::CpuEmbeddings;
pub(super) use self::gemm::instructions::{multiplies_bf16, multiplies_i8};
pub(super) use self::large_product::LargeProduct;
use self::layer::{Layer, Norm};
pub(super) use self::linear::CpuDtype;
use self::linear::{Input, Linear};
pub(super) use self::row_blocks::most_block_rows;
use self::row_blocks::{BlockBuffers, BlockMemory};
use self::rows::vectorised;
use super::layout::{Exit, Packed};
use super::span::Span;
use super::weights::WeightFiles;
use crate::runtime::spec::{LayerSpec, ModelSpec, NormPlacement, RotarySpec};
use crate::runtime::tensors::TensorTable;

/// Rows that one task rotates or normalises at a time.
const TASK_ROWS: usize = 16;
/// Memory that is kept between forward passes, in bytes; what a large batch needed beyond it is freed.
const KEPT_BYTES: usize = 256 << 20;

/// The layers of a model and the tables they read.
pub(super) struct CpuLayers {
    spec: ModelSpec,
    layers: Vec<Layer>,
    final_norm: Option<Norm>,
    rotary: Vec<RotaryTable>,
    /// Whether attention multiplies bf16.
    attention_in_bf16: bool,
    /// One for each forward pass that runs at the same time.
    workspaces: Mutex<Vec<Workspace>>,
    block_memory: BlockMemory,
}

/// `[positions, head_dim / 2]` each.
struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Buffers of one forward pass, kept for the next one.
#[derive(Default)]
struct Workspace {
    /// `[rows, heads, dim]`.
    q: Vec<f32>,
    /// `[kv_heads, key rows, dim]` each: a head's rows lie together, as its tiles read them.
    k: Vec<f32>,
    v: Vec<f32>,
    panels: PanelMemory,
    /// `[rows, heads * dim]`.
    attended: Vec<f32>,
}

/// A forward pass between two layers.
struct Run<'a> {
    /// The states of all rows.
    x: Vec<f32>,
    blocks: Blocks<'a>,
    workspace: Workspace,
}

/// The batch's rows, as a layer sees them.
struct LayerRows<'a> {
    positions: &'a [u32],
    /// The rows that are read; all, if `None`.
    read: Option<&'a [u32]>,
    spans: &'a [Span],
}

impl CpuLayers {
    /// Whether these layers can run such a model.
    pub fn can_run(spec: &ModelSpec) -> bool {
        spec.attention.head_dim.is_multiple_of(Attention::DIM_MULTIPLE)
    }

    /// Reads the layers. `progress` is called with the number of layers that are loaded, after each.
    pub fn load(
        spec: &ModelSpec,
        tensors: &TensorTable,
        weights: &WeightFiles,
        dtype: CpuDtype,
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (number, tensors) in tensors.layers.iter().enumerate() {
            layers.push(Layer::load(spec, tensors, weights, dtype)?);
            weights.release();
            progress(number + 1);
        }
        let table = |rotary: &RotarySpec| {
            let (cos, sin) = rotary.table(spec.attention.head_dim, spec.max_positions);
            RotaryTable { cos, sin }
        };
        let final_norm = tensors.final_norm.as_ref().zip(spec.final_norm);
        Ok(Self {
            layers,
            final_norm: final_norm.map(|(tensors, spec)| Norm::load(tensors, spec, weights)).transpose()?,
            rotary: spec.rotary.iter().map(table).collect(),
            attention_in_bf16: dtype != CpuDtype::F32,
            workspaces: Mutex::default(),
            block_memory: BlockMemory::default(),
            spec: spec.clone(),
        })
    }

    /// The final states of the rows that are read, `[read rows, hidden]`, after the first `depth` layers and the final norm,
    /// from the embeddings of all rows, `[rows, hidden]`; and the blocks that the prefix cache stores. `cached` are the
    /// blocks that the batch uses. The last layer computes keys and values for all rows, everything else only where it is
    /// read. `kept` gets the states of all rows after each of the layers of which it has the number, below `depth`. After the
    /// layer of `exit`, which is below `depth`, some rows leave.
    ///
    /// # Errors
    /// Those of `exit`.
    pub fn states(
        &self,
        x: Vec<f32>,
        packed: &Packed,
        cached: &[&[f32]],
        depth: usize,
        kept: &mut [(usize, Vec<f32>)],
        exit: Option<Exit<'_, Vec<f32>>>,
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let workspaces = || self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        let attention = &self.spec.attention;
        let blocks = Blocks::new(cached, &packed.stored, (attention.kv_heads, attention.head_dim));
        let mut run = Run { x, blocks, workspace: workspaces().pop().unwrap_or_default() };
        if let Some(Exit { layer, choose }) = exit {
            self.run_layers(0..layer, depth, packed, &mut run, kept);
            let mut read = self.gather(&run.x, &packed.read_rows());
            self.final_norm.iter().for_each(|norm| self.normalise(norm, &mut read));
            let (rest, rows) = choose(read)?;
            run.x = self.gather(&run.x, &rows);
            run.blocks.move_rows(&rest.stored);
            self.run_layers(layer..depth, depth, &rest, &mut run, kept);
        } else {
            self.run_layers(0..depth, depth, packed, &mut run, kept);
        }
        let Run { mut x, blocks, workspace } = run;
        if let Some(norm) = &self.final_norm {
            self.normalise(norm, &mut x);
        }
        if workspace.bytes() <= KEPT_BYTES {
            workspaces().push(workspace);
        }
        Ok((x, blocks.into_stored()))
    }

    /// Runs some of the first `depth` layers.
    fn run_layers(
        &self,
        layers: Range<usize>,
        depth: usize,
        packed: &Packed,
        Run { x, blocks, workspace }: &mut Run<'_>,
        kept: &mut [(usize, Vec<f32>)],
    ) {
        let specs = &self.spec.layers[..depth];
        let read = (!packed.reads_all_rows()).then(|| packed.read_rows());
        for (number, spans) in packed.layers(specs).into_iter().enumerate().take(layers.end).skip(layers.start) {
            let layer = &self.layers[number];
            let read = read.as_deref().filter(|_| number + 1 == depth);
            let rows = LayerRows { positions: &packed.positions, read, spans: &spans };
            self.attend(layer, &specs[number], x, &rows, blocks, workspace);
            self.finish(layer, &workspace.attended, x);
            if let Some((_, states)) = kept.iter_mut().find(|(after, _)| *after == number + 1) {
                states.clone_from(x);
                self.final_norm.iter().for_each(|norm| self.normalise(norm, states));
            }
        }
    }

    /// Some rows of states, in this order.
    fn gather(&self, x: &[f32], rows: &[u32]) -> Vec<f32> {
        let hidden = self.spec.hidden_size;
        rows.iter().flat_map(|&row| &x[row as usize * hidden..][..hidden]).copied().collect()
    }

    /// Attention without its output product, into the workspace. Where only some rows are read, `x` is left with those.
    fn attend(
        &self,
        layer: &Layer,
        spec: &LayerSpec,
        x: &mut Vec<f32>,
        rows: &LayerRows<'_>,
        blocks: &mut Blocks<'_>,
        workspace: &mut Workspace,
    ) {
        self.project(layer, spec, x, rows, blocks.cached_rows(), workspace);
        let attention = &self.spec.attention;
        let (heads, kv_heads, dim) = (attention.heads, attention.kv_heads, attention.head_dim);
        let key_rows = rows.positions.len() + blocks.cached_rows();
        let Workspace { q, k, v, panels, attended } = workspace;
        let k = at_least(k, key_rows * kv_heads * dim);
        let v = at_least(v, key_rows * kv_heads * dim);
        blocks.exchange(rows.positions.len(), k, v);
        let heads_of = |values| Heads { values, row_distance: dim, head_distance: key_rows * dim };
        let (scale, soft_cap) = (attention.scale, attention.soft_cap);
        let attention = Attention { q, k: heads_of(k), v: heads_of(v), heads, kv_heads, dim, scale, soft_cap };
        let attended = at_least(attended, x.len() / self.spec.hidden_size * self.spec.query_width());
        attention.run(rows.spans, self.attention_in_bf16, panels, attended);
    }

    /// A layer behind attention: its output product, the MLP, their norms and residual connections. Each row by itself.
    fn finish(&self, layer: &Layer, attended: &[f32], x: &mut [f32]) {
        let (hidden, query_width) = (self.spec.hidden_size, self.spec.query_width());
        let blocks = self.row_blocks(x.len() / hidden);
        let tasks = attended.chunks(blocks.rows * query_width).zip(x.chunks_mut(blocks.rows * hidden)).collect();
        self.block_memory.run(blocks, tasks, |(attended, x), buffers| {
            layer.output.prepare(x.len() / hidden, &mut buffers.input, |row, target| {
                target.copy_from_slice(&attended[row * query_width..][..query_width]);
            });
            layer.output.multiply(0..hidden, &buffers.input, &mut buffers.output).add_to(hidden, x);
            if let (NormPlacement::Post, Some(norm)) = (self.spec.placement, &layer.attention_norm) {
                self.normalise(norm, x);
            }
            self.mlp(layer, x, buffers);
        });
    }

    /// The MLP with its norm and its residual connection.
    fn mlp(&self, layer: &Layer, x: &mut [f32], BlockBuffers { input, inner, output }: &mut BlockBuffers) {
        let (hidden, mlp) = (self.spec.hidden_size, &self.spec.mlp);
        let (intermediate, activation) = (mlp.intermediate, mlp.activation);
        self.prepare(&layer.gate_up, layer.before_mlp(self.spec.placement), x, input);
        let width = if mlp.gated { 2 * intermediate } else { intermediate };
        let products = layer.gate_up.multiply(0..width, input, output);
        layer.down.prepare(x.len() / hidden, inner, |row, target| {
            if mlp.gated {
                products.with_row(row, width, |values| {
                    let (gate, up) = values.split_at(intermediate);
                    vectorised!(rows::gated(activation, gate, up, target));
                });
            } else {
                vectorised!({
                    products.read(row, 0..intermediate, target);
                    rows::activate(activation, target);
                });
            }
        });
        layer.down.multiply(0..hidden, inner, output).add_to(hidden, x);
        if self.spec.placement == NormPlacement::Post {
            self.normalise(&layer.mlp_norm, x);
        }
    }

    /// The rows of `x`, normalised if there is a norm, for `linear`.
    fn prepare(&self, linear: &Linear, norm: Option<&Norm>, x: &[f32], input: &mut Input) {
        let hidden = self.spec.hidden_size;
        linear.prepare(x.len() / hidden, input, |row, target| {
            let source = &x[row * hidden..][..hidden];
            match norm {
                Some(norm) => vectorised!(norm.apply(source, target)),
                None => target.copy_from_slice(source),
            }
        });
    }

    /// Normalises rows in place.
    fn normalise(&self, norm: &Norm, x: &mut [f32]) {
        let hidden = self.spec.hidden_size;
        x.par_chunks_mut(TASK_ROWS * hidden).for_each(|rows| {
            vectorised!({
                for row in rows.chunks_exact_mut(hidden) {
                    norm.apply_in_place(row);
                }
            });
        });
    }
}

/// The first `length` elements, grown if there are fewer. They hold values of earlier use.
fn at_least<T: Copy + Default>(memory: &mut Vec<T>, length: usize) -> &mut [T] {
    if memory.len() < length {
        // A new vector: growing would copy the old values.
        *memory = vec![T::default(); length];
    }
    &mut memory[..length]
}

impl Workspace {
    fn bytes(&self) -> usize {
        [&self.q, &self.k, &self.v, &self.attended].map(Vec::len).iter().sum::<usize>() * 4 + self.panels.bytes()
    }
}
