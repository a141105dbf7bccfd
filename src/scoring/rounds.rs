//! The loop from a reading to scores: which passes run next, and what is made of their outputs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::first_token::{SlidingOrder, log_probabilities};
use super::late_interaction::{self, SlateVectors};
use super::{Scores, ScoringError, pointwise};
use crate::prompt::{Answers, Identifier, Plan, Prompter, Reading, Relevance, Rendering, SlateScore};
use crate::rerank::slates::windows;
use crate::rerank::{Mode, RerankError};
use crate::runtime::{CrossDocumentLayers, ForwardPass, Head, Output, OutputSpec, TokenTypes};

/// A pass, and the documents it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedPass {
    /// Indices into the request, in the order they stand in the prompt.
    pub documents: Vec<usize>,
    /// What is run.
    pub pass: ForwardPass,
}

/// The rounds of one request: [`Rounds::next_round`] and [`Rounds::take`] in turns until there is no
/// next, then [`Rounds::finish`].
#[derive(Debug)]
pub struct Rounds {
    prompter: Arc<Prompter>,
    reading: Arc<Reading>,
    scorer: Scorer,
    /// Places of the list (of the current order, for windows) read in each round to come.
    to_come: VecDeque<Vec<Range<usize>>>,
    /// The documents of the passes that are out.
    out: Vec<Vec<usize>>,
    /// Slates or documents read so far.
    slates: usize,
}

#[derive(Debug)]
enum Scorer {
    LateInteraction { relevance: Relevance, cross_document_layers: usize, slates: Vec<(Vec<usize>, SlateVectors)> },
    FirstToken { identifiers: Vec<Identifier>, order: SlidingOrder, places: Range<usize> },
    Pointwise { answers: Answers, raw: Vec<Option<f32>> },
}

impl Rounds {
    /// The rounds of a reading.
    ///
    /// # Errors
    /// [`RerankError::Internal`] when the reading is not this prompter's.
    pub fn begin(prompter: Arc<Prompter>, reading: Arc<Reading>) -> Result<Self, RerankError> {
        let count = reading.documents.len();
        let (scorer, rounds) = match (&reading.plan, prompter.slate_score(), prompter.answers()) {
            (Plan::Slates(slates), Some(SlateScore::LateInteraction { relevance, cross_document_layers }), _) => {
                let (relevance, cross_document_layers) = (*relevance, *cross_document_layers);
                (Scorer::LateInteraction { relevance, cross_document_layers, slates: Vec::new() }, vec![slates.clone()])
            }
            (Plan::Windows(window), Some(SlateScore::FirstToken { identifiers }), _) => {
                let order = SlidingOrder::new(count);
                let scorer = Scorer::FirstToken { identifiers: identifiers.clone(), order, places: 0..0 };
                (scorer, windows(count, *window).into_iter().map(|places| vec![places]).collect())
            }
            (Plan::Pairs(groups), _, Some(answers)) => {
                (Scorer::Pointwise { answers: *answers, raw: vec![None; count] }, vec![groups.clone()])
            }
            (Plan::Slates(_) | Plan::Windows(_) | Plan::Pairs(_), _, _) => {
                return Err(RerankError::internal("a reading of another family"));
            }
        };
        let to_come = rounds.into_iter().filter(|round| !round.is_empty()).collect();
        Ok(Self { prompter, reading, scorer, to_come, out: Vec::new(), slates: 0 })
    }

    /// How many more times [`Rounds::next_round`] gives passes.
    #[must_use]
    pub fn to_come(&self) -> usize {
        self.to_come.len()
    }

    /// The passes that run now, all at once; `None` when everything has been read. Tokenises: call it
    /// on a blocking thread.
    ///
    /// # Errors
    /// Those of [`Prompter::render`].
    pub fn next_round(&mut self) -> Result<Option<Vec<PlannedPass>>, RerankError> {
        let Some(round) = self.to_come.pop_front() else { return Ok(None) };
        let mut passes = Vec::with_capacity(round.len());
        for places in round {
            let documents: Vec<usize> = match &mut self.scorer {
                Scorer::FirstToken { order, places: at, .. } => {
                    at.clone_from(&places);
                    order.at(places).to_vec()
                }
                Scorer::LateInteraction { .. } | Scorer::Pointwise { .. } => places.collect(),
            };
            let rendering = self.prompter.render(&self.reading, &documents)?;
            passes.push(PlannedPass { pass: self.scorer.pass(rendering, documents.len()), documents });
        }
        self.out = passes.iter().map(|planned| planned.documents.clone()).collect();
        Ok(Some(passes))
    }

    /// Takes the outputs of the passes of the last [`Rounds::next_round`], in their order.
    ///
    /// # Errors
    /// [`RerankError::Internal`] with a [`ScoringError`] when they are not what was asked for, or a
    /// score is not finite.
    pub fn take(&mut self, outputs: Vec<Output>) -> Result<(), RerankError> {
        let out = std::mem::take(&mut self.out);
        if out.len() != outputs.len() {
            return Err(wrong(format!("{} outputs", out.len()), outputs.len().to_string()));
        }
        for (documents, output) in out.into_iter().zip(outputs) {
            self.slates += if matches!(self.reading.plan, Plan::Pairs(_)) { documents.len() } else { 1 };
            self.scorer.take(documents, output)?;
        }
        Ok(())
    }

    /// The scores.
    ///
    /// # Errors
    /// [`RerankError::Internal`] with a [`ScoringError`] when a document has no score, or one that is
    /// not finite.
    pub fn finish(self) -> Result<Scores, RerankError> {
        let count = self.reading.documents.len();
        let mode = self.reading.mode;
        let (raw, relevance) = self.scorer.finish(count, mode)?;
        for values in [&raw, &relevance] {
            if let Some(document) = values.iter().position(|value| !value.is_finite()) {
                return Err(RerankError::internal(ScoringError::NonFinite { document, value: values[document] }));
            }
        }
        Ok(Scores { raw, relevance, slates: self.slates, mode })
    }
}

impl Scorer {
    fn pass(&self, rendering: Rendering, documents: usize) -> ForwardPass {
        let Rendering { prefix, suffixes, marks } = rendering;
        let mut cross_document = CrossDocumentLayers::default();
        let head = match self {
            Self::LateInteraction { cross_document_layers, .. } => {
                if !suffixes.is_empty() {
                    cross_document.count = *cross_document_layers;
                    cross_document.shared = marks[..documents].to_vec();
                }
                Head::Projector
            }
            Self::FirstToken { identifiers, .. } => {
                Head::Vocabulary(identifiers.iter().take(documents).map(|identifier| identifier.id).collect())
            }
            Self::Pointwise { answers, .. } => {
                Head::Vocabulary(std::iter::once(answers.positive).chain(answers.negative).collect())
            }
        };
        let output = OutputSpec::listed(marks, head);
        ForwardPass { prefix, suffixes, token_types: TokenTypes::Zero, cross_document, output }
    }

    fn take(&mut self, documents: Vec<usize>, output: Output) -> Result<(), RerankError> {
        match self {
            Self::LateInteraction { slates, .. } => {
                let mut vectors = output;
                let found = vectors.len();
                let query = vectors.pop().filter(|_| found == documents.len() + 1);
                let query =
                    query.ok_or_else(|| wrong(format!("{} vectors", documents.len() + 1), found.to_string()))?;
                if let Some(other) = vectors.iter().find(|vector| vector.len() != query.len()) {
                    return Err(wrong(format!("vectors of {}", query.len()), other.len().to_string()));
                }
                for (document, vector) in documents.iter().zip(&vectors) {
                    if let Some(value) = vector.iter().find(|value| !value.is_finite()) {
                        let error = ScoringError::NonFinite { document: *document, value: *value };
                        return Err(RerankError::internal(error));
                    }
                }
                if let Some(value) = query.iter().find(|value| !value.is_finite()) {
                    return Err(wrong("a finite query vector".into(), value.to_string()));
                }
                slates.push((documents, SlateVectors { documents: vectors, query }));
            }
            Self::FirstToken { order, places, .. } => match output.as_slice() {
                [logits] if logits.len() == documents.len() => {
                    if let Some(at) = logits.iter().position(|logit| !logit.is_finite()) {
                        let error = ScoringError::NonFinite { document: documents[at], value: logits[at] };
                        return Err(RerankError::internal(error));
                    }
                    order.reorder(places.clone(), &log_probabilities(logits));
                }
                _ => {
                    let widths: Vec<usize> = output.iter().map(Vec::len).collect();
                    return Err(wrong(format!("one row of {} logits", documents.len()), format!("rows of {widths:?}")));
                }
            },
            Self::Pointwise { answers, raw } => {
                let width = 1 + usize::from(answers.negative.is_some());
                if output.len() != documents.len() || output.iter().any(|row| row.len() != width) {
                    let widths: Vec<usize> = output.iter().map(Vec::len).collect();
                    return Err(wrong(format!("{} rows of {width}", documents.len()), format!("rows of {widths:?}")));
                }
                for (document, row) in documents.into_iter().zip(output) {
                    raw[document] = Some(pointwise::raw(&row));
                }
            }
        }
        Ok(())
    }

    /// Raw scores and relevances by document.
    fn finish(self, count: usize, mode: Mode) -> Result<(Vec<f32>, Vec<f32>), RerankError> {
        match self {
            Self::LateInteraction { relevance: formula, slates, .. } => {
                let (documents, vectors): (Vec<_>, Vec<_>) = slates.into_iter().unzip();
                // Pointwise, no document's score may depend on another's slate.
                let cosines = match mode {
                    Mode::Pointwise => vectors.iter().map(late_interaction::own_cosines).collect(),
                    Mode::Listwise | Mode::Auto => late_interaction::merged_cosines(&vectors),
                };
                let mut raw = vec![None; count];
                for (document, cosine) in documents.into_iter().flatten().zip(cosines.into_iter().flatten()) {
                    raw[document] = Some(cosine);
                }
                let raw = complete(raw)?;
                let relevance = raw.iter().map(|cosine| late_interaction::relevance(*cosine, formula)).collect();
                Ok((raw, relevance))
            }
            Self::FirstToken { order, .. } => Ok((complete(order.raw().to_vec())?, order.relevance())),
            Self::Pointwise { answers, raw } => {
                let raw = complete(raw)?;
                let relevance = raw.iter().map(|raw| pointwise::relevance(*raw, answers.calibration)).collect();
                Ok((raw, relevance))
            }
        }
    }
}

fn complete(raw: Vec<Option<f32>>) -> Result<Vec<f32>, RerankError> {
    raw.into_iter()
        .enumerate()
        .map(|(document, raw)| raw.ok_or_else(|| RerankError::internal(ScoringError::Unscored { document })))
        .collect()
}

fn wrong(expected: String, found: String) -> RerankError {
    RerankError::internal(ScoringError::WrongOutput { expected, found })
}
