//! Samples of rankings for the drift metrics: measured after the response and beside it, so that no
//! request waits for one.
//!
//! If these numbers drift over weeks, the requests have changed, or the model no longer suits them.

use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, OnceLock};

use super::Reranker;
use crate::prompt::{PreparedTexts, lexical_scores};
use crate::rerank::RankedDocument;
use crate::rerank::agreement::order_agreement;

/// Where a request's instruction came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionSource {
    /// There was none.
    None,
    /// The request's own text.
    Own,
    /// A stored instruction, by its name.
    Profile(String),
}

impl InstructionSource {
    /// The label in metrics. The set is closed: the operator defines the profiles.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::None => "none",
            Self::Own => "own",
            Self::Profile(name) => name,
        }
    }
}

/// The measurements of one ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct DriftSample {
    /// The own name of the model that ranked.
    pub model: String,
    /// Where the instruction came from.
    pub instruction: InstructionSource,
    /// The relevance of every document, best first.
    pub scores: Vec<f32>,
    /// Agreement of the ranking with the order of the request; `None` for a single document.
    pub input_agreement: Option<f64>,
    /// Agreement of the ranking with BM25; `None` if BM25 scores all documents alike.
    pub lexical_agreement: Option<f64>,
    /// The share of documents that were truncated.
    pub truncated: f64,
}

impl DriftSample {
    /// The relevance of the best document.
    #[must_use]
    pub fn top(&self) -> Option<f32> {
        self.scores.first().copied()
    }

    /// The relevance of the best document less that of the second.
    #[must_use]
    pub fn lead(&self) -> Option<f32> {
        Some(self.scores.first()? - self.scores.get(1)?)
    }
}

/// Takes samples, once [`Reranker::sample_drift`] has been called.
#[derive(Default)]
pub(super) struct DriftSampler(OnceLock<Sampling>);

struct Sampling {
    /// The share of rankings that are measured, in [0, 1].
    share: f64,
    record: Arc<dyn Fn(&DriftSample) + Send + Sync>,
    /// Whether a sample is being measured. One at a time: rankings that end meanwhile are skipped.
    busy: Arc<AtomicBool>,
}

/// Allows the next sample when it is dropped, also after a panic.
struct SampleGuard(Arc<AtomicBool>);

impl Drop for SampleGuard {
    fn drop(&mut self) {
        self.0.store(false, atomic::Ordering::Release);
    }
}

impl Reranker {
    /// Measures this share of the rankings, in [0, 1], from now on. Only the first call counts.
    pub fn sample_drift(&self, share: f64, record: impl Fn(&DriftSample) + Send + Sync + 'static) {
        if share > 0.0 {
            let _first = self.drift.0.set(Sampling { share, record: Arc::new(record), busy: Arc::default() });
        }
    }
}

impl DriftSampler {
    /// Measures this ranking on a blocking thread, if it falls into the sample. `results` are all
    /// of its documents, best first.
    pub(super) fn maybe_sample(
        &self,
        model: &str,
        instruction: &InstructionSource,
        texts: &Arc<PreparedTexts>,
        results: &[RankedDocument],
    ) {
        let Some(sampling) = self.0.get() else { return };
        if rand::random::<f64>() >= sampling.share || sampling.busy.swap(true, atomic::Ordering::Acquire) {
            return;
        }
        let guard = SampleGuard(Arc::clone(&sampling.busy));
        let (record, texts) = (Arc::clone(&sampling.record), Arc::clone(texts));
        let (model, instruction, results) = (model.to_owned(), instruction.clone(), results.to_vec());
        tokio::task::spawn_blocking(move || {
            let _guard = guard;
            record(&measure(model, instruction, &texts, &results));
        });
    }
}

fn measure(
    model: String,
    instruction: InstructionSource,
    prepared: &PreparedTexts,
    results: &[RankedDocument],
) -> DriftSample {
    let count = results.len();
    let mut relevance = vec![0.0; count];
    for result in results {
        relevance[result.index] = f64::from(result.relevance_score);
    }
    // In the request's order, the first document is the best.
    let input: Vec<f64> = (0..count).map(|index| -(index as f64)).collect();
    let texts: Vec<&str> = prepared.documents.iter().map(|document| document.text.as_str()).collect();
    let truncated = results.iter().filter(|result| result.truncated()).count();
    DriftSample {
        model,
        instruction,
        scores: results.iter().map(|result| result.relevance_score).collect(),
        input_agreement: order_agreement(&relevance, &input),
        lexical_agreement: order_agreement(&relevance, &lexical_scores(&prepared.query, &texts)),
        truncated: truncated as f64 / count.max(1) as f64,
    }
}
