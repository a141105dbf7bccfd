//! The first ranking of a model, before any request.

use std::time::{Duration, Instant};

use super::Reranker;
use super::cost::estimate;
use crate::context::RequestContext;
use crate::rerank::{RerankError, RerankRequest};

impl Reranker {
    /// Ranks two short documents, and returns how long that took.
    ///
    /// A model that cannot rank fails here and is never served, and what only a first pass does is
    /// done. No limit on requests rejects it, and the measured throughput does not change.
    ///
    /// # Errors
    /// Those of a ranking.
    pub async fn warm_up(&self) -> Result<Duration, RerankError> {
        let started = Instant::now();
        let documents = ["The tide comes in twice a day.", "Bread is baked in an oven."].map(str::to_owned);
        let request = RerankRequest::new("What does the sea do?", documents.to_vec());
        let limits = self.policy().limits.clone();
        let permit = self.scheduler.admit_warm_up(estimate(&request, &self.prompter, &limits));
        self.rank(vec![request], &limits, permit, RequestContext::internal()).await?;
        Ok(started.elapsed())
    }
}
