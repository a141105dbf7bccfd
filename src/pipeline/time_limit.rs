//! The time limit of a request: its own or the server's, whichever is shorter.

use std::time::{Duration, Instant};

use crate::context::{RequestContext, RequestTimeline};
use crate::rerank::{RequestConstraints, RerankError};
use crate::schedule::ScheduleSettings;

/// The time after which a request fails.
pub(super) struct TimeLimit {
    limit: Duration,
    /// Whether the request set it, and not the server.
    is_own: bool,
    deadline: Instant,
    timeline: RequestTimeline,
}

impl TimeLimit {
    /// Sets deadline and priority in the context. `None` where nothing limits the time.
    pub fn begin(
        constraints: &RequestConstraints,
        schedule: &ScheduleSettings,
        context: &mut RequestContext,
    ) -> Option<Self> {
        context.priority = constraints.priority;
        let server_limit = schedule.timeout();
        let limit = [constraints.timeout, server_limit].into_iter().flatten().min()?;
        let is_own = server_limit.is_none_or(|server_limit| constraints.timeout.is_some_and(|own| own < server_limit));
        context.set_time_limit(limit);
        let timeline = context.timeline.clone();
        context.deadline.map(|deadline| Self { limit, is_own, deadline, timeline })
    }

    /// Runs `work` until the deadline, and drops it then.
    ///
    /// # Errors
    /// [`RerankError::DeadlineExceeded`], and the error of `work`.
    pub async fn run<T>(
        limit: Option<Self>,
        work: impl Future<Output = Result<T, RerankError>>,
    ) -> Result<T, RerankError> {
        let Some(Self { limit, is_own, deadline, timeline }) = limit else { return work.await };
        let done = tokio::time::timeout_at(deadline.into(), work).await;
        done.unwrap_or_else(|_elapsed| Err(RerankError::DeadlineExceeded { limit, done: timeline.progress(), is_own }))
    }
}
