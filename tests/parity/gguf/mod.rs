//! GGUF files against the Hugging Face folders of the same models: states, tokens, and refusals by name.
//!
//! The files are written here, with llama.cpp's names, from the fixtures and from random checkpoints.

mod refusals;
mod tokenizers;
mod write;

use candle_core::quantized::GgmlDType;
use podium::bench::checkpoint::{Recipe, Stored, create};
use podium::bench::shape::Shape;
use podium::rerank::RerankRequest;
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, ForwardPass, Head, OutputSpec, Runtime, TokenPosition};

use self::write::{GgufWriter, dequantised_folder};
use crate::deviation::largest;
use crate::fixtures::{RuntimeGolden, folder, golden, run_alone};
use crate::requests::{Loaded, usual_limits};

/// Every type that candle reads.
const TYPES: [GgmlDType; 14] = [
    GgmlDType::F32,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8K,
];

fn load(path: &std::path::Path, settings: &ComputeSettings) -> PackedRuntime {
    let checkpoint = if path.is_dir() { Checkpoint::folder(path) } else { Checkpoint::file(path) };
    PackedRuntime::load(&checkpoint.expect("a checkpoint"), settings).expect("a model")
}

fn settings(dtype: &str, quantize: &str) -> ComputeSettings {
    ComputeSettings { dtype: dtype.to_owned(), quantize: quantize.to_owned(), ..ComputeSettings::reference() }
}

/// The logits of a few tokens after a few others, and the state there.
fn read_end(runtime: &PackedRuntime) -> Vec<Vec<f32>> {
    let tokens: Vec<u32> = (0..40).map(|place| place * 13 % 250).collect();
    let end = vec![TokenPosition::prefix(tokens.len() - 1)];
    let read = |head| run_alone(runtime, ForwardPass::sequence(tokens.clone(), OutputSpec::listed(end.clone(), head)));
    [read(Head::Hidden), read(Head::Vocabulary(vec![3, 77, 200]))].concat()
}

#[test]
fn a_file_of_numbers_gives_what_transformers_gives() {
    for case in ["qwen2-mha-f32", "qwen2-gqa2-untied", "qwen3-gqa8-head128", "qwen3-mha-f32"] {
        let path = tempfile::tempdir().expect("a folder");
        let file = path.path().join("model.gguf");
        GgufWriter::of_folder(&folder(case)).write(&file, GgmlDType::F32);
        let runtime = load(&file, &ComputeSettings::reference());
        for pass in golden::<RuntimeGolden>(case).passes {
            let states = run_alone(&runtime, pass.reading_states(false));
            assert!(largest(&states, &pass.hidden_states) < 1e-4, "{case}");
            let logits = run_alone(&runtime, pass.reading_logits());
            assert!(largest(&logits, &pass.logits) < 1e-4, "{case}");
        }
    }
}

#[test]
fn the_rows_of_llamas_heads_are_put_back_in_order() {
    let case = "llama-linear-rope-biases";
    let path = tempfile::tempdir().expect("a folder");
    let file = path.path().join("model.gguf");
    GgufWriter::of_folder(&folder(case)).write(&file, GgmlDType::F32);
    let (found, expected) =
        [&file, &folder(case)].map(|path| read_end(&load(path, &ComputeSettings::reference()))).into();
    assert!(largest(&found, &expected) < 1e-5, "{found:?} {expected:?}");
}

#[test]
fn a_bert_gives_what_its_folder_gives() {
    // The fixture's activation is GELU's approximation, and llama.cpp's BERT has the exact one.
    let folder = write::edited(&folder("bert-bare-bf16"), |config| config["hidden_act"] = "gelu".into());
    let file = folder.path().join("model.gguf");
    GgufWriter::of_folder(folder.path()).write(&file, GgmlDType::F32);
    let [found, expected] = [file.as_path(), folder.path()].map(|path| {
        let tokens: Vec<u32> = (5..60).collect();
        let output = OutputSpec::listed(vec![TokenPosition::prefix(0), TokenPosition::prefix(54)], Head::Hidden);
        run_alone(&load(path, &ComputeSettings::reference()), ForwardPass::sequence(tokens, output))
    });
    assert!(largest(&found, &expected) < 1e-5);
}

#[test]
fn a_cross_encoder_with_robertas_classifier_scores_as_its_folder_does() {
    let case = "cross-encoder-xlm-roberta";
    let path = tempfile::tempdir().expect("a folder");
    let file = path.path().join("model.gguf");
    GgufWriter::of_folder(&folder(case)).write(&file, GgmlDType::F32);
    let documents = ["Mars is called the Red Planet.", "Two   spaces\nand a line.", "Zürich, 5,678 people", ""];
    let request = RerankRequest::new("Which planet is red?", documents.map(str::to_owned).to_vec());
    let [found, expected] = [Checkpoint::file(&file), Checkpoint::folder(&folder(case))].map(|checkpoint| {
        let loaded = Loaded::new(&checkpoint.expect("a checkpoint"), "auto");
        let (ran, scores) = loaded.run(&request, &usual_limits());
        let pairs: Vec<_> = ran.into_iter().map(|(planned, _)| (planned.pass.prefix, planned.pass.suffixes)).collect();
        (pairs, vec![scores.raw])
    });
    assert_eq!(found.0, expected.0, "token ids");
    assert!(largest(&found.1, &expected.1) < 1e-5, "{found:?} {expected:?}");
}

#[test]
fn every_type_of_blocks_gives_the_numbers_that_candle_decodes() {
    let shape = Shape {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        vocab_size: 300,
        ..Shape::named("qwen2.5-0.5b").expect("a shape")
    };
    let recipe = Recipe { shape, family: "first".to_owned(), stored: Stored::F32, tokenizer: None, seed: 7 };
    let random = tempfile::tempdir().expect("a folder");
    create(&recipe, random.path()).expect("a random checkpoint");
    let writer = GgufWriter::of_folder(random.path());
    for dtype in TYPES {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("model.gguf");
        writer.write(&file, dtype);
        dequantised_folder(random.path(), folder.path(), dtype);
        let [found, expected] =
            [file.as_path(), folder.path()].map(|path| read_end(&load(path, &ComputeSettings::reference())));
        assert!(largest(&found, &expected) < 1e-5, "{dtype:?}: {found:?} {expected:?}");
        let rounded = read_end(&load(&file, &settings("bf16", "none")));
        assert!(largest(&rounded, &expected) < 0.2, "{dtype:?} in bf16: {rounded:?} {expected:?}");
    }
}

#[test]
fn blocks_of_8_bits_and_less_are_computed_in_int8_where_the_processor_has_instructions_for_it() {
    let path = tempfile::tempdir().expect("a folder");
    let file = path.path().join("model.gguf");
    GgufWriter::of_folder(&folder("qwen2-gqa2-head64")).write(&file, GgmlDType::Q8_0);
    let dtype = load(&file, &settings("auto", "none")).facts().dtype.clone();
    let has_instructions = std::arch::is_x86_feature_detected!("avx512vnni");
    assert_eq!(dtype, if has_instructions { "int8" } else { "f32" });
}
