//! `early_exit` over HTTP. What leaves and what goes on is tested beside the code.

use std::fs;
use std::path::Path;

use podium::app;
use podium::config::{Configuration, Sources};
use podium::pipeline::Reranker;
use podium::prompt::Families;
use podium::runtime::fake::FakeRuntime;
use podium::runtime::{Checkpoint, ClassifierFacts, ModelFacts, Pooling, Runtime};
use podium::schedule::AdmissionControl;
use serde_json::{Value, json};

use crate::support::{Answer, Server, hang_up};

/// A server of `yes-no` on a fake model of 12 layers, whose documents leave after 8, but for the 2 best.
async fn server(exits_by_default: bool) -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let declared = fs::read_to_string(root.join("prompts/yes-no.toml")).unwrap();
    let exit = "\n[[pointwise.early_exit]]\nlayers = 12\nlayer = 8\nkeep = 2\n";
    fs::write(folder.path().join("yes-no.toml"), declared + exit).unwrap();
    fs::copy(root.join("prompts/yes-no.jinja"), folder.path().join("yes-no.jinja")).unwrap();
    let mut families = Families::built_in().unwrap();
    families.add_folder(folder.path()).unwrap();

    let runtime =
        FakeRuntime::with_facts(ModelFacts { layers: 12, classifier: None, ..FakeRuntime::new().facts().clone() });
    let controls = runtime.controls();
    let checkpoint = Checkpoint::folder(&root.join("tests/parity/fixtures/yes-no")).unwrap();
    let mut prompter = app::prompter_of(&families, &checkpoint, runtime.facts(), "yes-no").unwrap();
    if exits_by_default {
        prompter.exit_early_by_default().unwrap();
    }
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    let admission = AdmissionControl::new(&settings.schedule);
    let names = vec!["yes-no".to_owned()];
    let reranker = Reranker::new(names, prompter, runtime, app::policy(&settings).unwrap(), &admission);
    Server::over(reranker, controls, &settings).await
}

/// A server of `bge-layerwise` on a fake model of 12 layers with heads from layer 8 on.
async fn layer_wise_server(cutoff_layer: Option<u16>) -> Server {
    let fake = FakeRuntime::new();
    let classifier = ClassifierFacts { labels: 1, pooling: Pooling::Last, start_layer: Some(8) };
    let facts = ModelFacts {
        layers: 12,
        classifier: Some(classifier),
        vocabulary_head: false,
        projector: false,
        token_projection: false,
        architecture: "LayerWiseMiniCPMForCausalLM".to_owned(),
        ..fake.facts().clone()
    };
    let runtime = FakeRuntime::with_facts(facts);
    let controls = runtime.controls();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures/bge-layerwise");
    let checkpoint = Checkpoint::folder(&folder).unwrap();
    let families = Families::built_in().unwrap();
    let mut prompter = app::prompter_of(&families, &checkpoint, runtime.facts(), "auto").unwrap();
    if let Some(layer) = cutoff_layer {
        prompter.cut_off_by_default(layer).unwrap();
    }
    let settings = Configuration::load(&Sources::default()).unwrap().settings;
    let admission = AdmissionControl::new(&settings.schedule);
    let names = vec!["layer-wise".to_owned()];
    let reranker = Reranker::new(names, prompter, runtime, app::policy(&settings).unwrap(), &admission);
    Server::over(reranker, controls, &settings).await
}

fn body(documents: usize, early_exit: &Value) -> Value {
    let documents: Vec<String> = (0..documents).map(|index| format!("document {index}")).collect();
    json!({"query": "q", "documents": documents, "early_exit": early_exit})
}

fn exits(answer: &Answer) -> Vec<Option<u64>> {
    let reply = answer.json();
    let rows = reply["results"].as_array().unwrap_or_else(|| panic!("{reply}"));
    let scores: Vec<f64> = rows.iter().map(|row| row["relevance_score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|left, right| left >= right) && scores.iter().all(|score| (0.0..=1.0).contains(score)));
    rows.iter().map(|row| row.get("exit_layer").map(|layer| layer.as_u64().unwrap())).collect()
}

#[tokio::test]
async fn documents_that_left_are_marked_and_counted() {
    let server = server(false).await;
    let answer = server.rerank(&body(5, &json!(true))).await;
    assert_eq!(exits(&answer), [None, None, Some(8), Some(8), Some(8)]);
    let used = answer.json()["meta"]["early_exit"].clone();
    assert_eq!(used["left_early"], 3);
    let saved = used["tokens_saved"].as_u64().unwrap();
    assert!(saved > 0, "{used}");
    for line in
        ["podium_early_exit_documents_total 3".to_owned(), format!("podium_early_exit_tokens_saved_total {saved}")]
    {
        server.until_metrics_say(&line).await;
    }
    let without = server.rerank(&body(5, &Value::Null)).await;
    assert_eq!(exits(&without), [None; 5]);
    assert!(without.json()["meta"].get("early_exit").is_none(), "{}", without.text);
    server.until_metrics_say("podium_early_exit_documents_total 3").await;
}

#[tokio::test]
async fn a_layer_wise_checkpoint_is_scored_after_the_layer_that_is_asked_for() {
    let server = layer_wise_server(None).await;
    let mut asked = body(4, &Value::Null);
    assert_eq!(exits(&server.rerank(&asked).await), [None; 4]);
    asked["cutoff_layer"] = json!(9);
    let cut = server.rerank(&asked).await;
    assert_eq!(exits(&cut), [Some(9); 4]);
    let (whole, used) = (cut.json()["usage"]["prompt_tokens"].clone(), cut.json()["meta"]["early_exit"].clone());
    assert_eq!(used, json!({"left_early": 4, "tokens_saved": whole.as_u64().unwrap() * 3 / 12}));
    asked["early_exit"] = json!({"layer": 8, "keep": 1});
    assert_eq!(exits(&server.rerank(&asked).await), [Some(9), Some(8), Some(8), Some(8)]);
    asked["cutoff_layer"] = json!(12);
    assert_eq!(exits(&server.rerank(&asked).await), [None, Some(8), Some(8), Some(8)]);
    for (field, value, named, message) in [
        ("cutoff_layer", json!(7), "cutoff_layer", "cutoff_layer: layer 7: the model has heads for layers 8 to 12"),
        ("cutoff_layer", json!(0), "cutoff_layer", "cutoff_layer: is 0; layers count from 1 to 65535"),
        (
            "cutoff_layer",
            json!(8),
            "early_exit",
            "early_exit: layer 8: documents leave before cutoff_layer, which is 8",
        ),
        ("early_exit", json!({"layer": 8}), "early_exit.keep", "early_exit.keep: is missing"),
    ] {
        let mut wrong = asked.clone();
        wrong[field] = value;
        server.rerank(&wrong).await.assert_failure(422, "invalid_value", Some(named), message);
    }
    let configured = layer_wise_server(Some(10)).await;
    assert_eq!(exits(&configured.rerank(&body(2, &Value::Null)).await), [Some(10); 2]);
}

#[tokio::test]
async fn the_configuration_turns_it_on_and_a_request_off() {
    let server = server(true).await;
    assert_eq!(exits(&server.rerank(&body(4, &Value::Null)).await), [None, None, Some(8), Some(8)]);
    assert_eq!(exits(&server.rerank(&body(4, &json!(false))).await), [None; 4]);
    for documents in [1, 2] {
        let answer = server.rerank(&body(documents, &json!(true))).await;
        assert_eq!(exits(&answer), vec![None; documents], "a list that is not longer than what goes on");
        assert_eq!(answer.json()["meta"]["early_exit"], json!({"left_early": 0, "tokens_saved": 0}));
    }
    let thousand = exits(&server.rerank(&body(1000, &Value::Null)).await);
    let passes = 1000_usize.div_ceil(64);
    assert_eq!(thousand.iter().filter(|layer| layer.is_none()).count(), 2 * passes);
}

#[tokio::test]
async fn a_deadline_a_disconnect_and_a_budget_work_with_an_exit() {
    let server = server(true).await;
    server.controls.hold();
    let mut late = body(5, &json!(true));
    late["timeout_ms"] = json!(40);
    let message = "the request took longer than 40 ms: 0 of 1 passes had run, and 0 of 5 documents were read";
    server.rerank(&late).await.assert_failure(504, "deadline_exceeded", None, message);
    let left = server.rerank_later(&body(5, &json!(true)));
    hang_up(&left).await;
    server.controls.release();
    server.until_metrics_say(r#"podium_queue_requests{model="yes-no"} 0"#).await;

    let whole = server.rerank(&body(5, &json!(true))).await.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let mut small = body(5, &json!(true));
    small["max_total_tokens"] = json!(whole * 9 / 10);
    let answer = server.rerank(&small).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let reply = answer.json();
    assert!(reply["usage"]["prompt_tokens"].as_u64().unwrap() <= whole * 9 / 10, "{reply}");
    assert!(reply["meta"]["budget"].is_object() && reply["meta"]["early_exit"].is_object(), "{reply}");
}

#[tokio::test]
async fn a_model_without_an_exit_refuses_it_by_name() {
    let server = Server::start().await;
    let answer = server.rerank(&body(2, &json!(true))).await;
    let message = "early_exit: family `podium-nano` has no pointwise prompt, and only documents that are read one by one leave early";
    answer.assert_failure(422, "invalid_value", Some("early_exit"), message);
    assert_eq!(server.rerank(&body(2, &json!(false))).await.status, 200);
    let mut cut = body(2, &Value::Null);
    cut["cutoff_layer"] = json!(1);
    let message = "cutoff_layer: the model (family `podium-nano`) has a head for its last layer only; layer-wise checkpoints have one for each layer";
    server.rerank(&cut).await.assert_failure(422, "invalid_value", Some("cutoff_layer"), message);
    let answer = server.rerank(&body(2, &json!("soon"))).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (422, &json!("early_exit")), "{}", answer.text);
}
