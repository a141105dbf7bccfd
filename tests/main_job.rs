//! The main job on the embedded model: real texts in, the right document first, the same numbers
//! whoever asks at the same time.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up has failed")]

use std::sync::Arc;

use podium::app;
use podium::pipeline::{InstructionSettings, Policy, Reranker, load_instructions};
use podium::rerank::{LimitSettings, Mode, PassageSettings, Ranking, RerankRequest};
use podium::runtime::packed::{ComputeSettings, PackedRuntime};
use podium::runtime::{Checkpoint, Runtime};
use podium::schedule::{AdmissionControl, ScheduleSettings};

/// The default model.
fn embedded() -> Arc<Reranker> {
    load(&Checkpoint::podium_mini())
}

fn load(checkpoint: &Checkpoint) -> Arc<Reranker> {
    let runtime = PackedRuntime::load(checkpoint, &ComputeSettings::reference()).unwrap().with_prefix_cache(1 << 26);
    let prompter = app::prompter(checkpoint, runtime.facts(), "auto").unwrap();
    let instructions = load_instructions(&InstructionSettings::default(), None).unwrap();
    let limits =
        LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 64, max_slate_tokens: 131_072 };
    let schedule = ScheduleSettings {
        max_queued_requests: 64,
        max_queued_tokens: 1 << 22,
        max_wait_seconds: 0,
        max_batch_tokens: 16_384,
        timeout_seconds: 0,
        stall_seconds: 0,
        hang_seconds: 0,
    };
    let policy = Policy { limits, passages: PassageSettings::default(), instructions };
    Arc::new(Reranker::new(vec![checkpoint.name.clone()], prompter, runtime, policy, &AdmissionControl::new(&schedule)))
}

#[derive(serde::Deserialize)]
struct Slate {
    domain: String,
    query: String,
    instruction: Option<String>,
    relevant: usize,
    documents: Vec<String>,
}

fn ten_domains() -> Vec<Slate> {
    serde_json::from_str(include_str!("fixtures/ten_domains.json")).unwrap()
}

/// Documents of very different length, made of the ten domains' texts.
fn mixed_documents(count: usize) -> Vec<String> {
    let texts: Vec<String> = ten_domains().into_iter().flat_map(|slate| slate.documents).collect();
    (0..count)
        .map(|n| {
            (0..=n % 9).map(|part| texts[(n * 7 + part * 11) % texts.len()].as_str()).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn by_index(ranking: &Ranking) -> Vec<f32> {
    let mut scores = vec![f32::NAN; ranking.results.len()];
    for result in &ranking.results {
        scores[result.index] = result.raw_score;
    }
    scores
}

fn assert_same_scores(left: &Ranking, right: &Ranking) {
    let (left, right) = (by_index(left), by_index(right));
    assert_eq!(left.len(), right.len());
    for (document, (a, b)) in left.iter().zip(&right).enumerate() {
        assert!((a - b).abs() < 1e-5, "document {document}: {a} and {b}");
    }
}

#[tokio::test]
async fn the_relevant_document_comes_first_in_all_ten_domains() {
    let reranker = embedded();
    for slate in ten_domains() {
        let mut request = RerankRequest::new(slate.query, slate.documents);
        request.instruction = slate.instruction.map(Into::into);
        let ranking = reranker.rerank(request).await.unwrap();
        assert_eq!((ranking.mode, ranking.slates), (Mode::Listwise, 1));
        let first = ranking.results[0].index;
        println!(
            "{:<12} first {first}, relevant {}, score {:.3}",
            slate.domain, slate.relevant, ranking.results[0].relevance_score
        );
        assert_eq!(first, slate.relevant, "{}", slate.domain);
    }
}

#[tokio::test]
async fn sixty_four_documents_of_mixed_length_are_one_pass() {
    let reranker = embedded();
    let mut request = RerankRequest::new("Why does bread dough not rise?", mixed_documents(64));
    request.top_n = Some(10);
    let ranking = reranker.rerank(request).await.unwrap();
    assert_eq!((ranking.mode, ranking.slates, ranking.results.len()), (Mode::Listwise, 1, 10));
    assert!(ranking.results.windows(2).all(|pair| pair[0].relevance_score >= pair[1].relevance_score));
    assert!(ranking.results.iter().all(|result| (0. ..=1.).contains(&result.relevance_score)));
}

#[tokio::test]
async fn two_hundred_documents_are_cut_into_slates_and_all_come_back() {
    let reranker = embedded();
    let request = RerankRequest::new("Why does bread dough not rise?", mixed_documents(200));
    let ranking = reranker.rerank(request).await.unwrap();
    assert_eq!(ranking.slates, 4);
    let mut indices: Vec<usize> = ranking.results.iter().map(|result| result.index).collect();
    indices.sort_unstable();
    assert!(indices.into_iter().eq(0..200));
}

#[tokio::test]
async fn eight_clients_at_once_get_the_scores_that_each_gets_alone() {
    let reranker = embedded();
    let requests: Vec<RerankRequest> = ten_domains()
        .into_iter()
        .take(8)
        .map(|slate| RerankRequest::new(slate.query, [slate.documents, mixed_documents(12)].concat()))
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(reranker.rerank(request.clone()).await.unwrap());
    }
    let together: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let reranker = Arc::clone(&reranker);
            tokio::spawn(async move { reranker.rerank(request).await })
        })
        .collect();
    for (task, alone) in together.into_iter().zip(&alone) {
        assert_same_scores(&task.await.unwrap().unwrap(), alone);
    }
}

#[tokio::test]
async fn the_order_of_the_documents_does_not_change_their_scores_much() {
    let reranker = embedded();
    let slate = ten_domains().swap_remove(1);
    let forward = reranker.rerank(RerankRequest::new(&slate.query, slate.documents.clone())).await.unwrap();
    let reversed: Vec<String> = slate.documents.iter().rev().cloned().collect();
    let backward = reranker.rerank(RerankRequest::new(&slate.query, reversed)).await.unwrap();
    let mut mirrored = by_index(&backward);
    mirrored.reverse();
    for (a, b) in by_index(&forward).iter().zip(&mirrored) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[tokio::test]
async fn an_instruction_stands_in_the_prompt_and_changes_the_scores() {
    let reranker = embedded();
    let slate = ten_domains().swap_remove(0);
    let plain = RerankRequest::new(&slate.query, slate.documents);
    let mut instructed = plain.clone();
    instructed.instruction = Some("only texts about satellite dishes, no texts about tenants.".into());
    let explained = reranker.explain(&instructed).unwrap();
    let read = format!("{:?}", explained.passes[0]);
    assert!(read.contains("only texts about satellite dishes"), "{read}");
    let (plain, instructed) = (reranker.rerank(plain).await.unwrap(), reranker.rerank(instructed).await.unwrap());
    assert!(by_index(&plain).iter().zip(by_index(&instructed)).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[tokio::test]
async fn pointwise_reads_each_document_alone() {
    let reranker = embedded();
    let slate = ten_domains().swap_remove(2);
    let mut request = RerankRequest::new(&slate.query, slate.documents.clone());
    request.mode = Mode::Pointwise;
    let all = reranker.rerank(request.clone()).await.unwrap();
    assert_eq!((all.mode, all.slates), (Mode::Pointwise, slate.documents.len()));
    for (document, score) in slate.documents.iter().zip(by_index(&all)) {
        request.documents = vec![document.clone()];
        let alone = reranker.rerank(request.clone()).await.unwrap();
        assert!((alone.results[0].raw_score - score).abs() < 1e-5);
    }
}

#[tokio::test]
async fn a_query_that_comes_again_is_not_computed_again_and_scores_the_same() {
    // The default model has no prefix that texts share.
    let reranker = load(&Checkpoint::podium_nano());
    let slate = ten_domains().swap_remove(3);
    let mut request = RerankRequest::new(&slate.query, slate.documents);
    request.instruction =
        Some("Prefer texts that name a number, a year and whoever measured it, in that order.".into());
    let first = reranker.rerank(request.clone()).await.unwrap();
    assert_eq!(reranker.batches().prefixes.hit_tokens, 0);
    for _ in 0..2 {
        assert_same_scores(&reranker.rerank(request.clone()).await.unwrap(), &first);
    }
    let prefixes = reranker.batches().prefixes;
    assert!(prefixes.hit_tokens >= 16 && prefixes.hit_tokens * 3 == prefixes.looked_up_tokens, "{prefixes:?}");
    assert!((1..1 << 26).contains(&prefixes.bytes));
}
