//! The cost of a request in tokens: estimated from its texts for admission, exact once its passes
//! are planned.

use std::sync::Arc;

use crate::prompt::{PreparedTexts, Prompter};
use crate::rerank::{Chunking, LimitSettings, RerankError, RerankRequest};
use crate::scoring::{PlannedPass, Rounds};

/// Bytes of a typical token, in English prose and in most scripts that take several bytes a
/// character. One token a byte would be a certain bound, and four times too high for most texts.
const TYPICAL_TOKEN_BYTES: usize = 4;

/// Estimates how many tokens the model reads for a request that has not been tokenized, if it ranks
/// the documents in so many orders.
pub(super) fn estimate(request: &RerankRequest, prompter: &Prompter, limits: &LimitSettings, orders: usize) -> usize {
    let typical = TypicalTokens::new(request, prompter, limits);
    let documents = request.documents.iter().map(|text| typical.of_document(text));
    let (tokens, sequences) = documents.fold((0, 0), |sum, document| (sum.0 + document.0, sum.1 + document.1));
    let tokens = (tokens + typical.of_queries(sequences)) * orders;
    tokens.min(request.constraints.budget.max_total_tokens.unwrap_or(usize::MAX))
}

/// Estimates of what one model reads for a request.
pub(super) struct TypicalTokens {
    document_limit: usize,
    chunking: Option<(Chunking, usize)>,
    /// Query and instruction.
    query: usize,
    /// Documents or passages for which the query is read once: 1 where prompts share no prefix.
    sequences_per_query: usize,
}

impl TypicalTokens {
    pub fn new(request: &RerankRequest, prompter: &Prompter, limits: &LimitSettings) -> Self {
        let facts = &prompter.facts().limits;
        let instruction = request.instruction.as_deref();
        let document_limit = match request.chunking {
            Some(_) => request.max_tokens_per_doc.unwrap_or(usize::MAX),
            None => request.max_tokens_per_doc.unwrap_or(facts.document).min(prompter.context()),
        };
        Self {
            document_limit,
            chunking: request.chunking.map(|chunking| (chunking, chunking.tokens.unwrap_or(facts.document))),
            query: typical(&request.query, facts.query)
                + instruction.map_or(0, |text| typical(text, facts.instruction)),
            sequences_per_query: if prompter.is_bidirectional() { 1 } else { limits.max_slate_documents.max(1) },
        }
    }

    /// Tokens of a document, and how many sequences it is read in.
    pub fn of_document(&self, text: &str) -> (usize, usize) {
        let all = typical(text, self.document_limit);
        self.chunking.as_ref().map_or((all, 1), |(chunking, tokens)| estimate_passages(all, chunking, *tokens))
    }

    /// Tokens of the queries that are read with so many documents or passages.
    pub fn of_queries(&self, sequences: usize) -> usize {
        self.query * sequences.div_ceil(self.sequences_per_query)
    }
}

fn typical(text: &str, limit: usize) -> usize {
    (text.len() / TYPICAL_TOKEN_BYTES + 1).min(limit)
}

/// Estimates the tokens of the passages of a document with `all` tokens, and their number.
fn estimate_passages(all: usize, chunking: &Chunking, passage_tokens: usize) -> (usize, usize) {
    let passage_tokens = passage_tokens.max(1);
    // Each passage after the first brings fewer new tokens.
    let new_tokens = passage_tokens.saturating_sub(chunking.overlap).max(1);
    let count = (1 + all.saturating_sub(passage_tokens).div_ceil(new_tokens)).min(chunking.max_passages);
    let read = (all + count.saturating_sub(1) * chunking.overlap).min(count.saturating_mul(passage_tokens));
    (read, count)
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
