//! A large matrix product with the layers' kernels: how fast this processor computes in a type.

use candle_core::{Device, Result, Tensor};

use super::linear::{CpuDtype, Input, Linear};

/// A linear layer and prepared rows for it.
pub(in crate::runtime::packed) struct LargeProduct {
    linear: Linear,
    input: Input,
    output: Vec<f32>,
    columns: usize,
}

impl LargeProduct {
    /// Prepares a product of `[rows, inner]` and `[inner, columns]`.
    pub fn new((rows, inner, columns): (usize, usize, usize), dtype: CpuDtype) -> Result<Self> {
        let number = |place: usize| (place * 7919 % 1009) as f32 / 1009.0 - 0.5;
        let weights: Vec<f32> = (0..columns * inner).map(number).collect();
        let linear = Linear::new(&[(Tensor::from_vec(weights, (columns, inner), &Device::Cpu)?, None)], dtype)?;
        let mut input = Input::default();
        linear.prepare(rows, &mut input, |row, target| {
            target.iter_mut().enumerate().for_each(|(place, value)| *value = number(row * inner + place));
        });
        Ok(Self { linear, input, output: Vec::new(), columns })
    }

    /// Multiplies once.
    pub fn run(&mut self) {
        std::hint::black_box(self.linear.multiply(0..self.columns, &self.input, &mut self.output));
    }
}
