//! Paths and checkpoints that users give by mistake: each is refused with what was found and what to
//! do. And models that load and rank wrongly: the canary refuses them, or serves them with a warning.
//!
//! `cargo test --release --test parity -- --nocapture wrong_checkpoints` prints the table of
//! docs/models.md.

use std::fs;
use std::path::{Path, PathBuf};

use podium::app;
use podium::config::{Configuration, Settings, Sources};
use podium::models::ModelSet;
use serde_json::{Value, json};

use crate::fixtures::folder;
use crate::load_errors::{edit_config, rewrite};

const READABLE: &str = "Podium reads folders with config.json, tokenizer.json and *.safetensors, and GGUF files";

/// A mistake: what is made in an empty folder, and the model that is given.
struct Mistake {
    name: &'static str,
    /// Makes it in this folder, and returns what to give as the model.
    make: fn(&Path) -> String,
    family: &'static str,
    /// Parts of the message.
    says: &'static [&'static str],
}

const fn mistake(name: &'static str, make: fn(&Path) -> String, says: &'static [&'static str]) -> Mistake {
    Mistake { name, make, family: "auto", says }
}

/// A copy of a fixture under this name.
fn copy(root: &Path, case: &str, name: &str) -> PathBuf {
    let copy = root.join(name);
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(folder(case)).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    copy
}

/// A copy of the fixture of qwen3-reranker, changed.
fn changed(root: &Path, change: impl Fn(&Path)) -> String {
    let copy = copy(root, "qwen3-reranker", "model");
    change(&copy);
    copy.display().to_string()
}

/// A copy without this file, and with these others.
fn replaced(root: &Path, without: &str, others: &[(&str, &str)]) -> String {
    changed(root, |model| {
        fs::remove_file(model.join(without)).unwrap();
        write(model, others);
    })
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A folder `model` with these files.
fn only(root: &Path, files: &[(&str, &str)]) -> String {
    let model = root.join("model");
    fs::create_dir_all(&model).unwrap();
    write(&model, files);
    model.display().to_string()
}

fn quantised(root: &Path, value: Value) -> String {
    changed(root, |model| edit_config(model, |config| config["quantization_config"] = value.clone()))
}

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
const ADAPTER: (&str, &str) =
    ("adapter_config.json", r#"{"base_model_name_or_path": "Qwen/Qwen3-Reranker-0.6B", "peft_type": "LORA"}"#);
const EMBEDDING: (&str, &str) = (
    "modules.json",
    r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
);

const FAMILIES: &[Mistake] = &[
    mistake(
        "a folder called `model`, and nothing in it says the family",
        |root| changed(root, |_| {}),
        &[
            "cannot tell which family `model` is of: its architecture (Qwen3ForCausalLM) does not decide",
            "these families fit it: ",
            "qwen3-reranker",
            "give the right one with --family",
        ],
    ),
    mistake(
        "the same in a folder called like a model",
        |root| copy(root, "qwen3-reranker", "Qwen3-Reranker-0.6B").display().to_string(),
        &["cannot tell which family `Qwen3-Reranker-0.6B` is of"],
    ),
    mistake(
        "an embedding model",
        |root| changed(root, |model| write(model, &[EMBEDDING])),
        &[
            "`model` is an embedding model, which makes one vector of a text (modules.json: Transformer, Pooling, Normalize)",
            "no family reads it; give a reranker instead",
        ],
    ),
    Mistake {
        name: "an embedding model, with --family",
        make: |root| changed(root, |model| write(model, &[EMBEDDING])),
        family: "qwen3-reranker",
        says: &["is an embedding model", "family `qwen3-reranker` does not read it"],
    },
    Mistake {
        name: "--family whose head the checkpoint lacks",
        make: |root| changed(root, |_| {}),
        family: "jina-v3",
        says: &["family `jina-v3` needs a projector, and this checkpoint (Qwen3ForCausalLM) has none", "--family"],
    },
    Mistake {
        name: "--family whose control tokens the tokenizer lacks",
        make: |root| changed(root, |_| {}),
        family: "podium-nano",
        says: &["family `podium-nano` needs the token `<|instruct|>`", "it is no token of its own"],
    },
    Mistake {
        name: "--family with a typing error",
        make: |root| changed(root, |_| {}),
        family: "qwen3-rerank",
        says: &["there is no family `qwen3-rerank`; there are: ", "qwen3-reranker"],
    },
    Mistake {
        name: "the answers (yes, no) are not single tokens of the vocabulary",
        make: |root| {
            changed(root, |model| {
                let path = model.join("tokenizer.json");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replace(r#"["y","es"],"#, "")).unwrap();
            })
        },
        family: "qwen3-reranker",
        says: &["family `qwen3-reranker` needs the token `yes`", "it is not a single token"],
    },
    Mistake {
        name: "the tokenizer of another model",
        make: |root| {
            changed(root, |model| {
                let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/podium-nano/tokenizer.json");
                fs::copy(other, model.join("tokenizer.json")).unwrap();
            })
        },
        family: "qwen3-reranker",
        says: &[
            "tokenizer.json: it has ids up to ",
            "the model's vocabulary ends at 640",
            "take that of the same model",
        ],
    },
];

const HEADS: &[Mistake] = &[
    mistake(
        "a class with a classifier, and no classifier in the weights",
        |root| {
            changed(root, |model| {
                edit_config(model, |config| config["architectures"] = json!(["Qwen3ForSequenceClassification"]))
            })
        },
        &["tensor `score.weight` is missing"],
    ),
    mistake(
        "a classifier that the class does not read",
        |root| {
            let model = copy(root, "qwen3-classifier", "model");
            edit_config(&model, |config| config["architectures"] = json!(["Qwen3Model"]));
            model.display().to_string()
        },
        &["tensor `score.weight` is not part of a Qwen3Model", "a head or an adapter that would be ignored"],
    ),
    mistake(
        "an untied checkpoint without its output matrix",
        |root| changed(root, |model| edit_config(model, |config| config["tie_word_embeddings"] = json!(false))),
        &["tensor `lm_head.weight` is missing"],
    ),
    mistake(
        "an adapter beside the model",
        |root| changed(root, |model| write(model, &[ADAPTER])),
        &["has an adapter of Qwen/Qwen3-Reranker-0.6B beside the model", "merge_and_unload()"],
    ),
    mistake(
        "an adapter alone",
        |root| only(root, &[ADAPTER, ("adapter_model.safetensors", "")]),
        &["is an adapter of Qwen/Qwen3-Reranker-0.6B (adapter_config.json); merge it"],
    ),
];

const PATHS: &[Mistake] = &[
    mistake(
        "a file of a checkpoint",
        |root| changed(root, |_| {}) + "/model.safetensors",
        &["is a file; give its folder, "],
    ),
    mistake(
        "config.json as the model",
        |root| changed(root, |_| {}) + "/config.json",
        &["is a file; give its folder, "],
    ),
    mistake(
        "a typing error in a path",
        |root| changed(root, |_| {}) + "l",
        &["does not exist; did you mean ", "/model?"],
    ),
    mistake(
        "an address of the hub",
        |_| "https://huggingface.co/Qwen/Qwen3-Reranker-0.6B".to_owned(),
        &["is an address of the hub; give the hub id Qwen/Qwen3-Reranker-0.6B"],
    ),
    mistake(
        "a revision in the hub id",
        |_| "Qwen/Qwen3-Reranker-0.6B@v1".to_owned(),
        &["give Qwen/Qwen3-Reranker-0.6B as the model, and v1 as model.revision"],
    ),
    mistake(
        "a hub id without its owner",
        |_| "Qwen3-Reranker-0.6B".to_owned(),
        &["is neither a folder nor a hub id (owner/name, such as Qwen/Qwen3-Reranker-0.6B)"],
    ),
    mistake(
        "a hub id that is not in the cache, without the hub",
        |_| "models/jina-reranker-v3".to_owned(),
        &["cannot fetch `models/jina-reranker-v3`", "there is no folder `models/jina-reranker-v3` either"],
    ),
    mistake(
        "the hub's cache",
        |root| only(root, &[("models--a--b/snapshots/c/config.json", "{}")]),
        &["is the hub's cache; give a hub id such as a/b as model.source, and this folder as model.cache"],
    ),
    mistake(
        "a model of the hub's cache",
        |root| {
            write(root, &[("models--a--b/snapshots/c/config.json", "{}")]);
            root.join("models--a--b").display().to_string()
        },
        &["is a model of the hub's cache; give its snapshot, ", "/models--a--b/snapshots/c"],
    ),
    mistake(
        "the folder above the model's",
        |root| {
            changed(root, |_| {});
            root.display().to_string()
        },
        &["has no config.json; the model is in its folder model: give "],
    ),
];

const FILES: &[Mistake] = &[
    mistake("an empty folder", |root| only(root, &[]), &["is empty; ", READABLE]),
    mistake(
        "a download that was stopped",
        |root| only(root, &[(".cache/huggingface/download/x.incomplete", ""), ("config.json", "{}")]),
        &["holds an unfinished download (.cache/huggingface/download/x.incomplete); run the download again"],
    ),
    mistake(
        "no config.json",
        |root| replaced(root, "config.json", &[]),
        &["has model.safetensors, but no config.json; ", "download all files of the model"],
    ),
    mistake(
        "no tokenizer at all",
        |root| replaced(root, "tokenizer.json", &[]),
        &["has no tokenizer.json; download it from the page of the same model"],
    ),
    mistake(
        "an old tokenizer",
        |root| replaced(root, "tokenizer.json", &[("vocab.txt", "a")]),
        &[
            "has vocab.txt, but no tokenizer.json; make it with transformers",
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        ],
    ),
    mistake(
        "only pytorch_model.bin",
        |root| replaced(root, "model.safetensors", &[("pytorch_model.bin", "PK")]),
        &["has pytorch_model.bin, but no *.safetensors; convert it"],
    ),
    mistake(
        "only TensorFlow's weights",
        |root| replaced(root, "model.safetensors", &[("tf_model.h5", "")]),
        &["has tf_model.h5, but no *.safetensors; convert it"],
    ),
    mistake(
        "only ONNX",
        |root| replaced(root, "model.safetensors", &[("onnx/model.onnx", "")]),
        &["has onnx/model.onnx, but no *.safetensors"],
    ),
    mistake(
        "weights under another name",
        |root| replaced(root, "model.safetensors", &[("weights.safetensors", "")]),
        &["has weights.safetensors, but no model.safetensors; rename it if it holds the whole model"],
    ),
    mistake(
        "parts without their index",
        |root| replaced(root, "model.safetensors", &[("model-00001-of-00002.safetensors", "")]),
        &["has model-00001-of-00002.safetensors, but no model.safetensors.index.json"],
    ),
    mistake(
        "a part is missing",
        |root| {
            let model = copy(root, "qwen3-gqa2-sharded", "model");
            fs::remove_file(model.join("model-00002-of-00003.safetensors")).unwrap();
            model.display().to_string()
        },
        &["names 3 files, and 1 of them are missing (model-00002-of-00003.safetensors); the download is not complete"],
    ),
    mistake("no weights", |root| replaced(root, "model.safetensors", &[]), &["has no weights; download *.safetensors"]),
    #[cfg(unix)]
    mistake(
        "links of a hub cache that was copied without their targets",
        |root| {
            changed(root, |model| {
                fs::remove_file(model.join("model.safetensors")).unwrap();
                std::os::unix::fs::symlink("../../blobs/0123", model.join("model.safetensors")).unwrap();
            })
        },
        &["model.safetensors: is a link to ../../blobs/0123, which does not exist; copy", "cp -rL"],
    ),
    mistake(
        "weights that are a Git LFS pointer",
        |root| changed(root, |model| write(model, &[("model.safetensors", LFS)])),
        &["model.safetensors: is a Git LFS pointer, not the file itself; run `git lfs pull`"],
    ),
    mistake(
        "a tokenizer that is a Git LFS pointer",
        |root| changed(root, |model| write(model, &[("tokenizer.json", LFS)])),
        &["tokenizer.json: is a Git LFS pointer"],
    ),
    mistake(
        "a folder with only GGUF",
        |root| only(root, &[("x-Q8_0.gguf", "GGUF")]),
        &["x-Q8_0.gguf", "no config.json"],
    ),
];

const QUANTISED: &[Mistake] = &[
    mistake(
        "GPTQ",
        |root| quantised(root, json!({"quant_method": "gptq", "bits": 4})),
        &[
            "weights quantised by `gptq` in 4 bits are not supported; use the checkpoint that they were made from, and model.quantize",
        ],
    ),
    mistake(
        "AWQ",
        |root| quantised(root, json!({"quant_method": "awq", "bits": 4})),
        &["quantised by `awq` in 4 bits"],
    ),
    mistake(
        "bitsandbytes",
        |root| quantised(root, json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
        &["quantised by `bitsandbytes`"],
    ),
    mistake("FP8", |root| quantised(root, json!({"quant_method": "fp8"})), &["quantised by `fp8`"]),
    mistake(
        "compressed-tensors",
        |root| quantised(root, json!({"quant_method": "compressed-tensors"})),
        &["quantised by `compressed-tensors`"],
    ),
    mistake("MLX", |root| quantised(root, json!({"group_size": 64, "bits": 4})), &["quantised by MLX in 4 bits"]),
    mistake(
        "GPTQ of an old tool",
        |root| changed(root, |model| write(model, &[("quantize_config.json", "{}")])),
        &["holds weights that GPTQ quantised (quantize_config.json), which are not supported"],
    ),
];

fn settings(source: &str, family: &str) -> Settings {
    let mut settings = Configuration::load(&Sources::default()).unwrap().settings;
    source.clone_into(&mut settings.model.source);
    family.clone_into(&mut settings.model.family);
    "cpu".clone_into(&mut settings.model.device);
    settings.model.offline = true;
    settings
}

/// Loads a model as `podium serve` does, with its canary.
async fn load(settings: &Settings) -> anyhow::Result<ModelSet> {
    let models = app::load_models(settings)?;
    models.load_start_models().await?;
    Ok(models)
}

async fn refusal(source: &str, family: &str) -> String {
    format!("{:#}", load(&settings(source, family)).await.err().expect("it should be refused"))
}

#[tokio::test]
async fn each_mistake_is_refused_with_what_was_found_and_what_to_do() {
    println!("| mistake | message |\n|---|---|");
    for case in [FAMILIES, HEADS, PATHS, FILES, QUANTISED].into_iter().flatten() {
        let root = tempfile::tempdir().unwrap();
        let text = refusal(&(case.make)(root.path()), case.family).await;
        println!("| {} | {} |", case.name, text.replace(&root.path().display().to_string(), "..."));
        for part in case.says {
            assert!(text.contains(part), "{}: {part:?} is not in {text:?}", case.name);
        }
    }
}

#[tokio::test]
async fn a_checkpoint_that_names_itself_is_recognised_in_any_folder() {
    let root = tempfile::tempdir().unwrap();
    let family = async |source: &Path| {
        let models = load(&settings(&source.display().to_string(), "auto")).await.unwrap();
        let model = models.default_model();
        (model.family().to_owned(), model.name().to_owned())
    };
    let snapshot = copy(root.path(), "qwen3-reranker", "models--Qwen--Qwen3-Reranker-0.6B/snapshots/0123abc");
    assert_eq!(family(&snapshot).await, ("qwen3-reranker".to_owned(), "Qwen3-Reranker-0.6B".to_owned()));
    let by_config = copy(root.path(), "qwen3-reranker", "a");
    edit_config(&by_config, |config| config["_name_or_path"] = json!("Qwen/Qwen3-Reranker-0.6B"));
    assert_eq!(family(&by_config).await, ("qwen3-reranker".to_owned(), "a".to_owned()));
    let by_card = copy(root.path(), "zerank", "b");
    write(&by_card, &[("README.md", "---\nbase_model: zeroentropy/zerank-1-small\n---\n")]);
    assert_eq!(family(&by_card).await.0, "zerank");
    for architecture in ["jina-v3", "jina-v3.5"] {
        assert_eq!(family(&copy(root.path(), architecture, "model")).await.0, architecture);
        fs::remove_dir_all(root.path().join("model")).unwrap();
    }
}

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
