//! The gate's exit codes: 0 if no measure dropped, 1 if one did, 2 if the reports cannot be
//! compared.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{eval, text, write_sets};

/// Creates a folder with a baseline of `small`: a report of the program, modified by `change`.
fn baseline(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = write_sets();
    let output = eval(folder.path(), &["small", "--orders", "1", "--json", "base.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let path = folder.path().join("base.json");
    let mut report = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut report);
    fs::write(&path, report.to_string()).unwrap();
    folder
}

fn run_gate(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = eval(folder, &[&["small", "--orders", "1", "--gate", "base.json"], more].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn reranked(report: &mut Value) -> &mut Value {
    &mut report["sets"][0]["systems"]["reranked"]
}

#[test]
fn the_same_run_passes_its_own_baseline() {
    let folder = baseline(|_| ());
    let (code, printed, errors) = run_gate(folder.path(), &["--max-drop", "0"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(printed.contains("gate: nDCG@10 may drop by 0\n"), "{printed}");
    assert!(printed.trim_end().ends_with("ok"), "{printed}");
}

#[test]
fn a_drop_exits_with_1_and_names_the_set_the_drop_and_both_values() {
    let folder = baseline(|report| {
        let mrr = &mut reranked(report)["mrr@10"]["mean"];
        *mrr = (mrr.as_f64().unwrap() + 0.25).into();
    });
    let (code, printed, errors) = run_gate(folder.path(), &["--gate-metric", "mrr", "--json", "now.json"]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        errors.starts_with("error: mrr@10 dropped by more than --max-drop 0.01: small dropped by 0.2500, from "),
        "{errors}"
    );
    assert!(printed.contains("+0.2500  FAILED"), "{printed}");
    assert!(folder.path().join("now.json").is_file(), "the new report is written anyway");
    // Another measure did not drop, and a larger --max-drop allows this one.
    assert_eq!(run_gate(folder.path(), &[]).0, Some(0));
    assert_eq!(run_gate(folder.path(), &["--gate-metric", "mrr", "--max-drop", "0.3"]).0, Some(0));
}

#[test]
fn reports_that_cannot_be_compared_exit_with_2_before_anything_runs() {
    let folder = baseline(|report| report["sets"][0]["per_query"].as_array_mut().unwrap().truncate(1));
    let (code, printed, errors) = run_gate(folder.path(), &[]);
    assert_eq!((code, printed.as_str()), (Some(2), ""));
    assert_eq!(
        errors,
        "error: the baseline base.json cannot be compared: the set small has other queries: 3 now, 1 in the baseline\n"
    );
    let folder = baseline(|report| report["sets"][0]["name"] = "other".into());
    let (code, _, errors) = run_gate(folder.path(), &[]);
    assert_eq!(code, Some(2));
    assert!(errors.ends_with(": the set other is only in the baseline\n"), "{errors}");
    let (code, _, errors) = run_gate(folder.path(), &["-k", "3"]);
    assert_eq!(code, Some(2));
    assert!(
        errors.ends_with(
            ": measures is nDCG@3 MRR@3 Hit@3 Recall@3 MAP, but nDCG@10 MRR@10 Hit@10 Recall@10 MAP in the baseline\n"
        ),
        "{errors}"
    );
}
