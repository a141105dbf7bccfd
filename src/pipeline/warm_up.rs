//! The first ranking of a model, before any request.

use std::time::{Duration, Instant};

use super::Reranker;
use crate::context::RequestContext;
use crate::rerank::{RerankError, RerankRequest};

impl Reranker {
    /// Ranks two short documents, and returns how long that took.
    ///
    /// A model that cannot rank fails here and is never served, and what only a first pass does is
    /// done. The throughput of a first pass is no measurement: it is forgotten.
    ///
    /// # Errors
    /// Those of a ranking.
    pub async fn warm_up(&self) -> Result<Duration, RerankError> {
        let started = Instant::now();
        let documents = ["The tide comes in twice a day.", "Bread is baked in an oven."].map(str::to_owned);
        let request = RerankRequest::new("What does the sea do?", documents.to_vec());
        let limits = self.policy().limits.clone();
        self.admit_and_rank(vec![request], &limits, RequestContext::internal()).await?;
        self.scheduler.forget_rate();
        Ok(started.elapsed())
    }
}
