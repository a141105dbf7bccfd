//! Bodies that are not quite UTF-8 JSON: a byte order mark, UTF-16, other encodings, and escapes of
//! half a character.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{ParseError, quoted};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Stands for an unpaired surrogate while a body is parsed. U+FDD0 is a noncharacter: no text that
/// is meant for others contains it.
const PLACEHOLDER: char = '\u{fdd0}';
const PLACEHOLDER_ESCAPE: &[u8; 6] = b"\\ufdd0";

/// How many places warnings name.
const MAX_NAMED_PLACES: usize = 5;

/// A body as UTF-8, without a byte order mark, and a warning if it was UTF-16.
///
/// # Errors
/// The body is neither UTF-8 nor UTF-16. The message names the first field with an invalid byte.
pub(super) fn to_utf8(body: &[u8]) -> Result<(Cow<'_, [u8]>, Option<String>), ParseError> {
    if let [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [1..=u8::MAX, 0, 0, 0, ..] | [0, 0, 0, 1..=u8::MAX, ..] =
        body
    {
        let problem = "it is UTF-32; send it encoded as UTF-8".to_owned();
        return Err(ParseError::MalformedJson { problem });
    }
    if let Some(decoded) = decode_utf16(body) {
        let warning = "the body is UTF-16 and was read as such; JSON is sent as UTF-8".to_owned();
        return Ok((Cow::Owned(decoded?.into_bytes()), Some(warning)));
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if std::str::from_utf8(body).is_ok() {
        return Ok((Cow::Borrowed(body), None));
    }
    let body = escape_encoded_surrogates(body);
    match std::str::from_utf8(&body) {
        Ok(_) => Ok((body, None)),
        Err(error) => Err(not_utf8(&body, error.valid_up_to())),
    }
}

/// Writes surrogates that are encoded as if they were characters (three bytes, as Python's
/// `surrogatepass` and old Java libraries do) as escapes: pairs of them are characters.
fn escape_encoded_surrogates(body: &[u8]) -> Cow<'_, [u8]> {
    let is_surrogate = |bytes: &[u8]| matches!(bytes, [0xed, 0xa0..=0xbf, 0x80..=0xbf]);
    if !body.windows(3).any(is_surrogate) {
        return Cow::Borrowed(body);
    }
    let mut escaped = Vec::with_capacity(body.len() + body.len() / 8);
    let mut at = 0;
    while at < body.len() {
        match body.get(at..at + 3).filter(|bytes| is_surrogate(bytes)) {
            Some(bytes) => {
                let unit = 0xd000 | (u16::from(bytes[1] & 0x3f) << 6) | u16::from(bytes[2] & 0x3f);
                escaped.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                at += 3;
            }
            None => {
                escaped.push(body[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(escaped)
}

/// Reads a unit of UTF-16.
type ReadUnit = fn([u8; 2]) -> u16;

/// The text of a UTF-16 body, with or without a byte order mark; `None` if it is not UTF-16. JSON
/// begins with an ASCII character, so that one of the first two bytes is 0.
fn decode_utf16(body: &[u8]) -> Option<Result<String, ParseError>> {
    let (bytes, read): (&[u8], ReadUnit) = match body {
        [0xff, 0xfe, rest @ ..] => (rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => (rest, u16::from_be_bytes),
        [1..=u8::MAX, 0, ..] => (body, u16::from_le_bytes),
        [0, 1..=u8::MAX, ..] => (body, u16::from_be_bytes),
        _ => return None,
    };
    if bytes.len() % 2 != 0 {
        let problem = format!("it seems to be UTF-16, but has an odd number of bytes, {}", bytes.len());
        return Some(Err(ParseError::MalformedJson { problem }));
    }
    let units = bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
    let characters = char::decode_utf16(units).map(|unit| unit.unwrap_or(PLACEHOLDER));
    Some(Ok(characters.collect()))
}

fn not_utf8(body: &[u8], position: usize) -> ParseError {
    // The same body with a placeholder for each invalid sequence, to find the field.
    let readable = String::from_utf8_lossy(body).replace(char::REPLACEMENT_CHARACTER, &PLACEHOLDER.to_string());
    let place = serde_json::from_str::<Map<String, Value>>(&readable).ok().and_then(|mut values| {
        let mut places = Vec::new();
        values.iter_mut().for_each(|(name, value)| replace_placeholders(name, value, &mut places));
        places.into_iter().next()
    });
    let place = place.map_or_else(String::new, |place| format!(" in {place}"));
    let byte = body.get(position).copied().unwrap_or_default();
    let problem = format!("it is not UTF-8: byte 0x{byte:02x} at offset {position}{place}; send it encoded as UTF-8");
    ParseError::MalformedJson { problem }
}

/// Replaces each escape of an unpaired surrogate (`\ud83d` without a second half) by one of
/// [`PLACEHOLDER`], and says whether there was one.
pub(super) fn replace_unpaired_surrogates(body: Cow<'_, [u8]>) -> (Cow<'_, [u8]>, bool) {
    let mut unpaired = Vec::new();
    let mut at = 0;
    while let Some(offset) = body[at..].iter().position(|byte| *byte == b'\\') {
        at += offset;
        at += match (escaped_unit(&body, at), escaped_unit(&body, at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                unpaired.push(at);
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        if at >= body.len() {
            break;
        }
    }
    if unpaired.is_empty() {
        return (body, false);
    }
    let mut body = body.into_owned();
    for at in unpaired {
        body[at..at + 6].copy_from_slice(PLACEHOLDER_ESCAPE);
    }
    (Cow::Owned(body), true)
}

/// The UTF-16 unit of the escape `\uXXXX` at this position.
fn escaped_unit(body: &[u8], at: usize) -> Option<u16> {
    let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Replaces the placeholders in all fields by U+FFFD, and warns of each place.
pub(super) fn replace_in_fields(values: &mut Map<String, Value>) -> Vec<String> {
    let mut places = Vec::new();
    for (name, mut value) in std::mem::take(values) {
        let readable = name.replace(PLACEHOLDER, "\u{fffd}");
        if readable != name {
            places.push(format!("the name of the field {}", quoted(&readable)));
        }
        replace_placeholders(&readable, &mut value, &mut places);
        values.insert(readable, value);
    }
    let named = places.iter().take(MAX_NAMED_PLACES);
    let mut warnings: Vec<String> =
        named.map(|place| format!("{place}: half of a surrogate pair was replaced by U+FFFD")).collect();
    if let Some(more @ 1..) = places.len().checked_sub(MAX_NAMED_PLACES) {
        warnings.push(format!("half of a surrogate pair was replaced by U+FFFD in {more} more texts"));
    }
    warnings
}

fn replace_placeholders(place: &str, value: &mut Value, places: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(PLACEHOLDER) => {
            *text = text.replace(PLACEHOLDER, "\u{fffd}");
            places.push(place.to_owned());
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if !matches!(item, Value::String(text) if !text.contains(PLACEHOLDER)) {
                    replace_placeholders(&format!("{place}[{index}]"), item, places);
                }
            }
        }
        Value::Object(record) => {
            for (name, mut value) in std::mem::take(record) {
                let readable = name.replace(PLACEHOLDER, "\u{fffd}");
                let place = format!("{place}.{readable}");
                if readable != name {
                    places.push(place.clone());
                }
                replace_placeholders(&place, &mut value, places);
                record.insert(readable, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
