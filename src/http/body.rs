//! Reading a JSON body: what it claims to be, how long it is, how long it takes, whether there is room for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};

use super::Service;
use super::error::Failure;
use super::fields::Fields;
use super::intake::{Received, Room, values_in};

/// Bodies above this are parsed off the async threads.
const LONG_BODY_BYTES: usize = 64 * 1024;

/// A body that is too long is read, and thrown away, up to so many times the limit.
const DISCARDED_LIMITS: usize = 8;

/// The longest that the body of a refused request is read for.
const DISCARD_FOR: Duration = Duration::from_secs(5);

/// A JSON object from the body of a request.
pub struct JsonBody {
    /// Its fields.
    pub fields: Fields,
    /// When the body was there: the request's time counts from then.
    pub since: Instant,
    /// The room that the fields take up.
    pub room: Option<Room>,
}

impl FromRequest<Service> for JsonBody {
    type Rejection = Failure;

    async fn from_request(request: Request, service: &Service) -> Result<Self, Failure> {
        check_headers(request.headers())?;
        let (body, received) = read(request, service).await?;
        let since = Instant::now();
        if body.len() <= LONG_BODY_BYTES {
            return Ok(Self { fields: Fields::parse(&body)?, since, room: None });
        }
        // The room goes with the work: where the client leaves, it is free when the memory is.
        let (body, received, values) = aside(move || {
            let values = values_in(&body);
            (body, received, values)
        })
        .await?;
        let room = service.intake().room_for(body.len(), values).await?;
        let (fields, room) = aside(move || {
            let fields = Fields::parse(&body);
            drop((body, received));
            (fields, room)
        })
        .await?;
        Ok(Self { fields: fields?, since, room: Some(room) })
    }
}

/// Does work off the async threads.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::Panicked)
}

/// Anything but JSON is refused before it is read: also because a page in a browser can send a form anywhere, but
/// JSON only where it may.
fn check_headers(headers: &HeaderMap) -> Result<(), Failure> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = content_type.as_deref().and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let subtype = essence.to_ascii_lowercase().strip_prefix("application/").map(ToOwned::to_owned);
    if !subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json")) {
        return Err(Failure::NotJson { found: content_type.map(|value| super::fields::quoted(&value)) });
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Failure::EncodedBody { found: super::fields::quoted(&String::from_utf8_lossy(encoding.as_bytes())) })
        }
        _ => Ok(()),
    }
}

async fn read(request: Request, service: &Service) -> Result<(Vec<u8>, Received), Failure> {
    let settings = service.settings();
    let limit = settings.max_body_bytes;
    let headers = request.headers();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let waits_for_leave = headers.contains_key(header::EXPECT);
    if waits_for_leave && declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(Failure::BodyTooLarge { limit });
    }
    let timeout = settings.body_timeout();
    let received = service.intake().received();
    tokio::time::timeout(timeout, collect(request.into_body(), limit, received))
        .await
        .unwrap_or(Err(Failure::BodyTimeout { limit: timeout }))
}

/// The body, if it is within the limit. One that is not is read on for a while and thrown away: a client that is
/// still sending when the connection closes would see a broken connection instead of the answer.
async fn collect(mut body: Body, limit: usize, mut received: Received) -> Result<(Vec<u8>, Received), Failure> {
    let mut collected = Vec::new();
    let mut length = 0_usize;
    let mut refused = None;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame.map_err(|_| Failure::BodyIncomplete)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > limit {
            refused = Some(Failure::BodyTooLarge { limit });
        } else if refused.is_none()
            && length > LONG_BODY_BYTES
            && let Err(full) = received.grow(length)
        {
            refused = Some(full);
        }
        if refused.is_none() {
            collected.extend_from_slice(&data);
        } else {
            (collected, received) = (Vec::new(), received.given_back());
            if length > limit.saturating_mul(DISCARDED_LIMITS) {
                break;
            }
        }
    }
    refused.map_or(Ok((collected, received)), Err)
}

/// Reads on, in the background, what the client of a rejected request still sends, and drops it: a client that sends
/// everything before it reads would otherwise find a broken connection instead of its answer. Bounded in bytes
/// (`limit`) and in time ([`DISCARD_FOR`]). A client that waits for `100 Continue` is not told to send.
pub fn drain_body(request: Request, limit: usize) {
    if request.headers().contains_key(header::EXPECT) || request.body().is_end_stream() {
        return;
    }
    let mut body = request.into_body();
    let mut left = limit;
    tokio::spawn(tokio::time::timeout(DISCARD_FOR, async move {
        while let Some(data) = next_data(&mut body).await {
            let Some(rest) = left.checked_sub(data.len()) else { break };
            left = rest;
        }
    }));
}

/// The next piece of a body; nothing at its end, or where it breaks.
async fn next_data(body: &mut Body) -> Option<Bytes> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}
