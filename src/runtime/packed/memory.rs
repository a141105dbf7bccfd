//! How much memory a model takes: its weights, and what a forward pass needs beside them.

use super::candle_layers::MLP_ROWS;
use super::compute::{Backend, Precision};
use super::cpu::{self, CpuDtype};
use crate::runtime::WorkspaceSize;
use crate::runtime::spec::ModelSpec;

/// Bytes of so many parameters and of the rotary tables. Word embeddings are not quantised.
pub(super) fn weight_bytes(parameters: usize, spec: &ModelSpec, precision: Precision) -> u64 {
    let embeddings = parameters.min(spec.vocabulary * spec.hidden_size) as u64;
    let others = parameters as u64 - embeddings;
    let tables = (spec.rotary.len() * spec.max_positions * spec.attention.head_dim) as u64 * 4;
    embeddings * precision.dtype.size_in_bytes() as u64 + others * precision.bits_per_weight() / 8 + tables
}

/// The memory of a forward pass. Counted are the tensors that exist at the same time when it is largest, in the sizes that
/// they have for one long sequence. Many short sequences share less: each has up to 31 rows of padding in the key panels.
pub(super) fn workspace(spec: &ModelSpec, precision: Precision) -> WorkspaceSize {
    let (hidden, query, key) = (spec.hidden_size, spec.query_width(), spec.key_width());
    let mlp = spec.mlp.intermediate * if spec.mlp.gated { 2 } else { 1 };
    let size = |values: usize| values as u64;
    match precision.backend {
        Backend::Cpu(dtype) => {
            let element = match dtype {
                CpuDtype::F32 => 4,
                CpuDtype::Bf16 => 2,
                CpuDtype::Int8 | CpuDtype::Int8Rows => 1,
            };
            let panel = if dtype == CpuDtype::F32 { 4 } else { 2 };
            WorkspaceSize {
                // The residual stream, a copy of it (word embeddings at the start, states for a head at the end), queries,
                // the output of attention, keys and values, and those again in panels.
                bytes_per_token: size(4 * (2 * hidden + 2 * query + 2 * key) + panel * 2 * key),
                // A product's output, and its input and that of the next one.
                bytes_per_block_row: size(
                    4 * mlp.max(query + 2 * key) + element * (hidden.max(query) + spec.mlp.intermediate),
                ),
                block_rows: cpu::most_block_rows(mlp.max(query + 2 * key)),
            }
        }
        // Every product but the MLP's is one tensor over all rows; without FlashAttention, keys and values are gathered in
        // f32.
        Backend::Candle(_) => {
            let element = precision.dtype.size_in_bytes();
            let rows = 4 * hidden + 3 * (query + 2 * key);
            WorkspaceSize {
                bytes_per_token: size(element * rows + 4 * (query + 2 * key)),
                bytes_per_block_row: size(element * (mlp + spec.mlp.intermediate)),
                block_rows: MLP_ROWS,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_grows_with_the_tokens_and_blocks_only_up_to_their_size() {
        let size = WorkspaceSize { bytes_per_token: 10, bytes_per_block_row: 1000, block_rows: 8 };
        assert_eq!([0, 1, 8, 100].map(|tokens| size.bytes(tokens)), [0, 1010, 8080, 9000]);
    }
}
