//! Where traces go and which requests are traced: the settings, and what `OpenTelemetry`'s
//! environment variables say.
//!
//! The SDK reads `OTEL_EXPORTER_OTLP_[TRACES_]HEADERS`, `…_TIMEOUT` and
//! `OTEL_RESOURCE_ATTRIBUTES` itself. Values that it would ignore silently are refused here.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};
use reqwest::Url;

use crate::telemetry::TelemetrySettings;

/// Traces that cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A setting or variable with an unusable value. The value itself, which may be secret, is not
    /// repeated.
    #[error("{name} must be {expected}")]
    Value {
        /// The setting or variable.
        name: String,
        /// The valid values.
        expected: &'static str,
    },
    /// The exporter cannot be made.
    #[error("cannot start the export of traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// Where traces go, and which requests are traced.
#[derive(Debug, Clone)]
pub struct TraceTarget {
    /// The URL that spans are posted to, without user and password.
    pub(super) endpoint: String,
    /// The `authorization` header that user and password of the URL stand for.
    pub(super) headers: HashMap<String, String>,
    pub(super) sampler: RequestSampler,
    /// The name of the service; `None` leaves it to `OTEL_RESOURCE_ATTRIBUTES`.
    pub(super) service_name: Option<String>,
}

/// Decides which requests are traced. Spans outside of a request, such as those of a warm-up, never
/// are.
#[derive(Debug, Clone)]
pub(super) struct RequestSampler(Sampler);

impl ShouldSample for RequestSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[opentelemetry::KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let has_parent = parent.is_some_and(|context| context.span().span_context().is_valid());
        if !has_parent && *kind != SpanKind::Server {
            let (decision, attributes) = (SamplingDecision::Drop, Vec::new());
            return SamplingResult { decision, attributes, trace_state: TraceState::default() };
        }
        self.0.should_sample(parent, trace, name, kind, attributes, links)
    }
}

impl TraceTarget {
    /// The receiver that settings and environment name; `None` if neither names one.
    ///
    /// # Errors
    /// [`TraceError::Value`] for an unusable value.
    pub fn find(
        settings: &TelemetrySettings,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TraceError> {
        let variables = Variables(environment);
        let is_off = variables.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variables.get("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let configured = settings.otlp_endpoint.trim();
        let (name, endpoint) = match variables.for_traces("ENDPOINT") {
            _ if !configured.is_empty() => ("telemetry.otlp_endpoint".to_owned(), configured.to_owned()),
            Some(found) if !is_off => found,
            _ => return Ok(None),
        };
        let url = receiver_url(&name, &endpoint, name != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?;
        variables.check()?;
        let (endpoint, headers) = without_credentials(url);
        let sampler = RequestSampler(variables.sampler(settings.trace_sample)?);
        let configured = Some(settings.service_name.trim().to_owned()).filter(|name| !name.is_empty());
        // The SDK prefers the `service.name` among OTEL_RESOURCE_ATTRIBUTES, against the
        // specification.
        let service_name = configured.or_else(|| variables.get("OTEL_SERVICE_NAME"));
        Ok(Some(Self { endpoint, headers, sampler, service_name }))
    }
}

fn unusable(name: impl Into<String>, expected: &'static str) -> TraceError {
    TraceError::Value { name: name.into(), expected }
}

/// The URL for spans. A base URL, which serves all signals, gets their path behind its own.
fn receiver_url(name: &str, endpoint: &str, is_base: bool) -> Result<Url, TraceError> {
    let parse = |text: &str| Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // The base alone first: a base without a host would take the path for one.
    let base = parse(endpoint).ok_or_else(|| unusable(name, "a URL such as http://localhost:4318"))?;
    let for_spans = is_base.then(|| parse(&format!("{}/v1/traces", endpoint.trim_end_matches('/')))).flatten();
    Ok(for_spans.unwrap_or(base))
}

/// Splits a URL into one without user and password, and the header that they stand for. The
/// exporter would drop them.
fn without_credentials(url: Url) -> (String, HashMap<String, String>) {
    let request = reqwest::Client::new().post(url.clone()).build();
    let Ok(request) = request else { return (url.into(), HashMap::new()) };
    let authorization = request.headers().get(reqwest::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let headers = authorization.map(|value| ("authorization".to_owned(), value.to_owned()));
    (request.url().as_str().to_owned(), headers.into_iter().collect())
}

/// The environment. A variable that is empty counts as one that is not set.
struct Variables<F>(F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A variable of the exporter, with its name: the one for traces alone if it is set, else the
    /// one for all signals.
    fn for_traces(&self, name: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    /// Refuses values that the SDK ignores or replaces by its own.
    fn check(&self) -> Result<(), TraceError> {
        type Check<'a> = (&'a str, &'a dyn Fn(&str) -> bool, &'static str);
        let is_list = |list: &str| {
            let mut items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.all(|item| item.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty()))
        };
        let is_pairs = "a list of key=value, separated by commas";
        let checks: [Check<'_>; 4] = [
            ("PROTOCOL", &|value| value == "http/protobuf", "http/protobuf, the only supported protocol (port 4318)"),
            ("COMPRESSION", &|value| value == "none", "none; spans are sent uncompressed"),
            ("TIMEOUT", &|value| value.parse::<u64>().is_ok(), "a number of milliseconds"),
            ("HEADERS", &is_list, is_pairs),
        ];
        for (name, is_usable, expected) in checks {
            if let Some((name, _)) = self.for_traces(name).filter(|(_, value)| !is_usable(value)) {
                return Err(unusable(name, expected));
            }
        }
        let attributes = "OTEL_RESOURCE_ATTRIBUTES";
        if self.get(attributes).is_some_and(|list| !is_list(&list)) {
            return Err(unusable(attributes, is_pairs));
        }
        Ok(())
    }

    /// The environment's sampler if it names one; else the caller's decision, and `share` of the
    /// requests whose caller has made none.
    fn sampler(&self, share: f64) -> Result<Sampler, TraceError> {
        let Some(word) = self.get("OTEL_TRACES_SAMPLER") else {
            return Ok(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))));
        };
        let (by_parent, kind) = word.strip_prefix("parentbased_").map_or((false, word.as_str()), |kind| (true, kind));
        let sampler = match kind {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => {
                let name = "OTEL_TRACES_SAMPLER_ARG";
                let share = self.get(name).map_or(Ok(1.0), |value| value.parse()).ok();
                let share = share.filter(|share| (0.0..=1.0).contains(share));
                Sampler::TraceIdRatioBased(share.ok_or_else(|| unusable(name, "a number from 0 to 1"))?)
            }
            _ => {
                let words = "always_on, always_off, traceidratio, or parentbased_ before one of them";
                return Err(unusable("OTEL_TRACES_SAMPLER", words));
            }
        };
        Ok(if by_parent { Sampler::ParentBased(Box::new(sampler)) } else { sampler })
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    use super::*;

    fn settings(endpoint: &str) -> TelemetrySettings {
        TelemetrySettings {
            log_level: "info".to_owned(),
            log_format: "text".to_owned(),
            drift_sample: 0.0,
            otlp_endpoint: endpoint.to_owned(),
            trace_sample: 0.5,
            service_name: String::new(),
        }
    }

    fn find(endpoint: &str, variables: &[(&str, &str)]) -> Result<Option<TraceTarget>, String> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        TraceTarget::find(&settings(endpoint), value).map_err(|error| error.to_string())
    }

    fn endpoint(configured: &str, variables: &[(&str, &str)]) -> String {
        find(configured, variables).unwrap().unwrap().endpoint
    }

    #[test]
    fn nothing_is_traced_unless_a_receiver_is_configured() {
        assert!(find("", &[]).unwrap().is_none());
        assert!(find("", &[("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        let receiver = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(find("", &[receiver, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(find("", &[receiver, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        assert!(find("", &[receiver]).unwrap().is_some());
    }

    #[test]
    fn the_setting_wins_over_variables_and_a_base_url_gets_the_path_of_traces() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x");
        assert_eq!(endpoint("http://a:4318/", &[]), "http://a:4318/v1/traces");
        assert_eq!(endpoint("", &[all]), "http://all:4318/base/v1/traces");
        assert_eq!(endpoint("", &[traces, all]), "https://t/x");
        assert_eq!(endpoint("http://own:1", &[traces]), "http://own:1/v1/traces");
    }

    #[test]
    fn a_password_in_the_url_becomes_a_header() {
        let target = find("http://user:secret@c:4318", &[]).unwrap().unwrap();
        assert_eq!(target.endpoint, "http://c:4318/v1/traces");
        assert_eq!(target.headers["authorization"], "Basic dXNlcjpzZWNyZXQ=");
    }

    #[test]
    fn unusable_values_are_refused_by_name_and_secrets_are_not_repeated() {
        let pairs = "a list of key=value, separated by commas";
        for (name, value, message) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf, the only supported protocol (port 4318)"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "none; spans are sent uncompressed"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon", "a number of milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", pairs),
            ("OTEL_RESOURCE_ATTRIBUTES", "secret", pairs),
            (
                "OTEL_TRACES_SAMPLER",
                "sometimes",
                "always_on, always_off, traceidratio, or parentbased_ before one of them",
            ),
        ] {
            assert_eq!(find("http://a:1", &[(name, value)]).unwrap_err(), format!("{name} must be {message}"));
        }
        for endpoint in ["localhost:4318", "ftp://a", "http://"] {
            let message = find(endpoint, &[]).unwrap_err();
            assert_eq!(message, "telemetry.otlp_endpoint must be a URL such as http://localhost:4318");
        }
    }

    /// Whether a request is sampled whose caller has decided so, or not decided.
    fn samples(variables: &[(&str, &str)], trace: u128, caller: Option<bool>, kind: &SpanKind) -> bool {
        let sampler = find("http://a:1", variables).unwrap().unwrap().sampler;
        let context = caller.map_or_else(Context::new, |sampled| {
            let flags = TraceFlags::default().with_sampled(sampled);
            let parent =
                SpanContext::new(TraceId::from(trace), SpanId::from(7_u64), flags, true, TraceState::default());
            Context::new().with_remote_span_context(parent)
        });
        let result = sampler.should_sample(Some(&context), TraceId::from(trace), "request", kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn the_callers_decision_counts_and_the_share_for_requests_without_one() {
        let (low, high) = (1_u128, u128::MAX);
        let own = |trace, caller| samples(&[], trace, caller, &SpanKind::Server);
        assert!(own(low, None) && !own(high, None));
        assert!(own(high, Some(true)) && !own(low, Some(false)));
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
        assert!(samples(&ratio, low, Some(false), &SpanKind::Server), "this sampler does not ask the caller");
        assert!(!samples(&ratio, high, Some(true), &SpanKind::Server));
        let off = [("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
        assert!(!samples(&off, low, None, &SpanKind::Server) && samples(&off, low, Some(true), &SpanKind::Server));
    }

    #[test]
    fn spans_outside_of_requests_are_not_sampled() {
        assert!(!samples(&[("OTEL_TRACES_SAMPLER", "always_on")], 1, None, &SpanKind::Internal));
        assert!(samples(&[("OTEL_TRACES_SAMPLER", "always_on")], 1, None, &SpanKind::Server));
        assert!(samples(&[], u128::MAX, Some(true), &SpanKind::Internal), "a stage of a sampled request");
    }
}
