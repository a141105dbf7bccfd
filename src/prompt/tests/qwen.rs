//! Ids with the real Qwen tokenizer, where `PODIUM_QWEN_TOKENIZER` names its `tokenizer.json`.

use serde_json::{Value, json};

use super::super::{Families, LexicalTable, ModelLimits, Prompter, SlateScore, Tokenizer};
use crate::rerank::{LimitSettings, RerankRequest};

use super::{instructed, limits, pair_sequences, render, request, whole_slate};

const QUERY: &str = "Which planet is known as the Red Planet?";
const DOCUMENTS: [&str; 4] = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.\n绿茶富含 \u{1F600}",
];

/// The tokenizer with jina's two tokens: a prompter, and the whole tokenizer as the references use
/// it.
fn qwen(family: &str) -> Option<(Prompter, tokenizers::Tokenizer)> {
    let Ok(path) = std::env::var("PODIUM_QWEN_TOKENIZER") else {
        eprintln!("skipped: PODIUM_QWEN_TOKENIZER names no tokenizer.json");
        return None;
    };
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (id, content) in [(151_670, "<|embed_token|>"), (151_671, "<|rerank_token|>")] {
        json["added_tokens"].as_array_mut().unwrap().push(json!({"id": id, "content": content, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    }
    // The whole tokenizer counts its added tokens up by itself: fill the gap of 151669.
    json["added_tokens"].as_array_mut().unwrap().insert(
        26,
        json!({"id": 151_669, "content": "<|gap|>",
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}),
    );
    let bytes = json.to_string().into_bytes();
    let families = Families::built_in().unwrap();
    let model = ModelLimits { name: family.into(), context: 131_072, vocabulary: 151_936, ..Default::default() };
    let tokenizer = Tokenizer::from_bytes(&bytes, path).unwrap();
    let no_table: Option<LexicalTable> = None;
    let prompter = Prompter::new(families.named(family).unwrap(), tokenizer, &model, None, no_table).unwrap();
    Some((prompter, tokenizers::Tokenizer::from_bytes(bytes).unwrap()))
}

#[test]
fn ids_are_those_of_the_whole_tokenizer() {
    for family in ["jina-v3", "first"] {
        let Some((prompter, whole)) = qwen(family) else { return };
        for request in [request(QUERY, &DOCUMENTS), instructed(QUERY, "Prefer gas giants.", &DOCUMENTS)] {
            let ids = whole_slate(&prompter, &request);
            let text = prompter.decode(&ids);
            assert_eq!(ids, whole.encode_fast(text.as_str(), false).unwrap().get_ids(), "{family}");
        }
    }
    let Some((prompter, whole)) = qwen("zerank") else { return };
    for ids in pair_sequences(&prompter, &request(QUERY, &DOCUMENTS)) {
        assert_eq!(ids, whole.encode_fast(prompter.decode(&ids), false).unwrap().get_ids());
    }
}

#[test]
fn published_ids_and_counts_hold() {
    let Some((prompter, whole)) = qwen("qwen3-reranker") else { return };
    let answers = prompter.answers().unwrap();
    assert_eq!((answers.positive, answers.negative), (9693, Some(2152)));
    let ids = &pair_sequences(&prompter, &request(QUERY, &DOCUMENTS[..1]))[0];
    let content = format!(
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: {QUERY}\n<Document>: {}",
        DOCUMENTS[0]
    );
    let content = whole.encode_fast(content, false).unwrap().get_ids().to_vec();
    assert_eq!(ids[39..ids.len() - 9], content, "a prefix of 39 tokens and a suffix of 9");

    let (mxbai, _) = qwen("mxbai-v2").unwrap();
    let answers = mxbai.answers().unwrap();
    assert_eq!((answers.positive, answers.negative), (16, Some(15)));
    let (zerank, _) = qwen("zerank").unwrap();
    let answers = zerank.answers().unwrap();
    assert_eq!((answers.positive, answers.negative), (9454, None));

    let (jina, _) = qwen("jina-v3").unwrap();
    let rendering = render(&jina, &request(QUERY, &DOCUMENTS));
    let marks: Vec<u32> = rendering.marks.iter().map(|place| rendering.prefix[place.offset]).collect();
    assert_eq!(marks, [151_670, 151_670, 151_670, 151_670, 151_671]);
}

#[test]
fn first_finds_sixty_four_identifiers() {
    let Some((prompter, whole)) = qwen("first") else { return };
    let Some(SlateScore::FirstToken { identifiers }) = prompter.slate_score() else { panic!() };
    assert_eq!(identifiers.len(), 64);
    for (nth, identifier) in identifiers.iter().enumerate() {
        assert_eq!(whole.token_to_id(&identifier.text), Some(identifier.id));
        if nth < 26 {
            assert_eq!(identifier.text, char::from(b'A' + nth as u8).to_string());
        }
    }
    let prepared = prompter.tokenize(&request(QUERY, &vec!["text"; 64]), &limits(), &|| false).unwrap();
    assert_eq!(super::passes(&prepared).len(), 1, "64 documents in one window");
}

#[test]
fn a_hundred_and_fifty_long_documents_are_jinas_63_63_24() {
    let Some((prompter, _)) = qwen("jina-v3") else { return };
    let limits = LimitSettings {
        max_documents: 1000,
        max_passages: 10_000,
        max_slate_documents: 125,
        max_slate_tokens: 131_072,
    };
    let documents = vec!["7".repeat(2048); 150];
    let prepared = prompter.tokenize(&RerankRequest::new(QUERY, documents), &limits, &|| false).unwrap();
    let sizes: Vec<usize> = super::passes(&prepared).iter().map(Vec::len).collect();
    assert_eq!(sizes, [63, 63, 24]);
}
