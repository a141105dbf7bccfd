//! Which mode runs, and which documents share a pass.

use proptest::prelude::*;

use super::super::testing::{bind, prompter, shared, tokenizer};
use super::super::{Plan, PreparedTexts};
use super::{FAMILIES, LISTWISE, limits, passes, request};
use crate::rerank::slates::Window;
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};

fn with_mode(mode: Mode, documents: Vec<String>) -> RerankRequest {
    RerankRequest { mode, ..RerankRequest::new("query", documents) }
}

fn sizes(passes: &[Vec<usize>]) -> Vec<usize> {
    passes.iter().map(Vec::len).collect()
}

#[test]
fn auto_is_listwise_where_the_family_can() {
    for family in FAMILIES {
        let prepared = prompter(family).tokenize(&request("q", &["a", "b", "c"]), &limits(), &|| false).unwrap();
        let is_listwise = LISTWISE.contains(&family) || family == "e2rank";
        let expected = if is_listwise { Mode::Listwise } else { Mode::Pointwise };
        assert_eq!((prepared.mode, prepared.warnings.len()), (expected, 0), "{family}");
        assert_eq!(passes(&prepared), [[0, 1, 2]], "{family}");
    }
}

#[test]
fn listwise_on_a_pointwise_family_is_refused_with_the_modes_to_use() {
    for family in ["qwen3-reranker", "mxbai-v2", "zerank"] {
        let request = RerankRequest { mode: Mode::Listwise, ..request("q", &["a"]) };
        let error = prompter(family).tokenize(&request, &limits(), &|| false).unwrap_err();
        assert!(matches!(error, RerankError::UnsupportedMode { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("mode: family `{family}` reads one document at a time; ask for `pointwise` or `auto`")
        );
    }
}

#[test]
fn listwise_families_read_one_document_a_slate_in_pointwise_mode() {
    for family in ["jina-v3", "podium-nano"] {
        let request = RerankRequest { mode: Mode::Pointwise, ..request("q", &["a", "b", "c"]) };
        let prepared = prompter(family).tokenize(&request, &limits(), &|| false).unwrap();
        assert_eq!((prepared.mode, passes(&prepared)), (Mode::Pointwise, vec![vec![0], vec![1], vec![2]]), "{family}");
    }
}

#[test]
fn auto_falls_back_when_no_slate_holds_two() {
    let text = "7".repeat(900);
    let limits = LimitSettings { max_slate_tokens: 1500, ..limits() };
    for family in LISTWISE {
        let request = RerankRequest { max_tokens_per_doc: Some(900), ..request("q", &[&text, &text, &text]) };
        let prepared = prompter(family).tokenize(&request, &limits, &|| false).unwrap();
        assert_eq!(prepared.mode, Mode::Pointwise, "{family}");
        assert!(
            prepared.warnings[0].starts_with("read pointwise: a slate of 1500 tokens does not hold two"),
            "{family}"
        );
        assert_eq!(passes(&prepared).concat(), [0, 1, 2], "{family}");
    }
}

#[test]
fn explicit_listwise_keeps_slates_of_one_or_is_refused_with_the_reason() {
    let text = "7".repeat(900);
    let limits = LimitSettings { max_slate_tokens: 1500, ..limits() };
    let request =
        RerankRequest { max_tokens_per_doc: Some(900), mode: Mode::Listwise, ..request("q", &[&text, &text]) };
    let prepared = prompter("jina-v3").tokenize(&request, &limits, &|| false).unwrap();
    assert_eq!((prepared.mode, sizes(&passes(&prepared))), (Mode::Listwise, vec![1, 1]));
    let error = prompter("first").tokenize(&request, &limits, &|| false).unwrap_err();
    assert!(matches!(error, RerankError::PromptTooLong { limit: 1500, .. }), "{error:?}");
}

#[test]
fn one_document_alone_is_not_ranked_by_first() {
    let prepared = prompter("first").tokenize(&request("q", &["a"]), &limits(), &|| false).unwrap();
    assert_eq!(prepared.mode, Mode::Pointwise);
    assert_eq!(prepared.warnings, ["read pointwise: one document alone has nothing to be compared with"]);
    for family in ["jina-v3", "podium-nano"] {
        assert_eq!(
            prompter(family).tokenize(&request("q", &["a"]), &limits(), &|| false).unwrap().mode,
            Mode::Listwise
        );
    }
}

#[test]
fn two_hundred_documents_are_cut_into_slates() {
    let documents = vec!["a short text".to_owned(); 200];
    let read = |family: &str| {
        prompter(family).tokenize(&with_mode(Mode::Auto, documents.clone()), &limits(), &|| false).unwrap()
    };
    assert_eq!(sizes(&passes(&read("podium-nano"))), [50, 50, 50, 50]);
    assert_eq!(sizes(&passes(&read("jina-v3"))), [64, 64, 64, 8]);
    assert_eq!(read("first").plan, Plan::Windows(Window { documents: 64, stride: 32 }));
    assert_eq!(sizes(&passes(&read("qwen3-reranker"))), [64, 64, 64, 8]);
}

#[test]
fn jina_closes_blocks_as_the_reference_does() {
    // The test tokenizer spends more on wrappers than Qwen's, so that 63 full documents do not fit
    // in the 131,072 positions here; `qwen` has the reference's own case. 11 * 2048 positions:
    let prompter = bind("jina-v3", &tokenizer(), 22_528, 1024).unwrap();
    let limits = LimitSettings {
        max_documents: 1000,
        max_passages: 10_000,
        max_slate_documents: 125,
        max_slate_tokens: 131_072,
    };
    let long = with_mode(Mode::Auto, vec!["7".repeat(2048); 35]);
    assert_eq!(sizes(&passes(&prompter.tokenize(&long, &limits, &|| false).unwrap())), [10, 10, 10, 5]);
    let prompter = bind("jina-v3", &tokenizer(), 131_072, 1024).unwrap();
    let short = with_mode(Mode::Auto, vec!["7".repeat(10); 150]);
    assert_eq!(sizes(&passes(&prompter.tokenize(&short, &limits, &|| false).unwrap())), [125, 25]);
}

#[test]
fn e2rank_shows_the_first_documents_that_fit_and_says_how_many() {
    let prompter = prompter("e2rank");
    let documents = vec!["7".repeat(100); 150];
    let read = |mode, max_slate_tokens| {
        let limits = LimitSettings { max_slate_tokens, ..limits() };
        prompter.tokenize(&with_mode(mode, documents.clone()), &limits, &|| false)
    };
    let shown = |prepared: &PreparedTexts| prompter.decode(&prepared.query_ids).matches("\n[").count();
    let prepared = read(Mode::Auto, 32_768).unwrap();
    assert_eq!((prepared.mode, shown(&prepared)), (Mode::Listwise, 20));
    assert_eq!((sizes(&passes(&prepared)), prepared.warnings.len()), (vec![64, 64, 22], 0));
    let prepared = read(Mode::Auto, 1000).unwrap();
    let count = shown(&prepared);
    assert!(prepared.query_ids.len() <= 1000 && (5..9).contains(&count), "{count}");
    let warning =
        format!("the query was read with the first {count} documents instead of 20: no more fit into 1000 tokens");
    assert_eq!(prepared.warnings, [warning]);
    let prepared = read(Mode::Pointwise, 1000).unwrap();
    assert_eq!((prepared.mode, shown(&prepared), prepared.warnings.len()), (Mode::Pointwise, 0, 0));
    let prepared = read(Mode::Auto, 220).unwrap();
    assert_eq!((prepared.mode, shown(&prepared), prepared.warnings.len()), (Mode::Pointwise, 0, 1));
    let error = read(Mode::Listwise, 220).unwrap_err();
    assert!(
        matches!(&error, RerankError::PromptTooLong { field, limit: 220, .. } if field == "documents[0]"),
        "{error:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_document_is_read_once_and_within_the_limits(
        lengths in proptest::collection::vec(0_usize..400, 1..90),
        max_slate_documents in 1_usize..70, max_slate_tokens in 1_200_usize..9_000,
        mode in proptest::sample::select(vec![Mode::Auto, Mode::Pointwise]),
    ) {
        let limits = LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents, max_slate_tokens };
        let documents = lengths.iter().map(|length| "a 7? \n".chars().cycle().take(*length).collect()).collect();
        let request = with_mode(mode, documents);
        for family in FAMILIES {
            let prompter = shared(family);
            let prepared = prompter.tokenize(&request, &limits, &|| false).unwrap();
            let passes = passes(&prepared);
            let mut all = passes.concat();
            if matches!(prepared.plan, Plan::Windows(_)) {
                all.sort_unstable();
                all.dedup();
            }
            prop_assert!(all.into_iter().eq(0..lengths.len()), "{}", family);
            for documents in passes {
                prop_assert!(documents.len() <= max_slate_documents.max(1), "{}", family);
                let rendering = prompter.render(&prepared, &documents).unwrap();
                let tokens = rendering.prefix.len() + rendering.suffixes.iter().map(Vec::len).sum::<usize>();
                prop_assert!(tokens <= max_slate_tokens, "{} {:?}: {}", family, prepared.mode, tokens);
            }
        }
    }
}
