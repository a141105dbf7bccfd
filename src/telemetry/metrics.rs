//! The metrics: names, help and labels in one place.
//!
//! The recorder belongs to one [`Telemetry`](super::Telemetry) and is not the process's, so that two servers in one
//! process (tests have many) do not count each other's requests.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::RequestRecord;
use crate::rerank::Mode;
use crate::runtime::ModelFacts;
use crate::schedule::QueueStatus;

const REQUESTS: &str = "podium_requests_total";
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

const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const LIST_LENGTHS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 64.0, 100.0, 200.0, 500.0, 1000.0];

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
    pub(super) fn new(model: &str, family: &str, facts: &ModelFacts) -> Self {
        // Only an empty list of buckets is refused, and these are not: the builder is taken as it was then.
        let builder = PrometheusBuilder::new().set_buckets(&SECONDS).unwrap_or_default();
        let list_length = Matcher::Full(LIST_LENGTH.to_owned());
        let builder = builder.set_buckets_for_metric(list_length, &LIST_LENGTHS).unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle, key_names: Mutex::default() };
        metrics.describe();
        metrics.start_at_zero(model, family, facts);
        metrics
    }

    fn describe(&self) {
        with_local_recorder(&self.recorder, || {
            describe_counter!(REQUESTS, "Requests answered, by route and status; 499 is a client that left.");
            describe_counter!(KEY_REQUESTS, "Requests that came with an API key, by its name and their status.");
            describe_histogram!(DURATION, Unit::Seconds, "From the head of a request to its answer, by route.");
            describe_histogram!(STAGE, Unit::Seconds, "Parts of a ranking: queue, tokenize, forward.");
            describe_counter!(RANKINGS, "Rankings made, by the mode that ran.");
            describe_counter!(SLATES, "Slates (listwise) or documents (pointwise) read, by mode.");
            describe_counter!(DOCUMENTS, "Documents in the requests that were ranked.");
            describe_counter!(TOKENS, "Tokens sent through the model.");
            describe_counter!(TRUNCATED, "Documents of which the end was cut off.");
            describe_histogram!(LIST_LENGTH, "Documents in one ranked request.");
            describe_gauge!(QUEUE_REQUESTS, "Requests accepted and not yet answered.");
            describe_gauge!(QUEUE_PASSES, "Passes waiting for the device.");
            describe_gauge!(QUEUE_TOKENS, "Tokens of the passes waiting for the device.");
            describe_gauge!(
                READY,
                "1 while new requests are welcome; 0 while the server shuts down or its device fails."
            );
            describe_gauge!(MODEL_MEMORY, Unit::Bytes, "Weights in memory, by model; 0 where it is not loaded.");
            describe_gauge!(MODEL, "Always 1; the labels say what is served.");
        });
    }

    /// A counter that is missing until its first event hides that event from `rate()`.
    fn start_at_zero(&self, model: &str, family: &str, facts: &ModelFacts) {
        with_local_recorder(&self.recorder, || {
            for name in [DOCUMENTS, TOKENS, TRUNCATED] {
                counter!(name).increment(0);
            }
            for mode in [Mode::Listwise, Mode::Pointwise] {
                counter!(RANKINGS, "mode" => mode.as_str()).increment(0);
                counter!(SLATES, "mode" => mode.as_str()).increment(0);
            }
            let labels = [
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("model", model.to_owned()),
                ("family", family.to_owned()),
                ("architecture", facts.architecture.clone()),
                ("device", facts.device.clone()),
                ("dtype", facts.dtype.clone()),
            ];
            gauge!(MODEL, &labels).set(1.0);
            gauge!(MODEL_MEMORY, "model" => model.to_owned()).set(facts.weight_bytes() as f64);
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

    pub(super) fn render(&self, queue: QueueStatus, ready: bool) -> String {
        with_local_recorder(&self.recorder, || {
            gauge!(QUEUE_REQUESTS).set(queue.requests as f64);
            gauge!(QUEUE_PASSES).set(queue.waiting_passes as f64);
            gauge!(QUEUE_TOKENS).set(queue.waiting_tokens as f64);
            gauge!(READY).set(if ready { 1.0 } else { 0.0 });
        });
        self.handle.render()
    }

    pub(super) fn fold(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_that_keep_changing_do_not_make_series_without_end() {
        let facts = ModelFacts {
            architecture: "qwen3".to_owned(),
            parameters: 1,
            layers: 1,
            hidden_size: 1,
            vocabulary: 1,
            max_positions: 1,
            projector: false,
            device: "cpu".to_owned(),
            dtype: "f32".to_owned(),
        };
        let metrics = Metrics::new("model", "family", &facts);
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
            });
        }
        let queue = QueueStatus::default();
        let text = metrics.render(queue, true);
        let series: Vec<&str> = text.lines().filter(|line| line.starts_with("podium_key_requests_total{")).collect();
        assert_eq!(series.len(), KEY_NAMES + 1);
        assert!(series.contains(&r#"podium_key_requests_total{key="key-0",status="200"} 2"#));
        assert!(series.contains(&r#"podium_key_requests_total{key="other",status="200"} 20"#));
    }
}
