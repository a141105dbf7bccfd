//! A checkpoint's weight files, mapped or embedded, and checks of their tensors.
//!
//! Tensors may be stored as f32, f16 or bf16, or as 8-bit integers with a scale per row
//! (`X` as I8 `[rows, columns]` beside `X.scale` as F32 `[rows]`), which are widened when read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::runtime::LoadError;
use crate::runtime::checkpoint::{self, Checkpoint, Weights};
use crate::runtime::spec::ModelSpec;
use crate::runtime::tensors::{TensorSlice, TensorTable, is_ignored};

/// Suffix of the name of an 8-bit tensor's scales.
const SCALE: &str = ".scale";

/// The tensors of a checkpoint, by name.
pub(in crate::runtime) struct WeightFiles {
    files: Vec<WeightFile>,
}

struct WeightFile {
    path: PathBuf,
    /// What the names of its tensors begin with here: `2_Dense/` for the file of a module.
    prefix: String,
    tensors: Source,
}

enum Source {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
}

impl WeightFile {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensors.get(name.strip_prefix(self.prefix.as_str())?)
    }

    fn all(&self) -> impl Iterator<Item = (String, TensorView<'_>)> {
        let tensors = self.tensors.all().into_iter();
        tensors.map(|(name, view)| (format!("{}{name}", self.prefix), view))
    }
}

impl Source {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        match self {
            Self::Mapped(tensors) => tensors.get(name).ok(),
            Self::Embedded(tensors) => tensors.get(name).ok(),
        }
    }

    fn all(&self) -> Vec<(String, TensorView<'_>)> {
        match self {
            Self::Mapped(tensors) => tensors.tensors(),
            Self::Embedded(tensors) => tensors.tensors(),
        }
    }
}

/// Opens a checkpoint's weights; reads headers only.
pub(in crate::runtime) fn open(checkpoint: &Checkpoint) -> Result<WeightFiles, LoadError> {
    let files = match &checkpoint.weights {
        Weights::Embedded(bytes) => {
            let path = checkpoint.location.join("model.safetensors");
            let tensors = SliceSafetensors::new(bytes)
                .map_err(|error| LoadError::Malformed { path: path.clone(), problem: error.to_string() })?;
            vec![WeightFile { path, prefix: String::new(), tensors: Source::Embedded(tensors) }]
        }
        Weights::Files(paths) => {
            let trunk = paths.iter().map(|path| map(path, String::new()));
            let modules = checkpoint
                .modules
                .iter()
                .filter_map(|module| Some(map(module.weights.as_ref()?, format!("{}/", module.folder))));
            trunk.chain(modules).collect::<Result<_, _>>()?
        }
    };
    Ok(WeightFiles { files })
}

fn map(path: &Path, prefix: String) -> Result<WeightFile, LoadError> {
    let length = std::fs::metadata(path).map_err(|source| LoadError::File { path: path.to_path_buf(), source })?.len();
    if let Some(problem) = checkpoint::lfs_pointer(path, length) {
        return Err(LoadError::Malformed { path: path.to_path_buf(), problem });
    }
    // SAFETY: a mapped file must not shrink or change while it is mapped. Checkpoints are written once, by a download that
    // renames into place; the documentation warns against editing one under a running server.
    let tensors = unsafe { MmapedSafetensors::new(path) }.map_err(|error| LoadError::Malformed {
        path: path.to_path_buf(),
        problem: format!("not a complete safetensors file of {length} bytes: {error}"),
    })?;
    Ok(WeightFile { path: path.to_path_buf(), prefix, tensors: Source::Mapped(tensors) })
}

impl WeightFiles {
    fn find(&self, name: &str) -> Option<(&WeightFile, TensorView<'_>)> {
        self.files.iter().find_map(|file| Some((file, file.get(name)?)))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(name).map(|(_, view)| view.shape().to_vec())
    }

    /// Elements of all tensors, scales of 8-bit rows apart.
    pub fn parameters(&self) -> usize {
        let tensors = self.files.iter().flat_map(WeightFile::all);
        tensors
            .filter(|(name, _)| name.strip_suffix(SCALE).is_none())
            .map(|(_, view)| view.shape().iter().product::<usize>())
            .sum()
    }

    /// The type of the largest tensor, U8 for integers of 8 bits; f32 where it is none that is computed in.
    pub fn stored(&self) -> DType {
        let tensors = self.files.iter().flat_map(WeightFile::all);
        let largest = tensors.max_by_key(|(_, view)| view.shape().iter().product::<usize>());
        match largest.map(|(_, view)| view.dtype()) {
            Some(Dtype::BF16) => DType::BF16,
            Some(Dtype::F16) => DType::F16,
            Some(Dtype::I8) => DType::U8,
            _ => DType::F32,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "safetensors' types are many and not ours; all others are refused"
    )]
    /// Checks that a tensor is there, has this shape, a type that can be read, and finite values.
    pub fn check(&self, name: &str, expected: &[usize]) -> Result<(), LoadError> {
        let Some((file, view)) = self.find(name) else {
            return Err(LoadError::MissingTensor {
                path: self.files.first().map(|file| file.path.clone()).unwrap_or_default(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
            });
        };
        if view.shape() != expected {
            return Err(LoadError::WrongShape {
                path: file.path.clone(),
                tensor: name.to_owned(),
                found: view.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        let non_finite = match view.dtype() {
            Dtype::F32 => find_non_finite::<4>(view.data(), f32::from_le_bytes),
            Dtype::F16 => find_non_finite::<2>(view.data(), |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => find_non_finite::<2>(view.data(), |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Dtype::I8 if expected.len() == 2 => return self.check(&scale_name(name), &expected[..1]),
            other => {
                return Err(LoadError::Malformed {
                    path: file.path.clone(),
                    problem: format!(
                        "tensor `{name}` has type {other:?}; readable are F32, F16, BF16, and I8 with a scale per row"
                    ),
                });
            }
        };
        match non_finite {
            Some((element, value)) => {
                Err(LoadError::NonFiniteWeight { path: file.path.clone(), tensor: name.to_owned(), value, element })
            }
            None => Ok(()),
        }
    }

    /// Checks that every tensor of the table is there and right, and that no other one is part of a model that the table is
    /// not.
    pub fn check_all(&self, table: &TensorTable, spec: &ModelSpec) -> Result<(), LoadError> {
        let tensors = table.all();
        for (name, shape) in &tensors {
            self.check(name, shape)?;
        }
        let names: BTreeSet<&str> = tensors.iter().map(|(name, _)| *name).collect();
        for file in &self.files {
            for (name, _) in file.all() {
                let base = name.strip_suffix(SCALE).unwrap_or(&name);
                if !names.contains(base) && !is_ignored(base, spec) {
                    return Err(LoadError::UnreadTensor {
                        path: file.path.clone(),
                        tensor: name,
                        architecture: spec.architecture.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// A tensor's rows on a device, in `dtype` or as they are stored (8-bit integers in f32).
    pub fn load_slice(&self, slice: &TensorSlice, dtype: Option<DType>, device: &Device) -> CandleResult<Tensor> {
        let whole = self.load(&slice.name)?;
        let rows = if slice.rows == (0..slice.shape[0]) {
            whole
        } else {
            whole.narrow(0, slice.rows.start, slice.rows.len())?
        };
        // Converting on the CPU first halves what is sent to a device.
        let rows = dtype.map_or_else(|| Ok(rows.clone()), |dtype| rows.to_dtype(dtype))?;
        rows.contiguous()?.to_device(device)
    }

    fn load(&self, name: &str) -> CandleResult<Tensor> {
        let Some((_, view)) = self.find(name) else {
            return Err(candle_core::Error::CannotFindTensor { path: name.to_owned() });
        };
        if view.dtype() != Dtype::I8 {
            return view.load(&Device::Cpu);
        }
        let scale = self.load(&scale_name(name))?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let columns = view.data().len() / scale.len();
        let wide: Vec<f32> = view
            .data()
            .par_chunks(columns)
            .zip(&scale)
            .flat_map_iter(|(row, scale)| row.iter().map(move |&byte| f32::from(byte.cast_signed()) * scale))
            .collect();
        Tensor::from_vec(wide, view.shape(), &Device::Cpu)
    }
}

fn scale_name(name: &str) -> String {
    format!("{name}{SCALE}")
}

fn find_non_finite<const WIDTH: usize>(data: &[u8], widen: impl Fn([u8; WIDTH]) -> f32 + Sync) -> Option<(usize, f32)> {
    const PART: usize = 1 << 16;
    let (elements, _) = data.as_chunks::<WIDTH>();
    elements.par_chunks(PART).enumerate().find_map_first(|(part, elements)| {
        elements.iter().enumerate().find_map(|(place, &bytes)| {
            let value = widen(bytes);
            (!value.is_finite()).then_some((part * PART + place, value))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_non_finite_value_is_found() {
        let mut values = vec![1f32; 200_000];
        values[150_000] = f32::INFINITY;
        values[199_999] = f32::NAN;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(find_non_finite::<4>(&bytes, f32::from_le_bytes), Some((150_000, f32::INFINITY)));
        assert_eq!(find_non_finite::<4>(&bytes[..400_000], f32::from_le_bytes), None);
    }
}
