//! One file a dialect: its fields into a [`RerankRequest`], the ranking into its reply. No limits, no defaults of the
//! domain and no statuses live here.

pub mod podium;

use crate::http::Service;
use crate::http::error::Failure;
use crate::rerank::{Ranking, RerankRequest};
use crate::telemetry::RankingFacts;

/// Ranks, and keeps what the record of the request needs.
async fn rank(service: &Service, request: RerankRequest) -> Result<(Ranking, RankingFacts), Failure> {
    let documents = request.documents.len();
    let ranking = service.reranker().rerank(request).await?;
    let facts = RankingFacts {
        mode: ranking.mode,
        documents,
        slates: ranking.slates,
        usage: ranking.usage,
        timing: ranking.timing,
    };
    Ok((ranking, facts))
}
