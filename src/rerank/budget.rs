//! What to read if a request's budget is not enough for everything: the ends of long documents are
//! left out first, then documents at the end of the list.
//!
//! Pure arithmetic over token counts. Every document is read up to the same limit. If that limit
//! would be below [`LEAST_TOKENS`], so many tokens are read of as many documents as fit, from the
//! head of the list, where a first stage puts its best. The others keep their order behind them.

/// The fewest tokens of a document worth reading: about two sentences.
pub const LEAST_TOKENS: usize = 48;

/// How much of a list is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The most tokens of each document; `None` is all.
    pub tokens_per_document: Option<usize>,
    /// Documents from the head of the list.
    pub documents: usize,
}

/// What a ranking left out to keep its budget.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BudgetReport {
    /// The most tokens that were read of each document, if the budget lowered the limit.
    pub tokens_per_document: Option<usize>,
    /// Documents that the model read.
    pub documents_read: usize,
    /// Documents that were not read: they keep the request's order with a score of 0.
    pub documents_left_in_input_order: usize,
    /// The reason, in numbers.
    pub reason: String,
}

impl Share {
    /// The most that fits into `tokens`, of documents of these `lengths`, with `overhead` more tokens
    /// for each document that is read. Unless they `may_be_cut`, documents are read whole or not.
    #[must_use]
    pub fn that_fits(lengths: &[usize], overhead: usize, may_be_cut: bool, tokens: usize) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let fits = |limit: usize| cost(lengths, overhead, limit) <= tokens;
        if fits(longest) {
            return Self { tokens_per_document: None, documents: lengths.len() };
        }
        if may_be_cut && LEAST_TOKENS < longest && fits(LEAST_TOKENS) {
            // The largest limit that fits lies in `low..high`.
            let (mut low, mut high) = (LEAST_TOKENS, longest);
            while high - low > 1 {
                let middle = low.midpoint(high);
                if fits(middle) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            return Self { tokens_per_document: Some(low), documents: lengths.len() };
        }
        let limit = if may_be_cut { LEAST_TOKENS } else { longest };
        let mut spent = 0_usize;
        let documents = lengths
            .iter()
            .take_while(|length| {
                spent = spent.saturating_add((**length).min(limit) + overhead);
                spent <= tokens
            })
            .count();
        let is_cut = lengths[..documents].iter().any(|length| *length > limit);
        Self { tokens_per_document: is_cut.then_some(limit), documents }
    }
}

/// Tokens of a list if at most `limit` tokens of each document are read.
fn cost(lengths: &[usize], overhead: usize, limit: usize) -> usize {
    lengths.iter().fold(0, |sum: usize, length| sum.saturating_add((*length).min(limit) + overhead))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_documents_give_first_and_the_end_of_the_list_next() {
        let lengths = [100, 400, 60, 1000];
        let share = |tokens| Share::that_fits(&lengths, 2, true, tokens);
        assert_eq!(share(1568), Share { tokens_per_document: None, documents: 4 });
        assert_eq!(share(1567), Share { tokens_per_document: Some(999), documents: 4 });
        assert_eq!(share(468), Share { tokens_per_document: Some(150), documents: 4 });
        assert_eq!(share(200), Share { tokens_per_document: Some(48), documents: 4 });
        assert_eq!(share(199), Share { tokens_per_document: Some(48), documents: 3 });
        assert_eq!(share(50), Share { tokens_per_document: Some(48), documents: 1 });
        assert_eq!(share(49), Share { tokens_per_document: None, documents: 0 });
    }

    #[test]
    fn documents_that_may_not_be_cut_are_read_whole_or_not() {
        let share = |tokens| Share::that_fits(&[100, 400, 60], 0, false, tokens);
        assert_eq!(share(560), Share { tokens_per_document: None, documents: 3 });
        assert_eq!(share(559), Share { tokens_per_document: None, documents: 2 });
        assert_eq!(share(499), Share { tokens_per_document: None, documents: 1 });
        assert_eq!(share(99), Share { tokens_per_document: None, documents: 0 });
    }

    proptest! {
        /// What is read fits, a little more of the same kind would not, and a larger budget never reads less.
        #[test]
        fn as_much_is_read_as_fits(
            lengths in prop::collection::vec(0_usize..2000, 0..80),
            overhead in 0_usize..20,
            may_be_cut: bool,
            tokens in 0_usize..40_000,
        ) {
            let share = Share::that_fits(&lengths, overhead, may_be_cut, tokens);
            let spent = |documents: usize, limit: usize| cost(&lengths[..documents], overhead, limit);
            let limit = share.tokens_per_document.unwrap_or(usize::MAX);
            prop_assert!(spent(share.documents, limit) <= tokens);
            prop_assert!(may_be_cut || share.tokens_per_document.is_none());
            if share.documents < lengths.len() {
                let least = if may_be_cut { LEAST_TOKENS } else { usize::MAX };
                prop_assert!(spent(share.documents + 1, least) > tokens);
            } else if let Some(limit) = share.tokens_per_document {
                prop_assert!(limit >= LEAST_TOKENS && spent(lengths.len(), limit + 1) > tokens);
            }
            let more = Share::that_fits(&lengths, overhead, may_be_cut, tokens + 100);
            prop_assert!(more.documents >= share.documents);
            if more.documents == share.documents {
                prop_assert!(more.tokens_per_document.unwrap_or(usize::MAX) >= limit);
            }
        }
    }
}
