//! The decoder's layers on a CPU: slices of f32 between matrix products in f32, bf16 or 8-bit integers.
//!
//! What lies between two products is one pass over the rows: the norm, the rotary turn, the gate, the change of type that
//! the next product reads. Weights lie in the order in which they are read: query, key and value in one matrix, gate and up in another.

#![expect(clippy::inline_always, reason = "what `vectorised` compiles per instruction set must be inlined into it")]

mod attention;
mod blocks;
mod linear;
mod rows;
mod tile;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, Tensor};
use mistralrs::core::layers::Activation;
use mistralrs_quant::ShardedVarBuilder;
use rayon::prelude::*;

pub(super) use self::attention::{Attention, Heads};
use self::blocks::Blocks;
pub(super) use self::linear::Numbers;
use self::linear::{Input, Linear, Products};
use self::rows::vectorised;
pub(super) use self::tile::{multiplies_bf16, multiplies_i8};
use super::config::DecoderConfig;
use super::layout::{Packed, Span};

/// Rows that go through products together: enough for them, few enough for a cache.
const BLOCK_ROWS: usize = 768;
/// Rows that one task turns at a time.
const TASK_ROWS: usize = 16;
/// Memory that is kept between forward passes, in bytes; what a large batch needed beyond it goes back.
const KEPT_BYTES: usize = 256 << 20;

/// The layers of a decoder and the tables they read.
pub(super) struct CpuLayers {
    shape: Shape,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `[positions, head_dim / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Whether attention multiplies bf16.
    narrow_attention: bool,
    workspace: Mutex<Workspace>,
}

#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    eps: f32,
}

struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values, one below the other.
    qkv: Linear,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Linear,
    mlp_norm: Vec<f32>,
    /// Gate and up, one below the other.
    gate_up: Linear,
    down: Linear,
}

/// What one forward pass writes to, kept for the next one.
#[derive(Default)]
struct Workspace {
    input: Input,
    /// The MLP's inner rows.
    gated: Input,
    /// What a product makes.
    output: Vec<f32>,
    /// `[rows, heads, dim]`.
    q: Vec<f32>,
    /// `[kv_heads, key rows, dim]` each: a head's rows lie together, as its tiles read them.
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[rows, heads * dim]`.
    attended: Vec<f32>,
}

impl CpuLayers {
    /// Whether these layers know such a decoder.
    pub fn can_run(config: &DecoderConfig) -> bool {
        config.activation == Activation::Silu && config.head_dim.is_multiple_of(Attention::DIM_MULTIPLE)
    }

    /// Reads the layers under `model`. `progress` is told after each.
    pub fn load(
        config: &DecoderConfig,
        model: &ShardedVarBuilder,
        numbers: Numbers,
        (cos, sin): (&Tensor, &Tensor),
        progress: &dyn Fn(usize),
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(config.layers);
        for number in 0..config.layers {
            layers.push(Layer::load(config, &model.pp("layers").pp(number), numbers)?);
            progress(number + 1);
        }
        let table = |table: &Tensor| table.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        Ok(Self {
            shape: Shape {
                hidden: config.hidden_size,
                intermediate: config.intermediate_size,
                heads: config.heads,
                kv_heads: config.kv_heads,
                dim: config.head_dim,
                eps: config.rms_norm_eps as f32,
            },
            layers,
            norm: norm(config.hidden_size, &model.pp("norm"))?,
            cos: table(cos)?,
            sin: table(sin)?,
            narrow_attention: numbers != Numbers::F32,
            workspace: Mutex::default(),
        })
    }

    /// The final-normed states of the rows that are read, `[marks, hidden]`, from the embeddings of all rows,
    /// `[rows, hidden]`; and the blocks that are to be kept. `held` are those that the batch uses. The last layer computes
    /// keys and values for all rows, everything else only where it is read.
    pub fn states(&self, mut x: Vec<f32>, packed: &Packed, held: &[&[f32]]) -> (Vec<f32>, Vec<Vec<f32>>) {
        let mut workspace = std::mem::take(&mut *self.workspace.lock().unwrap_or_else(PoisonError::into_inner));
        let Shape { hidden, dim, kv_heads, .. } = self.shape;
        let count = self.layers.len();
        let mut blocks = Blocks::new(held, &packed.kept, (kv_heads, dim));
        let read = packed.read_rows();
        for (number, (layer, spans)) in self.layers.iter().zip(packed.layers(count)).enumerate() {
            let read = (number + 1 == count).then_some(read.as_slice());
            let rows = LayerRows { positions: &packed.positions, read, spans: &spans };
            self.attend(layer, &mut x, &rows, &mut blocks, &mut workspace);
            self.mlp(layer, &mut x, &mut workspace);
        }
        for row in x.chunks_exact_mut(hidden) {
            vectorised!(rows::rms_norm_in_place(row, &self.norm, self.shape.eps));
        }
        if workspace.bytes() <= KEPT_BYTES {
            *self.workspace.lock().unwrap_or_else(PoisonError::into_inner) = workspace;
        }
        (x, blocks.into_kept())
    }

    /// Adds to `x` what its rows attend to; where only some are read, `x` is left with those.
    fn attend(
        &self,
        layer: &Layer,
        x: &mut Vec<f32>,
        &LayerRows { positions, read, spans }: &LayerRows<'_>,
        blocks: &mut Blocks<'_>,
        workspace: &mut Workspace,
    ) {
        let Shape { hidden, heads, kv_heads, dim, .. } = self.shape;
        let (rows, query_width, key_width) = (positions.len(), heads * dim, kv_heads * dim);
        let key_rows = rows + blocks.held_rows();
        let Workspace { input, output, q, k, v, attended, .. } = workspace;
        let queries = read.map_or(rows, <[u32]>::len);
        let q = at_least(q, queries * query_width);
        let k = at_least(k, key_rows * key_width);
        let v = at_least(v, key_rows * key_width);
        let attended = at_least(attended, queries * query_width);

        // Keys and values of all rows, and queries with them unless only some are read.
        let first = if read.is_some() { query_width } else { 0 };
        for start in (0..rows).step_by(BLOCK_ROWS) {
            let block = start..rows.min(start + BLOCK_ROWS);
            let positions = &positions[block.clone()];
            self.prepare(&layer.qkv, &layer.attention_norm, &x[block.start * hidden..block.end * hidden], input);
            let products = layer.qkv.multiply(first..query_width + 2 * key_width, input, output);
            let place = (block.clone(), key_rows);
            let keys = query_width - first;
            self.by_head(&products, keys, place.clone(), Some((layer.key_norm.as_deref(), positions)), k);
            self.by_head(&products, keys + key_width, place, None, v);
            if read.is_none() {
                self.queries(layer, &products, positions, &mut q[block.start * query_width..block.end * query_width]);
            }
        }
        if let Some(read) = read {
            *x = read.iter().flat_map(|&row| &x[row as usize * hidden..][..hidden]).copied().collect();
            let positions: Vec<u32> = read.iter().map(|&row| positions[row as usize]).collect();
            self.prepare(&layer.qkv, &layer.attention_norm, x, input);
            self.queries(layer, &layer.qkv.multiply(0..query_width, input, output), &positions, q);
        }

        blocks.exchange(rows, k, v);
        let heads_of = |values| Heads { values, row_distance: dim, head_distance: key_rows * dim };
        let attention = Attention { q, k: heads_of(k), v: heads_of(v), heads, kv_heads, dim };
        attention.run(spans, self.narrow_attention, attended);
        for (attended, x) in attended.chunks(BLOCK_ROWS * query_width).zip(x.chunks_mut(BLOCK_ROWS * hidden)) {
            layer.output.prepare(x.len() / hidden, input, |row, target| {
                target.copy_from_slice(&attended[row * query_width..][..query_width]);
            });
            layer.output.multiply(0..hidden, input, output).add_to(hidden, x);
        }
    }

    /// Adds the gated MLP of its rows to `x`.
    fn mlp(&self, layer: &Layer, x: &mut [f32], workspace: &mut Workspace) {
        let Shape { hidden, intermediate, .. } = self.shape;
        let Workspace { input, gated, output, .. } = workspace;
        for x in x.chunks_mut(BLOCK_ROWS * hidden) {
            self.prepare(&layer.gate_up, &layer.mlp_norm, x, input);
            let products = layer.gate_up.multiply(0..2 * intermediate, input, output);
            layer.down.prepare(x.len() / hidden, gated, |row, target| {
                let (gate, rest) = products.row(row).split_at(intermediate);
                vectorised!(rows::gate(gate, rest, target));
            });
            layer.down.multiply(0..hidden, gated, output).add_to(hidden, x);
        }
    }

    /// The normed rows of `x`, for `linear`.
    fn prepare(&self, linear: &Linear, norm: &[f32], x: &[f32], input: &mut Input) {
        let Shape { hidden, eps, .. } = self.shape;
        linear.prepare(x.len() / hidden, input, |row, target| {
            vectorised!(rows::rms_norm(&x[row * hidden..][..hidden], norm, eps, target));
        });
    }

    /// Queries, which are the products' first columns, normed and turned: `[rows, heads, dim]`.
    fn queries(&self, layer: &Layer, products: &Products<'_>, positions: &[u32], target: &mut [f32]) {
        let Shape { heads, dim, .. } = self.shape;
        let width = heads * dim;
        target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each(|(task, target)| {
            vectorised!({
                for (row, target) in target.chunks_exact_mut(width).enumerate() {
                    let row = task * TASK_ROWS + row;
                    products.read(row, 0..width, target);
                    for head in target.chunks_exact_mut(dim) {
                        self.turn(head, layer.query_norm.as_deref(), positions[row]);
                    }
                }
            });
        });
    }

    /// Norms a head, if there is a norm, and turns it to its position.
    #[inline(always)]
    fn turn(&self, head: &mut [f32], norm: Option<&[f32]>, position: u32) {
        let half = self.shape.dim / 2;
        let angles = position as usize * half..(position as usize + 1) * half;
        if let Some(norm) = norm {
            rows::rms_norm_in_place(head, norm, self.shape.eps);
        }
        rows::rotate(head, &self.cos[angles.clone()], &self.sin[angles]);
    }

    /// Moves the columns from `first` on to the rows `block` of `target`, `[heads, rows, dim]`. With a norm (if there is one) and
    /// the positions of the block's rows, heads are turned.
    fn by_head(
        &self,
        products: &Products<'_>,
        first: usize,
        (block, rows): (Range<usize>, usize),
        turned: Option<(Option<&[f32]>, &[u32])>,
        target: &mut [f32],
    ) {
        let dim = self.shape.dim;
        target.par_chunks_mut(rows * dim).enumerate().for_each(|(head, target)| {
            let columns = first + head * dim..first + (head + 1) * dim;
            let target = &mut target[block.start * dim..block.end * dim];
            target.par_chunks_mut(TASK_ROWS * dim).enumerate().for_each(|(task, target)| {
                vectorised!({
                    for (row, target) in target.chunks_exact_mut(dim).enumerate() {
                        let row = task * TASK_ROWS + row;
                        products.read(row, columns.clone(), target);
                        if let Some((norm, positions)) = turned {
                            self.turn(target, norm, positions[row]);
                        }
                    }
                });
            });
        });
    }
}

/// What a layer is told of the batch's rows.
struct LayerRows<'a> {
    positions: &'a [u32],
    /// The rows that are read; all, if `None`.
    read: Option<&'a [u32]>,
    spans: &'a [Span],
}

impl Layer {
    fn load(config: &DecoderConfig, layer: &ShardedVarBuilder, numbers: Numbers) -> Result<Self> {
        let (attention, mlp) = (layer.pp("self_attn"), layer.pp("mlp"));
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |parts: &[(&ShardedVarBuilder, &str, usize, usize, bool)]| {
            let read = |&(builder, name, outputs, inputs, bias): &(&ShardedVarBuilder, &str, usize, usize, bool)| {
                let builder = builder.pp(name);
                let bias = bias.then(|| builder.get(outputs, "bias")).transpose()?;
                Ok((builder.get((outputs, inputs), "weight")?, bias))
            };
            Linear::new(&parts.iter().map(read).collect::<Result<Vec<_>>>()?, numbers)
        };
        let head_norm = |name| config.qk_norm.then(|| norm(config.head_dim, &attention.pp(name))).transpose();
        let bias = config.qkv_bias;
        Ok(Self {
            attention_norm: norm(hidden, &layer.pp("input_layernorm"))?,
            qkv: linear(&[
                (&attention, "q_proj", query, hidden, bias),
                (&attention, "k_proj", key, hidden, bias),
                (&attention, "v_proj", key, hidden, bias),
            ])?,
            query_norm: head_norm("q_norm")?,
            key_norm: head_norm("k_norm")?,
            output: linear(&[(&attention, "o_proj", hidden, query, config.output_bias)])?,
            mlp_norm: norm(hidden, &layer.pp("post_attention_layernorm"))?,
            gate_up: linear(&[
                (&mlp, "gate_proj", intermediate, hidden, false),
                (&mlp, "up_proj", intermediate, hidden, false),
            ])?,
            down: linear(&[(&mlp, "down_proj", hidden, intermediate, false)])?,
        })
    }
}

fn norm(size: usize, builder: &ShardedVarBuilder) -> Result<Vec<f32>> {
    builder.get(size, "weight")?.to_dtype(DType::F32)?.to_vec1()
}

/// The first `length` places, which are made if there are fewer. What stands in them is left over from earlier use.
fn at_least<T: Copy + Default>(memory: &mut Vec<T>, length: usize) -> &mut [T] {
    if memory.len() < length {
        // Nothing is kept of the old values, so that growing need not copy them.
        *memory = vec![T::default(); length];
    }
    &mut memory[..length]
}

impl Workspace {
    fn bytes(&self) -> usize {
        let floats = [&self.output, &self.q, &self.k, &self.v, &self.attended].map(Vec::len).iter().sum::<usize>() * 4;
        floats + self.input.bytes() + self.gated.bytes()
    }
}
