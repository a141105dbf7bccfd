//! Recovery from a stage that cannot rank.

use std::error::Error as _;

use super::CascadeRun;
use crate::context::RequestContext;
use crate::rerank::{RerankError, SkipReason};

impl CascadeRun {
    /// Goes on after a stage that cannot rank: the order before it stands. If no stage has ranked
    /// yet, one does that was skipped because this stage was to decide the order.
    pub(super) async fn recover(
        &mut self,
        index: usize,
        error: RerankError,
        reason: SkipReason,
        context: &mut RequestContext,
    ) -> Result<(), RerankError> {
        if self.request.constraints.budget.strict || !is_stage_failure(&error) {
            return Err(error);
        }
        let label = self.stages[index].label();
        log_failure(&label, &error);
        self.skip(index, reason);
        if let Some(permit) = self.stages[index].ready.as_ref().ok().and_then(|ready| ready.permit.as_ref()) {
            permit.begin_stage(None, 0, 0);
        }
        let mut earlier = index;
        while self.ranked_by.is_none() && earlier > 0 {
            earlier -= 1;
            if self.stages[earlier].ready.is_err() {
                continue;
            }
            let budget = self.request.constraints.budget;
            if self.rank(earlier, self.candidates, budget, context).await.is_ok() {
                let number = self.stages[earlier].number;
                self.reports.retain(|report| report.stage != number || report.skipped.is_none());
                self.reports.sort_by_key(|report| report.stage);
            }
        }
        if self.ranked_by.is_none() && !self.has_scores {
            return Err(error);
        }
        self.warnings.push(format!("{label} did not rank: {error}; the order before it stands"));
        if self.ranked_by.is_none() {
            self.error.get_or_insert(error);
        }
        Ok(())
    }
}

/// Whether an error is the stage's and not the request's: the order before the stage may stand.
fn is_stage_failure(error: &RerankError) -> bool {
    match error {
        RerankError::ModelUnavailable { .. }
        | RerankError::PromptTooLong { .. }
        | RerankError::TooManyTokens { .. }
        | RerankError::TooLargeForDevice { .. }
        | RerankError::DeviceLost(_)
        | RerankError::Stalled { .. }
        | RerankError::Draining
        | RerankError::Overloaded { .. }
        | RerankError::Internal(_) => true,
        RerankError::InvalidField { .. }
        | RerankError::NoDocuments { .. }
        | RerankError::TooManyDocuments { .. }
        | RerankError::TooManyPassages { .. }
        | RerankError::TextTooLong { .. }
        | RerankError::UnknownModel { .. }
        | RerankError::UnsupportedMode { .. }
        | RerankError::OverBudget { .. }
        | RerankError::DeadlineExceeded { .. } => false,
    }
}

/// Logs why a stage did not rank. The reply has only the message, without the cause.
fn log_failure(label: &str, error: &RerankError) {
    // A panic's message may hold a client's text; the panic hook has logged the place.
    let source = error.source().filter(|source| !source.is::<tokio::task::JoinError>());
    let cause = source.map(ToString::to_string);
    tracing::warn!(stage = label, %error, cause, "a stage of a cascade did not rank");
}
