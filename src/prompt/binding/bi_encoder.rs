//! The bi-encoder of a family, bound to a tokenizer: its template, how scores are read, and the
//! settings of a `ColBERT` checkpoint.

use crate::prompt::PromptError;
use crate::prompt::checkpoint::ModelLimits;
use crate::prompt::family::{BiEncoderReadout, FamilyFacts};
use crate::prompt::template::{Part, Template, TemplateInputs};
use crate::prompt::tokenizer::Tokenizer;

/// The bi-encoder of a family: its template, and how scores are read.
#[derive(Debug)]
pub(in crate::prompt) struct BiEncoder {
    pub readout: BiEncoderReadout,
    pub template: Template,
    /// For readout `max_sim`.
    pub colbert: Option<Colbert>,
}

/// The settings of a `ColBERT` checkpoint, bound to its tokenizer.
#[derive(Debug)]
pub(in crate::prompt) struct Colbert {
    /// Variables of the template: the tokens that mark queries and documents.
    pub markers: [(&'static str, String); 2],
    /// Length of a query's sequence, and the token that fills it up.
    expansion: Option<(usize, u32)>,
    attends_to_expansion: bool,
    /// Tokens of documents that are not compared.
    pub skipped: Vec<u32>,
}

/// Tokens that fill queries up, the first that the tokenizer has.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// Binds the checkpoint's settings, where the family reads `max_sim`: its markers become control
/// tokens, and its lengths the family's limits.
///
/// # Errors
/// [`PromptError::Token`] for a marker or mask that the tokenizer does not have.
pub(super) fn bind_colbert(
    facts: &mut FamilyFacts,
    tokenizer: &mut Tokenizer,
    model: &ModelLimits,
) -> Result<Option<Colbert>, PromptError> {
    if facts.bi_encoder.as_ref().is_none_or(|facts| facts.readout != BiEncoderReadout::MaxSim) {
        return Ok(None);
    }
    let missing = |token: &str, tokenizer: &Tokenizer| PromptError::Token {
        family: facts.name.clone(),
        token: token.to_owned(),
        file: tokenizer.file().to_owned(),
        problem: "it is no token".to_owned(),
    };
    let settings = model.colbert.clone().unwrap_or_default();
    for marker in [&settings.query_marker, &settings.document_marker] {
        if !marker.is_empty() && tokenizer.control(marker).is_none() {
            let id = tokenizer.vocabulary_id(marker).ok_or_else(|| missing(marker, tokenizer))?;
            tokenizer.add_control(marker, id);
        }
    }
    let mask = MASKS.iter().find_map(|mask| tokenizer.control(mask)).map(|token| token.id);
    let expansion = match mask {
        _ if !settings.expands_queries => None,
        Some(mask) => Some((settings.query_length, mask)),
        None => return Err(missing(MASKS[0], tokenizer)),
    };
    let skipped = settings.skipped_tokens.iter().filter_map(|token| tokenizer.vocabulary_id(token)).collect();
    // The first token, the marker and the last one are part of a length.
    let text = |length: usize, marker: &str| length.saturating_sub(2 + usize::from(!marker.is_empty())).max(1);
    facts.limits.query = facts.limits.query.min(text(settings.query_length, &settings.query_marker));
    facts.limits.document = facts.limits.document.min(text(settings.document_length, &settings.document_marker));
    Ok(Some(Colbert {
        markers: [("query_marker", settings.query_marker), ("document_marker", settings.document_marker)],
        expansion,
        attends_to_expansion: settings.attends_to_expansion,
        skipped,
    }))
}

impl BiEncoder {
    /// Renders a block of the template.
    pub(in crate::prompt) fn render_block(
        &self,
        block: &str,
        instruction: bool,
        documents: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Part>, PromptError> {
        let inputs = TemplateInputs { instruction, documents, identifiers: &[] };
        self.template.render_block(block, inputs, tokenizer)
    }
}

impl Colbert {
    /// Fills a query's sequence up. Returns how many tokens no token attends to.
    pub(in crate::prompt) fn expand(&self, ids: &mut Vec<u32>) -> usize {
        let Some((length, mask)) = self.expansion else { return 0 };
        let missing = length.saturating_sub(ids.len());
        ids.resize(ids.len() + missing, mask);
        if self.attends_to_expansion { 0 } else { missing }
    }
}
