//! Compressed request bodies: gzip and zstd.
//!
//! The limit on a body's length and the count of its memory apply to the decompressed bytes too, as
//! they come, so that a small body that decompresses to a huge one is refused early.

use std::io::{self, Read};

use axum::http::{HeaderMap, header};
use flate2::read::MultiGzDecoder;

use super::body_memory::ReceivingPermit;
use super::error::ApiError;
use super::fields::quoted;

/// The largest window of a zstd frame, as a power of 2: 8 MiB, which RFC 9659 sets for HTTP.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How many bytes are decompressed between two checks of the limits.
const PIECE_BYTES: usize = 64 * 1024;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// The encoding that the headers name; `None` for a body that is not compressed.
    ///
    /// # Errors
    /// [`ApiError::EncodedBody`] for any other encoding, and for several.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let named = headers.get_all(header::CONTENT_ENCODING).iter();
        let named = named.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase());
        let named: Vec<String> = named.filter(|name| !matches!(name.as_str(), "" | "identity")).collect();
        match named.join(", ").as_str() {
            "" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            other => Err(ApiError::EncodedBody { found: quoted(other) }),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Decompresses a body to at most `limit` bytes. `permit` grows to the bytes of both.
///
/// # Errors
/// [`ApiError::InvalidEncoding`], [`ApiError::DecompressedBodyTooLarge`],
/// [`ApiError::BodyMemoryFull`], [`ApiError::BodyMemoryShare`].
pub fn decompress(
    encoding: Encoding,
    body: &[u8],
    limit: usize,
    permit: &mut ReceivingPermit,
) -> Result<Vec<u8>, ApiError> {
    let invalid =
        |error: io::Error| ApiError::InvalidEncoding { encoding: encoding.name(), problem: error.to_string() };
    let mut reader: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(MultiGzDecoder::new(body)),
        Encoding::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(body).map_err(invalid)?;
            reader.window_log_max(ZSTD_WINDOW_LOG).map_err(invalid)?;
            Box::new(reader)
        }
    };
    let mut decompressed = Vec::new();
    loop {
        let read = reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut decompressed).map_err(invalid)?;
        if decompressed.len() > limit {
            return Err(ApiError::DecompressedBodyTooLarge { limit });
        }
        if read == 0 {
            return Ok(decompressed);
        }
        permit.grow(body.len().saturating_add(decompressed.len()))?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::body_memory::BodyMemoryLimit;
    use super::*;
    use crate::context::Client;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read(encoding: Encoding, body: &[u8], limit: usize) -> Result<Vec<u8>, ApiError> {
        decompress(encoding, body, limit, &mut BodyMemoryLimit::new(1 << 20).start_receiving(&Client::anonymous()))
    }

    #[test]
    fn a_body_of_several_members_is_read_whole() {
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(Encoding::Gzip, &two, 100).unwrap(), b"one two");
        let two = [zstd::encode_all(&b"one "[..], 1).unwrap(), zstd::encode_all(&b"two"[..], 1).unwrap()].concat();
        assert_eq!(read(Encoding::Zstd, &two, 100).unwrap(), b"one two");
    }

    #[test]
    fn decompressed_bytes_are_limited_and_counted() {
        let zeros = vec![b' '; 4 << 20];
        for (encoding, body) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd::encode_all(&zeros[..], 1).unwrap())]
        {
            assert!(body.len() < 64 * 1024);
            let refused = read(encoding, &body, 300_000).unwrap_err();
            assert!(matches!(refused, ApiError::DecompressedBodyTooLarge { limit: 300_000 }), "{refused}");
            let refused = read(encoding, &body, usize::MAX).unwrap_err();
            assert!(matches!(refused, ApiError::BodyMemoryFull { stage: "received", .. }), "{refused}");
        }
    }

    #[test]
    fn what_is_not_compressed_so_is_refused() {
        let whole = gzip(b"{}");
        for (encoding, body) in [
            (Encoding::Gzip, &b"{}"[..]),
            (Encoding::Gzip, &whole[..whole.len() - 3]),
            (Encoding::Gzip, b""),
            (Encoding::Zstd, b"{}"),
            (Encoding::Zstd, &whole),
        ] {
            let refused = read(encoding, body, 100).unwrap_err();
            assert!(matches!(refused, ApiError::InvalidEncoding { .. }), "{refused}");
        }
    }
}
