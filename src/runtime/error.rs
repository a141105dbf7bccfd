//! What can go wrong below the seam: while loading a checkpoint, and while running a pass.

use std::path::PathBuf;

/// A checkpoint that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file of the checkpoint is missing or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there, but not what it should be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration names an architecture that this runtime has no code for.
    #[error("{}: architecture `{architecture}` is not supported; supported: {}", path.display(), supported.join(", "))]
    UnknownArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// What it names.
        architecture: String,
        /// What would work.
        supported: &'static [&'static str],
    },
    /// A tensor that the architecture needs is in no file.
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
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor `{tensor}` holds a non-finite value ({value} at element {element})", path.display())]
    NonFiniteWeight {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The value.
        value: f32,
        /// Its place in the flattened tensor.
        element: usize,
    },
    /// A checkpoint could not be fetched from the hub.
    #[error("cannot fetch `{model}` (revision {revision}) from the hub: {problem}")]
    Hub {
        /// The hub id.
        model: String,
        /// The revision.
        revision: String,
        /// What went wrong, and what helps.
        problem: String,
    },
    /// The device refused.
    #[error("device: {0}")]
    Device(String),
}

/// A pass that could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The pass itself is not one: an empty trunk, a mark outside it, an unknown token.
    #[error("invalid pass {pass}: {problem}")]
    InvalidPass {
        /// The pass's place in the batch.
        pass: usize,
        /// What is wrong.
        problem: String,
    },
    /// A number that was asked for is NaN or infinite.
    #[error("pass {pass} produced a non-finite value at mark {mark}")]
    NonFinite {
        /// The pass's place in the batch.
        pass: usize,
        /// The mark's place in the probe.
        mark: usize,
    },
    /// The device failed.
    #[error("device: {0}")]
    Device(String),
    /// The code that ran the batch panicked: a bug.
    #[error("the forward pass panicked")]
    Panicked,
}
