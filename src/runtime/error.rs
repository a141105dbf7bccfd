//! Errors of loading a checkpoint and of running passes.

use std::any::Any;
use std::path::PathBuf;

/// A checkpoint that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file of the checkpoint is missing or cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file or folder is not what it should be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem, and what to do.
        problem: String,
    },
    /// The architecture that the configuration names is not supported.
    #[error("{}: architecture `{architecture}` is not supported; supported: {}", path.display(), supported.join(", "))]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// The name in it.
        architecture: String,
        /// The architectures that are.
        supported: &'static [&'static str],
    },
    /// No file has a tensor that the architecture needs.
    #[error("{}: tensor `{tensor}` is missing (expected shape {expected:?})", path.display())]
    MissingTensor {
        /// The file or folder searched.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape by the configuration.
        expected: Vec<usize>,
    },
    /// A file holds a tensor that no part of the model reads: it is another kind of model.
    #[error(
        "{}: tensor `{tensor}` is not part of a {architecture}; the checkpoint has a head or an adapter that would be \
         ignored", path.display()
    )]
    UnreadTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture that the configuration names.
        architecture: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor `{tensor}` holds a non-finite value ({value} at element {element})", path.display())]
    NonFiniteWeight {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// Its index in the flattened tensor.
        element: usize,
    },
    /// A checkpoint could not be fetched from the hub.
    #[error("cannot fetch `{model}` (revision {revision}) from the hub: {problem}")]
    Hub {
        /// The hub id.
        model: String,
        /// The revision.
        revision: String,
        /// The problem, and what helps.
        problem: String,
    },
    /// The device or precision is not available, or the device failed.
    #[error("device: {0}")]
    Device(String),
}

impl LoadError {
    /// The error with a hint at its end, where the hub caused it.
    pub(super) fn with_hint(mut self, hint: &str) -> Self {
        if let Self::Hub { problem, .. } = &mut self {
            problem.push_str(hint);
        }
        self
    }
}

/// A pass that could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The pass is invalid: it has no tokens, a position outside it, an unknown token.
    #[error("invalid pass {pass}: {problem}")]
    InvalidPass {
        /// Index of the pass in the batch.
        pass: usize,
        /// The problem.
        problem: String,
    },
    /// A number of an output is NaN or infinite.
    #[error("pass {pass} produced a non-finite value in row {row} of its output")]
    NonFinite {
        /// Index of the pass in the batch.
        pass: usize,
        /// The row of the pass's output.
        row: usize,
    },
    /// The device has no memory left for the batch; a smaller one may fit.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),
    /// The device is lost: every later batch fails too, until the process restarts.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The device failed.
    #[error("device: {0}")]
    Device(String),
    /// The code that ran the batch panicked: a bug.
    #[error("the forward pass panicked")]
    Panicked,
}

/// Parts of out-of-memory messages of CUDA, cuBLAS and Metal, in lower case.
const OUT_OF_MEMORY: [&str; 6] = [
    "out_of_memory",
    "out of memory",
    "outofmemory",
    "cublas_status_alloc_failed",
    "insufficient memory",
    "memory allocation failed",
];

/// Errors after which a CUDA context cannot be used (the driver's manual: "the process must be
/// terminated and relaunched"), and those of a device that has gone.
const DEVICE_LOST: [&str; 20] = [
    "cuda_error_illegal_address",
    "cuda_error_illegal_instruction",
    "cuda_error_misaligned_address",
    "cuda_error_invalid_address_space",
    "cuda_error_invalid_pc",
    "cuda_error_hardware_stack_error",
    "cuda_error_assert",
    "cuda_error_launch_failed",
    "cuda_error_launch_timeout",
    "cuda_error_ecc_uncorrectable",
    "cuda_error_nvlink_uncorrectable",
    "cuda_error_contained",
    "cuda_error_context_is_destroyed",
    "cuda_error_device_unavailable",
    "cuda_error_no_device",
    "cuda_error_deinitialized",
    "cuda_error_system_not_ready",
    "cuda_error_unknown",
    "device lost",
    "device removed",
];

/// Beginnings of driver errors in panics of their bindings.
const DRIVERS: [&str; 2] = ["CUDA_ERROR_", "CUBLAS_STATUS_"];

impl RuntimeError {
    /// Classifies a device's message: out of memory, device lost, or another failure.
    #[must_use]
    pub fn from_device_message(message: String) -> Self {
        let said = message.to_lowercase();
        let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if any(&OUT_OF_MEMORY) {
            Self::OutOfMemory(message)
        } else if any(&DEVICE_LOST) {
            Self::DeviceLost(message)
        } else {
            Self::Device(message)
        }
    }

    /// Classifies a panic of the code that ran a batch. Driver bindings panic in places where the
    /// device fails; any other panic is a bug. The message is dropped: it may hold a request's
    /// text.
    #[must_use]
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&'static str>().copied()).unwrap_or_default();
        if !DRIVERS.iter().any(|driver| text.contains(driver)) {
            return Self::Panicked;
        }
        let reported = || "a panic reported it".to_owned();
        match Self::from_device_message(text.to_owned()) {
            Self::OutOfMemory(_) => Self::OutOfMemory(reported()),
            Self::DeviceLost(_) => Self::DeviceLost(reported()),
            Self::InvalidPass { .. } | Self::NonFinite { .. } | Self::Device(_) | Self::Panicked => Self::Panicked,
        }
    }

    /// The error with its pass as a place in a batch, where it is one among those at `places`.
    #[must_use]
    pub(super) fn in_batch(mut self, places: &[usize]) -> Self {
        if let Self::InvalidPass { pass, .. } | Self::NonFinite { pass, .. } = &mut self
            && let Some(place) = places.get(*pass)
        {
            *pass = *place;
        }
        self
    }

    /// Index of the pass that caused the error, where that is known.
    #[must_use]
    pub const fn culprit(&self) -> Option<usize> {
        match self {
            Self::InvalidPass { pass, .. } | Self::NonFinite { pass, .. } => Some(*pass),
            Self::OutOfMemory(_) | Self::DeviceLost(_) | Self::Device(_) | Self::Panicked => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_messages_are_classified() {
        for memory in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        ] {
            assert!(
                matches!(RuntimeError::from_device_message(memory.to_owned()), RuntimeError::OutOfMemory(_)),
                "{memory}"
            );
        }
        for lost in [
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
            "DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"uncorrectable ECC error encountered\")",
            "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")",
            "Device lost",
        ] {
            assert!(
                matches!(RuntimeError::from_device_message(lost.to_owned()), RuntimeError::DeviceLost(_)),
                "{lost}"
            );
        }
        let panicked = |text: &str| RuntimeError::from_panic(&text.to_owned());
        assert!(matches!(panicked("unwrap: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)"), RuntimeError::DeviceLost(_)));
        assert!(matches!(panicked("CUDA_ERROR_OUT_OF_MEMORY"), RuntimeError::OutOfMemory(_)));
        assert!(matches!(panicked("out of memory"), RuntimeError::Panicked), "a panic's own message is not a driver's");
        assert!(matches!(RuntimeError::from_panic(&"CUDA_ERROR_INVALID_VALUE"), RuntimeError::Panicked));
        for other in ["shape mismatch in matmul", "DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")", ""] {
            assert!(matches!(RuntimeError::from_device_message(other.to_owned()), RuntimeError::Device(_)), "{other}");
        }
    }
}
