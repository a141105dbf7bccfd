//! What a request costs, in tokens that the model reads: guessed from its texts at the door, exact once there are passes.

use std::sync::Arc;

use crate::prompt::{Prompter, Reading};
use crate::rerank::{LimitSettings, RerankError, RerankRequest};
use crate::scoring::{PlannedPass, Rounds};

/// Bytes of a typical token, in English prose and in most scripts that take several bytes a character. That no text has
/// more tokens than bytes would be a certain bound, and four times too high for most.
const TYPICAL_TOKEN_BYTES: usize = 4;

/// Bytes of text that count as a token at least, however little of the text is read: texts wait in memory until they are
/// tokenised, and this bounds them with the tokens of the queue.
const HELD_TOKEN_BYTES: usize = 16;

/// About how many tokens the model will read for a request that has not been tokenised.
pub(super) fn estimate(request: &RerankRequest, prompter: &Prompter, limits: &LimitSettings) -> usize {
    let facts = &prompter.facts().limits;
    let typical = |text: &str, limit: usize| (text.len() / TYPICAL_TOKEN_BYTES + 1).min(limit);
    let document_limit = request.max_tokens_per_doc.unwrap_or(facts.document);
    let documents = request.documents.iter().map(|text| typical(text, document_limit)).sum::<usize>();
    let query = typical(&request.query, facts.query)
        + request.instruction.as_deref().map_or(0, |text| typical(text, facts.instruction));
    let slates = request.documents.len().div_ceil(limits.max_slate_documents.max(1));
    let tokens = (documents + query * slates).min(request.terms.budget.max_total_tokens.unwrap_or(usize::MAX));
    let held = request.documents.iter().map(String::len).sum::<usize>()
        + request.query.len()
        + request.instruction.as_deref().map_or(0, str::len);
    tokens.max(held / HELD_TOKEN_BYTES)
}

/// A request that is ready to run.
pub(super) struct PreparedRequest {
    pub rounds: Rounds,
    /// The first round's passes.
    pub round: Option<Vec<PlannedPass>>,
    pub reading: Arc<Reading>,
    /// Tokens of all rounds; where there are several, each is taken to be like the first.
    pub tokens: usize,
}

impl PreparedRequest {
    /// Renders the first round.
    pub fn new(prompter: Arc<Prompter>, reading: Reading) -> Result<Self, RerankError> {
        let reading = Arc::new(reading);
        let mut rounds = Rounds::begin(prompter, Arc::clone(&reading))?;
        let round = rounds.next_round()?;
        let once: usize = round.iter().flatten().map(|planned| planned.pass.tokens()).sum();
        Ok(Self { tokens: once * (1 + rounds.to_come()), rounds, round, reading })
    }
}
