//! The facts about a checkpoint that decide how it is prompted and read, from the files beside its
//! weights: its kind and origin, its classifier, its limits, the settings of `ColBERT` checkpoints.

mod classifier;
mod colbert;
mod description;
mod limits;
mod podium_config;

pub use classifier::{ClassifierReadout, classifier_calibration};
pub use colbert::ColbertSettings;
pub use description::{Description, ModelKind, NamedOrigin};
pub use limits::{Answers, ModelLimits};
pub use podium_config::{Calibration, PodiumConfig};
