//! Scores that were published for real cross-encoders.
//!
//! As in `published`, each test reads a variable that names a folder with the weights:
//! `PODIUM_MINILM_L6=... cargo test --test parity -- --ignored minilm_l6`. Podium computes in f32.
//! Values of sentence-transformers' own tests are of bf16 arithmetic: logits near 10 come in steps of
//! 1/16, relevances are right to within 0.02.

#![expect(clippy::print_stdout, reason = "the table is what the caller of these tests wants")]

use podium::scoring::Scores;

use crate::deviation::{Table, largest_of_row};
use crate::published::{PLANETS, RED_PLANET, checkpoint, request};
use crate::requests::{Loaded, usual_limits};

/// Of logits and relevances that were computed in f32, f16 or bf16.
const F32: f32 = 1e-3;
const F16: f32 = 0.02;
const BF16: f32 = 0.02;
const BF16_LOGIT: f32 = 0.15;

const BERLIN: &str = "How many people live in Berlin?";
const BERLIN_DOCUMENTS: [&str; 2] = [
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "Berlin is well known for its museums.",
];

/// A query, its documents and their published numbers.
type Published<'a> = (&'a str, &'a [&'a str], &'a [f32]);

fn raw(scores: Scores) -> Vec<f32> {
    scores.raw
}

fn relevance(scores: Scores) -> Vec<f32> {
    scores.relevance
}

/// Compares the published numbers of the checkpoint that a variable names.
fn compare(variable: &str, cases: &[Published<'_>], number: fn(Scores) -> Vec<f32>, tolerance: f32) {
    compare_as(variable, "auto", cases, number, tolerance);
}

fn compare_as(variable: &str, family: &str, cases: &[Published<'_>], number: fn(Scores) -> Vec<f32>, tolerance: f32) {
    let loaded = Loaded::new(&checkpoint(variable), family);
    let mut table = Table::default();
    for (query, documents, expected) in cases {
        let found = number(loaded.run(&request(query, documents), &usual_limits()).1);
        table.note(variable, query, "scores", largest_of_row(&found, expected));
    }
    println!("{}", table.to_text());
    table.assert_within(tolerance);
}

#[test]
#[ignore = "needs weights: set PODIUM_MINILM_L6"]
fn minilm_l6_gives_its_published_logits() {
    let mockingbird = [
        "'To Kill a Mockingbird' is a novel by Harper Lee published in 1960. It was immediately successful, winning the Pulitzer Prize, and has become a classic of modern American literature.",
        "The novel 'Moby-Dick' was written by Herman Melville and first published in 1851. It is considered a masterpiece of American literature and deals with complex themes of obsession, revenge, and the conflict between good and evil.",
        "Harper Lee, an American novelist widely known for her novel 'To Kill a Mockingbird', was born in 1926 in Monroeville, Alabama. She received the Pulitzer Prize for Fiction in 1961.",
        "Jane Austen was an English novelist known primarily for her six major novels, which interpret, critique and comment upon the British landed gentry at the end of the 18th century.",
        "The 'Harry Potter' series, which consists of seven fantasy novels written by British author J.K. Rowling, is among the most popular and critically acclaimed books of the modern era.",
        "'The Great Gatsby', a novel written by American author F. Scott Fitzgerald, was published in 1925. The story is set in the Jazz Age and follows the life of millionaire Jay Gatsby and his pursuit of Daisy Buchanan.",
    ];
    let cases: [Published<'_>; 2] = [
        (BERLIN, &BERLIN_DOCUMENTS, &[8.607_138, -4.320_078]),
        (
            "Who wrote 'To Kill a Mockingbird'?",
            &mockingbird,
            &[10.678_577, -3.309_951, 9.761_674, -6.478_002, -5.082_962, -4.898_909],
        ),
    ];
    compare("PODIUM_MINILM_L6", &cases, raw, F32);
    compare("PODIUM_MINILM_L6", &[(BERLIN, &BERLIN_DOCUMENTS, &[0.999_817_3, 0.013_124_32])], relevance, F32);
}

#[test]
#[ignore = "needs weights: set PODIUM_MINILM_L12"]
fn minilm_l12_gives_its_published_logits() {
    compare("PODIUM_MINILM_L12", &[(BERLIN, &BERLIN_DOCUMENTS, &[9.218_911, -4.078_028_7])], raw, F32);
}

#[test]
#[ignore = "needs weights: set PODIUM_MINILM_L2, PODIUM_MINILM_L4, PODIUM_TINYBERT_L2 and PODIUM_MMARCO"]
fn the_small_ms_marco_models_give_their_published_logits() {
    for (variable, expected) in [
        ("PODIUM_MINILM_L2", [-10.25, 9.8125, 7.9375, 8.3125]),
        ("PODIUM_MINILM_L4", [-7.875, 9.0, 5.6875, 6.656_25]),
        ("PODIUM_TINYBERT_L2", [-10.875, 7.0, 5.875, 5.6875]),
        ("PODIUM_MMARCO", [-3.281_25, 10.1875, 3.4375, 7.468_75]),
    ] {
        compare(variable, &[(RED_PLANET, &PLANETS, &expected)], raw, BF16_LOGIT);
    }
}

#[test]
#[ignore = "needs weights: set PODIUM_BGE_V2_M3"]
fn bge_reranker_v2_m3_gives_its_published_logits() {
    let panda = "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear species endemic to China.";
    let cases: [Published<'_>; 2] =
        [("query", &["passage"], &[-5.652_344]), ("what is panda?", &["hi", panda], &[-8.1875, 5.261_719])];
    compare("PODIUM_BGE_V2_M3", &cases, raw, F16);
    compare("PODIUM_BGE_V2_M3", &[(RED_PLANET, &PLANETS, &[0.018_55, 1.0, 0.789_06, 0.988_28])], relevance, BF16);
}

#[test]
#[ignore = "needs weights: set PODIUM_BGE_BASE and PODIUM_BGE_LARGE"]
fn the_older_bge_rerankers_give_their_published_relevances() {
    for (variable, expected) in [
        ("PODIUM_BGE_BASE", [0.878_91, 0.996_09, 0.996_09, 0.050_29]),
        ("PODIUM_BGE_LARGE", [0.699_22, 1.0, 0.972_66, 0.816_41]),
    ] {
        compare(variable, &[(RED_PLANET, &PLANETS, &expected)], relevance, BF16);
    }
}

#[test]
#[ignore = "needs weights: set PODIUM_GTE_MULTILINGUAL"]
fn gte_multilingual_reranker_gives_its_published_logits() {
    let cases: [Published<'_>; 3] = [
        ("中国的首都在哪儿", &["北京"], &[1.2315]),
        ("what is the capital of China?", &["北京"], &[0.5923]),
        ("how to implement quick sort in python?", &["Introduction of quick sort"], &[0.3041]),
    ];
    compare("PODIUM_GTE_MULTILINGUAL", &cases, raw, F16);
    let planets: [Published<'_>; 1] = [(RED_PLANET, &PLANETS, &[0.386_72, 0.851_56, 0.703_12, 0.652_34])];
    compare("PODIUM_GTE_MULTILINGUAL", &planets, relevance, BF16);
}

#[test]
#[ignore = "needs weights: set PODIUM_JINA_V2"]
fn jina_reranker_v2_gives_the_ten_relevances_of_its_card() {
    let documents = [
        "Organic skincare for sensitive skin with aloe vera and chamomile.",
        "New makeup trends focus on bold colors and innovative techniques",
        "Bio-Hautpflege für empfindliche Haut mit Aloe Vera und Kamille",
        "Neue Make-up-Trends setzen auf kräftige Farben und innovative Techniken",
        "Cuidado de la piel orgánico para piel sensible con aloe vera y manzanilla",
        "Las nuevas tendencias de maquillaje se centran en colores vivos y técnicas innovadoras",
        "针对敏感肌专门设计的天然有机护肤产品",
        "新的化妆趋势注重鲜艳的颜色和创新的技巧",
        "敏感肌のために特別に設計された天然有機スキンケア製品",
        "新しいメイクのトレンドは鮮やかな色と革新的な技術に焦点を当てています",
    ];
    let expected =
        [0.831_143, 0.094_010, 0.633_410, 0.082_697, 0.762_070, 0.099_470, 0.926_304, 0.058_346, 0.841_826, 0.111_241];
    let cases: [Published<'_>; 2] = [
        ("Organic skincare products for sensitive skin", &documents, &expected),
        (RED_PLANET, &PLANETS, &[0.236_33, 0.714_84, 0.503_91, 0.310_55]),
    ];
    compare("PODIUM_JINA_V2", &cases, relevance, BF16);
}

#[test]
#[ignore = "needs weights: set PODIUM_GTE_MODERNBERT"]
fn gte_reranker_modernbert_gives_its_published_logits() {
    let sort = "how to implement quick sort in python?";
    let cases: [Published<'_>; 2] = [
        ("what is the capital of China?", &["Beijing"], &[2.1387]),
        (sort, &["Introduction of quick sort", "The weather is nice today"], &[2.4609, -1.6729]),
    ];
    compare("PODIUM_GTE_MODERNBERT", &cases, raw, F16);
    let planets: [Published<'_>; 1] = [(RED_PLANET, &PLANETS, &[0.808_59, 0.953_12, 0.875, 0.917_97])];
    compare("PODIUM_GTE_MODERNBERT", &planets, relevance, BF16);
}

#[test]
#[ignore = "needs weights: set PODIUM_GRANITE, PODIUM_RURI_V3 and PODIUM_JAPANESE_XSMALL"]
fn other_modernbert_rerankers_give_their_published_relevances() {
    for (variable, expected) in [
        ("PODIUM_GRANITE", [0.789_06, 0.964_84, 0.890_62, 0.941_41]),
        ("PODIUM_RURI_V3", [0.000_37, 0.996_09, 0.002_32, 0.289_06]),
        ("PODIUM_JAPANESE_XSMALL", [0.024_05, 0.972_66, 0.117_68, 0.917_97]),
    ] {
        compare(variable, &[(RED_PLANET, &PLANETS, &expected)], relevance, BF16);
    }
}
