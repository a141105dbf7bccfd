//! Shadows: models that rank a share of another model's requests after their replies, and what that
//! showed. `shadow_rankings` draws the requests and ranks them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::settings::{ModelsSettings, ShadowSettings};
use crate::rerank::RerankRequest;
use crate::rerank::agreement::{Comparison, RankingCost, ShadowOutcome, ShadowSample};

/// A shadow's rankings compared with those that were sent.
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
    /// The cost of the rankings that were sent.
    pub sent: RankingCost,
    /// The cost of the shadow's rankings of the same requests.
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

/// Records a sample.
pub(super) type RecordShadow = dyn Fn(&ShadowSample) + Send + Sync;

/// The shadows of a set.
#[derive(Default)]
pub(super) struct Shadows {
    /// By their names.
    pub all: BTreeMap<String, Arc<Shadow>>,
    pub record: OnceLock<Arc<RecordShadow>>,
}

pub(super) struct Shadow {
    pub name: String,
    pub share: f64,
    /// Whether a request is being ranked.
    pub busy: AtomicBool,
    report: Mutex<ShadowReport>,
}

/// A request that a shadow will rank. Dropping it frees the shadow for the next one.
pub(super) struct DrawnRequest {
    pub shadow: Arc<Shadow>,
    pub request: RerankRequest,
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

    /// Adds an outcome to the shadow's report and to the metrics.
    pub fn record(&self, shadow: &Shadow, outcome: ShadowOutcome) {
        let mut report = shadow.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.add(&outcome);
        let model = report.of.clone();
        drop(report);
        if let Some(record) = self.record.get() {
            record(&ShadowSample { model, shadow: shadow.name.clone(), outcome });
        }
    }
}
