//! Loading and unloading named models.
//!
//! Both run in tasks of their own: a client that stops waiting stops neither. Loading runs on a
//! blocking thread; unloading waits for the requests that the model has accepted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::task::JoinSet;

use super::set::{ModelSet, RETRY_LATER, RETRY_SOON, unavailable};
use super::settings::{LoadWhen, NamedModel};
use super::state::{MemoryLimit, ModelError, ModelStatus, State, States};
use crate::pipeline::Reranker;
use crate::rerank::RerankError;

impl ModelSet {
    /// Runs the canary of the default model, then loads the models with `load = "start"` one
    /// after the other.
    ///
    /// # Errors
    /// [`ModelError::Failed`] or [`ModelError::NoRoom`] of the first model that cannot rank or
    /// load.
    pub async fn load_start_models(&self) -> Result<(), ModelError> {
        run_canary(self.inner.default.name(), &self.inner.default).await?;
        for (name, model) in &self.inner.settings.named {
            if model.load == LoadWhen::Start {
                self.load(name).await?;
            }
        }
        Ok(())
    }

    /// Returns a named model that takes requests, or the reason why it does not. Starts to load an
    /// on-demand model that is not loaded, without waiting for it.
    pub(super) fn loaded(&self, name: &str) -> Result<Arc<Reranker>, RerankError> {
        let state = self.inner.states.borrow().get(name).cloned().unwrap_or_default();
        let on_demand = self.inner.settings.named.get(name).is_some_and(|model| model.load == LoadWhen::OnDemand);
        match state {
            State::Loaded(reranker) => Ok(reranker),
            State::Loading { .. } => Err(unavailable(name, "is being loaded", RETRY_SOON)),
            State::Unloading(_) => Err(unavailable(name, "is being unloaded", RETRY_SOON)),
            State::Failed { at, .. } if !on_demand || at.elapsed() < RETRY_LATER => {
                Err(unavailable(name, "could not be loaded", RETRY_LATER))
            }
            State::Unloaded if !on_demand => {
                Err(unavailable(name, "is not loaded until an administrator loads it", RETRY_LATER))
            }
            State::Unloaded | State::Failed { .. } if self.is_draining() => Err(RerankError::Draining),
            State::Unloaded | State::Failed { .. } => {
                let (set, name_to_load) = (self.clone(), name.to_owned());
                // The result is logged, and stands in the model's state.
                tokio::spawn(async move { set.load(&name_to_load).await });
                Err(unavailable(name, "is being loaded", RETRY_SOON))
            }
        }
    }

    /// Loads a named model and waits until it is loaded.
    ///
    /// # Errors
    /// [`ModelError`]: an unknown name, the default model, or a model that is unloading, does not
    /// fit the memory limit or cannot be loaded.
    pub async fn load(&self, name: &str) -> Result<ModelStatus, ModelError> {
        if let Some(cascade) = self.inner.settings.cascades.get(name) {
            return self.load_cascade(name, cascade).await;
        }
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
                tokio::spawn(async move {
                    let started = Instant::now();
                    let loaded = set.try_load(&name, model).await;
                    set.finish_loading(name, loaded, started);
                });
            }
            State::Unloading(_) => return Err(ModelError::Busy { name: name.to_owned() }),
            State::Loading { .. } | State::Loaded(_) => {}
        }
        match self.wait_settled(name).await {
            State::Failed { error, .. } => Err((*error).clone()),
            State::Unloaded | State::Loading { .. } | State::Loaded(_) | State::Unloading(_) => self.status(name),
        }
    }

    async fn try_load(&self, name: &str, model: NamedModel) -> Result<Arc<Reranker>, ModelError> {
        let failed = |problem: String| ModelError::Failed { name: name.to_owned(), problem };
        let loader = self.inner.loader.clone().ok_or_else(|| failed("there is no loader".to_owned()))?;
        let (measuring, measured) = (Arc::clone(&loader), model.clone());
        let bytes = run_blocking(move || measuring.memory_bytes(&measured)).await.map_err(failed)?;
        self.reserve_memory(name, bytes)?;
        let (own_name, default) = (name.to_owned(), Arc::clone(&self.inner.default));
        let load = move || {
            let policy = default.policy().as_ref().clone();
            loader.load(&own_name, &model, policy)
        };
        let reranker = run_blocking(load).await.map_err(failed)?;
        run_canary(name, &reranker).await?;
        Ok(Arc::new(reranker))
    }

    /// Records the result of a load, a model or an error, as the model's state.
    fn finish_loading(&self, name: String, loaded: Result<Arc<Reranker>, ModelError>, started: Instant) {
        match &loaded {
            Ok(reranker) => {
                let (bytes, seconds) = (reranker.memory_bytes(), started.elapsed().as_secs_f64());
                tracing::info!(model = name, family = reranker.family(), bytes, seconds, "model loaded");
                self.watch_device(reranker);
            }
            Err(error) => tracing::error!(model = name, error = %error, "model not loaded"),
        }
        self.inner.states.send_modify(|states| {
            let state = match loaded {
                Ok(_) if self.is_draining() => State::Unloaded,
                Ok(reranker) => {
                    // Apply settings that changed while the model loaded. `ModelSet::reconfigure`
                    // takes the same lock on the states, so no change is lost in between.
                    if let Some(sampling) = self.inner.drift.get() {
                        sampling.start(&reranker);
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

    /// Reserves memory for a model that is about to be loaded, if it fits the limit.
    fn reserve_memory(&self, name: &str, bytes: u64) -> Result<(), ModelError> {
        let limit = self.inner.settings.max_memory_bytes;
        let mut refused = None;
        self.inner.states.send_if_modified(|states| {
            let default = self.inner.default.memory_bytes();
            let memory = MemoryLimit { limit, used: default + states.values().map(State::bytes).sum::<u64>() };
            if !memory.fits(bytes) {
                refused = Some(ModelError::NoRoom { name: name.to_owned(), bytes, used: memory.used, limit });
                return false;
            }
            states.insert(name.to_owned(), State::Loading { bytes });
            true
        });
        refused.map_or(Ok(()), Err)
    }

    /// Stops a named model from taking requests, waits for the accepted ones, and frees its memory.
    ///
    /// # Errors
    /// [`ModelError`]: an unknown name, the default model, a model that is loading.
    pub async fn unload(&self, name: &str) -> Result<ModelStatus, ModelError> {
        if let Some(cascade) = self.inner.settings.cascades.get(name) {
            let models = cascade.models().map(str::to_owned).collect();
            return Err(ModelError::Cascade { name: name.to_owned(), models });
        }
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
                let _ended = tokio::spawn(self.clone().finish_unloading(name.to_owned(), reranker)).await;
                // Report the unload, even if another request has started to load the model again.
                return Ok(ModelStatus::of_named(name, self.find(name)?, &State::Unloaded));
            }
            State::Unloaded | State::Failed { .. } | State::Unloading(_) => {}
        }
        self.wait_settled(name).await;
        self.status(name)
    }

    async fn finish_unloading(self, model: String, reranker: Arc<Reranker>) {
        reranker.drain().await;
        reranker.close().await;
        drop(reranker);
        let mut before = None;
        self.inner.states.send_modify(|states| before = states.insert(model.clone(), State::Unloaded));
        drop(before);
        tracing::info!(model, "model unloaded");
    }

    fn find(&self, name: &str) -> Result<&NamedModel, ModelError> {
        if self.inner.default.names().iter().any(|known| known == name) {
            return Err(ModelError::Default { name: name.to_owned() });
        }
        let settings = &self.inner.settings;
        let available = || settings.named.keys().chain(settings.cascades.keys()).cloned().collect();
        let found = self.inner.settings.named.get(name);
        found.ok_or_else(|| ModelError::unknown(name, available()))
    }

    /// Waits until a model is neither loading nor unloading, and returns its state.
    async fn wait_settled(&self, name: &str) -> State {
        let mut states = self.inner.states.subscribe();
        let is_settled =
            |states: &States| !matches!(states.get(name), Some(State::Loading { .. } | State::Unloading(_)));
        // The sender lives in `self`, so there is always a state.
        let states = states.wait_for(is_settled).await;
        states.ok().and_then(|states| states.get(name).cloned()).unwrap_or_default()
    }

    pub(super) fn status(&self, name: &str) -> Result<ModelStatus, ModelError> {
        let found = self.statuses().into_iter().find(|status| status.names.iter().any(|known| known == name));
        found.ok_or_else(|| ModelError::unknown(name, Vec::new()))
    }

    /// Makes all models refuse new requests, and waits until the accepted ones have ended.
    pub async fn drain(&self) {
        // Under the lock on the states: no model is added afterwards.
        self.inner.states.send_if_modified(|_| {
            self.inner.draining.store(true, Ordering::Release);
            false
        });
        let mut draining = JoinSet::new();
        for reranker in self.loaded_models() {
            draining.spawn(async move { reranker.drain().await });
        }
        draining.join_all().await;
        // Models that are unloading have accepted requests too.
        let mut states = self.inner.states.subscribe();
        let none_unloads = |states: &States| !states.values().any(|state| matches!(state, State::Unloading(_)));
        let _ = states.wait_for(none_unloads).await;
    }

    fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }
}

/// Runs a model's canary before it is served.
async fn run_canary(name: &str, reranker: &Reranker) -> Result<(), ModelError> {
    let report = reranker.run_canary().await.map_err(|error| {
        let error = anyhow::Error::new(error);
        ModelError::Failed { name: name.to_owned(), problem: format!("{error:#}") }
    })?;
    let (right, questions, seconds) = (report.right, report.questions, report.time.as_secs_f64());
    tracing::debug!(model = name, right, questions, seconds, "canary");
    Ok(())
}

/// Runs work on a blocking thread. Its error is the text of the whole chain.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_panicked| "loading panicked".to_owned())?.map_err(|error| format!("{error:#}"))
}
