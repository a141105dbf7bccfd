//! Queries, keys and values of a layer.

#![expect(clippy::inline_always, reason = "what `vectorised` compiles per instruction set must be inlined into it")]

use std::ops::Range;

use rayon::prelude::*;

use super::layer::{Layer, Norm};
use super::linear::Products;
use super::rows::{self, vectorised};
use super::{CpuLayers, LayerRows, RotaryTable, TASK_ROWS, Workspace, at_least};
use crate::runtime::spec::LayerSpec;

/// A block of rows and where its queries, keys and values go.
struct Block<'a> {
    x: &'a [f32],
    positions: &'a [u32],
    /// `[rows, heads, dim]`; `None` if other rows are read.
    q: Option<&'a mut [f32]>,
    /// `[rows, dim]` for each head.
    k: Vec<&'a mut [f32]>,
    v: Vec<&'a mut [f32]>,
}

/// Operations on the heads of queries or keys: a norm and a rotation, if there are any.
#[derive(Clone, Copy)]
struct HeadTransform<'a> {
    norm: Option<&'a Norm>,
    rotary: Option<&'a RotaryTable>,
    /// Of the rows of the product.
    positions: &'a [u32],
}

impl CpuLayers {
    /// Queries, keys and values of a layer, into the workspace: keys and values of all rows, queries of those that are read,
    /// with which `x` is left.
    pub(super) fn project(
        &self,
        layer: &Layer,
        spec: &LayerSpec,
        x: &mut Vec<f32>,
        &LayerRows { positions, read, .. }: &LayerRows<'_>,
        cached_rows: usize,
        workspace: &mut Workspace,
    ) {
        let hidden = self.spec.hidden_size;
        let (rows, query_width, key_width) = (positions.len(), self.spec.query_width(), self.spec.key_width());
        let rotary = spec.rotary.map(|table| &self.rotary[table]);
        let key_rows = rows + cached_rows;
        let Workspace { q, k, v, .. } = workspace;
        let q = at_least(q, read.map_or(rows, <[u32]>::len) * query_width);
        let k = at_least(k, key_rows * key_width);
        let v = at_least(v, key_rows * key_width);
        let norm = layer.before_attention(self.spec.placement);
        // Queries come with the keys and values unless only some rows are read.
        let first = if read.is_some() { query_width } else { 0 };
        let blocks = self.row_blocks(rows);
        let mut tasks: Vec<Block<'_>> = x
            .chunks(blocks.rows * hidden)
            .zip(positions.chunks(blocks.rows))
            .map(|(x, positions)| Block { x, positions, q: None, k: Vec::new(), v: Vec::new() })
            .collect();
        if read.is_none() {
            for (task, q) in tasks.iter_mut().zip(q.chunks_mut(blocks.rows * query_width)) {
                task.q = Some(q);
            }
        }
        let dim = self.spec.attention.head_dim;
        let of_block = blocks.rows * dim;
        for (k, v) in k.chunks_mut(key_rows * dim).zip(v.chunks_mut(key_rows * dim)) {
            let own = rows * dim;
            let parts = k[..own].chunks_mut(of_block).zip(v[..own].chunks_mut(of_block));
            for (task, (k, v)) in tasks.iter_mut().zip(parts) {
                task.k.push(k);
                task.v.push(v);
            }
        }
        self.block_memory.run(blocks, tasks, |Block { x, positions, q, k, v }, buffers| {
            self.prepare(&layer.qkv, norm, x, &mut buffers.input);
            let all = first..query_width + 2 * key_width;
            let products = layer.qkv.multiply(all, &buffers.input, &mut buffers.output);
            let keys = query_width - first;
            let transform = HeadTransform { norm: layer.key_norm.as_ref(), rotary, positions };
            let of_queries = HeadTransform { norm: layer.query_norm.as_ref(), ..transform };
            let queries = || q.map(|q| self.queries(&products, &of_queries, q));
            let keys_and_values = || {
                let keys_done = || self.by_head(&products, keys, Some(&transform), k);
                rayon::join(keys_done, || self.by_head(&products, keys + key_width, None, v))
            };
            rayon::join(queries, keys_and_values);
        });
        if let Some(read) = read {
            *x = self.gather(x, read);
            let positions: Vec<u32> = read.iter().map(|&row| positions[row as usize]).collect();
            let transform = HeadTransform { norm: layer.query_norm.as_ref(), rotary, positions: &positions };
            let blocks = self.row_blocks(read.len());
            let tasks =
                x.chunks(blocks.rows * hidden).zip(q.chunks_mut(blocks.rows * query_width)).enumerate().collect();
            self.block_memory.run(blocks, tasks, |(number, (x, q)), buffers| {
                self.prepare(&layer.qkv, norm, x, &mut buffers.input);
                let products = layer.qkv.multiply(0..query_width, &buffers.input, &mut buffers.output);
                let positions = &positions[number * blocks.rows..];
                self.queries(&products, &HeadTransform { positions, ..transform }, q);
            });
        }
    }

    /// Queries, which are the products' first columns, `[rows, heads, dim]`.
    fn queries(&self, products: &Products<'_>, transform: &HeadTransform<'_>, target: &mut [f32]) {
        let (width, dim) = (self.spec.query_width(), self.spec.attention.head_dim);
        target.par_chunks_mut(TASK_ROWS * width).enumerate().for_each(|(task, target)| {
            vectorised!({
                for (row, target) in target.chunks_exact_mut(width).enumerate() {
                    let row = task * TASK_ROWS + row;
                    products.read(row, 0..width, target);
                    for head in target.chunks_exact_mut(dim) {
                        transform.apply(row, head);
                    }
                }
            });
        });
    }

    /// Moves the columns from `first` on to `targets`, `[rows, dim]` for each head.
    fn by_head(
        &self,
        products: &Products<'_>,
        first: usize,
        transform: Option<&HeadTransform<'_>>,
        targets: Vec<&mut [f32]>,
    ) {
        let dim = self.spec.attention.head_dim;
        targets.into_par_iter().enumerate().for_each(|(head, target)| {
            let columns: Range<usize> = first + head * dim..first + (head + 1) * dim;
            target.par_chunks_mut(TASK_ROWS * dim).enumerate().for_each(|(task, target)| {
                vectorised!({
                    for (row, target) in target.chunks_exact_mut(dim).enumerate() {
                        let row = task * TASK_ROWS + row;
                        products.read(row, columns.clone(), target);
                        if let Some(transform) = transform {
                            transform.apply(row, target);
                        }
                    }
                });
            });
        });
    }
}

impl HeadTransform<'_> {
    #[inline(always)]
    fn apply(&self, row: usize, head: &mut [f32]) {
        if let Some(norm) = self.norm {
            norm.apply_in_place(head);
        }
        if let Some(table) = self.rotary {
            let (position, half) = (self.positions[row] as usize, head.len() / 2);
            let angles = position * half..(position + 1) * half;
            rows::apply_rope(head, &table.cos[angles.clone()], &table.sin[angles]);
        }
    }
}
