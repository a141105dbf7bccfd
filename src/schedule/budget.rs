//! How large a batch may be on a device whose memory turned out to be short.

/// Batches that have to succeed before larger ones are tried again.
const GOOD_BATCHES: u32 = 32;

/// The tokens of a batch: as many as are configured, fewer after the device ran out of memory, and more again bit by
/// bit when it does not any more.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// The limit in force, if it is not the configured one.
    reduced: Option<usize>,
    good: u32,
}

impl Budget {
    /// Tokens that a batch may have.
    pub fn tokens(&self, configured: usize) -> usize {
        self.reduced.map_or(configured, |reduced| reduced.min(configured))
    }

    /// A batch of `failed` tokens did not fit: half of it may. Returns the tokens that a batch may have from now on.
    /// A pass that was over the budget, and so alone, says nothing about batches.
    pub fn shrink(&mut self, configured: usize, failed: usize) -> usize {
        let current = self.tokens(configured);
        if failed <= current {
            self.reduced = Some((failed / 2).max(1));
        }
        self.good = 0;
        self.tokens(configured)
    }

    /// A batch of so many tokens fitted. Small ones say nothing of large ones.
    pub fn note_success(&mut self, configured: usize, tokens: usize) {
        let Some(reduced) = self.reduced.filter(|reduced| 2 * tokens >= *reduced) else { return };
        self.good += 1;
        if self.good < GOOD_BATCHES {
            return;
        }
        self.good = 0;
        let larger = reduced + (reduced / 2).max(1);
        self.reduced = (larger < configured).then_some(larger);
        tracing::info!(budget = self.tokens(configured), configured, "memory was enough for a while: larger batches");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_halves_and_grows_back_after_many_good_batches() {
        let mut budget = Budget::default();
        assert_eq!(budget.shrink(1000, 900), 450);
        assert_eq!(budget.shrink(1000, 400), 200);
        for (good, tokens) in [(GOOD_BATCHES - 1, 200), (1, 300), (GOOD_BATCHES, 450), (GOOD_BATCHES, 675)] {
            let before = budget.tokens(1000);
            (0..9 * GOOD_BATCHES).for_each(|_| budget.note_success(1000, before / 2 - 1));
            assert_eq!(budget.tokens(1000), before, "small batches would have fitted anyway");
            (0..good).for_each(|_| budget.note_success(1000, before));
            assert_eq!(budget.tokens(1000), tokens);
        }
        (0..GOOD_BATCHES).for_each(|_| budget.note_success(1000, 675));
        assert_eq!((budget.tokens(1000), budget.tokens(2000)), (1000, 2000), "it is the configured one again");
    }

    #[test]
    fn a_failure_starts_the_count_anew() {
        let mut budget = Budget::default();
        budget.shrink(1000, 800);
        (0..GOOD_BATCHES - 1).for_each(|_| budget.note_success(1000, 400));
        assert_eq!(budget.shrink(1000, 800), 400, "800 tokens are over the budget, and ran alone");
        budget.note_success(1000, 400);
        assert_eq!(budget.tokens(1000), 400);
        assert_eq!(budget.shrink(1000, 1), 1);
    }

    #[test]
    fn a_smaller_limit_in_the_settings_holds_too() {
        let mut budget = Budget::default();
        budget.shrink(1000, 1000);
        assert_eq!(budget.tokens(100), 100);
    }
}
