//! Tries every template of a family before it serves a request.

use super::bi_encoder::BiEncoder;
use super::listwise::{Listwise, Marks};
use super::prompter::Prompter;
use crate::prompt::PromptError;
use crate::prompt::family::Layout;
use crate::prompt::template::{Part, Template, TemplateInputs};

impl Prompter {
    /// Renders every template with and without an instruction, with one document and with two, and
    /// checks the texts, the marks and the control tokens in it. Returns whether the family takes
    /// an instruction.
    pub(super) fn check_templates(&self, vocabulary: usize) -> Result<bool, PromptError> {
        let mut takes_instruction = true;
        for (instruction, documents) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
            if let Some(listwise) = &self.listwise {
                let inputs = TemplateInputs { instruction, documents, identifiers: &listwise.identifiers };
                let parts = self.listwise_parts(listwise, inputs)?;
                if let Some(marks) = &listwise.marks {
                    check_marks(&parts, documents, marks).map_err(|problem| listwise.template.problem(problem))?;
                }
                self.check_parts(&listwise.template, &parts, documents, vocabulary)?;
                takes_instruction &= !instruction || parts.contains(&Part::Instruction);
            }
            if let Some(pointwise) = &self.pointwise {
                let inputs = TemplateInputs { instruction, documents: 1, identifiers: &[] };
                let parts = pointwise.template.render(inputs, &self.tokenizer)?;
                self.check_parts(&pointwise.template, &parts, 1, vocabulary)?;
                takes_instruction &= !instruction || parts.contains(&Part::Instruction);
            }
        }
        if let Some(bi_encoder) = &self.bi_encoder {
            let (rendered, reads_instruction) = self.check_bi_encoder(bi_encoder)?;
            for parts in rendered {
                self.check_control_ids(&bi_encoder.template, &parts, vocabulary)?;
            }
            takes_instruction = reads_instruction;
        }
        Ok(takes_instruction)
    }

    /// Renders both blocks with and without an instruction, and with each number of documents that
    /// block `query` may show. Returns all renderings, and whether the family takes an instruction.
    fn check_bi_encoder(&self, bi_encoder: &BiEncoder) -> Result<(Vec<Vec<Part>>, bool), PromptError> {
        let problem = |problem: &str| bi_encoder.template.problem(problem);
        let documents_in = |parts: &[Part]| -> Vec<usize> {
            parts.iter().filter_map(|part| if let Part::Document(place) = part { Some(*place) } else { None }).collect()
        };
        let document = bi_encoder.render_block("document", false, 0, &self.tokenizer)?;
        let is_foreign = |part: &Part| matches!(part, Part::Query | Part::Instruction | Part::DocumentMark);
        if documents_in(&document) != [0] || document.iter().any(is_foreign) {
            return Err(problem("block `document` must hold the document once, and no other text of a request"));
        }
        let mut rendered = vec![document];
        let mut takes_instruction = true;
        let most = bi_encoder.readout.feedback_documents().min(2);
        for (instruction, shown) in
            [false, true].into_iter().flat_map(|flag| (0..=most).map(move |shown| (flag, shown)))
        {
            let parts = bi_encoder.render_block("query", instruction, shown, &self.tokenizer)?;
            if !parts.contains(&Part::Query) {
                return Err(problem("the query is nowhere in block `query`"));
            }
            if !documents_in(&parts).into_iter().eq(0..shown) {
                return Err(problem("block `query` must hold each of the documents that it is given once, in order"));
            }
            takes_instruction &= !instruction || parts.contains(&Part::Instruction);
            rendered.push(parts);
        }
        Ok((rendered, takes_instruction))
    }

    /// A slate's whole prompt. The blocks of an isolated one are put together in order.
    fn listwise_parts(&self, listwise: &Listwise, inputs: TemplateInputs) -> Result<Vec<Part>, PromptError> {
        let template = &listwise.template;
        if listwise.facts.layout == Layout::Causal {
            return template.render(inputs, &self.tokenizer);
        }
        let block = |name| template.render_block(name, inputs, &self.tokenizer);
        let (mut parts, document) = (block("prefix")?, block("document")?);
        check_document_block(&document).map_err(|problem| template.problem(problem))?;
        for place in 0..inputs.documents {
            let number = |part: &Part| if let Part::Document(_) = part { Part::Document(place) } else { part.clone() };
            parts.extend(document.iter().map(number));
        }
        parts.extend(block("closing")?);
        Ok(parts)
    }

    fn check_parts(
        &self,
        template: &Template,
        parts: &[Part],
        documents: usize,
        vocabulary: usize,
    ) -> Result<(), PromptError> {
        check_texts(parts, documents).map_err(|problem| template.problem(problem))?;
        self.check_control_ids(template, parts, vocabulary)
    }

    fn check_control_ids(&self, template: &Template, parts: &[Part], vocabulary: usize) -> Result<(), PromptError> {
        let too_high = parts.iter().find_map(|part| {
            let Part::Control(id) = part else { return None };
            Some(*id).filter(|id| *id as usize >= vocabulary)
        });
        match too_high {
            None => Ok(()),
            Some(id) => Err(template.problem(format!(
                "`{}` is id {id}, but the model's vocabulary ends at {vocabulary}",
                self.tokenizer.decode(&[id])
            ))),
        }
    }
}

/// Checks that each document is there once and in order, and that the query is there.
fn check_texts(parts: &[Part], documents: usize) -> Result<(), String> {
    let found = parts.iter().filter_map(|part| if let Part::Document(place) = part { Some(*place) } else { None });
    if !found.eq(0..documents) {
        return Err(format!("{documents} documents must each be there once, in order"));
    }
    if !parts.contains(&Part::Query) {
        return Err("the query is nowhere in it".into());
    }
    Ok(())
}

/// Checks that a mark stands after each document and before the next, and that the query's mark
/// stands after them. It may also stand before the documents: the last one is read.
fn check_marks(parts: &[Part], documents: usize, marks: &Marks) -> Result<(), String> {
    let letter = |part: &Part| match part {
        Part::Document(_) => Some('d'),
        Part::DocumentMark => Some('m'),
        Part::Control(id) if marks.document.contains(id) => Some('m'),
        Part::Control(id) if *id == marks.query => Some('q'),
        Part::Control(_) | Part::Text(_) | Part::Query | Part::Instruction | Part::Boundary => None,
    };
    let letters: String = parts.iter().filter_map(letter).collect();
    if letters.trim_start_matches('q') == "dm".repeat(documents) + "q" {
        return Ok(());
    }
    Err(format!("{documents} documents need their mark after each and the query's mark once after all of them"))
}

/// Checks the block of an isolated document: text before it, the document, its mark.
fn check_document_block(parts: &[Part]) -> Result<(), String> {
    match parts {
        [Part::Text(_), Part::Document(0), Part::DocumentMark | Part::Control(_)]
        | [Part::Document(0), Part::DocumentMark | Part::Control(_)] => Ok(()),
        _ => Err("block `document` must be text, the document and its mark".into()),
    }
}
