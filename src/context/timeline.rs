//! The stages of one request and their times: the only source of `server-timing`, the stage
//! metrics, the stages' spans and the progress that a 504 reports.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::rerank::{CascadeReport, EarlyExitReport, Mode, Progress, Timing, Usage};
use crate::schedule::{Client, DeviceInterval};

/// A request of many pairs or rounds has many stages; later ones count in the sums only.
const MAX_LISTED_STAGES: usize = 64;

/// A part of the work for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tokenizing, truncating, planning and rendering.
    Tokenize,
    /// Waiting for the device.
    Queue,
    /// The forward passes of the model, in batches that hold passes of this request.
    Forward,
    /// Outputs to scores, and planning the next round.
    Score,
}

impl Stage {
    /// The word in traces.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Forward => "forward",
            Self::Score => "score",
        }
    }

    fn span(self, parent: &Span, tokens: Option<usize>) -> Span {
        // Traces have signed integers only; an unsigned one would become text.
        let tokens = tokens.and_then(|tokens| i64::try_from(tokens).ok());
        match self {
            Self::Tokenize => tracing::info_span!(parent: parent, "tokenize", podium.tokens = tokens),
            // The scheduler opens the spans of these: it knows when the device runs the passes.
            Self::Queue | Self::Forward => Span::none(),
            Self::Score => tracing::info_span!(parent: parent, "score", podium.tokens = tokens),
        }
    }
}

/// A stage that has ended, because its work or its request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Tokens of the work, if they were known when it began.
    pub tokens: Option<usize>,
}

/// A finished ranking in numbers, for the log, the metrics and the traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankingSummary {
    /// How the documents were read.
    pub mode: Mode,
    /// Documents in the request.
    pub documents: usize,
    /// Slates (listwise) or documents (pointwise) that were read.
    pub slates: usize,
    /// Passages that were read, where documents were split.
    pub passages: usize,
    /// Documents below the request's minimum score.
    pub left_out: usize,
    /// Documents that left the model before its last layer, and the work that this saved.
    pub early_exit: EarlyExitReport,
    /// Tokens that were read.
    pub usage: Usage,
    /// Where the time went.
    pub timing: Timing,
}

/// The record of one request. Clones share it.
#[derive(Debug, Clone)]
pub struct RequestTimeline {
    span: Span,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    client: Client,
    model: Option<Arc<str>>,
    stages: Vec<StageTime>,
    /// The sums of all stages, listed or not; `total` stays 0.
    sums: Timing,
    progress: Progress,
    ranking: Option<RankingSummary>,
    cascade: Option<Arc<CascadeReport>>,
}

/// A running stage. It ends when this is dropped, also if its request fails or its client leaves.
#[derive(Debug)]
pub struct StageTimer {
    timeline: RequestTimeline,
    /// `None` once the stage has ended.
    running: Option<(Stage, Instant)>,
    tokens: Option<usize>,
    /// Closed with the timer.
    _span: Span,
}

impl RequestTimeline {
    /// An empty timeline; spans of stages become children of `span`.
    #[must_use]
    pub fn new(span: Span) -> Self {
        Self { span, record: Arc::default() }
    }

    /// The same record; spans of stages that begin on it become children of `span`.
    #[must_use]
    pub fn in_span(&self, span: Span) -> Self {
        Self { span, record: Arc::clone(&self.record) }
    }

    /// Begins a stage; `tokens` is the size of its work, if it is known.
    #[must_use]
    pub fn begin(&self, stage: Stage, tokens: Option<usize>) -> StageTimer {
        let span = stage.span(&self.span, tokens);
        StageTimer { timeline: self.clone(), running: Some((stage, Instant::now())), tokens, _span: span }
    }

    /// Sets the client.
    pub fn note_client(&self, client: &Client) {
        self.record().client = client.clone();
    }

    /// Who sent the request.
    #[must_use]
    pub fn client(&self) -> Client {
        self.record().client.clone()
    }

    /// Notes the model that ranks, by its own name.
    pub fn note_model(&self, name: &str) {
        self.record().model = Some(name.into());
    }

    /// The model that ranks, once it is known.
    #[must_use]
    pub fn model(&self) -> Option<Arc<str>> {
        self.record().model.clone()
    }

    /// Updates the progress.
    pub fn update_progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.record().progress);
    }

    /// Passes and documents done so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.record().progress
    }

    /// Notes a finished ranking.
    pub fn note_ranking(&self, ranking: RankingSummary) {
        self.record().ranking = Some(ranking);
    }

    /// The finished ranking.
    #[must_use]
    pub fn ranking(&self) -> Option<RankingSummary> {
        self.record().ranking
    }

    /// Notes what the stages of a cascade did.
    pub fn note_cascade(&self, report: CascadeReport) {
        self.record().cascade = Some(Arc::new(report));
    }

    /// Reports of the stages of a cascade, if one ranked.
    #[must_use]
    pub fn cascade(&self) -> Option<Arc<CascadeReport>> {
        self.record().cascade.clone()
    }

    /// The stages that have ended, in the order of their ends; at most 64.
    #[must_use]
    pub fn stages(&self) -> Vec<StageTime> {
        self.record().stages.clone()
    }

    /// Where the time went so far, of `total` since the body's arrival.
    #[must_use]
    pub fn timing(&self, total: Duration) -> Timing {
        Timing { total, ..self.record().sums }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, time: StageTime) {
        let mut record = self.record();
        let elapsed = time.ended.saturating_duration_since(time.started);
        let sums = &mut record.sums;
        match time.stage {
            Stage::Tokenize | Stage::Score => sums.tokenize += elapsed,
            Stage::Queue => sums.queue += elapsed,
            Stage::Forward => sums.forward += elapsed,
        }
        if record.stages.len() < MAX_LISTED_STAGES {
            record.stages.push(time);
        }
    }
}

impl StageTimer {
    /// Ends a wait for the device. Each batch with passes of the request is a forward stage; the
    /// time before it, in which other requests' batches may have run, stays a wait.
    pub fn end_with_batches(mut self, batches: &[DeviceInterval]) {
        let Some((stage, mut started)) = self.running.take() else { return };
        for batch in batches {
            self.timeline.add(StageTime { stage, started, ended: batch.started, tokens: self.tokens });
            let (started_forward, tokens) = (batch.started, Some(batch.tokens));
            self.timeline.add(StageTime {
                stage: Stage::Forward,
                started: started_forward,
                ended: batch.ended,
                tokens,
            });
            started = batch.ended;
        }
    }
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        if let Some((stage, started)) = self.running.take() {
            self.timeline.add(StageTime { stage, started, ended: Instant::now(), tokens: self.tokens });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(timeline: &RequestTimeline) -> Vec<&'static str> {
        timeline.stages().iter().map(|time| time.stage.as_str()).collect()
    }

    #[test]
    fn a_stage_ends_when_its_timer_is_dropped() {
        let timeline = RequestTimeline::new(Span::none());
        let tokenizing = timeline.begin(Stage::Tokenize, None);
        assert_eq!(names(&timeline), [""; 0]);
        drop(tokenizing);
        drop(timeline.begin(Stage::Queue, Some(7)));
        assert_eq!(names(&timeline), ["tokenize", "queue"]);
        assert_eq!(timeline.stages()[1].tokens, Some(7));
    }

    #[test]
    fn the_time_between_two_batches_of_a_request_is_a_wait() {
        let timeline = RequestTimeline::new(Span::none());
        let waiting = timeline.begin(Stage::Queue, Some(12));
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let batch = |started, ended, tokens| DeviceInterval { started, ended, tokens };
        let batches = [batch(at(1), at(3), 5), batch(at(7), at(8), 7)];
        waiting.end_with_batches(&batches);
        assert_eq!(names(&timeline), ["queue", "forward", "queue", "forward"]);
        let seconds = |time: Duration| time.as_secs_f64().round() as u64;
        let timing = timeline.timing(Duration::ZERO);
        assert_eq!((seconds(timing.queue), seconds(timing.forward)), (1 + 4, 2 + 1));
        let tokens: Vec<_> = timeline.stages().iter().map(|time| time.tokens).collect();
        assert_eq!(tokens, [Some(12), Some(5), Some(12), Some(7)]);
    }

    #[test]
    fn stages_beyond_the_list_still_count_in_the_sums() {
        let timeline = RequestTimeline::new(Span::none());
        for _ in 0..MAX_LISTED_STAGES + 5 {
            let _scoring = timeline.begin(Stage::Score, None);
            std::thread::sleep(Duration::from_micros(10));
        }
        let listed: Duration = timeline.stages().iter().map(|time| time.ended - time.started).sum();
        assert_eq!(timeline.stages().len(), MAX_LISTED_STAGES);
        assert!(timeline.timing(Duration::ZERO).tokenize > listed);
    }
}
