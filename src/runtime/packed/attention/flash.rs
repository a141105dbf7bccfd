//! FlashAttention's variable-length kernel on CUDA: each span is one sequence.
//!
//! The kernel's mask is aligned to the end of the keys, which is where a span's own keys are.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::super::span::{Mask, Span};
use super::Scores;
use super::sequences::{Group, groups};

/// Numbers that one call may gather of the keys, and again of the values: 256 MiB each in 16 bits. Behind 2^32 candle's
/// gathering kernel would not end.
const MAX_GATHERED: usize = 1 << 27;

/// The calls that attention over some spans takes, with what they read of the spans on the device.
pub(super) struct Calls(Vec<Call>);

struct Call {
    mask: Mask,
    queries: Range<usize>,
    keys: Keys,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_queries: usize,
    longest_keys: usize,
}

/// Where a call's rows of the key matrix are.
enum Keys {
    /// In one range: they are read as they lie.
    Together(Range<usize>),
    /// All over it: they are gathered, by these numbers.
    Apart(Tensor),
}

/// Whether the kernel has heads of this dimension.
pub(super) fn supports(dim: usize) -> bool {
    dim.is_multiple_of(8) && dim <= 512
}

impl Calls {
    /// `key_width` is that of a row of the key matrix.
    pub fn new(spans: &[Span], key_width: usize, device: &Device) -> Result<Self> {
        let groups = groups(spans, MAX_GATHERED / key_width);
        Ok(Self(groups.into_iter().map(|group| Call::new(group, device)).collect::<Result<_>>()?))
    }

    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
        let outputs = self.0.iter().map(|call| call.attend(q, k, v, scores)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&outputs, 0)?.flatten_from(1)
    }
}

impl Call {
    fn new(group: Group, device: &Device) -> Result<Self> {
        let keys = match group.keys.as_slice() {
            [rows] => Keys::Together(rows.clone()),
            ranges => {
                let rows: Vec<u32> = ranges.iter().flat_map(|rows| rows.start as u32..rows.end as u32).collect();
                Keys::Apart(Tensor::new(rows, device)?)
            }
        };
        Ok(Self {
            mask: group.mask,
            queries: group.queries,
            keys,
            query_ends: Tensor::new(group.query_ends, device)?,
            key_ends: Tensor::new(group.key_ends, device)?,
            longest_queries: group.longest_queries,
            longest_keys: group.longest_keys,
        })
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, scores: Scores) -> Result<Tensor> {
        let q = q.narrow(0, self.queries.start, self.queries.len())?;
        let rows = |x: &Tensor| match &self.keys {
            Keys::Together(rows) => x.narrow(0, rows.start, rows.len()),
            Keys::Apart(rows) => x.index_select(rows, 0),
        };
        let (k, v) = (rows(k)?, rows(v)?);
        // The kernel has no limit where there is none, and a window of 0 keys behind a query is causal.
        let limit = |keys: usize| (keys < self.longest_keys).then_some(keys);
        candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap(
            &q,
            &k,
            &v,
            None,
            &self.query_ends,
            &self.key_ends,
            self.longest_queries,
            self.longest_keys,
            scores.scale,
            limit(self.mask.before),
            limit(self.mask.after),
            scores.soft_cap.unwrap_or(0.),
        )
    }
}
