//! Fits a request into its budget: `max_total_tokens` and `max_latency_ms`.
//!
//! The request is tokenized and planned once. Where that plan is over the budget, its token ids are
//! sliced ([`Prompter::retokenize_shorter`]); no document is tokenized a second time. Planning
//! takes time as well, so `max_latency_ms` is converted to tokens again after each plan.

use std::sync::Arc;
use std::time::Duration;

use super::cost::PreparedRequest;
use crate::prompt::{Plan, PreparedTexts, Prompter};
use crate::rerank::budget::{BudgetReport, ReadLimit};
use crate::rerank::{LimitSettings, Mode, RequestBudget, RerankError};
use crate::schedule::Forecast;

/// Safety margin: plan with 90 % of the remaining time, because the rate is an average.
const SAFETY_MARGIN: f64 = 0.9;

/// Maximum number of shorter plans. Each is smaller than the last by at least the tokens that
/// exceed the budget.
const MAX_PLANS: usize = 6;

/// The budget of a request, with the forecast that converts time to tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenBudget {
    max_total_tokens: Option<usize>,
    max_latency: Option<Duration>,
    /// `None` before a throughput was measured.
    forecast: Option<Forecast>,
    /// Whether a budget that does not suffice is an error.
    strict: bool,
}

/// The tokens that a budget allows at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Available {
    /// `None` where a latency cannot be turned into tokens.
    tokens: Option<usize>,
    /// The field that sets the limit.
    field: &'static str,
    /// The calculation, for the caller.
    reason: String,
}

/// The part of a request that runs, and the part that is left out.
pub(super) struct BudgetedPlan {
    /// `None` where the budget allows not even one document.
    pub planned: Option<PreparedRequest>,
    pub skipped: Skipped,
    /// `None` for a request without a budget.
    pub report: Option<BudgetReport>,
}

/// The part of a request that the model does not read.
#[derive(Debug)]
pub(super) struct Skipped {
    /// The mode of the whole request.
    pub mode: Mode,
    /// Index and tokens of each document.
    pub documents: Vec<(usize, usize)>,
    pub warnings: Vec<String>,
}

impl BudgetedPlan {
    /// The whole request.
    pub fn whole(planned: PreparedRequest) -> Self {
        let skipped = Skipped { mode: planned.texts.mode, documents: Vec::new(), warnings: Vec::new() };
        Self { planned: Some(planned), skipped, report: None }
    }
}

impl TokenBudget {
    /// The budget of a request; `None` where it has none.
    pub fn new(budget: &RequestBudget, forecast: Option<Forecast>) -> Option<Self> {
        let RequestBudget { max_latency, max_total_tokens, strict, .. } = *budget;
        budget.is_set().then_some(Self { max_total_tokens, max_latency, forecast, strict })
    }

    /// The tokens that are allowed `elapsed` after the request arrived: the smaller number, where
    /// both tokens and time are limited.
    fn available(&self, elapsed: Duration) -> Available {
        let by_tokens = self.max_total_tokens.map(|tokens| Available {
            tokens: Some(tokens),
            field: "max_total_tokens",
            reason: format!("max_total_tokens is {tokens}"),
        });
        let by_time = self.max_latency.map(|latency| self.available_in(latency, elapsed));
        match (by_tokens, by_time) {
            (Some(by_tokens), Some(by_time)) => {
                if by_time.tokens.is_some_and(|tokens| Some(tokens) < by_tokens.tokens) { by_time } else { by_tokens }
            }
            (Some(only), None) | (None, Some(only)) => only,
            // `new` makes no such budget.
            (None, None) => Available { tokens: None, field: "max_total_tokens", reason: String::new() },
        }
    }

    fn available_in(&self, latency: Duration, elapsed: Duration) -> Available {
        let field = "max_latency_ms";
        let Some(Forecast { wait, tokens_per_second }) = self.forecast else {
            let reason = "max_latency_ms was ignored: throughput has not been measured yet".to_owned();
            return Available { tokens: None, field, reason };
        };
        let remaining = latency.saturating_sub(elapsed);
        let tokens = (remaining.saturating_sub(wait).as_secs_f64() * SAFETY_MARGIN * tokens_per_second) as usize;
        let reason = format!(
            "at {tokens_per_second:.0} tokens a second and {} ms of waiting for others, {} of max_latency_ms {} leave room for {tokens}",
            wait.as_millis(),
            remaining.as_millis(),
            latency.as_millis()
        );
        Available { tokens: Some(tokens), field, reason }
    }

    /// How many of several plans of one request, with so many tokens each, fit together, from the
    /// start.
    ///
    /// # Errors
    /// [`RerankError::OverBudget`] where a strict budget does not suffice for all.
    pub fn count_fitting(&self, plans: impl Iterator<Item = usize>, elapsed: Duration) -> Result<usize, RerankError> {
        let plans: Vec<usize> = plans.collect();
        let available = self.available(elapsed);
        let Some(tokens) = available.tokens else { return Ok(plans.len()) };
        let sums = plans.iter().scan(0, |sum, plan| {
            *sum += plan;
            Some(*sum)
        });
        let fitting = sums.take_while(|sum| *sum <= tokens).count();
        if self.strict && fitting < plans.len() {
            let reason =
                format!("{} orders have {} tokens; {}", plans.len(), plans.iter().sum::<usize>(), available.reason);
            return Err(self.refusal(available.field, plans.iter().sum(), &reason, elapsed));
        }
        Ok(fitting)
    }

    /// Reduces a planned request to what its budget allows. `elapsed` returns the time since the
    /// request arrived. Slices token ids and renders prompts: call it in the tokenizing pool.
    ///
    /// # Errors
    /// [`RerankError::OverBudget`] where a strict budget does not suffice.
    pub fn enforce(
        self,
        planned: PreparedRequest,
        may_truncate: bool,
        prompter: &Arc<Prompter>,
        limits: &LimitSettings,
        elapsed: &dyn Fn() -> Duration,
    ) -> Result<BudgetedPlan, RerankError> {
        let whole_tokens = planned.tokens;
        let available = self.available(elapsed());
        let Some(tokens) = available.tokens.filter(|tokens| whole_tokens > *tokens) else {
            return Ok(everything_fits(planned, available));
        };
        let reason = format!("the whole request has {whole_tokens} tokens; {}", available.reason);
        if self.strict {
            return Err(self.refusal(available.field, whole_tokens, &reason, elapsed()));
        }
        let whole = Arc::clone(&planned.texts);
        drop(planned);
        let fitting = Fitting { budget: &self, whole: &whole, whole_tokens, may_truncate, prompter, limits, elapsed };
        let (planned, limit) = match fitting.fit(tokens)? {
            Some((planned, limit)) => (Some(planned), limit),
            None => (None, ReadLimit { tokens_per_document: None, documents: 0 }),
        };
        Ok(budgeted(planned, limit, &whole, reason))
    }

    /// The error of a strict budget. Trying again helps where the whole request would fit if no
    /// other request were waiting.
    fn refusal(&self, field: &'static str, whole_tokens: usize, reason: &str, elapsed: Duration) -> RerankError {
        let remaining = self.max_latency.unwrap_or_default().saturating_sub(elapsed);
        let retry_after = self.forecast.filter(|Forecast { wait, tokens_per_second }| {
            let fits_alone = whole_tokens as f64 / tokens_per_second <= remaining.as_secs_f64() * SAFETY_MARGIN;
            field == "max_latency_ms" && !wait.is_zero() && fits_alone
        });
        RerankError::OverBudget {
            field,
            problem: format!("is too small, and strict is set: {reason}"),
            retry_after: retry_after.map(|forecast| forecast.wait.max(Duration::from_secs(1))),
        }
    }
}

/// The search for a shorter plan.
struct Fitting<'a> {
    budget: &'a TokenBudget,
    whole: &'a PreparedTexts,
    whole_tokens: usize,
    may_truncate: bool,
    prompter: &'a Arc<Prompter>,
    limits: &'a LimitSettings,
    elapsed: &'a dyn Fn() -> Duration,
}

impl Fitting<'_> {
    /// A plan of at most `tokens` tokens, or of fewer where planning took time of a latency;
    /// `None` where the budget allows no document.
    fn fit(&self, tokens: usize) -> Result<Option<(PreparedRequest, ReadLimit)>, RerankError> {
        let lengths: Vec<usize> = self.whole.documents.iter().map(|document| document.tokens_read).collect();
        let document_tokens = lengths.iter().sum::<usize>().max(1);
        // Windows read a document more than once, so only the proportion is known.
        let are_windows = matches!(self.whole.plan, Plan::Windows(_));
        let of_documents = |tokens: usize| {
            if are_windows { scale(tokens, document_tokens, self.whole_tokens) } else { tokens }
        };
        let overhead = if are_windows {
            0
        } else {
            self.whole_tokens.saturating_sub(document_tokens).div_ceil(lengths.len().max(1))
        };
        let mut target = of_documents(tokens);
        for attempt in 1..=MAX_PLANS {
            let limit = ReadLimit::fit(&lengths, overhead, self.may_truncate, target);
            if limit.documents == 0 {
                return Ok(None);
            }
            let texts = self.prompter.retokenize_shorter(self.whole, limit, self.limits)?;
            let planned = PreparedRequest::new(Arc::clone(self.prompter), texts)?;
            let available = self.budget.available((self.elapsed)()).tokens.unwrap_or(tokens);
            if planned.tokens <= available {
                return Ok(Some((planned, limit)));
            }
            // The text around the documents does not shrink with them. Later plans leave more room.
            let excess = of_documents(planned.tokens - available).max(1) * attempt;
            target = limit.cost(&lengths, overhead).saturating_sub(excess);
        }
        Ok(None)
    }
}

fn everything_fits(planned: PreparedRequest, available: Available) -> BudgetedPlan {
    let (tokens, documents_read) = (planned.tokens, planned.texts.request_documents());
    let mut plan = BudgetedPlan::whole(planned);
    let reason = if available.tokens.is_some() {
        format!("everything was read: {tokens} tokens; {}", available.reason)
    } else {
        plan.skipped.warnings.push(available.reason.clone());
        available.reason
    };
    plan.report =
        Some(BudgetReport { tokens_per_document: None, documents_read, documents_left_in_input_order: 0, reason });
    plan
}

/// The plan, warnings and report of a request that was reduced to `limit`.
fn budgeted(planned: Option<PreparedRequest>, limit: ReadLimit, whole: &PreparedTexts, reason: String) -> BudgetedPlan {
    let count = whole.request_documents();
    // The first passages of all documents come first.
    let lengths: Vec<usize> = match &whole.passages {
        Some(passages) => passages.documents.iter().map(|document| document.tokens).collect(),
        None => whole.documents.iter().map(|document| document.tokens).collect(),
    };
    let documents: Vec<(usize, usize)> = lengths.into_iter().enumerate().skip(limit.documents).collect();
    // A plan brings its own warnings.
    let mut warnings = if planned.is_none() { whole.warnings.clone() } else { Vec::new() };
    if let Some(tokens) = limit.tokens_per_document {
        warnings.push(format!("budget: at most {tokens} tokens of each document were read; {reason}"));
    }
    let passages = whole.passages.as_ref().map_or(0, |passages| passages.list.len());
    if passages > limit.documents {
        let skipped = passages - limit.documents;
        warnings.push(format!("budget: {skipped} of {passages} passages were not read; {reason}"));
    }
    if !documents.is_empty() {
        warnings.push(format!(
            "budget: {} of {count} documents were not read and stand behind the others in the request's order; {reason}",
            documents.len()
        ));
    }
    let report = BudgetReport {
        tokens_per_document: limit.tokens_per_document,
        documents_read: count - documents.len(),
        documents_left_in_input_order: documents.len(),
        reason,
    };
    BudgetedPlan { planned, skipped: Skipped { mode: whole.mode, documents, warnings }, report: Some(report) }
}

/// `number * by / of`, without overflow.
fn scale(number: usize, by: usize, of: usize) -> usize {
    (number as u128 * by as u128 / of.max(1) as u128) as usize
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::prompt::testing;
    use crate::rerank::RerankRequest;

    const FAMILIES: [&str; 13] = [
        "podium-nano",
        "jina-v3",
        "jina-v3.5",
        "first",
        "qwen3-reranker",
        "mxbai-v2",
        "zerank",
        "contextual",
        "bge-gemma",
        "bge-layerwise",
        "e2rank",
        "yes-no",
        "colbert",
    ];

    fn limits() -> LimitSettings {
        LimitSettings { max_documents: 1000, max_passages: 10_000, max_slate_documents: 8, max_slate_tokens: 32_768 }
    }

    fn plan(prompter: &Arc<Prompter>, request: &RerankRequest) -> PreparedRequest {
        let texts = prompter.tokenize(request, &limits(), &|| false).unwrap();
        PreparedRequest::new(Arc::clone(prompter), texts).unwrap()
    }

    fn budget(max_latency_ms: Option<u64>, max_total_tokens: Option<usize>) -> RequestBudget {
        RequestBudget {
            max_latency: max_latency_ms.map(Duration::from_millis),
            max_total_tokens,
            ..RequestBudget::default()
        }
    }

    fn twenty_documents() -> RerankRequest {
        let documents = (0..20).map(|index| "7".repeat(20 + 10 * (index % 7))).collect();
        RerankRequest::new("query", documents)
    }

    #[test]
    fn a_reduced_request_fits_its_budget_in_every_family() {
        for family in FAMILIES {
            let prompter = Arc::new(testing::prompter(family));
            let request = twenty_documents();
            let whole = plan(&prompter, &request).tokens;
            for (parts, may_truncate) in [(9, true), (7, true), (4, true), (9, false), (4, false)] {
                let tokens = whole * parts / 10;
                let request = RerankRequest { truncation: may_truncate, ..request.clone() };
                let budget = TokenBudget::new(&budget(None, Some(tokens)), None).unwrap();
                let planned = plan(&prompter, &request);
                let reduced = budget.enforce(planned, may_truncate, &prompter, &limits(), &Duration::default).unwrap();
                let spent = reduced.planned.as_ref().map_or(0, |planned| planned.tokens);
                assert!(spent <= tokens && spent >= tokens / 2, "{family}: {spent} of {tokens}");
                let report = reduced.report.unwrap();
                assert_eq!(report.documents_read + report.documents_left_in_input_order, 20, "{family}");
                assert_eq!(reduced.skipped.documents.len(), report.documents_left_in_input_order, "{family}");
                assert!(may_truncate || report.tokens_per_document.is_none(), "{family}");
                assert!(!reduced.skipped.warnings.is_empty(), "{family}");
            }
        }
    }

    #[test]
    fn a_budget_tokenizes_no_document_again() {
        for family in FAMILIES {
            let prompter = Arc::new(testing::prompter(family));
            let documents = (0..20).map(|index| format!("{index} {}", "Word ".repeat(40 + index))).collect();
            let request = RerankRequest::new("query", documents);
            let planned = plan(&prompter, &request);
            let whole_bytes: usize = request.documents.iter().map(String::len).sum();
            let tokens = planned.tokens * 8 / 10;
            let budget = TokenBudget::new(&budget(None, Some(tokens)), None).unwrap();
            let before = testing::encoded_bytes();
            let reduced = budget.enforce(planned, true, &prompter, &limits(), &Duration::default).unwrap();
            let encoded = testing::encoded_bytes() - before;
            assert_eq!(reduced.report.unwrap().documents_read, 20, "{family}");
            let is_encoded_again = matches!(family, "jina-v3" | "jina-v3.5" | "first" | "contextual" | "e2rank");
            if is_encoded_again {
                // A causal slate is one text, rendered at most once for each plan; contextual has
                // text after the document, and e2rank shows documents in the query's prompt.
                assert!(encoded <= 2 * MAX_PLANS * whole_bytes, "{family}: {encoded} of {whole_bytes}");
            } else {
                assert!(encoded < whole_bytes / 10, "{family}: {encoded} of {whole_bytes} bytes were encoded again");
            }
        }
    }

    #[test]
    fn the_time_that_planning_takes_is_part_of_a_latency() {
        let prompter = Arc::new(testing::prompter("podium-nano"));
        let planned = plan(&prompter, &twenty_documents());
        let (whole, rate) = (planned.tokens, 1000.0);
        // 0.9 of the remaining time at this rate is just below everything; then planning takes half
        // of that time.
        let latency = whole as u64;
        let clock = Cell::new(0);
        let elapsed = || {
            clock.set(clock.get() + 1);
            Duration::from_millis(if clock.get() == 1 { 0 } else { latency / 2 })
        };
        let forecast = Some(Forecast { wait: Duration::ZERO, tokens_per_second: rate });
        let budget = TokenBudget::new(&budget(Some(latency), None), forecast).unwrap();
        let reduced = budget.enforce(planned, true, &prompter, &limits(), &elapsed).unwrap();
        let spent = reduced.planned.map_or(0, |planned| planned.tokens);
        assert!(spent > 0 && spent as f64 <= (latency / 2) as f64 * SAFETY_MARGIN, "{spent} of {latency}");
    }

    #[test]
    fn the_smaller_of_tokens_and_time_counts() {
        let forecast = Some(Forecast { wait: Duration::from_millis(200), tokens_per_second: 1000.0 });
        let available = |budget: RequestBudget| {
            TokenBudget::new(&budget, forecast).map(|budget| {
                let available = budget.available(Duration::from_millis(300));
                (available.field, available.tokens)
            })
        };
        assert_eq!(available(budget(None, None)), None);
        assert_eq!(available(budget(None, Some(70))), Some(("max_total_tokens", Some(70))));
        assert_eq!(available(budget(Some(1000), None)), Some(("max_latency_ms", Some(450))));
        assert_eq!(available(budget(Some(1000), Some(450))), Some(("max_total_tokens", Some(450))));
        assert_eq!(available(budget(Some(1000), Some(451))), Some(("max_latency_ms", Some(450))));
        assert_eq!(available(budget(Some(400), None)), Some(("max_latency_ms", Some(0))));
    }

    #[test]
    fn a_latency_is_ignored_before_throughput_is_measured() {
        let available = |budget: RequestBudget| {
            let available = TokenBudget::new(&budget, None).unwrap().available(Duration::ZERO);
            (available.field, available.tokens)
        };
        assert_eq!(available(budget(Some(1000), None)), ("max_latency_ms", None));
        assert_eq!(available(budget(Some(1000), Some(9))), ("max_total_tokens", Some(9)));
    }

    #[test]
    fn a_strict_latency_has_a_retry_time_where_only_other_requests_are_in_the_way() {
        let retry_after = |wait: u64, whole_tokens: usize| {
            let forecast = Some(Forecast { wait: Duration::from_secs(wait), tokens_per_second: 1000.0 });
            let budget = TokenBudget::new(&budget(Some(10_000), None), forecast).unwrap();
            let refusal = budget.refusal("max_latency_ms", whole_tokens, "", Duration::ZERO);
            let RerankError::OverBudget { retry_after, .. } = refusal else { panic!("{refusal:?}") };
            retry_after.map(|time| time.as_secs())
        };
        assert_eq!(retry_after(7, 9000), Some(7));
        assert_eq!(retry_after(7, 9001), None);
        assert_eq!(retry_after(0, 9001), None);
    }
}
