//! One request from validation to ranking: validate, admit, plan, render, schedule, score, rank.
//!
//! Tokenising and rendering run on blocking threads, passes on the scheduler's device; what is left
//! here is the order of things.

mod drift;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::drift::DriftWatch;
use crate::prompt::{Prompter, Reading};
use crate::rerank::{
    InstructionSource, Instructions, LimitSettings, Mode, RankedDocument, Ranking, RerankError, RerankRequest, Stage,
    Stages, Timing, Usage,
};
use crate::runtime::{ForwardPass, ModelFacts, Runtime};
use crate::schedule::{BatchStatistics, QueueStatus, ScheduleSettings, Scheduler};
use crate::scoring::{PlannedPass, Rounds, Scores};

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

/// Reranks: the one way from a [`RerankRequest`] to a [`Ranking`].
pub struct Reranker {
    names: Vec<String>,
    prompter: Arc<Prompter>,
    facts: ModelFacts,
    limits: LimitSettings,
    instructions: Instructions,
    scheduler: Scheduler,
    timeout: Option<Duration>,
    drift: DriftWatch,
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
        limits: LimitSettings,
        instructions: Instructions,
        schedule: &ScheduleSettings,
    ) -> Self {
        Self {
            names,
            prompter: Arc::new(prompter),
            facts: runtime.facts().clone(),
            limits,
            instructions,
            scheduler: Scheduler::start(runtime, schedule),
            timeout: (schedule.timeout_seconds > 0).then(|| Duration::from_secs(schedule.timeout_seconds)),
            drift: DriftWatch::default(),
        }
    }

    /// Ranks the documents of a request.
    ///
    /// # Errors
    /// Every [`RerankError`]: bad input before any work, overload and deadlines while waiting.
    pub async fn rerank(&self, request: RerankRequest) -> Result<Ranking, RerankError> {
        let mut rankings = self.rerank_all(vec![request]).await?;
        Ok(rankings.swap_remove(0))
    }

    /// Ranks several requests as one: all of them are checked before any work, and they share one admission and one
    /// deadline. One ranking for each, in order.
    ///
    /// # Errors
    /// As [`Reranker::rerank`]; more requests than there may be documents in one.
    pub async fn rerank_all(&self, requests: Vec<RerankRequest>) -> Result<Vec<Ranking>, RerankError> {
        self.rerank_noting(requests, &Stages::default()).await
    }

    /// As [`Reranker::rerank_all`]; `stages` notes what is done when, also for a request that fails or is dropped.
    ///
    /// # Errors
    /// As [`Reranker::rerank_all`].
    pub async fn rerank_noting(
        &self,
        mut requests: Vec<RerankRequest>,
        stages: &Stages,
    ) -> Result<Vec<Ranking>, RerankError> {
        let accepted = Instant::now();
        let (count, limit) = (requests.len(), self.limits.max_documents);
        if count > limit {
            return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
        }
        let of_one = |index, error: RerankError| if count > 1 { error.of_pair(index) } else { error };
        for (index, request) in requests.iter_mut().enumerate() {
            let ready = self.instructions.resolve(request, &self.names).and_then(|()| self.validate(request));
            ready.map_err(|error| of_one(index, error))?;
        }
        let _admission = self.scheduler.admit()?;
        let all = async {
            let mut rankings = Vec::with_capacity(count);
            for (index, request) in requests.into_iter().enumerate() {
                rankings.push(self.rank(request, accepted, stages).await.map_err(|error| of_one(index, error))?);
            }
            Ok(rankings)
        };
        match self.timeout {
            None => all.await,
            Some(limit) => {
                tokio::time::timeout(limit, all).await.unwrap_or(Err(RerankError::DeadlineExceeded { limit }))
            }
        }
    }

    async fn rank(&self, request: RerankRequest, accepted: Instant, stages: &Stages) -> Result<Ranking, RerankError> {
        let mut timing = Timing::default();
        let mut usage = Usage::default();
        let top_n = request.top_n.unwrap_or(usize::MAX);
        let model = request.model.clone().unwrap_or_else(|| self.names[0].clone());
        let profile = request.profile.clone();
        let instruction = match (&profile, &request.instruction) {
            (Some(name), _) => InstructionSource::Profile(name.clone()),
            (None, Some(_)) => InstructionSource::Own,
            (None, None) => InstructionSource::None,
        };

        let (prompter, limits) = (Arc::clone(&self.prompter), self.limits.clone());
        let started = Instant::now();
        let tokenizing = stages.begin(Stage::Tokenize, None);
        let (mut rounds, mut round, reading) = blocking(move || {
            let reading = Arc::new(prompter.read(&request, &limits)?);
            let mut rounds = Rounds::begin(prompter, Arc::clone(&reading))?;
            let first = rounds.next_round()?;
            Ok((rounds, first, reading))
        })
        .await?;
        timing.tokenize += started.elapsed();
        drop(tokenizing);

        while let Some(passes) = round {
            let passes: Vec<ForwardPass> = passes.into_iter().map(|planned| planned.pass).collect();
            let tokens = passes.iter().map(ForwardPass::tokens).sum::<usize>();
            usage.prompt_tokens += tokens;
            let waiting = stages.begin(Stage::Queue, Some(tokens));
            let executed = self.scheduler.run(passes).await?;
            waiting.turn_into(executed.queued, Stage::Forward);
            timing.queue += executed.queued;
            timing.forward += executed.forward;
            let started = Instant::now();
            let _scoring = stages.begin(Stage::Score, None);
            (rounds, round) = blocking(move || {
                rounds.take(executed.readouts)?;
                let next = rounds.next_round()?;
                Ok((rounds, next))
            })
            .await?;
            timing.tokenize += started.elapsed();
        }

        let scores = rounds.finish()?;
        let mut results = results(&reading, &scores);
        usage.truncated_documents = results.iter().filter(|result| result.truncated()).count();
        self.drift.look_at(&model, &instruction, &reading, &results);
        let documents = results.len();
        results.truncate(top_n);
        timing.total = accepted.elapsed();
        Ok(Ranking {
            results,
            documents,
            model,
            profile,
            mode: scores.mode,
            slates: scores.slates,
            usage,
            warnings: reading.warnings.clone(),
            timing,
        })
    }

    /// What can be said of a request before it is tokenised.
    fn validate(&self, request: &RerankRequest) -> Result<(), RerankError> {
        if let Some(name) = &request.model
            && !self.names.contains(name)
        {
            return Err(RerankError::unknown_model(name, &self.names));
        }
        if request.query.trim().is_empty() {
            return Err(RerankError::invalid("query", "must not be empty or only whitespace"));
        }
        if request.documents.is_empty() {
            return Err(RerankError::NoDocuments { field: "documents".to_owned() });
        }
        let (count, limit) = (request.documents.len(), self.limits.max_documents);
        if count > limit {
            return Err(RerankError::TooManyDocuments { field: "documents".to_owned(), count, limit });
        }
        for (field, value) in [("top_n", request.top_n), ("max_tokens_per_doc", request.max_tokens_per_doc)] {
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
        let mut request = request.clone();
        self.instructions.resolve(&mut request, &self.names)?;
        self.validate(&request)?;
        let reading = Arc::new(self.prompter.read(&request, &self.limits)?);
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

    /// The stored instructions.
    #[must_use]
    pub fn instructions(&self) -> &Instructions {
        &self.instructions
    }

    /// What one request may ask for.
    #[must_use]
    pub fn limits(&self) -> &LimitSettings {
        &self.limits
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
}

/// All documents, best first; equal scores keep the request's order.
fn results(reading: &Reading, scores: &Scores) -> Vec<RankedDocument> {
    let texts = reading.documents.iter().zip(scores.relevance.iter().zip(&scores.raw));
    let mut results: Vec<RankedDocument> = texts
        .enumerate()
        .map(|(index, (document, (&relevance_score, &raw_score)))| RankedDocument {
            index,
            relevance_score,
            raw_score,
            tokens: document.tokens,
            tokens_read: document.tokens_read,
        })
        .collect();
    // Scores are finite. Where relevances round to the same number the raw scores still differ; the sort is stable.
    let key = |result: &RankedDocument| (result.relevance_score, result.raw_score);
    results.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap_or(Ordering::Equal));
    results
}

/// Runs work that would hold up the event loop on a thread that may be held up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RerankError> + Send + 'static,
) -> Result<T, RerankError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| Err(RerankError::internal(failure)))
}
