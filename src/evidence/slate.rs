//! The scores of a slate, from the states of its rows.

use std::ops::Range;
use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::EvidenceModel;
use super::facts::{CountedFacts, NamedFacts};
use super::text::{DocumentVectors, Fit, QueryVectors, RowStates};
use super::vector::{dot, softmax};
use super::wish::{InstructionTokens, Row, WishDocument, WishQuery};
use crate::runtime::{Output, ReadStates, TokenStates};

/// The meaning of each row of a pass. The first is the query's, the second the instruction's if
/// there is one, then the documents' follow.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlateRows {
    /// The token ids of the query, without those that begin and end its row.
    pub query: Vec<u32>,
    /// The instruction; `None` without one.
    pub instruction: Option<InstructionRow>,
    /// The documents, in order.
    pub documents: Vec<DocumentRows>,
}

/// The row of an instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct InstructionRow {
    /// Its token ids, without those that begin and end its row.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
}

/// The rows of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentRows {
    /// The token ids of its rows, without those at both ends; at least one row.
    pub rows: Vec<Vec<u32>>,
    /// Properties that were counted in it; empty without an instruction.
    pub counted: CountedFacts,
    /// The words that it has in common with the query and with the instruction, in [0, 1): BM25
    /// over its maximum.
    pub lexical: [f32; 2],
}

/// Reads the scores of a slate's documents: one row of one number for each.
#[derive(Debug)]
pub struct SlateReader {
    model: Arc<EvidenceModel>,
    rows: SlateRows,
    /// The layers that are read.
    layers: Vec<u16>,
}

/// An instruction that asks for something: how much, and what documents are compared with.
struct ActiveInstruction {
    gate: f32,
    vectors: QueryVectors,
    asked: WishQuery,
    named: NamedFacts,
}

/// A document's vectors, its fit to the query, and the tokens of each of its rows.
struct Document {
    rows: Vec<Range<usize>>,
    vectors: DocumentVectors,
    fit: Fit,
}

impl SlateReader {
    /// A reader of a pass with these rows.
    #[must_use]
    pub fn new(model: Arc<EvidenceModel>, rows: SlateRows) -> Self {
        let [earlier, last] = model.config.states_after_layers;
        // The earlier states are for the instruction.
        let layers = if rows.instruction.is_some() { vec![earlier, last] } else { vec![last] };
        Self { model, rows, layers }
    }

    /// Reads the instruction; `None` if it asks for nothing.
    fn active_instruction(
        &self,
        earlier: RowStates<'_>,
        last: RowStates<'_>,
        query: &Range<usize>,
        row: &Range<usize>,
    ) -> Option<ActiveInstruction> {
        let InstructionRow { ids, text } = self.rows.instruction.as_ref()?;
        let side_by_side = |tokens: Range<usize>| -> Vec<Vec<f32>> {
            tokens.map(|token| [earlier.of(&(token..token + 1)), last.of(&(token..token + 1))].concat()).collect()
        };
        let gate = self.model.gate.open(&side_by_side(row.clone()));
        if gate <= 0.0 {
            return None;
        }
        let content = if row.len() > 2 { row.start + 1..row.end - 1 } else { row.start..row.start };
        let tokens = InstructionTokens {
            ids: ids.clone(),
            weights: self.weights(ids),
            states: side_by_side(content),
            vectors: [earlier.content(row), last.content(row)],
        };
        let states_of = |row: &Range<usize>| Row { earlier: earlier.of(row), last: last.of(row), width: last.width };
        let asked = self.model.wish.ask(states_of(query), states_of(row), tokens);
        let named = self.model.config.facts.named(text);
        Some(ActiveInstruction { gate, vectors: QueryVectors::new(last, row, &self.weights(ids)), asked, named })
    }

    /// The weights of tokens. An id that the model does not know counts nothing.
    fn weights(&self, ids: &[u32]) -> Vec<f32> {
        ids.iter().map(|id| self.model.token_weights.get(*id as usize).copied().unwrap_or_default()).collect()
    }

    /// The part of a document's score that the instruction adds.
    fn added(&self, active: &ActiveInstruction, document: &Document, number: usize, layers: [RowStates<'_>; 2]) -> f32 {
        let [earlier, last] = layers;
        let DocumentRows { rows: ids, counted, lexical } = &self.rows.documents[number];
        let fit = document.vectors.fit(&active.vectors);
        let states: usize = document.rows.iter().map(ExactSizeIterator::len).sum();
        let scalars = [
            document.fit.window,
            document.fit.maxsim,
            lexical[0],
            dot(&active.vectors.mean, &document.vectors.mean),
            fit.window,
            fit.maxsim,
            lexical[1],
            (states as f32).ln() / 5.0,
        ];
        let tokens = &document.rows[document.fit.row];
        let row = Row { earlier: earlier.of(tokens), last: last.of(tokens), width: last.width };
        let content = [earlier.content(tokens), last.content(tokens)];
        let facts = self.model.config.facts.together(active.named, counted);
        let (ids, vectors) = (ids[document.fit.row].as_slice(), [&*content[0], &*content[1]]);
        let wished = WishDocument { row, ids, vectors, scalars, facts };
        active.gate * self.model.wish.read(&active.asked, &wished)
    }

    /// The scores without the instruction.
    fn base(&self, documents: &[Document]) -> Vec<f32> {
        let config = &self.model.config;
        let [of_window, of_tokens, of_words] = config.evidence_weights;
        let first: Vec<f32> = documents
            .iter()
            .zip(&self.rows.documents)
            .map(|(document, rows)| {
                of_window * document.fit.window + of_tokens * document.fit.maxsim + of_words * rows.lexical[0]
            })
            .collect();
        let scaled: Vec<f32> = first.iter().map(|value| value / config.feedback.temperature).collect();
        let shares = softmax(&scaled);
        let width = self.model.width;
        let (mut center, mut liked) = (vec![0.0; width], vec![0.0; width]);
        for (document, share) in documents.iter().zip(shares) {
            for (place, value) in document.vectors.mean.iter().enumerate() {
                center[place] += value / documents.len() as f32;
                liked[place] += share * value;
            }
        }
        // The shares add up to 1, so that this is the weighted mean of the distances to the centre.
        liked.iter_mut().zip(&center).for_each(|(liked, center)| *liked -= center);
        let around = dot(&center, &liked);
        let score = |(document, first): (&Document, f32)| {
            let feedback = dot(&document.vectors.mean, &liked) - around;
            config.base.scale * (first + config.feedback.weight * feedback) + config.base.bias
        };
        if let [_] = documents {
            return first.into_iter().map(|first| config.base.scale * first + config.base.bias).collect();
        }
        documents.iter().zip(first).map(score).collect()
    }
}

impl ReadStates for SlateReader {
    fn layers(&self) -> &[u16] {
        &self.layers
    }

    fn rows(&self) -> usize {
        self.rows.documents.len()
    }

    fn read(&self, states: &TokenStates<'_>) -> Output {
        let width = states.width;
        let (Some(last), Some(earlier)) = (states.layers.last(), states.layers.first()) else { return Vec::new() };
        let (earlier, last) = (RowStates { states: earlier, width }, RowStates { states: last, width });
        let mut segments = states.segments.iter().cloned();
        let Some(query_row) = segments.next() else { return Vec::new() };
        let query = QueryVectors::new(last, &query_row, &self.weights(&self.rows.query));
        let active = match &self.rows.instruction {
            Some(_) => segments.next().and_then(|row| self.active_instruction(earlier, last, &query_row, &row)),
            None => None,
        };
        let rows: Vec<Vec<Range<usize>>> =
            self.rows.documents.iter().map(|document| segments.by_ref().take(document.rows.len()).collect()).collect();
        let documents: Vec<Document> = rows
            .par_iter()
            .map(|rows| {
                let vectors =
                    DocumentVectors::new(last, rows, self.model.config.window, self.model.config.later_passages);
                Document { rows: rows.clone(), fit: vectors.fit(&query), vectors }
            })
            .collect();
        let mut scores = self.base(&documents);
        if let Some(active) = active {
            let numbers: Vec<usize> = (0..documents.len()).collect();
            let added: Vec<f32> = numbers
                .par_iter()
                .map(|number| self.added(&active, &documents[*number], *number, [earlier, last]))
                .collect();
            scores.iter_mut().zip(added).for_each(|(score, added)| *score += added);
        }
        scores.into_iter().map(|score| vec![score]).collect()
    }
}
