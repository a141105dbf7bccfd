//! Which part of a list of documents fits into a budget of tokens.
//!
//! Pure arithmetic over lengths. The model reads every document up to the limit that fits the
//! budget. If that limit is below [`MIN_TOKENS_PER_DOCUMENT`], the model reads so many tokens of as
//! many documents as fit, from the head of the list, where a first stage puts its best. The other
//! documents keep their order behind them.

/// The fewest tokens of a document that are worth reading: about two sentences.
pub const MIN_TOKENS_PER_DOCUMENT: usize = 48;

/// Which part of a list of documents the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// The most tokens of each document; `None` is the whole document.
    pub tokens_per_document: Option<usize>,
    /// How many documents, from the head of the list.
    pub documents: usize,
}

/// The part that a ranking left out to keep to its budget.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BudgetReport {
    /// The most tokens of each document that the model read, where the budget lowered it.
    pub tokens_per_document: Option<usize>,
    /// Documents that the model read.
    pub documents_read: usize,
    /// Documents that the model did not read. They stand behind the others in the request's order,
    /// with a score of 0.
    pub documents_left_in_input_order: usize,
    /// Why, in numbers.
    pub reason: String,
}

impl ReadLimit {
    /// The largest part of documents with these `lengths` that fits into `tokens`. Each document
    /// that is read costs `overhead` tokens more. `may_truncate` is false where documents are read
    /// whole or not at all.
    #[must_use]
    pub fn fit(lengths: &[usize], overhead: usize, may_truncate: bool, tokens: usize) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let fits = |limit: usize| cost(lengths, overhead, limit) <= tokens;
        if fits(longest) {
            return Self { tokens_per_document: None, documents: lengths.len() };
        }
        if may_truncate && MIN_TOKENS_PER_DOCUMENT < longest && fits(MIN_TOKENS_PER_DOCUMENT) {
            // The largest limit that fits lies in `low..high`.
            let (mut low, mut high) = (MIN_TOKENS_PER_DOCUMENT, longest);
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
        let limit = if may_truncate { MIN_TOKENS_PER_DOCUMENT } else { longest };
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

impl ReadLimit {
    /// Tokens of documents with these `lengths` under this limit, with `overhead` for each.
    #[must_use]
    pub fn cost(&self, lengths: &[usize], overhead: usize) -> usize {
        cost(&lengths[..self.documents], overhead, self.tokens_per_document.unwrap_or(usize::MAX))
    }
}

/// Tokens of a list when at most `limit` tokens of each document are read.
fn cost(lengths: &[usize], overhead: usize, limit: usize) -> usize {
    lengths.iter().fold(0, |sum: usize, length| sum.saturating_add((*length).min(limit) + overhead))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_documents_are_truncated_before_documents_are_left_out() {
        let lengths = [100, 400, 60, 1000];
        let share = |tokens| ReadLimit::fit(&lengths, 2, true, tokens);
        assert_eq!(share(1568), ReadLimit { tokens_per_document: None, documents: 4 });
        assert_eq!(share(1567), ReadLimit { tokens_per_document: Some(999), documents: 4 });
        assert_eq!(share(468), ReadLimit { tokens_per_document: Some(150), documents: 4 });
        assert_eq!(share(200), ReadLimit { tokens_per_document: Some(48), documents: 4 });
        assert_eq!(share(199), ReadLimit { tokens_per_document: Some(48), documents: 3 });
        assert_eq!(share(50), ReadLimit { tokens_per_document: Some(48), documents: 1 });
        assert_eq!(share(49), ReadLimit { tokens_per_document: None, documents: 0 });
    }

    #[test]
    fn documents_that_may_not_be_truncated_are_read_whole_or_not_at_all() {
        let share = |tokens| ReadLimit::fit(&[100, 400, 60], 0, false, tokens);
        assert_eq!(share(560), ReadLimit { tokens_per_document: None, documents: 3 });
        assert_eq!(share(559), ReadLimit { tokens_per_document: None, documents: 2 });
        assert_eq!(share(499), ReadLimit { tokens_per_document: None, documents: 1 });
        assert_eq!(share(99), ReadLimit { tokens_per_document: None, documents: 0 });
    }

    proptest! {
        /// The part fits, a slightly larger one does not, and a larger budget never reads less.
        #[test]
        fn the_largest_part_that_fits_is_read(
            lengths in prop::collection::vec(0_usize..2000, 0..80),
            overhead in 0_usize..20,
            may_truncate: bool,
            tokens in 0_usize..40_000,
        ) {
            let share = ReadLimit::fit(&lengths, overhead, may_truncate, tokens);
            let spent = |documents: usize, limit: usize| cost(&lengths[..documents], overhead, limit);
            let limit = share.tokens_per_document.unwrap_or(usize::MAX);
            prop_assert!(spent(share.documents, limit) <= tokens);
            prop_assert!(may_truncate || share.tokens_per_document.is_none());
            if share.documents < lengths.len() {
                let least = if may_truncate { MIN_TOKENS_PER_DOCUMENT } else { usize::MAX };
                prop_assert!(spent(share.documents + 1, least) > tokens);
            } else if let Some(limit) = share.tokens_per_document {
                prop_assert!(limit >= MIN_TOKENS_PER_DOCUMENT && spent(lengths.len(), limit + 1) > tokens);
            }
            let more = ReadLimit::fit(&lengths, overhead, may_truncate, tokens + 100);
            prop_assert!(more.documents >= share.documents);
            if more.documents == share.documents {
                prop_assert!(more.tokens_per_document.unwrap_or(usize::MAX) >= limit);
            }
        }
    }
}
