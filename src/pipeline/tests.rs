//! Early exits on the fake runtime: what is returned, and what is not computed.

use std::collections::BTreeMap;

use super::*;
use crate::prompt::{EarlyExitFacts, testing};
use crate::rerank::{ChunkMerge, EarlyExitChoice, EarlyExitReport, LongDocuments, PassageOptions, RankedDocument};
use crate::runtime::fake::{FakeControls, FakeRuntime};

/// `yes-no` on a fake model of 4 layers; all but the 3 best documents of a pass leave after 2.
fn reranker() -> (Reranker, FakeControls) {
    let runtime = FakeRuntime::new();
    let controls = runtime.controls();
    let limits =
        LimitSettings { max_documents: 100, max_passages: 1000, max_slate_documents: 8, max_slate_tokens: 32_768 };
    let instructions = Instructions::new(BTreeMap::new(), "", false);
    let policy = Policy { limits, passages: PassageSettings::default(), instructions };
    let schedule = ScheduleSettings { max_batch_tokens: 100_000, ..ScheduleSettings::for_tests() };
    let prompter = testing::prompter_with_exit(EarlyExitFacts { layers: 4, layer: 2, keep: 3 });
    let names = vec!["yes-no".to_owned()];
    (Reranker::new(names, prompter, runtime, policy, &AdmissionControl::new(&schedule)), controls)
}

fn request(documents: usize, early_exit: Option<EarlyExitChoice>) -> RerankRequest {
    let documents = (0..documents).map(|index| format!("document {index}")).collect();
    RerankRequest { early_exit, ..RerankRequest::new("query", documents) }
}

const ON: Option<EarlyExitChoice> = Some(EarlyExitChoice::On);

fn assert_falls(results: &[RankedDocument]) {
    assert!(results.is_sorted_by(|left, right| left.relevance_score >= right.relevance_score), "{results:?}");
    assert!(results.is_sorted_by_key(|result| result.exit_layer.is_some()), "{results:?}");
    assert!(results.iter().all(|result| (0.0..=1.0).contains(&result.relevance_score)), "{results:?}");
}

#[tokio::test]
async fn documents_that_go_on_stand_before_those_that_left_with_the_scores_of_a_full_run() {
    let (reranker, _controls) = reranker();
    let full = reranker.rerank(request(8, None)).await.unwrap();
    assert!(full.early_exit.is_none() && full.results.iter().all(|result| result.exit_layer.is_none()));
    let ranking = reranker.rerank(request(8, ON)).await.unwrap();
    assert_falls(&ranking.results);
    let exits: Vec<_> = ranking.results.iter().map(|result| result.exit_layer).collect();
    assert_eq!(exits, [None, None, None, Some(2), Some(2), Some(2), Some(2), Some(2)]);
    for result in &ranking.results[..3] {
        let same = full.results.iter().find(|other| other.index == result.index).unwrap();
        assert_eq!(result, same);
    }
    // Each suffix is a document of a digit and the text after it; half of the layers of five.
    let report = ranking.early_exit.unwrap();
    let suffixes = ranking.usage.prompt_tokens - shared_prefix_tokens(&reranker);
    assert_eq!((report.left_early, report.tokens_saved), (5, suffixes * 5 / 8 / 2));
    assert_eq!(ranking.usage, full.usage, "every token goes through some layers");
    let layer_3 = Some(EarlyExitChoice::Measured { layer: 3, keep: 6 });
    let other = reranker.rerank(request(8, layer_3)).await.unwrap();
    assert_eq!(other.results.iter().filter(|result| result.exit_layer == Some(3)).count(), 2);
}

/// The tokens that the prompts of `document 0` to `document 7` share.
fn shared_prefix_tokens(reranker: &Reranker) -> usize {
    let texts = reranker.prompter.tokenize(&request(8, None), &reranker.policy().limits, &|| false).unwrap();
    let documents: Vec<usize> = (0..8).collect();
    reranker.prompter.render(&texts, &documents).unwrap().prefix.len()
}

#[tokio::test]
async fn a_list_that_is_not_longer_than_what_goes_on_has_no_exit() {
    let (reranker, controls) = reranker();
    for documents in [1, 2, 3] {
        let full = reranker.rerank(request(documents, Some(EarlyExitChoice::Off))).await.unwrap();
        let ranking = reranker.rerank(request(documents, ON)).await.unwrap();
        assert_eq!((&ranking.results, ranking.early_exit), (&full.results, Some(EarlyExitReport::default())));
    }
    let all = Some(EarlyExitChoice::Measured { layer: 1, keep: 100 });
    let full = reranker.rerank(request(8, None)).await.unwrap();
    assert_eq!(reranker.rerank(request(8, all)).await.unwrap().results, full.results);
    assert_eq!(controls.calls(), 8);
}

#[tokio::test]
async fn each_pass_of_a_long_list_lets_its_own_documents_go_on() {
    let (reranker, controls) = reranker();
    let full = reranker.rerank(request(20, None)).await.unwrap();
    let ranking = reranker.rerank(request(20, ON)).await.unwrap();
    assert_eq!(controls.passes(), 6, "three of at most 8 documents each");
    assert_falls(&ranking.results);
    let scores: BTreeMap<usize, f32> = full.results.iter().map(|result| (result.index, result.raw_score)).collect();
    let (kept, left): (Vec<_>, Vec<_>) = ranking.results.iter().partition(|result| result.exit_layer.is_none());
    assert_eq!((kept.len(), left.len(), ranking.early_exit.unwrap().left_early), (9, 11, 11));
    assert!(kept.iter().all(|result| result.raw_score.to_bits() == scores[&result.index].to_bits()));
    let mut indices: Vec<usize> = ranking.results.iter().map(|result| result.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..20));
}

#[tokio::test]
async fn passages_leave_and_their_documents_still_fall_along_the_list() {
    let (reranker, _controls) = reranker();
    for merge in [ChunkMerge::Max, ChunkMerge::MeanTop2] {
        let documents = (0..6).map(|index| format!("the {index} and the other. ").repeat(1 + index)).collect();
        let passages = PassageOptions {
            long_documents: Some(LongDocuments::Chunk),
            chunk_tokens: Some(20),
            chunk_merge: Some(merge),
            ..PassageOptions::default()
        };
        let request = RerankRequest { early_exit: ON, passages, ..RerankRequest::new("query", documents) };
        let ranking = reranker.rerank(request).await.unwrap();
        assert_falls(&ranking.results);
        let left = ranking.results.iter().filter(|result| result.exit_layer.is_some()).count();
        assert!(ranking.passages > 8 && left > 0, "{ranking:?}");
        assert_eq!(ranking.early_exit.unwrap().left_early, left);
    }
}

#[tokio::test]
async fn a_deadline_while_the_batch_runs_is_an_error_and_leaves_nothing_behind() {
    let (reranker, controls) = reranker();
    controls.hold();
    let mut late = request(8, ON);
    late.constraints.timeout = Some(Duration::from_millis(30));
    let error = reranker.rerank(late).await.unwrap_err();
    assert!(matches!(error, RerankError::DeadlineExceeded { .. }), "{error:?}");
    controls.release();
    assert_eq!(reranker.rerank(request(8, ON)).await.unwrap().results.len(), 8);
    assert_eq!(reranker.queue().requests, 0);
}

#[tokio::test]
async fn pairs_of_one_document_each_have_no_exit() {
    let (reranker, _controls) = reranker();
    let pairs = vec![request(1, ON), request(1, ON)];
    let (_, rankings) = reranker.rerank_all(pairs, RequestContext::internal()).await.unwrap();
    assert!(rankings.iter().all(|ranking| ranking.results[0].exit_layer.is_none()));
}

#[test]
fn an_exit_can_be_measured_only_where_documents_are_read_one_by_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (reranker, _controls) = reranker();
    assert_eq!(reranker.check_early_exit(2, Mode::Auto), Ok(()));
    let error = reranker.check_early_exit(4, Mode::Auto).unwrap_err();
    assert_eq!(error, "layer 4: the model has 4 layers, and documents leave after a lower one");
}
