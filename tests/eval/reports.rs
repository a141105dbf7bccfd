//! The outputs: the JSON, the page and the tables, in process and over HTTP.

use std::fs;

use serde_json::Value;

use crate::support::{Server, eval, eval_json, text, write_sets};

/// The names of an object's fields.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_json_has_every_field_that_the_page_reads() {
    let folder = write_sets();
    let report = eval_json(folder.path(), &["small", "slates.jsonl", "--top", "4", "--orders", "2"]);
    assert_eq!((&report["schema"], &report["primary"]), (&2.into(), &"ndcg@10".into()));
    assert_eq!(report["system"]["name"], "podium-mini");
    assert_eq!(report["system"]["url"], Value::Null);
    assert_eq!(report["metrics"], serde_json::json!(["ndcg@10", "mrr@10", "hit@10", "recall@10", "map"]));
    let [small, slates] = &report["sets"].as_array().unwrap()[..] else { panic!("two sets were given") };

    assert_eq!((&small["name"], &slates["name"]), (&"small".into(), &"slates".into()));
    assert_eq!((&small["queries"], &small["documents"]), (&3.into(), &6.into()));
    assert_eq!(small["first_stage"], "BM25 over the corpus");
    assert_eq!((&small["left_out"]["queries_unjudged"], &small["queries_without_relevant"]), (&1.into(), &1.into()));
    assert_eq!(small["systems"]["input"], small["systems"]["bm25"], "both are BM25");
    for system in ["reranked", "input", "bm25"] {
        for metric in report["metrics"].as_array().unwrap() {
            let estimate = &small["systems"][system][metric.as_str().unwrap()];
            let [mean, low, high] = ["mean", "low", "high"].map(|part| estimate[part].as_f64().unwrap());
            assert!(low <= mean && mean <= high, "{system} {metric}: {estimate}");
        }
    }
    assert_eq!(names(&small["gains"]["bm25"]["ndcg@10"]), ["mean", "low", "high", "p", "wins", "ties", "losses"]);
    assert_eq!(small["order"]["orders"], 2);
    assert_eq!(names(&small["order"]["kendall_tau"]), ["mean", "p5"]);
    assert_eq!(names(&small["order"]["position_bias"]["curve"][0]), ["position", "count", "mean_rank", "mean_score"]);
    assert_eq!(small["calibration"]["bins"].as_array().unwrap().len(), 10);
    assert_eq!(names(&small["latency_ms"]), ["requests", "retries", "mean", "p50", "p95", "p99", "max"]);
    assert!(small["tokens"]["per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(small["truncated_share"], 0.0);
    assert_eq!(small["instruction"], Value::Null);

    let queries = small["per_query"].as_array().unwrap();
    let ids: Vec<&str> = queries.iter().map(|query| query["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["q1", "q2", "q3"]);
    assert_eq!((&queries[2]["relevant"], &queries[2]["query"]), (&2.into(), &"How is iron kept from rusting?".into()));

    assert_eq!(slates["first_stage"], "order in the file, with positive and negative documents shuffled");
    assert_eq!((&slates["instruction"]["texts"], &slates["instruction"]["queries"]), (&1.into(), &1.into()));
    assert_eq!(names(&slates["instruction"]["systems"]), ["plain", "instructed"]);
    assert_eq!(slates["per_query"][0]["instruction"], "Prefer what is yellow.");
    assert_eq!((&slates["per_query"][0]["id"], &slates["per_query"][1]["id"]), (&"1".into(), &"france".into()));
}

#[test]
fn a_folder_and_the_same_files_given_one_by_one_have_the_same_results() {
    let folder = write_sets();
    let files =
        ["--corpus", "small/corpus.jsonl", "--topics", "small/queries.jsonl", "--qrels", "small/qrels/test.tsv"];
    let by_folder = eval_json(folder.path(), &["small", "--run", "first.trec", "--orders", "1"]);
    let by_files = eval_json(folder.path(), &[&files[..], &["--run", "small/first.trec", "--orders", "1"]].concat());
    let (left, right) = (&by_folder["sets"][0], &by_files["sets"][0]);
    assert_eq!(
        (&left["first_stage"], &right["first_stage"]),
        (&"run first.trec".into(), &"run small/first.trec".into())
    );
    assert_eq!((&left["systems"], &left["order"]), (&right["systems"], &Value::Null));
    // Calculated by hand: the first relevant document has rank 2 twice and rank 1 once.
    let mrr = left["systems"]["input"]["mrr@10"]["mean"].as_f64().unwrap();
    assert!((mrr - 2.0 / 3.0).abs() < 1e-12, "{mrr}");
    let left_out = left["per_query"].as_array().unwrap().iter().map(|query| query["documents"].as_u64().unwrap());
    assert_eq!(left_out.collect::<Vec<_>>(), [3, 2, 3]);
}

#[test]
fn scores_over_http_are_the_same_as_in_process() {
    let folder = write_sets();
    let server = Server::start();
    let arguments = ["small", "slates.jsonl", "--orders", "2", "--instruction", "Prefer short texts."];
    let in_process = eval_json(folder.path(), &arguments);
    let over_http = eval_json(folder.path(), &[&arguments[..], &["--url", &server.url]].concat());
    assert_eq!(over_http["system"]["name"], "podium-mini");
    assert_eq!(over_http["system"]["url"], format!("{}/v1/rerank", server.url));
    assert_eq!(over_http["system"]["family"], Value::Null);
    for (here, there) in in_process["sets"].as_array().unwrap().iter().zip(over_http["sets"].as_array().unwrap()) {
        for part in ["systems", "gains", "truncated_share", "queries", "instruction"] {
            assert_eq!(here[part], there[part], "{part}");
        }
        assert_eq!(here["tokens"]["per_request"], there["tokens"]["per_request"]);
        assert_eq!(here["tokens"]["per_document"], there["tokens"]["per_document"]);
        let [ece, other] = [here, there].map(|set| set["calibration"]["ece"].as_f64().unwrap());
        assert!((ece - other).abs() < 1e-6, "{ece} and {other}");
    }
}

#[test]
fn files_are_written_and_the_tables_have_the_results() {
    let folder = write_sets();
    let output =
        eval(folder.path(), &["small", "--orders", "2", "-k", "5", "--json", "out.json", "--report", "out.html"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let json = fs::read_to_string(folder.path().join("out.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&report["primary"], &report["settings"]["measures"][2]), (&"ndcg@5".into(), &"hit@5".into()));
    let mean = report["sets"][0]["systems"]["reranked"]["ndcg@5"]["mean"].as_f64().unwrap();
    for part in [
        "podium-mini (podium-mini, cpu): ",
        "small: 3 queries over 6 documents, BM25 over the corpus; 1 query left out: no relevant document; 1 query left out: no",
        "nDCG@5",
        "reranked",
        &format!("{mean:.3}"),
        "wrote out.json\nwrote out.html\n",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert_eq!(text(&output.stderr), "");

    let html = fs::read_to_string(folder.path().join("out.html")).unwrap();
    let (_, inside) = html.split_once("<script type=\"application/json\" id=\"report\">").unwrap();
    let embedded: Value = serde_json::from_str(inside.split_once("</script>").unwrap().0).unwrap();
    assert_eq!(embedded, report);
}

#[test]
fn help_lists_every_source_of_data() {
    let folder = write_sets();
    let help = eval(folder.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let printed = text(&help.stdout);
    for flag in ["--run", "--corpus", "--topics", "--qrels", "--gate", "--report", "--url", "--api-key-env", "--model"]
    {
        assert!(printed.contains(flag), "{flag} is not in\n{printed}");
    }
}
