//! Matrix products with weights, in f32, bf16 or 8-bit integers.
//!
//! Rows come in as f32; an [`Input`] holds them in the type that the product reads. Outputs go to the caller as f32, a tile at
//! a time while it is in a cache, and are never stored as a whole. Weights are laid out once, when they are loaded, in the
//! panels that the inner loop of [`super::gemm`] walks through.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use half::bf16;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::at_least;
use super::gemm::instructions::{arch, bf16_name, f32_name, int8_name};
use super::gemm::{COLUMNS, Element, Epilogue, Lhs, OutputTile, ROWS, Scales, TileProduct};
use super::quantise::{quantise_biased, quantise_signed};
use super::rows::{self, vectorised};
use super::shared_rows::SharedRows;

/// Rows that one task prepares at a time.
const TASK_ROWS: usize = 16;
/// Rows of a tile of outputs.
const TILE_ROWS: usize = 4 * ROWS;
/// Bytes of the left side that one task of a product multiplies, and of the right side, about. A task reads the left side once
/// per panel, and the next tasks read the same panels for other rows: both should stay in a cache.
const PRODUCT_BYTES: usize = 384 << 10;
/// Most rows of a task.
const PRODUCT_ROWS: usize = 16 * ROWS;
/// Most panels of a task.
const PRODUCT_PANELS: usize = 8;
/// Inputs that share a scale in a product of integers. A few inputs of a trained model are a hundred times larger than the
/// rest, and a scale for a whole row would leave the rest one or two bits.
const GROUP: usize = 32;
/// Tasks for each thread, so that all end at about the same time.
const TASKS_PER_THREAD: usize = 4;

/// The type in which products are computed. Sums are f32 or wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime::packed) enum CpuDtype {
    F32,
    /// Weights and rows are rounded to bf16.
    Bf16,
    /// In the MLP, weights and rows are integers with a scale for each group of 32 inputs; the rest is bf16.
    Int8,
    /// Weights are integers with a scale per output, rows with a scale per row: exact for weights that are stored so.
    Int8Rows,
}

impl CpuDtype {
    /// The instructions of this processor for products in this type: `avx512vnni`, `neon sdot`, ...; `plain` without any.
    pub fn instructions(self) -> &'static str {
        match self {
            Self::F32 => f32_name(),
            Self::Bf16 => bf16_name(),
            Self::Int8 | Self::Int8Rows => int8_name(),
        }
    }
}

/// A linear layer.
pub(super) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    inputs: usize,
}

/// `[outputs / 32, inputs, 32]`, in the units of [`super::gemm`]; rows and columns are filled up with zeros.
enum Weights {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    /// Scales and offsets are `[outputs / 32, groups, 32]`, one for each group of inputs.
    Int8 {
        panels: Vec<i8>,
        scales: Vec<f32>,
        offsets: Vec<i32>,
        groups: Groups,
    },
}

/// How the inputs of a product of integers are divided into groups with a scale each.
#[derive(Debug, Clone, Copy)]
struct Groups {
    /// Inputs of a group, whole units; the last group may have fewer.
    size: usize,
    count: usize,
}

impl Groups {
    fn new(inputs: usize, size: usize) -> Self {
        Self { size, count: inputs.div_ceil(size).max(1) }
    }
}

/// Rows in the type that a product reads. The memory is reused by the next product.
#[derive(Default)]
pub(super) struct Input {
    rows: usize,
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    /// Integers with 128 added.
    int8: Vec<u8>,
    /// Of the rows in `int8`, `[rows, groups]`.
    scales: Vec<f32>,
}

/// The rows of an [`Input`], for tasks that write parts of them. Widths are in elements.
pub(super) struct InputParts<'a> {
    rows: Parts<'a>,
    width: usize,
}

enum Parts<'a> {
    F32(SharedRows<'a, f32>),
    Bf16(SharedRows<'a, bf16>),
    Int8 { integers: SharedRows<'a, u8>, scales: SharedRows<'a, f32> },
}

impl Linear {
    /// Joins matrices of equal width, `[outputs, inputs]` each, and their biases, one below the other.
    pub fn new(parts: &[(Tensor, Option<Tensor>)], dtype: CpuDtype) -> Result<Self> {
        let inputs = parts[0].0.dim(1)?;
        let biases = parts.iter().filter_map(|(_, bias)| bias.as_ref());
        let bias: Vec<f32> =
            biases.map(|bias| bias.to_dtype(DType::F32)?.to_vec1()).collect::<Result<Vec<Vec<f32>>>>()?.concat();
        let mut rows: Vec<f32> = Vec::new();
        for (part, _) in parts {
            rows.extend(part.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
        let weights = match dtype {
            CpuDtype::F32 => Weights::F32(in_panels(&rows, inputs)),
            CpuDtype::Bf16 => {
                let mut narrow = vec![bf16::ZERO; rows.len()];
                let chunks = rows.par_chunks(inputs).zip(narrow.par_chunks_mut(inputs));
                chunks.for_each(|(row, narrow)| vectorised!(rows::to_bf16(row, narrow)));
                Weights::Bf16(in_panels(&narrow, inputs))
            }
            CpuDtype::Int8 => int8(&rows, inputs, Groups::new(inputs, GROUP)),
            CpuDtype::Int8Rows => int8(&rows, inputs, Groups::new(inputs, inputs.next_multiple_of(i8::UNIT))),
        };
        Ok(Self { weights, bias: (!bias.is_empty()).then_some(bias), inputs })
    }

    /// Fills `input` with rows for this layer; `make` writes row `n`.
    pub fn prepare(&self, rows: usize, input: &mut Input, make: impl Fn(usize, &mut [f32]) + Sync) {
        let width = self.inputs;
        input.rows = rows;
        match &self.weights {
            Weights::F32(_) => {
                let target = at_least(&mut input.f32, rows * width);
                target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each(|(task, target)| {
                    for (row, target) in target.chunks_exact_mut(width).enumerate() {
                        make(task * TASK_ROWS + row, target);
                    }
                });
            }
            Weights::Bf16(_) => {
                let distance = width.next_multiple_of(bf16::UNIT);
                let target = at_least(&mut input.bf16, rows * distance);
                let scratch = || vec![0f32; width];
                target.par_chunks_mut(TASK_ROWS * distance).enumerate().for_each_init(
                    scratch,
                    |wide, (task, target)| {
                        for (row, target) in target.chunks_exact_mut(distance).enumerate() {
                            make(task * TASK_ROWS + row, wide);
                            vectorised!(rows::to_bf16(wide, &mut target[..width]));
                            target[width..].fill(bf16::ZERO);
                        }
                    },
                );
            }
            Weights::Int8 { groups, .. } => {
                let distance = width.next_multiple_of(i8::UNIT);
                let scales = at_least(&mut input.scales, rows * groups.count);
                let target = at_least(&mut input.int8, rows * distance);
                let scales = scales.par_chunks_mut(TASK_ROWS * groups.count);
                let tasks = target.par_chunks_mut(TASK_ROWS * distance).zip(scales);
                let scratch = || vec![0f32; width];
                tasks.enumerate().for_each_init(scratch, |wide, (task, (target, scales))| {
                    let rows = target.chunks_exact_mut(distance).zip(scales.chunks_exact_mut(groups.count));
                    for (row, (target, scales)) in rows.enumerate() {
                        make(task * TASK_ROWS + row, wide);
                        // Values beyond the width meet weights of zero.
                        quantise_biased(wide, target, scales, groups.size);
                    }
                });
            }
        }
    }

    /// The rows of `input` for tasks that write them a part at a time; `None` if this layer needs whole rows at once.
    pub fn parts<'a>(&self, rows: usize, input: &'a mut Input) -> Option<InputParts<'a>> {
        let width = self.inputs;
        let of_parts = match &self.weights {
            Weights::F32(_) => Parts::F32(SharedRows::new(at_least(&mut input.f32, rows * width), width)),
            Weights::Bf16(_) => {
                let distance = width.next_multiple_of(bf16::UNIT);
                Parts::Bf16(SharedRows::new(at_least(&mut input.bf16, rows * distance), distance))
            }
            Weights::Int8 { groups, .. } if groups.size == COLUMNS => {
                let distance = width.next_multiple_of(i8::UNIT);
                Parts::Int8 {
                    integers: SharedRows::new(at_least(&mut input.int8, rows * distance), distance),
                    scales: SharedRows::new(at_least(&mut input.scales, rows * groups.count), groups.count),
                }
            }
            Weights::Int8 { .. } => return None,
        };
        input.rows = rows;
        Some(InputParts { rows: of_parts, width })
    }

    /// Multiplies all rows of `input` by the weights of the outputs in `outputs`, which begin at a multiple of 32, in pieces of
    /// `width` outputs, a multiple of 32. `finish` gets each piece of some rows once: the rows, the number of the piece, and its
    /// outputs with their biases, `[rows, width]`. What lies beyond the last output has no meaning.
    pub fn multiply(
        &self,
        outputs: Range<usize>,
        width: usize,
        input: &Input,
        finish: impl Fn(Range<usize>, usize, &mut [f32]) + Sync,
    ) {
        let pieces = Pieces { outputs, width, rows: input.rows };
        match &self.weights {
            Weights::F32(panels) => self.run(panels, &input.f32, &pieces, |_, _| Epilogue::None, finish),
            Weights::Bf16(panels) => self.run(panels, &input.bf16, &pieces, |_, _| Epilogue::None, finish),
            Weights::Int8 { panels, scales, offsets, groups: Groups { size, count } } => {
                let epilogue = |row, output| {
                    Epilogue::Scaled(Scales {
                        group: size / i8::UNIT,
                        groups: *count,
                        rows: &input.scales[row * count..],
                        columns: &scales[output * count..],
                        offsets: &offsets[output * count..],
                    })
                };
                self.run(panels, &input.int8, &pieces, epilogue, finish);
            }
        }
    }

    /// [`Self::multiply`] by `panels`. `epilogue` makes a tile's, from its first row and output.
    fn run<'a, E: Element>(
        &self,
        panels: &'a [E],
        left: &'a [E::Lhs],
        pieces: &Pieces,
        epilogue: impl Fn(usize, usize) -> Epilogue<'a> + Sync,
        finish: impl Fn(Range<usize>, usize, &mut [f32]) + Sync,
    ) {
        let depth = self.inputs.next_multiple_of(E::UNIT);
        let width = pieces.width;
        let tasks = pieces.tasks(depth * size_of::<E>());
        let scratch = || vec![0f32; TILE_ROWS * width];
        tasks.into_par_iter().for_each_init(scratch, |scratch, (numbers, rows)| {
            for piece in numbers {
                for start in rows.clone().step_by(TILE_ROWS) {
                    let count = TILE_ROWS.min(rows.end - start);
                    let tile = &mut scratch[..count * width];
                    let first = pieces.outputs.start + piece * width;
                    for column in (0..width.min(pieces.padded_end() - first)).step_by(COLUMNS) {
                        let output = first + column;
                        arch().dispatch(Run(TileProduct {
                            depth,
                            left: Lhs { values: &left[start * depth..], distance: depth },
                            right: &panels[output * depth..][..COLUMNS * depth],
                            target: OutputTile::new(&mut tile[column..], count, COLUMNS, width),
                            epilogue: epilogue(start, output),
                        }));
                    }
                    if let Some(bias) = &self.bias {
                        let bias = &bias[first..bias.len().min(first + width)];
                        vectorised!({
                            for row in tile.chunks_exact_mut(width) {
                                rows::add(row, bias);
                            }
                        });
                    }
                    finish(start..start + count, piece, tile);
                }
            }
        });
    }
}

/// A product's outputs in pieces.
struct Pieces {
    outputs: Range<usize>,
    width: usize,
    rows: usize,
}

impl Pieces {
    /// The end of the outputs with those that fill up the last panel.
    fn padded_end(&self) -> usize {
        self.outputs.end.next_multiple_of(COLUMNS)
    }

    /// Pieces and rows of each task. Outputs have `bytes` of weights each.
    fn tasks(&self, bytes: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let Self { outputs, width, rows } = self;
        assert!(outputs.start.is_multiple_of(COLUMNS), "a product begins at output {}", outputs.start);
        assert!(*width > 0 && width.is_multiple_of(COLUMNS), "pieces of {width} outputs");
        let count = outputs.len().div_ceil(*width);
        // Few rows are shared out by their pieces.
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let most_rows = (PRODUCT_BYTES / bytes / ROWS * ROWS).clamp(2 * ROWS, PRODUCT_ROWS);
        let row_tasks = rows.div_ceil(most_rows).max(1);
        let task_rows = rows.div_ceil(row_tasks).max(1).next_multiple_of(ROWS);
        let most_outputs = (PRODUCT_BYTES / bytes).clamp(COLUMNS, PRODUCT_PANELS * COLUMNS);
        let task_pieces = (count * row_tasks / wanted).clamp(1, (most_outputs / width).max(1));
        let ranges = |all: usize, step: usize| (0..all).step_by(step).map(move |start| start..all.min(start + step));
        let of_pieces = |pieces: Range<usize>| ranges(*rows, task_rows).map(move |rows| (pieces.clone(), rows));
        ranges(count, task_pieces).flat_map(of_pieces).collect()
    }
}

struct Run<'a, E: Element>(TileProduct<'a, E>);

impl<E: Element> WithSimd for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        E::multiply(self.0, simd);
    }
}

/// Rows of weights, `[outputs, inputs]`, as integers.
fn int8(rows: &[f32], inputs: usize, groups: Groups) -> Weights {
    let mut integers = vec![0; rows.len()];
    let outputs = (rows.len() / inputs).next_multiple_of(COLUMNS);
    let (mut scales, mut offsets) = (vec![0.; outputs * groups.count], vec![0; outputs * groups.count]);
    let panel = COLUMNS * groups.count;
    let tasks = rows.par_chunks(COLUMNS * inputs).zip(integers.par_chunks_mut(COLUMNS * inputs));
    let tasks = tasks.zip(scales.par_chunks_mut(panel).zip(offsets.par_chunks_mut(panel)));
    let scratch = || vec![0f32; groups.count];
    tasks.for_each_init(scratch, |of_row, ((rows, integers), (scales, offsets))| {
        for (column, (row, integers)) in rows.chunks_exact(inputs).zip(integers.chunks_exact_mut(inputs)).enumerate() {
            quantise_signed(row, integers, of_row, groups.size);
            for (group, integers) in integers.chunks(groups.size).enumerate() {
                scales[group * COLUMNS + column] = of_row[group];
                offsets[group * COLUMNS + column] = -128 * integers.iter().map(|value| i32::from(*value)).sum::<i32>();
            }
        }
    });
    Weights::Int8 { panels: in_panels(&integers, inputs), scales, offsets, groups }
}

/// Rows of weights, `[outputs, inputs]`, in panels.
fn in_panels<E: Element>(rows: &[E], inputs: usize) -> Vec<E> {
    let depth = inputs.next_multiple_of(E::UNIT);
    let mut panels = vec![E::default(); (rows.len() / inputs).next_multiple_of(COLUMNS) * depth];
    let tasks = panels.par_chunks_mut(COLUMNS * depth).zip(rows.par_chunks(COLUMNS * inputs));
    tasks.for_each(|(panel, rows)| {
        for (column, row) in rows.chunks_exact(inputs).enumerate() {
            let places = panel.chunks_exact_mut(COLUMNS * E::UNIT);
            for (unit, place) in row.chunks(E::UNIT).zip(places) {
                place[column * E::UNIT..][..unit.len()].copy_from_slice(unit);
            }
        }
    });
    panels
}

impl Input {
    pub fn bytes(&self) -> usize {
        (self.f32.len() + self.scales.len()) * 4 + self.bf16.len() * 2 + self.int8.len()
    }
}

impl InputParts<'_> {
    /// Writes up to 32 inputs of a row, from `first` on, which is a multiple of 32. Values beyond the row's width are left out.
    ///
    /// # Safety
    /// No other thread reads or writes these inputs of the row.
    #[inline(always)]
    pub unsafe fn write(&self, row: usize, first: usize, values: &[f32]) {
        let values = &values[..COLUMNS.min(self.width - first)];
        let columns = first..first + values.len();
        // SAFETY: the caller's; parts of a row begin at multiples of 32 and are no wider.
        unsafe {
            match &self.rows {
                Parts::F32(rows) => rows.part(row, columns).copy_from_slice(values),
                Parts::Bf16(rows) => {
                    let target = rows.part(row, first..columns.end.next_multiple_of(bf16::UNIT));
                    rows::to_bf16(values, target);
                    target[values.len()..].fill(bf16::ZERO);
                }
                Parts::Int8 { integers, scales } => {
                    let group = first / COLUMNS;
                    let scales = scales.part(row, group..group + 1);
                    quantise_biased(values, integers.part(row, columns), scales, COLUMNS);
                }
            }
        }
    }
}
