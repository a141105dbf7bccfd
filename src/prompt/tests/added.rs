//! A family of a folder, which is a declaration and a template.

use super::super::testing::tokenizer;
use super::super::{Families, ModelLimits, PromptError, Prompter};
use super::{limits, pair_sequences, request};
use crate::rerank::{RerankError, RerankRequest};

const DECLARATION: &str = r#"
name = "mine"
licence = "mine"
control_tokens = ["<|endoftext|>"]
[recognise]
names = ["mine"]
[limits]
query = 20
instruction = 20
document = 100
[pointwise]
template = "mine.jinja"
budget = { tokens = 40, counts = "prompt" }
readout = { positive = "yes", negative = "no", scale = 2.0, bias = 0.5 }
"#;

fn mine(template: &str) -> Result<Prompter, PromptError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.toml"), DECLARATION).unwrap();
    std::fs::write(folder.path().join("mine.jinja"), template).unwrap();
    let mut families = Families::built_in().unwrap();
    families.add_folder(folder.path()).unwrap();
    let model = ModelLimits { name: "x/mine".into(), context: 2048, vocabulary: 1024, ..Default::default() };
    Prompter::new(families.named("mine").unwrap(), tokenizer(), &model, None, None)
}

#[test]
fn a_new_family_takes_no_rust() {
    let prompter = mine("<|endoftext|>{{ document }}\n{{ query }}\n").unwrap();
    let sequences = pair_sequences(&prompter, &request("q", &["a b", "c"]));
    let texts: Vec<String> = sequences.iter().map(|ids| prompter.decode(ids)).collect();
    assert_eq!(texts, ["<|endoftext|>a b\nq", "<|endoftext|>c\nq"]);
    let prepared =
        prompter
            .tokenize(&RerankRequest { instruction: Some("x".into()), ..request("q", &["a"]) }, &limits(), &|| false);
    assert_eq!(prepared.unwrap().warnings, ["family `mine` takes no instruction; it was not read: \"x\""]);
}

#[test]
fn a_document_with_template_text_after_it_is_truncated_before_that_text() {
    let prompter = mine("<|endoftext|>{{ document }}\n{{ query }}").unwrap();
    let long = request("q", &["short", &"7é".repeat(30)]);
    let sequences = pair_sequences(&prompter, &long);
    let text = prompter.decode(&sequences[1]);
    assert!(sequences[1].len() == 40 && text.ends_with("é7\nq"), "{text}");
    let prepared = prompter.tokenize(&long, &limits(), &|| false).unwrap();
    assert_eq!((prepared.documents[1].tokens, prepared.documents[1].tokens_read), (90, 37));
    let error = prompter.tokenize(&RerankRequest { truncation: false, ..long }, &limits(), &|| false).unwrap_err();
    assert!(matches!(error, RerankError::TextTooLong { tokens: 90, limit: 37, .. }), "{error:?}");
}

#[test]
fn a_template_that_loses_a_text_is_refused() {
    for (template, problem) in [
        ("{{ query }}", "1 documents must each be there once, in order"),
        ("{{ document }}{{ document }}{{ query }}", "1 documents must each be there once, in order"),
        ("{{ document }}", "the query is nowhere in it"),
        ("{{ document }}{{ query }}<|im_star|>", "`<|im_star|>` is no token of test/tokenizer.json"),
    ] {
        let error = mine(template).unwrap_err().to_string();
        assert_eq!(error, format!("family `mine`, template mine.jinja: {problem}"));
    }
}
