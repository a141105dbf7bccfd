//! Draws requests for shadows, and ranks them.
//!
//! A shadow ranks one request at a time, in the background: its passes run only while its device
//! has no other work, one after the other, and no limit of admission counts them. A request that
//! arrives meanwhile waits for the one pass that is running.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::set::{ModelSet, RETRY_LATER, unavailable};
use super::shadows::DrawnRequest;
use super::state::State;
use crate::context::RequestContext;
use crate::pipeline::{Cascade, CascadeStage, Reranker, StageModel};
use crate::rerank::agreement::{Comparison, ShadowOutcome, ShadowSample};
use crate::rerank::{Keep, Ranking, RequestConstraints, RerankError, RerankRequest};

impl ModelSet {
    /// Hands every sample of a shadow to `record` from now on. Only the first call counts.
    pub fn record_shadows(&self, record: impl Fn(&ShadowSample) + Send + Sync + 'static) {
        let _first = self.inner.shadows.record.set(Arc::new(record));
    }

    /// Copies a request for the shadows of a model that draw it. Only lists are drawn, not pairs.
    pub(super) fn draw_for_shadows(&self, model: &str, requests: &[RerankRequest]) -> Vec<DrawnRequest> {
        let ([request], false) = (requests, self.inner.shadows.all.is_empty()) else { return Vec::new() };
        let is_of = |of: &str| of == model || self.inner.names.own_name(of, self.inner.default.name()) == Some(model);
        let mut drawn = Vec::new();
        for (name, settings) in &self.inner.settings.shadows {
            let Some(shadow) = self.inner.shadows.all.get(name).filter(|_| is_of(&settings.of)) else { continue };
            if rand::random::<f64>() >= shadow.share {
                continue;
            }
            if shadow.busy.swap(true, Ordering::Acquire) {
                self.inner.shadows.record(shadow, ShadowOutcome::Busy);
                continue;
            }
            let request = RerankRequest {
                model: None,
                top_n: None,
                early_exit: None,
                cutoff_layer: None,
                constraints: RequestConstraints::default(),
                ..request.clone()
            };
            drawn.push(DrawnRequest { shadow: Arc::clone(shadow), request });
        }
        drawn
    }

    /// Ranks a drawn request on its shadow, in a task of its own, and compares.
    pub(super) fn rank_on_shadow(&self, mut drawn: DrawnRequest, sent: Ranking) {
        let models = self.clone();
        tokio::spawn(async move {
            let request = std::mem::replace(&mut drawn.request, RerankRequest::new("", Vec::new()));
            let ranked = models.rank_in_background(&drawn.shadow.name, request).await;
            let outcome = match ranked {
                Ok(ranking) => ShadowOutcome::Compared(Comparison::new(&sent, &ranking)),
                Err(RerankError::ModelUnavailable { .. } | RerankError::Draining) => ShadowOutcome::NotLoaded,
                Err(error) => {
                    tracing::debug!(shadow = drawn.shadow.name, %error, "a shadow did not rank");
                    ShadowOutcome::Failed
                }
            };
            models.inner.shadows.record(&drawn.shadow, outcome);
        });
    }

    async fn rank_in_background(&self, name: &str, request: RerankRequest) -> Result<Ranking, RerankError> {
        let models = match self.inner.settings.cascades.get(name) {
            Some(cascade) => cascade.stages.iter().map(|stage| (stage.model.as_deref(), stage.keep)).collect(),
            None => vec![(Some(name), Keep::Share(1.0))],
        };
        let stages = models.into_iter().map(|(model, keep)| CascadeStage {
            model: model.map(|model| StageModel { name: model.to_owned(), reranker: self.in_memory_model(model) }),
            keep,
        });
        let stop_when_sure = self.inner.settings.cascades.get(name).map_or(0.0, |cascade| cascade.stop_when_sure);
        let cascade = Cascade { name: name.to_owned(), stages: stages.collect(), stop_when_sure, is_background: true };
        let (_context, mut rankings) = cascade.rerank_all(vec![request], RequestContext::internal()).await?;
        rankings.pop().ok_or_else(|| RerankError::internal("a shadow without a ranking"))
    }

    /// A model that takes requests. A shadow loads none.
    fn in_memory_model(&self, name: &str) -> Result<Arc<Reranker>, RerankError> {
        let Some(configured) = self.inner.names.configured_name(name) else {
            return Ok(Arc::clone(&self.inner.default));
        };
        let state = self.inner.states.borrow().get(configured).cloned().unwrap_or_default();
        let reranker = State::loaded(&state).map(Arc::clone);
        reranker.ok_or_else(|| unavailable(name, "is not loaded", RETRY_LATER))
    }
}
