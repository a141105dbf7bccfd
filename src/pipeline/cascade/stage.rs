//! One stage of a cascade: its model, its permit, and what it would cost.

use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;

use super::StageModel;
use crate::context::RequestContext;
use crate::pipeline::Reranker;
use crate::pipeline::cost::TypicalTokens;
use crate::rerank::{Keep, LimitSettings, Ranking, RerankError, RerankRequest};
use crate::schedule::AdmissionPermit;

/// A stage of a model.
pub(super) struct Stage {
    /// 1 is the first model.
    pub number: usize,
    pub name: String,
    /// The model and its permit, or why it cannot rank.
    pub ready: Result<ReadyStage, RerankError>,
    pub keep: Keep,
}

/// A stage that can rank.
pub(super) struct ReadyStage {
    pub reranker: Arc<Reranker>,
    /// `None` before admission.
    pub permit: Option<AdmissionPermit>,
    typical: TypicalTokens,
    /// In how many orders each list is ranked.
    orders: usize,
}

impl Stage {
    pub fn new(
        number: usize,
        StageModel { name, reranker }: StageModel,
        keep: Keep,
        request: &RerankRequest,
        limits: &LimitSettings,
    ) -> Self {
        let ready = reranker.map(|reranker| {
            let typical = TypicalTokens::new(request, &reranker.prompter, limits);
            let orders = reranker.orders(request);
            ReadyStage { reranker, permit: None, typical, orders }
        });
        Self { number, name, ready, keep }
    }

    /// Estimate of the tokens that the stage reads of these documents; 0 if it cannot rank.
    pub fn tokens<'a>(&self, documents: impl Iterator<Item = &'a str>) -> usize {
        let Ok(ready) = &self.ready else { return 0 };
        let documents = documents.map(|text| ready.typical.of_document(text));
        let (tokens, sequences) = documents.fold((0, 0), |sum, document| (sum.0 + document.0, sum.1 + document.1));
        (tokens + ready.typical.of_queries(sequences)) * ready.orders
    }

    /// Estimate of the time that the device takes for so many tokens; zero before a throughput was
    /// measured.
    pub fn time(&self, tokens: usize) -> Duration {
        let rate = self.ready.as_ref().ok().and_then(|ready| ready.reranker.scheduler.tokens_per_second());
        rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(tokens as f64 / rate))
    }

    /// The stage's span in a trace, a child of the request's; its tokens are recorded when it has
    /// ranked.
    pub fn span(&self, documents: usize, context: &RequestContext) -> Span {
        // Traces have signed integers only.
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        tracing::info_span!(
            parent: &context.span,
            "stage",
            podium.stage = signed(self.number),
            podium.model = self.name,
            podium.documents = signed(documents),
            podium.tokens = Empty,
        )
    }

    /// The model's name, for messages.
    pub fn label(&self) -> String {
        format!("stage {} (`{}`)", self.number, self.name)
    }
}

impl ReadyStage {
    /// Takes part in the admission of a request. `first` is the permit of its first stage, and
    /// `tokens` the estimate for all stages.
    pub fn admit(
        &mut self,
        first: Option<&AdmissionPermit>,
        tokens: usize,
        context: &RequestContext,
    ) -> Result<AdmissionPermit, RerankError> {
        let permit = match first {
            None => self.reranker.try_admit(tokens, context)?,
            Some(first) => self.reranker.scheduler.try_admit_stage(first)?,
        };
        self.permit = Some(permit.clone());
        Ok(permit)
    }

    /// Ranks one list on this stage's model. `context` is the stage's own.
    pub async fn rank(
        &self,
        request: RerankRequest,
        limits: &LimitSettings,
        context: RequestContext,
    ) -> Result<Ranking, RerankError> {
        let permit = self.permit.clone().ok_or_else(|| RerankError::internal("a stage without a permit"))?;
        let (_context, mut rankings) = self.reranker.rank_in_orders(vec![request], limits, permit, context).await?;
        rankings.pop().ok_or_else(|| RerankError::internal("a stage without a ranking"))
    }
}
