//! A runtime without a model, for tests of everything above the seam.
//!
//! Its numbers mean nothing, but they behave: a readout is a pure function of the tokens that its mark sees (the
//! trunk, and the mark's own branch up to the mark), so it differs between documents and depends on nothing else in
//! the batch. It refuses the passes that a real runtime refuses. [`FakeControls`] hold it, make it fail, and count.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{ForwardPass, Mark, ModelFacts, Probe, Readout, Runtime, RuntimeError};

/// A deterministic stand-in for a model.
pub struct FakeRuntime {
    facts: ModelFacts,
    shared: Arc<Shared>,
}

/// What tests hold on to after the runtime has gone into a scheduler.
#[derive(Clone)]
pub struct FakeControls {
    shared: Arc<Shared>,
}

struct Shared {
    /// Whether batches may finish.
    open: watch::Sender<bool>,
    /// Batches standing at the closed gate.
    held: watch::Sender<usize>,
    failures: Mutex<VecDeque<Failure>>,
    /// What befalls every batch with a pass that holds such a token.
    poisons: Mutex<Vec<(u32, Fault)>>,
    /// Tokens of a batch for which there is memory.
    memory: AtomicUsize,
    calls: AtomicUsize,
    passes: AtomicUsize,
    tokens: AtomicUsize,
    /// Batches up to this one may finish though the gate is closed.
    through: watch::Sender<usize>,
    /// Tokens of each batch so far.
    batches: Mutex<Vec<usize>>,
}

/// What a poisoned pass does to its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The code panics.
    Panic,
    /// The device fails, and does not say because of which pass.
    Device,
    /// The pass's numbers are not numbers; the error names the first such pass.
    NonFinite,
    /// The device is gone, for good.
    DeviceLost,
}

enum Failure {
    Error(RuntimeError),
    Panic(&'static str),
}

impl FakeRuntime {
    /// A runtime with facts that suit any small prompt: hidden states of 32 numbers, 40,960 positions, a vocabulary
    /// of 200,000.
    #[must_use]
    pub fn new() -> Self {
        Self::with_facts(ModelFacts {
            architecture: "FakeForTests".to_owned(),
            device: "none".to_owned(),
            dtype: "f32".to_owned(),
            parameters: 0,
            weight_bytes: 0,
            hidden_size: 32,
            layers: 0,
            vocabulary: 200_000,
            max_positions: 40_960,
            projector: true,
            prefix_cache_bytes: 0,
        })
    }

    /// A runtime that claims to be another model. `hidden_size` is the length of every vector it returns.
    #[must_use]
    pub fn with_facts(facts: ModelFacts) -> Self {
        let shared = Shared {
            open: watch::Sender::new(true),
            held: watch::Sender::new(0),
            failures: Mutex::default(),
            poisons: Mutex::default(),
            memory: AtomicUsize::new(usize::MAX),
            calls: AtomicUsize::new(0),
            passes: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            through: watch::Sender::new(0),
            batches: Mutex::default(),
        };
        Self { facts, shared: Arc::new(shared) }
    }

    /// Hands out the controls; they stay valid when the runtime is moved.
    #[must_use]
    pub fn controls(&self) -> FakeControls {
        FakeControls { shared: Arc::clone(&self.shared) }
    }

    fn check(&self, index: usize, pass: &ForwardPass) -> Result<(), RuntimeError> {
        let refuse = |problem: String| Err(RuntimeError::InvalidPass { pass: index, problem });
        if pass.trunk.is_empty() {
            return refuse("the trunk is empty".to_owned());
        }
        if pass.depth() > self.facts.max_positions {
            return refuse(format!("{} positions, the model has {}", pass.depth(), self.facts.max_positions));
        }
        for token in pass.trunk.iter().chain(pass.branches.iter().flatten()) {
            if *token as usize >= self.facts.vocabulary {
                return refuse(format!("token {token}, the vocabulary has {}", self.facts.vocabulary));
            }
        }
        for mark in pass.probe.marks().iter().chain(&pass.joint_layers.shared) {
            if segment(pass, *mark).is_none_or(|tokens| mark.offset >= tokens.len()) {
                return refuse(format!("mark {mark:?} is outside the pass"));
            }
        }
        Ok(())
    }

    /// The first pass with a token that poisons, and what that does.
    fn poisoned(&self, batch: &[ForwardPass]) -> Option<(usize, Fault)> {
        let poisons = self.shared.poisons.lock().unwrap_or_else(PoisonError::into_inner);
        batch.iter().enumerate().find_map(|(index, pass)| {
            let mut tokens = pass.trunk.iter().chain(pass.branches.iter().flatten());
            let fault = tokens.find_map(|token| poisons.iter().find(|(poison, _)| poison == token))?.1;
            Some((index, fault))
        })
    }

    fn read(&self, pass: &ForwardPass) -> Readout {
        match &pass.probe {
            Probe::HiddenStates { marks, project } => Readout::HiddenStates(
                marks
                    .iter()
                    .map(|mark| unit_vector(mix(seen(pass, *mark), u64::from(*project)), self.facts.hidden_size))
                    .collect(),
            ),
            Probe::NextTokenLogits { after, token_ids } => Readout::NextTokenLogits(
                after
                    .iter()
                    .map(|mark| {
                        let state = seen(pass, *mark);
                        token_ids.iter().map(|token| 4.0 * number(mix(state, u64::from(*token)))).collect()
                    })
                    .collect(),
            ),
        }
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

    async fn forward(&self, batch: Vec<ForwardPass>) -> Result<Vec<Readout>, RuntimeError> {
        let shared = &self.shared;
        let tokens = batch.iter().map(ForwardPass::tokens).sum();
        let number = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        shared.passes.fetch_add(batch.len(), Ordering::Relaxed);
        shared.tokens.fetch_add(tokens, Ordering::Relaxed);
        shared.batches.lock().unwrap_or_else(PoisonError::into_inner).push(tokens);

        let mut open = shared.open.subscribe();
        if !*open.borrow_and_update() {
            let _standing = Standing::at(shared);
            // The senders live in `shared`, so this ends only when the gate opens.
            let mut through = shared.through.subscribe();
            tokio::select! {
                _opened = open.wait_for(|open| *open) => {}
                _through = through.wait_for(|last| *last >= number) => {}
            }
        }

        let failure = shared.failures.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match failure {
            Some(Failure::Error(error)) => return Err(error),
            Some(Failure::Panic(message)) => std::panic::panic_any(message),
            None => {}
        }
        let tokens: usize = batch.iter().map(ForwardPass::tokens).sum();
        let memory = shared.memory.load(Ordering::Relaxed);
        if tokens > memory {
            return Err(RuntimeError::of_device(format!(
                "CUDA_ERROR_OUT_OF_MEMORY: {tokens} tokens, room for {memory}"
            )));
        }
        if let Some((pass, fault)) = self.poisoned(&batch) {
            match fault {
                Fault::Panic => std::panic::panic_any("poisoned"),
                Fault::Device => return Err(RuntimeError::of_device("poisoned".to_owned())),
                Fault::NonFinite => return Err(RuntimeError::NonFinite { pass, mark: 0 }),
                Fault::DeviceLost => return Err(RuntimeError::of_device("CUDA_ERROR_ILLEGAL_ADDRESS".to_owned())),
            }
        }
        batch
            .iter()
            .enumerate()
            .map(|(index, pass)| {
                self.check(index, pass)?;
                Ok(self.read(pass))
            })
            .collect()
    }
}

impl FakeControls {
    /// Closes the gate: batches that start from now on wait.
    pub fn hold(&self) {
        self.shared.open.send_replace(false);
    }

    /// Opens the gate for the batches that wait and for all that follow.
    pub fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// Lets the batches through that have started; the gate stays closed for those that follow.
    pub fn let_through(&self) {
        self.shared.through.send_replace(self.shared.calls.load(Ordering::Relaxed));
    }

    /// Waits until at least `batches` stand at the gate.
    pub async fn held(&self, batches: usize) {
        let mut held = self.shared.held.subscribe();
        let _reached = held.wait_for(|held| *held >= batches).await;
    }

    /// The next batch ends in this error.
    pub fn fail_next(&self, error: RuntimeError) {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).push_back(Failure::Error(error));
    }

    /// The next batch panics.
    pub fn panic_next(&self, message: &'static str) {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).push_back(Failure::Panic(message));
    }

    /// Every batch with a pass that holds this token meets this fault from now on.
    pub fn poison(&self, token: u32, fault: Fault) {
        self.shared.poisons.lock().unwrap_or_else(PoisonError::into_inner).push((token, fault));
    }

    /// Batches of more tokens are out of memory from now on.
    pub fn limit_memory(&self, tokens: usize) {
        self.shared.memory.store(tokens, Ordering::Relaxed);
    }

    /// Batches started so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Tokens of each of those batches, in order.
    #[must_use]
    pub fn batches(&self) -> Vec<usize> {
        self.shared.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes in those batches.
    #[must_use]
    pub fn passes(&self) -> usize {
        self.shared.passes.load(Ordering::Relaxed)
    }

    /// Tokens in those passes, trunks counted once.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.shared.tokens.load(Ordering::Relaxed)
    }
}

/// Counts a batch at the gate for as long as it stands there, also when it is dropped.
struct Standing<'a>(&'a Shared);

impl<'a> Standing<'a> {
    fn at(shared: &'a Shared) -> Self {
        shared.held.send_modify(|held| *held += 1);
        Self(shared)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| *held -= 1);
    }
}

fn segment(pass: &ForwardPass, mark: Mark) -> Option<&[u32]> {
    match mark.segment.checked_sub(1) {
        None => Some(&pass.trunk),
        Some(branch) => pass.branches.get(branch).map(Vec::as_slice),
    }
}

/// A hash of the tokens that a mark sees. Order counts.
fn seen(pass: &ForwardPass, mark: Mark) -> u64 {
    let fold = |state, tokens: &[u32]| tokens.iter().fold(state, |state, token| mix(state, u64::from(*token)));
    let own = segment(pass, mark).map_or(&[][..], |tokens| &tokens[..=mark.offset]);
    if mark.segment == 0 { fold(1, own) } else { fold(fold(1, &pass.trunk), own) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::JointLayers;

    fn tree(trunk: &[u32], branches: &[&[u32]], marks: Vec<Mark>) -> ForwardPass {
        ForwardPass {
            trunk: trunk.to_vec(),
            branches: branches.iter().map(|branch| branch.to_vec()).collect(),
            joint_layers: JointLayers::default(),
            probe: Probe::HiddenStates { marks, project: false },
        }
    }

    async fn vectors(runtime: &FakeRuntime, batch: Vec<ForwardPass>) -> Vec<Vec<f32>> {
        let readouts = runtime.forward(batch).await.unwrap();
        readouts
            .into_iter()
            .flat_map(|readout| match readout {
                Readout::HiddenStates(vectors) => vectors,
                Readout::NextTokenLogits(_) => panic!("hidden states were asked for"),
            })
            .collect()
    }

    #[tokio::test]
    async fn a_readout_does_not_depend_on_the_batch() {
        let runtime = FakeRuntime::new();
        let one = tree(&[1, 2], &[&[3, 4], &[5]], vec![Mark::branch(0, 1), Mark::branch(1, 0)]);
        let other = tree(&[9, 9, 9], &[], vec![Mark::trunk(2)]);
        let alone = vectors(&runtime, vec![one.clone()]).await;
        let together = vectors(&runtime, vec![other, one]).await;
        assert_eq!(alone, together[1..]);
    }

    #[tokio::test]
    async fn a_mark_sees_the_trunk_and_its_own_branch_and_nothing_after_itself() {
        let runtime = FakeRuntime::new();
        let base = vectors(&runtime, vec![tree(&[1, 2], &[&[3, 4, 5], &[6]], vec![Mark::branch(0, 1)])]).await;
        let neighbour = vectors(&runtime, vec![tree(&[1, 2], &[&[3, 4, 7], &[8]], vec![Mark::branch(0, 1)])]).await;
        let trunk = vectors(&runtime, vec![tree(&[1, 3], &[&[3, 4, 5], &[6]], vec![Mark::branch(0, 1)])]).await;
        let own = vectors(&runtime, vec![tree(&[1, 2], &[&[4, 3, 5], &[6]], vec![Mark::branch(0, 1)])]).await;
        assert_eq!(base, neighbour);
        assert_ne!(base, trunk);
        assert_ne!(base, own);
    }

    #[tokio::test]
    async fn a_branch_reads_like_the_one_sequence_it_stands_for() {
        let runtime = FakeRuntime::new();
        let branch = vectors(&runtime, vec![tree(&[1, 2], &[&[3, 4]], vec![Mark::branch(0, 1)])]).await;
        let sequence = vectors(&runtime, vec![tree(&[1, 2, 3, 4], &[], vec![Mark::trunk(3)])]).await;
        assert_eq!(branch, sequence);
    }

    #[tokio::test]
    async fn vectors_have_unit_length_and_logits_come_one_per_token() {
        let runtime = FakeRuntime::new();
        let vector = vectors(&runtime, vec![tree(&[1], &[], vec![Mark::trunk(0)])]).await.remove(0);
        let norm: f32 = vector.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");

        let probe = Probe::NextTokenLogits { after: vec![Mark::trunk(0)], token_ids: vec![7, 8, 9] };
        let pass = ForwardPass { probe, ..tree(&[1], &[], Vec::new()) };
        let Readout::NextTokenLogits(rows) = runtime.forward(vec![pass]).await.unwrap().remove(0) else {
            panic!("logits were asked for");
        };
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].len(), 3);
        assert!(rows[0].iter().all(|logit| logit.abs() <= 4.0));
        assert_ne!(rows[0][0].to_bits(), rows[0][1].to_bits());
    }

    #[tokio::test]
    async fn passes_that_no_model_could_run_are_refused() {
        let runtime = FakeRuntime::new();
        let vocabulary = runtime.facts().vocabulary as u32;
        for bad in [
            tree(&[], &[], Vec::new()),
            tree(&[1], &[], vec![Mark::trunk(1)]),
            tree(&[1], &[&[2]], vec![Mark::branch(1, 0)]),
            tree(&[vocabulary], &[], Vec::new()),
            tree(&vec![1; runtime.facts().max_positions + 1], &[], Vec::new()),
        ] {
            let good = tree(&[1], &[], vec![Mark::trunk(0)]);
            let error = runtime.forward(vec![good, bad]).await.unwrap_err();
            assert!(matches!(error, RuntimeError::InvalidPass { pass: 1, .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_held_gate_holds_until_it_is_released() {
        let runtime = Arc::new(FakeRuntime::new());
        let controls = runtime.controls();
        controls.hold();
        let task = tokio::spawn({
            let runtime = Arc::clone(&runtime);
            async move { runtime.forward(vec![tree(&[1, 2], &[&[3]], vec![Mark::trunk(0)])]).await }
        });
        controls.held(1).await;
        assert!(!task.is_finished());
        controls.release();
        assert_eq!(task.await.unwrap().unwrap().len(), 1);
        assert_eq!((controls.calls(), controls.passes(), controls.tokens()), (1, 1, 3));
    }

    #[tokio::test]
    async fn a_failure_is_for_one_batch() {
        let runtime = FakeRuntime::new();
        runtime.controls().fail_next(RuntimeError::Device("gone".to_owned()));
        let pass = tree(&[1], &[], vec![Mark::trunk(0)]);
        assert!(matches!(runtime.forward(vec![pass.clone()]).await, Err(RuntimeError::Device(_))));
        assert!(runtime.forward(vec![pass]).await.is_ok());
    }
}
