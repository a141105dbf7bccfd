//! [`Service`]: the state that the handlers share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::auth::Authenticator;
use super::body_memory::BodyMemoryLimit;
use super::error::{ApiError, ErrorCode, OWN_DEADLINE};
use super::route_table::outcomes;
use super::settings::ServerSettings;
use crate::models::ModelSet;
use crate::pipeline::Reranker;
use crate::rerank::RerankError;
use crate::telemetry::Telemetry;

/// State that all handlers share. Clones share it too.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    /// Empty while the models load.
    models: OnceLock<ModelSet>,
    telemetry: Arc<Telemetry>,
    authenticator: Arc<Authenticator>,
    settings: ServerSettings,
    body_memory: BodyMemoryLimit,
    /// Whether [`Service::start_leaving`] was called.
    leaving: AtomicBool,
    /// Cancelled by [`Service::cut_off`].
    cut_off: CancellationToken,
    /// Seconds since 1970.
    started: u64,
}

impl Service {
    /// A service without models: it answers `/health`, and every request that needs one gets 503.
    #[must_use]
    pub fn new(telemetry: Arc<Telemetry>, authenticator: Arc<Authenticator>, settings: ServerSettings) -> Self {
        let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).chain([OWN_DEADLINE]).collect();
        telemetry.expect(&outcomes(), &codes);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let body_memory = BodyMemoryLimit::new(settings.max_parsing_bytes);
        let (models, leaving) = (OnceLock::new(), AtomicBool::new(false));
        let cut_off = CancellationToken::new();
        let inner = Inner { models, telemetry, authenticator, settings, body_memory, leaving, cut_off, started };
        Self { inner: Arc::new(inner) }
    }

    /// Serves these models from now on. Only the first call counts.
    pub fn set_models(&self, models: impl Into<ModelSet>) {
        let _first = self.inner.models.set(models.into());
    }

    /// Makes `/ready` fail from now on. Requests are still accepted.
    pub fn start_leaving(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the server takes new requests.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self) -> Result<(), ApiError> {
        // A device failure comes first: it may be why the server leaves.
        self.models()?.ready()?;
        if self.is_leaving() { Err(RerankError::Draining.into()) } else { Ok(()) }
    }

    /// Answers every request that is not finished with 503, and drops its work.
    pub fn cut_off(&self) {
        self.inner.cut_off.cancel();
    }

    /// Ends when [`Service::cut_off`] was called.
    pub(super) async fn until_cut_off(&self) {
        self.inner.cut_off.cancelled().await;
    }

    /// Whether [`Service::start_leaving`] was called.
    pub(super) fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    /// The models.
    ///
    /// # Errors
    /// [`ApiError::ModelsLoading`].
    pub(super) fn models(&self) -> Result<&ModelSet, ApiError> {
        self.inner.models.get().ok_or(ApiError::ModelsLoading)
    }

    /// The default model.
    ///
    /// # Errors
    /// [`ApiError::ModelsLoading`].
    pub(super) fn reranker(&self) -> Result<&Reranker, ApiError> {
        Ok(self.models()?.default_model())
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
    }

    pub(super) fn authenticator(&self) -> &Authenticator {
        &self.inner.authenticator
    }

    pub(super) fn settings(&self) -> &ServerSettings {
        &self.inner.settings
    }

    pub(super) fn body_memory(&self) -> &BodyMemoryLimit {
        &self.inner.body_memory
    }

    /// When the service started, in seconds since 1970.
    pub(super) fn started(&self) -> u64 {
        self.inner.started
    }
}
