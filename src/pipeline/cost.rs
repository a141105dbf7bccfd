//! The cost of a request in tokens: estimated from its texts for admission, exact once its passes
//! are planned.

use std::sync::Arc;

use crate::prompt::{PreparedTexts, Prompter};
use crate::rerank::{Chunking, LimitSettings, RerankError, RerankRequest};
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
    // Tokens of documents, and how many sequences they are in.
    let (documents, sequences) = match request.chunking {
        Some(chunking) => estimate_passages(request, &chunking, chunking.tokens.unwrap_or(facts.document)),
        None => {
            let limit = request.max_tokens_per_doc.unwrap_or(facts.document).min(prompter.context());
            (request.documents.iter().map(|text| typical(text, limit)).sum(), request.documents.len())
        }
    };
    let query = typical(&request.query, facts.query)
        + request.instruction.as_deref().map_or(0, |text| typical(text, facts.instruction));
    // How often the query is read: with every document where prompts share no prefix.
    let queries =
        if prompter.is_bidirectional() { sequences } else { sequences.div_ceil(limits.max_slate_documents.max(1)) };
    let tokens = (documents + query * queries).min(request.constraints.budget.max_total_tokens.unwrap_or(usize::MAX));
    tokens.max(text_bytes(request) / HELD_TOKEN_BYTES)
}

/// Estimates the tokens of all passages, and their number.
fn estimate_passages(request: &RerankRequest, chunking: &Chunking, passage_tokens: usize) -> (usize, usize) {
    let passage_tokens = passage_tokens.max(1);
    // Each passage after the first brings fewer new tokens.
    let new_tokens = passage_tokens.saturating_sub(chunking.overlap).max(1);
    let max_tokens = request.max_tokens_per_doc.unwrap_or(usize::MAX);
    request.documents.iter().fold((0, 0), |(tokens, passages), text| {
        let all = (text.len() / TYPICAL_TOKEN_BYTES + 1).min(max_tokens);
        let count = (1 + all.saturating_sub(passage_tokens).div_ceil(new_tokens)).min(chunking.max_passages);
        let read = (all + (count - 1) * chunking.overlap).min(count.saturating_mul(passage_tokens));
        (tokens + read, passages + count)
    })
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
