//! The machine: what it is, and its reference speed, the rate of a large matrix product. The report
//! compares a model's operations per second with it.

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
    /// Prepares the product on a device (`auto`, `cpu`, `cuda` or `metal`), on a CPU in the type
    /// that the model computes in.
    ///
    /// # Errors
    /// [`LoadError::Device`] if the device is not available or fails.
    pub fn new(device: &str, dtype: &str) -> Result<Self, LoadError> {
        Ok(Self { product: Product::new(device, dtype)?, rates: Vec::new() })
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

/// The processor's name; `None` where the system does not tell it.
#[must_use]
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().to_owned())
}

/// The instruction sets that this processor has, of those that the kernels use.
#[must_use]
pub fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
        ("avxvnni", std::arch::is_x86_feature_detected!("avxvnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&'static str, bool); 0] = [];
    found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

/// The version of NVIDIA's driver; `None` without one.
#[must_use]
pub fn gpu_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.lines().next().map(|line| line.trim_start_matches("NVRM version:").trim().to_owned())
}
