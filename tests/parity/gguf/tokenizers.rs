//! The tokenizers of GGUF files.

use candle_core::quantized::gguf_file::Value;
use podium::runtime::Checkpoint;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::write::GgufWriter;
use crate::fixtures::folder;

const TEXTS: [&str; 7] = [
    "Which planet is known as the Red Planet?",
    "It's 12:34, and they're 5,678 people in Zu\u{308}rich.",
    "def f(x):\n    return x+1\n\n\n",
    "  leading and trailing  ",
    "猫は椅子で眠る。 Die Katze schläft.",
    "<|im_start|>user",
    "",
];

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(texts.into_iter().map(|text| Value::String(text.to_owned())).collect())
}

/// The metadata of a tokenizer: unigrams as XLM-RoBERTa's, or byte-level BPE with Qwen's rules.
pub fn metadata_of(tokenizer: &Json) -> Vec<(String, Value)> {
    if tokenizer["model"]["type"] == "Unigram" { unigrams(tokenizer) } else { byte_level_bpe(tokenizer) }
}

fn unigrams(tokenizer: &Json) -> Vec<(String, Value)> {
    let pieces = tokenizer["model"]["vocab"].as_array().expect("a vocabulary");
    let texts = pieces.iter().map(|piece| piece[0].as_str().expect("a text"));
    let scores = pieces.iter().map(|piece| Value::F32(piece[1].as_f64().expect("a score") as f32)).collect();
    let mut types = vec![1; pieces.len()];
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        types[token["id"].as_u64().expect("an id") as usize] = if token["content"] == "<unk>" { 2 } else { 3 };
    }
    [
        ("model", Value::String("t5".to_owned())),
        ("pre", Value::String("default".to_owned())),
        ("tokens", strings(texts)),
        ("scores", Value::Array(scores)),
        ("token_type", Value::Array(types.into_iter().map(Value::I32).collect())),
        ("bos_token_id", Value::U32(0)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(3)),
        ("add_space_prefix", Value::Bool(true)),
        ("remove_extra_whitespaces", Value::Bool(true)),
    ]
    .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
    .into()
}

fn byte_level_bpe(tokenizer: &Json) -> Vec<(String, Value)> {
    let mut tokens = Vec::new();
    let mut put = |id: u64, text: &str, kind: i32| {
        let id = id as usize;
        if tokens.len() <= id {
            tokens.resize(id + 1, ("[PAD]".to_owned(), 5));
        }
        tokens[id] = (text.to_owned(), kind);
    };
    for (text, id) in tokenizer["model"]["vocab"].as_object().expect("a vocabulary") {
        put(id.as_u64().expect("an id"), text, 1);
    }
    for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        put(token["id"].as_u64().expect("an id"), token["content"].as_str().expect("a text"), 3);
    }
    let merges = tokenizer["model"]["merges"].as_array().into_iter().flatten().map(|merge| match merge.as_str() {
        Some(text) => text.to_owned(),
        None => format!("{} {}", merge[0].as_str().expect("a token"), merge[1].as_str().expect("a token")),
    });
    let merges: Vec<String> = merges.collect();
    let types = tokens.iter().map(|(_, kind)| Value::I32(*kind)).collect();
    [
        ("model", Value::String("gpt2".to_owned())),
        ("pre", Value::String("qwen2".to_owned())),
        ("tokens", strings(tokens.iter().map(|(text, _)| text.as_str()))),
        ("token_type", Value::Array(types)),
        ("merges", strings(merges.iter().map(String::as_str))),
    ]
    .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
    .into()
}

/// The tokenizer of a GGUF file with this metadata, and some model.
fn tokenizer_of(metadata: Vec<(&str, Value)>) -> Tokenizer {
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    let mut writer = GgufWriter::of_folder(&folder("qwen2-mha-f32"));
    for (key, value) in metadata {
        writer.set(&format!("tokenizer.ggml.{key}"), value);
    }
    writer.write(&file, candle_core::quantized::GgmlDType::F32);
    let checkpoint = Checkpoint::file(&file).expect("a checkpoint");
    Tokenizer::from_bytes(checkpoint.tokenizer).expect("a tokenizer")
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, false).expect("tokens").get_tokens().to_vec()
}

#[test]
fn byte_level_bpe_with_qwens_rules_gives_the_ids_of_its_tokenizer_json() {
    let folder = folder("first");
    let folder_of_file = tempfile::tempdir().expect("a folder");
    let file = folder_of_file.path().join("model.gguf");
    GgufWriter::of_folder(&folder).write(&file, candle_core::quantized::GgmlDType::F32);
    let found = Tokenizer::from_bytes(Checkpoint::file(&file).expect("a checkpoint").tokenizer).expect("a tokenizer");
    let expected = Tokenizer::from_file(folder.join("tokenizer.json")).expect("a tokenizer");
    for text in TEXTS {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, false).expect("tokens").get_ids().to_vec();
        assert_eq!(ids(&found), ids(&expected), "{text:?}");
    }
    assert_eq!(found.token_to_id("<|im_start|>"), expected.token_to_id("<|im_start|>"));
    assert_eq!(tokens(&found, "<|im_start|>user")[0], "<|im_start|>");
}

#[test]
fn sentence_pieces_are_merged_by_their_scores_and_unknown_characters_are_bytes() {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    let mut types = vec![2, 3, 3];
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(texts.len(), 6);
    let mut scores = vec![0f32; texts.len()];
    // "he" comes before "el", and "hel" before "lo".
    for (text, score) in [
        ("\u{2581}", -20.),
        ("h", -21.),
        ("e", -22.),
        ("l", -23.),
        ("o", -24.),
        ("he", -1.),
        ("el", -2.),
        ("hel", -3.),
        ("lo", -4.),
        ("\u{2581}hel", -5.),
    ] {
        texts.push(text.to_owned());
        types.push(1);
        scores.push(score);
    }
    let tokenizer = tokenizer_of(vec![
        ("model", Value::String("llama".to_owned())),
        ("tokens", strings(texts.iter().map(String::as_str))),
        ("token_type", Value::Array(types.into_iter().map(Value::I32).collect())),
        ("scores", Value::Array(scores.into_iter().map(Value::F32).collect())),
        ("unknown_token_id", Value::U32(0)),
    ]);
    assert_eq!(tokens(&tokenizer, "hello"), ["\u{2581}hel", "lo"]);
    assert_eq!(tokens(&tokenizer, "ohel"), ["\u{2581}", "o", "hel"]);
    assert_eq!(tokens(&tokenizer, "éo"), ["\u{2581}", "<0xC3>", "<0xA9>", "o"]);
    assert_eq!(tokens(&tokenizer, "</s>o")[0], "</s>");
}

#[test]
fn word_pieces_are_those_of_bert() {
    let texts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u{2581}play", "ing", "ed", "\u{2581}the", "\u{2581}."];
    let word_pieces = |more: &[&str]| {
        tokenizer_of(vec![
            ("model", Value::String("bert".to_owned())),
            ("tokens", strings(texts.iter().chain(more).copied())),
            ("token_type", Value::Array(vec![Value::I32(1); texts.len() + more.len()])),
            ("cls_token_id", Value::U32(2)),
            ("seperator_token_id", Value::U32(3)),
        ])
    };
    let tokenizer = word_pieces(&[]);
    assert_eq!(tokens(&tokenizer, "The PLAYING played. xyz"), ["the", "play", "##ing", "play", "##ed", ".", "[UNK]"]);
    let pair = tokenizer.encode(("the", "played"), true).expect("tokens");
    assert_eq!(pair.get_tokens(), ["[CLS]", "the", "[SEP]", "play", "##ed", "[SEP]"]);
    assert_eq!(pair.get_type_ids(), [0, 0, 0, 1, 1, 1]);
    let cased = word_pieces(&["\u{2581}The"]);
    assert_eq!(tokens(&cased, "The the"), ["The", "the"], "a vocabulary with capitals is for text with capitals");
}

#[test]
fn unigrams_are_the_likeliest_pieces_of_text_that_the_files_map_has_normalised() {
    let pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u{2581}", "f", "i", "n", "d", "\u{2581}fi", "nd", "\u{2581}find"];
    let types = [3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 1];
    let scores = [0., 0., 0., 0., -3., -5., -5., -5., -5., -4., -4., -6.];
    // Made by SentencePiece from one rule: the ligature U+FB01 becomes "fi".
    let map = include_bytes!("ligature.charsmap");
    let bytes: [fn(u8) -> Value; 2] = [Value::U8, |byte| Value::I8(byte.cast_signed())];
    for byte in bytes {
        let tokenizer = tokenizer_of(vec![
            ("model", Value::String("t5".to_owned())),
            ("tokens", strings(pieces)),
            ("token_type", Value::Array(types.map(Value::I32).to_vec())),
            ("scores", Value::Array(scores.map(Value::F32).to_vec())),
            ("precompiled_charsmap", Value::Array(map.iter().copied().map(byte).collect())),
        ]);
        assert_eq!(tokens(&tokenizer, "\u{fb01}nd"), ["\u{2581}find"]);
        assert_eq!(tokens(&tokenizer, "  find   fi "), ["\u{2581}find", "\u{2581}fi"]);
        assert_eq!(tokens(&tokenizer, "dx"), ["\u{2581}", "d", "x"]);
        let pair = tokenizer.encode(("find", "nd"), true).expect("tokens");
        assert_eq!(pair.get_ids(), [0, 11, 2, 2, 4, 10, 2]);
    }
}

#[test]
fn the_chat_template_of_a_file_is_that_of_its_folder() {
    let path = tempfile::tempdir().expect("a folder");
    let file = path.path().join("model.gguf");
    let mut writer = GgufWriter::of_folder(&folder("qwen2-mha-f32"));
    writer.set("tokenizer.chat_template", Value::String("{{ bos_token }}{{ messages[0].content }}".to_owned()));
    writer.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    writer.write(&file, candle_core::quantized::GgmlDType::F32);
    let checkpoint = Checkpoint::file(&file).expect("a checkpoint");
    let config = checkpoint.read_other_file("tokenizer_config.json").expect("what is known of it");
    let config: Json = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["chat_template"], "{{ bos_token }}{{ messages[0].content }}");
    let tokenizer: Json = serde_json::from_slice(&checkpoint.tokenizer).expect("JSON");
    let id = &tokenizer["model"]["vocab"][config["bos_token"].as_str().expect("a token")];
    assert_eq!(id, &Json::from(1));
    assert_eq!(config["eos_token"], Json::Null);
    assert_eq!(checkpoint.read_other_file("chat_template.jinja"), None);
}
