//! Builds the tokenizer of random checkpoints: byte-level BPE like Qwen's, over the vocabulary of
//! the text generator.
//!
//! Every word of [`super::text`] is one token, as most words are for a large tokenizer. Letters,
//! digits, and the answers and identifiers that prompt families read are single tokens too.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::text::{NAMES, WORDS};

/// The pre-tokenization pattern of Qwen's tokenizers.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The character that byte-level tokenizers use for a space.
const SPACE: char = 'Ġ';

/// The answer tokens of prompt families, besides letters and digits.
const ANSWERS: [&str; 4] = ["yes", "no", "Yes", "No"];

/// Builds a `tokenizer.json`. The control tokens have the last ids.
#[must_use]
pub fn build(controls: &[String]) -> Vec<u8> {
    let mut vocabulary: Vec<String> = byte_letters().map(String::from).collect();
    let mut known: HashSet<String> = vocabulary.iter().cloned().collect();
    let mut merges = Vec::new();
    for token in multi_letter_tokens() {
        // One merge for each letter, from the left, so that words with a common prefix share
        // merges.
        for (end, letter) in token.char_indices().skip(1) {
            let whole = &token[..end + letter.len_utf8()];
            if known.insert(whole.to_owned()) {
                merges.push(json!([token[..end], letter.to_string()]));
                vocabulary.push(whole.to_owned());
            }
        }
    }
    let added: Vec<Value> = controls
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({"id": vocabulary.len() + index, "content": text, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let vocabulary: Map<String, Value> =
        vocabulary.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges}
    });
    tokenizer.to_string().into_bytes()
}

/// The tokens of more than one letter, in the order of the merges: words first, so that no shorter
/// token splits them.
fn multi_letter_tokens() -> Vec<String> {
    let mut tokens: Vec<String> =
        WORDS.split_whitespace().chain(NAMES.split_whitespace()).flat_map(spellings).collect();
    tokens.extend(ANSWERS.map(str::to_owned));
    let letters = || 'A'..='Z';
    tokens.extend(letters().flat_map(|first| letters().map(move |second| format!("{first}{second}"))));
    tokens
}

/// The two spellings of a word after a space: as it is, and capitalised.
fn spellings(word: &str) -> [String; 2] {
    let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
    [format!("{SPACE}{word}"), format!("{SPACE}{}{rest}", first.to_uppercase())]
}

/// The characters for the 256 bytes, by GPT-2's rule: printable bytes stand for themselves, the
/// others are mapped to U+0100 and above.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0..=255_u32).filter_map(move |byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        char::from_u32(if printable {
            byte
        } else {
            next += 1;
            next - 1
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Tokenizer;

    #[test]
    fn words_answers_and_controls_are_single_tokens() {
        let bytes = build(&["<|im_start|>".to_owned()]);
        let tokenizer = Tokenizer::from_bytes(&bytes, "built").unwrap();
        let count = |text: &str| tokenizer.count(text).unwrap();
        for text in [" temperature", " The", " Kyoto", "yes", "No", "7", "A", "QZ"] {
            assert_eq!(count(text), 1, "{text:?}");
        }
        assert_eq!(count(" the harbour was cold."), 3 + 2 + 1, "cold begins like colour");
        let whole = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let last = u32::try_from(whole.get_vocab_size(true)).unwrap() - 1;
        assert_eq!(whole.token_to_id("<|im_start|>"), Some(last));
        assert_eq!(whole.encode("<|im_start|> the", false).unwrap().get_ids().len(), 2);
    }
}
