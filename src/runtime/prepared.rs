//! A batch that is prepared before it runs.

use std::any::Any;
use std::fmt;

use super::ForwardPass;

/// A batch, and what the runtime computed of it before its run.
pub struct PreparedBatch {
    passes: Vec<ForwardPass>,
    /// The runtime's own; `None` if it computed nothing.
    layout: Option<Box<dyn Any + Send>>,
}

impl PreparedBatch {
    /// A batch of which nothing is computed yet.
    #[must_use]
    pub const fn new(passes: Vec<ForwardPass>) -> Self {
        Self { passes, layout: None }
    }

    /// A batch with what the runtime computed of it.
    #[must_use]
    pub fn with_layout<T: Any + Send>(passes: Vec<ForwardPass>, layout: T) -> Self {
        Self { passes, layout: Some(Box::new(layout)) }
    }

    /// The passes, in order.
    #[must_use]
    pub fn passes(&self) -> &[ForwardPass] {
        &self.passes
    }

    /// The passes, and what was computed of them if that is a `T`.
    #[must_use]
    pub fn into_parts<T: Any>(self) -> (Vec<ForwardPass>, Option<T>) {
        let layout = self.layout.and_then(|layout| layout.downcast().ok());
        (self.passes, layout.map(|layout| *layout))
    }
}

impl fmt::Debug for PreparedBatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_laid_out = self.layout.is_some();
        formatter
            .debug_struct("PreparedBatch")
            .field("passes", &self.passes.len())
            .field("layout", &is_laid_out)
            .finish()
    }
}
