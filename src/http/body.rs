//! Reading a JSON body: its content type and encoding, its length, the time it takes, and memory
//! for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, header};

use super::body_memory::{ReceivingPermit, count_values};
use super::connections::BodyReceived;
use super::decompress::{Encoding, decompress};
use super::error::ApiError;
use super::fields::Fields;
use super::off_thread::run_blocking;
use super::service::Service;
use crate::context::{Client, RequestContext};

/// Longer bodies are parsed off the async threads, and their memory is counted.
const LONG_BODY_BYTES: usize = 64 * 1024;

/// A body over the limit is read and discarded, up to this many times the limit.
const DRAINED_LIMITS: usize = 8;

/// The longest that the body of a rejected request is read for.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Reads the request's body, a JSON object, and passes its fields to `parse`.
///
/// The returned context holds a permit for the memory of the fields if the body is above 64 KiB.
/// Its `received_at` is the time at which the whole body had arrived.
///
/// # Errors
/// The content type or the body is not JSON, the body is too long or too slow, it cannot be
/// decompressed, or there is no memory for it.
pub async fn read_json<T: Send + 'static>(
    request: Request,
    service: &Service,
    mut context: RequestContext,
    parse: impl FnOnce(Fields) -> T + Send + 'static,
) -> Result<(RequestContext, T), ApiError> {
    check_content_type(request.headers())?;
    let encoding = Encoding::from_headers(request.headers())?;
    let received = request.extensions().get::<BodyReceived>().cloned();
    let (mut body, mut receiving) = receive(request, service, &context.client).await?;
    context.received_at = Instant::now();
    received.iter().for_each(BodyReceived::notify);
    if let Some(encoding) = encoding {
        let limit = service.settings().max_body_bytes;
        (body, receiving) = run_blocking(move || {
            let decompressed = decompress(encoding, &body, limit, &mut receiving);
            decompressed.map(|decompressed| (decompressed, receiving))
        })
        .await??;
    }
    if body.len() <= LONG_BODY_BYTES {
        return Ok((context, parse(Fields::parse(&body)?)));
    }
    // Permits move with the work: if the client disconnects, they are given back when the memory
    // is.
    let (context, body, receiving, values) = run_blocking(move || {
        let values = count_values(&body);
        (context, body, receiving, values)
    })
    .await?;
    let permit = service.body_memory().reserve_parsing(&context.client, body.len(), values).await?;
    let (context, parsed) = run_blocking(move || {
        let mut context = context;
        context.hold_body_memory(permit);
        let fields = Fields::parse(&body);
        drop((body, receiving));
        (context, fields.map(parse))
    })
    .await?;
    Ok((context, parsed?))
}

/// Refuses anything but JSON before it is read: also because a page in a browser can send a form to
/// any server, but JSON only where CORS allows it.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = content_type.as_deref().and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let subtype = essence.to_ascii_lowercase().strip_prefix("application/").map(ToOwned::to_owned);
    if !subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json")) {
        return Err(ApiError::NotJson { found: content_type.map(|value| super::fields::quoted(&value)) });
    }
    Ok(())
}

async fn receive(request: Request, service: &Service, client: &Client) -> Result<(Vec<u8>, ReceivingPermit), ApiError> {
    let settings = service.settings();
    let limit = settings.max_body_bytes;
    let headers = request.headers();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let expects_continue = headers.contains_key(header::EXPECT);
    if expects_continue && declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let timeout = settings.body_timeout();
    let permit = service.body_memory().start_receiving(client);
    tokio::time::timeout(timeout, collect(request.into_body(), limit, permit))
        .await
        .unwrap_or(Err(ApiError::BodyTimeout { limit: timeout }))
}

/// Collects the body if it is within the limit. A longer one is read on for a while and thrown
/// away: a client that is still sending when the connection closes would see a broken connection
/// instead of the response.
async fn collect(
    mut body: Body,
    limit: usize,
    mut permit: ReceivingPermit,
) -> Result<(Vec<u8>, ReceivingPermit), ApiError> {
    let mut collected = Vec::new();
    let mut length = 0_usize;
    let mut refused = None;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame.map_err(|_| ApiError::BodyIncomplete)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length > limit {
            refused = Some(ApiError::BodyTooLarge { limit });
        } else if refused.is_none()
            && length > LONG_BODY_BYTES
            && let Err(full) = permit.grow(length)
        {
            refused = Some(full);
        }
        if refused.is_none() {
            collected.extend_from_slice(&data);
        } else {
            collected = Vec::new();
            permit.release();
            if length > limit.saturating_mul(DRAINED_LIMITS) {
                break;
            }
        }
    }
    refused.map_or(Ok((collected, permit)), Err)
}

/// Reads on, in the background, what the client of a rejected request still sends, and drops it: a
/// client that sends everything before it reads would otherwise find a broken connection instead of
/// its response. Bounded in bytes (`limit`) and in time. A client that waits for `100 Continue`
/// does not get it.
pub fn drain_body(request: Request, limit: usize) {
    if request.headers().contains_key(header::EXPECT) || request.body().is_end_stream() {
        return;
    }
    let mut body = request.into_body();
    let mut left = limit;
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        while let Some(data) = next_data(&mut body).await {
            let Some(rest) = left.checked_sub(data.len()) else { break };
            left = rest;
        }
    }));
}

/// The next piece of a body; `None` at its end, or if the connection breaks.
async fn next_data(body: &mut Body) -> Option<Bytes> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}
