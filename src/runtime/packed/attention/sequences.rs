//! Spans as the sequences of a variable-length kernel, in groups that one call takes.

use std::ops::Range;

use super::super::span::{Mask, Span, joined};

/// The most sequences of one call: the limit of CUDA on the grid's dimension that counts them.
const MAX_SEQUENCES: usize = 65_535;

/// Sums of exponentials that a call of a split may write, padding included: 256 MiB.
const MAX_SUMS: usize = 1 << 26;

/// The arguments of one call: sequences end to end, each a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The mask, aligned to the end of each sequence's keys.
    pub mask: Mask,
    /// Rows of the query matrix.
    pub queries: Range<usize>,
    /// Rows of the key matrix, sequence by sequence; ranges that continue each other are one.
    pub keys: Vec<Range<usize>>,
    /// Where each sequence ends among those queries, after a 0.
    pub query_ends: Vec<u32>,
    /// Where each sequence ends among those keys, after a 0.
    pub key_ends: Vec<u32>,
    /// Queries of the longest sequence.
    pub longest_queries: usize,
    /// Keys of the sequence that has most.
    pub longest_keys: usize,
}

/// Groups of spans with the same mask and at most `max_keys` keys, in order. A span with more keys
/// is a group of its own.
pub(super) fn groups(spans: &[Span], max_keys: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut rest = spans;
    while !rest.is_empty() {
        let mut keys = 0;
        let mask = rest[0].mask;
        let fitting = rest.iter().take(MAX_SEQUENCES).take_while(|span| {
            keys += span.key_count();
            span.mask == mask && keys <= max_keys
        });
        let (group, others) = rest.split_at(fitting.count().max(1));
        groups.push(Group::new(mask, group));
        rest = others;
    }
    groups
}

/// Two calls whose results are merged. In one, each run of queries has its own rows as keys, read
/// in place; in the other, the keys before them, gathered once for all runs that share them. A
/// single call would gather both for each run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pub own: Group,
    /// Runs that see no keys but their own are sequences without keys.
    pub shared: Group,
}

/// Splits spans into two calls where that gathers fewer keys than one call for each group, and at
/// most `max_keys`.
pub(super) fn split(spans: &[Span], heads: usize, max_keys: usize) -> Option<Split> {
    let mask = spans.first()?.mask;
    let is_whole = |span: &Span| span.mask == mask && span.mask.before == usize::MAX;
    if !spans.iter().all(is_whole) || spans.iter().all(|span| span.keys.len() < 2) {
        return None;
    }
    let mut own = Group::empty(mask, spans[0].queries.start);
    let mut shared = Group::empty(Mask::NONE, spans[0].queries.start);
    let mut own_rows: Option<Range<usize>> = None;
    let mut shared_rows = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        let (last, before) = span.keys.split_last()?;
        let end = own_rows.as_ref().map_or(last.start, |rows| rows.end);
        // Own rows go forward. Those between two runs belong to a sequence without queries.
        let gap = last.start.checked_sub(end)?;
        if gap > 0 {
            own.push(0, gap);
        }
        own.push(span.queries.len(), last.len());
        own_rows = Some(own_rows.map_or(last.start, |rows| rows.start)..last.end);
        let is_continued = number > 0 && spans[number - 1].keys.split_last().is_some_and(|(_, known)| known == before);
        if is_continued {
            shared.extend_last(span.queries.len());
        } else {
            let count = before.iter().map(ExactSizeIterator::len).sum();
            shared.push(span.queries.len(), count);
            shared_rows.extend(before.iter().filter(|rows| !rows.is_empty()).cloned());
        }
    }
    own.keys = own_rows.into_iter().collect();
    shared.keys = joined(shared_rows.into_iter());
    let gathered: usize = shared.keys.iter().map(ExactSizeIterator::len).sum();
    let is_small = |group: &Group| group.sequences() <= MAX_SEQUENCES && group.padded_queries(heads) <= MAX_SUMS;
    let fits = is_small(&own) && is_small(&shared) && gathered <= max_keys;
    (fits && gathered < spans.iter().map(Span::key_count).sum()).then_some(Split { own, shared })
}

impl Group {
    fn empty(mask: Mask, start: usize) -> Self {
        Self {
            mask,
            queries: start..start,
            keys: Vec::new(),
            query_ends: vec![0],
            key_ends: vec![0],
            longest_queries: 0,
            longest_keys: 0,
        }
    }

    /// Size of a tensor with one value per query and head, with room for the longest sequence in
    /// place of each.
    pub fn padded_queries(&self, heads: usize) -> usize {
        self.sequences() * heads * self.longest_queries
    }

    /// The place of each query's first head among these values; the next head's is
    /// `longest_queries` further on.
    pub fn padded_places(&self, heads: usize) -> Vec<u32> {
        let of_sequence = |(number, ends): (usize, &[u32])| {
            let start = (number * heads * self.longest_queries) as u32;
            start..start + ends[1] - ends[0]
        };
        self.query_ends.windows(2).enumerate().flat_map(of_sequence).collect()
    }

    pub fn sequences(&self) -> usize {
        self.query_ends.len() - 1
    }

    /// Adds a sequence of so many queries and keys, behind those so far.
    fn push(&mut self, queries: usize, keys: usize) {
        self.key_ends.push(self.key_ends.last().copied().unwrap_or(0) + keys as u32);
        self.query_ends.push(self.query_ends.last().copied().unwrap_or(0));
        self.longest_keys = self.longest_keys.max(keys);
        self.extend_last(queries);
    }

    /// Adds queries to the last sequence.
    fn extend_last(&mut self, queries: usize) {
        self.queries.end += queries;
        if let [.., start, end] = self.query_ends.as_mut_slice() {
            *end += queries as u32;
            self.longest_queries = self.longest_queries.max((*end - *start) as usize);
        }
    }

    /// Spans whose queries lie end to end, as those of a layer do.
    fn new(mask: Mask, spans: &[Span]) -> Self {
        let mut group = Self::empty(mask, spans.first().map_or(0, |span| span.queries.start));
        let rows = spans.iter().flat_map(|span| &span.keys).filter(|rows| !rows.is_empty());
        group.keys = joined(rows.cloned());
        for span in spans {
            group.push(span.queries.len(), span.key_count());
        }
        group
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;

    /// A prefix of four rows, two suffixes of three and two, and a mark that sees the prefix and
    /// the second suffix.
    fn spans() -> Vec<Span> {
        let prefix = 0..4;
        vec![
            Span { queries: 0..4, keys: vec![0..4], mask: Mask::CAUSAL },
            Span { queries: 4..7, keys: vec![prefix.clone(), 4..7], mask: Mask::CAUSAL },
            Span { queries: 7..9, keys: vec![prefix.clone(), 7..9], mask: Mask::CAUSAL },
            Span::single(9, vec![prefix, 7..10]),
        ]
    }

    #[test]
    fn what_fits_is_one_call() {
        let expected = Group {
            mask: Mask::CAUSAL,
            queries: 0..10,
            keys: vec![0..4, 0..7, 0..4, 7..9, 0..4, 7..10],
            query_ends: vec![0, 4, 7, 9, 10],
            key_ends: vec![0, 4, 11, 17, 24],
            longest_queries: 4,
            longest_keys: 7,
        };
        assert_eq!(groups(&spans(), 24), [expected]);
    }

    #[test]
    fn what_does_not_fit_goes_on_in_the_next_call_counted_from_there() {
        let groups = groups(&spans(), 12);
        assert_eq!(groups.iter().map(|group| group.queries.clone()).collect::<Vec<_>>(), [0..7, 7..9, 9..10]);
        assert_eq!((&groups[0].query_ends[..], &groups[0].key_ends[..]), (&[0, 4, 7][..], &[0, 4, 11][..]));
        assert_eq!((&groups[2].query_ends[..], &groups[2].key_ends[..]), (&[0, 1][..], &[0, 7][..]));
        assert_eq!((groups[2].longest_queries, groups[2].longest_keys), (1, 7));
        assert!(groups.iter().all(|group| group.keys.iter().map(ExactSizeIterator::len).sum::<usize>() <= 12));
    }

    #[test]
    fn a_span_that_fits_nowhere_is_alone() {
        let groups = groups(&spans(), 5);
        assert_eq!(groups.iter().map(|group| group.queries.clone()).collect::<Vec<_>>(), [0..4, 4..7, 7..9, 9..10]);
    }

    #[test]
    fn sequences_end_to_end_see_one_range_of_keys() {
        let plain =
            [0..4, 4..9, 9..10].map(|rows| Span { queries: rows.clone(), keys: vec![rows], mask: Mask::CAUSAL });
        assert_eq!(groups(&plain, 100)[0].keys, vec![0..10]);
        assert_eq!(groups(&plain, 6).iter().map(|group| group.keys.clone()).collect::<Vec<_>>(), [[0..4], [4..10]]);
    }

    #[test]
    fn a_call_takes_no_more_sequences_than_the_grid_has_room_for() {
        let spans: Vec<Span> = (0..=MAX_SEQUENCES).map(|row| Span::single(row, vec![0..1])).collect();
        let groups = groups(&spans, usize::MAX);
        assert_eq!(groups.iter().map(|group| group.queries.len()).collect::<Vec<_>>(), [MAX_SEQUENCES, 1]);
    }

    #[test]
    fn spans_of_other_masks_are_other_calls() {
        let mut spans = spans();
        spans[1].mask = Mask { before: 2, after: 0 };
        let groups = groups(&spans, 24);
        assert_eq!(groups.iter().map(|group| group.queries.clone()).collect::<Vec<_>>(), [0..4, 4..7, 7..10]);
        assert_eq!(groups[1].mask, spans[1].mask);
    }

    #[test]
    fn keys_that_runs_share_are_read_once() {
        // The keys of the prefix would be gathered four times; the mark's own rows are the second
        // suffix again.
        assert_eq!(split(&spans(), 4, 100), None);
        let found = split(&spans()[..3], 4, 100).unwrap();
        let own = Group {
            mask: Mask::CAUSAL,
            queries: 0..9,
            keys: vec![0..9],
            query_ends: vec![0, 4, 7, 9],
            key_ends: vec![0, 4, 7, 9],
            longest_queries: 4,
            longest_keys: 4,
        };
        let shared = Group {
            mask: Mask::NONE,
            queries: 0..9,
            keys: vec![0..4],
            query_ends: vec![0, 4, 9],
            key_ends: vec![0, 0, 4],
            longest_queries: 5,
            longest_keys: 4,
        };
        assert_eq!(shared.padded_queries(2), 2 * 2 * 5);
        assert_eq!(shared.padded_places(2), [0, 1, 2, 3, 10, 11, 12, 13, 14]);
        assert_eq!(found, Split { own, shared });
    }

    #[test]
    fn rows_that_nobody_attends_to_are_a_sequence_without_queries() {
        // Rows that are read of two passes: the last rows of their suffixes, whose prefixes are
        // rows 0 to 3 and 9 to 12.
        let read = [
            Span::single(0, vec![0..4, 4..7]),
            Span::single(1, vec![0..4, 7..9]),
            Span::single(2, vec![9..13, 13..15]),
        ];
        let Split { own, shared } = split(&read, 4, 100).unwrap();
        assert_eq!((own.keys, own.query_ends, own.key_ends), (vec![4..15], vec![0, 1, 2, 2, 3], vec![0, 3, 5, 9, 11]));
        assert_eq!(
            (shared.keys, shared.query_ends, shared.key_ends),
            (vec![0..4, 9..13], vec![0, 2, 3], vec![0, 4, 8])
        );
        assert_eq!(split(&read, 4, 7), None, "more shared keys than may be gathered");
    }

    #[test]
    fn a_split_that_gathers_nothing_less_or_changes_a_window_is_none() {
        let plain = [0..4, 4..9].map(|rows| Span { queries: rows.clone(), keys: vec![rows], mask: Mask::CAUSAL });
        assert_eq!(split(&plain, 4, 100), None);
        let window = Mask { before: 2, after: 0 };
        let windows: Vec<Span> = spans().into_iter().take(3).map(|span| Span { mask: window, ..span }).collect();
        assert_eq!(split(&windows, 4, 100), None);
        assert_eq!(split(&[], 4, 100), None);
    }

    #[test]
    fn nothing_to_attend_to_is_no_call() {
        assert!(groups(&[], 10).is_empty());
    }
}
