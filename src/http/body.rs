//! Reading a JSON body: what it claims to be, how long it is, how long it takes.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{HeaderMap, header};

use super::Service;
use super::error::Failure;
use super::fields::Fields;
use crate::rerank::RerankError;

/// Bodies above this are parsed off the async threads.
const LONG_BODY_BYTES: usize = 64 * 1024;

/// A JSON object from the body of a request.
pub struct JsonBody(pub Fields);

impl FromRequest<Service> for JsonBody {
    type Rejection = Failure;

    async fn from_request(request: Request, service: &Service) -> Result<Self, Failure> {
        check_headers(request.headers())?;
        let body = read(request, service).await?;
        let fields = if body.len() > LONG_BODY_BYTES {
            tokio::task::spawn_blocking(move || Fields::parse(&body)).await.map_err(RerankError::internal)?
        } else {
            Fields::parse(&body)
        };
        fields.map(Self)
    }
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

async fn read(mut request: Request, service: &Service) -> Result<Bytes, Failure> {
    let settings = service.settings();
    let limit = settings.max_body_bytes;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > limit as u64) {
        return Err(Failure::BodyTooLarge { limit });
    }
    DefaultBodyLimit::max(limit).apply(&mut request);
    match tokio::time::timeout(settings.body_timeout(), Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(Failure::BodyTooLarge { limit })
        }
        Ok(Err(_)) => Err(Failure::BodyIncomplete),
        Err(_) => Err(Failure::BodyTimeout { limit: settings.body_timeout() }),
    }
}
