//! The cost of a request in tokens: estimated from its texts for admission, exact once its passes
//! are planned.

use std::sync::Arc;

use crate::prompt::{PreparedTexts, Prompter};
use crate::rerank::{LimitSettings, RerankError, RerankRequest};
use crate::scoring::{PlannedPass, Rounds};

/// Bytes of a typical token, in English prose and in most scripts that take several bytes a
/// character. One token a byte would be a certain bound, and four times too high for most texts.
const TYPICAL_TOKEN_BYTES: usize = 4;

/// Minimum cost: one token for this many bytes of text, even if the model reads only part of the
/// text. Texts wait in memory until they are tokenized, and the limit on tokens bounds them.
const HELD_TOKEN_BYTES: usize = 16;

/// Estimates how many tokens the model reads for a request that has not been tokenized.
pub(super) fn estimate(request: &RerankRequest, prompter: &Prompter, limits: &LimitSettings) -> usize {
    let facts = &prompter.facts().limits;
    let typical = |text: &str, limit: usize| (text.len() / TYPICAL_TOKEN_BYTES + 1).min(limit);
    let document_limit = request.max_tokens_per_doc.unwrap_or(facts.document).min(prompter.context());
    let documents = request.documents.iter().map(|text| typical(text, document_limit)).sum::<usize>();
    let query = typical(&request.query, facts.query)
        + request.instruction.as_deref().map_or(0, |text| typical(text, facts.instruction));
    // How often the query is read: with every document where prompts share no prefix.
    let queries = if prompter.is_bidirectional() {
        request.documents.len()
    } else {
        request.documents.len().div_ceil(limits.max_slate_documents.max(1))
    };
    let tokens = (documents + query * queries).min(request.constraints.budget.max_total_tokens.unwrap_or(usize::MAX));
    tokens.max(text_bytes(request) / HELD_TOKEN_BYTES)
}

/// Bytes of all texts of a request.
pub(super) fn text_bytes(request: &RerankRequest) -> usize {
    let short = request.query.len() + request.instruction.as_deref().map_or(0, str::len);
    request.documents.iter().map(String::len).sum::<usize>() + short
}

/// A request that is ready to run.
pub(super) struct PreparedRequest {
    pub rounds: Rounds,
    /// The first round's passes.
    pub round: Option<Vec<PlannedPass>>,
    pub texts: Arc<PreparedTexts>,
    /// Tokens of all rounds, assuming that each later round costs as much as the first.
    pub tokens: usize,
}

impl PreparedRequest {
    /// Renders the first round.
    pub fn new(prompter: Arc<Prompter>, texts: PreparedTexts) -> Result<Self, RerankError> {
        let texts = Arc::new(texts);
        let mut rounds = Rounds::begin(prompter, Arc::clone(&texts))?;
        let round = rounds.next_round()?;
        let once: usize = round.iter().flatten().map(|planned| planned.pass.tokens()).sum();
        Ok(Self { tokens: once * (1 + rounds.remaining()), rounds, round, texts })
    }
}
