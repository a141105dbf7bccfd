//! A checkpoint that cannot be right is refused with the file, the tensor and the shapes.

use std::fs;
use std::path::Path;

use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, LoadError};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::fixtures::folder;

const CASE: &str = "qwen3-mha-f32";
const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";

/// A copy of a fixture, to be damaged.
fn copy(case: &str) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder for the copy");
    for file in fs::read_dir(folder(case)).expect("the fixture's folder") {
        let file = file.expect("a file of the fixture").path();
        fs::copy(&file, copy.path().join(file.file_name().expect("its name"))).expect("a copy of it");
    }
    copy
}

/// The error of loading a folder, and its message.
fn refusal(folder: &Path) -> (LoadError, String) {
    let loaded = Checkpoint::folder(folder)
        .and_then(|checkpoint| PackedRuntime::load(&checkpoint, &ComputeSettings::reference()));
    let error = loaded.err().expect("it should not load");
    let text = error.to_string();
    (error, text)
}

/// Rewrites `model.safetensors` with one tensor changed: its bytes, or its shape, or left out.
pub fn rewrite(folder: &Path, name: &str, change: impl Fn(&TensorView<'_>) -> Option<(Vec<usize>, Vec<u8>)>) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).expect("the weights");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut kept = Vec::new();
    for (of, view) in tensors.iter() {
        let content = if of == name { change(&view) } else { Some((view.shape().to_vec(), view.data().to_vec())) };
        kept.extend(content.map(|(shape, data)| (of.to_owned(), view.dtype(), shape, data)));
    }
    let views = kept.iter().map(|(of, dtype, shape, data)| {
        (of.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a view of the right size"))
    });
    fs::write(&path, safetensors::serialize(views, None).expect("safetensors")).expect("the new weights");
}

/// Changes `config.json`.
pub fn edit_config(folder: &Path, edit: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
    edit(&mut config);
    fs::write(path, config.to_string()).expect("the new config.json");
}

#[test]
fn an_unknown_architecture_is_named_with_what_would_work() {
    let folder = copy(CASE);
    edit_config(folder.path(), |config| {
        config["architectures"] = serde_json::json!(["MambaForCausalLM"]);
        config["model_type"] = "mamba".into();
    });
    let (error, text) = refusal(folder.path());
    assert!(
        matches!(&error, LoadError::UnknownArchitecture { architecture, .. } if architecture == "MambaForCausalLM")
    );
    for part in ["config.json", "MambaForCausalLM", "Qwen2ForCausalLM", "BertForSequenceClassification"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_configuration_that_is_not_json_is_named() {
    let folder = copy(CASE);
    fs::write(folder.path().join("config.json"), "{ \"hidden_size\": 48,").unwrap();
    let (error, text) = refusal(folder.path());
    assert!(matches!(&error, LoadError::Malformed { path, .. } if path.ends_with("config.json")), "{error:?}");
    assert!(text.contains("is not JSON"), "{text}");
}

#[test]
fn a_wrong_shape_is_named_with_both_shapes() {
    let folder = copy(CASE);
    edit_config(folder.path(), |config| config["num_attention_heads"] = 8.into());
    let (error, text) = refusal(folder.path());
    let LoadError::WrongShape { path, tensor, found, expected } = &error else { panic!("{error:?}") };
    assert!(path.ends_with("model.safetensors"));
    assert_eq!(tensor, "model.layers.0.self_attn.q_proj.weight");
    assert_eq!((found.as_slice(), expected.as_slice()), (&[64, 48][..], &[128, 48][..]));
    for part in ["model.safetensors", tensor, "[64, 48]", "[128, 48]"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_transposed_tensor_is_a_wrong_shape() {
    let folder = copy(CASE);
    rewrite(folder.path(), QUERY, |view| Some((view.shape().iter().rev().copied().collect(), view.data().to_vec())));
    let (_, text) = refusal(folder.path());
    assert!(text.contains(QUERY) && text.contains("[48, 64]") && text.contains("[64, 48]"), "{text}");
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let folder = copy(CASE);
    rewrite(folder.path(), QUERY, |_| None);
    let (error, text) = refusal(folder.path());
    assert!(matches!(&error, LoadError::MissingTensor { tensor, .. } if tensor == QUERY), "{error:?}");
    assert!(text.contains("model.safetensors") && text.contains(QUERY) && text.contains("[64, 48]"), "{text}");
}

#[test]
fn a_truncated_file_is_named() {
    for kept in [0, 5, 200, 200_000] {
        let folder = copy(CASE);
        let path = folder.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..kept]).unwrap();
        let (error, text) = refusal(folder.path());
        assert!(matches!(&error, LoadError::Malformed { .. }), "{kept} bytes: {error:?}");
        assert!(text.contains("model.safetensors") && text.contains(&format!("{kept} bytes")), "{text}");
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_named_with_its_place() {
    for (value, word) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let folder = copy(CASE);
        rewrite(folder.path(), QUERY, |view| {
            assert_eq!(view.dtype(), Dtype::F32);
            let mut data = view.data().to_vec();
            data[4 * 1234..4 * 1235].copy_from_slice(&value.to_le_bytes());
            Some((view.shape().to_vec(), data))
        });
        let (error, text) = refusal(folder.path());
        assert!(matches!(&error, LoadError::NonFiniteWeight { element: 1234, .. }), "{error:?}");
        for part in ["model.safetensors", QUERY, word, "1234"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

#[test]
fn rows_of_integers_without_their_scale_are_refused() {
    let folder = copy("qwen3-int8");
    rewrite(folder.path(), "layers.0.mlp.up_proj.weight.scale", |_| None);
    let (error, _) = refusal(folder.path());
    let LoadError::MissingTensor { tensor, expected, .. } = &error else { panic!("{error:?}") };
    assert_eq!((tensor.as_str(), expected.as_slice()), ("layers.0.mlp.up_proj.weight.scale", &[67][..]));
}

#[test]
fn an_index_that_points_elsewhere_is_refused() {
    let folder = copy("qwen3-gqa2-sharded");
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}"#).unwrap();
    let (error, text) = refusal(folder.path());
    assert!(matches!(&error, LoadError::Malformed { .. }) && text.contains("../elsewhere.safetensors"), "{text}");
}

#[test]
fn an_untied_checkpoint_without_an_output_matrix_is_refused() {
    let folder = copy(CASE);
    edit_config(folder.path(), |config| config["tie_word_embeddings"] = false.into());
    let (error, text) = refusal(folder.path());
    assert!(matches!(&error, LoadError::MissingTensor { tensor, .. } if tensor == "lm_head.weight"), "{text}");
}

#[test]
fn a_head_that_nothing_reads_is_refused() {
    let folder = copy("qwen3-classifier");
    edit_config(folder.path(), |config| config["architectures"] = serde_json::json!(["Qwen3Model"]));
    let (error, text) = refusal(folder.path());
    assert!(matches!(&error, LoadError::UnreadTensor { tensor, .. } if tensor == "score.weight"), "{text}");
    assert!(text.contains("`score.weight` is not part of a Qwen3Model"), "{text}");
}

#[test]
fn a_key_whose_meaning_is_not_implemented_is_named() {
    let folder = copy(CASE);
    edit_config(folder.path(), |config| config["final_logit_softcapping"] = 30.into());
    let (_, text) = refusal(folder.path());
    assert!(text.contains("config.json: final_logit_softcapping is 30: this key is not supported"), "{text}");
}
