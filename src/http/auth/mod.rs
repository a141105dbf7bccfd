//! Authentication: the layer that requires an API key and applies the key's rate limit.
//!
//! Without any key the server is open. The layer runs before every handler and rejects a request
//! before its body is read. [`Authenticator`] decides which routes need a key.

mod authenticator;
mod keys;
mod rate_limit;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

pub use authenticator::{Authenticator, Reloaded};
pub use keys::{Key, KeyError, KeySource};
pub(super) use rate_limit::{LIMIT, REMAINING, RESET};
pub use settings::AuthSettings;

use super::body::drain_body;
use super::error::ApiError;
use super::service::Service;
use crate::context::{Client, ContextSlot};
use keys::{KeyEntry, KeyTable};

/// Header that Pinecone and Azure use for a key.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// Header that most other gateways use for a key.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Passes a request on if its route needs no key, or if its key is valid and within its rate limit.
pub async fn authenticate(State(service): State<Service>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let Some(keys) = service.authenticator().keys_for(request.method(), route) else {
        return next.run(request).await;
    };
    let entry = match identify(&keys, request.headers()) {
        Ok(entry) => entry,
        Err(failure) => return reject(failure, request, &service),
    };
    if let Some(context) = request.extensions().get::<ContextSlot>() {
        context.set_client(Client::named(Arc::clone(&entry.name)));
    }
    let Some(limiter) = &entry.limiter else { return next.run(request).await };
    let status = limiter.try_acquire();
    let mut response = match status.retry_after {
        None => next.run(request).await,
        Some(wait) => reject(ApiError::RateLimited { limit: status.limit, wait }, request, &service),
    };
    status.write(response.headers_mut());
    response
}

/// The failure as a response. The path alone decides the shape of its body, in `access_log`.
fn reject(failure: ApiError, request: Request, service: &Service) -> Response {
    drain_body(request, service.settings().max_body_bytes);
    failure.into_response()
}

/// The entry of the request's key. Several headers may carry the key if they agree.
fn identify(keys: &KeyTable, headers: &HeaderMap) -> Result<KeyEntry, ApiError> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| token(value.as_bytes()));
    let plain = [API_KEY, X_API_KEY].map(|name| headers.get_all(name));
    let plain = plain.iter().flatten().map(|value| value.as_bytes().trim_ascii());
    let mut given = bearer.chain(plain).filter(|key| !key.is_empty());
    let is_unread = headers.contains_key(header::AUTHORIZATION);
    let key = given.next().ok_or(if is_unread { ApiError::UnreadAuthorization } else { ApiError::MissingApiKey })?;
    if given.any(|other| other != key) {
        return Err(ApiError::ConflictingApiKeys);
    }
    keys.find(key).cloned().ok_or(ApiError::InvalidApiKey)
}

/// The token after the scheme `Bearer`, or Elasticsearch's `ApiKey`, in upper or lower case.
fn token(value: &[u8]) -> Option<&[u8]> {
    [&b"bearer "[..], b"apikey "].into_iter().find_map(|known| {
        let (scheme, token) = value.split_at_checked(known.len())?;
        scheme.eq_ignore_ascii_case(known).then(|| token.trim_ascii())
    })
}
