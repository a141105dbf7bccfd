//! Ranks on several models in turn: each stage ranks what the stage before kept.
//!
//! All stages belong to one request: one validation, one admission that counts the tokens of every
//! stage, one deadline, one budget. Documents that reached a later stage stand before those that
//! did not. A stage that cannot rank leaves the order of the stage before, with a warning, or fails
//! the request where it is strict. `run` ranks a list, `stage` is one of its stages.

mod run;
mod stage;

use std::sync::Arc;

use self::run::CascadeRun;
use super::time_limit::TimeLimit;
use super::{Reranker, prepare};
use crate::context::RequestContext;
use crate::rerank::{CascadeOptions, EarlyExitChoice, Keep, LimitSettings, Ranking, RerankError, RerankRequest};

/// A list of stages, for one request.
pub struct Cascade {
    /// The name that requests give it.
    pub name: String,
    /// At least one of a model. The caller's scores may come first.
    pub stages: Vec<CascadeStage>,
    /// Later stages are skipped if the order is right with this probability; 0 skips none.
    pub stop_when_sure: f64,
    /// Whether it runs only while its devices have no other work. Admission does not count it.
    pub is_background: bool,
}

/// One stage.
pub struct CascadeStage {
    /// The model that ranks; `None` is the caller's own scores.
    pub model: Option<StageModel>,
    /// The documents that it passes on. The last stage keeps everything.
    pub keep: Keep,
}

/// The model of a stage.
pub struct StageModel {
    /// Its name.
    pub name: String,
    /// The model, or why it takes no requests now.
    pub reranker: Result<Arc<Reranker>, RerankError>,
}

impl Cascade {
    /// As [`Reranker::rerank_all`], stage by stage. Pairs are scored by the last stage alone.
    ///
    /// # Errors
    /// As [`Reranker::rerank_all`]; [`RerankError::ModelUnavailable`] if no stage can rank, or if
    /// one cannot and the request is strict.
    pub async fn rerank_all(
        mut self,
        mut requests: Vec<RerankRequest>,
        mut context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        let models = || self.stages.iter().filter_map(|stage| stage.model.as_ref());
        let Some(reference) = models().find_map(|model| model.reranker.as_ref().ok()).map(Arc::clone) else {
            return Err(self.first_error());
        };
        let policy = reference.policy();
        prepare(&mut requests, &policy)?;
        let first = requests.first();
        first.map_or(Ok(()), |request| self.check_early_exit(request))?;
        if let Some(options) = first.map(|request| request.cascade.clone()) {
            self.apply(&options)?;
        }
        let constraints = first.map(|request| request.constraints).unwrap_or_default();
        let limit = TimeLimit::begin(&constraints, &reference.schedule(), &mut context);
        let documents = requests.iter().map(|request| request.documents.len()).sum();
        context.timeline.update_progress(|progress| progress.of_documents = documents);
        let limits = policy.limits.clone();
        if requests.len() != 1 {
            return TimeLimit::run(limit, self.score_pairs(requests, &limits, context)).await;
        }
        let request = requests.swap_remove(0);
        TimeLimit::run(limit, async move {
            let (context, ranking) = CascadeRun::start(self, request, limits, &context)?.finish(context).await?;
            Ok((context, vec![ranking]))
        })
        .await
    }

    /// Rejects a request for an early exit that no model has. Each stage uses its own.
    fn check_early_exit(&self, request: &RerankRequest) -> Result<(), RerankError> {
        let choice = request.early_exit;
        let names_layer = [
            ("cutoff_layer", request.cutoff_layer.is_some()),
            ("early_exit", matches!(choice, Some(EarlyExitChoice::After { .. }))),
        ];
        if let Some((field, _)) = names_layer.into_iter().find(|(_, is_named)| *is_named) {
            let problem = format!("names a layer of one model, and `{}` is a cascade of several", self.name);
            return Err(RerankError::invalid(field, problem));
        }
        let mut rerankers = self.stages.iter().filter_map(|stage| stage.model.as_ref()?.reranker.as_ref().ok());
        let is_declared = |reranker: &Arc<Reranker>| reranker.prompter.declared_early_exit().is_ok();
        if choice == Some(EarlyExitChoice::On) && !rerankers.any(is_declared) {
            let problem = format!("no model of `{}` declares an early exit", self.name);
            return Err(RerankError::invalid("early_exit", problem));
        }
        Ok(())
    }

    /// Puts a request's own wishes in place of the configured ones.
    fn apply(&mut self, options: &CascadeOptions) -> Result<(), RerankError> {
        if let Some(probability) = options.stop_when_sure {
            self.stop_when_sure = probability;
        }
        let models = self.stages.iter().filter(|stage| stage.model.is_some()).count();
        let keep = options.keep.as_deref().unwrap_or_default();
        let is_with_scores = options.keep.is_some() && keep.len() == models;
        let has_scores = options.scores.is_some() || options.document_scores.is_some();
        if options.keep.is_some() && keep.len() != models && keep.len() + 1 != models {
            let problem = format!(
                "has {} entries; `{}` has {models} models and takes {}, or {models} if the caller's scores come first",
                keep.len(),
                self.name,
                models - 1
            );
            return Err(RerankError::invalid("cascade.keep", problem));
        }
        let begins_with_scores = self.stages.first().is_some_and(|stage| stage.model.is_none());
        if is_with_scores && !has_scores && !begins_with_scores {
            let problem = format!("are missing; the first of {models} entries of cascade.keep is for them");
            return Err(RerankError::invalid("scores", problem));
        }
        if !begins_with_scores && (options.scores.is_some() || is_with_scores) {
            self.stages.insert(0, CascadeStage { model: None, keep: Keep::Share(1.0) });
        }
        let skipped = self.stages.len() - models;
        let first = if is_with_scores { 0 } else { skipped };
        for (stage, keep) in self.stages[first.min(skipped)..].iter_mut().zip(keep) {
            stage.keep = *keep;
        }
        Ok(())
    }

    /// Scores pairs, of which each is a list of one document, on the last stage that is loaded.
    async fn score_pairs(
        self,
        requests: Vec<RerankRequest>,
        limits: &LimitSettings,
        context: RequestContext,
    ) -> Result<(RequestContext, Vec<Ranking>), RerankError> {
        let is_strict = requests.first().is_some_and(|request| request.constraints.budget.strict);
        let mut warnings = Vec::new();
        for (number, stage) in self.stages.into_iter().enumerate().rev() {
            let Some(StageModel { name, reranker }) = stage.model else { continue };
            match reranker {
                Ok(reranker) => {
                    let (context, mut rankings) = reranker.admit_and_rank(requests, limits, context).await?;
                    rankings.iter_mut().take(1).for_each(|ranking| ranking.warnings.append(&mut warnings));
                    return Ok((context, rankings));
                }
                Err(error) if is_strict => return Err(error),
                Err(error) => warnings.push(format!("stage {number} (`{name}`) did not rank: {error}")),
            }
        }
        Err(RerankError::internal("a cascade without a loaded stage"))
    }

    /// Why the first model takes no requests.
    fn first_error(self) -> RerankError {
        let models = self.stages.into_iter().filter_map(|stage| stage.model);
        let mut errors = models.filter_map(|model| model.reranker.err());
        errors.next().unwrap_or_else(|| RerankError::internal("a cascade without a model"))
    }
}
