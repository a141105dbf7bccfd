//! One request and everything it holds: id, client, times, priority, span, timeline and permits.

mod permits;
mod request;
mod slot;
mod timeline;

pub use crate::schedule::Client;
pub use permits::MemoryPermit;
pub use request::{RequestContext, RequestId};
pub use slot::ContextSlot;
pub use timeline::{RankingSummary, RequestTimeline, Stage, StageTime, StageTimer};
