//! Matrix products with weights, in f32, bf16 or 8-bit integers.
//!
//! Rows come in as f32 and go out as f32; in between an [`Input`] holds them in the type that the
//! product reads. Weights are laid out once, when they are loaded, in the panels that the inner
//! loop of [`super::gemm`] walks through.

#![expect(clippy::inline_always, reason = "what `dispatch` compiles per instruction set must be inlined into it")]

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

/// Rows that one task prepares or copies at a time.
const TASK_ROWS: usize = 16;
/// Bytes, about, of the left side and of the right side that one task of a product multiplies. A
/// task reads the left side once per panel, and the next tasks read the same panels for other rows:
/// both should stay in a cache.
const PRODUCT_BYTES: usize = 384 << 10;
/// Most rows of a task.
const PRODUCT_ROWS: usize = 16 * ROWS;
/// Most panels of a task.
const PRODUCT_PANELS: usize = 8;
/// Inputs that share a scale in a product of integers. A few inputs of a trained model are a
/// hundred times larger than the rest, and a scale for a whole row would leave the rest one or two
/// bits.
const GROUP: usize = 32;
/// Tasks for each thread, so that all end at about the same time.
const TASKS_PER_THREAD: usize = 4;

/// The type in which products are computed. Sums are f32 or wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime::packed) enum CpuDtype {
    F32,
    /// Weights and rows are rounded to bf16.
    Bf16,
    /// In the MLP, weights and rows are integers with a scale for each group of 32 inputs; the rest
    /// is bf16.
    Int8,
    /// Weights are integers with a scale per output, rows with a scale per row: exact for weights
    /// that are stored so.
    Int8Rows,
}

impl CpuDtype {
    /// The instructions of this processor for products in this type: `avx512vnni`, `neon sdot`,
    /// ...; `plain` without any.
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

/// `[outputs / 32, inputs, 32]`, in the units of [`super::gemm`]; rows and columns are filled up
/// with zeros.
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

/// The result of a product, `[rows, columns]`, before its bias. Rows are a multiple of 32 elements
/// apart.
pub(super) struct Products<'a> {
    values: &'a [f32],
    distance: usize,
    bias: Option<&'a [f32]>,
}

impl Linear {
    /// Stacks matrices of equal width, `[outputs, inputs]` each, and their biases.
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

    /// The outputs in `columns`, which begin at a multiple of 32, of all rows of `input`.
    pub fn multiply<'a>(&'a self, columns: Range<usize>, input: &'a Input, output: &'a mut Vec<f32>) -> Products<'a> {
        let distance = columns.len().next_multiple_of(COLUMNS);
        let values = at_least(output, input.rows * distance);
        let target = OutputTile::new(&mut *values, input.rows, distance, distance);
        let first = columns.start;
        match &self.weights {
            Weights::F32(panels) => self.run(panels, first, &input.f32, target, |_, _| Epilogue::None),
            Weights::Bf16(panels) => self.run(panels, first, &input.bf16, target, |_, _| Epilogue::None),
            Weights::Int8 { panels, scales, offsets, groups: Groups { size, count } } => {
                self.run(panels, first, &input.int8, target, |row, column| {
                    Epilogue::Scaled(Scales {
                        group: size / i8::UNIT,
                        groups: *count,
                        rows: &input.scales[row * count..],
                        columns: &scales[column * count..],
                        offsets: &offsets[column * count..],
                    })
                });
            }
        }
        Products { values, distance, bias: self.bias.as_ref().map(|bias| &bias[columns]) }
    }

    /// Fills `target` with products of rows of `left` with the panels from output `first` on.
    /// `epilogue` makes a tile's, from its first row and output.
    fn run<'a, E: Element>(
        &self,
        panels: &'a [E],
        first: usize,
        left: &'a [E::Lhs],
        target: OutputTile<'a>,
        epilogue: impl Fn(usize, usize) -> Epilogue<'a> + Sync,
    ) {
        assert!(first.is_multiple_of(COLUMNS), "a product begins at output {first}");
        let depth = self.inputs.next_multiple_of(E::UNIT);
        let (rows, panel_count) = (target.rows(), target.columns() / COLUMNS);
        // Few rows are shared out by their panels.
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        let most_rows = (PRODUCT_BYTES / (depth * size_of::<E>()) / ROWS * ROWS).clamp(2 * ROWS, PRODUCT_ROWS);
        let row_tasks = rows.div_ceil(most_rows).max(1);
        let task_rows = rows.div_ceil(row_tasks).max(1).next_multiple_of(ROWS);
        let most_panels = (PRODUCT_BYTES / (depth * COLUMNS * size_of::<E>())).clamp(1, PRODUCT_PANELS);
        let task_panels = (panel_count * row_tasks / wanted).clamp(1, most_panels);
        target.parts(task_rows, task_panels * COLUMNS).into_par_iter().for_each(|((row, column), part)| {
            for ((_, inner), target) in part.parts(task_rows, COLUMNS) {
                let output = first + column + inner;
                arch().dispatch(Run(TileProduct {
                    depth,
                    left: Lhs { values: &left[row * depth..], distance: depth },
                    right: &panels[output * depth..][..COLUMNS * depth],
                    target,
                    epilogue: epilogue(row, output),
                }));
            }
        });
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

impl Products<'_> {
    /// Writes the outputs in `columns` of a row to `target`. Call it where loops are vectorised.
    #[inline(always)]
    pub fn read(&self, row: usize, columns: Range<usize>, target: &mut [f32]) {
        target.copy_from_slice(&self.values[row * self.distance..][columns.clone()]);
        if let Some(bias) = self.bias {
            rows::add(target, &bias[columns]);
        }
    }

    /// Calls `use_row` with the first `width` outputs of a row, biases included.
    pub fn with_row(&self, row: usize, width: usize, use_row: impl FnOnce(&[f32])) {
        let values = &self.values[row * self.distance..][..width];
        match self.bias {
            None => use_row(values),
            Some(bias) => use_row(&values.iter().zip(bias).map(|(value, bias)| value + bias).collect::<Vec<f32>>()),
        }
    }

    /// Adds the product's rows to those of `target`, each `width` wide.
    pub fn add_to(&self, width: usize, target: &mut [f32]) {
        target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each(|(task, target)| {
            vectorised!({
                for (row, target) in target.chunks_exact_mut(width).enumerate() {
                    rows::add(target, &self.values[(task * TASK_ROWS + row) * self.distance..][..width]);
                    if let Some(bias) = self.bias {
                        rows::add(target, bias);
                    }
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// A number between -1 and 1.
    fn value(seed: u32, n: usize) -> f32 {
        ((n as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 16) as f32 / 32768. - 1.
    }

    fn matrix(seed: u32, rows: usize, columns: usize) -> (Vec<f32>, Tensor) {
        let values: Vec<f32> = (0..rows * columns).map(|n| value(seed, n)).collect();
        let tensor = Tensor::from_vec(values.clone(), (rows, columns), &Device::Cpu).unwrap();
        (values, tensor)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_product_is_its_definition_for_any_size(
            rows in 0usize..260, inputs in 1usize..90, outputs in (1usize..90, 1usize..90), whole: bool, has_bias: bool,
            seed in 0u32..1000,
        ) {
            let count = outputs.0 + outputs.1;
            let columns = if whole { 0..count } else { outputs.0 / COLUMNS * COLUMNS..count };
            let (x, _) = matrix(seed, rows, inputs);
            let parts = [outputs.0, outputs.1].map(|count| matrix(seed + count as u32, count, inputs));
            let bias: Vec<f32> = (0..count).map(|n| value(seed, n)).collect();
            let weights = [parts[0].0.as_slice(), &parts[1].0].concat();
            for (dtype, tolerance) in
                [(CpuDtype::F32, 1e-5), (CpuDtype::Bf16, 8e-3), (CpuDtype::Int8, 8e-3), (CpuDtype::Int8Rows, 8e-3)]
            {
                let of_bias = |range: Range<usize>| has_bias.then(|| Tensor::new(&bias[range], &Device::Cpu).unwrap());
                let linear = Linear::new(
                    &[(parts[0].1.clone(), of_bias(0..outputs.0)), (parts[1].1.clone(), of_bias(outputs.0..count))],
                    dtype,
                );
                let linear = linear.unwrap();
                let (mut input, mut output) = (Input::default(), Vec::new());
                linear.prepare(rows, &mut input, |row, target| {
                    target.copy_from_slice(&x[row * inputs..][..inputs]);
                });
                let products = linear.multiply(columns.clone(), &input, &mut output);
                let mut made = vec![0.; columns.len()];
                let mut sums = vec![1.; rows * columns.len()];
                products.add_to(columns.len(), &mut sums);
                for row in 0..rows {
                    products.read(row, 0..columns.len(), &mut made);
                    for (place, column) in columns.clone().enumerate() {
                        let epilogue = x[row * inputs..][..inputs].iter().zip(&weights[column * inputs..]);
                        let exact = epilogue.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                            + if has_bias { f64::from(bias[column]) } else { 0. };
                        // Each term has its own rounding error; all may have the same sign.
                        let allowed = tolerance * (1. + inputs as f64);
                        prop_assert!((f64::from(made[place]) - exact).abs() < allowed, "{dtype:?} {row} {column}");
                        let sum = f64::from(sums[row * columns.len() + place]) - 1.;
                        prop_assert!((sum - exact).abs() < allowed, "{dtype:?} {row} {column}");
                    }
                }
            }
        }
    }
}
