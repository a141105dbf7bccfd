//! The composition root: settings to models to a running server.

mod loading;
mod model_names;
mod reload;
mod serve;
mod settings;

pub use loading::{load_models, load_reranker, load_reranker_with};
pub use reload::{Reload, Reloader};
pub use serve::{ShutdownOutcome, serve};
pub use settings::{check, families, instructions, policy, prompter, prompter_of};
