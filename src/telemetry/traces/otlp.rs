//! The messages of OTLP that Podium sends and reads, with the field numbers of `OpenTelemetry`'s protocol, version 1. What a
//! server of requests has no use for (events, links) is left out; a reader cannot tell.

/// What is sent to `/v1/traces`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceRequest {
    /// Spans, by who made them.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// What comes back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceResponse {
    /// Whether some were not wanted.
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// Spans that were not wanted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PartialSuccess {
    /// How many.
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
}

/// The spans of one service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// The service.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Spans, by the library that made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// `service.name` and others.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// The spans of one library.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The library.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    /// Its spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A library.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A piece of work.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// The caller's `tracestate`.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// 8 bytes, or none for a root.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What was done.
    #[prost(string, tag = "5")]
    pub name: String,
    /// For whom.
    #[prost(enumeration = "SpanKind", tag = "6")]
    pub kind: i32,
    /// When it began.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// When it ended.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// Whether it failed.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    /// The trace's flags, and what is known of the parent.
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// For whom a piece of work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SpanKind {
    /// Not said.
    Unspecified = 0,
    /// For the service itself.
    Internal = 1,
    /// For a caller.
    Server = 2,
}

/// How a piece of work ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// Whether well.
    #[prost(enumeration = "StatusCode", tag = "3")]
    pub code: i32,
}

/// Whether a piece of work ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum StatusCode {
    /// Not said.
    Unset = 0,
    /// It did.
    Ok = 1,
    /// It did not.
    Error = 2,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// The value of an attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// One of the kinds that are used here.
    #[prost(oneof = "Value", tags = "1, 3")]
    pub value: Option<Value>,
}

/// A text or a number.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Value {
    /// A text.
    #[prost(string, tag = "1")]
    String(String),
    /// A number.
    #[prost(int64, tag = "3")]
    Int(i64),
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::context::Hex;
    use super::*;

    /// What `OpenTelemetry`'s own Python package, opentelemetry-proto 1.45, makes of the request below.
    const REFERENCE: &str = concat!(
        "0a9d010a1a0a180a0c736572766963652e6e616d6512080a06706f6469756d127f0a0b0a06706f6469756d12013112700a10",
        "0102030405060708090a0b0c0d0e0f10120801020304050607081a03613d62220808090a0b0c0d0e0f2a0f504f5354202f76",
        "312f726572616e6b300239e80300000000000041d0070000000000004a140a0d706f6469756d2e746f6b656e73120318ac02",
        "7a021802850101030000",
    );

    fn attribute(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }

    #[test]
    fn a_request_is_the_reference_to_the_byte() {
        let span = Span {
            trace_id: (1..17).collect(),
            span_id: (1..9).collect(),
            trace_state: "a=b".to_owned(),
            parent_span_id: (8..16).collect(),
            name: "POST /v1/rerank".to_owned(),
            kind: SpanKind::Server as i32,
            start_time_unix_nano: 1000,
            end_time_unix_nano: 2000,
            attributes: vec![attribute("podium.tokens", Value::Int(300))],
            status: Some(Status { code: StatusCode::Error as i32 }),
            flags: 0x301,
        };
        let scope = InstrumentationScope { name: "podium".to_owned(), version: "1".to_owned() };
        let service = attribute("service.name", Value::String("podium".to_owned()));
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(Resource { attributes: vec![service] }),
                scope_spans: vec![ScopeSpans { scope: Some(scope), spans: vec![span] }],
            }],
        };
        assert_eq!(Hex(&request.encode_to_vec()).to_string(), REFERENCE);
    }
}
