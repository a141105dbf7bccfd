//! Spans as the sequences of a variable-length kernel, in groups that one call takes.

use std::ops::Range;

use super::super::span::{Mask, Span, joined};

/// Sequences that one call takes: the kernel's grid has one dimension over them, and CUDA ends it there.
const MAX_SEQUENCES: usize = 65_535;

/// What one call is told: sequences end to end, each a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// What the kernel hides, aligned to the end of each sequence's keys.
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

/// Groups of spans with the same mask and at most `max_keys` keys, in order. A span with more is alone in its group.
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

impl Group {
    /// Spans whose queries lie end to end, as those of a layer do.
    fn new(mask: Mask, spans: &[Span]) -> Self {
        let start = spans.first().map_or(0, |span| span.queries.start);
        let rows = spans.iter().flat_map(|span| &span.keys).filter(|rows| !rows.is_empty());
        let mut group = Self {
            mask,
            queries: start..start,
            keys: joined(rows.cloned()),
            query_ends: vec![0],
            key_ends: vec![0],
            longest_queries: 0,
            longest_keys: 0,
        };
        let mut keys = 0;
        for span in spans {
            keys += span.key_count();
            group.queries.end = span.queries.end;
            group.query_ends.push((span.queries.end - start) as u32);
            group.key_ends.push(keys as u32);
            group.longest_queries = group.longest_queries.max(span.queries.len());
            group.longest_keys = group.longest_keys.max(span.key_count());
        }
        group
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;

    /// A prefix of four rows, two suffixes of three and two, and a mark that sees the prefix and the second suffix.
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
    fn nothing_to_attend_to_is_no_call() {
        assert!(groups(&[], 10).is_empty());
    }
}
