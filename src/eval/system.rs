//! The system under evaluation: a model in this process, or an HTTP endpoint.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{Answer, ScoredDocument, append_missing};
use super::endpoint::{Endpoint, EndpointError};
use crate::pipeline::Reranker;
use crate::rerank::{RerankError, RerankRequest};

/// A reranking system.
pub enum System {
    /// A model in this process.
    InProcess(Arc<Reranker>),
    /// A server.
    Endpoint(Box<Endpoint>),
}

/// The system gave no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// The model rejected the request or failed.
    #[error(transparent)]
    Rerank(#[from] RerankError),
    /// The endpoint rejected the request, failed, or sent an invalid reply.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl System {
    /// Reranks, and measures the latency.
    ///
    /// # Errors
    /// [`SystemError`] if the system rejects the request, fails, or does not return one score for
    /// each document.
    pub async fn rerank(&self, request: RerankRequest) -> Result<Answer, SystemError> {
        match self {
            Self::InProcess(reranker) => {
                let (started, count) = (Instant::now(), request.documents.len());
                let ranking = reranker.rerank(request).await?;
                let latency = started.elapsed();
                let saved = ranking.early_exit.map_or(0, |report| report.tokens_saved);
                let documents = ranking.results.iter().map(|row| ScoredDocument {
                    index: row.index,
                    score: f64::from(row.relevance_score),
                    tokens_read: Some(row.tokens_read),
                    truncated: Some(row.truncated()),
                });
                let mut documents: Vec<ScoredDocument> = documents.collect();
                append_missing(&mut documents, count);
                Ok(Answer {
                    documents,
                    model: Some(ranking.model),
                    prompt_tokens: Some(ranking.usage.prompt_tokens.saturating_sub(saved)),
                    latency,
                    retries: 0,
                    timing: Some(ranking.timing),
                })
            }
            Self::Endpoint(endpoint) => Ok(endpoint.rerank(&request).await?),
        }
    }

    /// Reranks without a second attempt; `None` if the system is busy.
    ///
    /// # Errors
    /// As [`Self::rerank`], but not if the system is busy.
    pub async fn rerank_once(&self, request: RerankRequest) -> Result<Option<Answer>, SystemError> {
        let answer = match self {
            Self::InProcess(_) => self.rerank(request).await,
            Self::Endpoint(endpoint) => endpoint.rerank_with_retries(&request, 0).await.map_err(SystemError::from),
        };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(
                SystemError::Rerank(RerankError::Overloaded { .. }) | SystemError::Endpoint(EndpointError::Busy { .. }),
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
