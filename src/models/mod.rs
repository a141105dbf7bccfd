//! Which models are there: the default one, and those with names, which are loaded and unloaded while the server runs.
//!
//! A request names its model; only names of the configuration are known. Whoever asks for a model that is not loaded
//! is told when to come back. Loading runs on a blocking thread, and unloading waits for what was accepted.

mod settings;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use self::state::{Room, State, States};
use crate::pipeline::{Policy, Reranker};
use crate::rerank::{Caller, DriftSample, Ranking, RerankError, RerankRequest, without_profile};
use crate::schedule::ScheduleSettings;

pub use settings::{LoadWhen, ModelsSettings, NamedModel};
pub use state::{ModelError, ModelStatus};

/// When to come back to a model that is being loaded or unloaded.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When to come back to a model that somebody else has to load first.
const RETRY_MUCH_LATER: Duration = Duration::from_secs(60);

/// Knows how to load a model. Both functions may take as long as they need: they run on a blocking thread.
pub trait ModelLoader: Send + Sync + 'static {
    /// Bytes that the model will take, found without loading it: its weights, and what it may keep.
    ///
    /// # Errors
    /// A checkpoint that cannot be found or read.
    fn memory_bytes(&self, model: &NamedModel) -> anyhow::Result<u64>;

    /// Loads the model.
    ///
    /// # Errors
    /// A checkpoint that cannot be loaded.
    fn load(&self, name: &str, model: &NamedModel) -> anyhow::Result<Reranker>;
}

/// All models of a server.
#[derive(Clone)]
pub struct ModelSet {
    inner: Arc<Inner>,
}

struct Inner {
    default: Arc<Reranker>,
    settings: ModelsSettings,
    loader: Option<Arc<dyn ModelLoader>>,
    states: watch::Sender<States>,
    /// Why a device is gone, if one is.
    lost: watch::Sender<Option<String>>,
    drift: OnceLock<(f64, TakeDrift)>,
    /// Whether no model is taken in any more.
    leaving: AtomicBool,
}

/// Who hears of sampled rankings.
type TakeDrift = Arc<dyn Fn(&DriftSample) + Send + Sync>;

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
    /// The default model, which stays, and those of the settings, none of which is loaded yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(default: impl Into<Arc<Reranker>>, settings: ModelsSettings, loader: impl ModelLoader) -> Self {
        Self::build(default.into(), settings, Some(Arc::new(loader)))
    }

    fn build(default: Arc<Reranker>, settings: ModelsSettings, loader: Option<Arc<dyn ModelLoader>>) -> Self {
        let states = settings.named.keys().map(|name| (name.clone(), State::Unloaded)).collect();
        let (states, lost) = (watch::Sender::new(states), watch::Sender::default());
        let (drift, leaving) = (OnceLock::new(), AtomicBool::new(false));
        let inner = Inner { default, settings, loader, states, lost, drift, leaving };
        let set = Self { inner: Arc::new(inner) };
        set.watch(&set.inner.default);
        set
    }

    /// The model of requests that name none.
    #[must_use]
    pub fn default_model(&self) -> &Arc<Reranker> {
        &self.inner.default
    }

    /// Measures this share of the rankings, in [0, 1], of every model from now on. Only the first call
    /// counts.
    pub fn watch_drift(&self, share: f64, take: impl Fn(&DriftSample) + Send + Sync + 'static) {
        let (share, take) = self.inner.drift.get_or_init(|| (share, Arc::new(take)));
        let watch = |reranker: &Reranker| {
            let take = Arc::clone(take);
            reranker.watch_drift(*share, move |sample| take(sample));
        };
        watch(&self.inner.default);
        for state in self.inner.states.borrow().values() {
            if let State::Loaded(reranker) = state {
                watch(reranker);
            }
        }
    }

    /// Lets the default model rank once, and loads those that the settings want at the start, one after another.
    ///
    /// # Errors
    /// The first that cannot rank or be loaded.
    pub async fn load_those_of_the_start(&self) -> Result<(), ModelError> {
        warm_up(self.inner.default.name(), &self.inner.default).await?;
        for (name, model) in &self.inner.settings.named {
            if model.load == LoadWhen::Start {
                self.load(name).await?;
            }
        }
        Ok(())
    }

    /// Ranks on the model that the requests name; all of them name the same.
    ///
    /// # Errors
    /// [`RerankError::UnknownModel`], [`RerankError::ModelUnavailable`], and those of [`Reranker::rerank_all`].
    pub async fn rerank_all(&self, requests: Vec<RerankRequest>, caller: Caller) -> Result<Vec<Ranking>, RerankError> {
        let model = requests.first().and_then(|request| request.model.as_deref());
        let name = self.named(model)?;
        caller.stages.note_model(name.as_deref().unwrap_or_else(|| self.inner.default.name()));
        let reranker = match &name {
            None => Arc::clone(&self.inner.default),
            Some(name) => self.loaded(name)?,
        };
        match (reranker.rerank_all(requests, caller).await, name) {
            // It was unloaded between being found and being asked.
            (Err(RerankError::Draining), Some(name)) if !self.inner.default.queue().draining => {
                Err(unavailable(&name, "is being unloaded", RETRY_AFTER))
            }
            (rankings, _) => rankings,
        }
    }

    /// Which of the named models a request means; none is the default model.
    fn named(&self, model: Option<&str>) -> Result<Option<String>, RerankError> {
        let Some(model) = model else { return Ok(None) };
        for name in [model, without_profile(model).0] {
            if self.inner.default.names().iter().any(|known| known == name) {
                return Ok(None);
            }
            if let Some(found) = self.name_of(name) {
                return Ok(Some(found));
            }
        }
        let known = self.statuses().into_iter().flat_map(|status| status.names).collect::<Vec<_>>();
        Err(RerankError::unknown_model(model, &known))
    }

    /// The configured name of a model that may also be called otherwise.
    fn name_of(&self, called: &str) -> Option<String> {
        let models = &self.inner.settings.named;
        if models.contains_key(called) {
            return Some(called.to_owned());
        }
        let served = |model: &NamedModel| model.model.served().any(|name| name == called);
        models.iter().find(|(_, model)| served(model)).map(|(name, _)| name.clone())
    }

    /// A named model that is ready for requests, or why it is not. One that is loaded on demand is now.
    fn loaded(&self, name: &str) -> Result<Arc<Reranker>, RerankError> {
        let state = self.inner.states.borrow().get(name).cloned().unwrap_or_default();
        let on_demand = self.inner.settings.named.get(name).is_some_and(|model| model.load == LoadWhen::OnDemand);
        match state {
            State::Loaded(reranker) => Ok(reranker),
            State::Loading { .. } => Err(unavailable(name, "is being loaded", RETRY_AFTER)),
            State::Unloading(_) => Err(unavailable(name, "is being unloaded", RETRY_AFTER)),
            State::Failed { at, .. } if !on_demand || at.elapsed() < RETRY_MUCH_LATER => {
                Err(unavailable(name, "could not be loaded", RETRY_MUCH_LATER))
            }
            State::Unloaded if !on_demand => Err(unavailable(name, "is not loaded", RETRY_MUCH_LATER)),
            State::Unloaded | State::Failed { .. } if self.is_leaving() => Err(RerankError::Draining),
            State::Unloaded | State::Failed { .. } => {
                let (set, asked) = (self.clone(), name.to_owned());
                // What comes of it is logged, and stands in the model's state.
                tokio::spawn(async move { set.load(&asked).await });
                Err(unavailable(name, "is being loaded", RETRY_AFTER))
            }
        }
    }

    /// Loads a named model and waits until that is done. Whoever stops waiting does not stop the loading.
    ///
    /// # Errors
    /// [`ModelError`]: an unknown name, a model that is being unloaded, one that does not fit or cannot be loaded.
    pub async fn load(&self, name: &str) -> Result<ModelStatus, ModelError> {
        let model = self.find(name)?;
        let mut before = State::Unloaded;
        self.inner.states.send_if_modified(|states| {
            let state = states.entry(name.to_owned()).or_default();
            before = state.clone();
            let starts = matches!(state, State::Unloaded | State::Failed { .. });
            if starts {
                *state = State::Loading { bytes: 0 };
            }
            starts
        });
        match before {
            State::Unloaded | State::Failed { .. } => {
                let (set, name, model) = (self.clone(), name.to_owned(), model.clone());
                tokio::spawn(async move { set.carry_in(name, model).await });
            }
            State::Unloading(_) => return Err(ModelError::Busy { name: name.to_owned() }),
            State::Loading { .. } | State::Loaded(_) => {}
        }
        match self.settled(name).await {
            State::Failed { error, .. } => Err((*error).clone()),
            State::Unloaded | State::Loading { .. } | State::Loaded(_) | State::Unloading(_) => self.status(name),
        }
    }

    async fn carry_in(self, name: String, model: NamedModel) {
        let began = Instant::now();
        let loaded = self.try_load(&name, model).await;
        match &loaded {
            Ok(reranker) => {
                let (bytes, seconds) = (reranker.facts().memory_bytes(), began.elapsed().as_secs_f64());
                tracing::info!(model = name, family = reranker.family(), bytes, seconds, "loaded");
                self.watch(reranker);
            }
            Err(error) => tracing::error!(model = name, error = %error, "not loaded"),
        }
        self.inner.states.send_modify(|states| {
            let state = match loaded {
                // Nobody would wait for its answers.
                Ok(_) if self.is_leaving() => State::Unloaded,
                Ok(reranker) => {
                    // What was changed while the server ran holds for this model too. In one step with the state, or a
                    // change at this moment would be lost.
                    if let Some((share, take)) = self.inner.drift.get() {
                        let take = Arc::clone(take);
                        reranker.watch_drift(*share, move |sample| take(sample));
                    }
                    let default = &self.inner.default;
                    reranker.reconfigure((*default.policy()).clone(), &default.schedule());
                    State::Loaded(reranker)
                }
                Err(error) => State::Failed { error: Arc::new(error), at: Instant::now() },
            };
            states.insert(name, state);
        });
    }

    fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Acquire)
    }

    async fn try_load(&self, name: &str, model: NamedModel) -> Result<Arc<Reranker>, ModelError> {
        let failed = |problem: String| ModelError::Failed { name: name.to_owned(), problem };
        let loader = self.inner.loader.clone().ok_or_else(|| failed("there is no loader".to_owned()))?;
        let (asked, of) = (Arc::clone(&loader), model.clone());
        let bytes = blocking(move || asked.memory_bytes(&of)).await.map_err(failed)?;
        self.reserve(name, bytes)?;
        let own = name.to_owned();
        let reranker = blocking(move || loader.load(&own, &model)).await.map_err(failed)?;
        warm_up(name, &reranker).await?;
        Ok(Arc::new(reranker))
    }

    /// Takes room for a model that is about to be loaded.
    fn reserve(&self, name: &str, bytes: u64) -> Result<(), ModelError> {
        let limit = self.inner.settings.max_memory_bytes;
        let mut refused = None;
        self.inner.states.send_if_modified(|states| {
            let default = self.inner.default.facts().memory_bytes();
            let room = Room { limit, used: default + states.values().map(State::bytes).sum::<u64>() };
            if !room.has(bytes) {
                refused = Some(ModelError::NoRoom { name: name.to_owned(), bytes, used: room.used, limit });
                return false;
            }
            states.insert(name.to_owned(), State::Loading { bytes });
            true
        });
        refused.map_or(Ok(()), Err)
    }

    /// Takes no new requests for a named model, waits for the accepted ones, and frees its memory. Whoever stops
    /// waiting does not stop that.
    ///
    /// # Errors
    /// [`ModelError`]: an unknown name, the default model, a model that is being loaded.
    pub async fn unload(&self, name: &str) -> Result<ModelStatus, ModelError> {
        self.find(name)?;
        let mut before = State::Unloaded;
        self.inner.states.send_if_modified(|states| {
            let state = states.entry(name.to_owned()).or_default();
            before = state.clone();
            match &before {
                State::Loaded(reranker) => *state = State::Unloading(Arc::clone(reranker)),
                State::Failed { .. } => *state = State::Unloaded,
                State::Unloaded | State::Loading { .. } | State::Unloading(_) => return false,
            }
            true
        });
        match before {
            State::Loading { .. } => return Err(ModelError::Busy { name: name.to_owned() }),
            State::Loaded(reranker) => {
                let (set, model) = (self.clone(), name.to_owned());
                let unloading = tokio::spawn(async move {
                    reranker.drain().await;
                    reranker.close().await;
                    drop(reranker);
                    let mut before = None;
                    set.inner.states.send_modify(|states| before = states.insert(model.clone(), State::Unloaded));
                    drop(before);
                    tracing::info!(model, "unloaded");
                });
                // What was done is told, also where the next request has it loaded again by now.
                let _ended = unloading.await;
                return Ok(ModelStatus::of_named(name, self.find(name)?, &State::Unloaded));
            }
            State::Unloaded | State::Failed { .. } | State::Unloading(_) => {}
        }
        self.settled(name).await;
        self.status(name)
    }

    fn find(&self, name: &str) -> Result<&NamedModel, ModelError> {
        if self.inner.default.names().iter().any(|known| known == name) {
            return Err(ModelError::Default { name: name.to_owned() });
        }
        let available = || self.inner.settings.named.keys().cloned().collect();
        let found = self.inner.settings.named.get(name);
        found.ok_or_else(|| ModelError::unknown(name, available()))
    }

    /// Waits until a model is neither being loaded nor unloaded.
    async fn settled(&self, name: &str) -> State {
        let mut states = self.inner.states.subscribe();
        let is_settled =
            |states: &States| !matches!(states.get(name), Some(State::Loading { .. } | State::Unloading(_)));
        // The sender lives in `self`, so that there is always an answer.
        let states = states.wait_for(is_settled).await;
        states.ok().and_then(|states| states.get(name).cloned()).unwrap_or_default()
    }

    /// Every model, the default one first.
    #[must_use]
    pub fn statuses(&self) -> Vec<ModelStatus> {
        let states = self.inner.states.borrow();
        let named = self.inner.settings.named.iter();
        let named = named
            .map(|(name, model)| ModelStatus::of_named(name, model, &states.get(name).cloned().unwrap_or_default()));
        std::iter::once(ModelStatus::of_default(&self.inner.default)).chain(named).collect()
    }

    fn status(&self, name: &str) -> Result<ModelStatus, ModelError> {
        let found = self.statuses().into_iter().find(|status| status.names.iter().any(|known| known == name));
        found.ok_or_else(|| ModelError::unknown(name, Vec::new()))
    }

    /// The bytes that all loaded models take, and the limit (0: none).
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let used = self.statuses().iter().map(|status| status.memory_bytes).sum();
        (used, self.inner.settings.max_memory_bytes)
    }

    /// Everyone that is in memory, the default model first: those that take requests, and those that answer their last
    /// ones.
    #[must_use]
    pub fn present(&self) -> Vec<Arc<Reranker>> {
        let states = self.inner.states.borrow();
        let named = states.values().filter_map(|state| match state {
            State::Loaded(reranker) | State::Unloading(reranker) => Some(Arc::clone(reranker)),
            State::Unloaded | State::Loading { .. } | State::Failed { .. } => None,
        });
        std::iter::once(Arc::clone(&self.inner.default)).chain(named).collect()
    }

    /// Everyone that takes requests, the default model first.
    fn working(&self) -> Vec<Arc<Reranker>> {
        let states = self.inner.states.borrow();
        let named = states.values().filter_map(|state| match state {
            State::Loaded(reranker) => Some(Arc::clone(reranker)),
            State::Unloaded | State::Loading { .. } | State::Unloading(_) | State::Failed { .. } => None,
        });
        std::iter::once(Arc::clone(&self.inner.default)).chain(named).collect()
    }

    /// Whether new requests are welcome.
    ///
    /// # Errors
    /// What the first model that takes none says.
    pub fn ready(&self) -> Result<(), RerankError> {
        self.working().iter().try_for_each(|reranker| reranker.ready())
    }

    /// Puts another policy and other settings in force, for all models that are loaded.
    pub fn reconfigure(&self, policy: &Policy, schedule: &ScheduleSettings) {
        // With the states held still, so that no model is taken in meanwhile with what is no longer in force.
        self.inner.states.send_if_modified(|states| {
            let named = states.values().filter_map(|state| match state {
                State::Loaded(reranker) => Some(reranker),
                State::Unloaded | State::Loading { .. } | State::Unloading(_) | State::Failed { .. } => None,
            });
            for reranker in std::iter::once(&self.inner.default).chain(named) {
                reranker.reconfigure(policy.clone(), schedule);
            }
            false
        });
    }

    /// Waits until a device is gone, for good, and says why.
    pub async fn lost(&self) -> String {
        let mut lost = self.inner.lost.subscribe();
        // The sender lives in `self`.
        let reason = lost.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    fn watch(&self, reranker: &Reranker) {
        let (lost, inner) = (reranker.lost(), Arc::downgrade(&self.inner));
        tokio::spawn(async move {
            if let Some(reason) = lost.await
                && let Some(inner) = inner.upgrade()
            {
                inner.lost.send_replace(Some(reason));
            }
        });
    }

    /// Refuses new requests from now on and waits until the accepted ones are answered.
    pub async fn drain(&self) {
        // With the states held still: no model is taken in after them.
        self.inner.states.send_if_modified(|_| {
            self.inner.leaving.store(true, Ordering::Release);
            false
        });
        let mut leaving = JoinSet::new();
        for reranker in self.working() {
            leaving.spawn(async move { reranker.drain().await });
        }
        leaving.join_all().await;
        // Those that were being unloaded have accepted requests too.
        let mut states = self.inner.states.subscribe();
        let nobody = |states: &States| !states.values().any(|state| matches!(state, State::Unloading(_)));
        let _ = states.wait_for(nobody).await;
    }
}

fn unavailable(name: &str, problem: &'static str, retry_after: Duration) -> RerankError {
    RerankError::ModelUnavailable { name: name.to_owned(), problem, retry_after }
}

/// Lets a model rank before anyone else asks it to.
async fn warm_up(name: &str, reranker: &Reranker) -> Result<(), ModelError> {
    let time = reranker.warm_up().await.map_err(|error| {
        let error = anyhow::Error::new(error).context("its first ranking failed");
        ModelError::Failed { name: name.to_owned(), problem: format!("{error:#}") }
    })?;
    tracing::debug!(model = name, seconds = time.as_secs_f64(), "first ranking");
    Ok(())
}

/// Runs work that takes its time on a thread that has it. The error is the text of the whole chain.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Result<T, String> {
    // A tokio runtime is needed where a reranker is made.
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "loading panicked".to_owned())?.map_err(|error| format!("{error:#}"))
}
