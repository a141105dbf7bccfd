//! The `tokenizer.json` of a GGUF file's model.
//!
//! llama.cpp names the kind of tokenizer (`tokenizer.ggml.model`) and, for byte-level BPE, the
//! rules that cut text into words (`tokenizer.ggml.pre`). The rules of each name are those of the
//! `tokenizer.json` that it stands for.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::metadata::Metadata;

/// llama.cpp's types of tokens.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// Marks the beginning of a word in SentencePiece's vocabularies, and in llama.cpp's form of
/// WordPiece's.
const WORD_START: char = '\u{2581}';

/// Words as GPT-4's tokenizer cuts them, with runs of `digits`.
fn words(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The tokenizer, in the form of Hugging Face's `tokenizer.json`.
pub(super) fn of(metadata: &Metadata<'_>) -> Result<Value, String> {
    const MODEL: &str = "tokenizer.ggml.model";
    let model = metadata.text(MODEL)?.ok_or_else(|| format!("has no {MODEL}"))?;
    let vocabulary = Vocabulary::read(metadata)?;
    match model {
        "gpt2" => byte_level_bpe(metadata, &vocabulary),
        "llama" => sentence_piece(metadata, &vocabulary),
        "bert" => word_piece(metadata, &vocabulary),
        "t5" => unigram(metadata, &vocabulary),
        other => Err(format!("{MODEL} is `{other}`; gpt2, llama, bert and t5 are supported")),
    }
}

/// The chat template and the texts of its special tokens, in the form of `tokenizer_config.json`.
pub(super) fn chat(metadata: &Metadata<'_>) -> Result<Value, String> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let token = |key: &str| -> Result<Option<&str>, String> {
        let id = metadata.whole(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok(id.and_then(|id| tokens.get(usize::try_from(id).ok()?).copied()))
    };
    Ok(json!({
        "chat_template": metadata.text("tokenizer.chat_template")?,
        "bos_token": token("bos")?,
        "eos_token": token("eos")?,
    }))
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// Of each token.
    types: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &Metadata<'a>) -> Result<Self, String> {
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or("has no tokenizer.ggml.tokens")?;
        let types = metadata.whole_numbers("tokenizer.ggml.token_type")?;
        let types = types.unwrap_or_else(|| vec![1; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(format!("tokenizer.ggml.token_type has {} entries for {} tokens", types.len(), tokens.len()));
        }
        Ok(Self { tokens, types })
    }

    /// Tokens that fill up the embedding matrix have no text.
    fn is_padding(&self, id: usize) -> bool {
        self.types[id] == UNUSED || (self.types[id] != 1 && self.tokens[id].starts_with("[PAD"))
    }

    /// Tokens outside the vocabulary that text is cut into.
    fn is_added(&self, id: usize) -> bool {
        matches!(self.types[id], CONTROL | USER_DEFINED)
    }

    fn added(&self) -> Vec<Value> {
        let ids = (0..self.tokens.len()).filter(|&id| self.is_added(id) && !self.is_padding(id));
        let added = ids.map(|id| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.types[id] == CONTROL,
            })
        });
        added.collect()
    }

    /// Ids by token; `keeps` says which are in it.
    fn ids(&self, keeps: impl Fn(usize) -> bool) -> HashMap<&'a str, usize> {
        self.tokens.iter().enumerate().filter(|(id, _)| keeps(*id)).map(|(id, token)| (*token, id)).collect()
    }
}

fn byte_level_bpe(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, String> {
    const PRE: &str = "tokenizer.ggml.pre";
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let sequence =
        |first: Value, use_regex| json!({"type": "Sequence", "pretokenizers": [first, byte_level(use_regex)]});
    let split = |pattern: String| {
        let first = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        sequence(first, false)
    };
    let (normalizer, pre_tokenizer) = match metadata.text(PRE)?.unwrap_or("gpt-2") {
        "qwen2" | "deepseek-r1-qwen" | "megrez" => (json!({"type": "NFC"}), split(words(r"\p{N}"))),
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => (Value::Null, split(words(r"\p{N}{1,3}"))),
        "smollm" => (Value::Null, sequence(json!({"type": "Digits", "individual_digits": true}), true)),
        "gpt-2" | "default" => (Value::Null, byte_level(true)),
        other => {
            return Err(format!(
                "{PRE} is `{other}`; qwen2, llama-bpe, smollm and gpt-2 are supported. Use the folder of the original model"
            ));
        }
    };
    let merges = metadata.texts("tokenizer.ggml.merges")?.ok_or("has no tokenizer.ggml.merges")?;
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": byte_level(false),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary.ids(|id| !vocabulary.is_added(id) && !vocabulary.is_padding(id)), "merges": merges,
        },
    }))
}

/// SentencePiece's BPE: a pair of tokens is merged if together they are a token, those of the
/// highest score first.
fn sentence_piece(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, String> {
    let scores = scores(metadata, vocabulary)?;
    let ids = vocabulary.ids(|id| !vocabulary.is_padding(id));
    let mut merges = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate().filter(|(id, _)| vocabulary.types[*id] == 1) {
        let cuts = token.char_indices().skip(1).map(|(place, _)| token.split_at(place));
        let known = cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        merges.extend(known.map(|(left, right)| (scores[id], left, right)));
    }
    merges.sort_by(|one, other| other.0.total_cmp(&one.0).then((one.1, one.2).cmp(&(other.1, other.2))));
    let tokens = &vocabulary.tokens;
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|(_, left, right)| [tokens[left], tokens[right]]).collect();
    let unknown = metadata.whole("tokenizer.ggml.unknown_token_id")?.unwrap_or(0) as usize;
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": WORD_START})];
    if metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": WORD_START}));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": WORD_START}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": tokens.get(unknown), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids, "merges": merges,
        },
    }))
}

/// SentencePiece's unigrams, with the special tokens that XLM-RoBERTa puts around texts.
fn unigram(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, String> {
    let scores = scores(metadata, vocabulary)?;
    let token = |key: &str, default: &str| -> Result<(usize, &str), String> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let id = metadata.whole(&key)?.map(|id| id as usize);
        let id = id.or_else(|| vocabulary.tokens.iter().position(|token| *token == default));
        let found = id.and_then(|id| Some((id, *vocabulary.tokens.get(id)?)));
        found.ok_or_else(|| format!("has no token {default}, or {key} is not a token"))
    };
    let ((start_id, start), (end_id, end)) = (token("bos", "<s>")?, token("eos", "</s>")?);
    let (unknown_id, _) = token("unknown", "<unk>")?;
    let pieces: Vec<(&str, f32)> = vocabulary.tokens.iter().copied().zip(scores).collect();
    let mut normalizers = Vec::new();
    if let Some(map) = metadata.bytes("tokenizer.ggml.precompiled_charsmap")? {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(map)}));
    }
    if metadata.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(true) {
        normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    let add_space = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let metaspace = json!({"type": "Metaspace", "replacement": WORD_START, "split": true,
        "prepend_scheme": if add_space { "always" } else { "never" }});
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(start), text("A"), special(end)],
            "pair": [special(start), text("A"), special(end), special(end), text("B"), special(end)],
            "special_tokens": {
                start: {"id": start, "ids": [start_id], "tokens": [start]},
                end: {"id": end, "ids": [end_id], "tokens": [end]},
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unknown_id, "vocab": pieces, "byte_fallback": false},
    }))
}

/// Of each token, its score.
fn scores(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<f32>, String> {
    let scores = metadata.numbers("tokenizer.ggml.scores")?.ok_or("has no tokenizer.ggml.scores")?;
    if scores.len() != vocabulary.tokens.len() {
        let (scores, tokens) = (scores.len(), vocabulary.tokens.len());
        return Err(format!("tokenizer.ggml.scores has {scores} entries for {tokens} tokens"));
    }
    Ok(scores)
}

/// WordPiece. llama.cpp stores `word` as `▁word`, and `##piece` as `piece`.
fn word_piece(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, String> {
    let restored = |token: &str| match token.strip_prefix(WORD_START) {
        Some(word) => word.to_owned(),
        None if token.starts_with('[') && token.ends_with(']') => token.to_owned(),
        None => format!("##{token}"),
    };
    let tokens: Vec<String> = vocabulary.tokens.iter().map(|token| restored(token)).collect();
    let is_lowercase = !tokens
        .iter()
        .any(|token| !token.starts_with('[') && token.chars().any(|character| character.is_ascii_uppercase()));
    let named = |keys: [&str; 2], default: &str| -> Result<(usize, String), String> {
        for key in keys {
            if let Some(id) = metadata.whole(&format!("tokenizer.ggml.{key}"))? {
                let token =
                    tokens.get(id as usize).ok_or_else(|| format!("tokenizer.ggml.{key} is {id}, not a token"))?;
                return Ok((id as usize, token.clone()));
            }
        }
        let id = tokens.iter().position(|token| token == default);
        id.map(|id| (id, default.to_owned())).ok_or_else(|| format!("has no token {default}"))
    };
    let (start_id, start) = named(["cls_token_id", "bos_token_id"], "[CLS]")?;
    let (end_id, end) = named(["seperator_token_id", "eos_token_id"], "[SEP]")?;
    let (_, unknown) = named(["unknown_token_id", "unk_token_id"], "[UNK]")?;
    let added = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| ["[PAD]", "[MASK]"].contains(&token.as_str()) || [&start, &end, &unknown].contains(token));
    let added: Vec<Value> = added
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let special = |token: &str, kind: usize| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: usize| json!({"Sequence": {"id": name, "type_id": kind}});
    let specials = [(&start, start_id), (&end, end_id)];
    let specials = specials.map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let specials: serde_json::Map<String, Value> = specials.into_iter().collect();
    let vocab: HashMap<&String, usize> = tokens.iter().enumerate().map(|(id, token)| (token, id)).collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": is_lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(&start, 0), text("A", 0), special(&end, 0)],
            "pair": [special(&start, 0), text("A", 0), special(&end, 0), text("B", 1), special(&end, 1)],
            "special_tokens": specials,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    }))
}
