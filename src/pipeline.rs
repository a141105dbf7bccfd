//! One request from validation to ranking: validate, admit, plan, render, schedule, score, rank.

use crate::rerank::{Mode, Ranking, RerankError, RerankRequest};
use crate::runtime::ModelFacts;
use crate::schedule::QueueStatus;

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
pub struct Reranker {}

impl Reranker {
    /// Ranks the documents of a request.
    ///
    /// # Errors
    /// Every [`RerankError`]: bad input before any work, overload and deadlines while waiting.
    pub async fn rerank(&self, _request: RerankRequest) -> Result<Ranking, RerankError> {
        todo!()
    }

    /// What the model would read for this request. Runs nothing.
    ///
    /// # Errors
    /// Those of [`Reranker::rerank`] that do not come from the queue or the model.
    pub fn explain(&self, _request: &RerankRequest) -> Result<Explanation, RerankError> {
        todo!()
    }

    /// The names this model answers to; the first is its own.
    #[must_use]
    pub fn names(&self) -> &[String] {
        todo!()
    }

    /// The prompt family's name.
    #[must_use]
    pub fn family(&self) -> &str {
        todo!()
    }

    /// What the model is.
    #[must_use]
    pub fn facts(&self) -> &ModelFacts {
        todo!()
    }

    /// What waits and runs now.
    #[must_use]
    pub fn queue(&self) -> QueueStatus {
        todo!()
    }

    /// Refuses new requests from now on and waits until the accepted ones are answered.
    pub async fn drain(&self) {
        todo!()
    }
}
