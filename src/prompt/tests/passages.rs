//! Long documents as passages: complete, within the limit, and cut where a reader would cut.

use proptest::prelude::*;

use super::super::{PreparedTexts, testing};
use super::*;
use crate::rerank::{ChunkMerge, Chunking, Passage};

const CHUNK: Chunking = Chunking { tokens: None, overlap: 0, max_passages: usize::MAX, merge: ChunkMerge::Max };

fn split_by(family: &str, request: &RerankRequest, chunking: Chunking) -> PreparedTexts {
    let request = RerankRequest { chunking: Some(chunking), ..request.clone() };
    testing::prompter(family).tokenize(&request, &limits(), &|| false).unwrap()
}

fn split(document: &str, chunking: Chunking) -> Vec<String> {
    let prepared = split_by("podium-nano", &request("q", &[document]), chunking);
    let passages = prepared.passages.unwrap();
    passages.list.iter().map(|passage| characters(document, passage)).collect()
}

fn characters(document: &str, passage: &Passage) -> String {
    document.chars().skip(passage.start).take(passage.end - passage.start).collect()
}

fn of(tokens: usize) -> Chunking {
    Chunking { tokens: Some(tokens), ..CHUNK }
}

fn without_space(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

#[test]
fn a_document_within_the_limit_is_one_passage_and_read_as_before() {
    let request = request("q", &["a short document", "another"]);
    let plain = testing::prompter("podium-nano").tokenize(&request, &limits(), &|| false).unwrap();
    let chunked = split_by("podium-nano", &request, CHUNK);
    assert_eq!(chunked.documents, plain.documents);
    let passages = chunked.passages.unwrap();
    assert_eq!(passages.list[0], Passage { document: 0, start: 0, end: 16, overlap: 0 });
    assert_eq!(passages.documents.iter().map(|document| document.passages).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn paragraphs_come_before_sentences_and_sentences_before_words() {
    let sentence = "The cat and the dog and the bird went there.";
    let paragraph = [sentence; 3].join(" ");
    let text = [paragraph.as_str(); 3].join("\n\n");
    let tokens = |text: &str| testing::prompter("podium-nano").count_tokens(text).unwrap();
    // Room for a paragraph and a half: cut after each paragraph.
    assert_eq!(split(&text, of(tokens(&paragraph) * 3 / 2)), [paragraph.as_str(); 3]);
    // Room for a sentence and a half: cut after each sentence.
    assert_eq!(split(&text, of(tokens(sentence) * 3 / 2 + 2)), [sentence; 9]);
    // Room for less than a sentence: cut between words.
    let words = split(sentence, of(tokens(sentence) / 2));
    assert!(words.len() > 1);
    assert_eq!(words.join(" "), sentence);
}

#[test]
fn a_line_break_within_a_sentence_is_worse_than_the_end_of_a_sentence() {
    let text = "The bird went\nthere and the cat. The dog went\nthere and the cat. The bird and\nthe dog went.";
    // Room for a sentence and the first line of the next one.
    let start = text.split_once(" The bird and").and_then(|(start, _)| Some(start.rsplit_once('\n')?.0)).unwrap();
    let room = testing::prompter("podium-nano").count_tokens(start).unwrap();
    for passage in split(text, of(room)) {
        assert!(passage.ends_with('.'), "{passage:?}");
    }
}

#[test]
fn a_word_over_the_limit_is_split_too() {
    let word = "ä".repeat(300);
    let passages = split(&word, of(20));
    assert!(passages.len() > 10, "{}", passages.len());
    assert_eq!(passages.concat(), word);
}

#[test]
fn passages_repeat_whole_sentences_up_to_the_overlap() {
    let sentences: Vec<String> = (0..12).map(|nth| format!("Sentence {nth} went there.")).collect();
    let text = sentences.join(" ");
    let passages = split(&text, Chunking { overlap: 25, ..of(60) });
    for pair in passages.windows(2) {
        let first = pair[1].split_inclusive('.').next().unwrap();
        assert!(pair[0].ends_with(first), "{pair:?}");
    }
    assert!(passages.last().unwrap().ends_with("Sentence 11 went there."));
    let prepared = split_by("podium-nano", &request("q", &[&text]), Chunking { overlap: 25, ..of(60) });
    let document = prepared.passages.unwrap().documents[0];
    let alone = testing::prompter("podium-nano").count_tokens(&text).unwrap();
    assert!(document.tokens.abs_diff(alone) <= passages.len(), "{} for {alone} tokens", document.tokens);
}

#[test]
fn the_first_passages_of_all_documents_come_first() {
    let long = "The cat went there. ".repeat(30);
    let prepared = split_by("podium-nano", &request("q", &[&long, "short", &long]), of(60));
    let order: Vec<usize> = prepared.passages.unwrap().list.iter().map(|passage| passage.document).collect();
    assert_eq!(order[..5], [0, 1, 2, 0, 2]);
}

#[test]
fn a_limit_on_passages_or_tokens_leaves_the_end_unread_and_says_so() {
    let long = "The cat went there. ".repeat(300);
    let whole = split_by("podium-nano", &request("q", &[&long]), of(60));
    let tokens = whole.passages.as_ref().unwrap().documents[0].tokens;
    assert!(whole.warnings.is_empty());
    let few = split_by("podium-nano", &request("q", &[&long]), Chunking { max_passages: 2, ..of(60) });
    let asked = RerankRequest { max_tokens_per_doc: Some(100), ..request("q", &[&long]) };
    for limited in [few, split_by("podium-nano", &asked, of(60))] {
        assert_eq!(limited.warnings, ["1 of 1 documents was not read to the end: index 0"]);
        let document = limited.passages.unwrap().documents[0];
        assert_eq!(document.passages, 2);
        assert!(document.tokens.abs_diff(tokens) <= 4, "{} for {tokens}", document.tokens);
        let read: usize = limited.documents.iter().map(|passage| passage.tokens_read).sum();
        assert_eq!(document.tokens - document.tokens_left, read);
        assert!(read <= 120);
    }
}

#[test]
fn a_megabyte_is_read_only_as_far_as_passages_go() {
    let long = "Some words of a long text. ".repeat(40_000);
    let few = split_by("podium-nano", &request("q", &[&long]), Chunking { max_passages: 3, ..of(60) });
    let document = few.passages.unwrap().documents[0];
    assert!(document.is_estimate && document.tokens > 200_000, "{document:?}");
    assert!(few.warnings[1].starts_with("tokens is an estimate for 1 of 1 documents"), "{:?}", few.warnings);
}

#[test]
fn every_family_reads_its_passages_whole() {
    let text = "The cat and the dog went there. And the bird?\nNo. ".repeat(120);
    for family in FAMILIES {
        let prepared = split_by(family, &request("q", &[&text, "short"]), of(50));
        assert!(prepared.passages.as_ref().unwrap().list.len() > 10, "{family}");
        for document in &prepared.documents {
            assert_eq!(document.tokens_read, document.tokens, "{family}: {:?}", document.text);
            assert!(document.tokens_read <= 50, "{family}: {}", document.tokens_read);
        }
        assert!(!prepared.warnings.iter().any(|warning| warning.contains("cut")), "{family}: {:?}", prepared.warnings);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No text is lost, none is read twice, and every passage is within the limit.
    #[test]
    fn passages_hold_the_whole_text(
        pieces in prop::collection::vec("[a-zä]{1,12}[.?,]?|\\PC{1,4}|\n\n|\n| {1,3}|\\. ", 1..200),
        tokens in 4_usize..80,
    ) {
        let text = pieces.join(" ");
        let prepared = split_by("jina-v3", &request("q", &[&text]), of(tokens));
        let passages = prepared.passages.as_ref().unwrap();
        let read: String = passages.list.iter().map(|passage| characters(&text, passage)).collect();
        prop_assert_eq!(without_space(&read), without_space(&text));
        for document in &prepared.documents {
            prop_assert!(document.tokens_read <= tokens, "{} of {}", document.tokens_read, tokens);
        }
    }
}
