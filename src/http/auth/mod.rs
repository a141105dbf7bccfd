//! Who may ask, and how often: API keys, where they come from, and the layer that asks for them.
//!
//! Without a key anywhere the server is open. The layer stands before every handler, and answers a request without a key
//! before its body is read. Which routes need no key is decided here; a new route needs one.

mod keys;
mod limits;
mod settings;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

pub use keys::{Key, KeyError, Place};
pub(super) use limits::{LIMIT, REMAINING, RESET};
pub use settings::AuthSettings;

use super::Service;
use super::body::drain_body;
use super::error::ApiError;
use keys::{Client, KeyRing};

use crate::context::ContextSlot;

/// Pinecone's and Azure's header for a key.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// The header for a key that most other gateways use.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What anyone may see: that the server lives, and how it is used. `/metrics` is decided by its setting.
const OPEN_ROUTES: [&str; 7] = ["/v1/cluster/auth", "/health", "/ready", "/ping", "/version", "/docs", "/openapi.json"];

/// What the paths for administrators begin with.
const ADMINISTRATION: &str = "/admin/";

/// How often the keys file is looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(3);

/// Knows the keys.
pub struct Authenticator {
    file: Option<PathBuf>,
    protect_metrics: bool,
    /// Keys that are not from the file.
    given: Vec<Key>,
    ring: RwLock<Arc<KeyRing>>,
    /// Held while the file is read, so that two readers cannot cross.
    in_effect: Mutex<InEffect>,
    /// Knows the administrators' keys, where there are any.
    administrators: Option<Box<Authenticator>>,
}

/// What the ring was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InEffect {
    /// The SHA-256 of the file.
    digest: Option<[u8; 32]>,
    /// The limit of keys that have none of their own.
    requests_per_minute: u32,
}

/// What reading the keys file again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// It holds what it held, or there is none.
    Unchanged,
    /// There are now so many keys, those that are not from the file included.
    Keys(usize),
}

impl Authenticator {
    /// Takes the keys that were `given` on the command line or in the environment, and those of the settings' file.
    ///
    /// # Errors
    /// A file that cannot be read or holds no key, a line that is not taken, a key given twice.
    pub fn new(settings: &AuthSettings, given: Vec<Key>) -> Result<Self, KeyError> {
        let administrators = (!settings.admin_keys_file.is_empty()).then(|| {
            let keys_file = settings.admin_keys_file.clone();
            let own = AuthSettings {
                keys_file,
                requests_per_minute: 0,
                protect_metrics: false,
                admin_keys_file: String::new(),
            };
            Self::new(&own, Vec::new()).map(Box::new)
        });
        let requests_per_minute = settings.requests_per_minute;
        let authenticator = Self {
            file: (!settings.keys_file.is_empty()).then(|| PathBuf::from(&settings.keys_file)),
            protect_metrics: settings.protect_metrics,
            ring: RwLock::new(Arc::new(KeyRing::new(&given, requests_per_minute, &KeyRing::default())?)),
            given,
            in_effect: Mutex::new(InEffect { digest: None, requests_per_minute }),
            administrators: administrators.transpose()?,
        };
        authenticator.reload()?;
        Ok(authenticator)
    }

    /// How many keys there are now; without any, everyone may ask.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.ring().len()
    }

    /// The file that keys are read from.
    #[must_use]
    pub fn keys_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the keys file again. What is wrong with it is said, and changes nothing; a key that stays with the same
    /// limit keeps what it has used. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub fn reload(&self) -> Result<Reloaded, KeyError> {
        self.reload_with(None)
    }

    /// [`Authenticator::reload`], with another limit for keys that have none of their own.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub fn reload_with(&self, requests_per_minute: Option<u32>) -> Result<Reloaded, KeyError> {
        let mut in_effect = self.in_effect.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = requests_per_minute.unwrap_or(in_effect.requests_per_minute);
        let found = self.read(*in_effect, limit)?;
        // The administrators' file is read last: where it is wrong, nothing has changed.
        let administrators = self.administrators.as_ref().map_or(Ok(Reloaded::Unchanged), |keys| keys.reload())?;
        match found {
            Some((ring, now)) => {
                let keys = ring.len();
                *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
                *in_effect = now;
                Ok(Reloaded::Keys(keys))
            }
            None if administrators != Reloaded::Unchanged => Ok(Reloaded::Keys(self.key_count())),
            None => Ok(Reloaded::Unchanged),
        }
    }

    /// The ring of the file as it is, where that is not the one in effect.
    fn read(&self, in_effect: InEffect, requests_per_minute: u32) -> Result<Option<(KeyRing, InEffect)>, KeyError> {
        let mut keys = self.given.clone();
        let mut digest = None;
        if let Some(path) = &self.file {
            let content = std::fs::read(path).map_err(|source| KeyError::File { path: path.clone(), source })?;
            digest = Some(Sha256::digest(&content).into());
            if in_effect != (InEffect { digest, requests_per_minute }) {
                keys.extend(Key::parse_file(&content, path)?);
            }
        }
        let now = InEffect { digest, requests_per_minute };
        if in_effect == now {
            return Ok(None);
        }
        Ok(Some((KeyRing::new(&keys, requests_per_minute, &self.ring())?, now)))
    }

    /// Looks at the keys file every few seconds, for good. It is read rather than watched: a mounted secret changes by
    /// a link somewhere above it. The same problem is logged once.
    pub async fn watch(self: Arc<Self>) {
        let mut last_problem = None;
        while self.file.is_some() || self.administrators.is_some() {
            tokio::time::sleep(RELOAD_EVERY).await;
            let problem = match Arc::clone(&self).reload_aside().await {
                Ok(Reloaded::Unchanged) => None,
                Ok(Reloaded::Keys(keys)) => {
                    log_keys(keys);
                    None
                }
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem.as_deref().filter(|problem| last_problem.as_deref() != Some(*problem)) {
                log_problem(problem);
            }
            last_problem = problem;
        }
    }

    /// [`Authenticator::reload`] off the async threads, its error as the text that is logged.
    async fn reload_aside(self: Arc<Self>) -> Result<Reloaded, String> {
        let reloading = tokio::task::spawn_blocking(move || self.reload());
        match reloading.await {
            Ok(reloaded) => reloaded.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
            Err(_panicked) => Err("reading the keys file panicked".to_owned()),
        }
    }

    /// Whether there are administrators, and so routes for them.
    pub(super) fn has_administrators(&self) -> bool {
        self.administrators.is_some()
    }

    /// The keys that open this route; none where it needs no key.
    fn ring_for(&self, method: &Method, route: Option<&str>) -> Option<Arc<KeyRing>> {
        if route.is_some_and(|route| route.starts_with(ADMINISTRATION)) {
            // Without administrators there is no such route; if there were one, nobody could enter.
            return Some(self.administrators.as_ref().map(|keys| keys.ring()).unwrap_or_default());
        }
        Some(self.ring()).filter(|ring| !ring.is_empty() && self.protects(method, route))
    }

    /// Whether there is any key, so that clients need one.
    pub(super) fn has_keys(&self) -> bool {
        !self.ring().is_empty()
    }

    fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this route needs a key. What is no route needs none: its 404 says nothing that `GET /` does not. The
    /// root is open to readers only: `POST /` ranks.
    fn protects(&self, method: &Method, route: Option<&str>) -> bool {
        match route {
            None => false,
            Some("/metrics") => self.protect_metrics,
            Some("/") => !matches!(*method, Method::GET | Method::HEAD),
            Some(route) => !OPEN_ROUTES.contains(&route) && !route.starts_with("/docs/"),
        }
    }
}

fn log_keys(keys: usize) {
    tracing::info!(keys, "the keys file was read again");
}

fn log_problem(problem: &str) {
    tracing::warn!(problem, "the keys file is not taken: the keys from before stay in effect");
}

/// Lets a request pass if its key opens the door and has something left of its limit.
pub async fn authenticate(State(service): State<Service>, request: Request, next: Next) -> Response {
    let authenticator = service.authenticator();
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let Some(ring) = authenticator.ring_for(request.method(), route) else { return next.run(request).await };
    let client = match identify(&ring, request.headers()) {
        Ok(client) => client,
        Err(failure) => return reject(failure, request, &service),
    };
    if let Some(context) = request.extensions().get::<ContextSlot>() {
        context.set_client(crate::context::Client::named(Arc::clone(&client.name)));
    }
    let Some(bucket) = &client.bucket else { return next.run(request).await };
    let standing = bucket.take(Instant::now());
    let mut response = match standing.wait {
        None => next.run(request).await,
        Some(wait) => reject(ApiError::RateLimited { limit: standing.limit, wait }, request, &service),
    };
    standing.write(response.headers_mut());
    response
}

/// The failure as a response. The path alone decides the shape of its body, in `access_log`.
fn reject(failure: ApiError, request: Request, service: &Service) -> Response {
    drain_body(request, service.settings().max_body_bytes);
    failure.into_response()
}

fn identify(ring: &KeyRing, headers: &HeaderMap) -> Result<Client, ApiError> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| bearer_token(value.as_bytes()));
    let plain = [API_KEY, X_API_KEY].map(|name| headers.get_all(name));
    let plain = plain.iter().flatten().map(|value| value.as_bytes().trim_ascii());
    let mut keys = bearer.chain(plain).filter(|key| !key.is_empty());
    let key = keys.next().ok_or(ApiError::MissingApiKey)?;
    if keys.any(|other| other != key) {
        return Err(ApiError::ConflictingApiKeys);
    }
    ring.find(key).cloned().ok_or(ApiError::InvalidApiKey)
}

/// What follows the scheme `Bearer`, however that is written.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
