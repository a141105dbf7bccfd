//! The device's peak rate: one large matrix product in the type that a model multiplies.

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};

use super::compute::find_device;
use super::cpu::{CpuDtype, LargeProduct};
use crate::runtime::LoadError;

/// Rows, inner width and columns: the MLP of a 0.6B model over 2,048 tokens.
const SIZES: (usize, usize, usize) = (2048, 1024, 3072);

/// Operations of one product.
const OPERATIONS: usize = 2 * SIZES.0 * SIZES.1 * SIZES.2;

/// Products of one measurement on a device. A single one takes tens of microseconds, less than its
/// launch and the wait for it.
const REPEATS: u32 = 2000;

/// A large matrix product, to compare with the rate that a model reaches.
pub enum Product {
    /// With the kernels of the CPU's layers.
    Cpu(Box<CpuProduct>),
    /// On another device, in bf16.
    Device {
        /// `[rows, inner]`
        left: Tensor,
        /// `[inner, columns]`
        right: Tensor,
    },
}

/// The CPU's product.
pub struct CpuProduct(LargeProduct);

impl Product {
    /// Prepares the product on `auto`, `cpu`, `cuda` or `metal`, and measures it once. `dtype` is
    /// the type that the model computes in on a CPU, as [`ModelFacts::dtype`] names it; any other
    /// type counts as f32.
    ///
    /// # Errors
    /// [`LoadError::Device`] for a device that is not there or fails.
    ///
    /// [`ModelFacts::dtype`]: crate::runtime::ModelFacts::dtype
    pub fn new(device: &str, dtype: &str) -> Result<Self, LoadError> {
        let device = find_device(device)?;
        let failed = |error: candle_core::Error| LoadError::Device(error.to_string());
        let mut product = if device.is_cpu() {
            let dtype = match dtype {
                "bf16" => CpuDtype::Bf16,
                "int8" => CpuDtype::Int8,
                _ => CpuDtype::F32,
            };
            Self::Cpu(Box::new(CpuProduct(LargeProduct::new(SIZES, dtype).map_err(failed)?)))
        } else {
            let random = |rows, columns| {
                let values: Vec<f32> = (0..rows * columns).map(|n| (n * 7919 % 1009) as f32 / 1009. - 0.5).collect();
                Tensor::from_vec(values, (rows, columns), &device)?.to_dtype(DType::BF16)
            };
            let (rows, inner, columns) = SIZES;
            // The right side as weights are kept: a row per output.
            let right = random(columns, inner).and_then(|weights| weights.t()).map_err(failed)?;
            Self::Device { left: random(rows, inner).map_err(failed)?, right }
        };
        product.run()?;
        Ok(product)
    }

    /// Measures the product: operations per second.
    ///
    /// # Errors
    /// [`LoadError::Device`] when the device fails.
    pub fn rate(&mut self) -> Result<f64, LoadError> {
        let (elapsed, repeats) = self.run()?;
        Ok(f64::from(repeats) * OPERATIONS as f64 / elapsed.as_secs_f64())
    }

    fn run(&mut self) -> Result<(Duration, u32), LoadError> {
        match self {
            Self::Cpu(product) => {
                let started = Instant::now();
                product.0.run();
                Ok((started.elapsed(), 1))
            }
            Self::Device { left, right } => {
                let failed = |error: candle_core::Error| LoadError::Device(error.to_string());
                let device = left.device().clone();
                device.synchronize().map_err(failed)?;
                let started = Instant::now();
                for _ in 0..REPEATS {
                    left.matmul(right).map_err(failed)?;
                }
                device.synchronize().map_err(failed)?;
                Ok((started.elapsed(), REPEATS))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_multiplies_in_every_type() {
        for dtype in ["f32", "bf16", "int8"] {
            let rate = Product::new("cpu", dtype).unwrap().rate().unwrap();
            // From a slow, busy core in a debug build to anything there is.
            assert!(rate > 1e7 && rate < 1e16, "{dtype}: {rate}");
        }
    }
}
