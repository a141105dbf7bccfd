//! Cutting a list of documents into slates, and the order in which the slates are read.
//!
//! Pure arithmetic over token counts. `prompt` knows the documents' costs and the family's limits;
//! `scoring` merges the scores of several slates. Every plan holds every document, in the request's
//! order.

use std::ops::Range;

/// jina-reranker-v3's reference rule: a block closes when it is full, or when the tokens left in it
/// are no more than one document of the greatest length takes. It counts the texts' tokens only,
/// not the prompt around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRule {
    /// Documents in a block (the reference has 125).
    pub max_documents: usize,
    /// Tokens of documents in a block: the context less twice the query (131,072 - 2 query).
    pub budget: usize,
    /// A block closes when no more tokens than these are left: the limit of a document (2,048).
    pub reserve: usize,
}

/// The limits of a slate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlateLimits {
    /// Documents, at least 1.
    pub max_documents: usize,
    /// Tokens of documents, with the prompt around each.
    pub max_tokens: usize,
}

/// A window sliding over a list from its end to its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Documents in it.
    pub documents: usize,
    /// How far it moves: from 1 to below `documents`, when there are more than `documents`.
    pub stride: usize,
}

/// Cuts documents of these `lengths` (tokens of text) into blocks by the reference's rule. The
/// blocks also keep to `limits` on `costs` (tokens of text and the prompt around it).
#[must_use]
pub fn blocks(lengths: &[usize], rule: BlockRule, costs: &[usize], limits: SlateLimits) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut used, mut spent) = (0, 0, 0);
    for (index, (length, cost)) in lengths.iter().zip(costs).enumerate() {
        if index > start && (index - start >= limits.max_documents || spent + cost > limits.max_tokens) {
            blocks.push(start..index);
            (start, used, spent) = (index, 0, 0);
        }
        used += length;
        spent += cost;
        let end = index + 1;
        if end - start >= rule.max_documents || rule.budget.saturating_sub(used) <= rule.reserve {
            blocks.push(start..end);
            (start, used, spent) = (end, 0, 0);
        }
    }
    if start < lengths.len() {
        blocks.push(start..lengths.len());
    }
    blocks
}

/// Cuts documents into slates as full as the limits allow. A document over `max_tokens` is a slate
/// by itself.
#[must_use]
pub fn filled(costs: &[usize], limits: SlateLimits) -> Vec<Range<usize>> {
    let mut slates = Vec::new();
    let mut start = 0;
    let mut used = 0;
    for (index, cost) in costs.iter().enumerate() {
        if index > start && (index - start >= limits.max_documents || used + cost > limits.max_tokens) {
            slates.push(start..index);
            start = index;
            used = 0;
        }
        used += cost;
    }
    if start < costs.len() {
        slates.push(start..costs.len());
    }
    slates
}

/// Cuts documents into as few slates as [`filled`], with about as many documents in each, so that
/// no last document is read alone without need.
#[must_use]
pub fn even(costs: &[usize], limits: SlateLimits) -> Vec<Range<usize>> {
    let full = filled(costs, limits);
    if full.is_empty() {
        return full;
    }
    let spread = filled(costs, SlateLimits { max_documents: costs.len().div_ceil(full.len()), ..limits });
    if spread.len() == full.len() { spread } else { full }
}

/// The number of documents that fit in a window, whichever documents they are.
#[must_use]
pub fn widest_window(costs: &[usize], limits: SlateLimits) -> usize {
    let mut largest_first = costs.to_vec();
    largest_first.sort_unstable_by(|left, right| right.cmp(left));
    let mut used = 0;
    largest_first
        .iter()
        .take(limits.max_documents)
        .take_while(|cost| {
            used += **cost;
            used <= limits.max_tokens
        })
        .count()
}

/// The windows over `count` documents, in the order of reading: from the list's end to its start,
/// by `rank_llm`'s rule. A list that fits in one window is one window.
#[must_use]
pub fn windows(count: usize, window: Window) -> Vec<Range<usize>> {
    let mut windows = Vec::new();
    let mut end = count;
    while end > 0 {
        // The first window ends the list; each ends a stride before the one read before it.
        let start = end.saturating_sub(window.documents.max(1));
        windows.push(start..end);
        if start == 0 {
            break;
        }
        end = end.saturating_sub(window.stride.max(1));
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_LIMITS: SlateLimits = SlateLimits { max_documents: usize::MAX, max_tokens: usize::MAX };

    fn sizes(slates: &[Range<usize>]) -> Vec<usize> {
        slates.iter().map(Range::len).collect()
    }

    #[test]
    fn blocks_are_those_of_the_reference() {
        let rule = BlockRule { max_documents: 125, budget: 131_072 - 2 * 10, reserve: 2048 };
        let reference = |lengths: &[usize]| sizes(&blocks(lengths, rule, lengths, NO_LIMITS));
        assert_eq!(reference(&[2048; 150]), [63, 63, 24]);
        assert_eq!(reference(&[100; 150]), [125, 25]);
        assert!(reference(&[]).is_empty());
        // The prompt around the texts does not fit: a block gives the document up to the next.
        let limits = SlateLimits { max_documents: 125, max_tokens: 62 * 2100 };
        assert_eq!(sizes(&blocks(&[2048; 150], rule, &[2100; 150], limits)), [62, 62, 26]);
    }

    #[test]
    fn a_block_closes_after_the_document_that_leaves_too_little() {
        let rule = BlockRule { max_documents: 9, budget: 10, reserve: 4 };
        let lengths = [5, 1, 1, 99, 1];
        assert_eq!(sizes(&blocks(&lengths, rule, &lengths, NO_LIMITS)), [2, 2, 1]);
    }

    #[test]
    fn even_slates_leave_no_document_alone() {
        let limits = SlateLimits { max_documents: 64, max_tokens: usize::MAX };
        assert_eq!(sizes(&even(&[10; 65], limits)), [33, 32]);
        assert_eq!(sizes(&even(&[10; 200], limits)), [50, 50, 50, 50]);
        assert_eq!(sizes(&even(&[10; 64], limits)), [64]);
        assert_eq!(sizes(&even(&[9, 1, 1, 1], SlateLimits { max_documents: 4, max_tokens: 10 })), [2, 2]);
        assert!(even(&[], limits).is_empty());
    }

    /// `rank_llm`'s loop, with its signed numbers.
    fn reference_windows(count: usize, window: usize, stride: usize) -> Vec<Range<usize>> {
        let [count, window, stride] = [count, window, stride].map(|number| i64::try_from(number).unwrap());
        let (mut end, mut start) = (count, count - window);
        let mut windows = Vec::new();
        while end > 0 && start + stride != 0 {
            start = start.max(0);
            windows.push(start as usize..end as usize);
            end -= stride;
            start -= stride;
        }
        windows
    }

    #[test]
    fn windows_slide_back_to_front() {
        let window = Window { documents: 20, stride: 10 };
        assert_eq!(windows(100, window).len(), 9);
        assert_eq!(windows(100, window)[0], 80..100);
        assert_eq!(windows(25, window), [5..25, 0..15]);
        assert_eq!(sizes(&windows(20, window)), [20]);
        assert_eq!(sizes(&windows(15, window)), [15]);
        assert_eq!(sizes(&windows(1, window)), [1]);
        assert!(windows(0, window).is_empty());
    }

    fn covers(slates: &[Range<usize>], count: usize) -> bool {
        slates.iter().cloned().flatten().eq(0..count) && slates.iter().all(|slate| !slate.is_empty())
    }

    proptest! {
        #[test]
        fn blocks_hold_every_document_once_in_order(
            lengths in proptest::collection::vec(0_usize..500, 0..200),
            max_documents in 1_usize..130, budget in 0_usize..5000, reserve in 0_usize..600,
            max_tokens in 0_usize..3000,
        ) {
            let rule = BlockRule { max_documents, budget, reserve };
            prop_assert!(covers(&blocks(&lengths, rule, &lengths, NO_LIMITS), lengths.len()));
            let limits = SlateLimits { max_documents, max_tokens };
            let within = blocks(&lengths, rule, &lengths, limits);
            prop_assert!(covers(&within, lengths.len()));
            prop_assert!(within.iter().all(|block| block.len() <= max_documents));
            for slate in within {
                prop_assert!(slate.len() == 1 || lengths[slate].iter().sum::<usize>() <= max_tokens);
            }
        }

        #[test]
        fn slates_keep_to_their_limits(
            costs in proptest::collection::vec(0_usize..300, 0..200),
            max_documents in 1_usize..70, max_tokens in 0_usize..4000,
        ) {
            let limits = SlateLimits { max_documents, max_tokens };
            let full = filled(&costs, limits);
            let spread = even(&costs, limits);
            prop_assert_eq!(full.len(), spread.len());
            for slates in [full, spread] {
                prop_assert!(covers(&slates, costs.len()));
                for slate in slates {
                    prop_assert!(slate.len() <= max_documents);
                    prop_assert!(slate.len() == 1 || costs[slate].iter().sum::<usize>() <= max_tokens);
                }
            }
        }

        #[test]
        fn windows_cover_all_and_overlap(count in 1_usize..300, documents in 2_usize..70, stride in 1_usize..70) {
            let window = Window { documents, stride: stride.min(documents - 1) };
            let found = windows(count, window);
            prop_assert_eq!(found[0].end, count);
            prop_assert!(found.iter().any(|range| range.start == 0));
            for pair in found.windows(2) {
                prop_assert!(pair[1].end > pair[0].start && pair[1].end <= pair[0].end);
            }
            prop_assert!(found.iter().all(|range| range.len() <= documents));
            // (The reference reads a list of exactly window - stride documents in no window at
            // all.)
            if count >= documents {
                prop_assert_eq!(found, reference_windows(count, documents, window.stride));
            } else {
                prop_assert_eq!(sizes(&found), [count]);
            }
        }

        #[test]
        fn the_widest_window_holds_any_documents(
            costs in proptest::collection::vec(1_usize..300, 1..100), max_tokens in 0_usize..4000,
        ) {
            let width = widest_window(&costs, SlateLimits { max_documents: 64, max_tokens });
            let mut sorted = costs.clone();
            sorted.sort_unstable();
            prop_assert!(sorted.iter().rev().take(width).sum::<usize>() <= max_tokens);
        }
    }
}
