//! Renders some documents of a prepared request to the token sequences of one pass, with the
//! positions to read.

use super::pairs::shared_prefix;
use crate::evidence::SlateRows;
use crate::prompt::binding::{Listwise, Prompter};
use crate::prompt::family::Layout;
use crate::prompt::texts::{Plan, PreparedTexts};
use crate::rerank::RerankError;
use crate::runtime::{TokenPosition, TokenTypes};

/// Token sequences of one pass. Suffixes continue the prefix and do not see each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendering {
    /// The part that all suffixes share; the whole sequence when there are no suffixes.
    pub prefix: Vec<u32>,
    /// Continuations of the prefix.
    pub suffixes: Vec<Vec<u32>>,
    /// The positions to read. Late interaction: each document's mark, then the query's. First
    /// token: the last position. Pointwise: the end of each document's sequence; a classifier that
    /// pools ignores it. Bi-encoder: the end of each document's sequence, or of the query's; for
    /// `MaxSim` all tokens that are compared, the query's first.
    pub marks: Vec<TokenPosition>,
    /// The types of the tokens.
    pub token_types: TokenTypes,
    /// The meaning of each suffix, where texts are rows of their own.
    pub rows: Option<SlateRows>,
}

impl Prompter {
    /// The token sequences of one pass over these documents. `documents` are indices into
    /// the request, in the order of the prompt.
    ///
    /// # Errors
    /// [`RerankError::PromptTooLong`] when the sequence is over the model's context;
    /// [`RerankError::Internal`] when tokenizer or template fail, or marks do not add up.
    pub fn render(&self, prepared: &PreparedTexts, documents: &[usize]) -> Result<Rendering, RerankError> {
        if let Some(evidence) = &self.evidence_rows {
            return self.render_rows(evidence, prepared, documents);
        }
        let rendering = match (&prepared.plan, &self.listwise) {
            (Plan::Pairs(_), _) if self.bidirectional => self.render_whole_pairs(prepared, documents),
            (Plan::Pairs(_), _) => render_pairs(prepared, documents),
            (Plan::BiEncoder(_), _) => {
                match self.bi_encoder.as_ref().and_then(|bi_encoder| bi_encoder.colbert.as_ref()) {
                    Some(colbert) => colbert.render(prepared, documents),
                    None => render_bi_encoder(prepared, documents),
                }
            }
            (Plan::Slates(_) | Plan::Windows(_), Some(listwise)) => match listwise.facts.layout {
                Layout::Causal => self.render_causal(listwise, prepared, documents)?,
                Layout::Isolated => self.render_isolated(listwise, prepared, documents)?,
            },
            (Plan::Slates(_) | Plan::Windows(_), None) => {
                return Err(RerankError::internal("slates of a family that has none"));
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
        prepared: &PreparedTexts,
        documents: &[usize],
    ) -> Result<Rendering, RerankError> {
        let frame =
            self.causal_frame(listwise, documents.len(), prepared.short_texts()).map_err(RerankError::internal)?;
        let mark = listwise.marks.as_ref().and_then(|marks| marks.document.first().copied()).unwrap_or_default();
        let filled = frame
            .fill(&self.tokenizer, |place| &prepared.documents[documents[place]].text, |_| mark)
            .map_err(RerankError::internal)?;
        self.check_controls(&filled.ids, filled.controls.len())?;
        let filled = listwise.end_at_query_mark(filled);
        let marks = match &listwise.marks {
            None => vec![TokenPosition { segment: 0, offset: filled.ids.len() - 1 }],
            Some(marks) => {
                let of = |wanted: &dyn Fn(u32) -> bool| {
                    let found = filled.controls.iter().filter(|(_, id)| wanted(*id));
                    found.map(|(offset, _)| TokenPosition { segment: 0, offset: *offset }).collect::<Vec<_>>()
                };
                let (mut places, query) = (of(&|id| marks.document.contains(&id)), of(&|id| id == marks.query));
                let Some(query) = query.last().filter(|_| places.len() == documents.len()) else {
                    return Err(RerankError::internal(format!(
                        "{} document marks and {} query marks for {} documents",
                        places.len(),
                        query.len(),
                        documents.len()
                    )));
                };
                places.push(*query);
                places
            }
        };
        Ok(Rendering { prefix: filled.ids, suffixes: Vec::new(), marks, token_types: TokenTypes::Zero, rows: None })
    }

    fn render_isolated(
        &self,
        listwise: &Listwise,
        prepared: &PreparedTexts,
        documents: &[usize],
    ) -> Result<Rendering, RerankError> {
        let (prefix, closing) = self.isolated_ends(listwise, prepared.short_texts())?;
        let mut suffixes: Vec<Vec<u32>> =
            documents.iter().map(|document| prepared.documents[*document].ids.clone()).collect();
        for suffix in &suffixes {
            // The mark, and no other control token.
            self.check_controls(suffix, 1)?;
        }
        suffixes.push(closing);
        let marks = ends_of(&suffixes);
        Ok(Rendering { prefix, suffixes, marks, token_types: TokenTypes::Zero, rows: None })
    }

    /// Renders pairs without a prefix: in each of them every token sees the document.
    fn render_whole_pairs(&self, prepared: &PreparedTexts, documents: &[usize]) -> Rendering {
        let suffixes: Vec<Vec<u32>> =
            documents.iter().map(|document| prepared.documents[*document].ids.clone()).collect();
        let second = prepared.pair_frame.as_ref().filter(|_| self.pointwise.as_ref().is_some_and(|of| of.second_type));
        let token_types =
            second.map_or(TokenTypes::Zero, |frame| TokenTypes::Pairs(vec![frame.before.len(); suffixes.len()]));
        let marks = ends_of(&suffixes);
        Rendering { prefix: Vec::new(), suffixes, marks, token_types, rows: None }
    }
}

/// Renders sequences that are read at their ends; those of no documents are the query's alone.
fn render_bi_encoder(prepared: &PreparedTexts, documents: &[usize]) -> Rendering {
    if documents.is_empty() {
        let marks = vec![TokenPosition::prefix(prepared.query_ids.len().saturating_sub(1))];
        let prefix = prepared.query_ids.clone();
        return Rendering { prefix, suffixes: Vec::new(), marks, token_types: TokenTypes::Zero, rows: None };
    }
    let suffixes: Vec<Vec<u32>> = documents.iter().map(|document| prepared.documents[*document].ids.clone()).collect();
    let marks = ends_of(&suffixes);
    Rendering { prefix: Vec::new(), suffixes, marks, token_types: TokenTypes::Zero, rows: None }
}

/// Renders pointwise sequences as one pass: their longest shared beginning is the prefix.
fn render_pairs(prepared: &PreparedTexts, documents: &[usize]) -> Rendering {
    let sequences: Vec<&[u32]> =
        documents.iter().map(|document| prepared.documents[*document].ids.as_slice()).collect();
    if let [only] = sequences.as_slice() {
        let end = TokenPosition { segment: 0, offset: only.len().saturating_sub(1) };
        return Rendering {
            prefix: only.to_vec(),
            suffixes: Vec::new(),
            marks: vec![end],
            token_types: TokenTypes::Zero,
            rows: None,
        };
    }
    let shared = shared_prefix(&sequences);
    let prefix = sequences.first().map(|first| first[..shared].to_vec()).unwrap_or_default();
    let suffixes: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence[shared..].to_vec()).collect();
    let marks = ends_of(&suffixes);
    Rendering { prefix, suffixes, marks, token_types: TokenTypes::Zero, rows: None }
}

/// The last position of each suffix.
fn ends_of(suffixes: &[Vec<u32>]) -> Vec<TokenPosition> {
    let ends = suffixes.iter().enumerate();
    ends.map(|(nth, suffix)| TokenPosition { segment: nth + 1, offset: suffix.len().saturating_sub(1) }).collect()
}
