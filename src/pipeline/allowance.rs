//! A request's budget in tokens, and what of the request it leaves.

use std::sync::Arc;
use std::time::Duration;

use super::cost::PreparedRequest;
use crate::prompt::{Plan, Prompter, Reading};
use crate::rerank::budget::{BudgetReport, Share};
use crate::rerank::{Budget, LimitSettings, Mode, RerankError, RerankRequest};

/// The part of the time that is left which is planned with: the rate is an average.
const MARGIN: f64 = 0.9;

/// How many plans are tried until one fits.
const TRIES: usize = 8;

/// What a request may spend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Allowance {
    /// Tokens; `None` where nobody can tell, because no rate was measured yet.
    tokens: Option<usize>,
    /// The field that sets it.
    field: &'static str,
    /// The same in words.
    terms: String,
    /// For a latency: the rate, and how long the request has to wait for others.
    forecast: Option<(Duration, f64)>,
    /// For a latency: what is left of it.
    left: Duration,
    strict: bool,
}

/// What may run, and what is left out.
pub(super) struct Allowed {
    /// Nothing, where not even one document may be read.
    pub planned: Option<PreparedRequest>,
    pub left: Left,
    pub report: Option<BudgetReport>,
}

/// What is not read.
#[derive(Debug)]
pub(super) struct Left {
    /// How the documents would have been read.
    pub mode: Mode,
    /// Documents, each with its tokens.
    pub documents: Vec<(usize, usize)>,
    pub warnings: Vec<String>,
}

impl Allowed {
    /// Everything is read.
    pub fn all(planned: PreparedRequest) -> Self {
        let left = Left { mode: planned.reading.mode, documents: Vec::new(), warnings: Vec::new() };
        Self { planned: Some(planned), left, report: None }
    }
}

impl Allowance {
    /// The allowance of a budget for a request that is here for so long: the smaller one, where tokens and time are
    /// limited. `forecast` is how long the request has to wait for others, and how many tokens a second are read.
    pub fn of(budget: &Budget, elapsed: Duration, forecast: Option<(Duration, f64)>) -> Option<Self> {
        let strict = budget.strict;
        let by_tokens = budget.max_total_tokens.map(|tokens| Self {
            tokens: Some(tokens),
            field: "max_total_tokens",
            terms: format!("max_total_tokens is {tokens}"),
            forecast: None,
            left: Duration::ZERO,
            strict,
        });
        let by_time = budget.max_latency.map(|latency| {
            let left = latency.saturating_sub(elapsed);
            let field = "max_latency_ms";
            let Some((wait, rate)) = forecast else {
                let terms = "no rate is measured yet that max_latency_ms could be planned with".to_owned();
                return Self { tokens: None, field, terms, forecast, left, strict };
            };
            let tokens = (left.saturating_sub(wait).as_secs_f64() * MARGIN * rate) as usize;
            let terms = format!(
                "at {rate:.0} tokens a second and {} ms of waiting for others, {} of max_latency_ms {} leave room for {tokens}",
                wait.as_millis(),
                left.as_millis(),
                latency.as_millis()
            );
            Self { tokens: Some(tokens), field, terms, forecast, left, strict }
        });
        match (by_tokens, by_time) {
            (Some(tokens), Some(time)) => {
                Some(if time.tokens.is_some_and(|most| Some(most) < tokens.tokens) { time } else { tokens })
            }
            (tokens, time) => tokens.or(time),
        }
    }

    /// What of a planned request is within the allowance. Tokenises: to be called on a blocking thread.
    pub fn apply(
        self,
        request: &RerankRequest,
        planned: PreparedRequest,
        prompter: &Arc<Prompter>,
        limits: &LimitSettings,
    ) -> Result<Allowed, RerankError> {
        let (whole, count) = (planned.tokens, planned.reading.documents.len());
        let Some(most) = self.tokens.filter(|most| whole > *most) else {
            let reason = match self.tokens {
                Some(_) => format!("everything was read: {whole} tokens; {}", self.terms),
                None => format!("everything was read: {}", self.terms),
            };
            let report = BudgetReport {
                tokens_per_document: None,
                documents_read: count,
                documents_left_in_input_order: 0,
                reason: reason.clone(),
            };
            let mut all = Allowed { report: Some(report), ..Allowed::all(planned) };
            if self.tokens.is_none() {
                all.left.warnings.push(reason);
            }
            return Ok(all);
        };
        let reason = format!("everything would be {whole} tokens; {}", self.terms);
        if self.strict {
            return Err(self.refusal(whole, &reason));
        }
        let before = Arc::clone(&planned.reading);
        drop(planned);
        let (planned, share) = match shrink(request, &before, whole, most, prompter, limits)? {
            Some((planned, share)) => (Some(planned), share),
            None => (None, Share { tokens_per_document: None, documents: 0 }),
        };
        let documents: Vec<(usize, usize)> =
            before.documents.iter().map(|document| document.tokens).enumerate().skip(share.documents).collect();
        // Those of what is read come with it.
        let mut warnings = if planned.is_none() { before.warnings.clone() } else { Vec::new() };
        if let Some(tokens) = share.tokens_per_document {
            warnings.push(format!("budget: at most {tokens} tokens of each document were read; {reason}"));
        }
        if !documents.is_empty() {
            warnings.push(format!(
                "budget: {} of {count} documents were not read and stand behind the others in the request's order; {reason}",
                documents.len()
            ));
        }
        let report = BudgetReport {
            tokens_per_document: share.tokens_per_document,
            documents_read: share.documents,
            documents_left_in_input_order: documents.len(),
            reason,
        };
        Ok(Allowed { planned, left: Left { mode: before.mode, documents, warnings }, report: Some(report) })
    }

    /// What is wrong with a strict budget. Trying again helps where the whole would fit if nobody else were here.
    fn refusal(self, whole: usize, reason: &str) -> RerankError {
        let retry_after = self
            .forecast
            .filter(|(wait, rate)| !wait.is_zero() && whole as f64 / rate <= self.left.as_secs_f64() * MARGIN);
        let retry_after = retry_after.map(|(wait, _)| wait.max(Duration::from_secs(1)));
        RerankError::OverBudget {
            field: self.field,
            problem: format!("does not suffice, and strict is set: {reason}"),
            retry_after,
        }
    }
}

/// The request with so much less of it that it has at most so many tokens; nothing if that leaves no document.
fn shrink(
    request: &RerankRequest,
    before: &Reading,
    whole: usize,
    most: usize,
    prompter: &Arc<Prompter>,
    limits: &LimitSettings,
) -> Result<Option<(PreparedRequest, Share)>, RerankError> {
    let lengths: Vec<usize> = before.documents.iter().map(|document| document.tokens_read).collect();
    let read = lengths.iter().sum::<usize>().max(1);
    // Windows read a document more than once: what counts there is the proportion.
    let (overhead, guess) = if matches!(before.plan, Plan::Windows(_)) {
        (0, scaled(most, read, whole))
    } else {
        (whole.saturating_sub(read).div_ceil(lengths.len().max(1)), most)
    };
    // What stands around the documents does not shrink with them. Where the guess is too much, it is halved in on.
    let (mut low, mut high, mut target) = (0, guess, guess);
    let mut best = None;
    for _ in 0..TRIES {
        let share = Share::that_fits(&lengths, overhead, request.truncation, target);
        if share.documents == 0 {
            low = target;
        } else {
            let reading = prompter.read_less(request, before, share, limits)?;
            let planned = PreparedRequest::new(Arc::clone(prompter), reading)?;
            if planned.tokens <= most {
                best = Some((planned, share));
                low = target;
            } else {
                high = target;
            }
        }
        if high <= low + 1 {
            break;
        }
        target = low.midpoint(high);
    }
    Ok(best)
}

/// `number * by / of`, without overflow.
fn scaled(number: usize, by: usize, of: usize) -> usize {
    (number as u128 * by as u128 / of.max(1) as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::testing;

    /// Whatever the family: what is left of a request keeps to its tokens, uses most of them, and names every document
    /// once.
    #[test]
    fn what_is_allowed_fits_for_every_family() {
        let limits = LimitSettings { max_documents: 1000, max_slate_documents: 8, max_slate_tokens: 32_768 };
        for family in ["podium-nano", "jina-v3", "first", "qwen3-reranker", "mxbai-v2", "zerank"] {
            let prompter = Arc::new(testing::prompter(family));
            let documents: Vec<String> = (0..20).map(|index| "7".repeat(20 + 10 * (index % 7))).collect();
            let request = RerankRequest::new("query", documents);
            let planned =
                || PreparedRequest::new(Arc::clone(&prompter), prompter.read(&request, &limits).unwrap()).unwrap();
            let whole = planned().tokens;
            for (parts, cut) in [(9, true), (7, true), (4, true), (9, false), (4, false)] {
                let most = whole * parts / 10;
                let budget = Budget { strict: false, ..budget(None, Some(most)) };
                let allowance = Allowance::of(&budget, Duration::ZERO, None).unwrap();
                let request = RerankRequest { documents: Vec::new(), truncation: cut, ..request.clone() };
                let allowed = allowance.apply(&request, planned(), &prompter, &limits).unwrap();
                let spent = allowed.planned.as_ref().map_or(0, |planned| planned.tokens);
                assert!(spent <= most && spent >= most / 2, "{family}: {spent} of {most}");
                let report = allowed.report.unwrap();
                assert_eq!(report.documents_read + report.documents_left_in_input_order, 20, "{family}");
                assert_eq!(allowed.left.documents.len(), report.documents_left_in_input_order, "{family}");
                assert!(cut || report.tokens_per_document.is_none(), "{family}");
                assert!(!allowed.left.warnings.is_empty(), "{family}");
            }
        }
    }

    fn budget(max_latency_ms: Option<u64>, max_total_tokens: Option<usize>) -> Budget {
        Budget { max_latency: max_latency_ms.map(Duration::from_millis), max_total_tokens, strict: true }
    }

    #[test]
    fn the_smaller_of_tokens_and_time_counts() {
        let forecast = Some((Duration::from_millis(200), 1000.0));
        let of =
            |budget: Budget| Allowance::of(&budget, Duration::from_millis(300), forecast).map(|a| (a.field, a.tokens));
        assert_eq!(of(budget(None, None)), None);
        assert_eq!(of(budget(None, Some(70))), Some(("max_total_tokens", Some(70))));
        assert_eq!(of(budget(Some(1000), None)), Some(("max_latency_ms", Some(450))));
        assert_eq!(of(budget(Some(1000), Some(450))), Some(("max_total_tokens", Some(450))));
        assert_eq!(of(budget(Some(1000), Some(451))), Some(("max_latency_ms", Some(450))));
        assert_eq!(of(budget(Some(400), None)), Some(("max_latency_ms", Some(0))));
    }

    #[test]
    fn time_cannot_be_planned_with_before_a_rate_is_measured() {
        let of = |budget: Budget| Allowance::of(&budget, Duration::ZERO, None).map(|a| (a.field, a.tokens));
        assert_eq!(of(budget(Some(1000), None)), Some(("max_latency_ms", None)));
        assert_eq!(of(budget(Some(1000), Some(9))), Some(("max_total_tokens", Some(9))));
    }

    #[test]
    fn a_strict_latency_that_others_are_in_the_way_of_may_be_tried_again() {
        let refusal = |wait: u64, whole: usize| {
            let forecast = Some((Duration::from_secs(wait), 1000.0));
            let allowance = Allowance::of(&budget(Some(10_000), None), Duration::ZERO, forecast).unwrap();
            let RerankError::OverBudget { retry_after, .. } = allowance.refusal(whole, "") else {
                panic!("another error");
            };
            retry_after.map(|time| time.as_secs())
        };
        assert_eq!(refusal(7, 9000), Some(7));
        assert_eq!(refusal(7, 9001), None);
        assert_eq!(refusal(0, 9001), None);
    }
}
