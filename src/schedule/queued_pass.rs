//! A pass on its way from a request to the device and back.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::submission::Submission;
use crate::runtime::{ForwardPass, Output, RuntimeError};

/// The outcome of a pass.
pub(super) type PassResult = Result<Output, RuntimeError>;

/// A pass in the queue or on the device.
#[derive(Debug)]
pub(super) struct QueuedPass {
    pub pass: Arc<ForwardPass>,
    pub tokens: usize,
    pub submission: Arc<Submission>,
    pub reply: oneshot::Sender<PassResult>,
}

impl QueuedPass {
    /// Whether its request no longer waits for it.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Sends the result, unless the request no longer waits for it.
    pub fn reply(self, result: PassResult) {
        let Self { reply, submission, .. } = self;
        // Before the reply: a request that has its last result is no longer in flight.
        drop(submission);
        let _ = reply.send(result);
    }
}
