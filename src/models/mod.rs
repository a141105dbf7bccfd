//! The models of one server: the default model, and named models that are loaded and unloaded while
//! the server runs.

mod cascades;
mod lifecycle;
mod names;
mod set;
mod settings;
mod shadow_rankings;
mod shadows;
mod state;
#[cfg(test)]
mod tests;

pub use set::{ModelLoader, ModelSet};
pub use settings::{CascadeSettings, LoadWhen, ModelsSettings, NamedModel, ShadowSettings, StageSettings};
pub use shadows::ShadowReport;
pub use state::{ModelError, ModelStatus};
