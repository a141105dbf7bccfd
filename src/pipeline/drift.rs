//! Samples of rankings for the metrics of drift: taken beside the answers and never before one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::Reranker;
use crate::prompt::{PreparedTexts, lexical_scores};
use crate::rerank::{DriftSample, InstructionSource, RankedDocument, agreement};

/// Who wants samples, if anyone does.
#[derive(Default)]
pub(super) struct DriftWatch(OnceLock<Watch>);

struct Watch {
    share: f64,
    take: Arc<dyn Fn(&DriftSample) + Send + Sync>,
    /// Whether a sample is being measured. One at a time: where rankings come faster, they are passed over.
    busy: Arc<AtomicBool>,
}

/// Makes room for the next sample, whatever became of this one.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Reranker {
    /// Measures this share of the rankings, in [0, 1], from now on. Only the first call counts.
    pub fn watch_drift(&self, share: f64, take: impl Fn(&DriftSample) + Send + Sync + 'static) {
        if share > 0.0 {
            let _first = self.drift.0.set(Watch { share, take: Arc::new(take), busy: Arc::default() });
        }
    }
}

impl DriftWatch {
    /// Measures this ranking (`results` are all of its documents, best first) on a blocking thread, if its turn is now.
    pub(super) fn look_at(
        &self,
        model: &str,
        instruction: &InstructionSource,
        reading: &Arc<PreparedTexts>,
        results: &[RankedDocument],
    ) {
        let Some(watch) = self.0.get() else { return };
        if rand::random::<f64>() >= watch.share || watch.busy.swap(true, Ordering::Acquire) {
            return;
        }
        let turn = Turn(Arc::clone(&watch.busy));
        let (take, reading) = (Arc::clone(&watch.take), Arc::clone(reading));
        let (model, instruction, results) = (model.to_owned(), instruction.clone(), results.to_vec());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            take(&measure(model, instruction, &reading, &results));
        });
    }
}

fn measure(
    model: String,
    instruction: InstructionSource,
    reading: &PreparedTexts,
    results: &[RankedDocument],
) -> DriftSample {
    let count = results.len();
    let mut relevance = vec![0.0; count];
    for result in results {
        relevance[result.index] = f64::from(result.relevance_score);
    }
    // The first document that came is the best in the input's order.
    let input: Vec<f64> = (0..count).map(|index| -(index as f64)).collect();
    let texts: Vec<&str> = reading.documents.iter().map(|document| document.text.as_str()).collect();
    let truncated = results.iter().filter(|result| result.truncated()).count();
    DriftSample {
        model,
        instruction,
        scores: results.iter().map(|result| result.relevance_score).collect(),
        input_agreement: agreement(&relevance, &input),
        lexical_agreement: agreement(&relevance, &lexical_scores(&reading.query, &texts)),
        truncated: truncated as f64 / count.max(1) as f64,
    }
}
