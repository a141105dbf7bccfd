//! The device's peak rate: one large matrix product.

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};

use super::compute::find_device;
use crate::runtime::LoadError;

/// Rows, inner width and columns: the MLP of a 0.6B model over 2,048 tokens.
const SIZES: (usize, usize, usize) = (2048, 1024, 3072);

/// Operations of one product.
const OPERATIONS: usize = 2 * SIZES.0 * SIZES.1 * SIZES.2;

/// Products of one measurement on a device. One takes tens of microseconds there, less than launching and waiting for it.
const REPEATS: u32 = 2000;

/// A large matrix product in the type of the weights, to compare with the rate that a model reaches.
pub struct Product {
    left: Tensor,
    right: Tensor,
    repeats: u32,
}

impl Product {
    /// Prepares the product on `auto`, `cpu`, `cuda` or `metal`, and measures it once.
    ///
    /// # Errors
    /// [`LoadError::Device`] for a device that is not there or fails.
    pub fn new(device: &str) -> Result<Self, LoadError> {
        let device = find_device(device)?;
        let dtype = if device.is_cpu() { DType::F32 } else { DType::BF16 };
        let random = |rows, columns| {
            let values: Vec<f32> = (0..rows * columns).map(|n| (n * 7919 % 1009) as f32 / 1009. - 0.5).collect();
            Tensor::from_vec(values, (rows, columns), &device)?.to_dtype(dtype)
        };
        let failed = |error: candle_core::Error| LoadError::Device(error.to_string());
        let (rows, inner, columns) = SIZES;
        // The right side as weights are kept: a row per output.
        let right = random(columns, inner).and_then(|weights| weights.t()).map_err(failed)?;
        let repeats = if device.is_cpu() { 1 } else { REPEATS };
        let product = Self { left: random(rows, inner).map_err(failed)?, right, repeats };
        product.run()?;
        Ok(product)
    }

    /// Measures the product: operations per second.
    ///
    /// # Errors
    /// [`LoadError::Device`] when the device fails.
    pub fn rate(&self) -> Result<f64, LoadError> {
        let elapsed = self.run()?;
        Ok(f64::from(self.repeats) * OPERATIONS as f64 / elapsed.as_secs_f64())
    }

    fn run(&self) -> Result<Duration, LoadError> {
        let failed = |error: candle_core::Error| LoadError::Device(error.to_string());
        let device = self.left.device();
        device.synchronize().map_err(failed)?;
        let started = Instant::now();
        for _ in 0..self.repeats {
            self.left.matmul(&self.right).map_err(failed)?;
        }
        device.synchronize().map_err(failed)?;
        Ok(started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_multiplies() {
        let rate = Product::new("cpu").unwrap().rate().unwrap();
        // From a slow, busy core in a debug build to anything there is.
        assert!(rate > 1e7 && rate < 1e16, "{rate}");
    }
}
