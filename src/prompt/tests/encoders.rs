//! Pairs in the tokenizer's own template, and tokenizers of SentencePiece's and BERT's kind.

use serde_json::{Value, json};

use super::super::testing::{bind, prompter, tokenizer, tokenizer_json};
use super::super::{ModelLimits, Prompter, Tokenizer};
use super::{instructed, limits, render, request};
use crate::rerank::{Mode, RerankError, RerankRequest};
use crate::runtime::TokenTypes;

const SPACE: char = '▁';

fn encoder() -> Prompter {
    prompter("cross-encoder")
}

#[test]
fn a_pair_is_the_tokenizers_template_with_types_and_without_a_prefix() {
    let prompter = encoder();
    let rendering = render(&prompter, &request("the", &["and", "in the"]));
    assert!(rendering.prefix.is_empty());
    let texts: Vec<String> = rendering.suffixes.iter().map(|ids| prompter.decode(ids)).collect();
    assert_eq!(texts, ["<|endoftext|>the<|im_end|>and<|im_end|>", "<|endoftext|>the<|im_end|>in the<|im_end|>"]);
    // <|endoftext|>, the, <|im_end|>
    assert_eq!(rendering.token_types, TokenTypes::Pairs(vec![3, 3]));
    let one = render(&prompter, &request("the", &["and"]));
    assert_eq!((one.prefix.len(), one.suffixes.len()), (0, 1));
}

#[test]
fn an_instruction_is_not_read_and_that_is_said() {
    let prepared = encoder().tokenize(&instructed("q", "newest first", &["a"]), &limits(), &|| false).unwrap();
    assert_eq!(prepared.warnings, [r#"family `cross-encoder` takes no instruction; it was not read: "newest first""#]);
}

#[test]
fn the_document_is_cut_first_and_a_long_query_keeps_three_quarters() {
    let prompter = bind("cross-encoder", &tokenizer(), 103, 1024).unwrap();
    let (long, short) = ("7".repeat(200), "7".repeat(20));
    let of = |query: &str, document: &str| {
        let prepared = prompter.tokenize(&request(query, &[document]), &limits(), &|| false).unwrap();
        let pair = prompter.render(&prepared, &[0]).unwrap().suffixes.remove(0);
        (pair.len(), prepared.documents[0].tokens_read, prepared.warnings)
    };
    let cut = |read: usize| format!("1 of 1 documents was cut to {read} tokens: index 0");
    assert_eq!(of(&short, &long), (103, 80, vec![cut(80)]));
    let query = "query: cut, with its instruction, from 200 tokens to 75".to_owned();
    assert_eq!(of(&long, &long), (103, 25, vec![query.clone(), cut(25)]));
    assert_eq!(of(&long, &short), (98, 20, vec![query]));
    let refused = RerankRequest { truncation: false, ..request(&long, &["a"]) };
    let error = prompter.tokenize(&refused, &limits(), &|| false).unwrap_err();
    assert!(matches!(&error, RerankError::TextTooLong { field, limit: 75, .. } if field == "query"), "{error:?}");
}

#[test]
fn pairs_are_grouped_by_the_limits_of_a_slate() {
    let documents: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let request = RerankRequest { mode: Mode::Auto, ..RerankRequest::new("q", documents) };
    let few = crate::rerank::LimitSettings { max_slate_documents: 4, ..limits() };
    let prepared = encoder().tokenize(&request, &few, &|| false).unwrap();
    assert_eq!(prepared.mode, Mode::Pointwise);
    assert_eq!(super::passes(&prepared).iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
}

#[test]
fn a_tokenizer_without_pairs_is_refused() {
    let mut json = tokenizer_json(&[]);
    json["post_processor"] = Value::Null;
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), "x/tokenizer.json").unwrap();
    let error = bind("cross-encoder", &tokenizer, 128, 1024).unwrap_err().to_string();
    assert_eq!(
        error,
        "x/tokenizer.json: family `cross-encoder` needs a template for pairs of texts, and post_processor has none"
    );
}

#[test]
fn a_classifier_is_needed_and_has_one_label() {
    let families = super::super::Families::built_in().unwrap();
    let bind = |labels: Option<usize>| {
        let calibration = super::super::Calibration { scale: 1., bias: 0. };
        let pooling = crate::runtime::Pooling::First;
        let classifier =
            labels.map(|labels| super::super::ClassifierReadout { labels, pooling, start_layer: None, calibration });
        let model = ModelLimits { name: "x".into(), context: 128, vocabulary: 1024, classifier, ..Default::default() };
        let family = families.named("cross-encoder").unwrap();
        Prompter::new(family, tokenizer(), &model, None, None).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(bind(Some(1)), Ok(()));
    assert_eq!(
        bind(Some(3)),
        Err("classifier: it has 3 labels, and family `cross-encoder` reads one number per document".to_owned())
    );
    assert_eq!(bind(None), Err("classifier: family `cross-encoder` needs one, and the checkpoint has none".to_owned()));
}

/// A Unigram tokenizer whose vocabulary holds its control tokens, as SentencePiece's do.
fn unigram(scheme: &str) -> Value {
    let pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "the", "s", "<", ">", "▁a", "a", "▁▁"];
    let vocabulary: Vec<Value> =
        pieces.iter().enumerate().map(|(id, piece)| json!([piece, -1.0 - id as f64 / 10.0])).collect();
    let added: Vec<Value> =
        pieces[..4].iter().enumerate().map(|(id, text)| json!({"id": id, "content": text, "special": true})).collect();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.iter().map(|token| {
            let mut token = token.clone();
            for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
                token[flag] = json!(false);
            }
            token
        }).collect::<Vec<_>>(),
        "normalizer": {"type": "NFKC"}, "post_processor": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": true},
        "decoder": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": true},
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocabulary}})
}

fn read(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(json.to_string().as_bytes(), "unigram/tokenizer.json").unwrap()
}

#[test]
fn text_that_normalizes_to_a_control_token_becomes_unknown() {
    let tokenizer = read(&unigram("always"));
    // The whole tokenizer makes `<s>` of it.
    let whole = tokenizers::Tokenizer::from_bytes(unigram("always").to_string()).unwrap();
    assert!(whole.encode("a＜s＞", false).unwrap().get_ids().contains(&0));
    let ids = tokenizer.encode("a＜s＞").unwrap();
    assert!(ids.contains(&3) && ids.iter().all(|id| !tokenizer.is_control(*id)), "{ids:?}");
    assert_eq!(tokenizer.cut("a＜s＞", 5).unwrap().ids, ids);
    // Text that cannot be spelled is not a control token either.
    assert_eq!(tokenizer.encode("漢").unwrap(), [4, 3]);
    assert_eq!(tokenizer.decode(&[0, 3, 0]), "<s><unk><s>");
}

#[test]
fn a_space_is_put_before_the_first_word_of_a_prompt_only() {
    let ids = |scheme: &str, prompt: &str| {
        let whole = tokenizers::Tokenizer::from_bytes(unigram(scheme).to_string()).unwrap();
        whole.encode(prompt, false).unwrap().get_ids().to_vec()
    };
    for scheme in ["first", "always", "never"] {
        let tokenizer = read(&unigram(scheme));
        let (start, after) = (tokenizer.encode("the a").unwrap(), tokenizer.encode_continued("a the").unwrap());
        assert_eq!([start, vec![0], after].concat(), ids(scheme, "the a<s>a the"), "{scheme}");
        assert_eq!(tokenizer.encodes_alike(), scheme != "first");
    }
}

#[test]
fn a_long_text_gets_no_space_between_its_chunks() {
    for scheme in ["first", "always", "never"] {
        let tokenizer = read(&unigram(scheme));
        let text = "the a ".repeat(30_000);
        let (ids, bytes) = tokenizer.encode_until(&text, 1_000_000, &|| false).unwrap();
        assert_eq!(bytes, text.len());
        assert_eq!(ids, tokenizer.encode(&text).unwrap(), "{scheme}");
    }
}

#[test]
fn runs_of_spaces_that_are_added_tokens_stay_text() {
    let mut json = tokenizer_json(&[]);
    let added = json["added_tokens"].as_array_mut().unwrap();
    // As in GPT-NeoX: behind control tokens, and with ids of their own.
    added.push(json!({"id": 900, "content": "  ", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": true, "special": false}));
    let whole = tokenizers::Tokenizer::from_bytes(tokenizer_json(&[]).to_string()).unwrap();
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), "neox/tokenizer.json").unwrap();
    let of = |text: &str| whole.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.encode("the  the").unwrap(), [of("the"), vec![900], of("the")].concat());
    assert!(!tokenizer.is_control(900));
    assert!(tokenizer.control("  ").is_none());
}
