//! The device's reference speed: the rate of a large matrix product. The report compares a model's
//! operations per second with it.

use crate::runtime::LoadError;
use crate::runtime::packed::Product;

/// Number of products for one sample; the fastest counts.
const TRIES: usize = 3;

/// Measures a device's product rate.
pub struct Machine {
    product: Product,
    rates: Vec<f64>,
}

impl Machine {
    /// Prepares the product on a device: `auto`, `cpu`, `cuda` or `metal`.
    ///
    /// # Errors
    /// [`LoadError::Device`] if the device is not available or fails.
    pub fn new(device: &str) -> Result<Self, LoadError> {
        Ok(Self { product: Product::new(device)?, rates: Vec::new() })
    }

    /// Measures one sample.
    ///
    /// # Errors
    /// [`LoadError::Device`] if the device fails.
    pub fn sample(&mut self) -> Result<(), LoadError> {
        let mut best = 0.0_f64;
        for _ in 0..TRIES {
            best = best.max(self.product.rate()?);
        }
        self.rates.push(best);
        Ok(())
    }

    /// All samples, in operations per second.
    #[must_use]
    pub fn rates(&self) -> &[f64] {
        &self.rates
    }

    /// The fastest sample: other load can only slow a machine down.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rates.iter().copied().reduce(f64::max)
    }
}
