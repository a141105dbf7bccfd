//! Queries, keys and values: their products, norms and rotations, head by head.

#![expect(clippy::inline_always, reason = "what `vectorised` compiles per instruction set must be inlined into it")]

use std::ops::Range;

use super::RotaryTable;
use super::layer::{Layer, Norm};
use super::linear::Input;
use super::rows::{self, vectorised};
use super::shared_rows::SharedRows;
use crate::runtime::spec::AttentionSpec;

/// The heads of a layer's rows.
pub(super) struct HeadRows<'a> {
    /// `[rows, heads * dim]`.
    pub q: SharedRows<'a, f32>,
    /// `[kv_heads * key rows, dim]` each.
    pub k: SharedRows<'a, f32>,
    pub v: SharedRows<'a, f32>,
    /// Rows of a head of keys or values.
    pub key_rows: usize,
    pub spec: &'a AttentionSpec,
}

/// The positions of some rows, for queries and keys.
pub(super) struct HeadPositions<'a> {
    /// The first row.
    pub first: usize,
    pub of_rows: &'a [u32],
    pub rotary: Option<&'a RotaryTable>,
}

impl HeadRows<'_> {
    /// Multiplies `input` by the weights of some outputs of query, key and value, and writes their heads, normalised and rotated.
    pub fn fill(&self, layer: &Layer, outputs: Range<usize>, input: &Input, positions: &HeadPositions<'_>) {
        let AttentionSpec { heads, kv_heads, head_dim: dim, .. } = *self.spec;
        let first = outputs.start / dim;
        layer.qkv.multiply(outputs, dim, input, |rows, piece, tile| {
            let head = first + piece;
            vectorised!({
                for (row, values) in rows.zip(tile.chunks_exact_mut(dim)) {
                    let place = positions.first + row;
                    // SAFETY: each head of a row comes once, and has a place of its own.
                    let target = unsafe {
                        if head < heads {
                            positions.apply(row, layer.query_norm.as_ref(), values);
                            self.q.part(place, head * dim..(head + 1) * dim)
                        } else if head < heads + kv_heads {
                            positions.apply(row, layer.key_norm.as_ref(), values);
                            self.k.part((head - heads) * self.key_rows + place, 0..dim)
                        } else {
                            self.v.part((head - heads - kv_heads) * self.key_rows + place, 0..dim)
                        }
                    };
                    target.copy_from_slice(values);
                }
            });
        });
    }
}

impl HeadPositions<'_> {
    /// Normalises a head and rotates it, where the model does so. `row` is counted from the first.
    #[inline(always)]
    fn apply(&self, row: usize, norm: Option<&Norm>, head: &mut [f32]) {
        if let Some(norm) = norm {
            norm.apply_in_place(head);
        }
        if let Some(table) = self.rotary {
            let (position, half) = (self.of_rows[row] as usize, head.len() / 2);
            let angles = position * half..(position + 1) * half;
            rows::apply_rope(head, &table.cos[angles.clone()], &table.sin[angles]);
        }
    }
}
