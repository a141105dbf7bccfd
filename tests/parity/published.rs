//! Scores that were published for the real checkpoints, in bf16 and to within 0.01.
//!
//! The weights are not here. Each test reads an environment variable that names a folder with them (`config.json`,
//! `tokenizer.json`, `*.safetensors`) and is ignored otherwise: `PODIUM_ZERANK_2=... cargo test --test parity -- --ignored zerank_2`.

use std::env;
use std::path::Path;

use podium::rerank::{Mode, RerankRequest};
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, ForwardPass, Head, OutputSpec, Pooling, Runtime};

use crate::deviation::{Table, largest, largest_of_row};
use crate::requests::{Loaded, usual_limits};

const TOLERANCE: f32 = 0.01;

pub const RED_PLANET: &str = "Which planet is known as the Red Planet?";
pub const PLANETS: [&str; 4] = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
];

const GREEN_TEA: &str = "What are the health benefits of green tea?";
const TEAS: [&str; 6] = [
    "Green tea contains antioxidants called catechins that may help reduce inflammation and protect cells from damage.",
    "El precio del café ha aumentado un 20% este año debido a problemas en la cadena de suministro.",
    "Studies show that drinking green tea regularly can improve brain function and boost metabolism.",
    "Basketball is one of the most popular sports in the United States.",
    "绿茶富含儿茶素等抗氧化剂，可以降低心脏病风险，还有助于控制体重。",
    "Le thé vert est riche en antioxydants et peut améliorer la fonction cérébrale.",
];

/// The checkpoint in the folder that a variable names.
pub fn checkpoint(variable: &str) -> Checkpoint {
    let folder = env::var_os(variable).unwrap_or_else(|| panic!("set {variable} to a folder with the weights"));
    Checkpoint::folder(Path::new(&folder)).unwrap_or_else(|error| panic!("{variable}: {error}"))
}

pub fn request(query: &str, documents: &[&str]) -> RerankRequest {
    RerankRequest::new(query, documents.iter().map(|&text| text.to_owned()).collect())
}

#[test]
#[ignore = "needs weights: set PODIUM_JINA_V3"]
fn jina_reranker_v3_gives_its_published_cosines() {
    let loaded = Loaded::new(&checkpoint("PODIUM_JINA_V3"), "jina-v3");
    let raw = |documents: &[&str]| loaded.run(&request(GREEN_TEA, documents), &usual_limits()).1.raw;
    let mut table = Table::default();
    let alone: Vec<f32> = TEAS.iter().flat_map(|document| raw(&[document])).collect();
    let expected = [0.345_703_13, -0.104_980_46, 0.314_453_13, -0.137_695_31, 0.339_843_75, 0.253_906_2];
    table.note("jina-reranker-v3", "one document each", "cosines", largest_of_row(&alone, &expected));
    let expected = [0.294_921_88, -0.160_156_25, 0.189_453_13, -0.170_898_44, 0.225_585_94, 0.164_062_5];
    table.note("jina-reranker-v3", "six documents", "cosines", largest_of_row(&raw(&TEAS), &expected));
    println!("{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
#[ignore = "needs weights: set PODIUM_ZERANK_1_SMALL"]
fn zerank_1_small_gives_its_published_scores() {
    let loaded = Loaded::new(&checkpoint("PODIUM_ZERANK_1_SMALL"), "zerank");
    let (_, scores) = loaded.run(&request(RED_PLANET, &PLANETS), &usual_limits());
    let mut table = Table::default();
    let expected = [0.094_28, 0.838_89, 0.120_52, 0.218_4];
    table.note("zerank-1-small", "planets", "scores", largest_of_row(&scores.relevance, &expected));
    println!("{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
#[ignore = "needs weights: set PODIUM_ZERANK_2"]
fn zerank_2_gives_its_published_score() {
    let loaded = Loaded::new(&checkpoint("PODIUM_ZERANK_2"), "zerank");
    let (_, scores) = loaded.run(&request("What is 2+2?", &["4"]), &usual_limits());
    let mut table = Table::default();
    table.note("zerank-2", "sum", "scores", largest_of_row(&scores.relevance, &[0.753_188_3]));
    println!("{}", table.to_text());
    table.assert_within(TOLERANCE);
}

/// No scores were published with these prompts, so only the order is held to.
fn assert_mars_is_first(variable: &str, family: &str) {
    let (_, scores) = Loaded::new(&checkpoint(variable), family).run(&request(RED_PLANET, &PLANETS), &usual_limits());
    let first = scores.relevance.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    assert_eq!(first.map(|(document, _)| document), Some(1), "{family}: {:?}", scores.relevance);
}

#[test]
#[ignore = "needs weights: set PODIUM_QWEN3_RERANKER"]
fn qwen3_reranker_puts_mars_first() {
    assert_mars_is_first("PODIUM_QWEN3_RERANKER", "qwen3-reranker");
}

#[test]
#[ignore = "needs weights: set PODIUM_JINA_V35"]
fn jina_reranker_v35_puts_mars_first() {
    assert_mars_is_first("PODIUM_JINA_V35", "jina-v3.5");
}

#[test]
#[ignore = "needs weights: set PODIUM_E2RANK to E2Rank-0.6B"]
fn e2rank_gives_its_published_cosines() {
    const DOCUMENTS: [&str; 2] = [
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is \
         responsible for the movement of planets around the sun.",
    ];
    let loaded = Loaded::new(&checkpoint("PODIUM_E2RANK"), "e2rank");
    let mut table = Table::default();
    for (query, listwise, pointwise) in [
        ("What is the capital of China?", [0.851_351_3, 0.242_684_9], [0.595_067_5, 0.030_417_7]),
        ("Explain gravity", [0.331_546_7, 0.792_337_9], [0.061_970_4, 0.562_691_3]),
    ] {
        for (mode, expected) in [(Mode::Listwise, listwise), (Mode::Pointwise, pointwise)] {
            let request = RerankRequest { mode, ..request(query, &DOCUMENTS) };
            let (_, scores) = loaded.run(&request, &usual_limits());
            table.note("E2Rank-0.6B", &format!("{query} {mode}"), "cosines", largest_of_row(&scores.raw, &expected));
        }
    }
    println!("{}", table.to_text());
    table.assert_within(TOLERANCE);
}

#[test]
#[ignore = "needs weights: set PODIUM_COLBERT to GTE-ModernColBERT-v1 or answerai-colbert-small-v1"]
fn colbert_puts_mars_first() {
    assert_mars_is_first("PODIUM_COLBERT", "auto");
}

#[test]
#[ignore = "needs weights: set PODIUM_CHAT to a chat model of Llama, Mistral or Qwen"]
fn chat_models_put_mars_first() {
    assert_mars_is_first("PODIUM_CHAT", "first");
    assert_mars_is_first("PODIUM_CHAT", "yes-no");
}

#[test]
#[ignore = "needs weights: set PODIUM_CONTEXTUAL"]
fn contextual_puts_mars_first() {
    assert_mars_is_first("PODIUM_CONTEXTUAL", "contextual");
}

#[test]
#[ignore = "needs weights: set PODIUM_R3_RERANK"]
fn r3_rerank_puts_mars_first() {
    assert_mars_is_first("PODIUM_R3_RERANK", "qwen3-reranker");
}

#[test]
#[ignore = "needs weights: set PODIUM_MXBAI_V2"]
fn mxbai_v2_puts_mars_first() {
    assert_mars_is_first("PODIUM_MXBAI_V2", "mxbai-v2");
}

/// `What is Deep Learning?` through the trunk of all-MiniLM-L6-v2, in f32: the first values of the first state and of the
/// mean.
#[test]
#[ignore = "needs weights: set PODIUM_MINILM to all-MiniLM-L6-v2"]
fn the_trunk_of_minilm_gives_its_states() {
    let runtime = PackedRuntime::load(&checkpoint("PODIUM_MINILM"), &ComputeSettings::reference());
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    let tokens = vec![101, 2054, 2003, 2784, 4083, 1029, 102];
    let read = |pooling| {
        let pass = ForwardPass::sequence(tokens.clone(), OutputSpec::pooled(pooling, Head::Hidden));
        vec![runtime.run(&[pass]).expect("it runs").remove(0).remove(0)[..5].to_vec()]
    };
    let first = vec![vec![-0.023_535_9, -0.526_678_7, 0.178_477_9, -0.146_605, -0.000_796_9]];
    let mean = vec![vec![-0.590_237_1, -0.252_318_5, 0.149_686_4, 0.054_787_8, -0.118_040_1]];
    let mut table = Table::default();
    table.note("all-MiniLM-L6-v2", "f32", "first", largest(&read(Pooling::First), &first));
    table.note("all-MiniLM-L6-v2", "f32", "mean", largest(&read(Pooling::Mean), &mean));
    println!("{}", table.to_text());
    table.assert_within(1e-5);
}
