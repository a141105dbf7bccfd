//! What is cut, where, and what is said about it.

use super::super::testing::{bind, prompter, tokenizer};
use super::{FAMILIES, instructed, limits, pair_sequences, render, request};
use crate::rerank::budget::Share;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

/// A text of exactly this many tokens with the test tokenizer, and one letter each.
fn digits(tokens: usize) -> String {
    "7".repeat(tokens)
}

fn per_document(limit: usize, documents: &[&str]) -> RerankRequest {
    RerankRequest { max_tokens_per_doc: Some(limit), ..request("q", documents) }
}

#[test]
fn a_cut_document_is_counted_and_warned_of_in_every_family() {
    for family in FAMILIES {
        for mode in [Mode::Auto, Mode::Pointwise] {
            let request = RerankRequest { mode, ..per_document(5, &["1", &digits(9), "é😀漢é漢😀"]) };
            let reading = prompter(family).read(&request, &limits()).unwrap();
            let [short, long, bytes] = reading.documents.as_slice() else { panic!() };
            assert_eq!(short.tokens_read, short.tokens, "{family}");
            assert!(long.tokens >= 9 && long.tokens_read == 5, "{family}: {long:?}");
            assert!(bytes.tokens_read <= 5 && bytes.tokens_read < bytes.tokens, "{family}: {bytes:?}");
            assert!(bytes.text.contains('\u{FFFD}') == (family == "jina-v3"), "{family}: {bytes:?}");
            let length = if bytes.tokens_read == 5 { "5" } else { "at most 5" };
            let warning = format!("2 of 3 documents were cut to {length} tokens: indices 1, 2");
            assert_eq!(reading.warnings, [warning], "{family}");
        }
    }
}

#[test]
fn truncation_off_names_the_text_its_tokens_and_the_limit() {
    for family in FAMILIES {
        let request = RerankRequest { truncation: false, ..per_document(5, &["1", "2", "3", &digits(9)]) };
        let error = prompter(family).read(&request, &limits()).unwrap_err();
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
            let error = prompter(family).read(&request, &limits()).unwrap_err();
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
        let reading = prompter(family).read(&instructed(&digits(7000), &digits(7000), &["1"]), &limits()).unwrap();
        let of = |field: &str| {
            reading.warnings.iter().any(|warning| warning.starts_with(&format!("{field}: cut from 7000")))
        };
        assert!(of("query") && of("instruction"), "{family}: {:?}", reading.warnings);
    }
}

#[test]
fn jina_cuts_by_decoding_from_exactly_the_limit_on() {
    let prompter = prompter("jina-v3");
    // Three characters of 3, 3 and 1 tokens; NFC would join e and its accent.
    let text = "e\u{301}漢x";
    let all = tokenizer().encode(text).unwrap();
    let read = |limit: usize| {
        let mut reading = prompter.read(&per_document(limit, &[text]), &limits()).unwrap();
        let document = reading.documents.remove(0);
        (document.text, document.tokens, document.tokens_read)
    };
    // Below the limit the text is kept to the byte; at the limit it is what the tokens spell.
    assert_eq!(read(all.len() + 1), (text.into(), all.len(), all.len()));
    assert_eq!(read(all.len()), ("é漢x".into(), all.len(), all.len()));
    // The cut splits a character: the reference's decoder writes U+FFFD.
    assert_eq!(read(all.len() - 2), ("é\u{FFFD}".into(), all.len(), all.len() - 2));
}

#[test]
fn exact_cuts_end_at_a_character() {
    let prompter = prompter("zerank");
    let text = "é漢x";
    let all = tokenizer().encode(text).unwrap().len();
    let reading = prompter.read(&per_document(all - 2, &[text]), &limits()).unwrap();
    assert_eq!((reading.documents[0].text.as_str(), reading.documents[0].tokens_read), ("é", 2));
}

#[test]
fn max_tokens_per_doc_raises_the_familys_limit_up_to_the_context() {
    let long = digits(3000);
    let prompter = prompter("jina-v3");
    let read = |limit: Option<usize>| {
        let request = RerankRequest { max_tokens_per_doc: limit, ..request("q", &[&long]) };
        prompter.read(&request, &limits()).unwrap().documents[0].tokens_read
    };
    assert_eq!(read(None), 2048);
    assert_eq!(read(Some(2500)), 2500);
    assert_eq!(read(Some(100_000)), 3000);
    let small = bind("jina-v3", &tokenizer(), 2048, 1024).unwrap();
    let request = per_document(100_000, &[&long]);
    let reading = small.read(&request, &limits()).unwrap();
    assert!(reading.documents[0].tokens_read < 2048);
    let rendering = small.render(&reading, &[0]).unwrap();
    assert!((2040..=2048).contains(&rendering.prefix.len()), "{}", rendering.prefix.len());
}

#[test]
fn asking_for_more_of_a_document_than_fits_is_said() {
    for family in FAMILIES {
        let prompter = bind(family, &tokenizer(), 2048, 1024).unwrap();
        let warnings = |most: usize, document: &str| {
            let request = RerankRequest { mode: Mode::Pointwise, ..per_document(most, &[document]) };
            prompter.read(&request, &limits()).unwrap().warnings
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
                let reading = prompter.read(&per_document(100_000, &[&text]), &limits()).unwrap();
                let rendering = prompter.render(&reading, &[0]).unwrap();
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
    let reading = prompter.read(&request, &limits()).unwrap();
    let spelled = text.matches('7').count();
    assert_eq!(reading.documents[0].tokens_read, spelled);
    assert_eq!((reading.documents[0].tokens, reading.documents[1].tokens_read), (9000, 1));
    assert_eq!(reading.warnings, [format!("1 of 2 documents was cut to {spelled} tokens: index 0")]);
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
    let reading = prompter.read(&request(&"é".repeat(2500), &[&long]), &limits()).unwrap();
    assert_eq!(reading.documents[0].text.chars().count(), 8192, "16,384 tokens of two bytes");
    assert_eq!(reading.query.chars().count(), 2000);
    assert!(reading.warnings[0].starts_with("query: cut from 5000 tokens to 4000"), "{:?}", reading.warnings);
    let letters = "7".repeat(12_000);
    let reading = prompter.read(&request("q", &[&letters]), &limits()).unwrap();
    assert_eq!((reading.documents[0].tokens, reading.documents[0].tokens_read), (12_000, 10_000));
}

#[test]
fn no_room_for_a_document_is_an_error_with_numbers() {
    for family in FAMILIES {
        let context = if family == "podium-nano" { 20 } else { 320 };
        let prompter = bind(family, &tokenizer(), context, 1024).unwrap();
        let error = prompter.read(&request(&digits(350), &["some document"]), &limits()).unwrap_err();
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
        let reading = prompter.read(&request, &limits).unwrap();
        for documents in super::passes(&reading) {
            let rendering = prompter.render(&reading, &documents).unwrap();
            let tokens = rendering.prefix.len() + rendering.suffixes.iter().map(Vec::len).sum::<usize>();
            assert!(tokens <= 1000, "{family}: {tokens}");
        }
    }
}

#[test]
fn reading_less_keeps_the_lengths_of_whole_texts() {
    for family in FAMILIES {
        for mode in [Mode::Auto, Mode::Pointwise] {
            let prompter = prompter(family);
            let request = RerankRequest { mode, ..request("q", &["1", &digits(90), "<|im_end|>2", &digits(60)]) };
            let whole = prompter.read(&request, &limits()).unwrap();
            let share = Share { tokens_per_document: Some(50), documents: 3 };
            let nameless = RerankRequest { documents: Vec::new(), ..request };
            let less = prompter.read_less(&nameless, &whole, share, &limits()).unwrap();
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
fn a_reading_that_nobody_waits_for_is_given_up() {
    for family in FAMILIES {
        let given_up = prompter(family).read_while(&request("q", &["1", "2"]), &limits(), &|| false);
        assert!(matches!(given_up, Err(RerankError::Internal(_))), "{family}");
    }
}
