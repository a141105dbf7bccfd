//! The models of one server: the default model, and named models that are loaded and unloaded while
//! the server runs.

mod lifecycle;
mod names;
mod set;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use set::{ModelLoader, ModelSet};
pub use settings::{LoadWhen, ModelsSettings, NamedModel};
pub use state::{ModelError, ModelStatus};
