//! Attention as tensor products, for devices and types without a kernel: many runs of queries at
//! once, padded to the same numbers of queries and keys.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::super::span::Span;
use super::Scores;
use crate::runtime::spec::AttentionSpec;

/// Scores that exist at once, over all heads: 256 MiB in f32.
const MAX_SCORES: usize = 1 << 26;
/// The most elements that one call may gather of the keys. Above 2^32 candle's gathering kernel
/// does not end.
const MAX_GATHERED: usize = 1 << 27;
/// Queries of one tile where a mask hides earlier keys. A smaller tile multiplies fewer hidden
/// keys.
const WINDOW_TILE: usize = 128;
/// Scores, padding included, that are cheaper to compute than another group's launches.
const SMALL: usize = 1 << 22;

/// The groups of tiles for some spans, with their indices and masks on the device.
pub(super) struct Plan {
    groups: Vec<Group>,
    /// The place of each query among the padded ones of all groups.
    places: Tensor,
}

/// Queries and the keys that at least one of them sees.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tile {
    /// Rows of the query matrix.
    queries: Range<usize>,
    /// Rows of the key matrix.
    keys: Vec<u32>,
    /// The places among those keys that each query sees.
    visible: Vec<Range<usize>>,
}

/// Tiles that are computed together.
struct Group {
    tiles: usize,
    queries: usize,
    keys: usize,
    /// `[tiles * queries]`, rows of the query matrix; padding repeats one.
    query_rows: Tensor,
    /// `[tiles * keys]`, rows of the key matrix.
    key_rows: Tensor,
    /// First place and end that each query sees, `[tiles, 1, queries, 1]` each; `None`: every query
    /// sees every key.
    visible: Option<(Tensor, Tensor)>,
    /// `[1, 1, 1, keys]`
    key_places: Tensor,
}

impl Plan {
    pub fn new(spans: &[Span], spec: &AttentionSpec, device: &Device) -> Result<Self> {
        Self::with_limits(spans, (spec.heads, MAX_SCORES, SMALL), spec.kv_heads * spec.head_dim, device)
    }

    /// `limits` are heads, the scores that exist at once, and those that are padded without a
    /// second thought.
    fn with_limits(
        spans: &[Span],
        (heads, max_scores, small): (usize, usize, usize),
        key_width: usize,
        device: &Device,
    ) -> Result<Self> {
        let mut tiles: Vec<Tile> = spans.iter().flat_map(|span| cut(span, max_scores / heads)).collect();
        // Those of similar sizes side by side.
        tiles.sort_by_key(|tile| (tile.keys.len(), tile.queries.len()));
        let mut places = vec![0u32; spans.last().map_or(0, |span| span.queries.end)];
        let (mut groups, mut padded) = (Vec::new(), 0);
        let mut rest = tiles.as_slice();
        while !rest.is_empty() {
            let (group, others) = rest.split_at(fitting(rest, heads, (max_scores, small), MAX_GATHERED / key_width));
            let queries = group.iter().map(|tile| tile.queries.len()).max().unwrap_or_default();
            for tile in group {
                for (nth, row) in tile.queries.clone().enumerate() {
                    places[row] = (padded + nth) as u32;
                }
                padded += queries;
            }
            groups.push(Group::new(group, queries, device)?);
            rest = others;
        }
        let places = Tensor::new(places, device)?;
        Ok(Self { groups, places })
    }

    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
        let outputs: Vec<Tensor> =
            self.groups.iter().map(|group| group.attend(q, k, v, scores)).collect::<Result<_>>()?;
        Tensor::cat(&outputs, 0)?.index_select(&self.places, 0)?.to_dtype(q.dtype())
    }
}

/// A span in tiles with at most `max_scores` scores of a head, unless a single query has more.
fn cut(span: &Span, max_scores: usize) -> Vec<Tile> {
    let rows: Vec<u32> = span.key_rows().map(|row| row as u32).collect();
    let count = rows.len();
    let limit = if span.mask.before < count { WINDOW_TILE } else { usize::MAX };
    let most = (max_scores / count.max(1)).min(limit).clamp(1, span.queries.len().max(1));
    let tile = |first: usize| {
        let queries = most.min(span.queries.len() - first);
        let visible: Vec<Range<usize>> = (first..first + queries).map(|query| span.visible(query, count)).collect();
        // Later queries see later keys.
        let (start, end) = (visible[0].start, visible[queries - 1].end);
        let start_row = span.queries.start + first;
        Tile {
            queries: start_row..start_row + queries,
            keys: rows[start..end].to_vec(),
            visible: visible.into_iter().map(|range| range.start - start..range.end - start).collect(),
        }
    };
    (0..span.queries.len()).step_by(most).map(tile).collect()
}

/// How many of the first tiles one group takes. They are sorted by their keys.
fn fitting(tiles: &[Tile], heads: usize, (max_scores, small): (usize, usize), max_keys: usize) -> usize {
    let (mut queries, mut real) = (0, 0);
    let fits = |(nth, tile): (usize, &Tile)| {
        queries = queries.max(tile.queries.len());
        real += tile.queries.len() * tile.keys.len() * heads;
        let padded = (nth + 1) * queries * tile.keys.len() * heads;
        let is_tight = padded <= 2 * real || padded <= small;
        is_tight && padded <= max_scores && (nth + 1) * tile.keys.len() <= max_keys
    };
    tiles.iter().enumerate().map(fits).take_while(|fits| *fits).count().max(1)
}

impl Group {
    fn new(tiles: &[Tile], queries: usize, device: &Device) -> Result<Self> {
        let keys = tiles.iter().map(|tile| tile.keys.len()).max().unwrap_or_default();
        let padded = |rows: &mut dyn Iterator<Item = u32>, first: u32, count: usize| -> Vec<u32> {
            rows.chain(std::iter::repeat(first)).take(count).collect()
        };
        let (mut query_rows, mut key_rows) = (Vec::new(), Vec::new());
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for tile in tiles {
            let rows = tile.queries.start as u32..tile.queries.end as u32;
            query_rows.extend(padded(&mut rows.clone(), rows.start, queries));
            key_rows.extend(padded(&mut tile.keys.iter().copied(), tile.keys[0], keys));
            starts.extend(padded(&mut tile.visible.iter().map(|range| range.start as u32), 0, queries));
            ends.extend(padded(&mut tile.visible.iter().map(|range| range.end as u32), 1, queries));
        }
        let sees_all = starts.iter().all(|start| *start == 0) && ends.iter().all(|end| *end as usize == keys);
        let tensor = |values: Vec<u32>, shape: (usize, usize, usize, usize)| Tensor::from_vec(values, shape, device);
        let of_queries = (tiles.len(), 1, queries, 1);
        Ok(Self {
            tiles: tiles.len(),
            queries,
            keys,
            query_rows: Tensor::new(query_rows, device)?,
            key_rows: Tensor::new(key_rows, device)?,
            visible: if sees_all { None } else { Some((tensor(starts, of_queries)?, tensor(ends, of_queries)?)) },
            key_places: tensor((0..keys as u32).collect(), (1, 1, 1, keys))?,
        })
    }

    /// `[tiles * queries, heads * dim]` in f32.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
        let (_, heads, dim) = q.dims3()?;
        let kv_heads = k.dims3()?.1;
        let (tiles, queries, keys, group) = (self.tiles, self.queries, self.keys, heads / kv_heads);
        let gather = |x: &Tensor, rows: &Tensor| x.contiguous()?.index_select(rows, 0)?.to_dtype(DType::F32);
        // One product per tile and key head, its query heads side by side.
        let q = gather(q, &self.query_rows)?.reshape((tiles, queries, kv_heads, group, dim))?;
        let q = q.permute((0, 2, 3, 1, 4))?.reshape((tiles * kv_heads, group * queries, dim))?;
        let by_head = |x: &Tensor| gather(x, &self.key_rows)?.reshape((tiles, keys, kv_heads, dim))?.transpose(1, 2);
        let k = by_head(k)?.reshape((tiles * kv_heads, keys, dim))?;
        let v = by_head(v)?.reshape((tiles * kv_heads, keys, dim))?;
        let mut products = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(scores.scale))?;
        if let Some(cap) = scores.soft_cap.map(f64::from) {
            products = ((products / cap)?.tanh()? * cap)?;
        }
        if let Some((starts, ends)) = &self.visible {
            // [tiles, 1, queries, keys]
            let sees = (self.key_places.broadcast_ge(starts)? * self.key_places.broadcast_lt(ends)?)?;
            let hidden = Tensor::new(f32::NEG_INFINITY, q.device())?;
            let shape = (tiles, heads, queries, keys);
            products = sees.broadcast_as(shape)?.where_cond(&products.reshape(shape)?, &hidden.broadcast_as(shape)?)?;
            products = products.reshape((tiles * kv_heads, group * queries, keys))?;
        }
        let weights = candle_nn::ops::softmax_last_dim(&products)?;
        let output = weights.matmul(&v)?.reshape((tiles, kv_heads, group, queries, dim))?;
        output.permute((0, 3, 1, 2, 4))?.reshape((tiles * queries, heads * dim))
    }
}

/// Attention over spans whose plan nobody keeps.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spans: &[Span], scores: Scores) -> Result<Tensor> {
    let (_, heads, dim) = q.dims3()?;
    let limits = (heads, MAX_SCORES, SMALL);
    Plan::with_limits(spans, limits, k.dims3()?.1 * dim, q.device())?.attend(q, k, v, scores)
}

#[cfg(test)]
mod tests {
    use super::super::super::span::Mask;
    use super::*;

    fn causal(queries: Range<usize>) -> Span {
        Span { queries: queries.clone(), keys: vec![queries], mask: Mask::CAUSAL }
    }

    #[test]
    fn many_runs_of_similar_length_are_one_group() {
        let spans: Vec<Span> = (0..64).map(|n| causal(10 * n..10 * n + 10)).collect();
        let plan = Plan::with_limits(&spans, (2, 1 << 20, 0), 8, &Device::Cpu).unwrap();
        assert_eq!(plan.groups.iter().map(|group| (group.tiles, group.queries)).collect::<Vec<_>>(), [(64, 10)]);
    }

    #[test]
    fn a_group_keeps_within_its_scores_and_its_padding() {
        let mut spans: Vec<Span> = (0..6).map(|n| causal(10 * n..10 * n + 10)).collect();
        spans.push(causal(60..160));
        // Room for two runs of ten, and for one tile of ten queries of the long one.
        let plan = Plan::with_limits(&spans, (2, 2 * 2 * 100, 0), 8, &Device::Cpu).unwrap();
        assert!(plan.groups.iter().all(|group| 2 * group.tiles * group.queries * group.keys <= 2 * 2 * 100));
        let tiles: usize = plan.groups.iter().map(|group| group.tiles).sum();
        assert_eq!(tiles, 6 + 50);
        let places = plan.places.to_vec1::<u32>().unwrap();
        let distinct: std::collections::BTreeSet<u32> = places.iter().copied().collect();
        assert_eq!(distinct.len(), 160);
    }
}
