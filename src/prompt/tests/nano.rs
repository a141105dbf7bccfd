//! The embedded model's own files.

use std::path::Path;

use super::super::{
    CheckpointFacts, Description, Families, LexicalTable, ModelLimits, PodiumConfig, Prompter, Tokenizer,
};
use super::{instructed, render};

#[test]
fn the_embedded_models_files_make_a_prompter() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/podium-nano");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    let podium = PodiumConfig::from_config(&config, "config.json").unwrap();
    let families = Families::built_in().unwrap();
    let tokenizer = Tokenizer::from_bytes(&read("tokenizer.json"), "tokenizer.json").unwrap();
    let facts = CheckpointFacts {
        name: "podium-nano",
        architecture: "Qwen3Model",
        config: &config,
        projector: true,
        podium: podium.as_ref(),
        description: &Description::default(),
        tokenizer: &tokenizer,
        fits: &|_| false,
    };
    let family = families.detect("auto", &facts).unwrap().family;
    assert_eq!(family.name(), "podium-nano");
    let number = |key: &str| usize::try_from(config[key].as_u64().unwrap()).unwrap();
    let model = ModelLimits {
        name: "podium-nano".into(),
        context: number("max_position_embeddings"),
        vocabulary: number("vocab_size"),
        ..Default::default()
    };
    let table = LexicalTable::from_bytes(&read("lexical.safetensors")).unwrap();
    let prompter = Prompter::new(family, tokenizer, &model, podium.as_ref(), Some(table)).unwrap();

    // Its tokenizer folds case.
    let documents = ["Paris is the capital of France.", "Bananas are yellow."];
    let rendering = render(&prompter, &instructed("capital of france", "Prefer short ones", &documents));
    assert_eq!(
        prompter.decode(&rendering.prefix),
        "<|im_start|> capital of france<|instruct|> prefer short ones<|im_end|>"
    );
    // The buckets are those of tests/fixtures/lexical.json.
    assert_eq!(prompter.decode(&rendering.suffixes[0]), " paris is the capital of france.<|embed_26|>");
    assert_eq!(prompter.decode(&rendering.suffixes[1]), " bananas are yellow.<|embed_0|>");
}

#[test]
fn a_query_in_another_script_has_a_warning() {
    let prompter = super::super::testing::prompter("podium-nano");
    let warnings = |query: &str| {
        prompter.tokenize(&super::request(query, &["text"]), &super::limits(), &|| false).unwrap().warnings
    };
    for query in ["手表客服电话", "Что такое ржавчина? iron", "ما هو الصدأ"] {
        let expected = ["query: podium-nano reads English; most letters of this query are of another script"];
        assert_eq!(warnings(query), expected, "{query}");
    }
    for query in ["Größe, café, Ełk", "what does 手表 mean", "2024?"] {
        assert_eq!(warnings(query), [""; 0], "{query}");
    }
}
