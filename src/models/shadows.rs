//! Shadows: models that rank a share of another model's requests after their replies, and what that
//! showed.
//!
//! A shadow ranks one request at a time, in the background: its passes run only while its device has
//! no other work, one after the other, and no limit of admission counts them. A request that
//! arrives meanwhile waits for the one pass that is running.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::set::ModelSet;
use super::settings::{ModelsSettings, ShadowSettings};
use super::state::State;
use crate::context::RequestContext;
use crate::pipeline::{Cascade, CascadeStage, Reranker, StageModel};
use crate::rerank::agreement::{Comparison, RankingCost, ShadowOutcome, ShadowSample};
use crate::rerank::{Ranking, RequestConstraints, RerankError, RerankRequest};

/// What a shadow has shown so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ShadowReport {
    /// The name of the model whose requests it ranks.
    pub of: String,
    /// The share of requests, in [0, 1].
    pub share: f64,
    /// Requests that both have ranked.
    pub compared: u64,
    /// Requests that were drawn and not ranked: the shadow was busy or not loaded, or failed.
    pub skipped: u64,
    /// Rankings of which another document is first.
    pub top_changed: u64,
    /// The sum of Kendall's tau over `with_tau` rankings of at least two documents.
    tau_sum: f64,
    with_tau: u64,
    /// What the rankings that were sent have cost.
    pub sent: RankingCost,
    /// What the shadow's rankings of the same requests have cost.
    pub shadow: RankingCost,
}

impl ShadowReport {
    /// The mean of Kendall's tau, from -1, the reverse order, to 1, the same order.
    #[must_use]
    pub fn kendall_tau(&self) -> Option<f64> {
        (self.with_tau > 0).then(|| self.tau_sum / self.with_tau as f64)
    }

    fn add(&mut self, outcome: &ShadowOutcome) {
        let ShadowOutcome::Compared(Comparison { agreement, is_top_changed, sent, shadow }) = outcome else {
            self.skipped += 1;
            return;
        };
        self.compared += 1;
        self.top_changed += u64::from(*is_top_changed);
        if let Some(agreement) = agreement {
            self.tau_sum += 2.0 * agreement - 1.0;
            self.with_tau += 1;
        }
        for (sum, cost) in [(&mut self.sent, sent), (&mut self.shadow, shadow)] {
            sum.tokens += cost.tokens;
            sum.forward += cost.forward;
        }
    }
}

/// The shadows of a set.
#[derive(Default)]
pub(super) struct Shadows {
    /// By their names.
    all: BTreeMap<String, Arc<Shadow>>,
    record: OnceLock<Arc<dyn Fn(&ShadowSample) + Send + Sync>>,
}

struct Shadow {
    name: String,
    share: f64,
    /// Whether a request is being ranked.
    busy: AtomicBool,
    report: Mutex<ShadowReport>,
}

/// A request that a shadow will rank. Dropping it frees the shadow for the next one.
pub(super) struct DrawnRequest {
    shadow: Arc<Shadow>,
    request: RerankRequest,
}

impl Drop for DrawnRequest {
    fn drop(&mut self) {
        self.shadow.busy.store(false, Ordering::Release);
    }
}

impl Shadows {
    pub fn new(settings: &ModelsSettings) -> Self {
        let shadow = |(name, ShadowSettings { of, share }): (&String, &ShadowSettings)| {
            let report = ShadowReport { of: of.clone(), share: *share, ..ShadowReport::default() };
            let (busy, report) = (AtomicBool::new(false), Mutex::new(report));
            (name.clone(), Arc::new(Shadow { name: name.clone(), share: *share, busy, report }))
        };
        Self { all: settings.shadows.iter().map(shadow).collect(), record: OnceLock::new() }
    }

    pub fn report(&self, name: &str) -> Option<ShadowReport> {
        let shadow = self.all.get(name)?;
        Some(shadow.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn record(&self, shadow: &Shadow, outcome: ShadowOutcome) {
        let mut report = shadow.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.add(&outcome);
        let model = report.of.clone();
        drop(report);
        if let Some(record) = self.record.get() {
            record(&ShadowSample { model, shadow: shadow.name.clone(), outcome });
        }
    }
}

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
                constraints: RequestConstraints::default(),
                ..request.clone()
            };
            drawn.push(DrawnRequest { shadow: Arc::clone(shadow), request });
        }
        drawn
    }

    /// Ranks a drawn request on its shadow, in a task of its own, and compares.
    pub(super) fn rank_on_shadow(&self, mut drawn: DrawnRequest, sent: Ranking) {
        let set = self.clone();
        tokio::spawn(async move {
            let request = std::mem::replace(&mut drawn.request, RerankRequest::new("", Vec::new()));
            let ranked = set.rank_in_background(&drawn.shadow.name, request).await;
            let outcome = match ranked {
                Ok(ranking) => ShadowOutcome::Compared(Comparison::new(&sent, &ranking)),
                Err(RerankError::ModelUnavailable { .. } | RerankError::Draining) => ShadowOutcome::NotLoaded,
                Err(error) => {
                    tracing::debug!(shadow = drawn.shadow.name, %error, "a shadow did not rank");
                    ShadowOutcome::Failed
                }
            };
            set.inner.shadows.record(&drawn.shadow, outcome);
        });
    }

    async fn rank_in_background(&self, name: &str, request: RerankRequest) -> Result<Ranking, RerankError> {
        let models = match self.inner.settings.cascades.get(name) {
            Some(cascade) => cascade.stages.iter().map(|stage| (stage.model.as_deref(), stage.keep)).collect(),
            None => vec![(Some(name), crate::rerank::Keep::Share(1.0))],
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
        reranker.ok_or_else(|| super::set::unavailable(name, "is not loaded", super::set::RETRY_LATER))
    }
}
