//! The listwise part of a family, bound to a tokenizer.

use super::token_lookup::TokenLookup;
use crate::prompt::PromptError;
use crate::prompt::checkpoint::{Calibration, PodiumConfig};
use crate::prompt::family::{ListwiseFacts, ListwiseReadout};
use crate::prompt::lexical::LexicalTable;
use crate::prompt::template::Template;

/// How a listwise family turns outputs into scores.
#[derive(Debug, Clone, PartialEq)]
pub enum SlateScore {
    /// Cosines between projected states.
    LateInteraction {
        /// Turns a cosine into a relevance.
        relevance: Relevance,
        /// In how many of the last layers marks see each other.
        cross_document_layers: usize,
    },
    /// The logits of identifiers; document `i` of a window has identifier `i`.
    FirstToken {
        /// As many as a window has documents at most.
        identifiers: Vec<Identifier>,
    },
}

/// How a cosine becomes a relevance in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Relevance {
    /// (1 + cosine) / 2
    HalfShift,
    /// sigmoid(scale * cosine + bias)
    Sigmoid(Calibration),
}

/// The name of a document in a window, which is a single token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifier {
    /// Its spelling in the prompt.
    pub text: String,
    /// Its id.
    pub id: u32,
}

#[derive(Debug)]
pub(in crate::prompt) struct Listwise {
    pub facts: ListwiseFacts,
    pub template: Template,
    pub score: SlateScore,
    /// The documents' names in the prompt; empty for families that do not name them.
    pub identifiers: Vec<String>,
    /// `None` for families without late interaction.
    pub marks: Option<Marks>,
}

/// The control tokens at whose positions the model's states are read.
#[derive(Debug)]
pub(in crate::prompt) struct Marks {
    /// One, or one per bucket of evidence.
    pub document: Vec<u32>,
    pub query: u32,
    pub evidence: Option<LexicalTable>,
}

impl TokenLookup<'_> {
    /// Binds the listwise part of a family.
    pub fn bind_listwise(
        &self,
        facts: ListwiseFacts,
        template: Template,
        podium: Option<&PodiumConfig>,
        evidence: Option<LexicalTable>,
    ) -> Result<Listwise, PromptError> {
        let (score, identifiers, marks) = match &facts.readout {
            ListwiseReadout::LateInteraction { document_mark, evidence_buckets, query_mark } => {
                let marks = self.marks(document_mark, *evidence_buckets, query_mark, evidence)?;
                let calibration = podium.and_then(|podium| podium.calibration);
                let score = SlateScore::LateInteraction {
                    relevance: calibration.map_or(Relevance::HalfShift, Relevance::Sigmoid),
                    cross_document_layers: podium.map_or(0, |podium| podium.joint_layers),
                };
                (score, Vec::new(), Some(marks))
            }
            ListwiseReadout::FirstToken { identifiers } => {
                let found = self.identifiers(identifiers, facts.slates.documents)?;
                let texts = found.iter().map(|identifier| identifier.text.clone()).collect();
                (SlateScore::FirstToken { identifiers: found }, texts, None)
            }
        };
        Ok(Listwise { facts, template, score, identifiers, marks })
    }

    /// The marks of documents, one for each bucket where there are buckets, and of the query.
    fn marks(
        &self,
        document_mark: &str,
        buckets: Option<usize>,
        query_mark: &str,
        evidence: Option<LexicalTable>,
    ) -> Result<Marks, PromptError> {
        let document = match buckets {
            Some(buckets) => (0..buckets)
                .map(|bucket| self.control(&document_mark.replace("{bucket}", &bucket.to_string())))
                .collect::<Result<_, _>>()?,
            None => vec![self.control(document_mark)?],
        };
        if buckets.is_some() && evidence.is_none() {
            let problem = format!("family `{}` needs one and there is none", self.family);
            return Err(PromptError::Evidence(problem));
        }
        let evidence = evidence.filter(|_| buckets.is_some());
        Ok(Marks { document, query: self.control(query_mark)?, evidence })
    }

    /// The names of these ranges that are single tokens, each token once and at most `most` in all.
    fn identifiers(&self, ranges: &[String], most: usize) -> Result<Vec<Identifier>, PromptError> {
        let mut found: Vec<Identifier> = Vec::new();
        for text in ranges.iter().flat_map(|range| names_in(range)) {
            if let Some(id) = self.tokenizer.single_token_behind("[", &text)
                && found.iter().all(|identifier| identifier.id != id)
            {
                found.push(Identifier { text, id });
            }
        }
        found.truncate(most);
        if found.len() < 2 {
            return Err(self.problem(&ranges.join(", "), "fewer than two identifiers are single tokens".into()));
        }
        Ok(found)
    }
}

/// The names of a range, in order: `A-C` is A, B, C; `AA-BB` is AA, AB, BA, BB; `Z` is Z.
fn names_in(range: &str) -> Vec<String> {
    let Some((from, to)) = range.split_once('-').filter(|(from, to)| from.chars().count() == to.chars().count()) else {
        return vec![range.to_owned()];
    };
    let mut names = vec![String::new()];
    for (low, high) in from.chars().zip(to.chars()) {
        names = names.iter().flat_map(|name| (low..=high).map(move |letter| format!("{name}{letter}"))).collect();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifier_ranges_spell_names_in_order() {
        assert_eq!(names_in("A-D"), ["A", "B", "C", "D"]);
        assert_eq!(names_in("AA-BB"), ["AA", "AB", "BA", "BB"]);
        assert_eq!(names_in("Z"), ["Z"]);
    }
}
