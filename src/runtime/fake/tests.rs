//! The fake runtime keeps what it promises to tests above the seam.

use std::sync::Arc;

use super::*;
use crate::runtime::OutputSpec;

fn tree(prefix: &[u32], suffixes: &[&[u32]], positions: Vec<TokenPosition>) -> ForwardPass {
    ForwardPass {
        suffixes: suffixes.iter().map(|suffix| suffix.to_vec()).collect(),
        ..ForwardPass::sequence(prefix.to_vec(), OutputSpec::listed(positions, Head::Hidden))
    }
}

fn vectors(runtime: &FakeRuntime, batch: &[ForwardPass]) -> Vec<Vec<f32>> {
    runtime.run(batch).unwrap().concat()
}

#[test]
fn an_output_does_not_depend_on_the_batch() {
    let runtime = FakeRuntime::new();
    let one = tree(&[1, 2], &[&[3, 4], &[5]], vec![TokenPosition::suffix(0, 1), TokenPosition::suffix(1, 0)]);
    let other = tree(&[9, 9, 9], &[], vec![TokenPosition::prefix(2)]);
    let alone = vectors(&runtime, std::slice::from_ref(&one));
    assert_eq!(alone, vectors(&runtime, &[other, one])[1..]);
}

#[test]
fn a_position_sees_the_prefix_and_its_own_suffix_and_nothing_after_itself() {
    let runtime = FakeRuntime::new();
    let read = |prefix: &[u32], suffixes: &[&[u32]]| {
        vectors(&runtime, &[tree(prefix, suffixes, vec![TokenPosition::suffix(0, 1)])])
    };
    let base = read(&[1, 2], &[&[3, 4, 5], &[6]]);
    assert_eq!(base, read(&[1, 2], &[&[3, 4, 7], &[8]]));
    assert_ne!(base, read(&[1, 3], &[&[3, 4, 5], &[6]]));
    assert_ne!(base, read(&[1, 2], &[&[4, 3, 5], &[6]]));
}

#[test]
fn a_suffix_reads_like_the_one_sequence_it_stands_for() {
    let runtime = FakeRuntime::new();
    let suffix = vectors(&runtime, &[tree(&[1, 2], &[&[3, 4]], vec![TokenPosition::suffix(0, 1)])]);
    let sequence = vectors(&runtime, &[tree(&[1, 2, 3, 4], &[], vec![TokenPosition::prefix(3)])]);
    assert_eq!(suffix, sequence);
}

#[test]
fn vectors_have_unit_length_and_other_heads_their_own_width() {
    let runtime = FakeRuntime::new();
    let vector = vectors(&runtime, &[tree(&[1], &[], vec![TokenPosition::prefix(0)])]).remove(0);
    let norm: f32 = vector.iter().map(|value| value * value).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");

    let read = |head| {
        let output = OutputSpec::pooled(Pooling::First, head);
        let pass = ForwardPass { output, ..tree(&[], &[&[1], &[2]], Vec::new()) };
        runtime.run(&[pass]).unwrap().remove(0)
    };
    let logits = read(Head::Vocabulary(vec![7, 8, 9]));
    assert!(logits.len() == 2 && logits.iter().all(|row| row.len() == 3), "{logits:?}");
    assert!(logits.iter().flatten().all(|logit| logit.abs() <= 4.0));
    assert_ne!(logits[0][0].to_bits(), logits[0][1].to_bits());
    assert_ne!(logits[0], logits[1]);
    assert_eq!(read(Head::Classifier).iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn passes_that_no_model_could_run_are_rejected() {
    let runtime = FakeRuntime::new();
    let vocabulary = runtime.facts().vocabulary as u32;
    for bad in [
        tree(&[], &[], Vec::new()),
        tree(&[1], &[], vec![TokenPosition::prefix(1)]),
        tree(&[1], &[&[2]], vec![TokenPosition::suffix(1, 0)]),
        tree(&[vocabulary], &[], Vec::new()),
        tree(&vec![1; runtime.facts().max_positions + 1], &[], Vec::new()),
    ] {
        let good = tree(&[1], &[], vec![TokenPosition::prefix(0)]);
        let error = runtime.run(&[good, bad]).unwrap_err();
        assert!(matches!(error, RuntimeError::InvalidPass { pass: 1, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_closed_gate_blocks_until_it_is_opened() {
    let runtime = Arc::new(FakeRuntime::new());
    let controls = runtime.controls();
    controls.hold();
    let task = tokio::task::spawn_blocking({
        let runtime = Arc::clone(&runtime);
        move || runtime.run(&[tree(&[1, 2], &[&[3]], vec![TokenPosition::prefix(0)])])
    });
    controls.held(1).await;
    assert!(!task.is_finished());
    controls.release();
    assert_eq!(task.await.unwrap().unwrap().len(), 1);
    assert_eq!((controls.calls(), controls.passes(), controls.tokens()), (1, 1, 3));
}

#[tokio::test]
async fn a_gate_that_nobody_can_open_blocks_nothing() {
    let runtime = Arc::new(FakeRuntime::new());
    let controls = runtime.controls();
    controls.hold();
    let task = tokio::task::spawn_blocking({
        let runtime = Arc::clone(&runtime);
        move || runtime.run(&[tree(&[1], &[], Vec::new())])
    });
    controls.held(1).await;
    drop(controls);
    assert!(task.await.unwrap().is_ok());
}

#[test]
fn a_failure_is_for_one_batch() {
    let runtime = FakeRuntime::new();
    runtime.controls().fail_next(RuntimeError::Device("gone".to_owned()));
    let pass = [tree(&[1], &[], vec![TokenPosition::prefix(0)])];
    assert!(matches!(runtime.run(&pass), Err(RuntimeError::Device(_))));
    assert!(runtime.run(&pass).is_ok());
}
