//! GGUF files that are refused, and what the messages name.

use std::fs;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, LoadError};

use super::write::GgufWriter;
use crate::fixtures::folder;

/// The message of a file that is not loaded.
fn refusal_of(file: &Path) -> String {
    let loaded =
        Checkpoint::file(file).and_then(|checkpoint| PackedRuntime::load(&checkpoint, &ComputeSettings::reference()));
    loaded.err().expect("it should not load").to_string()
}

/// The message for the file of a fixture after a change.
fn refusal(case: &str, change: impl Fn(&mut GgufWriter)) -> String {
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    let mut writer = GgufWriter::of_folder(&folder(case));
    change(&mut writer);
    writer.write(&file, GgmlDType::F32);
    refusal_of(&file)
}

const CASE: &str = "qwen2-mha-f32";

#[test]
fn metadata_whose_meaning_is_not_implemented_is_named() {
    for (key, value, message) in [
        (
            "general.architecture",
            Value::String("mamba".to_owned()),
            "architecture `mamba` is not supported; supported: bert, llama",
        ),
        ("split.count", Value::U16(3), "is one of 3 parts of a model; join them with"),
        ("qwen2.expert_count", Value::U32(8), "has qwen2.expert_count: mixtures of experts are not supported"),
        (
            "qwen2.attn_logit_softcapping",
            Value::F32(30.),
            "has the key qwen2.attn_logit_softcapping, which is not supported",
        ),
        ("qwen2.rope.dimension_count", Value::U32(8), "qwen2.rope.dimension_count is 8; only 16, the width of a head"),
        (
            "qwen2.rope.scaling.type",
            Value::String("longrope".to_owned()),
            "qwen2.rope.scaling.type is `longrope`; none, linear and yarn",
        ),
        ("qwen2.pooling_type", Value::U32(3), "qwen2.pooling_type is 3: this is an embedding model"),
        ("qwen2.context_length", Value::String("long".to_owned()), "qwen2.context_length is not a whole number"),
        (
            "tokenizer.ggml.model",
            Value::String("rwkv".to_owned()),
            "tokenizer.ggml.model is `rwkv`; gpt2, llama, bert and t5 are supported",
        ),
        (
            "tokenizer.ggml.pre",
            Value::String("deepseek-v3".to_owned()),
            "tokenizer.ggml.pre is `deepseek-v3`; qwen2, llama-bpe",
        ),
    ] {
        let text = refusal(CASE, |writer| writer.set(key, value.clone()));
        assert!(text.contains("model.gguf") && text.contains(message), "{key}: {text}");
    }
}

#[test]
fn a_missing_tensor_and_one_that_nothing_reads_are_named() {
    let text = refusal(CASE, |writer| writer.add("blk.0.attn_sinks.weight", &[1.; 4]));
    assert!(text.contains("tensor `blk.0.attn_sinks.weight` is not part of a Qwen2ForCausalLM"), "{text}");
    let text = refusal(CASE, |writer| writer.set("qwen2.block_count", Value::U32(3)));
    assert!(text.contains("tensor `model.layers.2.input_layernorm.weight` is missing"), "{text}");
}

#[test]
fn a_bert_whose_classifier_lost_its_dense_layer_is_refused() {
    let text = refusal("bert-bare-bf16", |writer| writer.add("cls.output.weight", &[1.; 64]));
    assert!(text.contains("has a classifier (`cls.output.weight`) and not the dense layer before it"), "{text}");
}

#[test]
fn frequencies_that_are_not_those_of_llama_3_are_refused() {
    let text = refusal("llama3-rope", |writer| {
        writer.set("llama.rope.scaling.type", Value::String("none".to_owned()));
        writer.add("rope_freqs.weight", &[1.5; 16]);
    });
    assert!(text.contains("tensor `rope_freqs.weight` is not the scaling of Llama 3.1"), "{text}");
}

#[test]
fn a_file_that_is_cut_off_says_so() {
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    GgufWriter::of_folder(&folder(CASE)).write(&file, GgmlDType::Q8_0);
    let whole = fs::read(&file).expect("the file");
    fs::write(&file, &whole[..whole.len() - 4000]).expect("a shorter file");
    let text = refusal_of(&file);
    assert!(text.contains("is not complete: tensor `") && text.contains("the file has"), "{text}");
    fs::write(&file, &whole[..300]).expect("a shorter file");
    assert!(refusal_of(&file).contains("is not a complete GGUF file"));
    fs::write(&file, "version https://git-lfs.github.com/spec/v1\n").expect("a pointer");
    assert!(refusal_of(&file).contains("is a Git LFS pointer"));
}

#[test]
fn a_type_of_blocks_that_cannot_be_read_is_named() {
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    GgufWriter::of_folder(&folder(CASE)).write(&file, GgmlDType::F32);
    let mut bytes = fs::read(&file).expect("the file");
    let name = b"blk.0.ffn_up.weight";
    let place = bytes.windows(name.len()).position(|window| window == name).expect("the tensor");
    // Behind the name: the number of dimensions, two dimensions of 8 bytes, the type.
    bytes[place + name.len() + 4 + 16] = 20;
    fs::write(&file, bytes).expect("the changed file");
    let text = refusal_of(&file);
    assert!(text.contains("has tensors of llama.cpp's type 20, which is not supported; F32, F16"), "{text}");
}

#[test]
fn a_folder_with_nothing_but_a_gguf_file_names_the_file() {
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    fs::write(&file, "GGUF").expect("a file");
    let Err(LoadError::Malformed { problem, .. }) = Checkpoint::folder(folder_of_file.path()) else {
        panic!("it should not load")
    };
    assert!(problem.contains("give that file") && problem.contains("model.gguf"), "{problem}");
}
