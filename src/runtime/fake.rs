//! A runtime without a model, for tests of everything above the seam.
//!
//! Its numbers mean nothing, but they behave: a readout is a pure function of the tokens that its mark sees (the
//! trunk, and the mark's own branch up to the mark), so it differs between documents and depends on nothing else in
//! the batch. It refuses the passes that a real runtime refuses. [`FakeControls`] hold it, make it fail, and count.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{ForwardPass, Mark, ModelFacts, Probe, Readout, Runtime, RuntimeError};

/// A deterministic stand-in for a model.
pub struct FakeRuntime {
    facts: ModelFacts,
    shared: Arc<Shared>,
}

/// Controls a [`FakeRuntime`] after it has gone into a scheduler. When the last clone is dropped, held
/// batches are released, so that no thread waits after a test.
#[derive(Clone)]
pub struct FakeControls {
    shared: Arc<Shared>,
    _release: Arc<ReleaseOnDrop>,
}

struct ReleaseOnDrop(Arc<Shared>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        self.0.change_gate(|gate| gate.is_closed = false);
    }
}

/// Holds batches back.
#[derive(Default)]
struct Gate {
    is_closed: bool,
    /// Batches up to this number pass though the gate is closed.
    through: usize,
}

struct Shared {
    gate: Mutex<Gate>,
    gate_changed: Condvar,
    /// Batches that wait at the closed gate.
    held: watch::Sender<usize>,
    failures: Mutex<VecDeque<Failure>>,
    /// What befalls every batch with a pass that holds such a token.
    poisons: Mutex<Vec<(u32, Fault)>>,
    /// Tokens of a batch for which there is memory.
    memory: AtomicUsize,
    calls: AtomicUsize,
    passes: AtomicUsize,
    tokens: AtomicUsize,
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
            gate: Mutex::default(),
            gate_changed: Condvar::new(),
            held: watch::Sender::new(0),
            failures: Mutex::default(),
            poisons: Mutex::default(),
            memory: AtomicUsize::new(usize::MAX),
            calls: AtomicUsize::new(0),
            passes: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            batches: Mutex::default(),
        };
        Self { facts, shared: Arc::new(shared) }
    }

    /// Hands out the controls; they stay valid when the runtime is moved.
    #[must_use]
    pub fn controls(&self) -> FakeControls {
        let release = Arc::new(ReleaseOnDrop(Arc::clone(&self.shared)));
        FakeControls { shared: Arc::clone(&self.shared), _release: release }
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

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Readout>, RuntimeError> {
        let shared = &self.shared;
        let tokens: usize = batch.iter().map(ForwardPass::tokens).sum();
        let number = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        shared.passes.fetch_add(batch.len(), Ordering::Relaxed);
        shared.tokens.fetch_add(tokens, Ordering::Relaxed);
        shared.batches.lock().unwrap_or_else(PoisonError::into_inner).push(tokens);

        shared.wait_at_gate(number);

        let failure = shared.failures.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match failure {
            Some(Failure::Error(error)) => return Err(error),
            Some(Failure::Panic(message)) => std::panic::panic_any(message),
            None => {}
        }
        let memory = shared.memory.load(Ordering::Relaxed);
        if tokens > memory {
            return Err(RuntimeError::of_device(format!(
                "CUDA_ERROR_OUT_OF_MEMORY: {tokens} tokens, room for {memory}"
            )));
        }
        if let Some((pass, fault)) = self.poisoned(batch) {
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
        self.shared.change_gate(|gate| gate.is_closed = true);
    }

    /// Opens the gate for the batches that wait and for all that follow.
    pub fn release(&self) {
        self.shared.change_gate(|gate| gate.is_closed = false);
    }

    /// Lets the batches through that have started; the gate stays closed for those that follow.
    pub fn let_through(&self) {
        let started = self.shared.calls.load(Ordering::Relaxed);
        self.shared.change_gate(|gate| gate.through = started);
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

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_gate(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate());
        self.gate_changed.notify_all();
    }

    /// Blocks batch number `number` while the gate is closed to it.
    fn wait_at_gate(&self, number: usize) {
        let is_closed = |gate: &mut Gate| gate.is_closed && gate.through < number;
        let mut gate = self.gate();
        if is_closed(&mut gate) {
            self.held.send_modify(|held| *held += 1);
            drop(self.gate_changed.wait_while(gate, is_closed).unwrap_or_else(PoisonError::into_inner));
            self.held.send_modify(|held| *held -= 1);
        }
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

    fn vectors(runtime: &FakeRuntime, batch: &[ForwardPass]) -> Vec<Vec<f32>> {
        let readouts = runtime.run(batch).unwrap();
        readouts
            .into_iter()
            .flat_map(|readout| match readout {
                Readout::HiddenStates(vectors) => vectors,
                Readout::NextTokenLogits(_) => panic!("hidden states were asked for"),
            })
            .collect()
    }

    #[test]
    fn a_readout_does_not_depend_on_the_batch() {
        let runtime = FakeRuntime::new();
        let one = tree(&[1, 2], &[&[3, 4], &[5]], vec![Mark::branch(0, 1), Mark::branch(1, 0)]);
        let other = tree(&[9, 9, 9], &[], vec![Mark::trunk(2)]);
        let alone = vectors(&runtime, &[one.clone()]);
        let together = vectors(&runtime, &[other, one]);
        assert_eq!(alone, together[1..]);
    }

    #[test]
    fn a_mark_sees_the_trunk_and_its_own_branch_and_nothing_after_itself() {
        let runtime = FakeRuntime::new();
        let base = vectors(&runtime, &[tree(&[1, 2], &[&[3, 4, 5], &[6]], vec![Mark::branch(0, 1)])]);
        let neighbour = vectors(&runtime, &[tree(&[1, 2], &[&[3, 4, 7], &[8]], vec![Mark::branch(0, 1)])]);
        let trunk = vectors(&runtime, &[tree(&[1, 3], &[&[3, 4, 5], &[6]], vec![Mark::branch(0, 1)])]);
        let own = vectors(&runtime, &[tree(&[1, 2], &[&[4, 3, 5], &[6]], vec![Mark::branch(0, 1)])]);
        assert_eq!(base, neighbour);
        assert_ne!(base, trunk);
        assert_ne!(base, own);
    }

    #[test]
    fn a_branch_reads_like_the_one_sequence_it_stands_for() {
        let runtime = FakeRuntime::new();
        let branch = vectors(&runtime, &[tree(&[1, 2], &[&[3, 4]], vec![Mark::branch(0, 1)])]);
        let sequence = vectors(&runtime, &[tree(&[1, 2, 3, 4], &[], vec![Mark::trunk(3)])]);
        assert_eq!(branch, sequence);
    }

    #[test]
    fn vectors_have_unit_length_and_logits_come_one_per_token() {
        let runtime = FakeRuntime::new();
        let vector = vectors(&runtime, &[tree(&[1], &[], vec![Mark::trunk(0)])]).remove(0);
        let norm: f32 = vector.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");

        let probe = Probe::NextTokenLogits { after: vec![Mark::trunk(0)], token_ids: vec![7, 8, 9] };
        let pass = ForwardPass { probe, ..tree(&[1], &[], Vec::new()) };
        let Readout::NextTokenLogits(rows) = runtime.run(&[pass]).unwrap().remove(0) else {
            panic!("logits were asked for");
        };
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].len(), 3);
        assert!(rows[0].iter().all(|logit| logit.abs() <= 4.0));
        assert_ne!(rows[0][0].to_bits(), rows[0][1].to_bits());
    }

    #[test]
    fn passes_that_no_model_could_run_are_refused() {
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
            let error = runtime.run(&[good, bad]).unwrap_err();
            assert!(matches!(error, RuntimeError::InvalidPass { pass: 1, .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_held_gate_holds_until_it_is_released() {
        let runtime = Arc::new(FakeRuntime::new());
        let controls = runtime.controls();
        controls.hold();
        let task = tokio::task::spawn_blocking({
            let runtime = Arc::clone(&runtime);
            move || runtime.run(&[tree(&[1, 2], &[&[3]], vec![Mark::trunk(0)])])
        });
        controls.held(1).await;
        assert!(!task.is_finished());
        controls.release();
        assert_eq!(task.await.unwrap().unwrap().len(), 1);
        assert_eq!((controls.calls(), controls.passes(), controls.tokens()), (1, 1, 3));
    }

    #[test]
    fn a_failure_is_for_one_batch() {
        let runtime = FakeRuntime::new();
        runtime.controls().fail_next(RuntimeError::Device("gone".to_owned()));
        let pass = tree(&[1], &[], vec![Mark::trunk(0)]);
        assert!(matches!(runtime.run(std::slice::from_ref(&pass)), Err(RuntimeError::Device(_))));
        assert!(runtime.run(&[pass]).is_ok());
    }
}
