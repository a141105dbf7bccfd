//! The `[server]` section of the configuration: the listener and its limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The listener and its limits (`[server]` in the configuration).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port.
    pub listen: String,
    /// The longest request body, in bytes.
    pub max_body_bytes: usize,
    /// Bytes of memory for bodies that arrive, and as many again for bodies that are parsed or
    /// echoed.
    pub max_parsing_bytes: usize,
    /// The most connections at a time; further clients wait.
    pub max_connections: usize,
    /// The most seconds for the head of a request, and between two requests on a connection.
    pub header_timeout_seconds: u64,
    /// The most seconds for the body of a request.
    pub body_timeout_seconds: u64,
    /// The most seconds in which a client reads nothing of its response.
    pub write_timeout_seconds: u64,
    /// Seconds from the failure of `/ready` until new requests are refused.
    pub drain_delay_seconds: u64,
    /// The most seconds for accepted requests to finish after that.
    pub shutdown_seconds: u64,
    /// Whether an unknown field in a request is an error; otherwise it is a warning.
    pub refuse_unknown_fields: bool,
    /// The path under which a proxy shows the server, such as `/rerankers`; empty is none.
    pub path_prefix: String,
    /// Origins whose pages may call the server, separated by commas; `*` is any, empty is none.
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
