//! One request from validation to ranking: validate, admit, tokenize, schedule, score, order.
//!
//! Tokenizing and scoring run in `cpu_pool`, passes on the scheduler's device. [`cost`]
//! estimates a request's tokens, and `budget` fits it into its budget. `rank` admits and tokenizes
//! requests, `rounds` runs their passes, `ranking` orders their documents. `cascade` ranks on
//! several models in turn.

mod budget;
mod canary;
mod cascade;
mod cost;
mod cpu_pool;
mod drift;
mod explain;
mod lists;
mod profiles;
mod rank;
mod ranking;
mod rounds;
mod stability;
#[cfg(test)]
mod tests;
mod time_limit;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use self::drift::DriftSampler;
use self::time_limit::TimeLimit;
use crate::context::RequestContext;
use crate::prompt::Prompter;
use crate::rerank::{
    Instructions, JoinedText, LimitSettings, MAX_STABILITY, Mode, PassageSettings, Ranking, RerankError, RerankRequest,
};
use crate::runtime::{ModelFacts, Runtime};
use crate::schedule::{AdmissionControl, BatchStatistics, QueueStatus, ScheduleSettings, Scheduler};

pub use canary::{CanaryError, CanaryReport};
pub use cascade::{Cascade, CascadeStage, StageModel};
pub use drift::{DriftSample, InstructionSource};
pub use explain::{ExplainedPass, Explanation};
pub use profiles::{InstructionSettings, ProfileError, load_instructions};

/// The limits on requests, and the stored instructions.
///
/// It can change while the server runs; a request keeps the policy that it began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Limits on one request.
    pub limits: LimitSettings,
    /// How long documents are read.
    pub passages: PassageSettings,
    /// The stored instructions.
    pub instructions: Instructions,
}

/// One loaded model with its tokenizer and its scheduler: ranks requests.
pub struct Reranker {
    names: Vec<String>,
    prompter: Arc<Prompter>,
    facts: ModelFacts,
    policy: RwLock<Arc<Policy>>,
    scheduler: Scheduler,
    drift: DriftSampler,
    canary: OnceLock<CanaryReport>,
}

impl Reranker {
    /// Puts a prompter and a runtime of the same model together.
    ///
    /// The model answers to `names`, its own first; there must be one. Models with the same
    /// admission control share its limits and their device.
    ///
    /// # Panics
    /// Outside a tokio runtime, which runs the scheduler's worker.
    pub fn new(
        names: Vec<String>,
        prompter: Prompter,
        runtime: impl Runtime,
        policy: Policy,
        admission: &AdmissionControl,
    ) -> Self {
        Self {
            names,
            prompter: Arc::new(prompter),
            facts: runtime.facts().clone(),
            policy: RwLock::new(Arc::new(policy)),
            scheduler: Scheduler::start(runtime, admission),
            drift: DriftSampler::default(),
            canary: OnceLock::new(),
        }
    }

    /// Applies another policy and other settings to requests that come from now on.
    pub fn reconfigure(&self, policy: Policy, schedule: &ScheduleSettings) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.scheduler.reconfigure(schedule);
    }

    /// Ranks the documents of one request that comes from no HTTP client.
    ///
    /// # Errors
    /// Every [`RerankError`]: an unknown model, bad input, overload, a missed deadline.
    pub async fn rerank(&self, mut request: RerankRequest) -> Result<Ranking, RerankError> {
        request.resolve_model(&self.names)?;
        if request.cascade.is_set() {
            return Err(RerankError::invalid("cascade", "stages and the caller's scores need a server"));
        }
        let (_context, mut rankings) = self.rerank_all(vec![request], RequestContext::internal()).await?;
        Ok(rankings.swap_remove(0))
    }

    /// Ranks several requests of one client as one, and returns one ranking for each, in order.
    ///
    /// All requests are validated before any work. They share one admission, one deadline (that of
    /// the first) and their passes run together. The caller has resolved the model's name.
    ///
    /// # Errors
    /// As [`Reranker::rerank`]; [`RerankError::TooManyDocuments`] also for more requests than
    /// `limits.max_documents`.
    pub async fn rerank_all(
        &self,
        mut requests: Vec<RerankRequest>,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        let policy = self.policy();
        prepare(&mut requests, &policy)?;
        for (index, request) in requests.iter().enumerate() {
            let checked = self.prompter.check_choice_of_exit(request);
            checked.map_err(|error| error_of_request(index, requests.len(), error))?;
        }
        let constraints = requests.first().map(|request| request.constraints).unwrap_or_default();
        let limit = TimeLimit::begin(&constraints, &self.scheduler.settings(), &mut context);
        let documents = requests.iter().map(|request| request.documents.len()).sum();
        context.timeline.update_progress(|progress| progress.of_documents = documents);
        TimeLimit::run(limit, self.admit_and_rank(requests, &policy.limits, context)).await
    }

    /// The names that this model answers to; the first is its own.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The model's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The scheduler's settings that are in force.
    #[must_use]
    pub fn schedule(&self) -> ScheduleSettings {
        self.scheduler.settings()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tokens that the model reads of a document, unless the request sets another limit.
    #[must_use]
    pub fn document_tokens(&self) -> usize {
        self.prompter.facts().limits.document
    }

    /// Whether relevance scores are estimates of the probability that a document is relevant.
    #[must_use]
    pub fn has_probabilities(&self) -> bool {
        self.prompter.has_probabilities()
    }

    /// The `relevance_score` from which a document counts as relevant, where the family's scores
    /// say that.
    #[must_use]
    pub fn relevant_from(&self) -> Option<f32> {
        self.prompter.facts().relevant_from
    }

    /// Whether documents can leave the model after so many layers, in the mode of `mode`.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn check_early_exit(&self, layer: u16, mode: Mode) -> Result<(), String> {
        self.prompter.check_early_exit(layer)?;
        if mode != Mode::Pointwise && self.prompter.slate_score().is_some() {
            let family = self.family();
            return Err(format!("family `{family}` reads documents together; only mode pointwise has an early exit"));
        }
        Ok(())
    }

    /// Whether all documents can be scored after so many layers.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn check_cutoff_layer(&self, layer: u16) -> Result<(), String> {
        self.prompter.check_cutoff_layer(layer)
    }

    /// The prompt family's name.
    #[must_use]
    pub fn family(&self) -> &str {
        &self.prompter.facts().name
    }

    /// The model's facts: architecture, dtype, device, sizes.
    #[must_use]
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Bytes that the model may take: its weights, its prefix cache and its largest batch.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.facts.memory_bytes(self.schedule().max_batch_tokens.max(self.policy().limits.max_slate_tokens))
    }

    /// Requests and passes at this moment.
    #[must_use]
    pub fn queue(&self) -> QueueStatus {
        self.scheduler.status()
    }

    /// Whether the model takes new requests.
    ///
    /// # Errors
    /// Why it does not: [`RerankError::Draining`], [`RerankError::DeviceLost`] or
    /// [`RerankError::Stalled`].
    pub fn ready(&self) -> Result<(), RerankError> {
        self.scheduler.ready()
    }

    /// Waits until the device is lost, and returns the reason; `None` if the reranker ended first.
    /// The future keeps nothing alive.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        self.scheduler.lost()
    }

    /// Statistics of the batches that ran so far.
    #[must_use]
    pub fn batches(&self) -> BatchStatistics {
        self.scheduler.batches()
    }

    /// Refuses new requests from now on, and waits until the accepted ones have ended.
    pub async fn drain(&self) {
        self.scheduler.start_draining();
        self.scheduler.drained().await;
    }

    /// Frees the model and its memory. Call it on a drained reranker: later requests are refused.
    pub async fn close(&self) {
        self.scheduler.close().await;
    }
}

/// Resolves the instructions of all requests and validates them.
fn prepare(requests: &mut [RerankRequest], policy: &Policy) -> Result<(), RerankError> {
    let (count, limit) = (requests.len(), policy.limits.max_documents);
    if count > limit {
        return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
    }
    let mut joined = JoinedText::default();
    for (index, request) in requests.iter_mut().enumerate() {
        let resolved = policy.instructions.resolve(request, &mut joined);
        let valid = resolved.and_then(|()| validate(request, policy));
        valid.map_err(|error| error_of_request(index, count, error))?;
    }
    let budget = requests.first().map(|request| request.constraints.budget).unwrap_or_default();
    if count > 1 && budget.is_set() {
        let field = if budget.max_latency.is_some() { "max_latency_ms" } else { "max_total_tokens" };
        return Err(RerankError::invalid(field, "a budget is for one list of documents, not for pairs"));
    }
    Ok(())
}

/// Checks a request before it is tokenized, and resolves how its documents are split.
fn validate(request: &mut RerankRequest, policy: &Policy) -> Result<(), RerankError> {
    if request.query.trim().is_empty() {
        return Err(RerankError::invalid("query", "must not be empty or only whitespace"));
    }
    if request.documents.is_empty() {
        return Err(RerankError::NoDocuments { field: "documents".to_owned() });
    }
    let (count, limit) = (request.documents.len(), policy.limits.max_documents);
    if count > limit {
        return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
    }
    if let Some(scores) = request.cascade.scores.as_ref().filter(|scores| scores.len() != count) {
        let problem = format!("has {} entries for {count} documents; give one for each", scores.len());
        return Err(RerankError::invalid("scores", problem));
    }
    if let Some(orders) = request.stability.filter(|orders| !(1..=MAX_STABILITY).contains(orders)) {
        let problem = format!("is {orders}; it must be between 1 and {MAX_STABILITY}");
        return Err(RerankError::invalid("stability", problem));
    }
    let constraints = &request.constraints;
    let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis() as usize);
    for (field, value) in [
        ("top_n", request.top_n),
        ("max_tokens_per_doc", request.max_tokens_per_doc),
        ("timeout_ms", milliseconds(constraints.timeout)),
        ("max_latency_ms", milliseconds(constraints.budget.max_latency)),
        ("max_total_tokens", constraints.budget.max_total_tokens),
    ] {
        if value == Some(0) {
            return Err(RerankError::invalid(field, "is 0; it must be at least 1"));
        }
    }
    request.chunking = request.passages.resolve(&policy.passages)?;
    Ok(())
}

/// The error of one of several requests, with its index in the fields that it names.
fn error_of_request(index: usize, count: usize, error: RerankError) -> RerankError {
    if count > 1 { error.of_pair(index) } else { error }
}
