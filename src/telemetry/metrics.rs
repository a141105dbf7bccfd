//! The metrics: names, help texts and labels.
//!
//! The recorder belongs to one [`Telemetry`](super::Telemetry) and not to the process, so that two
//! servers in one process (tests have many) do not count each other's requests. Counts that others
//! keep (queues and batches of models, the process) are written behind the recorder's own: the
//! series of a model appear when it is loaded and disappear when it is unloaded.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::exposition::{Exposition, Labels};
use super::{ModelReport, Outcomes, RequestRecord, RouteKind, process};
use crate::pipeline::DriftSample;
use crate::rerank::agreement::{ShadowOutcome, ShadowSample};
use crate::rerank::{CascadeReport, Mode};

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
const PASSAGES: &str = "podium_passages_total";
const LEFT_OUT: &str = "podium_left_out_documents_total";
const LEFT_EARLY: &str = "podium_early_exit_documents_total";
const LAYERS_SAVED: &str = "podium_early_exit_tokens_saved_total";
const LIST_LENGTH: &str = "podium_request_documents";
const QUEUE_REQUESTS: &str = "podium_queue_requests";
const QUEUE_PASSES: &str = "podium_queue_passes";
const QUEUE_TOKENS: &str = "podium_queue_tokens";
const READY: &str = "podium_ready";
const MODEL: &str = "podium_model_info";
const MODEL_MEMORY: &str = "podium_model_memory_bytes";
const CANARY: &str = "podium_model_canary_ratio";
const BUILD: &str = "podium_build_info";
const BATCH_PASSES: &str = "podium_batch_passes";
const BATCH_TOKENS: &str = "podium_batch_tokens";
const BATCH_SECONDS: &str = "podium_batch_duration_seconds";
const PREFIX_LOOKED_UP: &str = "podium_prefix_cache_looked_up_tokens_total";
const PREFIX_FOUND: &str = "podium_prefix_cache_found_tokens_total";
const PREFIX_BYTES: &str = "podium_prefix_cache_bytes";
const PREFIX_EVICTED: &str = "podium_prefix_cache_evicted_blocks_total";
const TRACE_SPANS: &str = "podium_trace_spans_total";
const STAGE_DOCUMENTS: &str = "podium_cascade_documents_total";
const STAGE_TOKENS: &str = "podium_cascade_tokens_total";
const STAGES_SKIPPED: &str = "podium_cascade_stages_skipped_total";
const TOKENS_SAVED: &str = "podium_cascade_tokens_saved_total";
const SHADOW_RANKINGS: &str = "podium_shadow_rankings_total";
const SHADOW_TOP_CHANGED: &str = "podium_shadow_top_changed_total";
const SHADOW_AGREEMENT: &str = "podium_shadow_order_agreement";
const SHADOW_TOKENS: &str = "podium_shadow_tokens_total";
const SHADOW_MILLISECONDS: &str = "podium_shadow_forward_milliseconds_total";
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

/// Histograms of other things than seconds.
const BUCKETS: [(&str, &[f64]); 7] = [
    (SHADOW_AGREEMENT, &SHARES),
    (LIST_LENGTH, &LIST_LENGTHS),
    (DRIFT_RELEVANCE, &SHARES),
    (DRIFT_TOP, &SHARES),
    (DRIFT_LEAD, &LEADS),
    (DRIFT_AGREEMENT, &SHARES),
    (DRIFT_TRUNCATED, &CUT_SHARES),
];

/// Backends that this build has besides the CPU.
const BACKENDS: [(&str, bool); 3] = [
    ("cuda", cfg!(feature = "cuda")),
    ("flash-attn", cfg!(feature = "flash-attn")),
    ("metal", cfg!(feature = "metal")),
];

/// Key names with a series of their own. Few are in effect at a time, but every keys file may add
/// some.
const MAX_KEY_NAMES: usize = 500;
/// The label of all further names.
const OTHER_KEYS: &str = "other";

pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    key_names: Mutex<BTreeSet<String>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        // Only an empty list of buckets is an error, and none of these is empty.
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
            describe_counter!(REQUESTS, "Requests by kind of route, route and status; 499 is a client that left.");
            describe_counter!(
                ERRORS,
                "Failed requests by kind of route and error code; own_deadline_exceeded is a timeout that the request set."
            );
            describe_counter!(KEY_REQUESTS, "Requests with an API key, by the name of the key and status.");
            describe_histogram!(DURATION, Unit::Seconds, "From a request's head to its answer, by kind and route.");
            describe_histogram!(STAGE, Unit::Seconds, "Stages of a ranking: queue, tokenize, forward.");
            describe_counter!(RANKINGS, "Rankings by mode.");
            describe_counter!(SLATES, "Slates (listwise) or documents (pointwise) that the model read, by mode.");
            describe_counter!(DOCUMENTS, "Documents in ranked requests.");
            describe_counter!(TOKENS, "Tokens sent through the model for ranked requests.");
            describe_counter!(TRUNCATED, "Documents that were truncated.");
            describe_counter!(PASSAGES, "Passages of split documents that the model read.");
            describe_counter!(LEFT_OUT, "Documents below the minimum score of their request.");
            describe_counter!(LEFT_EARLY, "Documents that left the model before its last layer.");
            describe_counter!(LAYERS_SAVED, "Layers not computed for them, as tokens through all layers.");
            describe_histogram!(LIST_LENGTH, "Documents in one ranked request.");
            describe_gauge!(READY, "1 if the server takes new requests; 0 while it shuts down or its device fails.");
            describe_gauge!(
                MODEL_MEMORY,
                Unit::Bytes,
                "Weights, limit of the prefix cache and largest batch, by model; 0 if the model is not loaded."
            );
            describe_gauge!(BUILD, "Always 1; the labels describe the build.");
            describe_counter!(TRACE_SPANS, "Spans of traces that were sent to the receiver, or dropped.");
        });
        self.describe_cascades();
        self.describe_shadows();
        self.describe_drift();
    }

    fn describe_shadows(&self) {
        with_local_recorder(&self.recorder, || {
            describe_counter!(SHADOW_RANKINGS, "Requests that a shadow was to rank, by what became of them.");
            describe_counter!(SHADOW_TOP_CHANGED, "Shadow rankings of which another document is first.");
            describe_histogram!(
                SHADOW_AGREEMENT,
                "Agreement of a shadow's order with the one that was sent (Kendall's tau as a share: 1 same, 0 reversed)."
            );
            describe_counter!(SHADOW_TOKENS, "Tokens of compared rankings, by who read them: the model or its shadow.");
            describe_counter!(
                SHADOW_MILLISECONDS,
                "Device time of compared rankings, by who took it: the model or its shadow."
            );
        });
    }

    fn describe_cascades(&self) {
        with_local_recorder(&self.recorder, || {
            describe_counter!(STAGE_DOCUMENTS, "Documents that a stage of a cascade ranked.");
            describe_counter!(STAGE_TOKENS, "Tokens that a stage of a cascade read.");
            describe_counter!(STAGES_SKIPPED, "Stages of cascades that did not run, by reason.");
            describe_counter!(
                TOKENS_SAVED,
                "Estimate of the tokens that the last models of cascades did not have to read."
            );
        });
    }

    fn describe_drift(&self) {
        with_local_recorder(&self.recorder, || {
            describe_histogram!(DRIFT_RELEVANCE, "Relevance of each document of the sampled rankings.");
            describe_histogram!(DRIFT_TOP, "Relevance of the best document of a sampled ranking.");
            describe_histogram!(DRIFT_LEAD, "Relevance of the best document minus that of the second.");
            describe_histogram!(
                DRIFT_AGREEMENT,
                "Agreement of a sampled ranking with another order (Kendall's tau as a share: 1 same, 0 reversed)."
            );
            describe_histogram!(DRIFT_TRUNCATED, "Share of truncated documents in a sampled ranking.");
        });
    }

    /// Creates counters before their first event, which `rate()` would miss otherwise.
    fn start_at_zero(&self) {
        with_local_recorder(&self.recorder, || {
            for name in [DOCUMENTS, PASSAGES, TOKENS, TRUNCATED, LEFT_OUT, LEFT_EARLY, LAYERS_SAVED] {
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

    /// Creates the counters of these outcomes, and of these error codes for every kind of route.
    pub(super) fn expect(&self, outcomes: &[Outcomes], codes: &[&'static str]) {
        with_local_recorder(&self.recorder, || {
            for Outcomes { route, statuses } in outcomes {
                for status in statuses {
                    let kind = route.kind.as_str();
                    let status = status.to_string();
                    counter!(REQUESTS, "kind" => kind, "route" => route.path, "status" => status).increment(0);
                }
            }
            for kind in RouteKind::ALL {
                for code in codes {
                    counter!(ERRORS, "kind" => kind.as_str(), "code" => *code).increment(0);
                }
            }
        });
    }

    pub(super) fn record(&self, request: &RequestRecord<'_>) {
        with_local_recorder(&self.recorder, || {
            let status = request.status.to_string();
            if let Some(key) = request.key {
                counter!(KEY_REQUESTS, "key" => self.key_label(key), "status" => status.clone()).increment(1);
            }
            let (kind, route) = (request.route.kind.as_str(), request.route.path);
            counter!(REQUESTS, "kind" => kind, "route" => route, "status" => status).increment(1);
            histogram!(DURATION, "kind" => kind, "route" => route).record(request.elapsed);
            if let Some(failure) = request.failure {
                counter!(ERRORS, "kind" => kind, "code" => failure.code).increment(1);
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
            counter!(PASSAGES).increment(ranking.passages as u64);
            counter!(LEFT_OUT).increment(ranking.left_out as u64);
            counter!(LEFT_EARLY).increment(ranking.early_exit.left_early as u64);
            counter!(LAYERS_SAVED).increment(ranking.early_exit.tokens_saved as u64);
            histogram!(LIST_LENGTH).record(ranking.documents as f64);
            if let Some(cascade) = request.timeline.cascade() {
                record_cascade(&cascade);
            }
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

    pub(super) fn record_shadow(&self, sample: &ShadowSample) {
        with_local_recorder(&self.recorder, || {
            let labels = [("model", sample.model.clone()), ("shadow", sample.shadow.clone())];
            let [model, shadow] = labels.clone();
            let outcome = ("outcome", sample.outcome.as_str().to_owned());
            counter!(SHADOW_RANKINGS, &[model, shadow, outcome]).increment(1);
            let ShadowOutcome::Compared(comparison) = &sample.outcome else { return };
            counter!(SHADOW_TOP_CHANGED, &labels).increment(u64::from(comparison.is_top_changed));
            if let Some(agreement) = comparison.agreement {
                histogram!(SHADOW_AGREEMENT, &labels).record(agreement);
            }
            for (by, cost) in [("model", comparison.sent), ("shadow", comparison.shadow)] {
                let [model, shadow] = labels.clone();
                let labels = [model, shadow, ("by", by.to_owned())];
                counter!(SHADOW_TOKENS, &labels).increment(cost.tokens as u64);
                counter!(SHADOW_MILLISECONDS, &labels).increment(cost.forward.as_millis() as u64);
            }
        });
    }

    /// The name itself, or `other` once there are too many names.
    fn key_label(&self, name: &str) -> String {
        let mut names = self.key_names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(name) || (names.len() < MAX_KEY_NAMES && names.insert(name.to_owned())) {
            name.to_owned()
        } else {
            OTHER_KEYS.to_owned()
        }
    }

    pub(super) fn set_model_memory(&self, model: &str, bytes: u64) {
        with_local_recorder(&self.recorder, || gauge!(MODEL_MEMORY, "model" => model.to_owned()).set(bytes as f64));
    }

    /// The exposition. `spans` are the spans that were sent, and those that were dropped.
    pub(super) fn render(&self, models: &[ModelReport<'_>], spans: (u64, u64), ready: bool) -> String {
        with_local_recorder(&self.recorder, || {
            counter!(TRACE_SPANS, "outcome" => "sent").absolute(spans.0);
            counter!(TRACE_SPANS, "outcome" => "dropped").absolute(spans.1);
            gauge!(READY).set(if ready { 1.0 } else { 0.0 });
        });
        let mut text = Exposition::append_to(self.handle.render());
        write_models(&mut text, models);
        process::write(&mut text);
        text.into_text()
    }

    pub(super) fn fold(&self) {
        self.handle.run_upkeep();
    }
}

/// Counts what the stages of a cascade did. Call it with the recorder in place.
fn record_cascade(report: &CascadeReport) {
    counter!(TOKENS_SAVED, "cascade" => report.name.clone()).increment(report.tokens_saved as u64);
    for stage in report.stages.iter().filter(|stage| stage.stage > 0) {
        let labels = [
            ("cascade", report.name.clone()),
            ("stage", stage.stage.to_string()),
            ("model", stage.model.clone().unwrap_or_default()),
        ];
        counter!(STAGE_DOCUMENTS, &labels).increment(stage.documents as u64);
        counter!(STAGE_TOKENS, &labels).increment(stage.tokens as u64);
        if let Some(reason) = stage.skipped {
            let [cascade, number, model] = labels;
            let labels = [cascade, number, model, ("reason", reason.as_str().to_owned())];
            counter!(STAGES_SKIPPED, &labels).increment(1);
        }
    }
}

/// Writes the series of the models that are in memory.
fn write_models(text: &mut Exposition, models: &[ModelReport<'_>]) {
    let facts: Vec<Labels> = models.iter().map(ModelReport::labels).collect();
    text.gauges(MODEL, "Always 1; the labels describe the model.", facts.iter().map(|labels| (labels, 1.0)));
    let names: Vec<Labels> = models.iter().map(|model| Labels::new(&[("model", model.name)])).collect();
    let all = || names.iter().zip(models);
    let canaries = all().filter_map(|(labels, model)| Some((labels, model.canary?)));
    text.gauges(CANARY, "Share of the canary's questions that the model answered when it was loaded.", canaries);
    let requests = all().map(|(labels, model)| (labels, model.queue.requests as f64));
    text.gauges(QUEUE_REQUESTS, "Requests admitted and not yet answered.", requests);
    let passes = all().map(|(labels, model)| (labels, model.queue.waiting_passes as f64));
    text.gauges(QUEUE_PASSES, "Passes that wait for the device.", passes);
    let tokens = all().map(|(labels, model)| (labels, model.queue.waiting_tokens as f64));
    text.gauges(QUEUE_TOKENS, "Tokens of the passes that wait for the device.", tokens);
    let passes = all().map(|(labels, model)| (labels, &model.batches.passes));
    text.histograms(BATCH_PASSES, "Passes in a batch.", passes);
    let tokens = all().map(|(labels, model)| (labels, &model.batches.tokens));
    text.histograms(BATCH_TOKENS, "Tokens in a batch.", tokens);
    let seconds = all().map(|(labels, model)| (labels, &model.batches.seconds));
    text.histograms(BATCH_SECONDS, "Time that a batch took on the device.", seconds);
    let looked_up = all().map(|(labels, model)| (labels, model.batches.prefixes.looked_up_tokens as f64));
    text.counters(PREFIX_LOOKED_UP, "Prefix tokens that were looked up in the prefix cache.", looked_up);
    let found = all().map(|(labels, model)| (labels, model.batches.prefixes.hit_tokens as f64));
    text.counters(PREFIX_FOUND, "Prefix tokens that the prefix cache had.", found);
    let evicted = all().map(|(labels, model)| (labels, model.batches.prefixes.evicted_blocks as f64));
    text.counters(PREFIX_EVICTED, "Blocks of 16 tokens that the prefix cache evicted.", evicted);
    let bytes = all().map(|(labels, model)| (labels, model.batches.prefixes.bytes as f64));
    text.gauges(PREFIX_BYTES, "Size of the keys and values in the prefix cache.", bytes);
}

impl ModelReport<'_> {
    /// The labels of `podium_model_info`.
    fn labels(&self) -> Labels {
        Labels::new(&[
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

    use tracing::Span;

    use super::*;
    use crate::context::RequestTimeline;
    use crate::telemetry::Route;

    #[test]
    fn key_names_beyond_the_limit_share_one_series() {
        let metrics = Metrics::new();
        let names: Vec<String> = (0..MAX_KEY_NAMES + 20).map(|number| format!("key-{number}")).collect();
        for name in names.iter().chain(&names[..3]) {
            metrics.record(&RequestRecord {
                id: "id",
                key: Some(name),
                method: "POST",
                route: Route::rank("/v1/rerank"),
                status: 200,
                elapsed: Duration::ZERO,
                ranking: None,
                failure: None,
                timeline: &RequestTimeline::new(Span::none()),
                span: &Span::none(),
            });
        }
        let text = metrics.render(&[], (0, 0), true);
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with("podium_key_requests_total{")).collect();
        assert_eq!(series.len(), MAX_KEY_NAMES + 1);
        assert!(series.contains(&r#"podium_key_requests_total{key="key-0",status="200"} 2"#));
        assert!(series.contains(&r#"podium_key_requests_total{key="other",status="200"} 20"#));
    }
}
