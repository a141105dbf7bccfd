//! Which model works for a request, and when its stages began and ended, for whoever follows single requests. Where
//! nobody does, nothing is noted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A request of many pairs or rounds has many stages; those beyond so many are not kept.
const KEPT_STAGES: usize = 64;

/// A part of the work for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tokenising, cutting and rendering.
    Tokenize,
    /// Waiting for the device.
    Queue,
    /// The model's forward passes.
    Forward,
    /// Readouts to scores, and what the next round reads.
    Score,
}

impl Stage {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Forward => "forward",
            Self::Score => "score",
        }
    }
}

/// One stage that is over, be it because its request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageTime {
    /// What was done.
    pub stage: Stage,
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Tokens that it was about, where that was known when it began.
    pub tokens: Option<usize>,
}

/// The stages of one request: a record that its followers share, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Stages(Option<Arc<Mutex<Record>>>);

#[derive(Debug, Default)]
struct Record {
    model: Option<Arc<str>>,
    stages: Vec<StageTime>,
}

/// A stage that goes on until this is dropped: also where its request fails, or its client leaves.
#[derive(Debug)]
pub struct OpenStage(Option<(Arc<Mutex<Record>>, StageTime)>);

impl Stages {
    /// A record that is kept.
    #[must_use]
    pub fn recorded() -> Self {
        Self(Some(Arc::default()))
    }

    /// Begins a stage.
    #[must_use]
    pub fn begin(&self, stage: Stage, tokens: Option<usize>) -> OpenStage {
        OpenStage(self.0.as_ref().map(|record| {
            let started = Instant::now();
            (Arc::clone(record), StageTime { stage, started, ended: started, tokens })
        }))
    }

    /// Notes the model that the request is for, by its own name.
    pub fn note_model(&self, name: &str) {
        if let Some(record) = &self.0 {
            lock(record).model = Some(name.into());
        }
    }

    /// The model that the request is for, once that is known.
    #[must_use]
    pub fn model(&self) -> Option<Arc<str>> {
        self.0.as_ref().and_then(|record| lock(record).model.clone())
    }

    /// What is over by now, in order of its end.
    #[must_use]
    pub fn so_far(&self) -> Vec<StageTime> {
        self.0.as_ref().map(|record| lock(record).stages.clone()).unwrap_or_default()
    }
}

impl OpenStage {
    /// Ends a stage that another one interrupted during these intervals, from start to end.
    pub fn interrupted_by(mut self, other: Stage, intervals: impl Iterator<Item = (Instant, Instant)>) {
        let Some((record, mut stage)) = self.0.take() else { return };
        for (started, ended) in intervals {
            keep(&record, StageTime { ended: started, ..stage });
            keep(&record, StageTime { stage: other, started, ended, tokens: stage.tokens });
            stage.started = ended;
        }
    }
}

impl Drop for OpenStage {
    fn drop(&mut self) {
        if let Some((record, stage)) = self.0.take() {
            keep(&record, StageTime { ended: Instant::now(), ..stage });
        }
    }
}

fn lock(record: &Mutex<Record>) -> std::sync::MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(record: &Mutex<Record>, stage: StageTime) {
    let mut record = lock(record);
    if record.stages.len() < KEPT_STAGES {
        record.stages.push(stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(stages: &Stages) -> Vec<&'static str> {
        stages.so_far().iter().map(|time| time.stage.as_str()).collect()
    }

    #[test]
    fn a_stage_ends_where_it_is_dropped_and_waiting_may_turn_into_work() {
        let stages = Stages::recorded();
        let tokenizing = stages.begin(Stage::Tokenize, None);
        assert_eq!(names(&stages), [""; 0]);
        drop(tokenizing);
        let now = Instant::now();
        stages.begin(Stage::Queue, Some(7)).interrupted_by(Stage::Forward, [(now, now)].into_iter());
        assert_eq!(names(&stages), ["tokenize", "queue", "forward"]);
        let [_, queue, forward] = stages.so_far()[..] else { panic!("three stages") };
        assert_eq!(queue.ended, forward.started);
        assert_eq!(forward.tokens, Some(7));
    }

    #[test]
    fn what_nobody_follows_is_not_kept_and_what_is_kept_has_an_end() {
        let nobody = Stages::default();
        drop(nobody.begin(Stage::Score, None));
        assert_eq!(names(&nobody), [""; 0]);
        let stages = Stages::recorded();
        for _ in 0..KEPT_STAGES + 5 {
            drop(stages.begin(Stage::Score, None));
        }
        assert_eq!(stages.so_far().len(), KEPT_STAGES);
    }
}
