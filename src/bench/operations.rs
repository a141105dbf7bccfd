//! Counts the floating-point operations of forward passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shape::Shape;
use crate::runtime::{
    Checkpoint, ForwardPass, LoadError, ModelFacts, Output, PrefixCacheStatistics, PreparedBatch, Runtime, RuntimeError,
};

/// Counts the floating-point operations of a pass. A multiply-add is two operations.
///
/// With hidden width `h`, total widths `q` of the query heads and `k` of the key heads, MLP width
/// `i`, `n` rows (the prefix once, and every suffix) and `m` output rows:
///
/// - Linear layers: `2n (2hk + 2hq + 3hi)` in every layer but the last, `2hi` for an MLP that is
///   not gated. The last layer computes keys and values for all rows, and the rest only for the
///   output rows: `2n 2hk + 2m (2hq + 3hi)`.
/// - Attention: `4q` for each pair of a query and a key that it attends to, for scores and weighted
///   values together. A prefix of `t` rows has `t (t + 1) / 2` pairs, a suffix of `b` rows has
///   `bt + b (b + 1) / 2`; a bidirectional sequence of `b` rows has `b²`, also with local layers.
///   In cross-document layers, output rows also attend to the shared positions of other suffixes.
///   In the last layer, only the output rows are queries.
///
/// Embeddings, norms, RoPE, softmax, the projector and the output head are not counted: they are
/// below 1 % for a model of any size.
#[must_use]
pub fn count_operations(shape: &Shape, pass: &ForwardPass) -> u64 {
    let outputs = pass.read_positions();
    if outputs.is_empty() {
        return 0;
    }
    let (hidden, query, key) = (shape.hidden_size, shape.query_width(), shape.key_width());
    let keys_values = 2 * hidden * key;
    let matrices = if shape.plain_mlp { 2 } else { 3 };
    let others = 2 * hidden * query + matrices * hidden * shape.intermediate_size;
    let (rows, read, below) = (pass.tokens(), outputs.len(), shape.num_hidden_layers.saturating_sub(1));
    let linear = 2 * (below * rows * (keys_values + others) + rows * keys_values + read * others);

    let prefix = pass.prefix.len();
    let triangle = |length: usize| if shape.bidirectional { length * length } else { length * (length + 1) / 2 };
    let within_documents = triangle(prefix)
        + pass.suffixes.iter().map(|suffix| suffix.len() * prefix + triangle(suffix.len())).sum::<usize>();
    let across_documents: usize = outputs
        .iter()
        .map(|output| {
            pass.cross_document.shared.iter().filter(|shared| ![0, output.segment].contains(&shared.segment)).count()
        })
        .sum();
    let last_layer: usize = outputs
        .iter()
        .map(|output| {
            let own = pass.segment(output.segment).map_or(0, <[u32]>::len);
            let before = if output.segment == 0 { 0 } else { prefix };
            before + if shape.bidirectional { own } else { output.offset + 1 }
        })
        .sum();
    let cross_layers = pass.cross_document.count.min(shape.num_hidden_layers);
    let pairs = below * within_documents + last_layer + cross_layers * across_documents;
    (linear + 4 * query * pairs) as u64
}

/// A runtime that counts the operations of the passes that it runs.
#[derive(Debug)]
pub struct CountingRuntime<R> {
    runtime: R,
    shape: Shape,
    operations: Arc<AtomicU64>,
}

impl<R: Runtime> CountingRuntime<R> {
    /// Wraps the runtime of a checkpoint. The count is added to `operations`.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] if `config.json` lacks one of the decoder's sizes.
    pub fn new(runtime: R, checkpoint: &Checkpoint, operations: &Arc<AtomicU64>) -> Result<Self, LoadError> {
        let shape = Shape::from_config(&checkpoint.config).map_err(|error| LoadError::Malformed {
            path: checkpoint.location.join("config.json"),
            problem: error.to_string(),
        })?;
        Ok(Self { runtime, shape, operations: Arc::clone(operations) })
    }
}

impl<R> CountingRuntime<R> {
    fn count(&self, batch: &[ForwardPass]) -> u64 {
        batch.iter().map(|pass| count_operations(&self.shape, pass)).sum()
    }
}

impl<R: Runtime> Runtime for CountingRuntime<R> {
    fn facts(&self) -> &ModelFacts {
        self.runtime.facts()
    }

    fn prefix_cache(&self) -> PrefixCacheStatistics {
        self.runtime.prefix_cache()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        let operations = self.count(batch);
        let outputs = self.runtime.run(batch)?;
        self.operations.fetch_add(operations, Ordering::Relaxed);
        Ok(outputs)
    }

    fn prepare(&self, passes: Vec<ForwardPass>) -> PreparedBatch {
        self.runtime.prepare(passes)
    }

    fn run_prepared(&self, batch: PreparedBatch) -> Result<Vec<Output>, RuntimeError> {
        let operations = self.count(batch.passes());
        let outputs = self.runtime.run_prepared(batch)?;
        self.operations.fetch_add(operations, Ordering::Relaxed);
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{CrossDocumentLayers, Head, OutputSpec, TokenPosition, TokenTypes};

    /// Two layers of width 4, with two query heads and one key head of width 3 and an MLP of width
    /// 5.
    fn shape() -> Shape {
        Shape {
            hidden_size: 4,
            intermediate_size: 5,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 3,
            ..Shape::named("nano").unwrap()
        }
    }

    fn pass(
        prefix: usize,
        suffixes: &[usize],
        outputs: Vec<TokenPosition>,
        cross_document: CrossDocumentLayers,
    ) -> ForwardPass {
        ForwardPass {
            prefix: vec![0; prefix],
            suffixes: suffixes.iter().map(|&length| vec![0; length]).collect(),
            token_types: TokenTypes::Zero,
            cross_document,
            output: OutputSpec::listed(outputs, Head::Hidden),
        }
    }

    #[test]
    fn a_causal_sequence_matches_a_calculation_by_hand() {
        // Weights: 2 * 4 * 3 = 24 for keys and values, 2 * 4 * 6 + 3 * 4 * 5 = 108 for the rest.
        // Linear: 2 * 3 * 132 = 792 in the first layer, 2 * 3 * 24 + 2 * 1 * 108 = 360 in the last.
        // Attention: 4 * 6 = 24 for each pair; 1 + 2 + 3 = 6 pairs in the first layer, 3 in the
        // last.
        let causal = pass(3, &[], vec![TokenPosition::prefix(2)], CrossDocumentLayers::default());
        assert_eq!(count_operations(&shape(), &causal), 792 + 360 + 24 * (6 + 3));
        assert_eq!(count_operations(&shape(), &pass(3, &[], Vec::new(), CrossDocumentLayers::default())), 0);
    }

    #[test]
    fn a_token_of_an_encoder_attends_to_its_whole_sequence() {
        let shape = Shape { bidirectional: true, plain_mlp: true, ..shape() };
        let first = vec![TokenPosition::suffix(0, 0), TokenPosition::suffix(1, 0)];
        // Weights: 24 for keys and values, 2 * 4 * 6 + 2 * 4 * 5 = 88 for the rest. Rows: 3 + 2 =
        // 5. Linear: 2 * 5 * 112 + 2 * 5 * 24 + 2 * 2 * 88 = 1712. Pairs: 9 + 4 below, 3 + 2 in the
        // last.
        let pairs = pass(0, &[3, 2], first, CrossDocumentLayers::default());
        assert_eq!(count_operations(&shape, &pairs), 1712 + 24 * (13 + 5));
    }

    #[test]
    fn suffixes_attend_to_the_prefix_and_to_each_other_in_cross_document_layers() {
        let outputs = vec![TokenPosition::suffix(0, 1), TokenPosition::suffix(1, 0)];
        // Rows: 2 + 2 + 1 = 5. Linear: 2 * 5 * 132 + 2 * 5 * 24 + 2 * 2 * 108 = 1992.
        // Pairs: prefix 3, suffixes 2 * 2 + 3 and 1 * 2 + 1: 13 below; last layer 4 + 3.
        let isolated = pass(2, &[2, 1], outputs.clone(), CrossDocumentLayers::default());
        assert_eq!(count_operations(&shape(), &isolated), 1992 + 24 * (13 + 7));
        // With the last layer cross-document, each output row also attends to the other.
        let cross_document = pass(2, &[2, 1], outputs.clone(), CrossDocumentLayers { count: 1, shared: outputs });
        assert_eq!(count_operations(&shape(), &cross_document), 1992 + 24 * (13 + 7 + 2));
    }
}
