//! Where a model runs and in which numbers: from what was asked for, what the checkpoint stores and what the machine has.

use candle_core::{DType, Device};
use mistralrs_quant::IsqType;

use super::cpu::Numbers;
use crate::runtime::{LoadError, ModelSettings};

/// Whether it was said already that there is no GPU.
#[cfg(feature = "cuda")]
static TOLD: std::sync::Once = std::sync::Once::new();

/// What a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arithmetic {
    /// `auto`, `cpu`, `cuda` or `metal`.
    pub device: String,
    /// `auto`, `f32` or `bf16`.
    pub dtype: String,
    /// `none`, or one of [`ModelSettings::QUANTISED`].
    pub quantize: String,
}

/// What a processor has instructions for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fast {
    pub bf16: bool,
    /// 8-bit integers.
    pub int8: bool,
}

/// What that comes to for one checkpoint on one machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numerics {
    /// Of embeddings, and of weights that are not quantised.
    pub dtype: DType,
    pub products: Products,
}

/// Who multiplies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Products {
    /// The layers written for CPUs.
    Cpu(Numbers),
    /// mistral.rs's linear layers, quantised by it or not.
    Device(Option<IsqType>),
}

impl Arithmetic {
    /// What `settings` say.
    #[must_use]
    pub fn of(settings: &ModelSettings) -> Self {
        Self { device: settings.device.clone(), dtype: settings.dtype.clone(), quantize: settings.quantize.clone() }
    }

    /// Everything in f32 on a CPU: the reference.
    #[must_use]
    pub fn reference() -> Self {
        Self { device: "cpu".to_owned(), dtype: "f32".to_owned(), quantize: "none".to_owned() }
    }

    pub(super) fn device(&self) -> Result<Device, LoadError> {
        choose_device(&self.device)
    }

    /// `stored` is the type of the checkpoint's matrices, U8 for integers of 8 bits; `fast` what the processor has, if it is that which
    /// multiplies; `written_out` whether the layers for CPUs know this decoder.
    pub(super) fn resolve(
        &self,
        device: &Device,
        stored: DType,
        fast: Fast,
        written_out: bool,
    ) -> Result<Numerics, LoadError> {
        let refuse = |problem: String| Err(LoadError::Device(problem));
        let on_cpu = device.is_cpu();
        let dtype = match (self.dtype.as_str(), on_cpu) {
            ("bf16", _) | ("auto", false) => DType::BF16,
            ("auto", true) if stored == DType::BF16 && fast.bf16 => DType::BF16,
            ("f32", _) | ("auto", true) => DType::F32,
            (other, _) => return refuse(format!("model.dtype `{other}` is none of auto, f32, bf16")),
        };
        if self.quantize == "int8" && !(on_cpu && written_out) {
            return refuse("model.quantize `int8` is for CPUs; q8_0 is its like on other devices".to_owned());
        }
        let products = match (self.quantize.as_str(), dtype) {
            ("int8", _) => Products::Cpu(Numbers::Int8),
            // The weights are such integers already.
            ("none", _) if self.dtype == "auto" && stored == DType::U8 && fast.int8 && on_cpu && written_out => {
                Products::Cpu(Numbers::Int8)
            }
            ("none", DType::BF16) if on_cpu && written_out => Products::Cpu(Numbers::Bf16),
            ("none", _) if on_cpu && written_out => Products::Cpu(Numbers::F32),
            ("none", _) => Products::Device(None),
            (name, _) => {
                let Some(isq) = isq_type(name) else {
                    let known = ModelSettings::QUANTISED.join(", ");
                    return refuse(format!("model.quantize `{name}` is none of {known}"));
                };
                Products::Device(Some(isq))
            }
        };
        // mistral.rs's quantised layers take f32 on a CPU, and candle multiplies no bf16 there.
        let dtype = if on_cpu && matches!(products, Products::Device(_)) { DType::F32 } else { dtype };
        Ok(Numerics { dtype, products })
    }
}

impl Numerics {
    /// The name that people read.
    pub fn name(self) -> String {
        match self.products {
            Products::Cpu(Numbers::Int8) => "int8".to_owned(),
            Products::Device(Some(isq)) => format!("{isq:?}").to_lowercase(),
            Products::Cpu(Numbers::F32 | Numbers::Bf16) | Products::Device(None) => self.dtype.as_str().to_owned(),
        }
    }

    /// Of a weight in a linear layer, its share of scales included, rounded up.
    pub fn bits_per_weight(self) -> u64 {
        match self.products {
            Products::Cpu(Numbers::F32) => 32,
            Products::Cpu(Numbers::Bf16) => 16,
            Products::Cpu(Numbers::Int8) => 9,
            Products::Device(None) => 8 * self.dtype.size_in_bytes() as u64,
            // mistral.rs knows what its packed forms weigh: the share of an f32 that remains.
            Products::Device(Some(isq)) => 32_u64.div_ceil(isq.pack_factor(DType::F32).max(1) as u64),
        }
    }

    /// Of the rotary tables.
    pub fn table_type(self) -> DType {
        match self.products {
            Products::Cpu(_) => DType::F32,
            Products::Device(_) => self.dtype,
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

pub(super) fn choose_device(name: &str) -> Result<Device, LoadError> {
    match name {
        "cpu" => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        "auto" => Ok(super::cuda::device()?.unwrap_or_else(|| {
            TOLD.call_once(|| tracing::warn!("the driver shows no GPU: models run on the CPU"));
            Device::Cpu
        })),
        #[cfg(feature = "cuda")]
        "cuda" => super::cuda::device()?.ok_or_else(|| LoadError::Device("the driver shows no CUDA GPU".to_owned())),
        #[cfg(not(feature = "cuda"))]
        "cuda" => Err(LoadError::Device(
            "this podium was built without CUDA: build it with `--features cuda,flash-attn`, or use the CUDA image"
                .to_owned(),
        )),
        #[cfg(not(feature = "cuda"))]
        "auto" => mistralrs::best_device(false).map_err(|error| LoadError::Device(error.to_string())),
        #[cfg(feature = "metal")]
        "metal" => Device::new_metal(0).map_err(|error| LoadError::Device(error.to_string())),
        #[cfg(not(feature = "metal"))]
        "metal" => {
            Err(LoadError::Device("this podium was built without Metal: build it with `--features metal`".to_owned()))
        }
        other => Err(LoadError::Device(format!("`{other}` is none of auto, cpu, cuda, metal"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(dtype: &str, quantize: &str, stored: DType, fast: bool) -> Result<String, String> {
        let asked = Arithmetic { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..Arithmetic::reference() };
        let numerics = asked.resolve(&Device::Cpu, stored, Fast { bf16: fast, int8: fast }, true);
        numerics.map(Numerics::name).map_err(|error| error.to_string())
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
        let elsewhere = Arithmetic { quantize: "int8".to_owned(), ..Arithmetic::reference() };
        let refused = elsewhere
            .resolve(&Device::Cpu, DType::F32, Fast { bf16: true, int8: true }, false)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("is for CPUs"), "{refused}");
    }

    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    #[test]
    fn a_device_that_was_not_built_in_is_refused_with_what_helps() {
        let refused = |name| choose_device(name).unwrap_err().to_string();
        assert_eq!(
            refused("cuda"),
            "device: this podium was built without CUDA: build it with `--features cuda,flash-attn`, or use the CUDA image"
        );
        assert!(refused("metal").contains("built without Metal"));
        assert!(refused("tpu").contains("`tpu` is none of auto, cpu, cuda, metal"));
        assert!(choose_device("auto").unwrap().is_cpu());
    }

    #[test]
    fn every_name_of_a_quantised_form_is_one() {
        for name in ModelSettings::QUANTISED {
            assert!(resolved("auto", name, DType::F32, true).is_ok(), "{name}");
        }
    }
}
