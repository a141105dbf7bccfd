//! A family whose texts are rows of their own, bound to a tokenizer and a read-out.

use std::sync::Arc;

use super::token_lookup::TokenLookup;
use crate::evidence::EvidenceModel;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::Calibration;
use crate::prompt::family::EvidenceFacts;
use crate::prompt::lexical::LexicalTable;

/// A family whose texts are rows, bound to a tokenizer and a read-out.
#[derive(Debug)]
pub(in crate::prompt) struct EvidenceRows {
    pub facts: EvidenceFacts,
    pub model: Arc<EvidenceModel>,
    /// The meaning of a score.
    pub calibration: Calibration,
    pub table: LexicalTable,
    begin: u32,
    end: u32,
}

impl EvidenceRows {
    /// Binds the declaration.
    ///
    /// # Errors
    /// [`PromptError::Token`] for a token that is missing; [`PromptError::Evidence`] without a
    /// table or a read-out.
    pub(super) fn new(
        facts: EvidenceFacts,
        lookup: &TokenLookup,
        model: Option<Arc<EvidenceModel>>,
        (table, calibration): (Option<LexicalTable>, Option<Calibration>),
    ) -> Result<Self, PromptError> {
        let missing =
            |file: &str| PromptError::Evidence(format!("family `{}` needs {file}, and there is none", lookup.family));
        let model = model.ok_or_else(|| missing("instructions.safetensors"))?;
        let table = table.ok_or_else(|| missing("lexical.safetensors"))?;
        let calibration = calibration.ok_or_else(|| missing("podium.calibration in config.json"))?;
        if model.vocabulary() != lookup.vocabulary {
            let (knows, has) = (model.vocabulary(), lookup.vocabulary);
            return Err(PromptError::Evidence(format!("token_weight has {knows} tokens, the model {has}")));
        }
        let (begin, end) = (lookup.control(&facts.begin)?, lookup.control(&facts.end)?);
        Ok(Self { facts, model, calibration, table, begin, end })
    }

    /// A text's tokens by row; an empty text has one row.
    pub fn split(&self, ids: &[u32]) -> Vec<Vec<u32>> {
        if ids.is_empty() { vec![Vec::new()] } else { ids.chunks(self.facts.row_tokens).map(<[u32]>::to_vec).collect() }
    }

    /// A row with the tokens that begin and end it.
    pub fn row(&self, ids: &[u32]) -> Vec<u32> {
        [&[self.begin], ids, &[self.end]].concat()
    }

    /// Tokens of a text's rows.
    pub fn tokens_of(&self, ids: &[u32]) -> usize {
        ids.len() + 2 * ids.len().div_ceil(self.facts.row_tokens).max(1)
    }
}
