//! Some documents of a reading to the token sequences of one pass, with the positions to read.

use super::family::Layout;
use super::frame::{Filled, Frame};
use super::pairs::shared_prefix;
use super::plan::Plan;
use super::prompter::{Listwise, Prompter};
use super::read::{Reading, ShortTexts};
use super::template::Scene;
use crate::rerank::RerankError;
use crate::runtime::TokenPosition;

/// Token sequences of one pass. Suffixes continue the prefix and do not see each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendering {
    /// What all suffixes share; the whole sequence when there are no suffixes.
    pub prefix: Vec<u32>,
    /// Continuations of the prefix.
    pub suffixes: Vec<Vec<u32>>,
    /// Where to read. Late interaction: each document's mark, then the query's. First token: the last
    /// position. Pointwise: the end of each document's sequence.
    pub marks: Vec<TokenPosition>,
}

impl Prompter {
    /// What the model reads for these documents (indices into the reading, in the order they are to
    /// stand in the prompt) in one pass.
    ///
    /// # Errors
    /// [`RerankError::PromptTooLong`] when the sequence is over the model's context;
    /// [`RerankError::Internal`] when tokenizer or template fail, or marks do not add up.
    pub fn render(&self, reading: &Reading, documents: &[usize]) -> Result<Rendering, RerankError> {
        let rendering = match (&reading.plan, &self.listwise) {
            (Plan::Pairs(_), _) => render_pairs(reading, documents),
            (Plan::Slates(_) | Plan::Windows(_), Some(listwise)) => match listwise.facts.layout {
                Layout::Causal => self.render_causal(listwise, reading, documents)?,
                Layout::Isolated => self.render_isolated(listwise, reading, documents)?,
            },
            (Plan::Slates(_) | Plan::Windows(_), None) => {
                return Err(RerankError::internal("slates of a family that reads none"));
            }
        };
        let depth = rendering.prefix.len() + rendering.suffixes.iter().map(Vec::len).max().unwrap_or(0);
        if depth > self.context {
            let field = match documents {
                [document] => format!("documents[{document}]"),
                _ => "documents".to_owned(),
            };
            return Err(RerankError::PromptTooLong { field, tokens: depth, limit: self.context });
        }
        Ok(rendering)
    }

    fn render_causal(
        &self,
        listwise: &Listwise,
        reading: &Reading,
        documents: &[usize],
    ) -> Result<Rendering, RerankError> {
        let texts = ShortTexts { query: reading.query.clone(), instruction: reading.instruction.clone() };
        let frame = self.causal_frame(listwise, documents.len(), &texts).map_err(RerankError::internal)?;
        let mark = listwise.marks.as_ref().and_then(|marks| marks.document.first().copied()).unwrap_or_default();
        let filled = frame
            .fill(&self.tokenizer, |place| &reading.documents[documents[place]].text, |_| mark)
            .map_err(RerankError::internal)?;
        self.check_controls(&filled.ids, filled.controls.len())?;
        let filled = Self::ending_at_query_mark(listwise, filled);
        let marks = match &listwise.marks {
            None => vec![TokenPosition { segment: 0, offset: filled.ids.len() - 1 }],
            Some(marks) => {
                let of = |wanted: &dyn Fn(u32) -> bool| {
                    let found = filled.controls.iter().filter(|(_, id)| wanted(*id));
                    found.map(|(offset, _)| TokenPosition { segment: 0, offset: *offset }).collect::<Vec<_>>()
                };
                let (mut places, query) = (of(&|id| marks.document.contains(&id)), of(&|id| id == marks.query));
                if places.len() != documents.len() || query.len() != 1 {
                    return Err(RerankError::internal(format!(
                        "{} document marks and {} query marks for {} documents",
                        places.len(),
                        query.len(),
                        documents.len()
                    )));
                }
                places.extend(query);
                places
            }
        };
        Ok(Rendering { prefix: filled.ids, suffixes: Vec::new(), marks })
    }

    fn render_isolated(
        &self,
        listwise: &Listwise,
        reading: &Reading,
        documents: &[usize],
    ) -> Result<Rendering, RerankError> {
        let texts = ShortTexts { query: reading.query.clone(), instruction: reading.instruction.clone() };
        let (prefix, closing) = self.isolated_ends(listwise, &texts)?;
        let mut suffixes: Vec<Vec<u32>> =
            documents.iter().map(|document| reading.documents[*document].ids.clone()).collect();
        for suffix in &suffixes {
            // The mark, and no other control token.
            self.check_controls(suffix, 1)?;
        }
        suffixes.push(closing);
        let ends = suffixes.iter().enumerate();
        let marks = ends.map(|(nth, suffix)| TokenPosition { segment: nth + 1, offset: suffix.len() - 1 }).collect();
        Ok(Rendering { prefix, suffixes, marks })
    }

    /// The prefix of an isolated slate, and the suffix with its query mark.
    pub(super) fn isolated_ends(
        &self,
        listwise: &Listwise,
        texts: &ShortTexts,
    ) -> Result<(Vec<u32>, Vec<u32>), RerankError> {
        let block = |name: &str| -> Result<Vec<u32>, RerankError> {
            let scene = Scene { instruction: !texts.instruction.is_empty(), documents: 1, identifiers: &[] };
            let parts = listwise.template.render_block(name, scene, &self.tokenizer).map_err(RerankError::internal)?;
            let filled = Frame::new(parts, &texts.query, &texts.instruction)
                .fill(&self.tokenizer, |_| "", |_| 0)
                .map_err(RerankError::internal)?;
            self.check_controls(&filled.ids, filled.controls.len())?;
            Ok(Self::ending_at_query_mark(listwise, filled).ids)
        };
        Ok((block("prefix")?, block("closing")?))
    }

    /// Causal attention: what follows the query's mark cannot change what is read.
    pub(super) fn ending_at_query_mark(listwise: &Listwise, mut filled: Filled) -> Filled {
        if let Some(marks) = &listwise.marks {
            filled.end_after(marks.query);
        }
        filled
    }

    /// The last line of defence: exactly the control tokens that the template has.
    pub(super) fn check_controls(&self, ids: &[u32], expected: usize) -> Result<(), RerankError> {
        let found = ids.iter().filter(|id| self.tokenizer.is_control(**id)).count();
        if found == expected {
            return Ok(());
        }
        Err(RerankError::internal(format!(
            "a prompt with {found} control tokens, of which {expected} are the template's"
        )))
    }
}

/// Pointwise sequences as one tree.
fn render_pairs(reading: &Reading, documents: &[usize]) -> Rendering {
    let sequences: Vec<&[u32]> = documents.iter().map(|document| reading.documents[*document].ids.as_slice()).collect();
    if let [only] = sequences.as_slice() {
        let end = TokenPosition { segment: 0, offset: only.len().saturating_sub(1) };
        return Rendering { prefix: only.to_vec(), suffixes: Vec::new(), marks: vec![end] };
    }
    let shared = shared_prefix(&sequences);
    let prefix = sequences.first().map(|first| first[..shared].to_vec()).unwrap_or_default();
    let suffixes: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence[shared..].to_vec()).collect();
    let ends = suffixes.iter().enumerate();
    let marks = ends.map(|(nth, suffix)| TokenPosition { segment: nth + 1, offset: suffix.len() - 1 }).collect();
    Rendering { prefix, suffixes, marks }
}
