//! The client that a request is accounted to.

use std::sync::Arc;

/// A client, identified by the name of its API key. Requests without a key belong to one anonymous
/// client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(Option<Arc<str>>);

impl Client {
    /// The client of requests without an API key.
    #[must_use]
    pub const fn anonymous() -> Self {
        Self(None)
    }

    /// The client whose API key has this name.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }

    /// The name of its API key; `None` for the anonymous client.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl From<Option<Arc<str>>> for Client {
    fn from(name: Option<Arc<str>>) -> Self {
        Self(name)
    }
}
