//! Whole requests through the rounds, with a model made of arithmetic.

use std::error::Error;
use std::sync::Arc;

use super::{PlannedPass, Rounds, Scores, ScoringError};
use crate::prompt::{Plan, Prompter, testing};
use crate::rerank::{LimitSettings, Mode, RerankError, RerankRequest};
use crate::runtime::{ForwardPass, Head, Output, OutputSpec, Positions, TokenPosition};

fn limits() -> LimitSettings {
    LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 8, max_slate_tokens: 32_768 }
}

/// Tokens seen by a mark: the prefix up to it, or the prefix and its suffix up to it.
fn seen(pass: &ForwardPass, mark: TokenPosition) -> Vec<u32> {
    match mark.segment {
        0 => pass.prefix[..=mark.offset].to_vec(),
        suffix => [pass.prefix.as_slice(), &pass.suffixes[suffix - 1][..=mark.offset]].concat(),
    }
}

/// How many `7`s a document has is how relevant the stand-in model finds it.
fn sevens(prompter: &Prompter, ids: &[u32]) -> f32 {
    prompter.decode(ids).rsplit("text ").next().map_or(0, |text| text.matches('7').count()) as f32
}

/// A model: states are an angle by sevens since the mark before; identifiers and answers likewise.
fn run(prompter: &Prompter, planned: &PlannedPass) -> Output {
    let pass = &planned.pass;
    let OutputSpec { at: Positions::Listed(marks), head, .. } = &pass.output else {
        panic!("families list their positions")
    };
    let pass_has_documents = !planned.documents.is_empty();
    let token_ids = match head {
        Head::Projector => {
            let mut from = 0;
            let vectors = marks.iter().enumerate().map(|(nth, mark)| {
                let ids = seen(pass, *mark);
                let own = if mark.segment == 0 { &ids[from..] } else { &ids[pass.prefix.len()..] };
                from = if mark.segment == 0 { ids.len() } else { 0 };
                let angle = if nth + 1 == marks.len() { 0.0 } else { 1.5 - 0.1 * sevens(prompter, own) };
                vec![2.0 * angle.cos(), 2.0 * angle.sin()]
            });
            return vectors.collect();
        }
        Head::Vocabulary(token_ids) => token_ids,
        Head::Hidden => {
            let angle = |mark: &TokenPosition| 1.5 - 0.1 * sevens(prompter, &seen(pass, *mark));
            let vector = |angle: f32| vec![2.0 * angle.cos(), 2.0 * angle.sin()];
            return marks.iter().map(|mark| vector(if pass_has_documents { angle(mark) } else { 0.0 })).collect();
        }
        Head::MaxSim { .. } => {
            return pass.suffixes[1..].iter().map(|suffix| vec![sevens(prompter, suffix)]).collect();
        }
        Head::Classifier | Head::Reader(_) => panic!("no family of these tests reads {head:?}"),
    };
    if marks.len() == 1 && token_ids.len() == planned.documents.len() && token_ids.len() > 1 {
        let text = prompter.decode(&pass.prefix);
        let logit = |id: &u32| {
            let name = format!("[{}] ", prompter.decode(&[*id]));
            text.split(&name).nth(1).unwrap().split('\n').next().unwrap().matches('7').count() as f32
        };
        return vec![token_ids.iter().map(logit).collect()];
    }
    let answers = |mark: &TokenPosition| {
        let positive = sevens(prompter, &seen(pass, *mark)) - 4.0;
        (0..token_ids.len()).map(|nth| if nth == 0 { positive } else { 0.0 }).collect()
    };
    marks.iter().map(answers).collect()
}

fn score(family: &str, request: &RerankRequest) -> (Scores, usize) {
    let prompter = Arc::new(testing::prompter(family));
    let prepared = Arc::new(prompter.tokenize(request, &limits(), &|| false).unwrap());
    let mut rounds = Rounds::begin(prompter.clone(), prepared).unwrap();
    let mut count = 0;
    while let Some(passes) = rounds.next_round().unwrap() {
        count += 1;
        rounds.add_outputs(passes.iter().map(|planned| run(&prompter, planned)).collect()).unwrap();
    }
    (rounds.finish().unwrap(), count)
}

/// Documents with different numbers of sevens, in a mixed order, and the order best first.
fn documents(count: usize) -> (Vec<String>, Vec<usize>) {
    let worth = |index: usize| (index * 11) % count;
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|index| usize::MAX - worth(*index));
    ((0..count).map(|index| format!("text {}", "7".repeat(worth(index)))).collect(), order)
}

#[test]
fn every_family_ranks_by_its_scores_in_both_modes() {
    for (family, listwise) in [
        ("podium-nano", true),
        ("jina-v3", true),
        ("jina-v3.5", true),
        ("first", true),
        ("qwen3-reranker", false),
        ("mxbai-v2", false),
        ("zerank", false),
        ("contextual", false),
        ("bge-gemma", false),
        ("e2rank", true),
        ("colbert", false),
        ("yes-no", false),
    ] {
        for mode in [Mode::Auto, Mode::Pointwise] {
            for count in [2, 7, 13] {
                let (texts, best_first) = documents(count);
                let (scores, rounds) = score(family, &RerankRequest { mode, ..RerankRequest::new("query", texts) });
                let ran = if listwise && mode == Mode::Auto { Mode::Listwise } else { Mode::Pointwise };
                assert_eq!(scores.mode, ran, "{family}");
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|left, right| scores.relevance[*right].total_cmp(&scores.relevance[*left]));
                if family == "first" && ran == Mode::Listwise && count > 8 {
                    // A window of 8 carries the best four to the front.
                    assert_eq!(order[..4], best_first[..4]);
                    assert_eq!((rounds, scores.slates), (3, 3));
                } else {
                    assert_eq!(order, best_first, "{family} {mode} {count}");
                    assert_eq!(rounds, 1);
                    let slates = match (ran, family) {
                        (Mode::Pointwise, _) => count,
                        (_, "e2rank") => 1,
                        _ => count.div_ceil(8),
                    };
                    assert_eq!(scores.slates, slates, "{family}");
                }
                assert!(scores.relevance.iter().all(|value| (0.0..=1.0).contains(value)), "{family}");
            }
        }
    }
}

#[test]
fn a_pointwise_score_does_not_depend_on_the_other_documents() {
    for family in
        ["podium-nano", "jina-v3", "jina-v3.5", "first", "qwen3-reranker", "mxbai-v2", "zerank", "contextual", "e2rank"]
    {
        let (texts, _) = documents(9);
        let request =
            |texts: Vec<String>| RerankRequest { mode: Mode::Pointwise, ..RerankRequest::new("query", texts) };
        let (together, _) = score(family, &request(texts.clone()));
        for (index, text) in texts.into_iter().enumerate() {
            let (alone, _) = score(family, &request(vec![text]));
            assert!((alone.raw[0] - together.raw[index]).abs() < 1e-6, "{family}");
        }
    }
}

#[test]
fn isolated_documents_share_their_marks_in_the_cross_document_layers() {
    let prompter = Arc::new(testing::prompter("podium-nano"));
    let prepared =
        prompter.tokenize(&RerankRequest::new("query", vec!["a".into(), "b".into()]), &limits(), &|| false).unwrap();
    assert!(matches!(prepared.plan, Plan::Slates(_)));
    let mut rounds = Rounds::begin(prompter, Arc::new(prepared)).unwrap();
    let passes = rounds.next_round().unwrap().unwrap();
    let pass = &passes[0].pass;
    let marks = pass.read_positions();
    assert_eq!((pass.suffixes.len(), marks.len()), (3, 3));
    assert_eq!((pass.cross_document.count, pass.cross_document.shared.as_slice()), (1, &marks[..2]));
    assert_eq!(marks[2], TokenPosition::suffix(2, pass.suffixes[2].len() - 1));
}

fn cause(error: &RerankError) -> ScoringError {
    error.source().and_then(|source| source.downcast_ref::<ScoringError>()).cloned().unwrap()
}

#[test]
fn a_score_that_is_not_finite_names_its_document() {
    for (family, spoil) in [
        ("jina-v3", vec![vec![1.0], vec![f32::INFINITY], vec![1.0]]),
        ("first", vec![vec![1.0, f32::NEG_INFINITY]]),
        ("zerank", vec![vec![1.0], vec![f32::INFINITY]]),
    ] {
        let prompter = Arc::new(testing::prompter(family));
        let request = RerankRequest::new("query", vec!["a".into(), "b".into()]);
        let prepared = Arc::new(prompter.tokenize(&request, &limits(), &|| false).unwrap());
        let mut rounds = Rounds::begin(prompter, prepared).unwrap();
        assert!(rounds.next_round().unwrap().is_some());
        let error = rounds.add_outputs(vec![spoil]).and_then(|()| rounds.finish().map(|_| ())).unwrap_err();
        assert!(matches!(cause(&error), ScoringError::NonFinite { document: 1, .. }), "{family}: {error:?}");
    }
}

#[test]
fn outputs_of_the_wrong_shape_are_refused() {
    for (family, wrong) in [
        ("jina-v3", vec![vec![vec![1.0]; 2]]),
        ("jina-v3", vec![vec![vec![1.0], vec![1.0, 2.0], vec![1.0]]]),
        ("jina-v3", vec![]),
        ("first", vec![vec![vec![1.0]]]),
        ("zerank", vec![vec![vec![1.0, 2.0]; 2]]),
    ] {
        let prompter = Arc::new(testing::prompter(family));
        let request = RerankRequest::new("query", vec!["a".into(), "b".into()]);
        let prepared = Arc::new(prompter.tokenize(&request, &limits(), &|| false).unwrap());
        let mut rounds = Rounds::begin(prompter, prepared).unwrap();
        assert!(rounds.next_round().unwrap().is_some());
        let error = rounds.add_outputs(wrong).unwrap_err();
        assert!(matches!(cause(&error), ScoringError::WrongOutput { .. }), "{family}: {error:?}");
    }
}
