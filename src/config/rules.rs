//! The values that each key may have, beyond its type.

use toml::Value;

use super::named::{self, pattern};
use crate::http::{cors_layer, is_path_prefix};
use crate::runtime::ModelSettings;

/// A constraint on a key's value.
enum Allowed {
    Anything,
    /// A text that is not empty.
    Text,
    /// Host and port.
    Address,
    OneOf(&'static [&'static str]),
    /// A device that models run on.
    Device,
    /// Minimum and maximum, both allowed.
    Between(i64, i64),
    /// A number between 0 and 1.
    Share,
    /// Empty, or an HTTP URL.
    Url,
    /// CORS origins.
    Origins,
    /// Empty, or the prefix of a path.
    Prefix,
}

use Allowed::{Address, Anything, Between, Device, OneOf, Origins, Prefix, Share, Text, Url};

const DAY: i64 = 86_400;

/// One row for each key; a test compares this list with `config/default.toml`.
const RULES: &[(&str, Allowed)] = &[
    ("server.listen", Address),
    ("server.max_body_bytes", Between(1024, 1 << 30)),
    ("server.max_parsing_bytes", Between(1 << 20, 1 << 40)),
    ("server.max_connections", Between(1, 1_000_000)),
    ("server.header_timeout_seconds", Between(1, DAY)),
    ("server.body_timeout_seconds", Between(1, DAY)),
    ("server.write_timeout_seconds", Between(1, DAY)),
    ("server.drain_delay_seconds", Between(0, DAY)),
    ("server.shutdown_seconds", Between(0, DAY)),
    ("server.refuse_unknown_fields", Anything),
    ("server.path_prefix", Prefix),
    ("server.cors_origins", Origins),
    ("auth.keys_file", Anything),
    ("auth.requests_per_minute", Between(0, 1_000_000)),
    ("auth.protect_metrics", Anything),
    ("auth.admin_keys_file", Anything),
    ("model.source", Text),
    ("model.revision", Text),
    ("model.family", Text),
    ("model.device", Device),
    ("model.dtype", OneOf(&["auto", "f32", "bf16"])),
    ("model.quantize", OneOf(ModelSettings::QUANTISED)),
    ("model.served_names", Anything),
    ("model.early_exit", Anything),
    ("model.cutoff_layer", Between(0, 4096)),
    ("model.prefix_cache_bytes", Between(0, 1 << 40)),
    ("model.cache", Anything),
    ("model.offline", Anything),
    ("models.max_memory_bytes", Between(0, i64::MAX)),
    (named::LOAD, OneOf(&["start", "on_demand", "off"])),
    // `cascades` checks the stages.
    (named::CASCADE, Anything),
    (named::STOP_WHEN_SURE, Share),
    (named::SHADOW_OF, Text),
    (named::SHARE, Share),
    ("prompts.folder", Anything),
    ("limits.max_documents", Between(1, 100_000)),
    ("limits.max_passages", Between(1, 1_000_000)),
    ("limits.max_slate_documents", Between(2, 1024)),
    ("limits.max_slate_tokens", Between(64, 1 << 24)),
    ("passages.long_documents", OneOf(&["truncate", "chunk"])),
    ("passages.chunk_tokens", Between(0, 1 << 24)),
    ("passages.chunk_overlap_tokens", Between(0, 1 << 23)),
    ("passages.max_chunks_per_doc", Between(0, 1_000_000)),
    ("passages.chunk_merge", OneOf(&["max", "mean_top_2", "first"])),
    ("instructions.default", Anything),
    ("instructions.file", Anything),
    ("instructions.in_query", Anything),
    ("schedule.max_queued_requests", Between(1, 1_000_000)),
    ("schedule.max_queued_tokens", Between(64, 1 << 32)),
    ("schedule.max_wait_seconds", Between(0, DAY)),
    ("schedule.max_batch_tokens", Between(64, 1 << 24)),
    ("schedule.timeout_seconds", Between(0, DAY)),
    ("schedule.stall_seconds", Between(0, DAY)),
    ("schedule.hang_seconds", Between(0, DAY)),
    ("telemetry.log_level", OneOf(&["off", "error", "warn", "info", "debug", "trace"])),
    ("telemetry.log_format", OneOf(&["text", "json"])),
    ("telemetry.drift_sample", Share),
    ("telemetry.otlp_endpoint", Url),
    ("telemetry.trace_sample", Share),
    ("telemetry.service_name", Anything),
];

/// The values that `key` may have, if `value` is not one of them.
pub(super) fn violated_rule(key: &str, value: &Value) -> Option<String> {
    let pattern = pattern(key);
    let allowed = RULES.iter().find_map(|(ruled, allowed)| (*ruled == pattern).then_some(allowed))?;
    let text = value.as_str().unwrap_or_default();
    match allowed {
        Anything => None,
        Text => text.trim().is_empty().then(|| "a text that is not empty".to_owned()),
        Address => {
            let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            (!matches!(port, Some(Ok(_)))).then(|| "an address with a port, such as 127.0.0.1:8080".to_owned())
        }
        OneOf(words) => (!words.contains(&text)).then(|| format!("one of {}", words.join(", "))),
        Device => (!ModelSettings::is_device(text)).then(|| "one of auto, cpu, cuda, cuda:N, metal".to_owned()),
        Between(min, max) => {
            let fits = value.as_integer().is_some_and(|number| (*min..=*max).contains(&number));
            (!fits).then(|| format!("between {min} and {max}"))
        }
        Share => {
            let fits = value.as_float().is_some_and(|share| (0.0..=1.0).contains(&share));
            (!fits).then(|| "a number between 0 and 1".to_owned())
        }
        Url => {
            let fits = text.is_empty() || text.starts_with("http://") || text.starts_with("https://");
            (!fits).then(|| "empty, or a URL such as http://localhost:4318".to_owned())
        }
        Origins => cors_layer(text).err(),
        Prefix => (!is_path_prefix(text))
            .then(|| "empty, or a path without a slash at its end, such as /rerankers".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_has_a_rule_and_satisfies_it_and_every_rule_has_a_default() {
        let defaults = super::super::values::defaults().unwrap();
        for (key, (value, _)) in &defaults {
            assert!(RULES.iter().any(|(ruled, _)| ruled == key), "no rule for {key}");
            assert_eq!(violated_rule(key, value), None, "{key}");
        }
        // Keys that only named models have have no default.
        assert_eq!(RULES.len(), defaults.len() + named::OWN_KEYS.len());
    }
}
