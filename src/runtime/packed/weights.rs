//! A checkpoint's weight files, mapped or embedded, and checks of their tensors.
//!
//! Tensors may be stored as f32, f16 or bf16, as 8-bit integers with a scale per row
//! (`X` as I8 `[rows, columns]` beside `X.scale` as F32 `[rows]`), or as the blocks of a GGUF file.
//! Integers and blocks are widened to f32 when read.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::safetensors::{Load, MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::runtime::LoadError;
use crate::runtime::checkpoint::{self, Checkpoint, Weights};
use crate::runtime::gguf::{GgufFile, GgufTensor};
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
    /// Prefix of its tensors' names here: `2_Dense/` for the file of a module.
    prefix: String,
    tensors: Source,
}

enum Source {
    Mapped(MmapedSafetensors),
    Embedded(SliceSafetensors<'static>),
    Gguf(Arc<GgufFile>),
}

/// A tensor as a file stores it.
enum Stored<'a> {
    Safetensors(TensorView<'a>),
    Gguf(&'a GgufTensor, &'a GgufFile),
}

impl WeightFile {
    fn get(&self, name: &str) -> Option<Stored<'_>> {
        self.tensors.get(name.strip_prefix(self.prefix.as_str())?)
    }

    fn all(&self) -> impl Iterator<Item = (String, Stored<'_>)> {
        let tensors = self.tensors.all().into_iter();
        tensors.map(|(name, stored)| (format!("{}{name}", self.prefix), stored))
    }
}

impl Source {
    fn get(&self, name: &str) -> Option<Stored<'_>> {
        match self {
            Self::Mapped(tensors) => tensors.get(name).ok().map(Stored::Safetensors),
            Self::Embedded(tensors) => tensors.get(name).ok().map(Stored::Safetensors),
            Self::Gguf(file) => file.get(name).map(|tensor| Stored::Gguf(tensor, file)),
        }
    }

    fn all(&self) -> Vec<(String, Stored<'_>)> {
        match self {
            Self::Mapped(tensors) => stored(tensors.tensors()),
            Self::Embedded(tensors) => stored(tensors.tensors()),
            Self::Gguf(file) => {
                file.all().map(|(name, tensor)| (name.to_owned(), Stored::Gguf(tensor, file))).collect()
            }
        }
    }
}

fn stored(views: Vec<(String, TensorView<'_>)>) -> Vec<(String, Stored<'_>)> {
    views.into_iter().map(|(name, view)| (name, Stored::Safetensors(view))).collect()
}

impl Stored<'_> {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Safetensors(view) => view.shape(),
            Self::Gguf(tensor, _) => &tensor.shape,
        }
    }

    fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// The type to compute in unless a setting asks for another: U8 for integers and blocks of at
    /// most 8 bits.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the libraries' types are many and not ours")]
    fn dtype(&self) -> DType {
        match self {
            Self::Safetensors(view) => match view.dtype() {
                Dtype::BF16 => DType::BF16,
                Dtype::F16 => DType::F16,
                Dtype::I8 => DType::U8,
                _ => DType::F32,
            },
            Self::Gguf(tensor, _) => match tensor.dtype {
                GgmlDType::F32 => DType::F32,
                GgmlDType::F16 => DType::F16,
                GgmlDType::BF16 => DType::BF16,
                _ => DType::U8,
            },
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
        Weights::Gguf(file) => {
            vec![WeightFile {
                path: file.path().to_path_buf(),
                prefix: String::new(),
                tensors: Source::Gguf(Arc::clone(file)),
            }]
        }
    };
    Ok(WeightFiles { files })
}

fn map(path: &Path, prefix: String) -> Result<WeightFile, LoadError> {
    let length = std::fs::metadata(path).map_err(|source| LoadError::File { path: path.to_path_buf(), source })?.len();
    if let Some(problem) = checkpoint::lfs_pointer(path, length) {
        return Err(LoadError::Malformed { path: path.to_path_buf(), problem });
    }
    // SAFETY: a mapped file must not shrink or change while it is mapped. Checkpoints are written
    // once, by a download that renames into place; the documentation warns against editing one
    // under a running server.
    let tensors = unsafe { MmapedSafetensors::new(path) }.map_err(|error| LoadError::Malformed {
        path: path.to_path_buf(),
        problem: format!("not a complete safetensors file of {length} bytes: {error}"),
    })?;
    Ok(WeightFile { path: path.to_path_buf(), prefix, tensors: Source::Mapped(tensors) })
}

impl WeightFiles {
    fn find(&self, name: &str) -> Option<(&WeightFile, Stored<'_>)> {
        self.files.iter().find_map(|file| Some((file, file.get(name)?)))
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(name).map(|(_, stored)| stored.shape().to_vec())
    }

    /// Elements of all tensors, scales of 8-bit rows apart.
    pub fn parameters(&self) -> usize {
        let tensors = self.files.iter().flat_map(WeightFile::all);
        tensors.filter(|(name, _)| name.strip_suffix(SCALE).is_none()).map(|(_, stored)| stored.elements()).sum()
    }

    /// Whether there are 8-bit integers with a scale per row.
    pub fn has_row_scales(&self) -> bool {
        let tensors = self.files.iter().flat_map(WeightFile::all);
        tensors.into_iter().any(|(_, stored)| matches!(stored, Stored::Safetensors(view) if view.dtype() == Dtype::I8))
    }

    /// The type of the largest tensor, U8 for integers and blocks of at most 8 bits.
    pub fn stored(&self) -> DType {
        let tensors = self.files.iter().flat_map(WeightFile::all);
        tensors.max_by_key(|(_, stored)| stored.elements()).map_or(DType::F32, |(_, stored)| stored.dtype())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "safetensors' types are many and not ours; all others are refused"
    )]
    /// Checks that a tensor is there, has this shape, a type that can be read, and finite values.
    pub fn check(&self, name: &str, expected: &[usize]) -> Result<(), LoadError> {
        let Some((file, stored)) = self.find(name) else {
            return Err(LoadError::MissingTensor {
                path: self.files.first().map(|file| file.path.clone()).unwrap_or_default(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
            });
        };
        if stored.shape() != expected {
            return Err(LoadError::WrongShape {
                path: file.path.clone(),
                tensor: name.to_owned(),
                found: stored.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        // Blocks are checked when they are decoded.
        let Stored::Safetensors(view) = stored else { return Ok(()) };
        let non_finite = match view.dtype() {
            Dtype::F32 => find_non_finite(view.data().as_chunks().0, f32::from_le_bytes),
            Dtype::F16 => find_non_finite(view.data().as_chunks().0, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => {
                find_non_finite(view.data().as_chunks().0, |bytes| half::bf16::from_le_bytes(bytes).to_f32())
            }
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

    /// Checks that every tensor of the table is there and right, and that no other one is part of a
    /// model that the table is not.
    pub fn check_all(&self, table: &TensorTable, spec: &ModelSpec) -> Result<(), LoadError> {
        let tensors = table.all();
        for (name, shape) in &tensors {
            self.check(name, shape)?;
            self.release();
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
        let view = match self.find(name) {
            Some((_, Stored::Safetensors(view))) => view,
            Some((_, Stored::Gguf(tensor, file))) => {
                let rows: Vec<usize> = (0..tensor.shape[0]).collect();
                let values = tensor.read(file.bytes(), &rows)?;
                check_finite(name, &values)?;
                return Tensor::from_vec(values, tensor.shape.as_slice(), &Device::Cpu);
            }
            None => return Err(candle_core::Error::CannotFindTensor { path: name.to_owned() }),
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

impl WeightFiles {
    /// Some rows of a matrix in f32, one after the other.
    ///
    /// # Errors
    /// A matrix that is not there, or of a type that [`Self::check`] refuses.
    #[expect(clippy::wildcard_enum_match_arm, reason = "safetensors' types are many and not ours")]
    pub fn rows(&self, name: &str, ids: &[u32]) -> CandleResult<Vec<f32>> {
        let rows: Vec<usize> = ids.iter().map(|id| *id as usize).collect();
        let view = match self.find(name) {
            Some((_, Stored::Gguf(tensor, file))) => return tensor.read(file.bytes(), &rows),
            Some((_, Stored::Safetensors(view))) => view,
            None => return Err(candle_core::Error::CannotFindTensor { path: name.to_owned() }),
        };
        let row_bytes = view.data().len() / view.shape()[0];
        let stored = rows.iter().map(|row| &view.data()[row * row_bytes..][..row_bytes]);
        let mut values = Vec::with_capacity(rows.len() * view.shape()[1]);
        match view.dtype() {
            Dtype::F32 => values.extend(stored.flat_map(|row| widen(row, f32::from_le_bytes))),
            Dtype::F16 => {
                values.extend(stored.flat_map(|row| widen(row, |bytes| half::f16::from_le_bytes(bytes).to_f32())));
            }
            Dtype::BF16 => {
                values.extend(stored.flat_map(|row| widen(row, |bytes| half::bf16::from_le_bytes(bytes).to_f32())));
            }
            Dtype::I8 => {
                let scales = self.load(&scale_name(name))?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                let multiplied = rows.iter().zip(stored).flat_map(|(row, bytes)| {
                    let scale = scales[*row];
                    bytes.iter().map(move |byte| f32::from(byte.cast_signed()) * scale)
                });
                values.extend(multiplied);
            }
            other => candle_core::bail!("tensor `{name}` has type {other:?}"),
        }
        Ok(values)
    }

    /// Checks that the blocks of a matrix of which [`Self::rows`] reads some are finite; other
    /// matrices are checked by [`Self::check`].
    pub fn check_rows(&self, name: &str) -> CandleResult<()> {
        const PART: usize = 4096;
        let Some((_, Stored::Gguf(tensor, file))) = self.find(name) else { return Ok(()) };
        let rows: Vec<usize> = (0..tensor.shape[0]).collect();
        for part in rows.chunks(PART) {
            check_finite(name, &tensor.read(file.bytes(), part)?)?;
        }
        Ok(())
    }

    /// Lets the system forget the pages of mapped files that were read: they can be read again, and
    /// do not count as memory of the process until then.
    pub fn release(&self) {
        for file in &self.files {
            let bytes = match &file.tensors {
                Source::Embedded(_) => continue,
                Source::Gguf(file) => file.bytes().as_ptr_range(),
                Source::Mapped(tensors) => {
                    let views = tensors.tensors();
                    let ranges = || views.iter().map(|(_, view)| view.data().as_ptr_range());
                    let (start, end) = (ranges().map(|range| range.start).min(), ranges().map(|range| range.end).max());
                    let Some((start, end)) = start.zip(end) else { continue };
                    start..end
                }
            };
            release_pages(bytes);
        }
    }
}

/// Unmaps whole pages of a mapped file until they are read again.
#[cfg(target_os = "linux")]
fn release_pages(bytes: Range<*const u8>) {
    const PAGE: usize = 1 << 16;
    let start = (bytes.start as usize).next_multiple_of(PAGE);
    let length = (bytes.end as usize).saturating_sub(start) / PAGE * PAGE;
    if length > 0 {
        // SAFETY: the range lies inside a read-only mapping of a file, whose pages come back with
        // the same contents.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(target_os = "linux"))]
fn release_pages(_: Range<*const u8>) {}

/// The elements of a row of numbers of `WIDTH` bytes.
fn widen<const WIDTH: usize>(row: &[u8], widen: impl Fn([u8; WIDTH]) -> f32) -> impl Iterator<Item = f32> {
    row.as_chunks::<WIDTH>().0.iter().map(move |bytes| widen(*bytes))
}

fn check_finite(name: &str, values: &[f32]) -> CandleResult<()> {
    match find_non_finite(values, |value| value) {
        None => Ok(()),
        Some((element, value)) => {
            candle_core::bail!("tensor `{name}` holds a non-finite value ({value} at element {element})")
        }
    }
}

fn scale_name(name: &str) -> String {
    format!("{name}{SCALE}")
}

/// The first element that is not finite, and its place.
fn find_non_finite<T: Copy + Sync>(elements: &[T], widen: impl Fn(T) -> f32 + Sync) -> Option<(usize, f32)> {
    const PART: usize = 1 << 16;
    elements.par_chunks(PART).enumerate().find_map_first(|(part, elements)| {
        // Nearly always all are. A loop without an exit runs on vectors.
        if elements.iter().fold(true, |finite, &element| finite & widen(element).is_finite()) {
            return None;
        }
        let values = elements.iter().map(|&element| widen(element)).enumerate();
        values.map(|(place, value)| (part * PART + place, value)).find(|(_, value)| !value.is_finite())
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
        assert_eq!(find_non_finite(&values, |value| value), Some((150_000, f32::INFINITY)));
        assert_eq!(find_non_finite(&values[..100_000], |value| value), None);
    }
}
