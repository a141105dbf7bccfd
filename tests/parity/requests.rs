//! A request's texts through the prompt room, the runtime and the scorers, without a server.

use std::sync::Arc;

use podium::app;
use podium::prompt::Prompter;
use podium::rerank::{LimitSettings, RerankRequest};
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, ForwardPass, Output, Runtime};
use podium::scoring::{PlannedPass, Rounds, Scores};
use serde::Deserialize;

/// A text, or a piece and how often it is repeated.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Text {
    Plain(String),
    Repeated(String, usize),
}

impl Text {
    /// The whole text.
    pub fn written_out(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Repeated(piece, times) => piece.repeat(*times),
        }
    }
}

/// A checkpoint and its family's prompts, ready to run.
pub struct Loaded {
    pub runtime: PackedRuntime,
    pub prompter: Arc<Prompter>,
}

impl Loaded {
    /// Loads a checkpoint on the CPU; `family` is its family's name, or `auto`.
    pub fn new(checkpoint: &Checkpoint, family: &str) -> Self {
        Self::new_as(checkpoint, family, &ComputeSettings::reference())
    }

    /// As [`Self::new`], in other numbers.
    pub fn new_as(checkpoint: &Checkpoint, family: &str, settings: &ComputeSettings) -> Self {
        let runtime = PackedRuntime::load(checkpoint, settings).unwrap_or_else(|error| panic!("{error}"));
        let prompter = app::prompter(checkpoint, runtime.facts(), family).unwrap_or_else(|error| panic!("{error:#}"));
        Self { runtime, prompter: Arc::new(prompter) }
    }

    /// Runs a request: every pass with its output, and the scores.
    pub fn run(&self, request: &RerankRequest, limits: &LimitSettings) -> (Vec<(PlannedPass, Output)>, Scores) {
        let prepared = self.prompter.tokenize(request, limits, &|| false).unwrap_or_else(|error| panic!("{error}"));
        let rounds = Rounds::begin(Arc::clone(&self.prompter), Arc::new(prepared));
        let mut rounds = rounds.unwrap_or_else(|error| panic!("{error}"));
        let mut ran = Vec::new();
        while let Some(planned) = rounds.next_round().unwrap_or_else(|error| panic!("{error}")) {
            let passes: Vec<ForwardPass> = planned.iter().map(|planned| planned.pass.clone()).collect();
            let outputs = self.runtime.run(&passes).unwrap_or_else(|error| panic!("{error}"));
            ran.extend(planned.into_iter().zip(outputs.iter().cloned()));
            rounds.add_outputs(outputs).unwrap_or_else(|error| panic!("{error}"));
        }
        (ran, rounds.finish().unwrap_or_else(|error| panic!("{error}")))
    }
}

/// The limits of a server of 64 documents a slate.
pub fn usual_limits() -> LimitSettings {
    LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 64, max_slate_tokens: 131_072 }
}
