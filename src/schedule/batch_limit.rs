//! The limit on a batch's tokens, reduced while the device's memory turns out to be short.

/// Batches near the limit that have to succeed before the limit grows again.
const SUCCESSES_TO_GROW: u32 = 32;

/// The most tokens that a batch may have: as configured, fewer after the device ran out of memory,
/// and gradually more again while batches succeed.
#[derive(Debug, Default)]
pub(super) struct AdaptiveBatchLimit {
    /// The limit in force, where it is not the configured one.
    reduced: Option<usize>,
    successes: u32,
}

impl AdaptiveBatchLimit {
    /// The limit in force, in tokens.
    pub fn tokens(&self, configured: usize) -> usize {
        self.reduced.map_or(configured, |reduced| reduced.min(configured))
    }

    /// Reduces the limit to half of the `failed` tokens that did not fit, and returns it. A batch
    /// above the limit was a single long pass: its failure does not change the limit.
    pub fn reduce(&mut self, configured: usize, failed: usize) -> usize {
        if failed <= self.tokens(configured) {
            self.reduced = Some((failed / 2).max(1));
        }
        self.successes = 0;
        self.tokens(configured)
    }

    /// Counts a batch that succeeded. Batches below half of the limit would have fitted anyway and
    /// do not count.
    pub fn record_success(&mut self, configured: usize, tokens: usize) {
        let Some(reduced) = self.reduced.filter(|reduced| 2 * tokens >= *reduced) else { return };
        self.successes += 1;
        if self.successes < SUCCESSES_TO_GROW {
            return;
        }
        self.successes = 0;
        let larger = reduced + (reduced / 2).max(1);
        self.reduced = (larger < configured).then_some(larger);
        tracing::info!(limit = self.tokens(configured), configured, "batches fit into memory: larger limit on tokens");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_halves_and_grows_back_after_many_successes() {
        let mut limit = AdaptiveBatchLimit::default();
        assert_eq!(limit.reduce(1000, 900), 450);
        assert_eq!(limit.reduce(1000, 400), 200);
        for (successes, tokens) in
            [(SUCCESSES_TO_GROW - 1, 200), (1, 300), (SUCCESSES_TO_GROW, 450), (SUCCESSES_TO_GROW, 675)]
        {
            let before = limit.tokens(1000);
            (0..9 * SUCCESSES_TO_GROW).for_each(|_| limit.record_success(1000, before / 2 - 1));
            assert_eq!(limit.tokens(1000), before, "small batches would have fitted anyway");
            (0..successes).for_each(|_| limit.record_success(1000, before));
            assert_eq!(limit.tokens(1000), tokens);
        }
        (0..SUCCESSES_TO_GROW).for_each(|_| limit.record_success(1000, 675));
        assert_eq!((limit.tokens(1000), limit.tokens(2000)), (1000, 2000), "it is the configured limit again");
    }

    #[test]
    fn a_failure_resets_the_count_of_successes() {
        let mut limit = AdaptiveBatchLimit::default();
        limit.reduce(1000, 800);
        (0..SUCCESSES_TO_GROW - 1).for_each(|_| limit.record_success(1000, 400));
        assert_eq!(limit.reduce(1000, 800), 400, "800 tokens exceed the limit: a single pass");
        limit.record_success(1000, 400);
        assert_eq!(limit.tokens(1000), 400);
        assert_eq!(limit.reduce(1000, 1), 1);
    }

    #[test]
    fn a_smaller_configured_limit_wins() {
        let mut limit = AdaptiveBatchLimit::default();
        limit.reduce(1000, 1000);
        assert_eq!(limit.tokens(100), 100);
    }
}
