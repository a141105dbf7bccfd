//! [`RequestContext`]: the owner of everything that one request holds.
//!
//! The access-log middleware makes it. It moves by value through `http`, `models` and `pipeline`,
//! into every closure that runs on a blocking thread, and in the end into the bytes of the
//! response. It is dropped when the last of the request's work has ended, so a deadline or a client
//! that disconnects frees nothing that is still in use.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;

use super::permits::MemoryPermit;
use super::timeline::RequestTimeline;
use crate::schedule::{AdmissionPermit, Client};

/// The id of a request, as the response, the log and the traces show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// An id from text that was checked before: it goes into headers and log lines.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The owner of everything that one request holds.
#[derive(Debug)]
pub struct RequestContext {
    /// The id that the client sees.
    pub id: RequestId,
    /// Who sent the request.
    pub client: Client,
    /// When the whole body had arrived: limits on time count from here.
    pub received_at: Instant,
    /// When the request must be answered; `None` if nothing limits its time.
    pub deadline: Option<Instant>,
    /// How urgent the request is: 0 is the most urgent.
    pub priority: u16,
    /// The request's tracing span; the spans of its stages are children of it.
    pub span: Span,
    /// Stages, progress and result. The access-log middleware shares it and reads it when the
    /// request has ended.
    pub timeline: RequestTimeline,
    /// The bytes that the body's texts and the echoed documents occupy.
    body_memory: Option<Arc<MemoryPermit>>,
    /// Whether the response holds documents of the request.
    echoes_documents: bool,
    /// Counts the request and its tokens as in flight.
    admission: Option<AdmissionPermit>,
}

impl RequestContext {
    /// A request that arrives now, without a client, a deadline or permits.
    #[must_use]
    pub fn new(id: RequestId, span: Span) -> Self {
        Self {
            id,
            client: Client::default(),
            received_at: Instant::now(),
            deadline: None,
            priority: 0,
            timeline: RequestTimeline::new(span.clone()),
            span,
            body_memory: None,
            echoes_documents: false,
            admission: None,
        }
    }

    /// The context of work that no client asked for over HTTP: commands, warm-up, tests.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(RequestId::new("internal"), Span::none())
    }

    /// The same request for one stage of its work, after whose failure the request goes on. The
    /// spans of its work become children of `span`. Both keep what the request holds until the
    /// later of them is dropped.
    #[must_use]
    pub fn for_stage(&self, span: Span) -> Self {
        Self {
            id: self.id.clone(),
            client: self.client.clone(),
            received_at: self.received_at,
            deadline: self.deadline,
            priority: self.priority,
            timeline: self.timeline.in_span(span.clone()),
            span,
            body_memory: self.body_memory.clone(),
            echoes_documents: self.echoes_documents,
            admission: self.admission.clone(),
        }
    }

    /// Sets the client, in the timeline too.
    pub fn set_client(&mut self, client: Client) {
        self.timeline.note_client(&client);
        self.client = client;
    }

    /// Sets the deadline to `limit` after the body's arrival. A limit too large for `Instant` sets
    /// no deadline.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.deadline = self.received_at.checked_add(limit);
    }

    /// Keeps `permit` until the context is dropped or the permit released. It replaces an earlier
    /// one.
    pub fn hold_body_memory(&mut self, permit: MemoryPermit) {
        self.body_memory = Some(Arc::new(permit));
    }

    /// Keeps the body's memory until the context is dropped: the response holds documents of the
    /// request.
    pub fn keep_body_memory(&mut self) {
        self.echoes_documents = true;
    }

    /// Releases the body's memory, unless the response holds documents of the request. Call it once
    /// the texts are tokenized and freed: admission control bounds token ids.
    pub fn release_texts(&mut self) {
        if !self.echoes_documents {
            self.body_memory = None;
        }
    }

    /// Keeps `permit` until the context is dropped or the permit released.
    pub fn hold_admission(&mut self, permit: AdmissionPermit) {
        self.admission = Some(permit);
    }

    /// Releases the admission permit, once the ranking is done: writing the response uses no device
    /// time.
    pub fn release_admission(&mut self) {
        self.admission = None;
    }
}
