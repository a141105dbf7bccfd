//! Where the server listens, and how patient it is with clients.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The listener (`[server]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port.
    pub listen: String,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// Memory that bodies may take while they arrive, and again what they may take while they are parsed.
    pub max_parsing_bytes: usize,
    /// How long the head of a request may take, and how long a connection may be idle between requests.
    pub header_timeout_seconds: u64,
    /// How long the body of a request may take.
    pub body_timeout_seconds: u64,
    /// How long a client may take nothing of an answer.
    pub write_timeout_seconds: u64,
    /// How long `/ready` fails before new requests are refused.
    pub drain_delay_seconds: u64,
    /// How long accepted requests may take to finish after that.
    pub shutdown_seconds: u64,
    /// Whether a field that no dialect knows is an error, not a warning.
    pub refuse_unknown_fields: bool,
    /// The origins whose pages may call the server, with commas between them; `*` is any, nothing is none.
    pub cors_origins: String,
}

impl ServerSettings {
    /// [`ServerSettings::header_timeout_seconds`] as a duration.
    #[must_use]
    pub const fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_seconds)
    }

    /// [`ServerSettings::body_timeout_seconds`] as a duration.
    #[must_use]
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    /// [`ServerSettings::write_timeout_seconds`] as a duration.
    #[must_use]
    pub const fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_seconds)
    }

    /// [`ServerSettings::drain_delay_seconds`] as a duration.
    #[must_use]
    pub const fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_seconds)
    }

    /// [`ServerSettings::shutdown_seconds`] as a duration.
    #[must_use]
    pub const fn shutdown_limit(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }
}
