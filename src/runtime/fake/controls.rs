//! Controls of a [`super::FakeRuntime`]: a gate that blocks batches, injected faults, counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::runtime::RuntimeError;

/// The effect of a poisoned pass on its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The code panics.
    Panic,
    /// The device fails, and does not say because of which pass.
    Device,
    /// A number is not finite; the error names the first such pass.
    NonFinite,
    /// The device is lost, for good.
    DeviceLost,
}

pub(super) enum Failure {
    Error(RuntimeError),
    Panic(&'static str),
}

/// The state that a runtime shares with its controls.
pub(super) struct Shared {
    gate: Mutex<Gate>,
    gate_changed: Condvar,
    /// Batches blocked at the gate, for tests to await.
    blocked: watch::Sender<usize>,
    failures: Mutex<VecDeque<Failure>>,
    /// Tokens that trigger a fault in every batch with a pass that holds them.
    poisons: Mutex<Vec<(u32, Fault)>>,
    /// Tokens of the largest batch for which there is memory.
    memory_tokens: AtomicUsize,
    /// Passes and tokens of each batch so far.
    batches: Mutex<Vec<(usize, usize)>>,
    /// Tokens of each batch whose preparation began so far.
    preparations: Mutex<Vec<usize>>,
    /// Batches so far that ran as they were prepared.
    prepared_runs: AtomicUsize,
    panics_in_prepare: AtomicBool,
}

/// Decides which batches may finish.
#[derive(Default)]
struct Gate {
    closed: bool,
    /// Batches up to this one, counted from 1, may finish though the gate is closed.
    passed: usize,
    /// [`FakeControls`] that could open the gate.
    controls: usize,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            gate: Mutex::default(),
            gate_changed: Condvar::new(),
            blocked: watch::Sender::new(0),
            failures: Mutex::default(),
            poisons: Mutex::default(),
            memory_tokens: AtomicUsize::new(usize::MAX),
            batches: Mutex::default(),
            preparations: Mutex::default(),
            prepared_runs: AtomicUsize::new(0),
            panics_in_prepare: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// Counts a batch, and blocks while the gate is closed for it.
    pub(super) fn start(&self, passes: usize, tokens: usize) {
        let number = {
            let mut batches = lock(&self.batches);
            batches.push((passes, tokens));
            batches.len()
        };
        let is_blocked = |gate: &mut Gate| gate.closed && gate.controls > 0 && gate.passed < number;
        let mut gate = lock(&self.gate);
        if is_blocked(&mut gate) {
            self.blocked.send_modify(|blocked| *blocked += 1);
            let opened = self.gate_changed.wait_while(gate, is_blocked);
            drop(opened.unwrap_or_else(PoisonError::into_inner));
            self.blocked.send_modify(|blocked| *blocked -= 1);
        }
    }

    pub(super) fn next_failure(&self) -> Option<Failure> {
        lock(&self.failures).pop_front()
    }

    pub(super) fn poisons(&self) -> MutexGuard<'_, Vec<(u32, Fault)>> {
        lock(&self.poisons)
    }

    pub(super) fn memory_tokens(&self) -> usize {
        self.memory_tokens.load(Ordering::Relaxed)
    }

    pub(super) fn prepare(&self, tokens: usize) {
        lock(&self.preparations).push(tokens);
        if self.panics_in_prepare.load(Ordering::Relaxed) {
            std::panic::panic_any("prepared");
        }
    }

    pub(super) fn count_prepared_run(&self) {
        self.prepared_runs.fetch_add(1, Ordering::Relaxed);
    }

    fn change_gate(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut lock(&self.gate));
        self.gate_changed.notify_all();
    }
}

/// Controls that tests keep after the runtime has moved into a scheduler.
pub struct FakeControls {
    shared: Arc<Shared>,
}

impl Clone for FakeControls {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for FakeControls {
    /// Opens the gate when the last controls are dropped: a blocked batch would keep its thread,
    /// and the test would not end.
    fn drop(&mut self) {
        self.shared.change_gate(|gate| gate.controls -= 1);
    }
}

impl FakeControls {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.change_gate(|gate| gate.controls += 1);
        Self { shared }
    }

    /// Closes the gate: batches that start from now on block.
    pub fn hold(&self) {
        self.shared.change_gate(|gate| gate.closed = true);
    }

    /// Opens the gate for the blocked batches and for all that follow.
    pub fn release(&self) {
        self.shared.change_gate(|gate| gate.closed = false);
    }

    /// Lets the batches finish that have started; the gate stays closed for those that follow.
    pub fn let_through(&self) {
        let started = self.calls();
        self.shared.change_gate(|gate| gate.passed = started);
    }

    /// Waits until at least `batches` are blocked at the gate.
    pub async fn held(&self, batches: usize) {
        let mut blocked = self.shared.blocked.subscribe();
        let _reached = blocked.wait_for(|blocked| *blocked >= batches).await;
    }

    /// The next batch ends in this error.
    pub fn fail_next(&self, error: RuntimeError) {
        lock(&self.shared.failures).push_back(Failure::Error(error));
    }

    /// The next batch panics.
    pub fn panic_next(&self, message: &'static str) {
        lock(&self.shared.failures).push_back(Failure::Panic(message));
    }

    /// From now on, every batch with a pass that holds this token meets this fault.
    pub fn poison(&self, token: u32, fault: Fault) {
        self.shared.poisons().push((token, fault));
    }

    /// From now on, batches of more tokens are out of memory.
    pub fn limit_memory(&self, tokens: usize) {
        self.shared.memory_tokens.store(tokens, Ordering::Relaxed);
    }

    /// From now on, preparing a batch panics.
    pub fn panic_in_prepare(&self) {
        self.shared.panics_in_prepare.store(true, Ordering::Relaxed);
    }

    /// Tokens of each batch whose preparation began so far.
    #[must_use]
    pub fn preparations(&self) -> Vec<usize> {
        lock(&self.shared.preparations).clone()
    }

    /// Batches so far that ran as they were prepared.
    #[must_use]
    pub fn prepared_runs(&self) -> usize {
        self.shared.prepared_runs.load(Ordering::Relaxed)
    }

    /// Batches started so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        lock(&self.shared.batches).len()
    }

    /// Tokens of each of those batches, in order.
    #[must_use]
    pub fn batches(&self) -> Vec<usize> {
        lock(&self.shared.batches).iter().map(|(_, tokens)| *tokens).collect()
    }

    /// Passes in those batches.
    #[must_use]
    pub fn passes(&self) -> usize {
        lock(&self.shared.batches).iter().map(|(passes, _)| passes).sum()
    }

    /// Tokens in those passes, prefixes counted once.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.batches().iter().sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
