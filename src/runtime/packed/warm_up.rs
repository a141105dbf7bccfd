//! Passes that a GPU runs when a model is loaded, because the first launch of a kernel loads it,
//! which takes longer than a request.

use super::heads::Heads;
use crate::runtime::spec::{ModelSpec, OutputMatrix};
use crate::runtime::{ForwardPass, Head, OutputSpec, Positions, TokenPosition};

/// Tokens of the larger passes: products with many rows are other kernels than those with few.
const TOKENS: usize = 1024;

/// Batches of one pass of each shape that the model can run: one token; a long sequence of which
/// some positions are read; a prefix with suffixes; sequences side by side.
pub(super) fn batches(spec: &ModelSpec, heads: &Heads) -> Vec<Vec<ForwardPass>> {
    let tokens = |count: usize| (0..count).map(|n| (n % spec.vocabulary) as u32).collect::<Vec<u32>>();
    let length = TOKENS.min(spec.max_positions);
    let mut known = vec![Head::Hidden];
    known.extend(heads.has_projection(&Head::Projector).then_some(Head::Projector));
    known.extend(spec.classifier.is_some().then_some(Head::Classifier));
    known.extend((spec.output != OutputMatrix::None).then(|| Head::Vocabulary(vec![0])));
    let sequence = |count: usize, marks: Vec<usize>, head: Head| {
        let positions = marks.into_iter().map(TokenPosition::prefix).collect();
        ForwardPass::sequence(tokens(count), OutputSpec::listed(positions, head))
    };
    let apart = |prefix: usize, suffixes: usize, count: usize| {
        let ends = (0..suffixes).map(|suffix| TokenPosition::suffix(suffix, count - 1)).collect();
        ForwardPass {
            suffixes: vec![tokens(count); suffixes],
            ..ForwardPass::sequence(
                tokens(prefix),
                OutputSpec { at: Positions::Listed(ends), head: Head::Hidden, layer: None, exit: None },
            )
        }
    };
    let mut passes: Vec<ForwardPass> = known.into_iter().map(|head| sequence(1, vec![0], head)).collect();
    passes.push(sequence(length, (0..length).step_by(100).collect(), Head::Hidden));
    passes.push(apart(0, 8, length / 8));
    if spec.causal {
        passes.push(apart(length / 8, 8, (length - length / 8).min(length / 8)));
    }
    passes.into_iter().map(|pass| vec![pass]).collect()
}
