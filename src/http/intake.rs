//! Room for bodies: how much memory they may take while they arrive, and while they are parsed.
//!
//! Both are counted in bytes, each up to `server.max_parsing_bytes`. A body that arrives takes room as its bytes come, so
//! that a client which only announces a long body takes none; where there is none left it is refused at once, because
//! nobody can say when a client will have sent the rest. Parsing takes its room as a whole, before it begins: by the
//! length of the body, and for every value in it what the parser makes of one, which is many times its text where values
//! are short. It takes well under a second, so a body waits for a moment before it is refused.
//!
//! Bodies up to 64 KiB take no room: connections bound them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Failure;

/// What one permit stands for.
const UNIT_BYTES: usize = 1024;

/// Memory for each value: it, and the spare room of the list it is in.
const VALUE_BYTES: usize = 2 * size_of::<Value>();

/// Copies that are made of the body's text: the parser's and the request's.
const COPIES: usize = 2;

/// How long a body waits for room to be parsed in.
const PATIENCE: Duration = Duration::from_secs(2);

/// The room there is.
#[derive(Debug)]
pub struct Intake {
    receiving: Arc<Semaphore>,
    parsing: Arc<Semaphore>,
    limit: usize,
    patience: Duration,
}

/// The room of a body that arrives.
#[derive(Debug)]
pub struct Received {
    receiving: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
    limit: usize,
}

/// The room of what a body is parsed into.
#[derive(Debug)]
pub struct Room(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit);

impl Intake {
    /// Room of so many bytes, twice.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let room = || Arc::new(Semaphore::new((limit / UNIT_BYTES).min(Semaphore::MAX_PERMITS)));
        Self { receiving: room(), parsing: room(), limit, patience: PATIENCE }
    }

    /// The room of a body of which nothing has arrived.
    #[must_use]
    pub fn received(&self) -> Received {
        Received { receiving: Arc::clone(&self.receiving), taken: None, limit: self.limit }
    }

    /// Room to parse a body of so many bytes and values in.
    ///
    /// # Errors
    /// [`Failure::BodyTooComplex`] when it never fits, [`Failure::IntakeFull`] when it does not fit now.
    pub async fn room_for(&self, length: usize, values: usize) -> Result<Room, Failure> {
        let (bytes, limit) = (COPIES * length + VALUE_BYTES * values, self.limit);
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).ok().filter(|_| bytes <= limit);
        let units = units.ok_or(Failure::BodyTooComplex { values, bytes, limit })?;
        let waiting = Arc::clone(&self.parsing).acquire_many_owned(units);
        match tokio::time::timeout(self.patience, waiting).await {
            Ok(Ok(permit)) => Ok(Room(permit)),
            Ok(Err(_)) | Err(_) => Err(Failure::IntakeFull { stage: "parsed", limit }),
        }
    }
}

impl Received {
    /// Takes room up to so many bytes in all.
    ///
    /// # Errors
    /// [`Failure::IntakeFull`].
    pub fn grow(&mut self, length: usize) -> Result<(), Failure> {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = length.div_ceil(UNIT_BYTES).saturating_sub(taken);
        let full = || Failure::IntakeFull { stage: "received", limit: self.limit };
        let missing = u32::try_from(missing).map_err(|_| full())?;
        let more = Arc::clone(&self.receiving).try_acquire_many_owned(missing).map_err(|_| full())?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// The same without its room.
    #[must_use]
    pub fn given_back(self) -> Self {
        Self { taken: None, ..self }
    }
}

/// How many values a JSON text holds, about, names of fields not counted: the whole, and one for each opening bracket and
/// comma. One pass over the bytes; of a text that is not JSON it counts something.
#[must_use]
pub fn values_in(body: &[u8]) -> usize {
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

    #[test]
    fn values_are_counted_outside_strings() {
        for (json, values) in [("1", 1), (r#""a,b[{\",""#, 1), ("[1,2,3]", 4), (r#"{"a":[{},"\\",","],"b":1}"#, 6)] {
            assert!(values_in(json.as_bytes()) >= values, "{json}");
            assert!(values_in(json.as_bytes()) <= values + 2, "{json}");
        }
    }

    #[tokio::test]
    async fn room_is_taken_as_bytes_come_and_given_back() {
        let intake = Intake::new(10 * UNIT_BYTES);
        let mut one = intake.received();
        one.grow(UNIT_BYTES).unwrap();
        one.grow(6 * UNIT_BYTES).unwrap();
        let mut other = intake.received();
        other.grow(4 * UNIT_BYTES).unwrap();
        assert!(matches!(other.grow(4 * UNIT_BYTES + 1), Err(Failure::IntakeFull { stage: "received", .. })));
        drop(one);
        other.grow(10 * UNIT_BYTES).unwrap();
        let _given_back = other.given_back();
        intake.received().grow(10 * UNIT_BYTES).unwrap();
    }

    #[tokio::test]
    async fn a_body_waits_for_room_to_be_parsed_in_but_not_for_ever() {
        let intake = Intake::new(1 << 20);
        let room = intake.room_for(1 << 19, 0).await.unwrap();
        let (waited, ()) = tokio::join!(intake.room_for(2000, 0), async { drop(room) });
        assert!(waited.is_ok());
        drop(waited);
        let hurried = Intake { patience: Duration::ZERO, ..intake };
        let _room = hurried.room_for(1 << 19, 0).await.unwrap();
        assert!(matches!(hurried.room_for(2000, 0).await, Err(Failure::IntakeFull { stage: "parsed", .. })));
    }

    #[tokio::test]
    async fn a_body_of_many_small_values_is_refused_where_its_length_is_not() {
        let intake = Intake::new(1 << 20);
        let many = (1 << 20) / VALUE_BYTES + 1;
        let refused = intake.room_for(2 * many, many).await.unwrap_err();
        assert!(matches!(refused, Failure::BodyTooComplex { values, limit: 1_048_576, .. } if values == many));
        assert!(intake.room_for(2 * many, 1).await.is_ok());
    }
}
