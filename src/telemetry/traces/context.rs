//! The trace that a caller has begun, as the W3C's Trace Context spells it (`traceparent`, `tracestate`).

use std::fmt;

/// The longest `tracestate` that is handed on; the recommendation's least.
const STATE_BYTES: usize = 512;

/// Where in which trace a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: [u8; 16],
    /// The span of the caller that asks.
    pub parent: [u8; 8],
    /// Whether the caller records the trace.
    pub sampled: bool,
    /// What the caller's own tools said beside that.
    pub state: String,
}

impl TraceContext {
    /// Reads the headers. One that breaks the rules is no context, as the recommendation has it; a version that is not
    /// known yet is read as far as this one goes.
    #[must_use]
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let mut parts = parent.trim().splitn(5, '-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = hex(version)?;
        let [flags] = hex(flags)?;
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, parent) = (hex(trace)?, hex(span)?);
        if trace == [0; 16] || parent == [0; 8] {
            return None;
        }
        let is_plain = |byte: u8| (0x20..0x7f).contains(&byte);
        let state = state.filter(|state| state.len() <= STATE_BYTES && state.bytes().all(is_plain));
        Some(Self { trace, parent, sampled: flags & 1 == 1, state: state.unwrap_or_default().to_owned() })
    }
}

/// So many bytes in lower-case hexadecimal digits, and nothing else.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != BYTES * 2 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, place) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
        *byte = u8::from_str_radix(&text[place..place + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
pub(crate) struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read() {
        let context = TraceContext::read(GIVEN, Some("vendor=1")).unwrap();
        assert_eq!(Hex(&context.trace).to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(Hex(&context.parent).to_string(), "00f067aa0ba902b7");
        assert!(context.sampled);
        assert_eq!(context.state, "vendor=1");
        assert!(!TraceContext::read(&GIVEN.replace("-01", "-00"), None).unwrap().sampled);
    }

    #[test]
    fn a_later_version_may_say_more_and_this_one_may_not() {
        assert!(TraceContext::read(&format!("cc{}-more", &GIVEN[2..]), None).is_some());
        assert_eq!(TraceContext::read(&format!("{GIVEN}-more"), None), None);
    }

    #[test]
    fn what_breaks_the_rules_is_no_context() {
        for broken in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47+6-00f067aa0ba902b7-01",
            "00-ä-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::read(broken, None), None, "{broken}");
        }
        let long = "a".repeat(STATE_BYTES + 1);
        for state in ["a\nb", long.as_str()] {
            assert_eq!(TraceContext::read(GIVEN, Some(state)).unwrap().state, "");
        }
    }
}
