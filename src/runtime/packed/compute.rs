//! Where a model runs and in which precision: from the settings, the type of the stored weights and
//! the machine.

use candle_core::{DType, Device};
use mistralrs_quant::IsqType;

use super::cpu::CpuDtype;
use crate::runtime::{LoadError, ModelSettings};

/// The warning that there is no GPU is logged once.
#[cfg(feature = "cuda")]
static REPORT_ONCE: std::sync::Once = std::sync::Once::new();

/// Device and precision as a configuration asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeSettings {
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
    pub device: String,
    /// `auto`, `f32` or `bf16`.
    pub dtype: String,
    /// `none`, or one of [`ModelSettings::QUANTISED`].
    pub quantize: String,
}

/// The types that the processor multiplies faster than f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuFeatures {
    pub bf16: bool,
    /// 8-bit integers.
    pub int8: bool,
}

/// Precision and backend for one checkpoint on one machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Precision {
    /// The type of embeddings, and of weights that are not quantised.
    pub dtype: DType,
    pub backend: Backend,
}

/// Which layers multiply.
#[derive(Debug, Clone, Copy)]
pub(super) enum Backend {
    /// [`super::cpu`].
    Cpu(CpuDtype),
    /// [`super::candle_layers`], with linear layers that mistral.rs quantises or not.
    Candle(Option<IsqType>),
}

impl ComputeSettings {
    /// The settings of a model.
    #[must_use]
    pub fn of(settings: &ModelSettings) -> Self {
        Self { device: settings.device.clone(), dtype: settings.dtype.clone(), quantize: settings.quantize.clone() }
    }

    /// f32 on a CPU: the reference.
    #[must_use]
    pub fn reference() -> Self {
        Self { device: "cpu".to_owned(), dtype: "f32".to_owned(), quantize: "none".to_owned() }
    }

    pub(super) fn device(&self) -> Result<Device, LoadError> {
        find_device(&self.device)
    }

    /// Resolves `auto`. `stored` is the type of the checkpoint's matrices, U8 for 8-bit integers;
    /// `has_cpu_kernels` whether [`super::cpu`] can run the model.
    ///
    /// # Errors
    /// [`LoadError::Device`] for settings that are unknown or do not fit the device or the model.
    pub(super) fn resolve(
        &self,
        device: &Device,
        stored: DType,
        cpu_features: CpuFeatures,
        has_cpu_kernels: bool,
    ) -> Result<Precision, LoadError> {
        let refuse = |problem: String| Err(LoadError::Device(problem));
        let on_cpu = device.is_cpu();
        let dtype = match (self.dtype.as_str(), on_cpu) {
            ("bf16", _) | ("auto", false) => DType::BF16,
            ("auto", true) if stored == DType::BF16 && cpu_features.bf16 => DType::BF16,
            ("f32", _) | ("auto", true) => DType::F32,
            (other, _) => return refuse(format!("model.dtype `{other}` is none of auto, f32, bf16")),
        };
        if self.quantize == "int8" && !(on_cpu && has_cpu_kernels) {
            return refuse("model.quantize `int8` is for CPUs; use q8_0 on other devices".to_owned());
        }
        let backend = match (self.quantize.as_str(), dtype) {
            ("int8", _) => Backend::Cpu(CpuDtype::Int8),
            // The weights are such integers already.
            ("none", _)
                if self.dtype == "auto" && stored == DType::U8 && cpu_features.int8 && on_cpu && has_cpu_kernels =>
            {
                Backend::Cpu(CpuDtype::Int8)
            }
            ("none", DType::BF16) if on_cpu && has_cpu_kernels => Backend::Cpu(CpuDtype::Bf16),
            ("none", _) if on_cpu && has_cpu_kernels => Backend::Cpu(CpuDtype::F32),
            ("none", _) => Backend::Candle(None),
            (name, _) => {
                let Some(isq) = isq_type(name) else {
                    let known = ModelSettings::QUANTISED.join(", ");
                    return refuse(format!("model.quantize `{name}` is none of {known}"));
                };
                Backend::Candle(Some(isq))
            }
        };
        // mistral.rs's quantised layers take f32 on a CPU, and candle multiplies no bf16 there.
        let dtype = if on_cpu && matches!(backend, Backend::Candle(_)) { DType::F32 } else { dtype };
        Ok(Precision { dtype, backend })
    }
}

impl Precision {
    /// The name in logs and in `ModelFacts`.
    pub fn name(self) -> String {
        match self.backend {
            Backend::Cpu(CpuDtype::Int8 | CpuDtype::Int8Rows) => "int8".to_owned(),
            Backend::Candle(Some(isq)) => format!("{isq:?}").to_lowercase(),
            Backend::Cpu(CpuDtype::F32 | CpuDtype::Bf16) | Backend::Candle(None) => self.dtype.as_str().to_owned(),
        }
    }

    /// [`CpuDtype::instructions`]; `None` where other code than ours multiplies.
    pub fn cpu_instructions(self) -> Option<&'static str> {
        match self.backend {
            Backend::Cpu(dtype) => Some(dtype.instructions()),
            Backend::Candle(_) => None,
        }
    }

    /// Bits of a weight in a linear layer, its share of scales included, rounded up.
    pub fn bits_per_weight(self) -> u64 {
        match self.backend {
            Backend::Cpu(CpuDtype::F32) => 32,
            Backend::Cpu(CpuDtype::Bf16) => 16,
            Backend::Cpu(CpuDtype::Int8) => 10,
            Backend::Cpu(CpuDtype::Int8Rows) => 9,
            Backend::Candle(None) => 8 * self.dtype.size_in_bytes() as u64,
            // `pack_factor` is the fraction of an f32 that remains.
            Backend::Candle(Some(isq)) => 32_u64.div_ceil(isq.pack_factor(DType::F32).max(1) as u64),
        }
    }
}

fn isq_type(name: &str) -> Option<IsqType> {
    Some(match name {
        "q8_0" => IsqType::Q8_0,
        "q6k" => IsqType::Q6K,
        "q5k" => IsqType::Q5K,
        "q4k" => IsqType::Q4K,
        "q3k" => IsqType::Q3K,
        "q2k" => IsqType::Q2K,
        "q5_0" => IsqType::Q5_0,
        "q4_0" => IsqType::Q4_0,
        "fp8" => IsqType::F8E4M3,
        "hqq8" => IsqType::HQQ8,
        "hqq4" => IsqType::HQQ4,
        _ => return None,
    })
}

/// The device with this name.
///
/// # Errors [`LoadError::Device`] for an unknown name, and for a device that this build or this
/// machine does not have.
pub(super) fn find_device(name: &str) -> Result<Device, LoadError> {
    if let Some(number) = ModelSettings::gpu_number(name) {
        return gpu(number);
    }
    match name {
        "cpu" => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        "auto" => Ok(super::cuda::device(0)?.unwrap_or_else(|| {
            REPORT_ONCE.call_once(|| tracing::warn!("the driver shows no GPU: models run on the CPU"));
            Device::Cpu
        })),
        "cuda" => gpu(0),
        #[cfg(not(feature = "cuda"))]
        "auto" => mistralrs::best_device(false).map_err(|error| LoadError::Device(error.to_string())),
        #[cfg(feature = "metal")]
        "metal" => Device::new_metal(0).map_err(|error| LoadError::Device(error.to_string())),
        #[cfg(not(feature = "metal"))]
        "metal" => {
            Err(LoadError::Device("this podium was built without Metal: build it with `--features metal`".to_owned()))
        }
        other => Err(LoadError::Device(format!("`{other}` is none of auto, cpu, cuda, cuda:N, metal"))),
    }
}

/// The GPU with this number.
#[cfg(feature = "cuda")]
fn gpu(number: usize) -> Result<Device, LoadError> {
    super::cuda::device(number)?.ok_or_else(|| LoadError::Device("the driver shows no CUDA GPU".to_owned()))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Device, LoadError> {
    Err(LoadError::Device(
        "this podium was built without CUDA: build it with `--features cuda,flash-attn`, or use the CUDA image"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(dtype: &str, quantize: &str, stored: DType, cpu_features: bool) -> Result<String, String> {
        let asked =
            ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() };
        let precision =
            asked.resolve(&Device::Cpu, stored, CpuFeatures { bf16: cpu_features, int8: cpu_features }, true);
        precision.map(Precision::name).map_err(|error| error.to_string())
    }

    #[test]
    fn a_processor_multiplies_what_the_checkpoint_stores_if_it_is_fast_at_that() {
        assert_eq!(resolved("auto", "none", DType::U8, true).unwrap(), "int8");
        assert_eq!(resolved("auto", "none", DType::U8, false).unwrap(), "f32");
        assert_eq!(resolved("f32", "none", DType::U8, true).unwrap(), "f32");
        assert_eq!(resolved("bf16", "none", DType::U8, true).unwrap(), "bf16");
        assert_eq!(resolved("auto", "none", DType::BF16, true).unwrap(), "bf16");
        assert_eq!(resolved("auto", "none", DType::BF16, false).unwrap(), "f32");
        assert_eq!(resolved("auto", "none", DType::F16, true).unwrap(), "f32");
        assert_eq!(resolved("f32", "none", DType::BF16, true).unwrap(), "f32");
        assert_eq!(resolved("auto", "int8", DType::BF16, true).unwrap(), "int8");
        assert_eq!(resolved("bf16", "q4k", DType::BF16, true).unwrap(), "q4k");
    }

    #[test]
    fn what_is_not_known_is_named_with_what_would_be() {
        assert!(resolved("f64", "none", DType::F32, true).unwrap_err().contains("`f64` is none of auto, f32, bf16"));
        assert!(resolved("auto", "q9", DType::F32, true).unwrap_err().contains("`q9` is none of none, int8, q8_0"));
        let elsewhere = ComputeSettings { quantize: "int8".to_owned(), ..ComputeSettings::reference() };
        let refused = elsewhere
            .resolve(&Device::Cpu, DType::F32, CpuFeatures { bf16: true, int8: true }, false)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("is for CPUs"), "{refused}");
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused_with_what_helps() {
        let refused = |name| find_device(name).unwrap_err().to_string();
        assert_eq!(
            refused("cuda"),
            "device: this podium was built without CUDA: build it with `--features cuda,flash-attn`, or use the CUDA image"
        );
        assert_eq!(refused("cuda:1"), refused("cuda"));
        assert!(refused("metal").contains("built without Metal"));
        assert!(refused("tpu").contains("`tpu` is none of auto, cpu, cuda, cuda:N, metal"));
        assert!(find_device("auto").unwrap().is_cpu());
    }

    #[test]
    fn every_name_of_a_quantised_form_is_one() {
        for name in ModelSettings::QUANTISED {
            assert!(resolved("auto", name, DType::F32, true).is_ok(), "{name}");
        }
    }
}
