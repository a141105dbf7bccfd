//! What a model's figures are held against: a large matrix product on the same device.

use crate::runtime::LoadError;
use crate::runtime::packed::Product;

/// Products of one sample; the fastest counts.
const TRIES: usize = 3;

/// Samples of a device's product rate.
pub struct Machine {
    product: Product,
    rates: Vec<f64>,
}

impl Machine {
    /// Prepares the product on a device: `auto`, `cpu`, `cuda` or `metal`.
    ///
    /// # Errors
    /// [`LoadError::Device`] for a device that is not there or fails.
    pub fn new(device: &str) -> Result<Self, LoadError> {
        Ok(Self { product: Product::new(device)?, rates: Vec::new() })
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// [`LoadError::Device`] when the device fails.
    pub fn sample(&mut self) -> Result<(), LoadError> {
        let mut best = 0.0_f64;
        for _ in 0..TRIES {
            best = best.max(self.product.rate()?);
        }
        self.rates.push(best);
        Ok(())
    }

    /// The samples, in operations per second.
    #[must_use]
    pub fn rates(&self) -> &[f64] {
        &self.rates
    }

    /// The fastest sample, because nothing makes a machine faster than it is.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rates.iter().copied().reduce(f64::max)
    }
}
