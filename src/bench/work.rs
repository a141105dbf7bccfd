//! How many floating-point operations a pass takes, and a runtime that counts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shape::Shape;
use crate::runtime::{
    Checkpoint, ForwardPass, LoadError, ModelFacts, Output, PrefixCacheStatistics, Runtime, RuntimeError,
};

/// Floating-point operations of a pass as Podium runs it: a multiplication and an addition are two.
///
/// With `h` the hidden width, `q` and `k` the widths of all query and of all key heads, `i` the MLP's width, `L` layers,
/// `n` rows (the prefix once, and every suffix) and `m` rows that are read:
///
/// - linear layers: `2n (2hk + 2hq + 3hi)` in all layers but the last. The last computes keys and values for all rows and
///   the rest only for the rows that are read: `2n 2hk + 2m (2hq + 3hi)`;
/// - attention: `4q` for each pair of a query and a key it sees, scores and weighted values together. A prefix of `t` has
///   `t (t + 1) / 2` pairs, a suffix of `b` has `bt + b (b + 1) / 2`; in cross-document layers a row that is read also sees the
///   shared marks of other suffixes; in the last layer only the rows that are read are queries.
///
/// Embeddings, norms, rotations, softmax, the projector and the few output rows are left out: below one part in a hundred
/// for a model of any size.
#[must_use]
pub fn operations(shape: &Shape, pass: &ForwardPass) -> u64 {
    let marks = pass.read_positions();
    if marks.is_empty() {
        return 0;
    }
    let (hidden, query, key) = (shape.hidden_size, shape.query_width(), shape.key_width());
    let keys_values = 2 * hidden * key;
    let others = 2 * hidden * query + 3 * hidden * shape.intermediate_size;
    let (rows, read, below) = (pass.tokens(), marks.len(), shape.num_hidden_layers.saturating_sub(1));
    let linear = 2 * (below * rows * (keys_values + others) + rows * keys_values + read * others);

    let prefix = pass.prefix.len();
    let triangle = |length: usize| length * (length + 1) / 2;
    let apart = triangle(prefix)
        + pass.suffixes.iter().map(|suffix| suffix.len() * prefix + triangle(suffix.len())).sum::<usize>();
    let beyond: usize = marks
        .iter()
        .map(|mark| {
            pass.cross_document.shared.iter().filter(|shared| ![0, mark.segment].contains(&shared.segment)).count()
        })
        .sum();
    let last: usize =
        marks.iter().map(|mark| if mark.segment == 0 { mark.offset + 1 } else { prefix + mark.offset + 1 }).sum();
    let crossing = pass.cross_document.count.min(shape.num_hidden_layers);
    let pairs = below * apart + last + crossing * beyond;
    (linear + 4 * query * pairs) as u64
}

/// A runtime that adds up the operations of the passes it runs.
#[derive(Debug)]
pub struct Counted<R> {
    runtime: R,
    shape: Shape,
    operations: Arc<AtomicU64>,
}

/// Counts into `operations` what `runtime`, the model of this checkpoint, runs.
///
/// # Errors
/// A `config.json` that does not tell the sizes.
pub fn counted<R: Runtime>(
    runtime: R,
    checkpoint: &Checkpoint,
    operations: &Arc<AtomicU64>,
) -> Result<Counted<R>, LoadError> {
    let shape = Shape::of_config(&checkpoint.config).map_err(|error| LoadError::Malformed {
        path: checkpoint.location.join("config.json"),
        problem: error.to_string(),
    })?;
    Ok(Counted { runtime, shape, operations: Arc::clone(operations) })
}

impl<R: Runtime> Runtime for Counted<R> {
    fn facts(&self) -> &ModelFacts {
        self.runtime.facts()
    }

    fn prefix_cache(&self) -> PrefixCacheStatistics {
        self.runtime.prefix_cache()
    }

    fn run(&self, batch: &[ForwardPass]) -> Result<Vec<Output>, RuntimeError> {
        let operations: u64 = batch.iter().map(|pass| operations(&self.shape, pass)).sum();
        let outputs = self.runtime.run(batch)?;
        self.operations.fetch_add(operations, Ordering::Relaxed);
        Ok(outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{CrossDocumentLayers, Head, OutputSpec, TokenPosition, TokenTypes};

    /// Two layers of width 4, two query heads and one key head of width 3, an MLP of width 5.
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
        marks: Vec<TokenPosition>,
        cross_document: CrossDocumentLayers,
    ) -> ForwardPass {
        ForwardPass {
            prefix: vec![0; prefix],
            suffixes: suffixes.iter().map(|&length| vec![0; length]).collect(),
            token_types: TokenTypes::Zero,
            cross_document,
            output: OutputSpec::listed(marks, Head::Hidden),
        }
    }

    #[test]
    fn a_causal_sequence_is_as_by_hand() {
        // Keys and values: 2 * 4 * 3 = 24 weights; the rest: 2 * 4 * 6 + 3 * 4 * 5 = 108.
        // Linear: first layer 2 * 3 * 132 = 792, last 2 * 3 * 24 + 2 * 1 * 108 = 360.
        // Attention, 4 * 6 = 24 a pair: first layer 1 + 2 + 3 = 6 pairs, last 3 (one row sees three).
        let causal = pass(3, &[], vec![TokenPosition::prefix(2)], CrossDocumentLayers::default());
        assert_eq!(operations(&shape(), &causal), 792 + 360 + 24 * (6 + 3));
        assert_eq!(operations(&shape(), &pass(3, &[], Vec::new(), CrossDocumentLayers::default())), 0);
    }

    #[test]
    fn suffixes_see_the_prefix_and_marks_see_each_other_in_cross_document_layers() {
        let marks = vec![TokenPosition::suffix(0, 1), TokenPosition::suffix(1, 0)];
        // Rows: 2 + 2 + 1 = 5. Linear: 2 * 5 * 132 + 2 * 5 * 24 + 2 * 2 * 108 = 1992.
        // Pairs: prefix 3, suffixes 2 * 2 + 3 and 1 * 2 + 1: 13 below; last layer 4 + 3.
        let apart = pass(2, &[2, 1], marks.clone(), CrossDocumentLayers::default());
        assert_eq!(operations(&shape(), &apart), 1992 + 24 * (13 + 7));
        // Cross-document in the last layer: each mark also sees the other.
        let crossing = pass(2, &[2, 1], marks.clone(), CrossDocumentLayers { count: 1, shared: marks });
        assert_eq!(operations(&shape(), &crossing), 1992 + 24 * (13 + 7 + 2));
    }
}
