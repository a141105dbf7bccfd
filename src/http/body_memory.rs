//! Memory for request bodies: how many bytes they may occupy while they arrive, and from parsing
//! until their texts are tokenized or echoed.
//!
//! Each of the two is limited to `server.max_parsing_bytes`. A body that arrives takes memory as
//! its bytes come, so a client that only announces a long body takes none; if none is left, the
//! body is refused at once, because the client may take long to send the rest. Parsing reserves all
//! its memory before it begins: twice the length of the body, and a fixed size for each value in
//! it, because a parsed short value takes many times the memory of its text. A request keeps the
//! reservation until its texts are tokenized, and until its response is sent if that holds its
//! documents. The wait is short: a text is tokenized only as far as the model reads it.
//!
//! An API key holds at most as much of each as it leaves free for others; see [`MemoryPool`].
//!
//! Bodies up to 64 KiB are not counted: the number of connections limits them.

use std::time::Duration;

use serde_json::Value;

use super::error::ApiError;
use super::memory_pool::{MemoryExceeded, MemoryPool, PoolPermit};
use crate::context::{Client, MemoryPermit};

/// Memory for each value: the value itself, and the spare capacity of the list that holds it.
const VALUE_BYTES: usize = 2 * size_of::<Value>();

/// Copies of the body's text: the parser's and the request's; later the request's and that of a
/// cascade's stage; or the documents' and the response's.
const COPIES: usize = 2;

/// How long a body waits for memory to be parsed in.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The memory for the bodies of all requests.
#[derive(Debug)]
pub struct BodyMemoryLimit {
    receiving: MemoryPool,
    parsing: MemoryPool,
    limit: usize,
    max_wait: Duration,
}

/// The memory of a body that is arriving. It grows with the body, and is given back when it is
/// dropped.
#[derive(Debug)]
pub struct ReceivingPermit {
    held: PoolPermit,
    limit: usize,
}

impl BodyMemoryLimit {
    /// `limit` bytes for bodies that arrive, and as much for bodies that are parsed.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { receiving: MemoryPool::new(limit), parsing: MemoryPool::new(limit), limit, max_wait: MAX_WAIT }
    }

    /// The permit of a body of which nothing has arrived.
    #[must_use]
    pub fn start_receiving(&self, client: &Client) -> ReceivingPermit {
        ReceivingPermit { held: self.receiving.empty_permit(client), limit: self.limit }
    }

    /// Memory to parse a body of `length` bytes that holds `values` JSON values.
    ///
    /// # Errors
    /// [`ApiError::BodyTooComplex`] if it never fits, [`ApiError::BodyMemoryFull`] or
    /// [`ApiError::BodyMemoryShare`] if it does not fit now.
    pub async fn reserve_parsing(
        &self,
        client: &Client,
        length: usize,
        values: usize,
    ) -> Result<MemoryPermit, ApiError> {
        let (bytes, limit) = (COPIES * length + VALUE_BYTES * values, self.limit);
        if bytes > limit {
            return Err(ApiError::BodyTooComplex { values, bytes, limit });
        }
        let permit = self.parsing.acquire(client, bytes, self.max_wait).await;
        permit.map(MemoryPermit::new).map_err(|exceeded| into_api_error(exceeded, "parsed", limit))
    }
}

impl ReceivingPermit {
    /// Takes memory up to `length` bytes in all.
    ///
    /// # Errors
    /// [`ApiError::BodyMemoryFull`], [`ApiError::BodyMemoryShare`].
    pub fn grow(&mut self, length: usize) -> Result<(), ApiError> {
        self.held.grow(length).map_err(|exceeded| into_api_error(exceeded, "received", self.limit))
    }

    /// Gives all memory back.
    pub fn release(&mut self) {
        self.held.release();
    }
}

const fn into_api_error(exceeded: MemoryExceeded, stage: &'static str, limit: usize) -> ApiError {
    match exceeded {
        MemoryExceeded::Total => ApiError::BodyMemoryFull { stage, limit },
        MemoryExceeded::Share(held) => ApiError::BodyMemoryShare { stage, held },
    }
}

/// About how many values a JSON text holds, names of fields not counted: the whole, and one for
/// each opening bracket and comma. One pass over the bytes.
#[must_use]
pub fn count_values(body: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in body {
        if in_string {
            if escaped {
                escaped = false;
            } else {
                escaped = *byte == b'\\';
                in_string = *byte != b'"';
            }
        } else {
            in_string = *byte == b'"';
            values += usize::from(matches!(byte, b',' | b'[' | b'{'));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn values_are_counted_outside_strings() {
        for (json, values) in [("1", 1), (r#""a,b[{\",""#, 1), ("[1,2,3]", 4), (r#"{"a":[{},"\\",","],"b":1}"#, 6)] {
            assert!(count_values(json.as_bytes()) >= values, "{json}");
            assert!(count_values(json.as_bytes()) <= values + 2, "{json}");
        }
    }

    #[tokio::test]
    async fn memory_is_taken_as_bytes_arrive_and_given_back() {
        let memory = BodyMemoryLimit::new(10 * KIB);
        let mut one = memory.start_receiving(&Client::anonymous());
        one.grow(KIB).unwrap();
        one.grow(6 * KIB).unwrap();
        let mut other = memory.start_receiving(&Client::anonymous());
        other.grow(4 * KIB).unwrap();
        assert!(matches!(other.grow(4 * KIB + 1), Err(ApiError::BodyMemoryFull { stage: "received", .. })));
        drop(one);
        other.grow(10 * KIB).unwrap();
        other.release();
        memory.start_receiving(&Client::anonymous()).grow(10 * KIB).unwrap();
    }

    #[tokio::test]
    async fn a_body_waits_for_memory_to_be_parsed_in_but_not_forever() {
        let (memory, client) = (BodyMemoryLimit::new(1 << 20), Client::anonymous());
        let permit = memory.reserve_parsing(&client, 1 << 19, 0).await.unwrap();
        let (waited, ()) = tokio::join!(memory.reserve_parsing(&client, 2000, 0), async { drop(permit) });
        assert!(waited.is_ok());
        drop(waited);
        let hurried = BodyMemoryLimit { max_wait: Duration::ZERO, ..memory };
        let _permit = hurried.reserve_parsing(&Client::anonymous(), 1 << 19, 0).await.unwrap();
        assert!(matches!(
            hurried.reserve_parsing(&Client::anonymous(), 2000, 0).await,
            Err(ApiError::BodyMemoryFull { stage: "parsed", .. })
        ));
    }

    #[tokio::test]
    async fn a_body_of_many_small_values_is_refused_where_its_length_is_not() {
        let memory = BodyMemoryLimit::new(1 << 20);
        let many = (1 << 20) / VALUE_BYTES + 1;
        let refused = memory.reserve_parsing(&Client::anonymous(), 2 * many, many).await.unwrap_err();
        assert!(matches!(refused, ApiError::BodyTooComplex { values, limit: 1_048_576, .. } if values == many));
        assert!(memory.reserve_parsing(&Client::anonymous(), 2 * many, 1).await.is_ok());
    }
}
