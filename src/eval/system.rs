//! Who reranks: the model in this process, or an endpoint somewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, EndpointError};
use crate::pipeline::Reranker;
use crate::rerank::{RerankError, RerankRequest, Timing};

/// Something that reranks.
pub enum System {
    /// A model in this process.
    InProcess(Arc<Reranker>),
    /// A server.
    Endpoint(Box<Endpoint>),
}

/// What a system said of one document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredDocument {
    /// Its place in the request.
    pub index: usize,
    /// Its relevance score: finite.
    pub score: f64,
    /// Tokens of it that were read, if the system tells.
    pub tokens_read: Option<usize>,
    /// Whether its end was cut off, if the system tells.
    pub truncated: Option<bool>,
}

/// A system's reply: every document of the request exactly once.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Best first.
    pub documents: Vec<ScoredDocument>,
    /// The model's name, if the system tells.
    pub model: Option<String>,
    /// Tokens sent through the model, if the system tells.
    pub prompt_tokens: Option<usize>,
    /// From sending the request that succeeded to having read the reply.
    pub latency: Duration,
    /// How often the request was repeated because the system was busy.
    pub retries: usize,
    /// Where the system says that its time went, if it tells.
    pub timing: Option<Timing>,
}

/// Why a system gave no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The model in this process refused or failed.
    #[error(transparent)]
    Rerank(#[from] RerankError),
    /// The endpoint refused, failed or replied nonsense.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl System {
    /// Reranks and takes the time.
    ///
    /// # Errors
    /// A request that is refused, a system that fails, a reply that is not one score for each document.
    pub async fn rerank(&self, request: RerankRequest) -> Result<Answer, SystemError> {
        match self {
            Self::InProcess(reranker) => {
                let started = Instant::now();
                let ranking = reranker.rerank(request).await?;
                let latency = started.elapsed();
                let documents = ranking.results.iter().map(|row| ScoredDocument {
                    index: row.index,
                    score: f64::from(row.relevance_score),
                    tokens_read: Some(row.tokens_read),
                    truncated: Some(row.truncated()),
                });
                Ok(Answer {
                    documents: documents.collect(),
                    model: Some(ranking.model),
                    prompt_tokens: Some(ranking.usage.prompt_tokens),
                    latency,
                    retries: 0,
                    timing: Some(ranking.timing),
                })
            }
            Self::Endpoint(endpoint) => Ok(endpoint.rerank(&request).await?),
        }
    }
}
