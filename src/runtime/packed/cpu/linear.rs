//! Matrix products with weights, in f32, bf16 or 8-bit integers.
//!
//! Rows come in as f32 and go out as f32; in between an [`Input`] holds them in the type that the product reads, and an
//! [`Output`] what it makes. The products are `gemmkit`'s, which has kernels for the dot-product instructions of AVX-512
//! (`vdpbf16ps`, `vpdpbusd`) and slower ways without them.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use gemmkit::{MatMut, MatRef};
use half::bf16;
use rayon::prelude::*;

use super::at_least;
use super::rows::{self, vectorised};

/// Rows that one task prepares or takes at a time.
const TASK_ROWS: usize = 16;

/// In which numbers products are computed. Sums are f32 or wider in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime::packed) enum Numbers {
    F32,
    /// Weights and rows are rounded to bf16, and so is what comes out.
    Bf16,
    /// Weights are integers with a scale per output, rows with a scale per row.
    Int8,
}

/// A linear layer: its weights with a row per output.
pub(super) struct Linear {
    weights: Weights,
    bias: Option<Vec<f32>>,
    inputs: usize,
}

enum Weights {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Int8 { values: Vec<i8>, scales: Vec<f32> },
}

/// Rows in the type that a product reads; memory is kept from one product to the next.
#[derive(Default)]
pub(super) struct Input {
    rows: usize,
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    int8: Vec<i8>,
    /// Of the rows in `int8`.
    scales: Vec<f32>,
}

/// What a product made; memory is kept from one product to the next.
#[derive(Default)]
pub(super) struct Output {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
    int32: Vec<i32>,
}

/// The rows of one product, to be read as f32.
pub(super) struct Products<'a> {
    made: Made<'a>,
    bias: Option<&'a [f32]>,
    width: usize,
}

enum Made<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    Int32 { sums: &'a [i32], row_scales: &'a [f32], column_scales: &'a [f32] },
}

impl Linear {
    /// From matrices of one width, `[outputs, inputs]` each, one below the other, and their biases if they have any.
    pub fn new(parts: &[(Tensor, Option<Tensor>)], numbers: Numbers) -> Result<Self> {
        let inputs = parts[0].0.dim(1)?;
        let bias: Result<Vec<Vec<f32>>> = parts
            .iter()
            .filter_map(|(_, bias)| bias.as_ref())
            .map(|bias| bias.to_dtype(DType::F32)?.to_vec1())
            .collect();
        let bias = bias?.concat();
        let mut weights = match numbers {
            Numbers::F32 => Weights::F32(Vec::new()),
            Numbers::Bf16 => Weights::Bf16(Vec::new()),
            Numbers::Int8 => {
                // By default it leaves VNNI to larger products than a small model's.
                gemmkit::tuning::set_i8_vnni_min_par_mnk(0);
                Weights::Int8 { values: Vec::new(), scales: Vec::new() }
            }
        };
        for (part, _) in parts {
            let flat = part.flatten_all()?;
            match &mut weights {
                Weights::F32(values) => values.extend(flat.to_dtype(DType::F32)?.to_vec1::<f32>()?),
                Weights::Bf16(values) => values.extend(flat.to_dtype(DType::BF16)?.to_vec1::<bf16>()?),
                Weights::Int8 { values, scales } => {
                    let wide: Vec<f32> = flat.to_dtype(DType::F32)?.to_vec1()?;
                    let start = values.len();
                    values.resize(start + wide.len(), 0);
                    let rows = wide.par_chunks(inputs).zip(values[start..].par_chunks_mut(inputs));
                    scales.extend(
                        rows.map(|(row, integers)| {
                            vectorised(
                                #[inline(always)]
                                || rows::quantise(row, integers),
                            )
                        })
                        .collect::<Vec<_>>(),
                    );
                }
            }
        }
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
                let target = at_least(&mut input.bf16, rows * width);
                let scratch = || vec![0f32; width];
                target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each_init(scratch, |wide, (task, target)| {
                    for (row, target) in target.chunks_exact_mut(width).enumerate() {
                        make(task * TASK_ROWS + row, wide);
                        vectorised(
                            #[inline(always)]
                            || rows::narrow(wide, target),
                        );
                    }
                });
            }
            Weights::Int8 { .. } => {
                let scales = at_least(&mut input.scales, rows);
                let target = at_least(&mut input.int8, rows * width);
                let tasks = target.par_chunks_mut(TASK_ROWS * width).zip(scales.par_chunks_mut(TASK_ROWS));
                let scratch = || vec![0f32; width];
                tasks.enumerate().for_each_init(scratch, |wide, (task, (target, scales))| {
                    for (row, (target, scale)) in target.chunks_exact_mut(width).zip(scales).enumerate() {
                        make(task * TASK_ROWS + row, wide);
                        *scale = vectorised(
                            #[inline(always)]
                            || rows::quantise(wide, target),
                        );
                    }
                });
            }
        }
    }

    /// The outputs in `columns` of all rows of `input`.
    pub fn multiply<'a>(&'a self, columns: Range<usize>, input: &'a Input, output: &'a mut Output) -> Products<'a> {
        let (rows, inner, width) = (input.rows, self.inputs, columns.len());
        let of_columns = columns.start * inner..columns.end * inner;
        let parallel = gemmkit::Parallelism::Rayon(rayon::current_num_threads());
        let made = match &self.weights {
            Weights::F32(weights) => {
                let target = at_least(&mut output.f32, rows * width);
                gemmkit::gemm(
                    1.,
                    MatRef::from_row_major(&input.f32[..rows * inner], rows, inner),
                    MatRef::from_col_major(&weights[of_columns], inner, width),
                    0.,
                    MatMut::from_row_major(target, rows, width),
                    parallel,
                );
                Made::F32(target)
            }
            Weights::Bf16(weights) => {
                let target = at_least(&mut output.bf16, rows * width);
                gemmkit::gemm(
                    bf16::ONE,
                    MatRef::from_row_major(&input.bf16[..rows * inner], rows, inner),
                    MatRef::from_col_major(&weights[of_columns], inner, width),
                    bf16::ZERO,
                    MatMut::from_row_major(target, rows, width),
                    parallel,
                );
                Made::Bf16(target)
            }
            Weights::Int8 { values, scales } => {
                let target = at_least(&mut output.int32, rows * width);
                gemmkit::gemm_i8(
                    1,
                    MatRef::from_row_major(&input.int8[..rows * inner], rows, inner),
                    MatRef::from_col_major(&values[of_columns], inner, width),
                    0,
                    MatMut::from_row_major(target, rows, width),
                    parallel,
                );
                Made::Int32 { sums: target, row_scales: &input.scales[..rows], column_scales: &scales[columns.clone()] }
            }
        };
        Products { made, bias: self.bias.as_ref().map(|bias| &bias[columns]), width }
    }
}

impl Input {
    pub fn bytes(&self) -> usize {
        (self.f32.len() + self.scales.len()) * 4 + self.bf16.len() * 2 + self.int8.len()
    }
}

impl Output {
    pub fn bytes(&self) -> usize {
        (self.f32.len() + self.int32.len()) * 4 + self.bf16.len() * 2
    }
}

impl Products<'_> {
    /// Writes the outputs in `columns` of a row to `target`. To be called where loops are vectorised.
    #[inline(always)]
    pub fn read(&self, row: usize, columns: Range<usize>, target: &mut [f32]) {
        let places = row * self.width + columns.start..row * self.width + columns.end;
        match &self.made {
            Made::F32(values) => target.copy_from_slice(&values[places]),
            Made::Bf16(values) => rows::widen(&values[places], target),
            Made::Int32 { sums, row_scales, column_scales } => {
                let scales = &column_scales[columns.clone()];
                rows::dequantise(&sums[places], row_scales[row], scales, target);
            }
        }
        if let Some(bias) = self.bias {
            rows::add(target, &bias[columns]);
        }
    }

    /// The outputs in `columns` of a row, in `scratch` if they are not there as f32. As [`Self::read`].
    #[inline(always)]
    pub fn row<'r>(&'r self, row: usize, columns: Range<usize>, scratch: &'r mut Vec<f32>) -> &'r [f32] {
        if let (Made::F32(values), None) = (&self.made, self.bias) {
            return &values[row * self.width + columns.start..row * self.width + columns.end];
        }
        scratch.resize(columns.len(), 0.);
        self.read(row, columns, scratch);
        scratch
    }

    /// Adds the product's rows to those of `target`.
    pub fn add_to(&self, target: &mut [f32]) {
        let width = self.width;
        target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each_init(Vec::new, |scratch, (task, target)| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, target) in target.chunks_exact_mut(width).enumerate() {
                        let made = self.row(task * TASK_ROWS + row, 0..width, scratch);
                        rows::add(target, made);
                    }
                },
            );
        });
    }
}
