//! The permit of an admitted request: counts it and its tokens as in flight until its last work
//! has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use super::admission::AdmissionControl;
use super::client::Client;
use super::fair_queue::RequestTag;
use super::in_flight::Account;
use crate::rerank::RerankError;

/// A request that asks for admission.
#[derive(Debug, Clone)]
pub struct AdmissionRequest {
    /// The client that it counts for.
    pub client: Client,
    /// 0 is the most urgent.
    pub priority: u16,
    /// Estimate of the tokens that the model will read for it.
    pub tokens: usize,
    /// When it has to be answered; `None` for no limit.
    pub deadline: Option<Instant>,
}

impl AdmissionRequest {
    /// A most urgent request of the anonymous client, without a deadline.
    #[must_use]
    pub const fn anonymous(tokens: usize) -> Self {
        Self { client: Client::anonymous(), priority: 0, tokens, deadline: None }
    }
}

/// Permission to use the device for one request. Clones are cheap and share one reservation.
///
/// The request counts as in flight until the last clone is dropped and the device has finished the
/// last of its passes. Work that continues after a timeout, or after the client has
/// disconnected, therefore stays counted.
#[derive(Debug, Clone)]
pub struct AdmissionPermit(Arc<UnansweredRequest>);

impl AdmissionPermit {
    /// Replaces the estimate with the exact number of tokens. `documents` goes into the error.
    ///
    /// # Errors
    /// [`RerankError::TooManyTokens`] if the tokens exceed `max_queued_tokens` on their own.
    pub fn set_exact_tokens(&self, tokens: usize, documents: usize) -> Result<(), RerankError> {
        let limit = self.0.reservation.requests.admission.settings().max_queued_tokens;
        if tokens > limit {
            return Err(RerankError::TooManyTokens { tokens, documents, limit });
        }
        let reservation = &self.0.reservation;
        reservation.set_tokens(tokens, reservation.later_tokens.load(Ordering::Relaxed));
        Ok(())
    }

    /// Begins this stage of a request, with an estimate of its own tokens and of those of the
    /// stages after it. Tokens that `before`, the permit of the stage before, still counts are no
    /// longer counted there.
    pub fn begin_stage(&self, before: Option<&Self>, own_tokens: usize, later_tokens: usize) {
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(&before.0, &self.0)) {
            before.0.reservation.set_tokens(0, 0);
        }
        self.0.reservation.set_tokens(own_tokens, later_tokens);
    }

    pub(super) fn reservation(&self) -> &Arc<Reservation> {
        &self.0.reservation
    }
}

/// Kept by the permits of a request: a shutdown waits until it is dropped.
#[derive(Debug)]
struct UnansweredRequest {
    reservation: Arc<Reservation>,
}

impl Drop for UnansweredRequest {
    fn drop(&mut self) {
        if !self.reservation.is_background {
            self.reservation.requests.unanswered.send_modify(|requests| *requests -= 1);
        }
    }
}

/// The requests of one model, and the admission control that counts them with those of all others.
#[derive(Debug)]
pub(super) struct ModelRequests {
    pub admission: AdmissionControl,
    /// Requests in flight.
    pub in_flight: AtomicUsize,
    /// Requests with a permit.
    pub unanswered: watch::Sender<usize>,
}

impl ModelRequests {
    pub fn new(admission: AdmissionControl) -> Self {
        Self { admission, in_flight: AtomicUsize::new(0), unanswered: watch::Sender::new(0) }
    }
}

/// The share of the limits that a request takes: one request, and its tokens. Its permits and its
/// queued and running passes keep it.
#[derive(Debug)]
pub(super) struct Reservation {
    requests: Arc<ModelRequests>,
    account: Account,
    /// Larger than that of every request admitted before.
    sequence: u64,
    /// Tokens that the device has yet to read, for later stages too.
    tokens: AtomicUsize,
    /// The part of them that later stages of a cascade read.
    later_tokens: AtomicUsize,
    /// The reservation of the whole request, if this one is for a later stage of it: it counts the
    /// request, and this one only tokens.
    request: Option<Arc<Reservation>>,
    /// Whether its batches count for the measured throughput. Those of a warm-up do not.
    pub is_measured: bool,
    /// Whether it runs only while the device has no other work. No limit counts it, and nothing
    /// waits for it.
    pub is_background: bool,
}

impl Reservation {
    /// For a request that admission control counts with `tokens` tokens. Call it under the lock of
    /// admission control, so that a starting shutdown either waits for this request or rejects it.
    pub fn new(requests: &Arc<ModelRequests>, account: Account, tokens: usize, is_measured: bool) -> Self {
        requests.in_flight.fetch_add(1, Ordering::Relaxed);
        let (requests, sequence) = (Arc::clone(requests), requests.admission.next_sequence());
        let (tokens, later_tokens) = (AtomicUsize::new(tokens), AtomicUsize::new(0));
        let is_background = false;
        Self { requests, account, sequence, tokens, later_tokens, request: None, is_measured, is_background }
    }

    /// For a later stage of a request, on another model or again on the same one. It has no tokens
    /// until the stage begins. Call it under the lock of admission control.
    pub fn for_stage(requests: &Arc<ModelRequests>, device: &Arc<str>, request: &Arc<Self>) -> Self {
        requests.in_flight.fetch_add(1, Ordering::Relaxed);
        let (tokens, later_tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let account = Account { device: Arc::clone(device), ..request.account.clone() };
        Self {
            requests: Arc::clone(requests),
            account,
            sequence: request.sequence,
            tokens,
            later_tokens,
            request: Some(Arc::clone(request)),
            is_measured: request.is_measured,
            is_background: false,
        }
    }

    /// For work that runs only while the device is free otherwise.
    pub fn in_background(requests: &Arc<ModelRequests>, account: Account) -> Self {
        let sequence = requests.admission.next_sequence();
        let (tokens, later_tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (requests, request) = (Arc::clone(requests), None);
        Self { requests, account, sequence, tokens, later_tokens, request, is_measured: false, is_background: true }
    }

    /// The permit of an unanswered request. Call it under the lock of admission control.
    pub fn into_permit(self) -> AdmissionPermit {
        if !self.is_background {
            self.requests.unanswered.send_modify(|requests| *requests += 1);
        }
        AdmissionPermit(Arc::new(UnansweredRequest { reservation: Arc::new(self) }))
    }

    /// Changes the tokens that the device has yet to read.
    pub fn update_tokens(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.requests.admission.state();
        let from = self.tokens.load(Ordering::Relaxed);
        let to = change(from);
        self.tokens.store(to, Ordering::Relaxed);
        if !self.is_background {
            state.in_flight.update(&self.account, from, to);
        }
    }

    /// Sets the tokens of this stage and of later ones. Together they count as at most the limit on
    /// all requests: an accepted request is not rejected because a later stage needs more.
    fn set_tokens(&self, own: usize, later: usize) {
        let limit = self.requests.admission.settings().max_queued_tokens;
        let later = later.min(limit.saturating_sub(own));
        self.later_tokens.store(later, Ordering::Relaxed);
        self.update_tokens(|_| own + later);
    }

    /// Tokens that the device reads before this request's own.
    pub fn tokens_ahead(&self) -> usize {
        let state = self.requests.admission.state();
        let tokens = self.tokens.load(Ordering::Relaxed);
        let own = tokens.saturating_sub(self.later_tokens.load(Ordering::Relaxed));
        state.in_flight.tokens_ahead(&self.account, tokens, own)
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn tag(&self) -> RequestTag {
        let Account { client, priority, .. } = &self.account;
        RequestTag { sequence: self.sequence, priority: *priority, client: client.clone() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_background {
            return;
        }
        let tokens = self.tokens.load(Ordering::Relaxed);
        let mut state = self.requests.admission.state();
        if self.request.is_some() {
            state.in_flight.update(&self.account, tokens, 0);
        } else {
            state.in_flight.release(&self.account, tokens);
        }
        drop(state);
        self.requests.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
