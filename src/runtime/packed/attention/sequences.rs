//! Spans as the sequences of a variable-length kernel, in groups that one call takes.

use std::ops::Range;

use super::super::layout::{Span, joined};

/// Sequences that one call takes: the kernel's grid has one dimension over them, and CUDA ends it there.
const MAX_SEQUENCES: usize = 65_535;

/// What one call is told: sequences end to end, each a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
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

/// Groups with at most `max_keys` keys each, in order. A span with more is alone in its group.
pub(super) fn groups(spans: &[Span], max_keys: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut rest = spans;
    while !rest.is_empty() {
        let mut keys = 0;
        let fitting = rest.iter().take(MAX_SEQUENCES).take_while(|span| {
            keys += span.keys();
            keys <= max_keys
        });
        let (group, others) = rest.split_at(fitting.count().max(1));
        groups.push(Group::of(group));
        rest = others;
    }
    groups
}

impl Group {
    /// Spans whose queries lie end to end, as those of a layer do.
    fn of(spans: &[Span]) -> Self {
        let start = spans.first().map_or(0, |span| span.queries.start);
        let rows = spans.iter().flat_map(Span::key_rows).filter(|rows| !rows.is_empty());
        let mut group = Self {
            queries: start..start,
            keys: joined(rows.cloned()),
            query_ends: vec![0],
            key_ends: vec![0],
            longest_queries: 0,
            longest_keys: 0,
        };
        let mut keys = 0;
        for span in spans {
            keys += span.keys();
            group.queries.end = span.queries.end;
            group.query_ends.push((span.queries.end - start) as u32);
            group.key_ends.push(keys as u32);
            group.longest_queries = group.longest_queries.max(span.queries.len());
            group.longest_keys = group.longest_keys.max(span.keys());
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
            Span { queries: 0..4, seen: vec![], causal: 0..4 },
            Span { queries: 4..7, seen: vec![prefix.clone()], causal: 4..7 },
            Span { queries: 7..9, seen: vec![prefix.clone()], causal: 7..9 },
            Span { queries: 9..10, seen: vec![prefix, 7..10], causal: 0..0 },
        ]
    }

    #[test]
    fn what_fits_is_one_call() {
        let expected = Group {
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
        let plain = [0..4, 4..9, 9..10].map(|rows| Span { queries: rows.clone(), seen: vec![], causal: rows });
        assert_eq!(groups(&plain, 100)[0].keys, vec![0..10]);
        assert_eq!(groups(&plain, 6).iter().map(|group| group.keys.clone()).collect::<Vec<_>>(), [[0..4], [4..10]]);
    }

    #[test]
    fn a_call_takes_no_more_sequences_than_the_grid_has_room_for() {
        let spans: Vec<Span> =
            (0..=MAX_SEQUENCES).map(|row| Span { queries: row..row + 1, seen: vec![0..1], causal: 0..0 }).collect();
        let groups = groups(&spans, usize::MAX);
        assert_eq!(groups.iter().map(|group| group.queries.len()).collect::<Vec<_>>(), [MAX_SEQUENCES, 1]);
    }

    #[test]
    fn nothing_to_attend_to_is_no_call() {
        assert!(groups(&[], 10).is_empty());
    }
}
