//! The prompts of slates: templates with the query and the instruction in place.

use crate::prompt::PromptError;
use crate::prompt::binding::{Listwise, Prompter};
use crate::prompt::template::{EncodedPrompt, Frame, Part, TemplateInputs};
use crate::prompt::texts::ShortTexts;
use crate::rerank::RerankError;

impl Prompter {
    /// The prompt of a causal slate for this number of documents.
    pub(in crate::prompt) fn causal_frame(
        &self,
        listwise: &Listwise,
        documents: usize,
        texts: ShortTexts,
    ) -> Result<Frame, PromptError> {
        let instruction = !texts.instruction.is_empty();
        let inputs = TemplateInputs { instruction, documents, identifiers: &listwise.identifiers };
        let parts = listwise.template.render(inputs, &self.tokenizer)?;
        Ok(Frame::new(parts, texts.query, texts.instruction))
    }

    /// The prefix of an isolated slate, and the suffix that ends with the query's mark.
    pub(super) fn isolated_ends(
        &self,
        listwise: &Listwise,
        texts: ShortTexts,
    ) -> Result<(Vec<u32>, Vec<u32>), RerankError> {
        let block = |name: &str| -> Result<Vec<u32>, RerankError> {
            let inputs = TemplateInputs { instruction: !texts.instruction.is_empty(), documents: 1, identifiers: &[] };
            let parts = listwise.template.render_block(name, inputs, &self.tokenizer).map_err(RerankError::internal)?;
            let filled = Frame::new(parts, texts.query, texts.instruction)
                .fill(&self.tokenizer, |_| "", |_| 0)
                .map_err(RerankError::internal)?;
            self.check_controls(&filled.ids, filled.controls.len())?;
            Ok(listwise.end_at_query_mark(filled).ids)
        };
        Ok((block("prefix")?, block("closing")?))
    }

    /// The text that block `document` has before the document, in the same run.
    pub(super) fn text_before_document(&self, listwise: &Listwise) -> Result<String, PromptError> {
        let inputs = TemplateInputs { instruction: false, documents: 1, identifiers: &[] };
        let parts = listwise.template.render_block("document", inputs, &self.tokenizer)?;
        Ok(match parts.first() {
            Some(Part::Text(before)) => before.clone(),
            _ => String::new(),
        })
    }

    /// Checks that a prompt has exactly the control tokens of its template: the last guard against
    /// a caller's text that became one.
    pub(super) fn check_controls(&self, ids: &[u32], expected: usize) -> Result<(), RerankError> {
        let found = ids.iter().filter(|id| self.tokenizer.is_control(**id)).count();
        if found == expected {
            return Ok(());
        }
        Err(RerankError::internal(format!("a prompt has {found} control tokens, and its template {expected}")))
    }
}

impl Listwise {
    /// Drops what follows the query's mark: under causal attention it cannot change the output.
    pub(super) fn end_at_query_mark(&self, mut filled: EncodedPrompt) -> EncodedPrompt {
        if let Some(marks) = &self.marks {
            filled.end_after(marks.query);
        }
        filled
    }
}
