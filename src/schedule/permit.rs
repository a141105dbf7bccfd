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
        self.0.reservation.update_tokens(|_| tokens);
        Ok(())
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
        self.reservation.requests.unanswered.send_modify(|requests| *requests -= 1);
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
    tokens: AtomicUsize,
    /// Whether its batches count for the measured throughput. Those of a warm-up do not.
    pub is_measured: bool,
}

impl Reservation {
    /// For a request that admission control counts with `tokens` tokens. Call it under the lock of
    /// admission control, so that a starting shutdown either waits for this request or rejects it.
    pub fn new(requests: &Arc<ModelRequests>, account: Account, tokens: usize, is_measured: bool) -> Self {
        requests.in_flight.fetch_add(1, Ordering::Relaxed);
        let (requests, sequence) = (Arc::clone(requests), requests.admission.next_sequence());
        Self { requests, account, sequence, tokens: AtomicUsize::new(tokens), is_measured }
    }

    /// The permit of an unanswered request. Call it under the lock of admission control.
    pub fn into_permit(self) -> AdmissionPermit {
        self.requests.unanswered.send_modify(|requests| *requests += 1);
        AdmissionPermit(Arc::new(UnansweredRequest { reservation: Arc::new(self) }))
    }

    /// Changes the tokens that the device has yet to read.
    pub fn update_tokens(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.requests.admission.state();
        let from = self.tokens.load(Ordering::Relaxed);
        let to = change(from);
        self.tokens.store(to, Ordering::Relaxed);
        state.in_flight.update(&self.account, from, to);
    }

    /// Tokens that the device reads before this request's own.
    pub fn tokens_ahead(&self) -> usize {
        let state = self.requests.admission.state();
        let tokens = self.tokens.load(Ordering::Relaxed);
        state.in_flight.tokens_ahead(&self.account, tokens, tokens)
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
        let tokens = self.tokens.load(Ordering::Relaxed);
        self.requests.admission.state().in_flight.release(&self.account, tokens);
        self.requests.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
