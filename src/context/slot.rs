//! The one extension of an HTTP request: its handler takes the [`RequestContext`] out of it.

use std::sync::{Arc, Mutex, PoisonError};

use super::request::RequestContext;
use crate::schedule::Client;

/// Holds a request's context between the middleware that makes it and the handler that owns it.
///
/// Request extensions must be cloneable and a context must not be: clones of the slot share it.
#[derive(Debug, Clone)]
pub struct ContextSlot(Arc<Mutex<Option<RequestContext>>>);

impl ContextSlot {
    /// A slot that holds `context`.
    #[must_use]
    pub fn new(context: RequestContext) -> Self {
        Self(Arc::new(Mutex::new(Some(context))))
    }

    /// Sets the client, unless a handler has taken the context.
    pub fn set_client(&self, client: Client) {
        if let Some(context) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            context.set_client(client);
        }
    }

    /// Takes the context; `None` after the first call.
    #[must_use]
    pub fn take(&self) -> Option<RequestContext> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
