//! Tests of `podium bench`: run the program on the embedded model and on small random checkpoints.

#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `podium bench` in a folder.
fn bench(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podium"));
    command.current_dir(folder).env_clear().arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `podium bench --json -` and parses its output.
fn bench_json(folder: &Path, arguments: &[&str]) -> Value {
    let output = bench(folder, &[arguments, &["--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

#[test]
fn a_grid_is_measured_in_process_and_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--device", "cpu", "--documents", "2,4", "--tokens", "16", "--concurrency", "1,2"];
    let report = bench_json(folder.path(), &[&arguments[..], &["--over", "in-process,http", "--runs", "2"]].concat());
    assert_eq!((&report["schema"], &report["system"]["name"]), (&2.into(), &"podium-mini".into()));
    assert_eq!(report["settings"]["rounds"], 2, "no round is empty");
    assert_eq!(report["machine"]["product_rates"].as_array().unwrap().len(), 2);
    let cases = report["cases"].as_array().unwrap();
    let name = |case: &Value| (case["route"].as_str().unwrap().to_owned(), case["concurrency"].as_u64().unwrap());
    let names: Vec<_> = cases.iter().map(name).collect();
    let cases_of_a_size = [("in-process", 1), ("http", 1), ("in-process", 2), ("http", 2)];
    let expected: Vec<_> =
        [cases_of_a_size, cases_of_a_size].concat().iter().map(|(route, n)| ((*route).to_owned(), *n)).collect();
    assert_eq!(names, expected);
    for case in cases {
        assert_eq!(case["requests"].as_u64().unwrap(), 2 * case["concurrency"].as_u64().unwrap(), "{case}");
        assert_eq!(case["requests"], case["latency_ms"]["samples"].as_array().unwrap().len(), "{case}");
        // After the prompt's own text, the first word of a document may have one token fewer.
        assert!((15.0..=16.0).contains(&number(&case["tokens_per_document"])), "{case}");
        assert_eq!(case["truncated_documents"], 0, "{case}");
        let rate = number(&case["requests"]) / number(&case["seconds"]);
        assert!((number(&case["requests_per_second"]) - rate).abs() < rate * 1e-9, "{case}");
        let latency = &case["latency_ms"];
        assert!(number(&latency["min"]) <= number(&latency["p50"]) && latency["p95"].is_null(), "{case}");
        assert!(number(&case["parts_ms"]["forward"]) > 0.0 && number(&case["product_share"]) > 0.0, "{case}");
    }
    // The same requests take the same operations on both routes.
    let operations =
        |case: &Value| number(&case["operations_per_second"]) * number(&case["seconds"]) / number(&case["requests"]);
    let (here, there) = (operations(&cases[0]), operations(&cases[1]));
    assert!((here - there).abs() < here * 1e-6, "{here} and {there}");
}

#[test]
fn a_random_checkpoint_is_written_measured_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let shape = ["--shape", "nano", "--layers", "1", "--stored", "f32", "--keep", "kept", "--device", "cpu"];
    let output = bench(
        folder.path(),
        &[&shape[..], &["--documents", "2", "--tokens", "8-12", "--runs", "1", "--plot", "out.svg"]].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for part in [
        "wrote nano with random weights, 1 layer for the family podium-nano: ",
        ", in kept",
        "8-12",
        "wrote out.svg",
        "GFLOP/s",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert!(printed.contains("p50 needs 2 requests, p95 20, p99 100"), "{printed}");
    let svg = fs::read_to_string(folder.path().join("out.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("<polyline") && svg.ends_with("</svg>\n"), "{svg}");
    // The kept checkpoint loads like any other.
    let report = bench_json(folder.path(), &["--model", "kept", "--documents", "2", "--tokens", "8", "--runs", "1"]);
    assert_eq!((&report["system"]["name"], &report["system"]["family"]), (&"kept".into(), &"podium-nano".into()));
    let again = bench(folder.path(), &shape);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(text(&again.stderr), "error: --keep: kept already exists; choose a new folder\n");
}

#[test]
fn requests_are_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "{\"query\": \"q\", \"documents\": [\"a\", \"b\"]}\n{\"query\": \"q\", \"documents\": [\"a\", \"b\", \"c\", \"d\"]}\n";
    fs::write(folder.path().join("requests.jsonl"), lines).unwrap();
    let report =
        bench_json(folder.path(), &["--device", "cpu", "--requests", "requests.jsonl", "--runs", "2", "--rounds", "1"]);
    assert_eq!(report["settings"]["requests"], "requests.jsonl");
    assert_eq!((&report["cases"][0]["documents"], &report["cases"][0]["tokens_asked"]), (&3.0.into(), &Value::Null));
}

#[test]
fn invalid_input_exits_with_2_and_a_failed_request_with_1() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.jsonl"), "{\"query\": \"q\"}\n").unwrap();
    for (arguments, problem) in [
        (&["--documents", "0"][..], "invalid value '0' for '--documents"),
        (&["--tokens", "9-3"], "such as 20-400"),
        (&["--documents", "1001"], "1001 documents in a request exceed limits.max_documents (1000)"),
        (&["--concurrency", "300"], "300 clients exceed schedule.max_queued_requests (256)"),
        (&["--requests", "none.jsonl"], "--requests: cannot read none.jsonl"),
        (&["--requests", "bad.jsonl"], "--requests: bad.jsonl, line 1: documents: this field is required"),
        (&["--shape", "gpt"], "invalid value 'gpt' for '--shape"),
        (&["--shape", "nano", "--family", "bert"], "no family `bert`"),
        (&["--shape", "nano", "--model", "x"], "cannot be used with"),
        (&["--layers", "2"], "--shape"),
        (&["--url", "h:1"], "is not a valid http or https URL"),
        (&["--url", "http://h", "--over", "http"], "cannot be used with"),
        (&["--json", "no/such/folder.json"], "cannot write no/such/folder.json"),
        (&["--seconds", "0"], "expected a number of seconds above 0"),
    ] {
        let output = bench(folder.path(), arguments);
        let printed = text(&output.stderr);
        assert!(printed.contains(problem), "{arguments:?}: {problem:?} is not in\n{printed}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {printed}");
    }
    let unreachable = bench(folder.path(), &["--url", "http://127.0.0.1:1", "--documents", "2", "--tokens", "4"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        text(&unreachable.stderr).starts_with(
            "error: request with 2 documents, route url, 1 clients: no reply from http://127.0.0.1:1/v1/rerank"
        ),
        "{}",
        text(&unreachable.stderr)
    );
}

#[test]
fn help_has_examples_and_every_source_of_requests() {
    let output = bench(Path::new("."), &["--help"]);
    let printed = text(&output.stdout);
    for part in ["--documents", "--concurrency", "--shape", "--requests", "--plot", "Examples:", "podium bench --url"] {
        assert!(printed.contains(part), "{part} is not in\n{printed}");
    }
}
