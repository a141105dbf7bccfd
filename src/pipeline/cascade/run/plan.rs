//! How many documents each stage ranks, and what that costs.

use std::time::Duration;

use super::CascadeRun;
use crate::context::RequestContext;
use crate::rerank::RequestBudget;
use crate::rerank::cascade::reduce_to_fit;

/// Safety margin: plan with 90 % of the remaining time, because rates are averages.
const SAFETY_MARGIN: f64 = 0.9;

impl CascadeRun {
    /// Documents that reach a stage, if no stage before it is skipped or fails.
    fn planned_documents(&self, index: usize) -> usize {
        let ranked = self.ranked_by.map_or(0, |ranked| ranked + 1).min(index);
        let keeps = self.stages[ranked..index].iter().map(|stage| stage.keep);
        keeps.fold(self.candidates, |present, keep| keep.apply(self.documents.len(), present))
    }

    pub(super) fn planned_tokens(&self, index: usize) -> usize {
        if self.keeps_all(index, self.planned_documents(index)) {
            return 0;
        }
        self.tokens_of(index, self.planned_documents(index))
    }

    /// Estimate of what a stage reads of the first `count` documents.
    pub(super) fn tokens_of(&self, index: usize, count: usize) -> usize {
        let texts = self.order.iter().take(count).map(|document| self.documents[document.index].as_str());
        if count == 0 { 0 } else { self.stages[index].tokens(texts) }
    }

    /// Whether a stage would decide nothing, because the next stage ranks all of its documents.
    pub(super) fn keeps_all(&self, index: usize, present: usize) -> bool {
        let is_last = index + 1 == self.stages.len();
        let is_needed = self.stop_when_sure > 0.0 || self.request.constraints.budget.is_set();
        !is_last && !is_needed && self.stages[index].keep.apply(self.documents.len(), present) >= present
    }

    /// How many documents a stage ranks, and the part of the request's budget that it may spend;
    /// `None` if the budget leaves it fewer than two of several documents.
    pub(super) fn fit_budget(&self, index: usize, context: &RequestContext) -> Option<(usize, RequestBudget)> {
        let whole = self.request.constraints.budget;
        let leaves_documents_out = self.ranked_by.is_some();
        let spent = self.tokens;
        let max_total_tokens = whole.max_total_tokens.map(|tokens| tokens.saturating_sub(spent));
        let own = RequestBudget { max_total_tokens, leaves_documents_out, ..whole };
        if !whole.is_set() || whole.strict {
            return Some((self.candidates, own));
        }
        let planned: Vec<usize> = (index..self.stages.len()).map(|later| self.planned_documents(later)).collect();
        // The first stage ranks everything that it can: its own plan cuts documents if it must.
        let fixed = usize::from(!leaves_documents_out);
        let with_fixed = |counts: &[usize]| [&planned[..fixed], counts].concat();
        let cost = |counts: &[usize]| {
            let mut sum = (0, Duration::ZERO);
            for (place, count) in counts.iter().enumerate() {
                let tokens = self.tokens_of(index + place, *count);
                sum = (sum.0 + tokens, sum.1 + self.stages[index + place].time(tokens));
            }
            sum
        };
        let time_left = whole.max_latency.map(|latency| self.time_left(index, latency, context));
        let fits = |counts: &[usize]| {
            let (tokens, time) = cost(&with_fixed(counts));
            max_total_tokens.is_none_or(|most| tokens <= most) && time_left.is_none_or(|most| time <= most)
        };
        let counts = with_fixed(&reduce_to_fit(&planned[fixed..], fits));
        let (all_tokens, all_time) = cost(&counts);
        let (own_tokens, own_time) = cost(&counts[..1]);
        let later_time = all_time.saturating_sub(own_time).div_f64(SAFETY_MARGIN);
        let own = RequestBudget {
            max_total_tokens: max_total_tokens.map(|tokens| tokens.saturating_sub(all_tokens - own_tokens)),
            max_latency: whole.max_latency.map(|latency| latency.saturating_sub(later_time)),
            ..own
        };
        (counts[0] > 0).then_some((counts[0], own))
    }

    /// The part of a latency that may be planned with.
    fn time_left(&self, index: usize, latency: Duration, context: &RequestContext) -> Duration {
        let remaining = latency.saturating_sub(context.received_at.elapsed());
        let ready = self.stages[index].ready.as_ref().ok();
        let forecast = ready.and_then(|ready| ready.reranker.scheduler.forecast(ready.permit.as_ref()?));
        let wait = forecast.map_or(Duration::ZERO, |forecast| forecast.wait);
        remaining.saturating_sub(wait).mul_f64(SAFETY_MARGIN)
    }
}
