//! Files that `podium eval` writes for other tools and later runs: TREC files, journals, comparisons.

use std::fs;

use serde_json::Value;

use crate::support::{eval, eval_json, text, write_sets};

#[test]
fn run_files_have_the_rankings_of_every_order_and_the_baselines() {
    let folder = write_sets();
    let arguments = ["small", "--run", "first.trec", "--top", "2", "--orders", "2", "--write-runs", "runs"];
    let report = eval_json(folder.path(), &[&arguments[..], &["--measures", "P@1,2 MAP RBP"]].concat());
    assert_eq!(report["metrics"], serde_json::json!(["p@1", "p@2", "map", "rbp(80)"]));
    let read = |name: &str| fs::read_to_string(folder.path().join("runs").join(name)).unwrap();
    assert_eq!(read("small.qrels").lines().count(), 6);
    assert!(read("small.input.run").starts_with("q1 Q0 oven 1 3 podium-"));
    let reranked = read("small.2.run");
    let columns: Vec<Vec<&str>> = reranked.lines().map(|line| line.split(' ').collect()).collect();
    // Three documents of q1 and q3, two of q2; the third was not reranked and stays last.
    assert_eq!(columns.len(), 8);
    assert!(columns.iter().all(|line| line.len() == 6));
    assert_eq!((columns[2][0], columns[2][2], columns[2][3]), ("q1", "rust", "3"));
    let scores: Vec<f64> = columns[..3].iter().map(|line| line[4].parse().unwrap()).collect();
    assert!(scores.is_sorted_by(|left, right| left > right), "{scores:?}");
    let mut names: Vec<String> = fs::read_dir(folder.path().join("runs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["small.1.run", "small.2.run", "small.bm25.run", "small.input.run", "small.qrels"]);
}

#[test]
fn an_interrupted_run_continues_where_it_stopped() {
    let folder = write_sets();
    let arguments = ["small", "slates.jsonl", "--orders", "2", "--concurrency", "3", "--resume", "journal.jsonl"];
    let whole = eval_json(folder.path(), &arguments);
    let journal = folder.path().join("journal.jsonl");
    let lines = fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 6, "a header and five queries");
    // Interrupted in the middle of its fourth line.
    let kept: usize = lines.split_inclusive('\n').take(3).map(str::len).sum();
    fs::write(&journal, &lines[..kept + 40]).unwrap();
    let continued = eval_json(folder.path(), &arguments);
    for (left, right) in whole["sets"].as_array().unwrap().iter().zip(continued["sets"].as_array().unwrap()) {
        for part in ["systems", "gains", "order", "instruction"] {
            assert_eq!(left[part], right[part], "{part}");
        }
    }
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 6);
    let other = eval(folder.path(), &["small", "--resume", "journal.jsonl"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("belongs to another run: "), "{}", text(&other.stderr));
}

#[test]
fn systems_are_compared_side_by_side() {
    let folder = write_sets();
    let write = |arguments: &[&str]| assert_eq!(eval(folder.path(), arguments).status.code(), Some(0));
    write(&["small", "--json", "first.json"]);
    write(&["small", "--mode", "pointwise", "--json", "second.json"]);
    let compared = eval_json(folder.path(), &["--compare", "first.json", "second.json"]);
    assert_eq!((&compared["measure"], &compared["sets"][0]["queries"]), (&"ndcg@10".into(), &3.into()));
    assert_eq!(compared["systems"].as_array().unwrap().len(), 2);
    assert!(compared["sets"][0]["differences"][0]["p_corrected"].as_f64().unwrap() <= 1.0);
    let table = eval(folder.path(), &["--compare", "first.json", "second.json"]);
    assert_eq!(table.status.code(), Some(0));
    let table = text(&table.stdout);
    assert!(table.starts_with("nDCG@10 of 2 systems; differences to the first") && table.contains("mean of the sets"));
    let problem = eval(folder.path(), &["--compare", "first.json", "none.json"]);
    assert!(text(&problem.stderr).contains("cannot read the report none.json"), "{}", text(&problem.stderr));
    assert_eq!(problem.status.code(), Some(1));
}

#[test]
fn an_unknown_measure_is_refused_with_the_known_ones() {
    let folder = write_sets();
    let refused = eval(folder.path(), &["small", "--measures", "nDCG@10 bpref"]);
    assert_eq!(refused.status.code(), Some(2));
    let message = text(&refused.stderr);
    assert!(message.contains("unknown measure \"bpref\"; known are nDCG@k"), "{message}");
    let _: Value = eval_json(folder.path(), &["small", "--ignore-identical-ids", "--orders", "1"]);
}
