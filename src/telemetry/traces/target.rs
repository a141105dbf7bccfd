//! Where traces go and which requests are followed: the settings, and the environment variables that `OpenTelemetry`
//! gives every program. A setting that is not empty wins.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};

use super::super::TelemetrySettings;

/// How long the receiver may take, unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Tracing that cannot be set up as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A setting or variable with a value that cannot be used. The value of a header is not repeated.
    #[error("{name} must be {wanted}")]
    Value {
        /// The setting or variable.
        name: String,
        /// What it has to be.
        wanted: String,
    },
    /// No client can be made, for want of TLS or its roots.
    #[error("cannot make an HTTP client for traces: {0}")]
    Client(#[from] reqwest::Error),
}

/// Where traces go, and how.
#[derive(Debug, Clone)]
pub struct TraceTarget {
    pub(super) url: Url,
    pub(super) client: Client,
    /// Attributes of the resource, `service.name` first.
    pub(super) resource: Vec<(String, String)>,
    pub(super) sampler: Sampler,
}

/// Which requests are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether the decision of a caller that has made one counts.
    pub by_parent: bool,
    /// The share of all others.
    pub share: f64,
}

impl Sampler {
    /// Whether a request of this trace is followed. The decision is a function of the trace's id, so that all services
    /// with the same share follow the same traces.
    pub(super) fn takes(self, trace: &[u8; 16], parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.by_parent => sampled,
            _ => {
                let random = trace.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes) >> 11);
                (random as f64) < self.share * 2_f64.powi(53)
            }
        }
    }
}

impl TraceTarget {
    /// What settings and environment ask for; nothing where neither names a receiver.
    ///
    /// # Errors
    /// [`TraceError::Value`] for a value that cannot be used.
    pub fn find(
        settings: &TelemetrySettings,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TraceError> {
        let variable =
            |name: &str| environment(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // The variable for traces alone goes before the one for all signals.
        let specific = |name: &str| {
            let traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
            let all = format!("OTEL_EXPORTER_OTLP_{name}");
            variable(&traces).map(|value| (traces, value)).or_else(|| variable(&all).map(|value| (all, value)))
        };
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let set = settings.otlp_endpoint.trim();
        let (name, endpoint) = match specific("ENDPOINT") {
            _ if !set.is_empty() => ("telemetry.otlp_endpoint".to_owned(), set.to_owned()),
            Some(found) if !is_off => found,
            _ => return Ok(None),
        };
        let url = url(&name, &endpoint, name != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")?;
        if let Some((name, _)) = specific("PROTOCOL").filter(|(_, value)| value != "http/protobuf") {
            return Err(wrong(name, "http/protobuf, the one protocol that is spoken here (port 4318)"));
        }
        if let Some((name, _)) = specific("COMPRESSION").filter(|(_, value)| value != "none") {
            return Err(wrong(name, "none; traces are sent as they are"));
        }
        let timeout = match specific("TIMEOUT") {
            None => TIMEOUT,
            Some((name, value)) => {
                Duration::from_millis(value.parse().map_err(|_| wrong(name, "a number of milliseconds"))?)
            }
        };
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = specific("HEADERS") {
            for (key, value) in pairs(&name, &value)? {
                let header = HeaderName::try_from(key).ok().zip(HeaderValue::try_from(value).ok());
                let (key, mut value) = header.ok_or_else(|| wrong(name.clone(), "a list of header=value"))?;
                value.set_sensitive(true);
                headers.insert(key, value);
            }
        }
        let sampler = sampler(settings.trace_sample, variable)?;
        let resource = resource(settings, variable)?;
        let client = Client::builder()
            .user_agent(concat!("podium/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .timeout(timeout)
            .build()?;
        Ok(Some(Self { url, client, resource, sampler }))
    }
}

fn wrong(name: impl Into<String>, wanted: &str) -> TraceError {
    TraceError::Value { name: name.into(), wanted: wanted.to_owned() }
}

/// An endpoint for all signals gets the path of traces behind its own.
fn url(name: &str, endpoint: &str, is_base: bool) -> Result<Url, TraceError> {
    let parse = |text: &str| Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // The base is looked at by itself: behind one that lacks its host, the path would become one.
    let base = parse(endpoint).ok_or_else(|| wrong(name, "a URL such as http://localhost:4318"))?;
    let whole = is_base.then(|| parse(&format!("{}/v1/traces", endpoint.trim_end_matches('/')))).flatten();
    Ok(whole.unwrap_or(base))
}

fn resource(
    settings: &TelemetrySettings,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, TraceError> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    let mut more = variable(name).map(|value| pairs(name, &value)).transpose()?.unwrap_or_default();
    let of_list = more.iter().position(|(key, _)| key == "service.name").map(|place| more.remove(place).1);
    let set = Some(settings.service_name.trim().to_owned()).filter(|name| !name.is_empty());
    let service = set.or_else(|| variable("OTEL_SERVICE_NAME")).or(of_list).unwrap_or_else(|| "podium".to_owned());
    let own = [("service.name", service), ("service.version", env!("CARGO_PKG_VERSION").to_owned())];
    Ok(own.map(|(key, value)| (key.to_owned(), value)).into_iter().chain(more).collect())
}

/// The settings' share, callers' decisions first; or what the environment says, where it names a sampler.
fn sampler(share: f64, variable: impl Fn(&str) -> Option<String>) -> Result<Sampler, TraceError> {
    let Some(word) = variable("OTEL_TRACES_SAMPLER") else { return Ok(Sampler { by_parent: true, share }) };
    let (by_parent, kind) = word.strip_prefix("parentbased_").map_or((false, word.as_str()), |kind| (true, kind));
    let share = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let name = "OTEL_TRACES_SAMPLER_ARG";
            let share = variable(name).map_or(Ok(1.0), |value| value.parse()).ok();
            share.filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| wrong(name, "a share between 0 and 1"))?
        }
        _ => {
            let words = "always_on, always_off, traceidratio, or parentbased_ before one of them";
            return Err(wrong("OTEL_TRACES_SAMPLER", words));
        }
    };
    Ok(Sampler { by_parent, share })
}

/// `key=value,key=value`, values percent-encoded.
fn pairs(name: &str, list: &str) -> Result<Vec<(String, String)>, TraceError> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (key, value) = item.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((key.trim().to_owned(), value.into_owned())).filter(|(key, _)| !key.is_empty())
    };
    items.map(|item| pair(item).ok_or_else(|| wrong(name, "a list of key=value with commas between"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: &str) -> TelemetrySettings {
        TelemetrySettings {
            log_level: "info".to_owned(),
            log_format: "text".to_owned(),
            drift_sample: 0.0,
            otlp_endpoint: endpoint.to_owned(),
            trace_sample: 0.25,
            service_name: String::new(),
        }
    }

    fn find(endpoint: &str, variables: &[(&str, &str)]) -> Result<Option<TraceTarget>, String> {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        TraceTarget::find(&settings(endpoint), of).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_traced_unless_a_receiver_is_named() {
        assert!(find("", &[]).unwrap().is_none());
        assert!(find("", &[("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert!(find("", &[named, ("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
        assert!(find("", &[named, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
        let target = find("http://a:4318/", &[]).unwrap().unwrap();
        assert_eq!(target.url.as_str(), "http://a:4318/v1/traces");
        assert_eq!(target.resource[0], ("service.name".to_owned(), "podium".to_owned()));
        assert_eq!(target.sampler, Sampler { by_parent: true, share: 0.25 });
    }

    #[test]
    fn the_standard_variables_are_heard() {
        let target = find(
            "",
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc, x-scope=team"),
                ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
                ("OTEL_SERVICE_NAME", "search"),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ],
        );
        let target = target.unwrap().unwrap();
        assert_eq!(target.url.as_str(), "http://all:4318/base/v1/traces");
        let client = format!("{:?}", target.client);
        assert!(client.contains("authorization") && client.contains("x-scope"), "{client}");
        assert!(client.contains("250ms") && !client.contains("abc"), "{client}");
        assert_eq!(target.resource[0].1, "search");
        assert_eq!(target.resource[2], ("deployment.environment.name".to_owned(), "test".to_owned()));
        assert_eq!(target.sampler, Sampler { by_parent: true, share: 0.5 });
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://t/x");
        let target = find("", &[traces, ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318")]).unwrap().unwrap();
        assert_eq!(target.url.as_str(), "https://t/x");
        assert_eq!(find("http://own:1", &[traces]).unwrap().unwrap().url.as_str(), "http://own:1/v1/traces");
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name_and_secrets_are_not_repeated() {
        for (name, value, message) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf, the one protocol that is spoken here (port 4318)"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "none; traces are sent as they are"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "a number of milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "a list of key=value with commas between"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a", "a list of header=value"),
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

    #[test]
    fn a_callers_decision_counts_and_the_rest_goes_by_the_trace() {
        let sampler = Sampler { by_parent: true, share: 0.5 };
        let (low, high) = ([0; 16], [0xff; 16]);
        assert!(sampler.takes(&low, None) && !sampler.takes(&high, None));
        assert!(sampler.takes(&high, Some(true)) && !sampler.takes(&low, Some(false)));
        let alone = Sampler { by_parent: false, share: 0.5 };
        assert!(alone.takes(&low, Some(false)) && !alone.takes(&high, Some(true)));
        assert!(!Sampler { by_parent: true, share: 0.0 }.takes(&low, None));
        assert!(Sampler { by_parent: true, share: 1.0 }.takes(&high, None));
    }
}
