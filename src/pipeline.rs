//! One request from validation to ranking: validate, admit, plan, render, schedule, score, rank.
//!
//! Tokenising and rendering run on blocking threads, passes on the scheduler's device; what is left
//! here is the order of things. What a request will cost is in `cost`, what its budget leaves of it in `allowance`, and the
//! way of admitted requests to rankings in `rank`.

mod budget;
mod cost;
mod drift;
mod rank;
mod tokenize_pool;
mod warm_up;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use self::cost::estimate;
use self::drift::DriftWatch;
use self::rank::Admitted;
use crate::prompt::Prompter;
use crate::rerank::{
    Caller, Instructions, JoinedText, LimitSettings, Mode, Progress, Ranking, RerankError, RerankRequest, Stages,
};
use crate::runtime::{ModelFacts, Runtime};
use crate::schedule::{Arrival, BatchStatistics, DeviceGate, QueueStatus, ScheduleSettings, Scheduler};
use crate::scoring::{PlannedPass, Rounds};

/// What the model would read for a request, for people (`podium rerank --explain`).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Explanation {
    /// The prompt family.
    pub family: String,
    /// The mode that would run.
    pub mode: Mode,
    /// The passes of the first round.
    pub passes: Vec<ExplainedPass>,
    /// What a ranking would warn of.
    pub warnings: Vec<String>,
}

/// One pass, decoded.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ExplainedPass {
    /// The documents it reads, as indices into the request.
    pub documents: Vec<usize>,
    /// Tokens computed.
    pub tokens: usize,
    /// The trunk's text, control tokens spelled out.
    pub trunk: String,
    /// The branches' texts.
    pub branches: Vec<String>,
    /// How many positions are read.
    pub marks: usize,
}

/// What requests may ask for, and what they are told of instructions. It can change while the server runs; a request
/// keeps to the end what it began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What one request may ask for.
    pub limits: LimitSettings,
    /// The stored instructions.
    pub instructions: Instructions,
}

/// Reranks: the one way from a [`RerankRequest`] to a [`Ranking`].
pub struct Reranker {
    names: Vec<String>,
    prompter: Arc<Prompter>,
    facts: ModelFacts,
    policy: RwLock<Arc<Policy>>,
    scheduler: Scheduler,
    drift: DriftWatch,
}

/// How far the requests of one call have come.
struct Tally {
    progress: Mutex<Progress>,
    stages: Stages,
}

impl Tally {
    fn of(documents: usize, stages: Stages) -> Self {
        Self { progress: Mutex::new(Progress { of_documents: documents, ..Progress::default() }), stages }
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn now(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reranker {
    /// Puts a prompter and a runtime of the same model together. `names` are what the model answers
    /// to, its own first; there must be one.
    ///
    /// # Panics
    /// Outside a tokio runtime, which runs the scheduler's worker.
    pub fn new(
        names: Vec<String>,
        prompter: Prompter,
        runtime: impl Runtime,
        policy: Policy,
        schedule: &ScheduleSettings,
    ) -> Self {
        Self::behind(DeviceGate::default(), names, prompter, runtime, policy, schedule)
    }

    /// As [`Reranker::new`], on a device that others who hold this gate use too.
    ///
    /// # Panics
    /// Outside a tokio runtime, which runs the scheduler's worker.
    pub fn behind(
        gate: DeviceGate,
        names: Vec<String>,
        prompter: Prompter,
        runtime: impl Runtime,
        policy: Policy,
        schedule: &ScheduleSettings,
    ) -> Self {
        Self {
            names,
            prompter: Arc::new(prompter),
            facts: runtime.facts().clone(),
            policy: RwLock::new(Arc::new(policy)),
            scheduler: Scheduler::start_behind(gate, runtime, schedule),
            drift: DriftWatch::default(),
        }
    }

    /// Puts another policy and other settings in force, for requests that come from now on.
    pub fn reconfigure(&self, policy: Policy, schedule: &ScheduleSettings) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.scheduler.reconfigure(schedule);
    }

    /// Ranks the documents of a request.
    ///
    /// # Errors
    /// Every [`RerankError`]: bad input before any work, overload and deadlines while waiting.
    pub async fn rerank(&self, request: RerankRequest) -> Result<Ranking, RerankError> {
        let mut rankings = self.rerank_all(vec![request], Caller::nobody()).await?;
        Ok(rankings.swap_remove(0))
    }

    /// Ranks several requests of one caller as one: all of them are checked before any work, they share one admission and
    /// one deadline, those of the first, and their passes run together. One ranking for each, in order.
    ///
    /// # Errors
    /// As [`Reranker::rerank`]; more requests than there may be documents in one.
    pub async fn rerank_all(
        &self,
        mut requests: Vec<RerankRequest>,
        caller: Caller,
    ) -> Result<Vec<Ranking>, RerankError> {
        let policy = self.policy();
        let (count, limit) = (requests.len(), policy.limits.max_documents);
        if count > limit {
            return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
        }
        let mut joined = JoinedText::default();
        for (index, request) in requests.iter_mut().enumerate() {
            let resolved = policy.instructions.resolve(request, &self.names, &mut joined);
            let ready = resolved.and_then(|()| self.validate(request, &policy.limits));
            ready.map_err(|error| of_one(index, count, error))?;
        }
        let terms = requests.first().map(|request| request.terms).unwrap_or_default();
        if count > 1 && terms.budget.is_set() {
            let field = if terms.budget.max_latency.is_some() { "max_latency_ms" } else { "max_total_tokens" };
            return Err(RerankError::invalid(field, "a budget is for one list of documents, not for pairs"));
        }
        let estimated = requests.iter().map(|request| estimate(request, &self.prompter, &policy.limits)).sum();
        let (since, stages, timeout) = (caller.since, caller.stages.clone(), terms.timeout);
        let arrival = Arrival { caller, priority: terms.priority, tokens: estimated, timeout };
        let admitted = Admitted { admission: self.scheduler.admit(&arrival)?, estimated, since };
        let tally = Tally::of(requests.iter().map(|request| request.documents.len()).sum(), stages);
        let all = self.rank(requests, &policy.limits, &admitted, &tally);
        let limit = [timeout, self.scheduler.settings().timeout()].into_iter().flatten().min();
        // A time that no clock reaches is no limit.
        let Some((limit, deadline)) = limit.and_then(|limit| Some((limit, since.checked_add(limit)?))) else {
            return all.await;
        };
        let ranked = tokio::time::timeout_at(deadline.into(), all).await;
        ranked.unwrap_or_else(|_| Err(RerankError::DeadlineExceeded { limit, done: tally.now() }))
    }

    /// What can be said of a request before it is tokenised.
    fn validate(&self, request: &RerankRequest, limits: &LimitSettings) -> Result<(), RerankError> {
        if let Some(name) = &request.model
            && !self.names.iter().any(|known| **known == **name)
        {
            return Err(RerankError::unknown_model(name, &self.names));
        }
        if request.query.trim().is_empty() {
            return Err(RerankError::invalid("query", "must not be empty or only whitespace"));
        }
        if request.documents.is_empty() {
            return Err(RerankError::NoDocuments { field: "documents".to_owned() });
        }
        let (count, limit) = (request.documents.len(), limits.max_documents);
        if count > limit {
            return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
        }
        let terms = &request.terms;
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis() as usize);
        for (field, value) in [
            ("top_n", request.top_n),
            ("max_tokens_per_doc", request.max_tokens_per_doc),
            ("timeout_ms", milliseconds(terms.timeout)),
            ("max_latency_ms", milliseconds(terms.budget.max_latency)),
            ("max_total_tokens", terms.budget.max_total_tokens),
        ] {
            if value == Some(0) {
                return Err(RerankError::invalid(field, "is 0; it must be at least 1"));
            }
        }
        Ok(())
    }

    /// What the model would read for this request. Runs nothing.
    ///
    /// # Errors
    /// Those of [`Reranker::rerank`] that do not come from the queue or the model.
    pub fn explain(&self, request: &RerankRequest) -> Result<Explanation, RerankError> {
        let policy = self.policy();
        let mut request = request.clone();
        policy.instructions.resolve(&mut request, &self.names, &mut JoinedText::default())?;
        self.validate(&request, &policy.limits)?;
        let reading = Arc::new(self.prompter.tokenize(&request, &policy.limits, &|| false)?);
        let mut rounds = Rounds::begin(Arc::clone(&self.prompter), Arc::clone(&reading))?;
        let passes = rounds.next_round()?.unwrap_or_default();
        Ok(Explanation {
            family: self.family().to_owned(),
            mode: reading.mode,
            passes: passes.into_iter().map(|planned| self.explain_pass(planned)).collect(),
            warnings: reading.warnings.clone(),
        })
    }

    fn explain_pass(&self, PlannedPass { documents, pass }: PlannedPass) -> ExplainedPass {
        ExplainedPass {
            documents,
            tokens: pass.tokens(),
            trunk: self.prompter.decode(&pass.trunk),
            branches: pass.branches.iter().map(|branch| self.prompter.decode(branch)).collect(),
            marks: pass.probe.marks().len(),
        }
    }

    /// The names this model answers to; the first is its own.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The model's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The settings of its scheduler that are in force.
    #[must_use]
    pub fn schedule(&self) -> ScheduleSettings {
        self.scheduler.settings()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tokens that are read of a document, unless the request says otherwise.
    #[must_use]
    pub fn document_tokens(&self) -> usize {
        self.prompter.facts().limits.document
    }

    /// The prompt family's name.
    #[must_use]
    pub fn family(&self) -> &str {
        &self.prompter.facts().name
    }

    /// What the model is.
    #[must_use]
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// What waits and runs now.
    #[must_use]
    pub fn queue(&self) -> QueueStatus {
        self.scheduler.status()
    }

    /// Whether new requests are welcome.
    ///
    /// # Errors
    /// Why not: [`RerankError::Draining`], [`RerankError::DeviceLost`] or [`RerankError::Stalled`].
    pub fn ready(&self) -> Result<(), RerankError> {
        self.scheduler.ready()
    }

    /// Waits until the device is gone, for good, and says why; nothing where the reranker ended first. The future
    /// keeps nothing alive.
    pub fn lost(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        self.scheduler.lost()
    }

    /// What went to the device so far.
    #[must_use]
    pub fn batches(&self) -> BatchStatistics {
        self.scheduler.batches()
    }

    /// Refuses new requests from now on and waits until the accepted ones are answered.
    pub async fn drain(&self) {
        self.scheduler.start_draining();
        self.scheduler.drained().await;
    }

    /// Lets go of the model and its memory. To be called when it is drained: whoever comes later is refused.
    pub async fn close(&self) {
        self.scheduler.close().await;
    }
}

/// An error of one of several requests names its place.
fn of_one(index: usize, count: usize, error: RerankError) -> RerankError {
    if count > 1 { error.of_pair(index) } else { error }
}

/// Runs work that would hold up the event loop on a thread that may be held up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RerankError> + Send + 'static,
) -> Result<T, RerankError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| Err(RerankError::internal(failure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_on_a_blocking_thread_is_that_requests_error() {
        let failed = blocking::<()>(|| panic!("tokenising")).await;
        assert!(matches!(failed, Err(RerankError::Internal(_))));
        assert!(blocking(|| Ok(1)).await.is_ok());
    }
}
