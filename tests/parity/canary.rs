//! Models that load and rank wrongly: the canary refuses them, or serves them with a warning.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::fixtures::folder;
use crate::load_errors::{edit_config, rewrite};
use crate::wrong_checkpoints::{copy, load, refusal, settings};

/// The built-in model's files in a folder.
fn built_in(root: &Path) -> PathBuf {
    let copy = root.join("model");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors", "lexical.safetensors"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/podium-nano").join(name), copy.join(name)).unwrap();
    }
    copy
}

#[tokio::test]
async fn the_canary_passes_the_built_in_models() {
    for name in ["podium-mini", "podium-nano"] {
        let models = load(&settings(name, "auto")).await.unwrap();
        let report = models.default_model().canary().unwrap();
        println!("{name}: {:?}", report.time);
        assert_eq!((report.right, report.questions, report.warning.as_deref()), (4, 4, None), "{name}");
    }
}

#[tokio::test]
async fn the_canary_refuses_scores_that_do_not_depend_on_the_document() {
    let root = tempfile::tempdir().unwrap();
    // All logits are 0: the model of all the .5.
    let zero = copy(root.path(), "qwen3-reranker", "zero");
    rewrite(&zero, "model.norm.weight", |view| Some((view.shape().to_vec(), vec![0; view.data().len()])));
    let text = refusal(&zero.display().to_string(), "qwen3-reranker").await;
    println!("{text}");
    for part in [
        "its scores mean nothing: they do not depend on the document: relevance [0.5, 0.5, 0.5]",
        "\"What is the capital of France?\"",
        "wrong family or head? `--family` names another family",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    // A projector of zeros: all cosines are 0.
    let zero = copy(root.path(), "jina-v3", "projector");
    rewrite(&zero, "projector.2.weight", |view| Some((view.shape().to_vec(), vec![0; view.data().len()])));
    let text = refusal(&zero.display().to_string(), "auto").await;
    assert!(text.contains("they do not depend on the document: relevance [0.5, 0.5, 0.5]"), "{text}");
}

#[tokio::test]
async fn the_canary_serves_a_model_with_a_swapped_sign_with_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let swapped = built_in(root.path());
    edit_config(&swapped, |config| {
        let scale = config["podium"]["calibration"]["scale"].as_f64().unwrap();
        config["podium"]["calibration"]["scale"] = json!(-scale);
    });
    let models = load(&settings(&swapped.display().to_string(), "auto")).await.unwrap();
    let report = models.default_model().canary().unwrap();
    let warning = report.warning.clone().unwrap();
    println!("{warning}");
    assert_eq!((report.right, report.questions), (0, 4));
    assert!(
        warning.starts_with("it ranks the answer first in 0 of 4 simple questions; it ranks the answer last"),
        "{warning}"
    );
    let status = models.statuses().remove(0);
    assert_eq!(status.canary.unwrap().warning.unwrap(), warning);
}

#[tokio::test]
async fn the_canary_asks_a_family_with_two_modes_in_both() {
    let models = load(&settings(&folder("first").display().to_string(), "first")).await.unwrap();
    let report = models.default_model().canary().unwrap();
    assert_eq!(report.questions, 8);
    assert!(report.right < 8 && report.warning.is_some(), "random weights: {report:?}");
}
