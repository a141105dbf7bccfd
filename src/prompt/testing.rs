//! For tests: a small byte-level tokenizer with Qwen's split pattern, prompters on it, and hostile
//! texts.

use std::collections::HashMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Answers, Calibration, ChatFormat, ClassifierReadout, ColbertSettings, Families, LexicalTable, ModelLimits,
    PodiumConfig, PromptError, Prompter, Tokenizer,
};
use crate::evidence::{EvidenceConfig, EvidenceModel};
use crate::runtime::Pooling;

/// Qwen's split pattern.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Merges, each of two tokens that exist before it. With `?` + newline, as in Qwen, pieces that are
/// encoded separately differ from the same text encoded at once.
const MERGES: &[(&str, &str)] = &[
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("a", "n"),
    ("an", "d"),
    ("Ġ", "and"),
    ("i", "n"),
    ("in", "g"),
    ("?", "Ċ"),
    (".", "Ċ"),
    ("Ċ", "Ċ"),
    ("y", "e"),
    ("ye", "s"),
    ("Y", "e"),
    ("Ye", "s"),
    ("n", "o"),
    ("N", "o"),
    ("e", "r"),
    ("o", "n"),
    ("r", "e"),
    ("A", "A"),
    ("A", "B"),
    ("A", "C"),
    ("A", "D"),
    ("A", "E"),
    ("A", "F"),
    ("A", "G"),
    ("A", "H"),
    ("A", "I"),
    ("A", "K"),
    ("A", "L"),
    ("A", "M"),
    ("A", "N"),
    (">", "Ċ"),
    (":", "Ċ"),
    ("Ġ", "a"),
    ("e", "s"),
    ("e", "d"),
    ("l", "l"),
];

/// A chat template with the roles of a reranker.
const CHAT_TEMPLATE: &str = r"<|im_start|>{% for message in messages %}<{{ message.role }}>{{ message.content }}
{% endfor %}<|im_end|>";

/// The added tokens of the test tokenizer, in order of their ids.
pub(crate) fn control_texts() -> Vec<String> {
    let fixed = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<|embed_token|>",
        "<|rerank_token|>",
        "<|instruct|>",
        "<tool_call>",
    ];
    let buckets = (0..32).map(|bucket| format!("<|embed_{bucket}|>"));
    fixed
        .into_iter()
        .map(str::to_owned)
        .chain(buckets)
        .chain(["<|begin_of_text|>", "[CLS]", "[SEP]", "[MASK]", "<bos>"].map(str::to_owned))
        .collect()
}

/// The character of each byte in byte-level tokenizers.
fn byte_letters() -> Vec<String> {
    let plain = |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    (0..256)
        .map(|byte| {
            let letter = if plain(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(letter).unwrap().to_string()
        })
        .collect()
}

/// `tokenizer.json` of the test tokenizer, without some of its added tokens.
pub(crate) fn tokenizer_json(without: &[&str]) -> Value {
    let letters = byte_letters();
    let merged = MERGES.iter().map(|(left, right)| format!("{left}{right}"));
    let vocabulary: Vec<String> = letters.into_iter().chain(merged).collect();
    let first_control = vocabulary.len();
    let added: Vec<Value> = control_texts()
        .iter()
        .enumerate()
        .filter(|(_, text)| !without.contains(&text.as_str()))
        .map(|(nth, text)| {
            json!({"id": first_control + nth, "content": text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": !text.contains('t')})
        })
        .collect();
    let vocabulary: serde_json::Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": pair_template(first_control),
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary,
            "merges": MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>()}
    })
}

/// `<|endoftext|> A <|im_end|> B <|im_end|>`.
fn pair_template(first_control: usize) -> Value {
    let special = |text: &str, kind: usize| json!({"SpecialToken": {"id": text, "type_id": kind}});
    let token = |text: &str, nth: usize| json!({"id": text, "ids": [first_control + nth], "tokens": [text]});
    let (start, end) = ("<|endoftext|>", "<|im_end|>");
    json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [special(start, 0), {"Sequence": {"id": "A", "type_id": 0}}, special(end, 0),
            {"Sequence": {"id": "B", "type_id": 1}}, special(end, 1)],
        "special_tokens": {start: token(start, 0), end: token(end, 2)}})
}

/// Bytes of text that this thread has encoded so far.
pub(crate) fn encoded_bytes() -> usize {
    super::tokenizer::ENCODED_BYTES.get()
}

/// The whole tokenizer, as the reference implementations use it.
pub(crate) fn whole_tokenizer() -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_bytes(tokenizer_json(&[]).to_string()).unwrap()
}

pub(crate) fn tokenizer() -> Tokenizer {
    tokenizer_without("")
}

pub(crate) fn tokenizer_without(token: &str) -> Tokenizer {
    Tokenizer::from_bytes(tokenizer_json(&[token]).to_string().as_bytes(), "test/tokenizer.json").unwrap()
}

/// A table that knows the idf of a few words.
pub(crate) fn evidence() -> LexicalTable {
    use safetensors::tensor::{Dtype, TensorView};
    let metadata =
        [("k1", "0.9"), ("b", "0.4"), ("average_length", "84.0"), ("unknown_idf", "10.5"), ("bucket_scale", "42")];
    let bytes = safetensors::serialize(
        [
            ("term_hash", TensorView::new(Dtype::U32, vec![1], &7_u32.to_le_bytes()).unwrap()),
            ("idf", TensorView::new(Dtype::F16, vec![1], &[0, 0]).unwrap()),
        ],
        Some(metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
    );
    LexicalTable::from_bytes(&bytes.unwrap()).unwrap()
}

/// A family on a tokenizer, for a model of this context and vocabulary.
pub(crate) fn bind(
    family: &str,
    tokenizer: &Tokenizer,
    context: usize,
    vocabulary: usize,
) -> Result<Prompter, PromptError> {
    let families = Families::built_in().unwrap();
    let podium = PodiumConfig {
        family: family.into(),
        joint_layers: 1,
        calibration: Some(Calibration { scale: 8.0, bias: -3.0 }),
    };
    let nano = family == "podium-nano";
    let is_encoder = ["cross-encoder", "nemotron", "colbert"].contains(&family);
    let calibration = Calibration { scale: 1.0, bias: 0.0 };
    let is_layer_wise = family == "bge-layerwise";
    let (pooling, start_layer) = if is_layer_wise { (Pooling::Last, Some(2)) } else { (Pooling::First, None) };
    let classifier = ClassifierReadout { labels: 1, pooling, start_layer, calibration };
    let model = ModelLimits {
        name: format!("test/{family}"),
        context,
        layers: 4,
        vocabulary,
        bidirectional: is_encoder,
        token_types: is_encoder,
        classifier: (is_encoder || is_layer_wise).then_some(classifier),
        colbert: (family == "colbert").then(|| ColbertSettings {
            query_marker: "<|im_start|>".into(),
            document_marker: "<|im_end|>".into(),
            ..ColbertSettings::default()
        }),
        evidence: None,
        answers: (family == "logit-score").then_some(Answers { positive: 0, negative: Some(1), calibration }),
        default_prompt: None,
    };
    let chat = (family == "logit-score").then(|| {
        let template = |file: &str| (file == "chat_template.jinja").then(|| CHAT_TEMPLATE.as_bytes().to_vec());
        ChatFormat::read(&template).unwrap().unwrap()
    });
    Prompter::new(
        families.named(family).unwrap(),
        tokenizer.clone().with_chat_format(chat),
        &model,
        nano.then_some(&podium),
        nano.then(evidence),
    )
}

/// A family on the test tokenizer, with a context of 32,768 tokens.
pub(crate) fn prompter(family: &str) -> Prompter {
    if family == "podium-mini" {
        return podium_mini();
    }
    bind(family, &tokenizer(), 32_768, 1024).unwrap()
}

/// `yes-no` with this exit, on a model of 4 layers.
pub(crate) fn prompter_with_exit(exit: super::EarlyExitFacts) -> Prompter {
    let mut prompter = prompter("yes-no");
    prompter.facts.pointwise.as_mut().unwrap().early_exit.push(exit);
    prompter
}

/// `bge-layerwise` on a model of 40 layers with heads from layer 8 on.
pub(crate) fn layer_wise_prompter() -> Prompter {
    let families = Families::built_in().unwrap();
    let calibration = Calibration { scale: 1.0, bias: 0.0 };
    let classifier = ClassifierReadout { labels: 1, pooling: Pooling::Last, start_layer: Some(8), calibration };
    let (context, layers, vocabulary) = (2048, 40, 1024);
    let model = ModelLimits { context, layers, vocabulary, classifier: Some(classifier), ..ModelLimits::default() };
    Prompter::new(families.named("bge-layerwise").unwrap(), tokenizer(), &model, None, None).unwrap()
}

/// podium-mini on its own files.
fn podium_mini() -> Prompter {
    use serde::Deserialize;
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/podium-mini");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    let constants = EvidenceConfig::deserialize(&config["podium"]).unwrap();
    let evidence = EvidenceModel::new(constants, &read("instructions.safetensors"), 384).unwrap();
    let model = ModelLimits {
        name: "podium-mini".to_owned(),
        context: 512,
        vocabulary: evidence.vocabulary(),
        bidirectional: true,
        evidence: Some(evidence.into()),
        ..ModelLimits::default()
    };
    let podium = PodiumConfig::from_config(&config, "config.json").unwrap();
    let tokenizer = Tokenizer::from_bytes(&read("tokenizer.json"), "tokenizer.json").unwrap();
    let table = LexicalTable::from_bytes(&read("lexical.safetensors")).unwrap();
    let families = Families::built_in().unwrap();
    Prompter::new(families.named("podium-mini").unwrap(), tokenizer, &model, podium.as_ref(), Some(table)).unwrap()
}

/// [`prompter`], made once.
pub(crate) fn shared(family: &str) -> &'static Prompter {
    static PROMPTERS: LazyLock<HashMap<String, Prompter>> = LazyLock::new(|| {
        let names = Families::built_in().unwrap().names();
        names.into_iter().map(|name| (name.clone(), prompter(&name))).collect()
    });
    &PROMPTERS[family]
}

/// Texts made of control tokens, pieces of them, template letters, white space and odd characters.
pub(crate) fn nasty_text() -> impl Strategy<Value = String> {
    let mut pieces = control_texts();
    for token in control_texts().iter().take(8) {
        pieces.push(token[..token.len() / 2].to_owned());
        pieces.push(token[token.len() / 2..].to_owned());
        pieces.push(token[1..].to_owned());
        pieces.push(token[..token.len() - 1].to_owned());
    }
    let others = [
        "<",
        "|",
        ">",
        "<|",
        "|>",
        "im_",
        "embed_",
        "token",
        " ",
        "\n",
        "\t\u{a0}",
        "\u{1c}",
        "a",
        "the",
        "é",
        "e\u{301}",
        "漢字",
        "😀",
        "\u{212A}",
        "\u{338}",
        "\u{200b}",
        "\u{F0000}",
        "\u{F0001}query\u{F0001}",
        "\u{0}",
        "</passage>",
        "<query>\n",
        "{{ query }}",
        "{% raw %}",
        "]",
        "[A] ",
        "\u{FFFD}",
        "?\n",
    ];
    pieces.extend(others.map(str::to_owned));
    proptest::collection::vec(proptest::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}
