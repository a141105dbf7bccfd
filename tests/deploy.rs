//! The files in `deploy/` against the server: they name metrics, labels and settings that exist,
//! and the panels of the dashboard fit together. And the image's build against the sources.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files should fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podium::context::{RankingSummary, RequestTimeline};
use podium::pipeline::{DriftSample, InstructionSource};
use podium::rerank::agreement::{Comparison, RankingCost, ShadowOutcome, ShadowSample};
use podium::rerank::{CascadeReport, EarlyExitReport, Mode, SkipReason, StageReport, Timing, Usage};
use podium::runtime::{ModelFacts, WorkspaceSize};
use podium::schedule::{BatchStatistics, QueueStatus};
use podium::telemetry::{ModelReport, RequestRecord, Route, Telemetry};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana/podium.json")).unwrap()
}

/// Names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character));
    words.filter(|word| word.starts_with("podium_")).map(ToOwned::to_owned).collect()
}

/// The facts of a small model.
fn facts() -> ModelFacts {
    ModelFacts {
        architecture: "Qwen3Model".to_owned(),
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        cpu_instructions: Some("neon"),
        parameters: 1,
        weight_bytes: 4,
        workspace: WorkspaceSize::default(),
        hidden_size: 1,
        layers: 1,
        vocabulary: 1,
        max_positions: 1,
        causal: true,
        token_types: 0,
        projector: false,
        token_projection: false,
        vocabulary_head: true,
        classifier: None,
        prefix_cache_bytes: 0,
    }
}

/// The server's metrics after one request that was ranked.
fn exported() -> String {
    let facts = facts();
    let telemetry = Telemetry::default();
    let ranking = RankingSummary {
        mode: Mode::Listwise,
        documents: 3,
        slates: 1,
        passages: 0,
        left_out: 0,
        early_exit: EarlyExitReport::default(),
        usage: Usage { prompt_tokens: 100, truncated_documents: 1 },
        timing: Timing::default(),
    };
    let timeline = RequestTimeline::new(tracing::Span::none());
    let stage = |stage, skipped| {
        let model = Some("a-model".to_owned());
        StageReport { stage, model, documents: 3, tokens: 100, time: None, skipped }
    };
    timeline.note_cascade(CascadeReport {
        name: "a-cascade".to_owned(),
        stages: vec![stage(1, None), stage(2, Some(SkipReason::Sure))],
        tokens_saved: 10,
    });
    telemetry.record(&RequestRecord {
        id: "an-id",
        key: None,
        method: "POST",
        route: Route::rank("/v1/rerank"),
        status: 200,
        elapsed: Duration::from_millis(5),
        ranking: Some(&ranking),
        failure: None,
        timeline: &timeline,
        span: &tracing::Span::none(),
    });
    telemetry.expect(&[], &["overloaded"]);
    telemetry.record_drift(&DriftSample {
        model: "a-model".to_owned(),
        instruction: InstructionSource::Own,
        scores: vec![0.9, 0.2],
        input_agreement: Some(0.5),
        lexical_agreement: Some(0.5),
        truncated: 0.0,
    });
    let cost = RankingCost { tokens: 100, forward: Duration::from_millis(5) };
    let comparison = Comparison { agreement: Some(0.9), is_top_changed: true, sent: cost, shadow: cost };
    telemetry.record_shadow(&ShadowSample {
        model: "a-model".to_owned(),
        shadow: "a-shadow".to_owned(),
        outcome: ShadowOutcome::Compared(comparison),
    });
    telemetry.set_model_memory("a-model", facts.weight_bytes);
    let model = ModelReport {
        name: "a-model",
        family: "a-family",
        facts: &facts,
        queue: QueueStatus::default(),
        batches: BatchStatistics::default(),
        canary: Some(1.0),
    };
    telemetry.render(&[model], true)
}

/// Every string under `value`.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| strings(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn every_metric_that_deploy_names_is_exported() {
    let exported = metrics_in(&exported());
    assert!(exported.contains("podium_requests_total"), "{exported:?}");
    for file in [
        "deploy/grafana/podium.json",
        "deploy/alerts.yml",
        "deploy/alerts.test.yml",
        "deploy/helm/podium/templates/autoscaling.yaml",
        "deploy/helm/podium/README.md",
        "deploy/README.md",
    ] {
        let named = metrics_in(&read(file));
        assert!(!named.is_empty(), "{file} names no metric");
        let missing: Vec<&String> = named.difference(&exported).collect();
        assert!(missing.is_empty(), "{file}: the server has no {missing:?}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let names = metrics_in(&exported());
    let dashboard = dashboard();
    let mut texts = Vec::new();
    strings(&dashboard, &mut texts);
    for name in names {
        // A histogram is three series; one of them is enough.
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
        assert!(texts.iter().any(|text| text.contains(base)), "{base} is not on the dashboard");
    }
}

/// Error codes for which the server is to blame, as a file selects them.
fn server_faults(file: &str) -> BTreeSet<String> {
    let text = read(file).replace('\\', "");
    let selectors = text.split("code=~\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    selectors.collect()
}

#[test]
fn alerts_and_dashboard_blame_the_server_for_the_same_errors() {
    let alerts = server_faults("deploy/alerts.yml");
    assert_eq!(alerts.len(), 1);
    assert_eq!(server_faults("deploy/grafana/podium.json"), alerts);
}

#[test]
fn a_label_that_a_query_selects_is_exported() {
    let exported = exported();
    let known = ["job", "instance", "le"];
    let dashboard = dashboard();
    let mut texts = Vec::new();
    strings(&dashboard, &mut texts);
    for text in texts.iter().filter(|text| text.contains("podium_")) {
        for selector in text.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            for matcher in selector.split(", ").filter_map(|matcher| matcher.split(['=', '!']).next()) {
                let is_exported =
                    exported.contains(&format!("{{{matcher}=\"")) || exported.contains(&format!(",{matcher}=\""));
                assert!(known.contains(&matcher) || is_exported, "{matcher} in {text}");
            }
        }
    }
}

#[test]
fn panels_do_not_overlap_and_have_unique_ids() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut cells, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: another panel has its id");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is wider than the page");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} overlaps another panel");
            }
        }
    }
    assert!(!panels.is_empty());
}

#[test]
fn quantiles_means_and_shares_are_not_stacked() {
    let dashboard = dashboard();
    let stacked = |panel: &&Value| panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal";
    let mut count = 0;
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(stacked) {
        count += 1;
        let title = &panel["title"];
        assert_ne!(panel["fieldConfig"]["defaults"]["unit"], "percentunit", "{title} stacks shares");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(!query.contains("histogram_quantile"), "{title} stacks quantiles");
            // Stage times may be stacked: together they are the whole time.
            let is_mean = query.contains("_sum{") && query.contains("_count{") && !query.contains("_stage_");
            assert!(!is_mean, "{title} stacks means");
        }
    }
    assert!(count > 0);
}

#[test]
fn every_variable_of_a_query_is_declared_or_grafanas_own() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let mut known: BTreeSet<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    known.extend(["__rate_interval", "__range"]);
    let mut used = BTreeSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        for rest in target["expr"].as_str().unwrap().split('$').skip(1) {
            let end = rest.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
            used.insert(&rest[..end.unwrap_or(rest.len())]);
        }
    }
    assert!(used.contains("drift_window"), "{used:?}");
    assert_eq!(used.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn the_charts_schema_knows_every_setting_and_its_type() {
    let defaults: toml::Table = toml::from_str(&read("config/default.toml")).unwrap();
    let schema: Value = serde_json::from_str(&read("deploy/helm/podium/values.schema.json")).unwrap();
    let sections = &schema["properties"]["config"]["properties"];
    for (section, keys) in &defaults {
        for (key, value) in keys.as_table().unwrap() {
            let found = sections[section]["properties"][key]["type"].as_str();
            // JSON Schema and TOML name all other types alike.
            let wanted = if value.is_float() { "number" } else { value.type_str() };
            assert_eq!(found, Some(wanted), "values.schema.json: config.{section}.{key}");
        }
    }
}

/// The sources in a folder of the repository, by their paths in it.
fn sources(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        if path.is_dir() {
            found.extend(sources(name.to_str().unwrap()));
        } else if name.extension().is_some_and(|extension| extension == "rs") {
            found.push(name);
        }
    }
    found
}

/// Files of the repository that a source includes. Test code is left out: the image has none.
fn included_by(source: &Path) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    let text = read(source.to_str().unwrap());
    let code = text.split("#[cfg(test)]").next().unwrap();
    let calls = ["include_str!(", "include_bytes!("].into_iter().flat_map(|call| code.split(call).skip(1));
    // A concatenated path begins with its folder; files that the build makes begin with a variable.
    calls
        .filter_map(|call| call.trim_start().trim_start_matches("concat!(").strip_prefix('"')?.split('"').next())
        .map(|path| root.join(source).with_file_name(path).canonicalize().unwrap())
        .map(|path| path.strip_prefix(&root).unwrap().to_path_buf())
        .collect()
}

#[test]
fn the_docker_build_context_has_every_file_that_the_build_reads() {
    let rules = read(".dockerignore");
    let admitted: Vec<&str> =
        rules.lines().filter_map(|line| line.strip_prefix('!')).map(|name| name.trim_end_matches('/')).collect();
    assert!(rules.lines().any(|line| line == "*"), ".dockerignore excludes nothing");

    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let readme = manifest["package"]["readme"].as_str().unwrap();
    let mut needed: BTreeSet<PathBuf> = ["Cargo.toml", "Cargo.lock", "build.rs", readme].map(PathBuf::from).into();
    for bench in manifest["bench"].as_array().unwrap() {
        needed.insert(format!("benches/{}.rs", bench["name"].as_str().unwrap()).into());
    }
    for line in read("Dockerfile").lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let name = line.split(' ').nth(1).unwrap();
        needed.extend((name != ".").then(|| PathBuf::from(name)));
    }
    let files = sources("src");
    needed.extend(files.iter().flat_map(|source| included_by(source)));
    assert!(needed.contains(Path::new("config/default.toml")) && needed.contains(Path::new("prompts")), "{needed:?}");
    assert!(needed.contains(Path::new("models/podium-mini/model.safetensors")), "{needed:?}");

    needed.extend(files);
    let missing: Vec<_> =
        needed.iter().filter(|path| !admitted.iter().any(|admitted| path.starts_with(admitted))).collect();
    assert!(missing.is_empty(), ".dockerignore excludes {missing:?}");
}
