//! The metrics: names, help and labels in one place.
//!
//! The recorder belongs to one [`Telemetry`](super::Telemetry) and is not the process's, so that two servers in one
//! process (tests have many) do not count each other's requests. What is counted elsewhere (queues and batches by model, the
//! process) is written behind what it holds: so the series of a model come and go with it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::exposition::{Exposition, Labels};
use super::{ModelReport, Outcomes, RequestRecord, process};
use crate::pipeline::DriftSample;
use crate::rerank::Mode;

const REQUESTS: &str = "podium_requests_total";
const ERRORS: &str = "podium_errors_total";
const KEY_REQUESTS: &str = "podium_key_requests_total";
const DURATION: &str = "podium_request_duration_seconds";
const STAGE: &str = "podium_stage_duration_seconds";
const RANKINGS: &str = "podium_rankings_total";
const SLATES: &str = "podium_slates_total";
const DOCUMENTS: &str = "podium_documents_total";
const TOKENS: &str = "podium_prompt_tokens_total";
const TRUNCATED: &str = "podium_truncated_documents_total";
const LIST_LENGTH: &str = "podium_request_documents";
const QUEUE_REQUESTS: &str = "podium_queue_requests";
const QUEUE_PASSES: &str = "podium_queue_passes";
const QUEUE_TOKENS: &str = "podium_queue_tokens";
const READY: &str = "podium_ready";
const MODEL: &str = "podium_model_info";
const MODEL_MEMORY: &str = "podium_model_memory_bytes";
const BUILD: &str = "podium_build_info";
const BATCH_PASSES: &str = "podium_batch_passes";
const BATCH_TOKENS: &str = "podium_batch_tokens";
const BATCH_SECONDS: &str = "podium_batch_duration_seconds";
const PREFIX_LOOKED_UP: &str = "podium_prefix_cache_looked_up_tokens_total";
const PREFIX_FOUND: &str = "podium_prefix_cache_found_tokens_total";
const PREFIX_BYTES: &str = "podium_prefix_cache_bytes";
const PREFIX_EVICTED: &str = "podium_prefix_cache_evicted_blocks_total";
const TRACE_SPANS: &str = "podium_trace_spans_total";
const DRIFT_RELEVANCE: &str = "podium_drift_relevance";
const DRIFT_TOP: &str = "podium_drift_top_relevance";
const DRIFT_LEAD: &str = "podium_drift_top_lead";
const DRIFT_AGREEMENT: &str = "podium_drift_order_agreement";
const DRIFT_TRUNCATED: &str = "podium_drift_truncated_share";

const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const LIST_LENGTHS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 64.0, 100.0, 200.0, 500.0, 1000.0];
const SHARES: [f64; 20] =
    [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];
const LEADS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const CUT_SHARES: [f64; 8] = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0];

/// Histograms that are not of seconds.
const BUCKETS: [(&str, &[f64]); 6] = [
    (LIST_LENGTH, &LIST_LENGTHS),
    (DRIFT_RELEVANCE, &SHARES),
    (DRIFT_TOP, &SHARES),
    (DRIFT_LEAD, &LEADS),
    (DRIFT_AGREEMENT, &SHARES),
    (DRIFT_TRUNCATED, &CUT_SHARES),
];

/// What this build can use besides the processor.
const BACKENDS: [(&str, bool); 3] = [
    ("cuda", cfg!(feature = "cuda")),
    ("flash-attn", cfg!(feature = "flash-attn")),
    ("metal", cfg!(feature = "metal")),
];

/// Names of keys that are counted one by one. Those in effect are few, but a name that a new keys file brings stays.
const KEY_NAMES: usize = 500;
/// What the names beyond that are counted as.
const OTHER_KEYS: &str = "other";

pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    key_names: Mutex<BTreeSet<String>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        // Only an empty list of buckets is refused, and these are not: the builder is taken as it was then.
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).unwrap_or_default();
        let builder = BUCKETS.iter().fold(builder, |builder, (name, buckets)| {
            builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets).unwrap_or_default()
        });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle, key_names: Mutex::default() };
        metrics.describe();
        metrics.start_at_zero();
        metrics
    }

    fn describe(&self) {
        with_local_recorder(&self.recorder, || {
            describe_counter!(REQUESTS, "Requests answered, by route and status; 499 is a client that left.");
            describe_counter!(ERRORS, "Requests that failed, by the code in their answer.");
            describe_counter!(KEY_REQUESTS, "Requests that came with an API key, by its name and their status.");
            describe_histogram!(DURATION, Unit::Seconds, "From the head of a request to its answer, by route.");
            describe_histogram!(STAGE, Unit::Seconds, "Parts of a ranking: queue, tokenize, forward.");
            describe_counter!(RANKINGS, "Rankings made, by the mode that ran.");
            describe_counter!(SLATES, "Slates (listwise) or documents (pointwise) read, by mode.");
            describe_counter!(DOCUMENTS, "Documents in the requests that were ranked.");
            describe_counter!(TOKENS, "Tokens sent through the model.");
            describe_counter!(TRUNCATED, "Documents of which the end was cut off.");
            describe_histogram!(LIST_LENGTH, "Documents in one ranked request.");
            describe_gauge!(
                READY,
                "1 while new requests are welcome; 0 while the server shuts down or its device fails."
            );
            describe_gauge!(
                MODEL_MEMORY,
                Unit::Bytes,
                "Weights and the most that the prefix cache may hold, by model; 0 where it is not loaded."
            );
            describe_gauge!(BUILD, "Always 1; the labels say what was built.");
            describe_counter!(
                TRACE_SPANS,
                "Spans of traces, by whether the receiver took them or nobody will see them."
            );
            describe_histogram!(DRIFT_RELEVANCE, "Relevance of each document of the sampled rankings.");
            describe_histogram!(DRIFT_TOP, "Relevance of the best document of a sampled ranking.");
            describe_histogram!(DRIFT_LEAD, "By how much its relevance is above the second's.");
            describe_histogram!(
                DRIFT_AGREEMENT,
                "How far a sampled ranking is the order of another (Kendall's tau, as a share: 1 same, 0 reversed)."
            );
            describe_histogram!(DRIFT_TRUNCATED, "The share of documents that were cut in a sampled ranking.");
        });
    }

    /// A counter that is missing until its first event hides that event from `rate()`.
    fn start_at_zero(&self) {
        with_local_recorder(&self.recorder, || {
            for name in [DOCUMENTS, TOKENS, TRUNCATED] {
                counter!(name).increment(0);
            }
            for mode in [Mode::Listwise, Mode::Pointwise] {
                counter!(RANKINGS, "mode" => mode.as_str()).increment(0);
                counter!(SLATES, "mode" => mode.as_str()).increment(0);
            }
            let backends: Vec<&str> = BACKENDS.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
            let labels = [
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("arch", std::env::consts::ARCH.to_owned()),
                ("os", std::env::consts::OS.to_owned()),
                ("backends", if backends.is_empty() { "cpu".to_owned() } else { backends.join(",") }),
            ];
            gauge!(BUILD, &labels).set(1.0);
        });
    }

    /// Counts nothing yet of what these routes may answer.
    pub(super) fn expect(&self, outcomes: &[Outcomes], codes: &[&'static str]) {
        with_local_recorder(&self.recorder, || {
            for Outcomes { route, statuses } in outcomes {
                for status in statuses {
                    counter!(REQUESTS, "route" => *route, "status" => status.to_string()).increment(0);
                }
            }
            for code in codes {
                counter!(ERRORS, "code" => *code).increment(0);
            }
        });
    }

    pub(super) fn record(&self, request: &RequestRecord<'_>) {
        with_local_recorder(&self.recorder, || {
            let status = request.status.to_string();
            if let Some(key) = request.key {
                counter!(KEY_REQUESTS, "key" => self.key_label(key), "status" => status.clone()).increment(1);
            }
            counter!(REQUESTS, "route" => request.route, "status" => status).increment(1);
            histogram!(DURATION, "route" => request.route).record(request.elapsed);
            if let Some(failure) = request.failure {
                counter!(ERRORS, "code" => failure.code).increment(1);
            }
            let Some(ranking) = request.ranking else { return };
            for (stage, time) in [
                ("queue", ranking.timing.queue),
                ("tokenize", ranking.timing.tokenize),
                ("forward", ranking.timing.forward),
            ] {
                histogram!(STAGE, "stage" => stage).record(time);
            }
            counter!(RANKINGS, "mode" => ranking.mode.as_str()).increment(1);
            counter!(SLATES, "mode" => ranking.mode.as_str()).increment(ranking.slates as u64);
            counter!(DOCUMENTS).increment(ranking.documents as u64);
            counter!(TOKENS).increment(ranking.usage.prompt_tokens as u64);
            counter!(TRUNCATED).increment(ranking.usage.truncated_documents as u64);
            histogram!(LIST_LENGTH).record(ranking.documents as f64);
        });
    }

    pub(super) fn record_drift(&self, sample: &DriftSample) {
        with_local_recorder(&self.recorder, || {
            let labels = [("model", sample.model.clone()), ("instruction", sample.instruction.label().to_owned())];
            let relevance = histogram!(DRIFT_RELEVANCE, &labels);
            for score in &sample.scores {
                relevance.record(f64::from(*score));
            }
            for (name, value) in [(DRIFT_TOP, sample.top()), (DRIFT_LEAD, sample.lead())] {
                if let Some(value) = value {
                    histogram!(name, &labels).record(f64::from(value));
                }
            }
            histogram!(DRIFT_TRUNCATED, &labels).record(sample.truncated);
            for (with, agreement) in [("input", sample.input_agreement), ("bm25", sample.lexical_agreement)] {
                if let Some(agreement) = agreement {
                    let [model, instruction] = labels.clone();
                    histogram!(DRIFT_AGREEMENT, &[model, instruction, ("with", with.to_owned())]).record(agreement);
                }
            }
        });
    }

    /// The name itself, or `other` for one that is too many.
    fn key_label(&self, name: &str) -> String {
        let mut names = self.key_names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(name) || (names.len() < KEY_NAMES && names.insert(name.to_owned())) {
            name.to_owned()
        } else {
            OTHER_KEYS.to_owned()
        }
    }

    pub(super) fn set_model_memory(&self, model: &str, bytes: u64) {
        with_local_recorder(&self.recorder, || gauge!(MODEL_MEMORY, "model" => model.to_owned()).set(bytes as f64));
    }

    /// `traces` are the spans that were sent, and those that were dropped.
    pub(super) fn render(&self, models: &[ModelReport<'_>], traces: (u64, u64), ready: bool) -> String {
        with_local_recorder(&self.recorder, || {
            counter!(TRACE_SPANS, "outcome" => "sent").absolute(traces.0);
            counter!(TRACE_SPANS, "outcome" => "dropped").absolute(traces.1);
            gauge!(READY).set(if ready { 1.0 } else { 0.0 });
        });
        let mut text = Exposition::after(self.handle.render());
        write_models(&mut text, models);
        process::write(&mut text);
        text.into_text()
    }

    pub(super) fn fold(&self) {
        self.handle.run_upkeep();
    }
}

/// What is there for as long as its model is.
fn write_models(text: &mut Exposition, models: &[ModelReport<'_>]) {
    let facts: Vec<Labels> = models.iter().map(ModelReport::labels).collect();
    text.gauges(MODEL, "Always 1; the labels say what is served.", facts.iter().map(|labels| (labels, 1.0)));
    let names: Vec<Labels> = models.iter().map(|model| Labels::of(&[("model", model.name)])).collect();
    let all = || names.iter().zip(models);
    let requests = all().map(|(labels, model)| (labels, model.queue.requests as f64));
    text.gauges(QUEUE_REQUESTS, "Requests accepted and not yet answered.", requests);
    let passes = all().map(|(labels, model)| (labels, model.queue.waiting_passes as f64));
    text.gauges(QUEUE_PASSES, "Passes waiting for the device.", passes);
    let tokens = all().map(|(labels, model)| (labels, model.queue.waiting_tokens as f64));
    text.gauges(QUEUE_TOKENS, "Tokens of the passes waiting for the device.", tokens);
    let passes = all().map(|(labels, model)| (labels, &model.batches.passes));
    text.histograms(BATCH_PASSES, "Passes that went to the device at once.", passes);
    let tokens = all().map(|(labels, model)| (labels, &model.batches.tokens));
    text.histograms(BATCH_TOKENS, "Tokens that went to the device at once.", tokens);
    let seconds = all().map(|(labels, model)| (labels, &model.batches.seconds));
    text.histograms(BATCH_SECONDS, "How long a batch kept the device.", seconds);
    let looked_up = all().map(|(labels, model)| (labels, model.batches.prefixes.looked_up_tokens as f64));
    text.counters(PREFIX_LOOKED_UP, "Tokens at the beginning of passes that were looked for.", looked_up);
    let found = all().map(|(labels, model)| (labels, model.batches.prefixes.hit_tokens as f64));
    text.counters(PREFIX_FOUND, "Those of them that were found, and not computed again.", found);
    let evicted = all().map(|(labels, model)| (labels, model.batches.prefixes.evicted_blocks as f64));
    text.counters(PREFIX_EVICTED, "Blocks of 16 tokens that made room for others.", evicted);
    let bytes = all().map(|(labels, model)| (labels, model.batches.prefixes.bytes as f64));
    text.gauges(PREFIX_BYTES, "Keys and values kept of the beginning of passes.", bytes);
}

impl ModelReport<'_> {
    /// What the model is.
    fn labels(&self) -> Labels {
        Labels::of(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("model", self.name),
            ("family", self.family),
            ("architecture", &self.facts.architecture),
            ("device", &self.facts.device),
            ("dtype", &self.facts.dtype),
        ])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::RequestTimeline;

    #[test]
    fn names_that_keep_changing_do_not_make_series_without_end() {
        let metrics = Metrics::new();
        let names: Vec<String> = (0..KEY_NAMES + 20).map(|number| format!("key-{number}")).collect();
        for name in names.iter().chain(&names[..3]) {
            metrics.record(&RequestRecord {
                id: "id",
                key: Some(name),
                method: "POST",
                route: "/v1/rerank",
                status: 200,
                elapsed: Duration::ZERO,
                ranking: None,
                failure: None,
                timeline: &RequestTimeline::new(tracing::Span::none()),
                trace: None,
            });
        }
        let text = metrics.render(&[], (0, 0), true);
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with("podium_key_requests_total{")).collect();
        assert_eq!(series.len(), KEY_NAMES + 1);
        assert!(series.contains(&r#"podium_key_requests_total{key="key-0",status="200"} 2"#));
        assert!(series.contains(&r#"podium_key_requests_total{key="other",status="200"} 20"#));
    }
}
