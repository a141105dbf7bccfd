//! Cascades of the models of a set: their stages, found for each request, and their states.

use std::sync::Arc;

use super::set::ModelSet;
use super::settings::{CascadeSettings, LoadWhen};
use super::state::{ModelError, ModelStatus};
use crate::pipeline::{Cascade, CascadeStage, Reranker, StageModel};
use crate::rerank::{Keep, RerankError};

/// States of a model, the least ready first. A cascade has that of its least ready stage.
const BY_READINESS: [&str; 5] = ["failed", "unloading", "unloaded", "loading", "loaded"];

impl ModelSet {
    /// A configured cascade, with the models that its stages have now. Starts to load models on
    /// demand, as a request for them would.
    pub(super) fn cascade(&self, name: &str, settings: &CascadeSettings) -> Cascade {
        let stages = settings.stages.iter().map(|stage| CascadeStage {
            model: stage.model.as_deref().map(|model| self.stage_model(model)),
            keep: stage.keep,
        });
        let (stages, stop_when_sure) = (stages.collect(), settings.stop_when_sure);
        Cascade { name: name.to_owned(), stages, stop_when_sure, is_background: false }
    }

    /// A single model as a cascade, for a request that brings scores of its own.
    pub(super) fn cascade_of_one(&self, name: &str) -> Cascade {
        let stage = CascadeStage { model: Some(self.stage_model(name)), keep: Keep::Share(1.0) };
        Cascade { name: name.to_owned(), stages: vec![stage], stop_when_sure: 0.0, is_background: false }
    }

    fn stage_model(&self, name: &str) -> StageModel {
        StageModel { name: name.to_owned(), reranker: self.named_reranker(name) }
    }

    /// The model of a name, or why it takes no requests.
    fn named_reranker(&self, name: &str) -> Result<Arc<Reranker>, RerankError> {
        match self.inner.names.configured_name(name) {
            Some(configured) => self.loaded(configured),
            None => Ok(Arc::clone(&self.inner.default)),
        }
    }

    /// The status of a cascade. Its memory is that of its models, which are listed too.
    pub(super) fn cascade_status(&self, name: &str, settings: &CascadeSettings, models: &[ModelStatus]) -> ModelStatus {
        let find = |stage: &str| models.iter().find(|status| status.names.iter().any(|name| name == stage));
        let stages: Vec<&ModelStatus> = settings.models().filter_map(find).collect();
        let readiness = |status: &&&ModelStatus| BY_READINESS.iter().position(|state| *state == status.state);
        let least = stages.iter().min_by_key(readiness);
        let eagerness = |load: &LoadWhen| match load {
            LoadWhen::Off => 0,
            LoadWhen::OnDemand => 1,
            LoadWhen::Start => 2,
        };
        ModelStatus {
            names: std::iter::once(name).chain(settings.served()).map(str::to_owned).collect(),
            state: least.map_or("failed", |status| status.state),
            load: stages.iter().map(|status| status.load).min_by_key(eagerness).unwrap_or(LoadWhen::Start),
            memory_bytes: 0,
            dtype: None,
            document_tokens: None,
            canary: None,
            error: least.and_then(|status| status.error.clone()),
            stages: Some(settings.models().map(str::to_owned).collect()),
            shadow: None,
        }
    }

    /// Loads the models of a cascade, one after the other.
    pub(super) async fn load_cascade(&self, name: &str, settings: &CascadeSettings) -> Result<ModelStatus, ModelError> {
        for model in settings.models() {
            if let Some(configured) = self.inner.names.configured_name(model) {
                Box::pin(self.load(configured)).await?;
            }
        }
        self.status(name)
    }
}
