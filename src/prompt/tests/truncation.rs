//! Which texts are truncated, where, and with which warnings.

use super::super::testing::{bind, encoded_bytes, prompter, tokenizer};
use super::super::tokenizer::CHUNK_BYTES;
use super::{FAMILIES, instructed, limits, pair_sequences, render, request};
use crate::rerank::budget::ReadLimit;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// A text of exactly this many tokens with the test tokenizer, and one letter each.
fn digits(tokens: usize) -> String {
    "7".repeat(tokens)
}

fn per_document(limit: usize, documents: &[&str]) -> RerankRequest {
    RerankRequest { max_tokens_per_doc: Some(limit), ..request("q", documents) }
}

#[test]
fn a_truncated_document_is_counted_and_has_a_warning_in_every_family() {
    for family in FAMILIES {
        for mode in [Mode::Auto, Mode::Pointwise] {
            let request = RerankRequest { mode, ..per_document(5, &["1", &digits(9), "é😀漢é漢😀"]) };
            let prepared = prompter(family).tokenize(&request, &limits(), &|| false).unwrap();
            let [short, long, bytes] = prepared.documents.as_slice() else { panic!() };
            assert_eq!(short.tokens_read, short.tokens, "{family}");
            assert!(long.tokens >= 9 && long.tokens_read == 5, "{family}: {long:?}");
            assert!(bytes.tokens_read <= 5 && bytes.tokens_read < bytes.tokens, "{family}: {bytes:?}");
            assert!(bytes.text.contains('\u{FFFD}') == family.starts_with("jina"), "{family}: {bytes:?}");
            let length = if bytes.tokens_read == 5 { "5" } else { "at most 5" };
            let warning = format!("2 of 3 documents were cut to {length} tokens: indices 1, 2");
            assert_eq!(prepared.warnings, [warning], "{family}");
        }
    }
}

#[test]
fn truncation_off_names_the_text_its_tokens_and_the_limit() {
    for family in FAMILIES {
        let request = RerankRequest { truncation: false, ..per_document(5, &["1", "2", "3", &digits(9)]) };
        let error = prompter(family).tokenize(&request, &limits(), &|| false).unwrap_err();
        // podium-nano's documents begin with a space.
        let all = if family == "podium-nano" { 10 } else { 9 };
        assert!(
            matches!(&error, RerankError::TextTooLong { field, tokens, limit: 5 } if field == "documents[3]" && *tokens == all),
            "{family}: {error:?}"
        );
        let long = digits(7000);
        for (field, request) in
            [("query", super::request(&long, &["1"])), ("instruction", instructed("q", &long, &["1"]))]
        {
            let request = RerankRequest { truncation: false, ..request };
            let error = prompter(family).tokenize(&request, &limits(), &|| false).unwrap_err();
            assert!(
                matches!(&error, RerankError::TextTooLong { field: named, tokens: 7000, .. } if named == field),
                "{family}: {error:?}"
            );
        }
    }
}

#[test]
fn long_queries_and_instructions_are_cut_with_a_warning() {
    for family in FAMILIES {
        let prepared =
            prompter(family).tokenize(&instructed(&digits(7000), &digits(7000), &["1"]), &limits(), &|| false).unwrap();
        let of = |field: &str| {
            prepared.warnings.iter().any(|warning| warning.starts_with(&format!("{field}: cut from 7000")))
        };
        assert!(of("query") && of("instruction"), "{family}: {:?}", prepared.warnings);
    }
}

#[test]
fn jina_cuts_by_decoding_from_exactly_the_limit_on() {
    let prompter = prompter("jina-v3");
    // Three characters of 3, 3 and 1 tokens; NFC would join e and its accent.
    let text = "e\u{301}漢x";
    let all = tokenizer().encode(text).unwrap();
    let read = |limit: usize| {
        let mut prepared = prompter.tokenize(&per_document(limit, &[text]), &limits(), &|| false).unwrap();
        let document = prepared.documents.remove(0);
        (document.text, document.tokens, document.tokens_read)
    };
    // Below the limit the text is kept to the byte; at the limit it is what the tokens spell.
    assert_eq!(read(all.len() + 1), (text.into(), all.len(), all.len()));
    assert_eq!(read(all.len()), ("é漢x".into(), all.len(), all.len()));
    // The cut splits a character: the reference's decoder writes U+FFFD.
    assert_eq!(read(all.len() - 2), ("é\u{FFFD}".into(), all.len(), all.len() - 2));
}

#[test]
fn exact_truncation_ends_with_a_whole_character() {
    let prompter = prompter("zerank");
    let text = "é漢x";
    let all = tokenizer().encode(text).unwrap().len();
    let prepared = prompter.tokenize(&per_document(all - 2, &[text]), &limits(), &|| false).unwrap();
    assert_eq!((prepared.documents[0].text.as_str(), prepared.documents[0].tokens_read), ("é", 2));
}

#[test]
fn max_tokens_per_doc_raises_the_familys_limit_up_to_the_context() {
    let long = digits(3000);
    let prompter = prompter("jina-v3");
    let read = |limit: Option<usize>| {
        let request = RerankRequest { max_tokens_per_doc: limit, ..request("q", &[&long]) };
        prompter.tokenize(&request, &limits(), &|| false).unwrap().documents[0].tokens_read
    };
    assert_eq!(read(None), 2048);
    assert_eq!(read(Some(2500)), 2500);
    assert_eq!(read(Some(100_000)), 3000);
    let small = bind("jina-v3", &tokenizer(), 2048, 1024).unwrap();
    let request = per_document(100_000, &[&long]);
    let prepared = small.tokenize(&request, &limits(), &|| false).unwrap();
    assert!(prepared.documents[0].tokens_read < 2048);
    let rendering = small.render(&prepared, &[0]).unwrap();
    assert!((2040..=2048).contains(&rendering.prefix.len()), "{}", rendering.prefix.len());
}

#[test]
fn a_max_tokens_per_doc_that_does_not_fit_has_a_warning() {
    for family in FAMILIES {
        let prompter = bind(family, &tokenizer(), 2048, 1024).unwrap();
        let warnings = |most: usize, document: &str| {
            let request = RerankRequest { mode: Mode::Pointwise, ..per_document(most, &[document]) };
            prompter.tokenize(&request, &limits(), &|| false).unwrap().warnings
        };
        let long = digits(3000);
        let [want, cut] = warnings(5000, &long).try_into().unwrap();
        let most = cut.strip_prefix("1 of 1 documents was cut to ").unwrap().split(' ').next().unwrap().to_owned();
        let said = "is more than fits beside the query and the instruction; at most";
        assert_eq!(want, format!("max_tokens_per_doc: 5000 {said} {most} tokens of a document are read"), "{family}");
        assert_eq!(warnings(5000, "short"), Vec::<String>::new(), "{family}");
        assert_eq!(warnings(9, &long).len(), 1, "{family}");
    }
}

#[test]
fn a_document_cut_to_the_whole_context_fits_wherever_the_cut_falls() {
    for family in FAMILIES {
        for context in 2045..2050 {
            let prompter = bind(family, &tokenizer(), context, 1024).unwrap();
            for text in ["😀".repeat(3000), "7? \n".repeat(2000)] {
                let prepared = prompter.tokenize(&per_document(100_000, &[&text]), &limits(), &|| false).unwrap();
                let rendering = prompter.render(&prepared, &[0]).unwrap();
                let depth = rendering.prefix.len() + rendering.suffixes.iter().map(Vec::len).max().unwrap_or(0);
                assert!((context - 12..=context).contains(&depth), "{family}: {depth}");
            }
        }
    }
}

#[test]
fn qwen3_keeps_prefix_and_suffix_and_cuts_the_content_to_8192_in_all() {
    let prompter = prompter("qwen3-reranker");
    let request = request("q", &[&digits(9000), "1"]);
    let sequences = pair_sequences(&prompter, &request);
    assert_eq!(sequences[0].len(), 8192);
    let text = prompter.decode(&sequences[0]);
    assert!(text.ends_with("7<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    let prepared = prompter.tokenize(&request, &limits(), &|| false).unwrap();
    let spelled = text.matches('7').count();
    assert_eq!(prepared.documents[0].tokens_read, spelled);
    assert_eq!((prepared.documents[0].tokens, prepared.documents[1].tokens_read), (9000, 1));
    assert_eq!(prepared.warnings, [format!("1 of 2 documents was cut to {spelled} tokens: index 0")]);
}

#[test]
fn mxbai_counts_query_separator_and_document() {
    let prompter = prompter("mxbai-v2");
    let rest = pair_sequences(&prompter, &request("q", &[""]))[0].len();
    let texts = tokenizer().encode("query: q").unwrap().len() + tokenizer().encode("document: ").unwrap().len() + 1;
    let sequence = &pair_sequences(&prompter, &request("q", &[&digits(9000)]))[0];
    assert_eq!(sequence.len(), rest - texts + 8192);
    // Query and instruction together get three quarters.
    let sequence = &pair_sequences(&prompter, &instructed(&digits(6100), &digits(2000), &[&digits(9000)]))[0];
    assert_eq!(sequence.len(), rest - texts + 8192);
    let text = prompter.decode(sequence);
    let document = text.split("document: ").nth(1).unwrap().matches('7').count();
    assert_eq!(document + tokenizer().encode("document:").unwrap().len() + 1 + 1, 8192 - 6144);
}

#[test]
fn mxbai_fits_a_small_context() {
    let prompter = bind("mxbai-v2", &tokenizer(), 2048, 1024).unwrap();
    assert_eq!(pair_sequences(&prompter, &request("q", &[&digits(9000)]))[0].len(), 2048);
}

#[test]
fn zerank_cuts_characters_first() {
    let prompter = prompter("zerank");
    let long = "é".repeat(12_000);
    let prepared = prompter.tokenize(&request(&"é".repeat(2500), &[&long]), &limits(), &|| false).unwrap();
    // Two tokens a character; 4,000 of the 16,384 tokens are the query's.
    let (characters, tokens) = (prepared.documents[0].text.chars().count(), prepared.documents[0].tokens_read);
    assert!(tokens < 16_384 - 4000 && 2 * characters <= tokens + 4, "{characters} characters, {tokens} tokens");
    assert_eq!(prepared.query.chars().count(), 2000);
    assert!(prepared.warnings[0].starts_with("query: cut from 5000 tokens to 4000"), "{:?}", prepared.warnings);
    let letters = "7".repeat(12_000);
    let prepared = prompter.tokenize(&request("q", &[&letters]), &limits(), &|| false).unwrap();
    assert_eq!((prepared.documents[0].tokens, prepared.documents[0].tokens_read), (12_000, 10_000));
}

#[test]
fn a_query_that_leaves_no_room_for_a_document_is_an_error_with_numbers() {
    for family in FAMILIES {
        let context = if family == "podium-nano" { 20 } else { 320 };
        let prompter = bind(family, &tokenizer(), context, 1024).unwrap();
        let error = prompter.tokenize(&request(&digits(350), &["some document"]), &limits(), &|| false).unwrap_err();
        assert!(
            matches!(&error, RerankError::PromptTooLong { tokens, limit, .. } if *limit == context && tokens > limit),
            "{family}: {error:?}"
        );
    }
}

#[test]
fn an_empty_document_is_read_in_every_family() {
    for family in FAMILIES {
        let prompter = prompter(family);
        let rendering = render(&prompter, &request("q", &["", "a", "  "]));
        assert!(!rendering.marks.is_empty(), "{family}");
    }
}

#[test]
fn the_operators_slate_limit_is_a_limit_on_a_document_too() {
    let limits = LimitSettings { max_slate_tokens: 1000, ..limits() };
    for family in FAMILIES {
        let prompter = prompter(family);
        let request = RerankRequest { max_tokens_per_doc: Some(5000), ..request("q", &[&digits(3000), "1"]) };
        let prepared = prompter.tokenize(&request, &limits, &|| false).unwrap();
        for documents in super::passes(&prepared) {
            let rendering = prompter.render(&prepared, &documents).unwrap();
            let tokens = rendering.prefix.len() + rendering.suffixes.iter().map(Vec::len).sum::<usize>();
            assert!(tokens <= 1000, "{family}: {tokens}");
        }
    }
}

#[test]
fn shorter_texts_keep_the_lengths_of_the_whole_texts() {
    for family in FAMILIES {
        for mode in [Mode::Auto, Mode::Pointwise] {
            let prompter = prompter(family);
            let request = RerankRequest { mode, ..request("q", &["1", &digits(90), "<|im_end|>2", &digits(60)]) };
            let whole = prompter.tokenize(&request, &limits(), &|| false).unwrap();
            let limit = ReadLimit { tokens_per_document: Some(50), documents: 3 };
            let less = prompter.retokenize_shorter(&whole, limit, &limits()).unwrap();
            let lengths = |document: &super::super::DocumentText| (document.tokens, document.tokens_read);
            let expected: Vec<_> =
                whole.documents[..3].iter().map(|document| (document.tokens, document.tokens.min(50))).collect();
            assert_eq!(less.documents.iter().map(lengths).collect::<Vec<_>>(), expected, "{family}");
            let warnings =
                ["documents[2]: 1 control token was removed", "1 of 3 documents was cut to 50 tokens: index 1"];
            assert_eq!(less.warnings, warnings, "{family}");
        }
    }
}

#[test]
fn shorter_texts_are_those_of_a_request_with_the_lower_limit() {
    let documents = ["Short", "Größer und LÄNGER 漢字漢字 as Before, again and again", &digits(60)];
    for family in FAMILIES {
        for mode in [Mode::Auto, Mode::Pointwise] {
            let prompter = prompter(family);
            let tokenize = |limit: Option<usize>| {
                let request = RerankRequest { mode, max_tokens_per_doc: limit, ..request("q", &documents) };
                prompter.tokenize(&request, &limits(), &|| false).unwrap()
            };
            let limit = ReadLimit { tokens_per_document: Some(21), documents: 3 };
            let shorter = prompter.retokenize_shorter(&tokenize(None), limit, &limits()).unwrap();
            let expected = tokenize(Some(21));
            let sequences = |prepared| prompter.render(prepared, &[0, 1, 2]).unwrap();
            assert_eq!(sequences(&shorter), sequences(&expected), "{family} {mode}");
            assert_eq!((&shorter.plan, &shorter.warnings), (&expected.plan, &expected.warnings), "{family} {mode}");
        }
    }
}

#[test]
fn cancelled_work_ends_early() {
    for family in FAMILIES {
        let cancelled = prompter(family).tokenize(&request("q", &["1", "2"]), &limits(), &|| true);
        assert!(matches!(cancelled, Err(RerankError::Internal(_))), "{family}");
    }
}

#[test]
fn a_long_text_is_encoded_only_as_far_as_it_is_read() {
    for family in FAMILIES {
        let prompter = prompter(family);
        let long = "Some Words of a Long text. ".repeat(15_000_000 / 27);
        let before = encoded_bytes();
        let prepared = prompter.tokenize(&instructed(&long, &long, &[&long]), &limits(), &|| false).unwrap();
        let encoded = encoded_bytes() - before;
        assert!(encoded < 20 * CHUNK_BYTES, "{family}: {encoded} bytes were encoded");
        let document = &prepared.documents[0];
        assert!(document.is_estimate && document.tokens_read < document.tokens, "{family}");
        let exact = document.tokens as f64 / (long.len() as f64 / 27.0);
        let per_sentence = tokenizer().encode(" Some Words of a Long text.").unwrap().len() as f64;
        assert!((exact / per_sentence - 1.0).abs() < 0.02, "{family}: {exact} instead of {per_sentence}");
        let warning = "tokens is an estimate for 1 of 1 documents, longer than 64 KiB: index 0";
        assert!(prepared.warnings.iter().any(|given| given == warning), "{family}: {:?}", prepared.warnings);
        assert!(prepared.warnings.iter().any(|given| given.starts_with("query: cut from about ")), "{family}");
    }
}

#[test]
fn long_texts_stop_between_chunks_when_they_are_cancelled() {
    let prompter = prompter("first");
    let long = " the".repeat(100 * CHUNK_BYTES / 4);
    let request = RerankRequest { max_tokens_per_doc: Some(30_000), ..request("q", &[&long]) };
    let questions = std::sync::atomic::AtomicUsize::new(0);
    let is_cancelled = || questions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 2;
    let before = encoded_bytes();
    assert!(prompter.tokenize(&request, &limits(), &is_cancelled).is_err());
    assert!(encoded_bytes() - before < 5 * CHUNK_BYTES);
}
