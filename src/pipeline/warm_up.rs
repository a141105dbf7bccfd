//! The first ranking of a model, before anyone asks for one.

use std::time::{Duration, Instant};

use super::cost::estimate;
use super::rank::Admitted;
use super::{Reranker, Tally};
use crate::rerank::{Caller, RerankError, RerankRequest};

impl Reranker {
    /// Ranks two short documents, and returns how long that took: a model that cannot rank shows it here, before it is
    /// offered to anyone, and what only a first pass has to do is done. The measured throughput of the device does not
    /// change.
    ///
    /// # Errors
    /// What a ranking can end with.
    pub async fn warm_up(&self) -> Result<Duration, RerankError> {
        let started = Instant::now();
        let documents = ["The tide comes in twice a day.", "Bread is baked in an oven."].map(str::to_owned);
        let request = RerankRequest::new("What does the sea do?", documents.to_vec());
        let limits = self.policy().limits.clone();
        let tokens = estimate(&request, &self.prompter, &limits);
        let caller = Caller::nobody();
        let tally = Tally::of(request.documents.len(), caller.stages.clone());
        let admitted = Admitted { permit: self.scheduler.admit_warm_up(tokens), since: started };
        self.rank(vec![request], &limits, &admitted, &tally).await?;
        Ok(started.elapsed())
    }
}
