//! The permit for the memory that a request's body occupies.

use tokio::sync::OwnedSemaphorePermit;

/// A share of the memory for request bodies; given back when it is dropped.
#[derive(Debug)]
pub struct MemoryPermit(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

impl From<OwnedSemaphorePermit> for MemoryPermit {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self(permit)
    }
}
