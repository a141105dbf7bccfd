//! The permit for the memory that a request's body occupies.

use std::fmt::Debug;

/// A share of the memory for request bodies; given back when it is dropped.
#[derive(Debug)]
pub struct MemoryPermit(#[expect(dead_code, reason = "held for its Drop")] Box<dyn Debug + Send + Sync>);

impl MemoryPermit {
    /// A permit that holds `held`, whose drop gives the memory back.
    pub fn new(held: impl Debug + Send + Sync + 'static) -> Self {
        Self(Box::new(held))
    }
}
