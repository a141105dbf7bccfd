//! A runtime without a model, for tests of everything above the seam.
//!
//! Its numbers mean nothing, but each row is a pure function of the tokens that its position sees
//! (the prefix, and its own suffix up to the position): it differs between documents and does not
//! depend on the rest of the batch. It rejects the passes that a real runtime rejects.
//! [`FakeControls`] block batches, inject faults and count.

mod controls;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::controls::{Failure, Shared};
pub use self::controls::{FakeControls, Fault};
use super::{
    ClassifierFacts, ForwardPass, Head, ModelFacts, Output, Pooling, Positions, PreparedBatch, ReadStates, Runtime,
    RuntimeError, TokenPosition, TokenStates, WorkspaceSize,
};

/// A deterministic stand-in for a model.
pub struct FakeRuntime {
    facts: ModelFacts,
    shared: Arc<Shared>,
}

impl FakeRuntime {
    /// A runtime with facts that suit any small prompt: hidden states of 32 numbers, 40,960
    /// positions, a vocabulary of 200,000.
    #[must_use]
    pub fn new() -> Self {
        Self::with_facts(ModelFacts {
            architecture: "FakeForTests".to_owned(),
            device: "none".to_owned(),
            dtype: "f32".to_owned(),
            cpu_instructions: None,
            parameters: 0,
            weight_bytes: 0,
            workspace: WorkspaceSize::default(),
            hidden_size: 32,
            layers: 0,
            vocabulary: 200_000,
            max_positions: 40_960,
            causal: true,
            token_types: 0,
            projector: true,
            token_projection: true,
            vocabulary_head: true,
            classifier: Some(ClassifierFacts { labels: 1, pooling: Pooling::First, start_layer: None }),
            prefix_cache_bytes: 0,
        })
    }

    /// A runtime that claims to be another model. `hidden_size` is the length of every vector it
    /// returns.
    #[must_use]
    pub fn with_facts(facts: ModelFacts) -> Self {
        Self { facts, shared: Arc::default() }
    }

    /// Hands out the controls. They stay valid when the runtime is moved; when the last of them is
    /// dropped, nothing blocks batches any more.
    #[must_use]
    pub fn controls(&self) -> FakeControls {
        FakeControls::new(Arc::clone(&self.shared))
    }

    fn check(&self, index: usize, pass: &ForwardPass) -> Result<(), RuntimeError> {
        let refuse = |problem: String| Err(RuntimeError::InvalidPass { pass: index, problem });
        if pass.tokens() == 0 {
            return refuse("it has no tokens".to_owned());
        }
        if pass.depth() > self.facts.max_positions {
            return refuse(format!("{} positions, the model has {}", pass.depth(), self.facts.max_positions));
        }
        for token in tokens_of(pass) {
            if *token as usize >= self.facts.vocabulary {
                return refuse(format!("token {token}, the vocabulary has {}", self.facts.vocabulary));
            }
        }
        for position in pass.read_positions().iter().chain(&pass.cross_document.shared) {
            if pass.segment(position.segment).is_none_or(|tokens| position.offset >= tokens.len()) {
                return refuse(format!("{position:?} is outside the pass"));
            }
        }
        Ok(())
    }

    /// The first pass with a poisoned token, and the fault that it triggers.
    fn poisoned(&self, batch: &[ForwardPass]) -> Option<(usize, Fault)> {
        let poisons = self.shared.poisons();
        batch.iter().enumerate().find_map(|(index, pass)| {
            let fault = tokens_of(pass).find_map(|token| poisons.iter().find(|(poison, _)| poison == token))?.1;
            Some((index, fault))
        })
    }

    fn read(&self, pass: &ForwardPass) -> Output {
        let last = pass.output.layer.map_or(0, u64::from);
        let Some(exit) = pass.output.exit else { return self.read_after(pass, last) };
        let mut rows = self.read_after(pass, u64::from(exit.layer));
        let goes_on = exit.choose(&rows);
        let last = self.read_after(pass, last).into_iter().zip(goes_on);
        rows.extend(last.map(|(row, goes_on)| if goes_on { row } else { Vec::new() }));
        rows
    }

    /// The rows read after a layer; 0 is the last one.
    fn read_after(&self, pass: &ForwardPass, layer: u64) -> Output {
        if let Head::MaxSim { .. } = pass.output.head {
            // A hash of each document's whole sequence.
            let last = |tokens: &Vec<u32>| tokens.len().saturating_sub(1);
            let documents = pass.suffixes.iter().enumerate().skip(1);
            let state = |(nth, tokens)| seen(pass, TokenPosition::suffix(nth, last(tokens)));
            return documents.map(|document| vec![4.0 * number(mix(state(document), 2))]).collect();
        }
        if let Head::Reader(reader) = &pass.output.head {
            return self.read_by(&*reader.0, pass);
        }
        let states: Vec<u64> = match &pass.output.at {
            Positions::Listed(_) | Positions::All => {
                pass.read_positions().iter().map(|position| seen(pass, *position)).collect()
            }
            // A stand-in for any pooling: a hash of the whole sequence.
            Positions::Pooled(_) => {
                let sequences = if pass.suffixes.is_empty() { 0..1 } else { 1..pass.suffixes.len() + 1 };
                let last = |segment| pass.segment(segment).map_or(0, |tokens| tokens.len().saturating_sub(1));
                sequences.map(|segment| seen(pass, TokenPosition { segment, offset: last(segment) })).collect()
            }
        };
        let states = states.into_iter().map(|state| if layer == 0 { state } else { mix(state, layer << 32) });
        let row = |state: u64| match &pass.output.head {
            Head::Hidden => unit_vector(mix(state, 0), self.facts.hidden_size),
            Head::Projector => unit_vector(mix(state, 1), self.facts.hidden_size),
            Head::Vocabulary(token_ids) => {
                token_ids.iter().map(|token| 4.0 * number(mix(state, u64::from(*token)))).collect()
            }
            Head::Classifier => {
                let labels = self.facts.classifier.map_or(0, |classifier| classifier.labels as u64);
                (0..labels).map(|label| 4.0 * number(mix(state, label))).collect()
            }
            // Read above.
            Head::Reader(_) | Head::MaxSim { .. } => Vec::new(),
        };
        states.map(row).collect()
    }
}

impl FakeRuntime {
    /// Gives a reader states that depend on each token's whole beginning and on the layer.
    fn read_by(&self, reader: &dyn ReadStates, pass: &ForwardPass) -> Output {
        let positions = pass.read_positions();
        let states = |layer: &u16| -> Vec<f32> {
            let state = |position| unit_vector(mix(seen(pass, position), u64::from(*layer)), self.facts.hidden_size);
            positions.iter().flat_map(|position| state(*position)).collect()
        };
        let layers: Vec<Vec<f32>> = reader.layers().iter().map(states).collect();
        let mut end = 0;
        let lengths = std::iter::once(pass.prefix.len()).chain(pass.suffixes.iter().map(Vec::len));
        let segments = lengths.filter(|length| *length > 0).map(|length| {
            end += length;
            end - length..end
        });
        reader.read(&TokenStates {
            width: self.facts.hidden_size,
            segments: segments.collect(),
            layers: layers.iter().map(Vec::as_slice).collect(),
        })
    }
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for FakeRuntime {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        let tokens = batch.iter().map(ForwardPass::tokens).sum();
        self.shared.start(batch.len(), tokens);
        match self.shared.next_failure() {
            Some(Failure::Error(error)) => return Err(error),
            Some(Failure::Panic(message)) => std::panic::panic_any(message),
            None => {}
        }
        let memory = self.shared.memory_tokens();
        if tokens > memory {
            let message = format!("CUDA_ERROR_OUT_OF_MEMORY: {tokens} tokens, room for {memory}");
            return Err(RuntimeError::from_device_message(message));
        }
        if let Some((pass, fault)) = self.poisoned(batch) {
            return Err(match fault {
                Fault::Panic => std::panic::panic_any("poisoned"),
                Fault::Device => RuntimeError::from_device_message("poisoned".to_owned()),
                Fault::NonFinite => RuntimeError::NonFinite { pass, row: 0 },
                Fault::DeviceLost => RuntimeError::from_device_message("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned()),
            });
        }
        let run = |(index, pass): (usize, &ForwardPass)| {
            self.check(index, pass)?;
            Ok(self.read(pass))
        };
        batch.iter().enumerate().map(run).collect()
    }

    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        self.shared.prepare(passes.iter().map(ForwardPass::tokens).sum());
        PreparedBatch::with_layout(passes, LaidOut)
    }

    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        if let (passes, Some(LaidOut)) = batch.into_parts() {
            self.shared.count_prepared_run();
            return self.run(&passes);
        }
        Err(RuntimeError::Device("another runtime prepared the batch".to_owned()))
    }
}

/// The result of preparing a batch.
struct LaidOut;

fn tokens_of(pass: &ForwardPass) -> impl Iterator<Item = &u32> {
    pass.prefix.iter().chain(pass.suffixes.iter().flatten())
}

/// A hash of the tokens that a position sees. Order counts.
fn seen(pass: &ForwardPass, position: TokenPosition) -> u64 {
    let fold = |state, tokens: &[u32]| tokens.iter().fold(state, |state, token| mix(state, u64::from(*token)));
    let own = pass.segment(position.segment).and_then(|tokens| tokens.get(..=position.offset)).unwrap_or_default();
    if position.segment == 0 { fold(1, own) } else { fold(fold(1, &pass.prefix), own) }
}

/// One round of splitmix64 over a state and a value.
const fn mix(state: u64, value: u64) -> u64 {
    let mut z = (state ^ value.wrapping_mul(0xd6e8_feb8_6659_fd93)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in `[-1, 1)` from the top 24 bits of a hash.
fn number(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
}

fn unit_vector(state: u64, length: usize) -> Vec<f32> {
    let raw: Vec<f32> = (0..length as u64).map(|place| number(mix(state, place))).collect();
    let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|value| value / norm).collect()
}
