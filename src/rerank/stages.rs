//! The stages of a request, as child spans of its own, and the model that works for it.

use std::sync::{Arc, OnceLock};

use tracing::Span;

/// A part of the work for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tokenizing, truncating and rendering.
    Tokenize,
    /// Waiting for the device.
    Queue,
    /// The model's forward passes.
    Forward,
    /// Readouts to scores, and planning the next round.
    Score,
}

/// Where the stages of one request are noted. Clones share it.
#[derive(Debug, Clone)]
pub struct Stages {
    span: Span,
    model: Arc<OnceLock<Arc<str>>>,
}

/// A running stage. It ends when this is dropped, also if its request fails or its client leaves.
#[derive(Debug)]
pub struct OpenStage(#[expect(dead_code, reason = "held until the stage ends")] Span);

impl Default for Stages {
    fn default() -> Self {
        Self::under(Span::none())
    }
}

impl Stages {
    /// Stages whose spans are children of `span`.
    #[must_use]
    pub fn under(span: Span) -> Self {
        Self { span, model: Arc::default() }
    }

    /// Begins a stage that is about so many tokens, if that is known.
    #[must_use]
    pub fn begin(&self, stage: Stage, tokens: Option<usize>) -> OpenStage {
        // Traces have signed integers only.
        let tokens = tokens.and_then(|tokens| i64::try_from(tokens).ok());
        OpenStage(match stage {
            Stage::Tokenize => tracing::info_span!(parent: &self.span, "tokenize", podium.tokens = tokens),
            Stage::Queue => tracing::info_span!(parent: &self.span, "queue", podium.tokens = tokens),
            Stage::Forward => tracing::info_span!(parent: &self.span, "forward", podium.tokens = tokens),
            Stage::Score => tracing::info_span!(parent: &self.span, "score", podium.tokens = tokens),
        })
    }

    /// Notes the model that the request is for, by its own name.
    pub fn note_model(&self, name: &str) {
        let _first = self.model.set(name.into());
    }

    /// The model that the request is for, once that is known.
    #[must_use]
    pub fn model(&self) -> Option<Arc<str>> {
        self.model.get().cloned()
    }
}
