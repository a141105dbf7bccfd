//! The loop from a prepared request to scores: which passes run next, and what their outputs mean.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::first_token::{SlidingOrder, log_probabilities};
use super::late_interaction::{self, SlateVectors};
use super::{EarlyExits, Scores, ScoringError, pointwise};
use crate::evidence::{EvidenceModel, SlateReader};
use crate::prompt::{
    BiEncoderReadout, Calibration, Identifier, Plan, PointwiseScore, PreparedTexts, Prompter, Relevance, Rendering,
    SlateScore,
};
use crate::rerank::slates::windows;
use crate::rerank::{Mode, RerankError};
use crate::runtime::{CrossDocumentLayers, EarlyExit, ForwardPass, Head, Output, OutputSpec};

/// A pass, and the documents it reads.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedPass {
    /// Indices into the request, in the order of the prompt.
    pub documents: Vec<usize>,
    /// The token sequences.
    pub pass: ForwardPass,
}

/// The rounds of one request. The caller alternates [`Rounds::next_round`] and
/// [`Rounds::add_outputs`] until there is no next round, then calls [`Rounds::finish`].
#[derive(Debug)]
pub struct Rounds {
    prompter: Arc<Prompter>,
    texts: Arc<PreparedTexts>,
    scorer: Scorer,
    /// For each remaining round, for each of its passes: the range of documents that the pass
    /// reads. Ranges are indices into the request; for windows, into the list in its current order.
    remaining: VecDeque<Vec<Range<usize>>>,
    /// The passes that run now.
    in_flight: Vec<PassInFlight>,
    /// Slates or documents that have run.
    slates: usize,
    /// For each document, the layer that it was scored after, where that is not the last.
    exit_layers: Vec<Option<u16>>,
    /// Tokens times layers that were not computed.
    saved_layer_tokens: usize,
}

#[derive(Debug)]
struct PassInFlight {
    documents: Vec<usize>,
    /// Tokens of its suffixes, where they may leave early; else empty.
    suffix_tokens: Vec<usize>,
}

#[derive(Debug)]
enum Scorer {
    LateInteraction { relevance: Relevance, cross_document_layers: usize, slates: Vec<(Vec<usize>, SlateVectors)> },
    FirstToken { identifiers: Vec<Identifier>, order: SlidingOrder, places: Range<usize> },
    Pointwise { score: PointwiseScore, raw: Vec<Option<f32>> },
    Cosine { query: Vec<f32>, documents: Vec<Option<Vec<f32>>> },
    MaxSim { query_tokens: usize, expansion: usize, raw: Vec<Option<f32>> },
    Evidence { model: Arc<EvidenceModel>, calibration: Calibration, raw: Vec<Option<f32>> },
}

impl Rounds {
    /// The rounds of a prepared request.
    ///
    /// # Errors
    /// [`RerankError::Internal`] when the plan does not suit the prompter's family.
    pub fn begin(prompter: Arc<Prompter>, texts: Arc<PreparedTexts>) -> Result<Self, RerankError> {
        let count = texts.documents.len();
        let (scorer, rounds) = match (&texts.plan, prompter.slate_score(), prompter.pointwise_score()) {
            (Plan::Slates(slates), Some(SlateScore::LateInteraction { relevance, cross_document_layers }), _) => {
                let (relevance, cross_document_layers) = (*relevance, *cross_document_layers);
                (Scorer::LateInteraction { relevance, cross_document_layers, slates: Vec::new() }, vec![slates.clone()])
            }
            (Plan::Windows(window), Some(SlateScore::FirstToken { identifiers }), _) => {
                let order = SlidingOrder::new(count);
                let scorer = Scorer::FirstToken { identifiers: identifiers.clone(), order, places: 0..0 };
                (scorer, windows(count, *window).into_iter().map(|places| vec![places]).collect())
            }
            (Plan::Pairs(groups), _, Some(score)) => {
                (Scorer::Pointwise { score: *score, raw: vec![None; count] }, vec![groups.clone()])
            }
            (Plan::BiEncoder(groups), ..) => match prompter.bi_encoder() {
                Some(BiEncoderReadout::Cosine { .. }) => {
                    // The pass of no documents reads the query.
                    let passes = std::iter::once(0..0).chain(groups.iter().cloned()).collect();
                    (Scorer::Cosine { query: Vec::new(), documents: vec![None; count] }, vec![passes])
                }
                Some(BiEncoderReadout::MaxSim) => {
                    let (query_tokens, expansion) = (texts.query_tokens(), texts.expansion());
                    (Scorer::MaxSim { query_tokens, expansion, raw: vec![None; count] }, vec![groups.clone()])
                }
                None => return Err(RerankError::internal("a request of another family")),
            },
            (Plan::Slates(slates), None, None) => match prompter.evidence() {
                Some((model, calibration)) => {
                    let (model, raw) = (Arc::clone(model), vec![None; count]);
                    (Scorer::Evidence { model, calibration, raw }, vec![slates.clone()])
                }
                None => return Err(RerankError::internal("a request of another family")),
            },
            (Plan::Slates(_) | Plan::Windows(_) | Plan::Pairs(_), _, _) => {
                return Err(RerankError::internal("a request of another family"));
            }
        };
        let exit_layers = vec![texts.cutoff_layer; count];
        let remaining = rounds.into_iter().filter(|round| !round.is_empty()).collect();
        Ok(Self {
            prompter,
            texts,
            scorer,
            remaining,
            in_flight: Vec::new(),
            slates: 0,
            exit_layers,
            saved_layer_tokens: 0,
        })
    }

    /// How many more times [`Rounds::next_round`] returns passes.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.remaining.len()
    }

    /// Renders the passes of the next round, which run together; `None` after the last round.
    /// Tokenizes: call it on a blocking thread.
    ///
    /// # Errors
    /// The errors of [`Prompter::render`].
    pub fn next_round(&mut self) -> Result<Option<Vec<PlannedPass>>, RerankError> {
        let Some(round) = self.remaining.pop_front() else { return Ok(None) };
        let mut passes = Vec::with_capacity(round.len());
        for places in round {
            let documents: Vec<usize> = match &mut self.scorer {
                Scorer::FirstToken { order, places: at, .. } => {
                    at.clone_from(&places);
                    order.at(places).to_vec()
                }
                Scorer::LateInteraction { .. }
                | Scorer::Pointwise { .. }
                | Scorer::Cosine { .. }
                | Scorer::MaxSim { .. }
                | Scorer::Evidence { .. } => places.collect(),
            };
            let rendering = self.prompter.render(&self.texts, &documents)?;
            let mut pass = self.scorer.pass(rendering, documents.len(), self.texts.early_exit);
            pass.output.layer = self.texts.cutoff_layer;
            self.saved_layer_tokens += pass.tokens() * (self.prompter.layers() - self.depth());
            passes.push(PlannedPass { documents, pass });
        }
        let in_flight = |PlannedPass { documents, pass }: &PlannedPass| PassInFlight {
            documents: documents.clone(),
            suffix_tokens: pass.output.exit.map_or_else(Vec::new, |_| pass.suffixes.iter().map(Vec::len).collect()),
        };
        self.in_flight = passes.iter().map(in_flight).collect();
        Ok(Some(passes))
    }

    /// Adds the outputs of the passes of the last [`Rounds::next_round`], in their order.
    ///
    /// # Errors
    /// [`RerankError::Internal`] with a [`ScoringError`] when the outputs do not match the passes,
    /// or a score is not finite.
    pub fn add_outputs(&mut self, outputs: Vec<Output>) -> Result<(), RerankError> {
        let passes = std::mem::take(&mut self.in_flight);
        if passes.len() != outputs.len() {
            return Err(mismatch(format!("{} outputs", passes.len()), outputs.len().to_string()));
        }
        for (PassInFlight { documents, suffix_tokens }, mut output) in passes.into_iter().zip(outputs) {
            if !suffix_tokens.is_empty() {
                output = self.note_exits(&documents, &suffix_tokens, output)?;
            }
            self.slates += match (&self.texts.plan, self.texts.mode) {
                (Plan::Slates(_) | Plan::Windows(_), _) => 1,
                // The query's sequence shows the documents of the slate.
                (Plan::BiEncoder(_), Mode::Listwise) => usize::from(documents.is_empty()),
                (Plan::BiEncoder(_) | Plan::Pairs(_), _) => documents.len(),
            };
            self.scorer.add_output(documents, output)?;
        }
        Ok(())
    }

    /// The layers that passes run through.
    fn depth(&self) -> usize {
        self.texts.cutoff_layer.map_or(self.prompter.layers(), usize::from)
    }

    /// Notes which documents of a pass left early. Returns a row for each document: the one of the
    /// last layer, or the one that was read at the exit.
    fn note_exits(
        &mut self,
        documents: &[usize],
        suffix_tokens: &[usize],
        mut output: Output,
    ) -> Result<Output, RerankError> {
        let count = documents.len();
        if output.len() != 2 * count || suffix_tokens.len() != count {
            return Err(mismatch(format!("{} rows with an exit", 2 * count), widths(&output)));
        }
        let (depth, layer) = (self.depth(), self.texts.early_exit.map(|exit| exit.layer));
        let last = output.split_off(count);
        for ((document, tokens), (row, last)) in documents.iter().zip(suffix_tokens).zip(output.iter_mut().zip(last)) {
            if last.is_empty() {
                self.exit_layers[*document] = layer;
                self.saved_layer_tokens += tokens * depth.saturating_sub(layer.map_or(0, usize::from));
            } else {
                *row = last;
            }
        }
        Ok(output)
    }

    /// The scores.
    ///
    /// # Errors
    /// [`RerankError::Internal`] with a [`ScoringError`] when a document has no score, or one that
    /// is not finite.
    pub fn finish(self) -> Result<Scores, RerankError> {
        let count = self.texts.documents.len();
        let mode = self.texts.mode;
        let tokens_saved = self.saved_layer_tokens / self.prompter.layers().max(1);
        let may_exit = self.texts.early_exit.is_some() || self.texts.cutoff_layer.is_some();
        let early_exit = may_exit.then_some(EarlyExits { layers: self.exit_layers, tokens_saved });
        let (raw, relevance) = self.scorer.finish(count, mode)?;
        for values in [&raw, &relevance] {
            if let Some(document) = values.iter().position(|value| !value.is_finite()) {
                return Err(RerankError::internal(ScoringError::NonFinite { document, value: values[document] }));
            }
        }
        Ok(Scores { raw, relevance, slates: self.slates, mode, early_exit })
    }
}

impl Scorer {
    /// Documents leave at `exit` where they are scored one by one, if it keeps fewer than there
    /// are.
    fn pass(&self, rendering: Rendering, documents: usize, exit: Option<EarlyExit>) -> ForwardPass {
        let exit = exit.filter(|exit| matches!(self, Self::Pointwise { .. }) && documents > exit.keep);
        let Rendering { prefix, suffixes, marks, token_types, rows } = rendering;
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
            Self::Pointwise { score: PointwiseScore::Answers(answers), .. } => {
                Head::Vocabulary(std::iter::once(answers.positive).chain(answers.negative).collect())
            }
            Self::Pointwise { score: PointwiseScore::Classifier { pooling, .. }, .. } => {
                let output = OutputSpec::pooled(*pooling, Head::Classifier).with_exit(exit);
                return ForwardPass { prefix, suffixes, token_types, cross_document, output };
            }
            Self::Cosine { .. } => Head::Hidden,
            Self::MaxSim { expansion, .. } => Head::MaxSim { expansion: *expansion },
            Self::Evidence { model, .. } => {
                let reader = SlateReader::new(Arc::clone(model), rows.unwrap_or_default());
                let output = OutputSpec::read_by(Arc::new(reader));
                return ForwardPass { prefix, suffixes, token_types, cross_document, output };
            }
        };
        let output = OutputSpec::listed(marks, head).with_exit(exit);
        ForwardPass { prefix, suffixes, token_types, cross_document, output }
    }

    fn add_output(&mut self, documents: Vec<usize>, output: Output) -> Result<(), RerankError> {
        match self {
            Self::LateInteraction { slates, .. } => {
                let vectors = slate_vectors(&documents, output)?;
                slates.push((documents, vectors));
            }
            Self::FirstToken { order, places, .. } => {
                let logits = window_logits(&documents, &output)?;
                order.reorder(places.clone(), &log_probabilities(logits));
            }
            Self::Pointwise { score, raw } => {
                let width = match score {
                    PointwiseScore::Answers(answers) => 1 + usize::from(answers.negative.is_some()),
                    PointwiseScore::Classifier { .. } => 1,
                };
                if output.len() != documents.len() || output.iter().any(|row| row.len() != width) {
                    return Err(mismatch(format!("{} rows of {width}", documents.len()), widths(&output)));
                }
                for (document, row) in documents.into_iter().zip(output) {
                    raw[document] = Some(pointwise::raw(&row));
                }
            }
            Self::MaxSim { raw, .. } | Self::Evidence { raw, .. } => {
                if output.len() != documents.len() || output.iter().any(|row| row.len() != 1) {
                    return Err(mismatch(format!("{} rows of 1", documents.len()), widths(&output)));
                }
                for (document, row) in documents.into_iter().zip(output) {
                    raw[document] = row.first().copied();
                }
            }
            Self::Cosine { query, documents: vectors } => {
                if output.len() != documents.len().max(1) {
                    return Err(mismatch(format!("{} vectors", documents.len().max(1)), output.len().to_string()));
                }
                if documents.is_empty() {
                    *query = output.into_iter().next().unwrap_or_default();
                    return Ok(());
                }
                for (document, vector) in documents.into_iter().zip(output) {
                    check_finite(document, &vector)?;
                    vectors[document] = Some(vector);
                }
            }
        }
        Ok(())
    }

    /// Raw scores and relevances, by document.
    fn finish(self, count: usize, mode: Mode) -> Result<(Vec<f32>, Vec<f32>), RerankError> {
        match self {
            Self::LateInteraction { relevance: formula, slates, .. } => {
                let (documents, vectors): (Vec<_>, Vec<_>) = slates.into_iter().unzip();
                // In pointwise mode no score may depend on another document's slate.
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
            Self::Pointwise { score, raw } => {
                let raw = complete(raw)?;
                let calibration = match score {
                    PointwiseScore::Answers(answers) => answers.calibration,
                    PointwiseScore::Classifier { calibration, .. } => calibration,
                };
                let relevance = raw.iter().map(|raw| pointwise::relevance(*raw, calibration)).collect();
                Ok((raw, relevance))
            }
            Self::MaxSim { query_tokens, raw, .. } => {
                let raw = complete(raw)?;
                // The mean over the query's tokens is a cosine.
                let mean = |sum: &f32| sum / query_tokens as f32;
                let formula = Relevance::HalfShift;
                let relevance = raw.iter().map(|sum| late_interaction::relevance(mean(sum), formula)).collect();
                Ok((raw, relevance))
            }
            Self::Evidence { calibration, raw, .. } => {
                let raw = complete(raw)?;
                let relevance = raw.iter().map(|raw| pointwise::relevance(*raw, calibration)).collect();
                Ok((raw, relevance))
            }
            Self::Cosine { query, documents } => {
                let mut widths = documents.iter().flatten().map(Vec::len);
                if let Some(width) = widths.find(|width| *width != query.len()) {
                    return Err(mismatch(format!("vectors of {}", query.len()), width.to_string()));
                }
                let cosine = |vector: Vec<f32>| late_interaction::cosine(&vector, &query);
                let raw = complete(documents.into_iter().map(|vector| vector.map(cosine)).collect())?;
                let formula = Relevance::HalfShift;
                let relevance = raw.iter().map(|cosine| late_interaction::relevance(*cosine, formula)).collect();
                Ok((raw, relevance))
            }
        }
    }
}

/// The vectors of a slate: one for each document, and the query's at the end. All are finite and of
/// one width.
fn slate_vectors(documents: &[usize], mut vectors: Vec<Vec<f32>>) -> Result<SlateVectors, RerankError> {
    let found = vectors.len();
    let query = vectors.pop().filter(|_| found == documents.len() + 1);
    let query = query.ok_or_else(|| mismatch(format!("{} vectors", documents.len() + 1), found.to_string()))?;
    if let Some(other) = vectors.iter().find(|vector| vector.len() != query.len()) {
        return Err(mismatch(format!("vectors of {}", query.len()), other.len().to_string()));
    }
    for (document, vector) in documents.iter().zip(&vectors) {
        check_finite(*document, vector)?;
    }
    if let Some(value) = query.iter().find(|value| !value.is_finite()) {
        return Err(mismatch("a finite query vector".into(), value.to_string()));
    }
    Ok(SlateVectors { documents: vectors, query })
}

/// The logits of a window: one row, with one finite logit for each document.
fn window_logits<'a>(documents: &[usize], rows: &'a [Vec<f32>]) -> Result<&'a [f32], RerankError> {
    match rows {
        [logits] if logits.len() == documents.len() => {
            for (document, logit) in documents.iter().zip(logits) {
                check_finite(*document, std::slice::from_ref(logit))?;
            }
            Ok(logits)
        }
        _ => Err(mismatch(format!("one row of {} logits", documents.len()), widths(rows))),
    }
}

fn check_finite(document: usize, values: &[f32]) -> Result<(), RerankError> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => Err(RerankError::internal(ScoringError::NonFinite { document, value: *value })),
    }
}

/// How wide the rows are, for an error.
fn widths(rows: &[Vec<f32>]) -> String {
    format!("rows of {:?}", rows.iter().map(Vec::len).collect::<Vec<_>>())
}

/// The score of every document; an error where one has none.
fn complete(raw: Vec<Option<f32>>) -> Result<Vec<f32>, RerankError> {
    raw.into_iter()
        .enumerate()
        .map(|(document, raw)| raw.ok_or_else(|| RerankError::internal(ScoringError::Unscored { document })))
        .collect()
}

/// The error of outputs that do not match the passes.
fn mismatch(expected: String, found: String) -> RerankError {
    RerankError::internal(ScoringError::WrongOutput { expected, found })
}
