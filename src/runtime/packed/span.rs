//! Which keys a run of queries sees, as ranges of rows: linear in the number of segments, without a
//! stored mask.

use std::ops::Range;

use crate::runtime::spec::Window;

/// A run of queries and the keys that at least one of them sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Rows of the query matrix. The spans of a layer cover all its rows, in order.
    pub queries: Range<usize>,
    /// Rows of the key matrix, disjoint ranges. With a mask they lie in the order of their
    /// positions, and the last of them are those of the queries themselves.
    pub keys: Vec<Range<usize>>,
    pub mask: Mask,
}

/// How far a query sees from its own key. Query `i` of `n` has its own key at place `keys - n + i`
/// of the span's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mask {
    /// Keys before its own.
    pub before: usize,
    /// Keys behind its own.
    pub after: usize,
}

impl Mask {
    /// Every query sees every key.
    pub const NONE: Self = Self { before: usize::MAX, after: usize::MAX };
    /// Every query sees the keys up to its own. A single query sees all keys.
    pub const CAUSAL: Self = Self { before: usize::MAX, after: 0 };

    /// The mask of a layer's ordinary rows.
    pub fn new(causal: bool, window: Window) -> Self {
        Self { before: window.before, after: if causal { 0 } else { window.after } }
    }
}

impl Span {
    /// A single query that sees all of these keys.
    pub fn single(query: usize, keys: Vec<Range<usize>>) -> Self {
        Self { queries: query..query + 1, keys, mask: Mask::CAUSAL }
    }

    /// Number of keys.
    pub fn key_count(&self) -> usize {
        self.keys.iter().map(ExactSizeIterator::len).sum()
    }

    /// The rows of the key matrix, one by one.
    pub fn key_rows(&self) -> impl Iterator<Item = usize> + '_ {
        self.keys.iter().cloned().flatten()
    }

    /// The places among the span's `keys` keys that query `query` of it sees.
    pub fn visible(&self, query: usize, keys: usize) -> Range<usize> {
        let own = (keys + query).saturating_sub(self.queries.len());
        let end = own.saturating_add(self.mask.after).saturating_add(1).min(keys);
        own.saturating_sub(self.mask.before).min(end)..end
    }
}

/// Ranges in their order, those that continue each other as one.
pub(super) fn joined(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

/// The last `count` rows of ranges.
pub(super) fn last_rows(ranges: &[Range<usize>], count: usize) -> Vec<Range<usize>> {
    let mut left = count;
    let mut kept: Vec<Range<usize>> = Vec::new();
    for range in ranges.iter().rev() {
        let rows = range.len().min(left);
        if rows > 0 {
            kept.push(range.end - rows..range.end);
        }
        left -= rows;
    }
    kept.reverse();
    kept
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;

    #[test]
    fn a_mask_hides_what_is_too_far_from_the_querys_own_key() {
        let span = |queries: Range<usize>, mask| Span { queries, keys: vec![0..4, 10..13], mask };
        let seen = |span: Span| (0..span.queries.len()).map(|query| span.visible(query, 7)).collect::<Vec<_>>();
        assert_eq!(seen(span(10..13, Mask::CAUSAL)), [0..5, 0..6, 0..7]);
        assert_eq!(seen(span(10..13, Mask { before: 2, after: 0 })), [2..5, 3..6, 4..7]);
        assert_eq!(seen(span(10..13, Mask { before: 1, after: 1 })), [3..6, 4..7, 5..7]);
        assert_eq!(seen(span(10..13, Mask::NONE)), [0..7, 0..7, 0..7]);
        assert_eq!(seen(Span::single(5, vec![0..4, 10..13])), [0..7]);
    }

    #[test]
    fn the_last_rows_of_ranges_are_those_behind() {
        assert_eq!(last_rows(&[0..4, 10..13], 5), [2..4, 10..13]);
        assert_eq!(last_rows(&[0..4, 10..13], 3), [10..13]);
        assert_eq!(last_rows(&[0..4, 10..13], 100), [0..4, 10..13]);
        assert_eq!(last_rows(&[0..4], 0), [0..0; 0]);
    }
}
