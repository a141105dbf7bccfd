//! [`ModelSet`]: resolves model names, and applies settings and readiness checks to all models.
//!
//! [`ModelSet::rerank_all`] is where a request's model is resolved, once; only names in the
//! configuration are known. A request for a model that is not loaded is told when to try again.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::names::ServedNames;
use super::settings::{ModelsSettings, NamedModel};
use super::shadows::Shadows;
use super::state::{ModelStatus, State, States};
use crate::context::RequestContext;
use crate::pipeline::{DriftSample, Policy, Reranker};
use crate::rerank::{Ranking, RerankError, RerankRequest};
use crate::schedule::ScheduleSettings;

/// `Retry-After` for a model that is loading or unloading.
pub(super) const RETRY_SOON: Duration = Duration::from_secs(5);

/// `Retry-After` for a model that an administrator has to load or that failed to load. A request
/// restarts a failed on-demand load only after this time.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(60);

/// Loads models. Both functions may block: they run on a blocking thread.
pub trait ModelLoader: Send + Sync + 'static {
    /// Bytes that the model will take, without loading it: its weights, its prefix cache and its
    /// largest batch.
    ///
    /// # Errors
    /// A checkpoint that cannot be found or read.
    fn memory_bytes(&self, model: &NamedModel) -> anyhow::Result<u64>;

    /// Loads the model under its name, with the policy that is in force.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded.
    fn load(&self, name: &str, model: &NamedModel, policy: Policy) -> anyhow::Result<Reranker>;
}

/// All models of a server. Clones share them.
#[derive(Clone)]
pub struct ModelSet {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub default: Arc<Reranker>,
    pub settings: ModelsSettings,
    pub names: ServedNames,
    /// `None` in a set of the default model alone.
    pub loader: Option<Arc<dyn ModelLoader>>,
    pub states: watch::Sender<States>,
    /// Why a device is lost, if one is.
    pub lost: watch::Sender<Option<String>>,
    pub drift: OnceLock<DriftSampling>,
    pub shadows: Shadows,
    /// Set by [`ModelSet::drain`]: no model is loaded any more.
    pub draining: AtomicBool,
}

/// Drift sampling, which applies to every model: how often, and where the samples go.
pub(super) struct DriftSampling {
    /// The share of rankings to sample, in [0, 1].
    share: f64,
    record: Arc<dyn Fn(&DriftSample) + Send + Sync>,
}

impl DriftSampling {
    pub fn start(&self, reranker: &Reranker) {
        let record = Arc::clone(&self.record);
        reranker.sample_drift(self.share, move |sample| record(sample));
    }
}

impl From<Arc<Reranker>> for ModelSet {
    fn from(default: Arc<Reranker>) -> Self {
        Self::build(default, ModelsSettings::default(), None)
    }
}

impl From<Reranker> for ModelSet {
    fn from(default: Reranker) -> Self {
        Arc::new(default).into()
    }
}

impl ModelSet {
    /// A set of the default model, which stays loaded, and the named models of `settings`, all of
    /// them unloaded.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(default: impl Into<Arc<Reranker>>, settings: ModelsSettings, loader: impl ModelLoader) -> Self {
        Self::build(default.into(), settings, Some(Arc::new(loader)))
    }

    fn build(default: Arc<Reranker>, settings: ModelsSettings, loader: Option<Arc<dyn ModelLoader>>) -> Self {
        let shadows = Shadows::new(&settings);
        let states = settings.named.keys().map(|name| (name.clone(), State::Unloaded)).collect();
        let inner = Inner {
            names: ServedNames::new(default.names(), &settings),
            default,
            settings,
            loader,
            states: watch::Sender::new(states),
            lost: watch::Sender::default(),
            drift: OnceLock::new(),
            shadows,
            draining: AtomicBool::new(false),
        };
        let set = Self { inner: Arc::new(inner) };
        set.watch_device(&set.inner.default);
        set
    }

    /// The model of requests that name none.
    #[must_use]
    pub fn default_model(&self) -> &Arc<Reranker> {
        &self.inner.default
    }

    /// Samples this share of the rankings, in [0, 1], of every model, also of models loaded later.
    /// Only the first call sets the share.
    pub fn sample_drift(&self, share: f64, record: impl Fn(&DriftSample) + Send + Sync + 'static) {
        let sampling = self.inner.drift.get_or_init(|| DriftSampling { share, record: Arc::new(record) });
        for reranker in self.loaded_models() {
            sampling.start(&reranker);
        }
    }

    /// Ranks on the model that the requests name; all of them name the same.
    ///
    /// # Errors
    /// [`RerankError::UnknownModel`], [`RerankError::ModelUnavailable`], and those of
    /// [`Reranker::rerank_all`].
    pub async fn rerank_all(
        &self,
        mut requests: Vec<RerankRequest>,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        for request in &mut requests {
            request.resolve_model(self.inner.names.all())?;
        }
        let first = requests.first();
        let model = first.and_then(|request| request.model.as_deref());
        let configured = model.and_then(|model| self.inner.names.configured_name(model));
        let name = configured.unwrap_or_else(|| self.inner.default.name());
        context.timeline.note_model(name);
        let drawn = self.draw_for_shadows(name, &requests);
        let ranked = match (self.inner.settings.cascades.get(name), configured) {
            // Boxed, so that requests without a cascade do not carry its state.
            (Some(cascade), Some(_)) => Box::pin(self.cascade(name, cascade).rerank_all(requests, context)).await,
            _ if first.is_some_and(|request| request.cascade.is_set()) => {
                Box::pin(self.cascade_of_one(name).rerank_all(requests, context)).await
            }
            (_, Some(name)) => self.loaded(name)?.rerank_all(requests, context).await,
            (_, None) => self.inner.default.rerank_all(requests, context).await,
        };
        if let Ok((_, rankings)) = &ranked {
            for (drawn, ranking) in drawn.into_iter().zip(rankings.iter().cycle()) {
                self.rank_on_shadow(drawn, ranking.clone());
            }
        }
        match ranked {
            // The model was unloaded after it was found.
            Err(RerankError::Draining) if !self.inner.default.queue().draining => {
                Err(unavailable(name, "is being unloaded", RETRY_SOON))
            }
            ranked => ranked,
        }
    }

    /// The status of every model, the default model first, and of every cascade.
    #[must_use]
    pub fn statuses(&self) -> Vec<ModelStatus> {
        let states = self.inner.states.borrow();
        let named = self.inner.settings.named.iter();
        let named = named
            .map(|(name, model)| ModelStatus::of_named(name, model, &states.get(name).cloned().unwrap_or_default()));
        let mut statuses: Vec<ModelStatus> =
            std::iter::once(ModelStatus::of_default(&self.inner.default)).chain(named).collect();
        drop(states);
        let cascades = self.inner.settings.cascades.iter();
        let cascades: Vec<ModelStatus> =
            cascades.map(|(name, cascade)| Self::cascade_status(name, cascade, &statuses)).collect();
        statuses.extend(cascades);
        for status in &mut statuses {
            status.shadow = status.names.first().and_then(|name| self.inner.shadows.report(name));
        }
        statuses
    }

    /// Bytes of all models that are loaded, loading or unloading, and the limit (0: no limit).
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let used = self.statuses().iter().map(|status| status.memory_bytes).sum();
        (used, self.inner.settings.max_memory_bytes)
    }

    /// The models in memory, the default model first: those that take requests, and those that are
    /// unloading.
    #[must_use]
    pub fn in_memory(&self) -> Vec<Arc<Reranker>> {
        self.select(State::in_memory)
    }

    /// The models that take requests, the default model first.
    pub(super) fn loaded_models(&self) -> Vec<Arc<Reranker>> {
        self.select(State::loaded)
    }

    fn select(&self, reranker: impl Fn(&State) -> Option<&Arc<Reranker>>) -> Vec<Arc<Reranker>> {
        let states = self.inner.states.borrow();
        let named = states.values().filter_map(reranker).map(Arc::clone);
        std::iter::once(Arc::clone(&self.inner.default)).chain(named).collect()
    }

    /// Whether every loaded model takes new requests.
    ///
    /// # Errors
    /// The error of the first that does not.
    pub fn ready(&self) -> Result<(), RerankError> {
        self.loaded_models().iter().try_for_each(|reranker| reranker.ready())
    }

    /// Applies a policy and schedule settings to all loaded models. Models that are loaded later
    /// copy both from the default model.
    pub fn reconfigure(&self, policy: &Policy, schedule: &ScheduleSettings) {
        // The lock on the states keeps a model from being added meanwhile with the old policy.
        self.inner.states.send_if_modified(|states| {
            for reranker in std::iter::once(&self.inner.default).chain(states.values().filter_map(State::loaded)) {
                reranker.reconfigure(policy.clone(), schedule);
            }
            false
        });
    }

    /// Waits until a device is lost, and returns the reason.
    pub async fn lost(&self) -> String {
        let mut lost = self.inner.lost.subscribe();
        // The sender lives in `self`.
        let reason = lost.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    pub(super) fn watch_device(&self, reranker: &Reranker) {
        let (lost, inner) = (reranker.lost(), Arc::downgrade(&self.inner));
        tokio::spawn(async move {
            if let Some(reason) = lost.await
                && let Some(inner) = inner.upgrade()
            {
                inner.lost.send_replace(Some(reason));
            }
        });
    }
}

pub(super) fn unavailable(name: &str, problem: &'static str, retry_after: Duration) -> RerankError {
    RerankError::ModelUnavailable { name: name.to_owned(), problem, retry_after }
}
